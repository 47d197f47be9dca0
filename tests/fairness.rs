//! Nobody takes the loop for himself, however much he sends, however much he is owed, however often he connects.
//!
//! Fairness is counted in turns, which the test takes by hand: a line that is here when a turn begins is answered in
//! that turn, whatever the others do. No clock is looked at.

mod common;
mod lab;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::Client;
use lab::{BOTH, Hand, Lab, LabClient, Run};
use lineplex::config::Limits;

const KIB: usize = 1024;

/// One round trip of `client`, in one turn.
#[track_caller]
fn answered_in_one_turn(hand: &mut Hand, client: &mut Client) {
    client.send("ask\n");
    hand.turn();
    client.expect("ask\n");
}

// C1, A77
#[test]
fn a_flood_of_lines_keeps_no_other_waiting_for_more_than_a_turn() {
    let mut hand = Hand::new(Limits { lines_per_turn: 16, ..Limits::default() }, Lab::new());
    let (flood, mut quiet) = (hand.client(), hand.client());
    // Enough for all the turns below, so that the flood is never over, in one write.
    flood.send("x\n".repeat(4000));
    for turn in 1..=100 {
        answered_in_one_turn(&mut hand, &mut quiet);
        assert_eq!(hand.metrics().lines, turn * 17, "the flood gets its budget and no more");
    }
}

// C1, for a protocol without lines.
#[test]
fn a_flood_of_messages_that_are_spent_keeps_no_other_waiting_for_more_than_a_turn() {
    let lab = Lab::new().on_input(|ctx, input| {
        while input.len() >= 4 && input.spend() {
            ctx.conns.write(ctx.id, input.take(4).unwrap_or_default());
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits { lines_per_turn: 16, ..Limits::default() }, lab);
    let (flood, mut quiet) = (hand.client(), hand.client());
    flood.send("x..\n".repeat(4000));
    for turn in 1..=100 {
        answered_in_one_turn(&mut hand, &mut quiet);
        assert_eq!(hand.metrics().lines, turn * 17, "the flood gets its budget and no more");
    }
}

// C1
#[test]
fn a_flood_of_bytes_without_lines_keeps_no_other_waiting_for_more_than_a_turn() {
    let lab = Lab::new().on_input(|ctx, input| {
        if input.bytes().starts_with(b"ask") {
            let line = input.rest();
            ctx.write(line);
        }
        input.rest();
        Ok(())
    });
    let mut hand = Hand::new(Limits { bytes_per_turn: KIB, ..Limits::default() }, lab);
    let (flood, mut quiet) = (hand.client(), hand.client());
    flood.send([b'x'; 40 * KIB]);
    for turn in 1..=30 {
        answered_in_one_turn(&mut hand, &mut quiet);
        assert_eq!(hand.metrics().bytes_in, turn * (1024 + 4));
    }
}

// C1, C2: through the budget, nobody's bytes are forgotten.
#[test]
fn many_floods_at_once_are_all_answered_to_the_last_line() {
    for net in BOTH {
        let limits = Limits { lines_per_turn: 3, bytes_per_turn: KIB, ..Limits::default() };
        let run = Run::on(net, limits, Lab::new);
        let clients: Vec<Client> = (0..8).map(|_| run.client()).collect();
        let floods: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(n, mut client)| {
                thread::spawn(move || {
                    let lines: String = (0..500).map(|line| format!("client {n} line {line}\n")).collect();
                    // In pieces that end anywhere; all of it is less than a socket holds.
                    for chunk in lines.as_bytes().chunks(1000 + n) {
                        client.send(chunk);
                    }
                    client.half_close();
                    assert!(client.expect_to_eof() == lines.as_bytes());
                })
            })
            .collect();
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        assert_eq!((run.metrics().lines, run.metrics().lost_edges), (8 * 500, 0));
    }
}

#[test]
fn a_stream_that_is_written_in_drained_starves_nobody() {
    let streaming = Rc::new(Cell::new(0u64));
    let count = Rc::clone(&streaming);
    let lab = Lab::new().on_drained(move |ctx| {
        if ctx.peer.serial() == 1 {
            count.set(count.get() + 1);
            ctx.write(&[b's'; 100]);
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (mut stream, mut quiet) = (hand.client(), hand.client());
    let id = hand.id("1");
    hand.mux.conns().write(id, b"begin");
    hand.turn();
    stream.expect("begin");
    // It reads all, so its output goes empty in every turn: one piece for each, and the turn ends.
    for turns in 1..=100 {
        assert_eq!(streaming.get(), turns, "once a turn");
        answered_in_one_turn(&mut hand, &mut quiet);
        stream.expect([b's'; 100]);
    }
}

#[test]
fn a_stream_that_writes_a_lot_in_drained_reaches_its_reader_whole_beside_a_round_trip() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            let lab = Lab::new().on_drained(|ctx| {
                let id = ctx.id;
                if ctx.peer.serial() == 1 {
                    let sent = ctx.conns.metrics().bytes_out;
                    if sent < 8 * 1024 * KIB as u64 {
                        ctx.write(&[b's'; 64 * KIB]);
                    } else {
                        ctx.conns.close(id);
                    }
                }
                Ok(())
            });
            lab.on_connection(|ctx| {
                if ctx.peer.serial() == 1 {
                    ctx.write(b"s");
                }
                Ok(())
            })
        });
        let mut stream = run.client();
        run.wait_for("1 connection");
        let mut quiet = run.client();
        let reader = thread::spawn(move || stream.expect_to_eof());
        for _ in 0..50 {
            quiet.send("ask\n");
            quiet.expect("ask\n");
        }
        let got = reader.join().unwrap();
        assert!(got.len() >= 8 * 1024 * KIB - 64 * KIB && got.iter().all(|byte| *byte == b's'));
    }
}

