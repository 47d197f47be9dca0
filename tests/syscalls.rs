//! What the loop asks of the kernel, by its own counters and not by a clock.
//!
//! Turns are taken by hand. On a Unix socket what a client has sent is at the server when its call returns, so one
//! turn serves all of it; on TCP turns are taken until it has come.

mod common;
mod lab;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, DEADLINE};
use lab::{BOTH, Hand, Lab, Net, Run};
use lineplex::config::Limits;
use lineplex::metrics::Metrics;
use socket2::SockRef;

#[test]
fn an_echoed_line_costs_one_recv_and_one_send() {
    for net in BOTH {
        let mut hand = Hand::on(net, Limits::default(), Lab::new());
        let mut client = hand.client();
        let before = hand.metrics();
        for count in 1..=100 {
            client.send("hello\n");
            hand.until(|mux| mux.conns().metrics().bytes_out == count * 6);
            client.expect("hello\n");
        }
        let after = hand.metrics();
        assert_eq!(after.recv_calls - before.recv_calls, 100, "{net:?}");
        assert_eq!(after.send_calls - before.send_calls, 100, "{net:?}");
        assert_eq!((after.recv_empty, after.send_refused), (0, 0), "{net:?}");
        assert_eq!((after.lines, after.accept_calls), (100, before.accept_calls), "{net:?}");
        assert_eq!((after.registrations, after.deregistrations), (before.registrations, 0), "{net:?}");
        if net == Net::Unix {
            assert_eq!((after.turns - before.turns, after.waits - before.waits), (100, 100));
        }
    }
}

#[test]
fn a_burst_of_lines_in_one_packet_costs_one_recv_and_one_send() {
    for net in BOTH {
        let mut hand = Hand::on(net, Limits::default(), Lab::new());
        let mut client = hand.client();
        let before = hand.metrics();
        let burst = "line\r\n".repeat(128);
        client.send(&burst);
        hand.until(|mux| mux.conns().metrics().bytes_out > 0);
        client.expect(burst.replace('\r', ""));
        let after = hand.metrics();
        assert_eq!(after.lines, 128, "all that one turn gives");
        assert_eq!(after.recv_calls - before.recv_calls, 1, "{net:?}");
        assert_eq!(after.send_calls - before.send_calls, 1, "{net:?}");
        assert_eq!(after.recv_empty, 0);
    }
}

#[test]
fn a_turn_sends_once_to_each_receiver_however_many_lines_were_broadcast_in_it() {
    // Copied to each, and shared among all.
    for length in [10, 2000] {
        let mut hand = Hand::new(
            Limits::default(),
            Lab::new().on_line(|ctx, line| {
                let line = [line, b"\n"].concat();
                ctx.conns.broadcast(&line, |_| true);
                ctx.conns.broadcast(&line, |_| true);
                Ok(())
            }),
        );
        let mut clients: Vec<Client> = (0..10).map(|_| hand.client()).collect();
        let before = hand.metrics();
        let line = format!("{}\n", "x".repeat(length));
        for client in &clients {
            client.send(&line);
        }
        hand.turn();
        let after = hand.metrics();
        assert_eq!(after.lines, 10, "one turn has served all");
        assert_eq!(after.recv_calls - before.recv_calls, 10);
        assert_eq!(after.send_calls - before.send_calls, 10, "{length}");
        for client in &mut clients {
            client.expect(line.repeat(20));
        }
    }
}

