//! A timer wheel: many deadlines at 1 ms, each operation a few nanoseconds, and an exact answer to "when do I wake?".
//!
//! *Near* deadlines (less than about a minute ahead of the last [`Wheel::collect`]) hash into a table of one list per
//! millisecond. *Far* deadlines, up to 4½ hours, hash into a ring of buckets of 1,024 ms that know their earliest; a
//! bucket is dealt into the table when time has come near it, once in the life of a timer and without a wake-up, with what
//! an expiry leaves of its budget.
//! *Remote* ones wait in a sorted map. Bitmaps lead to the first list in use, so that neither the search for the next
//! deadline nor a clock that jumped walks the empty ones. A timer is a node of 12 bytes in one flat array, at the place
//! that its name says, linked by `u32`.
//!
//! Invariant: every tick in the table is before `near_end`, every tick in a bucket is not and is before every remote
//! one. So the lists of a bucket's ticks are empty when it is dealt, and the order of arming is kept.
//!
//! Time is an argument, nobody here reads a clock. Deadlines are rounded up to the millisecond and `now` down, so that a
//! timer is never early and at most 1 ms late. Expiry has two steps, collect and pop, so that a timer which is armed again
//! at once waits for the next round and cannot starve anybody.

mod marks;
mod nodes;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use marks::{MARKS, Marks};
use nodes::{DUE, LINK, Nodes, Place};

/// Any number of deadlines, each under a name: a small number of the caller's choice, as the slot of a connection.
///
/// | operation | cost |
/// |---|---|
/// | `arm`, `disarm` up to 4½ hours ahead | O(1), a few cache lines |
/// | the same beyond | O(log *n*), *n*: timers that far ahead |
/// | `next` | O(1) |
/// | `collect` | O(1) for each timer it moves, and once in the life of a far timer; nothing for time passed |
///
/// What `collect` does for far timers is bounded by its budget too, but for whole seconds: it deals with those of one second
/// at once. After a long sleep the rest follows in the next calls, or at the latest when their second has come.
///
/// Memory: nothing until the first timer; then 12 bytes for each name from 0 to the highest used, and 1 MiB for the lists, of
/// which pages never used stay untouched. Timers beyond 4½ hours take about 30 bytes more each.
///
/// ```
/// use lineplex::wheel::Wheel;
/// use std::time::{Duration, Instant};
///
/// let (idle, tick) = (0, 1);
/// let start = Instant::now();
/// let mut wheel = Wheel::new(start);
/// wheel.arm(idle, start + Duration::from_secs(300));
/// wheel.arm(tick, start + Duration::from_millis(20));
/// assert_eq!(wheel.next(), Some(start + Duration::from_millis(20)));
///
/// let now = start + Duration::from_millis(25);
/// assert!(!wheel.collect(now, 1000), "no more are due than could be taken");
/// while let Some(name) = wheel.pop_due() {
///     assert_eq!(name, tick);
///     wheel.arm(idle, now + Duration::from_secs(300));
/// }
/// assert!(wheel.disarm(idle));
/// assert_eq!(wheel.next(), None);
/// ```
pub struct Wheel {
    /// Tick 0.
    start: Instant,
    /// Every timer that is not collected is due at this tick or later; grows only, and never beyond a `now`.
    cursor: u64,
    /// Where the buckets begin: up to [`TABLE_TICKS`] after the bucket of the cursor, and after the cursor.
    near_end: u64,
    /// Timers armed, those collected included.
    len: usize,
    nodes: Nodes,
    /// Ticks with timers in the table.
    near: Marks,
    far: Far,
    /// By tick, and by turn among those of the same tick.
    remote: BTreeMap<(u64, u32), u32>,
    /// The last time that was given, and how long after `start` that is: many are given the same.
    now: Instant,
    age: Duration,
}

