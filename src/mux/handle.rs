//! The way into the loop from other threads: [`Handle`].

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Waker;

use super::context::{Context, Room};
use super::server::Server;
use crate::slots::ConnId;

/// Reaches one loop from any thread: wakes a connection, runs a closure on the loop, stops it. Cheap to clone.
///
/// Requests are served in phase 5 of a turn, in the order in which they came. One that names a connection that is
/// gone is dropped.
pub struct Handle<S: Server> {
    shared: Arc<Shared<S>>,
}

/// Why a request from another thread was not taken.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `Limits::handle_queue` requests are waiting: try again later.
    Full,
    /// The loop has ended.
    Ended,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "too many requests wait for the loop",
            Self::Ended => "the loop has ended",
        })
    }
}

impl std::error::Error for Refused {}

impl<S: Server> Handle<S> {
    /// Has `MuxCallback::wake` called for that connection.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn wake(&self, id: ConnId) -> Result<(), Refused> {
        self.ask(Ask::Wake(id))
    }

    /// Runs `work` on the loop with that connection's client, as one of its callbacks; drops it if the connection is
    /// gone, closing, or not open yet.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn with(
        &self,
        id: ConnId,
        work: impl FnOnce(&mut S::Client, &mut Context<'_, S>) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Refused> {
        self.ask(Ask::Client(id, Box::new(work)))
    }

    /// Runs `work` on the loop with the server.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn run(&self, work: impl FnOnce(&mut S, &mut Room<'_, S>) + Send + 'static) -> Result<(), Refused> {
        self.ask(Ask::Server(Box::new(work)))
    }

    /// As [`run`](Self::run), also when the queue is full: for what is bounded by something else.
    #[cfg(feature = "auth")]
    pub(crate) fn run_anyway(&self, work: impl FnOnce(&mut S, &mut Room<'_, S>) + Send + 'static) {
        // A loop that has ended needs nothing more.
        let _ = self.push(Ask::Server(Box::new(work)), usize::MAX);
    }

    /// Ends the loop, as [`Conns::stop`](crate::Conns::stop) does.
    ///
    /// # Errors
    /// [`Refused::Ended`] if it has ended already.
    pub fn stop(&self, status: u8) -> Result<(), Refused> {
        self.push(Ask::Stop(status), usize::MAX)
    }

    /// Ends the loop gracefully, as [`Conns::stop_gracefully`](crate::Conns::stop_gracefully) does.
    ///
    /// # Errors
    /// [`Refused::Ended`] if it has ended already.
    pub fn stop_gracefully(&self) -> Result<(), Refused> {
        self.push(Ask::Drain, usize::MAX)
    }

    pub(super) fn new(waker: Waker, limit: usize) -> Self {
        let queue = Mutex::new(Queue { asks: VecDeque::new(), open: true });
        Self { shared: Arc::new(Shared { queue, waker, limit: limit.max(1) }) }
    }

    /// Has the loop look around without asking for anything.
    pub(super) fn nudge(&self) {
        // It fails only when the poll is gone, and then nobody waits.
        let _ = self.shared.waker.wake();
    }

    /// Everything that was asked so far, in order, behind what is in `asks`.
    pub(super) fn collect(&self, asks: &mut VecDeque<Ask<S>>) {
        let mut queue = self.shared.lock();
        if asks.is_empty() {
            std::mem::swap(&mut queue.asks, asks);
        } else {
            asks.append(&mut queue.asks);
        }
    }

    /// Whether nobody has asked for anything that was not collected yet.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.lock().asks.is_empty()
    }

    /// No request is taken any more. Gives those that wait: what their closures own may ask again when it is dropped,
    /// so not under the lock, or panic.
    pub(super) fn end(&self) -> VecDeque<Ask<S>> {
        let mut queue = self.shared.lock();
        queue.open = false;
        std::mem::take(&mut queue.asks)
    }

    /// On a worker thread: does the job and sends its result to the loop. Results are bounded by the offload queue,
    /// so they are taken even when requests are not.
    pub(super) fn finish_job<T: Send + 'static>(
        &self,
        id: ConnId,
        job: impl FnOnce() -> T,
        then: impl FnOnce(&mut S::Client, &mut Context<'_, S>, T) -> io::Result<()> + Send + 'static,
    ) {
        let ask = match catch_unwind(AssertUnwindSafe(job)) {
            Ok(result) => Ask::JobDone(id, Box::new(move |client, ctx| then(client, ctx, result))),
            Err(panic) => Ask::JobPanicked(id, panic),
        };
        // A loop that has ended needs no result.
        let _ = self.push(ask, usize::MAX);
    }

    /// What a name look-up reports its addresses to.
    pub(super) fn resolver(&self) -> Resolver {
        let handle = self.clone();
        Box::new(move |id, addresses| {
            // A loop that has ended connects nowhere.
            let _ = handle.push(Ask::Resolved(id, addresses), usize::MAX);
        })
    }

    fn ask(&self, ask: Ask<S>) -> Result<(), Refused> {
        self.push(ask, self.shared.limit)
    }

    fn push(&self, ask: Ask<S>, limit: usize) -> Result<(), Refused> {
        let mut queue = self.shared.lock();
        if !queue.open {
            return Err(Refused::Ended);
        }
        if queue.asks.len() >= limit {
            return Err(Refused::Full);
        }
        queue.asks.push_back(ask);
        let first = queue.asks.len() == 1;
        drop(queue);
        if first {
            self.nudge();
        }
        Ok(())
    }
}

impl<S: Server> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Server> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("waiting", &self.shared.lock().asks.len()).finish_non_exhaustive()
    }
}

struct Shared<S: Server> {
    queue: Mutex<Queue<S>>,
    waker: Waker,
    limit: usize,
}

impl<S: Server> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Queue<S>> {
        // No code of a user runs under this lock, so a poisoned one is whole all the same.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Queue<S: Server> {
    asks: VecDeque<Ask<S>>,
    open: bool,
}

pub(super) type Resolver = Box<dyn FnOnce(ConnId, io::Result<Vec<SocketAddr>>) + Send>;
type ClientWork<S> =
    Box<dyn FnOnce(&mut <S as Server>::Client, &mut Context<'_, S>) -> io::Result<()> + Send>;
type ServerWork<S> = Box<dyn FnOnce(&mut S, &mut Room<'_, S>) + Send>;

/// One request to the loop.
pub(super) enum Ask<S: Server> {
    Wake(ConnId),
    Client(ConnId, ClientWork<S>),
    Server(ServerWork<S>),
    Resolved(ConnId, io::Result<Vec<SocketAddr>>),
    JobDone(ConnId, ClientWork<S>),
    JobPanicked(ConnId, Box<dyn Any + Send>),
    Stop(u8),
    Drain,
}
