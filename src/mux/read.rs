//! Phase 4: reading, and giving what was read to the client.
//!
//! One shared buffer is read into; what a client leaves unconsumed moves to a buffer of its own, so an idle
//! connection holds none. A read that fills less than it was offered has emptied the socket: no second call is made
//! to be told so, unless the peer has ended its side, urgent data lies in between, or the descriptor is an adopted one
//! (a terminal gives a line at a time). A Unix client that attaches descriptors to its bytes also ends a read early: where
//! nobody takes them, what it sends behind them waits until it sends more; where they are taken, it is read on
//! (`descriptors`).

use std::io;
use std::time::Duration;

use super::callback::{CloseReason, MuxCallback};
use super::conn::{Conn, Flag, Phase, WriteSide};
use super::server::Server;
use super::timers::{Heard, TimerKey};
use super::{Mux, descriptors};
use crate::buffer::Input;
use crate::logging::CLIENTS;
use crate::slots::ConnId;

/// How a call of `input` left the input.
struct Left {
    /// Lines taken.
    used: u32,
    /// More may be here than the turn, or the rate, allowed.
    stopped: bool,
    /// The connection has a rate.
    rated: bool,
    overlong: bool,
    /// Bytes.
    unread: usize,
}

impl Left {
    fn of(input: &Input, used: u32, rated: bool) -> Self {
        let stopped = input.stopped_by_budget();
        Self { used, stopped, rated, overlong: input.overlong(), unread: input.len() }
    }
}

/// What one read gave.
pub(super) enum Read {
    /// So many of the budget.
    Bytes(usize),
    Nothing,
    End,
    Failed(io::Error),
}

impl<S: Server> Mux<S> {
    pub(super) fn read(&mut self) {
        let mut ready = std::mem::replace(&mut self.conns.lists.ready, std::mem::take(&mut self.spare_list));
        let mut scratch = std::mem::take(&mut self.scratch);
        for id in ready.drain(..) {
            self.serve(id, &mut scratch);
        }
        self.scratch = scratch;
        self.spare_list = ready;
        self.conns.settle_timers();
    }

