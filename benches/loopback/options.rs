//! The command line.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::time::Duration;

use crate::measure::server::{Expect, Mode, Peer};
use crate::measure::window::Times;
use crate::measure::work::{BLINK, WORKS, Work};
use crate::measure::wrong;

pub(crate) struct Options {
    pub(crate) works: Vec<&'static Work>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) rounds: usize,
    pub(crate) times: Times,
    pub(crate) count_calls: bool,
    pub(crate) json: Option<File>,
    pub(crate) nice: Option<i32>,
    pub(crate) verbose: bool,
    /// Only the bytes matter: every run is too short for figures.
    pub(crate) smoke: bool,
    /// What is wanted is only to be told.
    pub(crate) tell: Option<Tell>,
}

pub(crate) enum Tell {
    Help,
    Names,
}

/// What was said about workloads.
#[derive(Default)]
struct Wanted {
    names: Vec<String>,
    /// Parts of names, as the test harness takes them.
    parts: Vec<String>,
}

impl Options {
    /// As `cargo bench` and `cargo test` start it too: with `--bench`, or with nothing, which is a smoke test.
    pub(crate) fn parse(args: &[OsString]) -> io::Result<Self> {
        let smoke = !args.iter().any(|arg| arg == "--bench") || args.iter().any(|arg| arg == "--test");
        let mut options = Self {
            works: Vec::new(),
            peers: Vec::new(),
            rounds: if smoke { 1 } else { 3 },
            times: if smoke { BLINK } else { SHORT },
            count_calls: !smoke,
            json: None,
            nice: None,
            verbose: false,
            smoke,
            tell: None,
        };
        let mut wanted = Wanted::default();
        let mut parser = lexopt::Parser::from_args(args);
        while let Some(arg) = parser.next().map_err(io::Error::other)? {
            options.take(arg.into(), &mut parser, &mut wanted)?;
        }
        options.works = wanted.works(smoke)?;
        Ok(options)
    }

    fn take(&mut self, arg: Arg, parser: &mut lexopt::Parser, wanted: &mut Wanted) -> io::Result<()> {
        let name = match arg {
            Arg::Option(name) => name,
            Arg::Value(part) => {
                wanted.parts.push(part);
                return Ok(());
            }
        };
        let mut value = || -> io::Result<String> {
            let value = parser.value().map_err(io::Error::other)?;
            value.into_string().map_err(|value| wrong(format!("--{name}: {value:?} is no text")))
        };
        match name.as_str() {
            // Of the test harness.
            "bench" | "test" | "nocapture" | "quiet" | "q" | "exact" | "ignored" | "include-ignored"
            | "show-output" => {}
            "test-threads" | "format" | "color" | "skip" | "logfile" => drop(value()?),
            "list" => self.tell = Some(Tell::Names),
            "help" | "h" => self.tell = Some(Tell::Help),
            "rounds" => self.rounds = number(&name, &value()?, 1.0, 1000.0)? as usize,
            "seconds" => {
                let run = Duration::from_secs_f64(number(&name, &value()?, 0.01, 60.0)?);
                self.times = Times { warm: (run / 3).min(Duration::from_millis(300)), run };
            }
            "work" => wanted.names.extend(value()?.split(',').map(str::to_owned)),
            "json" => {
                let path = value()?;
                let file = File::options().append(true).create(true).open(&path);
                self.json = Some(file.map_err(|error| wrong(format!("{path}: {error}")))?);
            }
            "nice" => self.nice = Some(number(&name, &value()?, -20.0, 19.0)? as i32),
            "no-calls" => self.count_calls = false,
            "verbose" => self.verbose = true,
            "peer" => {
                let text = value()?;
                let (name, command) =
                    text.split_once('=').ok_or_else(|| wrong("--peer takes NAME=COMMAND"))?;
                let own = ["raw", "ours", "ours_gather"].contains(&name);
                if own || self.peers.iter().any(|peer| peer.name == name) {
                    return Err(wrong(format!("two peers are called {name}")));
                }
                self.peers.push(Peer::other(name, command));
            }
            "login" | "sender-login" | "prefix" | "suffix" | "expect" | "modes" => {
                self.describe_peer(&name, &value()?)?;
            }
            _ => return Err(wrong(format!("there is no option --{name}; --help tells which there are"))),
        }
        Ok(())
    }

    /// An option about the peer before it.
    fn describe_peer(&mut self, name: &str, value: &str) -> io::Result<()> {
        let Some(peer) = self.peers.last_mut() else {
            return Err(wrong(format!("--{name} belongs behind the --peer that it is about")));
        };
        let text = value.replace("\\r", "\r").replace("\\n", "\n");
        match name {
            "login" => peer.dialect.login = text,
            "sender-login" => peer.dialect.sender_login = Some(text),
            "prefix" => peer.dialect.prefix = text,
            "suffix" => peer.dialect.suffix = text,
            "expect" => peer.dialect.expect = Expect::parse(value)?,
            _ => peer.modes = value.split(',').map(Mode::parse).collect::<io::Result<_>>()?,
        }
        Ok(())
    }
}

impl Wanted {
    fn works(self, smoke: bool) -> io::Result<Vec<&'static Work>> {
        if let Some(name) =
            self.names.iter().find(|name| *name != "all" && WORKS.iter().all(|work| work.name != *name))
        {
            return Err(wrong(format!("there is no workload {name}; --list tells which there are")));
        }
        let is_wanted = |work: &&Work| {
            let named = if self.names.is_empty() {
                smoke || !self.parts.is_empty() || USUAL.contains(&work.name)
            } else {
                self.names.iter().any(|name| name == work.name || name == "all")
            };
            named && (self.parts.is_empty() || self.parts.iter().any(|part| work.name.contains(part)))
        };
        Ok(WORKS.iter().filter(is_wanted).collect())
    }
}

/// An argument, whichever way an option was written.
enum Arg {
    Option(String),
    Value(String),
}

impl From<lexopt::Arg<'_>> for Arg {
    fn from(arg: lexopt::Arg<'_>) -> Self {
        match arg {
            lexopt::Arg::Long(name) => Self::Option(name.to_owned()),
            lexopt::Arg::Short(letter) => Self::Option(letter.to_string()),
            lexopt::Arg::Value(value) => Self::Value(value.to_string_lossy().into_owned()),
        }
    }
}

fn number(name: &str, text: &str, least: f64, most: f64) -> io::Result<f64> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| wrong(format!("--{name}: {text} is no number from {least} to {most}")))
}

/// What runs when nothing is named: one of each kind.
const USUAL: &[&str] = &[
    "echo_50",
    "pipelined_16",
    "unix_50",
    "broadcast_100x1",
    "broadcast_burst",
    "broadcast_1kx10",
    "churn_32",
];
/// For each run when nothing is said: three rounds of all these take less than a minute.
const SHORT: Times = Times { warm: Duration::from_millis(80), run: Duration::from_millis(250) };
