//! Messages between two processes of one program: a socket that keeps their limits and carries descriptors, a pipe, and
//! waiting for either.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

/// Two connected sockets that keep the limits of messages (`unix(7)`, `SOCK_SEQPACKET`), close-on-exec.
///
/// # Errors
/// No descriptors left.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// The same with datagrams, where the other kind does not exist; a peer that has closed is then an error to the reader.
#[cfg(target_vendor = "apple")]
pub(crate) fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    super::set_cloexec(&one, true)?;
    super::set_cloexec(&other, true)?;
    Ok((one, other))
}

/// A pipe, the end to read from first; close-on-exec.
///
/// # Errors
/// No descriptors left.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// The same in more than one step.
#[cfg(target_vendor = "apple")]
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = nix::unistd::pipe()?;
    super::set_cloexec(&reading, true)?;
    super::set_cloexec(&writing, true)?;
    Ok((reading, writing))
}

/// Sends `bytes` as one message, and with it copies of `fds`, of which the caller keeps his own. Waits for room unless the
/// socket does not block.
///
/// # Errors
/// `InvalidInput` for no bytes, which would look like the end, and for more than 250 descriptors (the kernel takes 253);
/// `EPIPE` when the peer has closed, `EMSGSIZE` for a message that the socket has no room for, and others of `sendmsg(2)`.
pub(crate) fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let refuse = |context: String| Err(io::Error::new(io::ErrorKind::InvalidInput, context));
    if bytes.is_empty() {
        return refuse("a message must have at least one byte".to_owned());
    }
    if fds.len() > FDS_MAX {
        return refuse(format!("a message carries at most {FDS_MAX} descriptors, not {}", fds.len()));
    }
    let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if fds.is_empty() { &[] } else { rights.as_slice() };
    loop {
        let socket = socket.as_fd().as_raw_fd();
        match sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, SEND_FLAGS, None) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(sent) => {
                let context = format!("{sent} of the {} bytes of a message were sent", bytes.len());
                return Err(io::Error::new(io::ErrorKind::WriteZero, context));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one message: how many bytes of `buffer` it has, 0 when the peer has closed, and the descriptors that came
/// with it, close-on-exec. Waits for one unless the socket does not block.
///
/// # Errors
/// `InvalidData` when the message is longer than `buffer`, or a descriptor was lost on the way (none was left, as a rule):
/// what did arrive is closed then. Others of `recvmsg(2)`.
pub(crate) fn receive_with_fds(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_into(socket.as_fd(), buffer, &mut [0; CONTROL_WORDS])
}

/// Receives what a stream has: how many bytes of `buffer`, 0 at its end; the descriptors that came with the last of them,
/// close-on-exec; and whether others were lost because none are left. Waits unless the socket does not block.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub(crate) fn receive_some(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let message = receive_whole(socket.as_fd(), buffer, &mut [0; CONTROL_WORDS])?;
    Ok((message.length, message.fds, message.cut))
}

