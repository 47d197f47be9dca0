//! The workloads by name, what each asks of a server, and our goals.

use std::io;
use std::time::Duration;

use super::broadcast::{Pace, Room};
use super::echo::Echo;
use super::goals::{Goal, Than};
use super::server::{Mode, Peer, Server, Start};
use super::window::{Figures, Sums, Times, Window};
use super::{churn, idle, mixed};

pub(crate) struct Work {
    pub(crate) name: &'static str,
    load: Load,
    unix: bool,
    /// The servers, the bare loop first.
    pub(crate) peers: &'static [&'static str],
    pub(crate) goals: &'static [Goal],
}

#[derive(Clone, Copy)]
enum Load {
    Echo { clients: usize, depth: usize },
    Broadcast { clients: usize, senders: usize, pace: Pace },
    Churn(usize),
    Idle(usize),
    Scale(usize),
    Mixed,
}

/// All of them.
pub(crate) const WORKS: &[Work] = &[
    Work::new("echo_50", echo(50, 1), &[Goal::cpu(1.03), RECVS, SENDS]),
    Work::new("echo_1k", echo(1000, 1), &[Goal::cpu(1.05)]),
    Work::new("echo_10k", echo(10_000, 1), &[Goal::cpu(1.10)]),
    Work::new("pipelined_16", echo(50, 16), &[Goal::cpu(1.05)]),
    Work {
        unix: true,
        ..Work::new("unix_50", echo(50, 1), &[Goal { than: Than::Work("echo_50"), ..Goal::cpu(0.6) }])
    },
    Work::new("broadcast_100x1", room(100, 1, Pace::Window(1)), &[Goal::cpu(1.05)]),
    Work {
        peers: &["raw", "ours", "redis"],
        ..Work::new(
            "broadcast_burst",
            room(100, 1, Pace::Window(16)),
            &[Goal::cpu(1.05), Goal { than: Than::Peer("redis"), ..Goal::cpu(0.6) }],
        )
    },
    Work {
        peers: &["raw", "ours", "ours_gather"],
        ..Work::new(
            "broadcast_1kx10",
            room(1000, 10, Pace::Window(1)),
            &[Goal::cpu(1.05), Goal { peer: "ours_gather", ..Goal::cpu(0.6) }],
        )
    },
    Work::new("rate_100", room(1000, 10, Pace::Rate(100)), &[Goal::cpu(1.05)]),
    Work::new("rate_500", room(1000, 10, Pace::Rate(500)), &[Goal::cpu(1.05)]),
    Work::new("rate_1500", room(1000, 10, Pace::Rate(1500)), &[Goal::cpu(1.05)]),
    Work::new(
        "churn_32",
        Load::Churn(32),
        &[Goal::cpu(1.03), Goal::most("system calls each", "calls_each", 7.5)],
    ),
    Work {
        peers: &["raw", "samplechat", "original"],
        ..Work::new(
            "samplechat",
            room(100, 1, Pace::Window(1)),
            &[
                Goal { peer: "samplechat", ..Goal::cpu(1.10) },
                Goal { peer: "samplechat", than: Than::PerCpuOf("original"), ..Goal::cpu(3.5) },
            ],
        )
    },
    Work::new(
        "idle_10k",
        Load::Idle(10_000),
        &[
            Goal::most("bytes each", "bytes_each", 112.0),
            Goal::most("bytes each after a line", "bytes_each_after", 112.0),
            Goal::most("CPU us/s", "idle_cpu_us_per_s", 0.0),
        ],
    ),
    Work::new("scale_19k", Load::Scale(19_000 - idle::BUSY), &[Goal::cpu(1.10)]),
    Work::new("mixed", Load::Mixed, &[]),
];

const RECVS: Goal = Goal::exactly("recv each", "recvs_each", 1.0);
const SENDS: Goal = Goal::exactly("send each", "sends_each", 1.0);

