//! Names for connections, and the two tables that they index.
//!
//! [`Slots`] is a slab whose entries carry a generation, so that a [`ConnId`] kept after its connection is gone
//! reaches nobody. It hands out the names and holds the I/O side. [`Table`] is a plain array that follows the same
//! names and holds the client objects; it can be split into one running object and [`Others`], the rest, so that a
//! callback has its own object and can still reach everybody else's without a `RefCell`.
//!
//! Invariant: a generation is given once per insertion, counting up through all of `u32` but 0. A stale name could
//! be taken for a fresh one only if its slot were re-used after exactly a multiple of 2³² − 1 insertions.

use std::fmt;

use slab::Slab;

/// The name of one connection: its slot and the generation of the slot. `Copy`, 8 bytes; once the connection is
/// gone the name is stale and reaches nobody, even when the slot is in use again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// The slot, a small number that is re-used after the connection is gone: good for arrays, not for records.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    pub(crate) fn token(self) -> mio::Token {
        mio::Token(self.to_bits() as usize)
    }

    /// The connection that a token names; none for a token of generation 0, which the mux keeps for itself.
    pub(crate) fn of_token(token: mio::Token) -> Option<Self> {
        Self::from_bits(token.0 as u64)
    }

    /// The name as one number, for a state: it stays what it is over a handover.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The name that is that number; none if its generation is 0, which is never given.
    #[allow(clippy::cast_possible_truncation, reason = "taking the two halves apart is the purpose")]
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let generation = (bits >> 32) as u32;
        (generation != 0).then_some(Self { slot: bits as u32, generation })
    }
}

const _: () = assert!(size_of::<usize>() == 8, "lineplex keeps slot and generation in one 64-bit token");

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({}.{})", self.slot, self.generation)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// What [`Slots`] holds. It keeps the generation itself: in a pair of the two there would be padding.
pub(crate) trait Slot {
    fn generation(&self) -> u32;
    fn set_generation(&mut self, generation: u32);
}

/// A slab that gives each entry a [`ConnId`].
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slab: Slab<T>,
    last: u32,
    /// No entry is in this slot or a higher one.
    end: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slab: Slab::with_capacity(RESERVED), last: 0, end: 0 }
    }
}

impl<T: Slot> Slots<T> {
    /// Stores `value` in the slot that was freed last, or else in a new one, and names it. O(1), but for the growth of the slab.
    ///
    /// # Panics
    /// At 2³² entries at once, which no process has descriptors for.
    pub(crate) fn insert(&mut self, mut value: T) -> ConnId {
        self.last = self.last.wrapping_add(1).max(1);
        let generation = self.last;
        value.set_generation(generation);
        let slot = u32::try_from(self.slab.insert(value)).expect("fewer than 2^32 connections");
        self.end = self.end.max(slot as usize + 1);
        ConnId { slot, generation }
    }

    /// The entry of that name; none if the name is stale.
    #[inline]
    #[must_use]
    pub(crate) fn at(&self, id: ConnId) -> Option<&T> {
        self.slab.get(id.slot()).filter(|value| value.generation() == id.generation)
    }

    /// The entry of that name, to change; none if the name is stale.
    #[inline]
    pub(crate) fn at_mut(&mut self, id: ConnId) -> Option<&mut T> {
        self.slab.get_mut(id.slot()).filter(|value| value.generation() == id.generation)
    }

    /// Entries under the names that they had in another process, and the last generation given there. None if two have
    /// the same slot.
    pub(crate) fn restored(entries: Vec<(ConnId, T)>, last: u32) -> Option<Self> {
        let count = entries.len();
        let named = |(id, mut value): (ConnId, T)| {
            value.set_generation(id.generation);
            (id.slot(), value)
        };
        let slab: Slab<T> = entries.into_iter().map(named).collect();
        let end = slab.iter().last().map_or(0, |(slot, _)| slot + 1);
        (slab.len() == count).then_some(Self { slab, last, end })
    }

