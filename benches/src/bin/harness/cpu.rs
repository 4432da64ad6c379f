//! CPU time of another process, and which CPUs the client and the servers run on.

use std::io;
use std::mem;
use std::time::Duration;

use coracle_benches::check;

use crate::options::Pin;

/// CPU time of a process, to the nanosecond and up to this instant, which the files in
/// /proc are not.
pub fn time_of(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: the clock is written to before it is used.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: as above.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Keeps the calling thread, and what it starts, on one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: zeros are the empty set; the set outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        check(libc::sched_setaffinity(0, mem::size_of_val(&set), &set))?;
    }
    Ok(())
}

/// The CPUs of the client, for as long as this value lives, and of the servers.
pub struct Placement {
    before: libc::cpu_set_t,
    pub server: Option<usize>,
}

impl Placement {
    /// Puts the calling thread on the client's CPU.
    pub fn new(pin_to: Pin) -> io::Result<Self> {
        // SAFETY: zeros are the empty set; the set is as large as the call is told.
        let before = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            check(libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set))?;
            set
        };
        let allowed: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
            // SAFETY: the number is below the size of the set.
            .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &before) })
            .collect();
        let server = match (pin_to, allowed.as_slice()) {
            (Pin::None, _) | (_, []) => None,
            (Pin::Split, [.., server, client]) => {
                pin(*client)?;
                Some(*server)
            }
            (_, [.., only]) => {
                pin(*only)?;
                Some(*only)
            }
        };
        Ok(Self { before, server })
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel gave. If it will not take it back, the rest
        // of the run stays on the client's CPU.
        unsafe { libc::sched_setaffinity(0, mem::size_of_val(&self.before), &self.before) };
    }
}
