//! All that waits for a time: the clients' deadlines, the mux's own guards, the server's timers, the tick.
//!
//! A deadline that is set during a phase is only a *wish* until the phase ends; then the clock is read once, if
//! there is a wish at all, and the deadline counts from there. So a slow callback never makes a timer early that
//! another callback set.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use slab::Slab;

use super::callback::CloseReason;
use super::conn::{Conn, Flag, Phase};
use super::conns::{Conns, ServerTimers};
use crate::slots::ConnId;
use crate::wheel::Wheel;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerKey {
    /// A client's `timeout`.
    Deadline(ConnId),
    /// The mux's own deadline for a connection.
    Guard(ConnId),
    /// `Server::timeout`.
    Server(u64),
    /// `run_dequeue`.
    Tick,
    /// A listener that could not accept tries again.
    Door(usize),
    /// A look for lost edges.
    Sweep,
    /// A graceful stop has taken long enough.
    Stop,
    /// The process flow has something to do.
    Outside,
}

/// A timer that is armed, by its name in the wheel.
///
/// A connection's two are named by its slot, so that neither side stores who the other is, nor whether one is armed, which
/// the wheel knows: they are stopped before the slot is free (`Conns::cut`), and none is granted to a connection that is gone. All others have a place in a table.
/// Eight slots and one place of the table take 17 names in turn, as the wheel wants its names dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerId(NonZeroU32);

/// Whose timer it is.
enum Owner {
    Deadline(usize),
    Guard(usize),
    House(usize),
}

impl TimerId {
    fn of(owner: &Owner) -> Self {
        let name = match *owner {
            Owner::Deadline(slot) => slot / SLOTS * NAMES + slot % SLOTS * 2,
            Owner::Guard(slot) => slot / SLOTS * NAMES + slot % SLOTS * 2 + 1,
            Owner::House(place) => place * NAMES + NAMES - 1,
        };
        let above = u32::try_from(name + 1).ok().and_then(NonZeroU32::new);
        Self(above.expect("no process has so many descriptors or timers"))
    }

    /// Of the client's deadline.
    pub(super) fn deadline(id: ConnId) -> Self {
        Self::of(&Owner::Deadline(id.slot()))
    }

    /// Of the mux's own timer for a connection: connect, idle and line, drain or linger, as the phase says.
    pub(super) fn guard(id: ConnId) -> Self {
        Self::of(&Owner::Guard(id.slot()))
    }

    pub(super) fn name(self) -> u32 {
        self.0.get() - 1
    }
}

impl Owner {
    fn of(name: u32) -> Self {
        let (row, column) = (name as usize / NAMES, name as usize % NAMES);
        match column {
            HOUSE => Self::House(row),
            _ if column % 2 == 0 => Self::Deadline(row * SLOTS + column / 2),
            _ => Self::Guard(row * SLOTS + column / 2),
        }
    }
}

/// When a connection was last heard of, or never: in units of [`Timers::unit`] since the wheel's start, rounded up,
/// modulo 2³². A store at each input; its guard looks at it when it fires, and is armed for what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard(u32);

impl Heard {
    pub(super) const NEVER: Self = Self(0);
}

#[derive(Debug)]
pub(super) struct Timers {
    pub(super) wheel: Wheel,
    /// What a connection notes that is heard of in this turn; never without an idle limit.
    pub(super) hearing: Heard,
    idle: bool,
    /// Milliseconds of a [`Heard`]: 1, or so many that no idle limit comes near 2³² of them.
    unit: u32,
    wishes: Vec<(TimerKey, Option<Duration>)>,
    /// Timers that were collected may not all have been called yet.
    pub(super) firing: bool,
    /// Keys of the armed timers that are no connection's.
    house: Slab<TimerKey>,
    pub(super) server: ServerTimers,
    pub(super) tick: Option<TimerId>,
    sweep: Option<TimerId>,
    stop: Option<TimerId>,
    outside: Option<TimerId>,
}

impl Timers {
    pub(super) fn new(now: Instant, idle: Option<Duration>) -> Self {
        let long = idle.is_some_and(|idle| idle.as_millis() > u128::from(u32::MAX / 2));
        Self {
            wheel: Wheel::new(now),
            hearing: Heard::NEVER,
            idle: idle.is_some(),
            unit: if long { 1000 } else { 1 },
            wishes: Vec::new(),
            firing: false,
            house: Slab::new(),
            server: ServerTimers::new(),
            tick: None,
            sweep: None,
            stop: None,
            outside: None,
        }
    }

