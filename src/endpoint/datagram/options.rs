//! The options of `create_datagram_endpoint`, and the socket they ask for.

use std::io;

use crate::address::Address;
use crate::endpoint::datagram::shared::Socket;
use crate::error::invalid;
use crate::net::{self, resolve_target, Query, ResolveFlags, Target};
use crate::sys::caps::{check_protocol, DatagramConfig, Family};
use crate::sys::{Datagram, DatagramOps};

/// What a datagram endpoint is to be: the arguments of [`create_datagram_endpoint`](crate::create_datagram_endpoint), none of them
/// mandatory but one of `local_addr`, `remote_addr`, `family` and `sock`.
///
/// There is no `reuse_address`: with `SO_REUSEADDR` on a UDP socket, processes of different users
/// can take the same address and steal each other's datagrams. asyncio removed the option for that
/// reason; [`reuse_port`](DatagramOptions::reuse_port) is the way to share an address, among the
/// processes of one user.
///
/// # Examples
/// ```
/// use coracle::DatagramOptions;
///
/// let server = DatagramOptions::new().local_addr("[::1]:9999").reuse_port(true);
/// let client = DatagramOptions::new().remote_addr(("localhost", 9999));
/// let log = DatagramOptions::new().remote_addr("/dev/log");
/// # let _ = (server, client, log);
/// ```
#[derive(Debug, Default)]
#[must_use = "options do nothing until they are given to create_datagram_endpoint"]
pub struct DatagramOptions {
    local_addr: Option<Target>,
    remote_addr: Option<Target>,
    family: Option<Family>,
    proto: i32,
    flags: ResolveFlags,
    reuse_port: bool,
    allow_broadcast: bool,
    sock: Option<net::Socket>,
}

impl DatagramOptions {
    /// No options.
    pub fn new() -> DatagramOptions {
        DatagramOptions::default()
    }

    /// The address to bind to; port 0 for one that the system chooses.
    ///
    /// A Unix path at which there is a socket already is taken over: the file is removed, whether
    /// or not somebody still has the socket open. Anything else at the path is left alone, and
    /// binding fails. The file stays when the endpoint is closed. [`Address::UNNAMED`] has the
    /// system choose an abstract name (Linux).
    ///
    /// `0.0.0.0` and `[::]` are all addresses of the machine; on Linux `[::]` takes IPv4 as well.
    pub fn local_addr(mut self, addr: impl Into<Target>) -> DatagramOptions {
        self.local_addr = Some(addr.into());
        self
    }

    /// The endpoint's only peer. The socket is connected to it: only its datagrams are received,
    /// and the network's errors about it reach `error_received`. With
    /// [`allow_broadcast`](DatagramOptions::allow_broadcast) it is the destination only.
    ///
    /// A Unix endpoint with a `remote_addr` alone has no name, so that its peer cannot reply:
    /// give it a `local_addr` too.
    pub fn remote_addr(mut self, addr: impl Into<Target>) -> DatagramOptions {
        self.remote_addr = Some(addr.into());
        self
    }

    /// The address family: chooses among the addresses of a name, and is necessary if there is no
    /// address at all. With [`Family::Unix`], strings are paths even without a `/`.
    pub fn family(mut self, family: Family) -> DatagramOptions {
        self.family = Some(family);
        self
    }

    /// The protocol number, for the resolver and for the socket; 0 is the family's usual one.
    pub fn proto(mut self, proto: i32) -> DatagramOptions {
        self.proto = proto;
        self
    }

    /// Hints for the resolver; without effect on numeric addresses.
    pub fn flags(mut self, flags: ResolveFlags) -> DatagramOptions {
        self.flags = flags;
        self
    }

    /// Lets other sockets of the same user bind the same address, which share its datagrams
    /// (`SO_REUSEPORT`); each of them has to ask for it.
    ///
    /// # Platforms
    /// Unix; IP only. Elsewhere the call that makes the endpoint gives `Unsupported`.
    pub fn reuse_port(mut self, on: bool) -> DatagramOptions {
        self.reuse_port = on;
        self
    }

