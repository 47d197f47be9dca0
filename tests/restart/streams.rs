//! Connections that no listener has taken: pipes, socket pairs, outgoing ones.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::common::TempDir;
use crate::running::{Flow, patient, quiet, says};

#[test]
fn adopted_pipes_and_pairs_go_on() {
    let directory = TempDir::new();
    let path = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("there is a mkfifo").success());
    let mut flow = Flow::start(&[]);
    let client = flow.client();
    client.send(format!("adopt {}\npair\n", path.display()));
    let mut opened = [flow.told.expect_line(), flow.told.expect_line(), flow.told.expect_line()];
    opened.sort();
    assert_eq!(opened, ["one: open", "other: open", "pipe: open"]);
    let mut pipe = OpenOptions::new().write(true).open(&path).unwrap();
    for n in 0..3 {
        pipe.write_all(b"half of ").unwrap();
        flow.restart();
        pipe.write_all(b"a line\n").unwrap();
        assert_eq!(flow.told.expect_line(), "pipe: half of a line");
        client.send(format!("pair-say line {n}\n"));
        assert_eq!(flow.told.expect_line(), format!("other: line {n}"));
    }
    quiet(&flow.stop());
}

#[test]
fn a_descriptor_that_was_adopted_in_the_last_moment_is_opened_by_the_next_image() {
    let mut flow = Flow::start(&[]);
    let client = flow.client();
    for _ in 0..5 {
        // The restart comes before or after their first turn.
        flow.child.signal("HUP");
        client.send("pair\n");
        let mut told = flow.restarted();
        while told.iter().filter(|line| line.ends_with(": open")).count() < 2 {
            told.push(flow.told.expect_line());
        }
        client.send("pair-say hello\n");
        assert_eq!(flow.told.expect_line(), "other: hello");
    }
    quiet(&flow.stop());
}

#[test]
fn outgoing_connections_go_on() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let tcp = patient(TcpListener::bind("127.0.0.1:0").unwrap());
    let unix = patient(UnixListener::bind(&path).unwrap());
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send(format!("connect {}\n", tcp.local_addr().unwrap()));
    let (mut tcp, _) = tcp.accept().unwrap();
    assert_eq!(flow.told.expect_line(), "outgoing: open");
    client.send(format!("connect {}\n", path.display()));
    let (mut unix, _) = unix.accept().unwrap();
    assert_eq!(flow.told.expect_line(), "outgoing: open");
    for n in 0..3 {
        tcp.write_all(b"from ").unwrap();
        unix.write_all(b"from ").unwrap();
        flow.restart();
        tcp.write_all(b"tcp\n").unwrap();
        assert_eq!(flow.told.expect_line(), "outgoing: from tcp");
        unix.write_all(b"unix\n").unwrap();
        assert_eq!(flow.told.expect_line(), "outgoing: from unix");
        let line = format!("to all {n}\n");
        client.send(format!("tell {line}"));
        client.expect(&line);
        let mut got = vec![0; line.len()];
        tcp.read_exact(&mut got).unwrap();
        assert_eq!(got, line.as_bytes());
        unix.read_exact(&mut got).unwrap();
        assert_eq!(got, line.as_bytes());
    }
    drop(tcp);
    assert_eq!(flow.told.expect_line(), "close: #0 (eof)");
    says(&mut client, "still here");
    quiet(&flow.stop());
}
