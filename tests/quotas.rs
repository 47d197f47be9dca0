//! How many, how fast, how long: connections, rates, deadlines of the mux, the budgets of a turn, the queues.

mod common;
mod lab;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::{Client, DEADLINE};
use lab::{BOTH, Hand, Lab, LabClient, Net, Run};
use lineplex::config::Limits;
use lineplex::{Ended, Refused};

const REFUSAL: &str = "Too many connections, try again later.\r\n";

#[test]
fn max_connections_is_the_descriptor_limit_less_32_and_no_more_even_when_asked() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let most = hand.mux.conns().limits().max_connections.unwrap();
    let mut more = Hand::new(Limits { max_connections: Some(usize::MAX), ..Limits::default() }, Lab::new());
    assert_eq!(more.mux.conns().limits().max_connections, Some(most));
    #[cfg(target_os = "linux")]
    {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3).unwrap().parse::<usize>().unwrap(), most + 32);
    }
}

#[test]
fn the_last_connection_is_taken_and_the_next_refused_with_a_line_until_one_goes() {
    for net in BOTH {
        let mut run = Run::on(net, Limits { max_connections: Some(3), ..Limits::default() }, Lab::new);
        let mut clients: Vec<Client> = (0..3).map(|_| run.client()).collect();
        run.wait_for("3 connection");
        for _ in 0..5 {
            let mut refused = run.client();
            refused.expect(REFUSAL);
            refused.expect_eof();
        }
        assert_eq!((run.metrics().refused, run.metrics().accepted), (5, 8));
        drop(clients.remove(0));
        run.wait_for("1 close eof");
        let mut last = run.client();
        last.send("let in\n");
        last.expect("let in\n");
        assert!(!run.told().iter().any(|event| event.starts_with("4 ") || event == "accepted 4"));
    }
}

#[test]
fn a_flood_of_refused_clients_leaves_no_slot_and_no_count_behind() {
    let mut run = Run::start(Limits { max_connections: Some(1), ..Limits::default() }, Lab::new);
    let keeper = run.client();
    run.wait_for("1 connection");
    let refused: Vec<Client> = (0..100).map(|_| run.client()).collect();
    let until = Instant::now() + DEADLINE;
    while run.metrics().refused < 100 {
        assert!(Instant::now() < until);
    }
    assert!(run.metrics().open <= 17, "one served and at most sixteen that are told why");
    drop(refused);
    while run.metrics().open > 1 {
        assert!(Instant::now() < until);
    }
    drop(keeper);
    run.wait_for("1 close eof");
    let mut next = run.client();
    next.send("in\n");
    next.expect("in\n");
}

// RL A7
#[test]
fn one_address_has_its_share_and_another_is_not_touched() {
    let mut run = Run::start(Limits { max_per_address: Some(2), ..Limits::default() }, Lab::new);
    let addr: SocketAddr = run.addr.parse().unwrap();
    let from = |last| Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), addr);
    let (one, mut two) = (from(2), from(2));
    two.send("in\n");
    two.expect("in\n");
    from(2).expect(REFUSAL);
    let mut other = from(3);
    other.send("in\n");
    other.expect("in\n");
    drop(one);
    run.wait_for("1 close eof");
    let mut again = from(2);
    again.send("in\n");
    again.expect("in\n");
    from(2).expect(REFUSAL);
}

#[test]
fn one_network_has_its_share_as_wide_as_its_prefix() {
    for (prefix, same) in [(24, true), (32, false), (0, true)] {
        let limits = Limits { max_per_network: Some(1), network_prefix_v4: prefix, ..Limits::default() };
        let run = Run::start(limits, Lab::new);
        let addr: SocketAddr = run.addr.parse().unwrap();
        let from = |third, last| Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, third, last)), addr);
        let let_in = |mut client: Client| {
            client.send("in\n");
            let line = client.expect_line();
            (line == "in", client)
        };
        let (first, _first) = let_in(from(1, 1));
        let (neighbour, _neighbour) = let_in(from(1, 2));
        let (far, _far) = let_in(from(2, 1));
        assert_eq!((first, neighbour, far), (true, !same, prefix != 0), "/{prefix}");
    }
}

#[test]
fn denied_peers_give_their_share_back() {
    let limits = Limits { max_per_address: Some(1), ..Limits::default() };
    let mut run = Run::start(limits, || Lab::new().on_allow(|_, peer| peer.serial() > 3));
    for n in 1..=3 {
        run.client().expect_eof();
        run.wait_for(&format!("done {n} Denied"));
    }
    let mut client = run.client();
    client.send("in\n");
    client.expect("in\n");
}