    /// The last generation given.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Takes the entry out and frees its slot; none if the name is stale.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        self.at(id)?;
        self.slab.try_remove(id.slot())
    }

    /// Lowers the end to what is in use. To be called after a walk up to the end, which has cost more than this can; a
    /// removal may not, since the same high slot may be used and freed again and again.
    pub(crate) fn trim(&mut self) {
        while self.end > 0 && !self.slab.contains(self.end - 1) {
            self.end -= 1;
        }
    }

    /// No slot from this one on is used: for a walk that does not hold on to the table.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// The entry in that slot, to change, with its name.
    #[inline]
    pub(crate) fn in_slot(&mut self, slot: usize) -> Option<(ConnId, &mut T)> {
        self.slab.get_mut(slot).map(|value| (name(slot, value.generation()), value))
    }

    /// Every entry with its name, in the order of the slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.slab.iter().map(|(slot, value)| (name(slot, value.generation()), value))
    }

    /// Every entry with its name, to change, in the order of the slots.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut T)> {
        self.slab.iter_mut().map(|(slot, value)| (name(slot, value.generation()), value))
    }

    /// How many entries there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is none.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

/// An array of objects that follows the names of a [`Slots`].
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Vec<Option<(u32, T)>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::with_capacity(RESERVED) }
    }
}

impl<T> Table<T> {
    /// Puts `value` where `id` points, in place of whatever was there.
    pub(crate) fn put(&mut self, id: ConnId, value: T) {
        if self.entries.len() <= id.slot() {
            self.entries.resize_with(id.slot() + 1, || None);
        }
        self.entries[id.slot()] = Some((id.generation, value));
    }

    /// Takes the object of that name out; none if there is none or the name is stale.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let entry = self.entries.get_mut(id.slot())?;
        if !matches!(entry, Some((generation, _)) if *generation == id.generation) {
            return None;
        }
        entry.take().map(|(_, value)| value)
    }

    /// The object of that name, and all the others beside it.
    #[inline]
    pub(crate) fn split(&mut self, id: ConnId) -> Option<(&mut T, Others<'_, T>)> {
        if id.slot() >= self.entries.len() {
            return None;
        }
        let (before, rest) = self.entries.split_at_mut(id.slot());
        let (entry, after) = rest.split_first_mut()?;
        match entry {
            Some((generation, value)) if *generation == id.generation => {
                Some((value, Others { before, after }))
            }
            _ => None,
        }
    }

    /// All objects, when none is running.
    pub(crate) fn all(&mut self) -> Others<'_, T> {
        Others { before: &mut self.entries, after: &mut [] }
    }
}

/// Every object of a [`Table`] but the running one.
#[derive(Debug)]
pub(crate) struct Others<'a, T> {
    before: &'a mut [Option<(u32, T)>],
    after: &'a mut [Option<(u32, T)>],
}

impl<T> Others<'_, T> {
    /// The object of that name; none if it is the running one, or the name is stale.
    #[must_use]
    pub(crate) fn at(&self, id: ConnId) -> Option<&T> {
        let entry = match id.slot().checked_sub(self.before.len()) {
            None => &self.before[id.slot()],
            Some(0) => return None,
            Some(beyond) => self.after.get(beyond - 1)?,
        };
        entry.as_ref().filter(|(generation, _)| *generation == id.generation).map(|(_, value)| value)
    }

    /// The object of that name, to change; none if it is the running one, or the name is stale.
    pub(crate) fn at_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let entry = match id.slot().checked_sub(self.before.len()) {
            None => &mut self.before[id.slot()],
            Some(0) => return None,
            Some(beyond) => self.after.get_mut(beyond - 1)?,
        };
        entry.as_mut().filter(|(generation, _)| *generation == id.generation).map(|(_, value)| value)
    }

    /// Every object with its name, in the order of the slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        let gap = self.before.len() + 1;
        let before = self.before.iter().enumerate();
        let after = self.after.iter().enumerate().map(move |(at, entry)| (at + gap, entry));
        before
            .chain(after)
            .filter_map(|(slot, entry)| entry.as_ref().map(|(g, value)| (name(slot, *g), value)))
    }

    /// Every object with its name, to change, in the order of the slots.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut T)> {
        let gap = self.before.len() + 1;
        let before = self.before.iter_mut().enumerate();
        let after = self.after.iter_mut().enumerate().map(move |(at, entry)| (at + gap, entry));
        before
            .chain(after)
            .filter_map(|(slot, entry)| entry.as_mut().map(|(g, value)| (name(slot, *g), value)))
    }
}

