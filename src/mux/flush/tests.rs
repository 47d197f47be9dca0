//! What takes long: a stalled reader, by a clock that is set by hand, and a loop whose turns begin to be counted anew.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::config::Limits;
use crate::{Closing, Context, Ended, Input, Peer, Room};

struct Quiet;

struct Listener;

impl Server for Quiet {
    type Client = Listener;

    fn client(&mut self, _: &Peer) -> Listener {
        Listener
    }

    fn pre_server_close_hook(&mut self, room: &mut Room<'_, Self>, _: Closing) {
        room.conns.broadcast_all(b"bye\n");
    }
}

impl MuxCallback<Quiet> for Listener {
    fn input(&mut self, _: &mut Context<'_, Quiet>, _: &mut Input) -> io::Result<()> {
        Ok(())
    }
}

/// More than a socket's buffers hold.
const MUCH: usize = 256 * 1024;

fn one_client(limits: Limits) -> (Mux<Quiet>, ConnId, UnixStream) {
    let mut mux = Mux::new(Quiet, limits).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let id = mux.enter(|_, room| room.adopt(ours, Listener)).unwrap();
    turn(&mut mux);
    (mux, id, theirs)
}

#[track_caller]
fn turn(mux: &mut Mux<Quiet>) {
    assert_eq!(mux.turn(Some(Duration::ZERO)).unwrap(), None);
}

#[test]
fn output_that_was_discarded_does_not_count_as_a_stall() {
    let stall = Duration::from_secs(3600);
    let limits = Limits { output_soft_bytes: 10, output_stall_time: Some(stall), ..Limits::default() };
    let (mut mux, id, mut theirs) = one_client(limits);
    for later in [1, 3] {
        mux.conns.broadcast_all(&[b'x'; MUCH]);
        turn(&mut mux);
        assert_eq!(mux.conns.metrics().blocked, 1, "more than the kernel takes");
        mux.conns.now += later * stall;
        mux.sweep();
        assert_eq!(mux.conns.metrics().output_limit, 0);
        let taken = MUCH - mux.conns.discard_output(id);
        theirs.read_exact(&mut vec![0; taken]).unwrap();
        turn(&mut mux);
    }
}

#[test]
fn a_stop_sends_to_everybody_after_any_number_of_turns() {
    for turns in 0..3 {
        let (mut mux, id, mut theirs) = one_client(Limits::default());
        (0..3).for_each(|_| turn(&mut mux));
        mux.conns.write(id, b"hello\n");
        turn(&mut mux);
        // As if so many turns were missing to a whole round of their numbers.
        mux.turn = mux.turn.wrapping_sub(turns).max(1);
        mux.conns.stop(0);
        let ended = mux.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(ended, Some(Ended::Stop { status: 0, closed: 1, cut: 0 }), "{turns}");
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello\nbye\n", "{turns}");
    }
}
