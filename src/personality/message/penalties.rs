//! How long somebody waits for the answer that a login failed: longer each time, for the source and for the name.
//!
//! Values only: no clock is read and nothing sleeps; the caller holds the answer back with a timer. A name is delayed
//! whether it is known or not, and never locked out, since anybody could do that to anybody. Both tables are bounded: the
//! one that failed longest ago is forgotten first.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Where a login comes from, as far as failures are counted.
///
/// ```
/// use lineplex::personality::message::Source;
/// use std::net::IpAddr;
///
/// let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
/// assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
/// assert_eq!(of("2001:db8::1"), of("2001:db8::2"), "whoever has one address of a /64 has them all");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address of IPv4, or the first 64 bits of one of IPv6.
    Ip(IpAddr),
    /// The user of a Unix peer.
    User(u32),
    /// A peer that does not say: they all count as one.
    Unknown,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Ip(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

/// Failures of the last minute, and the delays that they cause.
///
/// ```
/// use lineplex::personality::message::{Penalties, Source};
/// use std::time::{Duration, Instant};
///
/// let mut penalties = Penalties::default();
/// let now = Instant::now();
/// let first = penalties.delay(Source::User(1000), b"me", now);
/// assert!((Duration::from_millis(100)..=Duration::from_millis(110)).contains(&first));
/// assert_eq!(penalties.delay(Source::User(1000), b"me", now), first + Duration::from_millis(100));
/// ```
#[derive(Debug, Default)]
pub struct Penalties {
    sources: Failures<Source>,
    /// By a keyed hash of the name, which needs no more room for a longer one.
    users: Failures<u64>,
    key: RandomState,
}

impl Penalties {
    /// Counts a failed login and says how long its answer is held back: 100 ms at the first, doubled for each failure before
    /// of the same source or of the same name, whichever has more, and at most 3.2 s; to which a part of at most 10 ms is
    /// added that is always the same for a name. A minute after its last failure a source, or a name, is forgotten.
    ///
    /// `now` is the time of the failure, and does not go backwards from call to call.
    #[must_use = "it is counted; the delay is the caller's to keep"]
    pub fn delay(&mut self, source: Source, user: &[u8], now: Instant) -> Duration {
        let name = self.key.hash_one(user);
        let before = self.sources.count(source, now).max(self.users.count(name, now));
        // Nobody doubles more often than it takes to reach the maximum.
        let doubled = DELAY_MIN * (1 << before.min(DOUBLINGS_MAX));
        let jitter = name % u64::try_from(JITTER_MAX.as_micros()).unwrap_or(u64::MAX);
        doubled.min(DELAY_MAX) + Duration::from_micros(jitter)
    }

    /// A login has succeeded: the failures of that source are forgotten. Those of the name are not, since another may be
    /// trying it.
    pub fn success(&mut self, source: Source) {
        self.sources.forget(&source);
    }
}

/// Who failed how often, and in which order; at most [`ENTRIES_MAX`].
#[derive(Debug)]
struct Failures<K> {
    entries: HashMap<K, Entry>,
    /// Who failed at which turn: each of `entries` once. The first is the one whose last failure is the longest ago.
    turns: BTreeMap<u64, K>,
    next_turn: u64,
}

#[derive(Debug)]
struct Entry {
    count: u32,
    last: Instant,
    turn: u64,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), turns: BTreeMap::new(), next_turn: 0 }
    }
}

impl<K: Copy + Eq + Hash> Failures<K> {
    /// Counts a failure; gives how many there were before it.
    fn count(&mut self, who: K, now: Instant) -> u32 {
        let before = self.forget(&who).filter(|entry| !entry.is_over(now)).map_or(0, |entry| entry.count);
        while self.oldest().is_some_and(|entry| entry.is_over(now)) || self.entries.len() >= ENTRIES_MAX {
            let Some((_, oldest)) = self.turns.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(turn, who);
        self.entries.insert(who, Entry { count: before.saturating_add(1), last: now, turn });
        before
    }

    fn oldest(&self) -> Option<&Entry> {
        self.turns.first_key_value().and_then(|(_, who)| self.entries.get(who))
    }

    fn forget(&mut self, who: &K) -> Option<Entry> {
        let entry = self.entries.remove(who)?;
        self.turns.remove(&entry.turn);
        Some(entry)
    }
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGOTTEN_AFTER
    }
}

