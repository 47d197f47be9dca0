//! Clients that behave badly, and systems that run short, without any help of a tracer: nobody else may notice.
//!
//! Method: the example `echo` runs as a child process; a control client is served before, during and after. Nothing
//! here judges how fast something was: a wait ends with what it waits for, and fails after the deadline of
//! `tests/common`. `LINEPLEX_LONG=1` asks for the numbers that a release is tested with.

#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::served::{Served, long_form, round_trip, wait_until};
use common::{Client, DEADLINE, complains, example};
use socket2::{Domain, SockAddr, Socket, Type};

/// Their resets come while they stand in the queue: accept hands out connections that are dead already.
#[test]
fn a_thousand_clients_that_reset_before_they_are_accepted_leave_nothing_behind() {
    let mut echo = Served::echo(&[]);
    let before = echo.descriptors();
    echo.freeze();
    for _ in 0..1000 {
        Client::connect(echo.address).reset();
    }
    echo.thaw();
    echo.control_is_fine();
    round_trip(&mut Client::connect(echo.address), "behind them in the queue");
    wait_until("all descriptors are closed again", || echo.descriptors() == before);
    let log = echo.stop();
    assert!(!complains(&log), "{log:#?}");
}

#[test]
fn a_client_that_resets_with_input_and_output_under_way_harms_nobody() {
    let mut echo = Served::echo(&[]);
    let before = echo.descriptors();
    for round in 0..200 {
        let client = echo.client();
        client.send(format!("{}\n", "x".repeat(round * 100)));
        client.reset();
        echo.control_is_fine();
    }
    wait_until("all descriptors are closed again", || echo.descriptors() == before);
    let log = echo.stop();
    assert!(!complains(&log), "{log:#?}");
}

/// What came in while the process stood still is read before anybody is called idle.
#[test]
fn a_client_whose_bytes_waited_while_the_server_stood_still_is_not_idle() {
    let echo = Served::echo(&["--idle_seconds", "3"]);
    let mut speaks = echo.client();
    let mut silent = echo.client();
    echo.freeze();
    speaks.send("before the time was over\n");
    speaks.expect_silence(Duration::from_millis(if long_form() { 30_000 } else { 3_500 }));
    echo.thaw();
    assert_eq!(speaks.expect_line(), "before the time was over");
    silent.expect_eof();
    // It is idle when it is.
    speaks.expect_eof();
    let mut echo = echo;
    echo.server.signal("TERM");
    assert!(echo.server.expect_exit().success());
}

#[test]
fn a_flood_of_short_lines_in_one_write_is_served_in_turns() {
    let mut echo = Served::echo(&[]);
    let lines = if long_form() { 1_000_000 } else { 100_000 };
    let sent = b"x\n".repeat(lines);
    let stream = TcpStream::connect(echo.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&sent).unwrap());
        let reader = scope.spawn(|| {
            let mut got = vec![0; sent.len()];
            (&stream).read_exact(&mut got).unwrap();
            got
        });
        while !reader.is_finished() {
            echo.control_is_fine();
        }
        assert!(reader.join().unwrap() == sent);
    });
    echo.stop();
}

/// With a receive buffer as small as the kernel allows every answer leaves in many short writes.
#[test]
fn a_slow_reader_with_a_small_buffer_gets_every_byte() {
    let mut echo = Served::echo(&[]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2304).unwrap();
    socket.connect(&SockAddr::from(echo.address)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let sent: Vec<u8> =
        (0..100).flat_map(|line| format!("{line:0>width$}\n", width = 5000 + line).into_bytes()).collect();
    let mut got = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut piece = [0; 1000];
        loop {
            match (&stream).read(&mut piece).unwrap() {
                0 => break,
                count => got.extend_from_slice(&piece[..count]),
            }
            if got.len() % 16 == 0 {
                echo.control_is_fine();
            }
        }
    });
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    echo.stop();
}

/// Bursts from several addresses, so that no address runs out of ports; half of them end with a reset.
#[test]
fn a_flood_of_connections_does_not_starve_a_client_and_leaks_nothing() {
    let mut echo = Served::echo(&[]);
    let before = echo.descriptors();
    let (bursts, size) = if long_form() { (100, 50) } else { (15, 50) };
    let address = echo.address;
    let mut times = Vec::new();
    thread::scope(|scope| {
        let floods: Vec<_> = (2..6)
            .map(|host| {
                scope.spawn(move || {
                    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
                    for burst in 0..bursts {
                        let clients: Vec<Client> =
                            (0..size).map(|_| Client::connect_from(source, address)).collect();
                        if burst % 2 == 0 {
                            clients.into_iter().for_each(Client::reset);
                        }
                    }
                })
            })
            .collect();
        while floods.iter().any(|flood| !flood.is_finished()) {
            let started = Instant::now();
            echo.control_is_fine();
            times.push(started.elapsed());
        }
    });
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    println!(
        "control client: {} rounds, p50 {:?}, p99 {:?}, max {:?}",
        times.len(),
        at(500),
        at(990),
        at(1000)
    );
    round_trip(&mut Client::connect(echo.address), "after the flood");
    wait_until("all descriptors are closed again", || echo.descriptors() == before);
    let log = echo.stop();
    assert!(!complains(&log), "{log:#?}");
}

