//! One million timers: ns per operation and bytes of the wheel, and of the standard binary heap with lazy deletion.
//!
//! Timers are named by the caller, as a server names its connections, and chosen at random. What that costs (the choice,
//! the deadline, the time that goes on) is measured in the same rounds with a structure that does nothing, printed as
//! "harness", and taken off the others. All figures are medians of the rounds; the seed is always the same.
//!
//! - near: random, 10 to 60 s ahead; far: 10 s to 10 min; idle: 300 s for everybody, as the idle time-outs of a server
//! - insert: into new memory, with its growth and page faults; again: into what the fired ones left
//! - re-arm: a random one gets another deadline; "lazy" in the idle load: as the mux does it, a store at each input, and
//!   the timer that fires looks at it and is armed for what is left
//! - cancel: at random, half of them; expire: the others, in steps of 1 ms
//! - bytes: allocated for each, with what is allocated ahead

#![allow(missing_docs, reason = "a program")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lineplex::wheel::Wheel;

/// How many, and how many re-arms.
const COUNT: usize = 1_000_000;
const ROUNDS: usize = 5;
/// Timers armed, or armed again, in one millisecond.
const PER_TICK: usize = 200;

/// What is measured. Times are in milliseconds from `start`.
trait Timers {
    fn new(start: Instant) -> Self;
    fn insert(&mut self, n: u32, now: Instant, after: Duration);
    fn rearm(&mut self, n: u32, now: Instant, after: Duration, ms: u32);
    fn cancel(&mut self, n: u32);
    /// Fires what is due; how many that were. `ms`: the milliseconds from `start` to `now`.
    fn expire(&mut self, now: Instant, ms: u32) -> usize;
}

/// The caller alone.
struct Nothing;

impl Timers for Nothing {
    fn new(_: Instant) -> Self {
        Self
    }

    fn insert(&mut self, n: u32, now: Instant, after: Duration) {
        black_box((n, now, after));
    }

    fn rearm(&mut self, n: u32, now: Instant, after: Duration, _: u32) {
        black_box((n, now, after));
    }

    fn cancel(&mut self, n: u32) {
        black_box(n);
    }

    fn expire(&mut self, now: Instant, _: u32) -> usize {
        black_box(now);
        0
    }
}

impl Timers for Wheel {
    fn new(start: Instant) -> Self {
        Self::new(start)
    }

    fn insert(&mut self, n: u32, now: Instant, after: Duration) {
        self.arm_after(n, now, after);
    }

    fn rearm(&mut self, n: u32, now: Instant, after: Duration, _: u32) {
        self.arm_after(n, now, after);
    }

    fn cancel(&mut self, n: u32) {
        self.disarm(n);
    }

    fn expire(&mut self, now: Instant, _: u32) -> usize {
        self.collect(now, usize::MAX);
        let mut fired = 0;
        while let Some(timer) = self.pop_due() {
            black_box(timer);
            fired += 1;
        }
        fired
    }
}

/// The wheel under the mux's idle time-outs.
struct LazyWheel {
    wheel: Wheel,
    heard: Vec<u32>,
}

impl Timers for LazyWheel {
    fn new(start: Instant) -> Self {
        Self { wheel: Wheel::new(start), heard: vec![0; COUNT] }
    }

    fn insert(&mut self, n: u32, now: Instant, after: Duration) {
        self.wheel.arm_after(n, now, after);
    }

    fn rearm(&mut self, n: u32, _: Instant, _: Duration, ms: u32) {
        self.heard[n as usize] = ms;
    }

    fn cancel(&mut self, n: u32) {
        self.wheel.disarm(n);
    }

