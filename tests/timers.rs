//! Deadlines, the server's own timers, and the tick.
//!
//! The clock is only ever a lower bound: nothing comes early. How late something comes is the machine's affair, so
//! "only once" and "not at all" are shown with a later event as the fence: a longer timer, or a round trip.

mod common;
mod lab;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::Client;
use lab::{BOTH, Hand, Lab, Run};
use lineplex::config::Limits;

/// Commands: `timeout MS`, `clear`, `fence MS`, `slow MS`; what fires is told.
fn timing() -> Lab {
    Lab::new().on_line(|ctx, line| {
        let line = String::from_utf8_lossy(line).into_owned();
        for command in line.split(';') {
            let (what, time) = command.split_once(' ').unwrap_or((command, "0"));
            let time = Duration::from_millis(time.parse().expect("a number"));
            match what {
                "timeout" => ctx.set_timeout(time),
                "clear" => ctx.clear_timeout(),
                "fence" => ctx.conns.after(time, 1),
                "slow" => spin(time),
                _ => {}
            }
        }
        Ok(())
    })
}

fn count(told: &[String], event: &str) -> usize {
    told.iter().filter(|told| *told == event).count()
}

/// A slow callback, without giving up the processor to the other tests.
fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

// A51
#[test]
fn timeout_comes_once_and_never_early_and_again_when_it_is_set_again() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), timing);
        let client = run.client();
        for fence in [40, 60] {
            let begun = Instant::now();
            client.send(format!("timeout 20;fence {fence}\n"));
            run.wait_for("1 timeout");
            assert!(begun.elapsed() >= Duration::from_millis(20), "early: {:?}", begun.elapsed());
            run.wait_for("due 1");
            assert!(begun.elapsed() >= Duration::from_millis(fence));
        }
        assert_eq!(count(&run.told(), "1 timeout"), 2);
    }
}

// A51
#[test]
fn timeout_set_in_timeout_repeats_and_the_waits_add_up() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            let lab = Lab::new().on_connection(|ctx| {
                ctx.set_timeout(Duration::from_millis(5));
                Ok(())
            });
            lab.on_timeout(|ctx| {
                ctx.set_timeout(Duration::from_millis(5));
                Ok(())
            })
        });
        let begun = Instant::now();
        let _client = run.client();
        for _ in 0..10 {
            run.wait_for("1 timeout");
        }
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }
}

#[test]
fn the_deadline_is_a_fraction_of_a_second_as_fine_as_it_was_asked_for() {
    let mut run = Run::start(Limits::default(), || {
        Lab::new().on_line(|ctx, line| {
            ctx.set_timeout(Duration::from_micros(std::str::from_utf8(line).unwrap().parse().unwrap()));
            Ok(())
        })
    });
    let client = run.client();
    for micros in [1, 999, 1000, 1001, 1500, 2750, 12_345] {
        let begun = Instant::now();
        client.send(format!("{micros}\n"));
        run.wait_for("1 timeout");
        assert!(begun.elapsed() >= Duration::from_micros(micros), "{micros} µs: {:?}", begun.elapsed());
    }
}

// A52
#[test]
fn a_second_deadline_replaces_the_first_whether_later_or_sooner() {
    for net in BOTH {
        for (first, second) in [(10, 40), (30_000, 40)] {
            let mut run = Run::on(net, Limits::default(), timing);
            let client = run.client();
            let begun = Instant::now();
            client.send(format!("timeout {first}\ntimeout {second}\nfence 60\n"));
            run.wait_for("1 timeout");
            assert!(begun.elapsed() >= Duration::from_millis(second));
            run.wait_for("due 1");
            assert_eq!(count(&run.told(), "1 timeout"), 1);
        }
    }
}

// A53: a negative time cannot be said.
#[test]
fn a_deadline_of_zero_comes_once_in_the_same_turn_after_all_input() {
    let mut hand = Hand::new(Limits::default(), timing());
    let (one, two) = (hand.client(), hand.client());
    hand.news();
    one.send("timeout 0\n");
    two.send("timeout 0\n");
    hand.turn();
    assert_eq!(hand.news(), ["1 line timeout 0", "2 line timeout 0", "1 timeout", "2 timeout"]);
    hand.turn();
    assert_eq!(hand.news(), [""; 0]);
}

