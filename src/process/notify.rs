//! What the service manager is told: that the server is ready, reloads, stops, lives (`sd_notify(3)`).
//!
//! One datagram a message, on a socket that is connected at start, so that a later change of root or user does not
//! matter. The words are sd-notify's. The sending is not: its socket blocks, knows no abstract address, and carries
//! descriptors only with two crates more. Here a message waits 100 ms at most for a manager that is behind (what it must
//! not miss, 1 s; a sign of life, not at all); what cannot be sent is dropped, with one debug line. [`Notify::barrier`] alone waits for an answer.
//!
//! `NOTIFY_SOCKET` stays in the environment, because a restarted image needs it. A child process inherits it, but a
//! manager that was told `NotifyAccess=main` (the default of `Type=notify`) takes nothing from a child; who starts a
//! program that must not even try gives it an environment without the variable.

use std::cell::{Cell, RefCell};
use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use sd_notify::NotifyState;
use socket2::{Domain, SockAddr, Socket, Type};

use super::activation::stored_name;
use crate::logging;

/// The way to the service manager; without one every method does nothing.
///
/// A status is one line: it is escaped as a log line is, and cut at 1 KiB.
#[derive(Debug, Default)]
pub(super) struct Notify {
    manager: Option<Manager>,
    watchdog_period: Option<Duration>,
}

#[derive(Debug)]
struct Manager {
    address: SockAddr,
    /// None until the manager could be connected to.
    socket: RefCell<Option<Socket>>,
    /// It keeps descriptors for us.
    stores: bool,
    /// That it cannot be reached is in the log.
    failure_told: Cell<bool>,
}

impl Notify {
    /// Reads what the manager put into the environment; to be made once, by the process that serves (a daemon: after it
    /// has detached).
    ///
    /// `NOTIFY_SOCKET` is a path or, with `@` before it, an abstract name. `FDSTORE` with a number above 0 says that
    /// descriptors are kept; systemd sets it from version 254 on, and an older one takes it from the unit file
    /// (`Environment=FDSTORE=64` beside `FileDescriptorStoreMax=64`).
    pub(super) fn from_env() -> Self {
        let stored = env::var("FDSTORE").ok().and_then(|count| count.parse::<u32>().ok());
        let period = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        env::var_os("NOTIFY_SOCKET").map_or_else(Self::default, |address| {
            Self::at(&address, stored.is_some_and(|max| max > 0), period)
        })
    }

    fn at(address: &OsStr, stores: bool, watchdog_period: Option<Duration>) -> Self {
        let address = match socket_address(address) {
            Ok(address) => address,
            Err(error) => {
                log::debug!("NOTIFY_SOCKET {address:?} cannot be used: {error}");
                return Self::default();
            }
        };
        let manager = Manager {
            socket: RefCell::new(connect(&address).ok()),
            address,
            stores,
            failure_told: Cell::new(false),
        };
        Self { manager: Some(manager), watchdog_period: watchdog_period.filter(|period| !period.is_zero()) }
    }

    /// The start is done: clients are served. Waits a second, should the manager be behind: it stops a server of which
    /// it does not learn that.
    pub(super) fn ready(&self, status: &str) {
        let status = one_line(status);
        self.send(&[NotifyState::Ready, NotifyState::Status(&status)], None, READY_WAIT);
    }

    /// One line for `systemctl status`.
    pub(super) fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(&one_line(status))]);
    }

    /// The server closes. Not for a restart: since systemd 259 nothing takes it back.
    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Has the manager keep a duplicate of the listener's descriptor, so that the next process gets it back should this
    /// one crash. Where no descriptors are kept, and for a name that does not fit, nothing happens. Once is enough for
    /// each: the manager knows what it has.
    pub(super) fn store(&self, listener: &str, fd: BorrowedFd<'_>) {
        let Some(name) = self.name_in_store(listener) else { return };
        let name = format!("FDNAME={name}");
        let states = ["FDSTORE=1", "FDPOLL=0", &name].map(NotifyState::Custom);
        self.send(&states, Some(fd), SEND_WAIT);
    }

    /// Has the manager close what was kept for the listener of this name.
    pub(super) fn unstore(&self, listener: &str) {
        if let Some(name) = self.name_in_store(listener) {
            self.forget(&name);
        }
    }

    /// The same for a name as the manager has passed it.
    pub(super) fn forget(&self, name: &str) {
        let name = format!("FDNAME={name}");
        self.tell(&["FDSTOREREMOVE=1", &name].map(NotifyState::Custom));
    }
}

#[allow(dead_code, reason = "what a restart and the watchdog need")]
impl Notify {
    /// Whether there is a manager that wants to know.
    pub(super) fn is_active(&self) -> bool {
        self.manager.is_some()
    }

    /// A restart has begun; [`Notify::reloaded`] must follow, whatever comes of it.
    pub(super) fn reloading(&self, status: &str) {
        let status = one_line(status);
        let states = [NotifyState::Reloading, NotifyState::Status(&status)];
        match NotifyState::monotonic_usec_now() {
            // Without the time, systemd from 253 on would wait for it until the reload times out.
            Ok(now) => self.tell(&[states.as_slice(), &[now]].concat()),
            Err(_) => self.tell(&states),
        }
    }

