//! A room in which some speak and everybody hears. Each receiver must get every line of every sender, once and in order.
//!
//! A line is over when its last receiver has it, and its time is counted to there. A sender either keeps so many lines
//! under way, or all of them together send at a fixed rate; then a line's time begins when it was due, so that a server
//! or a load that lags behind cannot hide it.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::line::{self, Line, SIZE, TEXT};
use super::server::{Addr, Dialect, Expect, Server};
use super::socket::Socket;
use super::sys::{self, Epoll, Event};
use super::window::{STALL, Window};
use super::wrong;

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Every sender has so many lines under way.
    Window(usize),
    /// Lines a second, of all senders together.
    Rate(u32),
}

/// All have entered, and it may be measured more than once.
pub(crate) struct Room {
    epoll: Epoll,
    dialect: Dialect,
    members: Vec<Member>,
    senders: Vec<Sender>,
    /// The number that is due, by sender and member.
    due: Vec<u64>,
    /// Who gets each line.
    audience: usize,
    probe: Probe,
    under_way: usize,
    delivered: u64,
    out: Vec<u8>,
    buffer: Vec<u8>,
    events: Vec<Event>,
}

struct Member {
    socket: Socket,
    /// The beginning of a line.
    part: Vec<u8>,
}

struct Sender {
    member: usize,
    next: Line,
    /// Those under way, the oldest first, and its number.
    open: VecDeque<Open>,
    oldest: u64,
}

struct Open {
    sent: Instant,
    missing: usize,
}

/// Lines that are sent before all others, until one of them has reached everybody: then everybody has entered.
struct Probe {
    line: Line,
    number: u64,
    heard: Vec<bool>,
    missing: usize,
}

impl Room {
    /// `clients` hear, the first `senders` of them speak (or as many more do).
    pub(crate) fn open(server: &Server, clients: usize, senders: usize) -> io::Result<Self> {
        let mut room = Self::enter(server.addr(), &server.dialect, clients, senders)?;
        server.settle()?;
        room.probe_all()?;
        Ok(room)
    }

    /// Until the time of the window is over and every line has reached everybody.
    pub(crate) fn run(&mut self, pace: Pace, window: &mut Window<'_>) -> io::Result<()> {
        let mut due = Instant::now();
        let mut turn = 0;
        loop {
            let go_on = window.go_on(true)?;
            let wait = match pace {
                _ if !go_on => STALL,
                Pace::Window(depth) => {
                    self.fill(depth)?;
                    STALL
                }
                Pace::Rate(rate) => {
                    let gap = Duration::from_secs(1) / rate;
                    while due <= Instant::now() {
                        let nth = turn % self.senders.len();
                        self.speak(nth, 1, due)?;
                        (turn, due) = (turn + 1, due + gap);
                    }
                    due.saturating_duration_since(Instant::now())
                }
            };
            if self.under_way > OPEN_MAX {
                return Err(wrong(format!("{OPEN_MAX} lines are under way: the server cannot keep up")));
            }
            if !go_on && self.under_way == 0 {
                return Ok(());
            }
            if !self.hear(wait, Some(window))? && wait == STALL {
                let (seconds, lines) = (STALL.as_secs(), self.under_way);
                return Err(wrong(format!(
                    "nothing came for {seconds} s, {lines} lines have not reached all"
                )));
            }
        }
    }

    fn enter(addr: &Addr, dialect: &Dialect, clients: usize, senders: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let apart = dialect.expect == Expect::Receivers;
        let all = if apart { clients + senders } else { clients };
        let mut sockets = Socket::connect(&epoll, addr, 0, all)?;
        for (nth, socket) in sockets.iter_mut().enumerate() {
            let login = if nth >= clients { dialect.sender_login.as_ref() } else { None };
            let login = login.unwrap_or(&dialect.login).replace("{i}", &nth.to_string());
            if !login.is_empty() {
                socket.send(&epoll, login.as_bytes())?;
            }
        }
        let member = |socket| Member { socket, part: Vec::new() };
        let sender = |who| Sender {
            member: if apart { clients + who } else { who },
            next: Line::first(who),
            open: VecDeque::new(),
            oldest: 0,
        };
        Ok(Self {
            epoll,
            dialect: dialect.clone(),
            members: sockets.into_iter().map(member).collect(),
            senders: (0..senders).map(sender).collect(),
            due: vec![0; senders * all],
            audience: if dialect.expect == Expect::Others { clients - 1 } else { clients },
            probe: Probe { line: Line::first(PROBE), number: 0, heard: vec![true; all], missing: 0 },
            under_way: 0,
            delivered: 0,
            out: Vec::new(),
            buffer: vec![0; BUFFER],
            events: sys::events(EVENTS),
        })
    }

    /// Until one line of the last member has reached everybody.
    fn probe_all(&mut self) -> io::Result<()> {
        for number in 0..PROBES {
            self.probe.number = number;
            self.probe.missing = self.audience;
            self.probe.heard.fill(false);
            self.out.clear();
            push(&mut self.out, &self.dialect, &self.probe.line);
            self.probe.line.advance();
            let last = self.members.len() - 1;
            self.members[last].socket.send(&self.epoll, &self.out)?;
            let until = Instant::now() + PROBE_TIME;
            while self.probe.missing > 0 {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.hear(left, None)?;
            }
            if self.probe.missing == 0 {
                return Ok(());
            }
        }
        Err(wrong(format!("{} of {} do not hear what one sends", self.probe.missing, self.audience)))
    }

