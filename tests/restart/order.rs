//! Which hooks are called, in which image, in which order.

use std::process::Command;

use crate::common::{Child, Client, example};

// A27
#[test]
fn every_hook_of_a_restart_comes_in_its_order() {
    let mut command = Command::new(example("hooks"));
    let (mut child, mut told) = Child::spawn_told(command.arg("--port=127.0.0.1:0"));
    let address = child.wait_for_address();
    let (mut kept, mut drained) = (Client::connect(address), Client::connect(address));
    kept.send("one\n");
    kept.expect("3 bytes\r\n");
    drained.send("drain\ntwo\n");
    drained.expect("3 bytes\r\n");
    while told.expect_line() != "drained: #2" {}

    child.signal("HUP");
    child.wait_for("restart 1 done; 2 connections go on");
    for line in [
        // For the probe.
        "save",
        "save: #1",
        "save: #2",
        // How much it is.
        "save",
        "save: #1",
        "save: #2",
        "pre_server_close_hook: Handover",
        "save: #1",
        "save: #2",
        "post_process_request_hook: #2 Served",
        "close: #2 (handover)",
        "post_child_cleanup_hook",
        "restart_close_hook",
        // When nothing of it changes any more.
        "save",
        "save: #1",
        // The next image.
        "configure_hook",
        "post_configure_hook: 1 listener(s)",
        "pre_bind_hook",
        "restart_open_hook",
        "post_bind_hook",
        "restore",
        "restore_client: #1",
        "pre_loop_hook: 1 listener(s) open",
    ] {
        assert_eq!(told.expect_line(), line);
    }
    drained.expect_eof();
    kept.send("still here\n");
    assert_eq!(told.expect_line(), "input: #1, 11 bytes");
    kept.expect("10 bytes\r\n");
    assert_eq!(told.expect_line(), "drained: #1");
    child.signal("TERM");
    for line in [
        "pre_server_close_hook: Stop",
        "post_process_request_hook: #1 Served",
        "close: #1 (shutdown)",
        "post_child_cleanup_hook",
    ] {
        assert_eq!(told.expect_line(), line);
    }
    told.expect_eof();
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

#[test]
fn a_refused_restart_calls_its_hook_and_nothing_else() {
    let directory = crate::common::TempDir::new();
    let file = directory.path().join("hooks.toml");
    std::fs::write(&file, "port = '127.0.0.1:0'\n").unwrap();
    let mut command = Command::new(example("hooks"));
    let (mut child, mut told) = Child::spawn_told(command.arg("--conf_file").arg(&file));
    child.wait_for_address();
    while !told.expect_line().starts_with("pre_loop_hook") {}
    std::fs::write(&file, "port = 99999\n").unwrap();
    child.signal("HUP");
    assert_eq!(told.expect_line(), "save");
    assert!(told.expect_line().starts_with("restart_failed_hook: "));
    let line = child.wait_for("restart failed");
    assert!(line.contains("hooks.toml:1:8: port: 99999 is no port"), "{line}");
    child.signal("TERM");
    assert_eq!(told.expect_line(), "pre_server_close_hook: Stop");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}
