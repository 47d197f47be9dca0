//! A timer wheel: many deadlines at 1 ms, each operation a few nanoseconds, and an exact answer to "when do I wake?".
//!
//! *Near* deadlines (less than 65,536 ms ahead of the last [`Wheel::collect`]) hash into a table of one slot per
//! millisecond, a list of insertion order in each and a bitmap over all, so that neither the search for the next deadline
//! nor a clock that jumped walks the empty ones. *Far* deadlines wait in sorted buckets of 1,024 ms that know their
//! earliest, and are dealt into the table when the clock reaches their bucket, once in their life and without a wake-up.
//! A timer is a node in one flat array, linked by `u32`; freed nodes are used again.
//!
//! Time is an argument, nobody here reads a clock. Deadlines are rounded up to the millisecond and `now` down, so that a
//! timer is never early and at most 1 ms late. Expiry has two steps, collect and pop, so that a timer which is armed again
//! at once waits for the next round and cannot starve anybody.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The name of one timer in its [`Wheel`], from `insert` until it is popped or removed.
///
/// `Copy`, and `Option<TimerId>` is 4 bytes. A name is used again after its timer is gone: to use it after that is a
/// mistake of the caller, which debug builds assert where they can see it (nobody has been given the name since).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(NonZeroU32);

/// Any number of deadlines (up to 2³² − 2), each with a key of the caller's.
///
/// | operation | cost |
/// |---|---|
/// | `insert`, `rearm`, `remove` of a near timer | O(1) |
/// | the same of a far timer | O(log *b*), *b*: seconds in which some far timer is due; amortised, see [`next`](Self::next) |
/// | `next` | O(1) |
/// | `collect` | O(1) for each timer it moves, and once in the life of a far timer; nothing for time passed |
///
/// Memory: nothing until the first timer, 264 KiB with the first near one (the pages of slots never used stay untouched),
/// and 20 bytes and a key each for as many timers as there ever were at one time.
///
/// ```
/// use lineplex::wheel::Wheel;
/// use std::time::{Duration, Instant};
///
/// let start = Instant::now();
/// let mut wheel = Wheel::new(start);
/// let idle = wheel.insert(start + Duration::from_secs(300), "idle");
/// wheel.insert(start + Duration::from_millis(20), "tick");
/// assert_eq!(wheel.next(), Some(start + Duration::from_millis(20)));
///
/// let now = start + Duration::from_millis(25);
/// assert!(!wheel.collect(now, 1000), "no more are due than could be taken");
/// while let Some((_, key)) = wheel.pop_due() {
///     assert_eq!(key, "tick");
///     wheel.rearm(idle, now + Duration::from_secs(300));
/// }
/// assert_eq!(wheel.remove(idle), Some("idle"));
/// assert_eq!(wheel.next(), None);
/// ```
pub struct Wheel<K> {
    /// Tick 0.
    start: Instant,
    /// Every timer in the table or a bucket is due at this tick or later; grows only, and never beyond a `now`.
    cursor: u64,
    nodes: Nodes<K>,
    near: Near,
    /// By `tick / BUCKET_TICKS`; never an empty bucket, and each begins after `cursor`.
    far: BTreeMap<u64, Bucket>,
    /// Last node of the list of collected timers, 0 for none.
    due: u32,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel that allocates nothing yet. `start` is the earliest time it can tell from others: now, or before.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start, cursor: 0, nodes: Nodes::new(), near: Near::new(), far: BTreeMap::new(), due: 0 }
    }

    /// Arms a timer for `at`, rounded up to the millisecond.
    ///
    /// A deadline already in the past is due at the next `collect`; it queues behind the timers of the millisecond which
    /// the last `collect` reached. One beyond the range of `Instant` never comes.
    ///
    /// # Panics
    /// With 2³² − 1 timers at one time.
    pub fn insert(&mut self, at: Instant, key: K) -> TimerId {
        let id = self.nodes.alloc(key);
        self.link(id.get(), self.tick_after(at));
        TimerId(id)
    }

    /// Arms a timer that is due at the next `collect`, whatever `now` is there; as `insert` with a deadline in the past.
    ///
    /// # Panics
    /// With 2³² − 1 timers at one time.
    pub fn insert_due(&mut self, key: K) -> TimerId {
        let id = self.nodes.alloc(key);
        self.link(id.get(), self.cursor);
        TimerId(id)
    }

    /// Gives a timer a new deadline, earlier or later, under its old name; otherwise as `insert`.
    ///
    /// One that was collected and not yet popped is taken back and waits. A dead `id` is ignored (asserted in debug).
    pub fn rearm(&mut self, id: TimerId, at: Instant) {
        if self.unlink(id.0.get()) {
            self.link(id.0.get(), self.tick_after(at));
        }
    }

    /// Disarms a timer, collected or not, and gives its key back. `None` for a dead `id` (asserted in debug).
    pub fn remove(&mut self, id: TimerId) -> Option<K> {
        self.unlink(id.0.get()).then(|| self.nodes.free(id.0.get()))
    }

    /// When that timer is due, rounded up to the millisecond; `None` for a dead `id`. One that was collected and not yet
    /// popped is due now.
    #[must_use]
    pub fn deadline(&self, id: TimerId) -> Option<Instant> {
        let at = id.0.get() as usize - 1;
        let tick = match self.nodes.list.get(at)?.place {
            Place::Near(slot) => {
                self.cursor + (usize::from(slot).wrapping_sub(slot_of(self.cursor)) as u64) % SLOTS
            }
            Place::Far => self.nodes.ticks[at],
            Place::Due => self.cursor,
            Place::Free => return None,
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
    /// Never too early, with one exception: when the timers of one second, more than 32 of them and more than 64 s ahead
    /// of the last `collect`, lose their earliest, that second keeps the earlier wake-up (to look through them all each
    /// time would not be O(1)). Such a wake-up finds nothing due, and comes at most once for each such second. Within
    /// 64 s they are dealt into the table there and then, which is the amortised cost of `rearm` and `remove`.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let near = if self.due == 0 { self.near.first(self.cursor) } else { Some(self.cursor) };
        let far = self.far.first_key_value().map(|(_, bucket)| bucket.min);
        let tick = match (near, far) {
            (Some(near), Some(far)) => near.min(far),
            (near, far) => near.or(far)?,
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
        let now = self.tick_before(now).max(self.cursor);
        let mut left = budget;
        while self.advance(now) {
            if left == 0 {
                return true;
            }
            let slot = slot_of(self.cursor);
            left -= self.nodes.collect(&mut self.near.tails[slot], &mut self.due, left);
            self.near.note_removal(slot);
        }
        false
    }

    /// Step two: takes the first timer of the due list out of the wheel; its name is dead from now on.
    ///
    /// One which was removed or armed again since `collect`, by the work for an earlier one, does not come. A timer armed
    /// since then waits for the next `collect`, even if it is due.
    pub fn pop_due(&mut self) -> Option<(TimerId, K)> {
        let last = NonZeroU32::new(self.due)?;
        let first = NonZeroU32::new(self.nodes.at(last.get()).next)?;
        self.nodes.unlink(&mut self.due, first.get());
        Some((TimerId(first), self.nodes.free(first.get())))
    }

    /// How many timers there are, those collected and not popped included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len
    }

    /// Whether there is no timer at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len == 0
    }

    /// Moves the cursor to the first tick with due timers, all of them in the table then, or else to `now`.
    fn advance(&mut self, now: u64) -> bool {
        loop {
            let near = self.near.first(self.cursor);
            let reached = near.map_or(now, |tick| tick.min(now));
            match self.far.first_key_value() {
                Some((&number, _)) if number * BUCKET_TICKS <= reached => {
                    self.cursor = self.cursor.max(number * BUCKET_TICKS);
                    self.deal(number);
                }
                _ => {
                    self.cursor = reached;
                    return near == Some(reached);
                }
            }
        }
    }

    /// Puts a node whose links are free where its tick belongs, behind the others of that tick.
    fn link(&mut self, id: u32, tick: u64) {
        let tick = tick.max(self.cursor);
        if tick - self.cursor < SLOTS {
            self.nodes.at_mut(id).place = Place::near(tick);
            self.nodes.push_back(self.near.tail_for_insert(tick), id);
        } else {
            self.nodes.at_mut(id).place = Place::Far;
            self.nodes.ticks[id as usize - 1] = tick;
            let bucket = self.far.entry(tick / BUCKET_TICKS).or_default();
            if tick <= bucket.min {
                (bucket.min, bucket.min_is_stale) = (tick, false);
            }
            bucket.len += 1;
            self.nodes.push_back(&mut bucket.tail, id);
        }
    }

    /// Takes a live node out of its list, wherever that is; false, and nothing done, for a dead one.
    fn unlink(&mut self, id: u32) -> bool {
        let Some(&Node { place, .. }) = self.nodes.list.get(id as usize - 1) else {
            debug_assert!(false, "timer {id} is of another wheel");
            return false;
        };
        match place {
            Place::Near(slot) => {
                let slot = usize::from(slot);
                self.nodes.unlink(&mut self.near.tails[slot], id);
                self.near.note_removal(slot);
            }
            Place::Far => self.unlink_far(id),
            Place::Due => self.nodes.unlink(&mut self.due, id),
            Place::Free => debug_assert!(false, "timer {id} was popped or removed before"),
        }
        place != Place::Free
    }

    fn unlink_far(&mut self, id: u32) {
        let tick = self.nodes.ticks[id as usize - 1];
        let number = tick / BUCKET_TICKS;
        let Some(bucket) = self.far.get_mut(&number) else {
            debug_assert!(false, "timer {id} is far, so its bucket exists");
            return;
        };
        self.nodes.unlink(&mut bucket.tail, id);
        bucket.len -= 1;
        bucket.min_is_stale |= tick == bucket.min;
        if bucket.len == 0 {
            self.far.remove(&number);
        } else if bucket.min_is_stale && bucket.len <= RESCAN_MAX {
            bucket.min = self.nodes.earliest(bucket.tail);
            bucket.min_is_stale = false;
        } else if bucket.min_is_stale && (number + 1) * BUCKET_TICKS <= self.cursor + SLOTS {
            self.deal(number);
        }
    }

    /// Moves a bucket, all of which is within the reach of the table, there.
    ///
    /// Each node goes in front: those in the slot already were armed later, when their tick had come near.
    fn deal(&mut self, number: u64) {
        let Some(bucket) = self.far.remove(&number) else { return };
        let mut id = bucket.tail;
        while id != 0 {
            let tick = self.nodes.ticks[id as usize - 1];
            let node = self.nodes.at_mut(id);
            node.place = Place::near(tick);
            let before = node.prev;
            debug_assert!(tick >= self.cursor && tick - self.cursor < SLOTS);
            self.nodes.push_front(self.near.tail_for_insert(tick), id);
            id = before;
        }
    }

    /// The first tick that is not before `at`.
    fn tick_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        ticks(since.as_secs(), since.subsec_nanos().div_ceil(NANOS_PER_TICK))
    }

    /// The last tick that is not after `now`.
    fn tick_before(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        ticks(since.as_secs(), since.subsec_nanos() / NANOS_PER_TICK)
    }
}

