//! Signals that come while a restart is under way: again SIGHUP, and all the others.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::common::served::long_form;
use crate::common::{Client, TempDir};
use crate::leaving::{MUCH, PATIENT, pattern};
use crate::running::{Flow, Gate, quiet, says, server, wait_until};

/// A server with a configuration file that says where to listen; `wish` is done at the gate.
fn with_file(directory: &TempDir, gate: &Gate, wish: &str) -> Flow {
    let file = directory.path().join("x.toml");
    write_ports(&file, 1);
    let mut command = server();
    command.env("FLOW_AT", gate.at(wish));
    Flow::started(command.arg("--conf_file").arg(file))
}

/// So many ports that the system chooses.
fn write_ports(file: &Path, count: usize) {
    let ports = vec!["'127.0.0.1:0'"; count].join(", ");
    // Nobody may read half of it.
    let beside = file.with_extension("new");
    fs::write(&beside, format!("port = [{ports}]\n")).expect("a fresh directory is writable");
    fs::rename(beside, file).expect("a fresh directory is writable");
}

/// Waits for the image that has read the file with so many ports.
#[track_caller]
fn expect_ports(flow: &mut Flow, count: usize) {
    while flow.addrs.len() != count {
        flow.told_until_ready();
    }
}

// A34
#[test]
fn two_hups_20_ms_apart_are_survived_and_the_second_is_done() {
    let directory = TempDir::new();
    let mut flow = with_file(&directory, &Gate::new(), "none:none=wait");
    let mut client = flow.client();
    for count in 2..=6 {
        flow.child.signal("HUP");
        // The case itself.
        thread::sleep(Duration::from_millis(20));
        write_ports(&directory.path().join("x.toml"), count);
        flow.child.signal("HUP");
        expect_ports(&mut flow, count);
        says(&mut client, "still here");
    }
    quiet(&flow.stop());
}

// A34
#[test]
fn a_hundred_hups_in_a_burst_are_survived_and_the_last_is_done() {
    let directory = TempDir::new();
    let mut flow = with_file(&directory, &Gate::new(), "none:none=wait");
    let mut client = flow.client();
    let rounds = if long_form() { 50 } else { 3 };
    for count in 2..2 + rounds {
        flow.burst("HUP", 50);
        write_ports(&directory.path().join("x.toml"), count);
        flow.burst("HUP", 50);
        expect_ports(&mut flow, count);
        says(&mut client, "still here");
    }
    quiet(&flow.stop());
}

// A34
#[test]
fn a_hup_that_comes_at_any_step_of_a_restart_is_another_restart() {
    for step in ["probe:post_bind_hook", ":restart_close_hook", "heir:restore", "heir:pre_loop_hook"] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let mut flow = with_file(&directory, &gate, &format!("{step}=wait"));
        let mut client = flow.client();
        gate.close();
        flow.child.signal("HUP");
        let waiting = gate.wait();
        // Too late for the restart that is under way.
        write_ports(&directory.path().join("x.toml"), 2);
        flow.burst("HUP", 3);
        gate.open();
        drop(waiting);
        flow.restarted();
        assert_eq!(flow.addrs.len(), 1, "{step}");
        flow.restarted();
        assert_eq!(flow.addrs.len(), 2, "{step}");
        says(&mut client, "still here");
        let log = flow.stop();
        quiet(&log);
        assert!(!log.contains("restart 3"), "{step}: {log}");
    }
}

#[test]
fn a_stop_during_the_probe_ends_both() {
    for signal in ["TERM", "INT", "QUIT"] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let mut flow = with_file(&directory, &gate, "probe:post_bind_hook=wait");
        let mut client = flow.client();
        gate.close();
        flow.child.signal("HUP");
        let waiting = gate.wait();
        flow.child.signal(signal);
        client.expect_eof();
        let (status, log) = flow.ended();
        assert_eq!(status, Some(0), "{signal}: {log}");
        assert!(!log.contains(" done; "), "{signal}: {log}");
        waiting.expect_end();
        let told = "pre_server_close_hook: Stop\nclose: #1 (shutdown)\npost_child_cleanup_hook\n";
        assert_eq!(String::from_utf8(flow.told.expect_to_eof()).unwrap(), told, "{signal}");
    }
}

#[test]
fn a_graceful_stop_during_the_probe_sends_what_is_owed_and_no_restart_follows() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("probe:post_bind_hook=wait")).args(PATIENT);
    let mut flow = Flow::started(command.args(["--port=127.0.0.1:0", "--stop_seconds=600"]));
    let mut client = flow.client();
    client.send(format!("pattern {MUCH}\n"));
    client.expect(0_u32.to_be_bytes());
    gate.close();
    flow.child.signal("HUP");
    let waiting = gate.wait();
    flow.child.signal("QUIT");
    assert_eq!(flow.told.expect_line(), "pre_server_close_hook: Stop");
    // The probe says that all is well, and it does not matter any more.
    drop(waiting);
    assert!(client.expect_to_eof() == pattern(MUCH)[4..], "not what was written");
    drop(client);
    let (status, log) = flow.ended();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains(" done; "), "{log}");
    assert_eq!(flow.told.expect_to_eof(), b"close: #1 (shutdown)\npost_child_cleanup_hook\n");
}

