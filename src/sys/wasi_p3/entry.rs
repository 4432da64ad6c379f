//! What the host starts.
#![allow(unsafe_code)]

use std::ffi::c_int;

unsafe extern "C" {
    /// The program's `main` behind the C library's preparations; for tests, the harness.
    fn __main_void() -> c_int;
}

/// Runs `main`; false if it failed.
#[doc(hidden)]
pub fn run_main() -> bool {
    // SAFETY: the linker defines it in every program, and the macro is for programs. It is called
    // once: the host starts either this or what calls it otherwise.
    unsafe { __main_void() == 0 }
}