impl<K> fmt::Debug for Wheel<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.nodes.len)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

fn ticks(secs: u64, millis: u32) -> u64 {
    secs.saturating_mul(1000).saturating_add(u64::from(millis)).min(TICK_MAX)
}

fn slot_of(tick: u64) -> usize {
    (tick % SLOTS) as usize
}

/// The timers due in one stretch of [`BUCKET_TICKS`], more than a rotation ahead when they were armed.
struct Bucket {
    /// Last node of the list, in the order of arming.
    tail: u32,
    len: u32,
    /// No timer here is due before; one is due exactly then unless `min_is_stale`.
    min: u64,
    min_is_stale: bool,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { tail: 0, len: 0, min: u64::MAX, min_is_stale: false }
    }
}

/// The table: one list per tick of the coming rotation, and three levels of bitmap over them.
struct Near {
    /// Last node of each slot's list, 0 for none. Empty before the first near timer.
    tails: Vec<u32>,
    /// Bit n: slot n has a list.
    words: Vec<u64>,
    /// Bit n: word n is not 0.
    groups: [u64; GROUPS],
    /// Bit n: group n is not 0.
    top: u32,
}

impl Near {
    fn new() -> Self {
        Self { tails: Vec::new(), words: Vec::new(), groups: [0; GROUPS], top: 0 }
    }

