//! One connection's stream: TCP, Unix, or any descriptor that can be polled.
//!
//! Every call is one system call (again after `EINTR`), never waits, and never raises `SIGPIPE` on a socket. On a pipe
//! `SIGPIPE` cannot be held back by the call: Rust programs ignore it from the start.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use mio::{Interest, Registry, Token, event::Source, unix::SourceFd};
use socket2::{SockRef, Socket, Type};

use super::addr::canonical;
use super::{LocalAddr, PeerAddr, options};
use crate::config::Limits;
use crate::sys;

/// A non-blocking byte stream, owned; dropping it closes it.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
}

/// What one read gave.
#[derive(Debug)]
pub(crate) struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub(crate) length: usize,
    /// The descriptors that came with them, close-on-exec.
    pub(crate) fds: Vec<OwnedFd>,
    /// Others were lost: this process has no room for them.
    pub(crate) cut: bool,
}

/// What a stream rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    Tcp,
    Unix,
    /// Adopted; whether it was blocking before.
    Descriptor {
        was_blocking: bool,
    },
}

/// The sockets are those of the standard library: mio's hold 16 bytes more in a debug build.
#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Descriptor(Adopted),
}

/// A descriptor of unknown origin. Its non-blocking flag belongs to everybody who shares it (a terminal with the
/// shell), so it is put back as it was.
#[derive(Debug)]
struct Adopted {
    file: File,
    is_socket: bool,
    was_blocking: bool,
    /// No other image of the program may go on with it, whose descriptor would change as well.
    is_ours: bool,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if self.was_blocking && self.is_ours {
            let _ = SockRef::from(&self.file).set_nonblocking(false);
        }
    }
}

impl Stream {
    pub(super) fn tcp(stream: mio::net::TcpStream) -> Self {
        Self { kind: Kind::Tcp(stream.into()) }
    }

    pub(super) fn unix(stream: mio::net::UnixStream) -> Self {
        Self { kind: Kind::Unix(stream.into()) }
    }

    /// Begins a TCP connection to `addr` with the socket options of `limits`. It is made when [`Stream::connected`]
    /// says so after a writable event.
    ///
    /// # Errors
    /// What `connect(2)` refuses at once (no route, no descriptors). A refusal by the peer comes through
    /// [`Stream::connected`].
    pub fn connect(addr: SocketAddr, limits: &Limits) -> io::Result<Self> {
        let stream = mio::net::TcpStream::connect(addr)?;
        options::tcp(&SockRef::from(&stream), limits)?;
        Ok(Self::tcp(stream))
    }

