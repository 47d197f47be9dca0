//! Ways into the loop from other threads: a handle's requests, and the results of offloaded jobs.
//!
//! Where an order matters, turns are taken by hand on Unix sockets, so that what was asked before a turn is there
//! when it begins.

mod common;
mod lab;

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use common::DEADLINE;
use lab::{Hand, Lab, LabClient, Run};
use lineplex::config::Limits;
use lineplex::{Handle, MuxCallback, Peer, Refused, Server};

#[test]
fn a_handle_goes_to_other_threads_even_from_a_server_that_cannot() {
    fn goes_anywhere<T: Send + Sync + Clone>() {}
    struct HoldsRc(#[allow(dead_code, reason = "only its type matters")] Rc<Cell<u32>>);
    impl Server for HoldsRc {
        type Client = Box<dyn MuxCallback<Self>>;
        fn client(&mut self, _: &Peer) -> Self::Client {
            unreachable!("it is never run")
        }
    }
    goes_anywhere::<Handle<HoldsRc>>();
}

#[test]
fn several_wakes_before_a_turn_are_one_call_for_each_connection() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let _clients = [hand.client(), hand.client()];
    let ids = [hand.id("1"), hand.id("2")];
    let handle = hand.mux.handle();
    hand.news();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                ids.iter().cycle().take(10).for_each(|id| handle.wake(*id).expect("the loop is there"));
            });
        }
    });
    hand.turn();
    let mut news = hand.news();
    news.sort();
    assert_eq!(news, ["1 wake", "2 wake"]);
    handle.wake(ids[0]).expect("the loop is there");
    hand.turn();
    assert_eq!(hand.news(), ["1 wake"], "a later wake is a call of its own");
}

#[test]
fn what_one_thread_asks_is_done_in_its_order_and_all_before_its_stop() {
    let mut run = Run::start(Limits { requests_per_turn: 7, ..Limits::default() }, Lab::new);
    let _client = run.client();
    run.wait_for("1 connection");
    let id = run.ask(|lab, _| lab.id("1"));
    let handle = &run.handle;
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for n in (0..100).step_by(2) {
                    handle.run(move |lab, _| lab.tell(format!("thread {thread}: {n}"))).expect("it runs");
                    let with = move |client: &mut LabClient, ctx: &mut lab::Cx<'_>| {
                        assert_eq!((client.label.as_str(), ctx.id), ("1", id));
                        ctx.server.tell(format!("thread {thread}: {}", n + 1));
                        Ok(())
                    };
                    handle.with(id, with).expect("it runs");
                }
            });
        }
    });
    handle.stop(0).expect("it runs");
    run.ended().expect("it ends without an error");
    for thread in 0..4 {
        let prefix = format!("thread {thread}: ");
        let told = run.whole_story().iter().filter_map(|event| event.strip_prefix(&prefix));
        assert!(told.eq((0..100).map(|n| n.to_string())), "thread {thread}: {:?}", run.whole_story());
    }
}

#[test]
fn work_for_a_connection_that_is_gone_is_dropped_though_its_slot_is_in_use() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    drop(hand.client());
    hand.wait_for("1 close eof");
    let _second = hand.client();
    let (stale, fresh) = (hand.id("1"), hand.id("2"));
    assert_eq!(stale.slot(), fresh.slot(), "the test needs the slot to be used again");
    hand.news();
    let (ran, dropped) = mpsc::channel::<&str>();
    let handle = hand.mux.handle();
    handle.wake(stale).expect("nobody looks before the turn");
    let work = move |_: &mut LabClient, _: &mut lab::Cx<'_>| ran.send("ran").map_err(io::Error::other);
    handle.with(stale, work).expect("nobody looks before the turn");
    hand.turn();
    assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected), "dropped, not run");
    assert_eq!(hand.news(), [""; 0]);
}

#[test]
fn at_the_limit_a_request_is_refused_but_results_and_stop_come_through() {
    let (gate, job) = gate();
    let lab = Lab::new().on_line(move |ctx, _| {
        let job = job.clone();
        ctx.offload(
            move || job.pass(),
            |_, ctx, ()| {
                ctx.server.tell("the result");
                Ok(())
            },
        )
    });
    let mut hand = Hand::new(Limits { handle_queue: 2, ..Limits::default() }, lab);
    let client = hand.client();
    let (id, handle) = (hand.id("1"), hand.mux.handle());
    client.send("go\n");
    hand.until(|mux| mux.conns().metrics().offloads == 1);
    gate.wait_for_one();
    hand.news();

    assert_eq!((handle.wake(id), handle.with(id, |_, _| Ok(()))), (Ok(()), Ok(())), "below and at the limit");
    assert_eq!(handle.wake(id), Err(Refused::Full));
    assert_eq!(handle.with(id, |_, _| Ok(())), Err(Refused::Full));
    assert_eq!(handle.run(|_, _| ()), Err(Refused::Full));
    gate.open();
    let until = Instant::now() + DEADLINE;
    while !format!("{handle:?}").contains("waiting: 3") {
        assert!(Instant::now() < until, "the result is not taken: {handle:?}");
        thread::yield_now();
    }
    hand.turn();
    assert_eq!(hand.news(), ["the result", "1 wake"]);

    while handle.wake(id).is_ok() {}
    assert_eq!(handle.stop(0), Ok(()), "the limit holds no stop back");
    assert!(hand.turn().is_some());
}

