//! System calls that fail under a running server: nobody but the client concerned may notice.
//!
//! Method: the example `echo` runs as a child process, and a control client is served before, during and after each
//! fault. Then strace is attached to the thread of the loop and answers the n-th call of one kind, counted from the
//! attaching, with an error instead of making it. Each case waits for strace's own line that the error was injected,
//! so a case that injects nothing fails. Where strace is missing or may not attach (Yama's `ptrace_scope` above 0
//! without root) these tests say `skipped` and pass, unless `LINEPLEX_REQUIRE_STRACE=1`. `LINEPLEX_LONG=1` asks
//! for the long form of what takes its time by nature.

#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use common::served::{Served, long_form, round_trip, wait_until};
use common::strace::{Strace, strace_works};
use common::{Child, Client, Missed, complains, example};
use lineplex::config::{Limits, ListenAt};
use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};

#[test]
fn an_error_of_accept_that_concerns_one_client_is_passed_over_without_a_line() {
    for error in ["ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN", "EHOSTUNREACH", "EOPNOTSUPP", "EINTR"] {
        let Some(log) = first_client_after_accept_fails(error) else { return };
        assert!(!complains(&log), "{error}: {log:#?}");
    }
}

#[test]
fn an_accept_without_descriptors_or_memory_waits_says_so_once_and_goes_on() {
    for error in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"] {
        let Some(log) = first_client_after_accept_fails(error) else { return };
        let lines = log.iter().filter(|line| line.contains("cannot accept on 127.0.0.1:")).count();
        assert_eq!(lines, 1, "{error}: {log:#?}");
    }
}

/// A75. The server without any descriptor, for as long as it takes to see six attempts: their pauses grow to a second.
#[test]
fn a_server_out_of_descriptors_neither_spins_nor_floods_the_log_and_then_serves_who_waited() {
    let Some(mut echo) = traced() else { return };
    let mut strace = Strace::inject(&echo, "accept4", "error=EMFILE:when=1+");
    let mut waiting = Client::connect(echo.address);
    waiting.send("waited\n");
    let started = Instant::now();
    for _ in 0..6 {
        strace.wait_for("EMFILE");
        echo.control_is_fine();
    }
    // 100, 200, 400, 800 ms, 1 s: never early.
    assert!(started.elapsed() >= Duration::from_millis(2400), "{:?}", started.elapsed());
    strace.detach();
    assert_eq!(waiting.expect_line(), "waited");
    let log = echo.stop();
    assert_eq!(log.iter().filter(|line| line.contains("cannot accept")).count(), 1, "{log:#?}");
}

#[test]
fn a_listener_that_breaks_once_is_opened_anew_on_the_same_port() {
    for error in ["EINVAL", "EBADF", "ENOTSOCK"] {
        let Some(mut echo) = traced() else { return };
        let inject = format!("accept4:error={error}:when=1");
        let mut strace = Strace::of(echo.server.id(), "accept4,listen", &inject);
        let mut lost = Client::connect(echo.address);
        strace.wait_for(error);
        strace.wait_for("listen(");
        echo.control_is_fine();
        // It stood in the queue of the socket that was closed.
        assert!(matches!(lost.next_line(), Err(Missed::Eof | Missed::Io(_))), "{error}");
        round_trip(&mut Client::connect(echo.address), "the same port");
        strace.detach();
        let log = echo.stop();
        let lines = log.iter().filter(|line| line.contains("opened anew")).count();
        assert_eq!(lines, 1, "{error}: {log:#?}");
    }
}

#[test]
fn a_listener_that_breaks_again_ends_the_server_with_its_address_in_the_last_line() {
    let Some(mut echo) = traced() else { return };
    let mut strace = Strace::inject(&echo, "accept4", "error=EINVAL:when=1+");
    let _lost = Client::connect(echo.address);
    strace.wait_for("EINVAL");
    assert_eq!(echo.server.expect_exit().code(), Some(1));
    let expected = format!("the listener on {} is broken", echo.address);
    let log = echo.server.expect_log();
    assert!(log.last().is_some_and(|line| line.contains(&expected)), "{log:#?}");
}