// RL D8
#[test]
fn a_flood_of_lines_is_slowed_to_its_rate_after_the_burst_and_none_is_lost() {
    for net in BOTH {
        let limits = Limits { lines_per_second: Some(200), lines_burst: 5, ..Limits::default() };
        let run = Run::on(net, limits, Lab::new);
        let mut client = run.client();
        let begun = Instant::now();
        client.send("x\n".repeat(25));
        client.expect("x\n".repeat(5));
        client.expect("x\n".repeat(20));
        assert!(
            begun.elapsed() >= Duration::from_millis(95),
            "20 lines at 200 a second: {:?}",
            begun.elapsed()
        );
        // The others have a burst of their own.
        let mut other = run.client();
        other.send("x\n".repeat(5));
        other.expect("x\n".repeat(5));
    }
}

// RL D8, for a protocol without lines.
#[test]
fn a_flood_of_messages_that_are_spent_is_slowed_to_the_same_rate() {
    let make = || {
        Lab::new().on_input(|ctx, input| {
            while !input.is_empty() && input.spend() {
                ctx.conns.write(ctx.id, input.take(1).unwrap_or_default());
            }
            Ok(())
        })
    };
    for net in BOTH {
        let limits = Limits { lines_per_second: Some(200), lines_burst: 5, ..Limits::default() };
        let run = Run::on(net, limits, make);
        let mut client = run.client();
        let begun = Instant::now();
        client.send("x".repeat(25));
        client.expect("x".repeat(25));
        assert!(begun.elapsed() >= Duration::from_millis(95), "20 at 200 a second: {:?}", begun.elapsed());
    }
}

#[test]
fn a_throttled_client_that_half_closes_still_gets_every_reply() {
    for net in BOTH {
        let limits = Limits { lines_per_second: Some(500), lines_burst: 1, ..Limits::default() };
        let run = Run::on(net, limits, Lab::new);
        let mut client = run.client();
        client.send("x\n".repeat(30));
        client.half_close();
        assert_eq!(client.expect_to_eof().len(), 60);
    }
}

// RL D4
#[test]
fn a_line_that_takes_too_long_closes_although_bytes_keep_coming() {
    for net in BOTH {
        let limits = Limits { line_time: Some(Duration::from_millis(50)), ..Limits::default() };
        let mut run = Run::on(net, limits, Lab::new);
        let mut client = run.client();
        // Whole lines start no deadline, and silence between lines is no offence.
        client.send("whole\n");
        client.expect("whole\n");
        let begun = Instant::now();
        client.send("p");
        while run.ask(|lab, room| room.conns.is_open(lab.id("1"))) {
            let _ = client.try_send("x");
            assert!(begun.elapsed() < DEADLINE);
        }
        assert!(begun.elapsed() >= Duration::from_millis(50));
        drop(client);
        run.wait_for("1 close line-deadline");
    }
}

// RL D2
#[test]
fn who_takes_nothing_of_its_answers_for_too_long_is_closed_whatever_it_goes_on_sending() {
    for net in BOTH {
        let limits = Limits { output_stall_time: Some(Duration::from_millis(1)), ..Limits::default() };
        let mut run = Run::on(net, limits, || {
            Lab::new().on_line(|ctx, line| {
                // More than the kernel takes from us for one client, less than the hard limit.
                let piece = vec![b'x'; 64 * 1024];
                while line == b"flood" && ctx.conns.unsent(ctx.id) < 600 * 1024 {
                    ctx.write(&piece);
                }
                ctx.write(b"\n");
                Ok(())
            })
        });
        let (reader, mut other) = (run.client(), run.client());
        reader.send("flood\nand what is never read\n");
        run.wait_for("1 line flood");
        other.send("served\n");
        other.expect("\n");
        run.wait_for("1 close output-stalled");
        other.send("served\n");
        other.expect("\n");
        assert_eq!(run.metrics().output_limit, 1);
    }
}

