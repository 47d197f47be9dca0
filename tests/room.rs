//! Everybody in the room: who is meant by a broadcast, which bytes they get; several listeners and several kinds of
//! client on one loop.
//!
//! Turns are taken by hand on Unix sockets wherever it matters who is there.

mod common;
mod lab;

use std::io;
use std::sync::mpsc;
use std::thread;

use common::{Client, DEADLINE};
use lab::{Cx, Hand, Lab};
use lineplex::config::{Limits, ListenAt};
use lineplex::{ConnId, Context, Input, Mux, MuxCallback, Peer, Server};

/// Broadcasts `text` to all and tells how many took it.
fn to_all(ctx: &mut Cx<'_>, text: &str) {
    let count = ctx.conns.broadcast(text.as_bytes(), |_| true);
    assert!(count <= ctx.conns.all().count() + 1);
    ctx.server.tell(format!("{count} took {}", text.trim_end()));
}

#[test]
fn a_newcomer_is_in_the_room_in_its_own_connection() {
    let lab = Lab::new().on_connection(|ctx| {
        assert!(ctx.conns.is_open(ctx.id) && ctx.conns.all().any(|id| id == ctx.id));
        to_all(ctx, &format!("{} came\n", ctx.peer.serial()));
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let (mut one, mut two) = (hand.client(), hand.client());
    assert!(hand.told().contains(&"1 took 1 came".into()) && hand.told().contains(&"2 took 2 came".into()));
    one.expect("1 came\n2 came\n");
    two.expect("2 came\n");
}

#[test]
fn those_who_are_denied_or_not_yet_let_in_are_not_in_the_room_but_can_be_written_to() {
    let others = |room: &mut lineplex::Room<'_, Lab>| {
        let all: Vec<ConnId> = room.conns.all().collect();
        assert_eq!(room.conns.broadcast(b"a stranger\n", |id| all.contains(&id)), all.len());
        all.len()
    };
    let lab = Lab::new()
        .on_accepted(move |room, peer| assert_eq!(others(room), usize::from(peer.serial() > 1)))
        .on_allow(|_, peer| peer.serial() == 1)
        .on_denied(move |room, id| {
            assert_eq!(others(room), 1);
            assert!(room.conns.is_open(id) && room.clients.at(id).is_none());
            assert_eq!(room.conns.multicast(b"farewell\n", [id]), 1);
        });
    let mut hand = Hand::new(Limits::default(), lab);
    let (mut one, mut denied) = (hand.client(), hand.client());
    denied.expect("farewell\n");
    denied.expect_eof();
    one.expect("a stranger\na stranger\n");
    assert_eq!(hand.metrics().panics, 0);
}

#[test]
fn those_who_close_or_have_shut_their_sending_side_are_not_in_the_room() {
    let lab = Lab::new()
        .on_line(|ctx, line| {
            match line {
                b"close" => ctx.close(),
                b"abort" => ctx.abort(),
                _ => ctx.shutdown_write(),
            }
            assert!(!ctx.conns.all().any(|id| id == ctx.id));
            assert_eq!(ctx.conns.multicast(b"never", [ctx.id]), 0);
            to_all(ctx, &format!("{}\n", line.escape_ascii()));
            Ok(())
        })
        .on_close(|ctx, _| to_all(ctx, "gone\n"));
    let mut hand = Hand::new(Limits::default(), lab);
    let mut stays = hand.client();
    for line in ["close", "abort", "shut"] {
        let mut leaves = hand.client();
        hand.news();
        leaves.send(format!("{line}\n"));
        hand.wait_for(&format!("1 took {line}"));
        leaves.expect_eof();
        drop(leaves);
        hand.wait_for("1 took gone");
        hand.turn();
        stays.expect(format!("{line}\ngone\n"));
    }
}

#[test]
fn the_predicate_chooses_and_the_answer_counts_those_who_took_it() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let mut clients: Vec<Client> = (0..4).map(|_| hand.client()).collect();
    let ids: Vec<ConnId> = (1..=4).map(|n| hand.id(&n.to_string())).collect();
    let stale = ids[3];
    drop(clients.pop());
    hand.wait_for("4 close eof");

    let conns = hand.mux.conns();
    let mut asked = Vec::new();
    let chosen = |id: ConnId| {
        asked.push(id);
        id != ids[1]
    };
    assert_eq!(conns.broadcast(b"not two\n", chosen), 2);
    asked.sort();
    let mut open = ids[..3].to_vec();
    open.sort();
    assert_eq!(asked, open, "everybody in the room is asked about once");
    assert_eq!(conns.broadcast(b"nobody\n", |_| false), 0);
    assert_eq!(conns.multicast(b"two\n", [stale, ids[1], stale]), 1);
    assert_eq!(conns.multicast(b"nobody\n", []), 0);
    assert_eq!(conns.broadcast(b"end\n", |_| true), 3);
    hand.turn();
    for (client, text) in clients.iter_mut().zip(["not two\nend\n", "two\nend\n", "not two\nend\n"]) {
        client.expect(text);
    }
}

