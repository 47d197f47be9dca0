//! The limits on bytes and lines, each below, at and above it, and the defaults of all limits.

mod common;
mod lab;

use std::time::Duration;

use lab::{BOTH, Hand, Lab, Run};
use lineplex::config::{KeepAlive, Limits, LongLine, OnPanic};

const KIB: usize = 1024;

#[test]
fn the_defaults_are_as_stated() {
    let seconds = Duration::from_secs;
    let keepalive = KeepAlive { idle: seconds(60), interval: seconds(15), count: 4 };
    let stated = Limits {
        requests_per_turn: 1024,
        line_max_bytes: 64 * KIB,
        long_line: LongLine::Close,
        input_max_bytes: 1024 * KIB,
        output_soft_bytes: 256 * KIB,
        output_hard_bytes: 1024 * KIB,
        max_connections: None,
        max_per_address: None,
        max_per_network: None,
        network_prefix_v4: 24,
        network_prefix_v6: 64,
        lines_per_second: None,
        lines_burst: 40,
        line_time: None,
        output_stall_time: Some(Duration::from_secs(30)),
        idle_time: None,
        drain_time: seconds(10),
        linger_time: seconds(2),
        linger_max_time: seconds(10),
        linger_max_bytes: 1024 * KIB,
        connect_time: seconds(10),
        stop_time: seconds(10),
        accepts_per_turn: 64,
        bytes_per_turn: 64 * KIB,
        lines_per_turn: 128,
        expiries_per_turn: 256,
        gather: false,
        gather_max_time: Duration::from_millis(1),
        slow_turn: Duration::from_millis(100),
        on_panic: OnPanic::Close,
        keepalive: Some(keepalive),
        tcp_user_timeout: Some(seconds(30)),
        tcp_nodelay: true,
        tcp_notsent_lowat: Some(16 * 1024),
        offload_threads: 2,
        offload_queue: 64,
        handle_queue: 65_536,
    };
    assert_eq!(Limits::default(), stated);
}

// A74, RL D1
#[test]
fn a_line_at_the_limit_passes_and_one_byte_more_closes_with_a_word() {
    for net in BOTH {
        let limits = Limits { line_max_bytes: 100, ..Limits::default() };
        let mut run = Run::on(net, limits, Lab::new);
        for (n, (length, ending)) in
            [(99, "\n"), (100, "\r\n"), (100, "\n"), (101, "\n"), (101, "")].iter().enumerate()
        {
            let mut client = run.client();
            let line = "x".repeat(*length);
            client.send(format!("{line}{ending}"));
            if *length <= 100 {
                client.expect(format!("{line}\n"));
            } else {
                client.expect("Line too long.\r\n");
                client.expect_eof();
                drop(client);
                run.wait_for(&format!("{} close line-too-long", n + 1));
            }
        }
        assert_eq!(run.metrics().long_lines, 2);
    }
}

#[test]
fn an_overlong_line_is_skipped_by_policy_and_the_next_is_served() {
    for net in BOTH {
        let limits = Limits { line_max_bytes: 10, long_line: LongLine::Skip, ..Limits::default() };
        let run = Run::on(net, limits, Lab::new);
        let mut client = run.client();
        client.send(format!(
            "before\n{}\n0123456789\n01234567890\n{}\nafter\n",
            "x".repeat(11),
            "y".repeat(300_000)
        ));
        client.expect("before\n0123456789\nafter\n");
        assert_eq!(run.metrics().long_lines, 3);
    }
}

// A74
#[test]
fn endless_input_without_an_ending_takes_bounded_memory_and_closes() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), Lab::new);
        let mut client = run.client();
        let sent = (0..1000).take_while(|_| client.try_send([b'x'; 64 * KIB]).is_ok()).count();
        assert!(sent < 1000, "64 MB without an ending");
        // What it sent on after the close may have reset what was said to it.
        let _ = client.next_line();
        run.wait_for("1 close line-too-long");
        assert!(run.metrics().bytes_in < 4 * 1024 * KIB as u64);
    }
}

#[test]
fn unconsumed_input_at_the_limit_stays_and_one_byte_more_closes() {
    for net in BOTH {
        let limits = Limits { input_max_bytes: 5000, ..Limits::default() };
        let lab = Lab::new().on_input(|_, _| Ok(()));
        let mut hand = Hand::on(net, limits, lab);
        let mut client = hand.client();
        client.send([b'x'; 5000]);
        hand.until(|mux| mux.conns().metrics().bytes_in == 5000);
        hand.turn();
        let id = hand.id_of_only();
        assert!(hand.mux.conns().is_open(id));
        client.send("y");
        hand.until(|mux| !mux.conns().is_open(id));
        client.expect("Too much at once.\r\n");
        client.expect_eof();
        drop(client);
        hand.wait_for("1 close input-limit");
    }
}

