//! Descriptors over Unix sockets: who may pass them, in which order they come, and that none is ever left open.
//!
//! Whether a descriptor is still open somewhere is asked of a pipe: its reading end is at its end when nobody holds the
//! writing one any more.

#![cfg(target_os = "linux")]
#![cfg(feature = "daemon")]

mod common;
mod lab;

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::rights::{is_at_end, open_again, pass, pipe, receive, refuses_fds, rest_of, try_pass};
use common::{Client, DEADLINE, TempDir};
use lab::{Hand, Lab, LabClient, Net};
use lineplex::config::{Limits, ListenAt};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// A server turned by hand, on a Unix listener that takes `most` descriptors.
struct Passing {
    hand: Hand,
    path: std::path::PathBuf,
    _dir: TempDir,
}

impl Passing {
    #[track_caller]
    fn new(most: u8, limits: Limits, lab: Lab) -> Self {
        let dir = TempDir::new();
        let path = dir.path().join("fds");
        let mut hand = Hand::new(limits, lab);
        hand.mux.listen(&ListenAt::unix(&path).accept_fds(most)).expect("it can listen");
        Self { hand, path, _dir: dir }
    }

    /// A client whose `connection` has been called.
    #[track_caller]
    fn client(&mut self) -> UnixStream {
        let before = self.hand.metrics().accepted;
        let client = UnixStream::connect(&self.path).expect("somebody listens");
        client.set_read_timeout(Some(DEADLINE)).expect("it is settable");
        self.hand.until(|mux| mux.conns().metrics().accepted > before);
        self.hand.turn();
        client
    }
}

/// Tells of each line, and takes one descriptor for each that begins with `fd`, which it writes `here` to.
fn taker() -> Lab {
    Lab::new().on_line(|ctx, line| {
        if line.starts_with(b"fd") {
            match ctx.take_fd() {
                Some(fd) => {
                    let flags = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD)?);
                    ctx.server.tell(format!("cloexec {}", flags.contains(FdFlag::FD_CLOEXEC)));
                    File::from(fd).write_all(line)?;
                }
                None => ctx.server.tell("none"),
            }
        }
        Ok(())
    })
}

#[test]
fn a_descriptor_is_here_with_its_byte_and_what_comes_around_it_waits_for_nothing() {
    let mut passing = Passing::new(4, Limits::default(), taker());
    let client = passing.client();
    let (reading, writing) = pipe();
    (&client).write_all(b"before\n").unwrap();
    pass(&client, b"fd one\n", &[&writing]);
    drop(writing);
    (&client).write_all(b"behind\nand more\n").unwrap();
    passing.hand.turn();
    let told = passing.hand.news();
    let lines = ["1 line before", "1 line fd one", "cloexec true", "1 line behind", "1 line and more"];
    assert_eq!(told[told.len() - 5..], lines, "all of it in one turn: {told:?}");
    assert_eq!(rest_of(reading), "fd one", "it was closed when it was dropped");
}

#[test]
fn descriptors_are_taken_in_the_order_in_which_they_came() {
    let mut passing = Passing::new(4, Limits::default(), taker());
    let client = passing.client();
    let (first, one) = pipe();
    let (second, two) = pipe();
    let (third, three) = pipe();
    pass(&client, b"no line yet: ", &[&one, &two]);
    pass(&client, b"now\n", &[&three]);
    drop((one, two, three));
    (&client).write_all(b"fd 1\nfd 2\nfd 3\nfd 4\n").unwrap();
    passing.hand.wait_for("none");
    assert_eq!([first, second, third].map(rest_of), ["fd 1", "fd 2", "fd 3"]);
}

#[test]
fn several_lists_of_descriptors_in_one_message_are_as_one() {
    let mut passing = Passing::new(4, Limits::default(), taker());
    let client = passing.client();
    let pipes: [(File, OwnedFd); 3] = std::array::from_fn(|_| pipe());
    let numbers = pipes.each_ref().map(|(_, writing)| writing.as_raw_fd());
    let rights = [ControlMessage::ScmRights(&numbers[..1]), ControlMessage::ScmRights(&numbers[1..])];
    let bytes = [IoSlice::new(b"fd 1\nfd 2\nfd 3\nfd 4\n")];
    assert_eq!(sendmsg::<()>(client.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None), Ok(20));
    let readings = pipes.map(|(reading, _)| reading);
    passing.hand.wait_for("none");
    assert_eq!(readings.map(rest_of), ["fd 1", "fd 2", "fd 3"]);
}