/// The server keeps 32 descriptors back: of 64 it gives 32 to clients.
#[test]
fn with_64_descriptors_everybody_is_served_or_refused_with_the_line() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" --port 127.0.0.1:0"]).arg(example("echo"));
    let mut echo = Served::spawn(&mut command);
    let (mut served, mut refused) = (Vec::new(), 0);
    for _ in 0..200 {
        // A newcomer says nothing yet, so that its refusal is not destroyed by a reset; the line is there or not.
        let mut client = Client::connect(echo.address);
        if served.len() < 31 {
            round_trip(&mut client, "served");
            served.push(client);
        } else {
            assert_eq!(client.expect_line(), "Too many connections, try again later.");
            client.expect_eof();
            refused += 1;
        }
    }
    echo.control_is_fine();
    assert_eq!((served.len(), refused), (31, 169));
    // Who leaves makes room.
    drop(served.drain(..10));
    wait_until("there is room again", || {
        let mut client = Client::connect(echo.address);
        client.send("served?\n");
        let answer = client.next_line();
        let room = answer.is_ok_and(|line| line == b"served?\n");
        if room {
            served.push(client);
        }
        room
    });
    let log = echo.stop();
    let lines = log.iter().filter(|line| line.contains("max_connections reached")).count();
    assert!((1..=3).contains(&lines), "one line in ten seconds: {log:#?}");
    assert!(!log.iter().any(|line| line.contains("cannot accept")), "{log:#?}");
}

/// All at once: whoever is not served hears the line or sees the end, and nobody hangs.
#[test]
fn with_64_descriptors_a_crowd_of_200_is_answered_to_the_last_client() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" --port 127.0.0.1:0"]).arg(example("echo"));
    let mut echo = Served::spawn(&mut command);
    echo.freeze();
    let mut crowd: Vec<Client> = (0..200).map(|_| Client::connect(echo.address)).collect();
    for client in &crowd {
        client.send("?\n");
    }
    echo.thaw();
    let mut served = 0;
    for client in &mut crowd {
        match client.next_line() {
            Ok(line) if line == b"?\n" => served += 1,
            Ok(line) => assert_eq!(line, b"Too many connections, try again later.\r\n"),
            Err(common::Missed::Deadline) => panic!("one hangs; {client}"),
            Err(_) => {}
        }
    }
    assert_eq!(served, 31);
    echo.control_is_fine();
    drop(crowd);
    echo.stop();
}

/// The limit falls under the running server, so that its own limit of connections does not help. Whoever waits is
/// served in turn as others leave.
#[test]
fn without_a_descriptor_newcomers_wait_and_are_served_as_others_leave() {
    let mut echo = Served::echo(&[]);
    let mut served: Vec<Client> = (0..4).map(|_| echo.client()).collect();
    let open = echo.descriptors();
    let free = (0..).find(|number| !open.contains(number)).unwrap();
    let limit = [format!("--pid={}", echo.server.id()), format!("--nofile={free}:")];
    match Command::new("prlimit").args(limit).status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => return println!("skipped: prlimit: {error}"),
    }
    let mut waiting: Vec<Client> = (0..8).map(|_| Client::connect(echo.address)).collect();
    for (number, client) in waiting.iter().enumerate() {
        client.send(format!("{number}\n"));
    }
    echo.server.wait_for("Too many open files");
    echo.control_is_fine();
    // A loop that spins uses all it can get of this second; one that waits, next to nothing.
    let before = echo.ticks();
    waiting[7].expect_silence(Duration::from_secs(1));
    let used = echo.ticks() - before;
    assert!(used <= 20, "{used} ticks of 10 ms");
    for (number, mut client) in waiting.into_iter().enumerate() {
        served.remove(0);
        assert_eq!(client.expect_line(), number.to_string());
        echo.control_is_fine();
        served.push(client);
    }
    let log = echo.stop();
    let lines = log.iter().filter(|line| line.contains("cannot accept")).count();
    assert!((1..=5).contains(&lines), "one line in ten seconds: {log:#?}");
}

#[test]
fn a_storm_of_signals_harms_nobody_and_the_last_one_still_counts() {
    let mut echo = Served::echo(&[]);
    let count = if long_form() { 20_000 } else { 3_000 };
    let storm = "i=0; while [ $i -lt $1 ]; do kill -USR1 $0; kill -USR2 $0; i=$((i+1)); done";
    let mut sender = Command::new("sh")
        .args(["-c", storm, &echo.server.id().to_string(), &count.to_string()])
        .spawn()
        .unwrap();
    while sender.try_wait().unwrap().is_none() {
        echo.control_is_fine();
    }
    echo.stop();
}
