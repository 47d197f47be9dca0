//! Where log lines go and how many of them: the values that `log_level`, `log_file`, `syslog_*` and
//! `journald_logsock` become.
//!
//! Nothing is opened here; `logging` does that.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// How much is logged, and where to.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Net::Server's level, 0 to 4: 0 errors only, 1 warnings, 2 the life of the server (the default), 3 also a line
    /// for each connection, 4 debugging. A larger number is taken as 4.
    pub level: u8,
    /// Where lines go when [`LogConfig::function`] is not set. Default: standard error.
    pub target: LogTarget,
    /// The application's own writer; it replaces `target`. Default: none.
    pub function: Option<LogFunction>,
}

impl LogConfig {
    /// The level as the `log` facade knows it: 0 error, 1 warn, 2 and 3 info, 4 debug. What 3 adds to 2 is
    /// [`LogConfig::logs_connections`].
    #[must_use]
    pub fn level_filter(&self) -> log::LevelFilter {
        match self.level {
            0 => log::LevelFilter::Error,
            1 => log::LevelFilter::Warn,
            2 | 3 => log::LevelFilter::Info,
            _ => log::LevelFilter::Debug,
        }
    }

    /// Whether each connection gets its own lines: from level 3.
    #[must_use]
    pub fn logs_connections(&self) -> bool {
        self.level >= 3
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: 2, target: LogTarget::Stderr, function: None }
    }
}

/// Where log lines go.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error. In a file: no `log_file`, or `log_file = "stderr"`. Where the service manager reads it for the
    /// journal (`JOURNAL_STREAM`), a line begins with its priority, `<6>`, instead of its time and level.
    #[default]
    Stderr,
    /// A file, opened for appending. In a file: its path; a relative one is made absolute at start.
    File(PathBuf),
    /// The system's log. In a file: `log_file = "syslog"` (or Net::Server's `"Sys::Syslog"`).
    Syslog {
        /// The datagram socket of the system's log; `syslog_logsock`, default `/dev/log`.
        socket: PathBuf,
        /// What each line begins with; `syslog_ident`, default: the program's name.
        ident: String,
        /// Which of the system's logs; `syslog_facility`, default `daemon`.
        facility: Facility,
    },
    /// The journal of systemd, in its own protocol. In a file: `log_file = "journald"`.
    Journald {
        /// The datagram socket of the journal; `journald_logsock`, default `/run/systemd/journal/socket`.
        socket: PathBuf,
        /// Whose entries they are; `syslog_ident`, default: the program's name.
        ident: String,
        /// `syslog_facility`, default `daemon`.
        facility: Facility,
    },
}

/// A facility of the system's log (RFC 5424, section 6.2.1, table 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// The facility of this name (`daemon`, `local0`, …, in any case, with or without `log_`), or `None`.
    ///
    /// ```
    /// use lineplex::config::Facility;
    /// assert_eq!(Facility::named("local0").map(Facility::code), Some(16));
    /// assert_eq!(Facility::named("nobody"), None);
    /// ```
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("log_").unwrap_or(&name);
        FACILITIES.iter().find(|(known, _)| *known == name).map(|(_, code)| Self(*code))
    }

    /// Its number, 0 to 23; a line's priority is eight times this plus the severity.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }
}

impl Default for Facility {
    /// `daemon`, as Net::Server has it.
    fn default() -> Self {
        Self(3)
    }
}

/// A closure that receives every log line that the level lets through, in place of [`LogConfig::target`].
///
/// It is called on the loop's thread and on any other that logs: it must not block.
#[derive(Clone)]
pub struct LogFunction(Arc<Writer>);

type Writer = dyn Fn(log::Level, &str) + Send + Sync;

impl LogFunction {
    /// Wraps `function`, which is given the level and the line without its ending.
    pub fn new(function: impl Fn(log::Level, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    /// Hands one line over.
    pub fn call(&self, level: log::Level, line: &str) {
        (self.0)(level, line);
    }
}

impl fmt::Debug for LogFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFunction(..)")
    }
}

const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];
