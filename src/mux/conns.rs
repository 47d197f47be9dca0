//! Every connection's I/O: [`Conns`], what callbacks and hooks write to, close, pause and time.
//!
//! Nothing here calls a callback. A write appends to memory and puts the connection on the dirty list; a close marks
//! it; the phases of the turn do the rest. So nothing that a callback does can call another one.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Interest, Registry};

use super::accept::Door;
use super::callback::CloseReason;
use super::conn::{Conn, Flag, Phase, Rare, WriteSide};
use super::descriptors::Stock;
use super::fanout::Fanout;
use super::offload::{Job, Offload};
use super::peer::Peer;
use super::pool::Pool;
use super::timers::{TimerKey, Timers};
use crate::Error;
use crate::buffer::Output;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::net::{LocalAddr, PeerAddr, Stream};
use crate::slots::{ConnId, Slots};

/// The I/O side of every connection of one mux. Reached as `ctx.conns` or `room.conns`.
pub struct Conns {
    pub(super) limits: Rc<Limits>,
    pub(super) slots: Slots<Conn>,
    pub(super) lists: Lists,
    pub(super) pool: Pool,
    pub(super) fanout: Fanout,
    pub(super) timers: Timers,
    pub(super) metrics: Metrics,
    pub(super) registry: Registry,
    pub(super) doors: Vec<Door>,
    pub(super) fds: Stock,
    pub(super) offload: Offload,
    pub(super) now: Instant,
    /// Clients taken from listeners so far.
    pub(super) serial: u64,
    pub(super) stop: Option<u8>,
    /// A graceful stop is asked for.
    pub(super) drain: bool,
    /// The loop ends: no connection is made any more.
    pub(super) ending: bool,
    pub(super) fatal: Option<Error>,
    /// Slots that refused clients hold until they have read why.
    pub(super) refused: usize,
    /// Connections whose peer is slower than we write.
    pub(super) blocked: usize,
}

impl Conns {
    /// Appends `bytes` to the output of `id`, to be sent at the end of the turn. Never blocks. False, and nothing
    /// is added, when the name is stale, the connection is closing, or more than `Limits::output_hard_bytes` would
    /// be waiting; that last closes it with [`CloseReason::OutputLimit`].
    #[inline]
    pub fn write(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        self.write_parts(id, &[bytes])
    }

    /// Appends all `parts`, one after the other, as one [`write`](Self::write) would: all of them or nothing. Cheaper than
    /// several writes, for example of a line and its ending.
    ///
    /// ```
    /// # use lineplex::{Context, Server};
    /// # fn example<S: Server>(ctx: &mut Context<'_, S>, line: &[u8]) {
    /// ctx.conns.write_parts(ctx.id, &[b"you said: ", line, b"\r\n"]);
    /// # }
    /// ```
    #[inline(always)]
    pub fn write_parts(&mut self, id: ConnId, parts: &[&[u8]]) -> bool {
        let Some(conn) = self.slots.at_mut(id) else { return false };
        if conn.in_room() && self.fanout.is_empty() {
            if conn.output.is_none() {
                conn.output = Some(self.pool.take());
                self.lists.dirty(id, conn);
            }
            if let Some(output) = conn.output.as_deref_mut() {
                // It is on the dirty list, or blocked; only a limit can be in the way.
                if output.append_parts(parts, self.limits.output_soft_bytes) {
                    return true;
                }
            }
        }
        self.write_slowly(id, parts)
    }

    /// A write that needs a second look: to a connection that is not open, behind what was said to all, over a limit.
    #[cold]
    fn write_slowly(&mut self, id: ConnId, parts: &[&[u8]]) -> bool {
        self.catch_up(id);
        let Some(conn) = self.slots.at_mut(id) else { return false };
        if !conn.takes_output() {
            return false;
        }
        if parts.iter().all(|part| part.is_empty()) {
            return true;
        }
        let output = conn.output.get_or_insert_with(|| self.pool.take());
        let fits = output.append_parts(parts, self.limits.output_hard_bytes);
        written(&mut self.lists, &self.limits, id, conn, fits)
    }

