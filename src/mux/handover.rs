//! A restart, seen from the loop: what one image of the program writes down for the next, and how that one takes it up.
//!
//! The process flow decides when and how (`process/handover`). It has the loop come to rest ([`Mux::rest_for_handover`]),
//! lets those go who do not go along ([`Mux::part`]), takes the state of everything else ([`Mux::state`]) and the numbers
//! of the descriptors, and in the next image gives both to [`Mux::restore`]. Nothing here reads, writes or closes a
//! client's socket in the next image: until it has committed, the image before may still take everything back.
//!
//! Names ([`ConnId`]) stay what they are, so an application may save them. Deadlines are kept as the time that is left
//! at one moment of the system's monotonic clock, which both images know.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::callback::{CloseReason, Saved};
use super::conn::{Conn, Flag, Phase, WriteSide};
use super::offload::Tell;
use super::saved_conn::{Clock, Role, SavedConn};
use super::server::{Closing, Server};
use super::timers::{Heard, TimerKey};
use super::{Mux, OUTSIDE, Peer, Room};
use crate::net::{Listener, LocalAddr, Stream};
use crate::slots::{ConnId, Slots};
use crate::state::{StateError, StateReader, StateWriter};
use crate::wheel::Wheel;
use crate::{Error, ErrorKind, Result};

/// Everything of a loop that the next image needs but the descriptors themselves.
#[derive(Debug, Default)]
pub(crate) struct LoopState {
    /// Counters, names, timers.
    pub(crate) shared: StateWriter,
    /// What `Server::save` wrote.
    pub(crate) server: StateWriter,
    /// One record for each connection.
    pub(crate) conns: StateWriter,
    /// Name and value of each counter.
    pub(crate) metrics: StateWriter,
    /// Whose records these are.
    pub(crate) kept: Vec<ConnId>,
    /// Open connections whose clients do not want to be kept.
    pub(crate) turned: Vec<ConnId>,
}

impl LoopState {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        [&self.shared, &self.server, &self.conns, &self.metrics].into_iter().map(StateWriter::len).sum()
    }
}

/// The same, read.
#[derive(Debug)]
pub(crate) struct LoopReader<'a> {
    pub(crate) shared: StateReader<'a>,
    pub(crate) server: StateReader<'a>,
    pub(crate) conns: StateReader<'a>,
    /// None if the image before wrote none.
    pub(crate) metrics: Option<StateReader<'a>>,
}

/// Why the loop came back to the process flow.
#[derive(Debug)]
pub(crate) enum Woke {
    Ended(super::Ended),
    /// Something that it watches, or its timer.
    Outside,
}

impl<S: Server> Mux<S> {
    /// As [`run`](Self::run), but comes back also when the process flow has something to do.
    pub(crate) fn run_or_wake(&mut self) -> Result<Woke> {
        self.rested = Instant::now();
        loop {
            if std::mem::take(&mut self.outside) {
                return Ok(Woke::Outside);
            }
            if let Some(ended) = self.round(None)? {
                return Ok(Woke::Ended(ended));
            }
        }
    }

    /// Comes back to the process flow when `fd` becomes readable, once for each time it does so anew.
    pub(crate) fn watch(&self, fd: impl AsFd) -> io::Result<()> {
        use mio::event::Source as _;
        use std::os::fd::AsRawFd as _;
        let fd = fd.as_fd().as_raw_fd();
        mio::unix::SourceFd(&fd).register(&self.conns.registry, OUTSIDE, mio::Interest::READABLE)
    }

    /// Forgets what [`watch`](Self::watch) was asked for; to be called before `fd` is closed.
    pub(crate) fn unwatch(&self, fd: impl AsFd) {
        use mio::event::Source as _;
        use std::os::fd::AsRawFd as _;
        let fd = fd.as_fd().as_raw_fd();
        // It fails only if it is not watched.
        let _ = mio::unix::SourceFd(&fd).deregister(&self.conns.registry);
    }

