//! A loop that is the same each time it is made, down to the moment: what the golden state is written from, and what is
//! read from it, as text. The tests are in `process/handover/tests.rs`, where the whole state is.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use super::super::callback::MuxCallback;
use super::super::conn::{Flag, Rare};
use super::super::context::{Context, Member};
use super::super::descriptors::Arrivals;
use super::super::peer::ListenerName;
use super::*;
use crate::buffer::{Input, Output};
use crate::config::{Limits, LongLine};
use crate::net::{Credentials, PeerAddr, Stream, StreamKind};

/// A server that saves one value of each type.
#[derive(Debug, Default)]
pub(crate) struct Golden {
    /// What was restored, in words.
    read: String,
}

#[derive(Debug, Default)]
pub(crate) struct GoldenClient {
    lines: u64,
    name: String,
}

impl Server for Golden {
    type Client = GoldenClient;

    fn client(&mut self, _: &Peer) -> GoldenClient {
        GoldenClient::default()
    }

    fn save(&self, out: &mut StateWriter) {
        out.version(2).bool(true).u8(8).u16(16).u32(32).u64(64).i64(-64).f64(-0.5);
        out.bytes(b"\x00\xff").text("gr\u{fc}\u{df}e").duration(Duration::new(3, 14)).conn(id(0, 1));
        out.option(None::<u8>, |_, _| {}).option(Some(7), |out, value| {
            out.u8(value);
        });
        out.list(["one", "two"], |out, word| {
            out.text(word);
        });
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let mut text = format!("version {}", state.version());
        let _ = write!(text, ", {}, {}, {}", state.bool()?, state.u8()?, state.u16()?);
        let _ = write!(text, ", {}, {}, {}", state.u32()?, state.u64()?, state.i64()?);
        let _ = write!(text, ", {}, {:?}, {:?}", state.f64()?, state.bytes()?, state.text()?);
        let _ = write!(text, ", {:?}, {}", state.duration()?, state.conn()?);
        let _ = write!(text, ", {:?}, {:?}", state.option(StateReader::u8)?, state.option(StateReader::u8)?);
        let _ = write!(text, ", {:?}", state.list(|item| Ok(item.text()?.to_owned()))?);
        self.read = text;
        Ok(())
    }

    fn restore_client(&mut self, _: &Peer, state: &mut StateReader<'_>) -> Result<GoldenClient> {
        Ok(GoldenClient { lines: state.u64()?, name: state.text()?.to_owned() })
    }
}

impl MuxCallback<Golden> for GoldenClient {
    fn input(&mut self, ctx: &mut Context<'_, Golden>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.write(line);
        }
        Ok(())
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        out.version(1).u64(self.lines).text(&self.name);
        Saved::Keep
    }
}

/// A loop with a connection of each role, and its state at a moment that is part of it.
pub(crate) fn golden() -> (Mux<Golden>, LoopState) {
    let mut mux = Mux::new(Golden::default(), Limits::default()).unwrap();
    let clock = Clock { at: Instant::now() + LONG, stamp: Duration::new(86_400, 123_456_789) };
    mux.conns.now = clock.at;
    mux.conns.serial = 42;
    mux.conns.timers.wheel = Wheel::new(clock.at - LONG);
    let mut entries = Vec::new();
    for (at, (client, conn)) in conns(&clock).into_iter().enumerate() {
        let id = id(at, at + 1);
        if let Some((peer, client)) = client {
            mux.clients.put(id, Member { peer, client });
        }
        entries.push((id, conn));
    }
    mux.conns.slots = Slots::restored(entries, 99).unwrap();
    let times = [
        (TimerKey::Deadline(id(0, 1)), 12_500),
        (TimerKey::Guard(id(3, 4)), 9_000),
        (TimerKey::Guard(id(4, 5)), 1_999),
        (TimerKey::Tick, 2_500),
        (TimerKey::Server(5), 86_400_000),
        (TimerKey::Server(1), 1),
    ];
    for (key, millis) in times {
        mux.conns.grant_at(key, clock.at + Duration::from_millis(millis));
    }
    for (number, name) in ["turns", "bytes_in", "accepted"].into_iter().enumerate() {
        mux.conns.metrics.set(name, 1000 + number as u64);
    }
    let state = mux.state_at(usize::MAX, &clock).unwrap();
    assert_eq!(state.kept.len(), CONNS);
    (mux, state)
}

