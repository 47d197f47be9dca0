//! The life of a server process: start, signals, close, and everything that can refuse or end it.
//!
//! Each test runs a process of its own: the example `hooks`, or the server of tests/flow/server.rs, which does what its
//! clients say. A signal goes to that process alone. Nothing is waited for but lines, bytes, files and ends.
//! The numbers in the comments are those of the acceptance cases of the flow that this one carries over.

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::{Child, Client, TempDir, example};
use running::{Flow, refused, says, server, unix};

// ── order ──

// A26
#[test]
fn every_hook_and_callback_comes_in_its_order() {
    let mut command = Command::new(example("hooks"));
    let (mut child, mut told) = Child::spawn_told(command.args(["--port=127.0.0.1:0", "--log_level=4"]));
    for line in [
        "configure_hook",
        "post_configure_hook: 1 listener(s)",
        "pre_bind_hook",
        "post_bind_hook",
        "pre_loop_hook: 1 listener(s) open",
    ] {
        assert_eq!(told.expect_line(), line);
    }
    let addr = child.wait_for_address();
    let mut tells = |lines: &[&str]| {
        for line in lines {
            assert_eq!(told.expect_line(), *line);
        }
    };
    let mut a = Client::connect(addr);
    tells(&["post_accept_hook: #1 from 127.0.0.1", "allow_deny_hook: #1", "client: #1", "connection: #1"]);
    a.send("hello\r\n");
    tells(&["input: #1, 7 bytes", "drained: #1"]);
    a.expect("5 bytes\r\n");
    a.send("wake\n");
    tells(&["input: #1, 5 bytes", "wake: #1"]);
    a.send("wait\n");
    tells(&["input: #1, 5 bytes", "timeout: #1"]);
    child.signal("USR2");
    tells(&["signal_hook: SIGUSR2"]);
    // A peer that the hook denies has no client and no callback.
    a.send("deny\n");
    tells(&["input: #1, 5 bytes"]);
    let mut b = Client::connect(addr);
    tells(&["post_accept_hook: #2 from 127.0.0.1", "allow_deny_hook: #2", "request_denied_hook: #2"]);
    let _ = b.try_send("let me in\n");
    b.expect("not you\r\n");
    b.expect_eof();
    drop(b);
    tells(&["post_process_request_hook: #2 Denied"]);
    // The end of a client's stream, with half a line before it.
    a.send("left");
    tells(&["input: #1, 4 bytes"]);
    a.half_close();
    tells(&["eof: #1, 4 bytes left", "post_process_request_hook: #1 Served", "close: #1 (eof)"]);
    a.expect_eof();
    // One that the server closes, and one that is there when it stops.
    let mut c = Client::connect(addr);
    c.send("close\n");
    c.expect_eof();
    drop(c);
    tells(&["post_accept_hook: #3 from 127.0.0.1", "allow_deny_hook: #3", "client: #3", "connection: #3"]);
    tells(&["input: #3, 6 bytes", "post_process_request_hook: #3 Served", "close: #3 (asked)"]);
    let mut d = Client::connect(addr);
    tells(&["post_accept_hook: #4 from 127.0.0.1", "allow_deny_hook: #4", "client: #4", "connection: #4"]);
    child.signal("TERM");
    tells(&["pre_server_close_hook: Stop", "post_process_request_hook: #4 Served", "close: #4 (shutdown)"]);
    tells(&["post_child_cleanup_hook"]);
    told.expect_eof();
    d.expect_eof();
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

#[test]
fn a_hook_that_refuses_ends_the_start_with_status_1_and_its_reason() {
    for hook in ["post_configure_hook", "pre_bind_hook", "post_bind_hook", "pre_loop_hook"] {
        let directory = TempDir::new();
        let path = directory.path().join("s");
        let (status, log) = refused(server().arg(unix(&path)).env("FLOW_REFUSE", hook));
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains(&format!("flow_server: {hook} refuses")), "{log}");
        assert!(!path.exists(), "{hook}: the path stays");
    }
}

// ── stopping ──

