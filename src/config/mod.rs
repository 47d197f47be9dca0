//! What a server is told before it starts: limits, listeners, access lists, logging, and the application's own
//! settings.
//!
//! A [`Config`] is a plain value. Code may fill one by hand; with the feature `config`, a [`ConfigBuilder`] makes it
//! from five sources, and the first that sets a key wins: code, command line, arguments to `run`, configuration file
//! (TOML), default. One table of options (`table.rs`) drives the file, the command line, the code and the help text.
//! Everything that is wrong is said at once, one line each, with its place and its remedy.

mod checks;
mod limits;
mod listen;
mod log_config;
mod process;

#[cfg(feature = "config")]
mod app;
#[cfg(feature = "config")]
mod args;
#[cfg(feature = "config")]
mod base;
#[cfg(feature = "config")]
mod builder;
#[cfg(feature = "config")]
mod draft;
#[cfg(feature = "config")]
pub(crate) mod file;
#[cfg(feature = "config")]
mod help;
#[cfg(feature = "config")]
pub(crate) mod node;
#[cfg(feature = "config")]
mod ports;
#[cfg(feature = "config")]
mod table;
#[cfg(feature = "config")]
mod value;

#[cfg(feature = "config")]
pub use builder::{ConfigBuilder, Outcome};
pub use limits::{KeepAlive, Limits, LongLine, OnPanic};
pub use listen::{Ipv, ListenAddr, ListenAt};
pub use log_config::{Facility, LogConfig, LogFunction, LogTarget};
#[cfg(feature = "config")]
#[allow(unused_imports, reason = "without the flow nobody asks for them")]
pub(crate) use process::{Action, Control};
pub use process::{OnHup, ProcessConfig, RestartConfig};
#[cfg(feature = "config")]
pub use value::Value;

use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "config")]
use crate::access::Access;
use crate::{Error, ErrorKind, Result};

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
    /// Who the process runs as, in the foreground or not, and its pid file.
    pub process: ProcessConfig,
    /// What a restart may take.
    pub restart: RestartConfig,
    /// The configuration file that was read, as an absolute path, if there was one.
    pub conf_file: Option<PathBuf>,
    warnings: Vec<String>,
    check_only: bool,
    probing: bool,
    restarted: bool,
    #[cfg(feature = "config")]
    extra: Extra,
}

/// What only the builder fills.
#[cfg(feature = "config")]
#[derive(Debug, Default)]
struct Extra {
    app: app::AppSettings,
    arguments: Vec<String>,
    conf_text: Option<String>,
    control: Option<Control>,
    base: base::Base,
}

impl Config {
    /// Whether the caller asked for nothing but this check (`--check`): say that all is well and exit with status 0.
    #[must_use]
    pub fn check_only(&self) -> bool {
        self.check_only
    }

    /// Whether this process only tries a restart for the one that serves, and is thrown away: a hook of the phases configure
    /// and bind must then leave alone what it does not own by itself (files, databases, other servers).
    #[must_use]
    pub fn probing(&self) -> bool {
        self.probing
    }

    /// Whether this image, or this probe, follows another one that serves: its clients, listeners and state are to be
    /// taken over.
    #[must_use]
    pub fn restarted(&self) -> bool {
        self.restarted
    }

    #[cfg(all(feature = "config", feature = "signals", feature = "daemon"))]
    pub(crate) fn set_born(&mut self, probing: bool, restarted: bool) {
        (self.probing, self.restarted) = (probing, restarted);
    }

    /// What was accepted but is worth a log line (a listener given twice, …), one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Checks the ranges and relations that [`Limits`], [`ListenAt`], [`ProcessConfig`] and [`RestartConfig`] state. [`ConfigBuilder::build`] has done it;
    /// a configuration made by hand is checked when it is run.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], with one line for each mistake.
    pub fn validate(&self) -> Result<()> {
        let settings = [
            checks::limits(&self.limits),
            process::check(&self.process),
            process::check_restart(&self.restart),
        ];
        let settings = settings.into_iter().flatten().map(|(key, what)| format!("{key}: {what}"));
        let listeners = self.listen.iter().filter_map(|at| {
            checks::listener(at).map(|what| format!("listen `{}`: {what}", at.name.escape_debug()))
        });
        let lines: Vec<String> = settings.chain(listeners).collect();
        if lines.is_empty() { Ok(()) } else { Err(Error::new(ErrorKind::Config, lines.join("\n"))) }
    }
}

