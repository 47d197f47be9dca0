//! What is measured: a server in a process of its own, started for one run and killed after it.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fmt, fs, io, process, thread};

use super::{sys, wrong};

/// What a server does with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It goes back to its sender.
    Echo,
    /// It goes to everybody else, or as the [`Dialect`] says.
    Broadcast,
    /// Either, by its first byte. Our own two servers only.
    Mixed,
}

impl Mode {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        match text {
            "echo" => Ok(Self::Echo),
            "broadcast" => Ok(Self::Broadcast),
            "mixed" => Ok(Self::Mixed),
            _ => Err(wrong(format!("{text} is none of echo, broadcast, mixed"))),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Mixed => "mixed",
        })
    }
}

/// Where a server listens: `127.0.0.1:PORT` or `unix:PATH`.
#[derive(Clone, Debug)]
pub(crate) enum Addr {
    Tcp(u16),
    Unix(PathBuf),
}

impl Addr {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let port = text.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok());
        port.map(Self::Tcp).ok_or_else(|| wrong(format!("{text} is neither 127.0.0.1:PORT nor unix:PATH")))
    }

    /// One that nobody uses now.
    fn free(unix: bool) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if unix {
            let nth = COUNT.fetch_add(1, Ordering::Relaxed);
            return Ok(Self::Unix(env::temp_dir().join(format!("loopback-{}-{nth}.sock", process::id()))));
        }
        Ok(Self::Tcp(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()))
    }

    fn answers(&self) -> bool {
        match self {
            Self::Tcp(port) => TcpStream::connect(("127.0.0.1", *port)).is_ok(),
            Self::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "127.0.0.1:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who gets a line that somebody sends in broadcast mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expect {
    /// All but the sender.
    #[default]
    Others,
    /// The sender too.
    All,
    /// Senders are connections of their own, which get nothing.
    Receivers,
}

impl Expect {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        match text {
            "others" => Ok(Self::Others),
            "all" => Ok(Self::All),
            "receivers" => Ok(Self::Receivers),
            _ => Err(wrong(format!("{text} is none of others, all, receivers"))),
        }
    }
}

/// How a server of another protocol is spoken to in broadcast mode. What it sends is looked through for our lines,
/// whatever stands around them.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    /// What each client sends first; `{i}` is its number.
    pub(crate) login: String,
    /// The same for senders that get nothing; as `login` if there is none.
    pub(crate) sender_login: Option<String>,
    /// Before the 63 bytes of a line, and after them.
    pub(crate) prefix: String,
    pub(crate) suffix: String,
    pub(crate) expect: Expect,
}

impl Default for Dialect {
    fn default() -> Self {
        let none = String::new;
        Self {
            login: none(),
            sender_login: None,
            prefix: none(),
            suffix: "\n".into(),
            expect: Expect::Others,
        }
    }
}

/// A program to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    program: Program,
    pub(crate) dialect: Dialect,
    /// What it can do.
    pub(crate) modes: Vec<Mode>,
}

#[derive(Clone, Debug)]
enum Program {
    /// This same program, with these arguments before the mode and the address.
    Own(Vec<String>),
    /// A command for the shell, with `{mode}`, `{addr}` and `{port}`.
    Shell(String),
}

impl Peer {
    /// `PROGRAM serve NAME MODE ADDR`, with the program that runs now.
    pub(crate) fn own(name: &str) -> Self {
        let program = Program::Own(vec!["serve".into(), name.into()]);
        let modes = vec![Mode::Echo, Mode::Broadcast, Mode::Mixed];
        Self { name: name.into(), program, dialect: Dialect::default(), modes }
    }

    /// Any program. It must stay the one process that `exec` makes of it.
    pub(crate) fn other(name: &str, command: &str) -> Self {
        Self {
            name: name.into(),
            program: Program::Shell(command.into()),
            dialect: Dialect::default(),
            modes: vec![Mode::Echo, Mode::Broadcast],
        }
    }

