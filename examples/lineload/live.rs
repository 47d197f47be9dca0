//! One live client: it writes its lines in pieces, several before their answers, and checks every byte that comes.
//!
//! `pending` is one stretch of bytes with two marks, `answered <= sent <= pending.len()`: what came back rightly (a
//! little of it is kept, to know repeated bytes), what is on its way, what is not yet written. Whatever comes must be
//! what is on its way, byte for byte.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::answers::Answers;
use crate::compare::{Difference, difference};
use crate::lines::{Lines, count_lines};
use crate::tally::{Failure, Fault};

/// One live client, over all its connections.
#[derive(Debug)]
pub(crate) struct Live {
    number: usize,
    socket: Option<Socket>,
    phase: Phase,
    pending: Vec<u8>,
    answered: usize,
    sent: usize,
    /// The line that is made next, and the one whose answer is due, counted from 1.
    next_line: u64,
    due_line: u64,
    is_writable: bool,
    /// When the last answer came, or when a line was made after all had been answered.
    progress: Instant,
    answers: Answers,
    /// What came from the due line on, once something differs.
    found: Vec<u8>,
}

/// Where a client is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Without a connection: at first, and after a failure.
    Apart,
    Connecting,
    Open,
    /// A byte was wrong at this time: what follows is collected, so that it can be said what happened.
    Puzzled(Instant),
    /// It has said all it had to say and waits for the end of the stream.
    Leaving,
    Done,
}

/// A failure with the number of lines that it cost.
pub(crate) type Lost = (Failure, u64);

