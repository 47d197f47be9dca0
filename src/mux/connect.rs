//! Outgoing connections: the same loop, the same callbacks.
//!
//! A name is looked up on a worker thread. Its addresses are tried one after the other, each for its share of the
//! time that is left. mio's six steps to learn whether a non-blocking connect worked are in `net::Stream::connected`.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::callback::CloseReason;
use super::conn::{Conn, Flag, Phase};
use super::conns::Conns;
use super::handle::Resolver;
use super::peer::Peer;
use super::timers::TimerKey;
use crate::net::{PeerAddr, Stream};
use crate::slots::ConnId;

/// Where an outgoing connection goes: an address, `host:port`, or the path of a Unix socket.
#[derive(Clone, Debug)]
pub struct ConnectTo {
    target: Target,
    within: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Target {
    Addr(SocketAddr),
    Name(String),
    Unix(PathBuf),
}

impl ConnectTo {
    /// Gives up after `within` instead of `Limits::connect_time`, name look-up included.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }
}

impl From<SocketAddr> for ConnectTo {
    fn from(addr: SocketAddr) -> Self {
        Self { target: Target::Addr(addr), within: None }
    }
}

impl From<&str> for ConnectTo {
    /// `address:port` or `name:port`.
    fn from(text: &str) -> Self {
        let target = text.parse().map_or_else(|_| Target::Name(text.to_owned()), Target::Addr);
        Self { target, within: None }
    }
}

impl From<&Path> for ConnectTo {
    fn from(path: &Path) -> Self {
        Self { target: Target::Unix(path.to_owned()), within: None }
    }
}

/// What an outgoing connection remembers until it is open.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Addresses not yet tried.
    left: VecDeque<SocketAddr>,
    /// Why the last one did not answer.
    last: Option<io::Error>,
    /// When the last one must have answered; none if that never comes.
    until: Option<Instant>,
}

impl Conns {
    pub(super) fn begin_connect(&mut self, to: ConnectTo, resolver: Resolver) -> io::Result<(ConnId, Peer)> {
        self.refuse_at_the_end()?;
        let (id, addr) = match to.target {
            Target::Addr(addr) => {
                let stream = Stream::connect(addr, &self.limits)?;
                (self.admit(stream, Phase::Opening)?, PeerAddr::Ip(addr))
            }
            Target::Unix(path) => {
                (self.admit(Stream::connect_unix(&path)?, Phase::Opening)?, PeerAddr::Unix(None))
            }
            Target::Name(name) => {
                if name.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                    let text = format!("`{name}` is not HOST:PORT");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                let id = self.slots.insert(Conn::new(None, Phase::Opening));
                let job = move || resolver(id, name.to_socket_addrs().map(Iterator::collect));
                if let Err(error) = self.offload(Box::new(job)) {
                    self.slots.remove(id);
                    return Err(error);
                }
                (id, PeerAddr::Adopted)
            }
        };
        self.metrics.connects += 1;
        let within = to.within.unwrap_or(self.limits.connect_time);
        let until = self.now.checked_add(within);
        self.rare(id, |rare| rare.opening = Some(Opening { until, ..Opening::default() }));
        self.timers.wish(TimerKey::Guard(id), Some(within));
        Ok((id, Peer::without_listener(addr)))
    }

    /// A name has its addresses, or none.
    pub(super) fn resolved(&mut self, id: ConnId, addresses: io::Result<Vec<SocketAddr>>) {
        let Some(conn) = self.slots.at_mut(id).filter(|conn| conn.phase == Phase::Opening) else { return };
        match addresses {
            Ok(addresses) => {
                conn.rare().opening.get_or_insert_default().left = addresses.into();
                self.try_next_address(id);
            }
            Err(error) => self.connect_failed(id, error),
        }
    }

    /// One address has not answered, or more than the one there was.
    pub(super) fn connect_attempt_failed(&mut self, id: ConnId, error: io::Error) {
        let Some(conn) = self.slots.at_mut(id) else { return };
        conn.stream = None;
        // What was learned of the old socket says nothing of the next.
        conn.clear(Flag::READABLE.or(Flag::ENDING).or(Flag::URGENT).or(Flag::FAULTY));
        conn.clear(Flag::DOUBTED.or(Flag::DOUBTED_TWICE));
        conn.rare().opening.get_or_insert_default().last = Some(error);
        self.try_next_address(id);
    }

    pub(super) fn connect_failed(&mut self, id: ConnId, error: io::Error) {
        self.cut(id, CloseReason::ConnectFailed(error));
    }

    fn try_next_address(&mut self, id: ConnId) {
        loop {
            let Some(conn) = self.slots.at_mut(id) else { return };
            let opening = conn.rare().opening.get_or_insert_default();
            let Some(addr) = opening.left.pop_front() else {
                let error = opening.last.take();
                let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                return self.connect_failed(id, error.unwrap_or_else(none));
            };
            // One that never answers must leave time for the next.
            if let Some(until) = opening.until {
                let attempts = u32::try_from(opening.left.len() + 1).unwrap_or(u32::MAX);
                let share = until.saturating_duration_since(self.now) / attempts;
                self.timers.wish(TimerKey::Guard(id), Some(share));
            }
            match Stream::connect(addr, &self.limits).and_then(|stream| self.attach(id, stream)) {
                Ok(()) => return,
                Err(error) => {
                    if let Some(conn) = self.slots.at_mut(id) {
                        conn.rare().opening.get_or_insert_default().last = Some(error);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
