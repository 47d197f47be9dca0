//! A name with several addresses: given here by hand, since no name has them on every machine.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::config::Limits;
use crate::mux::context::Member;
use crate::{Context, Input, Mux, MuxCallback, Server};

/// What was called.
#[derive(Default)]
struct Told(Vec<String>);
struct Client;

impl Server for Told {
    type Client = Client;

    fn client(&mut self, _: &Peer) -> Client {
        Client
    }
}

impl MuxCallback<Told> for Client {
    fn connection(&mut self, ctx: &mut Context<'_, Told>) -> io::Result<()> {
        let PeerAddr::Ip(addr) = ctx.peer.addr() else { panic!("not an address") };
        ctx.server.0.push(format!("connection {addr}"));
        Ok(())
    }

    fn input(&mut self, ctx: &mut Context<'_, Told>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.server.0.push(String::from_utf8_lossy(line).into_owned());
        }
        Ok(())
    }

    fn close(&mut self, ctx: &mut Context<'_, Told>, reason: &CloseReason) {
        let CloseReason::ConnectFailed(error) = reason else { return };
        ctx.server.0.push(format!("{:?}", error.kind()));
    }
}

/// Begins a connection to a name that turns out to have these addresses.
fn connect(mux: &mut Mux<Told>, within: Duration, addresses: &[SocketAddr]) {
    let to = ConnectTo::from("localhost:1").within(within);
    // Nobody hears what the look-up really finds.
    let (id, peer) = mux.conns.begin_connect(to, Box::new(|_, _| ())).unwrap();
    mux.clients.put(id, Member { peer, client: Client });
    mux.conns.resolved(id, Ok(addresses.to_vec()));
}

#[track_caller]
fn wait_for(mux: &mut Mux<Told>, what: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    while mux.server.0.last().is_none_or(|told| told != what) {
        assert!(Instant::now() < until, "no \"{what}\" in time but {:?}", mux.server.0);
        mux.turn(Some(Duration::from_millis(100))).unwrap();
    }
}

/// An address that answers nobody: its queue is full.
fn silent() -> (SocketAddr, (Socket, TcpStream)) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (addr, (socket, TcpStream::connect(addr).unwrap()))
}

fn listening() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// An address where nobody listens.
fn refusing() -> SocketAddr {
    listening().0
}

#[test]
fn an_address_that_never_answers_leaves_time_for_the_next() {
    let ((silent, _kept), (good, _listener)) = (silent(), listening());
    let mut mux = Mux::new(Told::default(), Limits::default()).unwrap();
    connect(&mut mux, Duration::from_secs(2), &[silent, good]);
    wait_for(&mut mux, &format!("connection {good}"));
    assert_eq!(mux.server.0.len(), 1);
}

#[test]
fn addresses_that_never_answer_take_the_time_there_is_and_no_more_callbacks() {
    let (silent, _kept) = silent();
    let begun = Instant::now();
    let mut mux = Mux::new(Told::default(), Limits::default()).unwrap();
    connect(&mut mux, Duration::from_millis(40), &[silent, silent, silent]);
    wait_for(&mut mux, "TimedOut");
    assert!(begun.elapsed() >= Duration::from_millis(40));
    assert_eq!(mux.server.0.len(), 1);
    assert_eq!(mux.conns.metrics().expiries, 3);
}

#[test]
fn an_address_that_refuses_leaves_nothing_behind_on_the_next() {
    let (good, listener) = listening();
    let mut mux = Mux::new(Told::default(), Limits::default()).unwrap();
    connect(&mut mux, Duration::from_secs(30), &[refusing(), refusing(), good]);
    wait_for(&mut mux, &format!("connection {good}"));
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"line\n").unwrap();
    wait_for(&mut mux, "line");
    // What the first socket's events said (readable, ended, failed) would cost a call in vain on this one.
    let metrics = mux.conns.metrics();
    assert_eq!((metrics.recv_calls, metrics.recv_empty), (1, 0));
}

#[test]
fn when_every_address_refuses_the_last_reason_is_told() {
    let mut mux = Mux::new(Told::default(), Limits::default()).unwrap();
    connect(&mut mux, Duration::from_secs(30), &[refusing(), refusing()]);
    wait_for(&mut mux, "ConnectionRefused");
    assert_eq!(mux.server.0.len(), 1);
}

#[test]
fn a_name_without_addresses_is_not_found() {
    let mut mux = Mux::new(Told::default(), Limits::default()).unwrap();
    connect(&mut mux, Duration::from_secs(30), &[]);
    wait_for(&mut mux, "NotFound");
}
