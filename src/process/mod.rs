//! The life of a server process: configure → bind → loop → close, with every hook in Net::Server's order.
//!
//! [`run`] is the front door; [`run_with`] takes a configuration from code. Both own the process: they install the
//! log sink, take over the signals, contain the panics of the loop (one in a hook before it ends the process, as any
//! panic does), and answer with the exit status: 0 stopped, 1 could not start or a fatal error, 2 a wrong command line,
//! anything else what the application asked for.

mod activation;
mod around;
mod control;
mod daemon;
mod handover;
mod image;
mod life;
#[cfg_attr(not(feature = "systemd"), path = "notify/off.rs")]
mod notify;
mod pid_file;
mod privileges;
mod restarted;
mod status;

use std::os::fd::{AsFd as _, OwnedFd};
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigBuilder, OnHup, Outcome};
use crate::logging::{self, Quiet};
use crate::mux::{Ended, Mux, Server, Woke};
use crate::net::{Listener, LocalAddr};
use crate::signals::Signals;
use crate::sys::{self, Inherited};
use crate::{Error, ErrorKind, Result};
use activation::Passed;
use around::Around;
use handover::{Birth, Restart};
use image::Image;
use life::Life;
use pid_file::PidFile;

/// Runs `server` until it is stopped: reads the command line and the configuration file, opens the listeners,
/// serves, and closes. The answer is for `main` to return.
///
/// | signal | what it does |
/// |---|---|
/// | INT, TERM | stops at once: one send of what is owed, then every client is closed |
/// | QUIT | stops gracefully: everybody is sent what is owed, at most `stop_seconds`; a second one stops at once |
/// | HUP | restarts in place: same pid, same listeners, same clients; `on_hup` in the configuration can say otherwise |
/// | USR1 | reopens the log file |
/// | USR2, ALRM, TTIN, TTOU | `signal_hook` |
///
/// ```no_run
/// use lineplex::{Context, Input, MuxCallback, Peer, Server};
/// use std::process::ExitCode;
///
/// #[derive(Default)]
/// struct Echo;
/// struct EchoClient;
///
/// impl Server for Echo {
///     type Client = EchoClient;
///     fn client(&mut self, _peer: &Peer) -> EchoClient {
///         EchoClient
///     }
/// }
///
/// impl MuxCallback<Echo> for EchoClient {
///     fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> std::io::Result<()> {
///         while let Some(line) = input.line() {
///             ctx.write(line);
///             ctx.write(b"\r\n");
///         }
///         Ok(())
///     }
/// }
///
/// fn main() -> ExitCode {
///     lineplex::run(Echo)
/// }
/// ```
pub fn run<S: Server>(mut server: S) -> ExitCode {
    let start = match Start::of_process() {
        Ok(start) => start,
        Err(error) => return error.tell(),
    };
    let mut builder = ConfigBuilder::new();
    server.configure_hook(&mut builder);
    match start.build(builder) {
        Ok(Outcome::Config(config)) => begin(server, *config, start),
        Ok(Outcome::Help(text) | Outcome::Version(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => start.refuse(&mut server, &error),
    }
}

/// Runs `server` with a configuration made in code; neither the command line nor a file is read, and
/// `configure_hook` is not called.
pub fn run_with<S: Server>(server: S, config: Config) -> ExitCode {
    match Start::of_process() {
        Ok(start) => begin(server, config, start),
        Err(error) => error.tell(),
    }
}

/// What this process is and was started with.
struct Start {
    image: Image,
    birth: Birth,
    passed: Passed,
    inherited: Inherited,
}

/// A start that failed before anything was known.
struct NoStart(Error);

impl NoStart {
    fn tell(self) -> ExitCode {
        logging::fatal(&format!("{}: {}", program(), self.0.chain()));
        ExitCode::from(self.0.exit_status())
    }
}

impl Start {
    /// To be called first: nothing is open yet but what was handed to this process.
    fn of_process() -> Result<Self, NoStart> {
        let fail = |error| NoStart(Error::with_source(ErrorKind::Io, "cannot look at this process", error));
        let mut inherited = Inherited::at_start().map_err(fail)?;
        let mut image = Image::of_process();
        let birth = Birth::of_process(&mut image, &mut inherited).map_err(NoStart)?;
        let passed = match birth {
            Birth::Fresh => Passed::of_process(&mut inherited).map_err(NoStart)?,
            Birth::Probe(_) | Birth::Heir(_) => Passed::default(),
        };
        Ok(Self { image, birth, passed, inherited })
    }

    /// Reads the configuration: an heir the bytes that the probe has read; relative paths mean what they meant when the
    /// server was started.
    fn build(&self, mut builder: ConfigBuilder) -> Result<Outcome> {
        if let Birth::Heir(heir) = &self.birth {
            if let Some((path, text)) = &heir.will.conf {
                builder.conf_text(path, text);
            }
        }
        if !matches!(self.birth, Birth::Fresh) {
            builder.relative_to(self.image.directory.as_deref());
        }
        builder.build()
    }

    /// What is written to if the log file can no longer be opened: the one that is open already, if its path is still the
    /// same. A probe has none, and writes to standard error then.
    fn log_to_go_on(&self, config: &Config) -> Option<OwnedFd> {
        let (will, probes) = match &self.birth {
            Birth::Fresh => return None,
            Birth::Probe(trial) => (&trial.will, true),
            Birth::Heir(heir) => (&heir.will, false),
        };
        let (path, file) = will.log.as_ref()?;
        if around::log_path(config) != Some(path) {
            return None;
        }
        match file {
            None if probes => std::io::stderr().as_fd().try_clone_to_owned().ok(),
            file => file.as_ref()?.try_clone().ok(),
        }
    }

    /// The configuration is wrong, or there is none.
    fn refuse<S: Server>(&self, server: &mut S, error: &Error) -> ExitCode {
        match &self.birth {
            Birth::Fresh => fatal(server, error),
            Birth::Probe(trial) => {
                trial.refuse(error);
                sys::exit_now(error.exit_status().into())
            }
            Birth::Heir(heir) => restarted::give_up(heir, None, error),
        }
    }
}

/// The configuration is there: what this process is for.
fn begin<S: Server>(mut server: S, mut config: Config, mut start: Start) -> ExitCode {
    config.set_born(matches!(start.birth, Birth::Probe(_)), !matches!(start.birth, Birth::Fresh));
    if let (Some(control), Birth::Fresh) = (config.control(), &start.birth) {
        return control::run(control, &config);
    }
    let begun = config.validate().and_then(|()| match start.birth {
        Birth::Fresh => Life::begin(&config, std::mem::take(&mut start.passed)).map(Some),
        Birth::Probe(_) | Birth::Heir(_) => Ok(None),
    });
    // No line is logged before: the log's thread must not exist when the process goes into the background.
    let begun = begun.and_then(|life| {
        let logger = logging::install_with(&config.log, start.log_to_go_on(&config))?;
        Ok((life, logger.map(Rc::new)))
    });
    let (life, logger) = match begun {
        Ok(begun) => begun,
        Err(error) => return start.refuse(&mut server, &error),
    };
    let panics = panic::take_hook();
    log_panics();
    // When the last reference to the log goes, at the end, the last lines are written.
    let around = Around::new(logger.clone(), &config);
    let Start { mut image, birth, inherited, .. } = start;
    image.conf_file.clone_from(&config.conf_file);
    image.chroot.clone_from(&config.process.chroot);
    let status = match (birth, life) {
        (Birth::Fresh, Some(life)) => fresh(server, config, image, life, around),
        (Birth::Probe(trial), _) => restarted::probe(server, &config, *trial, logger.as_deref()),
        (Birth::Heir(heir), _) => restarted::inherit(server, config, image, *heir, inherited, around),
        (Birth::Fresh, None) => unreachable!("a fresh process has a life"),
    };
    panic::set_hook(panics);
    drop(logger);
    status
}

/// A server that somebody has started.
fn fresh<S: Server>(
    mut server: S,
    mut config: Config,
    image: Image,
    mut life: Life,
    mut around: Around,
) -> ExitCode {
    config.listen = life.listen(&config);
    let (listeners, signals) = match prepare(&mut server, &config, &mut life, &mut around) {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            around.fails(&error);
            return fatal(&mut server, &error);
        }
    };
    let restart = Restart::new(image, config.restart.clone(), config.limits.clone(), 0, Duration::ZERO);
    // The soft limit of descriptors is raised here, which needs no privileges.
    let mut mux = match Mux::new(server, config.limits.clone()) {
        Ok(mux) => mux,
        Err(error) => {
            logging::fatal(&format!("{}: {}", program(), error.chain()));
            return error.exit_status().into();
        }
    };
    let ready = listeners
        .into_iter()
        .try_for_each(|listener| mux.add_listener(listener))
        .and_then(|()| set_up(&mut mux, &config, signals, &around));
    if let Err(error) = ready {
        around.fails(&error);
        return fatal(mux.server(), &error);
    }
    let addrs: Vec<LocalAddr> = mux.conns().local_addrs().map(|(_, addr)| addr).collect();
    for addr in addrs {
        log::info!("{}", listening(mux.server(), &addr));
    }
    if let Err(error) = life.ready() {
        return fatal(mux.server(), &error);
    }
    around.serves(&mux);
    serve(mux, &config, restart, around)
}

/// Everything before the loop; none if there shall be no loop.
fn prepare<S: Server>(
    server: &mut S,
    config: &Config,
    life: &mut Life,
    around: &mut Around,
) -> Result<Option<(Vec<Listener>, Signals)>> {
    // First of all: a signal that comes while we start is acted on by the first turn, not by its default.
    let signals = take_signals()?;
    life.unblock_signals();
    configured(server, config)?;
    if config.check_only() {
        println!("the configuration is valid");
        return Ok(None);
    }
    around.hold(config.process.pid_file.as_deref().map(PidFile::create).transpose()?);
    log::info!("{} starting, pid {}", program(), std::process::id());
    server.pre_bind_hook(config)?;
    let listeners = around.open(life.passed(), config)?;
    server.post_bind_hook(config)?;
    life.give_up_privileges(around.logger.as_deref())?;
    Ok(Some((listeners, signals)))
}

fn take_signals() -> Result<Signals> {
    Signals::new().map_err(|error| Error::with_source(ErrorKind::Io, "cannot take over the signals", error))
}

/// The rest of the phase configure.
fn configured<S: Server>(server: &mut S, config: &Config) -> Result<()> {
    server.post_configure_hook(config)?;
    config.refuse_unclaimed()?;
    // After a probe the next image says the same.
    for warning in config.warnings().iter().filter(|_| !config.probing()) {
        log::warn!("{warning}");
    }
    Ok(())
}

/// What is the same for every loop, up to the last hook before it.
fn set_up<S: Server>(mux: &mut Mux<S>, config: &Config, signals: Signals, around: &Around) -> Result<()> {
    let log = around.logger.clone();
    mux.set_access(config.access.clone());
    mux.set_signals(signals, move || log.iter().for_each(|log| log.reopen()))?;
    mux.enter(|server, room| server.pre_loop_hook(room))?;
    mux.set_tick(config.check_for_dequeue);
    Ok(())
}

/// Where the server listens, and how to try it.
fn listening<S: Server>(server: &S, addr: &LocalAddr) -> String {
    format!("listening on {addr}; try: {}", server.try_hint(addr))
}

/// The loop and the close.
fn serve<S: Server>(mut mux: Mux<S>, config: &Config, mut restart: Restart, around: Around) -> ExitCode {
    let ended = loop {
        let due = [restart.due(), around.due()].into_iter().flatten().min();
        mux.wake_outside(due.map(|at| at.saturating_duration_since(Instant::now())));
        match mux.run_or_wake() {
            Ok(Woke::Outside) => {
                around.ping();
                restart.woken(&mut mux, &around);
            }
            Ok(Woke::Ended(Ended::Restart)) => match config.process.on_hup {
                OnHup::Handover => restart.asked(&mut mux, &around),
                OnHup::Reload => reload(&mut mux, &restart, &around),
                OnHup::Ignore => {
                    log::debug!("SIGHUP: ignored, as on_hup says");
                    around.reload_ignored();
                }
            },
            Ok(Woke::Ended(Ended::Stop { status, closed, cut })) => break Ok((status, closed, cut)),
            Err(error) => break Err(error),
        }
    };
    if restart.is_settled() {
        around.stops(config);
    }
    let status = match ended {
        Ok((status, closed, cut)) => {
            log::info!("{} closing; clients told goodbye: {closed}, cut off: {cut}", program());
            status
        }
        Err(error) => {
            // `fatal_hook` has been called by the loop, before it closed everybody.
            logging::fatal(&format!("{}: {}", program(), error.chain()));
            error.exit_status()
        }
    };
    mux.server().post_child_cleanup_hook();
    // The listeners close before the pid file goes: who finds none can listen there.
    drop(mux);
    restart.end(status);
    ExitCode::from(status)
}

/// SIGHUP with `on_hup = "reload"`: the same process reads its configuration again.
fn reload<S: Server>(mux: &mut Mux<S>, restart: &Restart, around: &Around) {
    let began = sys::monotonic();
    around.reload_begins();
    match read_again(mux, restart) {
        Ok(config) => {
            mux.set_access(config.access);
            mux.set_tick(config.check_for_dequeue);
            log::info!("the configuration was read again");
            around.reloaded(began, Ok("the configuration was read again"));
        }
        Err(error) => {
            log::error!("reload failed, nothing has changed: {}", error.chain());
            around.reloaded(began, Err(&error));
        }
    }
}

fn read_again<S: Server>(mux: &mut Mux<S>, restart: &Restart) -> Result<Box<Config>> {
    let panicked = |hook| Err(Error::new(ErrorKind::Hook, format!("{hook} panicked")));
    let mut read = panicked("configure_hook");
    mux.call_hook("configure_hook", |server, _| {
        let mut builder = ConfigBuilder::new();
        server.configure_hook(&mut builder);
        builder.relative_to(restart.image().directory.as_deref());
        read = builder.build();
    });
    let Outcome::Config(config) = read? else {
        return Err(Error::new(ErrorKind::Usage, "nothing to reload"));
    };
    refuse_no_file(restart.image().conf_file.as_deref(), &config)?;
    let mut taken = panicked("reload_hook").map(drop);
    mux.call_hook("reload_hook", |server, room| taken = server.reload_hook(room, &config));
    taken.and_then(|()| config.refuse_unclaimed())?;
    Ok(config)
}

/// Refuses the defaults where there was a configuration file `before`: one that is read if it exists may be missing because
/// somebody is just replacing it, or because the disk that it is on is not there.
fn refuse_no_file(before: Option<&Path>, config: &Config) -> Result<()> {
    match (before, &config.conf_file) {
        (Some(before), None) => {
            let what = "is gone; put it back, if only empty, or stop the server and start it anew";
            Err(Error::new(ErrorKind::Config, format!("the configuration file {} {what}", before.display())))
        }
        _ => Ok(()),
    }
}

/// The end of a server that could not start.
fn fatal<S: Server>(server: &mut S, error: &Error) -> ExitCode {
    server.fatal_hook(error);
    logging::fatal(&format!("{}: {}", program(), error.chain()));
    ExitCode::from(error.exit_status())
}

/// Panics go to the log, with their place, instead of past it to standard error; a flood of them is one line in ten
/// seconds.
fn log_panics() {
    let quiet = Mutex::new(Quiet::new(Duration::from_secs(10)));
    panic::set_hook(Box::new(move |info| {
        let allowed = quiet.lock().map_or(Some(0), |mut quiet| quiet.allow(Instant::now()));
        if let Some(more) = allowed {
            log::error!("{info} ({more} more since the last such line)");
        }
    }));
}

/// The name that this program was started by, without its directory.
fn program() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    let name =
        path.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "server".to_owned())
}
