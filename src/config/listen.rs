//! Where to listen: the value that a `port` entry becomes.

use std::path::PathBuf;

/// Which IP versions a TCP listener takes (Net::Server's `ipv`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv {
    /// IPv4 only. In a file: `4`.
    V4,
    /// IPv6 only, the socket says so itself (`IPV6_V6ONLY`). In a file: `6`.
    V6,
    /// Whatever the host has: a wildcard is one dual-stack socket, or IPv4 with a warning where IPv6 is compiled in
    /// but disabled; a name takes each address it resolves to. In a file: `"*"`.
    #[default]
    Any,
}

/// The address of one listener.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP port.
    Tcp {
        /// `*` for every address, an IPv4 or IPv6 address without brackets, or a name.
        host: String,
        /// 1 to 65 535; 0 lets the kernel choose a free one.
        port: u16,
        /// IP versions.
        ipv: Ipv,
    },
    /// A Unix stream socket in the file system.
    Unix {
        /// At most 107 bytes.
        path: PathBuf,
        /// Permission bits, for example `0o660`; `None`: as the umask leaves them.
        mode: Option<u32>,
        /// User name or number that owns the path; `None`: the process's.
        owner: Option<String>,
        /// Group name or number of the path; `None`: the process's.
        group: Option<String>,
        /// Descriptors that a client may pass before somebody takes them with `Conns::take_fd`: 0 (none: what comes is
        /// closed, or since Linux 6.16 refused) to 250. Needs the feature `daemon`.
        accept_fds: u8,
    },
}

/// One listener: where, under which name, with which backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAt {
    /// Says in `Peer::listener` where a client came from. Default: the entry as it was written.
    pub name: String,
    /// The address.
    pub addr: ListenAddr,
    /// Longest queue of connections that wait for accept (Net::Server's `listen`, `listen(2)`); `None`: 4096, which
    /// the system may lower.
    pub backlog: Option<u32>,
}

impl ListenAt {
    /// TCP on `host` (`*`, an address, or a name) and `port`, both IP versions, named `host:port`.
    #[must_use]
    pub fn tcp(host: &str, port: u16) -> Self {
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { name, addr: ListenAddr::Tcp { host: host.to_owned(), port, ipv: Ipv::Any }, backlog: None }
    }

    /// A Unix stream socket at `path`, named by its path.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            name: path.display().to_string(),
            addr: ListenAddr::Unix { path, mode: None, owner: None, group: None, accept_fds: 0 },
            backlog: None,
        }
    }

    /// The same, for clients that may pass descriptors, of which at most `most` (up to 250) wait to be taken. TCP has no
    /// such thing: nothing changes then.
    ///
    /// ```
    /// use lineplex::config::{ListenAddr, ListenAt};
    /// let at = ListenAt::unix("/run/chat.sock").accept_fds(4);
    /// assert!(matches!(at.addr, ListenAddr::Unix { accept_fds: 4, .. }));
    /// ```
    #[must_use]
    pub fn accept_fds(mut self, most: u8) -> Self {
        if let ListenAddr::Unix { accept_fds, .. } = &mut self.addr {
            *accept_fds = most;
        }
        self
    }

    /// Descriptors of one client that may wait; 0 where none can be passed.
    pub(crate) fn fds(&self) -> u8 {
        match self.addr {
            ListenAddr::Unix { accept_fds, .. } => accept_fds,
            ListenAddr::Tcp { .. } => 0,
        }
    }

    /// Why it cannot have the descriptors that it asks for, if it cannot.
    pub(crate) fn fds_fault(&self) -> Option<String> {
        match self.fds() {
            0 => None,
            _ if !cfg!(feature = "daemon") => {
                Some("accept_fds needs the feature `daemon`, which is off".to_owned())
            }
            most if most > FDS_MAX => Some(format!("accept_fds: {most} is more than {FDS_MAX}")),
            _ => None,
        }
    }

    /// The same under another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

/// One message cannot carry more: 253 on Linux (`SCM_MAX_FD`), a few less elsewhere.
pub(super) const FDS_MAX: u8 = 250;
