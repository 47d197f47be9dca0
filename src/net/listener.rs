//! A listening socket, TCP or Unix: bound from the configuration, accepting without ever waiting.
//!
//! TCP rests on `SO_REUSEADDR` and never on `SO_REUSEPORT` (with which a stopping server takes waiting clients with it);
//! a wildcard takes both IP versions on one socket. How a Unix path is taken is told in `unix.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use mio::{Interest, Registry, Token, event::Source};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::addr::canonical;
use super::unix::{self, OwnedPath};
use super::{LocalAddr, PeerAddr, Stream, options};
use crate::config::{Ipv, Limits, ListenAddr, ListenAt};
use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// One listening socket. Dropping it closes it and, if it made a path in the file system that is still its own,
/// removes that path.
///
/// ```
/// use lineplex::config::{Limits, ListenAt};
/// use lineplex::net::Listener;
///
/// let listeners = Listener::bind_all(&[ListenAt::tcp("127.0.0.1", 0)], &Limits::default())?;
/// println!("try: {}", listeners[0].local_addr().hint());
/// # Ok::<(), lineplex::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    at: ListenAt,
    local: LocalAddr,
    /// How an IPv6 socket was bound; kept for [`Listener::rebind`].
    versions: Versions,
    socket: Listening,
    path: Option<OwnedPath>,
    /// Accepted sockets inherit their options on Linux; elsewhere they are set from this.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    limits: Limits,
}

#[derive(Debug)]
enum Listening {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
    /// A rebind failed: every call answers `NotConnected`.
    Closed,
}

/// Whether an IPv6 socket takes IPv4 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    One,
    Both,
}

/// How a socket is opened; tests put a system without IPv6 in its place.
type Open<'a> = &'a dyn Fn(SocketAddr, Versions) -> io::Result<Socket>;

impl Listener {
    /// Binds and listens at `at`. A name that resolves to several addresses gives several listeners, all under the
    /// same name and port; port 0 takes one number that is free on all of them. Resolving a name may wait for the
    /// network.
    ///
    /// `*` with both versions is one socket on `[::]` that takes IPv4 too, or `0.0.0.0` with a warning where IPv6 is
    /// not available; an address of a name that this host does not have is passed over with a warning as long as
    /// another one could be bound.
    ///
    /// # Errors
    /// [`ErrorKind::Bind`], with the address and a remedy: no right to the port, in use, no such address, a name that
    /// does not resolve or has no address of the wanted version; for a Unix socket a path that is too long, holds a NUL
    /// byte, has no directory, or is taken by anything but a dead socket.
    pub fn bind(at: &ListenAt, limits: &Limits) -> Result<Vec<Self>> {
        Self::bind_beside(at, limits, &[])
    }

    /// The same; the error tells where one of the `others` is in the way.
    fn bind_beside(at: &ListenAt, limits: &Limits, others: &[Other<'_>]) -> Result<Vec<Self>> {
        let backlog = backlog(at);
        Self::bind_with(at, limits, &|addr, versions| {
            open(addr, versions, backlog, limits).map_err(|cause| in_the_way(addr, versions, others, cause))
        })
    }

    /// Binds all of `ats`, or none: what was bound is closed again if another one fails.
    ///
    /// # Errors
    /// [`ErrorKind::Bind`], once for all that failed, one line each, so that everything can be mended in one go.
    pub fn bind_all(ats: &[ListenAt], limits: &Limits) -> Result<Vec<Self>> {
        Self::bind_all_beside(ats, limits, &[])
    }

    /// The same in a process that has `others` open; the errors tell where one of them is in the way.
    pub(crate) fn bind_all_beside(
        ats: &[ListenAt],
        limits: &Limits,
        others: &[Other<'_>],
    ) -> Result<Vec<Self>> {
        let mut listeners: Vec<Self> = Vec::with_capacity(ats.len());
        let mut errors = Vec::new();
        for at in ats {
            let stay = listeners.iter().map(|listener| Other { listener, goes: false });
            let others: Vec<Other<'_>> = others.iter().copied().chain(stay).collect();
            match Self::bind_beside(at, limits, &others) {
                Ok(bound) => listeners.extend(bound),
                Err(error) => errors.push(error),
            }
        }
        if errors.len() > 1 {
            let lines: Vec<String> = errors.iter().map(Error::chain).collect();
            return Err(Error::new(ErrorKind::Bind, lines.join("\n")));
        }
        errors.pop().map_or(Ok(listeners), Err)
    }

    fn bind_with(at: &ListenAt, limits: &Limits, open: Open<'_>) -> Result<Vec<Self>> {
        match &at.addr {
            ListenAddr::Tcp { host, port, ipv } => {
                let bound = bind_host(host, *port, *ipv, open)?;
                Ok(bound.into_iter().map(|bound| Self::tcp(at, limits, bound)).collect())
            }
            ListenAddr::Unix { .. } => Ok(vec![Self::unix(at, limits)?]),
        }
    }

    fn tcp(at: &ListenAt, _limits: &Limits, bound: Bound) -> Self {
        let listener = TcpListener::from(bound.socket);
        Self {
            at: at.clone(),
            local: LocalAddr::Ip(bound.addr),
            versions: bound.versions,
            socket: Listening::Tcp(mio::net::TcpListener::from_std(listener)),
            path: None,
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            limits: _limits.clone(),
        }
    }

    fn unix(at: &ListenAt, _limits: &Limits) -> Result<Self> {
        let (path, socket, owned) = bind_unix(at)?;
        Ok(Self {
            at: at.clone(),
            local: LocalAddr::Unix(path),
            versions: Versions::One,
            socket: Listening::Unix(socket),
            path: Some(owned),
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            limits: _limits.clone(),
        })
    }

    /// The name from the configuration; `Peer::listener` of every client that comes this way.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.at.name
    }

    /// What was asked for.
    #[must_use]
    pub fn at(&self) -> &ListenAt {
        &self.at
    }

    /// What was bound: the number that the kernel chose for port 0, the absolute path of a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> LocalAddr {
        self.local.clone()
    }

