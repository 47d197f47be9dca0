//! A callback or hook that fails costs at most its own connection: the others are served on.
//!
//! In every test the first client's callback fails and the second shows that the loop goes on. The panics meant by a
//! test carry [`ON_PURPOSE`] or a [`Bomb`], and only those are kept from the standard error.

mod common;
mod lab;

use std::cell::Cell;
use std::io;
use std::panic::{self, panic_any};
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use common::{Client, TempDir};
use lab::{BOTH, Cx, Hand, Lab, Net, Run};
use lineplex::config::{Limits, ListenAt};
use lineplex::{Context, Ended, Input, Mux, MuxCallback, Peer, Server};

const CALLBACKS: [&str; 6] = ["connection", "input", "eof", "timeout", "wake", "drained"];

#[test]
fn an_error_of_any_callback_sends_what_was_written_and_closes_that_connection() {
    for net in BOTH {
        for which in CALLBACKS {
            let mut run = Run::on(net, Limits::default(), move || {
                first_fails_in(which, || Err(io::Error::other(ON_PURPOSE)))
            });
            let (mut first, mut second) = (run.client(), run.client());
            let received = provoke(&mut first, which);
            assert_eq!(received.escape_ascii().to_string(), heard(which, "last words\\n"), "{which}");
            drop(first);
            run.wait_for(&format!("failed: {ON_PURPOSE}"));
            is_served(&mut second);
            let metrics = run.metrics();
            assert_eq!((metrics.failures, metrics.panics, metrics.open), (1, 0, 1), "{which}");
            assert_eq!(closes(&mut run), ["1 close failed"], "{which}");
        }
    }
}

#[test]
fn a_panic_of_any_callback_cuts_that_connection_and_no_other() {
    for net in BOTH {
        for which in CALLBACKS {
            let mut run =
                Run::on(net, Limits::default(), move || first_fails_in(which, || panic!("{ON_PURPOSE}")));
            let (mut first, mut second) = (run.client(), run.client());
            let received = provoke(&mut first, which);
            assert_eq!(received.escape_ascii().to_string(), heard(which, ""), "what was unsent is dropped");
            run.wait_for("panicked");
            is_served(&mut second);
            let metrics = run.metrics();
            assert_eq!((metrics.failures, metrics.panics, metrics.open), (0, 1, 1), "{which}");
            assert_eq!(closes(&mut run), ["1 close panicked"], "{which}");
        }
    }
}

#[test]
fn an_error_and_a_panic_in_work_of_a_handle_close_that_connection() {
    for (panics, word) in [(false, "failed"), (true, "panicked")] {
        let mut run = Run::start(Limits::default(), Lab::new);
        let (mut first, mut second) = (run.client(), run.client());
        run.wait_for("1 connection");
        let id = run.ask(|lab, _| lab.id("1"));
        let work = move |_: &mut lab::LabClient, ctx: &mut Cx<'_>| {
            ctx.write(b"last words\n");
            if panics { panic!("{ON_PURPOSE}") } else { Err(io::Error::other(ON_PURPOSE)) }
        };
        run.handle.with(id, work).unwrap();
        assert_eq!(received_to_the_end(&mut first), if panics { "" } else { "last words\n" }.as_bytes());
        drop(first);
        run.wait_for(&format!("1 close {word}"));
        is_served(&mut second);
        let metrics = run.metrics();
        assert_eq!((metrics.failures, metrics.panics), (u64::from(!panics), u64::from(panics)));
    }
}

#[test]
fn a_panic_in_client_refuses_that_peer() {
    for net in BOTH {
        let mut run = start(net, || {
            Lab::new().on_client(|peer| {
                if peer.serial() == 1 {
                    panic!("{ON_PURPOSE}");
                }
            })
        });
        let (mut first, mut second) = (run.client(), run.client());
        assert_eq!(received_to_the_end(&mut first), b"");
        is_served(&mut second);
        run.wait_for("done 1 Denied");
        let metrics = run.metrics();
        assert_eq!((metrics.panics, metrics.open, metrics.closed), (1, 1, 1));
        assert_eq!(closes(&mut run), [""; 0], "there is no object that could hear it");
    }
}

#[test]
fn a_panic_in_post_accept_hook_lets_the_peer_in_all_the_same() {
    for net in BOTH {
        let run = start(net, || Lab::new().on_accepted(|_, _| panic!("{ON_PURPOSE}")));
        let (mut first, mut second) = (run.client(), run.client());
        is_served(&mut first);
        is_served(&mut second);
        assert_eq!(run.metrics().panics, 2);
    }
}