    /// The list of a tick, marked as occupied: the caller puts a node there.
    fn tail_for_insert(&mut self, tick: u64) -> &mut u32 {
        if self.tails.is_empty() {
            // Zeroed memory comes as untouched pages: a server with ten timers does not pay for 65,536 slots.
            self.tails = vec![0; SLOTS as usize];
            self.words = vec![0; GROUPS * 64];
        }
        let slot = slot_of(tick);
        let tail = &mut self.tails[slot];
        if *tail == 0 {
            self.words[slot / 64] |= 1 << (slot % 64);
            self.groups[slot / 4096] |= 1 << (slot / 64 % 64);
            self.top |= 1 << (slot / 4096);
        }
        tail
    }

    /// Keeps the bitmap true after nodes were taken from a slot.
    fn note_removal(&mut self, slot: usize) {
        if self.tails[slot] != 0 {
            return;
        }
        let (word, group) = (slot / 64, slot / 4096);
        self.words[word] &= !(1 << (slot % 64));
        if self.words[word] == 0 {
            self.groups[group] &= !(1 << (word % 64));
            if self.groups[group] == 0 {
                self.top &= !(1 << group);
            }
        }
    }

    /// The first tick with a list, in the rotation that begins at `cursor`.
    fn first(&self, cursor: u64) -> Option<u64> {
        if self.top == 0 {
            return None;
        }
        let from = slot_of(cursor);
        let slot = self.first_slot(from).or_else(|| self.first_slot(0))?;
        Some(cursor + (slot.wrapping_sub(from) as u64) % SLOTS)
    }

