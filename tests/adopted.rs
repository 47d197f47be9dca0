//! Descriptors that are no stream sockets of our own: what a short read means on them, and how their end is seen.

mod common;
mod lab;

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use lab::{Hand, Lab, LabClient};
use lineplex::config::Limits;
use lineplex::{CloseReason, ConnId};
use socket2::{Domain, Socket, Type};

fn adopt(hand: &mut Hand, descriptor: impl Into<OwnedFd>) -> ConnId {
    let descriptor = descriptor.into();
    hand.mux.enter(|lab, room| room.adopt(descriptor, LabClient::named(lab, "it")).expect("it can be polled"))
}

fn listening() -> Hand {
    Hand::new(Limits::default(), Lab::new().on_line(|_, _| Ok(())))
}

/// A terminal gives one line at a time, as these give one message: a short read does not mean that nothing is left.
#[test]
fn every_message_of_a_socket_of_messages_is_delivered_in_the_turn_in_which_it_is_there() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut hand = listening();
    theirs.send(b"first\n").unwrap();
    theirs.send(b"second\n").unwrap();
    adopt(&mut hand, ours);
    theirs.send(b"third\n").unwrap();
    hand.turn();
    assert_eq!(hand.news(), ["it connection", "it line first", "it line second", "it line third"]);
    theirs.send(b"fourth\n").unwrap();
    theirs.send(b"fif").unwrap();
    theirs.send(b"th\n").unwrap();
    hand.turn();
    assert_eq!(hand.news(), ["it line fourth", "it line fifth"]);
    hand.turn();
    assert_eq!(hand.news(), [""; 0]);
}

#[test]
fn messages_with_an_order_and_an_end_are_all_delivered_before_the_end() {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    let mut hand = listening();
    let id = adopt(&mut hand, ours);
    hand.wait_for("it connection");
    for message in [b"one\n", b"two\n", b"six\n"] {
        theirs.send(message).unwrap();
    }
    hand.mux.conns().write(id, b"answer");
    hand.turn();
    assert_eq!(hand.news(), ["it connection", "it line one", "it line two", "it line six"]);
    let mut received = [MaybeUninit::uninit(); 100];
    assert_eq!(theirs.recv(&mut received).unwrap(), 6);
    theirs.send(b"last\n").unwrap();
    theirs.send(b"word\n").unwrap();
    drop(theirs);
    hand.wait_for("it close eof");
    assert_eq!(hand.news(), ["it line last", "it line word", "it eof", "it close eof"]);
}

#[test]
fn many_messages_are_delivered_within_the_budgets_of_a_turn_and_the_rest_in_the_next() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let limits = Limits { lines_per_turn: 2, ..Limits::default() };
    let mut hand = Hand::new(limits, Lab::new().on_line(|_, _| Ok(())));
    adopt(&mut hand, ours);
    hand.wait_for("it connection");
    hand.news();
    for message in ["a\n", "b\n", "c\n", "d\n", "e\n"] {
        theirs.send(message.as_bytes()).unwrap();
    }
    for lines in [&["it line a", "it line b"][..], &["it line c", "it line d"], &["it line e"], &[]] {
        hand.turn();
        assert_eq!(hand.news(), lines);
    }
}

#[test]
fn a_pipe_that_we_only_write_to_closes_as_broken_when_its_reader_goes() {
    let (sender, mut receiver) = mio::unix::pipe::new().unwrap();
    let lab = Lab::new().on_close(|ctx, reason| {
        if let CloseReason::Io(error) = reason {
            ctx.server.tell(format!("{:?}", error.kind()));
        }
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let id = adopt(&mut hand, sender);
    hand.wait_for("it connection");
    assert!(hand.mux.conns().write(id, b"through the pipe"));
    hand.turn();
    let mut received = [0; 100];
    assert_eq!(receiver.read(&mut received).unwrap(), 16);
    assert!(hand.mux.conns().is_open(id));
    drop(receiver);
    hand.wait_for("BrokenPipe");
    assert_eq!(hand.metrics().failures, 0, "it is nobody's mistake");
    assert_eq!(hand.news(), ["it connection", "it close io", "BrokenPipe"]);
}

#[test]
fn a_pipe_that_we_only_read_from_ends_when_its_writer_goes() {
    use std::io::Write;
    let (mut sender, receiver) = mio::unix::pipe::new().unwrap();
    let mut hand = listening();
    adopt(&mut hand, receiver);
    hand.wait_for("it connection");
    sender.write_all(b"one\ntwo\n").unwrap();
    sender.write_all(b"three\n").unwrap();
    drop(sender);
    hand.wait_for("it close eof");
    let all = ["it connection", "it line one", "it line two", "it line three", "it eof", "it close eof"];
    assert_eq!(hand.news(), all);
}
