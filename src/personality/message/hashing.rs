//! The check of passwords on threads of the pool: few at once, in the order of [`Line`], each in memory that is lent to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::credential::Memory;
use super::logins::Line;
use super::messages::MessageHost;
use super::penalties::Source;
use crate::{ConnId, Conns, Handle};

/// How many passwords are being checked, and who waits for that. A check takes 26 ms and 19 MiB, so there are few at once.
#[derive(Debug)]
pub(super) struct Hashing {
    most: usize,
    /// Checks that run, also of clients who have left meanwhile: what they cost is spent all the same.
    running: usize,
    line: Line,
    /// Memory for the next checks.
    spare: Arc<Mutex<Vec<Memory>>>,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { most: HASHING_JOBS, running: 0, line: Line::default(), spare: Arc::default() }
    }
}

impl Hashing {
    /// Checks that may run at once; at least 1.
    pub(super) fn set_most(&mut self, jobs: usize) {
        self.most = jobs.max(1);
    }

    /// Whether the check of that login may begin: then [`done`](Self::done) follows. Else it waits in line, and is woken to
    /// ask again.
    pub(super) fn ask(&mut self, id: ConnId, source: Source, conns: &mut Conns) -> bool {
        let first = self.line.first();
        if self.running >= self.most || first.is_some_and(|first| first != id) {
            self.line.join(id, source);
            self.wake_next(conns);
            return false;
        }
        self.line.serve_first();
        self.running += 1;
        self.wake_next(conns);
        true
    }

    /// Memory for a check that may begin. As long as others wait the next one has it again; then it is the system's.
    pub(super) fn memory(&self) -> Lent {
        let memory = lock(&self.spare).pop().unwrap_or_default();
        Lent { memory, back: self.line.first().map(|_| Arc::clone(&self.spare)) }
    }

    /// That login does not wait any more, if it did.
    pub(super) fn leave(&mut self, id: ConnId, conns: &mut Conns) {
        self.line.leave(id);
        self.wake_next(conns);
    }

    /// A check is over.
    pub(super) fn done(&mut self, conns: &mut Conns) {
        self.running -= 1;
        self.wake_next(conns);
    }

    fn wake_next(&mut self, conns: &mut Conns) {
        while let Some(first) = self.line.first().filter(|_| self.running < self.most) {
            if conns.is_open(first) {
                return conns.wake(first);
            }
            self.line.leave(first);
        }
    }
}

/// One of the checks that may run at once, from when it begins until it is over, or dropped without having run.
pub(super) struct HashingPlace<S: MessageHost>(pub(super) Handle<S>);

impl<S: MessageHost> Drop for HashingPlace<S> {
    fn drop(&mut self) {
        self.0.run_anyway(|server, room| server.messages().hashing.done(room.conns));
    }
}

/// Memory for one check.
pub(super) struct Lent {
    pub(super) memory: Memory,
    back: Option<Arc<Mutex<Vec<Memory>>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = &self.back {
            lock(back).push(std::mem::take(&mut self.memory));
        }
    }
}

/// Whatever became of a thread that held it: a list of memory is whole.
fn lock(spare: &Mutex<Vec<Memory>>) -> MutexGuard<'_, Vec<Memory>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many as `Limits::offload_threads`.
const HASHING_JOBS: usize = 2;
