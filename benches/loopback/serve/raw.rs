//! The limit: a bare epoll loop that does what the load needs and nothing else. No limits, no deadlines, no lines:
//! echo sends every block back as it was read.
//!
//! For each readable event one recv and one send, and one wait for as many events as there are. Connections are
//! edge-triggered; a read that does not fill the buffer has found the end, so no second one asks. Room for output is
//! watched only where a send fell short: a Unix socket would otherwise report it after every message. A connection
//! is its descriptor, and what it needs to know is in a table by descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::measure::server::{Addr, Mode};
use crate::measure::sys::{self, Epoll};

struct Loop {
    mode: Mode,
    epoll: Epoll,
    listener: OwnedFd,
    conns: Vec<Conn>,
    /// Every open connection (broadcast), or every listener (mixed).
    room: Vec<RawFd>,
    /// What was said in this iteration, all lines in a row, and who said which part of it.
    said: Vec<u8>,
    parts: Vec<Part>,
    /// What is over, closed at the end of the iteration.
    gone: Vec<RawFd>,
    buffer: Vec<u8>,
}

/// 16 bytes.
#[derive(Default)]
struct Conn {
    /// Its place in the room.
    place: u32,
    in_room: bool,
    /// It said something in this iteration.
    spoke: bool,
    kept: Option<Box<Kept>>,
}

/// What few connections have: the beginning of a line, or output that the kernel did not take.
#[derive(Default)]
struct Kept {
    line: Vec<u8>,
    output: Vec<u8>,
}

struct Part {
    by: RawFd,
    from: usize,
    to: usize,
}

pub(super) fn serve(mode: Mode, addr: &Addr) -> io::Result<()> {
    let listener = match addr {
        Addr::Tcp(port) => sys::listen_tcp(*port)?,
        Addr::Unix(path) => sys::listen_unix(path)?,
    };
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER, sys::IN_LEVEL)?;
    let mut server = Loop {
        mode,
        epoll,
        listener,
        conns: Vec::new(),
        room: Vec::new(),
        said: Vec::new(),
        parts: Vec::new(),
        gone: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    server.run()
}

