//! What is said to everybody at once: in which order it comes beside what is written to one alone, who gets it, what it
//! costs, and that the limits on output hold for it.
//!
//! Turns are taken by hand on Unix sockets.

mod common;
mod lab;

use std::cell::Cell;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use common::Client;
use lab::{Hand, Lab};
use lineplex::ConnId;
use lineplex::config::Limits;

/// A client and what it must have been sent.
struct Expected {
    stream: UnixStream,
    id: ConnId,
    bytes: Vec<u8>,
    read: Vec<u8>,
    leaves: bool,
}

impl Expected {
    fn read_some(&mut self, most: usize) {
        let mut buffer = vec![0; most];
        if let Ok(count) = self.stream.read(&mut buffer) {
            self.read.extend_from_slice(&buffer[..count]);
        }
    }
}

/// A loop and its clients, each with what it must have been sent.
struct Crowd {
    hand: Hand,
    clients: Vec<Expected>,
}

impl Crowd {
    fn new() -> Self {
        let limits = Limits { output_hard_bytes: 64 << 20, output_soft_bytes: 64 << 20, ..Limits::default() };
        Self { hand: Hand::new(limits, Lab::new()), clients: Vec::new() }
    }

    fn join(&mut self) {
        let stream = UnixStream::connect(&self.hand.addr).expect("the server listens");
        stream.set_nonblocking(true).expect("a socket can be non-blocking");
        let number = self.clients.len() + 1;
        self.hand.wait_for(&format!("{number} connection"));
        let id = self.hand.id(&number.to_string());
        self.clients.push(Expected { stream, id, bytes: Vec::new(), read: Vec::new(), leaves: false });
    }

    /// Whoever is in the room and `who` says yes to must be sent `bytes`; how many those are.
    fn expect(&mut self, bytes: &[u8], who: impl Fn(ConnId) -> bool) -> usize {
        let told: Vec<ConnId> = self.hand.mux.conns().all().filter(|id| who(*id)).collect();
        let clients = self.clients.iter_mut().filter(|client| told.contains(&client.id));
        clients.for_each(|client| client.bytes.extend_from_slice(bytes));
        told.len()
    }

    /// One thing of those that can be said or done.
    fn act(&mut self, random: &mut fastrand::Rng, bytes: &[u8]) {
        let at = random.usize(..self.clients.len());
        let one = self.clients[at].id;
        match random.u32(..40) {
            0..12 => {
                self.expect(bytes, |_| true);
                self.hand.mux.conns().broadcast_all(bytes);
            }
            12..24 => {
                self.expect(bytes, |id| id != one);
                self.hand.mux.conns().broadcast_except(bytes, one);
            }
            24..27 => {
                let even = |id: ConnId| id.slot() % 2 == 0;
                let count = self.expect(bytes, even);
                assert_eq!(self.hand.mux.conns().broadcast(bytes, even), count);
            }
            27..32 => {
                let count = self.expect(bytes, |id| id == one);
                assert_eq!(self.hand.mux.conns().write(one, bytes), count == 1);
            }
            32 => {
                let count = self.expect(bytes, |id| id == one);
                assert_eq!(self.hand.mux.conns().multicast(bytes, [one]), count);
            }
            33 if random.u8(..8) == 0 => {
                self.clients[at].leaves = true;
                match random.bool() {
                    true => self.hand.mux.conns().close(one),
                    false => self.hand.mux.conns().shutdown_write(one),
                }
            }
            34 if random.u8(..4) == 0 => {
                let unsent = self.hand.mux.conns().unsent(one);
                assert_eq!(self.hand.mux.conns().discard_output(one), unsent);
                let expected = &mut self.clients[at].bytes;
                expected.truncate(expected.len() - unsent);
            }
            35..38 => drop(self.hand.turn()),
            _ => self.clients[at].read_some(random.usize(1..100_000)),
        }
    }

    /// Everybody reads what is left, and has had what was expected.
    fn finish(&mut self) {
        for client in &mut self.clients {
            self.hand.until(|_| {
                client.read_some(1 << 20);
                client.read.len() >= client.bytes.len()
            });
            client.read_some(1);
            assert!(client.read == client.bytes, "{}: {} bytes", client.id, client.bytes.len());
            assert_eq!(self.hand.mux.conns().unsent(client.id), 0);
        }
        let metrics = self.hand.metrics();
        let sent: usize = self.clients.iter().map(|client| client.bytes.len()).sum();
        assert_eq!((metrics.panics, metrics.blocked, metrics.bytes_out), (0, 0, sent as u64));
    }
}

