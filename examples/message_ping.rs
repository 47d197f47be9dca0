//! A message server: "ping" is answered with "pong" and how often this client had it before.
//!
//!     cargo run --features auth --example message_ping
//!     cargo run --features auth --example message_ping -- --port /tmp/ping.sock\|unix --dialect status
//!
//! The clients of Passenger 3 speak to it, and with `--dialect status` those of Passenger 5 and 6: account `test`, password
//! `12345`. For a password of your own, `--hash_password` reads one from standard input and prints what goes into the
//! accounts file.

use std::io::{self, Read};
use std::process::ExitCode;

use lineplex::codec::message::Elements;
use lineplex::personality::message::{
    ClientContext, ExitHandler, Handler, MessageServer, Processed, StatusHandler, hash_password,
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
    if std::env::args().nth(1).is_some_and(|word| word.replace('-', "_") == "__hash_password") {
        return print_hash();
    }
    let mut server = MessageServer::new("message_ping");
    server.about("Answers ping with pong, behind a login.").conf_file_if_exists("config/message_ping.toml");
    server.add_handler(PingHandler).add_handler(StatusHandler).add_handler(ExitHandler);
    lineplex::run(server)
}

/// A password from standard input, without the end of its line, as an accounts file wants it.
fn print_hash() -> ExitCode {
    let mut password = Vec::new();
    let read = io::stdin().take(1024).read_to_end(&mut password);
    while password.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        password.pop();
    }
    match read
        .map_err(|error| error.to_string())
        .and_then(|_| hash_password(&password).map_err(|e| e.chain()))
    {
        Ok(hash) => println!("{hash}"),
        Err(error) => {
            eprintln!("message_ping: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