#[test]
fn as_many_wait_as_the_listener_says_and_those_beyond_are_closed() {
    for (most, passed) in [(1, 0), (1, 1), (1, 2), (3, 2), (3, 3), (3, 4), (250, 250), (250, 251)] {
        let mut passing = Passing::new(most, Limits::default(), Lab::new());
        let client = passing.client();
        let kept: Vec<(File, OwnedFd)> = (0..passed).map(|_| pipe()).collect();
        let (readings, writings): (Vec<File>, Vec<OwnedFd>) = kept.into_iter().unzip();
        if passed > 0 {
            pass(&client, b"x", &writings.iter().collect::<Vec<_>>());
        }
        drop(writings);
        passing.hand.turn();
        let held = usize::from(most).min(passed);
        let open = readings.iter().map(is_at_end).take_while(|at_end| !at_end).count();
        assert_eq!(open, held, "the first ones: {passed} of {most}");
        let metrics = passing.hand.metrics();
        assert_eq!((metrics.fds_in, metrics.fds_refused), (held as u64, (passed - held) as u64));
        assert_eq!(metrics.fds_waiting, held as u64);
        // What waits goes with the connection.
        drop(client);
        passing.hand.until(|mux| mux.conns().metrics().closed == 1);
        assert!(readings.iter().all(is_at_end));
        assert_eq!(passing.hand.metrics().fds_waiting, 0);
    }
}

#[test]
fn what_waits_is_closed_when_its_connection_begins_to_close_and_cannot_be_taken_any_more() {
    // More than the socket takes, so that the close has to wait for the client to read.
    let lab = Lab::new().on_line(|ctx, _| {
        ctx.write(&[b'x'; 1 << 20]);
        ctx.close();
        let taken = ctx.take_fd().is_some();
        ctx.server.tell(format!("taken {taken}"));
        Ok(())
    });
    let mut passing = Passing::new(2, Limits::default(), lab);
    let client = passing.client();
    let (reading, writing) = pipe();
    pass(&client, b"close\n", &[&writing, &writing]);
    drop(writing);
    passing.hand.wait_for("taken false");
    assert!(is_at_end(&reading));
    let metrics = passing.hand.metrics();
    assert_eq!((metrics.closed, metrics.fds_in, metrics.fds_waiting), (0, 2, 0));
}

#[test]
fn a_client_that_has_passed_its_own_end_and_gone_is_there_until_it_is_idle() {
    let limits = Limits { idle_time: Some(Duration::from_millis(200)), ..Limits::default() };
    let mut passing = Passing::new(1, limits, Lab::new());
    let client = passing.client();
    let own: OwnedFd = client.try_clone().unwrap().into();
    pass(&client, b"x", &[&own]);
    drop((client, own));
    passing.hand.until(|mux| mux.conns().metrics().fds_waiting == 1);
    passing.hand.wait_for("1 close idle");
    assert_eq!(passing.hand.metrics().fds_waiting, 0);
    assert!(!passing.hand.told().iter().any(|told| told == "1 eof"), "nobody ended it");
}

#[test]
fn one_that_was_taken_makes_room_for_the_next() {
    let mut passing = Passing::new(1, Limits::default(), taker());
    let client = passing.client();
    for _ in 0..5 {
        let (reading, writing) = pipe();
        pass(&client, b"fd\n", &[&writing]);
        drop(writing);
        passing.hand.turn();
        assert_eq!(rest_of(reading), "fd");
    }
    let metrics = passing.hand.metrics();
    assert_eq!((metrics.fds_in, metrics.fds_waiting, metrics.fds_refused), (5, 0, 0));
}

#[test]
fn a_client_that_passes_many_descriptors_has_as_many_in_a_turn_as_its_budget_of_bytes_pays_for() {
    for (most, each, first) in [(250, 1, 64), (1, 1, 64), (250, 40, 80), (1, 250, 250)] {
        let mut passing = Passing::new(most, Limits::default(), Lab::new());
        let client = passing.client();
        let (reading, writing) = pipe();
        for _ in 0..100 / each + 2 {
            pass(&client, b"x", &vec![&writing; each]);
        }
        let all = ((100 / each + 2) * each) as u64;
        let come = |hand: &mut Hand| hand.metrics().fds_in + hand.metrics().fds_refused;
        passing.hand.turn();
        assert_eq!(come(&mut passing.hand), first, "{each} with each byte, of 102 or more");
        passing.hand.until(|mux| mux.conns().metrics().bytes_in == (100 / each + 2) as u64);
        assert_eq!(come(&mut passing.hand), all, "the others are not forgotten");
        drop((client, reading, writing));
    }
}