#[test]
fn a_panic_in_allow_deny_hook_denies_that_peer() {
    for net in BOTH {
        let mut run = start(net, || {
            let lab = Lab::new().on_allow(|_, peer| peer.serial() != 1 || panic!("{ON_PURPOSE}"));
            lab.on_denied(|room, id| assert!(room.conns.write(id, b"not you\n")))
        });
        let (mut first, mut second) = (run.client(), run.client());
        assert_eq!(received_to_the_end(&mut first), b"not you\n");
        drop(first);
        run.wait_for("done 1 Denied");
        is_served(&mut second);
        let metrics = run.metrics();
        assert_eq!((metrics.panics, metrics.denied, metrics.open), (1, 1, 1));
        assert_eq!(closes(&mut run), [""; 0]);
    }
}

#[test]
fn a_panic_in_request_denied_hook_leaves_the_peer_denied_with_what_was_written() {
    for net in BOTH {
        let mut run = start(net, || {
            let lab = Lab::new().on_allow(|_, peer| peer.serial() != 1);
            lab.on_denied(|room, id| {
                assert!(room.conns.write(id, b"not y"));
                panic!("{ON_PURPOSE}");
            })
        });
        let (mut first, mut second) = (run.client(), run.client());
        assert_eq!(received_to_the_end(&mut first), b"not y");
        drop(first);
        run.wait_for("done 1 Denied");
        is_served(&mut second);
        let metrics = run.metrics();
        assert_eq!((metrics.panics, metrics.denied, metrics.open), (1, 1, 1));
    }
}

#[test]
fn a_panic_in_post_process_request_hook_does_not_keep_close_from_the_client() {
    for net in BOTH {
        let mut run = start(net, || Lab::new().on_done(|_, _| panic!("{ON_PURPOSE}")));
        let (first, mut second) = (run.client(), run.client());
        drop(first);
        run.wait_for("done 1 Served");
        run.wait_for("1 close eof");
        is_served(&mut second);
        assert_eq!((run.metrics().panics, run.metrics().open), (1, 1));
    }
}

#[test]
fn a_panic_in_close_frees_the_slot_all_the_same() {
    for net in BOTH {
        let mut run = start(net, || Lab::new().on_close(|_, _| panic!("{ON_PURPOSE}")));
        let mut slots = Vec::new();
        for serial in 1..=3 {
            let mut client = run.client();
            is_served(&mut client);
            slots.push(run.ask(move |lab, _| lab.id(&serial.to_string()).slot()));
            drop(client);
            run.wait_for(&format!("{serial} close eof"));
            assert_eq!((run.metrics().panics, run.metrics().open), (serial, 0));
        }
        assert!(slots.iter().all(|slot| *slot == slots[0]), "one after the other has the slot: {slots:?}");
    }
}

#[test]
fn ticks_and_timers_go_on_after_a_panic_in_theirs() {
    let lab = Lab::new().on_tick(|_| panic!("{ON_PURPOSE}")).on_due(|room, key| {
        room.conns.after(Duration::from_millis(1), key);
        panic!("{ON_PURPOSE}");
    });
    let mut hand = hand(lab);
    let mut client = hand.client();
    hand.mux.set_tick(Some(Duration::from_millis(1)));
    hand.mux.enter(|_, room| room.conns.after(Duration::ZERO, 7));
    hand.until(|mux| mux.conns().metrics().ticks >= 5);
    for _ in 0..5 {
        hand.wait_for("due 7");
    }
    client.send("hello\n");
    hand.until(|mux| mux.conns().metrics().lines == 1);
    client.expect("hello\n");
    let (told, metrics) = (hand.told(), hand.metrics());
    let dues = told.iter().filter(|event| *event == "due 7").count() as u64;
    assert!(dues >= 5);
    assert_eq!(metrics.panics, metrics.ticks + dues);
}