    /// Every sender has `depth` lines under way.
    fn fill(&mut self, depth: usize) -> io::Result<()> {
        let mut now = None;
        for nth in 0..self.senders.len() {
            let open = self.senders[nth].open.len();
            if open < depth {
                self.speak(nth, depth - open, *now.get_or_insert_with(Instant::now))?;
            }
        }
        Ok(())
    }

    /// `count` lines of a sender, in one piece.
    fn speak(&mut self, nth: usize, count: usize, sent: Instant) -> io::Result<()> {
        let sender = &mut self.senders[nth];
        self.out.clear();
        for _ in 0..count {
            push(&mut self.out, &self.dialect, &sender.next);
            sender.next.advance();
            sender.open.push_back(Open { sent, missing: self.audience });
        }
        self.under_way += count;
        self.members[sender.member].socket.send(&self.epoll, &self.out)
    }

    /// Takes what comes within that time; whether anything has.
    fn hear(&mut self, wait: Duration, mut window: Option<&mut Window<'_>>) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events);
        let mut buffer = std::mem::take(&mut self.buffer);
        let count = self.epoll.wait_at_most(&mut events, wait)?;
        for event in &events[..count] {
            let member = event.u64 as usize;
            self.members[member].socket.serve(&self.epoll, event)?;
            loop {
                let count = self.members[member].socket.receive(&mut buffer)?;
                self.read(member, &buffer[..count], window.as_deref_mut())?;
                if count < buffer.len() {
                    break;
                }
            }
            let delivered = std::mem::take(&mut self.delivered);
            if let Some(window) = &mut window {
                window.count_untimed(delivered);
            }
        }
        (self.events, self.buffer) = (events, buffer);
        Ok(count > 0)
    }

    /// Splits what came into lines.
    fn read(
        &mut self,
        member: usize,
        mut data: &[u8],
        mut window: Option<&mut Window<'_>>,
    ) -> io::Result<()> {
        while !data.is_empty() {
            let mut part = std::mem::take(&mut self.members[member].part);
            // Most servers send our line as it is; whether it is that and nothing else is then checked.
            if part.is_empty() && data.len() >= SIZE && data[TEXT] == b'\n' {
                if let Some((who, number)) = line::find(&data[..TEXT]) {
                    self.heard(member, who, number, window.as_deref_mut())?;
                    data = &data[SIZE..];
                    continue;
                }
            }
            let Some(end) = data.iter().position(|&byte| byte == b'\n') else {
                part.extend_from_slice(data);
                self.members[member].part = part;
                break;
            };
            part.extend_from_slice(&data[..end]);
            data = &data[end + 1..];
            if let Some((who, number)) = line::find(&part) {
                self.heard(member, who, number, window.as_deref_mut())?;
            }
            part.clear();
            self.members[member].part = part;
        }
        Ok(())
    }

    #[inline]
    fn heard(
        &mut self,
        member: usize,
        who: usize,
        number: u64,
        window: Option<&mut Window<'_>>,
    ) -> io::Result<()> {
        if who == PROBE {
            if number == self.probe.number && !std::mem::replace(&mut self.probe.heard[member], true) {
                self.probe.missing -= 1;
            }
            return Ok(());
        }
        let Some(sender) = self.senders.get_mut(who) else {
            return Err(wrong(format!("a line of {who}, who sends none")));
        };
        if sender.member == member && self.dialect.expect != Expect::All {
            return Err(wrong(format!("sender {who} hears its own line")));
        }
        let due = &mut self.due[who * self.members.len() + member];
        if *due != number {
            return Err(wrong(format!("{member} hears line {number} of {who} where {due} was due")));
        }
        *due += 1;
        self.delivered += 1;
        let place = (number - sender.oldest) as usize;
        let Some(open) = sender.open.get_mut(place) else {
            return Err(wrong(format!("{member} hears line {number} of {who}, which was not sent")));
        };
        open.missing -= 1;
        // The order is the same for everybody, so the oldest is the first to be over.
        if open.missing == 0 {
            if let Some(window) = window {
                window.time(open.sent.elapsed());
            }
            sender.open.pop_front();
            sender.oldest += 1;
            self.under_way -= 1;
        }
        Ok(())
    }
}

fn push(out: &mut Vec<u8>, dialect: &Dialect, line: &Line) {
    out.extend_from_slice(dialect.prefix.as_bytes());
    out.extend_from_slice(line.text());
    out.extend_from_slice(dialect.suffix.as_bytes());
}

/// The sender of the probes.
const PROBE: usize = 99_999;
/// How many there are at most, and how long each may take.
const PROBES: u64 = 30;
const PROBE_TIME: Duration = Duration::from_millis(500);
/// Lines of all senders that have not reached everybody.
const OPEN_MAX: usize = 20_000;
const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 1024;