    /// Takes one waiting client: one `accept4(2)`, non-blocking and closed on exec; for a Unix socket the peer's
    /// credentials besides. TCP options are inherited from this socket.
    ///
    /// # Errors
    /// `WouldBlock` when nobody waits. Everything else is the kernel's: most (`ECONNABORTED`, `EMFILE`, ...) leave the
    /// listener as good as before; `EBADF` and `EINVAL` mean that it is lost (see [`Listener::rebind`]). `NotConnected`
    /// after a rebind that failed.
    pub fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, addr) = listener.accept()?;
                #[cfg(not(any(target_os = "linux", target_os = "android")))]
                options::accepted(&SockRef::from(&stream), &self.limits);
                let peer = PeerAddr::Ip(canonical(addr));
                Ok((Stream::tcp(stream), peer))
            }
            Listening::Unix(listener) => {
                let (stream, _unnamed) = listener.accept()?;
                let peer = PeerAddr::Unix(sys::peer_credentials(&stream));
                Ok((Stream::unix(stream), peer))
            }
            Listening::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the socket and binds the same address again: the same port number if it was chosen by the kernel, the
    /// same path. It is no longer registered with a poll afterwards; clients that waited in its queue are lost.
    ///
    /// # Errors
    /// As [`Listener::bind`]; then this listener stays closed, and may be bound again later.
    pub fn rebind(&mut self, limits: &Limits) -> Result<()> {
        self.socket = Listening::Closed;
        match &self.local {
            LocalAddr::Ip(addr) => {
                let socket = open(*addr, self.versions, backlog(&self.at), limits)
                    .map_err(|cause| bind_error(&addr.to_string(), addr.port(), cause))?;
                self.socket = Listening::Tcp(mio::net::TcpListener::from_std(TcpListener::from(socket)));
            }
            LocalAddr::Unix(_) => {
                let (_, socket, owned) = bind_unix(&self.at)?;
                self.socket = Listening::Unix(socket);
                self.path = Some(owned);
            }
        }
        Ok(())
    }

    /// Leaves the path of a Unix socket in place when this is dropped, because another image or process goes on
    /// listening there. Nothing else changes; nothing happens for TCP.
    pub fn keep_path(&mut self) {
        self.path = None;
    }

    /// Removes its path, if that is its own, so that nobody new finds it; who waits already can still be taken.
    pub(crate) fn remove_path(&mut self) {
        if let Some(path) = self.path.take() {
            path.remove();
        }
    }

    /// The path in the file system that is this listener's to remove; none for TCP, and after [`keep_path`](Self::keep_path).
    pub(crate) fn owned_path(&self) -> Option<&OwnedPath> {
        self.path.as_ref()
    }

    /// Takes over the path of the image before.
    pub(crate) fn own_path(&mut self, path: OwnedPath) {
        self.path = Some(path);
    }

    /// Takes over a listening socket that another image or a supervisor opened, for the address `at`.
    ///
    /// It becomes non-blocking. Its path in the file system, if it has one, is not removed when this is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Bind`] when it is not what `at` says: not a socket, not a stream, not listening, another family,
    /// or another address (a host that is a name is not compared; a port 0 takes any).
    pub fn adopt(fd: OwnedFd, at: &ListenAt, limits: &Limits) -> Result<Self> {
        let listener = Self::share(fd, at, limits)?;
        let fail = |cause| Error::with_source(ErrorKind::Bind, inherited(at, "cannot be used"), cause);
        listener.set_options(limits).map_err(fail)?;
        Ok(listener)
    }

    /// The same for one that somebody else may still serve: its options stay what they are until
    /// [`set_options`](Self::set_options).
    pub(crate) fn share(fd: OwnedFd, at: &ListenAt, _limits: &Limits) -> Result<Self> {
        let socket = Socket::from(fd);
        let local = inherited_addr(&socket, at)?;
        let fail = |cause| Error::with_source(ErrorKind::Bind, inherited(at, "cannot be used"), cause);
        socket.set_nonblocking(true).map_err(fail)?;
        socket.set_cloexec(true).map_err(fail)?;
        let (listening, versions) = match &local {
            LocalAddr::Ip(addr) => {
                let both = addr.is_ipv6() && !socket.only_v6().map_err(fail)?;
                let listener = mio::net::TcpListener::from_std(TcpListener::from(socket));
                (Listening::Tcp(listener), if both { Versions::Both } else { Versions::One })
            }
            LocalAddr::Unix(_) => {
                let listener = mio::net::UnixListener::from_std(UnixListener::from(OwnedFd::from(socket)));
                (Listening::Unix(listener), Versions::One)
            }
        };
        Ok(Self {
            at: at.clone(),
            local,
            versions,
            socket: listening,
            path: None,
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            limits: _limits.clone(),
        })
    }

    /// Sets what `limits` asks for on the socket, for clients that come from now on, and the length of its queue.
    ///
    /// # Errors
    /// What `setsockopt(2)` and `listen(2)` say.
    pub(crate) fn set_options(&self, limits: &Limits) -> io::Result<()> {
        let backlog = backlog(&self.at);
        match &self.socket {
            Listening::Tcp(listener) => {
                let socket = SockRef::from(listener);
                options::tcp(&socket, limits)?;
                socket.listen(backlog)
            }
            Listening::Unix(listener) => {
                sys::set_passes_fds(listener, self.at.fds() > 0);
                SockRef::from(listener).listen(backlog)
            }
            Listening::Closed => Ok(()),
        }
    }

    /// The descriptor, to hand it to another image; `None` after a rebind that failed.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.socket {
            Listening::Tcp(listener) => Some(listener.as_fd()),
            Listening::Unix(listener) => Some(listener.as_fd()),
            Listening::Closed => None,
        }
    }

    /// Whether nobody can listen on `addr` because this one listens.
    fn covers(&self, addr: SocketAddr, versions: Versions) -> bool {
        let LocalAddr::Ip(own) = &self.local else { return false };
        own.port() == addr.port()
            && (own.ip() == addr.ip()
                || is_part(own.ip(), addr.ip(), versions)
                || is_part(addr.ip(), own.ip(), self.versions))
    }

    fn source(&mut self) -> io::Result<&mut dyn Source> {
        match &mut self.socket {
            Listening::Tcp(listener) => Ok(listener),
            Listening::Unix(listener) => Ok(listener),
            Listening::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source()?.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source()?.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source()?.deregister(registry)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove_path();
    }
}

