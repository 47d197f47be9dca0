//! Descriptors over Unix sockets, as a peer passes and receives them, and pipes that tell whether anybody holds one.
//!
//! A received descriptor is a number first, which nobody owns: [`open_again`] makes a file of it.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// The end to read from, and the one to write to.
pub(crate) fn pipe() -> (File, OwnedFd) {
    let (reading, writing) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("descriptors are left");
    (reading.into(), writing)
}

/// Sends `bytes` and passes copies of `fds`.
#[track_caller]
pub(crate) fn pass(to: &UnixStream, bytes: &[u8], fds: &[&OwnedFd]) {
    assert_eq!(try_pass(to, bytes, fds), Ok(bytes.len()));
}

/// The same to a peer that may refuse descriptors: where the system can tell so, nothing is sent.
pub(crate) fn try_pass(to: &UnixStream, bytes: &[u8], fds: &[&OwnedFd]) -> nix::Result<usize> {
    let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None)
}

/// Whether the system refuses descriptors where nobody takes them: Linux since 6.16.
pub(crate) fn refuses_fds() -> bool {
    let release = nix::sys::utsname::uname().expect("it has a name").release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}

/// What one receive gives: the bytes, and the number of the descriptor that came with them.
#[track_caller]
pub(crate) fn receive(from: &UnixStream) -> (Vec<u8>, Option<RawFd>) {
    let (mut bytes, mut space) = (vec![0; 64 * 1024], nix::cmsg_space!([RawFd; 4]));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received =
        recvmsg::<UnixAddr>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .expect("something is here");
    let mut numbers = Vec::new();
    for control in received.cmsgs().expect("there is room for them") {
        if let ControlMessageOwned::ScmRights(more) = control {
            numbers.extend(more);
        }
    }
    assert!(numbers.len() <= 1, "one at a time");
    let count = received.bytes;
    bytes.truncate(count);
    (bytes, numbers.pop())
}

/// Whether nobody holds the writing end any more.
pub(crate) fn is_at_end(reading: &File) -> bool {
    let mut polled = [PollFd::new(reading.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).expect("a pipe can be polled");
    polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[track_caller]
pub(crate) fn rest_of(mut reading: File) -> String {
    let mut text = String::new();
    reading.read_to_string(&mut text).expect("the other end is closed");
    text
}

/// The writing end of the pipe of that number, which is closed.
#[track_caller]
pub(crate) fn open_again(number: RawFd) -> File {
    let file = File::options().write(true).open(format!("/proc/self/fd/{number}"));
    nix::unistd::close(number).expect("it was open");
    file.expect("it is the writing end of a pipe")
}
