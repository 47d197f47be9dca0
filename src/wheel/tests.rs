use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn drain<K: Copy>(wheel: &mut Wheel<K>) -> Vec<K> {
    std::iter::from_fn(|| wheel.pop_due()).map(|(_, key)| key).collect()
}

fn fire<K: Copy>(wheel: &mut Wheel<K>, now: Instant) -> Vec<K> {
    assert!(!wheel.collect(now, usize::MAX));
    drain(wheel)
}

#[test]
fn an_empty_wheel_allocates_nothing_and_a_name_costs_four_bytes() {
    let mut wheel = Wheel::<u64>::new(Instant::now());
    assert_eq!(size_of::<Option<TimerId>>(), 4);
    assert_eq!((wheel.next(), wheel.len(), wheel.pop_due()), (None, 0, None));
    assert!(!wheel.collect(Instant::now(), 8));
    assert_eq!((wheel.near.tails.capacity(), wheel.nodes.list.capacity()), (0, 0));
}

#[test]
fn a_timer_is_never_early_and_at_most_a_millisecond_late() {
    let start = Instant::now();
    for nanos in [1, 999_999, 1_000_000, 1_000_001, 65_535_999_999, 65_536_000_000, 65_536_000_001] {
        let mut wheel = Wheel::new(start);
        let at = start + Duration::from_nanos(nanos);
        wheel.insert(at, ());
        let next = wheel.next().unwrap();
        assert!(next >= at && next < at + MS, "{nanos}");
        assert_eq!(fire(&mut wheel, at - Duration::from_nanos(1)), [], "{nanos}");
        assert_eq!(fire(&mut wheel, next), [()], "{nanos}");
    }
}

#[test]
fn a_deadline_in_the_past_is_due_at_the_next_collect_even_of_the_same_now() {
    let start = Instant::now();
    let now = start + 500 * MS;
    let mut wheel = Wheel::new(start);
    assert!(!wheel.collect(now, 1));
    wheel.insert(start, 1);
    wheel.insert_due(2);
    wheel.insert(now, 3);
    assert!(wheel.next().unwrap() <= now);
    assert_eq!(fire(&mut wheel, now), [1, 2, 3]);
    wheel.insert_due(4);
    assert_eq!(fire(&mut wheel, start), [4], "whatever the clock says");
}

#[test]
fn a_timer_removed_by_an_earlier_one_of_the_batch_never_fires() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let ids: Vec<_> = (0..4).map(|n| wheel.insert(start + n * MS, n)).collect();
    assert!(!wheel.collect(start + 10 * MS, 100));
    assert_eq!(wheel.pop_due(), Some((ids[0], 0)));
    assert_eq!(wheel.remove(ids[2]), Some(2));
    assert_eq!(wheel.remove(ids[3]), Some(3));
    assert_eq!(drain(&mut wheel), [1]);
    assert!(wheel.is_empty());
}

#[test]
fn a_timer_armed_again_by_an_earlier_one_of_the_batch_waits() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let ids: Vec<_> = (0..3).map(|n| wheel.insert(start + n * MS, n)).collect();
    assert!(!wheel.collect(start + 10 * MS, 100));
    assert_eq!(wheel.pop_due(), Some((ids[0], 0)));
    wheel.rearm(ids[1], start);
    wheel.insert_due(7);
    assert_eq!(drain(&mut wheel), [2], "the second waits although it is due, and so does the new one");
    assert_eq!(fire(&mut wheel, start + 10 * MS), [1, 7]);
}

#[test]
fn collected_timers_that_nobody_took_are_due_now() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    wheel.insert(start + MS, 1);
    wheel.insert(start + 50 * MS, 2);
    assert!(!wheel.collect(start + 2 * MS, 1));
    assert_eq!(wheel.next(), Some(start + 2 * MS));
    assert_eq!((wheel.len(), drain(&mut wheel)), (2, vec![1]));
    assert_eq!(wheel.next(), Some(start + 50 * MS));
}

