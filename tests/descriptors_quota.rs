//! Descriptors that wait take no more than their share of what the process may open. Alone in its file: it lowers a limit of
//! the process.

#![cfg(target_os = "linux")]
#![cfg(feature = "daemon")]

mod common;
mod lab;

use std::io::Write;
use std::os::unix::net::UnixStream;

use common::rights::{is_at_end, pass, pipe};
use common::{Client, DEADLINE, TempDir};
use lab::{Hand, Lab};
use lineplex::config::{Limits, ListenAt};
use nix::sys::resource::{Resource, setrlimit};

#[test]
fn a_quarter_of_the_descriptors_waits_at_most_and_newcomers_have_what_is_left() {
    setrlimit(Resource::RLIMIT_NOFILE, 200, 200).unwrap();
    let dir = TempDir::new();
    let path = dir.path().join("fds");
    let lab = Lab::new().on_line(|ctx, line| {
        if line == b"take" {
            let taken = ctx.take_fd().is_some();
            ctx.server.tell(format!("taken {taken}"));
        }
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    assert_eq!(hand.mux.conns().limits().max_connections, Some(200 - 32));
    hand.mux.listen(&ListenAt::unix(&path).accept_fds(30)).unwrap();
    assert_eq!(hand.mux.conns().limits().max_connections, Some(200 - 32 - 50), "a quarter is kept for them");

    let (reading, writing) = pipe();
    let clients: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for client in &clients {
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        pass(client, b"x", &[&writing; 30]);
    }
    drop(writing);
    hand.until(|mux| mux.conns().metrics().bytes_in == 3);
    let metrics = hand.metrics();
    assert_eq!((metrics.fds_in, metrics.fds_waiting, metrics.fds_refused), (50, 50, 40));

    // One that is taken makes room for one, whoever passes it.
    (&clients[0]).write_all(b"\ntake\n").unwrap();
    hand.wait_for("taken true");
    let (another, writing) = pipe();
    pass(&clients[2], b"y", &[&writing, &writing]);
    drop(writing);
    hand.until(|mux| mux.conns().metrics().fds_in == 51);
    assert_eq!((hand.metrics().fds_waiting, hand.metrics().fds_refused), (50, 41));
    assert!(!is_at_end(&another));

    // Those who come are served, and a client that goes gives back its own.
    let newcomer = Client::connect(&hand.addr);
    newcomer.send("hello\n");
    hand.wait_for("4 line hello");
    drop(clients);
    hand.until(|mux| mux.conns().metrics().closed == 3);
    assert_eq!(hand.metrics().fds_waiting, 0);
    assert!(is_at_end(&reading) && is_at_end(&another));
}
