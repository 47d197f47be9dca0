//! The mux's own watch over a connection (its silence, an unfinished line, its unsent output) and the watch over the
//! turn: nobody is cut for our own waiting, and nothing spins.
//!
//! That nothing spins is shown by the turns between two events, compared with what the time that passed allows.

mod common;
mod lab;

use std::io;
use std::time::{Duration, Instant};

use lab::{BOTH, Cx, Hand, Lab, Net, Run};
use lineplex::config::Limits;
use lineplex::{CloseReason, Ended};

/// The limit on an unfinished line in these tests.
const LINE: Duration = Duration::from_millis(20);

fn with_line_time() -> Limits {
    Limits { line_time: Some(LINE), ..Limits::default() }
}

/// A slow callback, without giving up the processor to the other tests.
fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Takes turns until the server's timer `key` comes, which is set now: at most a few for every [`LINE`].
#[track_caller]
fn rests_for(hand: &mut Hand, time: Duration, key: u64) {
    let (begun, before) = (Instant::now(), hand.metrics().turns);
    hand.mux.conns().after(time, key);
    hand.wait_for(&format!("due {key}"));
    let turns = u128::from(hand.metrics().turns - before);
    let allowed = 10 + 4 * begun.elapsed().as_millis() / LINE.as_millis();
    assert!(turns <= allowed, "{turns} turns, where {allowed} were enough");
}

fn pausing() -> Lab {
    Lab::new().on_line(|ctx, line| {
        if line == b"pause" {
            ctx.pause_input();
        }
        Ok(())
    })
}

#[test]
fn a_paused_connection_with_an_unfinished_line_is_neither_cut_nor_looked_at_all_the_time() {
    for net in BOTH {
        let mut hand = Hand::on(net, with_line_time(), pausing());
        let client = hand.client();
        client.send("pause\nunfini");
        hand.wait_for("1 line pause");
        rests_for(&mut hand, 6 * LINE, 1);
        client.send("shed\n");
        rests_for(&mut hand, 3 * LINE, 2);
        let id = hand.id("1");
        assert!(hand.mux.conns().is_open(id));
        hand.mux.conns().resume_input(id);
        hand.wait_for("1 line unfinished");
    }
}

#[test]
fn after_a_pause_the_time_of_a_line_counts_again() {
    let mut hand = Hand::new(with_line_time(), pausing());
    let client = hand.client();
    client.send("pause\nunfinished");
    hand.wait_for("1 line pause");
    rests_for(&mut hand, 3 * LINE, 1);
    let id = hand.id("1");
    hand.mux.conns().resume_input(id);
    drop(client.try_send("but never the end of it"));
    hand.wait_for("1 close line-deadline");
}

#[test]
fn a_choked_connection_whose_input_waits_is_neither_cut_nor_looked_at_all_the_time() {
    const OWED: usize = 900_000;
    let lab = Lab::new().on_line(|ctx, line| {
        if line == b"big" {
            ctx.write(&vec![b'x'; OWED]);
        }
        Ok(())
    });
    let mut hand = Hand::new(with_line_time(), lab);
    let mut client = hand.client();
    client.send("big\nunfini");
    hand.turn();
    // It is not read any more, so it is not its fault that the line is not finished.
    client.send("shed\n");
    hand.turn();
    rests_for(&mut hand, 6 * LINE, 1);
    assert!(!hand.told().contains(&"1 line unfinished".to_owned()));
    let reader = std::thread::spawn(move || {
        let owed = client.next_bytes(OWED).unwrap();
        (client, owed.len())
    });
    hand.wait_for("1 line unfinished");
    let id = hand.id("1");
    hand.until(|mux| mux.conns().unsent(id) == 0);
    assert_eq!(reader.join().unwrap().1, OWED);
}

#[test]
fn a_throttled_connection_is_not_looked_at_all_the_time_and_not_cut_for_what_it_has_sent() {
    for net in BOTH {
        let limits = Limits { lines_per_second: Some(8), lines_burst: 1, ..with_line_time() };
        let mut hand = Hand::on(net, limits, Lab::new().on_line(|_, _| Ok(())));
        let client = hand.client();
        client.send("one\ntwo\n");
        hand.wait_for("1 line one");
        let (begun, before) = (Instant::now(), hand.metrics().turns);
        hand.wait_for("1 line two");
        let turns = u128::from(hand.metrics().turns - before);
        let allowed = 10 + 4 * begun.elapsed().as_millis() / LINE.as_millis();
        assert!(turns <= allowed, "{turns} turns, where {allowed} were enough");
        drop(client);
    }
}

#[test]
fn the_idle_limit_due_together_with_the_clients_deadline_does_not_cut_the_farewell() {
    for net in BOTH {
        let limits = Limits { idle_time: Some(Duration::from_millis(30)), ..Limits::default() };
        let lab = Lab::new().on_connection(|ctx| {
            ctx.set_timeout(Duration::from_millis(15));
            Ok(())
        });
        let lab = lab.on_timeout(|ctx| {
            ctx.write(b"farewell\n");
            ctx.close();
            Ok(())
        });
        let mut hand = Hand::on(net, limits, lab);
        let mut client = hand.client();
        // Both are due when the next turn begins, and the deadline was due first.
        spin(Duration::from_millis(60));
        hand.turn();
        client.expect("farewell\n");
        client.expect_eof();
        drop(client);
        hand.wait_for("1 close asked");
    }
}

