//! The server that tests/flow.rs runs: it does what its clients say and tells its hooks on standard output.
//!
//! Built as an example because Cargo gives tests no other program that is theirs. A line of a client is a command, see
//! [`Driven`]; every other line comes back. The environment says what no client can: `FLOW_SET=KEY=NUMBER` sets an
//! option from code, `FLOW_REFUSE=HOOK` has that hook refuse to start, `FLOW_RUN_WITH=PATH` runs with a configuration from
//! code that listens there, and `FLOW_DO=HOOK WHAT` has that hook do what no hook should: see [`Flow::misbehave`].

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use lineplex::config::{Config, ConfigBuilder, ListenAt};
use lineplex::signals::Signal;
use lineplex::{
    CloseReason, Closing, Context, Error, ErrorKind, Input, MuxCallback, Peer, Result, Room, Server,
};

#[derive(Default)]
struct Flow {
    refusing: Option<String>,
    doing: Option<String>,
    panics_next: bool,
}

/// A client; the commands that it knows are the arms of `obey`.
struct Driven;

impl Flow {
    fn refuses(&self, hook: &str) -> Result<()> {
        self.misbehave(hook);
        match &self.refusing {
            Some(refusing) if refusing == hook => Err(Error::new(ErrorKind::Hook, format!("{hook} refuses"))),
            _ => Ok(()),
        }
    }

    /// Panics, aborts, starts a thread that stays, or waits until somebody at a path lets go.
    fn misbehave(&self, hook: &str) {
        let Some((_, what)) =
            self.doing.as_deref().and_then(|doing| doing.split_once(' ')).filter(|(at, _)| *at == hook)
        else {
            return;
        };
        match what.split_once(' ').unwrap_or((what, "")) {
            ("panic", _) => panic!("{hook} was asked to panic"),
            ("abort", _) => std::process::abort(),
            ("thread", _) => drop(std::thread::spawn(std::thread::park)),
            ("wait", path) => {
                let mut stream = UnixStream::connect(path).expect("somebody listens there");
                stream.read_to_end(&mut Vec::new()).expect("it lets go");
            }
            other => panic!("{other:?} is nothing that a hook can do"),
        }
    }

    fn panic_if_asked(&mut self, hook: &str) {
        assert!(!std::mem::take(&mut self.panics_next), "{hook} was asked to panic");
    }
}

impl Server for Flow {
    type Client = Driven;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        self.misbehave("configure_hook");
        if let Some((key, value)) =
            std::env::var("FLOW_SET").ok().as_deref().and_then(|set| set.split_once('='))
        {
            config.set(key, value.parse::<f64>().expect("FLOW_SET is KEY=NUMBER"));
        }
    }

    fn post_configure_hook(&mut self, _config: &Config) -> Result<()> {
        self.refuses("post_configure_hook")
    }

    fn pre_bind_hook(&mut self, _config: &Config) -> Result<()> {
        self.refuses("pre_bind_hook")
    }

    fn post_bind_hook(&mut self, _config: &Config) -> Result<()> {
        self.refuses("post_bind_hook")
    }

    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        self.refuses("pre_loop_hook")?;
        let addrs: Vec<String> = room.conns.local_addrs().map(|(_, addr)| addr.to_string()).collect();
        println!("ready {}", addrs.join(" "));
        Ok(())
    }

    fn client(&mut self, _peer: &Peer) -> Driven {
        self.panic_if_asked("client");
        Driven
    }

    fn run_dequeue(&mut self, _room: &mut Room<'_, Self>) {
        println!("run_dequeue");
    }

    fn signal_hook(&mut self, _room: &mut Room<'_, Self>, signal: Signal) {
        println!("signal_hook: {signal}");
        self.panic_if_asked("signal_hook");
    }

    fn pre_server_close_hook(&mut self, _room: &mut Room<'_, Self>, closing: Closing) {
        println!("pre_server_close_hook: {closing:?}");
    }

    fn post_child_cleanup_hook(&mut self) {
        println!("post_child_cleanup_hook");
    }

    fn fatal_hook(&mut self, error: &Error) {
        println!("fatal_hook: {}", error.chain());
    }
}

impl Driven {
    fn obey(ctx: &mut Context<'_, Flow>, line: &str) -> io::Result<()> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "stop" => ctx.conns.stop(rest.parse().map_err(io::Error::other)?),
            "fatal" => ctx.conns.fatal(Error::new(ErrorKind::Hook, rest)),
            "panic" => panic!("{rest}"),
            "panic-next" => ctx.server.panics_next = true,
            "fail" => return Err(io::Error::other(rest.to_owned())),
            "big" => {
                ctx.write(&vec![b'x'; rest.parse().map_err(io::Error::other)?]);
            }
            // Keeps the loop busy until somebody at that path lets go.
            "wait" => {
                UnixStream::connect(rest)?.read_to_end(&mut Vec::new())?;
                println!("waited");
            }
            "timer" => ctx.set_timeout(Duration::from_secs_f64(rest.parse().map_err(io::Error::other)?)),
            "log" => {
                let (level, text) = rest.split_once(' ').unwrap_or((rest, ""));
                log::log!(level.parse().map_err(io::Error::other)?, "{}", text.replace("\\n", "\n"));
            }
            _ => {
                writeln!(ctx, "{line}");
            }
        }
        Ok(())
    }
}

impl MuxCallback<Flow> for Driven {
    fn input(&mut self, ctx: &mut Context<'_, Flow>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            let line = String::from_utf8_lossy(line);
            Self::obey(ctx, &line)?;
        }
        Ok(())
    }

    fn timeout(&mut self, ctx: &mut Context<'_, Flow>) -> io::Result<()> {
        println!("timeout: #{}", ctx.peer.serial);
        Ok(())
    }

    fn close(&mut self, ctx: &mut Context<'_, Flow>, reason: &CloseReason) {
        println!("close: #{} ({reason})", ctx.peer.serial);
    }
}

fn main() -> ExitCode {
    let said = |name| std::env::var(name).ok();
    let server = Flow { refusing: said("FLOW_REFUSE"), doing: said("FLOW_DO"), panics_next: false };
    match std::env::var_os("FLOW_RUN_WITH") {
        Some(path) => {
            let mut config = Config::default();
            config.listen = vec![ListenAt::unix(path)];
            config.check_for_dequeue = Some(Duration::from_millis(10));
            lineplex::run_with(server, config)
        }
        None => lineplex::run(server),
    }
}