#[test]
fn a_broadcast_of_nothing_reaches_everybody_and_sends_nothing() {
    let lab = Lab::new().on_drained(|ctx| {
        ctx.server.tell("drained");
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let _clients = [hand.client(), hand.client()];
    let first = hand.id("1");
    hand.news();
    let conns = hand.mux.conns();
    assert_eq!((conns.broadcast(b"", |_| true), conns.multicast(b"", [first])), (2, 1));
    assert!(conns.write(first, b"") && write!(conns.to(first), ""));
    hand.turn();
    assert_eq!((hand.news(), hand.metrics().send_calls), (vec![], 0));
}

#[test]
fn who_cannot_take_it_for_the_hard_limit_is_not_counted_and_closed_and_the_others_get_it() {
    let limits = Limits { output_soft_bytes: 1000, output_hard_bytes: 1000, ..Limits::default() };
    let mut hand = Hand::new(limits, Lab::new());
    for length in [1, 511, 512, 999] {
        let (full, mut fits) = (hand.client(), hand.client());
        let serial = hand.metrics().accepted;
        let [id, other] = [serial - 1, serial].map(|serial| hand.id(&serial.to_string()));
        let text = vec![b'y'; length];
        let conns = hand.mux.conns();
        assert!(conns.write(id, &vec![b'x'; 1001 - length]), "one byte less is left than the text needs");
        assert_eq!(conns.broadcast(&text, |_| true), 1);
        assert_eq!(conns.multicast(b"z", [id, other]), 1, "the other has just room for it");
        hand.wait_for(&format!("{} close output-limit", serial - 1));
        fits.expect(&text);
        drop((full, fits));
        hand.until(|mux| mux.conns().metrics().open == 0);
    }
}

#[test]
fn copied_and_shared_segments_give_the_same_bytes_in_the_order_of_the_writes() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let mut clients = [hand.client(), hand.client(), hand.client()];
    let ids = ["1", "2", "3"].map(|label| hand.id(label));
    let mut expected = [const { Vec::new() }; 3];
    let conns = hand.mux.conns();
    for length in [1, 511, 512, 513, 2, 4096, 511, 512, 70_000, 3] {
        let text: Vec<u8> = (0..length).map(|at| b'a' + (at % 23) as u8).collect();
        assert_eq!(conns.broadcast(&text, |id| id != ids[2]), 2);
        assert_eq!(conns.multicast(&text, [ids[2], ids[0]]), 2);
        for (at, id) in ids.into_iter().enumerate() {
            let own = format!("<{at}:{length}>");
            assert!(conns.write(id, own.as_bytes()));
            expected[at].extend_from_slice(&text.repeat(if at == 0 { 2 } else { 1 }));
            expected[at].extend_from_slice(own.as_bytes());
        }
    }
    let readers: Vec<_> = clients.iter_mut().zip(&expected).collect();
    thread::scope(|scope| {
        for (client, expected) in readers {
            scope.spawn(move || client.expect(expected));
        }
        hand.until(|mux| ids.iter().all(|id| mux.conns().unsent(*id) == 0));
    });
}

#[test]
fn a_thousand_receivers_get_every_line_with_one_send_each() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    // Both ends are in this process.
    let descriptors = hand.mux.conns().limits().max_connections.expect("the mux has filled it in");
    let count = 1000.min(descriptors / 3);
    let mut clients: Vec<Client> = (0..count).map(|_| hand.client()).collect();
    let before = hand.metrics().send_calls;
    let long = [b'l'; 600];
    let conns = hand.mux.conns();
    assert_eq!(conns.broadcast(b"short\n", |_| true), count);
    assert_eq!(conns.broadcast(&long, |_| true), count);
    assert_eq!(conns.broadcast(b"last\n", |_| true), count);
    hand.turn();
    assert_eq!(hand.metrics().send_calls - before, count as u64);
    for client in &mut clients {
        client.expect("short\n");
        client.expect(long);
        client.expect("last\n");
    }
}