#[test]
fn a_panic_in_pre_server_close_hook_does_not_keep_the_server_from_closing() {
    let mut hand = hand(Lab::new().on_closing(|room| {
        room.conns.broadcast(b"good bye\n", |_| true);
        panic!("{ON_PURPOSE}");
    }));
    let (mut one, mut two) = (hand.client(), hand.client());
    hand.mux.conns().stop(3);
    assert!(matches!(hand.turn(), Some(Ended::Stop { status: 3, closed: 2, cut: 0 })));
    assert_eq!((hand.metrics().panics, hand.metrics().open), (1, 0));
    let told = hand.told();
    assert_eq!(told.iter().filter(|event| event.ends_with("close shutdown")).count(), 2, "{told:?}");
    one.expect("good bye\n");
    two.expect("good bye\n");
    one.expect_eof();
}

#[test]
fn what_a_panicking_hook_began_stands() {
    let mut hand = hand(Lab::new().on_due(|room, _| {
        let all: Vec<_> = room.conns.all().collect();
        room.conns.write(all[0], b"hello\n");
        room.conns.abort(all[1]);
        panic!("{ON_PURPOSE}");
    }));
    let (mut one, mut two) = (hand.client(), hand.client());
    hand.mux.enter(|_, room| room.conns.after(Duration::ZERO, 1));
    hand.until(|mux| mux.conns().metrics().closed == 1);
    one.expect("hello\n");
    two.expect_eof();
    assert_eq!(hand.metrics().panics, 1);
}

#[test]
fn a_panic_whose_payload_panics_again_when_it_is_dropped_is_one_panic() {
    let mut run = start(Net::Unix, || {
        Lab::new().on_line(|ctx, line| match line {
            b"bomb" => panic_any(Bomb),
            _ => echo(ctx, line),
        })
    });
    let (first, mut second) = (run.client(), run.client());
    first.send("bomb\n");
    run.wait_for("1 close panicked");
    run.handle.run(|_, _| panic_any(Bomb)).unwrap();
    is_served(&mut second);
    assert_eq!(run.metrics().panics, 2);
}

#[test]
fn work_that_comes_too_late_may_panic_when_it_is_dropped() {
    let mut run = start(Net::Unix, Lab::new);
    let first = run.client();
    run.wait_for("1 connection");
    let id = run.ask(|lab, _| lab.id("1"));
    drop(first);
    run.wait_for("1 close eof");
    let bomb = Bomb;
    let work = move |_: &mut lab::LabClient, _: &mut Cx<'_>| {
        let _kept = &bomb;
        Ok(())
    };
    run.handle.with(id, work).unwrap();
    is_served(&mut run.client());
    assert_eq!(run.metrics().panics, 1);
}

#[test]
fn work_that_a_stop_leaves_over_may_panic_when_it_is_dropped() {
    let mut hand = hand(Lab::new().on_closing(|room| {
        for _ in 0..2 {
            let bomb = Bomb;
            room.handle().run(move |_, _| drop(bomb)).unwrap();
        }
    }));
    let mut client = hand.client();
    hand.mux.conns().stop(3);
    assert!(matches!(hand.turn(), Some(Ended::Stop { status: 3, closed: 1, cut: 0 })));
    client.expect_eof();
    assert_eq!(hand.metrics().panics, 2);
}

#[test]
fn an_offloaded_job_that_panics_closes_its_connection_and_leaves_its_thread_to_others() {
    let limits = Limits { offload_threads: 1, ..Limits::default() };
    silence();
    let mut run = Run::start(limits, || {
        Lab::new().on_line(|ctx, line| {
            let line = line.to_vec();
            let job = move || match &*line {
                b"panic" => panic!("{ON_PURPOSE}"),
                b"bomb" => panic_any(Bomb),
                _ => line,
            };
            ctx.offload(job, |_, ctx, answer| echo(ctx, &answer))
        })
    });
    for (serial, line) in [(1, "panic"), (2, "bomb")] {
        let mut client = run.client();
        client.send(format!("{line}\n"));
        run.wait_for(&format!("{serial} close panicked"));
        assert_eq!(received_to_the_end(&mut client), b"");
        assert_eq!(run.metrics().panics, serial);
    }
    is_served(&mut run.client());
    assert_eq!((run.metrics().offloads, run.metrics().offloads_refused), (3, 0));
}

