//! The sample chat against the original: the same random clients talk to `samplechat` and to a chat on Perl's
//! Net::Server::Multiplex (`tests/perl/chat.pl`), and each client must receive the same bytes from both.
//!
//! Needs perl, Net::Server and IO::Multiplex (Debian: libnet-server-perl libio-multiplex-perl). Without them the tests
//! say `skipped` and pass, unless `LINEPLEX_REQUIRE_PERL=1` is set. A failure names its seed.
//!
//! - one seed again: `SEED=17 cargo test --test perl_original -- samplechat_and_the_original`
//! - the long form: `SEEDS=5000 cargo test --release --test perl_original` (after `cargo build --release --examples`)
//!
//! # Method
//!
//! A seed gives a script of up to some 30 steps: joins from several loopback addresses, peers that a rule denies, bytes
//! in whatever portions, half-closes, closes, resets. Client 0, the watcher, stays to the end. The steps are played one
//! after another, and a step is over when its effect was seen: a model, which knows only how many lines a step makes,
//! says how many to wait for at each client. A write that makes no line has no effect to see; after it, by the script's
//! choice, another client says a line and all wait for that, so that the server reads what follows separately, or the
//! next write follows at once. No step waits for time. At the end every client half-closes and reads to the end of stream,
//! so that a line too many is found too.
//!
//! # What the scripts leave out, what the comparison evens out
//!
//! - **The line `0`**: the original takes it for an empty one (a slip: false in Perl); ours relays it. Left out, also
//!   as `0` CR LF; `00` and `0` CR CR LF are in.
//! - **Bytes from a denied peer**: the original broadcasts them as `[ - ] TEXT`, ours discards them. The denied peers
//!   here are silent; that they take a number and that nobody hears of them is compared.
//! - **Sentences**: the refusal, the upgrade and the goodbye are each program's own. A refusal is compared as one line
//!   and the end of stream; the welcome is the same sentence in both.
//! - **Deadlines** (20 s, 40 s): both are started with an hour for the first, so that a machine that stalls makes no
//!   difference. They have tests of their own.
//! - **Steps at the same time**: which of two clients is served first is chance in the original (the order of a hash),
//!   so each step waits for the one before.
//! - **What a client that has closed or reset would still have received**: it depends on how far the server was. Such
//!   a client is compared up to its last step.
//! - **Lines over 64 KiB**: the original has no limit, ours has; the longest here are 20 kB.
//! - **Control bytes**: ours replaces them unless `safe_text = false`, which is how it is started here.
//! - **Log lines**: not compared.

mod common;

use std::fmt::{self, Display, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, mem, thread};

use common::perl::perl_is_there;
use common::{Child, Client};
use fastrand::Rng;

#[test]
fn samplechat_and_the_original_tell_every_client_the_same() {
    if !perl_is_there() {
        return;
    }
    let seeds = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return None;
            }
            let difference = difference(seed, Server::ours, || Server::perl(&[]));
            if difference.is_some() {
                // The others finish the script they are at, and no more.
                next.store(seeds.end, Ordering::Relaxed);
                return difference;
            }
        }
    };
    let differences: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("the player has said why")).collect()
    });
    assert!(differences.is_empty(), "samplechat and the original differ\n{}", differences.join("\n"));
}

#[test]
fn the_original_tells_the_same_twice() {
    if !perl_is_there() {
        return;
    }
    for seed in 0..5 {
        let difference = difference(seed, || Server::perl(&[]), || Server::perl(&[]));
        assert!(difference.is_none(), "the original differs from itself\n{}", difference.unwrap_or_default());
    }
}

#[test]
fn a_chat_that_keeps_the_cr_is_told_from_the_original() {
    if !perl_is_there() {
        return;
    }
    let differs = |seed| difference(seed, || Server::perl(&["--keep_cr"]), || Server::perl(&[])).is_some();
    // A keeping server answers to CR LF, which the model takes for nothing: the script goes on, the bytes differ.
    assert!((0..5).any(differs), "no difference seen");
}

// --- the servers

