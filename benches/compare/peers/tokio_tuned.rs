//! tokio as one tunes it for many short lines: a task for each connection, all whole lines of a read answered with one
//! write, and what others said taken from the queue in batches, so that one write carries all that has come together.

mod listen;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use listen::{Mode, Service, Stream};
use slab::Slab;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// The room for one read, and the longest line.
const READ_BYTES: usize = 16 * 1024;
const LINE_MAX_BYTES: usize = 64 * 1024;

/// Blocks of lines that may wait for one connection.
const QUEUE_MAX: usize = 4096;

/// The queues of all connections. None: it was full, and its connection ends once it has sent what was in it.
type Queues = Arc<Mutex<Slab<Option<mpsc::Sender<Bytes>>>>>;

#[derive(Clone)]
struct Tuned {
    mode: Mode,
    queues: Queues,
}

fn main() -> io::Result<()> {
    listen::run(|mode| Tuned { mode, queues: Queues::default() })
}

impl Service for Tuned {
    async fn serve(self, stream: impl Stream) {
        // However a connection ends, only its own task does.
        let _ = match self.mode {
            Mode::Echo => echo(stream).await,
            Mode::Broadcast => broadcast(stream, &self.queues).await,
        };
    }
}

async fn echo(mut stream: impl Stream) -> io::Result<()> {
    let mut input = BytesMut::new();
    loop {
        input.reserve(READ_BYTES);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        if let Some(lines) = whole_lines(&mut input)? {
            stream.write_all(&lines).await?;
        }
    }
}

async fn broadcast(stream: impl Stream, queues: &Queues) -> io::Result<()> {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let me = lock(queues).insert(Some(sender));
    let ended = relay(stream, queue, queues, me).await;
    lock(queues).remove(me);
    ended
}

async fn relay(
    mut stream: impl Stream,
    mut queue: mpsc::Receiver<Bytes>,
    queues: &Queues,
    me: usize,
) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut blocks = Vec::new();
    let mut output = Vec::new();
    loop {
        input.reserve(READ_BYTES);
        tokio::select! {
            read = stream.read_buf(&mut input) => {
                if read? == 0 {
                    return Ok(());
                }
                if let Some(lines) = whole_lines(&mut input)? {
                    say(&lines.freeze(), queues, me);
                }
            }
            count = queue.recv_many(&mut blocks, QUEUE_MAX) => {
                match count {
                    0 => return Ok(()),
                    1 => stream.write_all(&blocks[0]).await?,
                    _ => {
                        output.clear();
                        blocks.iter().for_each(|block| output.extend_from_slice(block));
                        stream.write_all(&output).await?;
                    }
                }
                blocks.clear();
            }
        }
    }
}

/// Puts `lines` into every queue but that of `me`.
fn say(lines: &Bytes, queues: &Queues, me: usize) {
    for (other, queue) in lock(queues).iter_mut() {
        if other != me && queue.as_ref().is_some_and(|queue| queue.try_send(lines.clone()).is_err()) {
            *queue = None;
        }
    }
}

/// Takes what ends with a newline off `input`.
fn whole_lines(input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    match memchr::memrchr(b'\n', input) {
        Some(end) => Ok(Some(input.split_to(end + 1))),
        None if input.len() > LINE_MAX_BYTES => Err(io::ErrorKind::InvalidData.into()),
        None => Ok(None),
    }
}

fn lock(queues: &Queues) -> MutexGuard<'_, Slab<Option<mpsc::Sender<Bytes>>>> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}
