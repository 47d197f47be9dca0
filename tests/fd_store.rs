//! Crashes under a service manager that keeps the listeners: nobody is refused.
//!
//! The manager is this test; it takes the descriptors that a server sends it, and passes them to the next one. A test in a
//! file of its own, because what it takes is open to every program that it starts.

mod common;

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use common::{Child, Client, DEADLINE, TempDir, example};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

#[test]
fn a_server_that_is_killed_twenty_times_refuses_nobody() {
    // dash redirects from single digits only.
    if !Command::new("bash").args(["-c", "true"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: bash is not here");
        return;
    }
    let directory = TempDir::new();
    let manager = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let path = directory.path().join("s");

    let mut server = started(directory.path(), &[]);
    let kept = [next(&manager), next(&manager)].map(|(text, fds)| {
        let (_, name) = text.split_once("FDSTORE=1\nFDPOLL=0\nFDNAME=").expect("a listener is stored");
        (fds[0], name.to_owned())
    });
    assert_eq!(next(&manager).0, "READY=1\nSTATUS=serving");
    let addr = server.wait_for_address();
    for round in 0..20 {
        served(&mut Client::connect(addr), round);
        served(&mut Client::connect(path.display()), round);
        server.signal("KILL");
        server.expect_exit();
        // There is no server now.
        let mut waiting = [Client::connect(addr), Client::connect(path.display())];
        server = started(directory.path(), &kept);
        waiting.iter_mut().for_each(|client| served(client, round));
        // What is kept already is stored again, which a manager takes for the same.
        for (_, name) in &kept {
            let (text, fds) = next(&manager);
            assert_eq!(text, format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"));
            fds.into_iter().for_each(|fd| nix::unistd::close(fd).unwrap());
        }
        assert_eq!(next(&manager).0, "READY=1\nSTATUS=serving");
        assert_eq!(server.wait_for_address(), addr);
    }
    server.signal("TERM");
    assert_eq!(server.expect_exit().code(), Some(0), "{server}");
    assert_eq!(next(&manager).0, "STOPPING=1");
    assert_eq!(next(&manager).0, format!("FDSTOREREMOVE=1\nFDNAME={}", kept[1].1));
}

/// Starts a server that is passed what was kept.
#[track_caller]
fn started(directory: &Path, kept: &[(RawFd, String)]) -> Child {
    let mut script = String::new();
    for (number, (fd, _)) in (3..).zip(kept) {
        // By way of high numbers, as a target may be another one's source.
        script += &format!("exec {}<&{fd} {fd}<&-; ", 100 + number);
    }
    for (number, _) in (3..).zip(kept) {
        script += &format!("exec {number}<&{0} {0}<&-; ", 100 + number);
    }
    let names: Vec<&str> = kept.iter().map(|(_, name)| name.as_str()).collect();
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{script} export LISTEN_PID=$$; exec \"$0\" \"$@\"")]);
    command.env("LISTEN_FDS", kept.len().to_string()).env("NOTIFY_SOCKET", directory.join("notify"));
    if !names.is_empty() {
        command.env("LISTEN_FDNAMES", names.join(":"));
    }
    command.env("FDSTORE", "8").arg(example("echo"));
    command.args(["--port=127.0.0.1:0", "--port", &format!("{}|unix", directory.join("s").display())]);
    Child::spawn(&mut command)
}

#[track_caller]
fn served(client: &mut Client, round: i32) {
    client.send(format!("{round}\n"));
    assert_eq!(client.expect_line(), round.to_string());
}

/// The next message, with the descriptors that came with it, which a program started from here inherits.
#[track_caller]
fn next(manager: &UnixDatagram) -> (String, Vec<RawFd>) {
    let mut bytes = [0; 4096];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = loop {
        match recvmsg::<UnixAddr>(manager.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()) {
            Ok(received) => break received,
            Err(Errno::EINTR) => {}
            Err(error) => panic!("nothing is told: {error}"),
        }
    };
    let mut descriptors = Vec::new();
    for control in received.cmsgs().expect("there is room for them") {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers);
        }
    }
    let count = received.bytes;
    (String::from_utf8_lossy(&bytes[..count]).into_owned(), descriptors)
}
