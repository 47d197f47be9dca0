//! The restart that keeps the port, the pid and every live client: probe → freeze → exec → commit.
//!
//! [`Restart`] is the part that the image which serves plays; it is asked by SIGHUP and woken by the loop. While a probe
//! runs, everybody is served. What the next image is at its start, and what it finds, is in `birth.rs`.

mod birth;
mod listeners;
mod succession;
mod trial;

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(super) use birth::{Birth, Heir, Standby};
pub(super) use listeners::Sorted;
pub(super) use trial::Trial;

use super::image::Image;
use crate::config::RestartConfig;
use crate::logging::Logger;
use crate::mux::{Mux, Server};
use crate::{Error, ErrorKind, Result, sys};
use succession::Stays;
use trial::{Approved, Probe};

/// What stands around the loop in this process and takes part in a restart.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) logger: &'a Option<Rc<Logger>>,
}

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
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The probe may answer until then.
    Probing(Probe, Instant),
    /// What runs on other threads may come to its end until then.
    Resting(Approved, Instant),
    /// This image has taken over, and the standby of the one before is about to end; how often it was waited for.
    Settling(Standby, u32),
}

impl Restart {
    pub(super) fn new(
        image: Image,
        limits: RestartConfig,
        loop_limits: crate::config::Limits,
        generation: u64,
        began: Duration,
    ) -> Self {
        Self { image, limits, loop_limits, stage: Stage::Idle, again: false, generation, began }
    }

    /// What this process was started with.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// This image has committed: the standby of the one before, if it had one, is on its way out.
    pub(super) fn settle<S: Server>(
        &mut self,
        mux: &mut Mux<S>,
        standby: Option<Standby>,
        around: &mut Around<'_>,
    ) {
        match standby {
            Some(standby) if mux.watch(&standby.gone).is_ok() => {
                mux.wake_outside(Some(SETTLE_TIME));
                self.stage = Stage::Settling(standby, 0);
            }
            _ => around.succeeded(self.began, self.generation),
        }
    }

    /// SIGHUP.
    pub(super) fn asked<S: Server>(&mut self, mux: &mut Mux<S>, around: &mut Around<'_>) {
        if !matches!(self.stage, Stage::Idle) {
            self.again = true;
            return;
        }
        self.began = sys::monotonic();
        log::info!("restart: trying the new image");
        around.begins(self.began, self.generation);
        match self.probe(mux, around) {
            Ok(probe) => {
                self.stage = Stage::Probing(probe, Instant::now() + self.limits.probe_time);
                mux.wake_outside(Some(self.limits.probe_time));
            }
            Err(error) => self.failed(mux, around, &error),
        }
    }

    fn probe<S: Server>(&self, mux: &mut Mux<S>, around: &Around<'_>) -> Result<Probe> {
        let state = mux.state(SAMPLE_CONNS);
        let packed = succession::pack_state(&state, self, mux, None, around);
        let descriptors: Vec<BorrowedFd<'_>> =
            mux.listeners().filter_map(|(listener, _)| listener.descriptor()).collect();
        let probe = Probe::start(&self.image, &packed, &descriptors)?;
        mux.watch(&probe.channel)
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot watch the probe", error))?;
        Ok(probe)
    }

    /// Something that this waits for has come, or its time is over.
    pub(super) fn woken<S: Server>(&mut self, mux: &mut Mux<S>, around: &mut Around<'_>) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => {}
            Stage::Probing(probe, until) => self.see_probe(mux, around, probe, until),
            Stage::Resting(approved, until) => self.see_rest(mux, around, approved, until),
            Stage::Settling(standby, waits) => self.see_standby(mux, around, standby, waits),
        }
        if self.again && matches!(self.stage, Stage::Idle) {
            self.again = false;
            self.asked(mux, around);
        }
    }

    fn see_probe<S: Server>(
        &mut self,
        mux: &mut Mux<S>,
        around: &mut Around<'_>,
        mut probe: Probe,
        until: Instant,
    ) {
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
                mux.rest_for_handover(true);
                self.see_rest(mux, around, approved, Instant::now() + self.limits.quiesce_time);
            }
        }
    }

    fn see_rest<S: Server>(
        &mut self,
        mux: &mut Mux<S>,
        around: &mut Around<'_>,
        approved: Approved,
        until: Instant,
    ) {
        let left = until.saturating_duration_since(Instant::now());
        if !mux.is_at_rest() && !left.is_zero() {
            mux.wake_outside(Some(left));
            self.stage = Stage::Resting(approved, until);
            return;
        }
        mux.wake_outside(None);
        let stays = succession::hand_over(mux, self, &approved, around);
        mux.rest_for_handover(false);
        match stays {
            Stays::Kept(error) => self.failed(mux, around, &error),
            Stays::TookOver(error) => {
                around.took_over();
                self.failed(mux, around, &error);
            }
            Stays::Stopped => {}
        }
    }

    fn see_standby<S: Server>(
        &mut self,
        mux: &mut Mux<S>,
        around: &mut Around<'_>,
        standby: Standby,
        waits: u32,
    ) {
        if birth::is_gone(&standby.gone) {
            mux.unwatch(&standby.gone);
            mux.wake_outside(None);
            around.succeeded(self.began, self.generation);
            return;
        }
        if waits == 0 {
            log::warn!("restart: the standby, pid {}, is still there", standby.pid);
        } else if waits == SETTLE_WAITS {
            log::error!("restart: the standby, pid {}, does not end and is killed", standby.pid);
            // Its end of the pipe is open, so that it lives and its number is its own.
            let _ = sys::kill(standby.pid, libc::SIGKILL);
        }
        mux.wake_outside(Some(SETTLE_TIME));
        self.stage = Stage::Settling(standby, waits + 1);
    }

    /// This image goes on as it was.
    fn failed<S: Server>(&mut self, mux: &mut Mux<S>, around: &mut Around<'_>, error: &Error) {
        mux.wake_outside(None);
        log::error!("restart failed, nothing has changed: {}", error.chain());
        around.failed(self.began, self.generation, &error.chain());
        mux.call_hook("restart_failed_hook", |server, room| server.restart_failed_hook(room, error));
    }
}

impl Around<'_> {
    /// The files that the next image takes over: pid file, status file, log.
    fn files(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [None, None, None]
    }

    fn begins(&mut self, _began: Duration, _generation: u64) {}

    fn succeeded(&mut self, _began: Duration, _generation: u64) {}

    fn failed(&mut self, _began: Duration, _generation: u64, _why: &str) {}

    /// The service manager shall watch the standby while this process changes.
    fn announce(&mut self, _standby: i32) -> std::io::Result<()> {
        Ok(())
    }

    /// In the standby, or in the image that stays: the service manager shall watch `pid` again.
    fn hand_back(&mut self, _pid: i32) {}

    /// This process was the standby and is the server now.
    fn took_over(&mut self) {}

    /// Threads may run again.
    fn resume(&mut self) {
        if let Some(logger) = self.logger {
            logger.resume();
        }
    }
}

/// Clients whose state the probe tries to take up.
const SAMPLE_CONNS: usize = 100;
/// Between two looks at a standby that should have ended.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// After so many of them it is killed.
const SETTLE_WAITS: u32 = 5;
