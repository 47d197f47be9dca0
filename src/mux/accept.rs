//! Phase 3: taking clients from listeners.
//!
//! No error of accept ends the service. What concerns one client is passed over; being out of descriptors or memory
//! parks the listener, which tries again after 100 ms to 1 s and whenever a connection has closed; a listener that
//! is broken for good is opened anew once, and if that fails the server ends, so that a supervisor can act.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use mio::event::Source;

use super::callback::{CloseReason, MuxCallback};
use super::conn::{Flag, Phase};
use super::conns::Conns;
use super::context::Member;
use super::peer::{ListenerName, Peer};
use super::server::Server;
use super::timers::{TimerId, TimerKey};
use super::{FIRST_DOOR, Mux};
use crate::config::Limits;
use crate::logging::{CLIENTS, Quiet};
use crate::net::{Listener, PeerAddr, Stream};
use crate::slots::ConnId;
use crate::{Error, ErrorKind, Result};

/// A listener and how it stands.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: Listener,
    pub(super) name: ListenerName,
    /// Descriptors that its clients may have waiting.
    fds: u8,
    /// An event said that somebody waits, and no accept has contradicted it since.
    pub(super) ready: bool,
    /// By the application.
    pub(super) paused: bool,
    /// Out of something that accept needs.
    parked: bool,
    /// How long the next parking lasts.
    backoff: Duration,
    pub(super) timer: Option<TimerId>,
    /// It was opened anew and has not taken anybody since.
    reopened: bool,
}

impl Door {
    pub(super) fn new(listener: Listener) -> Self {
        Self {
            name: ListenerName::of(listener.name()),
            fds: listener.at().fds(),
            listener,
            ready: true,
            paused: false,
            parked: false,
            backoff: PARK_MIN,
            timer: None,
            reopened: false,
        }
    }

    fn open(&self) -> bool {
        self.ready && !self.paused && !self.parked
    }
}

/// What an error of accept means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptError {
    /// Nobody waits.
    Empty,
    /// It concerns one client or one moment: go on.
    Passing,
    /// Out of descriptors or memory: wait.
    Exhausted,
    /// The listener is broken.
    Broken,
}

impl AcceptError {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::Empty,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted,
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) => Self::Broken,
            // accept(2) hands over errors of the network that await the new socket: ECONNABORTED, EPROTO,
            // ENETDOWN, EHOSTUNREACH, EOPNOTSUPP …; EPERM is a firewall's; EINTR anybody's.
            _ => Self::Passing,
        }
    }
}

impl Conns {
    /// Whether a listener has somebody waiting that the budget left for the next turn.
    pub(super) fn doors_wait(&self) -> bool {
        self.doors.iter().any(Door::open)
    }

    /// A descriptor is free again, or a parked listener's time has come.
    pub(super) fn unpark(&mut self, only: Option<usize>) {
        for (at, door) in self.doors.iter_mut().enumerate() {
            if door.parked && only.is_none_or(|only| only == at) {
                door.parked = false;
                door.ready = true;
            }
        }
    }

    fn park(&mut self, at: usize) {
        let door = &mut self.doors[at];
        door.parked = true;
        self.timers.wish(TimerKey::Door(at), Some(door.backoff));
        door.backoff = (door.backoff * 2).min(PARK_MAX);
    }
}

impl<S: Server> Mux<S> {
    pub(super) fn accept(&mut self) {
        for at in 0..self.conns.doors.len() {
            if self.conns.doors[at].open() {
                if let Err(error) = self.accept_from(at) {
                    self.conns.fatal(error);
                }
            }
        }
        self.conns.settle_timers();
    }

    fn accept_from(&mut self, at: usize) -> Result<()> {
        let mut taken = 0;
        for _ in 0..self.conns.limits.accepts_per_turn.max(1) {
            let door = &mut self.conns.doors[at];
            if !door.open() {
                // A hook has paused it.
                return Ok(());
            }
            self.conns.metrics.accept_calls += 1;
            match door.listener.accept() {
                Ok((stream, addr)) => {
                    taken += 1;
                    (door.backoff, door.reopened) = (PARK_MIN, false);
                    self.conns.serial += 1;
                    let peer = Peer::new(addr, self.conns.serial, door.name);
                    let fds = door.fds;
                    self.welcome(stream, peer, fds);
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Empty => {
                        door.ready = false;
                        return Ok(());
                    }
                    AcceptError::Passing => self.conns.metrics.accept_errors += 1,
                    AcceptError::Exhausted => {
                        self.conns.metrics.accept_errors += 1;
                        self.complain_of_accept(at, &error);
                        self.conns.park(at);
                        return Ok(());
                    }
                    AcceptError::Broken => {
                        self.conns.metrics.accept_errors += 1;
                        return self.reopen(at, error);
                    }
                },
            }
        }
        if taken == 0 {
            // Nothing but errors: the next turn would spin.
            self.conns.park(at);
        }
        Ok(())
    }

