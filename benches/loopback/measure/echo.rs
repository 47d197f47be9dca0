//! Clients that each keep some lines under way and send the next when one comes back.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::line::{Line, SIZE};
use super::server::Addr;
use super::socket::Socket;
use super::sys::{self, Epoll, Event};
use super::window::{STALL, Window};
use super::wrong;

/// They are connected and may be measured more than once.
pub(crate) struct Echo {
    epoll: Epoll,
    clients: Vec<Client>,
    /// Lines that each has under way.
    depth: usize,
    under_way: usize,
    /// Clients that have not had a line back.
    unheard: usize,
    buffer: Vec<u8>,
    out: Vec<u8>,
    events: Vec<Event>,
}

struct Client {
    socket: Socket,
    /// The next line to send, and the one that comes next with how much of it has.
    next: Line,
    expected: Line,
    begun: usize,
    /// When each of those under way left.
    sent: VecDeque<Instant>,
    heard: bool,
}

impl Echo {
    pub(crate) fn connect(addr: &Addr, clients: usize, depth: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let sockets = Socket::connect(&epoll, addr, 0, clients)?;
        let client = |(who, socket)| Client {
            socket,
            next: Line::first(who),
            expected: Line::first(who),
            begun: 0,
            sent: VecDeque::with_capacity(depth),
            heard: false,
        };
        let clients = sockets.into_iter().enumerate().map(client).collect();
        let (buffer, out, events) = (vec![0; BUFFER], Vec::with_capacity(depth * SIZE), sys::events(EVENTS));
        Ok(Self { epoll, clients, depth, under_way: 0, unheard: 0, buffer, out, events })
    }

    /// From the first line of each until the last has come back.
    pub(crate) fn run(&mut self, window: &mut Window<'_>) -> io::Result<()> {
        self.begin()?;
        while self.under_way > 0 {
            if !self.turn(STALL, window)? {
                let (seconds, lines) = (STALL.as_secs(), self.under_way);
                return Err(wrong(format!("nothing came for {seconds} s, {lines} lines are missing")));
            }
        }
        Ok(())
    }

    /// Sends the first lines of each.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for client in &mut self.clients {
            client.send(&self.epoll, self.depth, now, &mut self.out)?;
            client.heard = false;
        }
        self.under_way = self.depth * self.clients.len();
        self.unheard = self.clients.len();
        Ok(())
    }

    /// Answers what comes within that time; whether anything has.
    pub(crate) fn turn(&mut self, wait: Duration, window: &mut Window<'_>) -> io::Result<bool> {
        let count = self.epoll.wait_at_most(&mut self.events, wait)?;
        let go_on = window.go_on(self.unheard == 0)?;
        for event in &self.events[..count] {
            let client = &mut self.clients[event.u64 as usize];
            client.socket.serve(&self.epoll, event)?;
            let (lines, now) = client.receive(&mut self.buffer, window)?;
            if lines == 0 {
                continue;
            }
            self.unheard -= usize::from(!std::mem::replace(&mut client.heard, true));
            if go_on {
                client.send(&self.epoll, lines, now, &mut self.out)?;
            } else {
                self.under_way -= lines;
            }
        }
        Ok(count > 0)
    }

    /// Lines that have not come back.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Is readable when a turn has something to do.
    pub(crate) fn epoll(&self) -> &Epoll {
        &self.epoll
    }
}

impl Client {
    /// The next `count` lines, in one piece.
    fn send(&mut self, epoll: &Epoll, count: usize, now: Instant, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        for _ in 0..count {
            out.extend_from_slice(self.next.bytes());
            self.next.advance();
            self.sent.push_back(now);
        }
        self.socket.send(epoll, out)
    }

    /// All there is; how many lines that ended, and when. One clock reading serves a whole read.
    fn receive(&mut self, buffer: &mut [u8], window: &mut Window<'_>) -> io::Result<(usize, Instant)> {
        let mut lines = 0;
        loop {
            let count = self.socket.receive(buffer)?;
            let now = Instant::now();
            let mut data = &buffer[..count];
            while !data.is_empty() {
                let (part, rest) = data.split_at(data.len().min(SIZE - self.begun));
                let end = self.begun + part.len();
                if self.expected.bytes()[self.begun..end] != *part {
                    return Err(self.damaged(part));
                }
                data = rest;
                self.begun = end % SIZE;
                if self.begun == 0 {
                    let Some(sent) = self.sent.pop_front() else { return Err(self.damaged(part)) };
                    window.count(1, now - sent);
                    self.expected.advance();
                    lines += 1;
                }
            }
            if count < buffer.len() {
                return Ok((lines, now));
            }
        }
    }

    #[cold]
    fn damaged(&self, got: &[u8]) -> io::Error {
        let expected = &self.expected.bytes()[self.begun..];
        let (expected, got) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(got));
        wrong(format!("{got:?} came back where {expected:?} was due"))
    }
}

const BUFFER: usize = 64 * 1024;
const EVENTS: usize = 1024;
