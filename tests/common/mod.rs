//! What the tests that run a real server share: a guard for a child process, a client that reads with a deadline,
//! a fresh directory, the path of an example.
//!
//! Every wait ends after [`DEADLINE`] at the latest and then fails the test at the line that asked, with what had
//! been received so far. Nothing here sleeps in order to be on time: a test waits for lines, bytes, the end of a
//! stream or of a process. Use: `mod common;` at the head of a test file.
//!
//! ```ignore
//! let mut server = Child::spawn(Command::new(example("echo")).args(["--port", "127.0.0.1:0"]));
//! let address = server.wait_for_address();
//! let mut client = Client::connect(&address);
//! client.send(b"hello\n");
//! assert_eq!(client.expect_line(), "hello");
//! client.half_close();
//! client.expect_eof();
//! ```

#![allow(dead_code, reason = "each test file uses its part of this module")]

pub(crate) mod lineload;
#[cfg(feature = "auth")]
pub(crate) mod messages;
pub(crate) mod perl;
#[cfg(feature = "daemon")]
pub(crate) mod rights;
pub(crate) mod served;
pub(crate) mod strace;

use std::fmt::{self, Display};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// How long one wait lasts before it fails the test: far longer than anything takes on a slow machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A client of a stream server, TCP or Unix, that keeps all it has received.
///
/// The methods named `expect_*` fail the test with what came instead; the `next_*` ones answer a [`Missed`]. Dropping
/// a client closes its socket: a plain end of stream if everything was read, else the kernel may send a reset.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    received: Vec<u8>,
    /// The bytes of `received` before this position were handed out.
    taken: usize,
}

/// Why a wait of a [`Client`] ended without what it waited for.
#[derive(Debug)]
pub(crate) enum Missed {
    /// Nothing that suffices came within [`DEADLINE`].
    Deadline,
    /// The other side ended the stream first.
    Eof,
    /// The socket failed: a reset, for instance.
    Io(io::Error),
}

impl Client {
    /// Connects to `address`: `host:port`, or the path of a Unix socket, which is what has a slash in it.
    #[track_caller]
    pub(crate) fn connect(address: impl Display) -> Self {
        let address = address.to_string();
        let stream = if address.contains('/') {
            UnixStream::connect(&address).map(Stream::Unix)
        } else {
            TcpStream::connect(&address).map(Stream::Tcp)
        };
        Self::new(stream.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}")))
    }

