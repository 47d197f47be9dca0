//! A server of tests/flow/server.rs in the background: nobody's child, found by its pid file, ended in any case.

#![allow(dead_code, reason = "each test file uses its part of this module")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use crate::common::served::wait_until;
use crate::common::{Child, Client, TempDir};
use crate::running::{says, server};

/// A fresh directory with the files of one server: its pid file, its log. Dropped, the server of the pid file is killed.
pub(crate) struct Home(pub(crate) TempDir);

/// A server in the background. Dropped, it is killed.
pub(crate) struct Detached {
    pub(crate) home: Home,
    pub(crate) pid: u32,
    /// Where it listens, as a client connects to it.
    pub(crate) addrs: Vec<String>,
    /// What the launcher wrote to its standard error.
    pub(crate) said: String,
}

/// What came of a launch.
pub(crate) struct Launched {
    pub(crate) status: ExitStatus,
    pub(crate) told: String,
    pub(crate) said: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self(TempDir::new())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.path("x.pid")
    }

    pub(crate) fn status_file(&self) -> PathBuf {
        self.path("x.pid.status")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `--pid_file=...`
    pub(crate) fn pid_option(&self) -> String {
        format!("--pid_file={}", self.pid_file().display())
    }

    /// `--log_file=...`
    pub(crate) fn log_option(&self) -> String {
        format!("--log_file={}", self.path("log").display())
    }

    /// A server of this home, in the foreground.
    pub(crate) fn command(&self) -> Command {
        let mut command = server();
        command.args([self.pid_option(), self.log_option(), "--port=127.0.0.1:0".to_owned()]);
        command
    }

    /// The number in the pid file, if there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    /// The value of a key in the status file.
    pub(crate) fn status(&self, key: &str) -> Option<String> {
        let text = fs::read_to_string(self.status_file()).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        value.map(str::to_owned)
    }

    /// Runs a launcher to its end.
    #[track_caller]
    pub(crate) fn launch(&self, command: &mut Command) -> Launched {
        let (mut launcher, mut told) = Child::spawn_told(command);
        let status = launcher.expect_exit();
        // Whoever holds these streams has let go of them: they end.
        let told = String::from_utf8_lossy(&told.expect_to_eof()).into_owned();
        let said = launcher.expect_log().join("\n");
        Launched { status, told, said }
    }
}

impl Drop for Home {
    /// Ends what a launch that failed may have left.
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill(self, pid);
        }
    }
}

impl Detached {
    /// Starts it and waits until the launcher says that it serves.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Self {
        let home = Home::new();
        let mut command = home.command();
        Self::started(home, command.arg("--background").args(options))
    }

    #[track_caller]
    pub(crate) fn started(home: Home, command: &mut Command) -> Self {
        let Launched { status, told, said } = home.launch(command);
        assert_eq!(status.code(), Some(0), "{said}\n{}", home.log());
        let pid = home.pid().expect("there is a number in the pid file");
        let addrs =
            told.lines().find_map(|line| line.strip_prefix("ready ")).expect("it tells its addresses");
        let addrs = addrs.split_whitespace().map(str::to_owned).collect();
        Self { home, pid, addrs, said }
    }

    /// A client that has been served a line.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.addrs[0]);
        says(&mut client, "here");
        client
    }

    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn expect_end(&self) {
        wait_until("the server has ended", || !is_alive(self.pid));
    }

    /// Ends it, and gives its log.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        self.signal("TERM");
        self.expect_end();
        self.home.log()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        kill(&self.home, self.pid);
    }
}

/// Kills `pid` if it is a server of `home`: the number may be another process's by now, and then its arguments do not
/// name that directory.
fn kill(home: &Home, pid: u32) {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let directory = home.0.path().as_os_str().as_encoded_bytes();
    if arguments.windows(directory.len()).any(|part| part == directory) {
        signal(pid, "KILL");
    }
}

#[track_caller]
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.is_ok_and(|status| status.success()), "cannot send {name} to {pid}");
}

/// Whether a process is there and has not ended, with all its threads: the last one lets go of its files. One that nobody
/// has waited for has ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with(['Z', 'X']))
    })
}

/// The line `key` of `/proc/PID/status`, without the key.
#[track_caller]
pub(crate) fn status_line(pid: u32, key: &str) -> String {
    line_of(&fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs"), key)
}

/// The line `key` of such a text.
#[track_caller]
pub(crate) fn line_of(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A loopback address that no test of another process uses, for a port that must stay what it is.
pub(crate) fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, middle, low.clamp(1, 254))
}

/// Whether this is root; says so when it is not.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: only root can do this");
    }
    root
}
