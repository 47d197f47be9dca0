//! Servers in the background: what the launcher says, what it leaves behind, and what is set whatever the server was
//! started with.
//!
//! Each server is nobody's child: it is found by its pid file and ended at the end of its test.

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/detached.rs"]
mod detached;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::served::{has_proc, wait_until};
use common::{Child, example};
use detached::{Detached, Home, is_alive, signal, status_line};
use running::says;

// ── leaving ──

// E19, E9
#[test]
fn a_server_in_the_background_serves_when_its_launcher_ends_and_has_left_everything() {
    if !has_proc() {
        return;
    }
    for option in ["--background", "--setsid"] {
        let home = Home::new();
        let mut command = home.command();
        let server = Detached::started(home, command.arg(option));
        assert_eq!(server.said, "", "{option}");
        server.client();
        let pid = server.pid;
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        for stream in ["fd/0", "fd/1", "fd/2"] {
            assert_eq!(link(stream).to_str(), Some("/dev/null"), "{option}: {stream}");
        }
        assert_eq!(link("cwd").to_str(), Some("/"), "{option}");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // proc(5): state, parent, group, session, terminal.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!(fields[2..=4], [&pid.to_string(), &pid.to_string(), "0"], "{option}: {stat}");
        assert_eq!(status_line(pid, "Umask"), "0027", "{option}");
        assert_eq!(fs::metadata(server.home.path("log")).unwrap().mode() & 0o777, 0o640, "{option}");
        let log = server.stop();
        assert!(log.contains(&format!("starting, pid {pid}")), "{log}");
        assert!(log.contains("closing; clients told goodbye: "), "{log}");
    }
}

#[test]
fn the_launcher_is_the_parent_of_nobody_and_both_write_what_was_buffered_once() {
    let server = Detached::start(&["--log_level=4"]);
    // `ready` is on standard output once; the launcher has not written it too.
    assert_eq!(server.addrs.len(), 1);
    let log = server.stop();
    assert_eq!(log.matches("starting, pid").count(), 1, "{log}");
}

#[test]
fn a_log_on_standard_error_stays_there() {
    let home = Home::new();
    let mut command = running::server();
    command.args([&home.pid_option(), "--port=127.0.0.1:0", "--background", "--log_level=3"]);
    let (mut launcher, _told) = Child::spawn_told(&mut command);
    launcher.wait_for("warn  background: the log stays on standard error; set log_file");
    assert!(launcher.expect_exit().success());
    let pid = home.pid().unwrap();
    // The stream is held by the server until it ends.
    signal(pid, "TERM");
    launcher.wait_for("closing; clients told goodbye: 0");
    launcher.expect_log();
    wait_until("it has ended", || !is_alive(pid));
}

#[test]
fn a_umask_that_is_asked_for_is_set_in_the_foreground_and_in_the_background() {
    if !has_proc() {
        return;
    }
    let server = Detached::start(&["--umask=077"]);
    assert_eq!(status_line(server.pid, "Umask"), "0077");
    assert_eq!(fs::metadata(server.home.path("log")).unwrap().mode() & 0o777, 0o600);
    drop(server);
    let flow = running::Flow::start(&["--umask=0012"]);
    assert_eq!(status_line(flow.child.id(), "Umask"), "0012");
    flow.stop();
}

// ── failing ──

// A43, E19
#[test]
fn a_port_in_use_ends_the_launcher_with_status_1_and_the_reason() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().to_string();
    let home = Home::new();
    let launched = home.launch(home.command().args(["--background", "--port", &port]));
    assert_eq!(launched.status.code(), Some(1), "{}", launched.said);
    let expected = format!("cannot listen on {port}: another program listens there");
    assert!(launched.said.contains(&expected), "{}", launched.said);
    assert!(launched.said.contains("flow_server: "), "{}", launched.said);
    assert_eq!(launched.said.lines().count(), 1, "{}", launched.said);
    assert!(home.log().contains(&expected), "{}", home.log());
    assert!(!home.pid_file().exists() && !home.status_file().exists());
    assert!(!launched.told.lines().any(|line| line.starts_with("ready ")), "{}", launched.told);
}

// A43
#[test]
fn whatever_ends_a_start_ends_the_launcher_with_its_status() {
    for (name, value, status, reason) in [
        ("FLOW_REFUSE", "post_configure_hook", 1, "post_configure_hook refuses"),
        ("FLOW_REFUSE", "pre_loop_hook", 1, "pre_loop_hook refuses"),
        ("FLOW_DO", "post_bind_hook panic", 101, ""),
        ("FLOW_DO", "pre_bind_hook abort", 1, "flow_server: signal 6 ended it before it was ready"),
        ("FLOW_DO", "configure_hook thread", 1, "cannot go into the background"),
    ] {
        let home = Home::new();
        let launched = home.launch(home.command().arg("--background").env(name, value));
        assert_eq!(launched.status.code(), Some(status), "{value}: {}", launched.said);
        assert!(launched.said.contains(reason), "{value}: {}", launched.said);
        // What was aborted could take nothing away. It is no obstacle to the next one.
        assert_eq!(home.pid_file().exists(), value.ends_with("abort"), "{value}");
        let mut command = home.command();
        Detached::started(home, command.arg("--background")).stop();
    }
}

