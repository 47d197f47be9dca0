//! A running server of tests/flow/server.rs, how one looks at it, and how one restarts it.

#![allow(dead_code, reason = "each test file uses its part of this module")]

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use socket2::SockRef;

use crate::common::{Child, Client, DEADLINE, TempDir, example};

/// A running server and what it tells on its standard output.
pub(crate) struct Flow {
    pub(crate) child: Child,
    pub(crate) told: Client,
    /// Where it listens, as a client connects to it.
    pub(crate) addrs: Vec<String>,
}

impl Flow {
    /// On a port that the kernel chooses, unless the options name another.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Self {
        let port: &[&str] = if options.iter().any(|option| option.starts_with("--port")) {
            &[]
        } else {
            &["--port=127.0.0.1:0"]
        };
        Self::started(server().args(port).args(options))
    }

    #[track_caller]
    pub(crate) fn started(command: &mut Command) -> Self {
        let (child, mut told) = Child::spawn_told(command);
        let Ok(line) = told.next_line() else {
            let mut child = child;
            child.expect_log();
            panic!("it does not get ready; {child}");
        };
        let line = String::from_utf8(line).expect("addresses are text");
        let addrs = line.strip_prefix("ready ");
        let addrs = addrs.unwrap_or_else(|| panic!("the first line is not the addresses, but {line:?}"));
        let addrs = addrs.split_whitespace().map(str::to_owned).collect();
        Self { child, told, addrs }
    }

    /// A client that has been served a line, so that it is surely connected.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.addrs[0]);
        says(&mut client, "here");
        client
    }

    /// SIGHUP, and everything that is told until the next image is about to serve.
    #[track_caller]
    pub(crate) fn restart(&mut self) -> Vec<String> {
        self.child.signal("HUP");
        self.restarted()
    }

    /// The restart that was asked for is over: everything that was told until the next image was about to serve.
    #[track_caller]
    pub(crate) fn restarted(&mut self) -> Vec<String> {
        self.wait_for_restart();
        self.told_until_ready()
    }

    /// Waits until the log says that a restart is done; the line.
    #[track_caller]
    pub(crate) fn wait_for_restart(&mut self) -> String {
        loop {
            let line = self.child.wait_for("restart ");
            assert!(!line.contains("restart failed"), "{line}; {}", self.child);
            if line.contains(" done; ") {
                return line;
            }
        }
    }

    /// The lines before the next one that says where it listens.
    #[track_caller]
    pub(crate) fn told_until_ready(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let line = self.told.expect_line();
            match line.strip_prefix("ready ") {
                Some(addrs) => {
                    self.addrs = addrs.split_whitespace().map(str::to_owned).collect();
                    return told;
                }
                None => told.push(line),
            }
        }
    }

    /// SIGHUP, which is answered with a refusal: the line in the log.
    #[track_caller]
    pub(crate) fn refused_restart(&mut self) -> String {
        self.child.signal("HUP");
        let line = self.child.wait_for("restart failed");
        while !self.told.expect_line().starts_with("restart_failed_hook: ") {}
        line
    }

    /// Sends a signal many times, as fast as one program can.
    #[track_caller]
    pub(crate) fn burst(&self, signal: &str, times: usize) {
        let pids = vec![self.child.id().to_string(); times];
        let sent = Command::new("kill").arg(format!("-{signal}")).args(pids).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {signal}");
    }

    /// Waits for the end and gives the exit status and all of standard error.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let status = self.child.expect_exit();
        (status.code(), self.child.expect_log().join("\n"))
    }

    /// Ends it and fails unless that goes well.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.child.signal("TERM");
        let (status, log) = self.ended();
        assert_eq!(status, Some(0), "{log}");
        log
    }
}

/// Fails if anything in the log of a server tells of trouble with its restarts.
#[track_caller]
pub(crate) fn quiet(log: &str) {
    for word in [" error ", "no standby", "is still there"] {
        assert!(!log.contains(word), "{log}");
    }
}

/// A place where a server waits in one of its hooks, as `FLOW_AT` says, until it is let go.
#[derive(Debug)]
pub(crate) struct Gate {
    directory: TempDir,
    listener: Option<UnixListener>,
}

/// A server that waits; dropped, it goes on.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Who waits: `probe:post_bind_hook`.
    pub(crate) who: String,
    pub(crate) pid: u32,
    stream: UnixStream,
}

impl Waiting {
    /// Waits until it has ended, without being let go.
    #[track_caller]
    pub(crate) fn expect_end(mut self) {
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a read time-out is settable");
        // Unlike one read, this goes on where it is interrupted.
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("it ends");
        assert_eq!(rest, b"");
    }
}

impl Gate {
    /// Nobody waits there before [`close`](Self::close).
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new(), listener: None }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("gate")
    }

    /// What `FLOW_AT` says so that whoever comes there does as told: `WHO:HOOK=WHAT`.
    pub(crate) fn at(&self, wish: &str) -> String {
        format!("{wish}:{}", self.path().display())
    }

    /// From now on whoever comes there does as told.
    #[track_caller]
    pub(crate) fn close(&mut self) {
        let listener = UnixListener::bind(self.path()).expect("a fresh path can be bound");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        self.listener = Some(listener);
    }

    /// From now on everybody passes.
    #[track_caller]
    pub(crate) fn open(&mut self) {
        std::fs::remove_file(self.path()).expect("the gate was closed");
        self.listener = None;
    }

    /// Waits until somebody has come there.
    #[track_caller]
    pub(crate) fn wait(&self) -> Waiting {
        let listener = self.listener.as_ref().expect("the gate is closed");
        let mut came = None;
        wait_until("somebody comes to the gate", || {
            came = listener.accept().ok();
            came.is_some()
        });
        let (stream, _) = came.expect("somebody has come");
        stream.set_nonblocking(false).expect("a socket can be blocking");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("who waits says so");
        let (who, pid) = line.trim_end().split_once(' ').expect("a name and a number");
        let pid = pid.parse().expect("a process id");
        Waiting { who: who.to_owned(), pid, stream }
    }
}

/// A listener whose `accept` fails after [`DEADLINE`].
#[track_caller]
pub(crate) fn patient<L: AsFd>(listener: L) -> L {
    SockRef::from(&listener).set_read_timeout(Some(DEADLINE)).expect("a read time-out is settable");
    listener
}

/// The server, whose restarts have all the time that they need.
pub(crate) fn server() -> Command {
    let mut command = Command::new(example("flow_server"));
    command.args(["--probe_seconds=600", "--commit_seconds=600"]);
    command
}

/// One exchange: the server still serves this client.
#[track_caller]
pub(crate) fn says(client: &mut Client, text: &str) {
    client.send(format!("{text}\n"));
    assert_eq!(client.expect_line(), text);
}

/// Runs a server that does not come to serve; its status and standard error.
#[track_caller]
pub(crate) fn refused(command: &mut Command) -> (Option<i32>, String) {
    let (mut child, mut told) = Child::spawn_told(command);
    let told = String::from_utf8_lossy(&told.expect_to_eof()).into_owned();
    assert!(!told.lines().any(|line| line.starts_with("ready ")), "{told}");
    let status = child.expect_exit().code();
    (status, child.expect_log().join("\n"))
}

/// Waits until a condition of the file system holds, of which no event tells.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "{what}: not within {} s", DEADLINE.as_secs());
        thread::yield_now();
    }
}

pub(crate) fn unix(path: &Path) -> String {
    format!("--port={}|unix", path.display())
}
