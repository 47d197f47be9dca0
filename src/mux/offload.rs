//! A few threads for what would block the loop. Started with the first job, never more than asked for, fed by a
//! bounded queue.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(super) type Job = Box<dyn FnOnce() + Send>;
/// Told when nothing is left to do.
pub(super) type Tell = Box<dyn Fn() + Send>;

pub(super) struct Offload {
    shared: Arc<Shared>,
    threads_max: usize,
    queue_max: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
    /// A thread has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    handles: Vec<JoinHandle<()>>,
    threads: usize,
    idle: usize,
    over: bool,
    tell: Option<Tell>,
}

impl Offload {
    pub(super) fn new(threads_max: usize, queue_max: usize) -> Self {
        Self { shared: Arc::default(), threads_max: threads_max.max(1), queue_max: queue_max.max(1) }
    }

    pub(super) fn submit(&self, job: Job) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.over {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "no job is taken during a restart"));
        }
        if state.jobs.len() >= self.queue_max {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the offload queue is full"));
        }
        if state.idle <= state.jobs.len() && state.threads < self.threads_max {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("lineplex-offload".into()).spawn(move || shared.work()) {
                Ok(handle) => {
                    state.threads += 1;
                    state.handles.push(handle);
                }
                // Those that run already will do it.
                Err(error) if state.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        self.shared.more.notify_one();
        Ok(())
    }
}

impl Offload {
    /// Whether no job waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.lock().is_idle()
    }

    /// From now on `tell` is called, by one of the threads, whenever it comes to be idle; `None`: no more. The result of
    /// a job is there before its thread is.
    pub(super) fn tell_when_idle(&self, tell: Option<Tell>) {
        self.shared.lock().tell = tell;
    }

    /// Ends the threads. Jobs that wait are dropped; one that runs is waited for, at most `deadline`. False if one still
    /// runs then; it ends by itself when its job is done.
    pub(super) fn stop(&self, deadline: Duration) -> bool {
        let mut state = self.shared.lock();
        state.over = true;
        let jobs = std::mem::take(&mut state.jobs);
        self.shared.more.notify_all();
        let waited = self.shared.ended.wait_timeout_while(state, deadline, |state| state.threads > 0);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let ended = state.threads == 0;
        let handles = if ended { std::mem::take(&mut state.handles) } else { Vec::new() };
        drop(state);
        // What a job owns is the application's, and may submit again or panic when it goes.
        for job in jobs {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(job))).map_err(std::mem::forget);
        }
        // They have left their last lock: this waits for a few instructions only.
        handles.into_iter().for_each(|handle| drop(handle.join()));
        ended
    }

    /// Takes jobs again after [`stop`](Self::stop).
    pub(super) fn resume(&self) {
        self.shared.lock().over = false;
    }
}

impl Drop for Offload {
    /// Waiting jobs are dropped; running ones end by themselves and their results reach nobody.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        state.jobs.clear();
        self.shared.more.notify_all();
    }
}

impl fmt::Debug for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Offload").field("threads", &state.threads).field("jobs", &state.jobs.len()).finish()
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.idle == self.threads
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a user runs under this lock, so a poisoned one is whole all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.over {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job tells of its own panic (`Handle::finish_job`); this one is of what it owned, when it was dropped.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                    std::mem::forget(panic);
                }
                state = self.lock();
            } else {
                state.idle += 1;
                if let Some(tell) = state.tell.as_ref().filter(|_| state.is_idle()) {
                    tell();
                }
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
        state.threads -= 1;
        self.ended.notify_all();
    }
}
