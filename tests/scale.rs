//! The example `scale`: one socket, several processes; who is lost and who is not when one of them ends or restarts.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use common::served::{has_proc, wait_until};
use common::{Child, Client, example};

/// A client, and the process that serves it.
struct Served {
    client: Client,
    process: u32,
}

impl Served {
    #[track_caller]
    fn by(addr: SocketAddr) -> Self {
        let mut client = Client::connect(addr);
        let line = client.expect_line();
        let process =
            line.strip_prefix("process ").and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let process = process.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        Self { client, process }
    }

    #[track_caller]
    fn is_served(&mut self) {
        self.client.send("hello\n");
        self.client.expect("hello\r\n");
    }

    #[track_caller]
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.process.to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {name} to {}", self.process);
    }

    /// While it stands, all newcomers are another's.
    #[track_caller]
    fn freeze(&self) {
        self.signal("STOP");
        let path = format!("/proc/{}/stat", self.process);
        wait_until("the worker stands still", || {
            fs::read_to_string(&path).is_ok_and(|stat| stat.contains(") T "))
        });
    }
}

/// Two workers, each with a client.
#[track_caller]
fn start() -> (Child, SocketAddr, [Served; 2]) {
    let mut command = Command::new(example("scale"));
    command.args(["--port=127.0.0.1:0", "--workers=2", "--conf_file=/dev/null"]);
    let mut service = Child::spawn(&mut command);
    let addr = service.wait_for_address();
    assert_eq!(service.wait_for_address(), addr, "one socket for both");
    let first = Served::by(addr);
    first.freeze();
    let second = Served::by(addr);
    first.signal("CONT");
    assert_ne!(first.process, second.process);
    (service, addr, [first, second])
}

#[test]
fn workers_share_a_socket_and_nothing_else_and_end_with_who_started_them() {
    if !has_proc() {
        return;
    }
    let (mut service, _, [mut first, mut second]) = start();
    // Else each would hear the other's line first.
    first.is_served();
    second.is_served();
    service.signal("TERM");
    assert_eq!(service.expect_exit().code(), Some(0), "{service}");
    first.client.expect_eof();
    second.client.expect_eof();
}

#[test]
fn a_worker_that_is_killed_takes_its_own_clients_along_and_is_followed_by_another() {
    if !has_proc() {
        return;
    }
    let (mut service, addr, [first, mut second]) = start();
    first.signal("KILL");
    service.wait_for(&format!("worker {}", first.process));
    service.wait_for_address();
    second.is_served();
    second.freeze();
    let mut third = Served::by(addr);
    assert!(![first.process, second.process].contains(&third.process));
    second.signal("CONT");
    third.is_served();
    second.is_served();
    service.signal("TERM");
    assert_eq!(service.expect_exit().code(), Some(0), "{service}");
}

#[test]
fn a_restart_of_all_or_of_one_keeps_every_client() {
    if !has_proc() {
        return;
    }
    let (mut service, _, [mut first, mut second]) = start();
    service.signal("HUP");
    service.wait_for("restart 1 done; 1 connections go on");
    service.wait_for("restart 1 done; 1 connections go on");
    first.signal("HUP");
    service.wait_for("restart 2 done; 1 connections go on");
    first.is_served();
    second.is_served();
    service.signal("QUIT");
    first.client.expect_eof();
    second.client.expect_eof();
    drop((first, second));
    assert_eq!(service.expect_exit().code(), Some(0), "{service}");
}

#[test]
fn a_worker_that_cannot_start_ends_it_all_with_its_reason() {
    let mut command = Command::new(example("scale"));
    command.args([
        "--port=127.0.0.1:0",
        "--workers=3",
        "--user=nobody-of-that-name",
        "--conf_file=/dev/null",
    ]);
    let mut service = Child::spawn(&mut command);
    service.wait_for("nobody-of-that-name");
    assert_eq!(service.expect_exit().code(), Some(1), "{service}");
}