#[test]
fn a_receive_that_is_interrupted_or_finds_nothing_after_all_is_repeated() {
    // An EAGAIN is made good by the sweep of the next second, a second one by the sweep after that.
    for (error, times) in [("EINTR", 3), ("EAGAIN", 1), ("EAGAIN", 2)] {
        served_in_spite_of("recvfrom", error, times);
    }
}

#[test]
fn a_send_that_is_interrupted_or_refused_for_now_is_repeated() {
    for (error, times) in [("EINTR", 3), ("EAGAIN", 1), ("EAGAIN", 2), ("ENOBUFS", 1), ("ENOMEM", 1)] {
        served_in_spite_of("sendto", error, times);
    }
}

/// Two long lines to all at once, which all share, are two pieces for each.
#[test]
fn a_send_of_many_pieces_is_repeated_as_one_of_one_piece_is() {
    for (error, times) in [("EINTR", 3), ("EAGAIN", 1), ("ENOBUFS", 1), ("EAGAIN", 2)] {
        let Some(Flow { server, told: _told, mut victim, mut control }) = flow_of_two() else { return };
        let mut strace =
            Strace::of(server.id(), "sendmsg", &format!("sendmsg:error={error}:when=1..{times}"));
        let (one, two) = ("long".repeat(200), "line".repeat(200));
        victim.send(format!("tell {one}\ntell {two}\n"));
        for _ in 0..times {
            strace.wait_for(error);
        }
        for client in [&mut victim, &mut control] {
            assert_eq!((client.expect_line(), client.expect_line()), (one.clone(), two.clone()), "{error}");
        }
        strace.detach();
        stop(server);
    }
}

#[test]
fn a_send_of_many_pieces_that_fails_closes_that_client_alone_and_close_is_called_once() {
    for error in ["EPIPE", "ECONNRESET"] {
        let Some(Flow { mut server, mut told, mut victim, mut control }) = flow_of_two() else { return };
        let mut strace = Strace::of(server.id(), "sendmsg", &format!("sendmsg:error={error}:when=1"));
        let long = "last".repeat(200);
        victim.send(format!("tell {long}\ntell {long}\n"));
        strace.wait_for(error);
        assert_eq!((control.expect_line(), control.expect_line()), (long.clone(), long), "{error}");
        assert!(matches!(victim.next_to_eof().as_deref(), Ok([]) | Err(Missed::Io(_))), "{error}");
        while !told.expect_line().starts_with("close: #1 (io: ") {}
        control.send("tell still here\n");
        assert_eq!(control.expect_line(), "still here", "{error}");
        strace.detach();
        server.signal("TERM");
        assert!(server.expect_exit().success(), "{server}");
        let rest = String::from_utf8_lossy(&told.expect_to_eof()).into_owned();
        assert!(rest.contains("close: #2") && !rest.contains("close: #1"), "{rest}");
    }
}

#[test]
fn a_receive_that_fails_closes_that_client_alone() {
    for error in ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH"] {
        let Some(log) = closed_because_of("recvfrom", error) else { return };
        assert!(!complains(&log), "{error}: {log:#?}");
    }
}

#[test]
fn a_send_that_fails_closes_that_client_alone() {
    for error in ["EPIPE", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH"] {
        let Some(log) = closed_because_of("sendto", error) else { return };
        assert!(!complains(&log), "{error}: {log:#?}");
    }
}

#[test]
fn an_error_that_only_a_mistake_of_ours_can_cause_is_logged_as_one_and_closes_that_client_alone() {
    for (call, error) in
        [("recvfrom", "EBADF"), ("recvfrom", "ENOTSOCK"), ("sendto", "EBADF"), ("sendto", "EFAULT")]
    {
        let Some(log) = closed_because_of(call, error) else { return };
        let lines = log.iter().filter(|line| line.contains(" error ") && line.contains("a mistake of ours"));
        assert_eq!(lines.count(), 1, "{call}, {error}: {log:#?}");
    }
}

/// In the chat a client that is gone is announced by its `close` callback.
#[test]
fn close_is_called_once_for_a_client_whose_receive_fails() {
    for error in ["ECONNRESET", "EBADF", "ETIMEDOUT"] {
        let Some(Chat { server, mut control, mut victim, .. }) = Chat::of_two() else { return };
        let mut strace = Strace::of(server.id(), "recvfrom", &format!("recvfrom:error={error}:when=1"));
        victim.send("never heard\n");
        strace.wait_for(error);
        assert!(control.expect_line().starts_with("LEFT: (#2)"), "{error}");
        assert!(matches!(victim.next_to_eof().as_deref(), Ok([]) | Err(Missed::Io(_))), "{error}");
        // Nothing stands between that line and what is said next.
        control.send("still here\n");
        assert!(control.expect_line().ends_with("] still here"), "{error}");
        strace.detach();
        stop(server);
    }
}