    /// Lets the endpoint send to broadcast addresses. It is not connected to its
    /// [`remote_addr`](DatagramOptions::remote_addr) then, since replies come from other
    /// addresses.
    pub fn allow_broadcast(mut self, on: bool) -> DatagramOptions {
        self.allow_broadcast = on;
        self
    }

    /// An open datagram socket to use as it is, bound or connected or neither; the endpoint owns
    /// it. It goes with no other option.
    ///
    /// # Platforms
    /// Native.
    pub fn sock(mut self, sock: impl Into<net::Socket>) -> DatagramOptions {
        self.sock = Some(sock.into());
        self
    }

    /// The options that say something, by name.
    fn given(&self) -> Vec<&'static str> {
        [
            ("local_addr", self.local_addr.is_some()),
            ("remote_addr", self.remote_addr.is_some()),
            ("family", self.family.is_some()),
            ("proto", self.proto != 0),
            ("flags", self.flags != ResolveFlags::default()),
            ("reuse_port", self.reuse_port),
            ("allow_broadcast", self.allow_broadcast),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }

    /// All that can be known to be wrong before a socket is made.
    fn validate(&self) -> io::Result<()> {
        let given = self.given();
        if self.sock.is_some() && !given.is_empty() {
            return Err(invalid(format_args!(
                "sock goes with no other option, but there is {}",
                given.join(", ")
            )));
        }
        if self.sock.is_none()
            && self.local_addr.is_none()
            && self.remote_addr.is_none()
            && self.family.is_none()
        {
            return Err(invalid(
                "one of local_addr, remote_addr, family and sock is needed",
            ));
        }
        check_protocol(self.proto)?;
        if self.reuse_port && self.is_unix()? {
            return Err(crate::error::unsupported("reuse_port on a Unix socket"));
        }
        Ok(())
    }

