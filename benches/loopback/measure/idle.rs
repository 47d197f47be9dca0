//! Connections that do nothing: their memory in the server before and after each has sent a line, and what it costs
//! to hold them, by themselves and beside others that are busy.

use std::io;
use std::thread;
use std::time::Instant;

use super::echo::Echo;
use super::line::{Line, SIZE};
use super::server::Server;
use super::socket::Socket;
use super::sys::{self, Epoll};
use super::window::{Figures, STALL, Sums, Times, Window};
use super::wrong;

/// Memory of each of `count` connections, and the server's CPU while all are silent. What grows with the first few,
/// code that is touched and buffers for all, is there before: they come, send a line and stay. Nothing else is taken off.
pub(crate) fn memory(count: usize, server: &Server, times: Times) -> io::Result<Figures> {
    let epoll = Epoll::new()?;
    let mut first = Socket::connect(&epoll, server.addr(), 0, TOGETHER)?;
    greet(&epoll, &mut first)?;
    server.settle()?;
    let before = server.memory()?;
    let mut sockets = Socket::connect(&epoll, server.addr(), TOGETHER as u64, count)?;
    server.settle()?;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / count as f64;
    let mut figures = Figures::default();
    figures.put("messages", count as f64);
    figures.put("bytes_each", each(server.memory()?));
    greet(&epoll, &mut sockets)?;
    server.settle()?;
    figures.put("bytes_each_after", each(server.memory()?));
    let (begun, before) = (Instant::now(), server.cpu_time()?);
    thread::sleep(times.run);
    let cpu = server.cpu_time()? - before;
    figures.put("idle_cpu_us_per_s", cpu.as_secs_f64() * 1e6 / begun.elapsed().as_secs_f64());
    Ok(figures)
}

/// Each sends a line and gets it back.
fn greet(epoll: &Epoll, sockets: &mut [Socket]) -> io::Result<()> {
    let line = Line::first(0);
    let mut buffer = [0; 2 * SIZE];
    let mut events = sys::events(TOGETHER);
    for sockets in sockets.chunks_mut(TOGETHER) {
        for socket in sockets.iter_mut() {
            socket.send(epoll, line.bytes())?;
        }
        let mut left = sockets.len() * SIZE;
        while left > 0 {
            let count = epoll.wait_at_most(&mut events, STALL)?;
            if count == 0 {
                return Err(wrong(format!("{left} bytes of replies are missing")));
            }
            for event in &events[..count] {
                let Some(socket) = sockets.iter().find(|socket| socket.token() == event.u64) else {
                    continue;
                };
                let got = socket.receive(&mut buffer)?;
                if !line.bytes().starts_with(&buffer[..got]) {
                    return Err(wrong(format!("{:?} came back", String::from_utf8_lossy(&buffer[..got]))));
                }
                left -= got;
            }
        }
    }
    Ok(())
}

/// The cost of a message of 50 busy clients when `idle` others are connected; `against_alone` is how many times what
/// it is without them.
pub(crate) fn scale(idle: usize, server: &Server, times: Times, traced: bool) -> io::Result<Figures> {
    let mut echo = Echo::connect(server.addr(), BUSY, 1)?;
    let mut alone = Sums::default();
    if !traced {
        echo.run(&mut Window::new(server, times, false, &mut alone))?;
    }
    let epoll = Epoll::new()?;
    let sockets = Socket::connect(&epoll, server.addr(), BUSY as u64, idle)?;
    server.settle()?;
    let mut beside = Sums::default();
    echo.run(&mut Window::new(server, times, traced, &mut beside))?;
    drop(sockets);
    let mut figures = beside.figures();
    if let (Some(beside), Some(alone)) = (figures.of("cpu_ns_each"), alone.figures().of("cpu_ns_each")) {
        figures.put("against_alone", beside / alone);
    }
    Ok(figures)
}

/// Clients that are busy among idle ones.
pub(crate) const BUSY: usize = 50;
/// Lines that are under way at once.
pub(crate) const TOGETHER: usize = 64;
