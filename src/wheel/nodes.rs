//! The timers themselves, and the lists through them: one flat array of nodes of 12 bytes.
//!
//! A list is a ring of links through its members and its head, and heads are nodes of the same array. So a timer is taken
//! out of its list without a look at which that is, and without a branch that the processor would have to guess before
//! the node has come from memory: it works on several timers at once.

/// Where a node is linked: above the link in `NEXT`. Every node of a list has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// Not armed.
    pub(super) const NONE: Self = Self(0);
    /// In the list of a tick.
    pub(super) const NEAR: Self = Self(1);
    /// In the list of a bucket.
    pub(super) const FAR: Self = Self(2);
    /// In no list, but in a map: see [`Nodes::remote`].
    pub(super) const REMOTE: Self = Self(3);
    pub(super) const DUE: Self = Self(4);

    #[inline]
    const fn bits(self) -> u32 {
        self.0 << LINK_BITS
    }
}

/// `PREV`, `NEXT` and `TICK`. An array of arrays of zeros comes as untouched pages from the system: heads cost nothing
/// until they are used. Zeros are a timer that is not armed, and the head of an empty list.
type Node = [u32; 3];

/// Link to the next older one; to the head in the oldest, and in the head to the newest.
const PREV: usize = 0;
/// Link to the next newer one, round the ring as well; above it the [`Place`].
const NEXT: usize = 1;
/// The low half of the tick.
const TICK: usize = 2;

/// Heads first, then the timers.
pub(super) struct Nodes {
    /// Empty before the first timer.
    list: Vec<Node>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Where the node of a link is; `None` for one that there is no room for yet.
    #[inline]
    pub(super) fn place(&self, link: u32) -> Option<Place> {
        self.list.get(link as usize).map(|node| Place(node[NEXT] >> LINK_BITS))
    }

    /// The low half of the tick of a node.
    #[inline]
    pub(super) fn tick(&self, link: u32) -> u32 {
        self.at(link)[TICK]
    }

    #[inline]
    fn at(&self, link: u32) -> &Node {
        &self.list[link as usize]
    }

    #[inline]
    fn at_mut(&mut self, link: u32) -> &mut Node {
        &mut self.list[link as usize]
    }

    /// Makes room for a timer.
    #[cold]
    pub(super) fn grow(&mut self, link: u32) {
        assert!(link < 1 << (LINK_BITS - 1), "names of timers are below 2^28");
        let len = (link as usize / GROWTH + 1) * GROWTH;
        if self.list.is_empty() {
            self.list = vec![[0; 3]; len];
        } else {
            self.list.resize(len, [0; 3]);
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.list.capacity()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.list[..])
    }

    /// Adds a node as the newest of a list; true if it is the first there.
    #[inline]
    pub(super) fn push(&mut self, head: u32, link: u32, tick: u64, place: Place) -> bool {
        let newest = match std::mem::replace(&mut self.at_mut(head)[PREV], link) {
            0 => head,
            newest => newest,
        };
        self.at_mut(newest)[NEXT] = place.bits() | link;
        *self.at_mut(link) = [newest, place.bits() | head, low(tick)];
        newest == head
    }

    /// Takes a node out of its list; the head if it was the last there. It is to be written next.
    #[inline]
    pub(super) fn unlink(&mut self, link: u32) -> Option<u32> {
        let &[prev, next, _] = self.at(link);
        self.at_mut(prev)[NEXT] = next;
        self.at_mut(next & LINK)[PREV] = prev;
        (prev == next & LINK).then_some(prev)
    }

    /// Marks a node that was unlinked as not armed.
    #[inline]
    pub(super) fn end(&mut self, link: u32) {
        self.at_mut(link)[NEXT] = Place::NONE.bits();
    }

    /// Takes the oldest node out of a list and ends it.
    #[inline]
    pub(super) fn pop(&mut self, head: u32) -> Option<u32> {
        let link = self.iter(head).next()?;
        let next = self.at(link)[NEXT];
        self.at_mut(head)[NEXT] = next;
        self.at_mut(next & LINK)[PREV] = head;
        self.end(link);
        Some(link)
    }

    /// The nodes of a list, the oldest first.
    #[inline]
    pub(super) fn iter(&self, head: u32) -> impl Iterator<Item = u32> {
        let mut link = head;
        std::iter::from_fn(move || {
            link = self.list.get(link as usize)?[NEXT] & LINK;
            (link != head && link != 0).then_some(link)
        })
    }

    /// Moves up to `max` nodes, at least 1, from the old end of a list to the due list; how many, and whether they were all.
    pub(super) fn collect(&mut self, head: u32, max: usize) -> (usize, bool) {
        let first = self.at(head)[NEXT] & LINK;
        let (mut last, mut moved) = (first, 1);
        let mut rest = self.at(first)[NEXT] & LINK;
        while rest != head && moved < max {
            self.at_mut(last)[NEXT] = Place::DUE.bits() | rest;
            last = rest;
            rest = self.at(last)[NEXT] & LINK;
            moved += 1;
        }
        self.at_mut(head)[NEXT] = Place::NEAR.bits() | rest;
        self.at_mut(rest)[PREV] = head;
        let newest = std::mem::replace(&mut self.at_mut(DUE)[PREV], last);
        self.at_mut(newest)[NEXT] = Place::DUE.bits() | first;
        self.at_mut(first)[PREV] = newest;
        self.at_mut(last)[NEXT] = Place::DUE.bits() | DUE;
        (moved, rest == head)
    }

    /// Makes a node remote, which is in no list: it has no links that would need the room.
    pub(super) fn set_remote(&mut self, link: u32, tick: u64, turn: u32) {
        debug_assert!(turn <= LINK);
        *self.at_mut(link) = [low(tick >> 32), Place::REMOTE.bits() | turn & LINK, low(tick)];
    }

    /// The whole tick of a remote node, and its turn among those of the same tick.
    pub(super) fn remote(&self, link: u32) -> (u64, u32) {
        let &[high, turn, low] = self.at(link);
        (u64::from(high) << 32 | u64::from(low), turn & LINK)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "taking the low half is the purpose")]
#[inline]
pub(super) fn low(tick: u64) -> u32 {
    tick as u32
}

/// The head of the due list. A link of 0 to any other is none.
pub(super) const DUE: u32 = 0;
/// Bits of a link, and the mask of them.
const LINK_BITS: u32 = 29;
pub(super) const LINK: u32 = (1 << LINK_BITS) - 1;
/// Nodes come by so many.
const GROWTH: usize = 256;