// A28
#[test]
fn term_int_and_quit_end_an_idle_server_with_status_0_and_leave_no_path() {
    for signal in ["TERM", "INT", "QUIT"] {
        let directory = TempDir::new();
        let path = directory.path().join("s");
        let mut flow = Flow::start(&["--port=127.0.0.1:0", &unix(&path)]);
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        flow.child.signal(signal);
        let (status, log) = flow.ended();
        assert_eq!(status, Some(0), "{signal}: {log}");
        assert!(!path.exists(), "{signal}");
        let last = log.lines().last().unwrap();
        assert!(
            last.ends_with("flow_server closing; clients told goodbye: 0, cut off: 0"),
            "{signal}: {log}"
        );
        assert_eq!(flow.told.expect_to_eof(), b"pre_server_close_hook: Stop\npost_child_cleanup_hook\n");
    }
}

#[test]
fn ctrl_c_says_how_many_clients_were_told_goodbye() {
    let mut flow = Flow::start(&[]);
    let mut clients = [flow.client(), flow.client(), flow.client()];
    flow.child.signal("INT");
    flow.child.wait_for("closing; clients told goodbye: 3, cut off: 0");
    for client in &mut clients {
        client.expect_eof();
    }
    assert_eq!(flow.ended().0, Some(0));
}

/// A server with one client that is owed far more than the kernel takes at once and has read one byte of it.
#[track_caller]
fn with_a_debt(options: &[&str]) -> (Flow, Client) {
    let patient = ["--output_hard_bytes=64M", "--drain_seconds=600", "--linger_seconds=600"];
    let flow = Flow::start(&[&patient, options].concat());
    let mut client = flow.client();
    client.send(format!("big {DEBT}\n"));
    client.expect("x");
    (flow, client)
}

const DEBT: usize = 32 * 1024 * 1024;

// A28
#[test]
fn quit_sends_everybody_what_is_owed_before_it_ends() {
    let (mut flow, mut client) = with_a_debt(&["--stop_seconds=600"]);
    flow.child.signal("QUIT");
    assert_eq!(flow.told.expect_line(), "pre_server_close_hook: Stop");
    let rest = client.expect_to_eof();
    assert_eq!(rest.len(), DEBT - 1);
    assert!(rest.iter().all(|byte| *byte == b'x'));
    drop(client);
    let (status, log) = flow.ended();
    assert_eq!(status, Some(0));
    assert!(log.contains("closing; clients told goodbye: 1, cut off: 0"), "{log}");
    assert_eq!(flow.told.expect_to_eof(), b"close: #1 (shutdown)\npost_child_cleanup_hook\n");
}

// A28
#[test]
fn a_second_signal_cuts_a_graceful_stop_short() {
    for second in ["QUIT", "TERM", "INT"] {
        let (mut flow, _client) = with_a_debt(&["--stop_seconds=600"]);
        flow.child.signal("QUIT");
        assert_eq!(flow.told.expect_line(), "pre_server_close_hook: Stop");
        flow.child.signal(second);
        let (status, log) = flow.ended();
        assert_eq!(status, Some(0), "{second}");
        assert!(log.contains("closing; clients told goodbye: 0, cut off: 1"), "{second}: {log}");
        // The hook does not come again.
        assert_eq!(flow.told.expect_to_eof(), b"close: #1 (shutdown)\npost_child_cleanup_hook\n");
    }
}

#[test]
fn a_graceful_stop_ends_by_itself_when_its_time_is_over() {
    let (mut flow, _client) = with_a_debt(&["--stop_seconds=0.1"]);
    flow.child.signal("QUIT");
    let (status, log) = flow.ended();
    assert_eq!(status, Some(0));
    assert!(log.contains("closing; clients told goodbye: 0, cut off: 1"), "{log}");
}

#[test]
fn term_waits_for_nobody_who_does_not_read() {
    let (mut flow, _client) = with_a_debt(&[]);
    flow.child.signal("TERM");
    let (status, log) = flow.ended();
    assert_eq!(status, Some(0));
    assert!(log.contains("closing; clients told goodbye: 0, cut off: 1"), "{log}");
}

