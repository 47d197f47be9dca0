//! What one client's load does to another's time: 50 clients with one line each under way, by themselves, beside one that
//! pipelines as fast as it is answered, and beside 1000 that hear a flood and read it slowly.

use std::io;
use std::time::{Duration, Instant};

use super::echo::Echo;
use super::server::Server;
use super::socket::Socket;
use super::sys::{self, Epoll};
use super::window::{Figures, STALL, Sums, Times, Window};
use super::wrong;

/// The three cases, one after the other.
pub(crate) fn run(server: &Server, times: Times) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let mut quick = Echo::connect(server.addr(), QUICK, 1)?;
    let mut sums = Sums::default();
    quick.run(&mut Window::new(server, times, false, &mut sums))?;
    put(&mut figures, ["alone_p50_us", "alone_p99_us", "alone_p999_us"], &sums);

    let mut sums = Sums::default();
    let mut pipeline = Echo::connect(server.addr(), 1, PIPELINED)?;
    pipeline.begin()?;
    let epoll = beside(&quick, pipeline.epoll())?;
    // Its own time is not taken: it stays warm.
    let (ever, mut unused) = (Times { warm: EVER, run: EVER }, Sums::default());
    let mut other = Window::new(server, ever, false, &mut unused);
    let mut window = Window::new(server, times, false, &mut sums);
    run_beside(&epoll, &mut quick, &mut window, STALL, || {
        pipeline.turn(Duration::ZERO, &mut other).map(drop)
    })?;
    put(&mut figures, ["pipeline_p50_us", "pipeline_p99_us", "pipeline_p999_us"], &sums);
    drop(pipeline);

    let mut sums = Sums::default();
    let mut slow = Slow::connect(server)?;
    let epoll = beside(&quick, &slow.epoll)?;
    // Longer, until nobody's buffer takes a line at once.
    let times = Times { warm: SLOW_WARM.max(times.warm), ..times };
    let mut window = Window::new(server, times, false, &mut sums);
    run_beside(&epoll, &mut quick, &mut window, TICK, || slow.turn())?;
    put(&mut figures, ["slow_p50_us", "slow_p99_us", "slow_p999_us"], &sums);
    Ok(figures)
}

fn put(figures: &mut Figures, names: [&'static str; 3], sums: &Sums) {
    for (name, part) in names.into_iter().zip([0.5, 0.99, 0.999]) {
        figures.put(name, sums.quantile_us(part));
    }
}

/// What tells when either has something to do.
fn beside(quick: &Echo, other: &Epoll) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    quick.epoll().report_to(&epoll, 0)?;
    other.report_to(&epoll, 1)?;
    Ok(epoll)
}

/// Measures the quick ones, while the others have a turn at least that often.
fn run_beside(
    epoll: &Epoll,
    quick: &mut Echo,
    window: &mut Window<'_>,
    wait: Duration,
    mut other: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut events = sys::events(2);
    let mut heard = Instant::now();
    quick.begin()?;
    while quick.under_way() > 0 {
        epoll.wait_at_most(&mut events, wait)?;
        if quick.turn(Duration::ZERO, window)? {
            heard = Instant::now();
        } else if heard.elapsed() > STALL {
            return Err(wrong(format!("nothing came for {} s", STALL.as_secs())));
        }
        other()?;
    }
    Ok(())
}

/// Listeners that take less than they are sent. A listener's backlog stays far below any limit of output in the time of
/// one run.
struct Slow {
    epoll: Epoll,
    listeners: Vec<Socket>,
    /// Bytes that each has read.
    read: Vec<usize>,
    next: usize,
    flood: Socket,
    line: Vec<u8>,
    buffer: Vec<u8>,
    read_due: Instant,
    line_due: Instant,
}

impl Slow {
    fn connect(server: &Server) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut listeners = Vec::with_capacity(LISTENERS);
        for nth in 0..LISTENERS {
            let listener = Socket::begin_small(server.addr(), nth)?;
            if nth % 64 == 0 {
                // The queue of those who wait to be accepted has an end.
                server.settle()?;
            }
            listener.send_all(b"+\n")?;
            listeners.push(listener);
        }
        server.settle()?;
        let flood =
            Socket::connect(&epoll, server.addr(), 0, 1)?.pop().ok_or_else(|| wrong("no connection"))?;
        let mut line: Vec<u8> = b"!".iter().copied().chain((b'a'..=b'z').cycle()).take(LINE - 1).collect();
        line.push(b'\n');
        let now = Instant::now();
        let (buffer, read) = (vec![0; READ], vec![0; LISTENERS]);
        Ok(Self { epoll, listeners, read, next: 0, flood, line, buffer, read_due: now, line_due: now })
    }

    /// What is due, and no more at once than leaves the quick ones their time.
    fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for _ in 0..AT_ONCE {
            if self.read_due > now {
                break;
            }
            let count = self.listeners[self.next].receive(&mut self.buffer)?;
            for &byte in &self.buffer[..count] {
                let place = &mut self.read[self.next];
                if byte != self.line[*place % LINE] {
                    return Err(wrong(format!("listener {} reads a wrong byte", self.next)));
                }
                *place += 1;
            }
            self.next = (self.next + 1) % LISTENERS;
            self.read_due += READ_GAP / LISTENERS as u32;
        }
        if self.line_due <= now {
            self.flood.send(&self.epoll, &self.line)?;
            self.line_due += LINE_GAP;
        }
        Ok(())
    }
}

const QUICK: usize = 50;
/// Lines that the pipelining client has under way.
const PIPELINED: usize = 4096;
pub(crate) const LISTENERS: usize = 1000;
/// Bytes of a line of the flood, and of one slow read.
const LINE: usize = 1024;
const READ: usize = 1024;
/// Between two lines of the flood, and between two reads of a listener: each is sent 64 KiB a second and reads 16.
const LINE_GAP: Duration = Duration::from_nanos(1_000_000_000 / 64);
const READ_GAP: Duration = Duration::from_nanos(1_000_000_000 / 16);
const AT_ONCE: usize = 32;
const TICK: Duration = Duration::from_millis(1);
const SLOW_WARM: Duration = Duration::from_millis(500);
const EVER: Duration = Duration::from_secs(3600);