/// On TCP lines may come in more turns than one: each turn is held to it.
#[test]
fn several_lines_of_several_senders_cost_one_send_per_receiver_and_turn() {
    for net in BOTH {
        let lab = Lab::new().on_line(|ctx, line| {
            ctx.conns.broadcast(&[line, b"\n"].concat(), |_| true);
            Ok(())
        });
        let mut hand = Hand::on(net, Limits::default(), lab);
        let mut clients: Vec<Client> = (0..8).map(|_| hand.client()).collect();
        let start = hand.metrics();
        for client in &clients[..4] {
            client.send("to all\n".repeat(16));
        }
        let (mut turns, mut before) = (0, start);
        while before.lines < 4 * 16 {
            assert!(hand.mux.turn(Some(DEADLINE)).unwrap().is_none());
            let after = hand.metrics();
            let spoke = u64::from(after.lines > before.lines);
            assert_eq!(after.send_calls - before.send_calls, spoke * 8, "{net:?}");
            (turns, before) = (turns + spoke, after);
        }
        assert!(turns == 1 || net == Net::Tcp, "one turn has served all");
        let after = hand.metrics();
        assert!((4..=4 * turns).contains(&(after.recv_calls - start.recv_calls)), "{net:?}");
        assert_eq!((after.recv_empty, after.send_refused), (0, 0), "{net:?}");
        assert_eq!(after.registrations, start.registrations, "{net:?}");
        for client in &mut clients {
            client.expect("to all\n".repeat(4 * 16));
        }
    }
}

/// accept, the registration, two receives (the line and the end), a send and a close; what the waits and the accepts
/// that find nobody cost is shared.
#[test]
fn a_client_that_comes_for_one_line_costs_six_calls_and_its_share_of_the_waits() {
    for net in BOTH {
        for at_once in [1, 32] {
            let mut hand = Hand::on(net, Limits::default(), Lab::new());
            hand.turn();
            let before = hand.metrics();
            let mut clients: Vec<Client> = (0..at_once).map(|_| Client::connect(&hand.addr)).collect();
            turns_until(&mut hand, |metrics| metrics.accepted == at_once);
            clients.iter().for_each(|client| client.send("hello\n"));
            turns_until(&mut hand, |metrics| metrics.bytes_out == at_once * 6);
            clients.iter_mut().for_each(|client| client.expect("hello\n"));
            clients.clear();
            turns_until(&mut hand, |metrics| metrics.closed == at_once);

            let after = hand.metrics();
            let grown = |count: fn(&Metrics) -> u64| count(&after) - count(&before);
            assert_eq!(grown(|metrics| metrics.registrations), at_once, "{net:?}");
            assert_eq!(grown(|metrics| metrics.recv_calls), 2 * at_once, "{net:?}");
            assert_eq!(grown(|metrics| metrics.send_calls), at_once, "{net:?}");
            assert_eq!((after.recv_empty, after.send_refused, after.deregistrations), (0, 0, 0), "{net:?}");
            let (waits, found_nobody) =
                (grown(|metrics| metrics.waits), grown(|metrics| metrics.accept_calls) - at_once);
            assert!(found_nobody <= waits, "once a turn at most; {net:?}");
            if net == Net::Unix {
                assert_eq!((waits, found_nobody), (3, 1), "{at_once} at once");
            }
            // On TCP what one has sent may come in another turn than what the next one has.
            assert!(at_once == 1 || waits + found_nobody <= at_once, "{waits} waits; {net:?}");
        }
    }
}