#[test]
fn a_wait_for_events_that_is_interrupted_is_repeated() {
    let Some((mut echo, mut client)) = with_client() else { return };
    let mut strace = Strace::inject(&echo, EPOLL_WAIT, "error=EINTR:when=1..3");
    round_trip(&mut client, "served");
    // Being attached interrupts the wait that is under way; the three come after it.
    for _ in 0..3 {
        strace.wait_for("(INJECTED)");
    }
    echo.control_is_fine();
    round_trip(&mut client, "served again");
    strace.detach();
    echo.stop();
}

#[test]
fn a_wait_for_events_that_fails_ends_the_server_with_a_line() {
    for error in ["EINVAL", "EBADF"] {
        let Some(mut echo) = traced() else { return };
        let _strace = Strace::inject(&echo, EPOLL_WAIT, &format!("error={error}:when=1"));
        assert_eq!(echo.server.expect_exit().code(), Some(1), "{error}");
        let log = echo.server.expect_log();
        let told = log.last().is_some_and(|line| line.contains("waiting for events failed"));
        assert!(told, "{error}: {log:#?}");
    }
}

#[test]
fn a_client_that_cannot_be_registered_is_closed_with_a_line_and_the_next_one_is_served() {
    for error in ["ENOSPC", "ENOMEM"] {
        let Some((mut echo, mut first)) = with_client() else { return };
        let mut strace = Strace::inject(&echo, "epoll_ctl", &format!("error={error}:when=1"));
        let mut second = Client::connect(echo.address);
        second.expect_eof();
        strace.wait_for(error);
        echo.control_is_fine();
        round_trip(&mut first, "as before");
        round_trip(&mut Client::connect(echo.address), "registered");
        strace.detach();
        let log = echo.stop();
        let lines = log.iter().filter(|line| line.contains("could not be registered")).count();
        assert_eq!(lines, 1, "{error}: {log:#?}");
    }
}

/// strace does not make the call that it answers, so the descriptor stays open and in the poll: its events, of a
/// connection that is no more, must reach nobody.
#[test]
fn a_close_that_fails_is_not_repeated() {
    for error in ["EINTR", "EIO"] {
        let Some((mut echo, client)) = with_client() else { return };
        let mut strace = Strace::inject(&echo, "close", &format!("error={error}:when=1"));
        drop(client);
        let line = strace.wait_for(error);
        let call = line[..line.find(')').expect("a call has a parenthesis") + 1].to_owned();
        assert!(call.starts_with("close("), "{line}");
        round_trip(&mut echo.client(), "next");
        echo.control_is_fine();
        let calls = strace.detach();
        let closes = calls.iter().filter(|line| line.starts_with(&call)).count();
        assert_eq!(closes, 1, "{error}: {calls:#?}");
        echo.stop();
    }
}

#[test]
fn a_lost_edge_is_found_by_the_sweep_and_counted_and_nothing_else_is() {
    if !strace_works() {
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut mux = Mux::new(Echo, Limits::default()).unwrap();
        let address = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).unwrap();
        sender.send((address.to_string(), mux.handle(), task_id())).unwrap();
        mux.run()
    });
    let (address, handle, task) = receiver.recv().unwrap();
    let mut client = Client::connect(&address);
    for _ in 0..1000 {
        round_trip(&mut client, "nothing is lost");
    }
    let counters = || {
        let (sender, receiver) = mpsc::channel();
        handle.run(move |_, room| sender.send(room.conns.metrics()).unwrap()).unwrap();
        let metrics = receiver.recv_timeout(common::DEADLINE).unwrap();
        (metrics.lost_edges, metrics.sweeps, metrics.accept_errors)
    };
    assert_eq!(counters(), (0, 0, 0));
    for (nth, call) in [(1, "recvfrom"), (2, "sendto")] {
        let mut strace = Strace::of(task, call, &format!("{call}:error=EAGAIN:when=1"));
        round_trip(&mut client, "late");
        strace.wait_for("EAGAIN");
        strace.detach();
        assert_eq!(counters(), (nth, nth, 0), "{call}");
    }
    let mut strace = Strace::of(task, "accept4", "accept4:error=ECONNABORTED:when=1..3");
    round_trip(&mut Client::connect(&address), "accepted at last");
    for _ in 0..3 {
        strace.wait_for("ECONNABORTED");
    }
    strace.detach();
    let strace = Strace::of(task, "epoll_ctl", "epoll_ctl:error=ENOSPC:when=1");
    Client::connect(&address).expect_eof();
    strace.detach();
    assert_eq!(counters(), (2, 2, 4));
    handle.stop(0).unwrap();
    thread.join().unwrap().unwrap();
}

