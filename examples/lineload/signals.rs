//! Who sends the HUPs, in a thread of its own, and sees what the restarts do.

use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::Shared;
use crate::options::Options;
use crate::process::{GONE_AFTER, Process, Status, image, is_alive};
use crate::report::Restarts;
use crate::spread::Spread;

/// Sends what was asked for, once the load has begun, and tells `shared` when all is done.
pub(crate) fn run(options: &Options, process: &Process, shared: &Shared) -> Result<Restarts, String> {
    let mut sender = Sender { options, process, shared, image: None, attempt: None, told: Restarts::new() };
    while !shared.has_begun() && !shared.is_stopped() {
        thread::sleep(STEP);
    }
    sender.sleep_until(Instant::now() + LEAD);
    let at_first = sender.status();
    sender.told.is_watched = at_first.is_some();
    sender.attempt = at_first.map(|status| status.attempt);
    sender.image = sender.image_now();
    sender.told.images = sender.image.map(|_| 0);
    let sent = match (options.signals.every, at_first) {
        (None, Some(_)) => sender.one_by_one(),
        (every, _) => sender.at_intervals(every.unwrap_or(EVERY)),
    };
    let sent = sent.and_then(|()| sender.storm());
    if sent.is_err() {
        shared.set_gone();
    }
    sender.count(at_first);
    sender.told.unsent = (options.signals.hups + options.signals.storm).saturating_sub(sender.told.hups);
    shared.set_signals_done();
    // A process that is gone is told as such; what else keeps a signal from being sent is an error.
    match sent {
        Err(Errno::ESRCH) | Ok(()) => Ok(sender.told),
        Err(error) => Err(format!("cannot send HUP to the server: {error}")),
    }
}

struct Sender<'a> {
    options: &'a Options,
    process: &'a Process,
    shared: &'a Shared,
    /// The image of the process when it was last looked at.
    image: Option<(Pid, usize)>,
    /// The restart of which the server last said what became of it.
    attempt: Option<u64>,
    told: Restarts,
}

impl Sender<'_> {
    /// Each HUP when the restart before has ended, well or not, or was waited for in vain.
    fn one_by_one(&mut self) -> Result<(), Errno> {
        for _ in 0..self.options.signals.hups {
            let Some(before) = self.settled(|_| true) else { return Ok(()) };
            let start = Instant::now();
            self.hup()?;
            let settled = self.settled(|status| status.attempt != before.attempt);
            self.look();
            match settled {
                Some(_) => self.told.spread.add(start.elapsed()),
                None if self.shared.is_stopped() => return Ok(()),
                None => self.told.unfinished += 1,
            }
        }
        Ok(())
    }

    /// Each HUP so long after the one before, whatever became of it.
    fn at_intervals(&mut self, every: Duration) -> Result<(), Errno> {
        let start = Instant::now();
        for number in 0..self.options.signals.hups {
            if number > 0 {
                self.sleep_until(start + every * u32::try_from(number).unwrap_or(u32::MAX));
            }
            if self.shared.is_stopped() {
                return Ok(());
            }
            self.hup()?;
        }
        // The last one has its time too.
        self.sleep_until(Instant::now() + every.max(AFTER_LAST));
        Ok(())
    }

    /// All at once; the silence that follows is one.
    fn storm(&mut self) -> Result<(), Errno> {
        if self.options.signals.storm == 0 || self.shared.is_stopped() {
            return Ok(());
        }
        let pid = self.process.pid().map_err(|_| Errno::ESRCH)?;
        self.add_wave();
        for _ in 0..self.options.signals.storm {
            signal::kill(pid, Signal::SIGHUP)?;
            self.told.hups += 1;
        }
        self.sleep_until(Instant::now() + AFTER_STORM);
        Ok(())
    }

    /// Sends one, to the process that is there now: while another takes over it may take a moment until the pid file
    /// says so.
    fn hup(&mut self) -> Result<(), Errno> {
        let until = Instant::now() + GONE_AFTER;
        loop {
            // A zombie takes signals too.
            if let Some(pid) = self.process.pid().ok().filter(|pid| is_alive(*pid)) {
                // Counted before, so that nothing that it causes is put down to the one before.
                self.add_wave();
                self.told.hups += 1;
                return signal::kill(pid, Signal::SIGHUP);
            }
            if Instant::now() >= until || self.shared.is_stopped() {
                return Err(Errno::ESRCH);
            }
            thread::sleep(STEP);
        }
    }

    fn add_wave(&mut self) {
        self.shared.add_hup();
        self.told.waves += 1;
    }

    /// Waits until the server says that no restart is under way and that `fact` is true.
    fn settled(&self, fact: impl Fn(&Status) -> bool) -> Option<Status> {
        let until = Instant::now() + self.options.patience;
        loop {
            let status = self.status().filter(|status| !status.is_busy && fact(status));
            if status.is_some() || self.shared.is_stopped() || Instant::now() >= until {
                return status;
            }
            thread::sleep(STEP);
        }
    }

    /// What became of the restarts since the beginning, once none is under way.
    fn count(&mut self, at_first: Option<Status>) {
        let Some(first) = at_first else { return };
        let last = self.settled(|_| true).or_else(|| self.status());
        self.look();
        match last {
            Some(last) => self.told.finished = last.generation.saturating_sub(first.generation),
            // The file is gone with the server.
            None => self.told.unfinished += 1,
        }
    }

    /// Counts a restart that failed, and a new image of the process.
    fn look(&mut self) {
        if let Some(status) = self.status().filter(|status| !status.is_busy) {
            let before = self.attempt.replace(status.attempt);
            if before.is_some_and(|before| before != status.attempt) && !status.is_ok {
                self.told.failed += 1;
            }
        }
        let image = self.image_now();
        if image.is_some() && image != self.image {
            self.image = image;
            self.told.images = self.told.images.map(|images| images + 1);
        }
    }

    fn image_now(&self) -> Option<(Pid, usize)> {
        image(self.process.pid().ok()?)
    }

    fn status(&self) -> Option<Status> {
        Status::read(&self.process.status_file()?)
    }

    fn sleep_until(&mut self, until: Instant) {
        while Instant::now() < until && !self.shared.is_stopped() {
            self.look();
            thread::sleep(until.saturating_duration_since(Instant::now()).min(STEPS));
        }
    }
}

impl Restarts {
    fn new() -> Self {
        Self {
            hups: 0,
            unsent: 0,
            waves: 0,
            finished: 0,
            failed: 0,
            unfinished: 0,
            images: None,
            is_watched: false,
            spread: Spread::new(),
        }
    }
}

/// How long the load is on before the first signal.
const LEAD: Duration = Duration::from_millis(200);
/// How often the status is looked at: the precision of what is measured with it.
const STEP: Duration = Duration::from_millis(1);
/// The longest sleep before it is seen that the load has stopped, or that the process has a new image.
const STEPS: Duration = Duration::from_millis(5);
/// Between two HUPs if nothing says when a restart is done.
const EVERY: Duration = Duration::from_secs(1);
/// How long the load goes on at least after the last of the HUPs at intervals.
const AFTER_LAST: Duration = Duration::from_millis(500);
/// How long the load goes on after a storm, for the restart that the last HUP asked for.
const AFTER_STORM: Duration = Duration::from_secs(2);
