//! A rate limit for log lines that somebody outside can cause.

use std::time::{Duration, Instant};

/// Lets one line through per period, and counts the others, so that nobody can fill the log by being refused.
///
/// ```
/// use std::time::{Duration, Instant};
/// use lineplex::logging::Quiet;
///
/// let mut refusals = Quiet::new(Duration::from_secs(10));
/// let now = Instant::now();
/// assert_eq!(refusals.allow(now), Some(0));
/// assert_eq!(refusals.allow(now), None);
/// assert_eq!(refusals.allow(now + Duration::from_secs(10)), Some(1));
/// ```
#[derive(Clone, Debug)]
pub struct Quiet {
    per: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl Quiet {
    /// One line per `per`; with zero every line is let through.
    #[must_use]
    pub fn new(per: Duration) -> Self {
        Self { per, last: None, suppressed: 0 }
    }

    /// Asks to write a line at `now`. `Some(n)`: write it, and say that `n` were held back since the last one; `None`:
    /// it is held back. A `now` before the last line counts as the same moment.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.per) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_passes_and_then_one_per_period_with_the_count_of_the_others() {
        let mut quiet = Quiet::new(Duration::from_secs(10));
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(quiet.allow(after(5)), Some(0));
        assert_eq!(quiet.allow(after(0)), None);
        assert_eq!(quiet.allow(after(10_004)), None);
        assert_eq!(quiet.allow(after(10_005)), Some(2));
        assert_eq!(quiet.allow(after(20_005)), Some(0));
    }

    #[test]
    fn a_period_of_zero_lets_everything_through() {
        let mut quiet = Quiet::new(Duration::ZERO);
        let now = Instant::now();
        assert_eq!([quiet.allow(now), quiet.allow(now)], [Some(0), Some(0)]);
    }
}