#[cfg(feature = "config")]
impl Config {
    /// The application's own settings, as the type `T`: the table `[app]` of the file, the options that it declared
    /// with [`ConfigBuilder::app_option`], and `app.` keys from code; the strongest source of each key wins.
    ///
    /// A word of the command line becomes what `T` asks for: `5` is `"5"` for a `String` and 5 for a `u32`; a `bool`
    /// takes `true`, `yes`, `on`, `1` and their opposites, and a flag without a value is true. A key that `T` does not take
    /// is refused, with or without `deny_unknown_fields`; only a `#[serde(flatten)]`ed map takes every key, and under
    /// `flatten` a word's type is guessed.
    ///
    /// ```
    /// use lineplex::config::{ConfigBuilder, Outcome};
    /// #[derive(serde::Deserialize)]
    /// struct Settings { greeting: String }
    ///
    /// let mut builder = ConfigBuilder::new();
    /// builder.arguments([""; 0]).conf_text("chat.toml", "[app]\ngreting = 'hello'\n");
    /// let Outcome::Config(config) = builder.build().unwrap() else { panic!("no help was asked for") };
    /// let error = config.app::<Settings>().err().unwrap();
    /// assert_eq!(error.to_string(), "chat.toml:2:1: app: unknown key `greting`; did you mean `greeting`?");
    /// ```
    ///
    /// # Errors
    /// The first setting that `T` does not take, with its place: [`ErrorKind::Usage`] from the command line, else
    /// [`ErrorKind::Config`].
    pub fn app<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.extra.app.read()
    }

    /// The keys of the application's settings, as long as nobody has asked for them with [`Config::app`]; empty
    /// after that, since `app` itself refuses what its type does not take.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<String> {
        self.extra.app.unclaimed().iter().map(|entry| entry.key.clone()).collect()
    }

    /// Refuses settings that nobody has asked for; to be called after `post_configure_hook`.
    ///
    /// # Errors
    /// One line for each of [`Config::unclaimed`], with its place; kinds as for [`ConfigBuilder::build`].
    pub fn refuse_unclaimed(&self) -> Result<()> {
        let mut mistakes = node::Mistakes::default();
        for entry in self.extra.app.unclaimed() {
            let what =
                format!("unknown key `{}`: this server has no settings of its own", entry.key.escape_debug());
            mistakes.add("app", &entry.at, what);
        }
        mistakes.into_result()
    }

    /// `path` from the root: a relative one is relative to the directory that the server was started in, also after a
    /// restart and in a daemon.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: it is empty, or that directory is gone.
    pub fn absolute(&self, path: impl AsRef<std::path::Path>) -> Result<PathBuf> {
        self.extra.base.absolute(path.as_ref()).map_err(|what| Error::new(ErrorKind::Config, what))
    }

    /// The words after `--` on the command line, which no option took.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.extra.arguments
    }

    /// The text of the configuration file as it was read, for a restart that must not read it again: give it back
    /// with [`ConfigBuilder::conf_text`].
    #[must_use]
    pub fn conf_text(&self) -> Option<&str> {
        self.extra.conf_text.as_deref()
    }

    /// What the command line asks to be done to a server that runs (`--reload`, `--stop`), instead of running one.
    #[allow(dead_code, reason = "without the flow nobody asks for it")]
    pub(crate) fn control(&self) -> Option<Control> {
        self.extra.control
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
            process: ProcessConfig::default(),
            restart: RestartConfig::default(),
            conf_file: None,
            warnings: Vec::new(),
            check_only: false,
            probing: false,
            restarted: false,
            #[cfg(feature = "config")]
            extra: Extra::default(),
        }
    }
}

/// Net::Server's.
const DEFAULT_PORT: u16 = 20_203;

#[cfg(all(test, feature = "config"))]
mod tests;
