//! The life of a server process: configure → bind → loop → close, with every hook in Net::Server's order.
//!
//! [`run`] is the front door; [`run_with`] takes a configuration from code. Both own the process: they install the
//! log sink, take over the signals, contain the panics of the loop (one in a hook before it ends the process, as any
//! panic does), and answer with the exit status: 0 stopped, 1 could not start or a fatal error, 2 a wrong command line,
//! anything else what the application asked for.

use std::panic;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigBuilder, Outcome};
use crate::logging::{self, Quiet};
use crate::mux::{Ended, Mux, Server};
use crate::net::Listener;
use crate::signals::Signals;
use crate::{Error, ErrorKind, Result};

/// Runs `server` until it is stopped: reads the command line and the configuration file, opens the listeners,
/// serves, and closes. The answer is for `main` to return.
///
/// | signal | what it does |
/// |---|---|
/// | INT, TERM | stops at once: one send of what is owed, then every client is closed |
/// | QUIT | stops gracefully: everybody is sent what is owed, at most `stop_seconds`; a second one stops at once |
/// | HUP | says in the log that a restart is not available in this version, and goes on |
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
    let mut builder = ConfigBuilder::new();
    server.configure_hook(&mut builder);
    match builder.build() {
        Ok(Outcome::Config(config)) => run_with(server, *config),
        Ok(Outcome::Help(text) | Outcome::Version(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fatal(&mut server, &error),
    }
}

/// Runs `server` with a configuration made in code; neither the command line nor a file is read, and
/// `configure_hook` is not called.
pub fn run_with<S: Server>(mut server: S, config: Config) -> ExitCode {
    // When the last reference goes, at the end, the last lines are written.
    let logger = match config.validate().and_then(|()| logging::install(&config.log)) {
        Ok(logger) => logger.map(Rc::new),
        Err(error) => return fatal(&mut server, &error),
    };
    let panics = panic::take_hook();
    log_panics();
    let status = match prepare(&mut server, &config) {
        Ok(Some((listeners, signals))) => {
            let log = logger.clone();
            let reopen_logs = move || log.iter().for_each(|log| log.reopen());
            serve(server, config, listeners, signals, reopen_logs)
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => fatal(&mut server, &error),
    };
    panic::set_hook(panics);
    drop(logger);
    status
}

/// Everything before the loop; none if there shall be no loop.
fn prepare<S: Server>(server: &mut S, config: &Config) -> Result<Option<(Vec<Listener>, Signals)>> {
    // First of all: a signal that comes while we start is acted on by the first turn, not by its default.
    let signals = Signals::new()
        .map_err(|error| Error::with_source(ErrorKind::Io, "cannot take over the signals", error))?;
    server.post_configure_hook(config)?;
    config.refuse_unclaimed()?;
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    if config.check_only() {
        println!("the configuration is valid");
        return Ok(None);
    }
    log::info!("{} starting, pid {}", program(), std::process::id());
    server.pre_bind_hook(config)?;
    let listeners = Listener::bind_all(&config.listen, &config.limits)?;
    server.post_bind_hook(config)?;
    Ok(Some((listeners, signals)))
}

/// The loop and the close.
fn serve<S: Server>(
    server: S,
    config: Config,
    listeners: Vec<Listener>,
    signals: Signals,
    reopen_logs: impl FnMut() + 'static,
) -> ExitCode {
    let mut mux = match Mux::new(server, config.limits) {
        Ok(mux) => mux,
        Err(error) => {
            logging::fatal(&format!("{}: {}", program(), error.chain()));
            return error.exit_status().into();
        }
    };
    mux.set_access(config.access);
    let ready = listeners
        .into_iter()
        .try_for_each(|listener| mux.add_listener(listener))
        .and_then(|()| mux.set_signals(signals, reopen_logs))
        .and_then(|()| mux.enter(|server, room| server.pre_loop_hook(room)));
    if let Err(error) = ready {
        return fatal(mux.server(), &error);
    }
    mux.set_tick(config.check_for_dequeue);
    for (_, addr) in mux.conns().local_addrs() {
        log::info!("listening on {addr}; try: {}", addr.hint());
    }
    let ended = loop {
        match mux.run() {
            Ok(Ended::Restart) => {
                log::warn!("SIGHUP: a restart is not available in this version; nothing has changed");
            }
            Ok(ended) => break Ok(ended),
            Err(error) => break Err(error),
        }
    };
    let status = match ended {
        Ok(Ended::Stop { status, closed, cut }) => {
            log::info!("{} closing; clients told goodbye: {closed}, cut off: {cut}", program());
            status
        }
        Ok(Ended::Restart) => 0,
        Err(error) => {
            // `fatal_hook` has been called by the loop, before it closed everybody.
            logging::fatal(&format!("{}: {}", program(), error.chain()));
            error.exit_status()
        }
    };
    mux.server().post_child_cleanup_hook();
    ExitCode::from(status)
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
