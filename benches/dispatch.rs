//! What the loop adds to its system calls: a line each of 50 Unix clients, served by one `Mux::turn`, beside the same
//! wait, receives and sends made by hand (mio, one buffer, no line is looked for). The difference is all that the loop
//! does for an echoed line: the event, `input`, `Input::line`, two writes, the flush, `drained`.
//!
//! ns per line, medians of rounds in which the two take turns; what the clients do is not measured.
//!
//!     cargo bench --bench dispatch
//!     cargo bench --bench dispatch -- --test        a blink: does it work?

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lineplex::config::{Limits, ListenAt};
use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};
use mio::{Events, Interest, Poll, Token};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let is_asked = |arg: &str| args.iter().any(|given| given == arg);
    // `cargo test --benches` gives no argument at all.
    let rounds = if is_asked("--bench") && !is_asked("--test") { ROUNDS } else { 2 };
    let (mut ours, mut by_hand) = (Ours::new()?, ByHand::new()?);
    let (mut our_times, mut their_times, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let ours = round(&mut ours)?;
        let theirs = round(&mut by_hand)?;
        our_times.push(ours);
        their_times.push(theirs);
        added.push(ours - theirs);
    }
    let metrics = ours.mux.conns().metrics();
    let calls = (rounds * CLIENTS) as u64;
    assert_eq!((metrics.recv_calls, metrics.send_calls), (calls, calls), "the same calls as by hand");
    let [ours, theirs, added] = [our_times, their_times, added].map(median);
    println!("an echoed line: {ours:.0} ns, its system calls by hand {theirs:.0} ns ({:.2})", ours / theirs);
    println!("so the loop adds {added:.0} ns");
    Ok(())
}

/// Serves what its clients have sent, each a line.
trait Serve {
    fn clients(&mut self) -> &mut Vec<UnixStream>;
    fn serve(&mut self) -> Result<(), Box<dyn Error>>;
}

/// ns per line of one round.
fn round(server: &mut impl Serve) -> Result<f64, Box<dyn Error>> {
    for client in server.clients() {
        client.write_all(LINE)?;
    }
    let begin = Instant::now();
    server.serve()?;
    let took = begin.elapsed();
    for client in server.clients() {
        let mut echo = [0; LINE.len()];
        client.read_exact(&mut echo)?;
        assert_eq!(&echo, LINE);
    }
    Ok(took.as_nanos() as f64 / CLIENTS as f64)
}

struct Ours {
    mux: Mux<Echo>,
    clients: Vec<UnixStream>,
}

impl Ours {
    fn new() -> Result<Self, Box<dyn Error>> {
        let path = std::env::temp_dir().join(format!("lineplex-dispatch-{}", std::process::id()));
        let mut mux = Mux::new(Echo, Limits::default())?;
        mux.listen(&ListenAt::unix(&path))?;
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| connected(UnixStream::connect(&path)?)).collect::<io::Result<_>>()?;
        // The second turn is for the first event of each, which says that it can be written to.
        for _ in 0..2 {
            mux.turn(Some(Duration::ZERO))?;
        }
        Ok(Self { mux, clients })
    }
}

impl Serve for Ours {
    fn clients(&mut self) -> &mut Vec<UnixStream> {
        &mut self.clients
    }

    fn serve(&mut self) -> Result<(), Box<dyn Error>> {
        self.mux.turn(Some(Duration::ZERO))?;
        Ok(())
    }
}

struct Echo;

struct EchoClient;

impl Server for Echo {
    type Client = EchoClient;

    fn client(&mut self, _: &Peer) -> EchoClient {
        EchoClient
    }
}

impl MuxCallback<Echo> for EchoClient {
    fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.write(line);
            ctx.write(b"\n");
        }
        Ok(())
    }
}

struct ByHand {
    poll: Poll,
    events: Events,
    sockets: Vec<mio::net::UnixStream>,
    clients: Vec<UnixStream>,
    buffer: Vec<u8>,
}

impl ByHand {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let (mut sockets, mut clients) = (Vec::new(), Vec::new());
        for at in 0..CLIENTS {
            let (socket, client) = UnixStream::pair()?;
            socket.set_nonblocking(true)?;
            let mut socket = mio::net::UnixStream::from_std(socket);
            poll.registry().register(&mut socket, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            sockets.push(socket);
            clients.push(connected(client)?);
        }
        Ok(Self { poll, events: Events::with_capacity(1024), sockets, clients, buffer: vec![0; 64 * 1024] })
    }
}

impl Serve for ByHand {
    fn clients(&mut self) -> &mut Vec<UnixStream> {
        &mut self.clients
    }

    fn serve(&mut self) -> Result<(), Box<dyn Error>> {
        self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
        for event in &self.events {
            let socket = &mut self.sockets[event.token().0];
            if event.is_readable() {
                let count = socket.read(&mut self.buffer)?;
                socket.write_all(&self.buffer[..count])?;
            }
        }
        Ok(())
    }
}

/// A client that does not wait for ever.
fn connected(client: UnixStream) -> io::Result<UnixStream> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(client)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

const CLIENTS: usize = 50;
const ROUNDS: usize = 4001;
const LINE: &[u8; 64] = b"a line of sixty-four bytes, as long as many that people write..\n";