    /// What a connection notes that is heard of at that time.
    #[allow(clippy::cast_possible_truncation, reason = "modulo 2^32, as it says")]
    pub(super) fn heard(&self, at: Instant) -> Heard {
        Heard((self.units(at) as u32).max(1))
    }

    /// When a connection was heard of, as seen at `now`: not before it was, and at most a unit after.
    #[allow(clippy::cast_possible_truncation, reason = "modulo 2^32, as it says")]
    pub(super) fn when(&self, heard: Heard, now: Instant) -> Option<Instant> {
        if heard == Heard::NEVER {
            return None;
        }
        let units = self.units(now);
        let passed = (units as u32).wrapping_sub(heard.0);
        // The end of the range is what is a little later than `now`.
        let passed = if passed > u32::MAX - LATER { 0 } else { passed };
        let units = units.saturating_sub(passed.into());
        self.wheel.start().checked_add(Duration::from_millis(units * u64::from(self.unit)))
    }

    fn units(&self, at: Instant) -> u64 {
        let age = at.saturating_duration_since(self.wheel.start());
        let millis = age.as_secs() * 1000 + u64::from(age.subsec_nanos().div_ceil(NANOS_PER_MILLI));
        millis.div_ceil(self.unit.into())
    }

    /// At the end of this phase the timer of `key` shall be due `after` from then, or be clear. The last wish wins.
    #[inline]
    pub(super) fn wish(&mut self, key: TimerKey, after: Option<Duration>) {
        match self.wishes.last_mut() {
            // A client sets its deadline anew for each of the lines that came at once.
            Some((last, wished)) if *last == key => *wished = after,
            _ => self.wishes.push((key, after)),
        }
    }

    /// Takes back what was wished for `key` in this phase.
    #[inline]
    pub(super) fn forget(&mut self, key: TimerKey) {
        if !self.wishes.is_empty() {
            self.wish(key, None);
        }
    }

    /// Takes an armed timer out at once, so that it cannot fire in this batch any more.
    #[inline]
    pub(super) fn stop(&mut self, timer: &mut Option<TimerId>) {
        if let Some(id) = timer.take() {
            self.wheel.disarm(id.name());
            if let Owner::House(place) = Owner::of(id.name()) {
                self.house.try_remove(place);
            }
        }
    }

    /// Sets one of those that are kept here.
    fn set_own(&mut self, key: TimerKey, after: Option<Duration>, now: Instant) {
        let mut timer = self.own(key).and_then(Option::take);
        self.set(&mut timer, key, after, now);
        if let Some(own) = self.own(key) {
            *own = timer;
        }
    }

    fn own(&mut self, key: TimerKey) -> Option<&mut Option<TimerId>> {
        match key {
            TimerKey::Tick => Some(&mut self.tick),
            TimerKey::Sweep => Some(&mut self.sweep),
            TimerKey::Stop => Some(&mut self.stop),
            TimerKey::Outside => Some(&mut self.outside),
            _ => None,
        }
    }

    /// Takes the deadline of an open connection out at once, if it has one.
    pub(super) fn stop_deadline(&mut self, id: ConnId) {
        self.wheel.disarm(TimerId::deadline(id).name());
    }

    /// Takes both timers of a connection out.
    pub(super) fn stop_both(&mut self, id: ConnId) {
        self.stop_deadline(id);
        self.wheel.disarm(TimerId::guard(id).name());
    }

    /// Arms a timer of a connection that is there, anew if it is armed, or stops it.
    #[inline(always)]
    fn set_of_conn(&mut self, timer: TimerId, after: Option<Duration>, now: Instant) {
        match after {
            Some(after) => self.arm(timer, after, now),
            None => drop(self.wheel.disarm(timer.name())),
        }
    }

    /// The same for a timer that is no connection's.
    fn set(&mut self, timer: &mut Option<TimerId>, key: TimerKey, after: Option<Duration>, now: Instant) {
        let Some(after) = after else { return self.stop(timer) };
        let id = *timer.get_or_insert_with(|| TimerId::of(&Owner::House(self.house.insert(key))));
        self.arm(id, after, now);
    }

    /// Inlined by force, as its arguments go over the stack otherwise.
    #[inline(always)]
    fn arm(&mut self, timer: TimerId, after: Duration, now: Instant) {
        if after.is_zero() {
            self.wheel.arm_due(timer.name());
        } else {
            self.wheel.arm_after(timer.name(), now, after);
        }
    }
}

