//! Descriptors that a connection holds in the moment of a restart: passed and not taken, written and not sent.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::errno::Errno;

use crate::common::rights::{is_at_end, pass, pipe, receive, refuses_fds, rest_of, try_pass};
use crate::common::{DEADLINE, TempDir};
use crate::rollback::Standby;
use crate::running::{Flow, Gate, quiet, server, wait_until};

/// A server whose clients may have two descriptors waiting, and one of them.
#[track_caller]
fn passing(directory: &TempDir) -> (Flow, UnixStream) {
    passing_to(&mut server(), directory)
}

#[track_caller]
fn passing_to(server: &mut Command, directory: &TempDir) -> (Flow, UnixStream) {
    let conf = configured(directory, ", accept_fds = 2");
    let flow = Flow::started(server.arg("--conf_file").arg(conf));
    (flow, client(directory))
}

/// A configuration whose only listener has these keys more.
#[track_caller]
fn configured(directory: &TempDir, keys: &str) -> std::path::PathBuf {
    let (conf, path) = (directory.path().join("x.toml"), directory.path().join("s"));
    fs::write(&conf, format!("port = [{{ path = \"{}\"{keys} }}]\n", path.display()))
        .expect("it can be written");
    conf
}

#[track_caller]
fn client(directory: &TempDir) -> UnixStream {
    let client = UnixStream::connect(directory.path().join("s")).expect("somebody listens");
    client.set_read_timeout(Some(DEADLINE)).expect("it is settable");
    client
}

/// Has the server write more than a socket holds, and a descriptor of the file behind it. The bytes that come of it.
#[track_caller]
fn order_a_file(mut from: &UnixStream, other: &UnixStream, file: &std::path::Path) -> Vec<u8> {
    let orders = format!("big 700000\npass-fd {}\nbehind\n", file.display());
    from.write_all(orders.as_bytes()).expect("it takes orders");
    echoed(other, "served behind the orders\n");
    format!("{}\0behind\n", "x".repeat(700_000)).into_bytes()
}

/// Reads as many bytes as are expected, and the text of each file whose descriptor came, with the count of bytes up to there.
#[track_caller]
fn received(from: &UnixStream, expected: &[u8]) -> Vec<(usize, String)> {
    let (mut all, mut passed) = (Vec::new(), Vec::new());
    while all.len() < expected.len() {
        let (bytes, number) = receive(from);
        assert!(!bytes.is_empty(), "the end after {} bytes", all.len());
        all.extend(bytes);
        if let Some(number) = number {
            let text = fs::read_to_string(format!("/proc/self/fd/{number}")).expect("it can be read");
            nix::unistd::close(number).expect("it is open");
            passed.push((all.len(), text));
        }
    }
    assert!(all == expected, "other bytes");
    passed
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
    // Another test that starts a program lends it a copy for a moment.
    wait_until("one more than may wait is closed", || is_at_end(&third));
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
    assert_eq!(received(&client, expected.as_bytes()), [(700_001, one), (700_010, two)]);
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

#[test]
fn an_image_that_fails_has_neither_taken_nor_sent_nor_kept_a_descriptor() {
    for what in ["restore=panic", "pre_loop_hook=refuse", "pre_loop_hook=exit"] {
        let (directory, mut gate) = (TempDir::new(), Gate::new());
        let mut command = server();
        command.env("FLOW_AT", gate.at(&format!("heir:{what}"))).arg("--commit_seconds=600");
        let (mut flow, passer) = passing_to(&mut command, &directory);
        let (slow, file) = (client(&directory), directory.path().join("file"));
        fs::write(&file, "the file").unwrap();
        let (first, one) = pipe();
        let (second, two) = pipe();
        pass(&passer, b"still here\n", &[&one, &two]);
        drop((one, two));
        let mut answer = [0; 11];
        (&passer).read_exact(&mut answer).unwrap();
        let expected = order_a_file(&slow, &passer, &file);

        gate.close();
        flow.child.signal("HUP");
        let standby = Standby::of(&mut flow);
        flow.child.wait_for("restart failed");
        // It goes at once when the standby lets it go: nobody else has it.
        (&passer).write_all(b"take-fd one\n").unwrap();
        assert_eq!(rest_of(first), "one\n", "{what}");
        assert!(!is_at_end(&second), "{what}");
        assert_eq!(received(&slow, &expected), [(700_001, "the file".to_owned())], "{what}");

        gate.open();
        let expected = order_a_file(&slow, &passer, &file);
        standby.signal("HUP");
        flow.restarted();
        (&passer).write_all(b"take-fd two\n").unwrap();
        assert_eq!(rest_of(second), "two\n", "{what}");
        assert_eq!(received(&slow, &expected), [(700_001, "the file".to_owned())], "{what}");
        echoed(&passer, "the end\n");
        echoed(&slow, "the end\n");
        standby.stop(flow);
    }
}

#[test]
fn a_listener_that_takes_descriptors_since_a_restart_takes_them_of_those_who_come_after_it() {
    let directory = TempDir::new();
    let conf = configured(&directory, "");
    let mut flow = Flow::started(server().arg("--conf_file").arg(conf));
    let before = client(&directory);
    echoed(&before, "here\n");
    for keys in [", accept_fds = 1", ""] {
        configured(&directory, keys);
        flow.restart();
        let after = client(&directory);
        for (client, takes) in [(&before, false), (&after, !keys.is_empty())] {
            let (reading, writing) = pipe();
            let passed = try_pass(client, b"take-fd it\n", &[&writing]);
            drop(writing);
            if takes {
                assert_eq!((passed, rest_of(reading)), (Ok(11), "it\n".to_owned()));
            } else if refuses_fds() {
                assert_eq!(passed, Err(Errno::EPERM));
            } else {
                let mut answer = [0; 14];
                let mut client = client;
                client.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"no descriptor\n");
                wait_until("it is closed", || is_at_end(&reading));
            }
        }
    }
    quiet(&flow.stop());
}

#[test]
fn a_thousand_passings_with_restarts_between_them_leave_nothing_open() {
    let directory = TempDir::new();
    let (mut flow, other) = passing(&directory);
    let path = directory.path().join("passed");
    let passed = fs::File::create(&path).unwrap().into();
    let held = |flow: &Flow| {
        let open = fs::read_dir(format!("/proc/{}/fd", flow.child.id())).unwrap();
        open.filter(|fd| fd.as_ref().is_ok_and(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == path)))
            .count()
    };
    for round in 0..5 {
        let client = client(&directory);
        for _ in 0..67 {
            // One is taken, one goes on waiting, and the others are too many.
            pass(&client, b"take-fd x\n", &[&passed, &passed, &passed]);
        }
        echoed(&client, "done\n");
        assert_eq!(held(&flow), 1, "the one that waits");
        if round % 2 == 0 {
            flow.restart();
            echoed(&client, "still here\n");
            assert_eq!(held(&flow), 1, "it waits on");
        }
        drop(client);
        wait_until("none is held any more", || held(&flow) == 0);
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "x\n".repeat(5 * 67));
    echoed(&other, "the end\n");
    quiet(&flow.stop());
}
