//! Who is at the other end of a connection: [`Peer`]. There is one for each connection, so it is kept small.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::{Credentials, PeerAddr};

/// Who is at the other end of a connection. `Copy`, 32 bytes.
#[derive(Clone, Copy)]
pub struct Peer {
    addr: Addr,
    listener: ListenerName,
    /// Its low 48 bits, the lowest first: a hundred thousand clients a second need 89 years for more.
    serial: [u8; 6],
}

impl Peer {
    pub(super) fn new(addr: PeerAddr, serial: u64, listener: ListenerName) -> Self {
        let [a, b, c, d, e, f, ..] = serial.to_le_bytes();
        Self { addr: addr.into(), listener, serial: [a, b, c, d, e, f] }
    }

    /// One that no listener has taken: it is outgoing or adopted.
    pub(super) fn without_listener(addr: PeerAddr) -> Self {
        Self::new(addr, 0, ListenerName::default())
    }

    pub(super) fn set_addr(&mut self, addr: PeerAddr) {
        self.addr = addr.into();
    }

    /// Its address; an IPv4 peer of a dual-stack listener is shown as IPv4. Of an outgoing connection: what it was asked
    /// to connect to, and once it is open what has answered.
    #[must_use]
    pub fn addr(&self) -> PeerAddr {
        self.addr.into()
    }

    /// Counts the clients that listeners have taken, from 1, refused and denied ones included; 0 for outgoing and
    /// adopted connections.
    #[must_use]
    pub fn serial(&self) -> u64 {
        let [a, b, c, d, e, f] = self.serial;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The name of the listener that the client came through ([`ListenAt::name`](crate::config::ListenAt)); empty
    /// for outgoing and adopted connections.
    #[must_use]
    pub fn listener(&self) -> &'static str {
        self.listener.as_str()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("addr", &self.addr())
            .field("serial", &self.serial())
            .field("listener", &self.listener())
            .finish()
    }
}

/// A [`PeerAddr`] in 24 bytes. It has no flow label, as the addresses of `net` have none.
#[derive(Clone, Copy)]
enum Addr {
    V4 { ip: Ipv4Addr, port: u16 },
    V6 { ip: Ipv6Addr, port: u16, scope: u32 },
    Unix(Option<Credentials>),
    Adopted,
}

impl From<PeerAddr> for Addr {
    fn from(addr: PeerAddr) -> Self {
        match addr {
            PeerAddr::Ip(SocketAddr::V4(addr)) => Self::V4 { ip: *addr.ip(), port: addr.port() },
            PeerAddr::Ip(SocketAddr::V6(addr)) => {
                Self::V6 { ip: *addr.ip(), port: addr.port(), scope: addr.scope_id() }
            }
            PeerAddr::Unix(who) => Self::Unix(who),
            PeerAddr::Adopted => Self::Adopted,
        }
    }
}

impl From<Addr> for PeerAddr {
    fn from(addr: Addr) -> Self {
        match addr {
            Addr::V4 { ip, port } => Self::Ip((ip, port).into()),
            Addr::V6 { ip, port, scope } => Self::Ip(SocketAddrV6::new(ip, port, 0, scope).into()),
            Addr::Unix(who) => Self::Unix(who),
            Addr::Adopted => Self::Adopted,
        }
    }
}

/// The name of a listener as a number: 0 is the empty one, the others are in [`NAMES`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListenerName(u16);

impl ListenerName {
    /// The number of that name. A name that is new stays in memory as long as the process: there are no more than its
    /// listeners were ever called. Past 65,535 of them a new one reads as empty.
    pub(super) fn of(name: &str) -> Self {
        if name.is_empty() {
            return Self::default();
        }
        let mut names = names();
        let at = names.iter().position(|known| *known == name).unwrap_or(names.len());
        let Ok(number) = u16::try_from(at + 1) else { return Self::default() };
        if at == names.len() {
            names.push(Box::leak(name.into()));
        }
        Self(number)
    }

    fn as_str(self) -> &'static str {
        let at = usize::from(self.0).checked_sub(1);
        at.and_then(|at| names().get(at).copied()).unwrap_or("")
    }
}

fn names() -> MutexGuard<'static, Vec<&'static str>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every name that a listener of this process has had.
static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addrs() -> impl Strategy<Value = PeerAddr> {
        let v4 = any::<(Ipv4Addr, u16)>().prop_map(|at| PeerAddr::Ip(at.into()));
        let v6 = any::<(Ipv6Addr, u16, u32)>()
            .prop_map(|(ip, port, scope)| PeerAddr::Ip(SocketAddrV6::new(ip, port, 0, scope).into()));
        let who = any::<(u32, u32, Option<i32>)>().prop_map(|(uid, gid, pid)| Credentials { uid, gid, pid });
        let unix = prop::option::of(who).prop_map(PeerAddr::Unix);
        prop_oneof![v4, v6, unix, Just(PeerAddr::Adopted)]
    }

    proptest! {
        #[test]
        fn a_peer_gives_back_what_it_was_made_of(
            addr in addrs(),
            later in addrs(),
            serial in 0u64..1 << 48,
            listener in "|chat|admin|[a-c]",
        ) {
            let mut peer = Peer::new(addr, serial, ListenerName::of(&listener));
            prop_assert_eq!((peer.addr(), peer.serial(), peer.listener()), (addr, serial, &*listener));
            peer.set_addr(later);
            prop_assert_eq!((peer.addr(), peer.serial(), peer.listener()), (later, serial, &*listener));
        }
    }

    #[test]
    fn a_name_is_kept_once() {
        let (one, other) = (ListenerName::of("kept once"), ListenerName::of("kept once"));
        assert_eq!((one.0, one.as_str()), (other.0, "kept once"));
        assert_ne!(ListenerName::of("another").0, one.0);
    }

    #[test]
    fn a_peer_has_32_bytes_and_no_more_beside_a_generation() {
        assert_eq!((size_of::<Peer>(), align_of::<Peer>()), (32, 4));
        assert_eq!(size_of::<Option<(u32, Peer)>>(), 36);
    }
}
