//! One million timers: ns per insert, re-arm, cancel and expiry of the wheel, and the same of the standard binary heap
//! with lazy deletion, measured in turns in one process. Near: random within 60 s, all in the table. Far: random within
//! 10 minutes, nine of ten in buckets. Idle: 300 s for everybody, as the idle time-outs of a server.

#![allow(missing_docs, reason = "a program")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use lineplex::wheel::{TimerId, Wheel};

/// How many, and how many re-arms.
const COUNT: usize = 1_000_000;

/// What is measured. Timers are numbered by the caller, as a server numbers its connections.
trait Timers {
    fn new(start: Instant) -> Self;
    fn insert(&mut self, n: u32, at: Instant);
    fn rearm(&mut self, n: u32, at: Instant);
    fn cancel(&mut self, n: u32);
    fn expire(&mut self, now: Instant) -> usize;
}

struct OurWheel {
    wheel: Wheel<u64>,
    ids: Vec<TimerId>,
}

impl Timers for OurWheel {
    fn new(start: Instant) -> Self {
        Self { wheel: Wheel::new(start), ids: Vec::with_capacity(COUNT) }
    }

    fn insert(&mut self, n: u32, at: Instant) {
        let id = self.wheel.insert(at, u64::from(n));
        self.ids.push(id);
    }

    fn rearm(&mut self, n: u32, at: Instant) {
        self.wheel.rearm(self.ids[n as usize], at);
    }

    fn cancel(&mut self, n: u32) {
        self.wheel.remove(self.ids[n as usize]);
    }

    fn expire(&mut self, now: Instant) -> usize {
        self.wheel.collect(now, usize::MAX);
        let mut fired = 0;
        while let Some(timer) = self.wheel.pop_due() {
            black_box(timer);
            fired += 1;
        }
        fired
    }
}

struct LazyHeap {
    heap: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    generations: Vec<u32>,
}

impl Timers for LazyHeap {
    fn new(_: Instant) -> Self {
        Self { heap: BinaryHeap::with_capacity(COUNT), generations: vec![0; COUNT] }
    }

    fn insert(&mut self, n: u32, at: Instant) {
        self.heap.push(Reverse((at, n, self.generations[n as usize])));
    }

    fn rearm(&mut self, n: u32, at: Instant) {
        self.cancel(n);
        self.insert(n, at);
    }

    fn cancel(&mut self, n: u32) {
        self.generations[n as usize] += 1;
    }

    fn expire(&mut self, now: Instant) -> usize {
        let mut fired = 0;
        while let Some(Reverse((at, n, generation))) = self.heap.peek().copied() {
            if at > now {
                break;
            }
            self.heap.pop();
            fired += usize::from(self.generations[n as usize] == generation);
        }
        fired
    }
}

/// Milliseconds ahead: the lowest, and how much more at random.
struct Load {
    name: &'static str,
    least: u64,
    spread: u64,
}

/// ns per insert, re-arm, cancel, expiry.
fn measure<T: Timers>(load: &Load) -> [f64; 4] {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(7);
    // The random numbers are drawn beforehand: they are not what is measured.
    let mut ahead = || Duration::from_millis(load.least + rng.u64(0..=load.spread));
    let first: Vec<Duration> = (0..COUNT).map(|_| ahead()).collect();
    let again: Vec<Duration> = (0..COUNT).map(|_| ahead()).collect();
    let who: Vec<u32> = (0..COUNT).map(|_| rng.u32(0..COUNT as u32)).collect();
    // The clock goes on while timers are armed: 5 s of it, so that idle ones differ.
    let now = |n: usize| start + Duration::from_micros(n as u64 * 5_000_000 / COUNT as u64);

    let mut timers = T::new(start);
    let insert = timed(COUNT, || (0..COUNT).for_each(|n| timers.insert(n as u32, now(n) + first[n])));
    let rearm = timed(COUNT, || (0..COUNT).for_each(|n| timers.rearm(who[n], now(COUNT + n) + again[n])));
    let half = COUNT / 2;
    let cancel = timed(half, || (0..half).for_each(|n| timers.cancel((n * 2) as u32)));
    let mut fired = 0;
    let end = load.least + load.spread + 10_001;
    let expire = timed(half, || {
        (0..=end).for_each(|ms| fired += timers.expire(start + Duration::from_millis(ms)));
    });
    assert_eq!(fired, half, "every timer that was not cancelled fires once");
    [insert, rearm, cancel, expire]
}

fn timed(count: usize, mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_nanos() as f64 / count as f64
}

fn main() {
    println!("{COUNT} timers, ns per operation (wheel / heap = ratio)");
    println!("{:6} {:>26} {:>26} {:>26} {:>26}", "", "insert", "re-arm", "cancel", "expire");
    let loads = [
        Load { name: "near", least: 1, spread: 60_000 },
        Load { name: "far", least: 1, spread: 600_000 },
        Load { name: "idle", least: 300_000, spread: 0 },
    ];
    for load in loads {
        let (wheel, heap) = (measure::<OurWheel>(&load), measure::<LazyHeap>(&load));
        print!("{:6}", load.name);
        for (wheel, heap) in wheel.into_iter().zip(heap) {
            print!(" {wheel:8.1} / {heap:7.1} = {:5.2}", wheel / heap);
        }
        println!();
    }
}