// A29
#[test]
fn a_signal_that_comes_during_a_callback_is_acted_on_when_it_returns() {
    let directory = TempDir::new();
    let path = directory.path().join("busy");
    let listener = UnixListener::bind(&path).unwrap();
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send(format!("wait {}\n", path.display()));
    let (busy, _) = listener.accept().unwrap();
    flow.child.signal("TERM");
    // No traffic from here on but the end of the callback.
    drop(busy);
    assert_eq!(flow.told.expect_line(), "waited");
    assert_eq!(flow.told.expect_line(), "pre_server_close_hook: Stop");
    client.expect_eof();
    assert_eq!(flow.ended().0, Some(0));
}

// A65
#[test]
fn a_callback_may_stop_the_server_with_a_status_of_its_own() {
    let mut flow = Flow::start(&[]);
    let (mut a, mut b) = (flow.client(), flow.client());
    a.send("last words\nstop 3\n");
    a.expect("last words\n");
    a.expect_eof();
    b.expect_eof();
    let (status, log) = flow.ended();
    assert_eq!(status, Some(3), "{log}");
    assert!(log.contains("closing; clients told goodbye: 2, cut off: 0"), "{log}");
    let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
    assert!(told.starts_with("pre_server_close_hook: Stop\n"), "{told}");
    assert!(told.ends_with("\npost_child_cleanup_hook\n"), "{told}");
}

// A65
#[test]
fn a_fatal_error_calls_its_hook_first_and_ends_with_status_1() {
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send("fatal the disk is gone\n");
    client.expect_eof();
    let (status, log) = flow.ended();
    assert_eq!(status, Some(1), "{log}");
    assert_eq!(log.matches("the disk is gone").count(), 1, "{log}");
    assert!(log.lines().last().unwrap().ends_with("flow_server: the disk is gone"), "{log}");
    let told = "fatal_hook: the disk is gone\npre_server_close_hook: Stop\nclose: #1 (shutdown)\n\
                post_child_cleanup_hook\n";
    assert_eq!(String::from_utf8(flow.told.expect_to_eof()).unwrap(), told);
}

// A65, A79
#[test]
fn a_fatal_error_is_on_standard_error_and_in_the_log_even_at_level_0() {
    let directory = TempDir::new();
    let log_file = directory.path().join("log");
    let mut flow = Flow::start(&["--log_level=0", &format!("--log_file={}", log_file.display())]);
    let client = flow.client();
    client.send("fatal the disk\x1b[2J is gone\n");
    let (status, stderr) = flow.ended();
    assert_eq!(status, Some(1));
    assert_eq!(stderr, "flow_server: the disk%1B[2J is gone");
    let log = fs::read_to_string(&log_file).unwrap();
    assert!(log.ends_with(" error flow_server: the disk%1B[2J is gone\n"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

// ── refusing to start ──

// A44
#[test]
fn ports_in_use_are_all_named_with_cause_and_remedy() {
    let busy = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let addrs = busy.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let ports = addrs.each_ref().map(|addr| format!("--port={addr}"));
    for log_level in ["--log_level=2", "--log_level=0"] {
        let (status, log) = refused(server().args(&ports).args(["--port=127.0.0.1:0", log_level]));
        assert_eq!(status, Some(1), "{log}");
        for addr in &addrs {
            let line = log
                .lines()
                .find(|line| line.contains(addr.as_str()))
                .unwrap_or_else(|| panic!("{addr}: {log}"));
            assert!(line.contains("another program listens there; stop it or choose another port"), "{line}");
            assert!(line.contains("Address already in use"), "{line}");
        }
    }
}

// A50
#[test]
fn all_mistakes_of_a_file_are_told_at_once_with_their_places() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(
        &file,
        "port = 99999\nlog_levle = 2\nlog_level = 'loud'\n\ndeny = [\"10.0.0.1\", \"10.0.0.1/8\"]\n  idle_seconds = -1\n",
    )
    .unwrap();
    let (status, log) = refused(server().arg(format!("--conf_file={}", file.display())));
    assert_eq!(status, Some(1), "{log}");
    let file = file.display();
    for place in [
        format!("{file}:1:8: port: "),
        format!("{file}:2:1: unknown key `log_levle`; did you mean `log_level`?"),
        format!("{file}:3:13: log_level: "),
        format!("{file}:5:21: deny"),
        format!("{file}:6:18: idle_seconds: "),
    ] {
        assert!(log.contains(&place), "no {place}: {log}");
    }
    assert_eq!(log.lines().filter(|line| line.contains("x.toml:")).count(), 5, "{log}");
}

// A50
#[test]
fn a_file_that_is_no_toml_or_is_missing_is_named() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    let option = format!("--conf_file={}", file.display());
    let (status, log) = refused(server().arg(&option));
    assert!(log.contains(&file.display().to_string()), "{log}");
    assert_eq!(status, Some(2), "the command line named it: {log}");
    fs::write(&file, "port = 1\nhost = \n").unwrap();
    let (status, log) = refused(server().arg(&option));
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains(&format!("{}:2:", file.display())), "{log}");
}

