//! Several processes of one server, which share one listening socket: a chat in as many rooms as there are processes.
//!
//!     cargo run --example scale
//!     telnet 127.0.0.1 20203
//!
//! What is started opens the socket, starts the workers, and sees to it that there are as many as there should be. It
//! hands them the socket as systemd does (`LISTEN_FDS`), so under a unit with `--worker` nothing is left of it. Each worker
//! is a server like any other, with memory, limits, clients and restarts of its own. HUP, USR1, QUIT, TERM and INT go to
//! all workers; a HUP or TERM to one of them restarts that one, with its clients or without.

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, io, thread};

use lineplex::config::{Config, ConfigBuilder, Outcome};
use lineplex::net::Listener;
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Context, Input, MuxCallback, Peer, Saved, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

struct Worker;

struct Client;

#[derive(serde::Deserialize)]
#[serde(default)]
struct Settings {
    workers: usize,
    worker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { workers: thread::available_parallelism().map_or(1, usize::from), worker: false }
    }
}

impl Server for Worker {
    type Client = Client;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config.app_name("scale").about("A chat of several processes, each a room of its own.");
        config.conf_file_if_exists("config/scale.toml").set_default("host", "127.0.0.1");
        config.app_option("workers", "N", "processes; by default one for each core");
        config.app_option("worker", "", "be one of them");
    }

    fn post_configure_hook(&mut self, config: &Config) -> lineplex::Result<()> {
        config.app::<Settings>().map(drop)
    }

    fn client(&mut self, _peer: &Peer) -> Client {
        Client
    }

    fn restore_client(&mut self, _peer: &Peer, _state: &mut StateReader<'_>) -> lineplex::Result<Client> {
        Ok(Client)
    }
}

impl MuxCallback<Worker> for Client {
    fn connection(&mut self, ctx: &mut Context<'_, Worker>) -> io::Result<()> {
        let (process, others) = (std::process::id(), ctx.conns.all().count() - 1);
        write!(ctx, "process {process}, others here: {others}\r\n");
        Ok(())
    }

    fn input(&mut self, ctx: &mut Context<'_, Worker>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.conns.broadcast(&[line, b"\r\n"].concat(), |_| true);
        }
        Ok(())
    }

    fn save(&self, _out: &mut StateWriter) -> Saved {
        Saved::Keep
    }
}

fn main() -> ExitCode {
    let Some(config) = to_supervise() else {
        end_with_the_supervisor();
        return lineplex::run(Worker);
    };
    supervise(&config).unwrap_or_else(|error| {
        eprintln!("scale: {error}");
        ExitCode::FAILURE
    })
}

/// None for a worker, and for all that one process does alone: help, checks, telling what is wrong.
fn to_supervise() -> Option<Config> {
    if env::args_os().any(|word| ["--worker", "--reload", "--stop"].iter().any(|own| word == *own)) {
        return None;
    }
    let mut builder = ConfigBuilder::new();
    Worker.configure_hook(&mut builder);
    match builder.build() {
        Ok(Outcome::Config(config)) if !config.check_only() => Some(*config),
        _ => None,
    }
}

fn supervise(config: &Config) -> Result<ExitCode, Box<dyn Error>> {
    let wanted = config.app::<Settings>()?.workers;
    if config.process.background || config.process.pid_file.is_some() {
        return Err(
            "each worker would want the pid file, and leave: have a service manager start this".into()
        );
    }
    if wanted == 0 {
        return Err("workers = 0: nobody would serve".into());
    }
    let listeners = Listener::bind_all(&config.listen, &config.limits)?;
    let [listener] = &listeners[..] else { return Err("this example shares one listener, not more".into()) };
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1])?;
    let mut workers = (0..wanted).map(|_| start(listener)).collect::<io::Result<Vec<_>>>()?;
    let mut stopping = false;
    let mut answer = ExitCode::SUCCESS;
    while !(stopping && workers.is_empty()) {
        for signal in signals.wait() {
            if signal != SIGCHLD {
                stopping |= ![SIGHUP, SIGUSR1].contains(&signal);
                tell(&workers, signal)?;
            }
        }
        for status in take_ended(&mut workers) {
            match status.code() {
                _ if stopping => {}
                // What it could not do, the next one cannot either.
                Some(1..) => {
                    (stopping, answer) = (true, ExitCode::FAILURE);
                    tell(&workers, SIGTERM)?;
                }
                _ => {
                    thread::sleep(PAUSE);
                    workers.push(start(listener)?);
                }
            }
        }
    }
    Ok(answer)
}

/// A worker, with the socket as its descriptor 3. It has to be told its own process id, which the shell knows before it
/// becomes the worker.
fn start(listener: &Listener) -> io::Result<Child> {
    let socket = listener.descriptor().ok_or(io::ErrorKind::NotConnected)?.try_clone_to_owned()?;
    let mut words = env::args_os();
    Command::new("/bin/sh")
        .args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null"])
        .args(words.next())
        .arg("--worker")
        .args(words)
        .stdin(Stdio::from(socket))
        // Ctrl-C is for what was started, which tells the workers.
        .process_group(0)
        .spawn()
}

fn tell(workers: &[Child], signal: i32) -> io::Result<()> {
    for worker in workers {
        // Nobody has waited for it, so the number is still its own.
        kill(Pid::from_raw(worker.id() as i32), Signal::try_from(signal)?)?;
    }
    Ok(())
}

fn take_ended(workers: &mut Vec<Child>) -> Vec<ExitStatus> {
    let mut ended = Vec::new();
    workers.retain_mut(|worker| match worker.try_wait() {
        Ok(Some(status)) => {
            eprintln!("scale: worker {}: {status}", worker.id());
            ended.push(status);
            false
        }
        _ => true,
    });
    ended
}

/// Even if that is killed.
fn end_with_the_supervisor() {
    #[cfg(target_os = "linux")]
    if env::var_os("LISTEN_PID").is_some() {
        // It cannot fail for a signal that exists; and a restart in place keeps it.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    }
}

/// Between the end of a worker and the start of the next.
const PAUSE: Duration = Duration::from_millis(100);