    /// One that a workload names.
    ///
    /// # Errors
    /// It is not on this machine.
    pub(crate) fn known(name: &str) -> io::Result<Self> {
        let chat = |command: &str| {
            let dialect = Dialect { expect: Expect::All, ..Dialect::default() };
            Self { dialect, ..Self::other(name, command) }
        };
        match name {
            "redis" => {
                there("redis-server --version", "redis-server")?;
                let dialect = Dialect {
                    login: "SUBSCRIBE c\r\n".into(),
                    sender_login: Some("PING\r\n".into()),
                    // Our lines hold spaces.
                    prefix: "PUBLISH c \"".into(),
                    suffix: "\"\r\n".into(),
                    expect: Expect::Receivers,
                };
                Ok(Self {
                    dialect,
                    ..Self::other(
                        name,
                        "redis-server --port {port} --bind 127.0.0.1 --protected-mode no --save ''",
                    )
                })
            }
            "samplechat" => {
                // Beside the directory of this program.
                let exe = env::current_exe()?;
                let chats = exe.parent().and_then(Path::parent).map(|path| path.join("examples/samplechat"));
                let exe = chats.filter(|path| path.exists());
                let exe = exe.ok_or_else(|| wrong("cargo build --release --example samplechat"))?;
                let options = "--safe_text=false --junior_seconds 3600 --port {addr}";
                Ok(chat(&format!("'{}' {options}", exe.display())))
            }
            "original" => {
                there("perl -MIO::Multiplex -MNet::Server::Multiplex -e 1", "Net::Server and IO::Multiplex")?;
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/perl/chat.pl");
                Ok(chat(&format!("perl '{script}' --junior_seconds 3600 --port {{port}}")))
            }
            _ => Ok(Self::own(name)),
        }
    }

    fn command(&self, mode: Mode, addr: &Addr) -> io::Result<Command> {
        let mut command;
        match &self.program {
            Program::Own(args) => {
                command = Command::new(env::current_exe()?);
                command.args(args).arg(mode.to_string()).arg(addr.to_string());
            }
            Program::Shell(line) => {
                let port = if let Addr::Tcp(port) = addr { port.to_string() } else { String::new() };
                let line = line.replace("{mode}", &mode.to_string());
                let line = line.replace("{addr}", &addr.to_string()).replace("{port}", &port);
                command = Command::new("sh");
                command.arg("-c").arg(format!("exec {line}"));
            }
        }
        Ok(command)
    }
}

/// How servers are started.
#[derive(Clone, Copy, Default)]
pub(crate) struct Start {
    /// The core they run on.
    pub(crate) core: Option<usize>,
    /// What they say on standard error is seen.
    pub(crate) verbose: bool,
}

/// One that runs; dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    addr: Addr,
    pub(crate) dialect: Dialect,
}

impl Server {
    /// Starts it, on a Unix socket or on TCP, and waits until it takes connections.
    pub(crate) fn start(peer: &Peer, mode: Mode, unix: bool, how: Start) -> io::Result<Self> {
        let addr = Addr::free(unix)?;
        let mut command = peer.command(mode, &addr)?;
        sys::bind_child(&mut command, how.core);
        let stderr = if how.verbose { Stdio::inherit() } else { Stdio::null() };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn()?;
        let mut server = Self { child, addr, dialect: peer.dialect.clone() };
        let begun = Instant::now();
        while !server.addr.answers() {
            if let Some(status) = server.child.try_wait()? {
                return Err(wrong(format!("it ended with {status}; --verbose shows what it says")));
            }
            if begun.elapsed() > START_MAX {
                return Err(wrong(format!("{} is not open after {} s", server.addr, START_MAX.as_secs())));
            }
            thread::sleep(Duration::from_millis(2));
        }
        server.settle()?;
        Ok(server)
    }

    pub(crate) fn addr(&self) -> &Addr {
        &self.addr
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        sys::cpu_time(self.pid()).map_err(|error| wrong(format!("the server is gone: {error}")))
    }

    /// Waits until it has nothing to do: every thread sleeps, and has done so for a moment. One that never rests
    /// has its time too.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let begun = Instant::now();
        let mut before = self.cpu_time()?;
        while begun.elapsed() < SETTLE_MAX {
            thread::sleep(MOMENT);
            let now = self.cpu_time()?;
            if now - before < MOMENT / 50 && self.sleeps() {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// No thread of it runs or waits for a core.
    fn sleeps(&self) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid())) else { return false };
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which may hold anything, even a bracket.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| !rest.starts_with('R'))
        })
    }

    /// Memory that it has in use, code too, in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = fs::read_to_string(&path).map_err(|error| wrong(format!("{path}: {error}")))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| wrong(format!("{path} does not tell")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Addr::Unix(path) = &self.addr {
            remove(path);
        }
    }
}

/// Whether that command works here.
fn there(command: &str, what: &str) -> io::Result<()> {
    let command = Command::new("sh").args(["-c", &format!("{command} >/dev/null 2>&1")]).status()?;
    if command.success() { Ok(()) } else { Err(wrong(what)) }
}

/// The socket, and what a server may have put beside it.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(path.with_extension("sock.lock"));
}

const START_MAX: Duration = Duration::from_secs(15);
const SETTLE_MAX: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(10);
