//! What a stop owes to those who are there: the last words, a graceful stop from wherever it is asked for, and no new
//! connection out of a server that ends.

mod common;
mod lab;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use common::{Client, DEADLINE};
use lab::{BOTH, Cx, Hand, Lab, LabClient, Run};
use lineplex::config::Limits;
use lineplex::{Ended, Room};

const MIB: usize = 1024 * 1024;
const CLEAN: Ended = Ended::Stop { status: 0, closed: 1, cut: 0 };

/// Echoes, and says a last word to everybody.
fn polite() -> Lab {
    Lab::new().on_closing(|room| {
        room.conns.broadcast(b"goodbye\n", |_| true);
    })
}

/// Takes a turn in which the client is served and which is the last one.
#[track_caller]
fn last_turn(mut hand: Hand, mut client: Client) {
    client.send("served\n");
    assert_eq!(hand.turn(), Some(CLEAN));
    client.expect("served\ngoodbye\n");
    client.expect_eof();
}

#[test]
fn the_last_word_of_a_prompt_stop_reaches_who_was_served_in_the_same_turn() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            polite().on_line(|ctx, _| {
                ctx.write(b"served\n");
                ctx.conns.stop(0);
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("stop\n");
        assert_eq!(run.ended().unwrap(), CLEAN);
        client.expect("served\ngoodbye\n");
        client.expect_eof();
    }
}

#[test]
fn a_stop_between_turns_or_by_a_handle_comes_after_what_has_arrived_and_its_answers() {
    let stops: [fn(&mut Hand); 3] = [
        |hand| hand.mux.conns().stop(0),
        |hand| hand.mux.handle().stop(0).unwrap(),
        |hand| hand.mux.handle().run(|_, room| room.conns.stop(0)).unwrap(),
    ];
    for stop in stops {
        let mut hand = Hand::new(Limits::default(), polite());
        let client = hand.client();
        stop(&mut hand);
        last_turn(hand, client);
    }
}

// The only test of this file that takes over signals: they go to the whole process.
#[cfg(feature = "signals")]
#[test]
fn a_term_in_the_turn_in_which_a_client_is_served_lets_it_have_the_answer_and_the_last_word() {
    let mut hand = Hand::new(Limits::default(), polite());
    hand.mux.set_signals(lineplex::signals::Signals::new().unwrap(), || ()).unwrap();
    hand.turn();
    let client = hand.client();
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
    last_turn(hand, client);
}

#[test]
fn a_graceful_stop_without_connections_does_not_wait_for_anything() {
    let limits = || Limits { stop_time: DEADLINE, ..Limits::default() };
    let ended = Ended::Stop { status: 0, closed: 0, cut: 0 };

    let mut hand = Hand::new(limits(), Lab::new());
    hand.mux.stop_gracefully();
    assert_eq!(hand.mux.turn(None).unwrap(), Some(ended));
    assert_eq!(hand.metrics().expiries, 0, "it ended by its time limit");

    let mut hand = Hand::new(limits(), Lab::new());
    hand.mux.conns().stop_gracefully();
    assert_eq!(hand.mux.run().unwrap(), ended);
    assert_eq!(hand.metrics().expiries, 0, "it ended by its time limit");

    let mut hand = Hand::new(limits(), Lab::new());
    hand.mux.handle().stop_gracefully().unwrap();
    assert_eq!(hand.mux.run().unwrap(), ended);
    assert_eq!(hand.metrics().expiries, 0, "it ended by its time limit");
}

#[test]
fn a_graceful_stop_asked_for_in_a_callback_or_by_a_handle_sends_all_that_is_owed() {
    for by_handle in [false, true] {
        for net in BOTH {
            let limits =
                Limits { output_soft_bytes: 16 * MIB, output_hard_bytes: 16 * MIB, ..Limits::default() };
            let mut run = Run::on(net, limits, move || {
                polite().on_line(move |ctx, _| {
                    ctx.write(&vec![b'x'; 8 * MIB]);
                    if by_handle {
                        ctx.handle().stop_gracefully().unwrap();
                    } else {
                        ctx.conns.stop_gracefully();
                    }
                    Ok(())
                })
            });
            let mut client = run.client();
            client.send("stop\n");
            let received = client.expect_to_eof();
            assert_eq!(received.len(), 8 * MIB + 8);
            assert!(received.ends_with(b"xgoodbye\n"));
            drop(client);
            assert_eq!(run.ended().unwrap(), CLEAN);
            assert_eq!(run.whole_story().iter().filter(|event| *event == "closing").count(), 1);
        }
    }
}

