//! A new image that passes the probe and fails before it has taken over: the standby goes on, and nobody notices.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::common::{Client, TempDir};
use crate::leaving::{MUCH, PATIENT, pattern};
use crate::running::{Flow, Gate, patient, says, server, unix};

/// The standby, which is nobody's child: killed, by its own id, when this is dropped and it is still there.
pub(crate) struct Standby(u32);

impl Standby {
    /// The one that says in the log that it goes on.
    #[track_caller]
    pub(crate) fn of(flow: &mut Flow) -> Self {
        let line = flow.child.wait_for("the standby goes on in place of the image that failed, as pid ");
        Self(line.rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a number is last"))
    }

    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.0.to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {name} to {}", self.0);
    }

    /// SIGTERM, and its end: everything that was told and logged.
    #[track_caller]
    pub(crate) fn stop(self, mut flow: Flow) -> (String, String) {
        self.signal("TERM");
        let told = String::from_utf8(flow.told.expect_to_eof()).expect("what is told is text");
        // The first image is long gone, and the log ends with the last that has it.
        flow.child.expect_exit();
        let log = flow.child.expect_log().join("\n");
        std::mem::forget(self);
        (told, log)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg("-KILL").arg(self.0.to_string()).status();
    }
}

/// Everybody who must not notice a restart that fails: clients in the middle of a line, one that reads slowly, a pipe, and
/// the other end of an outgoing connection.
struct Witnesses {
    client: Client,
    local: Client,
    slow: Client,
    pipe: File,
    outgoing: TcpStream,
}

impl Witnesses {
    #[track_caller]
    fn of(flow: &mut Flow, directory: &TempDir) -> Self {
        let path = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().expect("there is a mkfifo").success());
        let listener = patient(TcpListener::bind("127.0.0.1:0").expect("there is a free port"));
        let (client, mut slow, mut local) = (flow.client(), flow.client(), Client::connect(&flow.addrs[1]));
        says(&mut local, "here");
        let address = listener.local_addr().expect("it is bound");
        client.send(format!("adopt {}\nconnect {address}\nname the first\n", path.display()));
        let mut opened = [flow.told.expect_line(), flow.told.expect_line()];
        opened.sort();
        assert_eq!(opened, ["outgoing: open", "pipe: open"]);
        let (mut outgoing, _) = listener.accept().expect("the server has connected");
        let mut pipe = OpenOptions::new().write(true).open(&path).expect("the server has the other end");
        slow.send(format!("pattern {MUCH}\n"));
        slow.expect(0_u32.to_be_bytes());
        for client in [&client, &local] {
            client.send("half a ");
        }
        pipe.write_all(b"half a ").expect("there is room");
        outgoing.write_all(b"half a ").expect("there is room");
        says(&mut flow.client(), "a turn later");
        assert_eq!(flow.told.expect_line(), "close: #4 (eof)");
        Self { client, local, slow, pipe, outgoing }
    }

    #[track_caller]
    fn notice_nothing(&mut self, flow: &mut Flow) {
        for client in [&mut self.client, &mut self.local] {
            client.send("line\n");
            client.expect("half a line\n");
        }
        self.pipe.write_all(b"line\n").expect("there is room");
        assert_eq!(flow.told.expect_line(), "pipe: half a line");
        self.outgoing.write_all(b"line\n").expect("there is room");
        assert_eq!(flow.told.expect_line(), "outgoing: half a line");
    }

    /// Also after a restart that went well.
    #[track_caller]
    fn have_everything(&mut self, flow: &mut Flow) {
        self.client.send("who\n");
        assert!(self.client.expect_line().contains(": the first / "), "{}", self.client);
        let rest = self.slow.next_bytes(MUCH as usize * 4 - 4).unwrap_or_else(|missed| panic!("{missed}"));
        assert!(rest == pattern(MUCH)[4..], "not what was written");
        self.pipe.write_all(b"a line\n").expect("there is room");
        while flow.told.expect_line() != "pipe: a line" {}
    }
}

