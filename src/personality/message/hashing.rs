//! The check of passwords on threads of the pool: few at once, in the order of [`Line`], each in memory that is lent to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::credential::Memory;
use super::crowd::Line;
use super::messages::MessageHost;
use super::penalties::Source;
use crate::{ConnId, Conns, Handle};

/// How many passwords are being checked, and who waits for that. Each takes some 25 ms and 19 MiB, so there are few at once.
#[derive(Debug)]
pub(super) struct Hashing {
    most: usize,
    /// Checks that run, also of clients who have left meanwhile: what they cost is spent all the same.
    running: usize,
    line: Line,
    spare: Arc<Mutex<Spare>>,
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
            self.settle(conns);
            return false;
        }
        self.line.serve_first();
        self.running += 1;
        self.settle(conns);
        true
    }

    /// Memory for a check that may begin.
    pub(super) fn memory(&self) -> Lent {
        let memory = lock(&self.spare).kept.pop().unwrap_or_default();
        Lent { memory, spare: Arc::clone(&self.spare) }
    }

    /// That login does not wait any more, if it did.
    pub(super) fn leave(&mut self, id: ConnId, conns: &mut Conns) {
        self.line.leave(id);
        self.settle(conns);
    }

    /// A check is over.
    pub(super) fn done(&mut self, conns: &mut Conns) {
        self.running -= 1;
        self.settle(conns);
    }

    /// Somebody has come, begun, ended or left.
    fn settle(&mut self, conns: &mut Conns) {
        self.wake_next(conns);
        let mut spare = lock(&self.spare);
        spare.wanted = self.line.first().is_some();
        // Whoever it was kept for has left, and there is no other thread to do it.
        if !spare.wanted && self.running == 0 {
            spare.kept.clear();
        }
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

/// Memory that checks have had, for the next ones: as long as any wait.
#[derive(Debug, Default)]
struct Spare {
    wanted: bool,
    kept: Vec<Memory>,
}

/// Memory for one check. When that ends, the next has it or, if none waits, the system: on the thread of the check, since to
/// give it back takes milliseconds.
pub(super) struct Lent {
    pub(super) memory: Memory,
    spare: Arc<Mutex<Spare>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = lock(&self.spare);
        if spare.wanted {
            spare.kept.push(std::mem::take(&mut self.memory));
            return;
        }
        let left = std::mem::take(&mut spare.kept);
        drop(spare);
        drop(left);
    }
}

/// Whatever became of a thread that held it: a list of memory is whole.
fn lock(spare: &Mutex<Spare>) -> MutexGuard<'_, Spare> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many as `Limits::offload_threads`.
const HASHING_JOBS: usize = 2;

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use super::super::server::MessageServer;
    use super::*;
    use crate::config::{Limits, ListenAt};
    use crate::mux::Mux;

    /// Has `test` ask for four clients that are connected.
    fn with_clients(test: impl FnOnce([ConnId; 4], &mut Conns)) {
        let mut mux = Mux::new(MessageServer::new("test"), Limits::default()).unwrap();
        let address = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).unwrap().to_string();
        let _clients = [(); 4].map(|()| TcpStream::connect(&address).unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while mux.conns().metrics().open < 4 {
            assert!(Instant::now() < until, "{:?}", mux.conns().metrics());
            mux.turn(Some(Duration::from_secs(1))).unwrap();
        }
        mux.enter(|_, room| {
            let ids: Vec<ConnId> = room.clients.iter().map(|(id, _)| id).collect();
            test(ids.try_into().unwrap(), room.conns);
        });
    }

    /// Begins a check, if its turn has come.
    fn begin(hashing: &mut Hashing, id: ConnId, conns: &mut Conns) -> Option<Lent> {
        hashing.ask(id, Source::Unknown, conns).then(|| hashing.memory())
    }

    fn end(hashing: &mut Hashing, lent: Option<Lent>, conns: &mut Conns) {
        drop(lent.expect("it has begun"));
        hashing.done(conns);
    }

    #[test]
    fn memory_is_kept_for_those_who_wait_and_none_after_the_last_check() {
        with_clients(|ids, conns| {
            let mut hashing = Hashing::default();
            let [a, b, c, d] = ids.map(|id| begin(&mut hashing, id, conns));
            assert!(c.is_none() && d.is_none(), "two at once");
            end(&mut hashing, a, conns);
            let c = begin(&mut hashing, ids[2], conns);
            end(&mut hashing, b, conns);
            let d = begin(&mut hashing, ids[3], conns);
            end(&mut hashing, c, conns);
            end(&mut hashing, d, conns);
            assert_eq!(lock(&hashing.spare).kept.len(), 0);
        });
    }

    #[test]
    fn memory_that_was_kept_for_one_who_leaves_is_not_kept_on() {
        with_clients(|ids, conns| {
            let mut hashing = Hashing::default();
            hashing.set_most(1);
            let [a, ..] = ids.map(|id| begin(&mut hashing, id, conns));
            hashing.leave(ids[3], conns);
            end(&mut hashing, a, conns);
            let b = begin(&mut hashing, ids[1], conns);
            end(&mut hashing, b, conns);
            assert_eq!(lock(&hashing.spare).kept.len(), 1, "for the third");
            hashing.leave(ids[2], conns);
            assert_eq!(lock(&hashing.spare).kept.len(), 0);
        });
    }
}
