//! A chat: Net::Server's sample server for Multiplex, with its line formats.
//!
//!     cargo run --release --example samplechat
//!     telnet 127.0.0.1 20203          (in two terminals)
//!
//! Every line goes to everybody, the sender included, who is told how many bytes that were. A newcomer is a junior
//! and may be quiet for `junior_seconds`; then it becomes a senior, which must say something every
//! `senior_seconds`.

use std::borrow::Cow;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use lineplex::codec::line::safe_text;
use lineplex::config::{Config, ConfigBuilder};
use lineplex::net::PeerAddr;
use lineplex::state::{StateReader, StateWriter};
use lineplex::{
    CloseReason, ConnId, Context, Error, ErrorKind, Input, MuxCallback, Peer, Result, Room, Saved, Server,
};

/// What all clients share: the settings, and whether the access lists alone decide who comes in.
#[derive(Default)]
struct Chat {
    settings: Settings,
    lists_decide: bool,
}

/// The table `[app]` of the configuration file, or options of the command line.
#[derive(serde::Deserialize)]
#[serde(default)]
struct Settings {
    junior_seconds: f64,
    senior_seconds: f64,
    safe_text: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { junior_seconds: 20.0, senior_seconds: 40.0, safe_text: false }
    }
}

/// One client, by the number of its connection.
struct Talker {
    number: u64,
    addr: PeerAddr,
    senior: bool,
}

impl Server for Chat {
    type Client = Talker;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config
            .app_name("samplechat")
            .about("A chat: every line goes to everybody.")
            .conf_file_if_exists("config/samplechat.toml")
            .set_default("host", "127.0.0.1")
            .app_option("junior_seconds", "SECONDS", "silence allowed to a newcomer, 20")
            .app_option("senior_seconds", "SECONDS", "silence allowed after that, 40")
            .app_option("safe_text", "BOOL", "show control characters as U+FFFD, false");
    }

    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        self.settings = config.app()?;
        for (key, value) in [
            ("junior_seconds", self.settings.junior_seconds),
            ("senior_seconds", self.settings.senior_seconds),
        ] {
            if Duration::try_from_secs_f64(value).is_err() {
                return Err(Error::new(ErrorKind::Config, format!("{key}: {value} is no number of seconds")));
            }
        }
        self.lists_decide = !config.access.is_empty();
        Ok(())
    }

    fn allow_deny_hook(&mut self, _room: &mut Room<'_, Self>, peer: &Peer) -> bool {
        self.lists_decide || peer.addr().ip().is_none_or(|ip| ip.is_loopback())
    }

    fn request_denied_hook(&mut self, room: &mut Room<'_, Self>, id: ConnId, _peer: &Peer) {
        room.conns.write(id, b"Sorry, you are not allowed here.\r\n");
    }

    fn client(&mut self, peer: &Peer) -> Talker {
        Talker { number: peer.serial(), addr: peer.addr(), senior: false }
    }

    /// A restart (SIGHUP) keeps the clients, with their numbers and deadlines.
    fn restore_client(&mut self, peer: &Peer, state: &mut StateReader<'_>) -> Result<Talker> {
        Ok(Talker { number: peer.serial(), addr: peer.addr(), senior: state.bool()? })
    }
}

impl MuxCallback<Chat> for Talker {
    fn connection(&mut self, ctx: &mut Context<'_, Chat>) -> io::Result<()> {
        let join = format!("JOIN: (#{}) from {}\r\n", self.number, self.addr);
        ctx.conns.broadcast_all(join.as_bytes());
        write!(ctx, "Welcome, number {}.\r\n", self.number);
        ctx.set_timeout(Duration::from_secs_f64(ctx.server.settings.junior_seconds));
        Ok(())
    }

    fn input(&mut self, ctx: &mut Context<'_, Chat>, input: &mut Input) -> io::Result<()> {
        if self.senior {
            // Any byte will do, even half a line.
            ctx.set_timeout(Duration::from_secs_f64(ctx.server.settings.senior_seconds));
        }
        while let Some(line) = input.line() {
            if line.is_empty() {
                continue;
            }
            let text = if ctx.server.settings.safe_text { safe_text(line) } else { Cow::Borrowed(line) };
            let mut message = format!("[{} - {}] ", self.number, self.addr).into_bytes();
            message.extend_from_slice(&text);
            message.extend_from_slice(b"\r\n");
            ctx.conns.broadcast_all(&message);
            write!(ctx, " - sent {} byte message\r\n", message.len());
        }
        Ok(())
    }

    fn timeout(&mut self, ctx: &mut Context<'_, Chat>) -> io::Result<()> {
        let seconds = ctx.server.settings.senior_seconds;
        if self.senior {
            write!(ctx, "Nothing heard from you for {seconds} seconds. Goodbye.\r\n");
            ctx.close();
        } else {
            self.senior = true;
            write!(ctx, "You have been here a while: you may now be quiet for {seconds} seconds.\r\n");
            ctx.set_timeout(Duration::from_secs_f64(seconds));
        }
        Ok(())
    }

    fn close(&mut self, ctx: &mut Context<'_, Chat>, reason: &CloseReason) {
        log::debug!("client {} at {} is gone: {reason}", self.number, self.addr);
        let left = format!("LEFT: (#{}) from {}\r\n", self.number, self.addr);
        ctx.conns.broadcast_all(left.as_bytes());
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        out.bool(self.senior);
        Saved::Keep
    }
}

fn main() -> ExitCode {
    lineplex::run(Chat::default())
}
