//! A room where every line goes to everybody. How long a flush waits for each connection is set by hand: an hour, so
//! that it waits until the test says otherwise, or nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::{Context, Ended, Input, MuxCallback, Peer, Room, Server};

const HOUR: Duration = Duration::from_secs(3600);

struct Relay {
    /// Timers that were due.
    due: u32,
}

struct Talker;

impl Server for Relay {
    type Client = Talker;

    fn client(&mut self, _: &Peer) -> Talker {
        Talker
    }

    fn timeout(&mut self, _: &mut Room<'_, Self>, _: u64) {
        self.due += 1;
    }
}

impl MuxCallback<Relay> for Talker {
    fn input(&mut self, ctx: &mut Context<'_, Relay>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            if line != b"quiet" {
                ctx.conns.broadcast(&[line, b"\n"].concat(), |_| true);
            }
        }
        Ok(())
    }
}

struct Hall {
    mux: Mux<Relay>,
    ends: Vec<UnixStream>,
}

impl Hall {
    /// So many clients; the first has said something already, which everybody has heard.
    fn new(count: usize, limits: Limits) -> Self {
        let mut mux = Mux::new(Relay { due: 0 }, limits).unwrap();
        mux.gather.each = HOUR;
        let ends = (0..count).map(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            mux.enter(|_, room| room.adopt(ours, Talker)).unwrap();
            theirs
        });
        let ends = ends.collect();
        let mut hall = Self { mux, ends };
        hall.turn();
        hall.say(0, "first");
        hall.all_hear("first\n");
        hall
    }

    fn gathering(count: usize) -> Self {
        Self::new(count, gathering())
    }

    fn turn(&mut self) {
        assert_eq!(self.mux.turn(Some(Duration::ZERO)).unwrap(), None);
    }

    /// One turn, in which the client's line is read.
    fn say(&mut self, who: usize, line: &str) {
        let before = self.metrics().lines;
        writeln!(self.ends[who], "{line}").unwrap();
        self.turn();
        assert_eq!(self.metrics().lines, before + 1);
    }

    #[track_caller]
    fn all_hear(&mut self, text: &str) {
        for end in &mut self.ends {
            let mut heard = vec![0; text.len()];
            end.read_exact(&mut heard).unwrap();
            assert_eq!(String::from_utf8(heard).unwrap(), text);
        }
        self.nobody_hears();
    }

    #[track_caller]
    fn nobody_hears(&mut self) {
        for end in &mut self.ends {
            assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }

    fn metrics(&self) -> Metrics {
        self.mux.conns.metrics()
    }

    /// Sends, flushes that waited, and turns that they waited, since `before`.
    #[track_caller]
    fn since(&self, before: &Metrics) -> (u64, u64, u64) {
        let now = self.metrics();
        (
            now.send_calls - before.send_calls,
            now.gathers - before.gathers,
            now.gather_turns - before.gather_turns,
        )
    }
}

fn gathering() -> Limits {
    Limits { gather: true, gather_max_time: HOUR, ..Limits::default() }
}

#[test]
fn lines_of_several_senders_leave_in_one_send_if_it_is_on() {
    for (gather, sends, gathers) in [(false, 3 * 64, 0), (true, 64, 1)] {
        let mut hall = Hall::new(64, Limits { gather, ..gathering() });
        let before = hall.metrics();
        hall.say(1, "b");
        hall.say(2, "c");
        hall.mux.gather.each = Duration::ZERO;
        hall.say(1, "d");
        assert_eq!(hall.since(&before), (sends, gathers, 2 * gathers));
        hall.all_hear("b\nc\nd\n");
    }
}

#[test]
fn a_single_sender_waits_for_nobody() {
    let mut hall = Hall::gathering(64);
    let before = hall.metrics();
    for _ in 0..10 {
        hall.say(0, "again");
        hall.all_hear("again\n");
    }
    assert_eq!(hall.since(&before), (10 * 64, 0, 0));
}

#[test]
fn senders_that_take_turns_are_several() {
    let mut hall = Hall::gathering(64);
    for who in [1, 0, 1] {
        let before = hall.metrics();
        hall.say(who, "mine");
        assert_eq!(hall.since(&before), (0, 0, 1));
        hall.mux.gather.each = Duration::ZERO;
        hall.turn();
        assert_eq!(hall.since(&before), (64, 1, 1));
        hall.mux.gather.each = HOUR;
    }
}

#[test]
fn a_flush_to_fewer_than_64_does_not_wait() {
    for (count, sends) in [(63, 63), (64, 0), (65, 0)] {
        let mut hall = Hall::gathering(count);
        let before = hall.metrics();
        hall.say(1, "b");
        assert_eq!(hall.since(&before).0, sends, "{count}");
    }
}

#[test]
fn nothing_waits_where_nothing_is_to_be_sent() {
    let mut hall = Hall::gathering(64);
    let before = hall.metrics();
    for who in 0..10 {
        hall.say(who, "quiet");
        assert!(!hall.mux.has_work());
    }
    assert_eq!(hall.since(&before), (0, 0, 0));
}

#[test]
fn a_turn_does_not_block_while_a_flush_waits_and_the_time_is_as_said() {
    for (each, most) in
        [(Duration::from_micros(1), HOUR), (HOUR, Duration::from_micros(1)), (HOUR, Duration::ZERO)]
    {
        let mut hall = Hall::new(64, Limits { gather_max_time: most, ..gathering() });
        hall.mux.gather.each = each;
        let before = hall.metrics();
        hall.say(1, "b");
        while hall.mux.has_work() {
            assert_eq!(hall.mux.turn(None).unwrap(), None);
        }
        assert_eq!(hall.since(&before).0, 64);
        hall.all_hear("b\n");
    }
}

#[test]
fn output_over_a_limit_ends_the_wait() {
    let soft = Limits { output_soft_bytes: 10, output_hard_bytes: 100, ..gathering() };
    let hard = Limits { output_soft_bytes: 10, output_hard_bytes: 10, ..gathering() };
    for (limits, line, sends) in [(soft, "0123456789", 64), (hard, "0123456789", 0)] {
        let mut hall = Hall::new(64, limits);
        hall.say(1, "b");
        let before = hall.metrics();
        hall.say(2, line);
        let now = hall.metrics();
        assert_eq!(now.send_calls - before.send_calls, sends);
        assert_eq!(now.output_limit, 64 - sends);
    }
}

#[test]
fn deadlines_come_while_a_flush_waits() {
    let mut hall = Hall::gathering(64);
    hall.say(1, "b");
    hall.mux.conns.after(Duration::ZERO, 7);
    hall.turn();
    assert_eq!(hall.mux.server.due, 1);
    hall.nobody_hears();
}

#[test]
fn a_stop_sends_what_waits() {
    let mut hall = Hall::gathering(64);
    hall.say(1, "b");
    hall.mux.conns.stop(3);
    let ended = hall.mux.turn(None).unwrap();
    assert_eq!(ended, Some(Ended::Stop { status: 3, closed: 64, cut: 0 }));
    for end in &mut hall.ends {
        let mut heard = String::new();
        end.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "b\n");
    }
}