    /// Connects over TCP from the local address `source`: on Linux every address of 127.0.0.0/8 will do.
    #[track_caller]
    pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let connected = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
            socket.connect(&SockAddr::from(address))?;
            Ok(socket.into())
        };
        let stream =
            connected().unwrap_or_else(|error| panic!("cannot connect {source} to {address}: {error}"));
        Self::new(Stream::Tcp(stream))
    }

    /// Reads what comes from the other end of `stream`: for a child's output, see [`Child::spawn_told`].
    #[track_caller]
    pub(crate) fn of(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }

    #[track_caller]
    fn new(stream: Stream) -> Self {
        if let Stream::Tcp(stream) = &stream {
            stream.set_nodelay(true).expect("TCP_NODELAY is settable");
        }
        stream.socket().set_write_timeout(Some(DEADLINE)).expect("a write time-out is settable");
        Self { stream, received: Vec::new(), taken: 0 }
    }

    /// The address of this end of a TCP connection.
    #[track_caller]
    pub(crate) fn local_addr(&self) -> SocketAddr {
        let address = self.stream.socket().local_addr().ok().and_then(|address| address.as_socket());
        address.expect("a TCP client has a local address")
    }

    /// Sends all of `bytes`; fails if the peer takes none of it for [`DEADLINE`].
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.try_send(bytes) {
            panic!("cannot send: {error}; {self}");
        }
    }

    /// As [`Client::send`], for a test in which the server may have closed already.
    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.stream.socket()).write_all(bytes.as_ref())
    }

    /// The next line as text, without its LF and one CR before it; bytes that are not UTF-8 become U+FFFD.
    #[track_caller]
    pub(crate) fn expect_line(&mut self) -> String {
        let line = self.next_line().unwrap_or_else(|missed| panic!("no line: {missed}; {self}"));
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
    }

    /// Fails unless the next bytes are exactly `bytes`; what follows them stays for the next call.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let got = self.next_bytes(bytes.len());
        let got = got.unwrap_or_else(|missed| panic!("no \"{}\": {missed}; {self}", bytes.escape_ascii()));
        assert!(got == bytes, "not \"{}\" but \"{}\"; {self}", bytes.escape_ascii(), got.escape_ascii());
    }

    /// Fails unless the stream ends here, without a byte more and without a reset.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        let rest = self.next_to_eof().unwrap_or_else(|missed| panic!("no end of stream: {missed}; {self}"));
        assert!(rest.is_empty(), "\"{}\" before the end of stream; {self}", rest.escape_ascii());
    }

    /// Fails if anything comes, or the stream ends, before `duration` is over.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, duration: Duration) {
        match self.receive(Instant::now() + duration) {
            Err(Missed::Deadline) => {}
            Err(missed) => panic!("no silence: {missed}; {self}"),
            Ok(()) => panic!("no silence; {self}"),
        }
    }

    /// Everything up to the end of stream.
    #[track_caller]
    pub(crate) fn expect_to_eof(&mut self) -> Vec<u8> {
        self.next_to_eof().unwrap_or_else(|missed| panic!("no end of stream: {missed}; {self}"))
    }

    /// The next line with its LF.
    pub(crate) fn next_line(&mut self) -> Result<Vec<u8>, Missed> {
        let until = Instant::now() + DEADLINE;
        let mut looked = self.taken;
        loop {
            let found = self.received[looked..].iter().position(|&byte| byte == b'\n');
            if let Some(at) = found {
                return Ok(self.take(looked + at + 1));
            }
            looked = self.received.len();
            self.receive(until)?;
        }
    }

    /// The next `count` bytes.
    pub(crate) fn next_bytes(&mut self, count: usize) -> Result<Vec<u8>, Missed> {
        let until = Instant::now() + DEADLINE;
        while self.received.len() - self.taken < count {
            self.receive(until)?;
        }
        Ok(self.take(self.taken + count))
    }

    /// All the bytes up to the end of stream.
    pub(crate) fn next_to_eof(&mut self) -> Result<Vec<u8>, Missed> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.receive(until) {
                Ok(()) => {}
                Err(Missed::Eof) => return Ok(self.take(self.received.len())),
                Err(missed) => return Err(missed),
            }
        }
    }

    /// All that was received since the connection was made, whether handed out or not.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    /// Ends this client's sending (a FIN); it can still receive.
    #[track_caller]
    pub(crate) fn half_close(&self) {
        self.stream.socket().shutdown(Shutdown::Write).unwrap_or_else(|error| panic!("{error}; {self}"));
    }

    /// Closes with a reset (RST). A Unix socket knows no reset but that of unread input: there it is a plain close.
    #[track_caller]
    pub(crate) fn reset(self) {
        if matches!(self.stream, Stream::Tcp(_)) {
            self.stream.socket().set_linger(Some(Duration::ZERO)).expect("SO_LINGER is settable");
        }
    }

    fn take(&mut self, to: usize) -> Vec<u8> {
        let bytes = self.received[self.taken..to].to_vec();
        self.taken = to;
        bytes
    }

    /// One read, of what there is, waiting for it until `until`.
    fn receive(&mut self, until: Instant) -> Result<(), Missed> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Deadline);
            }
            self.stream.socket().set_read_timeout(Some(left)).map_err(Missed::Io)?;
            let read = (&*self.stream.socket()).read(&mut chunk);
            match read {
                Ok(0) => return Err(Missed::Eof),
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                // A time-out is a WouldBlock here: the next round of the loop sees that no time is left.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Missed::Io(error)),
            }
        }
    }
}

impl Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, rest) = self.received.split_at(self.taken);
        write!(f, "received before: \"{}\", then: \"{}\"", before.escape_ascii(), rest.escape_ascii())
    }
}

impl Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => write!(f, "nothing more within {} s", DEADLINE.as_secs()),
            Self::Eof => f.write_str("the stream ended"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

/// A child process whose standard error is read line by line; it is killed, by its own id, when this is dropped.
///
/// Its standard input is the null device, and so is its output unless it is asked for.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    lines: Receiver<String>,
    /// Every line of standard error that was looked at, for messages.
    log: Vec<String>,
}

