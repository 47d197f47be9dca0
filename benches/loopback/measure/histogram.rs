//! Times by how long they were: 128 counters for each power of two, so a quantile is exact to 0.8 %.

use std::time::Duration;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    all: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; place(u64::MAX) + 1], all: 0 }
    }
}

impl Histogram {
    /// All that the other one has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.all += other.all;
    }

    #[inline]
    pub(crate) fn record(&mut self, time: Duration, times: u64) {
        self.counts[place(time.as_nanos() as u64)] += times;
        self.all += times;
    }

    /// The time that `part` of all stay within, in microseconds; 0 of none.
    pub(crate) fn quantile_us(&self, part: f64) -> f64 {
        let wanted = (self.all as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return value(place) as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// log2 of the counters for each power of two.
const BITS: u32 = 7;

#[inline]
fn place(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    ((shift as usize) << BITS) + (value >> shift) as usize
}

/// The middle of what is counted there.
fn value(place: usize) -> u64 {
    let shift = (place >> BITS).saturating_sub(1) as u32;
    let low = ((place - ((shift as usize) << BITS)) as u64) << shift;
    low + (1 << shift) / 2
}