/// Everything that can be written, in any order, to readers of any speed: each gets its own bytes in the order in which
/// they were written, once.
#[test]
fn whatever_is_written_to_whomever_comes_in_order_and_once() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut crowd = Crowd::new();
        for number in 0..4000_u32 {
            if crowd.clients.iter().filter(|client| !client.leaves).count() < 6 {
                crowd.join();
            }
            let size = match random.u8(..8) {
                0 => [0, 1, 40, 600, 5000, 200_000][random.usize(..6)],
                _ => random.usize(..80),
            };
            let mut bytes = format!("{number} ").into_bytes();
            bytes.resize(bytes.len() + size, b'a' + (number % 26) as u8);
            crowd.act(&mut random, &bytes);
        }
        crowd.finish();
    }
}

#[test]
fn what_several_say_in_one_turn_leaves_in_one_send_to_each() {
    let lab = Lab::new().on_line(|ctx, line| {
        ctx.conns.broadcast_except(&[line, b"\n"].concat(), ctx.id);
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let mut clients: Vec<Client> = (0..5).map(|_| hand.client()).collect();
    let before = hand.metrics();
    clients[1].send("one\n");
    clients[3].send("two\nthree\n");
    hand.turn();
    let after = hand.metrics();
    assert_eq!((after.turns - before.turns, after.send_calls - before.send_calls), (1, 5));
    for (client, text) in
        clients.iter_mut().zip(["one\ntwo\nthree\n", "two\nthree\n", "one\ntwo\nthree\n", "one\n"])
    {
        client.expect(text);
    }
}

#[test]
fn a_newcomer_is_not_told_what_was_said_before_and_one_who_leaves_is() {
    let said = Rc::new(Cell::new(false));
    let lab = Lab::new()
        .on_connection(|ctx| {
            ctx.conns.broadcast_all(b"came\n");
            Ok(())
        })
        .on_accepted(move |room, _| {
            if !said.replace(true) {
                room.conns.broadcast_all(b"nobody is here\n");
            }
        })
        .on_line(|ctx, _| {
            ctx.conns.broadcast_all(b"before\n");
            ctx.close();
            ctx.conns.broadcast_all(b"after\n");
            Ok(())
        });
    let mut hand = Hand::new(Limits::default(), lab);
    let (mut one, mut two) = (hand.client(), hand.client());
    one.expect("came\ncame\n");
    two.expect("came\n");
    two.send("leaves\n");
    hand.turn();
    two.expect("before\n");
    one.expect("before\nafter\n");
    two.expect_eof();
}

#[test]
fn the_hard_limit_is_exact_for_what_is_said_to_everybody() {
    for (over, by_one) in [(false, false), (true, false), (false, true), (true, true)] {
        let limits = Limits { output_hard_bytes: 1000, output_soft_bytes: 1000, ..Limits::default() };
        let mut hand = Hand::new(limits, Lab::new());
        let mut client = hand.client();
        let id = hand.id_of_only();
        let conns = hand.mux.conns();
        let text = vec![b'x'; 500 + usize::from(over)];
        if by_one {
            assert!(conns.write(id, &[b'x'; 500]));
        } else {
            conns.broadcast_all(&[b'x'; 500]);
        }
        assert_eq!(conns.unsent(id), 500);
        conns.broadcast_all(&text);
        hand.turn();
        if over {
            hand.wait_for("1 close output-limit");
            assert_eq!(hand.metrics().output_limit, 1);
        } else {
            client.expect("x".repeat(1000).as_str());
            assert_eq!(hand.metrics().output_limit, 0);
        }
    }
}

#[test]
fn drained_comes_once_a_turn_and_what_it_says_to_everybody_comes_with_the_next() {
    let calls = Rc::new(Cell::new(0));
    let called = Rc::clone(&calls);
    let lab = Lab::new().on_drained(move |ctx| {
        called.set(called.get() + 1);
        if called.get() <= 4 && called.get() % 2 == 0 {
            ctx.conns.broadcast_all(b"more\n");
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (mut one, mut two) = (hand.client(), hand.client());
    hand.mux.conns().broadcast_all(b"begin\n");
    for turn in 1..=4 {
        hand.turn();
        assert_eq!(calls.get(), 2 * turn.min(3), "once for each of the two, and nothing to drain in the end");
    }
    one.expect("begin\nmore\nmore\n");
    two.expect("begin\nmore\nmore\n");
}

#[test]
fn the_hard_limit_holds_where_the_soft_one_is_above_it() {
    let limits = Limits { output_hard_bytes: 1000, ..Limits::default() };
    for parts in [&[&[b'x'; 1000][..], b"y"][..], &[&[b'x'; 1001]]] {
        let mut hand = Hand::new(limits.clone(), Lab::new());
        let _client = hand.client();
        let id = hand.id_of_only();
        assert!(!hand.mux.conns().write_parts(id, parts));
        hand.wait_for("1 close output-limit");
    }
}
