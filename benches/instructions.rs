//! User-space instructions per message, counted by callgrind: a figure without a clock, the same on a busy machine.
//!
//!     cargo bench --bench instructions                    all workloads; 1 when one is over its limit
//!     cargo bench --bench instructions -- echo churn      only these
//!     CARGO_PROFILE_BENCH_DEBUG=1 cargo bench --bench instructions -- --annotate echo
//!                                                         keeps callgrind's file, for callgrind_annotate
//!
//! The program starts itself under `valgrind --tool=callgrind`. That child has a mux and its clients on one thread and
//! counts what is inside the turns alone: neither its clients nor the kernel. Each workload runs twice, with few rounds
//! and with many; the slope between them is free of what comes once. Without valgrind it is skipped, unless
//! `LINEPLEX_REQUIRE_VALGRIND` is set.
//!
//! The limits are what the code reached when they were last lowered; up to 10 % above is passed, since compilers and C
//! libraries differ. The goals are where we want to go.

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use lineplex::config::{Limits, ListenAt};
use lineplex::metrics::Metrics;
use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};

struct Workload {
    name: &'static str,
    about: &'static str,
    /// What is counted in the table: what one round has of it.
    per_round: u64,
    limit: f64,
    goal: Option<u32>,
    /// Plays that many rounds.
    play: fn(rounds: u64),
}

const WORKLOADS: [Workload; 10] = [
    Workload {
        name: "echo",
        about: "50 connections, a line each; per line",
        per_round: 50,
        limit: 730.0,
        goal: Some(320),
        play: |rounds| Session::<Echo>::new(Limits::default(), 50).play(rounds, &ECHO),
    },
    Workload {
        name: "pipelined",
        about: "50 connections, 16 lines each at once; per line",
        per_round: 800,
        limit: 190.0,
        goal: Some(130),
        play: |rounds| Session::<Echo>::new(Limits::default(), 50).play(rounds, &PIPELINED),
    },
    Workload {
        name: "broadcast",
        about: "a line to 100 others; per delivery",
        per_round: 100,
        limit: 133.0,
        goal: Some(130),
        play: |rounds| Session::<Broadcast>::new(Limits::default(), 101).play(rounds, &BROADCAST),
    },
    Workload {
        name: "burst",
        about: "16 lines at once to 100 others; per delivery",
        per_round: 1600,
        limit: 10.6,
        goal: Some(12),
        play: |rounds| Session::<Broadcast>::new(Limits::default(), 101).play(rounds, &BURST),
    },
    Workload {
        name: "predicate",
        about: "as broadcast, to those whom a predicate chooses; per delivery",
        per_round: 100,
        limit: 288.0,
        goal: None,
        play: |rounds| Session::<Predicate>::new(Limits::default(), 101).play(rounds, &BROADCAST),
    },
    Workload {
        name: "write",
        about: "`write!` to 100, the sender included; per delivery",
        per_round: 100,
        limit: 923.0,
        goal: None,
        play: |rounds| Session::<WriteAll>::new(Limits::default(), 100).play(rounds, &WRITE),
    },
    Workload {
        name: "idle_time",
        about: "as echo, with `idle_time`; per line",
        per_round: 50,
        limit: 736.0,
        goal: Some(320),
        play: |rounds| {
            let limits = Limits { idle_time: Some(A_MINUTE), ..Limits::default() };
            Session::<Echo>::new(limits, 50).play(rounds, &ECHO);
        },
    },
    Workload {
        name: "among_idle",
        about: "as echo, among 9500 more that are silent; per line",
        per_round: 50,
        limit: 730.0,
        goal: Some(320),
        play: |rounds| Session::<Echo>::new(Limits::default(), 9_550).play(rounds, &ECHO),
    },
    Workload {
        name: "set_timeout",
        about: "as echo, `set_timeout` at each input; per line",
        per_round: 50,
        limit: 899.0,
        goal: None,
        play: |rounds| Session::<EchoInTime>::new(Limits::default(), 50).play(rounds, &ECHO),
    },
    Workload {
        name: "churn",
        about: "connect, a line, its answer, close; per connection",
        per_round: AT_ONCE as u64,
        limit: 2_673.0,
        goal: None,
        play: |rounds| Session::<Echo>::new(Limits::default(), 0).churn(rounds),
    },
];

/// Who sends what in one round, and what comes back.
struct Round {
    senders: usize,
    /// Lines that each sends in one piece.
    lines: usize,
    /// Bytes that each sender hears, and each of the others.
    heard: usize,
    heard_by_others: usize,
}

