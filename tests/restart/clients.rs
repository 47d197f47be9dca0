//! Clients that are kept: they notice nothing.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Child, Client, TempDir, example};
use crate::leaving::{MUCH, PATIENT, pattern};
use crate::running::{Flow, Gate, quiet, says, server, unix};

// A30
#[test]
fn the_process_its_ports_and_every_client_stay_the_same_over_several_restarts() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let mut flow = Flow::start(&["--port=127.0.0.1:0", &unix(&path)]);
    let (addrs, pid) = (flow.addrs.clone(), flow.child.id());
    let mut clients: Vec<Client> = (0..3).flat_map(|_| [&addrs[0], &addrs[1]]).map(Client::connect).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("name client {n}\nnote the server's own\nwho\n"));
    }
    let known: Vec<String> = clients.iter_mut().map(Client::expect_line).collect();
    for restart in 1..=5 {
        for client in &clients {
            client.send("half of a li");
        }
        flow.restart();
        assert_eq!((&flow.addrs, flow.child.id()), (&addrs, pid));
        for (client, known) in clients.iter_mut().zip(&known) {
            client.send("ne\nwho\nhalf ");
            client.expect(format!("half of a line\n{known}\n"));
            client.send("of another one\n");
            client.expect("half of another one\n");
        }
        // Numbers go on.
        let mut newcomer = Client::connect(&addrs[0]);
        newcomer.send("who\n");
        let who = newcomer.expect_line();
        assert!(who.contains(&format!(" #{} ", 6 + restart)), "{who}");
        drop(newcomer);
        while !flow.told.expect_line().starts_with("close: ") {}
    }
    let log = flow.stop();
    assert!(log.contains("clients told goodbye: 6, cut off: 0"), "{log}");
    quiet(&log);
    assert!(!path.exists());
}

#[test]
fn lines_that_wait_for_their_turn_are_served_in_order() {
    let mut flow = Flow::start(&["--lines_per_turn=1", "--input_max_bytes=16M"]);
    let mut client = flow.client();
    // Thousands of turns: the restart comes somewhere in between.
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let reader = thread::spawn(move || {
        client.send(&lines);
        client.expect(&lines);
        client
    });
    for _ in 0..3 {
        flow.restart();
    }
    let mut client = reader.join().unwrap();
    says(&mut client, "all of them");
    quiet(&flow.stop());
}

#[test]
fn input_that_a_client_has_left_comes_back_with_what_follows() {
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send("want 12\n12345");
    says(&mut flow.client(), "a turn later");
    flow.restart();
    client.send("678");
    flow.restart();
    client.send("9\nabc and\n");
    client.expect("took 123456789\\nab\nc and\n");
    // Whole lines that were left.
    client.send("want 18\none line\ntwo ");
    says(&mut flow.client(), "a turn later");
    flow.restart();
    client.send("line\nlast\n");
    client.expect("took one line\\ntwo line\\n\nlast\n");
    quiet(&flow.stop());
}

#[test]
fn the_rest_of_an_overlong_line_that_is_skipped_is_skipped_after_the_restart() {
    let mut flow = Flow::start(&["--line_max_bytes=64", "--long_line=skip"]);
    let mut client = flow.client();
    client.send([b'x'; 100]);
    says(&mut flow.client(), "a turn later");
    flow.restart();
    client.send("the end of it\nthe next\n");
    client.expect("the next\n");
    quiet(&flow.stop());
}

#[test]
fn a_client_that_reads_slowly_gets_every_byte_in_order() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let mut flow = Flow::start(&[&PATIENT[..], &["--port=127.0.0.1:0", &unix(&path)]].concat());
    let mut clients = [Client::connect(&flow.addrs[0]), Client::connect(&flow.addrs[1])];
    for client in &mut clients {
        client.send(format!("pattern {MUCH}\n"));
        client.expect(0_u32.to_be_bytes());
        client.send("and then this\n");
    }
    for _ in 0..3 {
        flow.restart();
    }
    let mut expected = pattern(MUCH);
    expected.drain(..4);
    expected.extend_from_slice(b"and then this\n");
    for client in &mut clients {
        let got = client.next_bytes(expected.len()).unwrap_or_else(|missed| panic!("{missed}"));
        assert!(got == expected, "not what was written");
        says(client, "still here");
    }
    quiet(&flow.stop());
}