/// A server that is ready for clients.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Our example.
    fn ours() -> Self {
        let mut command = Command::new(common::example("samplechat"));
        command.args(["--conf_file", concat!(env!("CARGO_MANIFEST_DIR"), "/config/samplechat.toml")]);
        command.args(["--port", "127.0.0.1:0", "--safe_text=false"]).args(OPTIONS);
        Self::start(&mut command)
    }

    /// The original, with options of its own besides.
    fn perl(options: &[&str]) -> Self {
        let mut command = Command::new("perl");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/perl/chat.pl"));
        command.args(["--port", "0"]).args(OPTIONS).args(options);
        Self::start(&mut command)
    }

    fn start(command: &mut Command) -> Self {
        let mut child = Child::spawn(command);
        let address = child.wait_for_address();
        Self { child, address }
    }
}

/// The number in an environment variable, if it is set.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not \"{value}\"")))
}

// --- the comparison

/// Plays the script of `seed` against two fresh servers at the same time; what differs, with all there is to know.
fn difference(
    seed: u64,
    one: impl Fn() -> Server + Sync,
    other: impl Fn() -> Server + Sync,
) -> Option<String> {
    let script = script(seed);
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| Play::of(&script, &one()));
        let other = Play::of(&script, &other());
        (one.join().expect("the player has said why"), other)
    });
    if one == other && one.failure.is_none() {
        return None;
    }
    let mut text = format!("seed {seed} (replay: SEED={seed})\nscript:\n");
    for (number, step) in script.iter().enumerate() {
        let _ = writeln!(text, "  {number:2} {step}");
    }
    let _ = write!(text, "the first received:\n{one}the second received:\n{other}");
    for (number, (one, other)) in one.received.iter().zip(&other.received).enumerate() {
        if let Some((line, one, other)) = first_difference(one, other) {
            let _ =
                writeln!(text, "client {number}, line {line}: \"{}\" and \"{}\"", shown(one), shown(other));
        }
    }
    Some(text)
}

/// The first line that is not the same in both, counted from 1.
fn first_difference<'a>(one: &'a [u8], other: &'a [u8]) -> Option<(usize, &'a [u8], &'a [u8])> {
    let (mut ones, mut others) = (one.split_inclusive(is_lf), other.split_inclusive(is_lf));
    (1..).find_map(|number| match (ones.next(), others.next()) {
        (None, None) => Some(None),
        (one, other) if one == other => None,
        (one, other) => Some(Some((number, one.unwrap_or_default(), other.unwrap_or_default()))),
    })?
}

/// Bytes for a message, the middle of long ones left out.
fn shown(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=200 => bytes.escape_ascii().to_string(),
        length => {
            let (head, tail) = (&bytes[..100], &bytes[length - 60..]);
            format!("{} (of {length} bytes) {}", head.escape_ascii(), tail.escape_ascii())
        }
    }
}

fn is_lf(byte: &u8) -> bool {
    *byte == b'\n'
}

/// What came of a script: what each client received, and why the script was left if it was.
#[derive(Debug, Default, PartialEq)]
struct Play {
    received: Vec<Vec<u8>>,
    failure: Option<String>,
}

impl Play {
    fn of(script: &[Step], server: &Server) -> Self {
        let mut player = Player { address: server.address, seats: Vec::new() };
        let mut failure = None;
        for (number, step) in script.iter().enumerate() {
            if let Err(reason) = player.play(step) {
                failure = Some(format!("step {number}: {reason}; {}", server.child));
                break;
            }
        }
        Self { received: player.seats.into_iter().map(Seat::into_received).collect(), failure }
    }
}

impl Display for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, received) in self.received.iter().enumerate() {
            writeln!(f, "  client {number}")?;
            for line in received.split_inclusive(is_lf) {
                writeln!(f, "    \"{}\"", shown(line))?;
            }
        }
        self.failure.iter().try_for_each(|failure| writeln!(f, "  left at {failure}"))
    }
}

// --- playing

/// The clients of one server, in the order in which they joined.
struct Player {
    address: SocketAddr,
    seats: Vec<Seat>,
}