#[test]
fn a_thousand_descriptors_over_an_ordinary_listener_are_refused_or_closed_by_the_system() {
    let mut hand = Hand::new(Limits::default(), taker());
    let path = hand.addr.clone();
    let client = UnixStream::connect(path).unwrap();
    hand.until(|mux| mux.conns().metrics().accepted == 1);
    let (reading, writing) = pipe();
    for _ in 0..1000 {
        // Refused since Linux 6.16, so that nothing of a peer's is ever slow to close here.
        let passed = try_pass(&client, b"fd\n", &[&writing]);
        assert_eq!(passed, if refuses_fds() { Err(Errno::EPERM) } else { Ok(3) });
        hand.turn();
    }
    drop(writing);
    // A read ends at each, and what is behind the last needs another byte to be told of.
    (&client).write_all(b"last\n").unwrap();
    hand.wait_for("1 line last");
    assert!(is_at_end(&reading), "nobody has one");
    assert_eq!(hand.metrics().fds_in + hand.metrics().fds_refused, 0);
    assert!(!hand.told().iter().any(|told| told.starts_with("cloexec")));
}

#[test]
fn a_listener_that_asks_for_more_than_250_cannot_be_opened() {
    let dir = TempDir::new();
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let at = |most| ListenAt::unix(dir.path().join(format!("{most}"))).accept_fds(most);
    hand.mux.listen(&at(250)).unwrap();
    assert!(hand.mux.listen(&at(251)).unwrap_err().chain().contains("251 is more than 250"));
}

/// Answers each line with a descriptor of its own between two texts; `keep` says how many pipes there are.
fn giver(per_line: usize) -> (Lab, std::sync::mpsc::Receiver<File>) {
    let (send, readings) = std::sync::mpsc::channel();
    let lab = Lab::new().on_line(move |ctx, line| {
        ctx.write(line);
        ctx.write(b" before\n");
        for _ in 0..per_line {
            let (reading, writing) = pipe();
            let answer = ctx.write_fd(writing);
            ctx.server.tell(format!("passed {answer}"));
            send.send(reading).map_err(io::Error::other)?;
        }
        ctx.write(b"behind\n");
        Ok(())
    });
    (lab, readings)
}

#[test]
fn a_descriptor_is_passed_between_the_bytes_around_it_in_one_turn_and_our_copy_is_closed() {
    let (lab, readings) = giver(2);
    // A client of any Unix listener can be passed one.
    let mut hand = Hand::new(Limits::default(), lab);
    let client = UnixStream::connect(&hand.addr).unwrap();
    (&client).write_all(b"give\nagain\n").unwrap();
    hand.wait_for("1 line again");
    client.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    let mut numbers = Vec::new();
    while text.len() < b"give before\n..behind\nagain before\n..behind\n".len() {
        let (bytes, number) = receive(&client);
        if let Some(number) = number {
            assert_eq!(bytes.last(), Some(&0), "it comes with its byte, and ends the receive");
            numbers.push(number);
        }
        text.extend(bytes);
    }
    assert_eq!(text, b"give before\n\0\0behind\nagain before\n\0\0behind\n");
    assert_eq!((numbers.len(), hand.metrics().fds_out), (4, 4));
    for (number, reading) in numbers.into_iter().zip(readings) {
        let mut passed = open_again(number);
        assert!(!is_at_end(&reading));
        passed.write_all(b"through").unwrap();
        drop(passed);
        assert_eq!(rest_of(reading), "through", "ours is closed");
    }
}