impl Child {
    /// Starts `command`.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdout(Stdio::null());
        Self::start(command)
    }

    /// Starts `command`, and gives its standard output to be read as a client's lines are.
    #[track_caller]
    pub(crate) fn spawn_told(command: &mut Command) -> (Self, Client) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair can be had");
        command.stdout(OwnedFd::from(theirs));
        let child = Self::start(command);
        // The command holds the child's end until it gets another: without this the stream would never end.
        command.stdout(Stdio::null());
        (child, Client::of(ours))
    }

    #[track_caller]
    fn start(command: &mut Command) -> Self {
        Self::follow(command.stdin(Stdio::null()))
    }

    /// Starts `command` with the standard input and output that it was given.
    #[track_caller]
    pub(crate) fn follow(command: &mut Command) -> Self {
        command.stderr(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = process.stderr.take().expect("standard error was asked for");
        let (sender, lines) = mpsc::channel();
        // The thread ends with the stream, that is with the child and with whoever inherited it. It reads to the
        // end even when nobody listens any more, so that the child never waits for its own log.
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { process, lines, log: Vec::new() }
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next line of standard error that contains `text`; the lines before it are passed over.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_one_of(&[text])
    }

    /// The same for whichever of several texts comes first.
    #[track_caller]
    pub(crate) fn wait_for_one_of(&mut self, texts: &[&str]) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if texts.iter().any(|text| line.contains(text)) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line with {texts:?} in time; {self}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended without a line with {texts:?}; {self}")
                }
            }
        }
    }

    /// The address at the end of `listening on ADDRESS`, the next such line of standard error.
    #[track_caller]
    pub(crate) fn wait_for_address(&mut self) -> SocketAddr {
        let line = self.wait_for(LISTENING);
        let after = line.split_once(LISTENING).map_or("", |(_, after)| after);
        let word = after.split_whitespace().next().unwrap_or_default().trim_end_matches([',', ';', '.']);
        word.parse().unwrap_or_else(|error| panic!("no address in \"{line}\": {error}; {self}"))
    }

    /// Sends a signal, named without SIG: `TERM`, `HUP`. The child is not reaped before [`Child::expect_exit`], so
    /// the id cannot have become another's.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {name}; {self}");
    }

    /// Waits for the end of the process and gives its status.
    #[track_caller]
    pub(crate) fn expect_exit(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if Instant::now() < until => thread::sleep(POLL),
                Ok(None) => panic!("it still runs; {self}"),
                Err(error) => panic!("cannot wait for it: {error}; {self}"),
            }
        }
    }

    /// All lines of standard error, after the process has ended and nobody else holds its standard error.
    #[track_caller]
    pub(crate) fn expect_log(&mut self) -> &[String] {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.push(line),
                Err(RecvTimeoutError::Disconnected) => return &self.log,
                Err(RecvTimeoutError::Timeout) => panic!("its standard error stays open; {self}"),
            }
        }
    }
}

impl Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}, its standard error:", self.id())?;
        self.log.iter().try_for_each(|line| write!(f, "\n  | {line}"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only if it has already been waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A fresh empty directory, removed with all its content when this is dropped.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// Makes it below the system's directory for temporary files; its path is short enough for a Unix socket.
    #[track_caller]
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let name = format!("lineplex-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left behind by an earlier process of the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether there is a line that a log without trouble does not have. That a server runs as root, as tests may, is none,
/// nor that a turn was slow, as each is on a busy machine.
pub(crate) fn complains(log: &[String]) -> bool {
    let trouble = |line: &&String| line.contains(" error ") || line.contains(" warn ");
    let harmless = |line: &String| line.contains("serving as root") || line.contains("a turn took ");
    log.iter().filter(trouble).any(|line| !harmless(line))
}

/// The next datagram as text, of a socket with a time-out.
pub(crate) fn next_datagram(socket: &UnixDatagram) -> io::Result<String> {
    let mut bytes = [0; 16 * 1024];
    loop {
        match socket.recv(&mut bytes) {
            Ok(count) => return Ok(String::from_utf8_lossy(&bytes[..count]).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The executable of the example `name`, which `cargo test` builds beside the tests; `cargo test --test NAME` does not.
#[track_caller]
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("a test is in target/PROFILE/deps");
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    path
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// The socket without its family: what is the same for both.
    fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
        }
    }
}

/// The words before an address in the line that says that a server is ready.
const LISTENING: &str = "listening on ";
/// How often the state of a process is looked at while it has not ended.
const POLL: Duration = Duration::from_millis(2);
