//! Broadcast: every line goes to all the other clients.
//!
//!     cargo run --example broadcast
//!     telnet 127.0.0.1 20203          (in two terminals)

use std::io;
use std::process::ExitCode;

use lineplex::config::ConfigBuilder;
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Context, Input, MuxCallback, Peer, Saved, Server};

#[derive(Default)]
struct Broadcast {
    /// One line with its ending, built here once for all receivers.
    line: Vec<u8>,
}

struct Listener;

impl Server for Broadcast {
    type Client = Listener;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config.app_name("broadcast").about("Sends every line to all the other clients.");
        config.conf_file_if_exists("config/broadcast.toml").set_default("host", "127.0.0.1");
    }

    fn client(&mut self, _peer: &Peer) -> Listener {
        Listener
    }

    /// A restart (SIGHUP) keeps the clients.
    fn restore_client(&mut self, _peer: &Peer, _state: &mut StateReader<'_>) -> lineplex::Result<Listener> {
        Ok(Listener)
    }
}

impl MuxCallback<Broadcast> for Listener {
    fn input(&mut self, ctx: &mut Context<'_, Broadcast>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            let out = &mut ctx.server.line;
            out.clear();
            out.extend_from_slice(line);
            out.push(b'\n');
            ctx.conns.broadcast_except(out, ctx.id);
        }
        Ok(())
    }

    fn save(&self, _out: &mut StateWriter) -> Saved {
        Saved::Keep
    }
}

fn main() -> ExitCode {
    lineplex::run(Broadcast::default())
}