    fn expire(&mut self, now: Instant, ms: u32) -> usize {
        self.wheel.collect(now, usize::MAX);
        let mut fired = 0;
        while let Some(n) = self.wheel.pop_due() {
            let left = (self.heard[n as usize] + IDLE).saturating_sub(ms);
            if left > 0 {
                self.wheel.arm_after(n, now, Duration::from_millis(left.into()));
            } else {
                fired += 1;
            }
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
        Self { heap: BinaryHeap::new(), generations: vec![0; COUNT] }
    }

    fn insert(&mut self, n: u32, now: Instant, after: Duration) {
        self.heap.push(Reverse((now + after, n, self.generations[n as usize])));
    }

    fn rearm(&mut self, n: u32, now: Instant, after: Duration, _: u32) {
        self.cancel(n);
        self.insert(n, now, after);
    }

    fn cancel(&mut self, n: u32) {
        self.generations[n as usize] += 1;
    }

    fn expire(&mut self, now: Instant, _: u32) -> usize {
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
    count: usize,
    least: u32,
    spread: u32,
}

impl Load {
    /// ns per insert, re-arm, cancel, expiry, insert again; bytes per timer.
    fn measure<T: Timers>(&self) -> [f64; COLUMNS] {
        let start = Instant::now();
        let time = |ms: u32| start + Duration::from_millis(ms.into());
        let mut rng = fastrand::Rng::with_seed(7);
        let memory = ALLOCATED.load(Relaxed);
        let mut timers = T::new(start);
        let (mut ms, mut now, mut fired) = (0, start, 0);
        let mut turn = |n: usize, timers: &mut T| {
            if n % PER_TICK == 0 {
                ms += 1;
                now = time(ms);
                assert_eq!(timers.expire(now, ms), 0, "nothing is due so soon");
            }
            (now, ms)
        };
        let insert = timed(self.count, || {
            for n in 0..self.count {
                let (now, _) = turn(n, &mut timers);
                timers.insert(n as u32, now, self.ahead(&mut rng));
            }
        });
        let bytes = ALLOCATED.load(Relaxed).saturating_sub(memory) as f64 / self.count as f64;
        let rearm = timed(self.count, || {
            for n in 0..self.count {
                let (now, ms) = turn(n, &mut timers);
                timers.rearm(rng.u32(..self.count as u32), now, self.ahead(&mut rng), ms);
            }
        });
        // Every second one, in an order that looks like none: the factor has no divisor in common with the count.
        let cancel = timed(self.count / 2, || {
            (0..self.count / 2).for_each(|n| timers.cancel((n * 2 * 386_093 % self.count) as u32));
        });
        let (begin, end) = (self.least, ms + self.least + self.spread + 1);
        let expire = timed(self.count / 2, || {
            for ms in begin..=end {
                fired += timers.expire(time(ms), ms);
            }
        });
        assert!(
            fired == self.count / 2 || fired == 0,
            "every timer that was not cancelled fires once: {fired}"
        );
        let again = timed(self.count, || {
            (0..self.count).for_each(|n| timers.insert(n as u32, time(end), self.ahead(&mut rng)));
        });
        [insert, rearm, cancel, expire, again, bytes]
    }

    fn ahead(&self, rng: &mut fastrand::Rng) -> Duration {
        Duration::from_millis((self.least + rng.u32(0..=self.spread)).into())
    }
}

fn timed(count: usize, mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_nanos() as f64 / count as f64
}

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "the only way to see what the standard collections allocate")]
// SAFETY: every call is handed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promises are ours.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size.wrapping_sub(layout.size()), Relaxed);
        // SAFETY: the caller's promises are ours.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are ours.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Measure = fn(&Load) -> [f64; COLUMNS];

fn main() {
    // `cargo test` only looks whether it works.
    let (count, rounds_each) =
        if is_asked("--bench") && !is_asked("--test") { (COUNT, ROUNDS) } else { (1000, 1) };
    println!("{count} timers, ns per operation beyond the harness (median of {rounds_each})");
    println!(
        "{:5} {:9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "", "insert", "re-arm", "cancel", "expire", "again", "bytes"
    );
    let loads = [
        Load { name: "near", count, least: 10_000, spread: 50_000 },
        Load { name: "far", count, least: 10_000, spread: 590_000 },
        Load { name: "idle", count, least: IDLE, spread: 0 },
    ];
    for load in loads {
        let all: [(&str, Measure); 4] = [
            ("harness", Load::measure::<Nothing>),
            ("wheel", Load::measure::<Wheel>),
            ("lazy", Load::measure::<LazyWheel>),
            ("heap", Load::measure::<LazyHeap>),
        ];
        let mut rounds: Vec<Vec<[f64; COLUMNS]>> = vec![Vec::new(); all.len()];
        for round in 0..rounds_each {
            for ((name, measure), rounds) in all.iter().zip(&mut rounds) {
                let slow = *name == "heap" && round % 2 == 1;
                if !slow && (*name != "lazy" || load.spread == 0) {
                    rounds.push(measure(&load));
                }
            }
        }
        let harness = medians(&rounds[0]);
        for ((name, _), rounds) in all.iter().zip(&rounds).filter(|(_, rounds)| !rounds.is_empty()) {
            print!("{:5} {name:9}", load.name);
            for (at, figure) in medians(rounds).into_iter().enumerate() {
                let own = if *name == "harness" { 0.0 } else { harness[at] };
                print!(" {:8.1}", figure - own);
            }
            println!();
        }
    }
}

fn is_asked(option: &str) -> bool {
    std::env::args().any(|arg| arg == option)
}

fn medians(rounds: &[[f64; COLUMNS]]) -> [f64; COLUMNS] {
    std::array::from_fn(|column| {
        let mut figures: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    })
}

const COLUMNS: usize = 6;
/// The idle time-out, in milliseconds.
const IDLE: u32 = 300_000;
