//! Gathering: a big flush waits a moment, so that the lines of more senders leave in each send.
//!
//! Clients that answer what they hear fall into groups: one group writes while the lines of another are being sent, and
//! gets its own sent while the other writes. Nothing ever joins them, so each connection is sent to as often as there
//! are groups. A flush that is put off for a few turns, which do not block while output waits, joins them for good.
//!
//! Whole turns go on meanwhile: signals, deadlines, budgets and limits are those of any turn, and whatever ends the
//! loop sends first. Only phases 7 and 8 are left out.

use std::time::{Duration, Instant};

use super::Mux;
use super::server::Server;
use crate::slots::ConnId;

/// What the next flush knows about itself.
#[derive(Debug)]
pub(super) struct Gather {
    /// `Limits::gather`, at hand.
    on: bool,
    /// How long a flush waits for each connection that it is for.
    each: Duration,
    /// Since when it waits.
    since: Option<Instant>,
    /// Whose input came last.
    last: Option<ConnId>,
    /// There was input since the last flush, and not only from whoever was the last before it.
    several: bool,
}

impl Gather {
    pub(super) fn new(on: bool) -> Self {
        Self { on, each: EACH, since: None, last: None, several: false }
    }

    /// Input of `id` is given to its client.
    #[inline]
    pub(super) fn heard(&mut self, id: ConnId) {
        if self.on {
            self.several |= self.last.is_some_and(|last| last != id);
            self.last = Some(id);
        }
    }
}

impl<S: Server> Mux<S> {
    /// Whether what is to be sent waits for the next turn.
    pub(super) fn gathers(&mut self) -> bool {
        let (conns, gather) = (&mut self.conns, &mut self.gather);
        if !gather.on {
            return false;
        }
        let (limits, lists) = (&conns.limits, &mut conns.lists);
        let dirty = if conns.fanout.is_empty() { lists.dirty.len() } else { conns.slots.len() };
        let full = lists.full || conns.fanout.size() > limits.output_soft_bytes;
        if gather.several && dirty >= DIRTY_MIN && !full {
            let wait = gather.each.saturating_mul(u32::try_from(dirty).unwrap_or(u32::MAX));
            let now = Instant::now();
            let since = *gather.since.get_or_insert(now);
            if now.saturating_duration_since(since) < wait.min(limits.gather_max_time) {
                conns.metrics.gather_turns += 1;
                return true;
            }
        }
        conns.metrics.gathers += u64::from(gather.since.take().is_some());
        (gather.several, lists.full) = (false, false);
        false
    }
}

/// About what a send to one costs (2 µs) would be too long: the others have answered within a twentieth of the flush.
const EACH: Duration = Duration::from_nanos(100);
/// Below, sending is done before a wait could pay.
const DIRTY_MIN: usize = 64;

#[cfg(test)]
mod tests;
