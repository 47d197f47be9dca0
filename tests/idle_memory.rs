//! What a connection costs that does nothing, in bytes of user memory.
//!
//! One test only: it looks at the memory of the whole process. Counted are the pages that the system has given it, not
//! what was asked for: a table that doubles takes none for what is not used yet.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lineplex::config::{Limits, ListenAt};
use lineplex::metrics::Metrics;
use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};

/// Both ends of each are here, and a few files: that many fit into 20,000 descriptors.
const CONNECTIONS: usize = 9_900;
const DESCRIPTORS: usize = 2 * CONNECTIONS + 100;
/// Connected before the loop takes them; less than the listener's queue.
const AT_ONCE: usize = 100;
/// For each: 48 for the connection, 36 for its peer and generation in the table of the clients (`EchoClient` itself has
/// none), 12 for its idle timer and as much for its deadline's place: 108. The lists of a turn and buffers that wait for use
/// come to 2 more in a server (`idle_10k` of the bench `loopback`: 110), and the test itself to some.
const BYTES_MAX: usize = 120;
const LINE: &[u8] = b"0123456789012345678901234567890123456789012345678901234567890123\r\n";

struct Echo;
struct EchoClient;

impl Server for Echo {
    type Client = EchoClient;

    fn client(&mut self, _: &Peer) -> EchoClient {
        EchoClient
    }
}

impl MuxCallback<Echo> for EchoClient {
    fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            ctx.write(line);
            ctx.write(b"\r\n");
        }
        Ok(())
    }
}

#[test]
fn an_idle_connection_costs_at_most_120_bytes_before_and_after_it_has_sent_a_line() {
    if descriptors_max() < DESCRIPTORS {
        eprintln!("skipped: {DESCRIPTORS} descriptors are needed, and {} allowed", descriptors_max());
        return;
    }
    let mut mux =
        Mux::new(Echo, Limits { idle_time: Some(Duration::from_secs(300)), ..Limits::default() }).unwrap();
    let addr = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).unwrap().to_string();
    // Its memory is there before what is counted.
    let mut clients: Vec<Option<TcpStream>> = (0..CONNECTIONS).map(|_| None).collect();
    // One that is there before as well, and with it the buffer that all are read into.
    let mut first = TcpStream::connect(&addr).unwrap();
    first.write_all(LINE).unwrap();
    until(&mut mux, |metrics| metrics.lines == 1);

    let before = resident();
    let each = || resident().saturating_sub(before) / CONNECTIONS;
    let mut open = 1;
    for batch in clients.chunks_mut(AT_ONCE) {
        batch.fill_with(|| Some(TcpStream::connect(&addr).unwrap()));
        open += batch.len() as u64;
        until(&mut mux, |metrics| metrics.open == open);
    }
    let silent = each();
    for client in clients.iter_mut().flatten() {
        client.write_all(LINE).unwrap();
    }
    until(&mut mux, |metrics| metrics.bytes_out == ((CONNECTIONS + 1) * LINE.len()) as u64);
    let spoken = each();
    println!("bytes for each connection: {silent} before its first line, {spoken} after it");
    assert!(silent <= BYTES_MAX, "{silent} bytes for each connection before its first line");
    assert!(spoken <= BYTES_MAX, "{spoken} bytes for each connection after its first line");
    for client in clients.iter_mut().flatten() {
        let mut heard = [0; LINE.len()];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, LINE);
    }
}

fn until(mux: &mut Mux<Echo>, done: impl Fn(&Metrics) -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !done(&mux.conns().metrics()) {
        assert!(Instant::now() < end, "not in time");
        mux.turn(Some(Duration::from_secs(1))).expect("the loop goes on");
    }
}

/// The soft limit of descriptors, which is not raised here; none that is enough where it is not told.
fn descriptors_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes of memory that belong to no file and that the system has given to this process.
fn resident() -> usize {
    let sums = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux tells it");
    let line = sums.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}