#[test]
fn over_the_soft_limit_a_client_is_not_read_until_half_is_gone() {
    for net in BOTH {
        let limits =
            Limits { output_soft_bytes: 512 * KIB, output_hard_bytes: 64 * 1024 * KIB, ..Limits::default() };
        let mut hand = Hand::on(net, limits, Lab::new());
        let mut client = hand.client();
        let id = hand.id_of_only();
        // Until the kernel takes no more, then exactly up to the limit.
        assert!(hand.mux.conns().write(id, &vec![b'x'; 16 * 1024 * KIB]));
        hand.turn();
        let sent = hand.metrics().bytes_out;
        hand.mux.conns().discard_output(id);
        assert!(hand.mux.conns().write(id, &vec![b'x'; 512 * KIB]));
        client.send("at the limit\n");
        hand.until(|mux| mux.conns().metrics().lines == 1);
        // Its echo is above the limit.
        client.send("above\n");
        hand.turn();
        hand.turn();
        assert_eq!(hand.metrics().lines, 1);
        let rest = usize::try_from(hand.metrics().bytes_out).unwrap() + hand.mux.conns().unsent(id);
        assert!(rest as u64 > sent);
        let reader = std::thread::spawn(move || {
            client.next_bytes(rest).unwrap();
            client.expect("above\n");
        });
        hand.until(|_| reader.is_finished());
        reader.join().unwrap();
    }
}

#[test]
fn output_at_the_hard_limit_is_kept_and_one_byte_more_closes() {
    for net in BOTH {
        let limits = Limits { output_soft_bytes: 1000, output_hard_bytes: 1000, ..Limits::default() };
        let mut hand = Hand::on(net, limits, Lab::new());
        let (mut one, mut two) = (hand.client(), hand.client());
        let (first, second) = (hand.id("1"), hand.id("2"));
        let conns = hand.mux.conns();
        assert!(conns.write(first, &[b'x'; 999]) && conns.write(first, b"x"));
        assert!(conns.write(second, &[b'x'; 1000]));
        assert!(!conns.write(second, b"y"));
        assert!(!conns.write(second, b""), "it closes");
        assert_eq!((conns.unsent(first), conns.unsent(second)), (1000, 1000));
        hand.wait_for("2 close output-limit");
        one.expect([b'x'; 1000]);
        two.expect_eof();
        assert_eq!((hand.metrics().output_limit, hand.metrics().closed), (1, 1));
        assert!(!hand.mux.conns().write(first, &[b'x'; 1001]));
        hand.wait_for("1 close output-limit");
    }
}

#[test]
fn a_broadcast_or_formatted_text_past_the_hard_limit_closes_too_and_is_not_counted() {
    let limits = Limits { output_soft_bytes: 2000, output_hard_bytes: 2000, ..Limits::default() };
    let mut hand = Hand::new(limits, Lab::new());
    let (_one, mut two) = (hand.client(), hand.client());
    let (first, second) = (hand.id("1"), hand.id("2"));
    let conns = hand.mux.conns();
    conns.write(first, &[b'x'; 1001]);
    assert_eq!(conns.broadcast(&[b'b'; 1000], |_| true), 1);
    assert_eq!(conns.multicast(&[b'm'; 1000], [first, second]), 1);
    hand.wait_for("1 close output-limit");
    two.expect([[b'b'; 1000], [b'm'; 1000]].concat());
    assert!(!write!(hand.mux.conns().to(second), "{:2001}", "wide"));
    hand.wait_for("2 close output-limit");
}

// A73, RL D2
#[test]
fn a_client_that_never_reads_costs_no_more_than_the_limit_and_the_others_are_served() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            Lab::new().on_line(|ctx, _| {
                for _ in 0..200 {
                    let holder = ctx.server.id("1");
                    ctx.conns.write(holder, &[b'x'; 1024 * KIB]);
                    assert!(ctx.conns.unsent(holder) <= 1024 * KIB);
                }
                ctx.write(b"ok\n");
                Ok(())
            })
        });
        let holder = run.client();
        run.wait_for("1 connection");
        let mut other = run.client();
        other.send("flood\n");
        other.expect("ok\n");
        run.wait_for("1 close output-limit");
        other.send("flood\n");
        other.expect("ok\n");
        assert!(run.metrics().bytes_out < 1100 * KIB as u64);
        assert_eq!(run.metrics().panics, 0);
        drop(holder);
    }
}
