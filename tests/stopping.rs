//! How the loop ends: at once, gracefully, twice, at its time limit, with an error.

mod common;
mod lab;

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::Client;
use lab::{BOTH, Hand, Lab, Net, Run};
use lineplex::Ended;
use lineplex::config::Limits;

const MIB: usize = 1024 * 1024;

/// Room for long answers.
fn large() -> Limits {
    Limits { output_soft_bytes: 16 * MIB, output_hard_bytes: 16 * MIB, ..Limits::default() }
}

/// `count` bytes in which no two places look alike.
fn pattern(count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0u32..).flat_map(u32::to_be_bytes).take(count).collect();
    bytes.shrink_to_fit();
    bytes
}

// A64, A65
#[test]
fn stop_from_a_callback_ends_the_loop_after_its_turn_with_the_status_that_was_asked_for() {
    for status in [0, 3] {
        for net in BOTH {
            let mut run = Run::on(net, Limits::default(), move || {
                let lab = Lab::new().on_line(move |ctx, _| {
                    ctx.conns.stop(status);
                    ctx.conns.stop(9);
                    ctx.write(b"bye\n");
                    Ok(())
                });
                lab.on_closing(|room| {
                    room.conns.broadcast(b"closing\n", |_| true);
                })
            });
            let (mut one, mut two) = (run.client(), run.client());
            run.wait_for("2 connection");
            one.send("stop\n");
            assert_eq!(run.ended().unwrap(), Ended::Stop { status, closed: 2, cut: 0 });
            one.expect("bye\nclosing\n");
            one.expect_eof();
            two.expect("closing\n");
            two.expect_eof();
            let story = run.whole_story();
            let at = |event: &str| story.iter().position(|told| told == event).expect(event);
            assert!(at("closing") < at("1 close shutdown") && at("closing") < at("2 close shutdown"));
            assert!(run.handle.stop(0).is_err() && run.handle.run(|_, _| ()).is_err());
        }
    }
}

// A65
#[test]
fn a_fatal_error_ends_the_loop_with_that_error_after_every_close() {
    let mut run = Run::start(Limits::default(), || {
        Lab::new().on_line(|ctx, _| {
            ctx.conns.fatal(lineplex::Error::new(lineplex::ErrorKind::Io, "beyond repair"));
            Ok(())
        })
    });
    let mut client = run.client();
    client.send("x\n");
    let error = run.ended().unwrap_err();
    assert_eq!(error.to_string(), "beyond repair");
    client.expect_eof();
    assert!(run.whole_story().contains(&"1 close shutdown".to_owned()));
}

#[test]
fn a_prompt_stop_flushes_once_and_counts_who_was_cut() {
    for net in BOTH {
        let mut run = Run::on(net, large(), || {
            let lab = Lab::new().on_line(|ctx, _| {
                ctx.write(&pattern(8 * MIB));
                Ok(())
            });
            lab.on_close(|ctx, _| {
                assert_eq!(ctx.conns.broadcast(b"dropped", |_| true), 0);
            })
        });
        let (reader, holder) = (run.client(), run.client());
        run.wait_for("2 connection");
        holder.send("fill\n");
        run.wait_for("2 line fill");
        assert_eq!(run.end().unwrap(), Ended::Stop { status: 0, closed: 1, cut: 1 });
        drop((reader, holder));
    }
}

#[test]
fn a_graceful_stop_drains_everybody_and_takes_nobody_new() {
    for net in BOTH {
        let lab = Lab::new().on_closing(|room| {
            room.conns.broadcast(&pattern(2 * MIB), |_| true);
        });
        let mut hand = Hand::on(net, large(), lab);
        let mut client = hand.client();
        let addr = hand.addr.clone();
        hand.mux.stop_gracefully();
        let refused = if net == Net::Tcp {
            TcpStream::connect(&addr).map(drop)
        } else {
            UnixStream::connect(&addr).map(drop)
        };
        assert!(refused.is_err(), "the listener is closed");
        // It is not read any more, and the end comes after the last byte.
        let reader = std::thread::spawn(move || {
            let _ = client.try_send("nobody reads this\n");
            client.expect_to_eof()
        });
        let mut ended = None;
        hand.until(|mux| {
            ended = mux.turn(Some(Duration::from_millis(10))).unwrap();
            ended.is_some()
        });
        assert!(reader.join().unwrap() == pattern(2 * MIB));
        assert_eq!(ended, Some(Ended::Stop { status: 0, closed: 1, cut: 0 }));
        assert!(hand.told().contains(&"1 close shutdown".to_owned()));
        assert_eq!(hand.told().iter().filter(|event| *event == "closing").count(), 1);
    }
}

#[test]
fn a_client_in_the_queue_when_a_graceful_stop_begins_still_gets_an_answer() {
    let lab = Lab::new().on_closing(|room| {
        room.conns.broadcast(b"closing\n", |_| true);
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let mut waiting = Client::connect(&hand.addr);
    hand.mux.stop_gracefully();
    hand.turn();
    waiting.expect("closing\n");
    waiting.expect_eof();
}

#[test]
fn a_second_stop_ends_a_graceful_one_at_once() {
    for net in BOTH {
        let mut hand = Hand::on(net, large(), Lab::new());
        let holder = hand.client();
        let id = hand.id("1");
        hand.mux.conns().write(id, &pattern(8 * MIB));
        hand.mux.stop_gracefully();
        assert_eq!(hand.turn(), None, "it owes too much to have ended");
        hand.mux.stop_gracefully();
        assert_eq!(hand.turn(), Some(Ended::Stop { status: 0, closed: 0, cut: 1 }));
        assert!(hand.told().contains(&"1 close shutdown".to_owned()));
        drop(holder);
    }
}

#[test]
fn a_graceful_stop_ends_at_its_time_limit_and_counts_who_was_cut() {
    for net in BOTH {
        let limits = Limits { stop_time: Duration::from_millis(30), ..large() };
        let mut hand = Hand::on(net, limits, Lab::new());
        let (holder, reader) = (hand.client(), hand.client());
        let id = hand.id("1");
        hand.mux.conns().write(id, &pattern(8 * MIB));
        reader.half_close();
        let begun = Instant::now();
        hand.mux.stop_gracefully();
        let mut ended = None;
        hand.until(|mux| {
            ended = mux.turn(Some(Duration::from_millis(10))).unwrap();
            ended.is_some()
        });
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(ended, Some(Ended::Stop { status: 0, closed: 1, cut: 1 }));
        drop(holder);
    }
}
