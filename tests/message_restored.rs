//! Clients of a message server that were saved and are restored, by a server of the test's own: what their handlers find again.
//!
//! The restart itself is not here (see message_ping.rs): what a session has saved is given to the next client that comes.

#![cfg(feature = "auth")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod common;

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use common::messages::{BANNER, OK, TOKEN, array, hex, login};
use common::{Client, DEADLINE};
use lineplex::codec::message::Elements;
use lineplex::config::{Limits, ListenAt};
use lineplex::personality::message::{
    AccountsDatabase, ClientContext, Credential, Handler, MessageHost, Messages, Processed, Rights, Session,
};
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Mux, MuxCallback, Peer, Result, Saved, Server};

/// Numbers its clients, and tells who comes, asks, comes back and goes.
struct Counting {
    label: &'static str,
    clients: u64,
    told: Sender<String>,
}

impl Counting {
    fn tell(&self, what: &str, number: u64) {
        let _ = self.told.send(format!("{} {what} {number}", self.label));
    }
}

impl Handler for Counting {
    type Context = u64;

    fn new_client(&mut self, _: &mut ClientContext<'_>) -> io::Result<Option<u64>> {
        self.clients += 1;
        self.tell("new", self.clients);
        Ok(Some(self.clients))
    }

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        own: Option<&mut u64>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        let number = *own.unwrap();
        self.tell("asked", number);
        if message.get(0) != Some(self.label.as_bytes()) {
            return Ok(Processed::NotMine);
        }
        client.reply(&[&number.to_string()])?;
        Ok(Processed::Done)
    }

    fn client_disconnected(&mut self, client: &mut ClientContext<'_>, own: Option<&mut u64>) {
        assert_eq!(client.account.name(), b"program");
        self.tell("gone", *own.unwrap());
    }

    fn save(own: &u64, out: &mut StateWriter) -> Saved {
        out.u64(*own);
        Saved::Keep
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<u64> {
        let number = state.u64()?;
        self.tell("back", number);
        Ok(number)
    }
}

struct Host {
    messages: Messages,
    /// Who the next client was.
    saved: Option<StateWriter>,
}

impl Server for Host {
    type Client = Session;

    fn client(&mut self, _: &Peer) -> Session {
        match self.saved.take() {
            Some(saved) => Session::restore(&mut self.messages, &mut saved.reader()).unwrap(),
            None => Session::new(),
        }
    }
}

impl MessageHost for Host {
    fn messages(&mut self) -> &mut Messages {
        &mut self.messages
    }

    fn session(client: &mut Session) -> Option<&mut Session> {
        Some(client)
    }
}

/// A server with handlers of those labels, the numbers of the first 0, of the second 10 and so on.
struct Image {
    mux: Mux<Host>,
    address: String,
    told: Receiver<String>,
}

impl Image {
    fn new(labels: &[&'static str], saved: Option<StateWriter>) -> Self {
        let accounts = AccountsDatabase::new();
        accounts.add(b"program", Credential::token(TOKEN.as_bytes()).unwrap(), Rights::ALL);
        let (sender, told) = mpsc::channel();
        let mut messages = Messages::new(accounts);
        for (label, clients) in labels.iter().zip((0..).step_by(10)) {
            messages.add_handler(Counting { label, clients, told: sender.clone() });
        }
        let mut mux = Mux::new(Host { messages, saved }, Limits::default()).unwrap();
        let address = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).unwrap().to_string();
        Self { mux, address, told }
    }

    fn turn_until(&mut self, is_so: impl Fn(&mut Mux<Host>) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !is_so(&mut self.mux) {
            assert!(Instant::now() < until, "{:?}", self.mux.conns().metrics());
            self.mux.turn(Some(Duration::from_secs(1))).unwrap();
        }
    }

    fn connect(&mut self) -> Client {
        let client = Client::connect(&self.address);
        self.turn_until(|mux| mux.conns().metrics().accepted == 1);
        client
    }

    /// What one client that has logged in saves.
    fn save(mut self) -> StateWriter {
        let mut client = self.connect();
        client.send(login("program", TOKEN));
        self.turn_until(|mux| mux.server().messages().counters().logins == 1);
        client.expect([hex(BANNER), hex(OK)].concat());
        self.mux.enter(|_, room| {
            let (_, session) = room.clients.iter().next().unwrap();
            let mut out = StateWriter::new();
            let saved = MuxCallback::<Host>::save(session, &mut out);
            assert_eq!(saved, Saved::Keep);
            out
        })
    }

    fn expect_told(&self, expected: &[&str]) {
        assert_eq!(self.told.try_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn each_handler_finds_its_own_context_also_where_several_have_the_same_type() {
    let saved = Image::new(&["a", "b", "c"], None).save();
    let mut image = Image::new(&["a", "b", "c"], Some(saved));
    let mut client = image.connect();
    image.expect_told(&["a back 1", "b back 11", "c back 21"]);
    client.send(array(&["c"]));
    image.turn_until(|mux| mux.server().messages().counters().requests == 1);
    client.expect(array(&["21"]));
    image.expect_told(&["a asked 1", "b asked 11", "c asked 21"]);
    drop(client);
    image.turn_until(|mux| mux.conns().metrics().open == 0);
    image.expect_told(&["a gone 1", "b gone 11", "c gone 21"]);
}

#[test]
fn a_handler_that_is_new_hears_of_a_client_before_its_next_request() {
    let saved = Image::new(&["a"], None).save();
    let mut image = Image::new(&["a", "b"], Some(saved));
    let client = image.connect();
    image.expect_told(&["a back 1"]);
    client.send(array(&["b"]));
    image.turn_until(|mux| mux.server().messages().counters().requests == 1);
    drop(client);
    image.turn_until(|mux| mux.conns().metrics().open == 0);
    image.expect_told(&["b new 11", "a asked 1", "b asked 11", "a gone 1", "b gone 11"]);
}

#[test]
fn who_is_closed_because_the_account_is_gone_is_gone_for_the_handlers_too() {
    let saved = Image::new(&["a", "b"], None).save();
    let mut image = Image::new(&["a", "b"], Some(saved));
    image.mux.server().messages.accounts().remove(b"program");
    let mut client = image.connect();
    client.send(array(&["a"]));
    client.half_close();
    image.turn_until(|mux| mux.conns().metrics().open == 0);
    client.expect_eof();
    image.expect_told(&["a back 1", "b back 11", "a gone 1", "b gone 11"]);
}