#[test]
fn an_image_that_fails_before_it_has_taken_over_costs_nobody_anything() {
    for (what, reason) in [
        ("pre_loop_hook=refuse", "the new image gave up: pre_loop_hook refuses"),
        ("restart_open_hook=refuse", "the new image gave up: restart_open_hook refuses"),
        ("restore=panic", "the new image gave up: a hook panicked: restore was asked to panic"),
        ("pre_loop_hook=exit", "the new image died before it had taken over"),
        ("pre_loop_hook=wait", "the new image did not commit within commit_seconds = 5 and was killed"),
    ] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let path = directory.path().join("s");
        let mut command = server();
        command.env("FLOW_AT", gate.at(&format!("heir:{what}"))).args(PATIENT).arg("--port=127.0.0.1:0");
        let limit = if what.ends_with("wait") { 5 } else { 600 };
        let mut flow = Flow::started(command.arg(format!("--commit_seconds={limit}")).arg(unix(&path)));
        let mut witnesses = Witnesses::of(&mut flow, &directory);

        gate.close();
        flow.child.signal("HUP");
        let standby = Standby::of(&mut flow);
        let line = flow.child.wait_for("restart failed");
        assert!(line.contains(reason), "{what}: {line}");
        assert_ne!(standby.0, flow.child.id());
        while !flow.told.expect_line().starts_with("restart_failed_hook: ") {}
        witnesses.notice_nothing(&mut flow);
        for addr in &flow.addrs {
            says(&mut Client::connect(addr), "a newcomer");
        }

        // The next restart is as any other.
        gate.open();
        standby.signal("HUP");
        flow.restarted();
        witnesses.have_everything(&mut flow);
        let (told, log) = standby.stop(flow);
        assert!(told.ends_with("post_child_cleanup_hook\n"), "{told}");
        assert!(log.contains("restart 1 done; "), "{log}");
        assert!(!path.exists());
    }
}

#[test]
fn a_stop_that_an_image_was_sent_before_it_failed_is_the_standbys() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("heir:pre_loop_hook=wait"));
    let mut flow = Flow::started(command.args(["--port=127.0.0.1:0", "--commit_seconds=5"]));
    let mut client = flow.client();
    gate.close();
    flow.child.signal("HUP");
    let waiting = gate.wait();
    flow.child.signal("TERM");
    waiting.expect_end();
    client.expect_eof();
    let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
    assert!(
        told.ends_with("pre_server_close_hook: Stop\nclose: #1 (shutdown)\npost_child_cleanup_hook\n"),
        "{told}"
    );
    flow.child.expect_exit();
    let log = flow.child.expect_log().join("\n");
    assert!(log.contains("clients told goodbye: 1, cut off: 0"), "{log}");
}

#[test]
fn who_was_not_to_go_along_is_gone_whoever_goes_on() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("heir:pre_loop_hook=refuse")).args(PATIENT);
    let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
    let (mut kept, mut drained) = (flow.client(), flow.client());
    drained.send(format!("drain\nsay-at-close the end\npattern {MUCH}\n"));
    drained.expect(0_u32.to_be_bytes());
    gate.close();
    flow.child.signal("HUP");
    let standby = Standby::of(&mut flow);
    let told = {
        let mut told = Vec::new();
        while !told.last().is_some_and(|line: &String| line.starts_with("restart_failed_hook: ")) {
            told.push(flow.told.expect_line());
        }
        told
    };
    assert_eq!(told[1], "close: #2 (handover)");
    let mut expected = pattern(MUCH);
    expected.drain(..4);
    expected.extend_from_slice(b"the end\n");
    assert!(drained.expect_to_eof() == expected, "not what was written");
    drop(drained);
    kept.expect("the end\n");
    says(&mut kept, "still here");
    let (told, _) = standby.stop(flow);
    assert_eq!(told.matches("close: ").count(), 1, "{told}");
}
