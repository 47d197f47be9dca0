//! Callbacks come in their order, one at a time, and a connection that is over hears nothing more.
//!
//! The lab itself watches over order and nesting in every test; here are the cases that could break them. Turns are
//! taken by hand on Unix sockets, where both of two clients' bytes are there when the turn begins.

mod common;
mod lab;

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::Client;
use lab::{BOTH, Hand, Lab, LabClient, Run};
use lineplex::config::Limits;
use lineplex::{ConnId, Ended};

#[test]
fn connection_comes_first_then_input_then_eof_and_close_last() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || Lab::new().on_line(|_, _| Ok(())));
        let mut client = run.client();
        client.send("a\nb\n");
        run.wait_for("1 line b");
        client.half_close();
        client.expect_eof();
        run.wait_for("1 close eof");
        let order =
            ["accepted 1", "1 connection", "1 line a", "1 line b", "1 eof", "done 1 Served", "1 close eof"];
        assert_eq!(run.told(), order);
    }
}

#[test]
fn what_connection_writes_is_sent_before_any_answer() {
    for net in BOTH {
        let run = Run::on(net, Limits::default(), || {
            Lab::new().on_connection(|ctx| {
                ctx.write(b"welcome\n");
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("first\n");
        client.expect("welcome\nfirst\n");
    }
}

#[test]
fn close_of_another_in_the_same_batch_drops_its_input() {
    for abort in [false, true] {
        let lab = Lab::new().on_line(move |ctx, _| {
            for id in ctx.conns.all().filter(|id| *id != ctx.id).collect::<Vec<_>>() {
                if abort { ctx.conns.abort(id) } else { ctx.conns.close(id) }
            }
            Ok(())
        });
        let mut hand = Hand::new(Limits::default(), lab);
        let (one, two) = (hand.client(), hand.client());
        hand.news();
        one.send("from one\n");
        two.send("from two\n");
        hand.turn();
        let lines = hand.news().iter().filter(|event| event.contains(" line ")).count();
        assert_eq!(lines, 1, "both lines were there, and the first closed the other's connection");
        drop((one, two));
        hand.until(|mux| mux.conns().metrics().open == 0);
        assert!(!hand.news().iter().any(|event| event.contains("line")));
    }
}

#[test]
fn close_of_another_in_the_same_batch_drops_its_eof_its_wake_and_its_timeout() {
    let lab = Lab::new().on_line(|ctx, line| {
        let all: Vec<ConnId> = ctx.conns.all().collect();
        match line {
            b"close" => all.iter().filter(|id| **id != ctx.id).for_each(|id| ctx.conns.close(*id)),
            b"wake" => all.iter().for_each(|id| ctx.conns.wake(*id)),
            _ => all.iter().for_each(|id| ctx.conns.set_timeout(*id, Duration::ZERO)),
        }
        Ok(())
    });
    let close_others = |ctx: &mut lab::Cx<'_>| {
        for id in ctx.conns.all().filter(|id| *id != ctx.id).collect::<Vec<_>>() {
            ctx.conns.close(id);
        }
        Ok(())
    };
    let lab = lab.on_wake(close_others).on_timeout(close_others);
    let mut hand = Hand::new(Limits::default(), lab);
    for (first, what) in [("close\n", "eof"), ("wake\n", "wake"), ("time\n", "timeout")] {
        let (one, two) = (hand.client(), hand.client());
        hand.news();
        one.send(first);
        if what == "eof" {
            two.half_close();
        }
        hand.turn();
        let count = hand
            .news()
            .iter()
            .filter(|event| event.split_once(' ').is_some_and(|(_, event)| event == what))
            .count();
        assert_eq!(count, usize::from(what != "eof"), "{what}");
        drop((one, two));
        hand.until(|mux| mux.conns().metrics().open == 0);
    }
}

#[test]
fn a_stale_id_reaches_nobody_even_when_its_slot_is_in_use_again() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let first = hand.client();
    let stale = hand.id("1");
    drop(first);
    hand.wait_for("1 close eof");
    let mut second = hand.client();
    let fresh = hand.id("2");
    assert_eq!(stale.slot(), fresh.slot(), "the test needs the slot to be used again");
    assert_ne!(stale, fresh);
    hand.news();

    hand.mux.handle().wake(stale).unwrap();
    hand.mux
        .handle()
        .with(stale, |_, ctx| {
            ctx.abort();
            Ok(())
        })
        .unwrap();
    let conns = hand.mux.conns();
    assert!(!conns.write(stale, b"x"));
    assert!(!write!(conns.to(stale), "x"));
    assert_eq!(conns.multicast(b"x", [stale]), 0);
    assert_eq!((conns.unsent(stale), conns.discard_output(stale), conns.is_open(stale)), (0, 0, false));
    conns.set_timeout(stale, Duration::ZERO);
    conns.wake(stale);
    conns.pause_input(stale);
    conns.shutdown_write(stale);
    conns.close(stale);
    conns.abort(stale);
    assert!(hand.mux.enter(|_, room| room.clients.at(stale).is_none() && room.clients.at(fresh).is_some()));

    second.send("still here\n");
    hand.until(|mux| mux.conns().metrics().lines == 1);
    second.expect("still here\n");
    assert_eq!(hand.news(), [""; 0]);
}

#[test]
fn close_is_called_when_the_socket_is_gone() {
    let peer: Rc<RefCell<Option<UnixStream>>> = Rc::default();
    let kept = Rc::clone(&peer);
    let lab = Lab::new().on_close(move |ctx, _| {
        let refused = kept.borrow_mut().as_mut().unwrap().write(b"anybody there?");
        ctx.server.tell(format!("{:?}", refused.map_err(|error| error.kind())));
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (ours, theirs) = UnixStream::pair().unwrap();
    peer.replace(Some(theirs));
    let id = hand.mux.enter(|lab, room| {
        let client = LabClient::named(lab, "pair");
        room.adopt(OwnedFd::from(ours), client).unwrap()
    });
    hand.wait_for("pair connection");
    hand.mux.conns().abort(id);
    hand.wait_for("pair close aborted");
    hand.wait_for("Err(BrokenPipe)");
}

#[test]
fn each_close_may_abort_the_next_and_all_are_gone_in_one_turn() {
    let lab = Lab::new().on_close(|ctx, _| {
        let next = ctx.conns.all().next();
        if let Some(next) = next {
            ctx.conns.abort(next);
            ctx.conns.abort(next);
        }
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let clients: Vec<Client> = (0..300).map(|_| hand.client()).collect();
    let first = hand.id("1");
    hand.news();
    hand.mux.conns().abort(first);
    hand.turn();
    let news = hand.news();
    assert_eq!(news.iter().filter(|event| event.ends_with("close aborted")).count(), clients.len());
    assert_eq!(hand.metrics().open, 0);
}

#[test]
fn what_close_writes_to_others_arrives_and_is_joined() {
    let lab = Lab::new().on_close(|ctx, _| {
        ctx.conns.broadcast(b"somebody left\n", |_| true);
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (one, two, mut three) = (hand.client(), hand.client(), hand.client());
    let before = hand.metrics().send_calls;
    let (first, second) = (hand.id("1"), hand.id("2"));
    hand.mux.conns().abort(first);
    hand.mux.conns().abort(second);
    hand.turn();
    three.expect("somebody left\nsomebody left\n");
    assert_eq!(hand.metrics().send_calls, before + 1);
    drop((one, two));
}

#[test]
fn within_a_turn_input_comes_before_wake_before_timeout_before_tick() {
    let lab = Lab::new().on_line(|ctx, _| {
        ctx.set_timeout(Duration::ZERO);
        let id = ctx.id;
        ctx.conns.wake(id);
        ctx.conns.after(Duration::ZERO, 7);
        ctx.write(b"x");
        Ok(())
    });
    let lab = lab.on_drained(|ctx| {
        ctx.server.tell("drained");
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let client = hand.client();
    hand.news();
    hand.mux.set_tick(Some(Duration::from_millis(1)));
    // The clock must have moved for the tick to be due in the turn that is looked at.
    let due = Instant::now() + Duration::from_millis(5);
    while Instant::now() < due {
        std::hint::spin_loop();
    }
    client.send("go\n");
    hand.turn();
    let mut news = hand.news();
    news[2..4].sort();
    assert_eq!(news, ["1 line go", "1 wake", "1 timeout", "due 7", "tick", "drained"]);
}

#[test]
fn a_denied_peer_gets_its_farewell_and_nothing_else() {
    for net in BOTH {
        let lab = || {
            let lab = Lab::new().on_allow(|_, peer| peer.serial() != 2);
            let lab = lab.on_denied(|room, id| {
                assert!(room.conns.write(id, b"not you\n"));
                assert_eq!(room.conns.all().count(), 1, "a denied peer is not in the room");
                assert!(room.clients.at(id).is_none());
            });
            lab.on_line(|ctx, line| {
                ctx.conns.broadcast(line, |_| true);
                Ok(())
            })
        };
        let mut run = Run::on(net, Limits::default(), lab);
        let mut one = run.client();
        run.wait_for("1 connection");
        let mut two = run.client();
        two.expect("not you\n");
        two.send("nobody reads this\n");
        one.send("hello\n");
        one.expect("hello");
        two.half_close();
        two.expect_eof();
        run.wait_for("done 2 Denied");
        let told = run.told();
        assert!(!told.iter().any(|event| event.starts_with("2 ")), "{told:?}");
        assert_eq!((run.metrics().denied, run.metrics().panics), (1, 0));
    }
}

#[test]
fn a_closing_connection_takes_no_write_and_gets_no_input() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            Lab::new().on_line(|ctx, _| {
                assert!(ctx.write(b"bye\n"));
                ctx.close();
                assert!(!ctx.write(b"more\n"));
                assert!(!write!(ctx, "more"));
                assert!(!ctx.conns.is_open(ctx.id));
                ctx.set_timeout(Duration::ZERO);
                ctx.conns.wake(ctx.id);
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("one\n");
        client.expect("bye\n");
        client.send("two\n");
        client.expect_eof();
        drop(client);
        run.wait_for("1 close asked");
        assert_eq!(run.metrics().panics, 0);
        let told = run.told();
        assert!(
            !told.iter().any(|event| event == "1 line two"
                || event == "1 wake"
                || event == "1 timeout"
                || event == "1 eof"),
            "{told:?}"
        );
    }
}

/// Callbacks do whatever the random numbers say to whomever, gone or not; the lab watches over the order.
#[test]
fn random_commands_from_every_callback_keep_the_order() {
    for seed in 0..4 {
        let random = Rc::new(RefCell::new(fastrand::Rng::with_seed(seed)));
        let (known, count) = (Rc::new(RefCell::new(Vec::<ConnId>::new())), Rc::new(Cell::new(0)));
        let (kept, counted) = (Rc::clone(&known), Rc::clone(&count));
        let act = Rc::new(move |ctx: &mut lab::Cx<'_>| {
            counted.set(counted.get() + 1);
            let mut random = random.borrow_mut();
            if !kept.borrow().contains(&ctx.id) {
                kept.borrow_mut().push(ctx.id);
            }
            let id = kept.borrow()[random.usize(..kept.borrow().len())];
            let conns = &mut *ctx.conns;
            match random.u32(..40) {
                0 => conns.close(id),
                1 => conns.abort(id),
                2 => conns.shutdown_write(id),
                3..6 => conns.set_timeout(id, Duration::from_micros(random.u64(..2000))),
                6 => conns.clear_timeout(id),
                7 => conns.pause_input(id),
                8..11 => conns.resume_input(id),
                11..15 => conns.wake(id),
                15 => drop(conns.broadcast(&[b'b'; 600], |_| true)),
                16 => drop(conns.discard_output(id)),
                19 => conns.broadcast_all(b"all"),
                20 => conns.broadcast_except(b"others", id),
                17 => conns.hold_open(id),
                18 => conns.after(Duration::ZERO, 1),
                _ => drop(conns.write(id, b"text")),
            }
        });
        macro_rules! doing {
            () => {{
                let act = Rc::clone(&act);
                move |ctx: &mut lab::Cx<'_>| {
                    act(ctx);
                    Ok(())
                }
            }};
        }
        let (line, close, eof) = (doing!(), Rc::clone(&act), doing!());
        let lab = Lab::new().on_line(move |ctx, _| line(ctx)).on_eof(move |ctx, _| eof(ctx));
        let lab = lab.on_connection(doing!()).on_wake(doing!()).on_timeout(doing!()).on_drained(doing!());
        let lab = lab.on_close(move |ctx, _| close(ctx));
        let limits = Limits { lines_per_turn: 2, linger_time: Duration::from_millis(1), ..Limits::default() };
        let mut hand = Hand::new(limits, lab);
        let mut random = fastrand::Rng::with_seed(seed + 100);
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..600 {
            if clients.len() < 12 {
                clients.push(Client::connect(&hand.addr));
            }
            let at = random.usize(..clients.len());
            match random.u32(..8) {
                0 => drop(clients.swap_remove(at)),
                1 => clients[at].half_close(),
                _ => drop(clients[at].try_send("a\nb\nc\n")),
            }
            hand.turn();
        }
        clients.clear();
        hand.mux.conns().stop(3);
        hand.until(|mux| matches!(mux.turn(Some(Duration::ZERO)), Ok(Some(Ended::Stop { status: 3, .. }))));
        let told = hand.news();
        let opened = told.iter().filter(|event| event.ends_with(" connection")).count();
        let closed = told.iter().filter(|event| event.contains(" close ")).count();
        assert!(opened >= 12 && count.get() > 600, "the test does what it says: {opened}, {}", count.get());
        assert_eq!(opened, closed);
        assert_eq!((hand.metrics().open, hand.metrics().panics), (0, 0));
    }
}
