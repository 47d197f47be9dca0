//! Listeners that the service manager has opened, or has kept for us, and passes at a start (`sd_listen_fds(3)`).
//!
//! What a socket unit opens is the manager's: it must be what the configuration says, and its paths are never removed
//! here. What was kept ([`Notify::store`]) is ours, from before a crash or a cold restart: it is taken where it still fits,
//! and forgotten where it does not, because the configuration may have changed meanwhile. Both are found by the name of
//! the listener first, then by the address, where port 0 is any; what nobody passes is opened as usual.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use socket2::{SockAddr, SockRef};

use super::notify::Notify;
use crate::config::{Config, Limits, ListenAddr, ListenAt};
use crate::net::{Listener, LocalAddr};
use crate::sys::{self, Inherited};
use crate::{Error, ErrorKind, Result};

/// The descriptors that a manager has passed to this process, each with its name (`LISTEN_FDNAMES`), which is empty where
/// it has none.
#[derive(Debug, Default)]
pub(super) struct Passed {
    fds: Vec<(OwnedFd, String)>,
}

impl Passed {
    /// Takes them, and removes the variables that tell of them, which are true only once: a restart in place keeps the
    /// number of the process. To be called at a fresh start, before there is another thread.
    ///
    /// # Errors
    /// [`ErrorKind::Bind`]: the variables contradict each other, or a descriptor is not there.
    pub(super) fn of_process(inherited: &mut Inherited) -> Result<Self> {
        let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
            .map(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()));
        for name in VARIABLES {
            // Not possible beside other threads; then children see it, and it means nothing to another process.
            let _ = sys::remove_env(name);
        }
        if pid.and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
            return Ok(Self::default());
        }
        Self::of_variables(count.as_deref().unwrap_or("0"), names.as_deref(), |fd| inherited.take(fd))
    }

    fn of_variables(
        count: &str,
        names: Option<&str>,
        mut take: impl FnMut(RawFd) -> io::Result<OwnedFd>,
    ) -> Result<Self> {
        let refuse = |what: String| Error::new(ErrorKind::Bind, format!("LISTEN_FDS={count}: {what}"));
        let number: RawFd = count.parse().map_err(|_| refuse("it is no number of descriptors".to_owned()))?;
        let names: Vec<&str> = names.map_or_else(Vec::new, |names| names.split(':').collect());
        if !names.is_empty() && usize::try_from(number) != Ok(names.len()) {
            return Err(refuse(format!("LISTEN_FDNAMES has another number of names, {}", names.len())));
        }
        let mut passed = Self::default();
        for (at, fd) in (FIRST..FIRST.saturating_add(number)).enumerate() {
            let descriptor = take(fd).map_err(|cause| {
                let context = format!("LISTEN_FDS={count}: descriptor {fd} was not passed");
                Error::with_source(ErrorKind::Bind, context, cause)
            })?;
            passed.fds.push((descriptor, names.get(at).copied().unwrap_or_default().to_owned()));
        }
        Ok(passed)
    }
}

/// The listeners of `config`, in its order: those that were passed, and the others opened now. What was kept by the
/// manager and is of no use any more is taken out of its store.
///
/// # Errors
/// [`ErrorKind::Bind`], once for all that cannot be opened, one line each; a descriptor that has the name or the address
/// of a listener, but is something else, is among them.
pub(super) fn listeners(passed: Passed, config: &Config, notify: &Notify) -> Result<Vec<Listener>> {
    if passed.fds.is_empty() {
        return Listener::bind_all(&config.listen, &config.limits);
    }
    let mut slots: Vec<Slot<'_>> = config.listen.iter().map(|at| Slot { at, adopted: Vec::new() }).collect();
    let mut wrong = Vec::new();
    // A socket that comes both ways, from its unit and from the store, is its unit's.
    let (kept, opened): (Vec<_>, Vec<_>) = passed.fds.into_iter().partition(|(_, name)| is_kept(name));
    for (fd, name) in opened.into_iter().chain(kept) {
        match place(&fd, &name, &mut slots, &config.limits) {
            Placed::Adopted => {}
            Placed::Twice if is_kept(&name) => notify.forget(&name),
            Placed::Twice => log::debug!("the service manager passed {name:?} more than once"),
            Placed::Nowhere(_) if is_kept(&name) => {
                log::info!("the service manager kept {name:?}, which no listener is any more: closed");
                notify.forget(&name);
            }
            Placed::Nowhere(Some(error)) => wrong.push(error),
            Placed::Nowhere(None) => {
                log::warn!(
                    "the service manager passed {name:?}, {}, which no listener is: closed; `port` lacks it",
                    what(&fd)
                );
            }
        }
    }
    let mut listeners = Vec::new();
    for slot in slots {
        if slot.adopted.is_empty() {
            match Listener::bind(slot.at, &config.limits) {
                Ok(bound) => listeners.extend(bound),
                Err(error) => wrong.push(error),
            }
        }
        listeners.extend(slot.adopted);
    }
    if wrong.len() > 1 {
        let lines: Vec<String> = wrong.iter().map(Error::chain).collect();
        return Err(Error::new(ErrorKind::Bind, lines.join("\n")));
    }
    wrong.pop().map_or(Ok(listeners), Err)
}

/// A listener of the configuration, and what was passed for it: several sockets where its host is a name.
struct Slot<'a> {
    at: &'a ListenAt,
    adopted: Vec<Listener>,
}

impl Slot<'_> {
    fn has(&self, local: &SockAddr) -> bool {
        match local.as_socket() {
            Some(addr) => self.adopted.iter().any(|listener| listener.local_addr() == LocalAddr::Ip(addr)),
            None => !self.adopted.is_empty(),
        }
    }
}