type Served = Option<(Peer, GoldenClient)>;

/// Three that are served, over TCP, over a Unix socket, and adopted; then one of each kind that is not; and
/// one that passes descriptors.
fn conns(clock: &Clock) -> Vec<(Served, Conn)> {
    let ago = |millis| Some(clock.at - Duration::from_millis(millis));
    let ahead = |millis| Some(clock.at + Duration::from_millis(millis));
    let ip = |text: &str| PeerAddr::Ip(text.parse::<SocketAddr>().unwrap());
    let peer = |addr, serial, listener| Peer::new(addr, serial, ListenerName::of(listener));

    let mut tcp = conn(StreamKind::Tcp, Phase::Open);
    tcp.clear(Flag::FRESH);
    tcp.held = Some(held(b"half a li", 0, 0));
    let tcp_client = GoldenClient { lines: 3, name: "ada".to_owned() };
    let tcp_peer = peer(ip("192.0.2.7:50123"), 7, "chat");

    let mut unix = conn(StreamKind::Unix, Phase::Open);
    unix.clear(Flag::FRESH);
    unix.set(Flag::PAUSED.or(Flag::CHOKED).or(Flag::THROTTLED).or(Flag::AGAIN));
    unix.set(Flag::ENDING.or(Flag::EOF_SEEN).or(Flag::HOLD_OPEN).or(Flag::WOKEN));
    unix.held = Some(held(b"the rest of a long line", 2, 5));
    let mut output = Output::default();
    output.append(b"unsent ", usize::MAX);
    output.append(b"bytes", usize::MAX);
    unix.output = Some(Box::new(output));
    unix.set_write_side(WriteSide::Ending);
    unix.heard = super::super::timers::Timers::new(clock.at - LONG, None)
        .heard(clock.at - Duration::from_millis(3000));
    unix.rare = Some(Box::new(Rare {
        line_began: ago(1500),
        allowance: Some((-3.25, clock.at - Duration::from_millis(750))),
        throttled: ahead(250),
        stalled: ago(4000),
        ..Rare::default()
    }));
    let who = Credentials { uid: 1000, gid: 100, pid: Some(4242) };
    let unix_client = GoldenClient { lines: u64::MAX, name: String::new() };

    let mut adopted = conn(StreamKind::Descriptor { was_blocking: true }, Phase::Open);
    adopted.rare = Some(Box::new(Rare { late: true, ..Rare::default() }));

    let mut denied = conn(StreamKind::Tcp, Phase::Draining);
    denied.output = Some(Box::default());
    denied.output.as_mut().unwrap().append(b"not you\r\n", usize::MAX);
    let from = peer(ip("[2001:db8::1]:443"), 40, "chat");
    denied.rare = Some(Box::new(Rare { denied: Some(from), ..Rare::default() }));

    let mut refused = conn(StreamKind::Unix, Phase::Lingering);
    refused.set_write_side(WriteSide::Shut);
    refused.rare =
        Some(Box::new(Rare { refused: true, linger_until: ahead(8000), discarded: 4096, ..Rare::default() }));

    let mut left = conn(StreamKind::Descriptor { was_blocking: false }, Phase::Lingering);
    left.rare = Some(Box::new(Rare { left: Some(PeerAddr::Unix(None)), ..Rare::default() }));

    // Since version 1.1.
    let mut passing = conn(StreamKind::Unix, Phase::Open);
    passing.clear(Flag::FRESH);
    let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let mut output = Output::default();
    output.append(b"take this: ", usize::MAX);
    output.append_fd(fd(), usize::MAX);
    output.append(b" and go", usize::MAX);
    passing.output = Some(Box::new(output));
    let arrivals = Arrivals { most: 4, waiting: [fd(), fd()].into() };
    passing.rare = Some(Box::new(Rare { arrivals, ..Rare::default() }));
    let passing_client = GoldenClient { lines: 1, name: "bob".to_owned() };

    vec![
        (Some((tcp_peer, tcp_client)), tcp),
        (Some((peer(PeerAddr::Unix(Some(who)), 41, "local"), unix_client)), unix),
        (Some((peer(PeerAddr::Adopted, 0, ""), GoldenClient::default())), adopted),
        (None, denied),
        (None, refused),
        (None, left),
        (Some((peer(PeerAddr::Unix(None), 42, "local"), passing_client)), passing),
    ]
}