#[test]
fn a_client_whose_reading_is_paused_stays_so() {
    let mut flow = Flow::start(&[]);
    let (mut paused, mut other) = (flow.client(), flow.client());
    paused.send("pause\n");
    says(&mut other, "a turn later");
    paused.send("not yet\n");
    flow.restart();
    says(&mut other, "a turn later");
    other.send("tell something\nresume-all\n");
    // What it sent is answered after what came before it was resumed.
    paused.expect("something\nnot yet\n");
    quiet(&flow.stop());
}

#[test]
fn a_wake_that_is_pending_comes_in_the_next_image() {
    let mut flow = Flow::start(&[]);
    let (mut client, _other) = (flow.client(), flow.client());
    client.send("wake-at-close\n");
    says(&mut client, "done");
    let told = flow.restart();
    assert!(!told.iter().any(|line| line.starts_with("wake")), "{told:?}");
    assert_eq!(flow.told.expect_line(), "wake: #1");
    quiet(&flow.stop());
}

// ── newcomers ──

// A31
#[test]
fn nobody_who_connects_during_restarts_is_refused_or_reset() {
    let mut flow = Flow::start(&[]);
    let (address, over) = (flow.addrs[0].clone(), Arc::new(AtomicBool::new(false)));
    let connecting = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) || count < 200 {
                let mut client = Client::connect(&address);
                let line = format!("newcomer {count}");
                says(&mut client, &line);
                client.half_close();
                client.expect_eof();
                count += 1;
            }
            count
        })
    };
    for _ in 0..10 {
        flow.restart();
    }
    over.store(true, Ordering::Relaxed);
    let count = connecting.join().unwrap();
    println!("{count} clients");
    quiet(&flow.stop());
}

// A32
#[test]
fn who_comes_and_speaks_while_everything_stands_still_is_served_by_the_next_image() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let mut gate = Gate::new();
    let wait = gate.at("heir:pre_loop_hook=wait");
    let mut command = server();
    command.env("FLOW_AT", wait).arg("--port=127.0.0.1:0").arg(unix(&path));
    let mut flow = Flow::started(&mut command);
    let mut old = [Client::connect(&flow.addrs[0]), Client::connect(&flow.addrs[1])];
    for client in &mut old {
        says(client, "here");
        client.send("name one\nhalf a ");
    }
    gate.close();
    flow.child.signal("HUP");
    let waiting = gate.wait();
    assert_eq!((waiting.who.as_str(), waiting.pid), ("heir:pre_loop_hook", flow.child.id()));
    let mut new = [Client::connect(&flow.addrs[0]), Client::connect(&flow.addrs[1])];
    for client in &new {
        client.send("it is me\nhalf a ");
    }
    for client in &old {
        client.send("line\nwho\n");
    }
    // One that leaves before anybody has seen it, and one that was there and leaves.
    drop(Client::connect(&flow.addrs[0]));
    let [tcp, mut unix] = old;
    tcp.half_close();
    drop(waiting);
    flow.restarted();
    let mut tcp = tcp;
    tcp.expect("half a line\n");
    assert!(tcp.expect_line().ends_with("by 127.0.0.1:0: one / "), "{tcp}");
    tcp.expect_eof();
    unix.expect("half a line\n");
    for client in &mut new {
        client.send("line\n");
        client.expect("it is me\nhalf a line\n");
    }
    quiet(&flow.stop());
}

