//! Descriptors that travel with the bytes of a Unix socket (`unix(7)`, `SCM_RIGHTS`).
//!
//! Received: only by connections of a listener with `accept_fds`. They are read with `recvmsg(2)` until nothing is left,
//! since a descriptor ends a read early with bytes behind it; what came waits in [`Rare`](super::conn::Rare) in the order
//! in which it came. Everybody else is read as ever, and the system closes what comes with the bytes.
//!
//! Sent: a descriptor is one byte of output, zero, which stands in its place between the others and leaves in a call of
//! its own. Whoever holds one, the queue or the output, owns it: it is closed when it has left or the connection goes. A
//! restart takes both along (`saved_conn`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use super::RESERVE;
use super::accept::suppressed;
use super::conn::{Conn, Flag};
use super::conns::{Conns, written};
use super::context::Context;
use super::read::Read;
use super::server::Server;
use crate::buffer::Input;
use crate::logging::Quiet;
use crate::metrics::Metrics;
use crate::slots::ConnId;

/// Descriptors that have come and that nobody has taken.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// At most so many wait.
    pub(super) most: u8,
    pub(super) waiting: VecDeque<OwnedFd>,
}

/// Those of all connections together. A process that takes any keeps a part of what it may open for them, so that they
/// are never in the way of a client, a file or a restart.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) waiting: usize,
    /// At most so many wait.
    most: usize,
}

impl Stock {
    pub(super) fn new() -> Self {
        Self { waiting: 0, most: crate::sys::raise_descriptor_limit() / SHARE }
    }

    /// Closes what waits at a connection that is closing: nobody takes it any more.
    #[cold]
    pub(super) fn close_those_of(&mut self, conn: &mut Conn) {
        self.waiting -= std::mem::take(&mut conn.rare().arrivals.waiting).len();
    }
}

impl Conns {
    /// The next descriptor that came over that connection, in the order in which they came, close-on-exec; none when
    /// none waits. It is here when `input` is called with the byte that it came with, or before.
    ///
    /// Only clients of a Unix listener with `accept_fds` can pass any, and only so many wait, of all clients a quarter of the
    /// descriptors that the process may open: what comes beyond is closed (`Metrics::fds_refused`), as is what waits when
    /// the connection is closed.
    ///
    /// ```
    /// # use lineplex::{Context, Input, Server};
    /// /// Lines that begin with `fd ` come with a descriptor.
    /// fn input<S: Server>(ctx: &mut Context<'_, S>, input: &mut Input) {
    ///     while let Some(line) = input.line() {
    ///         let passed = line.starts_with(b"fd ").then(|| ctx.take_fd()).flatten();
    ///         println!("{} {passed:?}", line.escape_ascii());
    ///     }
    /// }
    /// ```
    pub fn take_fd(&mut self, id: ConnId) -> Option<OwnedFd> {
        let fd = self.slots.at_mut(id)?.rare.as_mut()?.arrivals.waiting.pop_front()?;
        self.fds.waiting -= 1;
        Some(fd)
    }

    /// Appends one byte, zero, to the output of `id`, and `fd` with it: the peer receives both together, behind what was
    /// written before. Our copy is closed when it has left, or when the connection goes.
    ///
    /// False, and `fd` is closed, where [`write`](Self::write) answers that, when the connection is no Unix socket, and
    /// when 16 descriptors are waiting to be sent; this last does not close the connection.
    pub fn write_fd(&mut self, id: ConnId, fd: OwnedFd) -> bool {
        self.catch_up(id);
        let Some(conn) = self.slots.at_mut(id).filter(|conn| conn.takes_output()) else { return false };
        if !conn.stream.as_ref().is_some_and(|stream| stream.passes_fds()) {
            return false;
        }
        if conn.output.as_ref().is_some_and(|output| output.fds().count() >= UNSENT_FDS_MAX) {
            return false;
        }
        let output = conn.output.get_or_insert_with(|| self.pool.take());
        let fits = output.append_fd(fd, self.limits.output_hard_bytes);
        written(&mut self.lists, &self.limits, id, conn, fits)
    }