/// Before the jitter; more than a hash takes, so that the time of the answer says nothing about the work behind it.
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_millis(3200);
const JITTER_MAX: Duration = Duration::from_millis(10);
/// 100 ms, five times doubled, are 3.2 s.
const DOUBLINGS_MAX: u32 = 5;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Of sources, and of names: some 200 KB each.
const ENTRIES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::User(1);

    /// The delay in units of 100 ms, without the jitter.
    fn steps(delay: Duration) -> u128 {
        assert!(delay.as_micros() % 100_000 < 10_000, "{delay:?}");
        delay.as_millis() / 100
    }

    fn source(number: usize) -> Source {
        Source::User(u32::try_from(number).unwrap())
    }

    #[test]
    fn the_delay_of_a_source_doubles_up_to_its_maximum() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        let delays: Vec<u128> = (0..40_u8).map(|user| steps(penalties.delay(HERE, &[user], now))).collect();
        assert_eq!(delays[..7], [1, 2, 4, 8, 16, 32, 32]);
        assert!(delays[7..].iter().all(|delay| *delay == 32));
        assert_eq!(steps(penalties.delay(Source::Unknown, b"fresh", now)), 1);
    }

    #[test]
    fn the_delay_of_a_name_doubles_whatever_the_source_and_its_jitter_stays() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        let first = penalties.delay(source(0), b"me", now);
        let second = penalties.delay(source(1), b"me", now);
        let third = penalties.delay(source(2), b"me", now);
        assert_eq!([steps(first), steps(second), steps(third)], [1, 2, 4]);
        assert_eq!(second - first, Duration::from_millis(100));
        assert_eq!(third - second, Duration::from_millis(200));
        assert_eq!(steps(penalties.delay(source(3), b"", now)), 1, "an empty name is another one");
    }

    #[test]
    fn a_minute_after_the_last_failure_it_is_forgotten() {
        let (mut penalties, mut now) = (Penalties::default(), Instant::now());
        for expected in [1, 2, 4] {
            now += Duration::from_millis(59_999);
            assert_eq!(steps(penalties.delay(HERE, b"me", now)), expected);
        }
        now += Duration::from_secs(60);
        assert_eq!(steps(penalties.delay(HERE, b"me", now)), 1);
        assert_eq!((penalties.sources.entries.len(), penalties.sources.turns.len()), (1, 1));
    }

    #[test]
    fn a_success_clears_the_source_and_not_the_name() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        for name in [b"a", b"b", b"c"] {
            let _ = penalties.delay(HERE, name, now);
        }
        penalties.success(HERE);
        penalties.success(Source::Unknown);
        assert_eq!(steps(penalties.delay(HERE, b"fresh", now)), 1);
        penalties.success(HERE);
        assert_eq!(steps(penalties.delay(HERE, b"a", now)), 2);
    }

    #[test]
    fn the_table_is_bounded_and_who_failed_longest_ago_leaves_it() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        let fail = |penalties: &mut Penalties, number: usize| {
            steps(penalties.delay(source(number), format!("user {number}").as_bytes(), now))
        };
        for number in 0..ENTRIES_MAX {
            assert_eq!(fail(&mut penalties, number), 1);
        }
        assert_eq!(fail(&mut penalties, 0), 2, "all of them are still known, and this is the newest now");
        assert_eq!(fail(&mut penalties, ENTRIES_MAX), 1);
        assert_eq!(fail(&mut penalties, 1), 1, "it had to go");
        assert_eq!(fail(&mut penalties, 0), 4);
        for number in 0..3 * ENTRIES_MAX {
            let _ = fail(&mut penalties, number);
        }
        assert_eq!(penalties.sources.entries.len(), ENTRIES_MAX);
        assert_eq!(penalties.sources.turns.len(), ENTRIES_MAX);
        assert_eq!(penalties.users.entries.len(), ENTRIES_MAX);
    }

    #[test]
    fn names_of_any_length_need_no_more_room_than_their_hash() {
        let mut penalties = Penalties::default();
        let now = Instant::now();
        assert_eq!(steps(penalties.delay(HERE, &vec![b'x'; 1 << 20], now)), 1);
        assert_eq!(size_of_val(&penalties.users.turns[&0]), 8);
    }
}
