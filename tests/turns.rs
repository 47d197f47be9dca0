//! What one turn does and what it leaves to the next: a paused listener, requests of other threads, timers set in
//! between, output that is none.

mod common;
mod lab;

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Client, DEADLINE};
use lab::{BOTH, Cx, Hand, Lab, Run};
use lineplex::config::Limits;
use lineplex::{Ended, Room};

fn pause(room: &mut Room<'_, Lab>) {
    let name = room.conns.local_addrs().next().expect("it listens").0.to_owned();
    room.conns.listener(&name).pause();
}

#[test]
fn a_listener_paused_while_it_accepts_takes_nobody_more_in_that_turn() {
    for net in BOTH {
        let lab = Lab::new().on_accepted(|room, peer| {
            if peer.serial() == 2 {
                pause(room);
            }
        });
        let mut hand = Hand::on(net, Limits::default(), lab);
        let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(&hand.addr)).collect();
        hand.until(|mux| mux.conns().metrics().accepted >= 2);
        hand.turn();
        assert_eq!(hand.metrics().accepted, 2);
        // Those who are in are served, and nobody spins for the others.
        clients[1].send("line\n");
        hand.until(|mux| mux.conns().metrics().lines == 1);
        clients[1].expect("line\n");
        let before = hand.metrics().turns;
        hand.mux.conns().after(Duration::from_millis(20), 1);
        hand.wait_for("due 1");
        assert!(hand.metrics().turns - before <= 5);
        assert_eq!(hand.metrics().accepted, 2);

        let name = hand.mux.conns().local_addrs().next().unwrap().0.to_owned();
        hand.mux.conns().listener(&name).resume();
        hand.until(|mux| mux.conns().metrics().accepted == 5);
        clients[4].send("line\n");
        hand.until(|mux| mux.conns().metrics().lines == 2);
        clients[4].expect("line\n");
    }
}

#[test]
fn a_turn_serves_so_many_requests_of_other_threads_and_the_rest_in_the_next() {
    for (asked, turns) in [(2, &[2, 0][..]), (3, &[3, 0]), (4, &[3, 1, 0]), (8, &[3, 3, 2, 0])] {
        let mut hand = Hand::new(Limits { requests_per_turn: 3, ..Limits::default() }, Lab::new());
        let handle = hand.mux.handle();
        let expected: Vec<String> = (0..asked).map(|n| format!("request {n}")).collect();
        for told in expected.clone() {
            handle.run(move |lab, _| lab.tell(told)).unwrap();
        }
        let mut served = Vec::new();
        for count in turns {
            hand.turn();
            let news = hand.news();
            assert_eq!(news.len(), *count, "of {asked}");
            served.extend(news);
        }
        assert_eq!(served, expected, "in their order");
        assert_eq!(hand.metrics().wakes, asked);
    }
}

#[test]
fn requests_left_over_by_a_turn_need_no_event_and_come_before_newer_ones() {
    let limits = Limits { requests_per_turn: 1, ..Limits::default() };
    let mut run = Run::start(limits, Lab::new);
    let (send, receive) = mpsc::channel::<()>();
    let hold = move |_: &mut Lab, _: &mut Room<'_, Lab>| receive.recv_timeout(DEADLINE).unwrap();
    run.handle.run(hold).unwrap();
    // They gather while the loop is held.
    for n in 0..50 {
        run.handle.run(move |lab, _| lab.tell(format!("request {n}"))).unwrap();
    }
    send.send(()).unwrap();
    run.wait_for("request 49");
    let expected: Vec<String> = (0..50).map(|n| format!("request {n}")).collect();
    assert_eq!(run.told(), expected);
}

#[test]
fn a_stop_behind_more_requests_than_a_turn_serves_is_reached() {
    let mut hand = Hand::new(Limits { requests_per_turn: 2, ..Limits::default() }, Lab::new());
    let handle = hand.mux.handle();
    for _ in 0..5 {
        handle.run(|lab, _| lab.tell("request")).unwrap();
    }
    handle.stop(4).unwrap();
    assert_eq!(hand.mux.run().unwrap(), Ended::Stop { status: 4, closed: 0, cut: 0 });
    assert_eq!(hand.news().iter().filter(|event| *event == "request").count(), 5);
}

#[test]
fn a_timer_set_between_two_turns_ends_the_wait_of_the_next() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let client = hand.client();
    let id = hand.id("1");
    let begun = Instant::now();
    hand.mux.conns().after(Duration::from_millis(5), 1);
    while hand.metrics().expiries == 0 {
        hand.mux.turn(Some(DEADLINE)).unwrap();
    }
    hand.mux.conns().set_timeout(id, Duration::from_millis(5));
    while hand.metrics().expiries == 1 {
        hand.mux.turn(Some(DEADLINE)).unwrap();
    }
    assert!(begun.elapsed() < DEADLINE, "the wait was not cut short");
    assert!(hand.told().ends_with(&["due 1".to_owned(), "1 timeout".to_owned()]));
    drop(client);
}

#[test]
fn a_timer_set_before_the_loop_runs_comes() {
    let mut run = Run::with(lab::Net::Tcp, Limits::default(), Lab::new, |mux| {
        mux.conns().after(Duration::from_millis(5), 1);
    });
    run.wait_for("due 1");
}

#[test]
fn an_empty_write_is_no_output() {
    let ways: [fn(&mut Cx<'_>); 4] = [
        |ctx| assert!(ctx.write(b"")),
        |ctx| assert!(write!(ctx, "{}", "")),
        |ctx| {
            ctx.conns.broadcast(b"", |_| true);
        },
        |ctx| {
            let id = ctx.id;
            ctx.conns.multicast(b"", [id]);
        },
    ];
    for way in ways {
        let lab = Lab::new().on_line(move |ctx, _| -> io::Result<()> {
            way(ctx);
            assert_eq!(ctx.conns.unsent(ctx.id), 0);
            Ok(())
        });
        let lab = lab.on_drained(|ctx| {
            ctx.server.tell("drained");
            Ok(())
        });
        let mut hand = Hand::new(Limits::default(), lab);
        let client = hand.client();
        hand.news();
        client.send("x\n");
        hand.turn();
        assert_eq!(hand.news(), ["1 line x"], "nothing was sent, so nothing is drained");
        assert_eq!(hand.metrics().send_calls, 0);
        drop(client);
    }
}

#[test]
fn a_job_whose_answer_panics_when_it_is_dropped_does_not_take_its_thread_with_it() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("a bomb of the test");
            }
        }
    }
    let limits = Limits { offload_threads: 1, ..Limits::default() };
    let mut run = Run::start(limits, || {
        Lab::new().on_line(|ctx, line| {
            let (panics, bomb) = (line == b"panic", Bomb);
            let job = move || {
                assert!(!panics, "a job of the test");
                7
            };
            // The panic of the job leaves `bomb` to be dropped on the worker thread.
            ctx.offload(job, move |_, ctx, answer| {
                std::mem::forget(bomb);
                writeln!(ctx, "{answer}");
                Ok(())
            })
        })
    });
    for serial in [1, 2] {
        let first = run.client();
        first.send("panic\n");
        run.wait_for(&format!("{serial} line panic"));
        drop(first);
        run.wait_for(&format!("done {serial} Served"));
    }
    let mut later = run.client();
    later.send("work\n");
    later.expect("7\n");
}
