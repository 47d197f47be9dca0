//! Connections that the server makes itself: outgoing ones, and descriptors that it adopts.
//!
//! What is connected to is the lab's own listener or one of the test; addresses that refuse or never answer are
//! sockets that are bound without listening and listeners whose queue is full. One-way pipes and sockets of messages
//! are in `adopted.rs`.

mod common;
mod lab;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, DEADLINE, TempDir};
use lab::{Hand, Lab, LabClient, Net, Run};
use lineplex::config::Limits;
use lineplex::net::PeerAddr;
use lineplex::{CloseReason, ConnId, ConnectTo};
use socket2::{Domain, SockRef, Socket, Type};

/// A lab that greets from the outgoing side and answers on the other, and tells why connecting failed.
fn greeter() -> Lab {
    Lab::new()
        .on_connection(|ctx| {
            if ctx.peer.serial() == 0 {
                assert_eq!(ctx.peer.listener(), "");
                ctx.write(b"greeting\n");
            }
            Ok(())
        })
        .on_line(|ctx, line| {
            if ctx.peer.serial() > 0 {
                writeln!(ctx, "answer to {}", line.escape_ascii());
            }
            Ok(())
        })
        .on_close(|ctx, reason| {
            if let CloseReason::ConnectFailed(error) = reason {
                ctx.server.tell(format!("{:?}", error.kind()));
            }
        })
}

#[track_caller]
fn connect(hand: &mut Hand, to: impl Into<ConnectTo>) -> io::Result<ConnId> {
    hand.mux.enter(|lab, room| room.connect(to, LabClient::named(lab, "out")))
}

/// Connects the lab to itself, before any turn, and sees what was written before and in `connection` arrive in order.
#[track_caller]
fn reaches_itself(net: Net, to: impl FnOnce(&str) -> ConnectTo) -> (Hand, ConnId) {
    let mut hand = Hand::on(net, Limits::default(), greeter());
    let to = to(&hand.addr);
    let id = connect(&mut hand, to).expect("it begins");
    let conns = hand.mux.conns();
    assert!(conns.is_open(id) && conns.all().count() == 0, "it is there, but not yet in the room");
    assert_eq!(conns.broadcast(b"not for it\n", |_| true), 0);
    assert!(conns.write(id, b"early\n"));
    hand.wait_for("out line answer to greeting");
    let told = hand.told();
    let at = |event: &str| told.iter().position(|told| told == event).expect(event);
    assert!(at("1 line early") < at("1 line greeting"), "{told:?}");
    assert_eq!(
        told.iter().find(|event| event.starts_with("out")).map(String::as_str),
        Some("out connection")
    );
    assert!(at("out connection") < at("out line answer to early"));
    let metrics = hand.metrics();
    assert_eq!((metrics.connects, metrics.accepted, metrics.open), (1, 1, 2));
    (hand, id)
}

#[test]
fn it_connects_to_an_address_a_name_and_a_path_and_what_was_written_before_is_sent_first() {
    let addr = |text: &str| text.parse::<SocketAddr>().expect("an address");
    reaches_itself(Net::Tcp, |to| addr(to).into());
    reaches_itself(Net::Tcp, |to| to.into());
    reaches_itself(Net::Unix, |to| Path::new(to).into());
    let by_name = |to: &str| format!("localhost:{}", addr(to).port()).as_str().into();
    let (mut hand, id) = reaches_itself(Net::Tcp, by_name);
    let expected = PeerAddr::Ip(addr(&hand.addr));
    hand.mux.enter(|_, room| {
        assert_eq!(room.clients.peer(id).expect("it is there").addr(), expected, "the address that answered");
    });
}

