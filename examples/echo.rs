//! Line echo: sends every line back.
//!
//!     cargo run --example echo
//!     telnet 127.0.0.1 20203

use std::io;
use std::process::ExitCode;

use lineplex::config::ConfigBuilder;
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Context, Input, MuxCallback, Peer, Saved, Server};

struct Echo;

struct EchoClient;

impl Server for Echo {
    type Client = EchoClient;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config.app_name("echo").about("Sends every line back.");
        config.conf_file_if_exists("config/echo.toml").set_default("host", "127.0.0.1");
    }

    fn client(&mut self, _peer: &Peer) -> EchoClient {
        EchoClient
    }

    /// A restart (SIGHUP) keeps the clients.
    fn restore_client(&mut self, _peer: &Peer, _state: &mut StateReader<'_>) -> lineplex::Result<EchoClient> {
        Ok(EchoClient)
    }
}

impl MuxCallback<Echo> for EchoClient {
    fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.write_parts(&[line, b"\n"]);
        }
        Ok(())
    }

    fn save(&self, _out: &mut StateWriter) -> Saved {
        Saved::Keep
    }
}

fn main() -> ExitCode {
    lineplex::run(Echo)
}
