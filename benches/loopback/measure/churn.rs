//! Clients that connect, send a line, wait for it to come back and close; another one follows each at once.

use std::io;
use std::time::Instant;

use super::line::{Line, SIZE};
use super::server::Addr;
use super::socket::Socket;
use super::sys::{self, Epoll};
use super::window::{STALL, Window};
use super::wrong;

struct Visit {
    socket: Socket,
    begun: Instant,
    sent: bool,
    reply: Vec<u8>,
}

impl Visit {
    fn begin(epoll: &Epoll, addr: &Addr, nth: usize, place: usize) -> io::Result<Self> {
        let begun = Instant::now();
        let socket = Socket::begin(addr, nth, place as u64)?;
        socket.watch_both(epoll)?;
        Ok(Self { socket, begun, sent: false, reply: Vec::with_capacity(SIZE) })
    }
}

/// `places` clients at any time.
pub(crate) fn run(places: usize, window: &mut Window<'_>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let addr = window.server().addr().clone();
    let mut line = Line::first(0);
    let mut lines = Vec::new();
    let mut visits = Vec::new();
    let mut count = 0;
    for place in 0..places {
        visits.push(Some(Visit::begin(&epoll, &addr, count, place)?));
        lines.push(line.clone());
        line.advance();
        count += 1;
    }
    let mut buffer = vec![0; 4 * SIZE];
    let mut events = sys::events(places);
    let mut left = places;
    while left > 0 {
        let ready = epoll.wait_at_most(&mut events, STALL)?;
        if ready == 0 {
            return Err(wrong(format!("nothing came for {} s, {left} clients wait", STALL.as_secs())));
        }
        let go_on = window.go_on(true)?;
        for event in &events[..ready] {
            let place = event.u64 as usize;
            let Some(visit) = visits[place].as_mut() else { continue };
            visit.socket.serve(&epoll, event)?;
            if !visit.sent && event.events & sys::WRITABLE != 0 {
                visit.socket.send(&epoll, lines[place].bytes())?;
                visit.sent = true;
            }
            if event.events & !sys::WRITABLE == 0 {
                continue;
            }
            let got = visit.socket.receive(&mut buffer)?;
            visit.reply.extend_from_slice(&buffer[..got]);
            if !lines[place].bytes().starts_with(&visit.reply) {
                return Err(wrong(format!("{:?} came back", String::from_utf8_lossy(&visit.reply))));
            }
            if visit.reply.len() < SIZE {
                continue;
            }
            window.count(1, visit.begun.elapsed());
            // Closed before the next one is begun.
            visits[place] = None;
            if go_on {
                visits[place] = Some(Visit::begin(&epoll, &addr, count, place)?);
                lines[place] = line.clone();
                line.advance();
                count += 1;
            } else {
                left -= 1;
            }
        }
    }
    Ok(())
}
