//! What a failed login costs whoever sent it: its answer comes later each time, for the source and for the name, and a source
//! that has many failures at once waits before its next password is looked at.
//!
//! Values only: no clock is read and nothing sleeps; the caller holds back with a timer. Late answers alone would slow nobody
//! down who asks on many connections: that no "ok" has come is answer enough. A name is delayed whether it is known or not,
//! and never locked out, since anybody could do that to anybody. Both tables are bounded: the one that failed longest ago is
//! forgotten first.

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

/// Failures of the last minute, and the delays that they cause. A restart forgets them.
///
/// ```
/// use lineplex::personality::message::{Penalties, Source};
/// use std::time::{Duration, Instant};
///
/// let mut penalties = Penalties::default();
/// let (me, now) = (Source::User(1000), Instant::now());
/// let first = penalties.delay(me, b"me", now);
/// assert!((Duration::from_millis(100)..=Duration::from_millis(110)).contains(&first));
/// assert_eq!(penalties.delay(me, b"me", now), first + Duration::from_millis(100));
/// assert_eq!(penalties.wait(me, now), Duration::ZERO);
/// ```
#[derive(Debug)]
pub struct Penalties {
    first: Duration,
    most: Duration,
    sources: Failures<Source>,
    /// By a keyed hash of the name, which needs no more room for a longer one.
    users: Failures<u64>,
    key: RandomState,
}

impl Default for Penalties {
    /// Delays from 100 ms, more than a hash takes, so that the time of the answer says nothing about the work behind it, to
    /// 3.2 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_millis(3200))
    }
}

impl Penalties {
    /// With these delays for the first failure, and at most.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            sources: Failures::default(),
            users: Failures::default(),
            key: RandomState::new(),
        }
    }

    /// Counts a failed login and says how long after it was sent its answer is due: the first delay at the first, doubled for
    /// each failure before of the same source or of the same name, whichever has more, up to the longest; to which a part of
    /// at most 10 ms is added that is always the same for a name. A minute after its last failure a source, or a name, is
    /// forgotten; a login that succeeds in between forgets nothing, or whoever has an account could guess at others'.
    ///
    /// `now` is the time of the failure, and does not go backwards from call to call.
    #[must_use = "it is counted; the delay is the caller's to keep"]
    pub fn delay(&mut self, source: Source, user: &[u8], now: Instant) -> Duration {
        let name = self.key.hash_one(user);
        let of_source = self.sources.count(source, now);
        let of_name = self.users.count(name, now);
        let doubled = |before: u32| self.first.saturating_mul(1 << before.min(u32::BITS - 1)).min(self.most);
        self.sources.owe(&source, doubled(of_source) / SIDE_BY_SIDE, now);
        let jitter = name % u64::try_from(JITTER_MAX.as_micros()).unwrap_or(u64::MAX);
        doubled(of_source.max(of_name)) + Duration::from_micros(jitter)
    }

    /// The least that [`delay`](Self::delay) says.
    #[must_use]
    pub fn first(&self) -> Duration {
        self.first
    }

    /// How long the next password of that source waits until it is looked at, however many connections it has: so long that
    /// in the long run no more than four of its delays are side by side. Nothing for who fails now and then, or sends one
    /// login after the other.
    #[must_use]
    pub fn wait(&self, source: Source, now: Instant) -> Duration {
        let owed = self.sources.entries.get(&source).map_or(Duration::ZERO, |entry| entry.owed(now));
        owed.saturating_sub(self.most)
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
    /// When what its failures cost is over, were they one after the other.
    clear: Instant,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), turns: BTreeMap::new(), next_turn: 0 }
    }
}

impl<K: Copy + Eq + Hash> Failures<K> {
    /// Counts a failure; gives how many there were before it.
    fn count(&mut self, who: K, now: Instant) -> u32 {
        let known = self.forget(&who).filter(|entry| !entry.is_over(now));
        let (before, clear) = known.map_or((0, now), |entry| (entry.count, entry.clear));
        while self.oldest().is_some_and(|entry| entry.is_over(now)) || self.entries.len() >= ENTRIES_MAX {
            let Some((_, oldest)) = self.turns.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(turn, who);
        self.entries.insert(who, Entry { count: before.saturating_add(1), last: now, turn, clear });
        before
    }

    fn owe(&mut self, who: &K, cost: Duration, now: Instant) {
        if let Some(entry) = self.entries.get_mut(who) {
            entry.clear = entry.clear.max(now) + cost;
        }
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

    fn owed(&self, now: Instant) -> Duration {
        self.clear.saturating_duration_since(now)
    }
}

const JITTER_MAX: Duration = Duration::from_millis(10);
/// Delays of a source that pass at the same time, in the long run.
const SIDE_BY_SIDE: u32 = 4;
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
    fn who_asks_on_many_connections_gets_no_more_answers_than_four_at_a_time_would() {
        let (mut penalties, start) = (Penalties::default(), Instant::now());
        let mut now = start;
        let mut at_once = 0;
        let mut guesses = 0_u32;
        while now < start + Duration::from_secs(600) {
            let wait = penalties.wait(HERE, now);
            assert_eq!(penalties.wait(Source::Unknown, now), Duration::ZERO);
            now += wait;
            let _ = penalties.delay(HERE, format!("user {guesses}").as_bytes(), now);
            guesses += 1;
            at_once += u32::from(now == start);
        }
        assert_eq!(
            at_once, 9,
            "25, 50, 100, 200, 400 ms and then 800 ms each, until more than 3.2 s are owed"
        );
        let most = 600 * 10 / 32 * SIDE_BY_SIDE;
        assert!((most..most + 20).contains(&guesses), "{guesses}");
        now += Duration::from_secs(60);
        assert_eq!(penalties.wait(HERE, now), Duration::ZERO);
    }

    #[test]
    fn who_fails_again_and_again_but_one_login_after_the_other_never_waits() {
        let (mut penalties, mut now) = (Penalties::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(penalties.wait(HERE, now), Duration::ZERO);
            // Four programs of one user, each with an old password.
            for _ in 0..SIDE_BY_SIDE - 1 {
                let _ = penalties.delay(HERE, b"me", now);
            }
            now += penalties.delay(HERE, b"me", now);
        }
    }

    #[test]
    fn the_delays_can_be_others_and_none() {
        let mut penalties = Penalties::new(Duration::from_millis(300), Duration::from_secs(1));
        let now = Instant::now();
        let delays = [(); 4].map(|()| steps(penalties.delay(HERE, b"me", now)));
        assert_eq!((delays, penalties.first()), ([3, 6, 10, 10], Duration::from_millis(300)));
        let mut none = Penalties::new(Duration::ZERO, Duration::ZERO);
        for _ in 0..100 {
            assert_eq!(steps(none.delay(HERE, b"me", now)), 0);
        }
        assert_eq!(none.wait(HERE, now), Duration::ZERO);
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