impl Loop {
    fn run(&mut self) -> io::Result<()> {
        let mut events = sys::events(EVENTS);
        loop {
            let count = self.epoll.wait(&mut events)?;
            for event in &events[..count] {
                let (token, what) = (event.u64, event.events);
                if token == LISTENER {
                    self.accept();
                    continue;
                }
                let fd = token as RawFd;
                if what & sys::WRITABLE != 0 {
                    self.send_rest(fd);
                }
                if what & !sys::WRITABLE != 0 {
                    self.read(fd);
                }
            }
            if !self.parts.is_empty() {
                self.deliver();
            }
            while let Some(fd) = self.gone.pop() {
                self.leave(fd);
                self.conns[fd as usize] = Conn::default();
                sys::close(fd);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(fd) = sys::accept(self.listener.as_raw_fd()) {
            if self.conns.len() <= fd as usize {
                self.conns.resize_with(fd as usize + 1, Conn::default);
            }
            if self.epoll.add(fd, fd as u64, sys::IN).is_err() {
                sys::close(fd);
            } else if self.mode == Mode::Broadcast {
                self.enter(fd);
            }
        }
    }

    fn enter(&mut self, fd: RawFd) {
        let conn = &mut self.conns[fd as usize];
        (conn.place, conn.in_room) = (self.room.len() as u32, true);
        self.room.push(fd);
    }

    fn leave(&mut self, fd: RawFd) {
        let conn = &mut self.conns[fd as usize];
        if std::mem::take(&mut conn.in_room) {
            let place = conn.place;
            self.room.swap_remove(place as usize);
            if let Some(&moved) = self.room.get(place as usize) {
                self.conns[moved as usize].place = place;
            }
        }
    }

    #[inline]
    fn read(&mut self, fd: RawFd) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match sys::recv(fd, &mut buffer) {
                Ok(0) => {
                    self.gone.push(fd);
                    break;
                }
                Ok(count) => {
                    match self.mode {
                        Mode::Echo => self.send(fd, &buffer[..count]),
                        Mode::Broadcast | Mode::Mixed => self.lines(fd, &buffer[..count]),
                    }
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone.push(fd);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Sends what the kernel takes now and keeps the rest.
    #[inline]
    fn send(&mut self, fd: RawFd, bytes: &[u8]) {
        let conn = &mut self.conns[fd as usize];
        let waiting = conn.kept.as_ref().is_some_and(|kept| !kept.output.is_empty());
        // A broken connection ends when it is read.
        let sent = if waiting { 0 } else { sys::send(fd, bytes).unwrap_or(0) };
        if sent == bytes.len() {
            return;
        }
        conn.kept.get_or_insert_default().output.extend_from_slice(&bytes[sent..]);
        if !waiting {
            let _ = self.epoll.modify(fd, fd as u64, sys::IN | sys::OUT);
        }
    }

    fn send_rest(&mut self, fd: RawFd) {
        let Some(kept) = self.conns[fd as usize].kept.as_mut() else { return };
        let sent = sys::send(fd, &kept.output).unwrap_or(0);
        kept.output.drain(..sent);
        if kept.output.is_empty() {
            let _ = self.epoll.modify(fd, fd as u64, sys::IN);
        }
    }

    /// Takes the whole lines of a block; the beginning of another one waits for its end.
    fn lines(&mut self, fd: RawFd, block: &[u8]) {
        let whole = memchr::memrchr(b'\n', block).map_or(0, |at| at + 1);
        let (lines, begun) = block.split_at(whole);
        let mut joined = Vec::new();
        if let Some(kept) = self.conns[fd as usize].kept.as_mut().filter(|kept| !kept.line.is_empty()) {
            if whole == 0 {
                kept.line.extend_from_slice(begun);
                return;
            }
            joined = std::mem::take(&mut kept.line);
            joined.extend_from_slice(lines);
        }
        if !begun.is_empty() {
            self.conns[fd as usize].kept.get_or_insert_default().line.extend_from_slice(begun);
        }
        let lines = if joined.is_empty() { lines } else { &joined };
        match self.mode {
            Mode::Mixed => self.mixed(fd, lines),
            _ if whole > 0 => self.say(fd, lines),
            _ => {}
        }
    }

    fn say(&mut self, by: RawFd, lines: &[u8]) {
        let from = self.said.len();
        self.said.extend_from_slice(lines);
        self.parts.push(Part { by, from, to: self.said.len() });
    }

    /// Lines of one kind that stand together are one block.
    fn mixed(&mut self, fd: RawFd, lines: &[u8]) {
        let mut echo = 0;
        let mut at = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let next = at + line.len();
            if let b'+' | b'!' = line[0] {
                if echo < at {
                    self.send(fd, &lines[echo..at]);
                }
                echo = next;
                match line[0] {
                    b'+' => self.enter(fd),
                    _ => self.say(fd, line),
                }
            }
            at = next;
        }
        if echo < at {
            self.send(fd, &lines[echo..at]);
        }
    }

    /// Everybody gets what the others said in this iteration, in one send.
    fn deliver(&mut self) {
        let (said, parts) = (std::mem::take(&mut self.said), std::mem::take(&mut self.parts));
        for part in &parts {
            self.conns[part.by as usize].spoke = true;
        }
        let mut others = Vec::new();
        for at in 0..self.room.len() {
            let fd = self.room[at];
            if !self.conns[fd as usize].spoke {
                self.send(fd, &said);
                continue;
            }
            others.clear();
            for part in parts.iter().filter(|part| part.by != fd) {
                others.extend_from_slice(&said[part.from..part.to]);
            }
            if !others.is_empty() {
                self.send(fd, &others);
            }
        }
        for part in &parts {
            self.conns[part.by as usize].spoke = false;
        }
        (self.said, self.parts) = (said, parts);
        self.said.clear();
        self.parts.clear();
    }
}

/// Events of one wait.
const EVENTS: usize = 1024;
/// Bytes of one read.
const BUFFER: usize = 64 * 1024;
/// The token that is no descriptor.
const LISTENER: u64 = u64::MAX;
