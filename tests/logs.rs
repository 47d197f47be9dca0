//! The log of a running server: levels, files and their renaming, escaping, and a log that cannot be written.
//!
//! Each test runs a process of its own. The numbers in the comments are those of the acceptance cases of the flow.

mod common;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use common::{Client, DEADLINE, TempDir};
use running::{Flow, says, server, unix, wait_until};

// A78
#[test]
fn usr1_opens_a_renamed_log_anew_and_clients_stay() {
    let directory = TempDir::new();
    let (log, old) = (directory.path().join("log"), directory.path().join("log.1"));
    let flow = Flow::start(&[&format!("--log_file={}", log.display())]);
    let mut client = flow.client();
    client.send("log info the first\n");
    wait_until("the first line", || read(&log).contains("the first"));
    fs::rename(&log, &old).unwrap();
    client.send("log info the second\n");
    wait_until("the second line", || read(&old).contains("the second"));
    flow.child.signal("USR1");
    wait_until("the new file", || log.exists());
    client.send("log info the third\n");
    says(&mut client, "still the same client");
    let stderr = flow.stop();
    assert_eq!(stderr, "", "all of it is in the log");
    let (log, old) = (read(&log), read(&old));
    assert!(old.contains("starting") && old.contains("the first") && old.contains("the second"), "{old}");
    assert!(log.contains("the third") && log.contains("closing; clients told goodbye: 1"), "{log}");
    assert!(!old.contains("the third") && !log.contains("the second"), "{old}---\n{log}");
}

// A79
#[test]
fn each_level_has_its_lines_and_those_of_the_levels_below() {
    let lines: [(u32, &str); 9] = [
        (0, " error an error"),
        (1, " warn  a warning"),
        (2, " info  a notice"),
        (2, "flow_server starting, pid"),
        (2, "listening on 127.0.0.1:"),
        (2, "flow_server closing; clients told goodbye: 1"),
        (3, "connect 127.0.0.1 on"),
        (4, " debug a detail"),
        (4, "SIGTERM received"),
    ];
    for level in 0..=4 {
        let directory = TempDir::new();
        let path = directory.path().join("log");
        let flow = Flow::start(&[
            &format!("--log_level={level}"),
            "--log_file",
            path.to_str().expect("it is ASCII"),
        ]);
        let mut client = flow.client();
        client.send("log error an error\nlog warn a warning\nlog info a notice\nlog debug a detail\n");
        says(&mut client, "done");
        assert_eq!(flow.stop(), "");
        let log = read(&path);
        for (least, line) in lines {
            assert_eq!(log.contains(line), level >= least, "level {level}: {line}: {log}");
        }
    }
}

// A80
#[test]
fn control_and_foreign_bytes_are_shown_in_hexadecimal_and_no_text_makes_a_second_line() {
    let flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send("log info tab\there\x1b[2J \u{e9}\\n2026-01-01T00:00:00.000Z error forged\rx 100%\n");
    says(&mut client, "done");
    let log = flow.stop();
    let expected = " info  tab%09here%1B[2J %C3%A9%0A2026-01-01T00:00:00.000Z error forged%0Dx 100%";
    assert!(log.lines().any(|line| line.ends_with(expected)), "{log}");
}

#[test]
fn a_full_disk_stops_the_log_and_not_the_server() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let mut flow = Flow::start(&["--log_file=/dev/full", "--log_level=4"]);
    let mut client = flow.client();
    for round in 0..100 {
        client.send("log error nowhere to go\n");
        says(&mut client, &round.to_string());
    }
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
}

#[test]
fn a_standard_error_that_nobody_reads_does_not_stop_the_server() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let mut server = Unread::start(server().args([&unix(&path), "--log_level=3"]));
    let mut first = Client::connect(path.display());
    says(&mut first, "before");
    // A line each: more than a pipe (64 KiB) and the log's queue (4096 lines) have room for.
    for _ in 0..8_000 {
        drop(Client::connect(path.display()));
    }
    says(&mut first, "after");
    server.signal("TERM");
    first.expect_eof();
    let until = Instant::now() + DEADLINE;
    let status = loop {
        match server.process.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < until, "it does not end"),
        }
        thread::yield_now();
    };
    assert_eq!(status.code(), Some(0));
    // That the pipe was full at the end, so that the test tried what it says.
    let written =
        (&mut server.stderr).lines().map_while(Result::ok).filter(|line| line.contains("connect ")).count();
    assert!(written < 8_000, "all {written} lines found room");
}

/// A server whose standard error is read up to the line that it listens, and no further.
struct Unread {
    process: std::process::Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Unread {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("it can be started");
        let mut stderr = BufReader::new(process.stderr.take().expect("standard error was asked for"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(stderr.read_line(&mut line).is_ok_and(|count| count > 0), "it ended");
        }
        Self { process, stderr }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