    /// Formats straight into the output of `id`; answers as [`write`](Self::write). Usually called through
    /// [`to`](Self::to).
    pub fn write_fmt(&mut self, id: ConnId, text: fmt::Arguments<'_>) -> bool {
        struct Appending<'a> {
            output: &'a mut Output,
            hard: usize,
            fits: bool,
        }
        impl fmt::Write for Appending<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.fits = self.output.append(text.as_bytes(), self.hard);
                if self.fits { Ok(()) } else { Err(fmt::Error) }
            }
        }
        self.catch_up(id);
        let Some(conn) = self.slots.at_mut(id) else { return false };
        if !conn.takes_output() {
            return false;
        }
        // Before a `Display` can panic: what it has written by then must not lie there for ever.
        self.lists.dirty(id, conn);
        let output = conn.output.get_or_insert_with(|| self.pool.take());
        let mut appending = Appending { output, hard: self.limits.output_hard_bytes, fits: true };
        // An error of a `Display` that is not ours ends the text where it came.
        let formatted = fmt::Write::write_fmt(&mut appending, text).is_ok();
        let fits = appending.fits;
        written(&mut self.lists, &self.limits, id, conn, fits) && formatted
    }

    /// A writer for one connection: `write!(ctx.conns.to(id), "hello {name}\r\n")`.
    pub fn to(&mut self, id: ConnId) -> To<'_> {
        To { conns: self, id }
    }

    /// Writes `bytes` to every open connection that `to` says yes to; how many took them. From 512 bytes on they are
    /// stored once for all. To reach all of them, or all but one, [`broadcast_all`](Self::broadcast_all) and
    /// [`broadcast_except`](Self::broadcast_except) cost much less.
    ///
    /// ```
    /// # use lineplex::{Context, Server};
    /// # fn example<S: Server>(ctx: &mut Context<'_, S>) {
    /// # let in_the_kitchen: std::collections::HashSet<lineplex::ConnId> = Default::default();
    /// ctx.conns.broadcast(b"dinner is ready\r\n", |id| in_the_kitchen.contains(&id));
    /// # }
    /// ```
    pub fn broadcast(&mut self, bytes: &[u8], mut to: impl FnMut(ConnId) -> bool) -> usize {
        self.settle_fanout();
        let shared = share(bytes);
        let mut count = 0;
        for (id, conn) in self.slots.iter_mut() {
            if conn.in_room() && to(id) {
                let output = conn.output.get_or_insert_with(|| self.pool.take());
                let fits = append(output, bytes, shared.as_ref(), self.limits.output_hard_bytes);
                count += usize::from(written(&mut self.lists, &self.limits, id, conn, fits));
            }
        }
        count
    }

    /// Writes `bytes` to each connection named in `ids`, as [`broadcast`](Self::broadcast); stale names are passed
    /// over.
    pub fn multicast(&mut self, bytes: &[u8], ids: impl IntoIterator<Item = ConnId>) -> usize {
        let shared = share(bytes);
        let mut count = 0;
        for id in ids {
            self.catch_up(id);
            let Some(conn) = self.slots.at_mut(id).filter(|conn| conn.takes_output()) else { continue };
            let output = conn.output.get_or_insert_with(|| self.pool.take());
            let fits = append(output, bytes, shared.as_ref(), self.limits.output_hard_bytes);
            count += usize::from(written(&mut self.lists, &self.limits, id, conn, fits));
        }
        count
    }

    /// Every open connection, in no promised order: those whose `connection` has been called and that can be written
    /// to. Denied peers, closing connections, those whose sending side was shut and outgoing ones still being opened are
    /// not among them. To write to many, use [`broadcast`](Self::broadcast); to do something else with each, collect
    /// the names first: `let ids: Vec<_> = conns.all().collect()`.
    pub fn all(&self) -> impl Iterator<Item = ConnId> {
        self.slots.iter().filter(|(_, conn)| conn.in_room()).map(|(id, _)| id)
    }

    /// Whether that connection is open: neither gone nor closing.
    #[must_use]
    pub fn is_open(&self, id: ConnId) -> bool {
        self.slots.at(id).is_some_and(|conn| conn.phase <= Phase::Open)
    }

    /// Closes that connection when everything written so far has been sent ([`CloseReason::Asked`]). Its unread
    /// input is dropped. Nothing happens if it is gone or closing.
    pub fn close(&mut self, id: ConnId) {
        self.close_because(id, CloseReason::Asked);
    }

    /// Cuts that connection: unsent output and unread input are dropped ([`CloseReason::Aborted`]).
    pub fn abort(&mut self, id: ConnId) {
        let unsent = self.unsent(id);
        if unsent > 0 {
            log::warn!("connection {id}: cut with {unsent} bytes unsent");
        }
        self.cut(id, CloseReason::Aborted);
    }

    /// Forgets what was written to that connection and is still unsent; how many bytes that were.
    pub fn discard_output(&mut self, id: ConnId) -> usize {
        self.catch_up(id);
        let Some(conn) = self.slots.at_mut(id) else { return 0 };
        let Some(mut output) = conn.output.take() else { return 0 };
        let discarded = output.len();
        output.clear();
        self.pool.give_back(Some(output));
        if conn.take(Flag::BLOCKED) {
            self.blocked -= 1;
        }
        self.lists.dirty(id, conn);
        self.unchoke(id);
        discarded
    }

    /// Ends our side of that connection when everything written so far has been sent; reading goes on.
    pub fn shutdown_write(&mut self, id: ConnId) {
        self.catch_up(id);
        if let Some(conn) = self.slots.at_mut(id).filter(|conn| conn.takes_output()) {
            conn.set_write_side(WriteSide::Ending);
            self.lists.dirty(id, conn);
        }
    }

    /// Keeps our side of that connection open after the peer has ended its own, until it is closed.
    pub fn hold_open(&mut self, id: ConnId) {
        if let Some(conn) = self.slots.at_mut(id) {
            conn.set(Flag::HOLD_OPEN);
        }
    }

    /// Stops reading from that connection; the peer is slowed down by its own full buffers.
    pub fn pause_input(&mut self, id: ConnId) {
        if let Some(conn) = self.slots.at_mut(id) {
            conn.set(Flag::PAUSED);
        }
    }

    /// Goes on reading; input that was left unconsumed is given again first, in the next turn.
    pub fn resume_input(&mut self, id: ConnId) {
        if let Some(conn) = self.slots.at_mut(id).filter(|conn| conn.is(Flag::PAUSED)) {
            conn.clear(Flag::PAUSED);
            if let Some(rare) = conn.rare.as_mut() {
                // While we did not read, no line could end.
                rare.line_began = rare.line_began.and(Some(self.now));
            }
            conn.set_if(Flag::AGAIN, conn.held.is_some());
            self.lists.ready(id, conn);
        }
    }

    /// Has `wake` called for that connection, in this turn or the next.
    pub fn wake(&mut self, id: ConnId) {
        if let Some(conn) = self.slots.at_mut(id).filter(|conn| !conn.is(Flag::WOKEN)) {
            conn.set(Flag::WOKEN);
            self.lists.woken.push(id);
        }
    }

    /// Sets the deadline of that connection: `timeout` is called once, `after` from the end of this phase of the
    /// turn. It replaces the one before; zero means in this turn, after input has been served.
    #[inline]
    pub fn set_timeout(&mut self, id: ConnId, after: Duration) {
        self.hold_back(id);
        self.timers.wish(TimerKey::Deadline(id), Some(after));
    }

    /// Clears the deadline of that connection; nothing if there is none.
    pub fn clear_timeout(&mut self, id: ConnId) {
        if self.slots.at(id).is_some() {
            self.timers.stop_deadline(id);
            self.timers.forget(TimerKey::Deadline(id));
        }
    }

    /// Has `Server::timeout` called once with `key`, `after` from the end of this phase; replaces the timer of the
    /// same key.
    pub fn after(&mut self, after: Duration, key: u64) {
        self.cancel(key);
        self.timers.wish(TimerKey::Server(key), Some(after));
    }

    /// Clears the server's timer of that key; nothing if there is none.
    pub fn cancel(&mut self, key: u64) {
        if let Some(id) = self.timers.server.remove(&key) {
            self.timers.stop(&mut Some(id));
        }
        self.timers.wish(TimerKey::Server(key), None);
    }

    /// Ends the loop after this turn: every connection gets one flush and its `close`; the process ends with
    /// `status`.
    pub fn stop(&mut self, status: u8) {
        self.stop.get_or_insert(status);
    }

    /// Ends the loop gracefully: after this turn no new client is taken and every connection is sent what it is owed, at
    /// most `Limits::stop_time`. Asked twice, it stops at once.
    pub fn stop_gracefully(&mut self) {
        self.drain = true;
    }

    /// Ends the loop after this turn because of `error`, and with it the process: `fatal_hook` first, then as
    /// [`stop`](Self::stop) with the error's exit status. The error goes to the log and to standard error.
    pub fn fatal(&mut self, error: Error) {
        self.stop(error.exit_status());
        self.fatal.get_or_insert(error);
    }

    /// The name and bound address of every listener, port 0 resolved.
    pub fn local_addrs(&self) -> impl Iterator<Item = (&str, LocalAddr)> {
        self.doors.iter().map(|door| (door.listener.name(), door.listener.local_addr()))
    }

    /// The listeners of that name (a host name may have several addresses), to pause or resume.
    pub fn listener(&mut self, name: &str) -> ListenerRef<'_> {
        let doors = self.doors.iter_mut().filter(|door| door.listener.name() == name).collect();
        ListenerRef { doors }
    }

    /// What the loop has counted so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let fds_waiting = self.fds.waiting as u64;
        Metrics { open: self.slots.len() as u64, blocked: self.blocked as u64, fds_waiting, ..self.metrics }
    }

    /// The limits of this mux.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// What the mux and its other rooms do with connections.
