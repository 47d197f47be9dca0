//! A client of message servers that waits: for programs that ask a server something, and for tests.
//!
//! It stands on blocking sockets of the standard library and the message codec, and has no buffer of its own: it takes from
//! the socket the bytes of the message that is asked for and none after them, because a byte read too early could carry a
//! descriptor, which would be lost. What it is told about a length costs no memory before the bytes come.
//!
//! It never runs inside a loop, where it would hold up everybody, and it never shows or keeps a password.

#[cfg(test)]
mod tests;
mod wire;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::{error, fmt};

use zeroize::Zeroizing;

use self::wire::{Socket, Wire};
use super::Dialect;
use super::dialect::{ERROR, OK, STATUS};
use crate::codec::line::safe_text;
use crate::codec::message::{self, Elements, GOT_IO, MessageError, PASS_IO};

/// A connection to a message server, or to anything else that talks in the same messages; every call waits.
///
/// Which kind of message comes next is a matter of agreement: [`read`](Self::read) takes the next bytes for an array whatever
/// they are. After an error, be it only a timeout, the place in the stream is lost, and the connection good for nothing but
/// being dropped, which closes it; only a value that could not be written at all (too long, a NUL) has done no harm.
///
/// ```no_run
/// use lineplex::personality::message::{Dialect, MessageClient};
///
/// let mut client = MessageClient::open("unix:/run/app/control", "admin", "secret", Dialect::Classic)?;
/// client.write(&["ping"])?;
/// let answer = client.read()?.ok_or("the server has closed")?;
/// println!("{} elements", answer.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MessageClient {
    stream: Wire,
}

/// Connecting, and being let in.
impl MessageClient {
    /// [`from_address`](Self::from_address) and [`login`](Self::login) in one. It waits as long as the server does; to wait
    /// less, call [`set_timeout`](Self::set_timeout) between the two.
    ///
    /// # Errors
    /// Those of the two.
    pub fn open(
        address: &str,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
        dialect: Dialect,
    ) -> Result<Self, ClientError> {
        let mut client = Self::from_address(address)?;
        client.login(user, password, dialect)?;
        Ok(client)
    }

    /// Connects to an address as clients of Passenger write it: `unix:PATH` or `tcp://HOST:PORT`.
    ///
    /// ```
    /// use std::io::ErrorKind;
    ///
    /// use lineplex::personality::message::MessageClient;
    ///
    /// let error = MessageClient::from_address("localhost:80").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` for an address of another form, and those of [`connect_unix`](Self::connect_unix) and
    /// [`connect_tcp`](Self::connect_tcp).
    pub fn from_address(address: &str) -> io::Result<Self> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Self::connect_unix(path);
        }
        if let Some(host_and_port) = address.strip_prefix("tcp://") {
            return Self::connect_tcp(host_and_port);
        }
        let context = format!("the address {address:?} is neither unix:PATH nor tcp://HOST:PORT");
        Err(io::Error::new(ErrorKind::InvalidInput, context))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Those of `connect(2)`; `InvalidInput` for a path that is too long.
    pub fn connect_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::from)
    }

    /// Connects to a TCP port, at the first address of the host that answers. Small messages leave at once. Descriptors
    /// cannot travel this way.
    ///
    /// # Errors
    /// An unknown host, and those of `connect(2)`.
    pub fn connect_tcp(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Self::from(stream))
    }

    /// Every call ends with the error `TimedOut` when it would have to wait longer than this in all, in however many pieces
    /// a message comes or goes; what is there already is still taken. `None`, as it is at first, waits for ever. A
    /// [`login`](Self::login) is one call.
    ///
    /// # Errors
    /// `InvalidInput` for no time at all.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.socket.wait_to_read(timeout)?;
        self.stream.socket.wait_to_write(timeout)?;
        self.stream.timeout = timeout;
        Ok(())
    }

    /// Reads the server's greeting, sends name and password, and waits for the verdict. Both may be any bytes; servers take
    /// up to 100 of each. The copy of the password that is made to send it is wiped.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's sentence. [`ClientError::Io`]: `UnexpectedEof` when the server closes
    /// without one, as it does when the login takes too long; `InvalidData` for a greeting other than that of version 1 (nothing is
    /// sent then), or a verdict that is none in this `dialect`; what else reading and writing can fail with.
    pub fn login(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
        dialect: Dialect,
    ) -> Result<(), ClientError> {
        self.stream.begin();
        if !is_array(&self.expect_array()?, &BANNER) {
            return Err(unexpected("the greeting is not that of a message server, version 1").into());
        }
        let sent = self.send_login(user.as_ref(), password.as_ref());
        // A server that refuses the name closes without reading the password: then the verdict tells more than the failure.
        let closed =
            |error: &io::Error| matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        match sent {
            Err(error) if !closed(&error) => Err(error.into()),
            _ => check_verdict(&self.expect_array()?, dialect),
        }
    }

    /// Reads what a server says before the reply to a command that needs rights.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's sentence if the account has not the rights, after which some commands
    /// close the connection. [`ClientError::Io`]: `UnexpectedEof` when it closes without one, `InvalidData` for any other
    /// message, and what else reading can fail with.
    pub fn check_security(&mut self) -> Result<(), ClientError> {
        self.stream.begin();
        let said = self.expect_array()?;
        match said.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
            [passed] if passed == PASSED_SECURITY.as_bytes() => Ok(()),
            [exception, text] if exception == SECURITY_EXCEPTION.as_bytes() => Err(refused(text)),
            _ => Err(unexpected("the message does not say whether the account has the rights").into()),
        }
    }

    /// Name and password, in one write where they fit.
    fn send_login(&mut self, user: &[u8], password: &[u8]) -> io::Result<()> {
        // With room for all of it from the start, so that no copy is left behind.
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(2 * size_of::<u32>() + user.len() + password.len()));
        message::write_scalar(&mut bytes, user).map_err(unwritable)?;
        message::write_scalar(&mut bytes, password).map_err(unwritable)?;
        self.stream.write_all(&bytes)
    }
}