#[test]
fn everybody_is_served_while_the_probe_runs() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("probe:post_bind_hook=wait"));
    let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
    let mut client = flow.client();
    gate.close();
    flow.child.signal("HUP");
    let waiting = gate.wait();
    assert_ne!(waiting.pid, flow.child.id());
    says(&mut client, "during the probe");
    says(&mut flow.client(), "too");
    client.send("name later than the probe\n");
    says(&mut client, "done");
    drop(waiting);
    flow.restarted();
    client.send("who\n");
    assert!(client.expect_line().contains("later than the probe"), "{client}");
    quiet(&flow.stop());
}

// ── time ──

#[test]
fn deadlines_and_timers_come_in_the_next_image_and_never_early() {
    let mut flow = Flow::start(&[]);
    let client = flow.client();
    let begun = Instant::now();
    client.send("timer 0.4\nafter 0.5 7\nafter 3600 8\n");
    for _ in 0..3 {
        let told = flow.restart();
        assert_eq!(told.len(), 3, "only the hooks: {told:?}");
        if begun.elapsed() > Duration::from_millis(300) {
            break;
        }
    }
    assert_eq!(flow.told.expect_line(), "timeout: #1");
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_eq!(flow.told.expect_line(), "timeout: key 7");
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    quiet(&flow.stop());
}

#[test]
fn a_deadline_that_passes_while_everything_stands_still_comes_afterwards() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("heir:pre_loop_hook=wait"));
    let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
    let client = flow.client();
    gate.close();
    let begun = Instant::now();
    client.send("timer 0.3\n");
    says(&mut flow.client(), "a turn later");
    flow.child.signal("HUP");
    let waiting = gate.wait();
    // The clock is what is waited for here.
    while begun.elapsed() < Duration::from_millis(310) {
        thread::yield_now();
    }
    drop(waiting);
    let told = flow.restarted();
    // On a busy machine it may have come before the restart.
    if !told.contains(&"timeout: #1".to_owned()) {
        assert_eq!(flow.told.expect_line(), "timeout: #1");
    }
    quiet(&flow.stop());
}

#[test]
fn the_tick_goes_on_where_it_was() {
    let mut flow = Flow::start(&["--check_for_dequeue=0.5"]);
    let begun = Instant::now();
    let mut ticks = 0;
    for _ in 0..3 {
        ticks += flow.restart().iter().filter(|line| *line == "run_dequeue").count();
    }
    while ticks < 2 {
        assert_eq!(flow.told.expect_line(), "run_dequeue");
        ticks += 1;
    }
    // The first came after the server was ready, which was before `begun`.
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    quiet(&flow.stop());
}

#[test]
fn lines_that_wait_for_their_rate_come_as_late_as_without_a_restart() {
    let mut flow = Flow::start(&["--lines_per_second=2", "--lines_burst=2"]);
    let begun = Instant::now();
    let mut client = Client::connect(&flow.addrs[0]);
    client.send("1\n2\n3\n4\n");
    client.expect("1\n2\n");
    flow.restart();
    client.expect("3\n");
    flow.restart();
    client.expect("4\n");
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
    says(&mut client, "5");
    assert!(begun.elapsed() >= Duration::from_millis(1490), "{:?}", begun.elapsed());
    quiet(&flow.stop());
}

#[test]
fn silence_and_unfinished_lines_count_from_before_the_restart() {
    for (option, reason, millis) in
        [("--idle_seconds=0.6", "idle", 600), ("--line_seconds=0.6", "line-deadline", 600)]
    {
        let mut flow = Flow::start(&[option]);
        let begun = Instant::now();
        let client = Client::connect(&flow.addrs[0]);
        client.send("here\nhalf a line");
        let mut told = Vec::new();
        while begun.elapsed() < Duration::from_millis(400) {
            told.extend(flow.restart());
        }
        let close = format!("close: #1 ({reason})");
        if !told.contains(&close) {
            while flow.told.expect_line() != close {}
        }
        assert!(begun.elapsed() >= Duration::from_millis(millis), "{option}: {:?}", begun.elapsed());
        flow.stop();
    }
}

