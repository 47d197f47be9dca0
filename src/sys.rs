//! Thin calls to the operating system that the standard library, mio and socket2 do not offer.
//!
//! This file has all the `unsafe` of the crate, eight blocks, each behind a function or type that nothing outside can
//! use wrongly; the files below it need none. Without the feature `daemon` each function that the rest of the crate needs
//! falls back to the neutral answer that its docstring names, so that nothing above has to ask which features are on;
//! the calls of the handover are not there then.

#[cfg(feature = "daemon")]
mod memory;
#[cfg(feature = "daemon")]
mod messages;
#[cfg(feature = "daemon")]
mod processes;

#[cfg(feature = "daemon")]
#[allow(dead_code, reason = "used by the process flow, which needs more features")]
pub(crate) mod daemon;

#[cfg(feature = "auth")]
pub(crate) mod directory;

use std::io;
use std::os::fd::AsFd;
#[cfg(feature = "daemon")]
use std::{
    collections::BTreeSet,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    sync::{Mutex, PoisonError},
};

#[cfg(feature = "auth")]
pub(crate) use self::processes::harden_process;
#[cfg(feature = "daemon")]
pub(crate) use self::{
    memory::{read_sealed, sealed_memory},
    messages::{pipe, receive_some, receive_with_fds, send_with_fds, seqpacket_pair, wait_readable},
    processes::{
        block_signals, close_stdin, end_with_parent, exec, is_zombie, kill, monotonic, own_pid,
        pending_signals, raise, set_cloexec, thread_count, unblock_signals, wait_for,
    },
};

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

/// The time on the system's monotonic clock; without the feature `daemon` nobody hands it to another image, and it is 0.
#[cfg(not(feature = "daemon"))]
pub(crate) fn monotonic() -> std::time::Duration {
    std::time::Duration::ZERO
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

/// Which of the two processes this is, after [`fork`].
#[cfg(feature = "daemon")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    /// The one that called; with the number of the child.
    Parent(i32),
    /// The copy: everything is as it was, but for its number, its parent, and signals that were pending.
    Child,
}

/// Makes a copy of this process (`fork(2)`), which must have no other thread: theirs are missing from the copy, and the
/// locks that they held stay locked there for ever. The caller has ended all that the crate started; this checks it
/// where the system counts threads.
///
/// # Errors
/// `Deadlock` when there are other threads, as far as the system tells ([`thread_count`]); no memory, too many processes.
#[cfg(feature = "daemon")]
#[allow(unsafe_code, reason = "a fork is sound in a process of one thread only")]
pub(crate) fn fork() -> io::Result<Fork> {
    only_thread("fork")?;
    // SAFETY: there is no other thread that could hold a lock or have something half changed at this moment, so the
    // child may do whatever the parent may. Where the threads cannot be counted, the caller answers for it, as said above.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child.as_raw())),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends this process at once (`_exit(2)`): no destructor runs, nothing that is buffered is written, no handler of the
/// application is called. For a copy of a process, whose buffers and handlers belong to the original.
#[cfg(feature = "daemon")]
#[allow(unsafe_code, reason = "the standard library only has an exit that calls handlers")]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes a number and does not return; it leaves nothing behind that could be used wrongly.
    unsafe { libc::_exit(status) }
}

/// Removes `name` from the environment, so that programs which are started from here do not see it. To call before any
/// other thread exists.
///
/// # Errors
/// `Deadlock` when there are other threads, as far as the system tells: they might be reading it. `InvalidInput` when
/// no variable can have that name.
#[cfg(feature = "daemon")]
#[allow(unsafe_code, reason = "the environment has no lock that all of a process know of")]
pub(crate) fn remove_env(name: &str) -> io::Result<()> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let context = format!("{name:?} cannot be the name of a variable");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, context));
    }
    only_thread("change the environment")?;
    // SAFETY: there is no other thread that could read or change the environment at this moment. Where the threads
    // cannot be counted, the caller answers for it, as said above.
    unsafe { std::env::remove_var(name) };
    Ok(())
}

/// Refuses what only a process of one thread may do.
#[cfg(feature = "daemon")]
fn only_thread(what: &str) -> io::Result<()> {
    match thread_count() {
        Some(threads) if threads != 1 => Err(io::Error::new(
            io::ErrorKind::Deadlock,
            format!("cannot {what} in a process of {threads} threads: all but one must have ended"),
        )),
        _ => Ok(()),
    }
}

/// The descriptors that this process was started with, beyond the standard three: each is given away once.
///
/// They belong to nobody yet: a service manager, a shell or the image before left them open. Those that nobody takes
/// stay open, and end with the next exec.
#[cfg(feature = "daemon")]
#[derive(Debug)]
pub(crate) struct Inherited {
    /// Open since before this process ran its first instruction, and owned by nothing in it.
    numbers: BTreeSet<RawFd>,
}