fn conn(kind: StreamKind, phase: Phase) -> Conn {
    let (fd, _peer) = stream(kind);
    Conn::new(Some(Stream::inherit(fd, kind).unwrap()), phase)
}

/// A connected stream of that kind, and its other end.
pub(crate) fn stream(kind: StreamKind) -> (OwnedFd, OwnedFd) {
    if kind == StreamKind::Tcp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        return (listener.accept().unwrap().0.into(), other.into());
    }
    let (one, other) = UnixStream::pair().unwrap();
    (one.into(), other.into())
}

fn held(bytes: &[u8], marks: u8, skipped: u32) -> Box<Input> {
    let mut held = Box::new(Input::new(65_536, LongLine::Skip));
    held.append(bytes);
    held.set_marks(marks, skipped);
    held
}

fn id(slot: usize, generation: usize) -> ConnId {
    ConnId::from_bits((generation as u64) << 32 | slot as u64).unwrap()
}

/// What the readers make of a state, one fact a line.
pub(crate) fn text(mut state: LoopReader<'_>) -> Result<String> {
    let mut text = String::from("loop\n");
    let saved = SavedLoop::read(&mut state.shared)?;
    let (stamp, age, tick) = (saved.stamp, saved.since_start, saved.tick);
    let _ = writeln!(text, "  stamp {stamp:?}, age {age:?}, serial {}, last {}", saved.serial, saved.last);
    let _ = writeln!(text, "  tick {tick:?}, timers {:?}", saved.timers);
    let mut server = Golden::default();
    server.restore(&mut state.server)?;
    state.server.finish()?;
    let _ = writeln!(text, "server\n  {}", server.read);
    while !state.conns.is_empty() {
        let saved = SavedConn::read(&mut state.conns)?;
        let _ = writeln!(text, "connection {}\n{}", saved.id, saved.text());
        if let Some((peer, mut client)) = saved.client() {
            let version = client.version();
            let client = server.restore_client(&peer, &mut client)?;
            let _ = writeln!(text, "  version {version}, {client:?}");
        }
    }
    let metrics = state.metrics.as_mut();
    let metrics = metrics.map(|from| from.list(|entry| Ok((entry.text()?.to_owned(), entry.u64()?))));
    for (name, value) in metrics.transpose()?.unwrap_or_default() {
        if value > 0 {
            let _ = writeln!(text, "metric {name} {value}");
        }
    }
    Ok(text)
}

/// Takes up a state, and serves it for a moment as if it had been committed.
pub(crate) fn live(
    state: LoopReader<'_>,
    take: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
) -> Result<usize> {
    let limits = Limits {
        idle_time: Some(Duration::from_secs(60)),
        line_time: Some(Duration::from_secs(30)),
        lines_per_second: Some(1),
        max_per_address: Some(10),
        ..Limits::default()
    };
    let mut mux = Mux::new(Golden::default(), limits)?;
    mux.restore(state, take)?;
    mux.set_tick(Some(Duration::from_secs(1)));
    let count = mux.conns.slots.len();
    for _ in 0..3 {
        mux.turn(Some(Duration::ZERO))?;
    }
    // What a next restart would do.
    let again = mux.state(usize::MAX)?;
    assert!(again.kept.len() <= count);
    mux.conns.stop(0);
    mux.turn(Some(Duration::ZERO))?;
    Ok(count)
}

/// Kinds of the connections of the golden state, in its order; states of older versions have the first of them.
pub(crate) const KINDS: [StreamKind; CONNS] = [
    StreamKind::Tcp,
    StreamKind::Unix,
    StreamKind::Descriptor { was_blocking: true },
    StreamKind::Tcp,
    StreamKind::Unix,
    StreamKind::Descriptor { was_blocking: false },
    StreamKind::Unix,
];
const CONNS: usize = 7;
/// How old the loop is.
const LONG: Duration = Duration::from_millis(12_345_678);