    /// Whether it is about Unix sockets, by the family or by an address.
    fn is_unix(&self) -> io::Result<bool> {
        if let Some(family) = self.family {
            return Ok(family == Family::Unix);
        }
        for addr in [&self.local_addr, &self.remote_addr].into_iter().flatten() {
            if addr.parse(false)?.family() == Some(Family::Unix) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The sockets to try, in order: (family, local, remote).
    async fn candidates(&self) -> io::Result<Vec<Candidate>> {
        let query = Query {
            family: self.family,
            stream: false,
            protocol: self.proto,
            flags: self.flags,
        };
        // One after the other, as asyncio: the local name's families come first.
        let local = match &self.local_addr {
            Some(target) => Some(resolve_target(target, query).await?),
            None => None,
        };
        let remote = match &self.remote_addr {
            Some(target) => Some(resolve_target(target, query).await?),
            None => None,
        };
        let candidates = match (&local, &remote) {
            (None, None) => self.family.map(Candidate::unbound).into_iter().collect(),
            _ => pair(local.as_deref(), remote.as_deref()),
        };
        if candidates.is_empty() {
            let name = |target: &Option<Target>| target.as_ref().map(Target::to_string);
            return Err(invalid(format_args!(
                "local_addr {} and remote_addr {} have no address family in common",
                name(&self.local_addr).unwrap_or_default(),
                name(&self.remote_addr).unwrap_or_default(),
            )));
        }
        Ok(candidates)
    }

    /// The endpoint's socket, its fixed peer, and whether the system knows the peer.
    pub(super) async fn open(mut self) -> io::Result<(Socket, Option<Address>, bool)> {
        self.validate()?;
        if let Some(sock) = self.sock.take() {
            let datagram = Datagram::from_socket(sock)?;
            // What counts is that the system knows a peer, even one without a name.
            let peer = datagram.peer_addr().ok();
            return Ok((Socket::new(datagram)?, peer, peer.is_some()));
        }
        let mut first_error = None;
        for candidate in self.candidates().await? {
            let remote = candidate.remote;
            match self.open_one(candidate).await {
                Ok(datagram) => {
                    let connected = remote.is_some() && !self.allow_broadcast;
                    return Ok((Socket::new(datagram)?, remote, connected));
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| invalid("no address to try")))
    }

    async fn open_one(&self, candidate: Candidate) -> io::Result<Datagram> {
        if let Some(Address::Ip(remote)) = candidate.remote {
            if remote.port() == 0 {
                return Err(invalid(format_args!("remote_addr {remote} has port 0")));
            }
        }
        #[cfg(unix)]
        if let Some(path) = candidate
            .local
            .as_ref()
            .and_then(|addr| addr.as_unix()?.as_path())
        {
            net::remove_stale(path);
        }
        let datagram = Datagram::open(&DatagramConfig {
            family: candidate.family,
            protocol: self.proto,
            reuse_port: self.reuse_port,
            broadcast: self.allow_broadcast,
            bind: candidate.local,
            connect: candidate.remote.filter(|_| !self.allow_broadcast),
        })
        .await?;
        // The driver takes merged datagrams apart.
        datagram.allow_merging();
        Ok(datagram)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    family: Family,
    local: Option<Address>,
    remote: Option<Address>,
}

impl Candidate {
    fn unbound(family: Family) -> Candidate {
        Candidate {
            family,
            local: None,
            remote: None,
        }
    }
}

/// All combinations of one family: the families in order of first appearance, local ones first,
/// and in each family every local with every remote address, in the resolver's order. (asyncio
/// keeps only the last address of each family and side.)
fn pair(local: Option<&[Address]>, remote: Option<&[Address]>) -> Vec<Candidate> {
    let mut families: Vec<Family> = Vec::new();
    for addr in [local, remote].into_iter().flatten().flatten() {
        let family = Family::of(addr);
        if !families.contains(&family) {
            families.push(family);
        }
    }
    // A side that was not asked for is one choice: none.
    let side = |addrs: Option<&[Address]>, family| -> Vec<Option<Address>> {
        match addrs {
            None => vec![None],
            Some(addrs) => addrs
                .iter()
                .filter(|addr| Family::of(addr) == family)
                .map(|addr| Some(*addr))
                .collect(),
        }
    };
    let mut candidates = Vec::new();
    for family in families {
        for local in side(local, family) {
            for remote in side(remote, family) {
                candidates.push(Candidate {
                    family,
                    local,
                    remote,
                });
            }
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn pairs(local: Option<&[&str]>, remote: Option<&[&str]>) -> Vec<String> {
        let local = local.map(addrs);
        let remote = remote.map(addrs);
        let text = |addr: Option<Address>| addr.map_or("-".into(), |addr| addr.to_string());
        pair(local.as_deref(), remote.as_deref())
            .into_iter()
            .map(|candidate| format!("{} {}", text(candidate.local), text(candidate.remote)))
            .collect()
    }

    #[test]
    fn combinations_come_by_family_then_local_then_remote() {
        assert_eq!(
            pairs(
                Some(&["[::1]:1", "127.0.0.1:1", "[::2]:1"]),
                Some(&["127.0.0.9:2", "[::9]:2", "[::8]:2"]),
            ),
            [
                "[::1]:1 [::9]:2",
                "[::1]:1 [::8]:2",
                "[::2]:1 [::9]:2",
                "[::2]:1 [::8]:2",
                "127.0.0.1:1 127.0.0.9:2",
            ]
        );
    }

    #[test]
    fn one_side_alone_is_tried_in_order() {
        assert_eq!(
            pairs(Some(&["[::1]:1", "127.0.0.1:1"]), None),
            ["[::1]:1 -", "127.0.0.1:1 -"]
        );
        assert_eq!(pairs(None, Some(&["127.0.0.1:1"])), ["- 127.0.0.1:1"]);
    }

    #[test]
    fn families_that_only_one_side_has_are_out() {
        assert!(pairs(Some(&["[::1]:1"]), Some(&["127.0.0.1:1"])).is_empty());
        assert!(pairs(Some(&["/tmp/x"]), Some(&["127.0.0.1:1"])).is_empty());
    }
}
