//! What was counted: the live clients and their failures, and the new connections.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::compare::Difference;
use crate::lines::shown;
use crate::spread::Spread;

/// What the loop counted.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) lines_sent: u64,
    pub(crate) lines_answered: u64,
    /// Lines whose answer did not come, or came with bytes missing.
    pub(crate) lines_lost: u64,
    /// Live clients that lost their connection, by how; each was replaced.
    pub(crate) closed: u64,
    pub(crate) reset: u64,
    pub(crate) silent: u64,
    /// Live clients that got other bytes than they had sent, by what differed; each was replaced.
    pub(crate) wrong_lost: u64,
    pub(crate) wrong_repeated: u64,
    pub(crate) wrong_reordered: u64,
    pub(crate) wrong_changed: u64,
    /// What happened to live clients, the first of them.
    pub(crate) failures: Vec<Failure>,
    /// Live clients that failed after each HUP and before the next; the first number: before any.
    pub(crate) failed_after: Vec<u64>,
    pub(crate) new: Newcomers,
    /// How long the load lasted.
    pub(crate) duration: Duration,
}

/// What became of the new connections.
#[derive(Debug)]
pub(crate) struct Newcomers {
    pub(crate) started: u64,
    pub(crate) ok: u64,
    pub(crate) refused: u64,
    pub(crate) reset: u64,
    pub(crate) closed: u64,
    pub(crate) timed_out: u64,
    pub(crate) wrong: u64,
    /// Could not be made on our side: no ports, no descriptors.
    pub(crate) failed: u64,
    /// Tries that met a full queue of a Unix listener; they were repeated.
    pub(crate) queue_full: u64,
    /// Started late, since we were busy.
    pub(crate) late: u64,
    /// From the time at which each was due to its answer.
    pub(crate) spread: Spread,
    /// The first error of our side.
    pub(crate) error: Option<String>,
}

/// What happened to one live client.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) client: usize,
    /// The line that was due, counted from 1.
    pub(crate) line: u64,
    pub(crate) fault: Fault,
    /// Since the load began.
    pub(crate) at: Duration,
    /// HUPs sent before.
    pub(crate) hups: u64,
    pub(crate) expected: Vec<u8>,
    pub(crate) found: Vec<u8>,
}

/// How a live client failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server ended the stream.
    Closed,
    Reset,
    /// No answer in time.
    Silent,
    Wrong(Difference),
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            lines_sent: 0,
            lines_answered: 0,
            lines_lost: 0,
            closed: 0,
            reset: 0,
            silent: 0,
            wrong_lost: 0,
            wrong_repeated: 0,
            wrong_reordered: 0,
            wrong_changed: 0,
            failures: Vec::new(),
            failed_after: vec![0],
            new: Newcomers::new(),
            duration: Duration::ZERO,
        }
    }

    /// Counts what happened to a live client, with so many lines lost.
    pub(crate) fn fail(&mut self, failure: Failure, lines_lost: u64) {
        let count = match failure.fault {
            Fault::Closed => &mut self.closed,
            Fault::Reset => &mut self.reset,
            Fault::Silent => &mut self.silent,
            Fault::Wrong(Difference::Lost(_)) => &mut self.wrong_lost,
            Fault::Wrong(Difference::Repeated(_)) => &mut self.wrong_repeated,
            Fault::Wrong(Difference::Reordered) => &mut self.wrong_reordered,
            Fault::Wrong(Difference::Changed) => &mut self.wrong_changed,
        };
        *count += 1;
        self.lines_lost += lines_lost;
        let hups = usize::try_from(failure.hups).unwrap_or(0);
        if self.failed_after.len() <= hups {
            self.failed_after.resize(hups + 1, 0);
        }
        self.failed_after[hups] += 1;
        if self.failures.len() < FAILURES_SHOWN {
            self.failures.push(failure);
        }
    }

    /// Live clients that lost their connection.
    pub(crate) fn broken(&self) -> u64 {
        self.closed + self.reset + self.silent
    }

    /// Live clients that got other bytes than they had sent.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong_lost + self.wrong_repeated + self.wrong_reordered + self.wrong_changed
    }

    /// The least, the median and the most failed live clients after a HUP.
    pub(crate) fn failed_per_hup(&self, hups: u64) -> [u64; 3] {
        let hups = usize::try_from(hups).unwrap_or(0);
        let mut counts: Vec<u64> = self.failed_after.iter().skip(1).copied().collect();
        counts.resize(hups, 0);
        counts.sort_unstable();
        let at = |part: usize| counts.get(part).copied().unwrap_or(0);
        [at(0), at(hups / 2), at(hups.saturating_sub(1))]
    }
}

impl Newcomers {
    fn new() -> Self {
        Self {
            started: 0,
            ok: 0,
            refused: 0,
            reset: 0,
            closed: 0,
            timed_out: 0,
            wrong: 0,
            failed: 0,
            queue_full: 0,
            late: 0,
            spread: Spread::new(),
            error: None,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}, line {}, at {:.3} s", self.client, self.line, self.at.as_secs_f64())?;
        if self.hups > 0 {
            write!(f, ", after HUP {}", self.hups)?;
        }
        match &self.fault {
            Fault::Closed => f.write_str(": closed by the server")?,
            Fault::Reset => f.write_str(": reset")?,
            Fault::Silent => f.write_str(": no answer in time")?,
            Fault::Wrong(difference) => write!(f, ": {difference}")?,
        }
        // What is the same for long is left out.
        let same = self.expected.iter().zip(&self.found).take_while(|(one, other)| one == other).count();
        let from = if same > SAME_SHOWN { same - SAME_SHOWN / 2 } else { 0 };
        write!(f, "; expected {}, found {}", shown(&self.expected, from), shown(&self.found, from))
    }
}

/// So many failures are told one by one.
const FAILURES_SHOWN: usize = 10;
/// Before the place that differs, so many bytes are shown at most.
const SAME_SHOWN: usize = 30;
