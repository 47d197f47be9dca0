//! The load's end of a connection: what the kernel does not take is kept and sent when there is room.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::server::Addr;
use super::sys::{self, Epoll, Event};
use super::wrong;

pub(crate) struct Socket {
    fd: OwnedFd,
    token: u64,
    unsent: Vec<u8>,
}

impl Socket {
    /// A connection to that server. `nth` of all chooses the source address, because one address has but some 28 000
    /// ports, and each rests for a minute after use.
    pub(crate) fn begin(addr: &Addr, nth: usize, token: u64) -> io::Result<Self> {
        let fd = match addr {
            Addr::Tcp(port) => sys::connect_tcp(source(nth), *port, None),
            Addr::Unix(path) => sys::connect_unix(path),
        };
        let fd = fd.map_err(|error| wrong(format!("cannot connect to {addr}: {error}")))?;
        Ok(Self { fd, token, unsent: Vec::new() })
    }

    /// The same with the smallest receive buffer that there is; nothing watches it.
    pub(crate) fn begin_small(addr: &Addr, nth: usize) -> io::Result<Self> {
        let Addr::Tcp(port) = addr else { return Err(wrong("a small buffer needs TCP")) };
        Ok(Self { fd: sys::connect_tcp(source(nth), *port, Some(1))?, token: nth as u64, unsent: Vec::new() })
    }

    /// `count` connections with the tokens from `first` on, in this order, watched for input.
    pub(crate) fn connect(epoll: &Epoll, addr: &Addr, first: u64, count: usize) -> io::Result<Vec<Self>> {
        let mut sockets = Vec::with_capacity(count);
        for nth in 0..count {
            if nth % TOGETHER == TOGETHER - 1 {
                // The queue of those who wait to be accepted has an end.
                thread::sleep(BREATH);
            }
            let socket = Self::begin_patiently(addr, nth, first + nth as u64)?;
            epoll.add(socket.fd.as_raw_fd(), socket.token, sys::IN)?;
            sockets.push(socket);
        }
        Ok(sockets)
    }

    /// A Unix socket has no handshake: a full queue is an error at once.
    fn begin_patiently(addr: &Addr, nth: usize, token: u64) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            match Self::begin(addr, nth, token) {
                Err(_) if matches!(addr, Addr::Unix(_)) && tries < TRIES => {
                    tries += 1;
                    thread::sleep(BREATH);
                }
                begun => return begun,
            }
        }
    }

    /// Watches for the moment when it is connected as well.
    pub(crate) fn watch_both(&self, epoll: &Epoll) -> io::Result<()> {
        epoll.add(self.fd.as_raw_fd(), self.token, sys::IN | sys::OUT)
    }

    /// As it was given; events bear it.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    #[inline]
    pub(crate) fn send(&mut self, epoll: &Epoll, bytes: &[u8]) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = none_if_blocked(sys::send(self.fd.as_raw_fd(), bytes))?;
        if sent < bytes.len() {
            self.unsent.extend_from_slice(&bytes[sent..]);
            epoll.modify(self.fd.as_raw_fd(), self.token, sys::IN | sys::OUT)?;
        }
        Ok(())
    }

    /// A few bytes, which wait for no room: the connection is new.
    pub(crate) fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let until = Instant::now() + CONNECT_MAX;
        loop {
            match none_if_blocked(sys::send(self.fd.as_raw_fd(), bytes))? {
                sent if sent == bytes.len() => return Ok(()),
                0 if Instant::now() < until => thread::sleep(BREATH),
                _ => return Err(wrong("the kernel takes no bytes")),
            }
        }
    }

    /// What an event asks for before anything is read: sending what was kept.
    #[inline]
    pub(crate) fn serve(&mut self, epoll: &Epoll, event: &Event) -> io::Result<()> {
        if event.events & sys::WRITABLE == 0 || self.unsent.is_empty() {
            return Ok(());
        }
        let sent = none_if_blocked(sys::send(self.fd.as_raw_fd(), &self.unsent))?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            epoll.modify(self.fd.as_raw_fd(), self.token, sys::IN)?;
        }
        Ok(())
    }

    /// Reads once; 0 when there is nothing now. The end is an error.
    #[inline]
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match sys::recv(self.fd.as_raw_fd(), buffer) {
            Ok(0) => Err(wrong(format!("the server has closed connection {}", self.token))),
            result => none_if_blocked(result),
        }
    }
}

fn source(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + (nth % 200) as u8)
}

#[inline]
fn none_if_blocked(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Connections begun without a pause.
const TOGETHER: usize = 128;
const BREATH: Duration = Duration::from_millis(1);
const TRIES: u32 = 5000;
/// For a handshake.
const CONNECT_MAX: Duration = Duration::from_secs(5);