/// One client and what the model knows of it.
#[derive(Default)]
struct Seat {
    /// None once it has left.
    client: Option<Client>,
    /// What it had received when it left.
    received: Vec<u8>,
    /// The line it has begun.
    begun: Vec<u8>,
}

impl Seat {
    fn into_received(self) -> Vec<u8> {
        self.client.map_or(self.received, |client| client.received().to_vec())
    }

    /// Notes bytes that are sent; the number of messages they complete.
    fn note(&mut self, bytes: &[u8]) -> usize {
        self.begun.extend_from_slice(bytes);
        let mut lines = self.begun.split(is_lf);
        let begun = lines.next_back().unwrap_or_default().to_vec();
        let messages = lines.filter(|line| !message(line).is_empty()).count();
        self.begun = begun;
        messages
    }
}

impl Player {
    /// Plays one step and waits for its effect.
    fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Join { from } => {
                let client = self.connect(*from);
                self.seats.push(Seat { client: Some(client), ..Seat::default() });
                // The newcomer gets its welcome too.
                self.wait(1, Some((self.seats.len() - 1, 2)))
            }
            Step::Denied => {
                let mut client = self.connect(DENIED);
                let refusal = client.next_to_eof().map_err(|missed| format!("the refusal: {missed}"))?;
                let lines = refusal.split_inclusive(is_lf).count();
                let is_one_line = lines == 1 && refusal.ends_with(b"\n");
                let received = if is_one_line { b"(a refusal)".to_vec() } else { refusal };
                self.seats.push(Seat { received, ..Seat::default() });
                Ok(())
            }
            Step::Send { client, bytes, settle } => {
                let messages = self.send(*client, bytes)?;
                self.wait(messages, Some((*client, 2 * messages)))?;
                if messages == 0 && *settle { self.settle() } else { Ok(()) }
            }
            Step::HalfClose { client, last } => {
                let messages = self.send(*client, last)?;
                let mut leaver = self.leave(*client)?;
                leaver.half_close();
                let to_eof =
                    leaver.next_to_eof().map(|_| ()).map_err(|missed| format!("client {client}: {missed}"));
                self.seats[*client].received = leaver.received().to_vec();
                to_eof?;
                self.wait(messages + 1, None)
            }
            Step::Close { client, last } => {
                let messages = self.send(*client, last)?;
                drop(self.leave(*client)?);
                self.wait(messages + 1, None)
            }
            Step::Reset { client } => {
                self.leave(*client)?.reset();
                self.wait(1, None)
            }
        }
    }

    /// Somebody who is not within a line says one, and all wait for it: what was sent before has then been read.
    fn settle(&mut self) -> Result<(), String> {
        let speaker = self.seats.iter().position(|seat| seat.client.is_some() && seat.begun.is_empty());
        let Some(speaker) = speaker else { return Ok(()) };
        let messages = self.send(speaker, b"settle\n")?;
        self.wait(messages, Some((speaker, 2 * messages)))
    }

    fn connect(&self, from: Ipv4Addr) -> Client {
        Client::connect_from(IpAddr::V4(from), self.address)
    }

    /// Sends without waiting; the number of messages that this makes.
    fn send(&mut self, number: usize, bytes: &[u8]) -> Result<usize, String> {
        let seat = &mut self.seats[number];
        let client = seat.client.as_ref().ok_or_else(|| format!("client {number} has left"))?;
        client.try_send(bytes).map_err(|error| format!("client {number} cannot send: {error}"))?;
        Ok(seat.note(bytes))
    }

    /// Takes a client out of its seat, with what it has received so far.
    fn leave(&mut self, number: usize) -> Result<Client, String> {
        let seat = &mut self.seats[number];
        let client = seat.client.take().ok_or_else(|| format!("client {number} has left"))?;
        seat.received = client.received().to_vec();
        Ok(client)
    }

    /// Waits until every client has received `lines` lines more, and the one in `except` as many as stands there.
    fn wait(&mut self, lines: usize, except: Option<(usize, usize)>) -> Result<(), String> {
        for (number, seat) in self.seats.iter_mut().enumerate() {
            let Some(client) = &mut seat.client else { continue };
            let lines = except.filter(|(who, _)| *who == number).map_or(lines, |(_, lines)| lines);
            for line in 1..=lines {
                let got = client.next_line();
                got.map_err(|missed| format!("client {number}, line {line} of {lines}: {missed}"))?;
            }
        }
        Ok(())
    }
}

