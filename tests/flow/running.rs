//! A running server of tests/flow/server.rs, and how one looks at it.

#![allow(dead_code, reason = "each test file uses its part of this module")]

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::common::{Child, Client, DEADLINE, example};

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
        let addrs = line.strip_prefix("ready ").expect("the first line is the addresses");
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

pub(crate) fn server() -> Command {
    Command::new(example("flow_server"))
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