#[cfg(feature = "daemon")]
impl Inherited {
    /// Finds the descriptors from 3 that are open and not close-on-exec, and makes them close-on-exec. What this process
    /// opened itself is so from the beginning (the standard library sees to it), and is therefore not among them.
    ///
    /// To call at the start, before anything is opened without close-on-exec. A number is listed once in the life of a
    /// process, so a later call cannot give away what somebody owns by then.
    ///
    /// # Errors
    /// The flags cannot be changed.
    pub(crate) fn at_start() -> io::Result<Self> {
        // A number that is not open has no flags, but an error.
        let is_left_open =
            |number: &RawFd| descriptor_flags(*number, None).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0);
        let left_open: Vec<RawFd> = open_numbers().filter(is_left_open).collect();
        if !left_open.is_empty() && !close_all_on_exec() {
            for number in &left_open {
                descriptor_flags(*number, Some(libc::FD_CLOEXEC))?;
            }
        }
        let mut listed = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers: BTreeSet<RawFd> =
            left_open.into_iter().filter(|number| !listed.contains(number)).collect();
        listed.append(&mut numbers.clone());
        Ok(Self { numbers })
    }

    /// The numbers that have not been taken, in order.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.numbers.iter().copied()
    }

    /// The descriptor of that number, which the caller owns from now on.
    ///
    /// # Errors
    /// `NotFound` when it was not open at the start, was close-on-exec, or is taken; `EBADF` when it has been closed.
    #[allow(unsafe_code, reason = "adopting an inherited descriptor")]
    pub(crate) fn take(&mut self, number: RawFd) -> io::Result<OwnedFd> {
        if !self.numbers.remove(&number) {
            let context = format!("descriptor {number} was not inherited, or has been taken already");
            return Err(io::Error::new(io::ErrorKind::NotFound, context));
        }
        descriptor_flags(number, None)?;
        // SAFETY: the descriptor is open, as was just asked, and has been since before the process could own anything.
        // Nobody else is given it: the number was in this set, is out of it now, and enters no other one (`LISTED`).
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// The numbers from 3 that may be open.
#[cfg(feature = "daemon")]
fn open_numbers() -> Box<dyn Iterator<Item = RawFd>> {
    // To try each costs 0.2 microseconds, and to have /proc list those that are open 3.
    if let Some(slots) = descriptor_slots() {
        return Box::new(FIRST_INHERITED..slots);
    }
    if let Ok(entries) = std::fs::read_dir("/dev/fd") {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        return Box::new(names.filter(|number| *number >= FIRST_INHERITED));
    }
    // A bare chroot: all that the limit allows now, which may have been higher when they were opened.
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let limit = limit.map_or(DESCRIPTORS_UNKNOWN as u64, |(soft, _)| soft);
    Box::new(FIRST_INHERITED..RawFd::try_from(limit).unwrap_or(RawFd::MAX).min(NUMBERS_MAX))
}

/// How many descriptors the table of this process has room for now, which is more than the highest that is open
/// (`proc_pid_status(5)`, `FDSize`).
#[cfg(feature = "daemon")]
fn descriptor_slots() -> Option<RawFd> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("FDSize:"))?.trim().parse().ok()
}

/// The flags of the descriptor `number`, which may be closed; sets them first if they are given (`fcntl(2)`).
#[cfg(feature = "daemon")]
#[allow(unsafe_code, reason = "nobody owns an inherited descriptor yet, so there is none to borrow")]
fn descriptor_flags(number: RawFd, set: Option<i32>) -> io::Result<i32> {
    let (command, value) = set.map_or((libc::F_GETFD, 0), |flags| (libc::F_SETFD, flags));
    // SAFETY: both commands take a number or nothing, and no memory; a number that is not open is answered with EBADF.
    // All that can change is whether the descriptor outlives an exec.
    let flags = unsafe { libc::fcntl(number, command, value) };
    if flags == -1 { Err(io::Error::last_os_error()) } else { Ok(flags) }
}

