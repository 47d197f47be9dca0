//! The two buffers in memory, without a socket: lines out of an `Input`, copies and shared pieces through an `Output`,
//! each beside the plainest ways to do the same: `Input::line` minds limits, budgets and CR besides. ns per operation,
//! medians of rounds in which the ways take turns, so that the ratios hold on a busy machine too; in brackets, how many
//! times the first.
//!
//!     cargo bench --bench buffer
//!     cargo bench --bench buffer -- --test        a blink: does it work?

#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lineplex::{Input, Output};
use memchr::{memchr, memchr_iter};

/// One way to do something.
struct Way<'a> {
    name: &'static str,
    /// A round of it, and how long that took.
    run: Box<dyn FnMut() -> Duration + 'a>,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let is_asked = |arg: &str| args.iter().any(|given| given == arg);
    // `cargo test --benches` gives no argument at all.
    let rounds = if is_asked("--bench") && !is_asked("--test") { ROUNDS } else { 1 };
    println!("a line out of a block of 64 KiB");
    for length in [16, 64, 512, 4096] {
        lines(&format!("{length} bytes"), &[length], rounds);
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let mixed: Vec<usize> = std::iter::repeat_with(|| rng.usize(4..100)).take(1000).collect();
    lines("4 to 99", &mixed, rounds);
    println!("bytes into an output, and out of it again after 16 times");
    for length in [16, 64, 512, 4096] {
        output(length, rounds);
    }
}

/// Lines of these lengths, over and over, LF included.
fn lines(what: &str, lengths: &[usize], rounds: usize) {
    let (mut block, mut count) = (Vec::new(), 0);
    for length in lengths.iter().cycle() {
        if block.len() + length > BLOCK {
            break;
        }
        block.resize(block.len() + length - 1, b'x');
        block.push(b'\n');
        count += 1;
    }
    let ways = [
        Way {
            name: "Input::line",
            run: Box::new(|| {
                let mut input = Input::from(block.as_slice());
                timed(|| {
                    while let Some(line) = input.line() {
                        black_box(line);
                    }
                })
            }),
        },
        Way {
            name: "memchr for each",
            run: Box::new(|| timed(|| split(&block, |rest| memchr(b'\n', rest)))),
        },
        Way {
            name: "memchr_iter",
            run: Box::new(|| {
                timed(|| {
                    let mut start = 0;
                    for end in memchr_iter(b'\n', &block) {
                        black_box(&block[start..end]);
                        start = end + 1;
                    }
                })
            }),
        },
        Way {
            name: "byte by byte",
            run: Box::new(|| timed(|| split(&block, |rest| rest.iter().position(|byte| *byte == b'\n')))),
        },
    ];
    compare(what, ways, count, rounds);
}

fn split(block: &[u8], find: impl Fn(&[u8]) -> Option<usize>) {
    let mut rest = block;
    while let Some(end) = find(rest) {
        black_box(&rest[..end]);
        rest = &rest[end + 1..];
    }
}

fn output(length: usize, rounds: usize) {
    let bytes = vec![b'x'; length];
    let shared: Rc<[u8]> = Rc::from(bytes.as_slice());
    let (mut copies, mut pieces, mut plain) = (Output::default(), Output::default(), Vec::new());
    let ways = [
        Way {
            name: "append",
            run: Box::new(|| timed(|| through(&mut copies, |output| output.append(&bytes, usize::MAX)))),
        },
        Way {
            name: "append_shared",
            run: Box::new(|| {
                timed(|| through(&mut pieces, |output| output.append_shared(&shared, usize::MAX)))
            }),
        },
        Way {
            name: "a plain Vec",
            run: Box::new(|| {
                timed(|| {
                    for _ in 0..APPENDS / AT_ONCE {
                        (0..AT_ONCE).for_each(|_| plain.extend_from_slice(black_box(&bytes)));
                        black_box(&plain);
                        plain.clear();
                    }
                })
            }),
        },
    ];
    compare(&format!("{length} bytes"), ways, APPENDS, rounds);
}

/// Fills `output` and has it sent, as far as that can be had without a socket.
fn through(output: &mut Output, add: impl Fn(&mut Output) -> bool) {
    for _ in 0..APPENDS / AT_ONCE {
        for _ in 0..AT_ONCE {
            assert!(add(black_box(output)));
        }
        if output.single().is_none() {
            let mut slices = [IoSlice::new(&[]); 64];
            black_box(output.front(&mut slices));
        }
        output.advance(output.len());
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// Prints the median ns of each way, and how many times the first one's they are.
fn compare<const N: usize>(what: &str, mut ways: [Way<'_>; N], count: usize, rounds: usize) {
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            times.push((way.run)().as_nanos() as f64 / count as f64);
        }
    }
    print!("{what:>12}");
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    for (way, median) in ways.iter().zip(medians) {
        print!("   {} {median:.1} ns ({:.2})", way.name, median / medians[0]);
    }
    println!();
}

const BLOCK: usize = 64 * 1024;
const ROUNDS: usize = 501;
/// Appends in one round, and before what is there is taken out.
const APPENDS: usize = 1024;
const AT_ONCE: usize = 16;