#[test]
fn the_budget_is_kept_across_milliseconds_and_within_one() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    for n in 0..10 {
        wheel.insert(start + (n / 4) * MS, n);
    }
    let now = start + 10 * MS;
    assert!(wheel.collect(now, 0), "a budget of nothing only asks");
    assert_eq!(drain(&mut wheel), []);
    assert!(wheel.collect(now, 3));
    assert!(wheel.collect(now, 3));
    assert_eq!(drain(&mut wheel), [0, 1, 2, 3, 4, 5]);
    assert!(!wheel.collect(now, 4), "exactly what is left");
    assert_eq!(drain(&mut wheel), [6, 7, 8, 9]);
}

#[test]
fn a_stall_of_a_year_fires_everything_once_and_in_order() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let hour = Duration::from_secs(3600);
    for n in (0..2000u32).rev() {
        wheel.insert(start + n * hour / 7, n);
    }
    assert_eq!(fire(&mut wheel, start + 365 * 24 * hour), Vec::from_iter(0..2000));
    assert_eq!((wheel.next(), wheel.len()), (None, 0));
}

#[test]
fn a_far_timer_of_the_same_millisecond_keeps_its_turn_before_later_ones() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let at = start + 100_000 * MS;
    wheel.insert(at, 1);
    wheel.insert(at, 2);
    assert!(!wheel.collect(start + 60_000 * MS, 9));
    wheel.insert(at, 3);
    assert!(!wheel.far.is_empty() && wheel.near.top != 0, "they wait in two places");
    assert_eq!(fire(&mut wheel, at), [1, 2, 3]);
}

/// Sleeps as a loop would until nothing is armed, and counts the wake-ups that found nothing.
fn idle_wakes(wheel: &mut Wheel<u32>) -> usize {
    let mut wasted = 0;
    while let Some(at) = wheel.next() {
        wasted += usize::from(fire(wheel, at).is_empty());
    }
    wasted
}

#[test]
fn a_quiet_wheel_never_wakes_for_nothing() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let secs = |n| start + Duration::from_secs(n);
    for n in [1, 64, 65, 66, 70, 300, 301, 3600, 86_400, 40_000_000] {
        wheel.insert(secs(n), 0);
    }
    let gone: Vec<_> = (0..32).map(|n| wheel.insert(secs(200) + n * MS, 0)).collect();
    wheel.insert(secs(200) + 40 * MS, 0);
    for id in gone {
        wheel.remove(id);
    }
    assert_eq!(idle_wakes(&mut wheel), 0);
}

#[test]
fn a_crowded_far_second_that_lost_its_earliest_wakes_for_nothing_once() {
    let start = Instant::now();
    let at = start + 102_400 * MS;
    let crowd = |wheel: &mut Wheel<u32>| {
        let ids: Vec<_> = (0..50).map(|n| wheel.insert(at + n * 10 * MS, n)).collect();
        (ids[0], ids[1])
    };
    let mut wheel = Wheel::new(start);
    let (first, second) = crowd(&mut wheel);
    wheel.remove(first);
    wheel.remove(second);
    assert_eq!(wheel.next(), Some(at), "the documented exception");
    assert_eq!(idle_wakes(&mut wheel), 1);

    let mut wheel = Wheel::new(start);
    let (first, second) = crowd(&mut wheel);
    assert!(!wheel.collect(start + 50_000 * MS, 1));
    wheel.remove(first);
    wheel.rearm(second, at + 300_000 * MS);
    assert_eq!(idle_wakes(&mut wheel), 0, "within 64 s they are known to the millisecond");
}

#[test]
fn nodes_are_used_again() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    for round in 0..1000u32 {
        let id = wheel.insert(start + round * 90 * MS, round);
        wheel.insert(start + round * MS, round);
        wheel.rearm(id, start + round * 700 * MS);
        assert_eq!(wheel.remove(id), Some(round));
        assert_eq!(fire(&mut wheel, start + round * MS), [round]);
    }
    assert_eq!((wheel.nodes.list.len(), wheel.len(), wheel.far.len()), (2, 0, 0));
}

