//! A descriptor that comes when this process has no room for it. Alone in its file: it lowers a limit of the process.

#![cfg(target_os = "linux")]
#![cfg(feature = "daemon")]

mod common;
mod lab;

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use common::TempDir;
use lab::{Hand, Lab};
use lineplex::config::{Limits, ListenAt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

#[test]
fn a_descriptor_that_there_is_no_room_for_is_lost_and_nothing_else() {
    let dir = TempDir::new();
    let at = ListenAt::unix(dir.path().join("fds")).accept_fds(2);
    let lab = Lab::new().on_line(|ctx, _| {
        let taken = ctx.take_fd().is_some();
        ctx.server.tell(format!("taken {taken}"));
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    hand.mux.listen(&at).unwrap();
    let client = UnixStream::connect(dir.path().join("fds")).unwrap();
    hand.wait_for("1 connection");
    let null = File::open("/dev/null").unwrap();
    let pass = |count: usize| {
        let numbers = vec![null.as_fd().as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let bytes = [IoSlice::new(b"fd\n")];
        assert_eq!(sendmsg::<()>(client.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None), Ok(3));
    };

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // No number from the first free one on may be given.
    let free = null.try_clone().unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, free.try_into().unwrap(), hard).unwrap();
    pass(1);
    hand.wait_for("taken false");
    let metrics = hand.metrics();
    assert_eq!((metrics.fds_lost, metrics.fds_in), (1, 0));

    // Room for the first of two.
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(free).unwrap() + 1, hard).unwrap();
    pass(2);
    hand.wait_for("taken true");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let metrics = hand.metrics();
    assert_eq!((metrics.fds_lost, metrics.fds_in, metrics.fds_waiting), (2, 1, 0));

    pass(1);
    hand.wait_for("taken true");
    (&client).write_all(b"alive\n").unwrap();
    hand.wait_for("1 line alive");
}
