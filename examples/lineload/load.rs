//! The load: one thread, one edge-triggered `mio::Poll`, plain sockets. Nothing of the crate that is tested is in it,
//! so that a fault of its loop cannot hide itself.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::Socket;

use crate::Shared;
use crate::answers::Answers;
use crate::live::{Live, Phase};
use crate::newcomers::Newcomers;
use crate::options::Options;
use crate::process::{self, GONE_AFTER};
use crate::socket::Begun;
use crate::tally::{Fault, Tally};

/// The loop and what it drives.
pub(crate) struct Load<'a> {
    options: &'a Options,
    shared: &'a Shared,
    poll: Poll,
    events: Events,
    chunk: Vec<u8>,
    rng: Rng,
    live: Vec<Live>,
    /// Clients without a connection, and when each is to try again.
    apart: VecDeque<(Instant, usize)>,
    /// Connections of live clients that are on their way.
    connecting: usize,
    /// Whether the first connections are all there, so that a failure is one of the server's.
    is_met: bool,
    newcomers: Newcomers,
    tally: Tally,
    /// When the load began: times in the report count from here.
    begin: Instant,
    /// The time of the pass, read once after its poll.
    now: Instant,
    /// Turns that live clients may take, and whose turn it is.
    credit: f64,
    next: usize,
    /// When the deadlines were looked at, and when the server's process was last seen.
    looked: Instant,
    alive: Instant,
}

/// What a pass does besides reading what comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Live clients make their connections.
    Connect,
    /// They make lines too.
    Talk,
    /// And new connections begin.
    All,
    /// What was begun is finished.
    Finish,
}

