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
        self.stream.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; most];
        if let Ok(count) = self.stream.read(&mut buffer) {
            self.read.extend_from_slice(&buffer[..count]);
        }
    }
}

/// Everything that can be written, in any order, to readers of any speed: each gets its own bytes in the order in which
/// they were written, once.
#[test]
fn whatever_is_written_to_whomever_comes_in_order_and_once() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = Limits { output_hard_bytes: 64 << 20, output_soft_bytes: 64 << 20, ..Limits::default() };
        let mut hand = Hand::new(limits, Lab::new());
        let mut clients: Vec<Expected> = Vec::new();
        let mut count = 0;
        for number in 0..4000_u32 {
            if clients.iter().filter(|client| !client.leaves).count() < 6 {
                let stream = UnixStream::connect(&hand.addr).unwrap();
                count += 1;
                hand.wait_for(&format!("{count} connection"));
                let id = hand.id(&count.to_string());
                clients.push(Expected { stream, id, bytes: Vec::new(), read: Vec::new(), leaves: false });
            }
            let size = *random.choice(&[0, 1, 40, 600, 5000, 200_000]).unwrap()
                * usize::from(random.u8(..8) == 0)
                + random.usize(..80);
            let mut bytes = format!("{number} ").into_bytes();
            bytes.resize(bytes.len() + size, b'a' + (number % 26) as u8);
            let at = random.usize(..clients.len());
            let one = clients[at].id;
            let conns = hand.mux.conns();
            let told: Vec<ConnId> = conns.all().collect();
            let mut expect = |who: &dyn Fn(ConnId) -> bool| {
                let who = |id| told.contains(&id) && who(id);
                clients.iter_mut().filter(|it| who(it.id)).for_each(|it| it.bytes.extend_from_slice(&bytes));
            };
            match random.u32(..40) {
                0..12 => {
                    conns.broadcast_all(&bytes);
                    expect(&|_| true);
                }
                12..24 => {
                    conns.broadcast_except(&bytes, one);
                    expect(&|id| id != one);
                }
                24..27 => {
                    assert_eq!(conns.broadcast(&bytes, |id| id.slot() % 2 == 0), {
                        told.iter().filter(|id| id.slot() % 2 == 0).count()
                    });
                    expect(&|id| id.slot() % 2 == 0);
                }
                27..32 => {
                    assert_eq!(conns.write(one, &bytes), told.contains(&one));
                    expect(&|id| id == one);
                }
                32 => {
                    assert_eq!(conns.multicast(&bytes, [one]), usize::from(told.contains(&one)));
                    expect(&|id| id == one);
                }
                33 if random.u8(..8) == 0 => {
                    match random.bool() {
                        true => conns.close(one),
                        false => conns.shutdown_write(one),
                    }
                    clients[at].leaves = true;
                }
                34..38 => drop(hand.turn()),
                _ => clients[at].read_some(random.usize(1..100_000)),
            }
        }
        for client in &mut clients {
            hand.until(|_| {
                client.read_some(1 << 20);
                client.read.len() >= client.bytes.len()
            });
            assert!(client.read == client.bytes, "seed {seed}, {}", client.id);
            assert_eq!(hand.mux.conns().unsent(client.id), 0);
        }
        for client in clients.iter_mut().filter(|client| client.leaves) {
            hand.turn();
            client.read_some(1);
            assert_eq!(client.read.len(), client.bytes.len(), "nothing comes after the end");
        }
        assert_eq!(hand.metrics().panics, 0);
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
