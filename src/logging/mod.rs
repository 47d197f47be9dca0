//! The sink for the `log` facade: standard error, a file, the system's log, the journal, or a function of the
//! application.
//!
//! Logging never blocks the loop: a line goes into a bounded queue with one writing thread behind it, and one that
//! finds no room is dropped and counted. One line is one `write(2)` of at most 4 KiB, appended, in printable ASCII:
//! every other byte is `%XX`, so that no client can forge a line or move a terminal. A logger is the process's; one
//! that the application installed itself is used as it is.

mod line;
mod output;
mod quiet;
mod writer;

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::{LogConfig, LogFunction, LogTarget};
use crate::error::Result;
use line::{LINE_MAX_BYTES, Line, escape};
use output::{Output, stderr_is_journal};
pub use quiet::Quiet;
use writer::Writer;

/// The target of the lines that each connection causes (`log::info!(target: logging::CLIENTS, ...)`): at level 2 they
/// are left out, from level 3 they are there.
pub const CLIENTS: &str = "lineplex::clients";

/// Makes `config` the process's log, and gives the handle to it; `None` when the process has a logger already, which
/// is then used with the level that it has.
///
/// The writer's thread starts with the first line. After the handle is dropped, another one may be installed.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io): the file cannot be opened, or nobody receives at the socket of the system's
/// log or the journal.
pub fn install(config: &LogConfig) -> Result<Option<Logger>> {
    install_with(config, None)
}

/// The same for an image that was restarted: `inherited` is what [`Logger::carried`] gave to the one before it. A log file
/// that can no longer be opened under its path, because the rights to it are gone with the user that opened it, is
/// written on through that descriptor, and a warning in it says so. Otherwise it is closed.
///
/// # Errors
/// As [`install`], without the file where there is a descriptor for it.
pub(crate) fn install_with(config: &LogConfig, inherited: Option<OwnedFd>) -> Result<Option<Logger>> {
    // One at a time, so that a second caller sees whether the first one's logger is ours.
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut ours = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);

    let sink = SINK.get_or_init(Arc::default);
    if !*ours && log::set_boxed_logger(Box::new(Arc::clone(sink))).is_err() {
        return Ok(None);
    }
    *ours = true;
    if sink.current().is_some() {
        return Ok(None);
    }
    let (logger, excuse) = Logger::open(sink, config, inherited)?;
    log::set_max_level(config.level_filter());
    if let Some(excuse) = excuse {
        log::warn!("{excuse}; going on in the file that was open before the restart");
    }
    Ok(Some(logger))
}

/// Tells an operator why the server cannot go on: on standard error, now, each line of `text` escaped; and in the log
/// as an error, where that is somewhere else. What was logged before comes first, if it is written within a second.
pub fn fatal(text: &str) {
    let current = SINK.get().and_then(|sink| sink.current());
    let on_stderr = current.as_ref().is_some_and(|current| current.on_stderr);
    if let Some(writer) = current.and_then(|current| current.writer) {
        writer.flush(EXIT_FLUSH);
    }
    // The journal shows an error as one only if it is told.
    let prefix = if stderr_is_journal() { "<3>" } else { "" };
    for line in text.lines() {
        if !on_stderr {
            log::error!("{line}");
        }
        let mut shown = format!("{prefix}{}", one_line(line, LINE_MAX_BYTES - 4));
        shown.push('\n');
        // There is nobody left to tell.
        let _ = io::stderr().write_all(shown.as_bytes());
    }
}

/// `text` as a log line would show it: printable ASCII, everything else as `%XX`, and `...` at its end where it was
/// longer than `max_bytes` (3 at least).
pub(crate) fn one_line(text: &str, max_bytes: usize) -> String {
    let mut line = String::new();
    escape(&mut line, text.as_bytes(), max_bytes);
    line
}

/// The handle to an installed log. Dropping it writes what is queued, within one second, and ends the log: later lines
/// go nowhere.
#[derive(Debug)]
pub struct Logger {
    sink: Arc<Sink>,
    writer: Option<Arc<Writer>>,
}