    /// Connects to the Unix socket at `path`; it is connected when this returns.
    ///
    /// # Errors
    /// `WouldBlock` when the listener's queue is full (there will be no event for it: try again later); `NotFound`,
    /// `ConnectionRefused`, `PermissionDenied` and whatever else `connect(2)` says.
    pub fn connect_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::unix(mio::net::UnixStream::connect(path)?))
    }

    /// Takes any descriptor that can be polled: a socket of any kind, a pipe (one direction of course), a terminal, a
    /// child's output. It becomes non-blocking, and what it was before when the stream is dropped.
    ///
    /// # Errors
    /// `fcntl(2)` refuses. A regular file is refused by [`Source::register`], `Unsupported`.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let socket = SockRef::from(&file);
        // These are fcntl(2) calls, good for every descriptor.
        let was_blocking = !socket.nonblocking()?;
        if was_blocking {
            socket.set_nonblocking(true)?;
        }
        let is_socket = socket.r#type().is_ok();
        let kind = Kind::Descriptor(Adopted { file, is_socket, was_blocking, is_ours: true });
        Ok(Self { kind })
    }

    /// Takes over a stream of this kind from another image of the program. It is [claimed](Self::claim) when that image
    /// does not need it any more; until then dropping it changes nothing for that one.
    ///
    /// # Errors
    /// `InvalidData` when it is not of that kind; what `getsockopt(2)` or `fcntl(2)` says.
    pub(crate) fn inherit(fd: OwnedFd, kind: StreamKind) -> io::Result<Self> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if let StreamKind::Descriptor { was_blocking } = kind {
            let mut stream = Self::adopt(fd)?;
            if let Kind::Descriptor(adopted) = &mut stream.kind {
                (adopted.was_blocking, adopted.is_ours) = (was_blocking, false);
            }
            return Ok(stream);
        }
        let socket = Socket::from(fd);
        if socket.r#type()? != Type::STREAM {
            return refuse("the descriptor is not a stream socket");
        }
        let local = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let kind = match kind {
            StreamKind::Tcp if local.is_ipv4() || local.is_ipv6() => Kind::Tcp(OwnedFd::from(socket).into()),
            StreamKind::Unix if local.is_unix() => Kind::Unix(OwnedFd::from(socket).into()),
            _ => return refuse("the descriptor is of another address family"),
        };
        Ok(Self { kind })
    }

    /// It is this image's alone from now on.
    pub(crate) fn claim(&mut self) {
        if let Kind::Descriptor(adopted) = &mut self.kind {
            adopted.is_ours = true;
        }
    }

    /// What it is, for [`inherit`](Self::inherit).
    pub(crate) fn kind(&self) -> StreamKind {
        match &self.kind {
            Kind::Tcp(_) => StreamKind::Tcp,
            Kind::Unix(_) => StreamKind::Unix,
            Kind::Descriptor(adopted) => StreamKind::Descriptor { was_blocking: adopted.was_blocking },
        }
    }

    /// Who has answered, once a connection that was begun is made. After [`Stream::connect`]: register the stream with
    /// writable interest, and ask at each event. A stream of another origin is connected from the start.
    ///
    /// `Ok(None)`: not yet, wait for the next event.
    ///
    /// # Errors
    /// The connection failed, and this is why (refused, timed out, ...); told once.
    pub fn connected(&self) -> io::Result<Option<PeerAddr>> {
        let stream = match &self.kind {
            Kind::Tcp(stream) => stream,
            Kind::Unix(stream) => return Ok(Some(PeerAddr::Unix(sys::peer_credentials(stream)))),
            Kind::Descriptor(_) => return Ok(Some(PeerAddr::Adopted)),
        };
        if let Some(cause) = stream.take_error()? {
            return Err(cause);
        }
        match stream.peer_addr() {
            Ok(addr) => Ok(Some(PeerAddr::Ip(canonical(addr)))),
            Err(cause) if cause.kind() == io::ErrorKind::NotConnected => Ok(None),
            Err(cause) if cause.raw_os_error() == Some(EINPROGRESS) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Reads into `buf`, one `recv(2)` or `read(2)`: how many bytes came; 0 at the end of the stream, or when `buf` is
    /// empty. Fewer bytes than `buf` holds mean that no more are there now, except where urgent data or passed
    /// descriptors cut the reading short.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; everything else ends the connection. A terminal or pseudo-terminal whose
    /// other side has closed says so with `EIO`.
    #[inline(always)]
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => uninterrupted(|| stream.read(buf)),
            Kind::Unix(stream) => uninterrupted(|| stream.read(buf)),
            Kind::Descriptor(adopted) => uninterrupted(|| adopted.file.read(buf)),
        }
    }

    /// As [`read`](Self::read), with the descriptors that the peer has passed: one `recvmsg(2)`. Only a Unix socket has
    /// any, and only with the feature `daemon`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_with_fds(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        #[cfg(feature = "daemon")]
        if self.passes_fds() {
            let (length, fds, cut) = sys::receive_some(&*self, buf)?;
            return Ok(Received { length, fds, cut });
        }
        Ok(Received { length: self.read(buf)?, fds: Vec::new(), cut: false })
    }

    /// Writes `buf` and passes a copy of `fd` with it: one `sendmsg(2)`, which takes all or nothing of a single byte.
    ///
    /// # Errors
    /// As [`write`](Self::write); `ETOOMANYREFS` while too many descriptors are on their way; `Unsupported` without the
    /// feature `daemon`.
    pub(crate) fn write_fd(&self, buf: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
        #[cfg(feature = "daemon")]
        return sys::send_with_fds(self, buf, &[fd]).map(|()| buf.len());
        #[cfg(not(feature = "daemon"))]
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("no descriptor ({fd:?}) with {buf:?}")))
    }

    /// Whether descriptors can be passed over it: a Unix socket, and the feature `daemon`.
    pub(crate) fn passes_fds(&self) -> bool {
        let unix = match &self.kind {
            Kind::Tcp(_) => false,
            Kind::Unix(_) => true,
            Kind::Descriptor(adopted) => {
                adopted.is_socket
                    && SockRef::from(&adopted.file).local_addr().is_ok_and(|addr| addr.is_unix())
            }
        };
        unix && cfg!(feature = "daemon")
    }

    /// Writes from `buf`, one `send(2)` or `write(2)`: how many bytes the kernel took, possibly fewer.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel takes nothing now; `BrokenPipe` and everything else end the connection.
    #[inline(always)]
    pub fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            // Sends with MSG_NOSIGNAL by itself.
            Kind::Tcp(stream) => uninterrupted(|| stream.write(buf)),
            Kind::Unix(stream) => {
                uninterrupted(|| SockRef::from(&*stream).send_with_flags(buf, MSG_NOSIGNAL))
            }
            Kind::Descriptor(adopted) if adopted.is_socket => {
                uninterrupted(|| SockRef::from(&adopted.file).send_with_flags(buf, MSG_NOSIGNAL))
            }
            Kind::Descriptor(adopted) => uninterrupted(|| adopted.file.write(buf)),
        }
    }

    /// Writes from all of `bufs` in order with one `sendmsg(2)` or `writev(2)`; slices past the 1024th wait for the
    /// next call.
    ///
    /// # Errors
    /// As [`Stream::write`].
    #[inline]
    pub fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let bufs = &bufs[..bufs.len().min(IOV_MAX)];
        match &mut self.kind {
            Kind::Tcp(stream) => {
                uninterrupted(|| SockRef::from(&*stream).send_vectored_with_flags(bufs, MSG_NOSIGNAL))
            }
            Kind::Unix(stream) => {
                uninterrupted(|| SockRef::from(&*stream).send_vectored_with_flags(bufs, MSG_NOSIGNAL))
            }
            Kind::Descriptor(adopted) if adopted.is_socket => {
                uninterrupted(|| SockRef::from(&adopted.file).send_vectored_with_flags(bufs, MSG_NOSIGNAL))
            }
            Kind::Descriptor(adopted) => uninterrupted(|| adopted.file.write_vectored(bufs)),
        }
    }

    /// Ends our direction: the peer reads its end after what was sent, and we go on reading. A descriptor that is no
    /// socket has no such thing: nothing happens, and the peer learns of the end when the stream is dropped.
    ///
    /// # Errors
    /// `NotConnected` when the peer is gone already.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Kind::Unix(stream) => stream.shutdown(Shutdown::Write),
            Kind::Descriptor(adopted) if adopted.is_socket => {
                SockRef::from(&adopted.file).shutdown(Shutdown::Write)
            }
            Kind::Descriptor(_) => Ok(()),
        }
    }

    /// The error that awaits the next call on a socket (`SO_ERROR`), which is cleared by asking; none for a descriptor
    /// that is no socket.
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        match &self.kind {
            Kind::Tcp(stream) => stream.take_error().ok().flatten(),
            Kind::Unix(stream) => stream.take_error().ok().flatten(),
            Kind::Descriptor(adopted) if adopted.is_socket => {
                SockRef::from(&adopted.file).take_error().ok().flatten()
            }
            Kind::Descriptor(_) => None,
        }
    }

    /// Whether it is a socket, whose two directions end one by one.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        !matches!(&self.kind, Kind::Descriptor(adopted) if !adopted.is_socket)
    }

    /// Whether nobody else can hold the same open description: of what the loop accepted or connected itself. An
    /// adopted descriptor may be a duplicate, and a poll goes on reporting a duplicate after the close.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        !matches!(self.kind, Kind::Descriptor(_))
    }

    /// Our end: the address of a TCP connection (canonical), the path of a Unix socket (empty where it has none).
    ///
    /// # Errors
    /// `Unsupported` for a descriptor that is no socket, or of another family; what `getsockname(2)` says.
    pub fn local_addr(&self) -> io::Result<LocalAddr> {
        let bound = match &self.kind {
            Kind::Tcp(stream) => SockRef::from(stream).local_addr()?,
            Kind::Unix(stream) => SockRef::from(stream).local_addr()?,
            Kind::Descriptor(adopted) if adopted.is_socket => SockRef::from(&adopted.file).local_addr()?,
            Kind::Descriptor(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        match bound.as_socket() {
            Some(addr) => Ok(LocalAddr::Ip(canonical(addr))),
            None if bound.is_unix() => {
                Ok(LocalAddr::Unix(bound.as_pathname().map(Path::to_owned).unwrap_or_default()))
            }
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(stream) => stream.as_fd(),
            Kind::Unix(stream) => stream.as_fd(),
            Kind::Descriptor(adopted) => adopted.file.as_fd(),
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, interests).map_err(|cause| {
            match cause.kind() {
                // epoll_ctl(2): EPERM, "the target file does not support epoll".
                io::ErrorKind::PermissionDenied => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "a regular file or directory cannot be polled: read it with std::fs",
                ),
                _ => cause,
            }
        })
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
    }
}

/// Repeats `call` as long as a signal interrupts it.
#[inline(always)]
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Slices that one call takes (`UIO_MAXIOV` on Linux, `IOV_MAX` on the BSDs).
const IOV_MAX: usize = 1024;

/// `send(2)`: no `SIGPIPE`. Apple has none; there mio sets `SO_NOSIGPIPE` on its sockets.
const MSG_NOSIGNAL: i32 = if cfg!(any(target_os = "linux", target_os = "android")) {
    0x4000
} else if cfg!(target_os = "freebsd") {
    0x2_0000
} else if cfg!(any(target_os = "openbsd", target_os = "dragonfly", target_os = "netbsd")) {
    0x400
} else {
    0
};

/// "Operation now in progress", for which the standard library has no stable [`io::ErrorKind`].
const EINPROGRESS: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 115 } else { 36 };

#[cfg(test)]
mod tests;