/// A listener of this server that is open while new ones are bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other<'a> {
    pub(crate) listener: &'a Listener,
    /// It is closed when the restart is over.
    pub(crate) goes: bool,
}

/// A socket that listens, and what it listens on.
struct Bound {
    socket: Socket,
    addr: SocketAddr,
    versions: Versions,
}

impl Bound {
    fn open(addr: SocketAddr, versions: Versions, open: Open<'_>) -> io::Result<Self> {
        let socket = open(addr, versions)?;
        let addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        Ok(Self { socket, addr, versions })
    }
}

/// Every address that `host` stands for, bound to the same port.
fn bind_host(host: &str, port: u16, ipv: Ipv, open: Open<'_>) -> Result<Vec<Bound>> {
    let shown =
        |host: &str| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    if host == "*" {
        return bind_wildcard(port, ipv, open).map(|bound| vec![bound]);
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        if !takes(ipv, ip) {
            let why = "its IP version is not the one that `ipv` asks for";
            return Err(Error::new(ErrorKind::Bind, format!("cannot listen on {}: {why}", shown(host))));
        }
        let both = ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && ipv == Ipv::Any;
        let versions = if both { Versions::Both } else { Versions::One };
        return Bound::open(SocketAddr::new(ip, port), versions, open)
            .map(|bound| vec![bound])
            .map_err(|cause| bind_error(&shown(host), port, cause));
    }
    let found = (host, port).to_socket_addrs().map_err(|cause| {
        let context = format!("cannot listen on {}: the name does not resolve", shown(host));
        Error::with_source(ErrorKind::Bind, context, cause)
    })?;
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in found.filter(|addr| takes(ipv, addr.ip())) {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        let why = "the name has no address of the IP version that `ipv` asks for";
        return Err(Error::new(ErrorKind::Bind, format!("cannot listen on {}: {why}", shown(host))));
    }
    bind_addrs(&addrs, open)
}