impl Conns {
    pub(super) fn new(limits: Limits, registry: Registry, now: Instant) -> Self {
        Self {
            offload: Offload::new(limits.offload_threads, limits.offload_queue),
            pool: Pool::new(&limits),
            timers: Timers::new(now, limits.idle_time),
            limits: Rc::new(limits),
            slots: Slots::default(),
            lists: Lists::default(),
            fanout: Fanout::default(),
            metrics: Metrics::default(),
            registry,
            doors: Vec::new(),
            fds: Stock::new(),
            now,
            serial: 0,
            stop: None,
            drain: false,
            ending: false,
            fatal: None,
            refused: 0,
            blocked: 0,
        }
    }

    /// Puts `stream` into a slot and registers it with the poll, once and for ever.
    pub(super) fn admit(&mut self, stream: Stream, phase: Phase) -> io::Result<ConnId> {
        let id = self.slots.insert(Conn::new(None, phase));
        match self.attach(id, stream) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.slots.remove(id);
                Err(error)
            }
        }
    }

    /// Gives the connection its stream and registers it.
    pub(super) fn attach(&mut self, id: ConnId, mut stream: Stream) -> io::Result<()> {
        self.metrics.registrations += 1;
        self.registry.register(&mut stream, id.token(), INTEREST)?;
        if let Some(conn) = self.slots.at_mut(id) {
            conn.stream = Some(stream);
        }
        Ok(())
    }

    pub(super) fn begin_adopt(&mut self, descriptor: OwnedFd) -> io::Result<(ConnId, Peer)> {
        self.refuse_at_the_end()?;
        let id = self.admit(Stream::adopt(descriptor)?, Phase::Open)?;
        if let Some(conn) = self.slots.at_mut(id) {
            self.lists.ready(id, conn);
        }
        Ok((id, Peer::without_listener(PeerAddr::Adopted)))
    }

    pub(super) fn refuse_at_the_end(&self) -> io::Result<()> {
        if self.ending {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server stops"));
        }
        Ok(())
    }

    pub(super) fn offload(&mut self, job: Job) -> io::Result<()> {
        let submitted = self.offload.submit(job);
        match submitted {
            Ok(()) => self.metrics.offloads += 1,
            Err(_) => self.metrics.offloads_refused += 1,
        }
        submitted
    }

    /// The result of a job that this connection had offloaded is here.
    pub(super) fn job_is_over(&mut self, id: ConnId) {
        if let Some(rare) = self.slots.at_mut(id).and_then(|conn| conn.rare.as_mut()) {
            rare.jobs = rare.jobs.saturating_sub(1);
        }
    }

    /// Closes when everything is sent. The first reason stands.
    pub(crate) fn close_because(&mut self, id: ConnId, reason: CloseReason) {
        self.catch_up(id);
        let Some(conn) = self.slots.at_mut(id) else { return };
        match conn.phase {
            Phase::Opening => self.cut(id, reason),
            // Nothing is owed and nothing more can come; the close ends our side too, unless somebody else has it open.
            Phase::Open if conn.is(Flag::EOF_SEEN) && conn.output.is_none() && conn.is_exclusive() => {
                self.cut(id, reason);
            }
            Phase::Open => {
                conn.phase = Phase::Draining;
                conn.because(reason);
                conn.clear(Flag::PAUSED);
                conn.clear(Flag::AGAIN);
                if let Some(held) = conn.held.take() {
                    self.pool.give_back_input(held);
                }
                if conn.is(Flag::TAKES_FDS) {
                    self.fds.close_those_of(conn);
                }
                self.timers.stop_both(id);
                self.timers.wish(TimerKey::Guard(id), Some(self.limits.drain_time));
                self.lists.dirty(id, conn);
            }
            Phase::Draining | Phase::Lingering | Phase::Gone => {}
        }
    }

    /// Closes now: unsent output is dropped. The first reason stands.
    pub(super) fn cut(&mut self, id: ConnId, reason: CloseReason) {
        let Some(conn) = self.slots.at_mut(id) else { return };
        if conn.phase == Phase::Gone {
            return;
        }
        conn.phase = Phase::Gone;
        conn.because(reason);
        if conn.take(Flag::BLOCKED) {
            self.blocked -= 1;
        }
        if conn.is(Flag::TAKES_FDS) {
            self.fds.close_those_of(conn);
        }
        self.timers.stop_both(id);
        if let Some(mut output) = conn.output.take() {
            output.clear();
            self.pool.give_back(Some(output));
        }
        if let Some(held) = conn.held.take() {
            self.pool.give_back_input(held);
        }
        self.lists.gone.push(id);
    }

    pub(super) fn rare(&mut self, id: ConnId, change: impl FnOnce(&mut Rare)) {
        if let Some(conn) = self.slots.at_mut(id) {
            change(conn.rare());
        }
    }

    /// The kernel takes nothing more from that connection now.
    pub(super) fn note_blocked(&mut self, id: ConnId) {
        if self.slots.at_mut(id).is_some_and(|conn| conn.raise(Flag::BLOCKED)) {
            self.blocked += 1;
            self.want_sweep();
        }
    }

    /// Reads again from a connection that its own output had choked, once half of that output is gone.
    pub(super) fn unchoke(&mut self, id: ConnId) {
        let Some(conn) = self.slots.at_mut(id) else { return };
        if conn.is(Flag::CHOKED) && conn.output_len() <= self.limits.output_soft_bytes / 2 {
            conn.clear(Flag::CHOKED);
            conn.set_if(Flag::AGAIN, conn.held.is_some());
            if let Some(rare) = conn.rare.as_mut() {
                rare.stalled = None;
            }
            self.lists.ready(id, conn);
        }
    }
}