enum Placed {
    Adopted,
    /// Its listener has it already.
    Twice,
    /// No listener takes it; why the first one that seemed to be meant does not.
    Nowhere(Option<Error>),
}

fn place(fd: &OwnedFd, name: &str, slots: &mut [Slot<'_>], limits: &Limits) -> Placed {
    let mut refused = None;
    let local = SockRef::from(fd).local_addr().ok();
    let by_name = |slot: &Slot<'_>| {
        name == slot.at.name || stored_name(&slot.at.name).is_some_and(|stored| name == stored)
    };
    let by_address = |slot: &Slot<'_>| local.as_ref().is_some_and(|local| has_address(local, &slot.at.addr));
    let named: Vec<usize> = (0..slots.len()).filter(|at| by_name(&slots[*at])).collect();
    let addressed: Vec<usize> = (0..slots.len()).filter(|at| by_address(&slots[*at])).collect();
    let by_host = |slot: &Slot<'_>| {
        let fits = |local| has_host_of_any_port(local, &slot.at.addr);
        !is_kept(name) && slot.adopted.is_empty() && local.as_ref().is_some_and(fits)
    };
    let free: Vec<usize> = (0..slots.len()).filter(|at| by_host(&slots[*at])).collect();
    for at in named.into_iter().chain(addressed).chain(free) {
        let slot = &mut slots[at];
        if is_kept(name) && has_lost_its_path(&slot.at.addr) {
            continue;
        }
        if local.as_ref().is_some_and(|local| slot.has(local)) {
            return Placed::Twice;
        }
        match adopt(fd, local.as_ref().filter(|_| !is_kept(name)), slot.at, limits) {
            Ok(listener) => {
                slot.adopted.push(listener);
                return Placed::Adopted;
            }
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    Placed::Nowhere(refused)
}

/// Adopts a duplicate. `bound` is where a socket of the manager's is: its path tells, while one of ours was bound beside
/// its path and has a name instead.
fn adopt(fd: &OwnedFd, bound: Option<&SockAddr>, at: &ListenAt, limits: &Limits) -> Result<Listener> {
    if let (ListenAddr::Unix { .. }, Some(path)) = (&at.addr, bound.and_then(SockAddr::as_pathname)) {
        if !bound.is_some_and(|bound| has_address(bound, &at.addr)) {
            let context = format!("the inherited descriptor for {} listens on {}", at.name, path.display());
            return Err(Error::new(ErrorKind::Bind, context));
        }
    }
    let fd = fd.try_clone().map_err(|cause| {
        Error::with_source(ErrorKind::Bind, format!("the inherited descriptor for {}", at.name), cause)
    })?;
    Listener::adopt(fd, at, limits)
}

/// Whether a socket that is bound to `local` is the one that `wanted` asks for; a path may be a link to the other.
fn has_address(local: &SockAddr, wanted: &ListenAddr) -> bool {
    match (wanted, local.as_socket()) {
        (ListenAddr::Tcp { host, port, .. }, Some(addr)) => {
            *port == addr.port() && has_host(addr, host, *port)
        }
        (ListenAddr::Unix { path, .. }, None) => {
            local.as_pathname().is_some_and(|bound| is_same_file(bound, path))
        }
        _ => false,
    }
}

/// Whether `wanted` takes any port, on the host that `local` is bound to.
fn has_host_of_any_port(local: &SockAddr, wanted: &ListenAddr) -> bool {
    match (wanted, local.as_socket()) {
        (ListenAddr::Tcp { host, port: 0, .. }, Some(addr)) => has_host(addr, host, addr.port()),
        _ => false,
    }
}

fn has_host(addr: SocketAddr, host: &str, port: u16) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip == addr.ip(),
        Err(_) if host == "*" => addr.ip().is_unspecified(),
        Err(_) => (host, port).to_socket_addrs().is_ok_and(|mut found| found.any(|found| found == addr)),
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// A socket that was kept outlives its path, which went with the directory or with the process that stopped: nobody
/// could reach it.
fn has_lost_its_path(addr: &ListenAddr) -> bool {
    let is_socket = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    match addr {
        ListenAddr::Unix { path, .. } => !is_socket(path),
        ListenAddr::Tcp { .. } => false,
    }
}

/// A passed descriptor, for the log.
fn what(fd: &OwnedFd) -> String {
    let Ok(local) = SockRef::from(fd).local_addr() else { return "no socket".to_owned() };
    let path = || local.as_pathname().map(|path| path.display().to_string());
    local.as_socket().map(|addr| addr.to_string()).or_else(path).unwrap_or_else(|| "a socket".to_owned())
}

/// The name under which the manager keeps the listener called `listener`: told apart from what a socket unit passes by
/// its beginning, and with `%XX` for what no such name may hold (`sd_notify(3)`, FDNAME). `None`: it would be too long.
pub(super) fn stored_name(listener: &str) -> Option<String> {
    let mut name = KEPT.to_owned();
    for byte in listener.bytes() {
        match byte {
            b':' | b'%' | 0..b' ' | 0x7f.. => {
                // Writing to a String cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
            _ => name.push(char::from(byte)),
        }
    }
    (name.len() <= NAME_MAX_BYTES).then_some(name)
}

fn is_kept(name: &str) -> bool {
    name.starts_with(KEPT)
}

/// What the names of kept descriptors begin with.
const KEPT: &str = "kept-";

/// The manager's limit.
const NAME_MAX_BYTES: usize = 255;

/// The number of the first descriptor that is passed.
const FIRST: RawFd = 3;

const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

#[cfg(test)]
mod tests;
