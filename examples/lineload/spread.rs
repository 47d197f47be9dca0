//! A histogram of durations in a fixed amount of memory: exact to 3 %, and the largest one exactly.

use std::time::Duration;

/// How durations are spread.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    /// How many fell into each step; a step is 1/32 of its power of two, of microseconds.
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Spread {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; STEPS * 64], total: 0, max: Duration::ZERO }
    }

    /// Adds one.
    pub(crate) fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(MICROS_MAX).min(MICROS_MAX);
        self.counts[step(micros)] += 1;
        self.total += 1;
        self.max = self.max.max(duration);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// Milliseconds of the largest one, 0 if there is none.
    pub(crate) fn max_ms(&self) -> f64 {
        self.max.as_secs_f64() * 1e3
    }

    /// Milliseconds that so many per cent do not exceed, 0 if there are none.
    pub(crate) fn percentile_ms(&self, per_cent: u64) -> f64 {
        let wanted = (self.total * per_cent).div_ceil(100);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted && seen > 0
        });
        at.map_or(0.0, |at| (upper_micros(at) as f64 / 1e3).min(self.max_ms()))
    }
}

/// The step into which so many microseconds fall.
fn step(micros: u64) -> usize {
    let shift = (micros | 1).ilog2().saturating_sub(STEPS_LOG);
    shift as usize * STEPS + (micros >> shift) as usize
}

/// The largest number of microseconds that falls into a step.
fn upper_micros(step: usize) -> u64 {
    if step < 2 * STEPS {
        return step as u64;
    }
    let shift = step / STEPS - 1;
    (((step % STEPS + STEPS + 1) as u64) << shift) - 1
}

const STEPS_LOG: u32 = 5;
const STEPS: usize = 1 << STEPS_LOG;
/// More than 30 years: what is longer counts as that.
const MICROS_MAX: u64 = 1 << 50;