    #[inline(always)]
    fn serve(&mut self, id: ConnId, scratch: &mut Input) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        conn.clear(Flag::LISTED);
        match conn.phase {
            Phase::Opening => self.see_connected(id, scratch),
            Phase::Open => {
                if conn.is(Flag::FRESH) {
                    self.opened(id);
                }
                self.read_open(id, scratch);
            }
            Phase::Lingering => self.discard(id, scratch),
            Phase::Draining | Phase::Gone => {}
        }
    }

    /// An outgoing connection has had an event.
    fn see_connected(&mut self, id: ConnId, scratch: &mut Input) {
        let Some(stream) = self.conns.slots.at_mut(id).and_then(|conn| conn.stream.as_ref()) else { return };
        match stream.connected() {
            Ok(None) => {}
            Ok(Some(addr)) => {
                if let Some((member, _)) = self.clients.split(id) {
                    member.peer.set_addr(addr);
                }
                self.conns.timers.wish(TimerKey::Guard(id), None);
                if let Some(conn) = self.conns.slots.at_mut(id) {
                    // What was written while it was being opened.
                    self.conns.lists.dirty(id, conn);
                }
                self.opened(id);
                match self.conns.slots.at_mut(id) {
                    Some(conn) if self.resting => self.conns.lists.ready(id, conn),
                    _ => self.read_open(id, scratch),
                }
            }
            Err(error) => self.conns.connect_attempt_failed(id, error),
        }
    }

    /// Phase 4 while a restart waits for what is under way: of those who are ready only outgoing connections are served,
    /// which come to be open, or not.
    pub(super) fn see_outgoing(&mut self) {
        let mut ready = std::mem::replace(&mut self.conns.lists.ready, std::mem::take(&mut self.spare_list));
        let mut scratch = std::mem::take(&mut self.scratch);
        for id in ready.drain(..) {
            let Some(conn) = self.conns.slots.at_mut(id) else { continue };
            if conn.phase == Phase::Opening {
                conn.clear(Flag::LISTED);
                self.see_connected(id, &mut scratch);
            } else {
                self.conns.lists.ready.push(id);
            }
        }
        self.scratch = scratch;
        self.spare_list = ready;
        self.conns.settle_timers();
    }

    #[inline(always)]
    fn read_open(&mut self, id: ConnId, scratch: &mut Input) {
        let mut bytes = self.conns.limits.bytes_per_turn;
        let mut lines = self.conns.limits.lines_per_turn;
        loop {
            let Some(conn) = self.conns.slots.at_mut(id) else { return };
            if !conn.takes_input() {
                return self.see_fault(id);
            }
            if !conn.is(Flag::AGAIN.or(Flag::READABLE)) {
                return;
            }
            if bytes == 0 || lines == 0 {
                return self.conns.lists.ready(id, conn);
            }
            // Both are asked at once: one question is all that the others pay for those who are passed descriptors.
            let read = if conn.is(Flag::AGAIN.or(Flag::TAKES_FDS)) {
                if conn.take(Flag::AGAIN) {
                    if let Some(held) = conn.held.take() {
                        self.give_held(id, held, &mut lines);
                    }
                    continue;
                }
                let lost = (&mut self.quiet.lost, self.conns.now);
                let counts = (&mut self.conns.metrics, &mut self.conns.fds);
                descriptors::receive(id, conn, scratch, bytes, counts, lost)
            } else {
                receive(conn, scratch, bytes, &mut self.conns.metrics)
            };
            match read {
                Read::Bytes(count) => {
                    bytes -= count;
                    let short = !conn.is(Flag::READABLE);
                    if conn.is(Flag::SWEPT) {
                        self.suspects.push(id);
                    }
                    conn.heard = self.conns.timers.hearing;
                    match conn.held.take() {
                        Some(mut held) => {
                            held.append(scratch.bytes());
                            self.give_held(id, held, &mut lines);
                        }
                        None => {
                            if self.give(id, scratch, &mut lines) && short {
                                // Nothing is left here or there; what the callback has asked for is on a list.
                                return;
                            }
                        }
                    }
                }
                Read::Nothing => {
                    if conn.is(Flag::DOUBTED) {
                        self.conns.want_sweep();
                    }
                    return;
                }
                Read::End => return self.end_of_input(id, scratch),
                Read::Failed(error) => return self.io_failed(id, "recv", error),
            }
        }
    }

    /// A connection that is not read now may have failed all the same.
    fn see_fault(&mut self, id: ConnId) {
        let Some(conn) = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open) else { return };
        if conn.take(Flag::FAULTY) {
            if let Some(error) = conn.stream.as_ref().and_then(|stream| stream.take_error()) {
                self.io_failed(id, "recv", error);
            }
        }
    }

    /// Gives what was just read to the client. Nearly always it takes everything and nothing is to be kept: true then.
    #[inline(always)]
    fn give(&mut self, id: ConnId, scratch: &mut Input, lines: &mut u32) -> bool {
        let rated = self.allowance(id, *lines);
        let used = self.call_input(id, scratch, rated.unwrap_or(*lines));
        *lines -= used;
        if scratch.is_idle() && rated.is_none() && self.conns.limits.line_time.is_none() {
            return true;
        }
        let left = Left::of(scratch, used, rated.is_some());
        let open = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open);
        if let Some(conn) = open.filter(|_| !scratch.is_idle()) {
            let mut held = self.conns.pool.take_input();
            scratch.hand_over(&mut held);
            conn.held = Some(held);
        }
        scratch.reset();
        self.after_input(id, &left);
        false
    }

    /// Gives what the connection holds to its client.
    fn give_held(&mut self, id: ConnId, mut held: Box<Input>, lines: &mut u32) {
        let rated = self.allowance(id, *lines);
        let used = self.call_input(id, &mut held, rated.unwrap_or(*lines));
        *lines -= used;
        let left = Left::of(&held, used, rated.is_some());
        match self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open && !held.is_idle()) {
            Some(conn) => conn.held = Some(held),
            None => self.conns.pool.give_back_input(held),
        }
        self.after_input(id, &left);
    }

    /// How many of the `given` lines the client has taken.
    #[inline(always)]
    fn call_input(&mut self, id: ConnId, input: &mut Input, given: u32) -> u32 {
        input.start_turn(given);
        self.gather.heard(id);
        self.call(id, "input", |client, ctx| client.input(ctx, input));
        let used = given - input.lines_left();
        self.conns.metrics.lines += u64::from(used);
        self.conns.metrics.long_lines += u64::from(input.take_skipped());
        used
    }

    fn after_input(&mut self, id: ConnId, left: &Left) {
        if left.overlong {
            self.conns.metrics.long_lines += 1;
            self.over_limit(id, "line_max_bytes", LINE_TOO_LONG, CloseReason::LineTooLong);
        } else if left.unread > self.conns.limits.input_max_bytes {
            self.over_limit(id, "input_max_bytes", INPUT_TOO_LONG, CloseReason::InputLimit);
        } else {
            self.after_lines(id, left);
        }
    }

    /// What follows a call of `input`: more lines in the next turn, the deadline of an unfinished line.
    fn after_lines(&mut self, id: ConnId, left: &Left) {
        let &Left { used, stopped, rated, .. } = left;
        let (now, line_time) = (self.conns.now, self.conns.limits.line_time);
        let Some(conn) = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Open) else { return };
        let mut guard = false;
        if rated {
            guard =
                self.conns.limits.lines_per_second.is_some_and(|rate| throttle(conn, rate, used, stopped));
        }
        if stopped && !guard {
            conn.set(Flag::AGAIN);
            self.conns.lists.ready(id, conn);
        }
        if line_time.is_some() {
            if conn.held.is_some() {
                let rare = conn.rare();
                if rare.line_began.is_none() || used > 0 {
                    rare.line_began = Some(now);
                    guard = true;
                }
            } else if let Some(rare) = conn.rare.as_mut() {
                rare.line_began = None;
            }
        }
        if guard {
            self.conns.guard_open(id);
        }
    }

    /// How many lines the connection's rate allows now, if it has a rate.
    #[inline]
    fn allowance(&mut self, id: ConnId, lines: u32) -> Option<u32> {
        let rate = self.conns.limits.lines_per_second?;
        self.allowed_by(rate, id, lines)
    }

    #[inline(never)]
    fn allowed_by(&mut self, rate: u32, id: ConnId, lines: u32) -> Option<u32> {
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

    fn end_of_input(&mut self, id: ConnId, scratch: &mut Input) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        if !conn.raise(Flag::EOF_SEEN) {
            return;
        }
        let mut held = conn.held.take();
        let input = held.as_deref_mut().unwrap_or(scratch);
        input.start_turn(u32::MAX);
        self.call(id, "eof", |client, ctx| client.eof(ctx, input));
        scratch.reset();
        if let Some(held) = held {
            self.conns.pool.give_back_input(held);
        }
        if let Some(conn) = self.conns.slots.at_mut(id) {
            // The peer cannot speak any more: its silence is no fault.
            conn.heard = Heard::NEVER;
            if let Some(rare) = conn.rare.as_mut() {
                rare.line_began = None;
            }
            if !conn.is(Flag::HOLD_OPEN) || conn.write_side() != WriteSide::Open {
                self.conns.close_because(id, CloseReason::Eof);
            }
        }
    }

    /// Reads and throws away, so that our last bytes are not destroyed by a reset.
    fn discard(&mut self, id: ConnId, scratch: &mut Input) {
        let (now, limits) = (self.conns.now, &self.conns.limits);
        let mut bytes = limits.bytes_per_turn;
        loop {
            let Some(conn) = self.conns.slots.at_mut(id).filter(|conn| conn.phase == Phase::Lingering) else {
                return;
            };
            if !conn.is(Flag::READABLE) {
                return;
            }
            if bytes == 0 {
                return self.conns.lists.ready(id, conn);
            }
            match receive(conn, scratch, bytes, &mut self.conns.metrics) {
                Read::Bytes(count) => {
                    scratch.discard();
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
#[inline(always)]
fn receive(
    conn: &mut Conn,
    scratch: &mut Input,
    bytes: usize,
    metrics: &mut crate::metrics::Metrics,
) -> Read {
    let Some(stream) = conn.stream.as_mut() else {
        conn.clear(Flag::READABLE);
        return Read::Nothing;
    };
    // A terminal gives one line at a time, a datagram socket one datagram: there a short read says nothing.
    let exclusive = stream.is_exclusive();
    let storage = scratch.storage(bytes);
    let offered = storage.len();
    metrics.recv_calls += 1;
    match stream.read(storage) {
        Ok(0) => {
            conn.clear(Flag::READABLE);
            Read::End
        }
        Ok(count) => {
            scratch.filled(count);
            metrics.bytes_in += count as u64;
            if count < offered && !conn.is(LONG_READ) && exclusive {
                conn.clear(Flag::READABLE);
            }
            conn.clear(Flag::DOUBTED.or(Flag::DOUBTED_TWICE));
            Read::Bytes(count)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            metrics.recv_empty += 1;
            conn.clear(Flag::READABLE.or(Flag::URGENT));
            Read::Nothing
        }
        // The event was about the other end of a pipe that we only write to: its reader has gone.
        Err(error) if !stream.is_socket() && error.raw_os_error() == Some(libc::EBADF) => {
            conn.clear(Flag::READABLE);
            Read::Failed(io::ErrorKind::BrokenPipe.into())
        }
        Err(error) => {
            conn.clear(Flag::READABLE);
            Read::Failed(error)
        }
    }
}

/// Pays for the lines taken; true if the next has to wait.
fn throttle(conn: &mut Conn, rate: u32, used: u32, stopped: bool) -> bool {
    let rare = conn.rare();
    let Some((tokens, counted)) = rare.allowance.as_mut() else { return false };
    *tokens -= f64::from(used);
    if !stopped || *tokens >= 1.0 {
        return false;
    }
    let wait = Duration::from_secs_f64(((1.0 - *tokens) / f64::from(rate.max(1))).max(0.001));
    rare.throttled = Some(*counted + wait);
    conn.set(Flag::THROTTLED);
    true
}

/// Whoever is this may have more to read after a short read.
const LONG_READ: Flag = Flag::ENDING.or(Flag::URGENT).or(Flag::TAKES_FDS);

const LINE_TOO_LONG: &[u8] = b"Line too long.\r\n";
const INPUT_TOO_LONG: &[u8] = b"Too much at once.\r\n";