/// What a line without its LF says: all of it but one CR at its end.
fn message(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

// --- scripts

/// What one client does. Clients are numbered as they come, denied ones too.
enum Step {
    /// The next client connects.
    Join { from: Ipv4Addr },
    /// A peer that the rules deny connects, says nothing, and reads to the end.
    Denied,
    /// One write; `settle`: if it makes no message, another client makes sure that it was read.
    Send { client: usize, bytes: Vec<u8>, settle: bool },
    /// One write if there is something, and the end of sending directly after it; reads to the end.
    HalfClose { client: usize, last: Vec<u8> },
    /// One write if there is something, and the close directly after it.
    Close { client: usize, last: Vec<u8> },
    /// Leaves with a reset.
    Reset { client: usize },
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { from } => write!(f, "join from {from}"),
            Self::Denied => f.write_str("denied"),
            Self::Send { client, bytes, settle } => {
                write!(
                    f,
                    "{client} sends \"{}\"{}",
                    bytes.escape_ascii(),
                    if *settle { ", settle" } else { "" }
                )
            }
            Self::HalfClose { client, last } => {
                write!(f, "{client} sends \"{}\", half-closes", shown(last))
            }
            Self::Close { client, last } => write!(f, "{client} sends \"{}\", closes", shown(last)),
            Self::Reset { client } => write!(f, "{client} resets"),
        }
    }
}

/// The script of a seed: always the same, complete (everybody leaves), and without the line `0`.
fn script(seed: u64) -> Vec<Step> {
    let mut author = Author { rng: Rng::with_seed(seed), count: 0, live: Vec::new(), steps: Vec::new() };
    author.join();
    for _ in 0..author.rng.usize(6..=28) {
        let live = author.live.len();
        match author.rng.u32(0..100) {
            0..15 if live < CLIENTS => author.join(),
            15..20 if cfg!(target_os = "linux") => author.denied(),
            20..35 if live > 2 => author.leave(),
            35..42 => author.dribble(),
            _ if live < 2 => author.join(),
            _ => author.send(),
        }
    }
    while author.live.len() > 1 {
        author.leave();
    }
    author.steps.push(Step::HalfClose { client: WATCHER, last: Vec::new() });
    author.steps
}

/// Writes a script, so that what it does is possible.
struct Author {
    rng: Rng,
    /// How many have connected.
    count: usize,
    /// Who has not left: its number, and the rest of the line it has begun to send.
    live: Vec<(usize, Vec<u8>)>,
    steps: Vec<Step>,
}

impl Author {
    fn join(&mut self) {
        // Elsewhere than on Linux only 127.0.0.1 is there.
        let host = if cfg!(target_os = "linux") { self.rng.u8(1..=3) } else { 1 };
        self.steps.push(Step::Join { from: Ipv4Addr::new(127, 0, 0, host) });
        self.live.push((self.count, Vec::new()));
        self.count += 1;
    }

    fn denied(&mut self) {
        self.steps.push(Step::Denied);
        self.count += 1;
    }

    /// Somebody sends some lines, or a part of one, in one write.
    fn send(&mut self) {
        let (client, bytes) = self.portion();
        let settle = self.rng.bool();
        self.steps.push(Step::Send { client, bytes, settle });
    }

    /// Somebody sends what is left of a line, or a short line, byte by byte.
    fn dribble(&mut self) {
        let at = self.rng.usize(..self.live.len());
        let mut bytes = mem::take(&mut self.live[at].1);
        if bytes.is_empty() || bytes.len() > 20 {
            bytes.extend(if self.rng.bool() { b"drip\r\n".as_slice() } else { b"d\rrop\n" });
        }
        let client = self.live[at].0;
        // A long rest goes at once, but for its end.
        let (first, single) = bytes.split_at(bytes.len().saturating_sub(20));
        let first = (!first.is_empty()).then_some(first);
        for part in first.into_iter().chain(single.chunks(1)) {
            let settle = self.rng.u8(0..4) == 0;
            self.steps.push(Step::Send { client, bytes: part.to_vec(), settle });
        }
    }

