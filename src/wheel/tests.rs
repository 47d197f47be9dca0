use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn drain(wheel: &mut Wheel) -> Vec<u32> {
    std::iter::from_fn(|| wheel.pop_due()).collect()
}

fn fire(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
    assert!(!wheel.collect(now, usize::MAX));
    drain(wheel)
}

#[test]
fn an_empty_wheel_allocates_nothing() {
    let mut wheel = Wheel::new(Instant::now());
    assert_eq!((wheel.next(), wheel.len(), wheel.pop_due()), (None, 0, None));
    assert!(!wheel.collect(Instant::now(), 8) && !wheel.disarm(0));
    assert_eq!((wheel.nodes.capacity(), wheel.far.buckets.capacity()), (0, 0));
}

#[test]
fn a_timer_is_never_early_and_at_most_a_millisecond_late() {
    let start = Instant::now();
    for nanos in [1, 999_999, 1_000_000, 1_000_001, 65_535_999_999, 65_536_000_000, 65_536_000_001] {
        let at = start + Duration::from_nanos(nanos);
        for now in [start, start + (at - start) / 3, at] {
            let mut wheel = Wheel::new(start);
            wheel.arm_after(7, now, at - now);
            assert_eq!(wheel.next(), wheel.deadline(7));
            let next = wheel.next().unwrap();
            assert!(next >= at && next < at + MS, "{nanos}");
            wheel.arm(7, at);
            assert_eq!(wheel.next(), Some(next), "both ways give the same");
            assert_eq!(fire(&mut wheel, at - Duration::from_nanos(1)), [], "{nanos}");
            assert_eq!(fire(&mut wheel, next), [7], "{nanos}");
        }
    }
}

#[test]
fn a_deadline_in_the_past_is_due_at_the_next_collect_even_of_the_same_now() {
    let start = Instant::now();
    let now = start + 500 * MS;
    let mut wheel = Wheel::new(start);
    assert!(!wheel.collect(now, 1));
    wheel.arm(1, start);
    wheel.arm_due(2);
    wheel.arm(3, now);
    assert!(wheel.next().unwrap() <= now);
    assert_eq!(fire(&mut wheel, now), [1, 2, 3]);
    wheel.arm_due(4);
    assert_eq!(fire(&mut wheel, start), [4], "whatever the clock says");
}

#[test]
fn a_time_without_end_never_comes() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    wheel.arm_after(0, start + MS, Duration::MAX);
    let long = start + Duration::from_secs(1 << 40);
    assert!(wheel.next().is_none_or(|at| at > long));
    assert_eq!(fire(&mut wheel, long), []);
    assert!(wheel.disarm(0) && wheel.is_empty());
}

#[test]
fn a_timer_disarmed_by_an_earlier_one_of_the_batch_never_fires() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    (0..4).for_each(|n| wheel.arm(n, start + n * MS));
    assert!(!wheel.collect(start + 10 * MS, 100));
    assert_eq!(wheel.pop_due(), Some(0));
    assert!(wheel.disarm(2) && wheel.disarm(3));
    assert_eq!(drain(&mut wheel), [1]);
    assert!(wheel.is_empty());
}

#[test]
fn a_timer_armed_again_by_an_earlier_one_of_the_batch_waits() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    (0..3).for_each(|n| wheel.arm(n, start + n * MS));
    assert!(!wheel.collect(start + 10 * MS, 100));
    assert_eq!(wheel.pop_due(), Some(0));
    wheel.arm(1, start);
    wheel.arm_due(7);
    assert_eq!(drain(&mut wheel), [2], "the second waits although it is due, and so does the new one");
    assert_eq!(fire(&mut wheel, start + 10 * MS), [1, 7]);
}

#[test]
fn collected_timers_that_nobody_took_are_due_now() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    wheel.arm(1, start + MS);
    wheel.arm(2, start + 50 * MS);
    assert!(!wheel.collect(start + 2 * MS, 1));
    assert_eq!((wheel.next(), wheel.deadline(1)), (Some(start + 2 * MS), Some(start + 2 * MS)));
    assert_eq!((wheel.len(), drain(&mut wheel)), (2, vec![1]));
    assert_eq!(wheel.next(), Some(start + 50 * MS));
}

#[test]
fn the_budget_is_kept_across_milliseconds_and_within_one() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    for n in 0..10 {
        wheel.arm(n, start + (n / 4) * MS);
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
        wheel.arm(n, start + n * hour / 7);
    }
    assert_eq!(fire(&mut wheel, start + 365 * 24 * hour), Vec::from_iter(0..2000));
    assert_eq!((wheel.next(), wheel.len()), (None, 0));
}