    /// One new client: limits, hooks, client object, `connection`.
    fn welcome(&mut self, stream: Stream, peer: Peer, fds: u8) {
        self.conns.metrics.accepted += 1;
        log::info!(target: CLIENTS, "connect {} on {}", peer.addr(), peer.listener());
        if let Some(limit) = self.census.reached(&self.conns, &peer.addr()) {
            self.refuse(stream, &peer, limit);
            return;
        }
        let id = match self.conns.admit(stream, Phase::Open) {
            Ok(id) => id,
            Err(error) => {
                self.conns.metrics.accept_errors += 1;
                if let Some(more) = self.quiet.accept.allow(self.conns.now) {
                    log::error!("a client could not be registered: {error}{}", suppressed(more));
                }
                return;
            }
        };
        self.census.enter(&self.conns.limits, &peer.addr());
        self.hook("post_accept_hook", |server, room| server.post_accept_hook(room, &peer));
        if !self.is_let_in(&peer) {
            self.deny(id, peer);
            return;
        }
        let Some(client) = self.hook("client", |server, _| server.client(&peer)) else {
            self.conns.metrics.denied += 1;
            self.conns.rare(id, |rare| rare.denied = Some(peer));
            self.conns.cut(id, CloseReason::Panicked);
            return;
        };
        self.clients.put(id, Member { peer, client });
        self.conns.accept_fds(id, fds);
        self.opened(id);
    }

    /// A connection begins to be served.
    pub(super) fn opened(&mut self, id: ConnId) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        conn.phase = Phase::Open;
        conn.clear(Flag::FRESH);
        conn.told = self.conns.fanout.len();
        conn.heard = self.conns.timers.hearing;
        // What happened to it while it was being opened.
        let late = conn.rare.as_mut().is_some_and(|rare| std::mem::take(&mut rare.late));
        let woken = conn.is(Flag::WOKEN);
        if conn.output.is_some() {
            self.conns.lists.dirty(id, conn);
        }
        self.conns.guard_open(id);
        self.call(id, "connection", MuxCallback::connection);
        if late {
            self.conns.timers.wish(TimerKey::Deadline(id), Some(Duration::ZERO));
        }
        // Phase 5 took it off its list, unless it has not come by since.
        if woken && !self.conns.lists.woken.contains(&id) {
            self.conns.lists.woken.push(id);
        }
    }

    fn is_let_in(&mut self, peer: &Peer) -> bool {
        #[cfg(feature = "config")]
        {
            let by_list = match peer.addr() {
                PeerAddr::Ip(addr) => self.access.admits(addr.ip()),
                PeerAddr::Unix(who) => {
                    self.access.admits_unix(who.map(|who| who.uid), who.map(|who| who.gid))
                }
                PeerAddr::Adopted => true,
            };
            if !by_list {
                return false;
            }
        }
        self.hook("allow_deny_hook", |server, room| server.allow_deny_hook(room, peer)).unwrap_or(false)
    }

    fn deny(&mut self, id: ConnId, peer: Peer) {
        self.conns.metrics.denied += 1;
        if let Some(more) = self.quiet.denied.allow(self.conns.now) {
            log::warn!("denied {} on {}{}", peer.addr(), peer.listener(), suppressed(more));
        }
        self.conns.rare(id, |rare| rare.denied = Some(peer));
        self.hook("request_denied_hook", |server, room| server.request_denied_hook(room, id, &peer));
        self.conns.close_because(id, CloseReason::Asked);
    }

    /// A limit is reached: one line, as far as there is room to say it.
    fn refuse(&mut self, mut stream: Stream, peer: &Peer, limit: &'static str) {
        self.conns.metrics.refused += 1;
        if let Some(more) = self.quiet.refused.allow(self.conns.now) {
            log::warn!("refused {}: {limit} reached{}", peer.addr(), suppressed(more));
        }
        // A few are closed with all care (a slot, lingering) beyond the limit; in a flood the line may be lost.
        if self.conns.refused < REFUSED_MAX {
            if let Ok(id) = self.conns.admit(stream, Phase::Open) {
                self.conns.refused += 1;
                self.conns.rare(id, |rare| rare.refused = true);
                self.conns.write(id, REFUSAL);
                self.conns.close_because(id, CloseReason::Asked);
            }
        } else {
            let _ = stream.write(REFUSAL);
        }
    }

    fn complain_of_accept(&mut self, at: usize, error: &io::Error) {
        if let Some(more) = self.quiet.accept.allow(self.conns.now) {
            let door = &self.conns.doors[at];
            log::error!(
                "cannot accept on {}: {error}; trying again when a connection closes{}",
                door.listener.local_addr(),
                suppressed(more)
            );
        }
    }

    fn reopen(&mut self, at: usize, error: io::Error) -> Result<()> {
        let door = &mut self.conns.doors[at];
        let addr = door.listener.local_addr();
        let fatal = |source: Error| {
            Error::with_source(ErrorKind::Io, format!("the listener on {addr} is broken"), source)
        };
        let broken = Error::with_source(ErrorKind::Io, "accept failed", error);
        if std::mem::replace(&mut door.reopened, true) {
            return Err(fatal(broken));
        }
        log::error!("the listener on {addr} is broken and opened anew: {}", broken.chain());
        door.listener.rebind(&self.conns.limits).map_err(fatal)?;
        self.conns.metrics.registrations += 1;
        self.conns
            .registry
            .register_door(&mut door.listener, at)
            .map_err(|error| fatal(Error::with_source(ErrorKind::Io, "it cannot be registered", error)))?;
        door.ready = true;
        Ok(())
    }
}