/// Messages.
impl MessageClient {
    /// Sends an array message.
    ///
    /// # Errors
    /// `InvalidInput` for elements with a NUL, or longer than an array message (nothing is sent then). Those of `write(2)`,
    /// `BrokenPipe` among them when the server has closed.
    pub fn write<E: AsRef<[u8]>>(&mut self, elements: &[E]) -> io::Result<()> {
        self.stream.begin();
        self.write_array(elements)
    }

    /// Sends a scalar message, without copying it.
    ///
    /// # Errors
    /// `InvalidInput` for more than 2³² − 1 bytes (nothing is sent then), and those of `write(2)`.
    pub fn write_scalar(&mut self, bytes: &[u8]) -> io::Result<()> {
        let header = message::scalar_header(bytes.len()).map_err(unwritable)?;
        self.stream.begin();
        self.stream.write_all(&header)?;
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent; what the server still says can be read.
    ///
    /// # Errors
    /// `NotConnected` when the server has closed.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match &self.stream.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Waits for an array message and gives its elements; none when the server has closed after the message before.
    ///
    /// # Errors
    /// `UnexpectedEof` when it has closed inside of this one, and those of `read(2)`.
    pub fn read(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.stream.begin();
        self.read_array()
    }

    /// Waits for a scalar message of at most `max` bytes; none when the server has closed after the message before. If it
    /// may be a secret, wiping it is the caller's business.
    ///
    /// # Errors
    /// `InvalidData` when it says to be longer; its body is not read then. `UnexpectedEof` when the server has closed inside
    /// of it, and those of `read(2)`.
    pub fn read_scalar(&mut self, max: u32) -> io::Result<Option<Vec<u8>>> {
        self.stream.begin();
        let mut header = [0; 4];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        // Only a header: incomplete if it is not too long.
        message::scalar(&header, max)?;
        self.body(u32::from_be_bytes(header)).map(Some)
    }

    fn write_array<E: AsRef<[u8]>>(&mut self, elements: &[E]) -> io::Result<()> {
        let mut bytes = Vec::new();
        message::write_array(&mut bytes, elements).map_err(unwritable)?;
        self.stream.write_all(&bytes)
    }

    fn read_array(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut header = [0; 2];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let body = self.body(u16::from_be_bytes(header).into())?;
        Ok(Some(Elements::new(&body).iter().map(<[u8]>::to_vec).collect()))
    }

    /// An array message, where the end of the stream would be too early.
    fn expect_array(&mut self) -> io::Result<Vec<Vec<u8>>> {
        self.read_array()?.ok_or_else(early_end)
    }

    /// Fills `buffer`; false if the stream has ended before its first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(early_end()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next `length` bytes. The buffer grows as they come.
    fn body(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let read = (&mut self.stream).take(length.into()).read_to_end(&mut body)?;
        if read < length as usize {
            return Err(early_end());
        }
        Ok(body)
    }
}

/// Descriptors. They travel through Unix sockets only; on TCP each of these fails with `Unsupported` before anything is sent.
impl MessageClient {
    /// Waits until the peer asks for a descriptor, sends it `fd`, and waits until it says that it has it.
    ///
    /// # Errors
    /// `InvalidData` when the peer says anything else, in which case nothing was sent if it was in place of the question;
    /// `UnexpectedEof` when it closes, and those of reading and writing.
    pub fn write_fd(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.stream.unix()?;
        self.stream.begin();
        if !is_array(&self.expect_array()?, &[PASS_IO]) {
            return Err(unexpected("the peer was to ask for a descriptor, and did not"));
        }
        self.stream.send_fd(fd)?;
        if !is_array(&self.expect_array()?, &[GOT_IO]) {
            return Err(unexpected("the peer was to confirm a descriptor, and did not"));
        }
        Ok(())
    }

