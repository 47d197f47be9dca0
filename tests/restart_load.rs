//! Restarts under load: nothing is lost, nobody is refused, and the server is the same process afterwards.
//!
//! `LINEPLEX_LONG=1 cargo test --release --test restart_load -- --nocapture` does what is promised, 1000 restarts and
//! 20 000 signals in a row, and prints what it saw; otherwise it is a twentieth of that.

mod common;

use std::fs;
use std::process::Command;

use common::lineload::{Report, lineload};
use common::served::long_form;
use common::{Child, TempDir, example};

/// A server with a pid file and two listeners, which ends with the test.
struct Loaded {
    child: Child,
    directory: TempDir,
    addresses: [String; 2],
}

impl Loaded {
    #[track_caller]
    fn start(name: &str, options: &[&str]) -> Self {
        let directory = TempDir::new();
        let path = directory.path().join("s").display().to_string();
        let mut command = Command::new(example(name));
        command.args(["--port=127.0.0.1:0", &format!("--port={path}|unix"), "--conf_file=/dev/null"]);
        command.arg(format!("--pid_file={}/pid", directory.path().display())).args(options);
        let mut child = Child::spawn(&mut command);
        let addr = child.wait_for_address().to_string();
        Self { child, directory, addresses: [addr, format!("{path}|unix")] }
    }

    /// Runs the load tool on both listeners.
    #[track_caller]
    fn load(&self, options: &[&str]) -> Report {
        let pid_file = self.directory.path().join("pid").display().to_string();
        let addresses = self.addresses.each_ref().map(String::as_str);
        let report = lineload(&[&["--pid-file", &pid_file, "--timeout=60"], options, &addresses].concat());
        println!("{report}");
        report.expect_clean();
        report
    }

    /// What the status file says under this key.
    fn status(&self, key: &str) -> String {
        let text = fs::read_to_string(self.directory.path().join("pid.status")).expect("it is there");
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        value.unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn stop(mut self) {
        self.child.signal("TERM");
        assert_eq!(self.child.expect_exit().code(), Some(0), "{}", self.child);
        assert!(!self.directory.path().join("pid").exists());
    }
}

// R1
#[test]
fn restarts_one_after_the_other_lose_nothing() {
    let count = count(50, 1000);
    let server = Loaded::start("echo", &[]);
    let report = server.load(&["--live=200", "--rate=500", "--seconds=300", &format!("--hups={count}")]);
    assert_eq!(report.number("restarts"), f64::from(count), "{report}");
    assert_eq!(server.status("generation"), count.to_string());
    let descriptors = report.number("descriptors_after");
    assert!(descriptors <= report.number("descriptors_before"), "{report}");
    server.stop();
}

// R1, with a server whose clients have a state, and see each other
#[test]
fn restarts_of_a_chat_lose_nothing() {
    let count = count(10, 200);
    let server = Loaded::start("samplechat", &["--junior_seconds=600", "--senior_seconds=600"]);
    let report = server.load(&[
        "--among",
        "--live=20",
        "--rate=50",
        "--line-rate=1000",
        "--seconds=300",
        &format!("--hups={count}"),
    ]);
    assert_eq!(report.number("restarts"), f64::from(count), "{report}");
    server.stop();
}

// R5
#[test]
fn a_storm_of_signals_loses_nothing() {
    let server = Loaded::start("echo", &[]);
    let report = server.load(&["--live=50", "--rate=200", &format!("--storm={}", count(1000, 20_000))]);
    assert!(report.number("restarts") >= 1.0, "{report}");
    server.stop();
}

fn count(short: u32, many: u32) -> u32 {
    if long_form() { many } else { short }
}