#[test]
fn what_follows_an_offloaded_job_may_fail_as_any_callback() {
    let mut run = start(Net::Tcp, || {
        Lab::new().on_line(|ctx, line| {
            let panics = line == b"panic";
            ctx.offload(
                || (),
                move |_, ctx, ()| {
                    ctx.write(b"last words\n");
                    if panics { panic!("{ON_PURPOSE}") } else { Err(io::Error::other(ON_PURPOSE)) }
                },
            )
        })
    });
    for (line, word, heard) in
        [("panic\n", "1 close panicked", ""), ("err\n", "2 close failed", "last words\n")]
    {
        let mut client = run.client();
        client.send(line);
        assert_eq!(received_to_the_end(&mut client), heard.as_bytes());
        drop(client);
        run.wait_for(word);
    }
    assert_eq!((run.metrics().panics, run.metrics().failures), (1, 1));
}

/// A server whose clients panic when they are dropped.
struct Fragile;

struct FragileClient;

impl Drop for FragileClient {
    fn drop(&mut self) {
        panic!("{ON_PURPOSE}");
    }
}

impl Server for Fragile {
    type Client = FragileClient;

    fn client(&mut self, _: &Peer) -> FragileClient {
        FragileClient
    }
}

impl MuxCallback<Fragile> for FragileClient {
    fn input(&mut self, ctx: &mut Context<'_, Fragile>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            assert!(line != b"panic", "{ON_PURPOSE}");
            ctx.write(line);
            ctx.write(b"\n");
        }
        Ok(())
    }
}

#[test]
fn a_client_that_panics_when_it_is_dropped_is_gone_all_the_same() {
    silence();
    let dir = TempDir::new();
    let mut mux = Mux::new(Fragile, Limits::default()).unwrap();
    let addr = mux.listen(&ListenAt::unix(dir.path().join("fragile"))).unwrap().to_string();
    let mut until = |done: fn(lineplex::metrics::Metrics) -> bool| {
        while !done(mux.conns().metrics()) {
            assert!(mux.turn(Some(common::DEADLINE)).unwrap().is_none());
        }
        mux.conns().metrics()
    };
    let (first, second, mut third) = (Client::connect(&addr), Client::connect(&addr), Client::connect(&addr));
    until(|metrics| metrics.accepted == 3);
    drop(first);
    let metrics = until(|metrics| metrics.closed == 1);
    assert_eq!((metrics.panics, metrics.open), (1, 2));
    second.send("panic\n");
    let metrics = until(|metrics| metrics.closed == 2);
    assert_eq!((metrics.panics, metrics.open), (3, 1), "of the callback and of the drop");
    third.send("hello\n");
    until(|metrics| metrics.lines >= 2);
    third.expect("hello\n");
    mux.conns().stop(0);
    assert!(mux.turn(Some(Duration::ZERO)).unwrap().is_some());
    assert_eq!(mux.conns().metrics().panics, 4);
}

/// Each panic owns memory, so that 10^5 of them which leave it behind are seen beside what other tests hold.
#[test]
fn a_hundred_thousand_panics_leave_nothing_behind() {
    let due = Rc::new(Cell::new(0));
    let mut hand = hand({
        let due = Rc::clone(&due);
        Lab::new().on_due(move |room, key| {
            due.set(due.get() + 1);
            if due.get() % 1000 != 0 {
                room.conns.after(Duration::ZERO, key);
            }
            heavy_panic::<()>();
        })
    });
    let mut other = hand.client();
    let id = hand.id("1");
    let handle = hand.mux.handle();
    let rounds = |hand: &mut Hand, rounds: u64| {
        for _ in 0..rounds {
            for _ in 0..9000 {
                let owned = vec![1_u8; 1024];
                handle
                    .run(move |_, _| {
                        if owned[0] == 1 {
                            heavy_panic()
                        }
                    })
                    .unwrap();
            }
            let done = due.get() + 1000;
            hand.mux.enter(|_, room| room.conns.after(Duration::ZERO, 1));
            hand.until(|_| due.get() == done);
            for _ in 0..200 {
                let client = hand.client();
                let serial = hand.metrics().accepted;
                let id = hand.id(&serial.to_string());
                let work = |_: &mut lab::LabClient, ctx: &mut Cx<'_>| {
                    ctx.write(&[b'x'; 16 * 1024]);
                    heavy_panic()
                };
                handle.with(id, work).unwrap();
                hand.until(|mux| mux.conns().metrics().open == 1);
                drop(client);
            }
            hand.news();
        }
    };
    rounds(&mut hand, 1);
    let (files, memory) = (open_files(), resident_kib());
    rounds(&mut hand, 10);
    let (files_after, memory_after) = (open_files(), resident_kib());
    assert_eq!(hand.metrics().panics, 11 * 10_200);
    assert!(files_after < files + 500, "2000 connections: {files} descriptors became {files_after}");
    assert!(memory_after < memory + 32 * 1024, "100 MB of panics: {memory} KiB became {memory_after}");
    assert!(hand.mux.conns().is_open(id));
    other.send("still here\n");
    hand.until(|mux| mux.conns().metrics().lines == 1);
    other.expect("still here\n");
}

