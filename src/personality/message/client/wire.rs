//! What a client talks through: a blocking socket, and how long a call may wait for it in all.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{early_end, unexpected};
use crate::codec::message::DESCRIPTOR_BYTE;
use crate::sys;

/// A socket and the time of the call that uses it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) socket: Socket,
    /// A call waits no longer than this.
    pub(super) timeout: Option<Duration>,
    /// Nor does the one that is under way wait beyond this.
    until: Option<Instant>,
}

/// The socket itself.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, timeout: None, until: None }
    }

    /// A call begins: from now on its time counts.
    pub(super) fn begin(&mut self) {
        self.until = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    }

    /// What is left of the time.
    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// The next read waits as long as the call still may. When its time is over, what is there already may be read: the
    /// shortest time that a socket knows is some milliseconds, in which a peer that drips has always something more.
    fn ready_to_read(&self) -> io::Result<()> {
        match self.left() {
            None => Ok(()),
            Some(Duration::ZERO) if sys::wait_readable(&self.socket, Duration::ZERO)? => Ok(()),
            Some(Duration::ZERO) => Err(too_late()),
            left => self.socket.wait_to_read(left),
        }
    }

    /// The same for a write.
    fn ready_to_write(&self) -> io::Result<()> {
        match self.left() {
            None => Ok(()),
            Some(Duration::ZERO) if sys::is_writable(&self.socket) => Ok(()),
            Some(Duration::ZERO) => Err(too_late()),
            left => self.socket.wait_to_write(left),
        }
    }

    /// The socket, if descriptors can travel through it.
    ///
    /// # Errors
    /// `Unsupported` if not.
    pub(super) fn unix(&self) -> io::Result<&UnixStream> {
        match &self.socket {
            Socket::Unix(stream) => Ok(stream),
            // The kernel would send the byte and say nothing about the descriptor.
            Socket::Tcp(_) => {
                Err(io::Error::new(ErrorKind::Unsupported, "descriptors travel through Unix sockets only"))
            }
        }
    }

    /// Sends a descriptor with its byte.
    pub(super) fn send_fd(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let stream = self.unix()?;
        self.ready_to_write()?;
        sys::send_with_fds(stream, &[DESCRIPTOR_BYTE], &[fd]).map_err(late)
    }

    /// Receives one byte and the one descriptor that comes with it.
    pub(super) fn receive_fd(&self) -> io::Result<OwnedFd> {
        let stream = self.unix()?;
        self.ready_to_read()?;
        let (length, mut fds) = sys::receive_with_fds(stream, &mut [DESCRIPTOR_BYTE]).map_err(late)?;
        match (length, fds.pop()) {
            (0, _) => Err(early_end()),
            (_, Some(fd)) if fds.is_empty() => Ok(fd),
            _ => Err(unexpected("there was to come one descriptor, and did not")),
        }
    }
}

impl io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ready_to_read()?;
        match &mut self.socket {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
        .map_err(late)
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ready_to_write()?;
        // The kernel cuts a long write into pieces and gives each of them all the time.
        let piece = &bytes[..bytes.len().min(self.until.map_or(usize::MAX, |_| PIECE_BYTES))];
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write(piece),
            Socket::Unix(stream) => stream.write(piece),
        }
        .map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    /// How long one read may wait (`SO_RCVTIMEO`).
    pub(super) fn wait_to_read(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(time),
            Self::Unix(stream) => stream.set_read_timeout(time),
        }
    }

    /// How long one write may wait (`SO_SNDTIMEO`).
    pub(super) fn wait_to_write(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(time),
            Self::Unix(stream) => stream.set_write_timeout(time),
        }
    }
}

/// The system says only that it would have to wait.
fn late(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { too_late() } else { error }
}

fn too_late() -> io::Error {
    io::Error::new(
        ErrorKind::TimedOut,
        "the peer did not answer, or did not read, within the time that was set",
    )
}

/// At most so much is written at once where the time is limited.
const PIECE_BYTES: usize = 16 * 1024;
