//! A message server: "ping" is answered with "pong" and how often this client had it before.
//!
//!     cargo run --features auth --example message_ping
//!     printf '\0\0\0\4test\0\0\0\00512345\0\5ping\0' | nc -N 127.0.0.1 20203 | tr '\0' ' '
//!
//! The second is a name, a password and a request. `MessageClient` and the clients of Passenger 3 speak to it, and with
//! `--dialect status` those of Passenger 5 and 6: account `test`, password `12345`. For accounts of your own,
//! `--hash_password` reads a password from standard input and prints what goes into the accounts file, and `--make_token`
//! prints a random secret for a program, with what goes into the file.

use std::io;
use std::process::ExitCode;

use lineplex::codec::message::Elements;
use lineplex::personality::message::{
    ClientContext, ExitHandler, Handler, MessageServer, Processed, StatusHandler, account_command,
};
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Result, Saved};

struct PingHandler;

impl Handler for PingHandler {
    /// How often the client had its pong.
    type Context = u64;

    fn new_client(&mut self, _client: &mut ClientContext<'_>) -> io::Result<Option<u64>> {
        Ok(Some(0))
    }

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        count: Option<&mut u64>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        let (Some(b"ping"), Some(count)) = (message.get(0), count) else { return Ok(Processed::NotMine) };
        client.reply(&["pong", &count.to_string()])?;
        *count += 1;
        Ok(Processed::Done)
    }

    /// A restart (SIGHUP) keeps the clients, with their counts.
    fn save(count: &u64, out: &mut StateWriter) -> Saved {
        out.u64(*count);
        Saved::Keep
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<u64> {
        Ok(state.u64()?)
    }
}

fn main() -> ExitCode {
    account_command().unwrap_or_else(|| {
        let mut server = MessageServer::new("message_ping");
        server.about("Pong for each ping, behind a login; accounts: --hash_password, --make_token.");
        server.conf_file_if_exists("config/message_ping.toml");
        server.add_handler(PingHandler).add_handler(StatusHandler).add_handler(ExitHandler);
        lineplex::run(server)
    })
}