/// A lab whose first client fails in the callback `which` after it has written its last words; the others echo.
fn first_fails_in(which: &'static str, fail: fn() -> io::Result<()>) -> Lab {
    silence();
    let act = move |ctx: &mut Cx<'_>, here: &str| {
        if which != here || ctx.peer.serial() != 1 {
            return Ok(());
        }
        ctx.write(b"last words\n");
        fail()
    };
    let lab = Lab::new().on_line(move |ctx, line| {
        if ctx.peer.serial() != 1 {
            return echo(ctx, line);
        }
        let id = ctx.id;
        match which {
            "timeout" => ctx.set_timeout(Duration::ZERO),
            "wake" => ctx.conns.wake(id),
            "drained" => drop(ctx.write(b"before\n")),
            _ => {}
        }
        act(ctx, "input")
    });
    let lab = lab.on_connection(move |ctx| act(ctx, "connection")).on_eof(move |ctx, _| act(ctx, "eof"));
    let lab = lab.on_timeout(move |ctx| act(ctx, "timeout")).on_wake(move |ctx| act(ctx, "wake"));
    let lab = lab.on_drained(move |ctx| act(ctx, "drained"));
    lab.on_close(|ctx, reason| ctx.server.tell(reason.to_string()))
}

/// Does what brings the callback `which`; everything that comes back.
#[track_caller]
fn provoke(client: &mut Client, which: &str) -> Vec<u8> {
    match which {
        "connection" => {}
        "eof" => client.half_close(),
        // It may be closed already.
        _ => drop(client.try_send("go\n")),
    }
    received_to_the_end(client)
}

/// What the first client hears when `which` fails with these last words.
fn heard(which: &str, last: &str) -> String {
    format!("{}{last}", if which == "drained" { "before\\n" } else { "" })
}

/// Everything up to the end, be it a plain one or a reset.
#[track_caller]
fn received_to_the_end(client: &mut Client) -> Vec<u8> {
    match client.next_to_eof() {
        Ok(_) | Err(common::Missed::Io(_)) => client.received().to_vec(),
        Err(missed) => panic!("no end: {missed}"),
    }
}

#[track_caller]
fn is_served(client: &mut Client) {
    client.send("still here\n");
    client.expect("still here\n");
}

fn echo(ctx: &mut Cx<'_>, line: &[u8]) -> io::Result<()> {
    ctx.write(line);
    ctx.write(b"\n");
    Ok(())
}

/// The `close` callbacks so far.
fn closes(run: &mut Run) -> Vec<String> {
    run.told().into_iter().filter(|event| event.contains(" close ")).collect()
}

fn start(net: Net, make: fn() -> Lab) -> Run {
    silence();
    Run::on(net, Limits::default(), make)
}

fn hand(lab: Lab) -> Hand {
    silence();
    Hand::new(Limits::default(), lab)
}

/// Panics on purpose, with a text on the heap.
fn heavy_panic<T>() -> T {
    panic!("{ON_PURPOSE}{:1024}", "")
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux has it").count()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is told");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// Panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{ON_PURPOSE}");
        }
    }
}

/// Keeps the panics that are meant from the standard error.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
            if !text.starts_with(ON_PURPOSE) && !payload.is::<Bomb>() {
                tell(info);
            }
        }));
    });
}

const ON_PURPOSE: &str = "on purpose";

/// What was formatted before stays, and the connection goes on.
#[test]
fn a_panic_while_a_text_for_another_is_formatted_leaves_that_one_whole() {
    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("{ON_PURPOSE}")
        }
    }
    let lab = Lab::new().on_line(|ctx, _| {
        let other = ctx.server.id("2");
        write!(ctx.conns.to(other), "half{Broken}");
        Ok(())
    });
    let mut hand = hand(lab);
    let (one, mut two) = (hand.client(), hand.client());
    one.send("write\n");
    hand.wait_for("1 close panicked");
    let other = hand.id("2");
    assert!(hand.mux.conns().write(other, b" and half\n"));
    hand.turn();
    two.expect("half and half\n");
}