#[test]
fn a_listener_is_known_to_its_clients_by_name_and_paused_and_resumed_by_it() {
    let lab = Lab::new().on_connection(|ctx| {
        let name = ctx.peer.listener().to_owned();
        writeln!(ctx, "{name}");
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let [chat, admin] = ["chat", "admin"]
        .map(|name| hand.mux.listen(&ListenAt::tcp("127.0.0.1", 0).named(name)).expect("it can listen"));
    let conns = hand.mux.conns();
    assert_eq!(conns.listener("admin").local_addrs().collect::<Vec<_>>(), vec![admin.clone()]);
    assert_eq!(conns.listener("nobody").local_addrs().count(), 0);
    let names: Vec<_> = conns.local_addrs().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names[1..], ["chat", "admin"]);

    conns.listener("admin").pause();
    conns.listener("nobody").pause();
    let mut waiting = Client::connect(&admin);
    let mut served = Client::connect(&chat);
    hand.wait_for("1 connection");
    served.expect("chat\n");
    hand.turn();
    let calls = hand.metrics().accept_calls;
    assert_eq!(hand.metrics().accepted, 1, "who comes to a paused listener waits");
    for _ in 0..5 {
        hand.turn();
    }
    assert_eq!(hand.metrics().accept_calls, calls, "a paused listener is left alone");
    hand.mux.handle().run(|_, room| room.conns.listener("admin").resume()).expect("the loop is there");
    hand.wait_for("2 connection");
    waiting.expect("admin\n");
}

/// A server of two kinds of client, which it makes by the name of the listener.
struct TwoKinds<C>(fn(&str) -> C);
struct Shouts;
struct Counts(u32);
enum Either {
    Shouts(Shouts),
    Counts(Counts),
}

impl<C: MuxCallback<Self> + 'static> Server for TwoKinds<C> {
    type Client = C;
    fn client(&mut self, peer: &Peer) -> C {
        (self.0)(peer.listener())
    }
}

impl<S: Server> MuxCallback<S> for Shouts {
    fn input(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.write(&line.to_ascii_uppercase());
            ctx.write(b"\n");
        }
        Ok(())
    }
}

impl<S: Server> MuxCallback<S> for Counts {
    fn input(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        while input.line().is_some() {
            self.0 += 1;
        }
        writeln!(ctx, "{}", self.0);
        Ok(())
    }

    fn eof(&mut self, ctx: &mut Context<'_, S>, _: &mut Input) -> io::Result<()> {
        writeln!(ctx, "{} in all", self.0);
        Ok(())
    }
}

impl MuxCallback<TwoKinds<Self>> for Either {
    fn input(&mut self, ctx: &mut Context<'_, TwoKinds<Self>>, input: &mut Input) -> io::Result<()> {
        match self {
            Self::Shouts(client) => client.input(ctx, input),
            Self::Counts(client) => client.input(ctx, input),
        }
    }

    fn eof(&mut self, ctx: &mut Context<'_, TwoKinds<Self>>, input: &mut Input) -> io::Result<()> {
        match self {
            Self::Shouts(client) => client.eof(ctx, input),
            Self::Counts(client) => client.eof(ctx, input),
        }
    }
}

struct Boxed;

impl Server for Boxed {
    type Client = Box<dyn MuxCallback<Self>>;
    fn client(&mut self, peer: &Peer) -> Self::Client {
        if peer.listener() == "shouts" { Box::new(Shouts) } else { Box::new(Counts(0)) }
    }
}

#[test]
fn two_kinds_of_client_are_an_enum_or_a_boxed_trait_object() {
    let either = |name: &str| {
        if name == "shouts" { Either::Shouts(Shouts) } else { Either::Counts(Counts(0)) }
    };
    shouts_and_counts(move || TwoKinds(either));
    shouts_and_counts(|| Boxed);
}

#[track_caller]
fn shouts_and_counts<S: Server>(make: impl FnOnce() -> S + Send + 'static) {
    let (send, started) = mpsc::channel();
    let thread = thread::spawn(move || -> lineplex::Result<_> {
        let mut mux = Mux::new(make(), Limits::default())?;
        let shouts = mux.listen(&ListenAt::tcp("127.0.0.1", 0).named("shouts"))?;
        let counts = mux.listen(&ListenAt::tcp("127.0.0.1", 0).named("counts"))?;
        send.send((shouts, counts, mux.handle())).expect("the test waits for this");
        mux.run()
    });
    let (shouts, counts, handle) = started.recv_timeout(DEADLINE).expect("it starts");
    let (mut shouts, mut counts) = (Client::connect(shouts), Client::connect(counts));
    shouts.send("hello\n");
    shouts.expect("HELLO\n");
    counts.send("a\nb\n");
    counts.half_close();
    let told = counts.expect_to_eof();
    assert!(told.ends_with(b"2\n2 in all\n"), "{}", told.escape_ascii());
    handle.stop(0).expect("it runs");
    thread.join().expect("the loop never panics").expect("it ends without an error");
}