const ECHO: Round = Round { senders: 50, lines: 1, heard: LINE, heard_by_others: 0 };
const PIPELINED: Round = Round { senders: 50, lines: 16, heard: 16 * LINE, heard_by_others: 0 };
const BROADCAST: Round = Round { senders: 1, lines: 1, heard: 0, heard_by_others: LINE };
const BURST: Round = Round { senders: 1, lines: 16, heard: 0, heard_by_others: 16 * LINE };
const WRITE: Round = Round { senders: 1, lines: 1, heard: WRITTEN, heard_by_others: WRITTEN };

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["--child", name, rounds] = args[..] {
        (find(name)?.play)(rounds.parse()?);
        return Ok(ExitCode::SUCCESS);
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: valgrind is not here");
        return Ok(ExitCode::from(u8::from(env::var_os("LINEPLEX_REQUIRE_VALGRIND").is_some())));
    }
    if let ["--annotate", name] = args[..] {
        let file = tmp(&format!("callgrind.out.{name}"));
        callgrind(find(name)?, MANY_ROUNDS, &file)?;
        println!("{}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let workloads: Vec<&Workload> = match &args[..] {
        [] => WORKLOADS.iter().collect(),
        names => names.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
    };
    println!("{:11} {:>9} {:>7} {:>7}  user instructions", "", "each", "limit", "goal");
    let mut over = 0;
    for workload in workloads {
        let each = slope(workload)?;
        let is_over = each > workload.limit * TOLERANCE;
        over += u8::from(is_over);
        let goal = workload.goal.map_or(String::new(), |goal| goal.to_string());
        let verdict = if is_over { "  OVER THE LIMIT" } else { "" };
        let Workload { name, about, limit, .. } = workload;
        println!("{name:11} {each:9.1} {limit:7.1} {goal:>7}  {about}{verdict}");
    }
    Ok(ExitCode::from(u8::from(over > 0)))
}

fn find(name: &str) -> Result<&'static Workload, String> {
    WORKLOADS.iter().find(|workload| workload.name == name).ok_or_else(|| {
        let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        format!("no workload `{name}`; there are {}", names.join(", "))
    })
}

/// Instructions for one more of what the workload counts.
fn slope(workload: &Workload) -> Result<f64, Box<dyn Error>> {
    let file = tmp(&format!("callgrind.out.{}", std::process::id()));
    let few = callgrind(workload, FEW_ROUNDS, &file)?;
    let many = callgrind(workload, MANY_ROUNDS, &file)?;
    fs::remove_file(file)?;
    Ok((many - few) as f64 / ((MANY_ROUNDS - FEW_ROUNDS) * workload.per_round) as f64)
}

/// Instructions inside the counted turns of that many rounds.
fn callgrind(workload: &Workload, rounds: u64, file: &Path) -> Result<u64, Box<dyn Error>> {
    let status = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--dump-instr=yes", "--toggle-collect=*counted_turn*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe()?)
        .args(["--child", workload.name, &rounds.to_string()])
        .status()?;
    if !status.success() {
        return Err(format!("{}: {status}", workload.name).into());
    }
    let counted = fs::read_to_string(file)?;
    let total = counted.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.ok_or("callgrind has written no total")?.trim().parse()?;
    if total == 0 {
        return Err("nothing was counted: is the name of the counted function gone?".into());
    }
    Ok(total)
}

fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A mux and its clients, played on one thread.
struct Session<H: Handler> {
    mux: Mux<Load<H>>,
    addr: String,
    clients: Vec<TcpStream>,
}

impl<H: Handler> Session<H> {
    fn new(limits: Limits, clients: usize) -> Self {
        // Under valgrind a turn takes long.
        let limits = Limits { slow_turn: A_MINUTE, ..limits };
        let mut mux = Mux::new(Load { line: Vec::new(), handler: PhantomData }, limits).expect("a poll");
        let addr = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).expect("a port").to_string();
        // Both ends are in this process.
        let most = mux.conns().limits().max_connections.map_or(clients, |most| most / 2);
        let clients = clients.min(most);
        let mut session = Self { mux, addr, clients: Vec::new() };
        let until = Instant::now() + A_MINUTE;
        while session.metrics().open < clients as u64 {
            assert!(Instant::now() < until, "the clients are not taken");
            let more = AT_ONCE.min(clients - session.clients.len());
            session.clients.extend((0..more).map(|_| session.connect()).collect::<Vec<_>>());
            session.mux.turn(Some(Duration::ZERO)).expect("the loop goes on");
        }
        // The first event of a new socket says that it can be written to.
        session.mux.turn(Some(Duration::ZERO)).expect("the loop goes on");
        session
    }

    fn play(mut self, rounds: u64, round: &Round) {
        let lines = line().repeat(round.lines);
        let (senders, others) = (round.senders, self.clients.len() - round.senders);
        let bytes = (senders * round.heard + others * round.heard_by_others) as u64;
        let mut heard = vec![0; round.heard.max(round.heard_by_others)];
        for _ in 0..rounds {
            let sent = self.metrics().bytes_out + bytes;
            for sender in &mut self.clients[..senders] {
                sender.write_all(&lines).expect("the server reads");
            }
            self.turns_until(|metrics| metrics.bytes_out == sent);
            for (at, client) in self.clients.iter_mut().enumerate() {
                let length = if at < senders { round.heard } else { round.heard_by_others };
                client.read_exact(&mut heard[..length]).expect("the server has sent it");
                assert!(length == 0 || heard[length - 1] == b'\n', "whole lines");
            }
        }
        assert_eq!(self.metrics().lines, rounds * (senders * round.lines) as u64);
    }

    fn churn(mut self, rounds: u64) {
        for _ in 0..rounds {
            let mut clients: Vec<TcpStream> = (0..AT_ONCE).map(|_| self.connect()).collect();
            self.turns_until(|metrics| metrics.open == AT_ONCE as u64);
            let sent = self.metrics().bytes_out + (AT_ONCE * LINE) as u64;
            for client in &mut clients {
                client.write_all(&line()).expect("the server reads");
            }
            self.turns_until(|metrics| metrics.bytes_out == sent);
            for client in &mut clients {
                client.read_exact(&mut [0; LINE]).expect("the server has sent it");
            }
            clients.clear();
            self.turns_until(|metrics| metrics.open == 0);
        }
        assert_eq!(self.metrics().closed, rounds * AT_ONCE as u64);
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.addr).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(A_MINUTE)).expect("a socket");
        stream
    }

    fn metrics(&mut self) -> Metrics {
        self.mux.conns().metrics()
    }

    /// On loopback one turn is enough, as a rule: what is sent has arrived when the call returns.
    fn turns_until(&mut self, done: impl Fn(Metrics) -> bool) {
        let until = Instant::now() + A_MINUTE;
        while !done(self.metrics()) {
            assert!(Instant::now() < until, "not in time");
            counted_turn(&mut self.mux);
        }
    }
}