/// Waits until `fd` has something to read, or its end, or an error, which reading then tells; false when `timeout` is
/// over. A signal in between does not lengthen it. The resolution is one millisecond, rounded up.
///
/// # Errors
/// No memory.
pub(crate) fn wait_readable(fd: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        let left = timeout.saturating_sub(begun.elapsed());
        let millis = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        // Negative, which would be for ever, it cannot be.
        match poll(&mut polled, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if begun.elapsed() >= timeout => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// [`receive_with_fds`] with the room for descriptors as an argument.
fn receive_into(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u64],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let message = receive_whole(socket, buffer, control)?;
    if message.cut {
        let context = "a message was cut: it is too long, or no descriptors are left for what came with it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, context));
    }
    Ok((message.length, message.fds))
}

/// One message, or what a stream has, whatever signal interrupts; the descriptors close-on-exec.
fn receive_whole(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u64],
) -> io::Result<super::Message> {
    let message = loop {
        match super::receive_message(socket, buffer, control) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    if cfg!(target_vendor = "apple") {
        message.fds.iter().try_for_each(|fd| super::set_cloexec(fd, true))?;
    }
    Ok(message)
}

/// Descriptors in one message; the kernel's own limit is 253 (`SCM_MAX_FD`).
const FDS_MAX: usize = 250;

/// Room for more descriptors than one message can have, so that only a full table of descriptors loses one.
const CONTROL_WORDS: usize = 160;

/// A peer that has closed is an error, not a signal. Where there is no such flag, the standard library has ignored the
/// signal since the start.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: MsgFlags = MsgFlags::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: MsgFlags = MsgFlags::empty();

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[track_caller]
    fn assert_cloexec(fd: impl AsFd) {
        assert_ne!(fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC, 0);
    }

    /// Whether nobody holds the other end of the pipe any more.
    #[track_caller]
    fn assert_at_end(reading: OwnedFd) {
        assert!(wait_readable(&reading, Duration::ZERO).unwrap(), "somebody holds the other end");
        assert_eq!(File::from(reading).read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn messages_keep_their_limits_and_the_end_is_an_empty_one() {
        let (one, other) = seqpacket_pair().unwrap();
        assert_cloexec(&one);
        assert_cloexec(&other);
        send_with_fds(&one, b"first", &[]).unwrap();
        send_with_fds(&one, b"second", &[]).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(receive_with_fds(&other, &mut buffer).unwrap().0, 5);
        assert_eq!(receive_with_fds(&other, &mut buffer).unwrap().0, 6);
        assert_eq!(&buffer[..6], b"second");
        drop(one);
        let (length, fds) = receive_with_fds(&other, &mut buffer).unwrap();
        assert_eq!((length, fds.len()), (0, 0));
        assert_eq!(send_with_fds(&other, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn two_hundred_and_fifty_descriptors_travel_in_one_message_and_one_more_does_not() {
        let (one, other) = seqpacket_pair().unwrap();
        let (reading, writing) = pipe().unwrap();
        assert_cloexec(&reading);
        assert_cloexec(&writing);
        let error = send_with_fds(&one, b"x", &[writing.as_fd(); 251]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send_with_fds(&one, b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        send_with_fds(&one, b"x", &[writing.as_fd(); 250]).unwrap();
        drop(writing);
        let (length, fds) = receive_with_fds(&other, &mut [0; 10]).unwrap();
        assert_eq!((length, fds.len()), (1, 250));
        fds.iter().for_each(|fd| assert_cloexec(fd));
        File::from(fds[249].try_clone().unwrap()).write_all(b"through").unwrap();
        drop(fds);
        let mut text = String::new();
        File::from(reading).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_message_that_is_too_long_is_an_error_and_its_descriptors_are_closed() {
        let (one, other) = seqpacket_pair().unwrap();
        let (reading, writing) = pipe().unwrap();
        send_with_fds(&one, b"twelve bytes", &[writing.as_fd()]).unwrap();
        drop(writing);
        let error = receive_with_fds(&other, &mut [0; 11]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_at_end(reading);
    }

    #[test]
    fn when_a_descriptor_is_lost_all_that_arrived_are_closed() {
        let (one, other) = seqpacket_pair().unwrap();
        let (reading, writing) = pipe().unwrap();
        send_with_fds(&one, b"x", &[writing.as_fd(); 5]).unwrap();
        drop(writing);
        // Room for two of the five.
        let error = receive_into(other.as_fd(), &mut [0; 10], &mut [0; 3]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_at_end(reading);
    }

    #[test]
    fn waiting_ends_with_something_to_read_with_the_end_or_with_the_time() {
        let (reading, writing) = pipe().unwrap();
        assert!(!wait_readable(&reading, Duration::ZERO).unwrap());
        let begun = Instant::now();
        assert!(!wait_readable(&reading, Duration::from_micros(2500)).unwrap());
        assert!(begun.elapsed() >= Duration::from_micros(2500));
        File::from(writing.try_clone().unwrap()).write_all(b"x").unwrap();
        assert!(wait_readable(&reading, LONG).unwrap());
        File::from(reading.try_clone().unwrap()).read_exact(&mut [0]).unwrap();
        assert!(!wait_readable(&reading, Duration::ZERO).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_readable(&reading, Duration::MAX));
            drop(writing);
            assert!(waiting.join().unwrap().unwrap());
        });
    }
}
