//! Logins of a message server that are many, slow, wrong or broken off: what they can take from others, and what they cannot.
//!
//! Mostly the test makes the turns of the loop itself, with one thread for slow work that a job can hold up, so that nothing
//! depends on the time that anything takes.

#![cfg(feature = "auth")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod common;

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use common::Client;
use common::messages::{BANNER, Driven, OK, TOKEN, WRONG, array, hex, login, scalar};
use common::served::wait_until;
use lineplex::codec::message::Elements;
use lineplex::personality::message::{
    Answer, ClientContext, Handler, MessageHost, Messages, Penalties, Processed, Wait,
};

const CROWDED: &[&str] = &["Too many logins at once. Try again later."];

/// Tells who has come, and has a job that lasts until it is told to end.
struct Porter {
    come: Sender<String>,
    end: Option<Receiver<()>>,
}

impl Handler for Porter {
    type Context = ();

    fn new_client(&mut self, client: &mut ClientContext<'_>) -> io::Result<Option<()>> {
        let _ = self.come.send(client.account.name().escape_ascii().to_string());
        Ok(None)
    }

    fn process_message(
        &mut self,
        _: &mut ClientContext<'_>,
        _: Option<&mut ()>,
        _: Elements<'_>,
    ) -> io::Result<Processed> {
        let end = self.end.take().expect("it is asked once");
        Ok(Processed::Wait(Wait::job(move || end.recv())))
    }

    fn continue_message(
        &mut self,
        client: &mut ClientContext<'_>,
        _: Option<&mut ()>,
        _: Answer<'_>,
    ) -> io::Result<Processed> {
        client.reply(&["done"])?;
        Ok(Processed::Done)
    }
}

/// A server whose one thread for slow work has something else to do, until [`Busy::go_on`].
struct Busy {
    driven: Driven,
    end: Sender<()>,
    come: Receiver<String>,
    /// Who keeps it busy.
    client: Client,
}

impl Busy {
    fn new(build: impl FnOnce(&mut Messages)) -> Self {
        let (end, receiver) = mpsc::channel();
        let (sender, come) = mpsc::channel();
        let mut driven = Driven::new(|messages| {
            messages.add_handler(Porter { come: sender, end: Some(receiver) });
            build(messages);
        });
        let client = driven.log_in(9, "program", TOKEN);
        client.send(array(&["work"]));
        driven.turn_until(|mux| mux.conns().metrics().offloads == 1);
        assert_eq!(come.recv().unwrap(), "program");
        Self { driven, end, come, client }
    }

    fn offloads(&mut self) -> u64 {
        self.driven.mux.conns().metrics().offloads
    }

    fn go_on(&self) {
        self.end.send(()).unwrap();
    }
}

#[test]
fn a_check_whose_client_has_left_keeps_its_place_until_it_is_over() {
    let mut busy = Busy::new(|messages| {
        messages.set_hashing_jobs(1);
    });
    for round in 0..5 {
        let client = busy.driven.log_in(2, "test", "12345");
        assert_eq!(busy.offloads(), 2, "the busy one, and the check of the first");
        client.reset();
        busy.driven.turn_until(|mux| mux.conns().metrics().closed == round + 1);
    }
    let mut last = busy.driven.log_in(2, "test", "12345");
    assert_eq!(busy.offloads(), 2);
    busy.go_on();
    busy.driven.turn_until(|mux| mux.server().messages().counters().logins == 2);
    assert_eq!(busy.offloads(), 3, "who left in line costs nothing");
    last.expect([hex(BANNER), hex(OK)].concat());
    busy.client.expect([hex(BANNER), hex(OK), array(&["done"])].concat());
}

#[test]
fn one_address_with_many_logins_does_not_make_others_wait() {
    let mut busy = Busy::new(|messages| {
        messages.set_hashing_jobs(1);
    });
    let _many: Vec<Client> = (0..20).map(|_| busy.driven.log_in(2, "test", "12345")).collect();
    let _other = busy.driven.log_in(3, "poor", "12345");
    busy.go_on();
    busy.driven.turn_until(|mux| mux.server().messages().counters().logins == 1 + 20 + 1);
    let come: Vec<String> = busy.come.try_iter().collect();
    // One was being checked already, and one had been first in line.
    assert_eq!(come.iter().position(|name| name == "poor"), Some(2), "{come:?}");
}

