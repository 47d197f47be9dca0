//! Descriptors that a connection holds in the moment of a restart: passed and not taken, written and not sent.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::common::rights::{is_at_end, pass, pipe, receive, rest_of};
use crate::common::{DEADLINE, TempDir};
use crate::running::{Flow, quiet, server, wait_until};

/// A server whose clients may have two descriptors waiting, and one of them.
#[track_caller]
fn passing(directory: &TempDir) -> (Flow, UnixStream) {
    let (conf, path) = (directory.path().join("x.toml"), directory.path().join("s"));
    fs::write(&conf, format!("port = [{{ path = \"{}\", accept_fds = 2 }}]\n", path.display()))
        .expect("it can be written");
    let flow = Flow::started(server().arg("--conf_file").arg(&conf));
    let client = UnixStream::connect(path).expect("somebody listens");
    client.set_read_timeout(Some(DEADLINE)).expect("it is settable");
    (flow, client)
}

/// Has a line come back.
#[track_caller]
fn echoed(mut client: &UnixStream, line: &str) {
    client.write_all(line.as_bytes()).expect("it takes a line");
    let mut answer = vec![0; line.len()];
    client.read_exact(&mut answer).expect("it answers");
    assert_eq!(String::from_utf8_lossy(&answer), line);
}

#[test]
fn descriptors_that_wait_are_taken_in_the_next_image_and_the_limit_stays() {
    let directory = TempDir::new();
    let (mut flow, client) = passing(&directory);
    let (first, one) = pipe();
    let (second, two) = pipe();
    let (third, three) = pipe();
    pass(&client, b"here\n", &[&one, &two, &three]);
    drop((one, two, three));
    let mut answer = [0; 5];
    (&client).read_exact(&mut answer).unwrap();
    assert!(is_at_end(&third), "one more than may wait");
    for _ in 0..2 {
        flow.restart();
        echoed(&client, "still here\n");
        assert!(!is_at_end(&first) && !is_at_end(&second));
    }
    (&client).write_all(b"take-fd one\n").unwrap();
    assert_eq!(rest_of(first), "one\n");
    flow.restart();
    let (fourth, four) = pipe();
    let (fifth, five) = pipe();
    pass(&client, b"take-fd two\n", &[&four, &five]);
    drop((four, five));
    assert_eq!(rest_of(second), "two\n", "the limit of the listener goes on");
    (&client).write_all(b"take-fd four\n").unwrap();
    assert_eq!(rest_of(fourth), "four\n");
    assert_eq!(rest_of(fifth), "");
    echoed(&client, "the end\n");
    quiet(&flow.stop());
}

#[test]
fn descriptors_that_were_not_sent_are_sent_by_the_next_image_each_in_its_place() {
    let directory = TempDir::new();
    let (mut flow, client) = passing(&directory);
    let names = ["one", "two"].map(|name| directory.path().join(name));
    for name in &names {
        fs::write(name, name.display().to_string()).unwrap();
    }
    let [one, two] = names.each_ref().map(|name| name.display().to_string());
    // More than the socket holds, so that the rest of it waits for the next image.
    let orders = format!("big 700000\npass-fd {one}\nbetween\npass-fd {two}\nbehind\n");
    (&client).write_all(orders.as_bytes()).unwrap();
    let other = UnixStream::connect(directory.path().join("s")).unwrap();
    echoed(&other, "served behind the orders\n");
    flow.restart();
    names.iter().for_each(|name| fs::remove_file(name).unwrap());
    let expected = format!("{}\0between\n\0behind\n", "x".repeat(700_000));
    let (mut all, mut passed) = (Vec::new(), Vec::new());
    while all.len() < expected.len() {
        let (bytes, number) = receive(&client);
        assert!(!bytes.is_empty(), "the end after {} bytes", all.len());
        all.extend(bytes);
        if let Some(number) = number {
            let text = fs::read_to_string(format!("/proc/self/fd/{number}")).unwrap();
            nix::unistd::close(number).unwrap();
            passed.push((all.len(), text));
        }
    }
    assert!(all == expected.as_bytes());
    assert_eq!(passed, [(700_001, one), (700_010, two)]);
    echoed(&other, "so is the next image\n");
    quiet(&flow.stop());
}

#[test]
fn descriptors_of_a_client_that_does_not_go_along_are_closed() {
    let directory = TempDir::new();
    let (mut flow, client) = passing(&directory);
    let (reading, writing) = pipe();
    pass(&client, b"drain\nhere\n", &[&writing]);
    drop(writing);
    let mut answer = [0; 5];
    (&client).read_exact(&mut answer).unwrap();
    flow.restart();
    wait_until("nobody holds it", || is_at_end(&reading));
    quiet(&flow.stop());
}