#[test]
fn limits_of_the_new_configuration_hold_for_old_clients() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    std::fs::write(&file, "port = '127.0.0.1:0'\n").unwrap();
    let mut flow = Flow::started(server().arg("--conf_file").arg(&file));
    let (idle, unfinished) = (flow.client(), flow.client());
    unfinished.send("half a line");
    let mut other = flow.client();
    says(&mut other, "a turn later");
    drop(other);
    assert_eq!(flow.told.expect_line(), "close: #3 (eof)");
    std::fs::write(&file, "port = '127.0.0.1:0'\nidle_seconds = 0.2\nline_seconds = 0.1\n").unwrap();
    flow.restart();
    let mut told = [flow.told.expect_line(), flow.told.expect_line()];
    told.sort();
    assert_eq!(told, ["close: #1 (idle)", "close: #2 (line-deadline)"]);
    drop((idle, unfinished));
    flow.stop();
}

// ── samplechat ──

fn chat(options: &[&str]) -> (Child, String) {
    let mut command = Command::new(example("samplechat"));
    let mut child = Child::spawn(command.arg("--port=127.0.0.1:0").args(options));
    let address = child.wait_for_address().to_string();
    (child, address)
}

// A30
#[test]
fn a_chat_goes_on_with_its_numbers() {
    let (mut child, address) = chat(&[]);
    let mut a = Client::connect(&address);
    a.expect("JOIN: (#1) from 127.0.0.1\r\nWelcome, number 1.\r\n");
    let mut b = Client::connect(&address);
    b.expect("JOIN: (#2) from 127.0.0.1\r\nWelcome, number 2.\r\n");
    a.expect("JOIN: (#2) from 127.0.0.1\r\n");
    a.send("hel");
    child.signal("HUP");
    child.wait_for("restart 1 done; 2 connections go on");
    a.send("lo\n");
    a.expect("[1 - 127.0.0.1] hello\r\n - sent 23 byte message\r\n");
    b.expect("[1 - 127.0.0.1] hello\r\n");
    let mut c = Client::connect(&address);
    c.expect("JOIN: (#3) from 127.0.0.1\r\nWelcome, number 3.\r\n");
    drop(b);
    a.expect("JOIN: (#3) from 127.0.0.1\r\nLEFT: (#2) from 127.0.0.1\r\n");
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

// A30
#[test]
fn juniors_and_seniors_of_a_chat_keep_their_time_and_their_standing() {
    let (mut child, address) = chat(&["--junior_seconds=0.4", "--senior_seconds=0.6"]);
    let begun = Instant::now();
    let mut a = Client::connect(&address);
    a.expect("JOIN: (#1) from 127.0.0.1\r\nWelcome, number 1.\r\n");
    child.signal("HUP");
    child.wait_for("restart 1 done");
    a.expect("You have been here a while: you may now be quiet for 0.6 seconds.\r\n");
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    let begun = Instant::now();
    child.signal("HUP");
    child.wait_for("restart 2 done");
    a.expect("Nothing heard from you for 0.6 seconds. Goodbye.\r\n");
    a.expect_eof();
    // The message before may have been on its way for a while; the two together are not early.
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

#[test]
fn a_peer_that_is_gone_when_the_next_image_comes_is_closed_by_it() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("heir:restore=wait"));
    let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
    let (gone, reset, mut stays) = (flow.client(), flow.client(), flow.client());
    gate.close();
    flow.child.signal("HUP");
    let waiting = gate.wait();
    drop(gone);
    reset.reset();
    drop(waiting);
    flow.restarted();
    let mut told = [flow.told.expect_line(), flow.told.expect_line()];
    told.sort();
    assert_eq!(told[0], "close: #1 (eof)");
    assert!(told[1].starts_with("close: #2 (io: "), "{told:?}");
    says(&mut stays, "still here");
    let refused = TcpStream::connect(&flow.addrs[0]);
    assert!(refused.is_ok());
    quiet(&flow.stop());
}