/// How many connections there are by address and by network; counted only where a limit asks for it.
#[derive(Debug, Default)]
pub(super) struct Census {
    addresses: HashMap<IpAddr, u32>,
    networks: HashMap<IpAddr, u32>,
}

impl Census {
    /// The name of the limit that one more connection from `addr` would break.
    fn reached(&self, conns: &Conns, addr: &PeerAddr) -> Option<&'static str> {
        let limits = &conns.limits;
        if limits.max_connections.is_some_and(|max| conns.slots.len() - conns.refused >= max) {
            return Some("max_connections");
        }
        let ip = addr.ip()?;
        let count = |counts: &HashMap<IpAddr, u32>, key| counts.get(&key).copied().unwrap_or(0);
        if limits.max_per_address.is_some_and(|max| count(&self.addresses, ip) >= max) {
            return Some("max_per_address");
        }
        if limits.max_per_network.is_some_and(|max| count(&self.networks, network(limits, ip)) >= max) {
            return Some("max_per_network");
        }
        None
    }

    pub(super) fn enter(&mut self, limits: &Limits, addr: &PeerAddr) {
        let Some(ip) = addr.ip() else { return };
        if limits.max_per_address.is_some() {
            *self.addresses.entry(ip).or_default() += 1;
        }
        if limits.max_per_network.is_some() {
            *self.networks.entry(network(limits, ip)).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, limits: &Limits, addr: &PeerAddr) {
        let Some(ip) = addr.ip() else { return };
        for (counts, key) in [(&mut self.addresses, ip), (&mut self.networks, network(limits, ip))] {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
    }
}

/// The network of an address: its first `network_prefix_…` bits.
fn network(limits: &Limits, ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(limits.network_prefix_v4.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(limits.network_prefix_v6.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Registers a listener under its own token.
pub(super) trait RegisterDoor {
    fn register_door(&self, listener: &mut Listener, at: usize) -> io::Result<()>;
}

impl RegisterDoor for mio::Registry {
    fn register_door(&self, listener: &mut Listener, at: usize) -> io::Result<()> {
        listener.register(self, mio::Token(FIRST_DOOR + at), mio::Interest::READABLE)
    }
}

/// Lines about trouble that somebody outside can cause at will: one of a kind in ten seconds.
#[derive(Debug)]
pub(super) struct Quiets {
    pub(super) accept: Quiet,
    pub(super) refused: Quiet,
    pub(super) denied: Quiet,
    pub(super) failed: Quiet,
    pub(super) panicked: Quiet,
    pub(super) limit: Quiet,
    pub(super) slow: Quiet,
    pub(super) lost: Quiet,
}

impl Quiets {
    pub(super) fn new() -> Self {
        let quiet = || Quiet::new(Duration::from_secs(10));
        Self {
            accept: quiet(),
            refused: quiet(),
            denied: quiet(),
            failed: quiet(),
            panicked: quiet(),
            limit: quiet(),
            slow: quiet(),
            lost: quiet(),
        }
    }
}

/// The end of a rate-limited line.
pub(super) fn suppressed(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" ({more} more since the last such line)") }
}

const PARK_MIN: Duration = Duration::from_millis(100);
const PARK_MAX: Duration = Duration::from_secs(1);
/// Refused clients that are closed with all care at once. They live off the 32 descriptors in reserve, as does a restart,
/// which they must leave room for.
const REFUSED_MAX: usize = 8;
/// Unread bytes taken from a connection that is closed without lingering.
pub(super) const DISCARD: usize = 64 * 1024;
const REFUSAL: &[u8] = b"Too many connections, try again later.\r\n";
