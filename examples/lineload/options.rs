//! The command line.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;

use crate::lines::Lines;
use crate::process::Process;
use crate::socket::{Address, SOURCES_MAX};

/// What one run is to do. Everything in it is bounded.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) addresses: Vec<Address>,
    /// Live clients.
    pub(crate) live: usize,
    /// Lines of one client that may wait for their answers.
    pub(crate) window: usize,
    pub(crate) line_max_bytes: usize,
    /// Lines a second of all live clients together; 0: as fast as they are answered.
    pub(crate) line_rate: u64,
    /// Answered lines after which the run ends.
    pub(crate) lines: Option<u64>,
    /// New connections a second.
    pub(crate) rate: u64,
    pub(crate) sources: usize,
    /// How long the run lasts without signals; with them, how long at most.
    pub(crate) duration: Duration,
    /// How long an answer, a connection or a restart may take.
    pub(crate) patience: Duration,
    pub(crate) seed: u64,
    pub(crate) process: Option<Process>,
    pub(crate) signals: Signals,
    pub(crate) pid_may_change: bool,
    /// Answers stand among other lines, behind a prefix.
    pub(crate) is_among: bool,
    /// Report only: the exit status says nothing about losses.
    pub(crate) expects_losses: bool,
    /// `key = value` lines instead of the table.
    pub(crate) is_plain: bool,
}

/// Which HUPs are sent, and when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Signals {
    /// One after the other.
    pub(crate) hups: u64,
    /// Time from one to the next; `None`: when the restart is seen to be finished.
    pub(crate) every: Option<Duration>,
    /// After those, so many as fast as they can be sent.
    pub(crate) storm: u64,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Run(Box<Options>),
}

impl Options {
    /// What the clients say.
    pub(crate) fn said(&self) -> Lines {
        Lines { seed: self.seed, max_bytes: self.line_max_bytes, is_marked: self.is_among }
    }

    /// Where client `number` goes, and from which source: one after the other.
    pub(crate) fn way(&self, number: usize) -> (&Address, usize) {
        let count = self.addresses.len();
        (&self.addresses[number % count], number / count % self.sources)
    }
}

impl Signals {
    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.hups + self.storm > 0
    }
}

/// Reads the arguments, without the name of the program.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut options = Options::default();
    let mut seconds: Option<f64> = None;
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        let name = match argument {
            Short('h') => return Ok(Asked::Help),
            Long(name) => name.replace('_', "-"),
            Value(address) => {
                options.addresses.push(address.string().map_err(|error| error.to_string())?.parse()?);
                continue;
            }
            other @ Short(_) => return Err(other.unexpected().to_string()),
        };
        match name.as_str() {
            "help" => return Ok(Asked::Help),
            "seconds" => seconds = Some(number(&mut parser, &name, 0.1..=86_400.0)?),
            _ => option(&mut parser, &name, &mut options)?,
        }
    }
    finish(options, seconds).map(|options| Asked::Run(Box::new(options)))
}

fn option(parser: &mut lexopt::Parser, name: &str, options: &mut Options) -> Result<(), String> {
    let milliseconds =
        |parser: &mut lexopt::Parser| number(parser, name, 0..=3_600_000).map(Duration::from_millis);
    match name {
        "live" => options.live = number(parser, name, 0..=100_000)?,
        "window" => options.window = number(parser, name, 1..=10_000)?,
        "line-max" => options.line_max_bytes = number(parser, name, 1..=65_536)?,
        "line-rate" => options.line_rate = number(parser, name, 0..=10_000_000)?,
        "lines" => options.lines = Some(number(parser, name, 1..=u64::MAX)?),
        "rate" => options.rate = number(parser, name, 0..=100_000)?,
        "sources" => options.sources = number(parser, name, 1..=SOURCES_MAX)?,
        "timeout" => options.patience = Duration::from_secs_f64(number(parser, name, 0.1..=3600.0)?),
        "seed" => options.seed = number(parser, name, 0..=u64::MAX)?,
        "pid" => options.process = Some(Process::Pid(number(parser, name, 1..=i32::MAX)?)),
        "pid-file" => {
            let path = parser.value().map_err(|error| error.to_string())?;
            options.process = Some(Process::PidFile(path.into()));
        }
        "hups" => options.signals.hups = number(parser, name, 1..=1_000_000)?,
        "storm" => options.signals.storm = number(parser, name, 1..=1_000_000)?,
        "signal-every" => options.signals.every = Some(milliseconds(parser)?),
        "signal-when-done" => options.signals.every = None,
        "pid-may-change" => options.pid_may_change = true,
        "among" => options.is_among = true,
        "expect-losses" => options.expects_losses = true,
        "plain" => options.is_plain = true,
        _ => return Err(format!("unknown option --{name}; --help lists them all")),
    }
    Ok(())
}

fn finish(mut options: Options, seconds: Option<f64>) -> Result<Options, String> {
    if options.addresses.is_empty() {
        return Err("no address; write host:port or PATH|unix, --help lists the options".to_owned());
    }
    if options.signals.any() && options.process.is_none() {
        return Err("signals need a process; add --pid PID or --pid-file FILE".to_owned());
    }
    let standard = if options.signals.any() { SIGNALS_SECONDS } else { SECONDS };
    options.duration = Duration::from_secs_f64(seconds.unwrap_or(standard));
    Ok(options)
}

fn number<T>(parser: &mut lexopt::Parser, name: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let text = parser.value().and_then(ValueExt::string).map_err(|error| error.to_string())?;
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("--{name}: `{text}` is no number from {} to {}", range.start(), range.end()))
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            live: 200,
            window: 8,
            line_max_bytes: 200,
            line_rate: 20_000,
            lines: None,
            rate: 500,
            sources: 16,
            duration: Duration::from_secs_f64(SECONDS),
            patience: Duration::from_secs(10),
            seed: 1,
            process: None,
            signals: Signals::default(),
            pid_may_change: false,
            is_among: false,
            expects_losses: false,
            is_plain: false,
        }
    }
}

/// The text of `--help`.
pub(crate) const HELP: &str = "\
Checks that a line server that echoes loses nothing, above all when it restarts.
Usage: lineload [OPTIONS] ADDRESS...      ADDRESS: host:port, port or PATH|unix
  --live N           live clients that check every byte of every answer [200]
  --window N         lines of one client that may wait for their answers [8]
  --line-max BYTES   longest line; they are 1 to so many bytes long [200]
  --line-rate N      lines a second of all; 0: as they are answered [20000]
  --rate N           new connections a second: one line each [500]
  --sources N        addresses to come from: 127.0.0.2, 127.0.0.3... [16]
  --seconds S        duration [10]; with signals: at most [600]
  --lines N          end after so many answered lines
  --timeout S        how long an answer or a restart may take [10]
  --seed N           other lines [1]
  --pid PID          the server, or --pid-file FILE with its id
  --hups N           send N times SIGHUP, the next when the restart is done
                     (FILE.status: `generation`, `busy`), else once a second
  --signal-every MS  the next HUP after so long; --signal-when-done undoes it
  --storm N          then N HUPs as fast as they can be sent
  --pid-may-change   a new process id is no loss
  --among            answers are lines among others, behind a prefix: a chat
  --expect-losses    report only: exit status 0 whatever was lost
  --plain            `key = value` lines instead of a table
Exit status: 0 nothing lost, 1 something, or it could not run, 2 command line.
";

const SECONDS: f64 = 10.0;
/// With signals: they end the run, and this only bounds it.
const SIGNALS_SECONDS: f64 = 600.0;
