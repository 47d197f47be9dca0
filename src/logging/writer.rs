//! The bounded queue and the one thread behind it: whoever logs never waits for a disk, a pipe or a terminal.
//!
//! The thread starts with the first line, ends with [`Writer::stop`], and takes the lock only to take the next line.
//! A line that finds the queue full, or that cannot be written, is dropped and counted; "N log lines lost" is written
//! where they are missing as soon as something can be written again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::Level;

use super::line::Line;
use super::output::{LogFile, Output};

/// One log and everything on its way to it.
#[derive(Debug)]
pub(super) struct Writer {
    state: Mutex<State>,
    /// There is something for the thread to do.
    work: Condvar,
    /// The thread has done something.
    done: Condvar,
    lost: AtomicU64,
    /// Waiting for a full log makes no sense any more.
    hurry: AtomicBool,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    /// Lost lines of which nothing in the queue tells.
    untold: u64,
    /// The last write failed: nothing is tried before the next line comes.
    failing: bool,
    reopen: bool,
    /// No thread may be started; the running one ends when the queue is empty.
    held: bool,
    /// The thread is between taking an entry and having written it.
    writing: bool,
    /// With the thread while that runs.
    output: Option<Output>,
    /// Of the output, where that is a file.
    file: Option<LogFile>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Entry {
    Line(Line),
    Lost(u64),
}

enum Job {
    Write(Entry),
    Reopen,
    End,
}

impl Writer {
    pub(super) fn new(output: Output) -> Arc<Self> {
        let state = State {
            entries: VecDeque::new(),
            untold: 0,
            failing: false,
            reopen: false,
            held: false,
            writing: false,
            file: output.file(),
            output: Some(output),
            thread: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            lost: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
        })
    }

    /// Queues `line`, or drops and counts it when the queue is full. Never waits.
    pub(super) fn push(self: &Arc<Self>, line: Line) {
        let mut state = self.lock();
        let needed = if state.untold > 0 { 2 } else { 1 };
        if state.entries.len() + needed > QUEUE_MAX_LINES {
            state.untold += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if state.untold > 0 {
            let lost = std::mem::take(&mut state.untold);
            state.entries.push_back(Entry::Lost(lost));
        }
        state.entries.push_back(Entry::Line(line));
        self.wake(&mut state);
    }

    /// Has the log opened again under its path.
    pub(super) fn reopen(self: &Arc<Self>) {
        let mut state = self.lock();
        state.reopen = true;
        self.wake(&mut state);
    }

    /// The file that lines go to, where that is a file.
    pub(super) fn file(&self) -> Option<LogFile> {
        self.lock().file.clone()
    }

    /// Lines lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything queued is written, `deadline` at most; whether it is.
    pub(super) fn flush(&self, deadline: Duration) -> bool {
        let busy = |state: &mut State| {
            state.output.is_none() && (state.writing || state.reopen || !state.entries.is_empty())
        };
        let waited = self.done.wait_timeout_while(self.lock(), deadline, busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.entries.is_empty() && !state.writing
    }

    /// Writes what is queued and ends the thread, within `deadline`; whether there is no thread any more. Lines that
    /// come later wait in the queue.
    pub(super) fn stop(&self, deadline: Duration) -> bool {
        let mut state = self.lock();
        state.held = true;
        self.work.notify_all();
        let running = |state: &mut State| state.output.is_none();
        let waited = self.done.wait_timeout_while(state, deadline, running);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.output.is_none() {
            self.hurry.store(true, Ordering::Relaxed);
            return false;
        }
        let thread = state.thread.take();
        drop(state);
        // It gave the output back with its last step under the lock: this waits for a few instructions only.
        let _ = thread.map(JoinHandle::join);
        true
    }

    /// Lets a thread start again after [`Writer::stop`].
    pub(super) fn resume(self: &Arc<Self>) {
        self.hurry.store(false, Ordering::Relaxed);
        let mut state = self.lock();
        state.held = false;
        if !state.entries.is_empty() || state.reopen {
            self.wake(&mut state);
        }
    }

    /// Tells the thread, and starts it if there is none.
    fn wake(self: &Arc<Self>, state: &mut State) {
        if state.held {
            return;
        }
        // The output is back while a thread that was told to end is on its way out.
        if let Some(output) = state.output.take() {
            let writer = Arc::clone(self);
            let slot = Arc::new(Mutex::new(Some(output)));
            let handed = Arc::clone(&slot);
            let run = move || {
                let output = handed.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(output) = output {
                    writer.run(output);
                }
            };
            match thread::Builder::new().name("log".to_owned()).spawn(run) {
                Ok(thread) => state.thread = Some(thread),
                // No thread to be had now: the next line tries again, and the queue's limit holds.
                Err(_) => state.output = slot.lock().unwrap_or_else(PoisonError::into_inner).take(),
            }
        }
        self.work.notify_one();
    }

    fn run(&self, mut output: Output) {
        loop {
            match self.next_job() {
                Job::Write(Entry::Line(line)) => self.write(&mut output, &line, 0),
                Job::Write(Entry::Lost(lost)) => {
                    let line = Line::new(Level::Warn, format_args!("{lost} log lines lost"));
                    self.write(&mut output, &line, lost);
                }
                Job::Reopen => match output.reopen() {
                    Ok(()) => self.finish(|state| state.file = output.file()),
                    Err(cause) => {
                        self.write(&mut output, &Line::new(Level::Error, format_args!("{cause}")), 0);
                    }
                },
                Job::End => {
                    let mut state = self.lock();
                    // It may have been resumed meanwhile, and then nobody else would write what is queued.
                    if state.held {
                        state.output = Some(output);
                        drop(state);
                        self.done.notify_all();
                        return;
                    }
                }
            }
        }
    }

    /// Writes a line, or the news that `told` lines are lost, which are counted already.
    fn write(&self, output: &mut Output, line: &Line, told: u64) {
        let written = output.write(line, &self.hurry).is_ok();
        self.finish(|state| {
            state.failing = !written;
            if !written {
                state.untold += told.max(1);
                if told == 0 {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }

    /// Waits for what the thread does next.
    fn next_job(&self) -> Job {
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.reopen) {
                state.failing = false;
                state.writing = true;
                return Job::Reopen;
            }
            if let Some(entry) = state.entries.pop_front() {
                state.writing = true;
                return Job::Write(entry);
            }
            if state.untold > 0 && !state.failing {
                state.writing = true;
                return Job::Write(Entry::Lost(std::mem::take(&mut state.untold)));
            }
            if state.held {
                return Job::End;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.writing = false;
        change(&mut state);
        drop(state);
        self.done.notify_all();
    }

    /// Nothing that is done under the lock can leave the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that wait for the log. Past it they are dropped and counted.
pub(super) const QUEUE_MAX_LINES: usize = 4096;

#[cfg(test)]
mod tests;
