//! Phase 4: reading, and giving what was read to the client.
//!
//! One shared buffer is read into; what a client leaves unconsumed moves to a buffer of its own, so an idle
//! connection holds none. A read that fills less than it was offered has emptied the socket: no second call is made
//! to be told so, unless the peer has ended its side, urgent data lies in between, or the descriptor is an adopted one
//! (a terminal gives a line at a time). A Unix client that attaches descriptors to its bytes, which nobody here takes,
//! also ends a read early: what it sends behind them waits until it sends more.

use std::io;
use std::time::Duration;

use super::Mux;
use super::callback::{CloseReason, MuxCallback};
use super::conn::{Conn, Phase, Rare, WriteSide};
use super::server::Server;
use super::timers::TimerKey;
use crate::buffer::Input;
use crate::logging::CLIENTS;
use crate::slots::ConnId;

/// What one read gave.
enum Read {
    Bytes(usize),
    Nothing,
    End,
    Failed(io::Error),
}

impl<S: Server> Mux<S> {
    pub(super) fn read(&mut self) {
        let mut ready = std::mem::replace(&mut self.conns.lists.ready, std::mem::take(&mut self.spare_list));
        for id in ready.drain(..) {
            self.serve(id);
        }
        self.spare_list = ready;
        self.conns.settle_timers();
    }

