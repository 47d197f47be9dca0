//! The flow, told by itself: prints every hook and callback as it is called, with its arguments.
//!
//!     cargo run --example hooks
//!     telnet 127.0.0.1 20203
//!
//! Say `close`, `deny` the next peer, `drain` (then a restart does not keep you), `stop`, or anything else. A SIGHUP
//! restarts it: with the same process id, the same listeners and whoever is connected.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use lineplex::config::{Config, ConfigBuilder};
use lineplex::signals::Signal;
use lineplex::state::{StateReader, StateWriter};
use lineplex::{
    CloseReason, Closing, ConnId, Context, Error, Input, MuxCallback, Outcome, Peer, Result, Room, Saved,
    Server,
};

#[derive(Default)]
struct Told {
    deny_next: bool,
}

struct ToldClient {
    number: u64,
    drains: bool,
}

impl Server for Told {
    type Client = ToldClient;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        println!("configure_hook");
        config.app_name("hooks").about("Prints every hook and callback as it is called.");
        config.conf_file_if_exists("config/hooks.toml").set_default("host", "127.0.0.1");
    }

    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        println!("post_configure_hook: {} listener(s)", config.listen.len());
        Ok(())
    }

    fn pre_bind_hook(&mut self, _config: &Config) -> Result<()> {
        println!("pre_bind_hook");
        Ok(())
    }

    fn restart_open_hook(&mut self, _config: &Config) -> Result<()> {
        println!("restart_open_hook");
        Ok(())
    }

    fn post_bind_hook(&mut self, _config: &Config) -> Result<()> {
        println!("post_bind_hook");
        Ok(())
    }

    fn save(&self, _out: &mut StateWriter) {
        println!("save");
    }

    fn restore(&mut self, _state: &mut StateReader<'_>) -> Result<()> {
        println!("restore");
        Ok(())
    }

    fn restore_client(&mut self, peer: &Peer, _state: &mut StateReader<'_>) -> Result<ToldClient> {
        println!("restore_client: #{}", peer.serial());
        Ok(ToldClient { number: peer.serial(), drains: false })
    }

    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        println!("pre_loop_hook: {} listener(s) open", room.conns.local_addrs().count());
        room.conns.after(Duration::from_secs(3600), 1);
        Ok(())
    }

    fn post_accept_hook(&mut self, _room: &mut Room<'_, Self>, peer: &Peer) {
        println!("post_accept_hook: #{} from {}", peer.serial(), peer.addr());
    }

    fn allow_deny_hook(&mut self, _room: &mut Room<'_, Self>, peer: &Peer) -> bool {
        println!("allow_deny_hook: #{}", peer.serial());
        !std::mem::take(&mut self.deny_next)
    }

    fn request_denied_hook(&mut self, room: &mut Room<'_, Self>, id: ConnId, peer: &Peer) {
        println!("request_denied_hook: #{}", peer.serial());
        room.conns.write(id, b"not you\r\n");
    }

    fn client(&mut self, peer: &Peer) -> ToldClient {
        println!("client: #{}", peer.serial());
        ToldClient { number: peer.serial(), drains: false }
    }

    fn post_process_request_hook(&mut self, _room: &mut Room<'_, Self>, peer: &Peer, outcome: Outcome) {
        println!("post_process_request_hook: #{} {outcome:?}", peer.serial());
    }

    fn run_dequeue(&mut self, _room: &mut Room<'_, Self>) {
        println!("run_dequeue");
    }

    fn timeout(&mut self, _room: &mut Room<'_, Self>, key: u64) {
        println!("timeout: key {key}");
    }

    fn signal_hook(&mut self, _room: &mut Room<'_, Self>, signal: Signal) {
        println!("signal_hook: {}", signal.name());
    }

    fn pre_server_close_hook(&mut self, _room: &mut Room<'_, Self>, closing: Closing) {
        println!("pre_server_close_hook: {closing:?}");
    }

    fn post_child_cleanup_hook(&mut self) {
        println!("post_child_cleanup_hook");
    }

    fn restart_close_hook(&mut self) {
        println!("restart_close_hook");
    }

    fn restart_failed_hook(&mut self, _room: &mut Room<'_, Self>, error: &Error) {
        println!("restart_failed_hook: {error}");
    }

    fn reload_hook(&mut self, _room: &mut Room<'_, Self>, config: &Config) -> Result<()> {
        println!("reload_hook: {} listener(s)", config.listen.len());
        Ok(())
    }

    fn fatal_hook(&mut self, error: &Error) {
        println!("fatal_hook: {error}");
    }
}

impl MuxCallback<Told> for ToldClient {
    fn connection(&mut self, ctx: &mut Context<'_, Told>) -> io::Result<()> {
        println!("connection: #{}", ctx.peer.serial());
        Ok(())
    }

    fn input(&mut self, ctx: &mut Context<'_, Told>, input: &mut Input) -> io::Result<()> {
        println!("input: #{}, {} bytes", ctx.peer.serial(), input.len());
        while let Some(line) = input.line() {
            match line {
                b"close" => ctx.close(),
                b"deny" => ctx.server.deny_next = true,
                b"drain" => self.drains = true,
                b"stop" => ctx.conns.stop(3),
                b"wake" => ctx.conns.wake(ctx.id),
                b"wait" => ctx.set_timeout(Duration::from_millis(50)),
                other => {
                    write!(ctx, "{} bytes\r\n", other.len());
                }
            }
        }
        Ok(())
    }

    fn eof(&mut self, ctx: &mut Context<'_, Told>, input: &mut Input) -> io::Result<()> {
        println!("eof: #{}, {} bytes left", ctx.peer.serial(), input.len());
        Ok(())
    }

    fn timeout(&mut self, ctx: &mut Context<'_, Told>) -> io::Result<()> {
        println!("timeout: #{}", ctx.peer.serial());
        Ok(())
    }

    fn wake(&mut self, ctx: &mut Context<'_, Told>) -> io::Result<()> {
        println!("wake: #{}", ctx.peer.serial());
        Ok(())
    }

    fn drained(&mut self, ctx: &mut Context<'_, Told>) -> io::Result<()> {
        println!("drained: #{}", ctx.peer.serial());
        Ok(())
    }

    fn close(&mut self, ctx: &mut Context<'_, Told>, reason: &CloseReason) {
        println!("close: #{} ({reason})", ctx.peer.serial());
    }

    fn save(&self, _out: &mut StateWriter) -> Saved {
        println!("save: #{}", self.number);
        if self.drains { Saved::Drain } else { Saved::Keep }
    }
}

fn main() -> ExitCode {
    lineplex::run(Told::default())
}