    /// Sends `fd` to a peer that does not ask, and does not confirm. It must be about to read it and nothing else.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn write_fd_unasked(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.stream.begin();
        self.stream.send_fd(fd)
    }

    /// Asks the peer for a descriptor, waits for it and confirms it. It is a new one, close-on-exec.
    ///
    /// # Errors
    /// `InvalidData` when something comes without a descriptor, or with more than one; `UnexpectedEof` when the peer closes,
    /// and those of reading and writing. What has come is closed then.
    pub fn read_fd(&mut self) -> io::Result<OwnedFd> {
        self.stream.unix()?;
        self.stream.begin();
        self.write_array(&[PASS_IO])?;
        let fd = self.stream.receive_fd()?;
        self.write_array(&[GOT_IO])?;
        Ok(fd)
    }

    /// Waits for a descriptor from a peer that sends it unasked, and does not confirm it.
    ///
    /// # Errors
    /// As [`read_fd`](Self::read_fd).
    pub fn read_fd_unasked(&mut self) -> io::Result<OwnedFd> {
        self.stream.begin();
        self.stream.receive_fd()
    }
}

impl From<UnixStream> for MessageClient {
    /// Takes a connection at a message border. It must be a blocking one.
    fn from(stream: UnixStream) -> Self {
        Self { stream: Wire::new(Socket::Unix(stream)) }
    }
}

impl From<TcpStream> for MessageClient {
    /// Takes a connection at a message border. It must be a blocking one.
    fn from(stream: TcpStream) -> Self {
        Self { stream: Wire::new(Socket::Tcp(stream)) }
    }
}

impl AsFd for MessageClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.socket.as_fd()
    }
}

/// Why a server did not do what a [`MessageClient`] wanted.
#[non_exhaustive]
#[derive(Debug)]
pub enum ClientError {
    /// The server said no, with this sentence; characters that could move or recolour a terminal are replaced in it.
    Refused(String),
    /// The connection failed, or the server said what it should not.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => write!(f, "the server refuses: {text}"),
            Self::Io(_) => f.write_str("cannot talk with the message server"),
        }
    }
}

impl error::Error for ClientError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the verdict of a login says.
fn check_verdict(verdict: &[Vec<u8>], dialect: Dialect) -> Result<(), ClientError> {
    let verdict: Vec<_> = verdict.iter().map(Vec::as_slice).collect();
    match (dialect, &verdict[..]) {
        (Dialect::Classic, [ok]) if *ok == OK.as_bytes() => Ok(()),
        (Dialect::Classic, [text]) => Err(refused(text)),
        (Dialect::Status, [status, ok, ..]) if [*status, *ok] == [STATUS.as_bytes(), OK.as_bytes()] => Ok(()),
        (Dialect::Status, [status, error, text, ..])
            if [*status, *error] == [STATUS.as_bytes(), ERROR.as_bytes()] =>
        {
            Err(refused(text))
        }
        _ => Err(unexpected("the verdict of the login is none in this dialect").into()),
    }
}

fn is_array(elements: &[Vec<u8>], expected: &[&str]) -> bool {
    elements.iter().map(Vec::as_slice).eq(expected.iter().map(|element| element.as_bytes()))
}

fn refused(text: &[u8]) -> ClientError {
    ClientError::Refused(String::from_utf8_lossy(&safe_text(text)).into_owned())
}

fn unexpected(context: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, context)
}

fn early_end() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the peer has closed where a message was to come")
}

/// The caller's mistake, not the peer's.
fn unwritable(error: MessageError) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, error)
}

/// What a server says first.
const BANNER: [&str; 2] = ["version", "1"];
/// What a server says before its reply, if the account has the rights.
const PASSED_SECURITY: &str = "Passed security";
/// The first element of what it says instead, if it has not.
const SECURITY_EXCEPTION: &str = "SecurityException";