/// Seen from outside, without strace: the threads' own counts of how often they went to sleep.
#[test]
fn no_thread_of_an_idle_server_wakes_up() {
    for clients in [0, 50] {
        let mut echo = Served::echo(&[]);
        let _clients: Vec<Client> = (0..clients).map(|_| echo.client()).collect();
        let mut idle = echo.client();
        let before = settled(&echo, &mut idle);
        idle.expect_silence(window());
        assert_eq!(echo.switches(), before, "somebody woke up with {clients} clients");
        echo.control_is_fine();
        wait_until("a round trip is seen in the counts", || echo.switches() > before);
        echo.stop();
    }
}

#[test]
fn an_idle_loop_with_a_client_makes_no_system_call() {
    let Some((echo, mut client)) = with_client() else { return };
    let mut strace = Strace::of(echo.server.id(), "all", "");
    round_trip(&mut client, "this one is seen");
    strace.wait_for("sendto(");
    client.expect_silence(window());
    round_trip(&mut client, "and this one ends the wait");
    strace.wait_for("sendto(");
    let calls = strace.detach();
    let first = calls.iter().position(|line| line.starts_with("sendto(")).expect("it was waited for");
    assert_eq!(names(&calls[first + 1..])[..3], ["epoll_wait", "recvfrom", "sendto"], "{calls:#?}");
    echo.stop();
}

#[test]
fn an_idle_loop_without_a_client_makes_no_system_call() {
    let Some(Chat { server, address, control, victim }) = Chat::of_two() else { return };
    let mut strace = Strace::of(server.id(), "all", "");
    drop((control, victim));
    strace.wait_for("close(");
    strace.wait_for("close(");
    // Time has to pass, and nobody is there whose silence could be waited for.
    let (_sender, silence) = mpsc::channel::<()>();
    assert_eq!(silence.recv_timeout(window()), Err(RecvTimeoutError::Timeout));
    let _next = Client::connect(address);
    strace.wait_for("accept4(");
    let calls = strace.detach();
    let last = calls.iter().rposition(|line| line.starts_with("close(")).expect("it was waited for");
    assert_eq!(names(&calls[last + 1..])[..2], ["epoll_wait", "accept4"], "{calls:#?}");
    stop(server);
}

/// `echo`, where strace works.
#[track_caller]
fn traced() -> Option<Served> {
    strace_works().then(|| Served::echo(&[]))
}

/// `echo` and a client that has been served, where strace works.
#[track_caller]
fn with_client() -> Option<(Served, Client)> {
    traced().map(|echo| {
        let client = echo.client();
        (echo, client)
    })
}

/// The chat with two clients, who have seen each other come.
struct Chat {
    server: Child,
    address: SocketAddr,
    control: Client,
    victim: Client,
}

impl Chat {
    #[track_caller]
    fn of_two() -> Option<Self> {
        if !strace_works() {
            return None;
        }
        let arguments = ["--port", "127.0.0.1:0", "--junior_seconds", "1000"];
        let mut server = Child::spawn(Command::new(example("samplechat")).args(arguments));
        let address = server.wait_for_address();
        let mut control = Client::connect(address);
        while !control.expect_line().starts_with("Welcome") {}
        let mut victim = Client::connect(address);
        while !victim.expect_line().starts_with("Welcome") {}
        assert!(control.expect_line().starts_with("JOIN: (#2)"));
        Some(Self { server, address, control, victim })
    }
}

/// The server of tests/flow, what it tells, and two clients; the victim is sent to first.
struct Flow {
    server: Child,
    told: Client,
    victim: Client,
    control: Client,
}