impl Wheel {
    /// An empty wheel that allocates nothing yet. `start` is the earliest time it can tell from others: now, or before.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            cursor: 0,
            near_end: TABLE_TICKS,
            len: 0,
            nodes: Nodes::new(),
            near: Marks::new(),
            far: Far { buckets: Vec::new(), marks: Marks::new() },
            remote: BTreeMap::new(),
            now: start,
            age: Duration::ZERO,
        }
    }

    /// Arms the timer of that name for `at`, rounded up to the millisecond; one that is armed gets the new deadline,
    /// earlier or later, as if it had been disarmed before.
    ///
    /// A deadline already in the past is due at the next `collect`; it queues behind the timers of the millisecond which
    /// the last `collect` reached. One beyond the range of `Instant` never comes.
    ///
    /// # Panics
    /// If `name` is 2²⁸ or more.
    #[inline]
    pub fn arm(&mut self, name: u32, at: Instant) {
        self.arm_at(name, self.tick_after(at));
    }

    /// Arms the timer of that name for `after` from `now`: [`arm`](Self::arm) at `now + after`, a few nanoseconds faster.
    ///
    /// # Panics
    /// If `name` is 2²⁸ or more.
    #[inline]
    pub fn arm_after(&mut self, name: u32, now: Instant, after: Duration) {
        if now == self.now {
            self.arm_at(name, self.ticks_after(after));
        } else {
            self.arm_after_new(name, now, after);
        }
    }

    /// Arms the timer of that name to be due at the next `collect`, whatever `now` is there; as `arm` with a deadline in the
    /// past.
    ///
    /// # Panics
    /// If `name` is 2²⁸ or more.
    pub fn arm_due(&mut self, name: u32) {
        self.arm_at(name, self.cursor);
    }

    /// Disarms the timer of that name, collected or not. False, and nothing done, if it is not armed.
    #[inline]
    pub fn disarm(&mut self, name: u32) -> bool {
        let link = link_of(name);
        match self.nodes.place(link) {
            Some(Place::NEAR) => self.unlink_near(link),
            Some(Place::NONE) | None => return false,
            Some(place) => self.unlink_other(link, place),
        }
        self.nodes.end(link);
        self.len -= 1;
        true
    }

    /// When the timer of that name is due, rounded up to the millisecond; `None` if it is not armed. One that was collected
    /// and not yet popped is due now.
    #[must_use]
    pub fn deadline(&self, name: u32) -> Option<Instant> {
        let link = link_of(name);
        let tick = match self.nodes.place(link)? {
            Place::NEAR | Place::FAR => self.tick(link),
            Place::REMOTE => self.nodes.remote(link).0,
            Place::DUE => self.cursor,
            _ => return None,
        };
        self.start.checked_add(Duration::from_millis(tick))
    }

    /// The time that it counts its milliseconds from.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// When to call `collect` next; `None`: nothing is armed.
    ///
    /// At most 1 ms after the earliest deadline. In the past if some timer is due already, which includes those collected
    /// and not popped.
    ///
    /// Never too early, with one exception: when no timer is near, which are those of the next minute as a rule, and the
    /// earliest of more than 32 far timers of the same second is disarmed, that second keeps the earlier wake-up (to look
    /// through them all each time would not be O(1)). Such a wake-up finds nothing due, and comes at most once for each such second.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let near = if self.has_due() { Some(self.cursor) } else { self.first_near() };
        let tick = match near.or_else(|| self.far.first(self.near_end).map(|(_, min)| min)) {
            Some(tick) => tick,
            None => self.remote.first_key_value()?.0.0,
        };
        self.start.checked_add(Duration::from_millis(tick))
    }

    /// Step one of expiry: moves at most `budget` timers due at `now` to the due list, for [`Wheel::pop_due`].
    ///
    /// Earliest deadline first, and within one millisecond in the order in which they were armed. True if more are due,
    /// so with a budget of 0 it only asks. Costs next to nothing when nothing is due, and should be called once a turn
    /// even then: it is how the wheel learns the time. A clock that stood still or jumped costs no more for it; one that
    /// went back is taken to have stood.
    pub fn collect(&mut self, now: Instant, budget: usize) -> bool {
        self.learn(now);
        let now = ticks(self.age.as_secs(), self.age.subsec_nanos()).max(self.cursor);
        let mut left = budget;
        while self.advance(now) {
            if left == 0 {
                return true;
            }
            let (moved, all) = self.nodes.collect(head_of(self.cursor), left);
            left -= moved;
            if all {
                self.near.clear(slot_of(self.cursor));
            }
        }
        if self.table_end() > self.near_end {
            self.come_near(left);
        }
        false
    }

    /// Step two: disarms the first timer of the due list and gives its name.
    ///
    /// One which was disarmed or armed again since `collect`, by the work for an earlier one, does not come. A timer armed
    /// since then waits for the next `collect`, even if it is due.
    #[inline]
    pub fn pop_due(&mut self) -> Option<u32> {
        let link = self.nodes.pop(DUE)?;
        self.len -= 1;
        Some(link - TIMERS)
    }

    /// How many timers are armed, those collected and not popped included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn arm_at(&mut self, name: u32, tick: u64) {
        let (link, tick) = (link_of(name), tick.max(self.cursor));
        match self.nodes.place(link) {
            Some(Place::NEAR) => self.unlink_near(link),
            Some(Place::NONE) => self.len += 1,
            place => return self.arm_other(link, tick, place),
        }
        self.link(link, tick);
    }

    /// Not inlined, as all here that is rare or long: the common path then needs no stack.
    #[inline(never)]
    fn arm_other(&mut self, link: u32, tick: u64, place: Option<Place>) {
        if let Some(place) = place {
            self.unlink_other(link, place);
        } else {
            self.nodes.grow(link);
            self.len += 1;
        }
        self.link(link, tick);
    }

    #[cold]
    fn arm_after_new(&mut self, name: u32, now: Instant, after: Duration) {
        self.learn(now);
        self.arm_at(name, self.ticks_after(after));
    }

    fn learn(&mut self, now: Instant) {
        (self.now, self.age) = (now, now.saturating_duration_since(self.start));
    }

    /// The first tick that is not before `now` and `after`.
    #[inline]
    fn ticks_after(&self, after: Duration) -> u64 {
        let secs = self.age.as_secs() + after.as_secs().min(SECS_MAX);
        ticks(secs, self.age.subsec_nanos() + after.subsec_nanos() + (NANOS_PER_TICK - 1))
    }

    /// Puts a node that is linked nowhere behind the others of its tick.
    #[inline]
    fn link(&mut self, link: u32, tick: u64) {
        if tick >= self.near_end {
            self.link_far(link, tick);
        } else if self.nodes.push(head_of(tick), link, tick, Place::NEAR) {
            self.near.set(slot_of(tick));
        }
    }

    #[inline(never)]
    fn link_far(&mut self, link: u32, tick: u64) {
        if tick - self.near_end < RING_TICKS {
            self.far.push(&mut self.nodes, link, tick);
        } else {
            self.link_remote(link, tick);
        }
    }

    #[cold]
    fn link_remote(&mut self, link: u32, tick: u64) {
        let last = self.remote.range((tick, 0)..=(tick, LINK)).next_back();
        let turn = last.map_or(0, |(&(_, turn), _)| turn + 1);
        self.nodes.set_remote(link, tick, turn);
        self.remote.insert((tick, turn), link);
    }

    /// Takes a node out of its list. It is to be written next.
    #[inline]
    fn unlink_near(&mut self, link: u32) {
        if let Some(head) = self.nodes.unlink(link) {
            self.near.clear((head - NEAR) as usize);
        }
    }

    /// The same for one that is armed, but not near.
    #[inline]
    fn unlink_other(&mut self, link: u32, place: Place) {
        match place {
            Place::FAR => self.far.unlink(&mut self.nodes, link),
            Place::REMOTE => _ = self.remote.remove(&self.nodes.remote(link)),
            _ => _ = self.nodes.unlink(link),
        }
    }

    /// Moves the cursor to the first tick with due timers, all of them in the table then, or else to `now`.
    fn advance(&mut self, now: u64) -> bool {
        loop {
            let near = self.first_near();
            let first = near.or_else(|| self.first_far());
            self.cursor = first.map_or(now, |tick| tick.min(now));
            if first != Some(self.cursor) {
                return false;
            }
            if near.is_some() {
                return true;
            }
            self.come_near(0);
        }
    }

    fn has_due(&self) -> bool {
        self.nodes.iter(DUE).next().is_some()
    }

    /// The first tick with timers in the table.
    fn first_near(&self) -> Option<u64> {
        let from = slot_of(self.cursor);
        let slot = self.near.first(from)?;
        Some(self.cursor + (slot.wrapping_sub(from) as u64) % TABLE_TICKS)
    }

    /// No far or remote timer is due before: the beginning of the first bucket, or the first tick of the map.
    fn first_far(&self) -> Option<u64> {
        match self.far.first(self.near_end) {
            Some((begin, _)) => Some(begin),
            None => self.remote.first_key_value().map(|(&(tick, _), _)| tick),
        }
    }

    /// How far the table can reach.
    fn table_end(&self) -> u64 {
        self.cursor - self.cursor % BUCKET_TICKS + TABLE_TICKS
    }

    /// Moves the end of the table on: deals the bucket that begins at the cursor and, until about `budget` timers are
    /// dealt, those after it; takes out of the map what the ring has room for now.
    #[cold]
    fn come_near(&mut self, budget: usize) {
        let (table_end, mut dealt) = (self.table_end(), 0);
        while self.near_end < table_end {
            let begin = self.far.first(self.near_end).map_or(table_end, |(begin, _)| begin.min(table_end));
            self.near_end = begin;
            if begin == table_end || begin > self.cursor && dealt >= budget {
                break;
            }
            self.near_end += BUCKET_TICKS;
            while let Some(link) = self.nodes.pop(bucket_head(begin)) {
                self.link(link, self.tick(link));
                dealt += 1;
            }
            self.far.empty(begin);
        }
        let ring_end = self.near_end + RING_TICKS;
        while let Some(entry) = self.remote.first_entry().filter(|entry| entry.key().0 < ring_end) {
            let ((tick, _), link) = entry.remove_entry();
            self.link(link, tick);
        }
    }

    /// The tick of a near or far node, which has the low half of it: it is less than 2³² after the cursor.
    fn tick(&self, link: u32) -> u64 {
        self.cursor + u64::from(self.nodes.tick(link).wrapping_sub(nodes::low(self.cursor)))
    }

    /// The first tick that is not before `at`.
    fn tick_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        ticks(since.as_secs(), since.subsec_nanos() + (NANOS_PER_TICK - 1))
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("len", &self.len).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