#[test]
fn a_graceful_stop_that_is_asked_for_again_stops_at_once() {
    let limits = || Limits { output_soft_bytes: 16 * MIB, output_hard_bytes: 16 * MIB, ..Limits::default() };
    let again: [fn(&mut Hand); 2] =
        [|hand| hand.mux.conns().stop_gracefully(), |hand| hand.mux.handle().stop_gracefully().unwrap()];
    for again in again {
        let mut hand = Hand::new(limits(), Lab::new());
        let holder = hand.client();
        let id = hand.id("1");
        hand.mux.conns().write(id, &vec![b'x'; 8 * MIB]);
        hand.mux.conns().stop_gracefully();
        assert_eq!(hand.turn(), None, "it owes too much to have ended");
        again(&mut hand);
        let ended = hand.turn().or_else(|| hand.turn());
        assert_eq!(ended, Some(Ended::Stop { status: 0, closed: 0, cut: 1 }));
        drop(holder);
    }
}

#[test]
fn a_prompt_stop_asked_for_after_a_graceful_one_in_the_same_turn_wins_with_its_status() {
    let mut hand = Hand::new(Limits::default(), polite());
    let mut client = hand.client();
    hand.mux.conns().stop_gracefully();
    hand.mux.conns().stop(7);
    assert_eq!(hand.turn(), Some(Ended::Stop { status: 7, closed: 1, cut: 0 }));
    client.expect("goodbye\n");
    client.expect_eof();
}

#[test]
fn nobody_connects_or_adopts_out_of_a_server_that_stops() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = peer.local_addr().unwrap();
    for graceful in [false, true] {
        let far_ends: Rc<RefCell<Vec<UnixStream>>> = Rc::default();
        // A client that keeps up its connections: each close would open the next.
        let open_both = move |ctx: &mut Cx<'_>| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            far_ends.borrow_mut().push(theirs);
            let (one, two) = (LabClient::named(ctx.server, "out"), LabClient::named(ctx.server, "pair"));
            let connected = ctx.connect(addr, one).map_err(|error| error.kind());
            let adopted = ctx.adopt(OwnedFd::from(ours), two).map_err(|error| error.kind());
            ctx.server.tell(match (connected, adopted) {
                (Ok(_), Ok(_)) => "both are opened",
                (Err(ErrorKind::ConnectionAborted), Err(ErrorKind::ConnectionAborted)) => "both are refused",
                _ => "what is this?",
            });
        };
        let on_close = open_both.clone();
        let lab = Lab::new().on_close(move |ctx, _| on_close(ctx));
        let lab = lab.on_line(move |ctx, _| {
            open_both(ctx);
            Ok(())
        });
        let limits = Limits { stop_time: DEADLINE, linger_time: Duration::ZERO, ..Limits::default() };
        let mut hand = Hand::new(limits, lab);
        let client = hand.client();
        client.send("open\n");
        hand.wait_for("both are opened");
        hand.until(|mux| mux.conns().all().count() == 3);
        let _far_end = peer.accept().unwrap();
        hand.news();
        if graceful {
            hand.mux.stop_gracefully();
        } else {
            hand.mux.conns().stop(0);
        }
        assert_eq!(hand.turn(), Some(Ended::Stop { status: 0, closed: 3, cut: 0 }));
        let mut news = hand.news();
        news.sort();
        let refused = ["both are refused"; 3];
        let closes =
            ["1 close shutdown", "closing", "done 1 Served", "out close shutdown", "pair close shutdown"];
        assert_eq!(news, [&closes[..1], &refused[..], &closes[1..]].concat());
    }
}

#[test]
fn pre_server_close_hook_cannot_connect_either() {
    for graceful in [false, true] {
        let refused = Rc::new(Cell::new(None));
        let kept = Rc::clone(&refused);
        let lab = Lab::new();
        let client = RefCell::new(Some(LabClient::named(&lab, "pair")));
        let lab = lab.on_closing(move |room: &mut Room<'_, Lab>| {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let adopted = room.adopt(OwnedFd::from(ours), client.borrow_mut().take().unwrap());
            kept.set(adopted.err().map(|error| error.kind()));
        });
        let mut hand = Hand::new(Limits::default(), lab);
        if graceful {
            hand.mux.stop_gracefully();
        } else {
            hand.mux.conns().stop(0);
        }
        assert_eq!(hand.turn(), Some(Ended::Stop { status: 0, closed: 0, cut: 0 }));
        assert_eq!(refused.get(), Some(ErrorKind::ConnectionAborted));
    }
}
