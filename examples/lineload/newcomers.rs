//! The new connections: each is begun at its time, says one line, reads its answer, closes in good order.
//!
//! The schedule is open: number n is due n / rate seconds after the begin, whatever became of those before. One that
//! cannot be begun in time is begun late and counted as such; none is left out.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use slab::Slab;
use socket2::Socket;

use crate::answers::Answers;
use crate::options::Options;
use crate::socket::Begun;
use crate::tally;

/// All new connections of a run.
#[derive(Debug)]
pub(crate) struct Newcomers {
    open: Slab<Newcomer>,
    /// Those that met a full queue.
    waiting: VecDeque<Newcomer>,
    /// Tokens from this number on are ours.
    first_token: usize,
    open_max: usize,
}

/// One new connection.
#[derive(Debug)]
struct Newcomer {
    /// Which one it is, from 0.
    number: u64,
    /// When it was to begin, and when it did.
    due: Instant,
    begun: Instant,
    socket: Option<Socket>,
    /// Its line, and how much of it has left and has come back.
    line: Vec<u8>,
    sent: usize,
    answered: usize,
    answers: Answers,
}

/// How a new connection ended.
enum Outcome {
    Ok,
    Refused,
    Reset,
    Closed,
    TimedOut,
    Wrong,
}

impl Newcomers {
    /// `first_token` is the number of live clients; at most `open_max` are open at a time.
    pub(crate) fn new(first_token: usize, open_max: usize) -> Self {
        Self { open: Slab::new(), waiting: VecDeque::new(), first_token, open_max }
    }

    /// Whether none is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty()
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self, options: &Options, begin: Instant, started: u64) -> Option<Instant> {
        (options.rate > 0).then(|| begin + Duration::from_secs_f64(started as f64 / options.rate as f64))
    }

    /// Begins all that are due, as far as there is room and not too many at once.
    pub(crate) fn start(
        &mut self,
        options: &Options,
        registry: &Registry,
        (begin, now): (Instant, Instant),
        tally: &mut tally::Newcomers,
    ) {
        let lines = options.said();
        for _ in 0..STARTS_A_PASS {
            let due = self.next_due(options, begin, tally.started);
            let Some(due) = due.filter(|due| *due <= now && self.open.len() < self.open_max) else { break };
            if now - due >= LATE {
                tally.late += 1;
            }
            let mut line = Vec::new();
            // Live clients and the control client have the numbers before; each of these is a client of its own.
            let client = options.live + 1 + usize::try_from(tally.started).unwrap_or(0);
            lines.push(&mut line, client, 1);
            let newcomer = Newcomer {
                number: tally.started,
                due,
                begun: now,
                socket: None,
                line,
                sent: 0,
                answered: 0,
                answers: Answers::new(client, options.is_among),
            };
            tally.started += 1;
            self.connect(newcomer, options, registry, tally);
        }
    }

    /// Tries again those that met a full queue.
    pub(crate) fn retry(&mut self, options: &Options, registry: &Registry, tally: &mut tally::Newcomers) {
        for _ in 0..self.waiting.len().min(STARTS_A_PASS) {
            let Some(newcomer) = self.waiting.pop_front() else { break };
            self.connect(newcomer, options, registry, tally);
        }
    }

    fn connect(
        &mut self,
        mut newcomer: Newcomer,
        options: &Options,
        registry: &Registry,
        tally: &mut tally::Newcomers,
    ) {
        let number = usize::try_from(newcomer.number).unwrap_or(0);
        let (address, source) = options.way(number);
        match address.begin(source) {
            Ok(Begun::Connection(socket)) => {
                let slot = self.open.vacant_entry();
                let token = Token(self.first_token + slot.key());
                let interest = Interest::READABLE | Interest::WRITABLE;
                if let Err(error) = registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest) {
                    own_failure(tally, &error);
                    return;
                }
                newcomer.socket = Some(socket);
                slot.insert(newcomer);
            }
            Ok(Begun::QueueFull) => {
                tally.queue_full += 1;
                self.waiting.push_back(newcomer);
            }
            Err(error) => match outcome_of(&error) {
                Some(outcome) => count(tally, &outcome),
                None => own_failure(tally, &error),
            },
        }
    }

    /// Something happened at the connection with this token.
    pub(crate) fn event(
        &mut self,
        token: usize,
        chunk: &mut [u8],
        now: Instant,
        tally: &mut tally::Newcomers,
    ) {
        let key = token - self.first_token;
        let Some(newcomer) = self.open.get_mut(key) else { return };
        let was_answered = newcomer.is_answered();
        let outcome = match newcomer.go_on(chunk) {
            Ok(outcome) => outcome,
            Err(error) => Some(outcome_of(&error).unwrap_or(Outcome::Reset)),
        };
        if newcomer.is_answered() && !was_answered {
            tally.spread.add(now - newcomer.due);
        }
        if let Some(outcome) = outcome {
            count(tally, &outcome);
            self.open.remove(key);
        }
    }

    /// Gives up those that were begun longer than `patience` ago.
    pub(crate) fn expire(&mut self, now: Instant, patience: Duration, tally: &mut tally::Newcomers) {
        let expired = |newcomer: &Newcomer| now.saturating_duration_since(newcomer.begun) >= patience;
        let before = self.open.len() + self.waiting.len();
        self.open.retain(|_, newcomer| !expired(newcomer));
        self.waiting.retain(|newcomer| !expired(newcomer));
        for _ in self.open.len() + self.waiting.len()..before {
            count(tally, &Outcome::TimedOut);
        }
    }
}

