//! Addresses as they are shown, logged and checked: canonical, in one form each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use super::Credentials;

/// Who is at the other end of a stream.
///
/// `Display` is for log lines: the IP address without its port (`127.0.0.1`, `::1`), `unix` or `adopted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// A TCP peer, always canonical: a peer that came by IPv4 is an IPv4 address, whatever the listener is.
    Ip(SocketAddr),
    /// A peer on a Unix socket, with its credentials where the system tells them.
    Unix(Option<Credentials>),
    /// The other end of a descriptor that was adopted (a pipe, a terminal, a socket pair): nobody knows.
    Adopted,
}

impl PeerAddr {
    /// The IP address, for access lists and counts per address; `None` for everything that is not TCP.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(addr) => Some(addr.ip()),
            Self::Unix(_) | Self::Adopted => None,
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{}", addr.ip()),
            Self::Unix(_) => f.write_str("unix"),
            Self::Adopted => f.write_str("adopted"),
        }
    }
}

/// Where a listener listens, or the near end of a stream.
///
/// `Display` is what one would connect to: `127.0.0.1:20203`, `[::1]:20203`, `/run/chat.sock`; `unix` for the end of
/// a Unix stream that has no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalAddr {
    /// TCP. Of a listener: as it was bound, so a dual-stack wildcard is `[::]`. Of a stream: canonical.
    Ip(SocketAddr),
    /// A Unix socket's path; empty when it has none.
    Unix(PathBuf),
}

impl LocalAddr {
    /// The command that reaches this address from the same host: `telnet 127.0.0.1 20203`, `nc -U /run/chat.sock`.
    /// A wildcard address is reached through the loopback address.
    ///
    /// ```
    /// use lineplex::net::LocalAddr;
    ///
    /// assert_eq!(LocalAddr::Ip("[::]:20203".parse().unwrap()).hint(), "telnet 127.0.0.1 20203");
    /// assert_eq!(LocalAddr::Unix("/run/chat.sock".into()).hint(), "nc -U /run/chat.sock");
    /// ```
    #[must_use]
    pub fn hint(&self) -> String {
        match self.near() {
            Self::Ip(addr) => format!("telnet {} {}", addr.ip(), addr.port()),
            Self::Unix(path) => format!("nc -U {}", path.display()),
        }
    }

    /// The address at which the same host reaches it: of a wildcard the loopback address, else itself.
    ///
    /// ```
    /// use lineplex::net::LocalAddr;
    ///
    /// assert_eq!(LocalAddr::Ip("0.0.0.0:7".parse().unwrap()).near().to_string(), "127.0.0.1:7");
    /// ```
    #[must_use]
    pub fn near(&self) -> Self {
        match self {
            Self::Ip(addr) if addr.ip().is_unspecified() => {
                Self::Ip((Ipv4Addr::LOCALHOST, addr.port()).into())
            }
            other => other.clone(),
        }
    }

    /// The TCP port; `None` for a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(addr) => Some(addr.port()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix(path) if path.as_os_str().is_empty() => f.write_str("unix"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `addr` in its one form: an IPv4 address mapped into IPv6 (RFC 4291 section 2.5.5.2) becomes the IPv4 address. Another
/// IPv6 address keeps its scope; a flow label, which belongs to packets and not to who sends them, is dropped.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::from((ip, v6.port())),
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
        SocketAddr::V4(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> PeerAddr {
        PeerAddr::Ip(canonical(text.parse().unwrap()))
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4_and_others_stay() {
        assert_eq!(peer("[::ffff:1.2.3.4]:5").to_string(), "1.2.3.4");
        assert_eq!(peer("[::ffff:1.2.3.4]:5"), peer("1.2.3.4:5"));
        assert_eq!(peer("[::1]:5").to_string(), "::1");
        // "IPv4-compatible" is not "IPv4-mapped": it stays what it is.
        assert_eq!(peer("[::1.2.3.4]:5").ip(), Some("::1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_link_local_address_keeps_its_scope_and_no_flow_label() {
        let labelled = SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0xABCDE, 3);
        assert_eq!(PeerAddr::Ip(canonical(labelled.into())), peer("[fe80::1%3]:5"));
    }

    #[test]
    fn what_is_not_tcp_has_a_word_and_no_ip() {
        assert_eq!((PeerAddr::Unix(None).to_string(), PeerAddr::Unix(None).ip()), ("unix".to_owned(), None));
        assert_eq!((PeerAddr::Adopted.to_string(), PeerAddr::Adopted.ip()), ("adopted".to_owned(), None));
    }

    #[test]
    fn the_hint_reaches_a_wildcard_through_loopback_and_others_as_they_are() {
        let hint = |text: &str| LocalAddr::Ip(text.parse().unwrap()).hint();
        assert_eq!(hint("0.0.0.0:7"), "telnet 127.0.0.1 7");
        assert_eq!(hint("[::1]:7"), "telnet ::1 7");
        assert_eq!(hint("127.0.0.2:7"), "telnet 127.0.0.2 7");
    }

    #[test]
    fn a_local_address_is_shown_with_its_port_or_its_path() {
        assert_eq!(LocalAddr::Ip("[::1]:1".parse().unwrap()).to_string(), "[::1]:1");
        assert_eq!(LocalAddr::Unix("/run/x.sock".into()).to_string(), "/run/x.sock");
        assert_eq!(LocalAddr::Unix(PathBuf::new()).to_string(), "unix");
    }
}