#[test]
#[cfg_attr(debug_assertions, should_panic = "popped or removed before")]
fn a_dead_name_is_told_in_debug_and_ignored_in_release() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let id = wheel.insert(start, 1);
    wheel.remove(id);
    wheel.rearm(id, start);
    assert_eq!(wheel.remove(id), None);
    assert!(wheel.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Insert(i64),
    InsertDue,
    Rearm(usize, i64),
    Remove(usize),
    /// Microseconds that the clock goes on, budget.
    Collect(u64, usize),
    Pop(usize),
    /// Sleeps until `next`.
    Sleep,
}

/// Microseconds from now: past, a few crowded milliseconds, within a rotation, around its edge, far, very far.
fn distance() -> impl Strategy<Value = i64> {
    prop_oneof![
        1 => -3_000_000..0i64,
        3 => (0..5i64).prop_map(|ms| ms * 1000),
        3 => 0..65_000_000i64,
        3 => 64_000_000..67_000_000i64,
        3 => 67_000_000..70_000_000i64,
        3 => (0..40i64).prop_map(|ms| 100_000_000 + ms * 1000),
        2 => 0..10_000_000_000i64,
        1 => 0..40_000_000_000_000i64,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let clock = prop_oneof![
        4 => 0..5_000u64,
        3 => 0..2_000_000u64,
        2 => 60_000_000..140_000_000u64,
        1 => 0..20_000_000_000_000u64,
    ];
    let budget = prop_oneof![0..4usize, Just(usize::MAX)];
    prop_oneof![
        8 => distance().prop_map(Op::Insert),
        1 => Just(Op::InsertDue),
        6 => (any::<usize>(), distance()).prop_map(|(n, at)| Op::Rearm(n, at)),
        3 => any::<usize>().prop_map(Op::Remove),
        3 => (clock, budget).prop_map(|(clock, budget)| Op::Collect(clock, budget)),
        3 => (0..6usize).prop_map(Op::Pop),
        2 => Just(Op::Sleep),
    ]
}

/// What the wheel promises, by means of a sorted map.
struct Model {
    start: Instant,
    now: Instant,
    cursor: u64,
    serial: u64,
    armed: BTreeMap<(u64, u64), TimerId>,
    due: Vec<TimerId>,
    keys: BTreeMap<u32, u64>,
}

impl Model {
    fn at(&self, micros: i64) -> Instant {
        let by = Duration::from_micros(micros.unsigned_abs());
        if micros < 0 { self.now.checked_sub(by).unwrap_or(self.start) } else { self.now + by }
    }

    fn arm(&mut self, id: TimerId, at: Instant) {
        let micros = at.saturating_duration_since(self.start).as_micros() as u64;
        self.serial += 1;
        self.armed.insert((micros.div_ceil(1000).max(self.cursor), self.serial), id);
    }

    fn disarm(&mut self, id: TimerId) {
        self.armed.retain(|_, other| *other != id);
        self.due.retain(|other| *other != id);
    }

    fn chosen(&self, n: usize) -> Option<TimerId> {
        let name = self.keys.keys().nth(n.checked_rem(self.keys.len())?)?;
        NonZeroU32::new(*name).map(TimerId)
    }

    fn collect(&mut self, budget: usize) -> bool {
        let now = (self.now.duration_since(self.start).as_millis() as u64).max(self.cursor);
        for _ in 0..budget {
            let Some(first) = self.armed.first_entry().filter(|first| first.key().0 <= now) else { break };
            self.due.push(first.remove());
        }
        let first = self.armed.first_key_value().map(|(&(tick, _), _)| tick).filter(|&tick| tick <= now);
        self.cursor = first.unwrap_or(now);
        first.is_some()
    }
}

fn same_as_the_model(ops: Vec<Op>) {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let mut model = Model {
        start,
        now: start,
        cursor: 0,
        serial: 0,
        armed: BTreeMap::new(),
        due: Vec::new(),
        keys: BTreeMap::new(),
    };
    let mut key = 0u64;
    for op in ops {
        match op {
            Op::Insert(micros) => {
                key += 1;
                let at = model.at(micros);
                let id = wheel.insert(at, key);
                assert!(model.keys.insert(id.0.get(), key).is_none(), "a name in use was given again");
                model.arm(id, at);
            }
            Op::InsertDue => {
                key += 1;
                let id = wheel.insert_due(key);
                assert!(model.keys.insert(id.0.get(), key).is_none());
                model.arm(id, start);
            }
            Op::Rearm(n, micros) => {
                let Some(id) = model.chosen(n) else { continue };
                let at = model.at(micros);
                wheel.rearm(id, at);
                model.disarm(id);
                model.arm(id, at);
            }
            Op::Remove(n) => {
                let Some(id) = model.chosen(n) else { continue };
                assert_eq!(wheel.remove(id), model.keys.remove(&id.0.get()));
                model.disarm(id);
            }
            Op::Collect(micros, budget) => {
                model.now += Duration::from_micros(micros);
                assert_eq!(wheel.collect(model.now, budget), model.collect(budget));
            }
            Op::Pop(n) => pop_both(&mut wheel, &mut model, n),
            Op::Sleep => {
                let Some(next) = wheel.next() else { continue };
                model.now = model.now.max(next);
                assert_eq!(wheel.collect(model.now, 2), model.collect(2));
            }
        }
        next_is_right(&wheel, &model);
    }
    model.now += Duration::from_secs(100_000_000);
    assert_eq!(wheel.collect(model.now, usize::MAX), model.collect(usize::MAX));
    pop_both(&mut wheel, &mut model, usize::MAX);
    assert_eq!((wheel.len(), wheel.far.len(), wheel.near.top, wheel.due), (0, 0, 0, 0));
}

fn pop_both(wheel: &mut Wheel<u64>, model: &mut Model, n: usize) {
    for _ in 0..n {
        let popped = wheel.pop_due();
        assert_eq!(popped.map(|(id, _)| id), model.due.first().copied());
        let Some((id, key)) = popped else { break };
        model.due.remove(0);
        assert_eq!(model.keys.remove(&id.0.get()), Some(key));
    }
}

fn next_is_right(wheel: &Wheel<u64>, model: &Model) {
    assert_eq!(wheel.len(), model.keys.len());
    let first = model.armed.first_key_value().map(|(&(tick, _), _)| tick);
    let first = if model.due.is_empty() { first } else { Some(model.cursor) };
    let next = wheel.next().map(|at| at.duration_since(model.start).as_millis() as u64);
    let Some(first) = first else { return assert_eq!(next, None) };
    let next = next.expect("something is armed");
    let stale =
        wheel.far.first_key_value().is_some_and(|(_, bucket)| bucket.min_is_stale && next == bucket.min);
    if stale && next < first {
        let second = |tick: u64| tick / BUCKET_TICKS;
        let crowd = model.armed.keys().filter(|(tick, _)| second(*tick) == second(first)).count();
        assert!(
            crowd > RESCAN_MAX as usize && second(next) == second(first),
            "the documented exception only"
        );
    } else {
        assert_eq!(next, first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_give_what_a_sorted_map_gives(ops in prop::collection::vec(op(), 1..300)) {
        same_as_the_model(ops);
    }

    /// Many timers in the same far second, so that its earliest is lost again and again.
    #[test]
    fn crowded_far_seconds_give_what_a_sorted_map_gives(
        ops in prop::collection::vec(prop_oneof![
            10 => (90_000_000..91_000_000i64).prop_map(Op::Insert),
            5 => (any::<usize>(), 90_000_000..92_000_000i64).prop_map(|(n, at)| Op::Rearm(n, at)),
            4 => any::<usize>().prop_map(Op::Remove),
            1 => (0..400_000u64).prop_map(|clock| Op::Collect(clock, 5)),
            1 => Just(Op::Pop(5)),
        ], 200..500),
        stall in 0..100_000_000u64,
        more in prop::collection::vec(op(), 1..50),
    ) {
        same_as_the_model([ops, vec![Op::Collect(stall, 3)], more].concat());
    }
}