    fn serve(&mut self, id: ConnId) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        conn.listed = false;
        match conn.phase {
            Phase::Opening => self.see_connected(id),
            Phase::Open => {
                if conn.fresh {
                    self.opened(id);
                }
                self.read_open(id);
            }
            Phase::Lingering => self.discard(id),
            Phase::Draining | Phase::Gone => {}
        }
    }

    /// An outgoing connection has had an event.
    fn see_connected(&mut self, id: ConnId) {
        let Some(stream) = self.conns.slots.at_mut(id).and_then(|conn| conn.stream.as_ref()) else { return };
        match stream.connected() {
            Ok(false) => {}
            Ok(true) => {
                if let Some((member, _)) = self.clients.split(id) {
                    member.peer.addr = stream.peer_addr();
                }
                self.conns.timers.wish(TimerKey::Guard(id), None);
                if let Some(conn) = self.conns.slots.at_mut(id) {
                    // What was written while it was being opened.
                    self.conns.lists.dirty(id, conn);
                }
                self.opened(id);
                match self.conns.slots.at_mut(id) {
                    Some(conn) if self.resting => self.conns.lists.ready(id, conn),
                    _ => self.read_open(id),
                }
            }
            Err(error) => self.conns.connect_attempt_failed(id, error),
        }
    }

    /// Phase 4 while a restart waits for what is under way: of those who are ready only outgoing connections are served,
    /// which come to be open, or not.
    pub(super) fn see_outgoing(&mut self) {
        let mut ready = std::mem::replace(&mut self.conns.lists.ready, std::mem::take(&mut self.spare_list));
        for id in ready.drain(..) {
            let Some(conn) = self.conns.slots.at_mut(id) else { continue };
            if conn.phase == Phase::Opening {
                conn.listed = false;
                self.see_connected(id);
            } else {
                self.conns.lists.ready.push(id);
            }
        }
        self.spare_list = ready;
        self.conns.settle_timers();
    }

    fn read_open(&mut self, id: ConnId) {
        let limits = &self.conns.limits;
        let mut bytes = limits.bytes_per_turn.max(BYTES_MIN);
        let mut lines = limits.lines_per_turn.max(1);
        loop {
            let Some(conn) = self.conns.slots.at_mut(id) else { return };
            if !conn.takes_input() || conn.rare.as_ref().is_some_and(|rare| rare.throttled.is_some()) {
                return self.see_fault(id);
            }
            if lines == 0 && conn.again {
                return self.conns.lists.ready(id, conn);
            }
            if std::mem::take(&mut conn.again) {
                if let Some(held) = conn.held.take() {
                    self.give(id, Some(held), &mut lines);
                    continue;
                }
            }
            if !conn.readable {
                return;
            }
            if bytes == 0 || lines == 0 {
                return self.conns.lists.ready(id, conn);
            }
            match receive(conn, &mut self.scratch, bytes, &mut self.conns.metrics) {
                Read::Bytes(count) => {
                    bytes -= count;
                    if conn.swept {
                        self.suspects.push(id);
                    }
                    let held = conn.held.take().map(|mut held| {
                        held.append(self.scratch.bytes());
                        held
                    });
                    if self.conns.limits.idle_time.is_some() {
                        conn.rare().heard = Some(self.conns.now);
                    }
                    self.give(id, held, &mut lines);
                }
                Read::Nothing => {
                    if conn.doubts > 0 {
                        self.conns.want_sweep();
                    }
                    return;
                }
                Read::End => return self.end_of_input(id),
                Read::Failed(error) => return self.io_failed(id, "recv", error),
            }
        }
    }

    /// A connection that is not read now may have failed all the same.
    fn see_fault(&mut self, id: ConnId) {
        let Some(conn) = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open) else { return };
        if std::mem::take(&mut conn.faulty) {
            if let Some(error) = conn.stream.as_ref().and_then(|stream| stream.take_error()) {
                self.io_failed(id, "recv", error);
            }
        }
    }

    /// Gives input to its client: what was just read into the shared buffer, or what the connection holds.
    fn give(&mut self, id: ConnId, held: Option<Box<Input>>, lines: &mut u32) {
        let rated = self.allowance(id, *lines);
        let given = rated.unwrap_or(*lines);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut held = held;
        let input = held.as_deref_mut().unwrap_or(&mut scratch);
        input.start_turn(given);
        self.call(id, "input", |client, ctx| client.input(ctx, input));
        let used = given - input.lines_left();
        *lines -= used;
        self.conns.metrics.lines += u64::from(used);
        self.conns.metrics.long_lines += u64::from(input.take_skipped());
        let (overlong, unread, stopped) = (input.overlong(), input.len(), input.stopped_by_budget());
        self.keep(id, &mut scratch, held);
        self.scratch = scratch;
        if overlong {
            self.conns.metrics.long_lines += 1;
            self.over_limit(id, "line_max_bytes", LINE_TOO_LONG, CloseReason::LineTooLong);
        } else if unread > self.conns.limits.input_max_bytes {
            self.over_limit(id, "input_max_bytes", INPUT_TOO_LONG, CloseReason::InputLimit);
        } else {
            self.after_lines(id, used, stopped, rated.is_some());
        }
    }

    /// Keeps what the client left, in a buffer of the connection; gives an empty buffer back.
    fn keep(&mut self, id: ConnId, scratch: &mut Input, held: Option<Box<Input>>) {
        let conns = &mut self.conns;
        let open = conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open);
        match (open, held) {
            (Some(conn), Some(held)) if !held.is_idle() => conn.held = Some(held),
            (Some(conn), None) if !scratch.is_idle() => {
                let mut kept = conns.pool.take_input();
                scratch.hand_over(&mut kept);
                conn.held = Some(kept);
            }
            (_, Some(held)) => conns.pool.give_back_input(held),
            (_, None) => {}
        }
        scratch.reset();
    }

    /// What follows a call of `input`: more lines in the next turn, the deadline of an unfinished line.
    fn after_lines(&mut self, id: ConnId, used: u32, stopped: bool, rated: bool) {
        let (now, line_time) = (self.conns.now, self.conns.limits.line_time);
        let Some(conn) = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open) else { return };
        let mut guard = false;
        if rated {
            guard = self
                .conns
                .limits
                .lines_per_second
                .is_some_and(|rate| throttle(conn.rare(), rate, used, stopped));
        }
        if stopped && !guard {
            conn.again = true;
            self.conns.lists.ready(id, conn);
        }
        if line_time.is_some() {
            let unfinished = conn.held.is_some();
            let rare = conn.rare();
            if !unfinished {
                rare.line_began = None;
            } else if rare.line_began.is_none() || used > 0 {
                rare.line_began = Some(now);
                guard = true;
            }
        }
        if guard {
            self.conns.guard_open(id);
        }
    }

    /// How many lines the connection's rate allows now, if it has a rate.
    fn allowance(&mut self, id: ConnId, lines: u32) -> Option<u32> {
        let rate = self.conns.limits.lines_per_second?;
        let (now, burst) = (self.conns.now, f64::from(self.conns.limits.lines_burst.max(1)));
        let (tokens, counted) = self.conns.slots.at_mut(id)?.rare().allowance.get_or_insert((burst, now));
        let passed = now.saturating_duration_since(*counted).as_secs_f64();
        *tokens = (*tokens + passed * f64::from(rate)).min(burst);
        *counted = now;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and burst, a u32"
        )]
        let whole = tokens.floor() as u32;
        Some(whole.min(lines))
    }

    fn end_of_input(&mut self, id: ConnId) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        if std::mem::replace(&mut conn.eof_seen, true) {
            return;
        }
        let mut held = conn.held.take();
        let mut scratch = std::mem::take(&mut self.scratch);
        let input = held.as_deref_mut().unwrap_or(&mut scratch);
        input.start_turn(u32::MAX);
        self.call(id, "eof", |client, ctx| client.eof(ctx, input));
        scratch.reset();
        self.scratch = scratch;
        if let Some(held) = held {
            self.conns.pool.give_back_input(held);
        }
        if let Some(conn) = self.conns.slots.at_mut(id) {
            if let Some(rare) = conn.rare.as_mut() {
                // The peer cannot speak any more: its silence is no fault.
                (rare.heard, rare.line_began) = (None, None);
            }
            if !conn.hold_open || conn.write_side != WriteSide::Open {
                self.conns.close_because(id, CloseReason::Eof);
            }
        }
    }

    /// Reads and throws away, so that our last bytes are not destroyed by a reset.
    fn discard(&mut self, id: ConnId) {
        let (now, limits) = (self.conns.now, &self.conns.limits);
        let mut bytes = limits.bytes_per_turn.max(BYTES_MIN);
        loop {
            let Some(conn) = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Lingering) else {
                return;
            };
            if !conn.readable {
                return;
            }
            if bytes == 0 {
                return self.conns.lists.ready(id, conn);
            }
            match receive(conn, &mut self.scratch, bytes, &mut self.conns.metrics) {
                Read::Bytes(count) => {
                    bytes -= count;
                    let rare = conn.rare();
                    rare.discarded += count;
                    let until = *rare.linger_until.get_or_insert(now + self.conns.limits.linger_max_time);
                    if rare.discarded > self.conns.limits.linger_max_bytes || now >= until {
                        return self.conns.cut(id, CloseReason::Asked);
                    }
                    let wait = self.conns.limits.linger_time.min(until - now);
                    self.conns.timers.wish(TimerKey::Guard(id), Some(wait));
                }
                Read::Nothing => return,
                Read::End | Read::Failed(_) => return self.conns.cut(id, CloseReason::Asked),
            }
        }
    }

    fn over_limit(&mut self, id: ConnId, limit: &str, line: &[u8], reason: CloseReason) {
        if let Some(more) = self.quiet.limit.allow(self.conns.now) {
            log::warn!("connection {id}: {limit} reached{}", super::accept::suppressed(more));
        } else {
            log::info!(target: CLIENTS, "connection {id}: {limit} reached");
        }
        self.conns.write(id, line);
        self.conns.close_because(id, reason);
    }
}

