//! `--reload` and `--stop`: whether the server that runs is found, what is done to it, and that the exit status is the
//! truth about it.

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/detached.rs"]
mod detached;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::served::{has_proc, wait_until};
use common::{Child, Client};
use detached::{Detached, Home, is_root, own_address, status_line};
use running::{Flow, says, server};

/// What a control command came to.
struct Answer {
    status: Option<i32>,
    /// Both streams.
    text: String,
}

/// Runs the program with `words`, which ask something of the server of `home`.
#[track_caller]
fn control(home: &Home, words: &[&str]) -> Answer {
    answer(server().arg(home.pid_option()).args(words))
}

#[track_caller]
fn answer(command: &mut Command) -> Answer {
    let output = command.output().expect("it can be started");
    let text = [output.stdout, output.stderr].concat();
    Answer { status: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
}

impl Answer {
    /// It has done what was asked, and says so.
    #[track_caller]
    fn expect_done(&self, text: &str) {
        assert_eq!((self.status, self.text.as_str()), (Some(0), text));
    }

    /// It has not, for this reason.
    #[track_caller]
    fn expect_not(&self, status: i32, why: &str) {
        assert_eq!(self.status, Some(status), "{}", self.text);
        assert!(self.text.contains(why), "{}", self.text);
        // A mistake of the settings is also told to the hook, as at every start.
        let lines = self.text.lines().filter(|line| !line.starts_with("fatal_hook: "));
        assert_eq!(lines.count(), 1, "{}", self.text);
    }
}

// ── stop ──

#[test]
fn stop_and_wait_comes_back_when_the_server_is_gone() {
    let server = Detached::start(&[]);
    control(&server.home, &["--stop", "--wait"]).expect_done(&format!("pid {} has stopped\n", server.pid));
    assert!(!server.home.pid_file().exists());
    // The lock goes with the last step of a process.
    server.expect_end();
}

#[test]
fn stop_alone_sends_the_signal_and_comes_back() {
    let home = Home::new();
    let mut flow = Flow::started(&mut home.command());
    let pid = flow.child.id();
    control(&home, &["--stop"]).expect_done(&format!("pid {pid} was told to stop\n"));
    assert_eq!(flow.ended().0, Some(0));
}

#[test]
fn stop_waits_for_a_callback_that_takes_its_time() {
    let home = Home::new();
    let gate = home.path("gate");
    let listener = UnixListener::bind(&gate).unwrap();
    let mut flow = Flow::started(&mut home.command());
    let client = flow.client();
    client.send(format!("wait {}\n", gate.display()));
    let (busy, _) = listener.accept().unwrap();
    let mut stopping = Child::spawn(server().args([&home.pid_option(), "--stop", "--wait"]));
    // It cannot be done yet; when it is, everything is.
    drop(busy);
    assert_eq!(stopping.expect_exit().code(), Some(0));
    assert!(!home.pid_file().exists());
    assert_eq!(flow.ended().0, Some(0));
}

/// As long as the callback holds the server nothing can happen to it, so how long the commands wait decides nothing: here
/// as short as it can be, which is the grace for a busy machine.
#[test]
fn a_server_that_does_nothing_is_waited_for_to_the_deadline_and_then_told_with_status_1() {
    let home = Home::new();
    let gate = home.path("gate");
    let listener = UnixListener::bind(&gate).unwrap();
    let mut flow = Flow::started(&mut home.command());
    let pid = flow.child.id();
    let client = flow.client();
    client.send(format!("wait {}\n", gate.display()));
    let (busy, _) = listener.accept().unwrap();
    let reload = ["--reload", "--probe_seconds=0.001", "--quiesce_seconds=0", "--commit_seconds=0.001"];
    let stop = ["--stop", "--stop_seconds=0"];
    // At once, so that the deadline passes once.
    let [mut reloading, mut stopping] = [&reload[..], &stop[..]].map(|words| {
        let mut command = Command::new(common::example("flow_server"));
        Child::spawn(command.args([&home.pid_option(), "--wait"]).args(words))
    });
    assert_eq!([&mut reloading, &mut stopping].map(|child| child.expect_exit().code()), [Some(1); 2]);
    reloading.wait_for(&format!("flow_server: pid {pid} has not said within 10 s that it has reloaded"));
    stopping.wait_for(&format!("flow_server: pid {pid} has not stopped within 10 s"));
    assert_eq!(home.pid(), Some(pid), "it is still there");
    // Both were told to it all the same, and the end comes first.
    drop(busy);
    let (status, log) = flow.ended();
    assert_eq!(status, Some(0), "{log}");
    assert!(!home.log().contains("restart"), "{}", home.log());
}

// ── nobody there ──

#[test]
fn where_no_server_runs_that_is_said_with_status_1() {
    let home = Home::new();
    let path = home.pid_file().display().to_string();
    for option in ["--stop", "--reload"] {
        for wait in [&[option][..], &[option, "--wait"]] {
            let _ = fs::remove_file(&path);
            control(&home, wait).expect_not(1, &format!("flow_server: no server runs: there is no {path}"));
            assert!(!home.pid_file().exists(), "looking makes nothing");
            fs::write(&path, "4194304\n").unwrap();
            control(&home, wait)
                .expect_not(1, &format!("no server runs: {path} is left over from pid 4194304"));
            // A process that lives, but is no server of this file.
            fs::write(&path, format!("{}\n", std::process::id())).unwrap();
            let own = std::process::id();
            control(&home, wait)
                .expect_not(1, &format!("no server runs: {path} is left over from pid {own}"));
            for nothing in ["", "nonsense\n"] {
                fs::write(&path, nothing).unwrap();
                control(&home, wait).expect_not(1, &format!("no server runs: {path} names none"));
            }
        }
        answer(server().arg(option)).expect_not(1, &format!("{option}: set pid_file"));
    }
}

#[test]
fn a_file_that_cannot_be_believed_is_refused() {
    let home = Home::new();
    std::os::unix::fs::symlink("/proc/self/stat", home.pid_file()).unwrap();
    control(&home, &["--stop"]).expect_not(1, "it is a symbolic link");
    fs::remove_file(home.pid_file()).unwrap();
    fs::create_dir(home.pid_file()).unwrap();
    control(&home, &["--stop"]).expect_not(1, "it is no regular file");
}

#[test]
fn somebody_elses_server_cannot_be_told() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let flow = Flow::started(&mut home.command());
    let program = home.path("server");
    let copied = Command::new("cp").arg(common::example("flow_server")).arg(&program).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(&program);
    let answer = answer(command.args([&home.pid_option(), "--stop"]).uid(65_534).gid(65_534));
    answer.expect_not(1, &format!("cannot signal pid {}: Operation not permitted", flow.child.id()));
    says(&mut flow.client(), "untouched");
    flow.stop();
}