const fn echo(clients: usize, depth: usize) -> Load {
    Load::Echo { clients, depth }
}

const fn room(clients: usize, senders: usize, pace: Pace) -> Load {
    Load::Broadcast { clients, senders, pace }
}

impl Work {
    const fn new(name: &'static str, load: Load, goals: &'static [Goal]) -> Self {
        Self { name, load, unix: false, peers: &["raw", "ours"], goals }
    }

    /// What the server must be able to do.
    pub(crate) fn mode(&self) -> Mode {
        match self.load {
            Load::Broadcast { .. } => Mode::Broadcast,
            Load::Mixed => Mode::Mixed,
            _ => Mode::Echo,
        }
    }

    /// Whether it is about messages, so that system calls for each can be counted.
    pub(crate) fn has_messages(&self) -> bool {
        !matches!(self.load, Load::Idle(_) | Load::Mixed)
    }

    /// Whether it is measured in parts that take turns with those of the other servers.
    pub(crate) fn has_parts(&self) -> bool {
        matches!(self.load, Load::Echo { .. } | Load::Broadcast { .. } | Load::Churn(_))
    }

    /// Descriptors that the load and the server need, each.
    pub(crate) fn descriptors(&self) -> u64 {
        let connections = match self.load {
            Load::Echo { clients, .. } => clients,
            // Senders may be connections of their own.
            Load::Broadcast { clients, senders, .. } => clients + senders,
            Load::Churn(clients) => clients,
            Load::Idle(clients) => clients + idle::TOGETHER,
            Load::Scale(clients) => clients + idle::BUSY,
            Load::Mixed => 2 * mixed::LISTENERS,
        };
        connections as u64 + SPARE
    }

    /// Starts the server and connects the load.
    pub(crate) fn start(&self, peer: &Peer, how: Start) -> io::Result<Running> {
        let server = Server::start(peer, self.mode(), self.unix, how)?;
        let load = match self.load {
            Load::Echo { clients, depth } => Connected::Echo(Echo::connect(server.addr(), clients, depth)?),
            Load::Broadcast { clients, senders, pace } => {
                Connected::Room(Box::new(Room::open(&server, clients, senders)?), pace)
            }
            once => Connected::Not(once),
        };
        Ok(Running { load, server, sums: Sums::default(), once: None })
    }
}

/// A server with its load. The load goes first, so that its ports are the ones that rest.
pub(crate) struct Running {
    load: Connected,
    server: Server,
    sums: Sums,
    once: Option<Figures>,
}

enum Connected {
    Echo(Echo),
    Room(Box<Room>, Pace),
    Not(Load),
}

impl Running {
    /// Gives it the load for that time. `traced`: its system calls are counted and nothing else.
    pub(crate) fn measure(&mut self, times: Times, traced: bool) -> io::Result<()> {
        let server = &self.server;
        let mut window = Window::new(server, times, traced, &mut self.sums);
        match &mut self.load {
            Connected::Echo(echo) => echo.run(&mut window)?,
            Connected::Room(room, pace) => room.run(*pace, &mut window)?,
            Connected::Not(Load::Churn(places)) => churn::run(*places, &mut window)?,
            Connected::Not(Load::Idle(count)) => self.once = Some(idle::memory(*count, server, times)?),
            Connected::Not(Load::Scale(count)) => {
                self.once = Some(idle::scale(*count, server, times, traced)?)
            }
            Connected::Not(_) => self.once = Some(mixed::run(server, times)?),
        }
        Ok(())
    }

    /// What was measured in all.
    pub(crate) fn figures(self) -> (Figures, Vec<f64>) {
        (self.once.unwrap_or_else(|| self.sums.figures()), self.sums.parts)
    }
}

/// Times for a glance, for `cargo bench`, and for a run whose figures are to be believed.
pub(crate) const BLINK: Times = Times { warm: Duration::from_millis(5), run: Duration::from_millis(20) };

/// Descriptors beside the connections.
const SPARE: u64 = 64;