/// One receive into the shared buffer, and what it says about the next.
fn receive(
    conn: &mut Conn,
    scratch: &mut Input,
    bytes: usize,
    metrics: &mut crate::metrics::Metrics,
) -> Read {
    let Some(stream) = conn.stream.as_mut() else {
        conn.readable = false;
        return Read::Nothing;
    };
    // A terminal gives one line at a time, a datagram socket one datagram: there a short read says nothing.
    let (exclusive, socket) = (stream.is_exclusive(), stream.is_socket());
    let storage = scratch.storage(bytes);
    let offered = storage.len();
    metrics.recv_calls += 1;
    match stream.read(storage) {
        Ok(0) => {
            conn.readable = false;
            Read::End
        }
        Ok(count) => {
            scratch.filled(count);
            metrics.bytes_in += count as u64;
            if count < offered && !conn.ending && !conn.urgent && exclusive {
                conn.readable = false;
            }
            conn.doubts = 0;
            Read::Bytes(count)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            metrics.recv_empty += 1;
            (conn.readable, conn.urgent) = (false, false);
            Read::Nothing
        }
        // The event was about the other end of a pipe that we only write to: its reader has gone.
        Err(error) if !socket && error.raw_os_error() == Some(libc::EBADF) => {
            conn.readable = false;
            Read::Failed(io::ErrorKind::BrokenPipe.into())
        }
        Err(error) => {
            conn.readable = false;
            Read::Failed(error)
        }
    }
}

/// Pays for the lines taken; true if the next has to wait.
fn throttle(rare: &mut Rare, rate: u32, used: u32, stopped: bool) -> bool {
    let Some((tokens, counted)) = rare.allowance.as_mut() else { return false };
    *tokens -= f64::from(used);
    if !stopped || *tokens >= 1.0 {
        return false;
    }
    let wait = Duration::from_secs_f64(((1.0 - *tokens) / f64::from(rate.max(1))).max(0.001));
    rare.throttled = Some(*counted + wait);
    true
}

/// What the shared buffer can hold at least.
const BYTES_MIN: usize = 1024;
const LINE_TOO_LONG: &[u8] = b"Line too long.\r\n";
const INPUT_TOO_LONG: &[u8] = b"Too much at once.\r\n";
