//! The log of a running server: levels, files and their renaming, the system's logs, escaping, and a reader that stands
//! still. What a disk can do to a log is in tests/log_faults.rs.
//!
//! Each test runs a process of its own. The numbers in the comments are those of the acceptance cases of the flow.

mod common;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use common::{Client, DEADLINE, TempDir, next_datagram};
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

#[test]
fn a_log_that_is_renamed_under_load_has_every_line_once_and_no_client_notices() {
    let directory = TempDir::new();
    let log = directory.path().join("log");
    let old = |number: usize| directory.path().join(format!("log.{number}"));
    let flow = Flow::start(&[&log_file(&log), "--log_level=0"]);
    thread::scope(|scope| {
        // Together less than the log's queue, so that none can be lost however slow the disk is.
        let talkers: Vec<_> = (0..4)
            .map(|name| {
                let mut client = flow.client();
                scope.spawn(move || {
                    for number in 0..900 {
                        client.send(format!("log error {name} {number}\n"));
                        if number % 10 == 9 {
                            says(&mut client, "still there");
                        }
                    }
                })
            })
            .collect();
        for number in 1..=3 {
            wait_until("some lines", || read(&log).lines().count() > 100);
            fs::rename(&log, old(number)).unwrap();
            flow.child.signal("USR1");
            wait_until("the new file", || log.exists());
        }
        for talker in talkers {
            talker.join().unwrap();
        }
    });
    assert_eq!(flow.stop(), "");
    let all: String = [old(1), old(2), old(3), log].iter().map(read).collect();
    let mut next = [0; 4];
    for line in all.lines() {
        let said = line.split_once(" error ").and_then(|(_, said)| said.split_once(' '));
        let (name, number) = said.unwrap_or_else(|| panic!("{line}"));
        let next = &mut next[name.parse::<usize>().unwrap()];
        assert_eq!(number.parse(), Ok(*next), "{line}");
        *next += 1;
    }
    assert_eq!(next, [900; 4]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_is_opened_for_appending_closed_on_exec_and_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;

    let directory = TempDir::new();
    let log = directory.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(common::example("flow_server"));
    let flow = Flow::started(command.args(["--port=127.0.0.1:0", &log_file(&log)]));
    for _ in 0..2 {
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o7777, 0o640);
        let process = format!("/proc/{}", flow.child.id());
        let mut descriptors = fs::read_dir(format!("{process}/fd")).unwrap().map(|entry| entry.unwrap());
        let open = descriptors.find(|entry| fs::read_link(entry.path()).is_ok_and(|path| path == log));
        let number = open.expect("the log is open").file_name().into_string().unwrap();
        let info = fs::read_to_string(format!("{process}/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = u32::from_str_radix(flags, 8).unwrap();
        // O_WRONLY, O_APPEND and O_CLOEXEC, as open(2) shows them there.
        assert_eq!(flags & 0o2_002_003, 0o2_002_001, "{info}");
        // The same of the next one.
        fs::remove_file(&log).unwrap();
        flow.child.signal("USR1");
        wait_until("the new file", || log.exists());
        wait_until("it is in use", || {
            let open = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|path| path == log);
            fs::read_dir(format!("{process}/fd")).unwrap().any(|entry| entry.is_ok_and(open))
        });
    }
    flow.stop();
}

#[test]
fn a_standard_error_that_the_journal_reads_gets_priorities_and_no_times() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let found = fs::File::from(OwnedFd::from(theirs.try_clone().unwrap())).metadata().unwrap();
    let mut command = server();
    // Without warnings: as root there is one at each start.
    command.args(["--port=127.0.0.1:0", "--log_level=0"]).stdin(Stdio::null());
    command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
    command.stdout(Stdio::piped()).stderr(OwnedFd::from(theirs));
    let mut process = command.spawn().unwrap();
    command.stderr(Stdio::null());
    let mut ready = String::new();
    let mut told = BufReader::new(process.stdout.take().unwrap());
    told.read_line(&mut ready).unwrap();
    let mut client = Client::connect(ready.trim_start_matches("ready ").trim());
    client.send("log error a\\nb\nlog warn not this\nfatal it is over\n");
    client.expect_eof();
    assert_eq!(process.wait().unwrap().code(), Some(1));
    let log = String::from_utf8(Client::of(ours).expect_to_eof()).unwrap();
    assert_eq!(log, "<3>a%0Ab\n<3>flow_server: it is over\n");
}

#[test]
fn the_journal_gets_an_entry_a_line() {
    let directory = TempDir::new();
    let path = directory.path().join("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(DEADLINE)).unwrap();
    let flow = Flow::start(&[
        "--log_file=journald",
        &format!("--journald_logsock={}", path.display()),
        "--syslog_facility=local1",
        "--log_level=0",
    ]);
    let mut client = flow.client();
    client.send("log error a\\nPRIORITY=0\nlog debug not this\nlog error b\n");
    says(&mut client, "done");
    for text in ["a%0APRIORITY=0", "b"] {
        let entry = next_datagram(&journal).unwrap();
        let expected =
            format!("PRIORITY=3\nSYSLOG_FACILITY=17\nSYSLOG_IDENTIFIER=flow_server\nMESSAGE={text}\n");
        assert_eq!(entry, expected);
    }
    assert_eq!(flow.stop(), "");
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
    for round in 0..1000 {
        says(&mut first, &format!("round {round}"));
    }
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

// F13
#[test]
fn a_standard_error_that_nobody_reads_keeps_no_restart() {
    let directory = TempDir::new();
    let (path, pid_file) = (directory.path().join("s"), directory.path().join("pid"));
    let pid_option = format!("--pid_file={}", pid_file.display());
    let options = [unix(&path), pid_option, "--log_level=3".into(), "--quiesce_seconds=0.1".into()];
    let mut server = Unread::start(server().args(options));
    for _ in 0..2_000 {
        drop(Client::connect(path.display()));
    }
    let mut client = Client::connect(path.display());
    says(&mut client, "it is served");
    client.send("half");
    server.signal("HUP");
    let status = pid_file.with_extension("status");
    wait_until("the restart is over", || {
        fs::read_to_string(&status).is_ok_and(|text| text.contains("\ngeneration = 1\n"))
    });
    client.send(" a line\n");
    assert_eq!(client.expect_line(), "half a line");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
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

fn log_file(log: &Path) -> String {
    format!("--log_file={}", log.display())
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