    /// The first slot with a list at or above `from`.
    fn first_slot(&self, from: usize) -> Option<usize> {
        let (word, group) = (from / 64, from / 4096);
        let bits = self.words[word] & (u64::MAX << (from % 64));
        if bits != 0 {
            return Some(word * 64 + bits.trailing_zeros() as usize);
        }
        let words = self.groups[group] & above(word % 64);
        if words != 0 {
            return Some(self.first_of_word(group * 64 + words.trailing_zeros() as usize));
        }
        let groups = u64::from(self.top) & above(group);
        if groups == 0 {
            return None;
        }
        let group = groups.trailing_zeros() as usize;
        Some(self.first_of_word(group * 64 + self.groups[group].trailing_zeros() as usize))
    }

    fn first_of_word(&self, word: usize) -> usize {
        word * 64 + self.words[word].trailing_zeros() as usize
    }
}

/// All bits above bit `n`, which is below 64.
fn above(n: usize) -> u64 {
    (u64::MAX << n) << 1
}

/// Where a node is linked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the table, in this slot.
    Near(u16),
    Far,
    Due,
    Free,
}

impl Place {
    fn near(tick: u64) -> Self {
        Self::Near((tick % SLOTS) as u16)
    }
}

/// The links of a timer, or of a free place for one: 12 bytes, the whole of what most operations touch. Named by its
/// position + 1, so that 0 can say "none".
#[derive(Clone, Copy)]
struct Node {
    /// The one before; 0 in the first.
    prev: u32,
    /// The one after; in the last the first, so that a list is known by its last alone. In a free node: the next free.
    next: u32,
    place: Place,
}

/// All nodes, and the lists through them.
struct Nodes<K> {
    list: Vec<Node>,
    /// Key of each node.
    keys: Vec<K>,
    /// Tick of each far node; of others a left-over.
    ticks: Vec<u64>,
    /// First free node, 0 for none.
    free: u32,
    /// Nodes not free.
    len: usize,
}

impl<K: Copy> Nodes<K> {
    fn new() -> Self {
        Self { list: Vec::new(), keys: Vec::new(), ticks: Vec::new(), free: 0, len: 0 }
    }

