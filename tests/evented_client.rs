//! The cases of Passenger's EventedClientTest that no other test here shows: when a client is read, when it hears that its
//! output is gone, and how it is closed while some is left.
//!
//! The others: one write leaves at once (`syscalls.rs`); over a limit of output a client is not read (`limits.rs`); a close
//! without output, one by force, and a write that fails, at once or later (`closing.rs`, `order.rs`, `faults.rs`).

mod common;
mod lab;

use std::thread::{self, JoinHandle};

use common::Client;
use lab::{BOTH, Hand, Lab};
use lineplex::config::Limits;

/// Far more than the kernel takes at once.
const MUCH: usize = 8 << 20;

/// Limits that so much is within.
fn large() -> Limits {
    Limits { output_soft_bytes: 2 * MUCH, output_hard_bytes: 2 * MUCH, ..Limits::default() }
}

/// Reads so many bytes in a thread of its own; the last of them, and the client.
fn reading(mut client: Client, count: usize) -> JoinHandle<(Vec<u8>, Client)> {
    thread::spawn(move || {
        let mut bytes = client.next_bytes(count).unwrap_or_else(|missed| panic!("{missed}"));
        (bytes.split_off(count - 6), client)
    })
}

#[test]
fn nothing_is_read_until_somebody_asks_for_it() {
    for net in BOTH {
        let lab = Lab::new().on_connection(|ctx| {
            ctx.pause_input();
            Ok(())
        });
        let mut hand = Hand::on(net, Limits::default(), lab);
        let mut client = hand.client();
        client.send("early\n");
        let before = hand.metrics();
        hand.until(|mux| mux.conns().metrics().turns > before.turns + 3);
        assert_eq!((hand.metrics().recv_calls, hand.metrics().lines), (0, 0));
        let id = hand.id_of_only();
        hand.mux.conns().resume_input(id);
        hand.until(|mux| mux.conns().metrics().lines == 1);
        client.expect("early\n");
    }
}

#[test]
fn a_client_hears_that_its_output_is_gone_at_once_or_when_the_last_byte_of_it_is() {
    for net in BOTH {
        let lab = Lab::new().on_drained(|ctx| {
            ctx.server.tell("drained");
            Ok(())
        });
        let mut hand = Hand::on(net, large(), lab);
        let client = hand.client();
        let id = hand.id_of_only();
        let drained = |hand: &mut Hand| hand.told().iter().filter(|told| *told == "drained").count();
        assert!(hand.mux.conns().write(id, b"little"));
        hand.turn();
        assert_eq!(drained(&mut hand), 1);

        assert!(hand.mux.conns().write(id, &vec![b'x'; MUCH]));
        hand.turn();
        assert!(hand.mux.conns().write(id, b"behind"), "in its order, and not at once");
        hand.turn();
        assert!(hand.mux.conns().unsent(id) > 6);
        assert_eq!(drained(&mut hand), 1);
        let reader = reading(client, 6 + MUCH + 6);
        hand.until(|mux| mux.conns().unsent(id) == 0);
        hand.wait_for("drained");
        assert_eq!(drained(&mut hand), 2);
        hand.until(|_| reader.is_finished());
        assert_eq!(reader.join().unwrap().0, b"behind");
    }
}

#[test]
fn a_close_with_output_left_reads_no_more_sends_it_all_and_is_told_of_afterwards() {
    for net in BOTH {
        let mut hand = Hand::on(net, large(), Lab::new());
        let client = hand.client();
        let id = hand.id_of_only();
        assert!(hand.mux.conns().write(id, &vec![b'x'; MUCH]));
        assert!(hand.mux.conns().write(id, b"behind"));
        hand.turn();
        hand.mux.conns().close(id);
        hand.mux.conns().close(id);
        assert!(!hand.mux.conns().write(id, b"ignored"));
        client.send("ignored\n");
        let before = hand.metrics();
        hand.until(|mux| mux.conns().metrics().turns > before.turns + 3);
        assert_eq!((hand.metrics().recv_calls, hand.metrics().closed), (before.recv_calls, 0));
        assert!(!hand.told().iter().any(|told| told.starts_with("1 close")));

        let reader = reading(client, MUCH + 6);
        hand.until(|_| reader.is_finished());
        let (last, mut client) = reader.join().unwrap();
        assert_eq!(last, b"behind");
        client.expect_eof();
        client.half_close();
        hand.wait_for("1 close asked");
        assert_eq!(hand.metrics().lines, 0);
    }
}
