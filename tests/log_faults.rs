//! A log that takes no more: a full disk, a limit on the size of a file, a broken one, a reader that stands still.
//!
//! Each time the server goes on serving, and every line is either whole in the log or counted as lost there. A test's
//! lines all fit into the log's queue (4096 lines), so that none is lost for another reason. Linux has the means.

#![cfg(target_os = "linux")]

mod common;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Client, TempDir, example};
use running::{Flow, says, wait_until};

/// A server that `script` has been run for before it, with its log at `log`.
fn after(script: &str, log: &Path) -> Flow {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{script} && exec \"$0\" \"$@\"")]).arg(example("flow_server"));
    Flow::started(command.args(["--port=127.0.0.1:0", "--log_level=0"]).arg(log_file(log)))
}

fn log_file(log: &Path) -> String {
    format!("--log_file={}", log.display())
}

/// Has the server log `count` lines of 140 bytes, and shows that it still serves.
#[track_caller]
fn fill(client: &mut Client, count: usize) {
    for number in 0..count {
        client.send(format!("log error filler {number:05} {}\n", "x".repeat(95)));
        if number % 100 == 99 {
            says(client, "still there");
        }
    }
    says(client, "all of it");
}

/// Whole fillers, and lines that were told to be lost.
fn account(log: &str) -> (usize, usize) {
    let whole = log.lines().filter(|line| line.len() == 139 && line.contains(" error filler ")).count();
    let told = log.lines().filter_map(|line| line.strip_suffix(" log lines lost")?.rsplit(' ').next());
    (whole, told.map(|count| count.parse::<usize>().expect("a number")).sum())
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[test]
fn a_full_disk_stops_the_log_and_not_the_server() {
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
fn a_file_at_its_size_limit_loses_lines_until_it_is_renamed() {
    let directory = TempDir::new();
    let (log, old) = (directory.path().join("log"), directory.path().join("log.1"));
    // The unit is 512 or 1024 bytes, as the shell likes. The default of SIGXFSZ would be the server's end.
    let flow = after("ulimit -f 64", &log);
    let limits = read(Path::new(&format!("/proc/{}/limits", flow.child.id())));
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max file size")?.split_whitespace().next());
    let limit: usize = limit.and_then(|limit| limit.parse().ok()).expect("it is limited");
    let mut client = flow.client();
    // As many as fill it and half another one.
    let count = limit * 3 / 2 / 140;
    fill(&mut client, count);
    wait_until("the file is full", || read(&log).len() == limit);
    fs::rename(&log, &old).unwrap();
    flow.child.signal("USR1");
    wait_until("the new file", || read(&log).contains(" log lines lost\n"));
    says(&mut client, "and on");
    flow.stop();
    let ((whole, _), (more, told)) = (account(&read(&old)), account(&read(&log)));
    assert!(told > 0);
    assert_eq!(whole + more + told, count);
}

#[test]
fn a_full_file_system_loses_lines_until_there_is_room() {
    let directory = TempDir::new();
    let mount = format!("mount -t tmpfs -o size=64k none {}", directory.path().display());
    // A mount of its own, that only the server sees, and that ends with it.
    let may = Command::new("unshare").args(["-m", "sh", "-c", &mount]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: a file system cannot be mounted here");
        return;
    }
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    let path = directory.path().join("log");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).arg(example("flow_server"));
    let flow = Flow::started(command.args(["--port=127.0.0.1:0", "--log_level=0"]).arg(log_file(&path)));
    let log = PathBuf::from(format!("/proc/{}/root{}", flow.child.id(), path.display()));
    let mut client = flow.client();
    let count = 700;
    fill(&mut client, count);
    wait_until("it is full", || read(&log).len() == 64 * 1024);
    let before = read(&log);
    // As a rotation does that copies and truncates.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    client.send("log error back\n");
    wait_until("room is found", || read(&log).contains(" error back\n"));
    client.send("log error the last\n");
    wait_until("it is told", || read(&log).contains(" the last\n"));
    let after = read(&log);
    flow.stop();
    let ((whole, _), (more, told)) = (account(&before), account(&after));
    assert!(told > 0);
    assert_eq!(whole + more + told, count);
}

#[test]
fn a_disk_that_fails_for_a_while_loses_only_those_lines() {
    let directory = TempDir::new();
    let log = directory.path().join("log");
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !traced.is_ok_and(|status| status.success()) {
        let must = std::env::var_os("LINEPLEX_REQUIRE_STRACE").is_some_and(|value| value == "1");
        assert!(!must, "LINEPLEX_REQUIRE_STRACE=1, but strace does not work");
        println!("skipped: strace is not here or may not trace");
        return;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(&log);
    command.args(["-e", "trace=write", "-e", "inject=write:error=EIO:when=2..4"]);
    command.arg(example("flow_server")).args(["--port=127.0.0.1:0", "--log_level=0"]);
    let mut flow = Flow::started(command.arg(log_file(&log)));
    let mut client = flow.client();
    fill(&mut client, 20);
    // What is owed is told with the next line, or at the end.
    client.send("stop 0\n");
    client.expect_eof();
    assert_eq!(flow.ended().0, Some(0));
    let (whole, told) = account(&read(&log));
    assert!(whole >= 17 && told > 0, "{whole} {told}");
    assert_eq!(whole + told, 20);
}