impl Conns {
    /// A turn begins.
    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
        if self.timers.idle {
            self.timers.hearing = self.timers.heard(now);
        }
    }

    /// The end of a phase: grants what was wished. The clock is read only if something was.
    pub(super) fn settle_timers(&mut self) {
        if self.timers.wishes.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut wishes = std::mem::take(&mut self.timers.wishes);
        for (key, after) in wishes.drain(..) {
            match key {
                TimerKey::Deadline(id) => self.grant_deadline(id, after, now),
                key => self.grant(key, after, now),
            }
        }
        self.timers.wishes = wishes;
    }

    /// Keeps the deadline of a connection from firing in this batch; a wish for it follows. Between batches nothing fires,
    /// and the wish gives it its new time where it is.
    #[inline]
    pub(super) fn hold_back(&mut self, id: ConnId) {
        if self.timers.firing && self.slots.at(id).is_some_and(|conn| conn.phase <= Phase::Open) {
            self.timers.stop_deadline(id);
        }
    }

    /// Sets the timer of `key` for a time that is known.
    pub(super) fn grant_at(&mut self, key: TimerKey, at: Instant) {
        self.grant(key, Some(at.saturating_duration_since(self.now)), self.now);
    }

    #[inline(always)]
    fn grant_deadline(&mut self, id: ConnId, after: Option<Duration>, now: Instant) {
        if self.slots.at(id).is_some_and(|conn| conn.phase <= Phase::Open) {
            self.timers.set_of_conn(TimerId::deadline(id), after, now);
        }
    }

    fn grant(&mut self, key: TimerKey, after: Option<Duration>, now: Instant) {
        let timers = &mut self.timers;
        let place = match key {
            TimerKey::Deadline(id) => return self.grant_deadline(id, after, now),
            TimerKey::Guard(id) => {
                if self.slots.at(id).is_some_and(|conn| conn.phase != Phase::Gone) {
                    timers.set_of_conn(TimerId::guard(id), after, now);
                }
                return;
            }
            TimerKey::Server(key) => {
                let mut timer = timers.server.remove(&key);
                timers.set(&mut timer, TimerKey::Server(key), after, now);
                timers.server.extend(timer.map(|id| (key, id)));
                return;
            }
            TimerKey::Door(door) => match self.doors.get_mut(door) {
                Some(door) => &mut door.timer,
                None => return,
            },
            key => return timers.set_own(key, after, now),
        };
        timers.set(place, key, after, now);
    }

    /// Takes the next timer that is due out of the wheel.
    pub(super) fn pop_due(&mut self) -> Option<TimerKey> {
        loop {
            let found = match Owner::of(self.timers.wheel.pop_due()?) {
                Owner::Deadline(slot) => self.slots.in_slot(slot).map(|(id, _)| TimerKey::Deadline(id)),
                Owner::Guard(slot) => self.slots.in_slot(slot).map(|(id, _)| TimerKey::Guard(id)),
                Owner::House(place) => {
                    self.timers.house.try_remove(place).inspect(|key| self.house_fired(*key))
                }
            };
            debug_assert!(found.is_some(), "a timer goes before its owner");
            if found.is_some() {
                return found;
            }
        }
    }

    fn house_fired(&mut self, key: TimerKey) {
        match key {
            TimerKey::Server(key) => _ = self.timers.server.remove(&key),
            TimerKey::Door(door) => {
                if let Some(door) = self.doors.get_mut(door) {
                    door.timer = None;
                }
            }
            key => {
                if let Some(own) = self.timers.own(key) {
                    *own = None;
                }
            }
        }
    }

    /// Makes sure that a sweep comes while somebody may have lost an edge.
    pub(super) fn want_sweep(&mut self) {
        if self.timers.sweep.is_none() {
            self.timers.wish(TimerKey::Sweep, Some(SWEEP));
        }
    }

    /// Arms the guard of an open connection for the first of its idle, line and rate times, if it has any.
    pub(super) fn guard_open(&mut self, id: ConnId) {
        let limits = &self.limits;
        let Some(conn) = self.slots.at_mut(id) else { return };
        let heard = self.timers.when(conn.heard, self.now);
        let idle = heard.zip(limits.idle_time).map(|(heard, idle)| heard + idle);
        let line = match (limits.line_time, &conn.rare) {
            (Some(line), Some(rare)) => rare.line_began.map(|began| began + line),
            _ => None,
        };
        let throttled = conn.rare.as_ref().and_then(|rare| rare.throttled);
        if let Some(at) = [idle, line, throttled].into_iter().flatten().min() {
            let after = at.saturating_duration_since(self.now);
            self.timers.wish(TimerKey::Guard(id), Some(after));
        }
    }

    /// The guard of a connection is due: what that means depends on where it stands.
    pub(super) fn guard_due(&mut self, id: ConnId) {
        let Some(conn) = self.slots.at_mut(id) else { return };
        match conn.phase {
            Phase::Opening => self.connect_attempt_failed(id, std::io::ErrorKind::TimedOut.into()),
            Phase::Open => self.open_guard_due(id),
            Phase::Draining => {
                log::info!(
                    target: crate::logging::CLIENTS,
                    "connection {id}: cut with {} bytes unsent after the drain time",
                    conn.output_len()
                );
                self.cut(id, CloseReason::Asked);
            }
            Phase::Lingering => self.cut(id, CloseReason::Asked),
            Phase::Gone => {}
        }
    }

    fn open_guard_due(&mut self, id: ConnId) {
        let (now, idle, line) = (self.now, self.limits.idle_time, self.limits.line_time);
        let Some(conn) = self.slots.at_mut(id) else { return };
        if let Some(rare) = conn.rare.as_mut().filter(|rare| rare.throttled.is_some_and(|until| until <= now))
        {
            rare.throttled = None;
            conn.clear(Flag::THROTTLED);
            conn.set(Flag::AGAIN);
            self.lists.ready(id, conn);
        }
        // What is here but not read yet is no silence: the turn's budget held it back, not the peer.
        if waits_for_us(conn) {
            if conn.heard != Heard::NEVER {
                conn.heard = self.timers.hearing;
            }
            if let Some(rare) = conn.rare.as_mut() {
                rare.line_began = rare.line_began.and(Some(now));
            }
        } else {
            let line_began = conn.rare.as_ref().and_then(|rare| rare.line_began);
            if due(line_began, line, now) {
                return self.close_because(id, CloseReason::LineDeadline);
            }
            if due(self.timers.when(conn.heard, now), idle, now) {
                return self.close_because(id, CloseReason::Idle);
            }
        }
        self.guard_open(id);
    }
}

