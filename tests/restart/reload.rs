//! SIGHUP where the configuration says that it is no restart.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Client, TempDir};
use crate::running::{Flow, Gate, quiet, says, server};

/// A server that reloads, and its file.
fn start(gate: &Gate, options: &[&str]) -> (Flow, TempDir, PathBuf) {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(&file, "allow = '127.0.0.0/8'\n").expect("a fresh directory is writable");
    let mut command = server();
    command.args(["--port=127.0.0.1:0", "--on_hup=reload", "--conf_file"]).arg(&file).args(options);
    let flow = Flow::started(command.env("FLOW_AT", gate.at(":reload_hook=refuse")));
    (flow, directory, file)
}

/// A peer that only the lists can keep away.
#[track_caller]
fn another(flow: &Flow) -> Client {
    Client::connect_from([127, 0, 0, 2].into(), flow.addrs[0].parse().expect("it is an address"))
}

#[track_caller]
fn reload(flow: &mut Flow, file: &Path, text: &str) {
    fs::write(file, text).expect("a fresh directory is writable");
    flow.child.signal("HUP");
    assert_eq!(flow.told.expect_line(), "reload_hook: 1 listener(s)");
    flow.child.wait_for("the configuration was read again");
}

#[test]
fn reload_takes_the_access_lists_and_the_tick_of_the_new_configuration() {
    let (mut flow, _directory, file) = start(&Gate::new(), &[]);
    let (mut client, mut let_in) = (flow.client(), another(&flow));
    says(&mut let_in, "let in");
    reload(&mut flow, &file, "allow = '127.0.0.1'\ncheck_for_dequeue = 0.01\n");
    let mut denied = another(&flow);
    denied.expect("not you\n");
    denied.expect_eof();
    drop(denied);
    // Who was in stays in.
    says(&mut let_in, "still here");
    says(&mut client, "too");
    while flow.told.expect_line() != "run_dequeue" {}
    // The same file decides in both directions.
    reload_without_ticks(&mut flow, &file, "allow = '127.0.0.0/8'\n");
    says(&mut another(&flow), "let in again");
    let log = flow.stop();
    quiet(&log);
    assert!(!log.contains("restart"), "{log}");
}

/// As [`reload`], while ticks are told.
#[track_caller]
fn reload_without_ticks(flow: &mut Flow, file: &Path, text: &str) {
    fs::write(file, text).expect("a fresh directory is writable");
    flow.child.signal("HUP");
    while flow.told.expect_line() != "reload_hook: 1 listener(s)" {}
    flow.child.wait_for("the configuration was read again");
}

#[test]
fn a_reload_that_is_refused_changes_nothing() {
    let mut gate = Gate::new();
    let (mut flow, _directory, file) = start(&gate, &[]);
    let mut client = flow.client();
    // Whatever is wrong, all of it is told, and the hook is not asked.
    fs::write(&file, "allow = ['127.0.0.1', '10.0.0.0/33']\n prot = 1\n").unwrap();
    flow.child.signal("HUP");
    let line = flow.child.wait_for("reload failed, nothing has changed: ");
    for place in ["x.toml:1:23: allow: `10.0.0.0/33`", "x.toml:2:2: unknown key `prot`"] {
        assert!(line.contains(place), "{line}");
    }
    says(&mut another(&flow), "let in");
    // The hook refuses.
    fs::write(&file, "allow = '127.0.0.1'\n").unwrap();
    gate.close();
    flow.child.signal("HUP");
    while flow.told.expect_line() != "reload_hook: 1 listener(s)" {}
    let line = flow.child.wait_for("reload failed, nothing has changed: ");
    assert!(line.contains("reload_hook refuses"), "{line}");
    says(&mut another(&flow), "let in");
    // A missing file.
    gate.open();
    fs::remove_file(&file).unwrap();
    flow.child.signal("HUP");
    flow.child.wait_for("reload failed, nothing has changed: ");
    says(&mut client, "still here");
    fs::write(&file, "allow = '127.0.0.1'\n").unwrap();
    flow.child.signal("HUP");
    flow.child.wait_for("the configuration was read again");
    another(&flow).expect("not you\n");
    says(&mut client, "still here");
    flow.stop();
}

#[test]
fn a_reload_keeps_the_process_its_descriptors_and_its_clients() {
    let (mut flow, _directory, file) = start(&Gate::new(), &[]);
    let mut client = flow.client();
    client.send("half a ");
    let pid = flow.child.id();
    for _ in 0..20 {
        reload(&mut flow, &file, "allow = '127.0.0.0/8'\n");
    }
    client.send("line\n");
    client.expect("half a line\n");
    assert_eq!(flow.child.id(), pid);
    let log = flow.stop();
    assert_eq!(log.matches("the configuration was read again").count(), 20, "{log}");
}

#[test]
fn hup_is_ignored_where_the_configuration_says_so() {
    let mut flow = Flow::start(&["--on_hup=ignore", "--log_level=4"]);
    let mut client = flow.client();
    for _ in 0..3 {
        flow.child.signal("HUP");
        flow.child.wait_for("SIGHUP: ignored, as on_hup says");
        says(&mut client, "the same client");
    }
    flow.child.signal("TERM");
    let (status, log) = flow.ended();
    assert_eq!(status, Some(0));
    assert!(!log.contains("restart"), "{log}");
    assert!(!String::from_utf8(flow.told.expect_to_eof()).unwrap().contains("reload_hook"));
}

#[test]
fn what_hup_means_can_change_with_a_restart() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(&file, "port = '127.0.0.1:0'\n").unwrap();
    let mut flow = Flow::started(server().arg("--conf_file").arg(&file));
    let mut client = flow.client();
    fs::write(&file, "port = '127.0.0.1:0'\non_hup = 'reload'\n").unwrap();
    flow.restart();
    flow.child.signal("HUP");
    assert_eq!(flow.told.expect_line(), "reload_hook: 1 listener(s)");
    flow.child.wait_for("the configuration was read again");
    says(&mut client, "still here");
    quiet(&flow.stop());
}
