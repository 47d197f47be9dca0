//! Where the server is, and connections to it that never block.

use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What came of the begin of a connection.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It is there or on its way: the socket becomes writable, or has an error.
    Connection(Socket),
    /// The queue of a Unix listener is full: to be tried again. TCP has no such answer.
    QueueFull,
}

impl FromStr for Address {
    type Err = String;

    /// A port of 127.0.0.1, `host:port`, or `PATH|unix`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_suffix("|unix") {
            return Ok(Self::Unix(path.into()));
        }
        if let Ok(port) = text.parse() {
            return Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        let found = text.to_socket_addrs().map(|mut all| all.next());
        match found {
            Ok(Some(address)) => Ok(Self::Tcp(address)),
            Ok(None) => Err(format!("address `{text}`: the name has no address")),
            Err(error) => Err(format!("address `{text}`: {error}; write host:port or PATH|unix")),
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}|unix", path.display()),
        }
    }
}

impl Address {
    /// Begins a connection from the `source`-th address of this machine, 127.0.0.2 being number 0, where the system
    /// lets one choose.
    pub(crate) fn begin(&self, source: usize) -> io::Result<Begun> {
        let socket = self.socket()?;
        socket.set_nonblocking(true)?;
        let is_loopback = matches!(self, Self::Tcp(SocketAddr::V4(address)) if address.ip().is_loopback());
        if is_loopback && cfg!(target_os = "linux") {
            bind_source(&socket, source)?;
        }
        match socket.connect(&self.to_sock_addr()?) {
            Ok(()) => Ok(Begun::Connection(socket)),
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
                Ok(Begun::Connection(socket))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Begun::QueueFull),
            Err(error) => Err(error),
        }
    }

    /// Connects with a socket that blocks. Connecting, each read and each write wait at most `patience`.
    pub(crate) fn connect(&self, patience: Duration) -> io::Result<Socket> {
        let socket = self.socket()?;
        socket.set_read_timeout(Some(patience))?;
        // On Linux it holds for the connect as well.
        socket.set_write_timeout(Some(patience))?;
        socket.connect(&self.to_sock_addr()?)?;
        Ok(socket)
    }

    fn socket(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                // Half a line is to leave when it is written.
                socket.set_tcp_nodelay(true)?;
                Ok(socket)
            }
            Self::Unix(_) => Socket::new(Domain::UNIX, Type::STREAM, None),
        }
    }

    fn to_sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(address) => Ok(SockAddr::from(*address)),
            Self::Unix(path) => SockAddr::unix(path),
        }
    }
}

/// A closed connection keeps its port for a minute, so one source has some 450 connections a second.
fn bind_source(socket: &Socket, source: usize) -> io::Result<()> {
    let last = u8::try_from(2 + source % SOURCES_MAX).unwrap_or(u8::MAX);
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))
}

/// 127.0.0.2 to 127.0.0.251.
pub(crate) const SOURCES_MAX: usize = 250;