#[test]
fn a_stop_that_comes_before_the_image_changes_is_done_by_the_old_one() {
    for signal in ["TERM", "INT", "QUIT"] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let mut flow = with_file(&directory, &gate, ":restart_close_hook=wait");
        let mut client = flow.client();
        gate.close();
        flow.child.signal("HUP");
        let waiting = gate.wait();
        flow.child.signal(signal);
        drop(waiting);
        client.expect_eof();
        let (status, log) = flow.ended();
        assert_eq!(status, Some(0), "{signal}: {log}");
        assert!(!log.contains(" done; "), "{signal}: {log}");
        let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
        assert!(told.contains("pre_server_close_hook: Stop\nclose: #1 (shutdown)\n"), "{signal}: {told}");
    }
}

#[test]
fn a_stop_that_comes_while_everything_stands_still_is_done_by_the_new_image() {
    for signal in ["TERM", "INT", "QUIT"] {
        for step in ["restart_open_hook", "pre_loop_hook"] {
            let (directory, mut gate) = (TempDir::new(), Gate::new());
            let mut flow = with_file(&directory, &gate, &format!("heir:{step}=wait"));
            let mut client = flow.client();
            gate.close();
            flow.child.signal("HUP");
            let waiting = gate.wait();
            flow.child.signal(signal);
            drop(waiting);
            client.expect_eof();
            let (status, log) = flow.ended();
            assert_eq!(status, Some(0), "{signal}: {log}");
            assert!(log.contains("restart 1 done; "), "{signal}: {log}");
            quiet(&log);
            let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
            let end = "pre_server_close_hook: Stop\nclose: #1 (shutdown)\npost_child_cleanup_hook\n";
            assert!(told.ends_with(end), "{signal}: {told}");
        }
    }
}

#[test]
fn hup_and_term_at_once_end_the_server_cleanly() {
    let rounds = if long_form() { 200 } else { 20 };
    for round in 0..rounds {
        let mut flow = Flow::start(&[]);
        let mut client = flow.client();
        let order = if round % 2 == 0 { ["HUP", "TERM"] } else { ["TERM", "HUP"] };
        order.iter().for_each(|signal| flow.child.signal(signal));
        // Whether a restart comes first is chance.
        client.expect_eof();
        let (status, log) = flow.ended();
        assert_eq!(status, Some(0), "{log}");
        quiet(&log);
    }
}

#[test]
fn signals_of_the_application_are_not_lost_in_a_restart() {
    for step in ["probe:post_bind_hook", ":restart_close_hook", "heir:restore", "heir:pre_loop_hook"] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let mut flow = with_file(&directory, &gate, &format!("{step}=wait"));
        let mut client = flow.client();
        gate.close();
        flow.child.signal("HUP");
        let waiting = gate.wait();
        flow.child.signal("USR2");
        drop(waiting);
        // During the probe the old image takes it, else the new one.
        while flow.told.expect_line() != "signal_hook: SIGUSR2" {}
        flow.wait_for_restart();
        says(&mut client, "still here");
        quiet(&flow.stop());
    }
}

#[test]
fn signals_of_the_application_are_not_lost_whenever_they_come() {
    let mut flow = Flow::start(&[]);
    for _ in 0..if long_form() { 200 } else { 20 } {
        flow.child.signal("HUP");
        flow.child.signal("USR2");
        let mut told = Vec::new();
        flow.wait_for_restart();
        while !(told.iter().any(|line: &String| line.starts_with("ready"))
            && told.iter().any(|line| line == "signal_hook: SIGUSR2"))
        {
            told.push(flow.told.expect_line());
        }
    }
    quiet(&flow.stop());
}

// A78
#[test]
fn a_log_that_is_renamed_during_a_restart_is_opened_anew() {
    for step in ["probe:post_bind_hook", ":restart_close_hook", "heir:restore", "heir:pre_loop_hook"] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let (log, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut command = server();
        command.env("FLOW_AT", gate.at(&format!("{step}=wait"))).arg("--log_file");
        let mut flow = Flow::started(command.arg(&log).arg("--port=127.0.0.1:0"));
        let client = flow.client();
        gate.close();
        flow.child.signal("HUP");
        let waiting = gate.wait();
        fs::rename(&log, &old).unwrap();
        flow.child.signal("USR1");
        drop(waiting);
        flow.told_until_ready();
        wait_until("the new file", || log.exists());
        client.send("log info from now on here\n");
        wait_until("the line", || fs::read_to_string(&log).is_ok_and(|log| log.contains("from now on here")));
        flow.stop();
        let both = fs::read_to_string(&old).unwrap() + &fs::read_to_string(&log).unwrap();
        assert!(both.contains("restart 1 done; 1 connections go on"), "{step}: {both}");
        assert!(both.contains("clients told goodbye: 1"), "{step}: {both}");
    }
}

#[test]
fn clients_talk_all_the_time_while_hups_come() {
    let mut flow = Flow::start(&[]);
    let address = flow.addrs[0].clone();
    let talkers: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(&address);
            thread::spawn(move || {
                for n in 0..2_000 {
                    let line = format!("line {n}");
                    // Two halves, which are two packets.
                    client.send(&line[..4]);
                    client.send(format!("{}\n", &line[4..]));
                    assert_eq!(client.expect_line(), line);
                }
            })
        })
        .collect();
    while !talkers.iter().all(thread::JoinHandle::is_finished) {
        flow.restart();
    }
    talkers.into_iter().for_each(|talker| talker.join().unwrap());
    let log = flow.stop();
    quiet(&log);
    println!("{} restarts", log.matches(" done; ").count());
}
