//! Phases 7 and 8: sending what was written, and closing what is over.
//!
//! A connection gets one send however many callbacks wrote to it. `drained` is called at most once a turn for each:
//! what it writes is sent in the next turn, so a client that always has more starves nobody. Slots are freed in
//! phase 8 and nowhere else.

use std::io::{self, IoSlice};

use super::Mux;
use super::accept::suppressed;
use super::callback::{CloseReason, MuxCallback};
use super::conn::{Conn, Flag, Phase, Rare, WriteSide};
use super::server::{Outcome, Server};
use super::timers::TimerKey;
use crate::buffer::{FD_BYTE, Output};
use crate::logging::CLIENTS;
use crate::metrics::Metrics;
use crate::net::Stream;
use crate::slots::ConnId;

/// How one send left a connection.
enum Sent {
    /// There was nothing to send: nothing was written, or only nothing.
    Idle,
    /// The last byte left now.
    Emptied,
    /// There is more, and the kernel takes more.
    More,
    /// There is more, and the kernel takes none now.
    Blocked,
    Failed(io::Error),
}

impl<S: Server> Mux<S> {
    pub(super) fn flush_and_reap(&mut self) {
        loop {
            self.flush_fanout();
            let mut dirty =
                std::mem::replace(&mut self.conns.lists.dirty, std::mem::take(&mut self.spare_list));
            for id in dirty.drain(..) {
                self.flush(id);
            }
            self.spare_list = dirty;
            let mut gone =
                std::mem::replace(&mut self.conns.lists.gone, std::mem::take(&mut self.spare_list));
            for id in gone.drain(..) {
                self.reap(id);
            }
            self.spare_list = gone;
            let lists = &self.conns.lists;
            if lists.dirty.is_empty() && lists.gone.is_empty() && self.conns.fanout.is_empty() {
                break;
            }
        }
        // What waits for the next turn.
        std::mem::swap(&mut self.conns.lists.dirty, &mut self.next_dirty);
        self.conns.settle_timers();
    }

    #[inline(always)]
    fn flush(&mut self, id: ConnId) {
        let turn = self.turn;
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        conn.clear(Flag::DIRTY);
        if conn.phase == Phase::Gone || conn.is_to_come() {
            return;
        }
        if conn.is(Flag::OVERFULL) && conn.phase <= Phase::Draining {
            return self.output_limit(id, "output_hard_bytes", CloseReason::OutputLimit);
        }
        if conn.drained_turn == turn && conn.output.is_some() {
            conn.set(Flag::DIRTY);
            self.next_dirty.push(id);
            return;
        }
        let sent = send(conn, &mut self.suspects, id, &mut self.conns.metrics);
        match sent {
            Sent::Emptied | Sent::Idle => {
                self.conns.pool.give_back(conn.output.take());
                let just_now = matches!(sent, Sent::Emptied);
                if just_now && conn.takes_output() && !conn.is(Flag::CHOKED) {
                    conn.drained_turn = turn;
                    self.call(id, "drained", MuxCallback::drained);
                } else {
                    self.emptied(id, just_now);
                }
            }
            Sent::Blocked => {
                self.conns.note_blocked(id);
                self.conns.unchoke(id);
            }
            Sent::More => {
                conn.set(Flag::DIRTY);
                self.next_dirty.push(id);
                self.conns.unchoke(id);
            }
            Sent::Failed(error) => self.io_failed(id, "send", error),
        }
    }