    /// Somebody may pass descriptors to this process: some are kept for them.
    pub(super) fn set_fds_apart(&mut self) {
        let descriptors = crate::sys::raise_descriptor_limit();
        let (apart, most) = (self.fds.most, descriptors.saturating_sub(RESERVE + self.fds.most).max(1));
        if self.limits.max_connections.is_some_and(|wanted| wanted > most) {
            log::info!(
                "max_connections is {most}: clients may pass descriptors, and {apart} are kept for these"
            );
            Rc::make_mut(&mut self.limits).max_connections = Some(most);
        }
    }

    /// That connection may be passed descriptors, of which at most `most` wait.
    pub(super) fn accept_fds(&mut self, id: ConnId, most: u8) {
        if let Some(conn) = self.slots.at_mut(id).filter(|_| most > 0) {
            conn.set(Flag::TAKES_FDS);
            conn.rare().arrivals.most = most;
        }
    }
}

impl<S: Server> Context<'_, S> {
    /// The next descriptor that came over this connection; see [`Conns::take_fd`].
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.conns.take_fd(self.id)
    }

    /// Passes `fd` to the peer, with a byte that is zero; see [`Conns::write_fd`].
    pub fn write_fd(&mut self, fd: impl Into<OwnedFd>) -> bool {
        self.conns.write_fd(self.id, fd.into())
    }
}

/// One receive, as for everybody, of a connection that is passed descriptors. A short read says nothing here, and what it
/// answers is what it takes of the turn's budget of bytes: more than came when descriptors did.
#[cold]
pub(super) fn receive(
    id: ConnId,
    conn: &mut Conn,
    scratch: &mut Input,
    bytes: usize,
    (metrics, stock): (&mut Metrics, &mut Stock),
    (lost, now): (&mut Quiet, Instant),
) -> Read {
    let Some(stream) = conn.stream.as_mut() else {
        conn.clear(Flag::READABLE);
        return Read::Nothing;
    };
    metrics.recv_calls += 1;
    match stream.read_with_fds(scratch.storage(bytes)) {
        Ok(read) if read.length == 0 => {
            conn.clear(Flag::READABLE);
            Read::End
        }
        Ok(read) => {
            scratch.filled(read.length);
            metrics.bytes_in += read.length as u64;
            conn.clear(Flag::DOUBTED.or(Flag::DOUBTED_TWICE));
            if read.cut {
                metrics.fds_lost += 1;
                if let Some(more) = lost.allow(now) {
                    let why = "this process has no room for more";
                    log::error!("connection {id}: a descriptor was lost: {why}{}", suppressed(more));
                }
            }
            let price = read.length + read.fds.len() * FD_PRICE_BYTES;
            if !read.fds.is_empty() {
                keep(conn, read.fds, metrics, stock);
            }
            Read::Bytes(price.min(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            metrics.recv_empty += 1;
            conn.clear(Flag::READABLE.or(Flag::URGENT));
            Read::Nothing
        }
        Err(error) => {
            conn.clear(Flag::READABLE);
            Read::Failed(error)
        }
    }
}

/// As many as may wait; the others are closed.
fn keep(conn: &mut Conn, fds: Vec<OwnedFd>, metrics: &mut Metrics, stock: &mut Stock) {
    let arrivals = &mut conn.rare().arrivals;
    let room = usize::from(arrivals.most).saturating_sub(arrivals.waiting.len());
    let room = room.min(stock.most.saturating_sub(stock.waiting));
    let count = fds.len();
    arrivals.waiting.extend(fds.into_iter().take(room));
    let kept = count.min(room);
    stock.waiting += kept;
    metrics.fds_in += kept as u64;
    metrics.fds_refused += (count - kept) as u64;
}

/// What a descriptor takes of `Limits::bytes_per_turn`. A single byte can bring 253 of them, which takes as long to receive
/// and close as many kilobytes do.
const FD_PRICE_BYTES: usize = 1024;

/// The part of the process's descriptors that may wait: one in so many.
const SHARE: usize = 4;

/// Descriptors that may wait to be sent to one connection.
const UNSENT_FDS_MAX: usize = 16;