// RL D5
#[test]
fn silence_closes_and_our_own_output_does_not_put_it_off() {
    for net in BOTH {
        let limits = Limits { idle_time: Some(Duration::from_millis(60)), ..Limits::default() };
        let mut run = Run::on(net, limits, || {
            let lab = Lab::new().on_connection(|ctx| {
                ctx.conns.after(Duration::from_millis(5), 1);
                Ok(())
            });
            lab.on_due(|room, key| {
                room.conns.broadcast(b"ping\n", |_| true);
                if key < 100 {
                    room.conns.after(Duration::from_millis(5), key + 1);
                }
            })
        });
        let begun = Instant::now();
        let mut client = run.client();
        client.expect("ping\n");
        client.expect_to_eof();
        assert!(begun.elapsed() >= Duration::from_millis(60));
        drop(client);
        run.wait_for("1 close idle");
        let told = run.told();
        let closed = told.iter().position(|event| event == "1 close idle").unwrap();
        assert!(!told[..closed].contains(&"due 100".to_owned()), "half a second of our own output");
    }
}

#[test]
fn a_client_that_speaks_in_time_is_not_idle() {
    let idle_time = Some(Duration::from_millis(30));
    let limits = Limits { idle_time, linger_time: Duration::ZERO, ..Limits::default() };
    let mut hand = Hand::new(limits, Lab::new().on_line(|_, _| Ok(())));
    let client = hand.client();
    let id = hand.id_of_only();
    let begun = Instant::now();
    // However slow the machine is: what has arrived counts before the silence does.
    while begun.elapsed() < Duration::from_millis(100) {
        client.send("x\n");
        hand.turn();
        assert!(hand.mux.conns().is_open(id));
    }
    hand.wait_for("1 close idle");
}

#[test]
fn a_turn_gives_a_client_its_lines_and_no_more() {
    for lines_per_turn in [1, 2, 7, 128] {
        let limits = Limits { lines_per_turn, ..Limits::default() };
        let mut hand = Hand::new(limits, Lab::new());
        let mut client = hand.client();
        let budget = u64::from(lines_per_turn);
        client.send("x\n".repeat(2 * lines_per_turn as usize + 1));
        for lines in [budget, 2 * budget, 2 * budget + 1] {
            hand.turn();
            assert_eq!(hand.metrics().lines, lines);
        }
        client.expect("x\n".repeat(2 * lines_per_turn as usize + 1));
        let turns = hand.metrics().turns;
        client.send("x\n".repeat(lines_per_turn as usize));
        hand.turn();
        assert_eq!((hand.metrics().lines, hand.metrics().turns), (3 * budget + 1, turns + 1));
    }
}

#[test]
fn a_turn_reads_so_many_bytes_of_a_client_and_no_more() {
    let limits = Limits { bytes_per_turn: 2048, ..Limits::default() };
    let lab = Lab::new().on_input(|_, input| {
        input.rest();
        Ok(())
    });
    let mut hand = Hand::new(limits, lab);
    let client = hand.client();
    client.send([b'x'; 5000]);
    for bytes in [2048, 4096, 5000] {
        hand.turn();
        assert_eq!(hand.metrics().bytes_in, bytes);
    }
    let mut least = Hand::new(Limits { bytes_per_turn: 0, ..Limits::default() }, Lab::new());
    let client = least.client();
    client.send([b'x'; 1500]);
    least.turn();
    assert_eq!(least.metrics().bytes_in, 1024, "at least 1 KiB");
}

#[test]
fn a_turn_takes_so_many_clients_and_the_rest_in_the_next() {
    let mut hand = Hand::new(Limits { accepts_per_turn: 3, ..Limits::default() }, Lab::new());
    let _clients: Vec<Client> = (0..7).map(|_| Client::connect(&hand.addr)).collect();
    for accepted in [3, 6, 7] {
        hand.turn();
        assert_eq!(hand.metrics().accepted, accepted);
    }
    let mut none = Hand::new(Limits { accepts_per_turn: 0, ..Limits::default() }, Lab::new());
    let _client = Client::connect(&none.addr);
    none.turn();
    assert_eq!(none.metrics().accepted, 1, "at least one");
}

#[test]
fn a_turn_serves_so_many_deadlines_and_the_rest_in_the_next() {
    let mut hand = Hand::new(Limits { expiries_per_turn: 10, ..Limits::default() }, Lab::new());
    for key in 0..25 {
        hand.mux.conns().after(Duration::ZERO, key);
    }
    hand.mux.enter(|_, _| ());
    for expiries in [10, 20, 25] {
        hand.turn();
        assert_eq!(hand.metrics().expiries, expiries);
    }
}

