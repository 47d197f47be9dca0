//! The command line.

use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

#[derive(Default)]
pub(crate) struct Options {
    /// For the loopback bench, as they are.
    pub(crate) bench: Vec<String>,
    /// The peers to measure; all where it is empty.
    pub(crate) peers: Vec<String>,
    /// Where the table, the runs and the picture go.
    pub(crate) out: Option<PathBuf>,
    /// The picture once more.
    pub(crate) svg: Option<PathBuf>,
    /// Only whether the bytes are right.
    pub(crate) smoke: bool,
    pub(crate) tell: Option<Tell>,
}

pub(crate) enum Tell {
    Help,
    Peers,
}

impl Options {
    /// # Errors
    /// What is wrong, in a sentence.
    pub(crate) fn parse(mut parser: Parser) -> Result<Self, lexopt::Error> {
        let mut options = Self::default();
        let (mut work, mut rounds, mut seconds) = (None, "9".to_owned(), "0.5".to_owned());
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("rounds") => rounds = parser.value()?.string()?,
                Arg::Long("seconds") => seconds = parser.value()?.string()?,
                Arg::Long("work") => work = Some(parser.value()?.string()?),
                Arg::Long("nice") => options.bench.extend(["--nice".to_owned(), parser.value()?.string()?]),
                Arg::Long(flag @ ("no-calls" | "verbose")) => options.bench.push(format!("--{flag}")),
                Arg::Long("test") => options.smoke = true,
                Arg::Long("peers") => {
                    options.peers.extend(parser.value()?.string()?.split(',').map(str::to_owned));
                }
                Arg::Long("out") => options.out = Some(parser.value()?.into()),
                Arg::Long("svg") => options.svg = Some(parser.value()?.into()),
                Arg::Long("list") => options.tell = Some(Tell::Peers),
                Arg::Long("help") | Arg::Short('h') => options.tell = Some(Tell::Help),
                _ => return Err(arg.unexpected()),
            }
        }
        let usual = if options.smoke {
            options.bench.push("--test".into());
            SMOKE
        } else {
            options.bench.extend(["--seconds".into(), seconds, "--rounds".into(), rounds]);
            USUAL
        };
        options.bench.extend(["--work".into(), work.unwrap_or_else(|| usual.into())]);
        Ok(options)
    }
}

pub(crate) const HELP: &str = "\
cargo run --release --manifest-path benches/compare/Cargo.toml -- [OPTION]...

  --list           which servers can be measured here, and what the others need
  --peers NAME,... only these beside the bare loop and lineplex
  --work NAME,...  workloads of the loopback bench, or all; without it the eight about messages on a few connections
  --rounds N       9
  --seconds S      of each run, 0.5
  --no-calls       do not count system calls
  --nice N         priority of the servers and the load, -20 to 19
  --test           each server for a blink: are the bytes right?
  --verbose        what the servers say on standard error
  --out DIR        for the table, the runs (JSON lines) and the picture; compare/ in the target directory
  --svg FILE       the picture to this file as well
";

/// What runs when nothing is named.
const USUAL: &str =
    "echo_50,echo_1k,pipelined_16,unix_50,broadcast_100x1,broadcast_burst,broadcast_1kx10,churn_32";
const SMOKE: &str = "echo_50,pipelined_16,unix_50,broadcast_100x1,broadcast_burst";