#[test]
fn a_mistake_on_the_command_line_or_in_the_file_does_nothing() {
    let home = Home::new();
    let flow = Flow::started(&mut home.command());
    control(&home, &["--stop", "--reload"]).expect_not(2, "--reload: not together with --stop");
    control(&home, &["--wait"]).expect_not(2, "--wait: it belongs to --reload or --stop");
    fs::write(home.path("x.toml"), "prot = 1\n").unwrap();
    let file = format!("--conf_file={}", home.path("x.toml").display());
    control(&home, &["--reload", "--wait", &file]).expect_not(1, "x.toml:1:1: unknown key `prot`");
    assert_eq!(home.status("restarts_started"), Some("0".to_owned()));
    flow.stop();
}

// ── reload ──

#[test]
fn reload_and_wait_tells_that_the_restart_is_done() {
    let server = Detached::start(&[]);
    for generation in 1..=3 {
        let answer = control(&server.home, &["--reload", "--wait"]);
        answer.expect_done(&format!("pid {} has reloaded: restart {generation} done\n", server.pid));
        assert_eq!(server.home.status("generation"), Some(generation.to_string()));
        assert_eq!(server.home.pid(), Some(server.pid));
        server.client();
    }
    control(&server.home, &["--reload"]).expect_done(&format!("pid {} was told to reload\n", server.pid));
    wait_until("that one is done too", || server.home.status("generation").as_deref() == Some("4"));
}

// E4, E6
#[test]
fn reload_and_wait_tells_why_the_restart_failed_and_the_server_goes_on() {
    let home = Home::new();
    let file = home.path("x.toml");
    fs::write(&file, "port = '127.0.0.1:0'\n").unwrap();
    let mut command = server();
    command.args([&home.pid_option(), &home.log_option(), "--background", "--conf_file"]).arg(&file);
    let server = Detached::started(home, &mut command);
    let mut client = server.client();
    let busy = TcpListener::bind((own_address(), 0)).unwrap();
    let port = busy.local_addr().unwrap();
    // A port that somebody has is found by the trial of the new image only.
    fs::write(&file, format!("port = ['127.0.0.1:0', '{port}']\n")).unwrap();
    for _ in 0..2 {
        let answer = control(&server.home, &["--reload", "--wait"]);
        let why = format!("pid {} has not reloaded: cannot listen on {port}", server.pid);
        answer.expect_not(1, &why);
        assert_eq!(server.home.status("ok").as_deref(), Some("0"));
        assert_eq!(server.home.status("generation").as_deref(), Some("0"));
        says(&mut client, "the same client");
    }
    drop(busy);
    // A process that another test is just starting may hold it for a moment longer.
    wait_until("the port is free and the restart done", || {
        control(&server.home, &["--reload", "--wait"]).status == Some(0)
    });
    assert_eq!(server.home.status("generation").as_deref(), Some("1"));
}

