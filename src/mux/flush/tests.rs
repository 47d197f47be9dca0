//! What takes long: a stalled reader, by a clock that is set by hand, a loop whose turns begin to be counted anew, and an
//! image before this one that has not ended yet.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::handover::LoopReader;
use super::*;
use crate::config::{Limits, ListenAt};
use crate::state::{StateReader, StateWriter};
use crate::{Closing, Context, Ended, Input, Peer, Room, Saved};

struct Quiet;

struct Listener;

impl Server for Quiet {
    type Client = Listener;

    fn client(&mut self, _: &Peer) -> Listener {
        Listener
    }

    fn restore_client(&mut self, _: &Peer, _: &mut StateReader<'_>) -> crate::Result<Listener> {
        Ok(Listener)
    }

    fn pre_server_close_hook(&mut self, room: &mut Room<'_, Self>, _: Closing) {
        room.conns.broadcast_all(b"bye\n");
    }
}

impl MuxCallback<Quiet> for Listener {
    fn input(&mut self, _: &mut Context<'_, Quiet>, _: &mut Input) -> io::Result<()> {
        Ok(())
    }

    fn save(&self, _: &mut StateWriter) -> Saved {
        Saved::Keep
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

#[test]
fn whoever_has_ended_hears_our_end_while_the_image_before_has_the_socket_open() {
    let mut before = Mux::new(Quiet, Limits::default()).unwrap();
    let addr = before.listen(&ListenAt::tcp("127.0.0.1", 0)).unwrap().to_string();
    let mut theirs = TcpStream::connect(addr).unwrap();
    while before.conns.metrics().accepted == 0 {
        turn(&mut before);
    }
    let state = before.state(usize::MAX).unwrap();
    let ours = before.descriptors(&state.kept).next().unwrap().as_fd().try_clone_to_owned().unwrap();
    let mut server = StateWriter::new();
    server.record(&state.server);
    let reader = LoopReader {
        shared: StateReader::of(state.shared.as_bytes()),
        server: StateReader::of(server.as_bytes()).record().unwrap(),
        conns: StateReader::of(state.conns.as_bytes()),
        metrics: None,
    };
    let mut heir = Mux::new(Quiet, Limits::default()).unwrap();
    heir.restore(reader, &mut |_| ours.try_clone()).unwrap();
    heir.claim();
    drop(ours);
    theirs.shutdown(Shutdown::Write).unwrap();
    while heir.conns.metrics().closed == 0 {
        assert_eq!(heir.turn(Some(Duration::from_millis(100))).unwrap(), None);
    }
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    drop(before);
}
