//! A receiver that is always a little behind costs what is unsent, not what it was ever sent.
//!
//! One test only: it looks at the memory of the whole process.

#![cfg(target_os = "linux")]

mod common;
mod lab;

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

use lab::{Hand, Lab};
use lineplex::config::Limits;
use lineplex::{ConnId, Conns};

const MIB: usize = 1024 * 1024;
/// What is unsent between two turns, always: enough that the kernel cannot take it all.
const BEHIND: usize = 600 * 1024;
/// What each receiver is sent in all.
const ALL: usize = 96 * MIB;
/// Our own buffers and the allocator's ways; what was sent is many times that.
const GROWTH_MAX_KIB: usize = 24 * 1024;

/// One way to write a line.
type WriteLine = fn(&mut Conns, ConnId);

#[test]
fn a_receiver_that_is_always_a_little_behind_does_not_make_the_server_grow() {
    let mut hand = Hand::new(Limits::default(), Lab::new());
    let lines: [(&str, WriteLine); 3] = [
        ("of its own", |conns, id| {
            conns.write(id, &[b'x'; 400]);
        }),
        ("shared with others", |conns, id| {
            conns.broadcast(&[b'x'; 800], |to| to == id);
        }),
        ("of both kinds", |conns, id| {
            conns.write(id, &[b'x'; 400]);
            conns.broadcast(&[b'x'; 800], |to| to == id);
        }),
    ];
    for (at, (what, write)) in lines.into_iter().enumerate() {
        let mut stream = UnixStream::connect(&hand.addr).unwrap();
        hand.wait_for(&format!("{} connection", at + 1));
        let id = hand.id(&(at + 1).to_string());
        let mut buffer = vec![0; 64 * 1024];
        let (mut received, mut before) = (0, None);
        while received < ALL {
            while hand.mux.conns().unsent(id) < BEHIND {
                write(hand.mux.conns(), id);
            }
            hand.turn();
            assert!(hand.mux.conns().unsent(id) > 0, "it caught up, which is not what is tested");
            received += stream.read(&mut buffer).unwrap();
            // From here on every buffer has its size.
            if before.is_none() && received > 4 * MIB {
                before = Some(resident_kib());
            }
        }
        let grown = resident_kib().saturating_sub(before.unwrap());
        assert!(grown < GROWTH_MAX_KIB, "lines {what}: {grown} KiB more for {} MiB", received / MIB);
    }
}

fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