#[test]
fn a_flood_of_newcomers_keeps_no_client_waiting_for_more_than_a_turn() {
    let mut hand = Hand::new(Limits { accepts_per_turn: 2, ..Limits::default() }, Lab::new());
    let mut quiet = hand.client();
    let newcomers: Vec<Client> = (0..40).map(|_| Client::connect(&hand.addr)).collect();
    for turn in 1..=20 {
        answered_in_one_turn(&mut hand, &mut quiet);
        assert_eq!(hand.metrics().accepted, 1 + turn * 2);
    }
    drop(newcomers);
}

#[test]
fn clients_that_come_and_go_all_the_time_harm_nobody() {
    for net in BOTH {
        let run = Run::on(net, Limits::default(), Lab::new);
        let mut quiet = run.client();
        let over = Arc::new(AtomicBool::new(false));
        let (stop, addr) = (Arc::clone(&over), run.addr.clone());
        let comers = thread::spawn(move || {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) || count < 50 {
                drop(Client::connect(&addr));
                count += 1;
            }
            count
        });
        for _ in 0..200 {
            quiet.send("ask\n");
            quiet.expect("ask\n");
        }
        over.store(true, Ordering::Relaxed);
        let count = comers.join().unwrap();
        let until = std::time::Instant::now() + common::DEADLINE;
        while run.metrics().closed < count {
            assert!(std::time::Instant::now() < until);
        }
        assert_eq!((run.metrics().accepted, run.metrics().open), (count + 1, 1));
    }
}

#[test]
fn timers_that_are_always_due_keep_no_client_waiting_for_more_than_a_turn() {
    let lab = Lab::new().on_due(|room, key| room.conns.after(Duration::ZERO, key));
    let mut hand = Hand::new(Limits { expiries_per_turn: 4, ..Limits::default() }, lab);
    let mut quiet = hand.client();
    for key in 0..40 {
        hand.mux.conns().after(Duration::ZERO, key);
    }
    hand.mux.enter(|_, _| ());
    for _ in 0..50 {
        let before = hand.metrics().expiries;
        answered_in_one_turn(&mut hand, &mut quiet);
        assert_eq!(hand.metrics().expiries, before + 4);
    }
    // Everybody's turn comes: none of the forty is forgotten.
    let told = hand.told();
    assert!((0..40).all(|key| told.contains(&format!("due {key}"))));
}

#[test]
fn requests_and_wakes_that_ask_again_keep_no_client_waiting_for_more_than_a_turn() {
    let lab = Lab::new().on_wake(|ctx| {
        let id = ctx.id;
        ctx.conns.wake(id);
        let work = |_: &mut LabClient, ctx: &mut lab::Cx<'_>| {
            ctx.conns.wake(ctx.id);
            Ok(())
        };
        ctx.handle().with(id, work).unwrap();
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (_busy, mut quiet) = (hand.client(), hand.client());
    let id = hand.id("1");
    hand.mux.conns().wake(id);
    for _ in 0..50 {
        answered_in_one_turn(&mut hand, &mut quiet);
    }
    assert!(hand.told().iter().filter(|event| *event == "1 wake").count() >= 50);
}