/// Makes all descriptors from 3 close-on-exec in one call; false where the system has no such call (Linux before 5.11).
#[cfg(all(feature = "daemon", target_os = "linux"))]
#[allow(unsafe_code, reason = "not every C library has a function for it")]
fn close_all_on_exec() -> bool {
    let (first, last, flags) =
        (FIRST_INHERITED as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: close_range(2) takes three numbers and no memory. With this flag it closes nothing: all that changes is
    // whether a descriptor outlives an exec.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) == 0 }
}

/// The same where there is no such call.
#[cfg(all(feature = "daemon", not(target_os = "linux")))]
fn close_all_on_exec() -> bool {
    false
}

/// Whether descriptors can be passed to this Unix socket and to those that it accepts from now on (`SO_PASSRIGHTS`, Linux
/// 6.16). A peer that passes one where they cannot is told so (`EPERM`), and nothing of his is ever ours to close, which
/// may take long: a TCP socket can make its last close wait for seconds (`socket(7)`, `SO_LINGER`). Nothing happens where
/// the system does not know of it.
#[cfg(all(
    feature = "daemon",
    target_os = "linux",
    not(any(target_arch = "sparc", target_arch = "sparc64"))
))]
#[allow(unsafe_code, reason = "neither nix nor socket2 knows this option")]
pub(crate) fn set_passes_fds(socket: impl AsFd, passes: bool) {
    let (fd, value) = (socket.as_fd().as_raw_fd(), libc::c_int::from(passes));
    // SAFETY: the socket is borrowed and open, and setsockopt(2) reads `value`, whose size it is told, and keeps no pointer.
    // A system that does not know the number of the option changes nothing; on the excluded ones it is another's.
    let _ = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
}

/// The same where there is no such option.
#[cfg(not(all(
    feature = "daemon",
    target_os = "linux",
    not(any(target_arch = "sparc", target_arch = "sparc64"))
)))]
pub(crate) fn set_passes_fds(_socket: impl AsFd, _passes: bool) {}

/// What one `recvmsg(2)` gave.
#[cfg(feature = "daemon")]
struct Message {
    /// How many bytes of the buffer were filled; 0 when the peer has closed.
    length: usize,
    /// Every descriptor that came with it.
    fds: Vec<OwnedFd>,
    /// Whether bytes or descriptors were lost for lack of room.
    cut: bool,
}

/// Receives one message and owns every descriptor that comes with it, also when not all of them could be received.
/// `control` is where the kernel lists them: eight bytes each are enough, and 16 more.
///
/// # Errors
/// As `recvmsg(2)`, an interruption included.
#[cfg(feature = "daemon")]
#[allow(unsafe_code, reason = "nix gives no descriptors when some were lost, and those that came would leak")]
fn receive_message(socket: BorrowedFd<'_>, buffer: &mut [u8], control: &mut [u64]) -> io::Result<Message> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut fds = Vec::new();
    // SAFETY: a header of zeros is a valid one, and its pointers then lead to `part`, to `buffer` through it, and to
    // `control`, which live and are borrowed until the end, with their lengths. The CMSG functions stay within what the
    // kernel wrote to `control`, whose alignment is at least that of `cmsghdr`; a message of SCM_RIGHTS holds descriptors
    // which the kernel has just opened for this process, so that nobody else owns them, and each is read once.
    let (length, flags) = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(control) as _;
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut header, RECEIVE_FLAGS);
        let mut entry =
            if length < 0 { std::ptr::null_mut() } else { libc::CMSG_FIRSTHDR(&raw const header) };
        while !entry.is_null() {
            if (*entry).cmsg_level == libc::SOL_SOCKET && (*entry).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*entry).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let numbers = libc::CMSG_DATA(entry).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(numbers.add(at).read_unaligned()));
                }
            }
            entry = libc::CMSG_NXTHDR(&raw const header, entry);
        }
        (length, header.msg_flags)
    };
    // Negative is only the -1 of an error.
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Message { length, fds, cut: flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 })
}

/// What is assumed where the limit of descriptors cannot be asked for: the customary soft limit.
const DESCRIPTORS_UNKNOWN: usize = 1024;

/// Numbers that [`Inherited`] has listed in the life of this process.
#[cfg(feature = "daemon")]
static LISTED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Behind standard input, output and error, which are nobody's to take.
#[cfg(feature = "daemon")]
const FIRST_INHERITED: RawFd = 3;

/// How far descriptors are looked for by trying, where the system does not list them.
#[cfg(feature = "daemon")]
const NUMBERS_MAX: RawFd = 65_536;

/// `asm-generic/socket.h`
#[cfg(all(
    feature = "daemon",
    target_os = "linux",
    not(any(target_arch = "sparc", target_arch = "sparc64"))
))]
const SO_PASSRIGHTS: libc::c_int = 83;

/// Descriptors arrive close-on-exec where the system has a flag for it.
#[cfg(all(feature = "daemon", not(target_vendor = "apple")))]
const RECEIVE_FLAGS: i32 = libc::MSG_CMSG_CLOEXEC;
#[cfg(all(feature = "daemon", target_vendor = "apple"))]
const RECEIVE_FLAGS: i32 = 0;

#[cfg(test)]
mod tests;
