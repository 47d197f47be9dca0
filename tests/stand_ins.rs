//! Restarts whose new image is a script in the place of the program: it does what no program of ours would, before it
//! becomes the server, or instead.
#![cfg(target_os = "linux")]
#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Child, Client, TempDir, example};

#[test]
fn a_restart_that_is_asked_for_during_a_restart_follows_it() {
    let mut server = Server::start(&["--log_level=4"]);
    let gate = server.gate();
    // The probe waits at the gate, whoever comes after it does not.
    server.replace("if [ -p $0.gate ]; then read line < $0.gate; rm $0.gate; fi; exec $REAL \"$@\"");
    let mut client = server.client();
    client.send("half a ");
    server.child.signal("HUP");
    let mut opened = File::create(&gate).expect("the probe opens the other end");
    server.child.wait_for("SIGHUP received");
    server.child.signal("HUP");
    server.child.wait_for("SIGHUP received");
    opened.write_all(b"go on\n").expect("the probe reads");
    for restart in 1..=2 {
        server.child.wait_for(&format!("restart {restart} done"));
    }
    client.send("line\n");
    assert_eq!(client.expect_line(), "half a line");
    server.stop();
}

#[test]
fn a_probe_that_says_nothing_any_more_and_does_not_end_keeps_nobody_waiting() {
    let mut server = Server::start(&[]);
    let mut client = server.client();
    let gate = server.gate();
    server.replace("exec 0<&-; : > $0.gate; exec sleep 600");
    server.child.signal("HUP");
    File::open(&gate).expect("the probe opens the other end, and closes it");
    client.send("served meanwhile\n");
    assert_eq!(client.expect_line(), "served meanwhile");
    let line = server.child.wait_for("restart failed");
    assert!(line.contains("closed its end in the probe without a word, and does not end"), "{line}");
    server.replace("exit 3");
    server.child.signal("HUP");
    let line = server.child.wait_for("restart failed");
    assert!(line.contains("ended in the probe without a word (exit status: 3)"), "{line}");
    server.replace("exec $REAL \"$@\"");
    server.child.signal("HUP");
    server.child.wait_for("restart 1 done");
    server.stop();
}

/// Whoever keeps a server full and is refused again and again must not keep it from taking a new configuration. Of 64
/// descriptors 32 are clients'.
#[test]
fn a_full_server_that_refuses_others_restarts() {
    let directory = TempDir::new();
    let pid_file = format!("--pid_file={}", directory.path().join("pid").display());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(example("echo")).arg(&pid_file);
    command.args((1..=4).map(|at| format!("--port=127.0.0.{at}:0")));
    let mut child = Child::spawn(&mut command);
    let address = child.wait_for_address();
    let mut served: Vec<Client> = (0..32).map(|_| Client::connect(address)).collect();
    served.iter().for_each(|client| client.send("half a "));
    let mut refused: Vec<Client> = (0..20).map(|_| Client::connect(address)).collect();
    // Each is closed with care for two seconds, because it does not go.
    refused[0].expect("Too many connections");
    child.signal("HUP");
    child.wait_for("restart 1 done");
    for client in &mut served {
        client.send("line\n");
        assert_eq!(client.expect_line(), "half a line");
    }
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

#[test]
fn a_set_user_id_program_takes_nothing_over_from_its_caller() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a program to somebody else");
        return;
    }
    let directory = TempDir::new();
    let program = directory.path().join(PROGRAM);
    fs::copy(example("echo"), &program).expect("it can be copied");
    chown(&program, Some(NOBODY), Some(NOBODY)).expect("root may");
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).expect("root may");
    let own = std::process::id();
    for value in ["probe".to_owned(), format!("1:{own}:3:4:5:6")] {
        let mut command = Command::new(&program);
        let mut child = Child::spawn(command.env("LINEPLEX_HANDOVER", value).stdin(Stdio::null()));
        child.wait_for("LINEPLEX_HANDOVER comes from whoever called this set-user-id program");
        assert_eq!(child.expect_exit().code(), Some(70), "{child}");
    }
}

/// A running echo server, started by a path that can lead elsewhere.
struct Server {
    child: Child,
    address: String,
    directory: TempDir,
}

impl Server {
    #[track_caller]
    fn start(options: &[&str]) -> Self {
        let directory = TempDir::new();
        let program = directory.path().join(PROGRAM);
        symlink(example("echo"), &program).expect("a link can be made");
        let mut command = Command::new(&program);
        command.arg("--port=127.0.0.1:0").args(options).env("REAL", example("echo"));
        let mut child = Child::spawn(&mut command);
        let address = child.wait_for_address().to_string();
        Self { child, address, directory }
    }

    /// `$0.NAME` of a script.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{PROGRAM}.{name}"))
    }

    /// `$0.gate` of a script: a pipe with a name, whose two ends wait for each other to be opened.
    #[track_caller]
    fn gate(&self) -> PathBuf {
        let gate = self.path("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().expect("there is a mkfifo").success());
        gate
    }

    /// From now on the program is this script; `$REAL` is the server.
    #[track_caller]
    fn replace(&self, script: &str) {
        let made = self.path("new");
        fs::write(&made, format!("#!/bin/sh\n{script}\n")).expect("a script can be written");
        fs::set_permissions(&made, Permissions::from_mode(0o755)).expect("it is ours");
        fs::rename(made, self.directory.path().join(PROGRAM)).expect("it is ours");
    }

    #[track_caller]
    fn client(&self) -> Client {
        let mut client = Client::connect(&self.address);
        client.send("here\n");
        assert_eq!(client.expect_line(), "here");
        client
    }

    #[track_caller]
    fn stop(mut self) {
        self.child.signal("TERM");
        assert_eq!(self.child.expect_exit().code(), Some(0), "{}", self.child);
    }
}

const PROGRAM: &str = "server";
/// As good as any user but root.
const NOBODY: u32 = 65_534;