#[test]
fn at_most_sixteen_descriptors_wait_to_be_sent_and_the_next_is_closed() {
    let (lab, readings) = giver(17);
    let mut hand = Hand::new(Limits::default(), lab);
    let client = UnixStream::connect(&hand.addr).unwrap();
    (&client).write_all(b"give\n").unwrap();
    hand.wait_for("1 line give");
    let told = hand.told();
    assert_eq!(told.iter().filter(|told| *told == "passed true").count(), 16);
    assert_eq!(told.last().map(String::as_str), Some("passed false"));
    let readings: Vec<File> = readings.try_iter().collect();
    assert!(is_at_end(&readings[16]) && !readings[..16].iter().any(is_at_end));
    assert_eq!(hand.metrics().fds_out, 16);
    // It is a refusal of that one, not the end.
    (&client).write_all(b"again\n").unwrap();
    hand.wait_for("passed true");
    // What the client has not received goes with the client.
    drop(client);
    assert!(readings.iter().all(is_at_end));
}

#[test]
fn only_a_unix_socket_can_be_passed_a_descriptor() {
    let (lab, readings) = giver(1);
    let mut hand = Hand::on(Net::Tcp, Limits::default(), lab);
    let mut client = Client::connect(&hand.addr);
    client.send("give\n");
    hand.wait_for("passed false");
    hand.turn();
    client.expect("give before\nbehind\n");
    assert!(is_at_end(&readings.recv().unwrap()));
}

#[test]
fn an_adopted_socket_pair_can_be_passed_one_and_an_adopted_pipe_cannot() {
    let (send, others) = std::sync::mpsc::channel();
    let lab = Lab::new().on_line(move |ctx, _| {
        let (one, other) = UnixStream::pair()?;
        let pair = ctx.adopt(one, LabClient::named(ctx.server, "pair"))?;
        let (end, mouth) = pipe();
        let piped = ctx.adopt(end, LabClient::named(ctx.server, "pipe"))?;
        let answers = [pair, piped].map(|id| ctx.conns.write_fd(id, mouth.try_clone().expect("one is left")));
        ctx.server.tell(format!("passed {answers:?}"));
        send.send(other).map_err(io::Error::other)
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let client = UnixStream::connect(&hand.addr).unwrap();
    (&client).write_all(b"adopt\n").unwrap();
    hand.wait_for("passed [true, false]");
    hand.wait_for("pair connection");
    hand.until(|mux| mux.conns().metrics().fds_out == 1);
    let (bytes, number) = receive(&others.recv().unwrap());
    assert_eq!(bytes, b"\0");
    drop(open_again(number.unwrap()));
}

#[test]
fn a_slow_reader_gets_every_descriptor_in_its_place() {
    let text = "x".repeat(300_000);
    let shared = text.clone();
    let lab = Lab::new().on_line(move |ctx, _| {
        for _ in 0..4 {
            ctx.write(shared.as_bytes());
            let (_, writing) = pipe();
            assert!(ctx.write_fd(writing));
        }
        ctx.close();
        Ok(())
    });
    let limits = Limits { output_hard_bytes: 4 << 20, output_soft_bytes: 4 << 20, ..Limits::default() };
    let mut hand = Hand::new(limits, lab);
    let client = UnixStream::connect(&hand.addr).unwrap();
    (&client).write_all(b"give\n").unwrap();
    hand.wait_for("1 line give");
    let reader = std::thread::spawn(move || {
        let (mut all, mut places) = (Vec::new(), Vec::new());
        loop {
            let (bytes, number) = receive(&client);
            if bytes.is_empty() {
                return (all, places);
            }
            all.extend(bytes);
            if let Some(number) = number {
                nix::unistd::close(number).unwrap();
                places.push(all.len());
            }
        }
    });
    hand.until(|mux| mux.conns().metrics().closed == 1);
    let (all, places) = reader.join().unwrap();
    assert_eq!(places, [1, 2, 3, 4].map(|n| n * 300_001));
    assert!(all == format!("{text}\0").repeat(4).as_bytes());
}

#[test]
fn what_was_not_sent_is_closed_with_the_connection() {
    let (send, readings) = std::sync::mpsc::channel();
    let lab = Lab::new().on_line(move |ctx, _| {
        let (reading, writing) = pipe();
        assert!(ctx.write_fd(writing));
        send.send(reading).map_err(io::Error::other)?;
        ctx.abort();
        Ok(())
    });
    let mut hand = Hand::new(Limits::default(), lab);
    let client = UnixStream::connect(&hand.addr).unwrap();
    (&client).write_all(b"give\n").unwrap();
    hand.wait_for("1 close aborted");
    assert!(is_at_end(&readings.recv().unwrap()));
}
