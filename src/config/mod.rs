//! What a server is told before it starts: limits, listeners, access lists, logging, and the application's own
//! settings.
//!
//! A [`Config`] is a plain value. Code may fill one by hand; with the feature `config`, a [`ConfigBuilder`] makes it
//! from five sources, and the first that sets a key wins: code, command line, arguments to `run`, configuration file
//! (TOML), default. One table of options (`table.rs`) drives the file, the command line, the code and the help text.
//! Everything that is wrong is said at once, one line each, with its place and its remedy.

mod limits;
mod listen;
mod log_config;

#[cfg(feature = "config")]
mod builder;
#[cfg(feature = "config")]
mod value;

#[cfg(feature = "config")]
pub use builder::{ConfigBuilder, Outcome};
pub use limits::{KeepAlive, Limits, LongLine, OnPanic};
pub use listen::{Ipv, ListenAddr, ListenAt};
pub use log_config::{Facility, LogConfig, LogFunction, LogTarget};
#[cfg(feature = "config")]
pub use value::Value;

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
#[cfg(feature = "config")]
use crate::access::Access;

/// Everything that a server is told before it starts.
///
/// Made by [`ConfigBuilder::build`] or by hand:
///
/// ```
/// use lineplex::config::{Config, ListenAt};
/// let mut config = Config::default();
/// config.listen = vec![ListenAt::tcp("127.0.0.1", 0)];
/// config.limits.line_max_bytes = 512;
/// config.validate().unwrap();
/// ```
#[derive(Debug)]
pub struct Config {
    /// Where to listen. Default: one listener, `*:20203`.
    pub listen: Vec<ListenAt>,
    /// The limits of the loop.
    pub limits: Limits,
    /// Who may connect. Default: everybody.
    #[cfg(feature = "config")]
    pub access: Access,
    /// Between the end of one `run_dequeue` and the next (fractions count); `None` (the default) or zero: never.
    pub check_for_dequeue: Option<Duration>,
    /// How much is logged, and where to.
    pub log: LogConfig,
    /// The configuration file that was read, as an absolute path, if there was one.
    pub conf_file: Option<PathBuf>,
    warnings: Vec<String>,
    check_only: bool,
}

impl Config {
    /// Whether the caller asked for nothing but this check (`--check`): say that all is well and exit with status 0.
    #[must_use]
    pub fn check_only(&self) -> bool {
        self.check_only
    }

    /// What was accepted but is worth a log line (a listener given twice, …), one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Checks the ranges and relations that [`Limits`] and [`ListenAt`] state. [`ConfigBuilder::build`] has done it;
    /// a configuration made by hand is checked when it is run.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), with one line for each mistake.
    pub fn validate(&self) -> Result<()> {
        todo!()
    }
}

#[cfg(feature = "config")]
impl Config {
    /// The application's own settings: its `[app]` table and its own options, as the type `T`.
    ///
    /// # Errors
    /// The first setting that `T` does not take, with its place.
    pub fn app<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        todo!()
    }

    /// The application's settings that nobody has asked for (see [`Config::app`]), by key.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<String> {
        todo!()
    }

    /// Refuses the settings that nobody has asked for; called after `post_configure_hook`.
    ///
    /// # Errors
    /// One line for each of [`Config::unclaimed`], with its place.
    pub fn refuse_unclaimed(&self) -> Result<()> {
        todo!()
    }

    /// The words after `--` on the command line, which no option took.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        todo!()
    }

    /// The text of the configuration file, for whoever must not read it twice.
    #[must_use]
    pub fn conf_text(&self) -> Option<&str> {
        todo!()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![ListenAt::tcp("*", DEFAULT_PORT)],
            limits: Limits::default(),
            #[cfg(feature = "config")]
            access: Access::default(),
            check_for_dequeue: None,
            log: LogConfig::default(),
            conf_file: None,
            warnings: Vec::new(),
            check_only: false,
        }
    }
}

const DEFAULT_PORT: u16 = 20_203;
