//! A running example with a control client, which must notice nothing of what is done to the others.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{Child, Client, DEADLINE, example};

/// A server process, and a client of it that was served before anything else happened.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) server: Child,
    pub(crate) address: SocketAddr,
    control: Client,
    rounds: u32,
}

impl Served {
    /// The example `echo` with further `arguments`, on a port of its own.
    #[track_caller]
    pub(crate) fn echo(arguments: &[&str]) -> Self {
        Self::spawn(Command::new(example("echo")).args(["--port", "127.0.0.1:0"]).args(arguments))
    }

    /// Any command that becomes a server that sends lines back.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut server = Child::spawn(command);
        let address = server.wait_for_address();
        let control = Client::connect(address);
        let mut served = Self { server, address, control, rounds: 0 };
        served.control_is_fine();
        served
    }

    /// One round trip of the control client.
    #[track_caller]
    pub(crate) fn control_is_fine(&mut self) {
        self.rounds += 1;
        let line = format!("control {}", self.rounds);
        self.control.send(format!("{line}\n"));
        assert_eq!(self.control.expect_line(), line);
    }

    /// One more client that has been served once.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(self.address);
        round_trip(&mut client, "hello");
        client
    }

    /// A last round trip, then SIGTERM, and a clean exit: what the server had logged.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.control_is_fine();
        self.server.signal("TERM");
        let status = self.server.expect_exit();
        let log = self.server.expect_log().to_vec();
        assert!(status.success(), "{status}; {log:#?}");
        log
    }

    /// Stops the process (SIGSTOP) and waits until it stands.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.server.signal("STOP");
        wait_until("the process stands still", || stat(self.server.id())[0] == "T");
    }

    /// Lets it go on (SIGCONT).
    #[track_caller]
    pub(crate) fn thaw(&self) {
        self.server.signal("CONT");
    }

    /// The numbers of its open descriptors, sorted.
    #[track_caller]
    pub(crate) fn descriptors(&self) -> Vec<u32> {
        let list = fs::read_dir(format!("/proc/{}/fd", self.server.id())).expect("the server runs");
        let names = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut numbers: Vec<u32> = names.collect();
        numbers.sort_unstable();
        numbers
    }

    /// Processor time used so far, in ticks of `sysconf(_SC_CLK_TCK)`, that is of 10 ms.
    #[track_caller]
    pub(crate) fn ticks(&self) -> u64 {
        // proc(5): utime and stime are fields 14 and 15 of the line, state is field 3.
        stat(self.server.id())[11..=12].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// How often its threads have gone to sleep or have been made to, in all.
    #[track_caller]
    pub(crate) fn switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.server.id())).expect("the server runs");
        let status = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let switches = |status: String| -> u64 {
            let lines = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
            lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
        };
        status.map(switches).sum()
    }
}

/// Sends `text` as a line and expects it back.
#[track_caller]
pub(crate) fn round_trip(client: &mut Client, text: &str) {
    client.send(format!("{text}\n"));
    assert_eq!(client.expect_line(), text);
}

/// Looks again and again whether `fact` has become true; fails after [`DEADLINE`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut fact: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !fact() {
        assert!(Instant::now() < until, "not within {} s: {what}", DEADLINE.as_secs());
        thread::sleep(POLL);
    }
}

/// Whether the long forms were asked for.
pub(crate) fn long_form() -> bool {
    std::env::var_os("LINEPLEX_LONG").is_some_and(|value| value == "1")
}

/// Whether this system tells about processes in `/proc`, as Linux does.
pub(crate) fn has_proc() -> bool {
    let there = Path::new("/proc/self/stat").exists();
    if !there {
        println!("skipped: there is no /proc here");
    }
    there
}

/// The fields of `/proc/PID/stat` from the third, the state, on: before them stands the name, in parentheses.
#[track_caller]
fn stat(id: u32) -> Vec<String> {
    let line = fs::read_to_string(format!("/proc/{id}/stat")).expect("the server runs");
    let (_, fields) = line.rsplit_once(')').expect("the name is in parentheses");
    fields.split_whitespace().map(str::to_owned).collect()
}

/// How often a fact is looked at while it has not become true.
const POLL: Duration = Duration::from_millis(2);