/// Why `addr` could not be bound: `cause`, or the listener of this server that is in the way, and what to do.
fn in_the_way(addr: SocketAddr, versions: Versions, others: &[Other<'_>], cause: io::Error) -> io::Error {
    let found = others.iter().find(|other| other.listener.covers(addr, versions));
    let (io::ErrorKind::AddrInUse, Some(Other { listener, goes })) = (cause.kind(), found) else {
        return cause;
    };
    let own = listener.local_addr();
    let what = if *goes {
        "is to go, but has the port until the restart is over; remove it by one restart and add this one by the next, \
         or stop the server and start it anew"
    } else {
        "has the port already; leave one of the two out"
    };
    io::Error::new(cause.kind(), format!("this server's own listener on {own} {what}"))
}

/// Whether `ip` is among the addresses that the wildcard `of` stands for.
fn is_part(ip: IpAddr, of: IpAddr, versions: Versions) -> bool {
    of.is_unspecified() && (of.is_ipv4() == ip.is_ipv4() || versions == Versions::Both)
}

fn takes(ipv: Ipv, ip: IpAddr) -> bool {
    match ipv {
        Ipv::V4 => ip.is_ipv4(),
        Ipv::V6 => ip.is_ipv6(),
        Ipv::Any => true,
    }
}

/// `*`: one socket for everything that `ipv` allows.
fn bind_wildcard(port: u16, ipv: Ipv, open: Open<'_>) -> Result<Bound> {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let (addr, versions) = match ipv {
        Ipv::V4 => (v4, Versions::One),
        Ipv::V6 => (v6, Versions::One),
        Ipv::Any => (v6, Versions::Both),
    };
    match Bound::open(addr, versions, open) {
        Err(cause) if ipv == Ipv::Any && is_absent(&cause) => {
            log::warn!("IPv6 is not available ({cause}): listening on {v4} instead of {v6}");
            Bound::open(v4, Versions::One, open).map_err(|cause| bind_error(&v4.to_string(), port, cause))
        }
        other => other.map_err(|cause| bind_error(&addr.to_string(), port, cause)),
    }
}

/// Every address of a name, on one port. With port 0 the first decides, and another number is tried when that one is
/// taken on one of the rest.
fn bind_addrs(addrs: &[SocketAddr], open: Open<'_>) -> Result<Vec<Bound>> {
    for attempt in 1.. {
        match bind_addrs_once(addrs, open) {
            Err((addr, cause)) => {
                let again = addrs[0].port() == 0 && cause.kind() == io::ErrorKind::AddrInUse;
                if !again || attempt == PORT_ATTEMPTS {
                    return Err(bind_error(&addr.to_string(), addr.port(), cause));
                }
            }
            Ok(bound) => return Ok(bound),
        }
    }
    unreachable!("the last attempt returns")
}

fn bind_addrs_once(addrs: &[SocketAddr], open: Open<'_>) -> Result<Vec<Bound>, (SocketAddr, io::Error)> {
    let mut bound: Vec<Bound> = Vec::new();
    let mut absent = Vec::new();
    for addr in addrs {
        let mut addr = *addr;
        if let Some(first) = bound.first() {
            addr.set_port(first.addr.port());
        }
        match Bound::open(addr, Versions::One, open) {
            Ok(one) => bound.push(one),
            Err(cause) if is_absent(&cause) => absent.push((addr, cause)),
            Err(cause) => return Err((addr, cause)),
        }
    }
    if bound.is_empty() {
        // Not empty: the caller passes at least one address, and it is in neither list only after a return.
        return Err(absent.swap_remove(0));
    }
    for (addr, cause) in absent {
        log::warn!("not listening on {addr}: {cause}");
    }
    Ok(bound)
}

