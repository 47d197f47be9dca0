//! What stands around the loop in the process: the log, the pid file, the service manager.

use std::cell::Cell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::activation::{self, Passed};
use super::notify::Notify;
use super::pid_file::PidFile;
use super::status::Status;
use crate::config::{Config, ListenAddr, LogTarget};
use crate::logging::Logger;
use crate::mux::{Mux, Server};
use crate::net::Listener;
use crate::{Error, ErrorKind, Result, sys};

/// The parts of the process that take part in its start, its restarts and its end.
#[derive(Debug)]
pub(super) struct Around {
    /// None where the application has its own.
    pub(super) logger: Option<Rc<Logger>>,
    log_path: Option<PathBuf>,
    pid_file: Option<PidFile>,
    notify: Notify,
    /// When the service manager's watchdog is to hear of us: not before it takes this process for the server.
    ping: Cell<Option<Instant>>,
}

impl Around {
    pub(super) fn new(logger: Option<Rc<Logger>>, config: &Config) -> Self {
        let notify = Notify::from_env();
        let log_path = log_path(config).map(Path::to_owned);
        Self { logger, log_path, pid_file: None, notify, ping: Cell::new(None) }
    }

    /// From now on the pid file is this process's, which removes it at its end.
    pub(super) fn hold(&mut self, pid_file: Option<PidFile>) {
        self.pid_file = pid_file;
    }

    /// Opens the listeners, except those that the service manager has passed.
    ///
    /// # Errors
    /// As [`Listener::bind_all`], and for what was passed and is not what it should be.
    pub(super) fn open(&self, passed: Passed, config: &Config) -> Result<Vec<Listener>> {
        activation::listeners(passed, config, &self.notify)
    }

    /// The first turn is next.
    pub(super) fn serves<S: Server>(&self, mux: &Mux<S>) {
        self.store(mux);
        self.notify.ready("serving");
        self.begin_pings();
    }

    /// There will be no turn.
    pub(super) fn fails(&self, error: &Error) {
        self.notify.status(&error.chain());
    }

    /// The last turn is over.
    pub(super) fn stops(&self, config: &Config) {
        self.notify.stopping();
        // Their paths are gone: kept for a start that follows, they would be sockets that nobody can reach.
        for at in config.listen.iter().filter(|at| matches!(at.addr, ListenAddr::Unix { .. })) {
            self.notify.unstore(&at.name);
        }
    }

    /// Has the manager keep the listeners, should this process crash.
    fn store<S: Server>(&self, mux: &Mux<S>) {
        for (listener, _) in mux.listeners() {
            if let Some(fd) = listener.descriptor() {
                self.notify.store(listener.name(), fd);
            }
        }
    }

