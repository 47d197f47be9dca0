//! An ordinary server of this crate: a callback for each line, all default limits, and an idle time-out for everybody.

use std::io;
use std::time::Duration;

use lineplex::config::{Limits, ListenAt};
use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};

use crate::measure::server::{Addr, Mode};

struct Lines {
    mode: Mode,
    /// One line with its ending, built here once for all receivers.
    line: Vec<u8>,
    listeners: Vec<lineplex::ConnId>,
}

struct Client;

impl Server for Lines {
    type Client = Client;

    fn client(&mut self, _peer: &Peer) -> Client {
        Client
    }
}

impl MuxCallback<Lines> for Client {
    fn input(&mut self, ctx: &mut Context<'_, Lines>, input: &mut Input) -> io::Result<()> {
        let me = ctx.id;
        match ctx.server.mode {
            Mode::Echo => {
                while let Some(line) = input.line() {
                    ctx.write_parts(&[line, b"\n"]);
                }
            }
            Mode::Broadcast => {
                while let Some(line) = input.line() {
                    ctx.conns.broadcast_except(ended(&mut ctx.server.line, line), me);
                }
            }
            Mode::Mixed => {
                while let Some(line) = input.line() {
                    match line.first() {
                        Some(b'+') => ctx.server.listeners.push(me),
                        Some(b'!') => {
                            let line = ended(&mut ctx.server.line, line);
                            ctx.conns.multicast(line, ctx.server.listeners.iter().copied());
                        }
                        _ => {
                            ctx.write_parts(&[line, b"\n"]);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The line with its ending.
fn ended<'a>(out: &'a mut Vec<u8>, line: &[u8]) -> &'a [u8] {
    out.clear();
    out.extend_from_slice(line);
    out.push(b'\n');
    out
}

/// `gather`: a big flush waits for more lines, which is off unless a server asks for it.
pub(super) fn serve(mode: Mode, addr: &Addr, gather: bool) -> io::Result<()> {
    let limits = Limits { idle_time: Some(IDLE_TIME), gather, ..Limits::default() };
    let server = Lines { mode, line: Vec::new(), listeners: Vec::new() };
    let mut mux = Mux::new(server, limits).map_err(io::Error::other)?;
    let at = match addr {
        Addr::Tcp(port) => ListenAt::tcp("127.0.0.1", *port),
        Addr::Unix(path) => ListenAt::unix(path),
    };
    mux.listen(&at).map_err(io::Error::other)?;
    mux.run().map(drop).map_err(io::Error::other)
}

/// Longer than any run, so that it is armed and never due.
const IDLE_TIME: Duration = Duration::from_secs(300);