// A50
#[test]
fn mistakes_of_the_command_line_end_with_status_2_all_at_once() {
    let (status, log) = refused(server().args(["--prot=1", "--port=99999", "stray", "--log_level"]));
    assert_eq!(status, Some(2), "{log}");
    for what in ["--prot", "did you mean", "99999", "`stray`", "--log_level"] {
        assert!(log.contains(what), "no {what}: {log}");
    }
    assert_eq!(log.lines().count(), 4, "{log}");
}

// A50
#[test]
fn settings_that_no_application_takes_are_refused() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(&file, "[app]\ngreeting = 'hello'\n").unwrap();
    let (status, log) = refused(server().args(["--port=127.0.0.1:0", "--conf_file"]).arg(&file));
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains(&format!("{}:2:1: app: unknown key `greeting`", file.display())), "{log}");
}

#[test]
fn a_log_that_cannot_be_opened_refuses_to_start() {
    let directory = TempDir::new();
    let path = directory.path().join("none").join("log");
    let (status, log) = refused(server().args(["--port=127.0.0.1:0", "--log_file"]).arg(&path));
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains(&path.display().to_string()) && log.contains("No such file"), "{log}");
}

// ── the tick ──

// A57
#[test]
fn check_for_dequeue_works_from_code_from_the_file_and_from_the_command_line() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(&file, "check_for_dequeue = 0.01\n").unwrap();
    let mut from_code = server();
    from_code.env("FLOW_SET", "check_for_dequeue=0.01");
    let mut from_file = server();
    from_file.arg("--conf_file").arg(&file);
    let mut from_line = server();
    from_line.arg("--check-for-dequeue=0.01");
    for mut command in [from_code, from_file, from_line] {
        let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
        for _ in 0..3 {
            assert_eq!(flow.told.expect_line(), "run_dequeue", "{command:?}");
        }
        flow.stop();
    }
}

// A57
#[test]
fn check_for_dequeue_0_is_never_and_a_stronger_source_decides() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(&file, "check_for_dequeue = 0.01\n").unwrap();
    let mut from_code = server();
    from_code.arg("--check_for_dequeue=0.01").env("FLOW_SET", "check_for_dequeue=0");
    let mut from_line = server();
    from_line.arg("--check_for_dequeue=0");
    for mut command in [from_code, from_line] {
        let mut flow = Flow::started(command.args(["--port=127.0.0.1:0", "--conf_file"]).arg(&file));
        let client = flow.client();
        client.send("timer 0.2\n");
        // Twenty ticks would have come before it.
        assert_eq!(flow.told.expect_line(), "timeout: #1", "{command:?}");
        flow.stop();
    }
}

// A57
#[test]
fn a_configuration_from_code_is_run_without_file_and_command_line() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let mut flow = Flow::started(server().arg("--no-such-option").env("FLOW_RUN_WITH", &path));
    assert_eq!(flow.addrs, [path.display().to_string()]);
    assert_eq!(flow.told.expect_line(), "run_dequeue");
    flow.client();
    flow.stop();
}

// ── failures ──

