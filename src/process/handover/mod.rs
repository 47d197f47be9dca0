//! The restart that keeps the port, the pid and every live client: probe → freeze → exec → commit.
//!
//! [`Restart`] is the part that the image which serves plays; it is asked by SIGHUP and woken by the loop. While a probe
//! runs, everybody is served. What the next image is at its start, and what it finds, is in `birth.rs`.

mod birth;
mod link;
mod listeners;
mod succession;
mod trial;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

pub(super) use birth::{Birth, Heir};
pub(super) use link::Standby;
pub(super) use listeners::Sorted;
pub(super) use trial::Trial;

use super::around::Around;
use super::image::Image;
use crate::config::RestartConfig;
use crate::mux::{Mux, Server};
use crate::{Error, ErrorKind, Result, sys};
use succession::{Files, Stays};
use trial::{Approved, Probe};

/// Restarts, as the image that serves sees them.
#[derive(Debug)]
pub(super) struct Restart {
    image: Image,
    limits: RestartConfig,
    loop_limits: crate::config::Limits,
    stage: Stage,
    /// SIGHUP came while one was under way.
    again: bool,
    /// Restarts that have succeeded.
    generation: u64,
    /// When the one that is under way began, on the system's monotonic clock.
    began: Duration,
    /// Names of the listeners that are no longer in the configuration: the last ones of the loop, until the standby, which
    /// has them too, is gone.
    removed: Vec<String>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The probe may answer until then.
    Probing(Probe, Instant),
    /// The log may be written until then.
    Logging(Approved, Instant),
    /// What runs on other threads may come to its end until then.
    Resting(Approved, Instant),
    /// This image has taken over, and the standby of the one before is about to end: when to look again, and how often
    /// that was done.
    Settling(Standby, Instant, u32),
}

impl Restart {
    pub(super) fn new(
        image: Image,
        limits: RestartConfig,
        loop_limits: crate::config::Limits,
        generation: u64,
        began: Duration,
    ) -> Self {
        Self {
            image,
            limits,
            loop_limits,
            stage: Stage::Idle,
            again: false,
            generation,
            began,
            removed: Vec::new(),
        }
    }

    /// What this process was started with.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// This image has committed: the standby of the one before, if it had one, is on its way out. `removed` are the names
    /// of the listeners that are to go, the last ones of the loop.
    pub(super) fn settle<S: Server>(
        &mut self,
        mux: &mut Mux<S>,
        around: &Around,
        standby: Option<Standby>,
        removed: Vec<String>,
    ) {
        self.removed = removed;
        match standby {
            Some(standby) if mux.watch(&standby).is_ok() => {
                self.stage = Stage::Settling(standby, Instant::now() + SETTLE_TIME, 0);
            }
            _ => self.succeeded(mux, around),
        }
    }

    /// The image before is gone. Only now can nobody come any more to a listener that is closed.
    fn succeeded<S: Server>(&mut self, mux: &mut Mux<S>, around: &Around) {
        let removed = std::mem::take(&mut self.removed);
        for addr in mux.close_last_listeners(removed.len()) {
            log::info!("no longer listening on {addr}");
        }
        around.restart_succeeded(mux, self.generation, self.began, &removed);
    }