impl Live {
    pub(crate) fn new(number: usize, answers: Answers, now: Instant) -> Self {
        Self {
            number,
            socket: None,
            phase: Phase::Apart,
            pending: Vec::new(),
            answered: 0,
            sent: 0,
            next_line: 1,
            due_line: 1,
            is_writable: false,
            progress: now,
            answers,
            found: Vec::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether an answer has come on any of its connections.
    pub(crate) fn was_answered(&self) -> bool {
        self.due_line > 1
    }

    /// Whether it waits for nothing: all its lines are answered.
    pub(crate) fn is_quiet(&self) -> bool {
        match self.phase {
            Phase::Open => self.answered == self.pending.len(),
            Phase::Apart | Phase::Done => true,
            Phase::Connecting | Phase::Puzzled(_) | Phase::Leaving => false,
        }
    }

    /// Begins anew with a connection that is on its way. Its lines go on being counted.
    pub(crate) fn connecting(&mut self, socket: Socket) {
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        self.pending.clear();
        self.found.clear();
        self.answers.clear();
        (self.answered, self.sent, self.is_writable) = (0, 0, false);
        self.due_line = self.next_line;
    }

    /// Gives up the connection.
    pub(crate) fn part(&mut self) {
        self.socket = None;
        self.phase = Phase::Apart;
    }

    /// Its socket has become writable: the connection is made, or there is room again. An error is the connection's.
    pub(crate) fn writable(&mut self, now: Instant) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.phase == Phase::Connecting {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            if socket.peer_addr().is_err_and(|error| error.kind() == ErrorKind::NotConnected) {
                return Ok(());
            }
            self.phase = Phase::Open;
            self.progress = now;
        }
        self.is_writable = true;
        Ok(())
    }

    /// Makes a line if fewer than `window` are open, and writes up to a random place of what is unsent. Answers how
    /// many lines have left completely.
    pub(crate) fn turn(
        &mut self,
        lines: &Lines,
        window: u64,
        rng: &mut Rng,
        now: Instant,
    ) -> io::Result<u64> {
        if self.phase != Phase::Open {
            return Ok(0);
        }
        if self.next_line - self.due_line < window {
            if self.next_line == self.due_line {
                self.progress = now;
            }
            lines.push(&mut self.pending, self.number, self.next_line);
            self.next_line += 1;
        }
        let unsent = self.pending.len() - self.sent;
        if unsent == 0 { Ok(0) } else { self.write(rng.usize(1..=unsent), now) }
    }

    /// Writes all that is unsent.
    pub(crate) fn flush(&mut self, now: Instant) -> io::Result<u64> {
        let unsent = self.pending.len() - self.sent;
        if unsent == 0 || self.phase != Phase::Open { Ok(0) } else { self.write(unsent, now) }
    }

    fn write(&mut self, bytes: usize, now: Instant) -> io::Result<u64> {
        let waited = self.waits();
        let left = self.send(bytes)?;
        if left > 0 && !waited {
            // The first line of which all has left: from now on an answer is due.
            self.progress = now;
        }
        Ok(left)
    }

    /// Whether all of some line has left, and not all of its answer has come.
    fn waits(&self) -> bool {
        memchr::memchr(b'\n', &self.pending[self.answered..self.sent]).is_some()
    }

    fn send(&mut self, bytes: usize) -> io::Result<u64> {
        let Some(socket) = self.socket.as_mut().filter(|_| self.is_writable) else { return Ok(0) };
        let part = &self.pending[self.sent..self.sent + bytes];
        match socket.write(part) {
            Ok(written) => {
                self.sent += written;
                Ok(count_lines(&part[..written]))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_writable = false;
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Says that nothing more comes from this side.
    pub(crate) fn leave(&mut self) {
        if let (Phase::Open, Some(socket)) = (self.phase, &self.socket) {
            // If it fails, the stream has ended already: the next read says so.
            let _ = socket.shutdown(Shutdown::Write);
            self.phase = Phase::Leaving;
        }
    }

    /// Reads all there is and checks it. Answers how many lines were answered, or how the connection ended.
    pub(crate) fn receive(&mut self, chunk: &mut [u8], now: Instant) -> (u64, Option<Fault>) {
        let before = self.due_line;
        let fault = loop {
            let Some(socket) = self.socket.as_mut().filter(|_| self.phase != Phase::Connecting) else {
                break None;
            };
            match socket.read(chunk) {
                Ok(0) if self.phase == Phase::Leaving => {
                    self.part();
                    self.phase = Phase::Done;
                    break None;
                }
                Ok(0) => break Some(Fault::Closed),
                Ok(count) => {
                    let came = self.answers.take(&chunk[..count]);
                    self.check(&came, now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break Some(Fault::Reset),
            }
        };
        (self.due_line - before, fault)
    }

    fn check(&mut self, came: &[u8], now: Instant) {
        if matches!(self.phase, Phase::Puzzled(_)) {
            self.found.extend_from_slice(came);
            return;
        }
        let due = &self.pending[self.answered..self.sent];
        let right = if due.starts_with(came) {
            came.len()
        } else {
            due.iter().zip(came).take_while(|(one, other)| one == other).count()
        };
        self.answered += right;
        self.due_line += count_lines(&came[..right]);
        self.progress = now;
        if right < came.len() {
            self.found.clear();
            self.found.extend_from_slice(&self.pending[self.line_start()..self.answered]);
            self.found.extend_from_slice(&came[right..]);
            self.phase = Phase::Puzzled(now);
        } else if self.answered > FORGET_BYTES {
            let forgotten = self.line_start().saturating_sub(KEEP_BYTES);
            self.pending.drain(..forgotten);
            self.answered -= forgotten;
            self.sent -= forgotten;
        }
    }

    /// Where the due line begins in `pending`.
    fn line_start(&self) -> usize {
        memchr::memrchr(b'\n', &self.pending[..self.answered]).map_or(0, |at| at + 1)
    }

    /// Whether it has waited too long for an answer, or has seen enough of wrong bytes.
    pub(crate) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        match self.phase {
            Phase::Puzzled(since) => now - since >= PUZZLED_FOR || self.found.len() >= FOUND_MAX_BYTES,
            Phase::Open => self.waits() && now - self.progress >= patience,
            _ => false,
        }
    }

    /// The connection is over, by `fault` unless a byte was wrong before: what is to be told of it.
    pub(crate) fn fail(&mut self, fault: Fault, at: Duration, hups: u64) -> Lost {
        let start = self.line_start();
        let expected = &self.pending[start..self.sent];
        let is_wrong = matches!(self.phase, Phase::Puzzled(_));
        let found =
            if is_wrong { mem::take(&mut self.found) } else { self.pending[start..self.answered].to_vec() };
        let (fault, lines_lost) = if is_wrong {
            let difference = difference(&self.pending[..start], expected, &found);
            (Fault::Wrong(difference), lines_of(difference, expected, &found))
        } else {
            // A line of which a part has left was accepted by the system, and is lost like a whole one.
            let begun = expected.split_inclusive(|&byte| byte == b'\n').count() as u64;
            (fault, begun)
        };
        let expected = expected.to_vec();
        let failure = Failure { client: self.number, line: self.due_line, fault, at, hups, expected, found };
        self.part();
        (failure, lines_lost)
    }
}

/// The lines that lost bytes.
fn lines_of(difference: Difference, expected: &[u8], found: &[u8]) -> u64 {
    let Difference::Lost(count) = difference else { return 0 };
    let same = expected.iter().zip(found).take_while(|(one, other)| one == other).count();
    count_lines(&expected[same..same + count]).max(1)
}

/// So much of what was answered is forgotten at once, and so much of it kept.
const FORGET_BYTES: usize = 8192;
const KEEP_BYTES: usize = 1024;
/// How long, and how much, is collected after a wrong byte.
const PUZZLED_FOR: Duration = Duration::from_secs(1);
const FOUND_MAX_BYTES: usize = 4096;