#[test]
fn what_different_phases_write_to_a_connection_leaves_in_one_send() {
    let lab = Lab::new().on_line(|ctx, _| {
        ctx.write(b"line ");
        let id = ctx.id;
        ctx.conns.wake(id);
        ctx.set_timeout(Duration::ZERO);
        Ok(())
    });
    let lab = lab.on_wake(|ctx| {
        ctx.write(b"wake ");
        Ok(())
    });
    let lab = lab.on_timeout(|ctx| {
        ctx.write(b"timeout\n");
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let mut client = hand.client();
    let before = hand.metrics().send_calls;
    client.send("go\n");
    hand.until(|mux| mux.conns().metrics().bytes_out > 0);
    client.expect("line wake timeout\n");
    assert_eq!(hand.metrics().send_calls - before, 1);
}

#[test]
fn each_connection_and_listener_is_registered_once_and_never_again() {
    for net in BOTH {
        let mut hand = Hand::on(net, Limits::default(), Lab::new());
        assert_eq!(hand.metrics().registrations, 1, "the listener");
        let mut clients: Vec<Client> = (0..5).map(|_| hand.client()).collect();
        assert_eq!(hand.metrics().registrations, 6, "{net:?}");
        let id = hand.id("1");
        for (count, client) in (1..).zip(&mut clients) {
            client.send("hello\n");
            hand.until(|mux| mux.conns().metrics().lines == count);
            client.expect("hello\n");
        }
        hand.mux.conns().pause_input(id);
        clients[0].send("paused\n");
        hand.turn();
        hand.mux.conns().resume_input(id);
        hand.until(|mux| mux.conns().metrics().lines == 6);
        // It blocks and is free again.
        hand.mux.conns().write(id, &[b'x'; MUCH]);
        clients[0].expect("paused\n");
        read_all(&mut hand, &mut clients[0], MUCH);
        clients.clear();
        hand.until(|mux| mux.conns().metrics().open == 0);
        assert_eq!(hand.metrics().registrations, 6, "{net:?}");
    }
}

#[test]
fn a_quiet_server_has_no_sweep_and_one_turn_for_what_is_due() {
    for net in BOTH {
        let mut hand = Hand::on(net, Limits::default(), Lab::new());
        let (mut client, _idle) = (hand.client(), hand.client());
        client.send("hello\nhalf a line");
        hand.until(|mux| mux.conns().metrics().lines == 1);
        client.expect("hello\n");
        hand.turn();
        // Longer than a sweep would let wait for itself.
        hand.mux.enter(|_, room| room.conns.after(Duration::from_millis(1300), 7));
        let before = hand.metrics();
        assert!(hand.mux.turn(Some(DEADLINE)).unwrap().is_none());
        let after = hand.metrics();
        assert_eq!(hand.news().last().unwrap(), "due 7", "one wait, and then it is due");
        assert_eq!((after.turns - before.turns, after.waits - before.waits), (1, 1), "{net:?}");
        assert_eq!((after.sweeps, after.lost_edges, after.recv_empty), (0, 0, 0), "{net:?}");
        assert_eq!(after.recv_calls, before.recv_calls);
    }
}

#[test]
fn nothing_turns_while_nothing_happens() {
    let limits = Limits { idle_time: Some(HOUR), line_time: Some(HOUR), ..Limits::default() };
    for net in BOTH {
        let run = Run::with(net, limits.clone(), Lab::new, |mux| mux.set_tick(Some(HOUR)));
        let (mut one, two) = (run.client(), run.client());
        one.send("hello\n");
        one.expect("hello\n");
        two.send("half a line");
        run.ask(|_, room| room.conns.after(HOUR, 1));
        let until = Instant::now() + DEADLINE;
        while run.metrics().bytes_in < 17 {
            assert!(Instant::now() < until);
        }
        let before = run.metrics();
        // The time passes in another loop.
        let mut clock = Hand::new(Limits::default(), Lab::new());
        clock.mux.enter(|_, room| room.conns.after(Duration::from_millis(300), 1));
        clock.wait_for("due 1");
        let after = run.metrics();
        assert_eq!(after.turns - before.turns, 1, "the turn of the question itself; {net:?}");
        assert_eq!(after.waits - before.waits, 1);
        assert_eq!(after.wakes - before.wakes, 1);
        drop(two);
    }
}

#[test]
fn a_reader_that_has_stopped_is_tried_once_a_sweep_and_no_edge_is_lost() {
    for net in BOTH {
        let (mut hand, mut client) = blocked(net);
        let before = hand.metrics();
        assert_eq!(before.blocked, 1, "{net:?}");
        hand.until(|mux| mux.conns().metrics().sweeps >= 2);
        let after = hand.metrics();
        if net == Net::Unix {
            // TCP probes a closed window by itself, and may find some room.
            assert_eq!(after.send_calls - before.send_calls, after.sweeps - before.sweeps);
            assert_eq!(after.bytes_out, before.bytes_out);
        }
        read_all(&mut hand, &mut client, MUCH);
        assert_eq!((hand.metrics().lost_edges, hand.metrics().blocked), (0, 0), "{net:?}");
    }
}

/// A little room in a full socket is no promise of an event: the system tells of much room only.
#[test]
fn a_reader_that_takes_a_little_at_a_time_is_no_lost_edge() {
    for net in BOTH {
        let (mut hand, mut client) = blocked(net);
        let mut read = 0;
        for _ in 0..2 {
            client.expect(vec![b'x'; A_LITTLE]);
            read += A_LITTLE;
            let sweeps = hand.metrics().sweeps + 1;
            hand.until(|mux| mux.conns().metrics().sweeps >= sweeps);
            // The wait that a suspicion is decided after.
            hand.turn();
            assert_eq!(hand.metrics().lost_edges, 0, "{net:?}");
        }
        read_all(&mut hand, &mut client, MUCH - read);
        assert_eq!(hand.metrics().lost_edges, 0, "{net:?}");
    }
}

#[test]
fn urgent_data_does_not_hide_what_lies_behind_it() {
    let mut hand = Hand::on(Net::Tcp, Limits::default(), Lab::new());
    let mut stream = TcpStream::connect(&hand.addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    hand.until(|mux| mux.conns().metrics().accepted == 1);
    let mut total = 0;
    for (before, behind) in [("one\n", "two\n"), ("tel", "net\n"), ("", "six\n")] {
        stream.write_all(before.as_bytes()).unwrap();
        assert_eq!(SockRef::from(&stream).send_out_of_band(b"!").unwrap(), 1);
        stream.write_all(behind.as_bytes()).unwrap();
        let sent = format!("{before}{behind}");
        total += sent.len() as u64;
        hand.until(|mux| mux.conns().metrics().bytes_out == total);
        let mut echo = vec![0; sent.len()];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(String::from_utf8_lossy(&echo), sent);
    }
    let metrics = hand.metrics();
    assert_eq!((metrics.lines, metrics.sweeps, metrics.lost_edges), (4, 0, 0));
}

/// A server that has more for its client than the kernel takes, and the client, which has not read yet.
#[track_caller]
fn blocked(net: Net) -> (Hand, Client) {
    let limits = Limits { tcp_user_timeout: None, ..Limits::default() };
    let mut hand = Hand::on(net, limits, Lab::new());
    let client = hand.client();
    let id = hand.id("1");
    assert!(hand.mux.conns().write(id, &[b'x'; MUCH]));
    // On TCP the kernel goes on for a while: until a second has brought nothing.
    let mut sent = (0, 0);
    hand.until(|mux| {
        let metrics = mux.conns().metrics();
        let settled = metrics.sweeps > sent.0 && metrics.bytes_out == sent.1;
        if metrics.sweeps > sent.0 || metrics.bytes_out != sent.1 {
            sent = (metrics.sweeps, metrics.bytes_out);
        }
        settled
    });
    assert!(hand.mux.conns().unsent(id) > 0, "the test needs a full socket");
    (hand, client)
}

/// Takes turns, each of which waits for an event, until `done` says so.
#[track_caller]
fn turns_until(hand: &mut Hand, done: impl Fn(Metrics) -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done(hand.metrics()) {
        assert!(Instant::now() < until, "not in time");
        assert!(hand.mux.turn(Some(DEADLINE)).expect("the loop goes on").is_none());
    }
}

/// Reads `count` bytes while turns are taken.
#[track_caller]
fn read_all(hand: &mut Hand, client: &mut Client, count: usize) {
    thread::scope(|scope| {
        let reader = scope.spawn(|| client.expect(vec![b'x'; count]));
        hand.until(|_| reader.is_finished());
        reader.join().expect("it has read all");
    });
}

const HOUR: Duration = Duration::from_secs(3600);
/// More than a socket holds by itself, less than the hard limit.
const MUCH: usize = 1_000_000;
const A_LITTLE: usize = 4096;