#[test]
fn a_deadline_of_zero_set_in_timeout_waits_for_the_next_turn_and_starves_nobody() {
    let lab = Lab::new().on_connection(|ctx| {
        ctx.set_timeout(Duration::ZERO);
        Ok(())
    });
    let lab = lab.on_timeout(|ctx| {
        ctx.set_timeout(Duration::ZERO);
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let mut client = hand.client();
    hand.news();
    client.send("line\n");
    hand.turn();
    assert_eq!(hand.news(), ["1 timeout"]);
    client.expect("line\n");
    hand.turn();
    assert_eq!(hand.news(), ["1 timeout"]);
}

#[test]
fn a_deadline_set_anew_by_another_that_is_due_with_it_waits() {
    let lab = timing().on_timeout(|ctx| {
        let others: Vec<_> = ctx.conns.all().filter(|id| *id != ctx.id).collect();
        for id in others {
            ctx.conns.set_timeout(id, Duration::from_secs(60));
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (one, two) = (hand.client(), hand.client());
    hand.news();
    one.send("timeout 0\n");
    two.send("timeout 0\n");
    hand.turn();
    assert_eq!(hand.news(), ["1 line timeout 0", "2 line timeout 0", "1 timeout"]);
    hand.turn();
    assert_eq!(hand.news(), [""; 0]);
}

// A54
#[test]
fn a_cleared_deadline_never_comes() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), timing);
        let client = run.client();
        client.send("timeout 5;clear;fence 30\n");
        run.wait_for("due 1");
        client.send("timeout 0;clear;fence 0\n");
        run.wait_for("due 1");
        assert_eq!(count(&run.told(), "1 timeout"), 0);
    }
}

// A54
#[test]
fn a_deadline_cleared_in_a_later_turn_never_comes_and_clearing_none_does_nothing() {
    let mut hand = Hand::new(Limits::default(), timing());
    let client = hand.client();
    client.send("timeout 5\n");
    hand.wait_for("1 line timeout 5");
    // Even if it is due by now: input comes first.
    client.send("clear;clear;fence 10\n");
    hand.wait_for("due 1");
    assert_eq!(count(&hand.told(), "1 timeout"), 0);
}

#[test]
fn the_last_of_setting_and_clearing_in_one_callback_counts() {
    let mut run = Run::start(Limits::default(), timing);
    let client = run.client();
    client.send("clear;timeout 5;clear;timeout 5;fence 30\n");
    run.wait_for("due 1");
    assert_eq!(count(&run.told(), "1 timeout"), 1);
}

#[test]
fn a_deadline_past_the_end_of_the_clock_never_comes() {
    let mut run = Run::start(Limits::default(), || {
        Lab::new().on_connection(|ctx| {
            ctx.set_timeout(Duration::MAX);
            Ok(())
        })
    });
    let mut client = run.client();
    client.send("served\n");
    client.expect("served\n");
    assert_eq!(count(&run.told(), "1 timeout"), 0);
}

#[test]
fn a_timeout_that_is_not_implemented_closes_as_timed_out() {
    use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};
    struct Plain(Vec<&'static str>);
    struct PlainClient;
    impl Server for Plain {
        type Client = PlainClient;
        fn client(&mut self, _: &Peer) -> PlainClient {
            PlainClient
        }
    }
    impl MuxCallback<Plain> for PlainClient {
        fn connection(&mut self, ctx: &mut Context<'_, Plain>) -> std::io::Result<()> {
            ctx.write(b"owed\n");
            ctx.set_timeout(Duration::ZERO);
            Ok(())
        }
        fn input(&mut self, _: &mut Context<'_, Plain>, _: &mut Input) -> std::io::Result<()> {
            Ok(())
        }
        fn close(&mut self, ctx: &mut Context<'_, Plain>, reason: &lineplex::CloseReason) {
            ctx.server.0.push(reason.word());
        }
    }
    let mut mux = Mux::new(Plain(Vec::new()), Limits::default()).unwrap();
    let addr = mux.listen(&lineplex::config::ListenAt::tcp("127.0.0.1", 0)).unwrap();
    let mut client = Client::connect(addr);
    let until = Instant::now() + common::DEADLINE;
    while mux.conns().metrics().expiries == 0 {
        assert!(Instant::now() < until);
        mux.turn(Some(Duration::from_millis(10))).unwrap();
    }
    client.expect("owed\n");
    client.expect_eof();
    drop(client);
    while mux.server().0.is_empty() {
        assert!(Instant::now() < until);
        mux.turn(Some(Duration::from_millis(10))).unwrap();
    }
    assert_eq!(mux.server().0, ["timed-out"]);
}

// A55
#[test]
fn a_timer_of_the_server_comes_to_the_server_once_by_its_key() {
    let mut run = Run::start(Limits::default(), Lab::new);
    run.ask(|_, room| {
        for (key, ms) in [(3, 30), (1, 10), (2, 20), (4, 1)] {
            room.conns.after(Duration::from_millis(ms), key);
        }
        room.conns.cancel(4);
        // Replaces, and clears nobody else's.
        room.conns.after(Duration::from_millis(40), 1);
        room.conns.cancel(77);
    });
    let begun = Instant::now();
    run.wait_for("due 1");
    assert!(begun.elapsed() >= Duration::from_millis(20), "replaced by a later one");
    let told = run.told();
    let dues: Vec<_> = told.iter().filter(|event| event.starts_with("due")).collect();
    assert_eq!(dues, ["due 2", "due 3", "due 1"]);
}

// A56
#[test]
fn the_tick_and_a_deadline_do_not_disturb_each_other() {
    let stamps: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let kept = Rc::clone(&stamps);
    let lab = Lab::new().on_tick(move |_| kept.borrow_mut().push(Instant::now()));
    let lab = lab.on_connection(|ctx| {
        ctx.set_timeout(Duration::from_millis(7));
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let begun = Instant::now();
    hand.mux.set_tick(Some(Duration::from_millis(16)));
    let client = hand.client();
    hand.until(|_| stamps.borrow().len() == 3);
    let told = hand.told();
    assert_eq!(count(&told, "1 timeout"), 1, "{told:?}");
    let stamps = stamps.borrow();
    assert!(
        stamps.iter().zip(1..).all(|(at, n)| *at - begun >= Duration::from_millis(16) * n),
        "never early"
    );
    assert_eq!(hand.metrics().ticks, 3);
    drop(client);
}

// A57: the sources of the setting are tested with the configuration.
#[test]
fn a_tick_of_zero_or_none_never_comes_and_can_be_switched_off() {
    for off in [None, Some(Duration::ZERO)] {
        let mut hand = Hand::new(Limits::default(), Lab::new());
        hand.mux.set_tick(Some(Duration::from_millis(1)));
        hand.wait_for("tick");
        hand.mux.set_tick(off);
        hand.news();
        hand.mux.conns().after(Duration::from_millis(10), 1);
        hand.wait_for("due 1");
        assert!(!hand.told().contains(&"tick".to_owned()));
    }
}

// A58
#[test]
fn a_tick_slower_than_its_period_counts_the_next_from_its_end() {
    let spans: Rc<RefCell<Vec<(Instant, Instant)>>> = Rc::default();
    let kept = Rc::clone(&spans);
    let lab = Lab::new().on_tick(move |_| {
        let begun = Instant::now();
        spin(Duration::from_millis(12));
        kept.borrow_mut().push((begun, Instant::now()));
    });
    let mut hand = Hand::new(Limits::default(), lab);
    hand.mux.set_tick(Some(Duration::from_millis(6)));
    hand.until(|_| spans.borrow().len() == 4);
    let spans = spans.borrow();
    assert!(spans.windows(2).all(|two| two[1].0 - two[0].1 >= Duration::from_millis(6)), "{spans:?}");
}

#[test]
fn a_panicking_tick_comes_again() {
    let mut hand = Hand::new(Limits::default(), Lab::new().on_tick(|_| panic!("tick")));
    hand.mux.set_tick(Some(Duration::from_millis(1)));
    hand.until(|mux| mux.conns().metrics().ticks == 3);
    assert_eq!(hand.metrics().panics, 3);
}

#[test]
fn a_slow_callback_does_not_make_the_deadline_of_another_early() {
    let begun: Rc<Cell<Option<Instant>>> = Rc::default();
    let (set, fired) = (Rc::clone(&begun), Rc::clone(&begun));
    let lab = Lab::new().on_line(move |ctx, line| {
        if line == b"slow" {
            spin(Duration::from_millis(60));
        } else {
            set.set(Some(Instant::now()));
            ctx.set_timeout(Duration::from_millis(40));
        }
        Ok(())
    });
    let lab = lab.on_timeout(move |ctx| {
        ctx.server.tell(format!("{}", fired.get().unwrap().elapsed() >= Duration::from_millis(40)));
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (slow, timed) = (hand.client(), hand.client());
    // Both in one turn, the slow one first: the time that it takes does not count for the other.
    slow.send("slow\n");
    timed.send("deadline\n");
    hand.wait_for("2 timeout");
    hand.wait_for("true");
    drop((slow, timed));
}

#[test]
fn a_deadline_set_in_a_slow_callback_counts_from_the_end_of_its_phase() {
    let mut hand = Hand::new(Limits::default(), timing());
    let client = hand.client();
    hand.news();
    client.send("timeout 25;slow 50\n");
    hand.turn();
    assert_eq!(count(&hand.told(), "1 timeout"), 0, "counted from the turn's beginning it would be due");
    hand.wait_for("1 timeout");
}

#[test]
fn our_own_output_moves_no_deadline() {
    let mut run = Run::start(Limits::default(), || {
        let lab = Lab::new().on_connection(|ctx| {
            ctx.set_timeout(Duration::from_millis(40));
            ctx.conns.after(Duration::from_millis(5), 1);
            Ok(())
        });
        lab.on_due(|room, key| {
            room.conns.broadcast(b"tick\n", |_| true);
            if key < 20 {
                room.conns.after(Duration::from_millis(5), key + 1);
            }
        })
    });
    let mut client = run.client();
    run.wait_for("1 timeout");
    let told = run.told();
    let before = told.iter().position(|event| event == "1 timeout").unwrap();
    assert!(!told[..before].contains(&"due 20".to_owned()), "{told:?}");
    client.expect("tick\n");
}

/// RL C15: what has arrived is served before it is decided who is late.
#[test]
fn input_that_is_here_is_served_before_a_deadline_that_is_due() {
    let lab = Lab::new().on_line(|ctx, line| {
        if line == b"set" {
            ctx.set_timeout(Duration::from_millis(2))
        } else {
            ctx.clear_timeout()
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let client = hand.client();
    client.send("set\n");
    hand.wait_for("1 line set");
    spin(Duration::from_millis(10));
    client.send("clear\n");
    hand.turn();
    hand.mux.conns().after(Duration::from_millis(5), 1);
    hand.wait_for("due 1");
    assert_eq!(count(&hand.told(), "1 timeout"), 0);
}

#[test]
fn deadlines_in_random_order_come_in_order_and_none_early() {
    let set: Rc<RefCell<Vec<Option<Instant>>>> = Rc::new(RefCell::new(vec![None; 501]));
    let early = Rc::new(Cell::new(0));
    let (kept, count) = (Rc::clone(&set), Rc::clone(&early));
    let lab = Lab::new().on_due(move |_, key| {
        let due = kept.borrow_mut()[usize::try_from(key).unwrap()].take().expect("each fires once");
        count.set(count.get() + u32::from(Instant::now() < due));
    });
    let mut hand = Hand::new(Limits { expiries_per_turn: 7, ..Limits::default() }, lab);
    for key in 0..500 {
        let after = Duration::from_micros(fastrand::u64(..50_000));
        set.borrow_mut()[key] = Some(Instant::now() + after);
        hand.mux.conns().after(after, key as u64);
    }
    // The moments above were taken before the phase began to count, so they are lower bounds.
    hand.until(|_| set.borrow().iter().all(Option::is_none));
    assert_eq!((early.get(), hand.metrics().expiries), (0, 500));
}

/// RL C16, C18: nothing due, nothing done.
#[test]
fn a_server_with_a_far_deadline_does_not_wake_up_before_it() {
    let mut run = Run::start(Limits::default(), || {
        Lab::new().on_connection(|ctx| {
            ctx.set_timeout(Duration::from_millis(150));
            Ok(())
        })
    });
    let _client = run.client();
    run.wait_for("1 connection");
    let before = run.metrics().turns;
    run.wait_for("1 timeout");
    // The turn of the question, of a writable event, of the wheel's coarse steps, of the deadline.
    let turns = run.metrics().turns - before;
    assert!(turns <= 8, "{turns} turns in 150 ms of silence");
}
