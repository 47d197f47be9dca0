//! One connection's I/O and where it stands in its life.

use std::time::Instant;

use super::callback::CloseReason;
use super::connect::Opening;
use super::descriptors::Arrivals;
use super::peer::Peer;
use super::timers::Heard;
use crate::buffer::{Input, Output};
use crate::net::{PeerAddr, Stream};
use crate::slots::Slot;

/// Where a connection stands. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// An outgoing one whose other end has not answered yet.
    Opening,
    /// Served.
    Open,
    /// Sends what it owes; its callbacks are over but for `close`.
    Draining,
    /// Our side is shut; reads and throws away until the peer's side is.
    Lingering,
    /// On the list of phase 8, which closes it and frees its slot.
    Gone,
}

/// Our sending side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteSide {
    Open,
    /// To be shut when the output is empty.
    Ending,
    Shut,
}

/// Facts about a connection that are so or not, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flag(u32);

impl Flag {
    /// `connection` has not been called yet.
    pub(super) const FRESH: Self = Self(1);
    /// An event said that there is something to read, and no read has contradicted it since.
    pub(super) const READABLE: Self = Self(1 << 1);
    /// The peer has ended its side, or more: short reads mean nothing, the end must be read.
    pub(super) const ENDING: Self = Self(1 << 2);
    /// Urgent data is queued: a short read does not mean that nothing is left.
    pub(super) const URGENT: Self = Self(1 << 3);
    /// An event told of an error that only the next call will name.
    pub(super) const FAULTY: Self = Self(1 << 4);
    /// A sweep looks at it; cleared by the next event.
    pub(super) const SWEPT: Self = Self(1 << 5);
    /// A read has returned the end.
    pub(super) const EOF_SEEN: Self = Self(1 << 6);
    /// The kernel took less than we had; an event will say when it takes more.
    pub(super) const BLOCKED: Self = Self(1 << 7);
    /// On the dirty list.
    pub(super) const DIRTY: Self = Self(1 << 8);
    /// On the ready list.
    pub(super) const LISTED: Self = Self(1 << 9);
    /// On the wake list.
    pub(super) const WOKEN: Self = Self(1 << 10);
    /// Stopped by its client.
    pub(super) const PAUSED: Self = Self(1 << 11);
    /// Stopped because its own output is over the soft limit.
    pub(super) const CHOKED: Self = Self(1 << 12);
    /// Stopped because its rate is used up, until [`Rare::throttled`].
    pub(super) const THROTTLED: Self = Self(1 << 13);
    /// Input is held that its client should be given again although nothing new was read.
    pub(super) const AGAIN: Self = Self(1 << 14);
    /// Our side stays open after the peer has ended its own.
    pub(super) const HOLD_OPEN: Self = Self(1 << 15);
    /// Over the hard limit of output: cut in phase 7.
    pub(super) const OVERFULL: Self = Self(1 << 16);
    /// Some of what was said to everybody is not for it.
    pub(super) const LEFT_OUT: Self = Self(1 << 17);
    /// The first read after an event found nothing: the next sweep looks again.
    pub(super) const DOUBTED: Self = Self(1 << 18);
    /// And so does the one after it.
    pub(super) const DOUBTED_TWICE: Self = Self(1 << 19);
    /// [`WriteSide::Ending`].
    const SHUTTING: Self = Self(1 << 20);
    /// [`WriteSide::Shut`].
    const SHUT: Self = Self(1 << 21);
    /// Taken over from the image before, whose standby has it open until it has ended.
    pub(super) const INHERITED: Self = Self(1 << 22);
    /// Its peer may pass descriptors: see `descriptors`.
    pub(super) const TAKES_FDS: Self = Self(1 << 23);

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One of these for each connection, so it is kept small (a test says how small): what few of them have is in [`Rare`].
#[derive(Debug)]
pub(super) struct Conn {
    generation: u32,
    flags: Flag,
    /// None while a name is looked up, and after phase 8.
    pub(super) stream: Option<Stream>,
    pub(super) phase: Phase,
    /// The turn in which `drained` was last called, the low bits; 0 for none. Taken for a later one by mistake, it only
    /// makes output wait for a turn.
    pub(super) drained_turn: u8,
    /// How much of what was said to everybody in this turn it has been given (see `fanout`).
    pub(super) told: u16,
    /// When bytes last came.
    pub(super) heard: Heard,
    /// Unconsumed input; none when there is none.
    pub(super) held: Option<Box<Input>>,
    /// Unsent output; none when there is none.
    pub(super) output: Option<Box<Output>>,
    pub(super) rare: Option<Box<Rare>>,
}

/// Facts that most connections never have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Why it is closing; the first reason stands.
    pub(super) reason: Option<CloseReason>,
    /// A denied peer, which has no client object to stand beside.
    pub(super) denied: Option<Peer>,
    /// Refused because a limit was reached; it only reads why.
    pub(super) refused: bool,
    pub(super) opening: Option<Opening>,
    /// Its deadline passed before it was open.
    pub(super) late: bool,
    /// Lingering ends then, whatever comes.
    pub(super) linger_until: Option<Instant>,
    /// Bytes read and thrown away.
    pub(super) discarded: usize,
    /// When the unfinished line began; kept only with a line deadline.
    pub(super) line_began: Option<Instant>,
    /// Lines that may still come now, and when that was counted; kept only with a rate.
    pub(super) allowance: Option<(f64, Instant)>,
    /// Since when a sweep finds it over the soft limit with nothing taken.
    pub(super) stalled: Option<Instant>,
    /// Out of allowance until then.
    pub(super) throttled: Option<Instant>,
    /// Kept only where the listener has `accept_fds`.
    pub(super) arrivals: Arrivals,
    /// Offloaded jobs whose result has not come.
    pub(super) jobs: u32,
    /// Who it was: its client has had its `close` in an image before this one, and only the socket is left.
    pub(super) left: Option<PeerAddr>,
}