    /// The restart is over, well or not.
    pub(super) fn reloaded(&self, status: &str) {
        self.ready(status);
    }

    /// From now on `pid` is the server; with `ready` it is ready, too. Only the process that is the main one so far is
    /// believed. Waits as [`Notify::ready`] does.
    pub(super) fn main_pid(&self, pid: u32, ready: bool) {
        let states = [NotifyState::MainPid(pid), NotifyState::Ready];
        self.send(if ready { &states } else { &states[..1] }, None, READY_WAIT);
    }

    /// Waits until the manager has read everything that was sent before, at most `timeout`.
    ///
    /// # Errors
    /// `TimedOut`: it has not; otherwise what the system says to the pipe or the socket.
    pub(super) fn barrier(&self, timeout: Duration) -> io::Result<()> {
        let Some(manager) = &self.manager else { return Ok(()) };
        let until = Instant::now() + timeout;
        let (sender, receiver) = mio::unix::pipe::new()?;
        let sender = OwnedFd::from(sender);
        let sent = manager.send(BARRIER, Some(sender.as_fd()), timeout);
        // The manager's copy is then the last one: when it closes that, the pipe hangs up.
        drop(sender);
        match sent {
            Ok(()) if wait_for(receiver.as_fd(), PollFlags::empty(), until)? => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => {
                let what = format!("the service manager has not answered in {} ms", timeout.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
        }
    }

    /// The loop lives. To be called from the loop itself, so that a callback that hangs is found out.
    pub(super) fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog], None, Duration::ZERO);
    }

    /// How often [`Notify::watchdog`] shall be called: half of the limit; `None` when nobody waits for it. A
    /// `WATCHDOG_PID` that is not ours means another process; an image that was restarted in place is the same one.
    pub(super) fn watchdog_period(&self) -> Option<Duration> {
        self.watchdog_period
    }
}

impl Notify {
    fn name_in_store(&self, listener: &str) -> Option<String> {
        self.manager.as_ref().filter(|manager| manager.stores)?;
        stored_name(listener)
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        self.send(states, None, SEND_WAIT);
    }

    fn send(&self, states: &[NotifyState<'_>], fd: Option<BorrowedFd<'_>>, wait: Duration) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.send(&message(states), fd, wait) {
            if !manager.failure_told.replace(true) {
                log::debug!("the service manager cannot be told: {error}");
            }
        }
    }
}

impl Manager {
    /// Sends one datagram, `wait` at most; a manager that was replaced meanwhile is connected to once more.
    fn send(&self, message: &str, fd: Option<BorrowedFd<'_>>, wait: Duration) -> io::Result<()> {
        let mut slot = self.socket.borrow_mut();
        if let Some(socket) = &*slot {
            match deliver(socket, message, fd, wait) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        deliver(slot.insert(connect(&self.address)?), message, fd, wait)
    }
}

/// A path, or an abstract name behind an `@`.
fn socket_address(name: &OsStr) -> io::Result<SockAddr> {
    match name.as_bytes() {
        [b'/', ..] => SockAddr::unix(name),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        [b'@', rest @ ..] => {
            let abstract_name = [&[0], rest].concat();
            SockAddr::unix(std::ffi::OsString::from_vec(abstract_name))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a path nor an abstract name")),
    }
}

fn connect(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

fn message(states: &[NotifyState<'_>]) -> String {
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn deliver(socket: &Socket, message: &str, fd: Option<BorrowedFd<'_>>, wait: Duration) -> io::Result<()> {
    let until = Instant::now() + wait;
    let raw = fd.map(|fd| fd.as_raw_fd());
    let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(std::slice::from_ref(raw)));
    loop {
        let bytes = [IoSlice::new(message.as_bytes())];
        let sent =
            sendmsg::<UnixAddr>(socket.as_raw_fd(), &bytes, rights.as_slice(), MsgFlags::empty(), None);
        match sent.map_err(io::Error::from) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if wait.is_zero() || !wait_for(socket.as_fd(), PollFlags::POLLOUT, until)? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for one of `events`, a hang-up or an error; false when none has come by `until`.
fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the last part of a millisecond is not spent spinning.
        let timeout = if left.is_zero() { left } else { left + Duration::from_millis(1) };
        let mut polled = [PollFd::new(fd, events)];
        match poll(&mut polled, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn one_line(status: &str) -> String {
    logging::one_line(status, STATUS_MAX_BYTES)
}

/// Has the manager close what comes with it once it has read all before; nothing else may stand in its datagram.
const BARRIER: &str = "BARRIER=1";

/// How long a message waits for a manager whose queue is full: a moment that nobody notices.
const SEND_WAIT: Duration = Duration::from_millis(100);

/// The same for what the manager must not miss.
const READY_WAIT: Duration = Duration::from_secs(1);

/// Far below the manager's own limit (16 KiB), and a line to be read.
const STATUS_MAX_BYTES: usize = 1024;

#[cfg(test)]
mod tests;