    /// Comes back to the process flow `after` from now; replaces the time before, `None` clears it.
    pub(crate) fn wake_outside(&mut self, after: Option<Duration>) {
        self.conns.timers.wish(TimerKey::Outside, after);
        self.conns.settle_timers();
    }

    /// Whether the loop is about to end, or drains everybody before it does.
    pub(crate) fn is_ending(&self) -> bool {
        self.conns.stop.is_some() || self.conns.drain || !self.ending.is_none()
    }

    /// From now on no client is taken and no input read, so that what runs on other threads can come to its end.
    pub(crate) fn rest_for_handover(&mut self, rest: bool) {
        self.resting = rest;
        let handle = self.handle.clone();
        let tell: Tell = Box::new(move || handle.nudge());
        self.conns.offload.tell_when_idle(rest.then_some(tell));
        if !rest {
            self.conns.offload.resume();
        }
    }

    /// Whether nothing is under way on another thread or in the network that would be lost.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.conns.offload.is_idle()
            && self.asks.is_empty()
            && self.handle.is_idle()
            && self.conns.lists.woken.is_empty()
            && self.conns.slots.iter().all(|(_, conn)| conn.phase != Phase::Opening)
    }

    /// Ends the threads for slow work. Those that only wait for some are waited for; false if one is busy: it has had its
    /// time.
    pub(crate) fn stop_threads(&self) -> bool {
        let offload = &self.conns.offload;
        offload.stop(if offload.is_idle() { THREADS_TIME } else { Duration::ZERO })
    }

    /// The hooks of the close, and the farewell to everybody who does not go along: clients whose `save` says so, who
    /// wait for a job, or are closing already; what they are owed goes along as a socket without a client.
    pub(crate) fn part(&mut self) {
        self.conns.ending = true;
        self.hook("pre_server_close_hook", |server, room| {
            server.pre_server_close_hook(room, Closing::Handover);
        });
        self.grant_asks();
        let ids: Vec<ConnId> = self.conns.slots.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(conn) = self.conns.slots.at(id) else { continue };
            let waits = conn.rare.as_ref().is_some_and(|rare| rare.jobs > 0);
            let phase = conn.phase;
            match phase {
                Phase::Opening => {
                    let error = io::Error::new(io::ErrorKind::Interrupted, "the server restarts");
                    self.conns.cut(id, CloseReason::ConnectFailed(error));
                }
                Phase::Open if waits || self.save_client(id).is_none() => {
                    self.conns.close_because(id, CloseReason::Handover);
                }
                _ => {}
            }
        }
        self.turn = self.turn.wrapping_add(1).max(1);
        self.see_off();
        self.hook("post_child_cleanup_hook", |server, _| server.post_child_cleanup_hook());
        self.hook("restart_close_hook", |server, _| server.restart_close_hook());
        self.conns.ending = false;
    }

    /// Does what other threads have asked for so far: they end with this image, and nobody would ask again.
    fn grant_asks(&mut self) {
        self.handle.collect(&mut self.asks);
        for _ in 0..self.asks.len() {
            let Some(ask) = self.asks.pop_front() else { break };
            self.conns.metrics.wakes += 1;
            self.grant_ask(ask);
        }
    }

    /// Sends what the kernel takes, and tells the clients of all closing connections, who may close others.
    fn see_off(&mut self) {
        loop {
            self.flush_and_reap();
            let closing = self.conns.slots.iter().filter(|(_, conn)| conn.phase > Phase::Open);
            let ids: Vec<ConnId> = closing.map(|(id, _)| id).collect();
            if ids.into_iter().filter(|id| self.let_go(*id)).count() == 0 {
                break;
            }
        }
    }

    /// A closing connection goes along without its client, who is told now; false if it has none.
    fn let_go(&mut self, id: ConnId) -> bool {
        let Some(peer) = self.clients.split(id).map(|(member, _)| member.peer) else { return false };
        let Some(conn) = self.conns.slots.at_mut(id) else { return false };
        let reason = conn.rare.as_mut().and_then(|rare| rare.reason.take()).unwrap_or(CloseReason::Asked);
        self.farewell(id, &reason);
        if peer.serial() > 0 {
            self.census.enter(&self.conns.limits, &peer.addr());
            self.conns.rare(id, |rare| rare.left = Some(peer.addr()));
        }
        true
    }

    /// Lets those go who have changed their mind since [`part`](Self::part); whether there are any.
    pub(crate) fn part_from(&mut self, turned: &[ConnId]) -> bool {
        self.conns.ending = true;
        for id in turned {
            self.conns.close_because(*id, CloseReason::Handover);
        }
        if !turned.is_empty() {
            self.see_off();
        }
        self.conns.ending = false;
        !turned.is_empty()
    }

    /// What the client of a connection wants to know again; none if it does not go along.
    fn save_client(&mut self, id: ConnId) -> Option<StateWriter> {
        let Some((member, _)) = self.clients.split(id) else { return Some(StateWriter::new()) };
        let mut out = StateWriter::new();
        match catch_unwind(AssertUnwindSafe(|| super::MuxCallback::save(&member.client, &mut out))) {
            Ok(Saved::Keep) => Some(out),
            Ok(Saved::Drain) => None,
            Err(panic) => {
                self.panicked("save", panic);
                None
            }
        }
    }

    /// The state of the loop and of at most `most` connections; nothing changes.
    ///
    /// # Errors
    /// The server's `save` panicked: without its state the next image would not be the same server.
    pub(crate) fn state(&mut self, most: usize) -> Result<LoopState> {
        self.conns.settle_timers();
        self.conns.settle_fanout();
        self.state_at(most, &Clock::now())
    }

    fn state_at(&mut self, most: usize, clock: &Clock) -> Result<LoopState> {
        let mut state = LoopState::default();
        self.write_shared(&mut state.shared, clock);
        let (server, mut out) = (&self.server, StateWriter::new());
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| server.save(&mut out))) {
            self.panicked("save", panic);
            return Err(Error::new(ErrorKind::Hook, "save of the server panicked"));
        }
        state.server = out;
        let ids: Vec<ConnId> = self.conns.slots.iter().map(|(id, _)| id).collect();
        for id in ids {
            if state.kept.len() == most {
                break;
            }
            if self.write_conn(&mut state.conns, id, clock) {
                state.kept.push(id);
            } else if self.conns.slots.at(id).is_some_and(|conn| conn.phase == Phase::Open) {
                state.turned.push(id);
            }
        }
        let metrics = self.conns.metrics();
        let counters = metrics.iter().filter(|(_, kind, _)| *kind == "counter");
        state.metrics.list(counters, |out, (name, _, value)| {
            out.text(name).u64(value);
        });
        Ok(state)
    }

    fn write_shared(&self, out: &mut StateWriter, clock: &Clock) {
        let timers = &self.conns.timers;
        out.duration(clock.stamp);
        out.duration(clock.at.saturating_duration_since(timers.wheel.start()));
        out.u64(self.conns.serial).u32(self.conns.slots.last());
        out.option(timers.tick.and_then(|id| timers.left(id, clock)), |out, left| {
            out.duration(left);
        });
        let server = timers.server.iter().filter_map(|(key, id)| Some((*key, timers.left(*id, clock)?)));
        let mut server: Vec<(u64, Duration)> = server.collect();
        // The same loop is always written the same way.
        server.sort_unstable();
        out.list(server, |out, (key, left)| {
            out.u64(key).duration(left);
        });
    }

    /// Writes one connection; false if it does not go along.
    fn write_conn(&mut self, out: &mut StateWriter, id: ConnId, clock: &Clock) -> bool {
        let client = match self.clients.split(id) {
            Some(_) => self.save_client(id),
            None => None,
        };
        let peer = self.clients.split(id).map(|(member, _)| &member.peer);
        let Some(conn) = self.conns.slots.at(id) else { return false };
        let role = match (client, peer, &conn.rare) {
            (Some(client), Some(peer), _) if conn.phase == Phase::Open => Role::Client(peer, client),
            (_, Some(_), _) => return false,
            (_, None, Some(rare)) if rare.refused => Role::Refused,
            (_, None, Some(rare)) => match (&rare.denied, rare.left) {
                (Some(peer), _) => Role::Denied(peer),
                (None, left) => Role::Left(left),
            },
            (_, None, None) => Role::Left(None),
        };
        SavedConn::write(out, id, conn, role, &self.conns.timers, clock)
    }

    /// Every listener, and whether the application has stopped taking clients from it.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (&Listener, bool)> {
        self.conns.doors.iter().map(|door| (&door.listener, door.paused))
    }

    /// Takes clients from a listener that was `paused` in the image before, or was not.
    ///
    /// # Errors
    /// As [`add_listener`](Self::add_listener).
    pub(crate) fn take_over_listener(&mut self, listener: Listener, paused: bool) -> Result<()> {
        self.add_listener(listener)?;
        if let Some(door) = self.conns.doors.last_mut() {
            door.paused = paused;
        }
        Ok(())
    }

    /// Takes the clients that wait at the last `count` listeners, and closes these; their addresses. Nobody else may have
    /// them any more, or clients would go on coming there.
    pub(crate) fn close_last_listeners(&mut self, count: usize) -> Vec<LocalAddr> {
        let first = self.conns.doors.len().saturating_sub(count);
        for door in &mut self.conns.doors[first..] {
            door.listener.remove_path();
            (door.ready, door.paused) = (true, false);
        }
        for _ in 0..super::stop::QUEUES_MAX {
            if !self.conns.doors_wait() {
                break;
            }
            self.accept();
        }
        self.conns.doors.drain(first..).map(|door| door.listener.local_addr()).collect()
    }

    /// The listeners, to change.
    pub(crate) fn listeners_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.conns.doors.iter_mut().map(|door| &mut door.listener)
    }

    /// Calls a hook of the server, panics contained.
    pub(crate) fn call_hook(&mut self, name: &'static str, hook: impl FnOnce(&mut S, &mut Room<'_, S>)) {
        self.hook(name, hook);
        self.conns.settle_timers();
    }

    /// With the signals blocked: what has come already is kept for whoever goes on. True if it asks for the end.
    #[cfg(all(feature = "signals", feature = "daemon"))]
    pub(crate) fn hold_signals(&mut self) -> bool {
        self.signals.as_mut().is_some_and(crate::signals::Signals::hold)
    }

    /// The descriptors of these connections: of each its own, then those that it has been passed, then those that it
    /// passes on.
    pub(crate) fn descriptors(&self, of: &[ConnId]) -> impl Iterator<Item = BorrowedFd<'_>> {
        of.iter().filter_map(|id| self.conns.slots.at(*id)).flat_map(|conn| {
            let waiting = conn.rare.iter().flat_map(|rare| rare.arrivals.waiting.iter().map(AsFd::as_fd));
            let unsent = conn.output.iter().flat_map(|output| output.fds().map(|(_, fd)| fd));
            conn.stream.as_ref().map(AsFd::as_fd).into_iter().chain(waiting).chain(unsent)
        })
    }

    /// Takes up what the image before left: the server's own state, the connections with their clients, the timers. To
    /// be called before anything else is done with this loop. `take` gives the descriptor of a number.
    ///
    /// # Errors
    /// The state cannot be read, a descriptor is not what the state says, or the application refuses.
    pub(crate) fn restore(
        &mut self,
        mut state: LoopReader<'_>,
        take: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
    ) -> Result<()> {
        let (last, clock) = self.restore_shared(SavedLoop::read(&mut state.shared)?);
        if let Some(metrics) = state.metrics.as_mut() {
            for (name, value) in metrics.list(|entry| Ok((entry.text()?.to_owned(), entry.u64()?)))? {
                self.conns.metrics.set(&name, value);
            }
        }
        self.server.restore(&mut state.server)?;
        state.server.finish().map_err(|error| left_over("the server", &error))?;
        let slots_max = crate::sys::raise_descriptor_limit();
        let mut entries: Vec<(ConnId, Conn)> = Vec::new();
        let mut wishes = Vec::new();
        while !state.conns.is_empty() {
            let saved = SavedConn::read(&mut state.conns)?;
            if saved.id.slot() >= slots_max {
                return Err(Error::new(ErrorKind::State, format!("connection {} is out of range", saved.id)));
            }
            let (id, conn) = self.restore_conn(saved, take, &clock, &mut wishes)?;
            entries.push((id, conn));
        }
        let arrivals = entries.iter().filter_map(|(_, conn)| conn.rare.as_ref()).map(|rare| &rare.arrivals);
        self.conns.fds.waiting = arrivals.map(|arrivals| arrivals.waiting.len()).sum();
        let twice = || Error::new(ErrorKind::State, "two connections have the same name");
        self.conns.slots = Slots::restored(entries, last).ok_or_else(twice)?;
        for (key, at) in wishes {
            self.conns.grant_at(key, at);
        }
        self.take_up()
    }

    fn restore_shared(&mut self, saved: SavedLoop) -> (u32, Clock) {
        let clock = Clock::of(saved.stamp);
        self.conns.serial = saved.serial;
        // The same start: rounding to whole milliseconds must not add up over many restarts.
        let start = clock.at.checked_sub(saved.since_start).unwrap_or(clock.at);
        self.conns.timers.wheel = Wheel::new(start);
        self.conns.set_now(Instant::now());
        self.conns.timers.wheel.collect(self.conns.now, 0);
        self.first_tick = saved.tick.map(|left| clock.at + left);
        for (key, left) in saved.timers {
            self.conns.grant_at(TimerKey::Server(key), clock.at + left);
        }
        (saved.last, clock)
    }

    /// One connection, not yet in its slot.
    fn restore_conn(
        &mut self,
        saved: SavedConn<'_>,
        take: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
        clock: &Clock,
        wishes: &mut Vec<(TimerKey, Instant)>,
    ) -> Result<(ConnId, Conn)> {
        let id = saved.id;
        let fail = |error| Error::with_source(ErrorKind::State, format!("connection {id}"), error);
        let fd = take(saved.fd).map_err(fail)?;
        let passed: Vec<OwnedFd> = saved.passed().map(take).collect::<io::Result<_>>().map_err(fail)?;
        if let Some(left) = saved.deadline {
            wishes.push((TimerKey::Deadline(id), clock.at + left));
        }
        // Those of an open connection follow from its limits, which may be others now.
        if let Some(left) = saved.guard.filter(|_| saved.phase > Phase::Open) {
            wishes.push((TimerKey::Guard(id), clock.at + left));
        }
        let mut stand_in = None;
        if let Some((peer, state)) = saved.client() {
            let client = self.revive(&peer, state)?;
            stand_in = Some(super::context::Member { peer, client });
        }
        if let Some(addr) = saved.counted() {
            self.census.enter(&self.conns.limits, &addr);
        }
        let conn =
            saved.into_conn(fd, passed, &self.conns.limits, &self.conns.timers, clock).map_err(fail)?;
        self.conns.refused += usize::from(conn.rare.as_ref().is_some_and(|rare| rare.refused));
        if let Some(member) = stand_in {
            self.clients.put(id, member);
        }
        Ok((id, conn))
    }

    fn revive(&mut self, peer: &Peer, mut state: StateReader<'_>) -> Result<S::Client> {
        let client = self.server.restore_client(peer, &mut state)?;
        state.finish().map_err(|error| left_over("a client", &error))?;
        Ok(client)
    }

    /// Registers every connection that was restored, and puts it on the lists that it belongs to.
    fn take_up(&mut self) -> Result<()> {
        let conns = &mut self.conns;
        let now = conns.now;
        let line = conns.limits.line_time.is_some();
        let mut open = Vec::new();
        for (id, conn) in conns.slots.iter_mut() {
            if conn.phase == Phase::Open {
                if conn.heard == Heard::NEVER && !conn.is(Flag::EOF_SEEN) {
                    conn.heard = conns.timers.hearing;
                }
                if line && conn.held.is_some() {
                    conn.rare().line_began.get_or_insert(now);
                }
                open.push(id);
            }
            if let Some(stream) = conn.stream.as_mut() {
                conns.metrics.registrations += 1;
                conns.registry.register(stream, id.token(), super::conns::INTEREST).map_err(|error| {
                    Error::with_source(ErrorKind::Io, format!("connection {id} cannot be watched"), error)
                })?;
            }
            if conn.output.is_some()
                || conn.phase == Phase::Draining
                || conn.write_side() == WriteSide::Ending
            {
                conns.lists.dirty(id, conn);
            }
            if conn.is(Flag::FRESH) || conn.is(Flag::AGAIN) {
                conns.lists.ready(id, conn);
            }
            if conn.is(Flag::WOKEN) {
                conns.lists.woken.push(id);
            }
        }
        open.into_iter().for_each(|id| conns.guard_open(id));
        Ok(())
    }

    /// What was restored is this image's from now on, also what happens to it at its end.
    pub(crate) fn claim(&mut self) {
        self.conns.slots.iter_mut().filter_map(|(_, conn)| conn.stream.as_mut()).for_each(Stream::claim);
    }

    /// Tries in the probe whether the server and its clients can be taken up: nothing but `server` changes.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub(crate) fn rehearse(server: &mut S, mut state: LoopReader<'_>) -> Result<()> {
        SavedLoop::read(&mut state.shared)?;
        server.restore(&mut state.server)?;
        state.server.finish().map_err(|error| left_over("the server", &error))?;
        while !state.conns.is_empty() {
            let saved = SavedConn::read(&mut state.conns)?;
            if let Some((peer, mut client)) = saved.client() {
                drop(server.restore_client(&peer, &mut client)?);
                client.finish().map_err(|error| left_over("a client", &error))?;
            }
        }
        Ok(())
    }
}

/// The loop's own part of a state, read. Nothing in it can be so large that the loop would fail at it.
struct SavedLoop {
    stamp: Duration,
    since_start: Duration,
    serial: u64,
    last: u32,
    tick: Option<Duration>,
    timers: Vec<(u64, Duration)>,
}

impl SavedLoop {
    fn read(from: &mut StateReader<'_>) -> Result<Self, StateError> {
        let time = |time: Duration| time.min(super::TIME_MAX);
        Ok(Self {
            stamp: from.duration()?,
            since_start: from.duration()?.min(AGE_MAX),
            serial: from.u64()?.min(crate::metrics::COUNT_MAX),
            last: from.u32()?,
            tick: from.option(StateReader::duration)?.map(time),
            timers: from.list(|entry| Ok((entry.u64()?, time(entry.duration()?))))?,
        })
    }
}

fn left_over(whose: &str, error: &StateError) -> Error {
    Error::new(ErrorKind::State, format!("the state of {whose} was not read to its end: {error}"))
}

/// Older is no loop, and its age still fits into the milliseconds of its timers: a hundred years.
const AGE_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);
/// For threads that have nothing to do to end.
const THREADS_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(crate) mod tests;
