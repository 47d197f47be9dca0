//! The counters against the kernel: a loop under strace makes the calls that it counts, and no others.
//!
//! Method: a lab runs in a thread of its own with strace on that thread. Before and after each load the loop itself
//! makes one call that it makes for nothing else (`getppid`) and tells its counters: what lies between the two marks is
//! what the load has cost, to the call. Where strace cannot be used these tests say `skipped` and pass.

#![cfg(target_os = "linux")]

mod common;
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc;

use common::strace::{Strace, strace_works};
use common::{Client, DEADLINE};
use lab::{BOTH, Lab, Net, Run};
use lineplex::config::Limits;
use lineplex::metrics::Metrics;

#[test]
fn the_kernel_sees_one_recv_and_one_send_for_each_line_and_nothing_but_waits_beside() {
    for net in BOTH {
        let Some(seen) = witnessed(net, 1, |_, clients| {
            for _ in 0..30 {
                clients[0].send("hello\n");
                clients[0].expect("hello\n");
            }
        }) else {
            return;
        };
        assert_eq!((seen.calls("recv"), seen.calls("send")), (30, 30), "{net:?}");
        assert_eq!(seen.total(), 60 + seen.calls("wait"), "{net:?}");
        // A Unix client that reads makes room, of which the kernel tells by itself.
        let events = if net == Net::Unix { 60 } else { 30 };
        assert!(seen.calls("wait") <= events + 2, "one for each event, and for the questions; {net:?}");
    }
}

#[test]
fn the_kernel_sees_one_recv_and_one_send_for_lines_that_came_at_once() {
    for net in BOTH {
        let Some(seen) = witnessed(net, 1, |_, clients| {
            clients[0].send("hello\n".repeat(100));
            clients[0].expect("hello\n".repeat(100));
        }) else {
            return;
        };
        assert_eq!((seen.calls("recv"), seen.calls("send")), (1, 1), "{net:?}");
        assert_eq!(seen.total(), 2 + seen.calls("wait"), "{net:?}");
    }
}

#[test]
fn the_kernel_sees_one_send_for_each_receiver_of_what_several_have_said_in_a_turn() {
    for net in BOTH {
        let Some(seen) = witnessed(net, 6, |run, clients| {
            held(run, || clients[..3].iter().for_each(|client| client.send("all\nall\n")));
            clients.iter_mut().for_each(|client| client.expect("all\n".repeat(6)));
        }) else {
            return;
        };
        if net == Net::Unix {
            assert_eq!((seen.calls("recv"), seen.calls("send")), (3, 6));
        }
        assert!(seen.calls("recv") <= 6 && seen.calls("send") <= 18, "one each and turn");
        assert_eq!(seen.total(), seen.calls("recv") + seen.calls("send") + seen.calls("wait"), "{net:?}");
    }
}

#[test]
fn the_kernel_sees_at_most_seven_and_a_half_calls_for_a_client_that_comes_for_one_line() {
    for net in BOTH {
        let Some(seen) = witnessed(net, 0, |run, _| {
            let mut clients = Vec::new();
            held(run, || {
                clients.extend((0..32).map(|_| Client::connect(&run.addr)));
                clients.iter().for_each(|client| client.send("hello\n"));
            });
            while run.metrics().bytes_out < 32 * 6 {}
            held(run, || {
                clients.iter_mut().for_each(|client| client.expect("hello\n"));
                clients.clear();
            });
            while run.metrics().closed < 32 {}
        }) else {
            return;
        };
        for (call, each) in [("register", 1), ("recv", 2), ("send", 1), ("close", 1)] {
            assert_eq!(seen.calls(call), 32 * each, "{call}; {net:?}");
        }
        // Who a Unix client is must be asked for.
        assert_eq!(seen.calls("getsockopt"), if net == Net::Unix { 32 } else { 0 });
        let known = ["register", "recv", "send", "close", "getsockopt", "accept", "wait"];
        assert_eq!(seen.total(), known.iter().map(|call| seen.calls(call)).sum(), "{net:?}: {seen:?}");
        let questions = seen.after.wakes - seen.before.wakes;
        assert!((seen.total() - questions) * 2 <= 15 * 32, "{net:?}: {seen:?}");
    }
}

/// What a loop has done under a load.
#[derive(Debug)]
struct Seen {
    before: Metrics,
    after: Metrics,
    /// By the names of the counters, where there is one.
    kernel: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn calls(&self, name: &str) -> u64 {
        self.kernel.get(name).copied().unwrap_or_default()
    }