/// What callgrind counts. It goes by the name.
#[inline(never)]
fn counted_turn<S: Server>(mux: &mut Mux<S>) {
    mux.turn(Some(Duration::ZERO)).expect("the loop goes on");
}

/// What a client does with its input: each a type, so that it is compiled into the loop as a user's is.
trait Handler: Sized + 'static {
    fn input(ctx: &mut Context<'_, Load<Self>>, input: &mut Input);
}

struct Load<H> {
    /// As in the example `broadcast`.
    line: Vec<u8>,
    handler: PhantomData<H>,
}

struct Client<H>(PhantomData<H>);

impl<H: Handler> Server for Load<H> {
    type Client = Client<H>;

    fn client(&mut self, _: &Peer) -> Client<H> {
        Client(PhantomData)
    }
}

impl<H: Handler> MuxCallback<Load<H>> for Client<H> {
    fn input(&mut self, ctx: &mut Context<'_, Load<H>>, input: &mut Input) -> io::Result<()> {
        H::input(ctx, input);
        Ok(())
    }
}

struct Echo;

impl Handler for Echo {
    fn input(ctx: &mut Context<'_, Load<Self>>, input: &mut Input) {
        while let Some(line) = input.line() {
            ctx.write_parts(&[line, b"\n"]);
        }
    }
}

struct EchoInTime;

impl Handler for EchoInTime {
    fn input(ctx: &mut Context<'_, Load<Self>>, input: &mut Input) {
        ctx.set_timeout(A_MINUTE);
        while let Some(line) = input.line() {
            ctx.write_parts(&[line, b"\n"]);
        }
    }
}

struct Broadcast;

impl Handler for Broadcast {
    fn input(ctx: &mut Context<'_, Load<Self>>, input: &mut Input) {
        while let Some(line) = input.line() {
            let out = &mut ctx.server.line;
            out.clear();
            out.extend_from_slice(line);
            out.push(b'\n');
            ctx.conns.broadcast_except(out, ctx.id);
        }
    }
}

struct Predicate;

impl Handler for Predicate {
    fn input(ctx: &mut Context<'_, Load<Self>>, input: &mut Input) {
        while let Some(line) = input.line() {
            let out = &mut ctx.server.line;
            out.clear();
            out.extend_from_slice(line);
            out.push(b'\n');
            ctx.conns.broadcast(out, |id| id != ctx.id);
        }
    }
}

struct WriteAll;

impl Handler for WriteAll {
    fn input(ctx: &mut Context<'_, Load<Self>>, input: &mut Input) {
        while let Some(line) = input.line() {
            let text = String::from_utf8_lossy(line);
            let ids: Vec<_> = ctx.conns.all().collect();
            for id in ids {
                write!(ctx.conns.to(id), "[#{}] {text}\r\n", ctx.peer.serial());
            }
        }
    }
}

/// A line of [`LINE`] bytes.
fn line() -> [u8; LINE] {
    let mut line = [b'x'; LINE];
    line[LINE - 1] = b'\n';
    line
}

/// Bytes, with the ending.
const LINE: usize = 64;
/// What [`WriteAll`] makes of one by the first client.
const WRITTEN: usize = LINE + "[#1] \r".len();
/// Connections open at once in `churn`.
const AT_ONCE: usize = 32;

const FEW_ROUNDS: u64 = 20;
const MANY_ROUNDS: u64 = 120;
/// Times the limit.
const TOLERANCE: f64 = 1.1;
const A_MINUTE: Duration = Duration::from_secs(60);
