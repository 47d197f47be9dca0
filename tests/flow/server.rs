//! The server that tests/flow.rs and tests/restart.rs run: it does what its clients say and tells its hooks on standard
//! output.
//!
//! Built as an example because Cargo gives tests no other program that is theirs. A line of a client is a command, see
//! `driven.rs`; every other line comes back. The environment says what no client can:
//!
//! | variable | what it does |
//! |---|---|
//! | `FLOW_SET=KEY=NUMBER` | sets an option from code |
//! | `FLOW_REFUSE=HOOK` | has that hook refuse to start |
//! | `FLOW_RUN_WITH=PATH` | runs with a configuration from code that listens there |
//! | `FLOW_DO=HOOK WHAT` | has that hook do what no hook should: see [`Flow::misbehave`] |
//! | `FLOW_AT=WHO:HOOK=WHAT:PATH;…` | where `WHO` is `probe`, `heir`, or nothing for an image that was started: in that hook waits, refuses, panics or exits (`WHAT`), if somebody listens or something lies at `PATH` |

#[path = "driven.rs"]
mod driven;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use driven::Driven;
use lineplex::config::{Config, ConfigBuilder, ListenAt};
use lineplex::signals::Signal;
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Closing, ConnId, Error, ErrorKind, Outcome, Peer, Result, Room, Server};

#[derive(Default)]
struct Flow {
    refusing: Option<String>,
    doing: Option<String>,
    panics_next: bool,
    /// What this image is: nothing said, `probe` or `heir`.
    who: &'static str,
    /// Kept over a restart.
    kept: Kept,
    /// What the hook before the close does in a restart.
    farewell: Farewell,
}

/// What the server itself keeps.
#[derive(Default)]
struct Kept {
    note: String,
    /// One end of a socket pair, whose other end is a connection too.
    pair: Option<ConnId>,
}

#[derive(Default)]
struct Farewell {
    broadcast: Option<String>,
    wake: Vec<ConnId>,
    ask: Option<String>,
}

impl Flow {
    fn refuses(&self, hook: &str) -> Result<()> {
        self.misbehave(hook);
        match &self.refusing {
            Some(refusing) if refusing == hook => Err(refusal(hook)),
            _ => self.at(hook),
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

    /// What `FLOW_AT` says about this hook in this image.
    fn at(&self, hook: &str) -> Result<()> {
        let here = format!("{}:{hook}", self.who);
        let wishes = std::env::var("FLOW_AT").unwrap_or_default();
        for (at, wish) in wishes.split(';').filter_map(|wish| wish.split_once('=')) {
            let (what, path) = wish.split_once(':').expect("FLOW_AT has WHAT:PATH");
            if at != here || !Path::new(path).exists() {
                continue;
            }
            match what {
                "wait" => wait_at(path, &here).unwrap_or_default(),
                "refuse" => return Err(refusal(hook)),
                "panic" => panic!("{hook} was asked to panic"),
                "exit" => std::process::exit(9),
                _ => panic!("FLOW_AT knows no {what}"),
            }
        }
        Ok(())
    }

    fn panic_if_asked(&mut self, hook: &str) {
        assert!(!std::mem::take(&mut self.panics_next), "{hook} was asked to panic");
    }
}

fn refusal(hook: &str) -> Error {
    Error::new(ErrorKind::Hook, format!("{hook} refuses"))
}

/// Tells whoever listens at `path` who waits there, and waits until they let go.
fn wait_at(path: &str, who: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "{who} {}", std::process::id())?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
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

    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        self.who = match (config.probing(), config.restarted()) {
            (true, true) => "probe",
            (true, false) => panic!("a probe tries a restart"),
            (false, true) => "heir",
            (false, false) => "",
        };
        self.refuses("post_configure_hook")
    }

    fn pre_bind_hook(&mut self, _config: &Config) -> Result<()> {
        self.refuses("pre_bind_hook")
    }

    fn restart_open_hook(&mut self, _config: &Config) -> Result<()> {
        self.refuses("restart_open_hook")
    }

    fn post_bind_hook(&mut self, _config: &Config) -> Result<()> {
        self.refuses("post_bind_hook")
    }

    fn save(&self, out: &mut StateWriter) {
        out.text(&self.kept.note).option(self.kept.pair, |out, pair| {
            out.conn(pair);
        });
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.kept = Kept { note: state.text()?.to_owned(), pair: state.option(StateReader::conn)? };
        self.refuses("restore")
    }

    fn restore_client(&mut self, _peer: &Peer, state: &mut StateReader<'_>) -> Result<Driven> {
        Ok(Driven::restore(state)?)
    }

    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        self.refuses("pre_loop_hook")?;
        let addrs: Vec<String> = room.conns.local_addrs().map(|(_, addr)| addr.to_string()).collect();
        println!("ready {}", addrs.join(" "));
        Ok(())
    }

    fn client(&mut self, _peer: &Peer) -> Driven {
        self.panic_if_asked("client");
        Driven::default()
    }

    fn request_denied_hook(&mut self, room: &mut Room<'_, Self>, id: ConnId, _peer: &Peer) {
        room.conns.write(id, b"not you\n");
    }

    fn post_process_request_hook(&mut self, _room: &mut Room<'_, Self>, peer: &Peer, outcome: Outcome) {
        if outcome == Outcome::Denied {
            println!("denied: #{}", peer.serial());
        }
    }

    fn run_dequeue(&mut self, _room: &mut Room<'_, Self>) {
        println!("run_dequeue");
    }

    fn timeout(&mut self, _room: &mut Room<'_, Self>, key: u64) {
        println!("timeout: key {key}");
    }

    fn signal_hook(&mut self, _room: &mut Room<'_, Self>, signal: Signal) {
        println!("signal_hook: {signal}");
        self.panic_if_asked("signal_hook");
    }

    fn reload_hook(&mut self, _room: &mut Room<'_, Self>, config: &Config) -> Result<()> {
        println!("reload_hook: {} listener(s)", config.listen.len());
        self.panic_if_asked("reload_hook");
        self.refuses("reload_hook")
    }

    fn pre_server_close_hook(&mut self, room: &mut Room<'_, Self>, closing: Closing) {
        println!("pre_server_close_hook: {closing:?}");
        if let Some(text) = self.farewell.broadcast.take() {
            room.conns.broadcast(text.as_bytes(), |_| true);
        }
        for id in self.farewell.wake.drain(..) {
            room.conns.wake(id);
        }
        if let Some(text) = self.farewell.ask.take() {
            room.handle().run(move |_, _| println!("asked: {text}")).expect("the loop runs");
        }
        if closing == Closing::Stop {
            self.at("pre_server_close_hook").unwrap_or_default();
        }
    }

    fn post_child_cleanup_hook(&mut self) {
        println!("post_child_cleanup_hook");
    }

    fn restart_close_hook(&mut self) {
        println!("restart_close_hook");
        // It may wait there, and cannot refuse.
        self.at("restart_close_hook").unwrap_or_default();
    }

    fn restart_failed_hook(&mut self, _room: &mut Room<'_, Self>, error: &Error) {
        println!("restart_failed_hook: {}", error.chain());
    }

    fn fatal_hook(&mut self, error: &Error) {
        println!("fatal_hook: {}", error.chain());
    }
}

fn main() -> ExitCode {
    let said = |name| std::env::var(name).ok();
    let server = Flow { refusing: said("FLOW_REFUSE"), doing: said("FLOW_DO"), ..Flow::default() };
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
