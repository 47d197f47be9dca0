//! What is said to everybody at once: [`Conns::broadcast_all`] and [`Conns::broadcast_except`].
//!
//! The bytes are kept once, whatever the number of receivers, and each connection remembers how much of them it has
//! been given. In phase 7 whoever has nothing else to send is sent them straight from there. Everybody else has them
//! copied to the output that it has: when something is written to it alone, when it begins to close, when its peer
//! reads slowly.
//!
//! Invariant: what a connection in the room has not been given is `pieces[told..]`; outside the room `told` means nothing.
//! Nothing is kept past phase 7.

use std::rc::Rc;

use super::Mux;
use super::callback::MuxCallback;
use super::conn::{Flag, Phase};
use super::conns::{Conns, written};
use super::flush::is_refusal_for_now;
use super::server::Server;
use crate::buffer::Output;
use crate::slots::ConnId;

/// Bytes for everybody in the room that have not been sent or copied yet.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// A copy of `bytes` for those who cannot be sent all of them now.
    shared: Option<Rc<[u8]>>,
}

/// What one call has said.
#[derive(Debug)]
struct Piece {
    /// Where in the bytes it ends.
    end: usize,
    /// Who is not told.
    except: Option<ConnId>,
}

impl Fanout {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// In bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What somebody who comes now need not be told.
    #[allow(clippy::cast_possible_truncation, reason = "`has_room` keeps it below")]
    pub(super) fn len(&self) -> u16 {
        self.pieces.len() as u16
    }

    fn has_room(&self, count: usize, most: usize) -> bool {
        self.bytes.len() + count <= most && self.pieces.len() < usize::from(u16::MAX)
    }

    fn push(&mut self, bytes: &[u8], except: Option<ConnId>) {
        self.bytes.extend_from_slice(bytes);
        self.pieces.push(Piece { end: self.bytes.len(), except });
        self.shared = None;
    }

    fn start(&self, told: u16) -> usize {
        usize::from(told).checked_sub(1).map_or(0, |last| self.pieces[last].end)
    }

    /// What comes after the first `told` pieces, for somebody who is left out of none.
    #[inline]
    fn rest(&self, told: u16) -> &[u8] {
        if told == 0 { &self.bytes } else { &self.bytes[self.start(told)..] }
    }

    /// Adds all bytes from `from` on to `output`, stored once for all. Nothing may be said before the pieces are cleared: it
    /// would cost a copy for each who asks.
    fn give(&mut self, from: usize, output: &mut Output, hard: usize) -> bool {
        let shared = self.shared.get_or_insert_with(|| Rc::from(&*self.bytes));
        output.append_tail(shared, from, hard)
    }

    /// Adds what comes after the first `told` pieces to `output`; false if that is more than `hard` allows.
    fn copy(&self, id: ConnId, told: u16, left_out: bool, output: &mut Output, hard: usize) -> bool {
        let mut from = self.start(told);
        if !left_out {
            return output.append(&self.bytes[from..], hard);
        }
        self.pieces[usize::from(told)..].iter().all(|piece| {
            let bytes = &self.bytes[std::mem::replace(&mut from, piece.end)..piece.end];
            piece.except == Some(id) || output.append(bytes, hard)
        })
    }

    /// How many bytes come after the first `told` pieces for that connection.
    fn owed(&self, id: ConnId, told: u16) -> usize {
        let mut from = self.start(told);
        let lengths = self.pieces[usize::from(told)..].iter().map(|piece| {
            let len = piece.end - std::mem::replace(&mut from, piece.end);
            if piece.except == Some(id) { 0 } else { len }
        });
        lengths.sum()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
        self.shared = None;
    }
}

impl Conns {
    /// Writes `bytes` to every open connection, those that [`all`](Self::all) names. They are kept once and sent with
    /// one call to each at the end of the turn, however often this was called: the cheapest way to reach many.
    ///
    /// A connection that would have more than `Limits::output_hard_bytes` waiting is closed with
    /// [`CloseReason::OutputLimit`](crate::CloseReason::OutputLimit), as for [`write`](Self::write).
    ///
    /// ```
    /// # use lineplex::{Room, Server};
    /// # fn example<S: Server>(room: &mut Room<'_, S>) {
    /// room.conns.broadcast_all(b"the server restarts in a minute\r\n");
    /// # }
    /// ```
    pub fn broadcast_all(&mut self, bytes: &[u8]) {
        self.fan_out(bytes, None);
    }

    /// Writes `bytes` to every open connection but `except`, as [`broadcast_all`](Self::broadcast_all).
    ///
    /// ```
    /// # use lineplex::{Context, Server};
    /// # fn example<S: Server>(ctx: &mut Context<'_, S>) {
    /// ctx.conns.broadcast_except(b"somebody came\r\n", ctx.id);
    /// # }
    /// ```
    pub fn broadcast_except(&mut self, bytes: &[u8], except: ConnId) {
        self.fan_out(bytes, Some(except));
    }

    fn fan_out(&mut self, bytes: &[u8], except: Option<ConnId>) {
        let most = self.limits.output_hard_bytes.min(FANOUT_MAX_BYTES);
        if !self.fanout.has_room(bytes.len(), most) {
            self.settle_fanout();
        }
        if !self.fanout.has_room(bytes.len(), most) {
            self.broadcast(bytes, |id| Some(id) != except);
            return;
        }
        if let Some(conn) = except.and_then(|id| self.slots.at_mut(id)) {
            conn.set(Flag::LEFT_OUT);
        }
        if !bytes.is_empty() {
            self.fanout.push(bytes, except);
        }
    }