/// Entries that a table has room for from the start: so many that it lies in pages of its own, which take no memory before
/// they are used and move when it grows. A small one that grows would leave a hole in the heap at each doubling.
const RESERVED: usize = 4096;

#[allow(clippy::cast_possible_truncation, reason = "insert refuses slots past u32")]
fn name(slot: usize, generation: u32) -> ConnId {
    ConnId { slot: slot as u32, generation }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A number in a slot.
    #[derive(Debug, PartialEq)]
    struct Number {
        generation: u32,
        number: usize,
    }

    impl Slot for Number {
        fn generation(&self) -> u32 {
            self.generation
        }

        fn set_generation(&mut self, generation: u32) {
            self.generation = generation;
        }
    }

    fn number(number: usize) -> Number {
        Number { generation: 0, number }
    }

    #[test]
    fn a_split_gives_the_running_object_and_everybody_else() {
        let (mut slots, mut table) = (Slots::default(), Table::default());
        let ids: Vec<_> = (0..4).map(|n| slots.insert(number(n))).collect();
        for (n, id) in ids.iter().enumerate() {
            table.put(*id, n);
        }
        let (running, mut others) = table.split(ids[1]).unwrap();
        *running = 10;
        assert_eq!(others.at(ids[1]), None, "the running object is not among the others");
        assert_eq!(others.at_mut(ids[1]), None);
        assert_eq!((others.at(ids[0]), others.at(ids[3])), (Some(&0), Some(&3)));
        *others.at_mut(ids[2]).unwrap() = 20;
        assert_eq!(others.iter().collect::<Vec<_>>(), [(ids[0], &0), (ids[2], &20), (ids[3], &3)]);
        assert_eq!(table.all().iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 10, 20, 3]);
    }

    proptest! {
        #[test]
        fn a_stale_name_reaches_nobody(steps in prop::collection::vec((any::<bool>(), 0usize..50), 1..200)) {
            let (mut slots, mut table) = (Slots::default(), Table::default());
            let (mut live, mut dead) = (HashMap::new(), Vec::new());
            for (n, (add, which)) in steps.into_iter().enumerate() {
                if add || live.is_empty() {
                    let id = slots.insert(number(n));
                    table.put(id, n);
                    prop_assert!(live.insert(id, n).is_none(), "a name is given once");
                } else {
                    let id = *live.keys().nth(which % live.len()).unwrap();
                    prop_assert_eq!(slots.remove(id).map(|slot| slot.number), live.remove(&id));
                    table.remove(id);
                    dead.push(id);
                }
                for id in &dead {
                    prop_assert_eq!(slots.at(*id), None);
                    prop_assert_eq!(slots.at_mut(*id), None);
                    prop_assert_eq!(slots.remove(*id), None);
                    prop_assert!(table.split(*id).is_none());
                    prop_assert!(table.all().at(*id).is_none());
                    prop_assert_eq!(table.remove(*id), None);
                }
                for (id, n) in &live {
                    prop_assert_eq!(slots.at(*id).map(|slot| slot.number), Some(*n));
                    prop_assert!(table.all().at(*id) == Some(n));
                    prop_assert_eq!(ConnId::of_token(id.token()), Some(*id));
                }
                prop_assert_eq!(slots.len(), live.len());
                let used = live.keys().map(|id: &ConnId| id.slot() + 1).max().unwrap_or(0);
                prop_assert!(slots.end() >= used);
                if n % 8 == 0 {
                    slots.trim();
                    prop_assert_eq!(slots.end(), used);
                }
            }
        }
    }
}
