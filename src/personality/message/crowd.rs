//! A crowd of logins under way: how many there may be, and in which order their passwords are checked.
//!
//! Values only. Both questions are answered by where a login comes from, so that nobody who opens many connections can keep
//! others out: not by taking all places ([`Places`]), and not by standing in front of everybody ([`Line`]).

use std::collections::{BTreeMap, HashMap};

use super::penalties::Source;
use crate::ConnId;

/// Places for logins under way. A source may have as many of them as are left: so one alone gets half of them, two get a third
/// each, and however many there are, the last place is never taken by one who has others (Choudhury and Hahne, "Dynamic
/// queue length thresholds for shared-memory packet switches").
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: usize,
    /// By each source that has any.
    by: HashMap<Source, usize>,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: 0, by: HashMap::new() }
    }

    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Takes one for a login from there; false if it gets none.
    pub(super) fn take(&mut self, source: Source) -> bool {
        let left = self.most.saturating_sub(self.taken);
        let own = self.by.get(&source).copied().unwrap_or(0);
        if own >= left {
            return false;
        }
        self.taken += 1;
        self.by.insert(source, own + 1);
        true
    }

    /// Gives one back that was taken.
    pub(super) fn give_back(&mut self, source: Source) {
        let Some(own) = self.by.get_mut(&source) else { return };
        *own -= 1;
        if *own == 0 {
            self.by.remove(&source);
        }
        self.taken -= 1;
    }
}

/// Who waits for the check of a password. It is served in rounds, in each of which every source has one turn, those who came
/// first before the others.
#[derive(Debug, Default)]
pub(super) struct Line {
    order: BTreeMap<Turn, ConnId>,
    /// The same by connection.
    waiting: HashMap<ConnId, (Turn, Source)>,
    /// Of each source that waits: the round of its last, and how many they are.
    sources: HashMap<Source, (u64, usize)>,
    /// The round that is being served.
    round: u64,
    /// Numbers given so far.
    numbers: u64,
}

/// When somebody is served: in which round, and as which of those who came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    round: u64,
    number: u64,
}

impl Line {
    /// Joins, unless it is there already.
    pub(super) fn join(&mut self, id: ConnId, source: Source) {
        if self.waiting.contains_key(&id) {
            return;
        }
        let round = self.round;
        let (last, count) = match self.sources.get(&source) {
            Some((last, count)) => (round.max(last + 1), count + 1),
            None => (round, 1),
        };
        self.sources.insert(source, (last, count));
        let turn = Turn { round: last, number: self.numbers };
        self.numbers += 1;
        self.order.insert(turn, id);
        self.waiting.insert(id, (turn, source));
    }

    /// Leaves it, from whatever place; nothing if it is not there.
    pub(super) fn leave(&mut self, id: ConnId) {
        let Some((turn, source)) = self.waiting.remove(&id) else { return };
        self.order.remove(&turn);
        if let Some((_, count)) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// Whose turn it is.
    pub(super) fn first(&self) -> Option<ConnId> {
        self.order.values().next().copied()
    }

    /// The first has its turn.
    pub(super) fn serve_first(&mut self) {
        let Some((turn, id)) = self.order.first_key_value() else { return };
        self.round = turn.round;
        let id = *id;
        self.leave(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Source = Source::User(1);
    const OTHER: Source = Source::User(2);

    fn take(places: &mut Places, source: Source) -> usize {
        std::iter::from_fn(|| places.take(source).then_some(())).count()
    }

    #[test]
    fn a_source_may_have_as_many_places_as_are_left() {
        let mut places = Places::new(16);
        assert_eq!(take(&mut places, ONE), 8);
        assert_eq!(take(&mut places, OTHER), 4);
        assert_eq!(take(&mut places, Source::Unknown), 2);
        assert_eq!(take(&mut places, ONE), 0);
        for user in 3..5 {
            assert_eq!(take(&mut places, Source::User(user)), 1);
        }
        assert_eq!(take(&mut places, Source::User(5)), 0, "all 16 are taken");
    }

    #[test]
    fn places_that_are_given_back_are_there_again_and_nothing_is_kept_of_their_source() {
        let mut places = Places::new(2);
        for _ in 0..3 {
            assert!(places.take(ONE) && !places.take(ONE));
            places.give_back(ONE);
        }
        places.give_back(ONE);
        assert_eq!((places.taken, places.by.len()), (0, 0));
        places.set_most(0);
        assert!(!places.take(ONE));
    }

    fn served(line: &mut Line) -> Vec<ConnId> {
        let mut all = Vec::new();
        while let Some(first) = line.first() {
            line.serve_first();
            all.push(first);
        }
        assert!(line.order.is_empty() && line.waiting.is_empty() && line.sources.is_empty());
        all
    }

    fn id(slot: u32) -> ConnId {
        ConnId::from_bits(1 << 32 | u64::from(slot)).unwrap()
    }

    #[test]
    fn one_source_is_served_as_it_comes() {
        let mut line = Line::default();
        (0..5).for_each(|slot| line.join(id(slot), ONE));
        line.join(id(0), ONE);
        assert_eq!(served(&mut line), (0..5).map(id).collect::<Vec<_>>());
    }

    #[test]
    fn who_comes_behind_many_of_another_source_waits_for_one_of_them() {
        let mut line = Line::default();
        (0..100).for_each(|slot| line.join(id(slot), ONE));
        for _ in 0..50 {
            line.serve_first();
        }
        line.join(id(200), OTHER);
        line.join(id(201), OTHER);
        line.join(id(202), Source::Unknown);
        assert_eq!(served(&mut line)[..6], [200, 202, 50, 201, 51, 52].map(id));
    }

    #[test]
    fn whoever_leaves_is_passed_over() {
        let mut line = Line::default();
        (0..4).for_each(|slot| line.join(id(slot), ONE));
        [0, 2, 2, 99].into_iter().for_each(|slot| line.leave(id(slot)));
        line.join(id(4), OTHER);
        assert_eq!(served(&mut line), [4, 1, 3].map(id));
    }
}
