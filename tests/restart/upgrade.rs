//! A server whose state changes its format: forward with a restart, back not at all.

use std::fs;
use std::process::Command;

use crate::common::{Child, Client, TempDir, example};
use crate::running::quiet;

#[test]
fn an_upgrade_reads_the_old_format_and_a_downgrade_is_refused_while_the_new_one_serves() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    let format = |format| fs::write(&file, format!("[app]\nformat = {format}\n")).unwrap();
    format(1);
    let mut command = Command::new(example("upgrade"));
    let mut child = Child::spawn(command.args(["--port=127.0.0.1:0", "--conf_file"]).arg(&file));
    let address = child.wait_for_address();
    let (mut ada, mut bob) = (Client::connect(address), Client::connect(address));
    ada.send("one\ntwo\nname ada\n");
    ada.expect("line 1, 1 of all\r\nline 2, 2 of all\r\nline 3, 3 of all\r\n");
    bob.send("one\nhalf ");
    bob.expect("line 1, 4 of all\r\n");

    format(2);
    child.signal("HUP");
    child.wait_for("restart 1 done; 2 connections go on");
    ada.send("name ada\n");
    ada.expect("line 4 of ada, 5 of all\r\n");
    bob.send("a line\n");
    bob.expect("line 2 of nobody, 6 of all\r\n");

    // The same format again.
    child.signal("HUP");
    child.wait_for("restart 2 done");
    ada.send("five\n");
    ada.expect("line 5 of ada, 7 of all\r\n");

    format(1);
    child.signal("HUP");
    let line = child.wait_for("restart failed");
    assert!(line.contains("the state has format 2, this program reads 1 to 1"), "{line}");
    ada.send("six\n");
    ada.expect("line 6 of ada, 8 of all\r\n");

    format(2);
    child.signal("HUP");
    child.wait_for("restart 3 done");
    bob.send("three\n");
    bob.expect("line 3 of nobody, 9 of all\r\n");
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0));
    let log = child.expect_log().join("\n");
    quiet(&log.replace("error restart failed, this image goes on", ""));
}