#[test]
fn who_connects_in_a_callback_has_the_client_among_the_others_at_once() {
    let dir = TempDir::new();
    let path = dir.path().join("upstream");
    let upstream = std::os::unix::net::UnixListener::bind(&path).expect("it can listen");
    let lab = Lab::new().on_line(move |ctx, _| {
        let client = LabClient::named(ctx.server, "out");
        let id = ctx.connect(path.as_path(), client)?;
        assert_eq!(ctx.others.at(id).map(|client| client.label.as_str()), Some("out"));
        ctx.others.at_mut(id).expect("it is there").count = 7;
        assert!(ctx.others.iter().any(|(other, client)| other == id && client.count == 7));
        assert!(ctx.others.iter_mut().any(|(other, _)| other == id));
        assert_eq!(ctx.others.peer(id).map(|peer| peer.serial()), Some(0));
        assert!(ctx.conns.write(id, b"from the callback\n"));
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let client = hand.client();
    client.send("connect\n");
    hand.wait_for("out connection");
    let id = hand.id("out");
    assert_eq!(hand.mux.enter(|_, room| room.clients.at(id).map(|client| client.count)), Some(7));
    let (stream, _) = upstream.accept().expect("it was connected");
    let mut stream = Client::of(stream);
    hand.turn();
    stream.expect("from the callback\n");
    drop(stream);
    hand.wait_for("out close eof");
    assert_eq!(hand.metrics().failures + hand.metrics().panics, 0);
}

#[test]
fn a_refusal_is_close_and_nothing_else() {
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let addr = bound.local_addr().expect("it is bound").as_socket().expect("it is TCP");
    for by_name in [false, true] {
        let name = format!("localhost:{}", addr.port());
        let to = if by_name { ConnectTo::from(name.as_str()) } else { addr.into() };
        let mut hand = Hand::new(Limits::default(), greeter());
        let id = connect(&mut hand, to).expect("it begins");
        assert!(hand.mux.conns().write(id, b"never sent"));
        hand.wait_for("ConnectionRefused");
        assert_eq!(hand.news(), ["out close connect-failed", "ConnectionRefused"]);
        assert_eq!(hand.metrics().open, 0);
    }
}

#[test]
fn a_path_that_nobody_listens_on_is_an_error_at_once_and_leaves_nothing() {
    let dir = TempDir::new();
    let mut hand = Hand::new(Limits::default(), greeter());
    let error = connect(&mut hand, dir.path().join("nobody").as_path()).expect_err("there is no such path");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!((hand.metrics().open, hand.metrics().connects), (0, 0));
    hand.turn();
    assert_eq!(hand.news(), [""; 0]);
}

#[test]
fn who_never_answers_is_given_up_at_the_deadline_of_the_call_or_of_the_limits() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    listener.listen(0).expect("it can listen");
    let addr = listener.local_addr().expect("it is bound").as_socket().expect("it is TCP");
    // Nobody accepts: a listener whose queue is full drops who comes.
    let mut queue = vec![TcpStream::connect(addr).expect("the queue has room for one")];
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue is never full");
    }
    let short = Duration::from_millis(30);
    for within in [true, false] {
        let connect_time = if within { DEADLINE * 2 } else { short };
        let mut hand = Hand::new(Limits { connect_time, ..Limits::default() }, greeter());
        let to = ConnectTo::from(addr);
        let began = Instant::now();
        connect(&mut hand, if within { to.within(short) } else { to }).expect("it begins");
        hand.wait_for("TimedOut");
        assert!(began.elapsed() >= short, "never early");
        assert_eq!(hand.news(), ["out close connect-failed", "TimedOut"]);
    }
}

#[test]
fn text_without_host_and_port_is_invalid_and_a_name_without_address_fails_to_connect() {
    let mut hand = Hand::new(Limits::default(), greeter());
    for text in ["", "host", "host:", "host:port", "host:65536", "host:-1", "[::1]", "127.0.0.1"] {
        let error = connect(&mut hand, text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
    }
    assert_eq!((hand.metrics().open, hand.metrics().connects), (0, 0));
    // An empty label is no name: nobody is asked for it.
    let id = connect(&mut hand, "a..b:1").expect("it has the shape");
    assert!(hand.mux.conns().write(id, b"never sent"));
    hand.wait_for("out close connect-failed");
    assert!(!hand.told().contains(&"out connection".to_owned()) && !hand.mux.conns().is_open(id));
}

/// A server that connects every client to `upstream` and passes everything on, ends included.
fn proxy(upstream: SocketAddr) -> Lab {
    let pairs: Rc<RefCell<HashMap<ConnId, ConnId>>> = Rc::default();
    let (of_connection, of_input, of_drained, of_eof) =
        (Rc::clone(&pairs), Rc::clone(&pairs), Rc::clone(&pairs), pairs);
    Lab::new()
        .on_connection(move |ctx| {
            if ctx.peer.serial() > 0 {
                let client = LabClient::named(ctx.server, "out");
                let out = ctx.connect(upstream, client)?;
                of_connection.borrow_mut().extend([(ctx.id, out), (out, ctx.id)]);
            }
            Ok(())
        })
        .on_input(move |ctx, input| {
            let to = of_input.borrow()[&ctx.id];
            assert!(ctx.conns.write(to, input.bytes()), "back-pressure keeps it below the hard limit");
            input.consume(input.len());
            if ctx.conns.unsent(to) > 64 * 1024 {
                ctx.pause_input();
            }
            Ok(())
        })
        .on_drained(move |ctx| {
            let from = of_drained.borrow()[&ctx.id];
            ctx.conns.resume_input(from);
            Ok(())
        })
        .on_eof(move |ctx, _| {
            ctx.hold_open();
            let to = of_eof.borrow()[&ctx.id];
            ctx.conns.shutdown_write(to);
            Ok(())
        })
}

#[test]
fn a_proxy_of_incoming_and_outgoing_on_one_loop_passes_a_megabyte_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("it can listen");
    let upstream = listener.local_addr().expect("it is bound");
    let limits = Limits { output_hard_bytes: 256 * 1024, ..Limits::default() };
    let mut run = Run::start(limits, move || proxy(upstream));
    let near = TcpStream::connect(&run.addr).expect("it listens");
    let (far, _) = listener.accept().expect("the proxy connects");
    let bytes = |step: usize| (0..1 << 20).map(|at: usize| (at * step % 251) as u8).collect::<Vec<u8>>();
    let (there, back) = (bytes(3), bytes(7));
    thread::scope(|scope| {
        for (stream, sent, expected) in [(&near, &there, &back), (&far, &back, &there)] {
            stream.set_read_timeout(Some(DEADLINE)).expect("a time-out is settable");
            stream.set_write_timeout(Some(DEADLINE)).expect("a time-out is settable");
            scope.spawn(move || {
                (&*stream).write_all(sent).expect("it is taken");
                stream.shutdown(Shutdown::Write).expect("it is open");
            });
            scope.spawn(move || {
                let mut received = Vec::new();
                (&*stream).read_to_end(&mut received).expect("it comes to its end");
                assert!(received == *expected, "{} bytes came", received.len());
            });
        }
    });
    run.end().expect("it ends without an error");
    let ends = run.whole_story().iter().filter(|event| event.ends_with("close eof"));
    assert_eq!(ends.count(), 2, "{:?}", run.whole_story());
}