#[track_caller]
fn flow_of_two() -> Option<Flow> {
    if !strace_works() {
        return None;
    }
    let (mut server, told) =
        Child::spawn_told(Command::new(example("flow_server")).args(["--port", "127.0.0.1:0"]));
    let address = server.wait_for_address();
    let mut victim = Client::connect(address);
    victim.send("tell one\n");
    assert_eq!(victim.expect_line(), "one");
    let mut control = Client::connect(address);
    control.send("tell both\n");
    assert_eq!((victim.expect_line(), control.expect_line()), ("both".into(), "both".into()));
    Some(Flow { server, told, victim, control })
}

#[track_caller]
fn stop(mut server: Child) {
    server.signal("TERM");
    assert!(server.expect_exit().success(), "{server}");
}

/// The first accept after the control client's fails so; the client that caused it is served all the same. The log.
#[track_caller]
fn first_client_after_accept_fails(error: &str) -> Option<Vec<String>> {
    let mut echo = traced()?;
    let mut strace = Strace::inject(&echo, "accept4", &format!("error={error}:when=1"));
    let mut client = Client::connect(echo.address);
    strace.wait_for(error);
    echo.control_is_fine();
    round_trip(&mut client, "served");
    strace.detach();
    Some(echo.stop())
}

/// The next `times` calls fail so for a client that sends a line; it is served all the same.
#[track_caller]
fn served_in_spite_of(call: &str, error: &str, times: u32) {
    let Some((mut echo, mut client)) = with_client() else { return };
    let mut strace = Strace::inject(&echo, call, &format!("error={error}:when=1..{times}"));
    client.send("served\n");
    for _ in 0..times {
        strace.wait_for(error);
    }
    echo.control_is_fine();
    assert_eq!(client.expect_line(), "served", "{error}");
    round_trip(&mut client, "served again");
    strace.detach();
    let log = echo.stop();
    assert!(!complains(&log), "{call}, {error}: {log:#?}");
}

/// The next call fails so for a client that sends a line; it is closed and nobody else. The log.
#[track_caller]
fn closed_because_of(call: &str, error: &str) -> Option<Vec<String>> {
    let (mut echo, mut client) = with_client()?;
    let mut other = echo.client();
    let mut strace = Strace::inject(&echo, call, &format!("error={error}:when=1"));
    client.send("the last\n");
    strace.wait_for(error);
    echo.control_is_fine();
    assert!(matches!(client.next_to_eof().as_deref(), Ok([]) | Err(Missed::Io(_))), "{call}, {error}");
    round_trip(&mut other, "unharmed");
    strace.detach();
    Some(echo.stop())
}

/// The count of sleeps after which the server sleeps on.
#[track_caller]
fn settled(echo: &Served, idle: &mut Client) -> u64 {
    let mut switches = 0;
    wait_until("the server has come to rest", || {
        let before = std::mem::replace(&mut switches, echo.switches());
        idle.expect_silence(Duration::from_millis(100));
        switches == before
    });
    switches
}

/// For how long an idle server is watched.
fn window() -> Duration {
    Duration::from_secs(if long_form() { 10 } else { 2 })
}

/// The names of the calls in lines of strace; both ways to wait for events have one.
fn names(calls: &[String]) -> Vec<&str> {
    let name = |line: &'_ String| line.split('(').next().map(|name| name.len());
    let names = calls.iter().map(|line| &line[..name(line).unwrap_or(0)]);
    names.map(|name| if name == "epoll_pwait" { "epoll_wait" } else { name }).collect()
}

/// What the loop of this process runs on, for strace: the number of this thread.
fn task_id() -> u32 {
    let link = fs::read_link("/proc/thread-self").expect("Linux has this link");
    link.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("it ends in the number")
}

struct Echo;

struct EchoClient;

impl Server for Echo {
    type Client = EchoClient;

    fn client(&mut self, _peer: &Peer) -> EchoClient {
        EchoClient
    }
}

impl MuxCallback<Echo> for EchoClient {
    fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.write(line);
            ctx.write(b"\n");
        }
        Ok(())
    }
}

/// The wait for events has two names, of which each architecture has one or both.
const EPOLL_WAIT: &str = "/^epoll_p?wait$";