// A35
#[test]
fn a_file_that_is_read_if_it_exists_and_is_gone_is_not_taken_for_the_defaults() {
    for on_hup in ["handover", "reload"] {
        let home = Home::new();
        let file = home.path("config").join("samplechat.toml");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, "deny = '127.0.0.1'\n").unwrap();
        let words = [home.pid_option(), format!("--on_hup={on_hup}"), "--port=127.0.0.1:0".to_owned()];
        let chat = || {
            let mut command = Command::new(common::example("samplechat"));
            command.args(&words).current_dir(home.0.path());
            command
        };
        let mut server = Child::spawn(&mut chat());
        let addr = server.wait_for_address();
        let denied = || Client::connect(addr).expect("Sorry, you are not allowed here.\r\n");
        denied();
        fs::remove_file(&file).unwrap();
        let why = format!("has not reloaded: the configuration file {} is gone", file.display());
        answer(chat().args(["--reload", "--wait"])).expect_not(1, &why);
        denied();
        fs::write(&file, "").unwrap();
        let answer = answer(chat().args(["--reload", "--wait"]));
        assert_eq!(answer.status, Some(0), "{}", answer.text);
        Client::connect(addr).expect("JOIN: ");
        server.signal("TERM");
        assert!(server.expect_exit().success());
    }
}

#[test]
fn a_reload_that_is_asked_for_during_another_waits_for_its_own() {
    let server = Detached::start(&[]);
    let mut asking: Vec<Child> = (0..8)
        .map(|_| Child::spawn(running::server().args([&server.home.pid_option(), "--reload", "--wait"])))
        .collect();
    for child in &mut asking {
        let status = child.expect_exit();
        child.expect_log();
        assert_eq!(status.code(), Some(0), "{child}\n{}", server.home.log());
    }
    server.client();
}

#[test]
fn on_hup_decides_what_a_reload_is() {
    let home = Home::new();
    let mut flow = Flow::started(home.command().arg("--on_hup=ignore"));
    let pid = flow.child.id();
    for words in [&["--reload"][..], &["--reload", "--wait"]] {
        control(&home, &[words, &["--on_hup=ignore"]].concat())
            .expect_not(1, "--reload: on_hup is `ignore`, so nothing would happen");
    }
    flow.child.signal("HUP");
    let mut client = flow.client();
    says(&mut client, "the same client");
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
    assert_eq!(home.status("generation"), None);

    let home = Home::new();
    let mut flow = Flow::started(home.command().args(["--on_hup=reload", "--log_level=2"]));
    let mut client = flow.client();
    let answer = control(&home, &["--reload", "--wait", "--on_hup=reload"]);
    let pid_now = flow.child.id();
    assert_ne!(pid, pid_now);
    answer.expect_done(&format!("pid {pid_now} has reloaded: the configuration was read again\n"));
    says(&mut client, "the same client");
    assert_eq!(home.status("generation").as_deref(), Some("0"));
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
}

#[test]
fn a_server_that_dies_instead_of_reloading_is_told() {
    if !has_proc() {
        return;
    }
    let home = Home::new();
    let mut flow = Flow::started(&mut home.command());
    let pid = flow.child.id();
    // It stands still, so that the signal stays where it can be seen.
    flow.child.signal("STOP");
    wait_until("it stands still", || status_line(pid, "State").starts_with('T'));
    let mut reloading = Child::spawn(server().args([&home.pid_option(), "--reload", "--wait"]));
    wait_until("it was told", || status_line(pid, "ShdPnd").ends_with('1'));
    flow.child.signal("KILL");
    flow.child.expect_exit();
    assert_eq!(reloading.expect_exit().code(), Some(1));
    reloading.wait_for(&format!("flow_server: pid {pid} has ended instead of reloading"));
    control(&home, &["--reload", "--wait"]).expect_not(1, &format!("is left over from pid {pid}"));
}