#[test]
fn a_far_timer_of_the_same_millisecond_keeps_its_turn_before_later_ones() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let at = start + 100_000 * MS;
    wheel.arm(1, at);
    wheel.arm(2, at);
    assert!(wheel.near.is_empty() && !wheel.far.marks.is_empty());
    assert!(!wheel.collect(start + 60_000 * MS, 9));
    assert!(!wheel.near.is_empty() && wheel.far.marks.is_empty());
    wheel.arm(3, at);
    assert_eq!(fire(&mut wheel, at), [1, 2, 3]);
}

#[test]
fn after_a_long_sleep_far_timers_are_dealt_within_the_budget() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    let bucket = Duration::from_millis(BUCKET_TICKS);
    for n in 0..40 {
        wheel.arm(n, start + (80 + n / 10) * bucket + n * MS);
    }
    let far = |wheel: &Wheel| {
        (0..40).filter(|n| wheel.nodes.place(link_of(*n)) == Some(Place::FAR)).collect::<Vec<_>>()
    };
    let now = start + 75 * bucket;
    assert!(!wheel.collect(now, 15));
    assert_eq!(far(&wheel), Vec::from_iter(20..40), "whole buckets, the last of them beyond the budget");
    assert_eq!(wheel.next(), wheel.deadline(0));
    wheel.arm(40, start + 82 * bucket + 20 * MS);
    assert!(!wheel.collect(now, 15));
    assert_eq!(far(&wheel), []);
    let mut order = Vec::from_iter(0..40);
    order.insert(21, 40);
    assert_eq!(fire(&mut wheel, start + 90 * bucket), order);
}

#[test]
fn a_remote_timer_of_the_same_millisecond_keeps_its_turn_while_it_comes_near() {
    let start = Instant::now();
    let at = start + 20_000_000 * MS;
    let mut wheel = Wheel::new(start);
    [1, 2, 3].into_iter().for_each(|name| wheel.arm(name, at));
    wheel.arm(1, at);
    assert_eq!((wheel.remote.len(), wheel.next(), wheel.deadline(1)), (3, Some(at), Some(at)));
    assert!(!wheel.collect(start + 10_000_000 * MS, 9));
    wheel.arm(4, at);
    assert!(wheel.remote.is_empty() && wheel.near.is_empty());
    assert_eq!((wheel.next(), wheel.deadline(4)), (Some(at), Some(at)));
    assert!(!wheel.collect(at - MS, 9));
    wheel.arm(5, at);
    assert!(wheel.disarm(3));
    assert_eq!(fire(&mut wheel, at), [2, 1, 4, 5]);
}

/// Sleeps as a loop would until nothing is armed, and counts the wake-ups that found nothing.
fn idle_wakes(wheel: &mut Wheel) -> usize {
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
    for (name, n) in (100..).zip([1, 64, 65, 66, 70, 300, 301, 3600, 86_400, 40_000_000]) {
        wheel.arm(name, secs(n));
    }
    (0..32).for_each(|n| wheel.arm(n, secs(200) + n * MS));
    wheel.arm(32, secs(200) + 40 * MS);
    (0..32).for_each(|n| assert!(wheel.disarm(n)));
    assert_eq!(idle_wakes(&mut wheel), 0);
}

#[test]
fn a_crowded_far_second_that_lost_its_earliest_wakes_for_nothing_once() {
    let start = Instant::now();
    let at = start + 102_400 * MS;
    let crowd = |wheel: &mut Wheel| (0..50).for_each(|n| wheel.arm(n, at + n * 10 * MS));
    let mut wheel = Wheel::new(start);
    crowd(&mut wheel);
    assert!(wheel.disarm(0) && wheel.disarm(1));
    assert_eq!(wheel.next(), Some(at), "the documented exception");
    assert_eq!(idle_wakes(&mut wheel), 1);

    let mut wheel = Wheel::new(start);
    crowd(&mut wheel);
    assert!(!wheel.collect(start + 50_000 * MS, 1));
    assert!(wheel.disarm(0));
    wheel.arm(1, at + 300_000 * MS);
    assert_eq!(idle_wakes(&mut wheel), 0, "within 64 s they are known to the millisecond");
}

#[test]
fn a_timer_costs_twelve_bytes_however_often_it_is_armed() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    for round in 0..1000u32 {
        wheel.arm(0, start + round * 90 * MS);
        wheel.arm(1, start + round * MS);
        wheel.arm(0, start + round * 700 * MS);
        assert!(wheel.disarm(0));
        assert_eq!(fire(&mut wheel, start + round * MS), [1]);
    }
    assert_eq!((wheel.nodes.bytes(), wheel.len()), (((TIMERS / 256 + 1) * 256 * 12) as usize, 0));
    assert!(wheel.near.is_empty() && wheel.far.marks.is_empty());
}

#[test]
fn a_timer_that_is_not_armed_cannot_be_disarmed() {
    let start = Instant::now();
    let mut wheel = Wheel::new(start);
    wheel.arm(5, start);
    assert!(!wheel.disarm(4) && !wheel.disarm(6) && !wheel.disarm(u32::MAX));
    assert!(wheel.disarm(5) && !wheel.disarm(5));
    assert_eq!((wheel.deadline(5), wheel.deadline(u32::MAX)), (None, None));
    assert_eq!(fire(&mut wheel, start + MS), []);
}