    /// When [`ping`](Self::ping) is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ping.get()
    }

    /// Tells the watchdog that the loop lives, if it is time. Called by the loop itself, so that a callback that hangs is
    /// found out.
    pub(super) fn ping(&self) {
        let now = Instant::now();
        if self.ping.get().is_some_and(|due| due <= now) {
            self.notify.watchdog();
            self.ping.set(self.notify.watchdog_period().map(|period| now + period));
        }
    }

    /// The first sign of life comes with the next turn.
    fn begin_pings(&self) {
        self.ping.set(self.notify.watchdog_period().map(|_| Instant::now()));
    }

    /// The path of the pid file, and its descriptor and that of the status file.
    pub(super) fn pid_files(&self) -> Option<(&Path, [BorrowedFd<'_>; 2])> {
        self.pid_file.as_ref().map(|pid_file| (pid_file.path(), pid_file.descriptors()))
    }

    /// The log file, if there is one, and, when no thread writes to it any more, its descriptor.
    pub(super) fn log(&self, with_descriptor: bool) -> Option<(&Path, Option<OwnedFd>)> {
        let path = self.log_path.as_deref()?;
        let logger = self.logger.as_ref().filter(|_| with_descriptor);
        Some((path, logger.and_then(|logger| logger.carried())))
    }

    /// A restart has begun.
    pub(super) fn restart_begins(&self) {
        self.write_status(|status| status.busy = true);
        self.notify.reloading("restart: trying the new image");
    }

    // Who waits for a restart or a reload looks at the status file, and then perhaps at what the service manager shows; so
    // the manager is told first.

    /// This image has taken over, and the one before is gone.
    pub(super) fn restart_succeeded<S: Server>(
        &self,
        mux: &Mux<S>,
        generation: u64,
        began: Duration,
        removed: &[String],
    ) {
        for name in removed {
            self.notify.unstore(name);
        }
        self.store(mux);
        self.notify.reloaded(&format!("serving, after restart {generation}"));
        self.begin_pings();
        let message = format!("restart {generation} done");
        self.write_status(|status| {
            *status = Status {
                generation,
                restarts_started: began,
                busy: false,
                ok: true,
                message,
                ..status.clone()
            };
        });
    }

    /// This image goes on.
    pub(super) fn restart_failed(&self, began: Duration, why: &str) {
        self.notify.reloaded(&format!("serving; the last restart failed: {why}"));
        let message = why.to_owned();
        self.write_status(|status| {
            *status = Status { restarts_started: began, busy: false, ok: false, message, ..status.clone() };
        });
    }

    /// The configuration is about to be read again.
    pub(super) fn reload_begins(&self) {
        self.notify.reloading("reading the configuration again");
    }

    /// The configuration was read again, or was not.
    pub(super) fn reloaded(&self, began: Duration, result: Result<&str, &Error>) {
        match result {
            Ok(message) => self.notify.reloaded(&format!("serving; {message}")),
            Err(error) => {
                self.notify.reloaded(&format!("serving; the last reload failed: {}", error.chain()));
            }
        }
        let message = result.map_or_else(Error::chain, str::to_owned);
        self.write_status(|status| {
            *status = Status {
                restarts_started: began,
                busy: false,
                ok: result.is_ok(),
                message,
                ..status.clone()
            };
        });
    }

    /// SIGHUP does nothing here. A service manager that has sent it (`Type=notify-reload`) would wait for an answer.
    pub(super) fn reload_ignored(&self) {
        self.notify.reloading("SIGHUP is ignored");
        self.notify.reloaded("serving; SIGHUP is ignored, as on_hup says");
    }

    /// The service manager shall watch the standby while this process changes.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn announce(&self, standby: i32) -> io::Result<()> {
        if self.notify.is_active() {
            // The next one comes when the new image serves: until then there is as much time as the watchdog allows.
            if self.ping.get().is_some() {
                self.notify.watchdog();
            }
            self.notify.main_pid(standby.unsigned_abs(), false);
            self.notify.barrier(BARRIER_TIME)?;
        }
        Ok(())
    }

    /// How long [`announce`](Self::announce) may take.
    pub(super) fn announce_time(&self) -> Duration {
        if self.notify.is_active() { BARRIER_TIME } else { Duration::ZERO }
    }

    /// In the standby: the service manager shall watch `pid` again. It has to have read that before the standby ends,
    /// whom it would otherwise take for the server.
    pub(super) fn hand_back(&self, pid: i32) {
        if self.notify.is_active() {
            self.notify.main_pid(pid.unsigned_abs(), true);
            // Without an answer there is nothing else to be done.
            let _ = self.notify.barrier(BARRIER_TIME);
        }
    }

    /// In the standby, which has nobody to go back to: says in the log why it ends, and gives its exit status.
    pub(super) fn last_word(&self, why: &str) -> u8 {
        self.resume_threads();
        log::error!("{why}");
        if let Some(logger) = &self.logger {
            logger.flush(LOG_TIME);
        }
        Error::new(ErrorKind::State, why).exit_status()
    }

    /// This process was the standby and is the server now.
    pub(super) fn took_over(&self) {
        if let Some(Err(error)) = self.pid_file.as_ref().map(|pid_file| pid_file.rewrite(std::process::id()))
        {
            log::error!("the pid file cannot be written: {error}");
        }
        self.notify.main_pid(sys::own_pid().unsigned_abs(), true);
    }

    fn write_status(&self, change: impl FnOnce(&mut Status)) {
        if let Some(pid_file) = &self.pid_file {
            let mut status = pid_file.status().unwrap_or_default();
            change(&mut status);
            pid_file.write_status(&status);
        }
    }

    /// Whether everything that was logged is written.
    pub(super) fn log_is_idle(&self) -> bool {
        self.logger.as_ref().is_none_or(|logger| logger.flush(Duration::ZERO))
    }

    /// No thread may be left for the moment of a restart; false if one is.
    pub(super) fn stop_threads(&self) -> bool {
        self.logger.as_ref().is_none_or(|logger| logger.stop(LOG_TIME))
    }

    /// Threads may run again.
    pub(super) fn resume_threads(&self) {
        if let Some(logger) = &self.logger {
            logger.resume();
        }
    }
}

impl Drop for Around {
    /// The end, of whatever kind: the pid file goes.
    fn drop(&mut self) {
        if let Some(pid_file) = self.pid_file.take() {
            pid_file.remove();
        }
    }
}

/// The log file of `config`, if that is where its lines go.
pub(super) fn log_path(config: &Config) -> Option<&Path> {
    match &config.log.target {
        LogTarget::File(path) if config.log.function.is_none() => Some(path),
        _ => None,
    }
}

/// For the service manager to say that it has read what it was told.
const BARRIER_TIME: Duration = Duration::from_secs(2);
/// For the log's thread to write what waits and to end.
const LOG_TIME: Duration = Duration::from_millis(100);