#[inline]
fn ticks(secs: u64, nanos: u32) -> u64 {
    secs.min(SECS_MAX) * TICKS_PER_SEC + u64::from(nanos / NANOS_PER_TICK)
}

/// What is known of the timers of one stretch of [`BUCKET_TICKS`].
#[derive(Clone, Copy, Default)]
struct Bucket {
    len: u32,
    /// No timer here is due before, counted from the beginning of the stretch; one is due exactly then unless
    /// `min_is_stale`.
    min: u16,
    min_is_stale: bool,
}

/// The ring of buckets.
struct Far {
    /// As many as were ever in use.
    buckets: Vec<Bucket>,
    /// Buckets in use.
    marks: Marks,
}

impl Far {
    fn push(&mut self, nodes: &mut Nodes, link: u32, tick: u64) {
        let (at, offset) = (bucket_of(tick), offset_of(tick));
        let Some(bucket) = self.buckets.get_mut(at) else { return self.push_first(nodes, link, tick) };
        let first = nodes.push(bucket_head(tick), link, tick, Place::FAR);
        if first {
            self.marks.set(at);
        }
        if first || offset <= bucket.min {
            (bucket.min, bucket.min_is_stale) = (offset, false);
        }
        bucket.len += 1;
    }

    #[cold]
    fn push_first(&mut self, nodes: &mut Nodes, link: u32, tick: u64) {
        self.buckets.resize(bucket_of(tick) + 1, Bucket::default());
        self.push(nodes, link, tick);
    }