/// A TCP socket with every option, bound and listening.
fn open(addr: SocketAddr, versions: Versions, backlog: i32, limits: &Limits) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(versions == Versions::One)?;
    }
    options::tcp(&SockRef::from(&socket), limits)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(backlog)?;
    Ok(socket)
}

fn bind_unix(at: &ListenAt) -> Result<(PathBuf, mio::net::UnixListener, OwnedPath)> {
    let ListenAddr::Unix { path, mode, owner, group, .. } = &at.addr else {
        return Err(Error::new(ErrorKind::Bind, format!("{} is no path", at.name)));
    };
    if let Some(why) = at.fds_fault() {
        return Err(Error::new(ErrorKind::Bind, format!("cannot listen on {}: {why}", at.name)));
    }
    let path = std::path::absolute(path).map_err(|cause| {
        Error::with_source(
            ErrorKind::Bind,
            format!("cannot listen on {:?}", path.display().to_string()),
            cause,
        )
    })?;
    let (owner, group) = (owner.as_deref(), group.as_deref());
    let access = unix::Access { mode: *mode, owner, group, passes_fds: at.fds() > 0 };
    let (socket, owned) = unix::listen(&path, access, backlog(at))?;
    let listener = UnixListener::from(OwnedFd::from(socket));
    Ok((path, mio::net::UnixListener::from_std(listener), owned))
}

fn backlog(at: &ListenAt) -> i32 {
    at.backlog.map_or(BACKLOG_DEFAULT, |backlog| i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// The host lacks IPv6, or this address: not a mistake that stops a wildcard or a name with other addresses.
fn is_absent(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::AddrNotAvailable || cause.raw_os_error() == Some(EAFNOSUPPORT)
}

fn bind_error(shown: &str, port: u16, cause: io::Error) -> Error {
    let remedy = match cause.kind() {
        io::ErrorKind::PermissionDenied if (1..1024).contains(&port) => {
            ": ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port or grant it"
        }
        io::ErrorKind::PermissionDenied => ": the system forbids it",
        // Somebody has looked who it is.
        io::ErrorKind::AddrInUse if cause.get_ref().is_some() => "",
        io::ErrorKind::AddrInUse => ": another program listens there; stop it or choose another port",
        _ if is_absent(&cause) => ": this host has no such address; choose one of its own, or *",
        _ => "",
    };
    Error::with_source(ErrorKind::Bind, format!("cannot listen on {shown}{remedy}"), cause)
}

fn inherited(at: &ListenAt, why: &str) -> String {
    format!("the inherited descriptor for {} {why}", at.name)
}

/// Checks that `socket` is what `at` says, and gives the address that it really has.
fn inherited_addr(socket: &Socket, at: &ListenAt) -> Result<LocalAddr> {
    let refuse = |why: &str| Error::new(ErrorKind::Bind, inherited(at, why));
    let fail = |cause| Error::with_source(ErrorKind::Bind, inherited(at, "is not a socket"), cause);
    if socket.r#type().map_err(fail)? != Type::STREAM {
        return Err(refuse("is not a stream socket"));
    }
    #[cfg(not(any(target_vendor = "apple", target_os = "netbsd", target_os = "openbsd")))]
    if !socket.is_listener().map_err(fail)? {
        return Err(refuse("is not listening"));
    }
    let bound = socket.local_addr().map_err(fail)?;
    match &at.addr {
        ListenAddr::Tcp { host, port, ipv } => {
            let addr = bound.as_socket().ok_or_else(|| refuse("is not a TCP socket"))?;
            let ip_fits = match host.as_str() {
                "*" => addr.ip().is_unspecified(),
                host => host.parse::<IpAddr>().map_or(true, |ip| ip == addr.ip()),
            };
            if !ip_fits || !takes(*ipv, addr.ip()) || (*port != 0 && *port != addr.port()) {
                return Err(refuse(&format!("listens on {addr}")));
            }
            Ok(LocalAddr::Ip(addr))
        }
        ListenAddr::Unix { path, .. } => {
            if !bound.is_unix() {
                return Err(refuse("is not a Unix socket"));
            }
            // Its name may be the temporary one under which it was bound, so it cannot be compared with the path.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Ok(LocalAddr::Unix(path))
        }
    }
}

/// Connections that may wait for accept where the configuration says nothing; the system may lower it.
const BACKLOG_DEFAULT: i32 = 4096;

/// Numbers that are tried for port 0 on a name with several addresses.
const PORT_ATTEMPTS: u32 = 16;

/// "Address family not supported", for which the standard library has no [`io::ErrorKind`].
const EAFNOSUPPORT: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 97 } else { 47 };

#[cfg(test)]
mod tests;