    /// Nothing is left to send: what waited for that.
    fn emptied(&mut self, id: ConnId, just_now: bool) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        if conn.is(Flag::CHOKED) {
            self.conns.unchoke(id);
            return self.emptied(id, just_now);
        }
        match conn.phase {
            Phase::Draining => self.linger(id),
            Phase::Open if conn.write_side() == WriteSide::Ending => {
                conn.set_write_side(WriteSide::Shut);
                // It fails only if the peer is gone, and the next read tells.
                let _ = conn.stream.as_ref().map(|stream| stream.shutdown_write());
                if conn.is(Flag::EOF_SEEN) {
                    self.conns.close_because(id, CloseReason::Eof);
                }
            }
            Phase::Open if just_now => {
                conn.drained_turn = self.turn;
                self.call(id, "drained", MuxCallback::drained);
            }
            _ => {}
        }
    }

    /// Everything is sent: our side is shut, and the peer's end awaited.
    fn linger(&mut self, id: ConnId) {
        let until = self.conns.now + self.conns.limits.linger_max_time;
        let wait = self.conns.limits.linger_time.min(self.conns.limits.linger_max_time);
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        if conn.is(Flag::EOF_SEEN) && conn.is_exclusive() {
            // Nothing is left to read and nobody else has it open: the close ends our side too.
            return self.conns.cut(id, CloseReason::Asked);
        }
        let socket = conn.stream.as_ref().is_some_and(|stream| stream.is_socket());
        let shut = conn.stream.as_ref().map(|stream| stream.shutdown_write());
        if conn.is(Flag::EOF_SEEN) || !socket || wait.is_zero() || !matches!(shut, Some(Ok(()))) {
            return self.conns.cut(id, CloseReason::Asked);
        }
        conn.phase = Phase::Lingering;
        conn.rare().linger_until = Some(until);
        self.conns.timers.wish(TimerKey::Guard(id), Some(wait));
        if conn.is(Flag::READABLE) {
            self.conns.lists.ready(id, conn);
        }
    }

    fn output_limit(&mut self, id: ConnId, limit: &str, reason: CloseReason) {
        self.conns.metrics.output_limit += 1;
        if let Some(more) = self.quiet.limit.allow(self.conns.now) {
            log::warn!("connection {id}: {limit} reached{}", suppressed(more));
        }
        self.conns.cut(id, reason);
    }

    /// Phase 8 for one connection: the socket goes, then `close` is called, then the slot is free.
    pub(super) fn reap(&mut self, id: ConnId) {
        let Some(conn) = self.conns.slots.at_mut(id) else { return };
        let rare = conn.rare.take();
        if let Some(mut stream) = conn.stream.take() {
            if !stream.is_exclusive() {
                // Somebody else may hold the same description, and the poll would go on reporting it.
                self.conns.metrics.deregistrations += 1;
                let _ = self.conns.registry.deregister(&mut stream);
            }
        }
        self.conns.metrics.closed += 1;
        let rare = rare.map(|rare| *rare).unwrap_or_default();
        let reason = rare.reason.unwrap_or(CloseReason::Asked);
        if rare.refused {
            self.conns.refused -= 1;
        }
        if let Some(peer) = rare.denied {
            self.census.leave(&self.conns.limits, &peer.addr());
            self.process_request_is_over(&peer, Outcome::Denied);
        } else if let Some(addr) = rare.left {
            self.census.leave(&self.conns.limits, &addr);
        } else {
            self.farewell(id, &reason);
        }
        self.conns.slots.remove(id);
        self.conns.unpark(None);
    }

    /// The client of a connection hears that it is over, and is gone.
    pub(super) fn farewell(&mut self, id: ConnId, reason: &CloseReason) {
        let Some((member, _)) = self.clients.split(id) else { return };
        let peer = member.peer;
        log::info!(target: CLIENTS, "close {} ({reason})", peer.addr());
        if peer.serial() > 0 {
            self.census.leave(&self.conns.limits, &peer.addr());
            self.process_request_is_over(&peer, Outcome::Served);
        }
        self.call(id, "close", |client, ctx| {
            client.close(ctx, reason);
            Ok(())
        });
        if let Some(member) = self.clients.remove(id) {
            self.contain("drop", || drop(member));
        }
    }

    fn process_request_is_over(&mut self, peer: &super::Peer, outcome: Outcome) {
        self.hook("post_process_request_hook", |server, room| {
            server.post_process_request_hook(room, peer, outcome);
        });
    }

    /// Tries everybody whose event may be lost.
    pub(super) fn sweep(&mut self) {
        self.conns.metrics.sweeps += 1;
        let conns = &mut self.conns;
        let mut doubts = false;
        let (now, limit) = (conns.now, conns.limits.output_stall_time);
        let mut stalled = Vec::new();
        for (id, conn) in conns.slots.iter_mut() {
            if conn.is(Flag::BLOCKED) && conn.is(Flag::CHOKED) {
                let since = *conn.rare().stalled.get_or_insert(now);
                if limit.is_some_and(|limit| now >= since + limit) {
                    stalled.push(id);
                    continue;
                }
            }
            if conn.is(Flag::BLOCKED) {
                // A little room brings no event and is no lost edge; what a poll would tell of should have brought one.
                conn.put(Flag::SWEPT, conn.stream.as_ref().is_some_and(crate::sys::is_writable));
                conn.clear(Flag::BLOCKED);
                conns.blocked -= 1;
                conns.lists.dirty(id, conn);
            }
            if conn.is(Flag::DOUBTED) {
                conn.put(Flag::DOUBTED, conn.is(Flag::DOUBTED_TWICE));
                conn.clear(Flag::DOUBTED_TWICE);
                conn.set(Flag::READABLE.or(Flag::SWEPT));
                conns.lists.ready(id, conn);
                doubts |= conn.is(Flag::DOUBTED);
            }
        }
        if doubts {
            conns.want_sweep();
        }
        for id in stalled {
            self.output_limit(id, "output_stall_seconds", CloseReason::OutputStalled);
        }
    }
}

