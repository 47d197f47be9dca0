//! Our server against a bare epoll loop, over the loopback interface: CPU, system calls and latency of each message.
//!
//!     cargo bench --bench loopback                                   a look, less than a minute
//!     cargo bench --bench loopback -- --rounds 9 --seconds 1 --work all     figures to be believed
//!
//! # What is measured
//!
//! Three programs, which are this one in three roles. `raw` is the limit: an epoll loop that does what the load needs
//! and nothing else (serve/raw.rs). `ours` is an ordinary server of this crate, a callback for each line, all limits as
//! they are and an idle time-out on every connection (serve/ours.rs). The load is one thread with an epoll of its own,
//! which checks every byte that comes back. The server runs on one core, the load on another.
//!
//! # How to read it
//!
//! A round is `raw`, `ours`, and `raw` again, in turns of a tenth of a second (measure/rounds.rs); a ratio is taken inside
//! its round, against the mean of the two, and the table has the median over all rounds with the interval that covers the
//! true one in 95 of 100 cases (from 6 rounds on; below that all values). `A/A` is `raw` against itself: where its median
//! is more than 2 % off, the machine was not quiet, and the goals of that load are void; so they are with less than 9
//! rounds. A goal is met when the interval includes it; where the
//! median is on the wrong side of it, the line says so. CPU is what the scheduler counted for all threads of the server;
//! it says more than messages/s, which ends where the load does.
//!
//! A message is an echoed line, a line that reached one receiver (broadcast), or a connection (churn). The time of a
//! broadcast line runs until its last receiver has it.
//!
//! # Other servers
//!
//! `--peer` measures any program beside these two. Whatever its protocol, our lines are found in what it sends:
//!
//!     --peer 'NAME=COMMAND {mode} {addr}' --login 'NICK u{i}\n' --prefix 'SAY ' --expect all
//!
//! `--json FILE` appends each run as a line of JSON.

#![allow(missing_docs, reason = "a program")]

mod measure;
mod options;
mod serve;

use std::process::ExitCode;
use std::{env, io};

use measure::rounds::Plan;
use measure::server::Start;
use measure::table::Tables;
use measure::work::WORKS;
use measure::{sys, wrong};
use options::{Options, Tell};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loopback: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "serve") {
        let text = args.into_iter().skip(1).map(|arg| arg.into_string());
        let args: Vec<String> = text.collect::<Result<_, _>>().map_err(|_| wrong("arguments are text"))?;
        serve::serve(&args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(&args)?;
    match options.tell {
        Some(Tell::Help) => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(Tell::Names) => {
            WORKS.iter().for_each(|work| println!("{}: benchmark", work.name));
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    if let Some(priority) = options.nice {
        sys::renice(priority).map_err(|error| wrong(format!("--nice {priority}: {error}")))?;
    }
    let mut start = Start { core: None, verbose: options.verbose };
    match sys::cores()?[..] {
        [first, second, ..] => {
            start.core = Some(first);
            sys::pin(second)?;
        }
        _ => eprintln!("loopback: one core only, the load and the server disturb each other"),
    }
    let plan = Plan {
        works: options.works,
        peers: options.peers,
        rounds: options.rounds,
        times: options.times,
        start,
        count_calls: options.count_calls,
        descriptors: sys::raise_descriptor_limit()?,
        json: options.json,
    };
    let results = plan.run()?;
    if options.smoke {
        results.skipped.iter().for_each(|(work, needs)| println!("skipped: {work} needs {needs}"));
        results.absent.iter().for_each(|(name, needs)| println!("without {name}: needs {needs}"));
        println!("{} runs without a wrong byte, {} failed", results.records.len(), results.failed.len());
    } else {
        print!("{}", Tables { results: &results, base: "raw" });
    }
    Ok(if results.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const HELP: &str = "\
cargo bench --bench loopback -- [OPTION]... [PART_OF_A_NAME]...

  --list              the workloads
  --work NAME,...     these, or all; without it a few that take less than a minute
  --rounds N          3; 9 for figures to be believed
  --seconds S         of each run, 0.25
  --no-calls          do not count system calls
  --nice N            priority of the servers and the load, -20 to 19
  --json FILE         append each run as a line of JSON
  --test              each workload for a blink: are the bytes right?
  --verbose           what the servers say on standard error

  --peer 'NAME=COMMAND {mode} {addr}'   measure this program too
                      {mode} is echo or broadcast, {addr} 127.0.0.1:PORT or unix:PATH, {port} the port
  and about that peer, where it speaks a protocol of its own:
  --modes echo,broadcast                which of them it can do
  --login TEXT        what each client sends first; {i} is its number, \\r and \\n as in C
  --sender-login TEXT the same for senders that receive nothing
  --prefix TEXT       before the 63 bytes of a line
  --suffix TEXT       after them, \\n
  --expect others|all|receivers         who gets a line: all but its sender, all, or clients that send nothing
";
