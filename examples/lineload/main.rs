//! A load tool for line servers that echo: shows that nothing is lost, above all when the server restarts.
//!
//!     cargo run --release --example echo
//!     cargo run --release --example lineload -- 127.0.0.1:20203
//!
//! It plays three kinds of clients at the same time: live ones, which send numbered lines in pieces and check every
//! byte of every answer; new ones, which connect at a fixed rate for one line; and one control client, which measures
//! the longest silence. With `--hups 100 --pid-file FILE` it sends the server SIGHUPs meanwhile. The exit status says
//! whether anything was lost. `--help` lists the options.

mod answers;
mod compare;
mod control;
mod lines;
mod live;
mod load;
mod newcomers;
mod options;
mod process;
mod report;
mod signals;
mod socket;
mod spread;
mod tally;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use load::Load;
use options::{Asked, HELP, Options};
use report::{Control, Report, Restarts, Seen};
use tally::Tally;

/// What the threads of a run tell each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    begun: AtomicBool,
    stopped: AtomicBool,
    signals_done: AtomicBool,
    gone: AtomicBool,
    hups: AtomicU64,
}

fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Run(options)) => options,
        Ok(Asked::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("lineload: {mistake}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(report) => {
            let losses = report.losses();
            tell(&options, &report, &losses);
            ExitCode::from(u8::from(!losses.is_empty() && !options.expects_losses))
        }
        Err(error) => {
            eprintln!("lineload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Report, String> {
    let newcomers_max = descriptors(options)?;
    let before = seen(options)?;
    let shared = Shared::default();
    let load = Load::new(options, &shared, newcomers_max).map_err(|error| format!("epoll: {error}"))?;
    let (tally, control, restarts) = play(options, &shared, load)?;
    let after = before.and_then(|before| settled(options, before));
    let (live, seed) = (options.live, options.seed);
    Ok(Report { live, seed, pid_may_change: options.pid_may_change, tally, control, restarts, before, after })
}

/// The load in this thread, the control client and the signals in two more.
fn play(
    options: &Options,
    shared: &Shared,
    load: Load<'_>,
) -> Result<(Tally, Control, Option<Restarts>), String> {
    thread::scope(|scope| {
        let control = scope.spawn(|| control::run(options, shared));
        let process = options.process.as_ref().filter(|_| options.signals.any());
        let signals = process.map(|process| scope.spawn(|| signals::run(options, process, shared)));
        let tally = load.run();
        // Whatever became of the load: the others end with it.
        shared.stop();
        let control = control.join().map_err(|_| "the control client panicked".to_owned());
        let restarts = signals.map(|signals| signals.join().map_err(|_| "the signals panicked".to_owned()));
        Ok((tally?, control?, restarts.transpose()?.transpose()?))
    })
}

/// Raises the limit of descriptors as far as it goes; answers how many are left for new connections.
fn descriptors(options: &Options) -> Result<usize, String> {
    let (_, most) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("descriptor limit: {error}"))?;
    // Where it cannot be raised, the first socket that is one too many says so.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let needed = options.live + OWN_DESCRIPTORS + 1;
    if most < needed {
        return Err(format!(
            "{needed} descriptors are needed and {most} allowed: raise the limit (ulimit -n)"
        ));
    }
    Ok((most - options.live - OWN_DESCRIPTORS).min(NEWCOMERS_MAX))
}

/// The server now; `None` if its process was not named.
fn seen(options: &Options) -> Result<Option<Seen>, String> {
    let Some(process) = &options.process else { return Ok(None) };
    let pid = process.pid()?;
    if process::is_alive(pid) {
        Ok(Some(Seen { pid, held: process::held(pid) }))
    } else {
        Err(format!("there is no process {pid}: is the server running?"))
    }
}

/// The server once it holds no more descriptors than before, for which it has a little time; `None` if it is gone.
fn settled(options: &Options, before: Seen) -> Option<Seen> {
    let until = Instant::now() + SETTLING;
    loop {
        let after = seen(options).ok()??;
        let count = |seen: Seen| seen.held.map_or(0, |held| held.descriptors);
        if count(after) <= count(before) || Instant::now() >= until {
            return Some(after);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn tell(options: &Options, report: &Report, losses: &[String]) {
    for failure in &report.tally.failures {
        eprintln!("lineload: {failure}");
    }
    if let Some(error) = &report.tally.new.error {
        eprintln!("lineload: a new connection could not be made: {error}; more --sources have more ports");
    }
    if options.is_plain {
        print!("{}", report.plain());
        return;
    }
    print!("{}", report.table());
    if losses.is_empty() {
        println!("nothing lost");
    } else {
        println!("LOST: {}", losses.join("; "));
    }
}

impl Shared {
    fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn set_signals_done(&self) {
        self.signals_done.store(true, Ordering::SeqCst);
    }

    fn signals_are_done(&self) -> bool {
        self.signals_done.load(Ordering::SeqCst)
    }

    fn set_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    fn server_is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    fn add_hup(&self) {
        self.hups.fetch_add(1, Ordering::SeqCst);
    }

    fn hups(&self) -> u64 {
        self.hups.load(Ordering::SeqCst)
    }
}

/// New connections open at a time; more than that are begun late.
const NEWCOMERS_MAX: usize = 10_000;
/// What we need besides: standard streams, the poll, the control client, files that are read.
const OWN_DESCRIPTORS: usize = 32;
/// How long the server may take to close what it held for us.
const SETTLING: Duration = Duration::from_secs(2);
