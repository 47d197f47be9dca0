//! `--reload` and `--stop`: what one process asks of the server that runs, which it finds by the pid file of the same
//! configuration.
//!
//! A signal is all that is sent. With `--wait` the answer is looked for where the server leaves it: how a restart went in
//! the status file, its end in the lock of the pid file. The exit status is 0 for what is known to have happened (without
//! `--wait`: that the signal was sent), else 1.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::pid_file::{Found, Running};
use super::program;
use crate::config::{Action, Config, Control, OnHup};
use crate::error::{Error, ErrorKind, Result};
use crate::{logging, sys};

/// Does what the command line asks, and says what came of it.
pub(super) fn run(control: Control, config: &Config) -> ExitCode {
    let done = match control.action {
        Action::Reload => reload(config, control.wait),
        Action::Stop => stop(config, control.wait),
    };
    match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            logging::fatal(&format!("{}: {}", program(), error.chain()));
            ExitCode::from(error.exit_status())
        }
    }
}

fn reload(config: &Config, wait: bool) -> Result<String> {
    if config.process.on_hup == OnHup::Ignore {
        return Err(refusal("--reload: on_hup is `ignore`, so nothing would happen"));
    }
    let (path, running) = find(config, "--reload")?;
    let status = running.open_status(path)?;
    let asked_at = sys::monotonic();
    signal(&running, libc::SIGHUP)?;
    let pid = running.pid;
    if !wait {
        return Ok(format!("pid {pid} was told to reload"));
    }
    let restart = &config.restart;
    let most = restart.probe_time + restart.quiesce_time + restart.commit_time + GRACE;
    let ended = poll(most, || {
        // In this order: what an ending server said last is still read.
        let holds = running.holds(path)?;
        let status = status.read().filter(|status| status.restarts_started >= asked_at);
        Ok(match status {
            Some(status) => Some(Ok(status)),
            None if !holds => Some(Err(())),
            None => None,
        })
    })?;
    match ended {
        Some(Ok(status)) if status.ok => Ok(format!("pid {} has reloaded: {}", status.pid, status.message)),
        Some(Ok(status)) => Err(failure(format!("pid {} has not reloaded: {}", status.pid, status.message))),
        Some(Err(())) => Err(failure(format!("pid {pid} has ended instead of reloading"))),
        None => {
            Err(failure(format!("pid {pid} has not said within {} s that it has reloaded", most.as_secs())))
        }
    }
}

fn stop(config: &Config, wait: bool) -> Result<String> {
    let (path, running) = find(config, "--stop")?;
    signal(&running, libc::SIGTERM)?;
    let pid = running.pid;
    if !wait {
        return Ok(format!("pid {pid} was told to stop"));
    }
    let most = config.limits.stop_time + GRACE;
    match poll(most, || Ok(if running.holds(path)? { None } else { Some(()) }))? {
        Some(()) => Ok(format!("pid {pid} has stopped")),
        None => Err(failure(format!("pid {pid} has not stopped within {} s", most.as_secs()))),
    }
}

/// The server of this configuration.
fn find<'a>(config: &'a Config, option: &str) -> Result<(&'a Path, Running)> {
    let Some(path) = config.process.pid_file.as_deref() else {
        let what = format!("{option}: set pid_file, as for the server that runs: it is found by that");
        return Err(refusal(&what));
    };
    let shown = path.display();
    let what = match Found::at(path)? {
        Found::Running(running) => return Ok((path, running)),
        Found::Starting => format!("the server of {shown} is just starting or ending; try again"),
        Found::Nothing => format!("no server runs: there is no {shown}"),
        Found::Stale(Some(pid)) => format!("no server runs: {shown} is left over from pid {pid}"),
        Found::Stale(None) => format!("no server runs: {shown} names none"),
    };
    Err(failure(what))
}

fn signal(running: &Running, number: i32) -> Result<()> {
    let what = || format!("cannot signal pid {}", running.pid);
    sys::kill(running.pid, number).map_err(|cause| Error::with_source(ErrorKind::Io, what(), cause))
}

/// Asks again and again until there is an answer; none after `most`.
fn poll<T>(most: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let begun = Instant::now();
    loop {
        // Before the look, so that the last one comes after the time is over.
        let over = begun.elapsed() >= most;
        let answer = ask()?;
        if answer.is_some() || over {
            return Ok(answer);
        }
        thread::sleep(PAUSE);
    }
}

fn refusal(what: &str) -> Error {
    Error::new(ErrorKind::Config, what)
}

fn failure(what: String) -> Error {
    Error::new(ErrorKind::Io, what)
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// On top of what the configuration allows for a restart or a stop, for a machine that is busy.
const GRACE: Duration = Duration::from_secs(10);
