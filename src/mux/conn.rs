//! One connection's I/O and where it stands in its life.

use std::time::Instant;

use super::callback::{CloseReason, Peer};
use super::connect::Opening;
use crate::buffer::{Input, Output};
use crate::net::{PeerAddr, Stream};
use crate::wheel::TimerId;

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

#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts about one socket, not a hidden state machine"
)]
pub(super) struct Conn {
    /// None while a name is looked up, and after phase 8.
    pub(super) stream: Option<Stream>,
    pub(super) phase: Phase,
    pub(super) write_side: WriteSide,
    /// Unconsumed input; none when there is none.
    pub(super) held: Option<Box<Input>>,
    /// Unsent output; none when there is none.
    pub(super) output: Option<Box<Output>>,
    /// `connection` has not been called yet.
    pub(super) fresh: bool,
    /// An event said that there is something to read, and no read has contradicted it since.
    pub(super) readable: bool,
    /// The peer has ended its side, or more: short reads mean nothing, the end must be read.
    pub(super) ending: bool,
    /// Urgent data is queued: a short read does not mean that nothing is left.
    pub(super) urgent: bool,
    /// The first read after an event found nothing: a later sweep looks again, so many times.
    pub(super) doubts: u8,
    /// An event told of an error that only the next call will name.
    pub(super) faulty: bool,
    /// A sweep looks at it; cleared by the next event.
    pub(super) swept: bool,
    /// A read has returned the end.
    pub(super) eof_seen: bool,
    /// The kernel took less than we had; an event will say when it takes more.
    pub(super) blocked: bool,
    /// On the dirty list.
    pub(super) dirty: bool,
    /// On the ready list.
    pub(super) listed: bool,
    /// On the wake list.
    pub(super) woken: bool,
    /// Stopped by its client.
    pub(super) paused: bool,
    /// Stopped because its own output is over the soft limit.
    pub(super) choked: bool,
    /// Input is held that its client should be given again although nothing new was read.
    pub(super) again: bool,
    pub(super) hold_open: bool,
    /// The last turn in which `drained` was called, the low bits.
    pub(super) drained_turn: u32,
    pub(super) reason: Option<CloseReason>,
    /// The client's deadline.
    pub(super) deadline: Option<TimerId>,
    /// The mux's own: connect, idle and line, drain or linger, as the phase says.
    pub(super) guard: Option<TimerId>,
    /// What only few connections have.
    pub(super) rare: Option<Box<Rare>>,
}

/// Facts that most connections never have.
#[derive(Debug, Default)]
pub(super) struct Rare {
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
    /// When bytes last came; kept only with an idle limit.
    pub(super) heard: Option<Instant>,
    /// When the unfinished line began; kept only with a line deadline.
    pub(super) line_began: Option<Instant>,
    /// Lines that may still come now, and when that was counted; kept only with a rate.
    pub(super) allowance: Option<(f64, Instant)>,
    /// Since when a sweep finds it over the soft limit with nothing taken.
    pub(super) stalled: Option<Instant>,
    /// Out of allowance until then.
    pub(super) throttled: Option<Instant>,
    /// Offloaded jobs whose result has not come.
    pub(super) jobs: u32,
    /// Who it was: its client has had its `close` in an image before this one, and only the socket is left.
    pub(super) left: Option<PeerAddr>,
}

impl Conn {
    pub(super) fn new(stream: Option<Stream>, phase: Phase) -> Self {
        Self {
            stream,
            phase,
            write_side: WriteSide::Open,
            held: None,
            output: None,
            fresh: true,
            readable: false,
            ending: false,
            urgent: false,
            doubts: 0,
            faulty: false,
            swept: false,
            eof_seen: false,
            blocked: false,
            dirty: false,
            listed: false,
            woken: false,
            paused: false,
            choked: false,
            again: false,
            hold_open: false,
            drained_turn: 0,
            reason: None,
            deadline: None,
            guard: None,
            rare: None,
        }
    }

    /// Whether a write is accepted.
    #[inline]
    pub(super) fn takes_output(&self) -> bool {
        self.phase <= Phase::Open && self.write_side == WriteSide::Open
    }

    /// Whether it is one of those that `all` and `broadcast` mean.
    #[inline]
    pub(super) fn in_room(&self) -> bool {
        self.phase == Phase::Open && !self.fresh && self.write_side == WriteSide::Open
    }

    /// Whether its client may be given input now.
    #[inline]
    pub(super) fn takes_input(&self) -> bool {
        self.phase == Phase::Open && !self.paused && !self.choked
    }

    /// Whether its client's `connection` is still to come.
    pub(super) fn is_to_come(&self) -> bool {
        self.phase == Phase::Opening || (self.phase == Phase::Open && self.fresh)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(super) fn output_len(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.len())
    }
}