impl Newcomer {
    fn is_answered(&self) -> bool {
        self.answered == self.line.len()
    }

    /// Writes and reads what goes; `None` while it is not over.
    fn go_on(&mut self, chunk: &mut [u8]) -> io::Result<Option<Outcome>> {
        let Some(socket) = &mut self.socket else { return Ok(None) };
        if self.sent == 0 {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
        }
        if self.sent < self.line.len() {
            match socket.write(&self.line[self.sent..]) {
                Ok(written) => self.sent += written,
                // A write before the connection is made: there will be another event.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        loop {
            match socket.read(chunk) {
                Ok(0) if self.answered == self.line.len() => return Ok(Some(Outcome::Ok)),
                Ok(0) => return Ok(Some(Outcome::Closed)),
                Ok(read) => {
                    let came = self.answers.take(&chunk[..read]);
                    if !self.line[self.answered..self.sent].starts_with(&came) {
                        return Ok(Some(Outcome::Wrong));
                    }
                    self.answered += came.len();
                    if self.answered == self.line.len() && !came.is_empty() {
                        socket.shutdown(Shutdown::Write)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What an error says about the server; `None` if it is one of our side.
fn outcome_of(error: &io::Error) -> Option<Outcome> {
    match error.kind() {
        // A Unix socket whose server is gone, and one that is not there.
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Some(Outcome::Refused),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::NotConnected => {
            Some(Outcome::Reset)
        }
        // A write after the server had ended the stream.
        ErrorKind::BrokenPipe => Some(Outcome::Closed),
        ErrorKind::TimedOut => Some(Outcome::TimedOut),
        _ => None,
    }
}

fn count(tally: &mut tally::Newcomers, outcome: &Outcome) {
    *match outcome {
        Outcome::Ok => &mut tally.ok,
        Outcome::Refused => &mut tally.refused,
        Outcome::Reset => &mut tally.reset,
        Outcome::Closed => &mut tally.closed,
        Outcome::TimedOut => &mut tally.timed_out,
        Outcome::Wrong => &mut tally.wrong,
    } += 1;
}

fn own_failure(tally: &mut tally::Newcomers, error: &io::Error) {
    tally.failed += 1;
    tally.error.get_or_insert_with(|| error.to_string());
}

/// New connections that are begun before others are looked at again.
const STARTS_A_PASS: usize = 256;
/// One that begins so much after its time is late.
const LATE: Duration = Duration::from_millis(100);
