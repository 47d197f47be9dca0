//! The system calls that the standard library does not have, one thin function each. Nothing else here is unsafe.

#![allow(unsafe_code, reason = "epoll, plain send and recv, core affinity and another process's CPU clock")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(crate) use libc::epoll_event as Event;

/// Input, edge-triggered.
pub(crate) const IN: u32 = (libc::EPOLLIN | libc::EPOLLET) as u32;
/// Room for output, edge-triggered.
pub(crate) const OUT: u32 = (libc::EPOLLOUT | libc::EPOLLET) as u32;
/// Input, as long as there is some.
pub(crate) const IN_LEVEL: u32 = libc::EPOLLIN as u32;
/// What an event says when there is room for output.
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT as u32;

pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: it takes no pointer, and what it returns is owned by nobody yet.
        unsafe { Ok(Self(owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)) }
    }

    pub(crate) fn add(&self, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, events)
    }

    pub(crate) fn modify(&self, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, events)
    }

    /// Has this one reported by the other, as long as it has events.
    pub(crate) fn report_to(&self, other: &Self, token: u64) -> io::Result<()> {
        other.add(self.0.as_raw_fd(), token, IN_LEVEL)
    }

    fn control(&self, what: i32, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = Event { events, u64: token };
        // SAFETY: the event lives through the call.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &raw mut event) }).map(drop)
    }

    /// Waits for ever; how many of `events` are filled in.
    #[inline]
    pub(crate) fn wait(&self, events: &mut [Event]) -> io::Result<usize> {
        // SAFETY: the kernel writes at most as many events as it is told there is room for.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
        checked(count).map(|count| count as usize)
    }

    /// The same, at most `time`; none when it is over. Linux 5.11 has the finer clock that this needs.
    pub(crate) fn wait_at_most(&self, events: &mut [Event], time: Duration) -> io::Result<usize> {
        let time = libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        // SAFETY: as above; the time lives through the call, and there is no signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as i32,
                &raw const time,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        match count {
            0.. => Ok(count as usize),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }
}

/// Room for events.
pub(crate) fn events(count: usize) -> Vec<Event> {
    vec![Event { events: 0, u64: 0 }; count]
}

#[inline]
pub(crate) fn recv(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    counted(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

#[inline]
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads those bytes only.
    counted(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// The next client of a listener, non-blocking.
#[inline]
pub(crate) fn accept(listener: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: nobody wants the address.
    checked(unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

/// Closes what [`accept`] gave.
#[inline]
pub(crate) fn close(fd: RawFd) {
    // SAFETY: it closes a number; the callers forget theirs with it.
    unsafe { libc::close(fd) };
}

/// A TCP listener on the loopback interface whose clients have `TCP_NODELAY`, non-blocking.
pub(crate) fn listen_tcp(port: u16) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_INET)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    bind(&socket, &inet(Ipv4Addr::LOCALHOST, port))?;
    listen(socket)
}

pub(crate) fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_UNIX)?;
    bind(&socket, &unix(path)?)?;
    listen(socket)
}

/// Begins to connect from `from`, one of the loopback addresses, without waiting for it. `receive_buffer` in bytes.
pub(crate) fn connect_tcp(from: Ipv4Addr, port: u16, receive_buffer: Option<i32>) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_INET)?;
    if let Some(bytes) = receive_buffer {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    // A port is chosen when the other end is known, so each source address has all of them.
    set_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind(&socket, &inet(from, 0))?;
    connect(socket, &inet(Ipv4Addr::LOCALHOST, port))
}

pub(crate) fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    connect(socket(libc::AF_UNIX)?, &unix(path)?)
}

/// Raises the limit of open descriptors as far as it may be; what it is then.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through both calls.
    unsafe {
        checked(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        checked(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    }
    Ok(limit.rlim_cur)
}

/// The cores that this process may use.
pub(crate) fn cores() -> io::Result<Vec<usize>> {
    // SAFETY: a set of cores is plain bits, and the kernel writes no more than its size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        checked(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set))?;
        Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect())
    }
}

/// This process runs on that core only, from now on.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a set of cores is plain bits.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        checked(libc::sched_setaffinity(0, size_of_val(&set), &raw const set)).map(drop)
    }
}

/// This process and those that it starts run at that priority, -20 to 19.
pub(crate) fn renice(priority: i32) -> io::Result<()> {
    // SAFETY: it takes no pointer.
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, priority) }).map(drop)
}

/// The command is to run on that core, and to die with the thread that starts it.
pub(crate) fn bind_child(command: &mut Command, core: Option<usize>) {
    let start = move || {
        // SAFETY: it takes no pointer.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        core.map_or(Ok(()), pin)
    };
    // SAFETY: between fork and exec it makes two system calls and touches no memory but its own stack.
    unsafe { command.pre_exec(start) };
}

/// This process is killed by SIGALRM after that time, whatever happens.
pub(crate) fn die_after(time: Duration) {
    // SAFETY: it takes no pointer.
    unsafe { libc::alarm(time.as_secs() as u32) };
}

/// Asks a process to end as the terminal's interrupt key would.
pub(crate) fn interrupt(pid: u32) -> io::Result<()> {
    // SAFETY: it takes no pointer.
    checked(unsafe { libc::kill(pid as i32, libc::SIGINT) }).map(drop)
}

/// The CPU time of a process: all its threads, those that have ended too, exact to the moment.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut clock = 0;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: both are written before they are read, or the call has failed.
    let time = unsafe {
        match libc::clock_getcpuclockid(pid as i32, &raw mut clock) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        checked(libc::clock_gettime(clock, time.as_mut_ptr()))?;
        time.assume_init()
    };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn socket(family: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: it takes no pointer, and what it returns is owned by nobody yet.
    unsafe { owned(libc::socket(family, kind, 0)) }
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of_val(&value) as u32;
    // SAFETY: the value lives through the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    checked(done).map(drop)
}

/// An address of the socket interface: plain data, handed over by pointer and size.
trait Address {}
impl Address for libc::sockaddr_in {}
impl Address for libc::sockaddr_un {}

fn inet(ip: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    }
}

fn unix(path: &Path) -> io::Result<libc::sockaddr_un> {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::other(format!("{}: too long for a socket", path.display())));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

fn bind<A: Address>(socket: &OwnedFd, address: &A) -> io::Result<()> {
    let pointer = std::ptr::from_ref(address).cast();
    // SAFETY: the address lives through the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), pointer, size_of::<A>() as u32) }).map(drop)
}

fn listen(socket: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: it takes no pointer.
    checked(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

fn connect<A: Address>(socket: OwnedFd, address: &A) -> io::Result<OwnedFd> {
    let pointer = std::ptr::from_ref(address).cast();
    // SAFETY: the address lives through the call.
    match checked(unsafe { libc::connect(socket.as_raw_fd(), pointer, size_of::<A>() as u32) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// # Safety
/// Nobody else owns the descriptor.
unsafe fn owned(fd: i32) -> io::Result<OwnedFd> {
    let fd = checked(fd)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[inline]
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[inline]
fn counted(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Clients that wait to be accepted.
const BACKLOG: i32 = 4096;
