//! Descriptors that were passed reach no program that is started meanwhile. Alone in its file: a program that is being
//! started has a copy of every descriptor for a moment.

#![cfg(target_os = "linux")]
#![cfg(feature = "daemon")]

mod common;
mod lab;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::TempDir;
use common::rights::{is_at_end, pass, pipe};
use lab::{Hand, Lab, LabClient};
use lineplex::config::{Limits, ListenAt};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Whether a program that is started now has the other end of that pipe.
#[track_caller]
fn is_seen_by_a_child(reading: &File) -> bool {
    let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().expect("there is an ls");
    let pipe = format!("pipe:[{}]", reading.metadata().expect("it is open").ino());
    String::from_utf8_lossy(&listed.stdout).contains(&pipe)
}

#[test]
fn no_child_sees_a_descriptor_whether_it_waits_is_kept_or_is_to_be_sent() {
    let directory = TempDir::new();
    let path = directory.path().join("fds");
    let lab = Lab::new().on_line(|ctx, line| {
        let Some(taken) = ctx.take_fd() else { return Ok(()) };
        match line {
            b"keep" => drop(ctx.adopt(taken, LabClient::named(ctx.server, "kept"))?),
            // Behind more than the socket takes.
            _ => assert!(ctx.write(&[b'x'; 1 << 19]) && ctx.write_fd(taken)),
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    hand.mux.listen(&ListenAt::unix(&path).accept_fds(1)).unwrap();
    for (at, line) in ["wait", "keep\n", "send\n"].into_iter().enumerate() {
        let client = UnixStream::connect(&path).unwrap();
        let (reading, writing) = pipe();
        pass(&client, line.as_bytes(), &[&writing]);
        drop(writing);
        hand.until(|mux| mux.conns().metrics().fds_in == at as u64 + 1);
        assert!(!is_at_end(&reading) && !is_seen_by_a_child(&reading), "{line:?}");
    }
    // What would be seen.
    let (reading, writing) = pipe();
    fcntl(&writing, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    assert!(is_seen_by_a_child(&reading));
}