impl Slot for Conn {
    #[inline]
    fn generation(&self) -> u32 {
        self.generation
    }

    fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
    }
}

impl Conn {
    pub(super) fn new(stream: Option<Stream>, phase: Phase) -> Self {
        Self {
            generation: 0,
            flags: Flag::FRESH,
            stream,
            phase,
            drained_turn: 0,
            told: 0,
            heard: Heard::NEVER,
            held: None,
            output: None,
            rare: None,
        }
    }

    /// Whether any of these is so.
    #[inline]
    pub(super) fn is(&self, flags: Flag) -> bool {
        self.flags.0 & flags.0 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flags: Flag) {
        self.flags.0 |= flags.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, flags: Flag) {
        self.flags.0 &= !flags.0;
    }

    #[inline]
    pub(super) fn set_if(&mut self, flag: Flag, on: bool) {
        self.flags.0 |= if on { flag.0 } else { 0 };
    }

    #[inline]
    pub(super) fn put(&mut self, flag: Flag, on: bool) {
        self.clear(flag);
        self.set_if(flag, on);
    }

    /// Sets it; whether it was clear before.
    #[inline]
    pub(super) fn raise(&mut self, flag: Flag) -> bool {
        let before = self.is(flag);
        self.set(flag);
        !before
    }

    /// Clears it; whether it was set before.
    #[inline]
    pub(super) fn take(&mut self, flag: Flag) -> bool {
        let before = self.is(flag);
        self.clear(flag);
        before
    }

    pub(super) fn write_side(&self) -> WriteSide {
        if self.is(Flag::SHUT) {
            WriteSide::Shut
        } else if self.is(Flag::SHUTTING) {
            WriteSide::Ending
        } else {
            WriteSide::Open
        }
    }

    pub(super) fn set_write_side(&mut self, side: WriteSide) {
        self.put(Flag::SHUTTING, side == WriteSide::Ending);
        self.put(Flag::SHUT, side == WriteSide::Shut);
    }

    /// Whether a write is accepted.
    #[inline]
    pub(super) fn takes_output(&self) -> bool {
        self.phase <= Phase::Open && !self.is(Flag::SHUTTING.or(Flag::SHUT))
    }

    /// Whether it is one of those that `all` and `broadcast` mean.
    #[inline]
    pub(super) fn in_room(&self) -> bool {
        self.phase == Phase::Open && !self.is(Flag::FRESH.or(Flag::SHUTTING).or(Flag::SHUT))
    }

    /// Whether its client may be given input now.
    #[inline]
    pub(super) fn takes_input(&self) -> bool {
        self.phase == Phase::Open && !self.is(Flag::PAUSED.or(Flag::CHOKED).or(Flag::THROTTLED))
    }

    /// Whether its client's `connection` is still to come.
    pub(super) fn is_to_come(&self) -> bool {
        self.phase == Phase::Opening || (self.phase == Phase::Open && self.is(Flag::FRESH))
    }

    /// Whether closing it ends our side: nobody else can have it open.
    pub(super) fn is_exclusive(&self) -> bool {
        !self.is(Flag::INHERITED) && self.stream.as_ref().is_some_and(Stream::is_exclusive)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Keeps the first reason that it closes for.
    pub(super) fn because(&mut self, reason: CloseReason) {
        let reason = if self.is(Flag::OVERFULL) { CloseReason::OutputLimit } else { reason };
        self.rare().reason.get_or_insert(reason);
    }

    pub(super) fn output_len(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the slab's own, which is private: an entry that is in use, or the way to the next that is not.
    #[allow(dead_code, reason = "only its size is of interest")]
    enum Entry {
        Vacant(usize),
        Occupied(Conn),
    }

    #[test]
    fn a_connection_has_48_bytes_with_its_place_in_the_slab() {
        assert_eq!((size_of::<Conn>(), size_of::<Entry>()), (48, 48));
    }
}
