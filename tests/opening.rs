//! What happens to a connection before it is open waits for it: `connection` comes first, whatever was asked before.

mod common;
mod lab;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::DEADLINE;
use lab::{Hand, Lab, LabClient};
use lineplex::ConnectTo;
use lineplex::config::Limits;
use socket2::{Domain, Socket, Type};

/// Tells of `drained` too.
fn telling() -> Lab {
    Lab::new().on_drained(|ctx| {
        ctx.server.tell("drained");
        Ok(())
    })
}

/// An address that answers nobody until its queue, which is full, is emptied.
fn silent() -> (Socket, SocketAddr, TcpStream) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket of this test");
    socket
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("a socket of this test").into())
        .expect("a socket of this test");
    socket.listen(0).expect("a socket of this test");
    let addr =
        socket.local_addr().expect("a socket of this test").as_socket().expect("a socket of this test");
    let first = TcpStream::connect(addr).expect("a socket of this test");
    (socket, addr, first)
}

#[test]
fn what_was_asked_before_connection_comes_after_it_once() {
    for in_a_turn in [false, true] {
        let mut hand = Hand::new(Limits::default(), telling());
        let (ours, mut theirs) = UnixStream::pair().expect("a socket of this test");
        let ask = |lab: &mut Lab, room: &mut lineplex::Room<'_, Lab>| {
            let id = room.adopt(OwnedFd::from(ours), LabClient::named(lab, "pair")).unwrap();
            assert!(room.conns.write(id, b"written before\n"));
            room.conns.set_timeout(id, Duration::ZERO);
            room.conns.wake(id);
            room.conns.wake(id);
        };
        if in_a_turn {
            // Phases 6 and 7 of that turn come before `connection`.
            hand.mux.handle().run(ask).unwrap();
            hand.turn();
            assert_eq!(hand.news(), [""; 0]);
        } else {
            hand.mux.enter(ask);
        }
        hand.turn();
        assert_eq!(hand.news(), ["pair connection", "pair wake", "pair timeout", "drained"]);
        let mut received = [0; 15];
        theirs.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"written before\n");
        hand.turn();
        assert_eq!(hand.news(), [""; 0]);
    }
}

#[test]
fn a_deadline_that_is_cleared_before_connection_never_comes() {
    let mut hand = Hand::new(Limits::default(), telling());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let handle = hand.mux.handle();
    handle
        .run(|lab, room| {
            let id = room.adopt(OwnedFd::from(ours), LabClient::named(lab, "pair")).unwrap();
            room.conns.set_timeout(id, Duration::ZERO);
            room.conns.clear_timeout(id);
        })
        .unwrap();
    hand.wait_for("pair connection");
    hand.mux.conns().after(Duration::from_millis(2), 1);
    hand.wait_for("due 1");
    assert!(!hand.told().contains(&"pair timeout".to_owned()));
}

#[test]
fn a_deadline_that_passes_while_an_outgoing_connection_is_opened_comes_after_connection() {
    let (listener, addr, first) = silent();
    let limits = Limits { connect_time: DEADLINE, ..Limits::default() };
    let mut hand = Hand::new(limits, telling());
    let id = hand.mux.enter(|lab, room| {
        let id = room.connect(addr, LabClient::named(lab, "out")).unwrap();
        assert!(room.conns.write(id, b"x"));
        room.conns.set_timeout(id, Duration::from_millis(5));
        room.conns.wake(id);
        id
    });
    hand.until(|mux| mux.conns().metrics().expiries == 1);
    assert!(hand.mux.conns().is_open(id));
    assert_eq!(hand.news(), [""; 0]);
    // Room in its queue: the next attempt of the kernel, after a second or so, is answered.
    listener.accept().unwrap();
    hand.wait_for("drained");
    assert_eq!(hand.news(), ["out connection", "out wake", "out timeout", "drained"]);
    drop(first);
}

#[test]
fn an_outgoing_connection_that_nobody_answers_ends_at_its_time_and_hears_only_that() {
    let (_listener, addr, _first) = silent();
    let mut hand = Hand::new(Limits::default(), telling());
    hand.mux.enter(|lab, room| {
        let to = ConnectTo::from(addr).within(Duration::from_millis(20));
        let id = room.connect(to, LabClient::named(lab, "out")).unwrap();
        assert!(room.conns.write(id, b"x"));
        room.conns.set_timeout(id, Duration::from_millis(5));
        room.conns.wake(id);
    });
    hand.wait_for("out close connect-failed");
    assert_eq!(hand.news(), ["out close connect-failed"]);
}

#[test]
fn an_outgoing_connection_that_is_refused_hears_only_that() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = nobody.local_addr().unwrap();
    drop(nobody);
    let mut hand = Hand::new(Limits::default(), telling());
    hand.mux.enter(|lab, room| {
        if let Ok(id) = room.connect(addr, LabClient::named(lab, "out")) {
            room.conns.write(id, b"x");
            room.conns.wake(id);
        }
    });
    hand.wait_for("out close connect-failed");
    assert_eq!(hand.news(), ["out close connect-failed"]);
}