impl<'a> Load<'a> {
    /// `newcomers_max` is how many new connections may be open at a time.
    pub(crate) fn new(options: &'a Options, shared: &'a Shared, newcomers_max: usize) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            options,
            shared,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            chunk: vec![0; 64 * 1024],
            rng: Rng::with_seed(options.seed),
            live: (0..options.live)
                .map(|number| Live::new(number, Answers::new(number, options.is_among), now))
                .collect(),
            apart: (0..options.live).map(|number| (now, number)).collect(),
            connecting: 0,
            is_met: false,
            newcomers: Newcomers::new(options.live, newcomers_max),
            tally: Tally::new(),
            begin: now,
            now,
            credit: 0.0,
            next: 0,
            looked: now,
            alive: now,
        })
    }

    /// Runs it from the first connection to the last. An error is one of our side, or a server that is not there.
    pub(crate) fn run(mut self) -> Result<Tally, String> {
        self.meet()?;
        self.shared.begin();
        self.begin = Instant::now();
        let mut signals_done: Option<Instant> = None;
        while !self.is_over(&mut signals_done) {
            self.pass(Work::All)?;
        }
        self.shared.stop();
        self.tally.duration = self.begin.elapsed();
        let until = Instant::now() + 2 * self.options.patience;
        while !self.is_finished() && Instant::now() < until {
            self.pass(Work::Finish)?;
        }
        self.part()?;
        Ok(self.tally)
    }

    /// Connects all live clients, and lets each be answered once: what is lost from then on, was there.
    fn meet(&mut self) -> Result<(), String> {
        let until = Instant::now() + self.options.patience;
        let is_open = |live: &Live| live.phase() == Phase::Open;
        while !self.live.iter().all(is_open) && Instant::now() < until {
            self.pass(Work::Connect)?;
        }
        if !self.live.iter().all(is_open) {
            return Err("the live clients could not all connect in time; raise --timeout".to_owned());
        }
        self.is_met = true;
        self.begin = Instant::now();
        while !self.live.iter().all(Live::was_answered) && Instant::now() < until {
            self.pass(Work::Talk)?;
        }
        Ok(())
    }

    fn is_over(&self, signals_done: &mut Option<Instant>) -> bool {
        let ran = self.now.saturating_duration_since(self.begin);
        if self.shared.signals_are_done() {
            // A little more load, to see that all goes on.
            let since = *signals_done.get_or_insert(self.now);
            if self.now.saturating_duration_since(since) >= TAIL {
                return true;
            }
        }
        let enough = self.options.lines.is_some_and(|lines| self.tally.lines_answered >= lines);
        ran >= self.options.duration || enough || self.shared.server_is_gone()
    }

    fn is_finished(&self) -> bool {
        self.newcomers.is_empty() && self.live.iter().all(Live::is_quiet)
    }

    /// Every live client ends its stream and waits for the server to end it too: nothing may come any more.
    fn part(&mut self) -> Result<(), String> {
        self.live.iter_mut().for_each(Live::leave);
        let until = Instant::now() + self.options.patience.min(PARTING);
        let is_leaving = |live: &Live| matches!(live.phase(), Phase::Leaving | Phase::Puzzled(_));
        while self.live.iter().any(is_leaving) && Instant::now() < until {
            self.pass(Work::Finish)?;
        }
        Ok(())
    }

    /// One round: wait, read, begin what is due, take turns, look at the deadlines.
    fn pass(&mut self, work: Work) -> Result<(), String> {
        let wait = self.wait(work);
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(format!("poll: {error}")),
            _ => {}
        }
        let passed = mem::replace(&mut self.now, Instant::now());
        let passed = self.now.saturating_duration_since(passed);
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let token = event.token().0;
            if token < self.live.len() {
                self.live_event(token, event.is_writable())?;
            } else {
                self.newcomers.event(token, &mut self.chunk, self.now, &mut self.tally.new);
            }
        }
        self.events = events;
        self.connect(work)?;
        match work {
            Work::Talk | Work::All => self.turns(passed),
            Work::Finish => self.flush(),
            Work::Connect => {}
        }
        let registry = self.poll.registry();
        self.newcomers.retry(self.options, registry, &mut self.tally.new);
        if work == Work::All {
            self.newcomers.start(self.options, registry, (self.begin, self.now), &mut self.tally.new);
        }
        self.deadlines();
        Ok(())
    }

    /// How long the poll may wait: to the next thing that is due.
    fn wait(&self, work: Work) -> Duration {
        let talks = matches!(work, Work::Talk | Work::All) && !self.live.is_empty();
        if talks || !self.apart.is_empty() || !self.newcomers.is_empty() {
            return TICK;
        }
        let due = self.newcomers.next_due(self.options, self.begin, self.tally.new.started);
        let left = due.map_or(LOOK_EVERY, |due| due.saturating_duration_since(Instant::now()));
        if work == Work::All { left.min(LOOK_EVERY) } else { LOOK_EVERY }
    }

    fn live_event(&mut self, number: usize, is_writable: bool) -> Result<(), String> {
        let live = &mut self.live[number];
        let was_connecting = live.phase() == Phase::Connecting;
        if is_writable {
            if let Err(error) = live.writable(self.now) {
                live.part();
                self.connecting -= usize::from(was_connecting);
                return self.not_connected(number, &error);
            }
            self.connecting -= usize::from(was_connecting && live.phase() != Phase::Connecting);
        }
        self.receive(number);
        Ok(())
    }

    fn receive(&mut self, number: usize) {
        let (answered, fault) = self.live[number].receive(&mut self.chunk, self.now);
        self.tally.lines_answered += answered;
        if let Some(fault) = fault {
            self.fail(number, fault);
        }
    }

    /// Counts the failure of a live client; a new connection takes its place at once.
    fn fail(&mut self, number: usize, fault: Fault) {
        let at = self.now.saturating_duration_since(self.begin);
        let (failure, lines_lost) = self.live[number].fail(fault, at, self.shared.hups());
        self.tally.fail(failure, lines_lost);
        self.apart.push_back((self.now, number));
    }

    fn not_connected(&mut self, number: usize, error: &io::Error) -> Result<(), String> {
        if self.is_met {
            self.apart.push_back((self.now + RETRY, number));
            return Ok(());
        }
        let (address, _) = self.options.way(number);
        Err(format!("cannot connect live client {number} to {address}: {error}; is the server running?"))
    }

    /// Begins the connections of those that are apart, not too many at once.
    fn connect(&mut self, work: Work) -> Result<(), String> {
        if work == Work::Finish {
            self.apart.clear();
        }
        for _ in 0..self.apart.len() {
            let Some((due, number)) = self.apart.pop_front() else { break };
            if due > self.now || self.connecting >= CONNECTING_MAX {
                self.apart.push_back((due, number));
                continue;
            }
            let (address, source) = self.options.way(number);
            match address.begin(source) {
                Ok(Begun::Connection(socket)) => self.register(number, socket)?,
                Ok(Begun::QueueFull) => self.apart.push_back((self.now + TICK, number)),
                Err(error) => self.not_connected(number, &error)?,
            }
        }
        Ok(())
    }

    fn register(&mut self, number: usize, socket: Socket) -> Result<(), String> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        let registered = registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(number), interest);
        registered.map_err(|error| format!("epoll: {error}"))?;
        self.live[number].connecting(socket);
        self.connecting += 1;
        Ok(())
    }

    /// Gives live clients their turns, one after another: as many as the rate has earned in `passed`, or one each.
    /// What a full window keeps from being said is not made up for later.
    fn turns(&mut self, passed: Duration) {
        let most = |turns: usize| turns.min(TURNS_A_PASS) as f64;
        if self.options.line_rate == 0 {
            self.credit = most(self.live.len());
        } else {
            let earned = passed.as_secs_f64() * self.options.line_rate as f64;
            self.credit = (self.credit + earned).min(most(self.live.len() * self.options.window));
        }
        let lines = self.options.said();
        while self.credit >= 1.0 {
            self.credit -= 1.0;
            let number = self.next;
            self.next = (number + 1) % self.live.len();
            let sent = self.live[number].turn(&lines, self.options.window as u64, &mut self.rng, self.now);
            self.sent(number, sent);
        }
    }

    fn flush(&mut self) {
        for number in 0..self.live.len() {
            let sent = self.live[number].flush(self.now);
            self.sent(number, sent);
        }
    }

    fn sent(&mut self, number: usize, sent: io::Result<u64>) {
        match sent {
            Ok(lines) => self.tally.lines_sent += lines,
            Err(error) => {
                // What came before the end counts. A reset is told once, and it was told to the write.
                let (answered, _) = self.live[number].receive(&mut self.chunk, self.now);
                self.tally.lines_answered += answered;
                let is_reset = error.kind() == io::ErrorKind::ConnectionReset;
                self.fail(number, if is_reset { Fault::Reset } else { Fault::Closed });
            }
        }
    }

    fn deadlines(&mut self) {
        if self.now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = self.now;
        let patience = self.options.patience;
        for number in 0..self.live.len() {
            if self.live[number].is_overdue(self.now, patience) {
                self.fail(number, Fault::Silent);
            }
        }
        self.newcomers.expire(self.now, patience, &mut self.tally.new);
        let Some(process) = &self.options.process else { return };
        if process.pid().is_ok_and(process::is_alive) {
            self.alive = self.now;
        } else if self.now.saturating_duration_since(self.alive) >= GONE_AFTER {
            self.shared.set_gone();
        }
    }
}

/// The shortest wait while there is a schedule to keep.
const TICK: Duration = Duration::from_millis(1);
/// How often the deadlines are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Until a live client that was refused tries again.
const RETRY: Duration = Duration::from_millis(10);
/// How long the load goes on after the last signal has done its work.
const TAIL: Duration = Duration::from_millis(300);
/// How long the server may take to end the streams after we have.
const PARTING: Duration = Duration::from_secs(5);
/// Live connections on their way at a time: less than a usual listen queue.
const CONNECTING_MAX: usize = 100;
/// Turns in one pass, so that what comes in is read in time.
const TURNS_A_PASS: usize = 1000;