#[inline(always)]
fn send(conn: &mut Conn, suspects: &mut Vec<ConnId>, id: ConnId, metrics: &mut Metrics) -> Sent {
    let blocked = conn.is(Flag::BLOCKED);
    let (Some(output), Some(stream)) = (conn.output.as_deref_mut(), conn.stream.as_mut()) else {
        return Sent::Idle;
    };
    let (offered, taken) = match output.single() {
        None if output.is_empty() => return Sent::Idle,
        _ if blocked => return Sent::Blocked,
        Some(bytes) => (bytes.len(), stream.write(bytes)),
        None => write_pieces(output, stream, conn.rare.as_deref_mut(), metrics),
    };
    metrics.send_calls += 1;
    match taken {
        Ok(taken) => {
            metrics.bytes_out += taken as u64;
            output.advance(taken);
            let left = !output.is_empty();
            if taken > 0 {
                if conn.is(Flag::SWEPT) {
                    suspects.push(id);
                }
                if let Some(rare) = conn.rare.as_mut() {
                    rare.stalled = None;
                }
            }
            match left {
                false => Sent::Emptied,
                true if taken < offered => Sent::Blocked,
                true => Sent::More,
            }
        }
        Err(error) => {
            metrics.send_refused += 1;
            if is_refusal_for_now(&error) { Sent::Blocked } else { Sent::Failed(error) }
        }
    }
}

/// The kernel takes nothing now. Where it is out of memory no event will tell, so the sweep tries again.
pub(super) fn is_refusal_for_now(error: &io::Error) -> bool {
    // The last: too many descriptors are on their way to others who have not received them.
    let passing = [libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM, libc::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}

/// How much was offered, and what became of it. Descriptors part the bytes into several sends, which follow one another
/// here as long as the kernel takes all; the last of them is the caller's to account for.
#[cold]
fn write_pieces(
    output: &mut Output,
    stream: &mut Stream,
    mut rare: Option<&mut Rare>,
    metrics: &mut Metrics,
) -> (usize, io::Result<usize>) {
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = output.front(&mut slices);
        let fd = output.fd_behind(used);
        let (offered, taken) = match fd {
            Some(fd) if used == 0 => (FD_BYTE.len(), stream.write_fd(FD_BYTE, fd)),
            _ => {
                let slices = &slices[..used];
                (slices.iter().map(|slice| slice.len()).sum(), stream.write_vectored(slices))
            }
        };
        if used == 0 && taken.is_ok() {
            metrics.fds_out += 1;
        }
        match taken {
            Ok(taken) if fd.is_some() && taken == offered && taken < output.len() => {
                metrics.send_calls += 1;
                metrics.bytes_out += taken as u64;
                output.advance(taken);
                if let Some(rare) = rare.as_mut() {
                    rare.stalled = None;
                }
            }
            taken => return (offered, taken),
        }
    }
}

/// Pieces of output that one send offers.
const SLICES_MAX: usize = 64;

#[cfg(test)]
mod tests;