impl Logger {
    /// Opens what `config` names and connects `sink` to it. With `inherited` in the place of a file that cannot be opened,
    /// the second answer says why.
    fn open(
        sink: &Arc<Sink>,
        config: &LogConfig,
        inherited: Option<OwnedFd>,
    ) -> Result<(Self, Option<String>)> {
        let (writer, excuse) = match config.function {
            Some(_) => (None, None),
            None => {
                let (output, excuse) = Output::open(&config.target, inherited)?;
                (Some(Writer::new(output)), excuse)
            }
        };
        let on_stderr = config.function.is_none() && config.target == LogTarget::Stderr;
        let current = Current {
            level: config.level_filter(),
            clients: config.logs_connections(),
            function: config.function.clone(),
            writer: writer.clone(),
            on_stderr,
        };
        *sink.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
        Ok((Self { sink: Arc::clone(sink), writer }, excuse))
    }

    /// Has the log opened again under its path, for one that was renamed (USR1): every line is whole in one of the two
    /// files. The old one stays in use, and says so, if that fails. For the system's log and the journal: a new connection; for standard
    /// error: what descriptor 2 is by then. Does not wait.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }

    /// A duplicate of the open log file, for an image that takes this one's place ([`install_with`]); `None` where the
    /// log is no file. To be asked for after [`Logger::stop`], when no reopen is under way any more.
    pub(crate) fn carried(&self) -> Option<OwnedFd> {
        let log = self.writer.as_ref()?.file()?;
        log.file.as_fd().try_clone_to_owned().ok()
    }

    /// Gives the log file, if the log is one, to the user and the group that the server goes on as, so that they can open
    /// it again. False when it stays as it is, because the path is a symbolic link or the file has another name:
    /// somebody who may write in the directory could have put any file there.
    ///
    /// # Errors
    /// What the system says to the look at the path, or to `fchown(2)`.
    #[cfg(feature = "daemon")]
    pub(crate) fn give_to(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<bool> {
        let log = self.writer.as_ref().and_then(|writer| writer.file());
        log.map_or(Ok(true), |log| log.give_to(uid, gid))
    }

    /// Waits until everything logged so far is written, `deadline` at most; whether it is.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.flush(deadline))
    }

    /// Lines lost so far: the queue was full, or the log could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.lost())
    }

    /// Writes what is queued and ends the writer's thread, `deadline` at most, so that the process may fork. Lines that
    /// come after it wait in the queue, which drops them when it is full, until [`Logger::resume`].
    ///
    /// `false`: the thread still waits for a log that nobody reads; it ends as soon as that lets go.
    #[must_use]
    pub fn stop(&self, deadline: Duration) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.stop(deadline))
    }

    /// Undoes [`Logger::stop`]: what waits is written, by a new thread. Without a stop nothing happens.
    pub fn resume(&self) {
        if let Some(writer) = &self.writer {
            writer.resume();
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        *self.sink.current.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(writer) = &self.writer {
            // What waited since a stop is written too.
            writer.resume();
            writer.stop(EXIT_FLUSH);
        }
    }
}

/// What the `log` facade calls; connected to a log while a [`Logger`] lives.
#[derive(Debug, Default)]
struct Sink {
    current: RwLock<Option<Current>>,
}

#[derive(Clone, Debug)]
struct Current {
    level: LevelFilter,
    clients: bool,
    function: Option<LogFunction>,
    writer: Option<Arc<Writer>>,
    on_stderr: bool,
}

impl Current {
    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
            && (self.clients || metadata.level() != Level::Info || metadata.target() != CLIENTS)
    }
}

impl Sink {
    fn current(&self) -> Option<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().is_some_and(|current| current.takes(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        // Not held while the record is formatted or the function runs: both are the application's and may log.
        let Some(current) = self.current() else { return };
        if !current.takes(record.metadata()) {
            return;
        }
        if let Some(function) = &current.function {
            call(function, record.level(), *record.args());
        } else if let Some(writer) = &current.writer {
            writer.push(Line::new(record.level(), *record.args()));
        }
    }

    fn flush(&self) {
        if let Some(writer) = self.current().and_then(|current| current.writer) {
            writer.flush(EXIT_FLUSH);
        }
    }
}

/// Calls the application's function. What it logs itself is dropped, and so is its panic: whoever logs is not to blame.
fn call(function: &LogFunction, level: Level, text: fmt::Arguments<'_>) {
    thread_local! {
        // The facade has no other place that knows on whose behalf it is called.
        static CALLING: Cell<bool> = const { Cell::new(false) };
    }
    if CALLING.replace(true) {
        return;
    }
    let _ = catch_unwind(AssertUnwindSafe(|| match text.as_str() {
        Some(text) => function.call(level, text),
        None => function.call(level, &text.to_string()),
    }));
    CALLING.set(false);
}

static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// For what is still queued when the process ends.
const EXIT_FLUSH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