impl fmt::Debug for Conns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conns")
            .field("open", &self.slots.len())
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

/// A writer for one connection, from [`Conns::to`].
#[derive(Debug)]
pub struct To<'a> {
    conns: &'a mut Conns,
    id: ConnId,
}

impl To<'_> {
    /// As [`Conns::write`].
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.conns.write(self.id, bytes)
    }

    /// What `write!` calls; answers as [`Conns::write`].
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> bool {
        self.conns.write_fmt(self.id, text)
    }
}

/// The listeners of one name, from [`Conns::listener`].
#[derive(Debug)]
pub struct ListenerRef<'a> {
    doors: Vec<&'a mut Door>,
}

impl ListenerRef<'_> {
    /// The bound addresses; none if there is no listener of that name.
    pub fn local_addrs(&self) -> impl Iterator<Item = LocalAddr> {
        self.doors.iter().map(|door| door.listener.local_addr())
    }

    /// Takes no more clients from them: newcomers wait in the system's queue.
    pub fn pause(&mut self) {
        for door in &mut self.doors {
            door.paused = true;
        }
    }

    /// Takes clients again, those that waited first.
    pub fn resume(&mut self) {
        for door in &mut self.doors {
            door.paused = false;
            door.ready = true;
        }
    }
}

/// Who needs the attention of which phase. Each connection is on each list at most once.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// For phase 4: may have something to read, or a callback due that no event announces.
    pub(super) ready: Vec<ConnId>,
    /// For phase 5.
    pub(super) woken: Vec<ConnId>,
    /// For phase 7.
    pub(super) dirty: Vec<ConnId>,
    /// One of them is over a limit on output: the flush does not wait for more.
    pub(super) full: bool,
    /// For phase 8.
    pub(super) gone: Vec<ConnId>,
}

