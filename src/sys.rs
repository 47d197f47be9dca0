//! Thin calls to the operating system that the standard library, mio and socket2 do not offer.
//!
//! Everything here goes through safe wrappers of nix and keeps no state. Without the feature `daemon` each function
//! falls back to the neutral answer that its docstring names, so that nothing above has to ask which features are on.

use std::io;
use std::os::fd::AsFd;

/// Who is at the other end of a Unix socket, as the kernel saw it when the connection was made (`unix(7)`,
/// `SO_PEERCRED`). It cannot be forged by the peer, but stays what it was when a peer changes its user afterwards
/// or hands its descriptor to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Effective user of the process that connected.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process; `None` where the system does not tell. It may have ended and its number be in use again.
    pub pid: Option<i32>,
}

/// Raises the soft limit of open descriptors to the hard one (`getrlimit(2)`, `RLIMIT_NOFILE`) and gives the soft
/// limit that is then in force. What cannot be raised stays as it is. Without the feature `daemon`: 1024, unasked.
#[cfg(feature = "daemon")]
pub(crate) fn raise_descriptor_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return DESCRIPTORS_UNKNOWN;
    };
    let limit =
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The same without the feature `daemon`: the limit is not touched, and taken to be 1024.
#[cfg(not(feature = "daemon"))]
pub(crate) fn raise_descriptor_limit() -> usize {
    DESCRIPTORS_UNKNOWN
}

/// Who is at the other end of the Unix socket `fd`; `None` when the kernel does not say (not a Unix socket, a system
/// without `SO_PEERCRED`, or without the feature `daemon`).
#[cfg(all(feature = "daemon", any(target_os = "linux", target_os = "android")))]
pub(crate) fn peer_credentials(fd: impl AsFd) -> Option<Credentials> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

    // A socket that is no Unix socket answers with pid 0 and uid -1 instead of an error.
    let seen = getsockopt(&fd, PeerCredentials).ok()?;
    (seen.uid() != u32::MAX).then(|| Credentials {
        uid: seen.uid(),
        gid: seen.gid(),
        pid: (seen.pid() > 0).then(|| seen.pid()),
    })
}

/// The same through `getpeereid(3)`, which knows no process.
#[cfg(all(
    feature = "daemon",
    any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "openbsd"
    )
))]
pub(crate) fn peer_credentials(fd: impl AsFd) -> Option<Credentials> {
    let (uid, gid) = nix::unistd::getpeereid(fd).ok()?;
    Some(Credentials { uid: uid.as_raw(), gid: gid.as_raw(), pid: None })
}

/// The same where nobody can be asked.
#[cfg(not(all(
    feature = "daemon",
    any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "netbsd",
        target_os = "openbsd"
    )
)))]
pub(crate) fn peer_credentials(_fd: impl AsFd) -> Option<Credentials> {
    None
}

/// Whether a poll would say now that `fd` can be written to (`poll(2)`, `POLLOUT`): the system says so only when there
/// is much room (a third of a TCP socket's buffer), though it takes bytes for less. False when it cannot be asked, and
/// without the feature `daemon`.
#[cfg(feature = "daemon")]
pub(crate) fn is_writable(fd: impl AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let answer = poll(&mut polled, PollTimeout::ZERO);
    answer.is_ok() && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

/// The same where it is not asked.
#[cfg(not(feature = "daemon"))]
pub(crate) fn is_writable(_fd: impl AsFd) -> bool {
    false
}

/// The number of the user called `name_or_number`: a name of the system's user table first, then a plain number, as
/// `chown(1)` reads it. Without the feature `daemon` only a number is known.
///
/// # Errors
/// `NotFound` for a name that the system does not know; whatever the look-up itself fails with.
pub(crate) fn user_id(name_or_number: &str) -> io::Result<u32> {
    #[cfg(feature = "daemon")]
    if let Some(user) = nix::unistd::User::from_name(name_or_number)? {
        return Ok(user.uid.as_raw());
    }
    number(name_or_number, "user")
}

/// The number of the group called `name_or_number`, found as [`user_id`] does.
///
/// # Errors
/// As [`user_id`].
pub(crate) fn group_id(name_or_number: &str) -> io::Result<u32> {
    #[cfg(feature = "daemon")]
    if let Some(group) = nix::unistd::Group::from_name(name_or_number)? {
        return Ok(group.gid.as_raw());
    }
    number(name_or_number, "group")
}

/// A plain number; the highest one means "leave as it is" to `chown(2)` and is refused.
fn number(text: &str, what: &str) -> io::Result<u32> {
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(id),
        _ if cfg!(feature = "daemon") => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} {text:?}")))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{what} {text:?} must be a number: names need the feature `daemon`"),
        )),
    }
}

/// What is assumed where the limit of descriptors cannot be asked for: the customary soft limit.
const DESCRIPTORS_UNKNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_is_raised_once_and_then_stays() {
        let first = raise_descriptor_limit();
        assert!(first >= 64, "{first}");
        assert_eq!(raise_descriptor_limit(), first);
    }

    #[test]
    fn a_plain_number_is_a_user_and_a_group_and_nonsense_is_neither() {
        assert_eq!(user_id("4242").unwrap(), 4242);
        assert_eq!(group_id("4243").unwrap(), 4243);
        for text in ["", "-1", "4294967295", "no such name"] {
            assert_eq!(user_id(text).unwrap_err().kind(), io::ErrorKind::NotFound, "{text:?}");
            assert_eq!(group_id(text).unwrap_err().kind(), io::ErrorKind::NotFound, "{text:?}");
        }
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn a_socket_is_writable_until_it_is_full() {
        use std::io::Write as _;
        let (mut ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_writable(&ours));
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 4096]).is_ok() {}
        assert!(!is_writable(&ours));
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn a_name_is_looked_up_in_the_system() {
        assert_eq!(user_id("root").unwrap(), 0);
    }

    #[test]
    fn a_tcp_socket_has_no_credentials() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(peer_credentials(&client), None);
    }
}