#[test]
fn a_login_is_timed_out_wherever_its_time_ends() {
    let mut busy = Busy::new(|messages| {
        messages.set_hashing_jobs(1).set_login_timeout(Duration::from_secs(2));
    });
    // It says nothing; half a password; it is being checked; it waits in line.
    let mut clients = vec![busy.driven.connect(2), busy.driven.connect(2)];
    let half = [scalar("test"), hex("00000005 3132")].concat();
    let bytes = busy.driven.mux.conns().metrics().bytes_in + half.len() as u64;
    clients[1].send(half);
    busy.driven.turn_until(|mux| mux.conns().metrics().bytes_in == bytes);
    clients.extend((0..2).map(|_| busy.driven.log_in(2, "test", "12345")));
    busy.driven.turn_until(|mux| mux.server().messages().counters().login_timeouts == 4);
    assert_eq!(busy.offloads(), 2);
    busy.go_on();
    // Whose check is over too late is not let in, and in line nobody is left.
    busy.driven.turn_until(|mux| mux.conns().metrics().wakes >= 3);
    for client in &mut clients {
        client.half_close();
    }
    busy.driven.turn_until(|mux| mux.conns().metrics().open == 1);
    for client in &mut clients {
        client.expect(hex(BANNER));
        client.expect_eof();
    }
    let counters = busy.driven.mux.server().messages().counters();
    assert_eq!((counters.logins, counters.login_failures, busy.offloads()), (1, 0, 2));
}

#[test]
fn a_refusal_whose_time_is_after_that_of_the_login_is_not_told() {
    let mut driven = Driven::new(|messages| {
        let hour = Duration::from_secs(3600);
        messages.set_login_timeout(Duration::from_secs(1)).set_penalties(Penalties::new(hour, hour));
    });
    let mut client = driven.log_in(2, "test", "wrong");
    driven.turn_until(|mux| mux.server().messages().counters().login_timeouts == 1);
    client.half_close();
    driven.turn_until(|mux| mux.conns().metrics().open == 0);
    client.expect(hex(BANNER));
    client.expect_eof();
}

#[test]
fn whoever_comes_when_a_source_has_its_share_of_logins_is_told_so_and_others_are_not() {
    let mut driven = Driven::new(|messages| {
        messages.set_logins_max(4);
    });
    let mut first: Vec<Client> = (0..2).map(|_| driven.connect(2)).collect();
    driven.turn_until(|mux| mux.conns().metrics().open == 2);
    let refused = driven.connect(2);
    // What it sends does not keep it here.
    let _ = refused.try_send(login("test", "12345"));
    driven.turn_until(|mux| mux.server().messages().counters().logins_turned_away == 1);
    driven.turn_until(|mux| mux.conns().metrics().open == 2);
    let mut quiet = driven.connect(2);
    driven.turn_until(|mux| mux.server().messages().counters().logins_turned_away == 2);
    quiet.expect([hex(BANNER), array(CROWDED)].concat());
    quiet.expect_eof();
    let mut other = driven.log_in(3, "program", TOKEN);
    driven.turn_until(|mux| mux.server().messages().counters().logins == 1);
    other.expect([hex(BANNER), hex(OK)].concat());
    // Who has logged in has no place any more, nor who has left.
    first.remove(0).send(login("program", TOKEN));
    driven.turn_until(|mux| mux.server().messages().counters().logins == 2);
    drop(first);
    driven.turn_until(|mux| mux.conns().metrics().closed == 4);
    let _again: Vec<Client> = (0..2).map(|_| driven.connect(2)).collect();
    let accepted = driven.mux.conns().metrics().accepted;
    driven.turn_until(|mux| mux.conns().metrics().accepted == accepted + 2);
    assert_eq!(driven.mux.server().messages().counters().logins_turned_away, 2);
}

#[test]
fn a_source_that_fails_at_once_on_many_connections_waits_and_others_do_not() {
    let mut driven = Driven::new(|messages| {
        // Each failure costs its source a quarter of this, and it may owe all of it.
        let long = Duration::from_secs(600);
        messages.set_penalties(Penalties::new(long, long));
    });
    let mut clients: Vec<Client> = (0..5).map(|_| driven.log_in(2, "test", "wrong")).collect();
    driven.turn_until(|mux| mux.server().messages().counters().login_failures == 5);
    clients.push(driven.log_in(2, "test", "12345"));
    let mut other = driven.log_in(3, "test", "12345");
    driven.turn_until(|mux| mux.server().messages().counters().logins == 1);
    other.expect([hex(BANNER), hex(OK)].concat());
    assert_eq!(driven.mux.conns().metrics().offloads, 6);
    // To leave and to come again helps nobody.
    drop(clients);
    driven.turn_until(|mux| mux.conns().metrics().open == 1);
    let _again = driven.log_in(2, "test", "12345");
    assert_eq!(driven.mux.conns().metrics().offloads, 6);
}

#[test]
fn who_is_removed_when_the_secret_was_found_right_but_not_yet_let_in_stays_outside() {
    let mut driven = Driven::new(|_| {});
    let mut client = driven.log_in(2, "test", "12345");
    driven.turn_until(|mux| mux.conns().metrics().offloads == 1);
    // The check is done, and the loop has not seen it.
    wait_until("the check is done", || format!("{:?}", driven.mux.handle()).contains("waiting: 2"));
    assert!(driven.mux.server().accounts().remove(b"test"));
    driven.turn_until(|mux| mux.server().messages().counters().login_failures == 1);
    driven.turn_until(|mux| mux.conns().metrics().bytes_out == (hex(BANNER).len() + hex(WRONG).len()) as u64);
    client.expect([hex(BANNER), hex(WRONG)].concat());
}