#[test]
fn a_start_that_is_over_before_it_serves_is_no_success() {
    let home = Home::new();
    let gate = Gate::new(&home);
    let mut launcher = Child::spawn(
        home.command().args(["--background", "--log_level=4"]).env("FLOW_DO", gate.at("pre_loop_hook")),
    );
    let _held = gate.wait_for_it();
    // Killed from outside, while it starts.
    signal(home.pid().unwrap(), "KILL");
    assert_eq!(launcher.expect_exit().code(), Some(1));
    launcher.wait_for("flow_server: signal 9 ended it before it was ready");
}

#[test]
fn a_signal_that_comes_during_the_start_is_acted_on_when_it_serves() {
    let home = Home::new();
    let gate = Gate::new(&home);
    let mut launcher =
        Child::spawn(home.command().arg("--background").env("FLOW_DO", gate.at("pre_loop_hook")));
    let held = gate.wait_for_it();
    let pid = home.pid().unwrap();
    signal(pid, "TERM");
    drop(held);
    assert_eq!(launcher.expect_exit().code(), Some(0));
    wait_until("it has ended", || !is_alive(pid));
    assert!(!home.pid_file().exists());
}

#[test]
fn a_launcher_that_is_ended_takes_the_start_with_it() {
    for name in ["INT", "TERM", "KILL", "HUP"] {
        let home = Home::new();
        let gate = Gate::new(&home);
        let mut launcher =
            Child::spawn(home.command().arg("--background").env("FLOW_DO", gate.at("pre_loop_hook")));
        let held = gate.wait_for_it();
        let pid = home.pid().unwrap();
        launcher.signal(name);
        assert!(launcher.expect_exit().signal().is_some(), "{name}");
        drop(held);
        wait_until("the server has ended", || !is_alive(pid));
        let log = home.log();
        assert!(
            log.contains("whoever started it has ended before it was ready, so it does not serve"),
            "{log}"
        );
        assert!(!home.pid_file().exists(), "{name}");
    }
}

#[test]
fn a_check_stays_in_the_foreground_and_takes_no_pid_file() {
    let home = Home::new();
    let launched = home.launch(home.command().args(["--background", "--check"]));
    assert_eq!(launched.status.code(), Some(0), "{}", launched.said);
    assert_eq!(launched.told, "the configuration is valid\n");
    assert!(!home.pid_file().exists());
}

// ── whatever it was started with ──

// F21
#[test]
fn a_server_that_is_started_with_everything_odd_serves_and_stops() {
    if !has_env_with_signals() || !has_proc() {
        return;
    }
    for option in ["--background", "--keepalive"] {
        let home = Home::new();
        let gone = home.path("gone");
        fs::create_dir(&gone).unwrap();
        // The working directory is gone, new files get no rights, every signal is blocked, and some are ignored.
        let script = format!(
            "cd {0} && rmdir {0} && umask 0777 && exec nice -n 7 env --block-signal --ignore-signal=CHLD \
             --ignore-signal=HUP --ignore-signal=TERM --ignore-signal=INT --ignore-signal=QUIT \"$0\" \"$@\"",
            gone.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(example("flow_server"));
        command.args([home.pid_option(), home.log_option(), "--port=127.0.0.1:0".to_owned()]).arg(option);
        if option == "--background" {
            let server = Detached::started(home, &mut command);
            assert_eq!(status_line(server.pid, "SigBlk"), "0000000000000000");
            assert_eq!(status_line(server.pid, "Umask"), "0027");
            assert_eq!(fs::metadata(server.home.pid_file()).unwrap().mode() & 0o777, 0o644);
            server.client();
            server.stop();
        } else {
            let flow = running::Flow::started(&mut command);
            assert_eq!(status_line(flow.child.id(), "SigBlk"), "0000000000000000");
            assert_eq!(fs::metadata(home.pid_file()).unwrap().mode() & 0o777, 0o644);
            says(&mut flow.client(), "all the same");
            flow.stop();
            assert!(!home.pid_file().exists());
        }
    }
}

// F21
#[test]
fn a_launcher_whose_children_are_thrown_away_still_knows_their_status() {
    if !has_env_with_signals() {
        return;
    }
    let home = Home::new();
    let mut command = Command::new("env");
    command.args(["--ignore-signal=CHLD", "--block-signal"]).arg(example("flow_server"));
    command.args([home.pid_option(), "--background".to_owned(), "--port=127.0.0.1:0".to_owned()]);
    let launched = home.launch(command.env("FLOW_DO", "post_bind_hook panic"));
    assert_eq!(launched.status.code(), Some(101), "{}", launched.said);
}

/// Where a hook of a server waits until it is let go.
struct Gate {
    listener: UnixListener,
    path: String,
}

impl Gate {
    fn new(home: &Home) -> Self {
        let path = home.path("gate").display().to_string();
        Self { listener: UnixListener::bind(&path).expect("the path is free"), path }
    }

    /// The value of `FLOW_DO` that has `hook` wait here.
    fn at(&self, hook: &str) -> String {
        format!("{hook} wait {}", self.path)
    }

    /// Waits until the hook is here; what is given holds it as long as it lives.
    #[must_use]
    fn wait_for_it(&self) -> UnixStream {
        self.listener.accept().expect("a connection can be taken").0
    }
}

/// Whether `env` can block signals; says so when it cannot.
fn has_env_with_signals() -> bool {
    let there = Command::new("env").args(["--block-signal=USR1", "true"]).output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: env cannot block signals here");
    }
    there
}