#[test]
#[should_panic = "below 2^28"]
fn a_name_that_is_no_small_number_is_refused() {
    let start = Instant::now();
    Wheel::new(start).arm(1 << 28, start);
}

#[derive(Clone, Debug)]
enum Op {
    Arm(i64),
    ArmDue,
    Rearm(usize, i64),
    Disarm(usize),
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
        8 => distance().prop_map(Op::Arm),
        1 => Just(Op::ArmDue),
        6 => (any::<usize>(), distance()).prop_map(|(n, at)| Op::Rearm(n, at)),
        3 => any::<usize>().prop_map(Op::Disarm),
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
    armed: BTreeMap<(u64, u64), u32>,
    due: Vec<u32>,
    names: BTreeSet<u32>,
}

impl Model {
    fn at(&self, micros: i64) -> Instant {
        let by = Duration::from_micros(micros.unsigned_abs());
        if micros < 0 { self.now.checked_sub(by).unwrap_or(self.start) } else { self.now + by }
    }

    fn arm(&mut self, name: u32, at: Instant) {
        self.disarm(name);
        let micros = at.saturating_duration_since(self.start).as_micros() as u64;
        self.serial += 1;
        self.armed.insert((micros.div_ceil(1000).max(self.cursor), self.serial), name);
        self.names.insert(name);
    }

    fn disarm(&mut self, name: u32) {
        self.names.remove(&name);
        self.armed.retain(|_, other| *other != name);
        self.due.retain(|other| *other != name);
    }

    fn chosen(&self, n: usize) -> Option<u32> {
        self.names.iter().nth(n.checked_rem(self.names.len())?).copied()
    }

    /// The lowest name that is not in use.
    fn fresh(&self) -> u32 {
        (0..).find(|name| !self.names.contains(name)).unwrap()
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
        names: BTreeSet::new(),
    };
    for op in ops {
        match op {
            Op::Arm(micros) => {
                let (name, at) = (model.fresh(), model.at(micros));
                wheel.arm(name, at);
                model.arm(name, at);
            }
            Op::ArmDue => {
                let name = model.fresh();
                wheel.arm_due(name);
                model.arm(name, start);
            }
            Op::Rearm(n, micros) => {
                let Some(name) = model.chosen(n) else { continue };
                let at = model.at(micros);
                match u64::try_from(micros) {
                    Ok(micros) => wheel.arm_after(name, model.now, Duration::from_micros(micros)),
                    Err(_) => wheel.arm(name, at),
                }
                model.arm(name, at);
            }
            Op::Disarm(n) => {
                let Some(name) = model.chosen(n) else { continue };
                assert!(wheel.disarm(name));
                model.disarm(name);
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
    assert_eq!((wheel.len(), wheel.remote.len(), wheel.has_due()), (0, 0, false));
    assert!(wheel.near.is_empty() && wheel.far.marks.is_empty());
}

fn pop_both(wheel: &mut Wheel, model: &mut Model, n: usize) {
    for _ in 0..n {
        let popped = wheel.pop_due();
        assert_eq!(popped, model.due.first().copied());
        let Some(name) = popped else { break };
        model.disarm(name);
    }
}

fn next_is_right(wheel: &Wheel, model: &Model) {
    assert_eq!(wheel.len(), model.names.len());
    for (&(tick, _), &name) in &model.armed {
        assert_eq!(wheel.deadline(name), Some(model.start + Duration::from_millis(tick)));
    }
    let first = model.armed.first_key_value().map(|(&(tick, _), _)| tick);
    let first = if model.due.is_empty() { first } else { Some(model.cursor) };
    let next = wheel.next().map(|at| at.duration_since(model.start).as_millis() as u64);
    let Some(first) = first else { return assert_eq!(next, None) };
    let next = next.expect("something is armed");
    let quiet = wheel.near.is_empty() && model.due.is_empty();
    let stale = wheel.far.buckets.get(bucket_of(next)).is_some_and(|bucket| bucket.min_is_stale);
    if quiet && stale && next < first {
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
            10 => (90_000_000..91_000_000i64).prop_map(Op::Arm),
            5 => (any::<usize>(), 90_000_000..92_000_000i64).prop_map(|(n, at)| Op::Rearm(n, at)),
            4 => any::<usize>().prop_map(Op::Disarm),
            1 => (0..400_000u64).prop_map(|clock| Op::Collect(clock, 5)),
            1 => Just(Op::Pop(5)),
        ], 200..500),
        stall in 0..100_000_000u64,
        more in prop::collection::vec(op(), 1..50),
    ) {
        same_as_the_model([ops, vec![Op::Collect(stall, 3)], more].concat());
    }
}