impl Lists {
    #[inline]
    pub(super) fn ready(&mut self, id: ConnId, conn: &mut Conn) {
        if conn.raise(Flag::LISTED) {
            self.ready.push(id);
        }
    }

    #[inline]
    pub(super) fn dirty(&mut self, id: ConnId, conn: &mut Conn) {
        if conn.raise(Flag::DIRTY) {
            self.dirty.push(id);
        }
    }
}

/// What follows every append: the dirty list, and the two limits on output.
#[inline]
pub(super) fn written(lists: &mut Lists, limits: &Limits, id: ConnId, conn: &mut Conn, fits: bool) -> bool {
    if !fits {
        // Cut in phase 7, where the lists and timers are at hand; until then it takes nothing more.
        conn.set(Flag::OVERFULL);
        conn.set_write_side(WriteSide::Ending);
        lists.dirty(id, conn);
        lists.full = true;
        return false;
    }
    if !conn.is(Flag::BLOCKED) {
        lists.dirty(id, conn);
    }
    if conn.output_len() > limits.output_soft_bytes {
        conn.set(Flag::CHOKED);
        lists.full = true;
    }
    true
}

#[inline]
fn append(output: &mut Output, bytes: &[u8], shared: Option<&Rc<[u8]>>, hard: usize) -> bool {
    match shared {
        Some(shared) => output.append_shared(shared, hard),
        None => output.append(bytes, hard),
    }
}

fn share(bytes: &[u8]) -> Option<Rc<[u8]>> {
    (bytes.len() >= crate::buffer::SHARE_MIN_BYTES).then(|| Rc::from(bytes))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

pub(super) type ServerTimers = HashMap<u64, super::timers::TimerId>;