#[test]
fn after_the_end_everything_is_refused_and_what_waited_is_dropped() {
    let mut run = Run::start(Limits::default(), Lab::new);
    let _client = run.client();
    run.wait_for("1 connection");
    let id = run.ask(|lab, _| lab.id("1"));
    let (ran, dropped) = mpsc::channel::<()>();
    // Behind the stop: taken, but the loop has ended before its turn.
    let waits = run.handle.clone();
    run.ask(move |_, room| {
        room.conns.stop(0);
        let late = waits.clone();
        waits.run(move |_, _| drop((ran, late))).expect("the loop has not ended yet");
    });
    run.ended().expect("it ends without an error");
    assert_eq!(dropped.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
    let handle = &run.handle;
    assert_eq!(handle.wake(id), Err(Refused::Ended));
    assert_eq!(handle.with(id, |_, _| Ok(())), Err(Refused::Ended));
    assert_eq!(handle.run(|_, _| ()), Err(Refused::Ended));
    assert_eq!((handle.stop(0), handle.stop_gracefully()), (Err(Refused::Ended), Err(Refused::Ended)));
}

#[test]
fn a_job_brings_its_result_to_the_client_that_asked_while_others_are_served() {
    let (gate, job) = gate();
    let mut run = Run::start(Limits { offload_threads: 1, offload_queue: 1, ..Limits::default() }, || {
        Lab::new().on_line(move |ctx, line| {
            let (job, line) = (job.clone(), line.to_vec());
            if line == b"plain" {
                ctx.write(b"plain\n");
                return Ok(());
            }
            let work = move || {
                job.pass();
                line.len()
            };
            let given = ctx.offload(work, |client, ctx, length| {
                client.count += 1;
                writeln!(ctx, "{} {length} {}", client.label, client.count);
                Ok(())
            });
            if let Err(error) = given {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                ctx.write(b"busy\n");
                let outgoing = LabClient::named(ctx.server, "out");
                let error = ctx.connect("localhost:1", outgoing).expect_err("a look-up is a job too");
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
            Ok(())
        })
    });
    let (mut one, mut two) = (run.client(), run.client());
    one.send("1\n");
    gate.wait_for_one();
    one.send("two\n");
    one.send("three\n");
    one.expect("busy\n");
    two.send("plain\n");
    two.expect("plain\n");
    let metrics = run.metrics();
    assert_eq!((metrics.offloads, metrics.offloads_refused, metrics.open), (2, 2, 2));
    gate.open();
    // Three lines were counted before the results came.
    one.expect("1 1 4\n1 3 5\n");
    run.end().expect("it ends without an error");
}

#[test]
fn the_result_for_a_connection_that_is_gone_is_dropped() {
    let (gate, job) = gate();
    let (ran, dropped) = mpsc::channel::<String>();
    // One thread, so that the second result comes after the first.
    let mut run = Run::start(Limits { offload_threads: 1, ..Limits::default() }, || {
        Lab::new().on_line(move |ctx, _| {
            let (job, ran) = (job.clone(), ran.clone());
            ctx.offload(
                move || job.pass(),
                move |client, ctx, ()| {
                    ctx.write(b"done\n");
                    ran.send(client.label.clone()).map_err(io::Error::other)
                },
            )
        })
    });
    let first = run.client();
    first.send("go\n");
    gate.wait_for_one();
    drop(first);
    run.wait_for("1 close eof");
    let mut second = run.client();
    second.send("go\n");
    run.wait_for("2 line go");
    assert_eq!(run.ask(|lab, _| lab.id("1").slot()), run.ask(|lab, _| lab.id("2").slot()));
    gate.open();
    second.expect("done\n");
    second.half_close();
    second.expect_eof();
    assert_eq!(dropped.try_iter().collect::<Vec<_>>(), ["2"]);
}

#[test]
fn a_job_that_panics_closes_its_connection_and_its_thread_goes_on() {
    let mut run = Run::start(Limits { offload_threads: 1, ..Limits::default() }, || {
        Lab::new().on_line(|ctx, line| {
            let panics = line == b"panic";
            let work = move || assert!(!panics, "a panic that the test wants");
            ctx.offload(work, |_, ctx, ()| {
                ctx.write(b"done\n");
                Ok(())
            })
        })
    });
    let (mut one, mut two) = (run.client(), run.client());
    one.send("panic\n");
    one.expect_eof();
    run.wait_for("1 close panicked");
    two.send("fine\n");
    two.expect("done\n");
    assert_eq!(run.metrics().panics, 1);
}

/// What holds jobs up until the test opens it, and tells the test that one has come.
struct Gate {
    open: Sender<()>,
    came: Receiver<()>,
}

#[derive(Clone)]
struct GateJob {
    opened: Arc<Mutex<Receiver<()>>>,
    came: Sender<()>,
}

fn gate() -> (Gate, GateJob) {
    let ((open, opened), (send, came)) = (mpsc::channel(), mpsc::channel());
    (Gate { open, came }, GateJob { opened: Arc::new(Mutex::new(opened)), came: send })
}

impl Gate {
    #[track_caller]
    fn wait_for_one(&self) {
        self.came.recv_timeout(DEADLINE).expect("a job begins");
    }

    fn open(self) {
        drop(self.open);
    }
}

impl GateJob {
    fn pass(&self) {
        // A test that has failed neither listens nor opens.
        let _ = self.came.send(());
        let _ = self.opened.lock().expect("nobody panics with it").recv();
    }
}