    /// Somebody other than the watcher leaves.
    fn leave(&mut self) {
        let at = self.rng.usize(1..self.live.len());
        let last = if self.rng.bool() { self.some_bytes(at) } else { Vec::new() };
        let (client, _) = self.live.remove(at);
        self.steps.push(match self.rng.u32(0..10) {
            0..5 => Step::HalfClose { client, last },
            5..8 => Step::Close { client, last },
            // A reset takes back what was not read yet, so nothing is sent before it.
            _ => Step::Reset { client },
        });
    }

    fn portion(&mut self) -> (usize, Vec<u8>) {
        let at = self.rng.usize(..self.live.len());
        (self.live[at].0, self.some_bytes(at))
    }

    /// What the client at this place of `live` sends next: at least one byte.
    fn some_bytes(&mut self, at: usize) -> Vec<u8> {
        let mut bytes = mem::take(&mut self.live[at].1);
        for _ in 0..self.rng.usize(0..=3) {
            bytes.extend(self.line());
        }
        if bytes.is_empty() {
            bytes = self.line();
        }
        if self.rng.u8(0..3) == 0 {
            // Often within the end of the last line, where a CR may be.
            let near = bytes.len().min(if self.rng.bool() { 3 } else { bytes.len() });
            let cut = bytes.len() - self.rng.usize(0..near);
            self.live[at].1 = bytes.split_off(cut);
        }
        bytes
    }

    /// One line with its LF, of any bytes.
    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        for _ in 0..self.rng.usize(0..=4) {
            match self.rng.u32(0..100) {
                0..40 => line.extend((0..self.rng.usize(1..12)).map(|_| self.rng.u8(b' '..=b'~'))),
                40..50 => {
                    line.extend((0..self.rng.usize(1..12)).map(|_| self.rng.u8(..)).filter(|&b| b != b'\n'))
                }
                50..53 => line.resize(line.len() + self.rng.choice(LENGTHS).unwrap_or(1), b'x'),
                _ => line.extend_from_slice(self.rng.choice(PIECES).unwrap_or_default()),
            }
        }
        line.extend_from_slice(self.rng.choice(ENDS).unwrap_or(b"\n"));
        if message(&line[..line.len() - 1]) == b"0" {
            line.insert(0, b'0');
        }
        line
    }
}

/// Scripts in the short form.
const SEEDS: u64 = 40;
/// Scripts that are played side by side: much of the time goes in waiting for the original's small segments (Nagle).
const AT_A_TIME: usize = 4;
/// The most clients that are connected at a time.
const CLIENTS: usize = 5;
/// The client that stays to the end.
const WATCHER: usize = 0;
/// The one address that the rules deny.
const DENIED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Options that both servers understand: a pattern of addresses is a glob to ours and a regular expression to the other.
const OPTIONS: [&str; 6] = ["--deny", "127.0.0.66", "--allow", "127.*", "--junior_seconds", "3600"];

/// Parts of lines that have meant something to some server.
const PIECES: [&[u8]; 16] = [
    b"hello",
    b" ",
    b"\t",
    b"\r",
    b"\r\r",
    b"\0",
    b"\xff",
    b"\xff\xf4\xff\xfd\x06",
    b"\x04",
    b"\x1b[2J",
    b"0",
    b"quit",
    b"%s %n %41",
    b"gr\xc3\xbc\xc3\x9fe",
    b"\xc3",
    b"JOIN: (#1) from 127.0.0.1",
];
const ENDS: [&[u8]; 6] = [b"\n", b"\n", b"\n", b"\r\n", b"\r\n", b"\r\r\n"];
/// Around the size of one read of the original (8192 bytes), and above it.
const LENGTHS: [usize; 6] = [8190, 8191, 8192, 8193, 9000, 20_000];
