//! A ring of 65,536 marks that finds the first one set in three steps.

/// How many marks there are.
pub(super) const MARKS: usize = 65_536;
/// Groups of 64 words of 64 marks.
const GROUPS: usize = MARKS / 64 / 64;

/// Three levels of bitmap.
pub(super) struct Marks {
    /// Bit n: mark n is set. Empty before the first.
    words: Vec<u64>,
    /// Bit n: word n is not 0.
    groups: [u64; GROUPS],
    /// Bit n: group n is not 0.
    top: u32,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self { words: Vec::new(), groups: [0; GROUPS], top: 0 }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.top == 0
    }

    #[inline]
    pub(super) fn set(&mut self, at: usize) {
        let Some(word) = self.words.get_mut(at / 64) else { return self.set_first(at) };
        *word |= 1 << (at % 64);
        if word.is_power_of_two() {
            self.groups[at / 4096 % GROUPS] |= 1 << (at / 64 % 64);
            self.top |= 1 << (at / 4096);
        }
    }

    #[cold]
    fn set_first(&mut self, at: usize) {
        self.words = vec![0; MARKS / 64];
        self.set(at);
    }

    #[inline]
    pub(super) fn clear(&mut self, at: usize) {
        let Some(word) = self.words.get_mut(at / 64) else { return };
        *word &= !(1 << (at % 64));
        if *word == 0 {
            let group = &mut self.groups[at / 4096 % GROUPS];
            *group &= !(1 << (at / 64 % 64));
            if *group == 0 {
                self.top &= !(1 << (at / 4096));
            }
        }
    }

    /// The first mark at `from` or after it, round the ring.
    #[inline]
    pub(super) fn first(&self, from: usize) -> Option<usize> {
        if self.top == 0 {
            return None;
        }
        self.first_above(from).or_else(|| self.first_above(0))
    }

    /// The first mark at or above `from`.
    fn first_above(&self, from: usize) -> Option<usize> {
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
