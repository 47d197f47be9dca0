//! The workloads by name, what each asks of a server, and our goal.

use std::io;
use std::time::Duration;

use super::broadcast::{self, Pace};
use super::echo::Echo;
use super::server::{Mode, Peer, Server, Start};
use super::window::{Figures, Times, Window};
use super::{churn, idle};

pub(crate) struct Work {
    pub(crate) name: &'static str,
    load: Load,
    unix: bool,
    /// The most CPU for each message, as a multiple of the bare loop's.
    pub(crate) goal: Option<f64>,
}

#[derive(Clone, Copy)]
enum Load {
    Echo { clients: usize, depth: usize },
    Broadcast { clients: usize, senders: usize, pace: Pace },
    Churn(usize),
    Idle(usize),
    Scale(usize),
}

/// All of them.
pub(crate) const WORKS: &[Work] = &[
    Work::new("echo_50", Load::Echo { clients: 50, depth: 1 }, Some(1.03)),
    Work::new("echo_1k", Load::Echo { clients: 1000, depth: 1 }, Some(1.03)),
    Work::new("echo_10k", Load::Echo { clients: 10_000, depth: 1 }, Some(1.05)),
    Work::new("pipelined_16", Load::Echo { clients: 50, depth: 16 }, Some(1.03)),
    Work { unix: true, ..Work::new("unix_50", Load::Echo { clients: 50, depth: 1 }, None) },
    Work::new("broadcast_100x1", room(100, 1, Pace::Window(1)), Some(1.0)),
    Work::new("broadcast_burst", room(100, 1, Pace::Window(16)), Some(1.0)),
    Work::new("broadcast_1kx10", room(1000, 10, Pace::Window(1)), Some(0.55)),
    Work::new("rate_100", room(1000, 10, Pace::Rate(100)), Some(1.03)),
    Work::new("rate_500", room(1000, 10, Pace::Rate(500)), Some(1.03)),
    Work::new("rate_1500", room(1000, 10, Pace::Rate(1500)), Some(1.03)),
    Work::new("churn_32", Load::Churn(32), Some(1.0)),
    Work::new("idle_10k", Load::Idle(10_000), None),
    Work::new("scale_19k", Load::Scale(19_000 - idle::BUSY), Some(1.05)),
];

const fn room(clients: usize, senders: usize, pace: Pace) -> Load {
    Load::Broadcast { clients, senders, pace }
}

impl Work {
    const fn new(name: &'static str, load: Load, goal: Option<f64>) -> Self {
        Self { name, load, unix: false, goal }
    }

    /// What the server must be able to do.
    pub(crate) fn mode(&self) -> Mode {
        match self.load {
            Load::Broadcast { .. } => Mode::Broadcast,
            _ => Mode::Echo,
        }
    }

    /// Whether it is about messages, so that system calls for each can be counted.
    pub(crate) fn has_messages(&self) -> bool {
        !matches!(self.load, Load::Idle(_))
    }

    /// Descriptors that the load and the server need, each.
    pub(crate) fn descriptors(&self) -> u64 {
        let connections = match self.load {
            Load::Echo { clients, .. } => clients,
            // Senders may be connections of their own.
            Load::Broadcast { clients, senders, .. } => clients + senders,
            Load::Churn(clients) | Load::Idle(clients) => clients,
            Load::Scale(clients) => clients + idle::BUSY,
        };
        connections as u64 + SPARE
    }

    /// Starts the server, gives it this load once, and ends it. `traced`: its system calls are counted and nothing else.
    pub(crate) fn run(&self, peer: &Peer, how: Start, times: Times, traced: bool) -> io::Result<Figures> {
        let server = Server::start(peer, self.mode(), self.unix, how)?;
        let mut window = Window::new(&server, times, traced);
        match self.load {
            Load::Echo { clients, depth } => {
                Echo::connect(server.addr(), clients, depth)?.run(&mut window)?;
            }
            Load::Broadcast { clients, senders, pace } => {
                broadcast::run(clients, senders, pace, &mut window)?;
            }
            Load::Churn(places) => churn::run(places, &mut window)?,
            Load::Idle(count) => return idle::memory(count, &server, times),
            Load::Scale(count) => return idle::scale(count, &server, times, traced),
        }
        Ok(window.figures())
    }
}

/// Times for a glance, for `cargo bench`, and for a run whose figures are to be believed.
pub(crate) const BLINK: Times = Times { warm: Duration::from_millis(5), run: Duration::from_millis(20) };

/// Descriptors beside the connections.
const SPARE: u64 = 64;
