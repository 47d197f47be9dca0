//! What an image does at its start when it follows another one that serves: first on trial, in a process that is thrown
//! away, then in earnest, in the process of the one before.

use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Duration;

use super::around::Around;
use super::handover::{Heir, Restart, Sorted, Trial};
use super::image::Image;
use super::{configured, listening, refuse_no_file, serve, set_up, take_signals};
use crate::config::Config;
use crate::logging::Logger;
use crate::mux::{Mux, Server};
use crate::net::OwnedPath;
use crate::signals::Signals;
use crate::sys::{self, Inherited};
use crate::{Error, ErrorKind, Result};

/// Tries a restart for the image that serves. What the application cleans up at its end is not the probe's to clean up:
/// it ends here.
pub(super) fn probe<S: Server>(
    server: S,
    config: &Config,
    mut trial: Trial,
    logger: Option<&Logger>,
) -> ExitCode {
    let mut server = ManuallyDrop::new(server);
    let status = match contained(|| rehearse(&mut *server, config, &mut trial)) {
        Ok(()) => 0,
        Err(error) => {
            trial.refuse(&error);
            error.exit_status()
        }
    };
    if let Some(logger) = logger {
        logger.flush(END_FLUSH);
    }
    sys::exit_now(status.into())
}

/// What `work` gives; a panic of the application in it is an error.
fn contained<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
        let error = Error::new(ErrorKind::Hook, format!("a hook panicked: {text}"));
        // Its drop is the application's as well.
        std::mem::forget(panic);
        Err(error)
    })
}

fn rehearse<S: Server>(server: &mut S, config: &Config, trial: &mut Trial) -> Result<()> {
    refuse_no_file(trial.will.conf.as_ref().map(|(path, _)| path.as_path()), config)?;
    configured(server, config)?;
    server.pre_bind_hook(config)?;
    server.restart_open_hook(config)?;
    let mut sorted = trial.listeners(config)?;
    server.post_bind_hook(config)?;
    trial.rehearse(server)?;
    trial.succeed(config, &mut sorted)
}

/// Goes on where the image before has stopped.
pub(super) fn inherit<S: Server>(
    server: S,
    config: Config,
    image: Image,
    mut heir: Heir,
    mut inherited: Inherited,
    mut around: Around,
) -> ExitCode {
    let taken = heir.pid_file(&config).and_then(|pid_file| {
        let take_up = || take_up(server, &config, &mut heir, &mut inherited, &around);
        Ok((contained(take_up)?, pid_file))
    });
    let (Taken { mut mux, paths, added, removed }, pid_file) = match taken {
        Ok(taken) => taken,
        Err(error) => return give_up(&heir, around.logger.as_deref(), &error),
    };
    let standby = heir.commit();
    mux.claim();
    around.hold(pid_file);
    for (listener, path) in mux.listeners_mut().zip(paths) {
        path.into_iter().for_each(|path| listener.own_path(path));
        if let Err(error) = listener.set_options(&config.limits) {
            log::warn!("the listener on {} keeps its socket options: {error}", listener.local_addr());
        }
    }
    if let Err(error) = Signals::unblock() {
        log::error!("the signals stay held back: {error}");
    }
    let generation = heir.will.generation + 1;
    let mut restart =
        Restart::new(image, config.restart.clone(), config.limits.clone(), generation, heir.will.began);
    log::info!("restart {generation} done; {} connections go on", mux.conns().metrics().open);
    if standby.is_none() && sys::own_pid() != 1 {
        log::warn!("restart {generation} had no standby to go back to: other threads were running");
    }
    for line in added {
        log::info!("{line}");
    }
    restart.settle(&mut mux, &around, standby, removed);
    drop(heir);
    serve(mux, &config, restart, around)
}

/// What an heir has taken up.
struct Taken<S: Server> {
    /// Ready to serve.
    mux: Mux<S>,
    /// The claims to the paths of its listeners, one for each.
    paths: Vec<Option<OwnedPath>>,
    /// What is to be said of listeners that the image before did not serve.
    added: Vec<String>,
    /// The names of those that are to go, its last ones.
    removed: Vec<String>,
}

/// Everything up to the commit: nothing of it touches a client, so all of it can be undone by ending. If it fails,
/// neither the loop nor the server is dropped: what they would clean up is the image before's again.
fn take_up<S: Server>(
    server: S,
    config: &Config,
    heir: &mut Heir,
    inherited: &mut Inherited,
    around: &Around,
) -> Result<Taken<S>> {
    let mut server = ManuallyDrop::new(server);
    let signals = take_signals()?;
    configured(&mut *server, config)?;
    server.pre_bind_hook(config)?;
    server.restart_open_hook(config)?;
    let there = std::mem::take(&mut heir.will.listeners);
    let sorted = Sorted::sort(&config.listen, there, &config.limits, |fd| inherited.take(fd))?;
    server.post_bind_hook(config)?;
    for warning in &sorted.warnings {
        log::warn!("{warning}");
    }
    let mut mux = ManuallyDrop::new(Mux::new(ManuallyDrop::into_inner(server), config.limits.clone())?);
    let removed = sorted.removed.iter().map(|kept| kept.listener.name().to_owned()).collect();
    let (mut paths, mut added) = (Vec::new(), Vec::new());
    for mut kept in sorted.open.into_iter().chain(sorted.removed) {
        paths.push(kept.take_path());
        added.extend(kept.is_new.then(|| listening(mux.server(), &kept.listener.local_addr())));
        mux.take_over_listener(kept.listener, kept.paused)?;
    }
    mux.restore(heir.loop_reader()?, &mut |fd| inherited.take(fd))?;
    set_up(&mut mux, config, signals, around)?;
    Ok(Taken { mux: ManuallyDrop::into_inner(mux), paths, added, removed })
}

/// This image cannot take over; the one before goes on. Nothing is cleaned up: it is not ours.
pub(super) fn give_up(heir: &Heir, logger: Option<&Logger>, error: &Error) -> ExitCode {
    log::error!("the restart is given up: {}", error.chain());
    if let Some(logger) = logger {
        logger.flush(END_FLUSH);
    }
    heir.give_up(error);
    sys::exit_now(error.exit_status().into())
}

/// For the log of a process that ends at once.
const END_FLUSH: Duration = Duration::from_secs(1);