// A66
#[test]
fn a_panic_in_a_callback_costs_its_connection_and_is_in_the_log() {
    let mut flow = Flow::start(&[]);
    let (mut a, mut b) = (flow.client(), flow.client());
    a.send("panic at the disco\n");
    // Cut: whether the rest of its input makes that a reset is not ours to say.
    let _ = a.next_to_eof();
    assert_eq!(flow.told.expect_line(), "close: #1 (panicked)");
    says(&mut b, "still served");
    let log = flow.stop();
    assert!(log.contains(" error input panicked: at the disco"), "{log}");
    assert!(log.contains("tests/flow/driven.rs:"), "the place of the panic: {log}");
    assert!(log.lines().all(|line| line.contains("Z ")), "nothing goes past the log: {log}");
}

// A66
#[test]
fn an_error_of_a_callback_costs_its_connection_after_what_was_written() {
    let mut flow = Flow::start(&[]);
    let (mut a, mut b) = (flow.client(), flow.client());
    a.send("before\nfail to see the point\nafter\n");
    a.expect("before\n");
    a.expect_eof();
    drop(a);
    assert_eq!(flow.told.expect_line(), "close: #1 (failed: to see the point)");
    says(&mut b, "still served");
    let log = flow.stop();
    assert!(log.contains("input: to see the point"), "{log}");
}

// A66
#[test]
fn a_panic_in_a_hook_is_logged_and_the_loop_goes_on() {
    let mut flow = Flow::start(&[]);
    let mut a = flow.client();
    says(&mut a, "one");
    a.send("panic-next\n");
    says(&mut a, "asked");
    flow.child.signal("USR2");
    assert_eq!(flow.told.expect_line(), "signal_hook: SIGUSR2");
    says(&mut a, "two");
    // In `client` it refuses that peer.
    a.send("panic-next\n");
    says(&mut a, "asked");
    let mut b = Client::connect(&flow.addrs[0]);
    let _ = b.next_to_eof();
    assert!(b.received().is_empty());
    flow.client();
    says(&mut a, "three");
    let log = flow.stop();
    assert!(log.contains("signal_hook panicked: signal_hook was asked to panic"), "{log}");
}

// A66
#[test]
fn on_panic_abort_ends_the_process_with_the_reason() {
    let mut flow = Flow::start(&["--on_panic=abort"]);
    let client = flow.client();
    client.send("panic for good\n");
    let status = flow.child.expect_exit();
    assert_eq!((status.code(), status.signal()), (None, Some(6)), "SIGABRT");
    let log = flow.child.expect_log().join("\n");
    assert!(log.contains("input panicked, aborting as on_panic says: for good"), "{log}");
}

// ── other signals ──

// A82
#[test]
fn signals_that_are_the_applications_reach_its_hook_and_all_are_survived() {
    let mut flow = Flow::start(&["--log_level=4"]);
    let mut client = flow.client();
    for signal in ["USR2", "ALRM", "TTIN", "TTOU"] {
        flow.child.signal(signal);
        assert_eq!(flow.told.expect_line(), format!("signal_hook: SIG{signal}"));
        says(&mut client, signal);
    }
    for signal in ["USR1", "PIPE", "CHLD", "WINCH", "XFSZ"] {
        flow.child.signal(signal);
        says(&mut client, signal);
    }
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
    // None of the second list is the hook's.
    assert_eq!(flow.told.expect_line(), "pre_server_close_hook: Stop");
}

#[test]
fn a_panic_in_a_hook_of_a_reload_is_logged_and_the_loop_goes_on() {
    let mut flow = Flow::start(&["--on_hup=reload"]);
    let mut client = flow.client();
    says(&mut client, "the same client");
    client.send("panic-next\n");
    says(&mut client, "it will");
    flow.child.signal("HUP");
    assert_eq!(flow.told.expect_line(), "reload_hook: 1 listener(s)");
    let line = flow.child.wait_for("reload failed");
    assert!(line.contains("nothing has changed: reload_hook panicked"), "{line}");
    flow.child.signal("HUP");
    assert_eq!(flow.told.expect_line(), "reload_hook: 1 listener(s)");
    flow.child.wait_for("the configuration was read again");
    says(&mut client, "the same client");
    flow.stop();
}