    fn unlink(&mut self, nodes: &mut Nodes, link: u32) {
        let tick = nodes.tick(link).into();
        let at = bucket_of(tick);
        let bucket = &mut self.buckets[at];
        bucket.len -= 1;
        bucket.min_is_stale |= offset_of(tick) == bucket.min;
        if nodes.unlink(link).is_some() {
            self.marks.clear(at);
        } else if bucket.min_is_stale && bucket.len <= RESCAN_MAX {
            let offsets = nodes.iter(bucket_head(tick)).map(|link| offset_of(nodes.tick(link).into()));
            (bucket.min, bucket.min_is_stale) = (offsets.min().unwrap_or(0), false);
        }
    }

    /// The bucket that begins with that tick has no timers any more.
    fn empty(&mut self, begin: u64) {
        let at = bucket_of(begin);
        self.buckets[at] = Bucket::default();
        self.marks.clear(at);
    }

    /// The first tick of the first bucket in use, and its `min` as a tick, when the buckets begin at `near_end`.
    fn first(&self, near_end: u64) -> Option<(u64, u64)> {
        let from = bucket_of(near_end);
        let at = self.marks.first(from)?;
        let begin = near_end + (at.wrapping_sub(from) % BUCKETS) as u64 * BUCKET_TICKS;
        Some((begin, begin + u64::from(self.buckets[at].min)))
    }
}