#[track_caller]
fn adopt(hand: &mut Hand, descriptor: impl Into<OwnedFd>, label: &str) -> ConnId {
    let adopted = hand.mux.enter(|lab, room| room.adopt(descriptor, LabClient::named(lab, label)));
    adopted.expect("it can be polled")
}

#[test]
fn what_a_child_prints_is_the_input_of_an_adopted_connection_and_what_is_written_it_reads() {
    let mut hand = Hand::new(Limits::default(), Lab::new().on_line(|_, _| Ok(())));
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("every system has cat");
    let stdin = adopt(&mut hand, child.stdin.take().expect("it was asked for"), "stdin");
    adopt(&mut hand, child.stdout.take().expect("it was asked for"), "stdout");
    assert_eq!(hand.mux.conns().all().count(), 0, "`connection` comes in the next turn");
    assert!(hand.mux.conns().write(stdin, b"one\ntwo\n"));
    hand.wait_for("stdout line two");
    hand.mux.conns().close(stdin);
    hand.wait_for("stdout close eof");
    let [stdin, stdout] = ["stdin ", "stdout "].map(|label| {
        let told = hand.told();
        told.iter().filter_map(|event| event.strip_prefix(label)).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(stdin, ["connection", "close asked"]);
    assert_eq!(stdout, ["connection", "line one", "line two", "eof", "close eof"]);
    assert!(child.wait().expect("it ends with its input").success());
}

#[test]
fn a_socket_pair_is_adopted_in_a_callback_and_gets_its_blocking_mode_back() {
    for blocking in [true, false] {
        let (ours, theirs) = UnixStream::pair().expect("a pair can be had");
        let shared = ours.try_clone().expect("it can be duplicated");
        shared.set_nonblocking(!blocking).expect("it can be set");
        let ours = RefCell::new(Some(ours));
        let lab = Lab::new().on_line(move |ctx, line| {
            if ctx.peer.serial() == 0 {
                assert_eq!((ctx.peer.addr(), ctx.peer.listener()), (PeerAddr::Adopted, ""));
                ctx.write(line);
                return Ok(());
            }
            let client = LabClient::named(ctx.server, "pair");
            let id = ctx.adopt(ours.take().expect("it is adopted once"), client)?;
            assert!(ctx.others.at(id).is_some() && ctx.conns.write(id, b"early "));
            Ok(())
        });
        let mut hand = Hand::new(Limits::default(), lab);
        let client = hand.client();
        client.send("adopt\n");
        hand.wait_for("pair connection");
        assert!(
            SockRef::from(&shared).nonblocking().expect("it can be asked"),
            "the loop never waits for it"
        );
        let mut theirs = Client::of(theirs);
        theirs.send("hello\n");
        hand.wait_for("pair line hello");
        hand.turn();
        theirs.expect("early hello");
        theirs.half_close();
        hand.wait_for("pair close eof");
        theirs.expect_eof();
        let told = hand.told();
        let pair: Vec<_> = told.iter().filter(|event| event.starts_with("pair")).collect();
        assert_eq!(pair, ["pair connection", "pair line hello", "pair eof", "pair close eof"]);
        assert_eq!(SockRef::from(&shared).nonblocking().expect("it can be asked"), !blocking);
    }
}

#[test]
fn a_regular_file_is_refused_with_the_remedy_and_leaves_nothing() {
    let dir = TempDir::new();
    let file = File::create(dir.path().join("file")).expect("it can be made");
    let shared = file.try_clone().expect("it can be duplicated");
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let refused = hand.mux.enter(|lab, room| {
        let refused = room.adopt(file, LabClient::named(lab, "file"));
        assert_eq!(room.clients.iter().count(), 0);
        refused
    });
    let error = refused.expect_err("it cannot be polled");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("regular file") && error.to_string().contains("std::fs"), "{error}");
    assert!(!SockRef::from(&shared).nonblocking().expect("it can be asked"), "it has its mode back");
    hand.turn();
    assert_eq!((hand.metrics().open, hand.news()), (0, vec![]));
}