    /// Copies to the output of that connection what was said to everybody and that it has not been given yet.
    #[inline]
    pub(super) fn catch_up(&mut self, id: ConnId) {
        if !self.fanout.is_empty() {
            let len = self.fanout.len();
            if let Some(conn) = self.slots.at_mut(id).filter(|conn| conn.in_room()) {
                let told = std::mem::replace(&mut conn.told, len);
                self.copy_fanout(id, told, false);
            }
        }
    }

    /// Bytes written to that connection and not yet taken by the kernel; 0 if it is gone.
    #[must_use]
    pub fn unsent(&self, id: ConnId) -> usize {
        let Some(conn) = self.slots.at(id) else { return 0 };
        let owed = if conn.in_room() { self.fanout.owed(id, conn.told) } else { 0 };
        conn.output_len() + owed
    }

    /// Copies everything that was said to everybody to the outputs.
    pub(super) fn settle_fanout(&mut self) {
        if self.fanout.is_empty() {
            return;
        }
        for slot in 0..self.slots.end() {
            if let Some((id, conn)) = self.slots.in_slot(slot).filter(|(_, conn)| conn.in_room()) {
                let told = std::mem::take(&mut conn.told);
                self.copy_fanout(id, told, true);
            }
        }
        self.fanout.clear();
    }

    /// Makes what comes after the first `told` pieces output of that connection; `last`: nothing more will be said.
    fn copy_fanout(&mut self, id: ConnId, told: u16, last: bool) {
        let Some(conn) = self.slots.at_mut(id) else { return };
        let left_out = conn.take(Flag::LEFT_OUT);
        if told == self.fanout.len() {
            return;
        }
        let output = conn.output.get_or_insert_with(|| self.pool.take());
        let hard = self.limits.output_hard_bytes;
        let fits = match last && !left_out {
            true => self.fanout.give(self.fanout.start(told), output, hard),
            false => self.fanout.copy(id, told, left_out, output, hard),
        };
        if fits && output.is_empty() {
            // It was left out of everything.
            self.pool.give_back(conn.output.take());
        } else {
            written(&mut self.lists, &self.limits, id, conn, fits);
        }
    }

    /// Only `taken` bytes of what comes after the first `told` pieces have left: the rest is output.
    #[cold]
    fn keep_fanout(&mut self, id: ConnId, told: u16, taken: usize) {
        self.metrics.bytes_out += taken as u64;
        let Some(conn) = self.slots.at_mut(id) else { return };
        let from = self.fanout.start(told) + taken;
        let output = conn.output.get_or_insert_with(|| self.pool.take());
        let fits = self.fanout.give(from, output, self.limits.output_hard_bytes);
        if conn.raise(Flag::BLOCKED) {
            self.blocked += 1;
        }
        written(&mut self.lists, &self.limits, id, conn, fits);
        self.want_sweep();
    }
}

impl<S: Server> Mux<S> {
    /// Sends what was said to everybody. `drained` comes when all have been looked at: what is said to everybody there
    /// is another matter.
    pub(super) fn flush_fanout(&mut self) {
        if self.conns.fanout.is_empty() {
            return;
        }
        let mut drained = std::mem::take(&mut self.spare_list);
        for slot in 0..self.conns.slots.end() {
            let conns = &mut self.conns;
            let Some((id, conn)) = conns.slots.in_slot(slot).filter(|(_, conn)| conn.in_room()) else {
                continue;
            };
            let told = std::mem::take(&mut conn.told);
            let straight = conn.output.is_none() && !conn.is(NOT_STRAIGHT) && conn.drained_turn != self.turn;
            let Some(stream) = conn.stream.as_mut().filter(|_| straight && told != conns.fanout.len()) else {
                conns.copy_fanout(id, told, true);
                continue;
            };
            let bytes = conns.fanout.rest(told);
            conns.metrics.send_calls += 1;
            match stream.write(bytes) {
                Ok(taken) if taken == bytes.len() => {
                    conns.metrics.bytes_out += taken as u64;
                    conn.drained_turn = self.turn;
                    drained.push(id);
                }
                Ok(taken) => conns.keep_fanout(id, told, taken),
                Err(error) => {
                    conns.metrics.send_refused += 1;
                    if is_refusal_for_now(&error) {
                        conns.keep_fanout(id, told, 0);
                    } else {
                        self.io_failed(id, "send", error);
                    }
                }
            }
        }
        self.conns.fanout.clear();
        self.conns.slots.trim();
        for id in drained.drain(..) {
            // One of them may have closed another.
            if self.conns.slots.at(id).is_some_and(|conn| conn.phase == Phase::Open) {
                self.call(id, "drained", MuxCallback::drained);
            }
        }
        self.spare_list = drained;
    }
}

/// Whoever is this is sent nothing straight from the bytes for everybody.
const NOT_STRAIGHT: Flag = Flag::LEFT_OUT.or(Flag::BLOCKED).or(Flag::SWEPT).or(Flag::OVERFULL);

/// More than this is copied to the receivers before the turn is over.
const FANOUT_MAX_BYTES: usize = 256 * 1024;