#[test]
fn the_queue_of_requests_takes_its_number_and_refuses_the_next_until_a_turn() {
    let mut hand = Hand::new(Limits { handle_queue: 3, ..Limits::default() }, Lab::new());
    let handle = hand.mux.handle();
    for round in 0..3 {
        for _ in 0..3 {
            handle.run(|lab, _| lab.tell("ran")).unwrap();
        }
        assert_eq!(handle.run(|lab, _| lab.tell("too many")), Err(Refused::Full), "round {round}");
        hand.turn();
        assert_eq!(hand.news(), ["ran"; 3]);
    }
    for _ in 0..3 {
        handle.run(|_, _| ()).unwrap();
    }
    handle.stop(5).expect("a stop is always taken");
    assert_eq!(hand.turn(), Some(Ended::Stop { status: 5, closed: 0, cut: 0 }));
    assert_eq!(handle.run(|_, _| ()), Err(Refused::Ended));
}

/// Holds offloaded jobs until the test lets them go.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut open = self.open.lock().expect("nobody panics with it");
        while !*open {
            open = self.changed.wait(open).expect("nobody panics with it");
        }
    }

    fn open(&self) {
        *self.open.lock().expect("nobody panics with it") = true;
        self.changed.notify_all();
    }
}

#[test]
fn the_offload_queue_takes_its_number_beside_the_running_ones_and_refuses_the_next() {
    let limits = Limits { offload_threads: 2, offload_queue: 3, ..Limits::default() };
    let mut hand = Hand::new(limits, Lab::new());
    let _client = hand.client();
    let (gate, (started, starts)) = (Arc::new(Gate::default()), mpsc::channel());
    let id = hand.id_of_only();
    let submit = |hand: &mut Hand| {
        let (answer, answers) = mpsc::channel();
        let (gate, started) = (Arc::clone(&gate), started.clone());
        let work = move |_: &mut LabClient, ctx: &mut lab::Cx<'_>| {
            let job = move || {
                started.send(()).unwrap();
                gate.pass();
            };
            let taken = ctx.offload(job, |_, ctx, ()| {
                ctx.server.tell("result");
                Ok(())
            });
            answer.send(taken.map_err(|error| error.kind())).unwrap();
            Ok(())
        };
        hand.mux.handle().with(id, work).unwrap();
        hand.turn();
        answers.try_recv().unwrap()
    };
    // Two run, each known to have begun before the next is submitted; three wait.
    for _ in 0..2 {
        submit(&mut hand).unwrap();
        starts.recv_timeout(DEADLINE).unwrap();
    }
    for _ in 0..3 {
        submit(&mut hand).unwrap();
    }
    assert_eq!(submit(&mut hand), Err(std::io::ErrorKind::WouldBlock));
    assert_eq!((hand.metrics().offloads, hand.metrics().offloads_refused), (5, 1));
    gate.open();
    hand.news();
    for _ in 0..5 {
        hand.wait_for("result");
    }
}

#[test]
fn a_slow_turn_is_counted_and_a_quick_one_is_not() {
    let lab = Lab::new().on_line(|_, _| {
        let until = Instant::now() + Duration::from_millis(60);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits { slow_turn: Duration::from_millis(50), ..Limits::default() }, lab);
    let client = hand.client();
    client.send("slow\n");
    hand.turn();
    assert!(hand.metrics().slow_turns >= 1);
    // How quick a turn is, is the machine's affair: here no turn is slow.
    let mut patient = Hand::new(Limits { slow_turn: DEADLINE, ..Limits::default() }, Lab::new());
    let client = patient.client();
    client.send("quick\n");
    patient.turn();
    assert_eq!((patient.metrics().lines, patient.metrics().slow_turns), (1, 0));
}

// A76
#[test]
fn fifteen_hundred_clients_are_all_greeted_and_all_served() {
    for net in BOTH {
        let run = Run::on(net, Limits::default(), || {
            Lab::new().on_connection(|ctx| {
                let serial = ctx.peer.serial();
                write!(ctx, "welcome {serial}\r\n");
                Ok(())
            })
        });
        let mut clients: Vec<Client> = (0..1500).map(|_| run.client()).collect();
        let mut serials = HashMap::new();
        for client in &mut clients {
            *serials.entry(client.expect_line()).or_insert(0) += 1;
        }
        assert!(serials.len() == 1500 && serials.values().all(|count| *count == 1));
        for client in clients.iter().rev() {
            client.send("x\n");
        }
        clients.iter_mut().for_each(|client| client.expect("x\n"));
        assert_eq!(run.metrics().open, 1500);
        assert_eq!(net == Net::Tcp, run.addr.parse::<SocketAddr>().is_ok());
    }
}