    fn total(&self) -> u64 {
        self.kernel.values().sum()
    }
}

/// The `load` of a lab that sends each line to everybody, with so many clients, as strace has seen it; the counters have
/// counted the same. None if strace cannot be used.
#[track_caller]
fn witnessed(net: Net, clients: usize, load: impl FnOnce(&Run, &mut [Client])) -> Option<Seen> {
    if !strace_works() {
        return None;
    }
    let (send, receive) = mpsc::channel();
    let lab = || {
        Lab::new().on_line(|ctx, line| {
            ctx.conns.broadcast(&[line, b"\n"].concat(), |_| true);
            Ok(())
        })
    };
    let run = Run::with(net, Limits::default(), lab, move |_| send.send(task_id()).expect("the test waits"));
    let task = receive.recv_timeout(DEADLINE).expect("the loop starts");
    let mut clients: Vec<Client> = (0..clients).map(|_| run.client()).collect();
    while run.metrics().open < clients.len() as u64 {}
    clients.iter().take(1).for_each(|client| client.send("welcome\n"));
    clients.iter_mut().for_each(|client| client.expect("welcome\n"));
    // The first event of a new socket says that it can be written to.
    run.metrics();

    let strace = Strace::of(task, "all", "");
    let before = mark(&run);
    load(&run, &mut clients);
    let after = mark(&run);
    let lines = strace.detach();
    let mut parts = lines.split(|line| line.starts_with("getppid("));
    let (_, load) = (parts.next(), parts.next().expect("there are two marks"));
    let mut kernel = BTreeMap::new();
    for call in load.iter().filter_map(|line| counted_as(line)) {
        *kernel.entry(call).or_default() += 1;
    }
    let seen = Seen { before, after, kernel };
    for (name, before, after) in [
        ("accept", before.accept_calls, after.accept_calls),
        ("close", before.closed, after.closed),
        ("deregister", before.deregistrations, after.deregistrations),
        ("recv", before.recv_calls, after.recv_calls),
        ("register", before.registrations, after.registrations),
        ("send", before.send_calls, after.send_calls),
        ("wait", before.waits, after.waits),
    ] {
        assert_eq!(seen.calls(name), after - before, "{name}; {net:?}: {load:#?}");
    }
    Some(seen)
}

/// The counter that a call belongs to, or its own name; none for what is not the loop's: its memory, the channels of the
/// test, and the look of the standard library (not in a release) whether a descriptor is open before it is closed.
fn counted_as(line: &str) -> Option<&'static str> {
    const OTHERS: [&str; 8] =
        ["futex", "brk", "mmap", "munmap", "mprotect", "madvise", "mremap", "restart_syscall"];
    let name = line.split_once('(')?.0;
    Some(match name {
        "recvfrom" | "read" => "recv",
        "sendto" | "sendmsg" | "write" | "writev" => "send",
        "epoll_wait" | "epoll_pwait" => "wait",
        "accept4" => "accept",
        "epoll_ctl" if line.contains("EPOLL_CTL_ADD") => "register",
        "epoll_ctl" if line.contains("EPOLL_CTL_DEL") => "deregister",
        "close" => "close",
        "getsockopt" => "getsockopt",
        "fcntl" if line.contains("F_GETFD") => return None,
        name if OTHERS.contains(&name) => return None,
        name => panic!("nobody has expected `{name}`: {line}"),
    })
}

/// A mark in the calls of the loop, and what it has counted up to there.
fn mark(run: &Run) -> Metrics {
    run.ask(|_, room| {
        let _ = std::os::unix::process::parent_id();
        room.conns.metrics()
    })
}

/// Does `work` while the loop stands still, so that it finds all of it at once.
fn held(run: &Run, work: impl FnOnce()) {
    let ((stands, stood), (go, gone)) = (mpsc::channel(), mpsc::channel::<()>());
    let stand = move || {
        let _ = stands.send(());
        let _ = gone.recv_timeout(DEADLINE);
    };
    run.handle.run(move |_, _| stand()).expect("the lab runs");
    stood.recv_timeout(DEADLINE).expect("the loop comes to it");
    work();
    drop(go);
}

/// The number of this thread for the kernel.
fn task_id() -> u32 {
    let link = fs::read_link("/proc/thread-self").expect("Linux has this link");
    link.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("it ends in the number")
}