#[test]
fn times_without_end_are_times_that_never_come() {
    let limits = Limits {
        idle_time: Some(Duration::MAX),
        line_time: Some(Duration::MAX),
        drain_time: Duration::MAX,
        linger_time: Duration::MAX,
        linger_max_time: Duration::MAX,
        connect_time: Duration::MAX,
        stop_time: Duration::MAX,
        ..Limits::default()
    };
    for net in BOTH {
        let mut hand = Hand::on(net, limits.clone(), Lab::new());
        let (mut one, two) = (hand.client(), hand.client());
        one.send("line\nunfini");
        hand.until(|mux| mux.conns().metrics().lines == 1);
        one.send("shed\n");
        hand.until(|mux| mux.conns().metrics().lines == 2);
        one.expect("line\nunfinished\n");
        one.half_close();
        hand.wait_for("1 close eof");
        hand.mux.stop_gracefully();
        let mut ended = hand.turn();
        assert_eq!(ended, None, "it lingers for as long as it takes");
        two.half_close();
        drop(two);
        hand.until(|mux| {
            let next = mux.turn(Some(Duration::from_millis(5))).unwrap();
            ended = ended.or(next);
            ended.is_some()
        });
        assert_eq!(ended, Some(Ended::Stop { status: 0, closed: 1, cut: 0 }));
        assert_eq!((hand.metrics().panics, hand.metrics().expiries), (0, 0));
    }
}

/// Fills its output to the limit and beyond, and then does something of its own.
fn over_the_limit(then: fn(&mut Cx<'_>) -> io::Result<()>) -> (Limits, Lab) {
    let limits = Limits { output_soft_bytes: 1000, output_hard_bytes: 2000, ..Limits::default() };
    let lab = Lab::new().on_line(move |ctx, _| {
        assert!(ctx.write(&[b'x'; 2000]));
        assert!(!ctx.write(b"more"));
        then(ctx)
    });
    let lab = lab.on_close(|ctx, reason| {
        if matches!(reason, CloseReason::OutputLimit) {
            ctx.server.tell("over the limit");
        }
    });
    (limits, lab)
}

#[test]
fn over_the_output_limit_a_client_is_cut_at_once_whatever_the_callback_does_then() {
    let endings: [fn(&mut Cx<'_>) -> io::Result<()>; 5] = [
        |_| Ok(()),
        |_| Err(io::Error::other("it is full")),
        |ctx| {
            ctx.close();
            Ok(())
        },
        |ctx| {
            ctx.shutdown_write();
            Ok(())
        },
        |ctx| {
            ctx.conns.discard_output(ctx.id);
            Ok(())
        },
    ];
    for then in endings {
        let (limits, lab) = over_the_limit(then);
        let mut hand = Hand::new(limits, lab);
        let mut client = hand.client();
        hand.news();
        client.send("go\n");
        hand.turn();
        assert_eq!(hand.news(), ["1 line go", "done 1 Served", "1 close output-limit", "over the limit"]);
        assert_eq!(hand.metrics().output_limit, 1);
        client.expect_eof();
    }
}

#[test]
fn the_reset_of_a_peer_whose_input_is_paused_is_noticed() {
    let mut run = Run::on(Net::Tcp, Limits::default(), pausing);
    let client = run.client();
    client.send("pause\n");
    run.wait_for("1 line pause");
    client.reset();
    run.wait_for("1 close io");
}

#[test]
fn the_end_of_a_peer_whose_input_is_paused_waits_until_it_is_read_again() {
    for net in BOTH {
        let mut hand = Hand::on(net, Limits::default(), pausing());
        let client = hand.client();
        client.send("pause\nlast\n");
        hand.wait_for("1 line pause");
        client.half_close();
        rests_for(&mut hand, LINE, 1);
        let id = hand.id("1");
        assert!(hand.mux.conns().is_open(id));
        hand.mux.conns().resume_input(id);
        hand.wait_for("1 eof");
        drop(client);
    }
}

#[test]
fn a_slow_turn_is_counted_although_a_callback_of_it_set_a_deadline() {
    for set in [false, true] {
        let lab = Lab::new().on_line(move |ctx, _| {
            spin(Duration::from_millis(12));
            if set {
                ctx.set_timeout(Duration::from_secs(60));
                ctx.conns.after(Duration::from_secs(60), 1);
            }
            Ok(())
        });
        let mut hand = Hand::new(Limits { slow_turn: Duration::from_millis(10), ..Limits::default() }, lab);
        let client = hand.client();
        let before = hand.metrics().slow_turns;
        client.send("slow\n");
        hand.turn();
        assert_eq!(hand.metrics().slow_turns, before + 1, "with a deadline: {set}");
    }
}