#[inline]
fn slot_of(tick: u64) -> usize {
    (tick % TABLE_TICKS) as usize
}

#[inline]
fn head_of(tick: u64) -> u32 {
    NEAR + slot_of(tick) as u32
}

fn bucket_of(tick: u64) -> usize {
    (tick / BUCKET_TICKS) as usize % BUCKETS
}

fn bucket_head(tick: u64) -> u32 {
    FAR + bucket_of(tick) as u32
}

fn offset_of(tick: u64) -> u16 {
    (tick % BUCKET_TICKS) as u16
}

#[inline]
fn link_of(name: u32) -> u32 {
    name.saturating_add(TIMERS)
}

/// Ticks of the table; a tick is 1 ms. Divides 2³², as do the ticks of the ring: the low half of a tick tells its list.
const TABLE_TICKS: u64 = 65_536;
/// Ticks of a bucket of far timers: about a second, so that few are dealt at a time. Divides `TABLE_TICKS`.
const BUCKET_TICKS: u64 = 1_024;
/// Buckets of the ring.
const BUCKETS: usize = 16_384;
const RING_TICKS: u64 = BUCKETS as u64 * BUCKET_TICKS;
const _: () = assert!(TABLE_TICKS as usize <= MARKS && BUCKETS <= MARKS);
/// Where the heads of the ticks, the heads of the buckets and the timers begin in the array of nodes.
const NEAR: u32 = DUE + 1;
const FAR: u32 = NEAR + TABLE_TICKS as u32;
const TIMERS: u32 = FAR + BUCKETS as u32;
/// A bucket with more timers than this is not searched for its earliest when that one goes.
const RESCAN_MAX: u32 = 32;
const NANOS_PER_TICK: u32 = 1_000_000;
const TICKS_PER_SEC: u64 = 1_000;
/// Later than any `Instant` a clock will show, and far enough from the end for the arithmetic here.
const SECS_MAX: u64 = 1 << 52;

#[cfg(test)]
mod tests;