/// A choked connection with nothing to read is silent: it is the peer that does not take its answers.
fn waits_for_us(conn: &Conn) -> bool {
    conn.is(Flag::READABLE.or(Flag::AGAIN).or(Flag::PAUSED).or(Flag::THROTTLED))
}

fn due(since: Option<Instant>, limit: Option<Duration>, now: Instant) -> bool {
    matches!((since, limit), (Some(since), Some(limit)) if now >= since + limit)
}

/// Slots whose timers stand together, their names and the one of the table.
const SLOTS: usize = 8;
const NAMES: usize = 2 * SLOTS + 1;
/// The last name of each row is the table's.
const HOUSE: usize = NAMES - 1;
const NANOS_PER_MILLI: u32 = 1_000_000;
/// So much later than `now` a [`Heard`] may be.
const LATER: u32 = 1 << 16;
/// Between two looks for a lost edge.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timer_has_a_name_of_its_own_and_they_are_dense() {
        let mut names = Vec::new();
        for at in 0..1000 {
            for owner in [Owner::Deadline(at), Owner::Guard(at), Owner::House(at / SLOTS)] {
                let name = TimerId::of(&owner).name();
                let same = match (owner, Owner::of(name)) {
                    (Owner::Deadline(a), Owner::Deadline(b))
                    | (Owner::Guard(a), Owner::Guard(b))
                    | (Owner::House(a), Owner::House(b)) => a == b,
                    _ => false,
                };
                assert!(same, "{at}");
                names.push(name);
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, Vec::from_iter(0..1000 / 8 * 17));
    }

    #[test]
    fn a_connection_was_never_heard_of_earlier_than_it_was_and_at_most_a_unit_later() {
        let (start, milli) = (Instant::now(), Duration::from_millis(1));
        let day = Duration::from_secs(86_400);
        for (idle, unit) in [(day, milli), (day * 3660, Duration::from_secs(1))] {
            let timers = Timers::new(start, Some(idle));
            // The range of a `u32` ends after 49.7 days.
            for begin in [Duration::ZERO, day * 49, milli * u32::MAX - milli, milli * u32::MAX, day * 1000] {
                for nanos in [0, 1, 999_999, 1_000_000, 1_000_001, 2_000_000] {
                    let at = start + begin + Duration::from_nanos(nanos);
                    let heard = timers.heard(at);
                    assert_ne!(heard, Heard::NEVER);
                    for passed in [Duration::ZERO, Duration::from_nanos(1), unit, day, idle, idle + unit * 9]
                    {
                        let when = timers.when(heard, at + passed).unwrap();
                        assert!(when >= at && when - at < 2 * unit, "{begin:?} {nanos} {passed:?}");
                    }
                    assert!(
                        timers.when(heard, at - Duration::from_nanos(nanos.min(1))).unwrap() >= at - unit
                    );
                }
            }
            assert_eq!(timers.when(Heard::NEVER, start + day), None);
        }
    }
}