    /// When [`woken`](Self::woken) is to be called at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Probing(probe, until) => probe.due().into_iter().chain([*until]).min(),
            Stage::Logging(_, until) => Some((Instant::now() + LOOK_TIME).min(*until)),
            Stage::Resting(_, until) | Stage::Settling(_, until, _) => Some(*until),
        }
    }

    /// SIGHUP.
    pub(super) fn asked<S: Server>(&mut self, mux: &mut Mux<S>, around: &Around) {
        if !matches!(self.stage, Stage::Idle) {
            self.again = true;
            return;
        }
        self.began = sys::monotonic();
        log::info!("restart: trying the new image");
        around.restart_begins();
        match self.probe(mux, around) {
            Ok(probe) => {
                self.stage = Stage::Probing(probe, Instant::now() + self.limits.probe_time);
            }
            Err(error) => self.failed(mux, around, &error),
        }
    }

    fn probe<S: Server>(&self, mux: &mut Mux<S>, around: &Around) -> Result<Probe> {
        let state = mux.state(SAMPLE_CONNS)?;
        let files = Files { pid_files: None, log: around.log(false) };
        let packed = succession::pack_state(&state, self, mux, None, &files);
        let descriptors: Vec<BorrowedFd<'_>> =
            mux.listeners().filter_map(|(listener, _)| listener.descriptor()).collect();
        let probe = Probe::start(&self.image, &packed, &descriptors)?;
        mux.watch(&probe.channel)
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot watch the probe", error))?;
        Ok(probe)
    }

    /// Something that this waits for has come, or its time is over.
    pub(super) fn woken<S: Server>(&mut self, mux: &mut Mux<S>, around: &Around) {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        if mux.is_ending() {
            // The end comes first; a probe that is dropped is ended.
            self.again = false;
            mux.rest_for_handover(false);
            return;
        }
        match stage {
            Stage::Idle => {}
            Stage::Probing(probe, until) => self.see_probe(mux, around, probe, until),
            Stage::Logging(approved, until) => self.see_log(mux, around, approved, until),
            Stage::Resting(approved, until) => self.see_rest(mux, around, approved, until),
            Stage::Settling(standby, until, waits) => self.see_standby(mux, around, standby, until, waits),
        }
        if self.again && matches!(self.stage, Stage::Idle) {
            self.again = false;
            self.asked(mux, around);
        }
    }

    fn see_probe<S: Server>(&mut self, mux: &mut Mux<S>, around: &Around, mut probe: Probe, until: Instant) {
        match probe.answer(&self.loop_limits) {
            None if Instant::now() < until => self.stage = Stage::Probing(probe, until),
            None => {
                mux.unwatch(&probe.channel);
                let limit = self.limits.probe_time.as_secs_f64();
                let error = format!("the new image did not answer the probe within probe_seconds = {limit}");
                self.failed(mux, around, &Error::new(ErrorKind::State, error));
            }
            Some(Err(error)) => {
                mux.unwatch(&probe.channel);
                self.failed(mux, around, &error);
            }
            Some(Ok(approved)) => {
                mux.unwatch(&probe.channel);
                drop(probe);
                // Everything that can be known before somebody is let go.
                match self.measure(mux) {
                    Ok(()) => self.see_log(mux, around, approved, Instant::now() + self.limits.quiesce_time),
                    Err(error) => self.failed(mux, around, &error),
                }
            }
        }
    }

    /// Whether the state is within its limit.
    fn measure<S: Server>(&self, mux: &mut Mux<S>) -> Result<()> {
        let bytes = mux.state(usize::MAX)?.len();
        succession::within_limit(bytes, &self.limits)
    }

    /// A log that nobody reads must not hold up the moment of the restart: everybody is served while it is waited for.
    fn see_log<S: Server>(&mut self, mux: &mut Mux<S>, around: &Around, approved: Approved, until: Instant) {
        if !around.log_is_idle() && Instant::now() < until {
            self.stage = Stage::Logging(approved, until);
            return;
        }
        mux.rest_for_handover(true);
        if !mux.is_at_rest() {
            let limit = self.limits.quiesce_time.as_secs_f64();
            log::info!("restart: waiting for work under way, at most quiesce_seconds = {limit}");
        }
        self.see_rest(mux, around, approved, Instant::now() + self.limits.quiesce_time);
    }

    fn see_rest<S: Server>(&mut self, mux: &mut Mux<S>, around: &Around, approved: Approved, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        if !mux.is_at_rest() && !left.is_zero() {
            self.stage = Stage::Resting(approved, until);
            return;
        }
        if std::mem::take(&mut self.again) {
            // Whoever goes on finds the signal pending, and this image would forget what it remembers. To oneself it
            // cannot fail.
            let _ = sys::kill(sys::own_pid(), libc::SIGHUP);
        }
        let stays = succession::hand_over(mux, self, &approved, around);
        mux.rest_for_handover(false);
        match stays {
            Stays::Kept(error) => self.failed(mux, around, &error),
            Stays::TookOver(error) => {
                around.took_over();
                log::warn!(
                    "restart: the standby goes on in place of the image that failed, as pid {}",
                    sys::own_pid()
                );
                self.failed(mux, around, &error);
            }
            Stays::Stopped => {}
        }
    }

    fn see_standby<S: Server>(
        &mut self,
        mux: &mut Mux<S>,
        around: &Around,
        standby: Standby,
        until: Instant,
        waits: u32,
    ) {
        if standby.is_gone() {
            mux.unwatch(&standby);
            self.succeeded(mux, around);
            return;
        }
        if Instant::now() < until {
            self.stage = Stage::Settling(standby, until, waits);
            return;
        }
        if waits == 0 {
            log::warn!("restart: the standby, pid {}, is still there", standby.pid);
        } else if waits == SETTLE_WAITS {
            log::error!("restart: the standby, pid {}, does not end and is killed", standby.pid);
            // Its end of the pipe is open, so that it lives and its number is its own.
            let _ = sys::kill(standby.pid, libc::SIGKILL);
        }
        self.stage = Stage::Settling(standby, Instant::now() + SETTLE_TIME, waits + 1);
    }

    /// Whether the standby of the image before is gone, as far as there was one. Until then the service manager may take
    /// that one for the server.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(&self.stage, Stage::Settling(standby, ..) if !standby.is_gone())
    }

    /// The process ends for good, with this status.
    pub(super) fn end(self, status: u8) {
        if let Stage::Settling(standby, ..) = self.stage {
            standby.end(status);
        }
    }

    /// This image goes on as it was.
    fn failed<S: Server>(&self, mux: &mut Mux<S>, around: &Around, error: &Error) {
        log::error!("restart failed, this image goes on: {}", error.chain());
        around.restart_failed(self.began, &error.chain());
        mux.call_hook("restart_failed_hook", |server, room| server.restart_failed_hook(room, error));
    }
}

/// Clients whose state the probe tries to take up.
const SAMPLE_CONNS: usize = 100;
/// Between two looks whether the log is written.
const LOOK_TIME: Duration = Duration::from_millis(1);
/// Between two looks at a standby that should have ended.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// After so many of them it is killed.
const SETTLE_WAITS: u32 = 5;

#[cfg(test)]
mod tests;