    /// A node with this key, to be linked by the caller.
    fn alloc(&mut self, key: K) -> NonZeroU32 {
        self.len += 1;
        if let Some(id) = NonZeroU32::new(self.free) {
            self.keys[id.get() as usize - 1] = key;
            self.free = self.at(id.get()).next;
            return id;
        }
        self.list.push(Node { prev: 0, next: 0, place: Place::Free });
        self.keys.push(key);
        self.ticks.push(0);
        let id = u32::try_from(self.list.len()).ok().and_then(NonZeroU32::new);
        // Memory for so many does not exist; the list is not empty.
        id.expect("fewer than 2^32 timers")
    }

    /// Ends a node that is in no list.
    fn free(&mut self, id: u32) -> K {
        let next = std::mem::replace(&mut self.free, id);
        self.len -= 1;
        let node = self.at_mut(id);
        (node.place, node.next) = (Place::Free, next);
        self.keys[id as usize - 1]
    }

    #[inline]
    fn at(&self, id: u32) -> &Node {
        &self.list[id as usize - 1]
    }

    #[inline]
    fn at_mut(&mut self, id: u32) -> &mut Node {
        &mut self.list[id as usize - 1]
    }

    #[inline]
    fn push_back(&mut self, tail: &mut u32, id: u32) {
        let last = std::mem::replace(tail, id);
        let first = if last == 0 { id } else { std::mem::replace(&mut self.at_mut(last).next, id) };
        let node = self.at_mut(id);
        (node.prev, node.next) = (last, first);
    }

    #[inline]
    fn push_front(&mut self, tail: &mut u32, id: u32) {
        if *tail == 0 {
            return self.push_back(tail, id);
        }
        let first = std::mem::replace(&mut self.at_mut(*tail).next, id);
        self.at_mut(first).prev = id;
        let node = self.at_mut(id);
        (node.prev, node.next) = (0, first);
    }

    #[inline]
    fn unlink(&mut self, tail: &mut u32, id: u32) {
        let &Node { prev, next, .. } = self.at(id);
        let last = *tail;
        if prev != 0 {
            self.at_mut(prev).next = next;
        } else if last != id {
            self.at_mut(last).next = next;
        }
        if last == id {
            *tail = prev;
        } else {
            self.at_mut(next).prev = prev;
        }
    }

    /// Moves up to `max` nodes, at least 1, from the front of one list to the end of the due list; says how many.
    fn collect(&mut self, from: &mut u32, due: &mut u32, max: usize) -> usize {
        let (tail, due_tail) = (*from, *due);
        let first = self.at(tail).next;
        let (mut last, mut moved) = (first, 1);
        self.at_mut(first).place = Place::Due;
        while last != tail && moved < max {
            last = self.at(last).next;
            self.at_mut(last).place = Place::Due;
            moved += 1;
        }
        if last == tail {
            *from = 0;
        } else {
            let rest = self.at(last).next;
            self.at_mut(tail).next = rest;
            self.at_mut(rest).prev = 0;
        }
        self.at_mut(first).prev = due_tail;
        let due_first =
            if due_tail == 0 { first } else { std::mem::replace(&mut self.at_mut(due_tail).next, first) };
        self.at_mut(last).next = due_first;
        *due = last;
        moved
    }

    /// The lowest tick in a list that is not empty.
    fn earliest(&self, tail: u32) -> u64 {
        let mut id = tail;
        let mut tick = u64::MAX;
        while id != 0 {
            tick = tick.min(self.ticks[id as usize - 1]);
            id = self.at(id).prev;
        }
        tick
    }
}

/// Ticks of one rotation; a tick is 1 ms. A power of two.
const SLOTS: u64 = 65_536;
/// Groups of 64 words of 64 slots.
const GROUPS: usize = (SLOTS / 64 / 64) as usize;
/// Ticks of a bucket of far timers: about a second, so that few are dealt at a time. Divides `SLOTS`.
const BUCKET_TICKS: u64 = 1_024;
/// A bucket with more timers than this is not searched for its earliest when that one goes.
const RESCAN_MAX: u32 = 32;
const NANOS_PER_TICK: u32 = 1_000_000;
/// Later than any `Instant` a clock will show, and far enough from the end for the arithmetic here.
const TICK_MAX: u64 = 1 << 62;

#[cfg(test)]
mod tests;
