//! What callbacks and hooks are given: [`Context`] for one connection, [`Room`] for the server, and [`Clients`], the
//! other clients' objects.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::connect::ConnectTo;
use super::conns::Conns;
use super::handle::Handle;
use super::peer::Peer;
use super::server::Server;
use crate::slots::{ConnId, Others};

/// What a callback is given. The fields are public so that they can be borrowed apart; the methods are shorthand for
/// the connection that the callback is about.
pub struct Context<'a, S: Server> {
    /// What all clients share.
    pub server: &'a mut S,
    /// Every connection's I/O.
    pub conns: &'a mut Conns,
    /// The other clients' objects.
    pub others: Clients<'a, S>,
    /// The connection that this callback is about.
    pub id: ConnId,
    /// Who is at its other end.
    pub peer: &'a Peer,
    /// The time of this turn, read once after the wait: a slow callback does not move it.
    pub now: Instant,
}

impl<S: Server> Context<'_, S> {
    /// Appends `bytes` to this connection's output; they are sent at the end of the turn, together with everything
    /// else that was written. Never blocks. False, and nothing is added, when the connection is closing or more
    /// than `Limits::output_hard_bytes` would be waiting (which closes it, [`CloseReason::OutputLimit`](crate::CloseReason::OutputLimit)).
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.conns.write(self.id, bytes)
    }

    /// Appends all `parts`, one after the other, to this connection's output: all of them or nothing. Cheaper than several
    /// writes: `ctx.write_parts(&[line, b"\r\n"])`.
    #[inline]
    pub fn write_parts(&mut self, parts: &[&[u8]]) -> bool {
        self.conns.write_parts(self.id, parts)
    }

    /// What `write!(ctx, …)` calls: formats straight into the output. Answers as [`write`](Self::write).
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> bool {
        self.conns.write_fmt(self.id, text)
    }

    /// Calls `timeout` once, `after` from the end of this phase of the turn; replaces a deadline set before. Never
    /// early, at most a millisecond late on an idle loop. Zero, set while input is served: in this turn, after all input; set
    /// later: in the next.
    #[inline]
    pub fn set_timeout(&mut self, after: Duration) {
        self.conns.set_timeout(self.id, after);
    }

    /// Clears the deadline; nothing if there is none.
    pub fn clear_timeout(&mut self) {
        self.conns.clear_timeout(self.id);
    }

    /// Closes this connection when everything written so far has been sent. No callback but `close` follows, and what
    /// is written from now on is dropped. The running callback goes on: a loop over `Input::line` still gives lines.
    pub fn close(&mut self) {
        self.conns.close(self.id);
    }

    /// Cuts this connection: unsent output is dropped.
    pub fn abort(&mut self) {
        self.conns.abort(self.id);
    }

    /// Ends our side when everything written so far has been sent; reading goes on. What is written from now on is
    /// dropped.
    pub fn shutdown_write(&mut self) {
        self.conns.shutdown_write(self.id);
    }

    /// In `eof` (or before): keeps our side open after the peer has ended its own, until `close`.
    pub fn hold_open(&mut self) {
        self.conns.hold_open(self.id);
    }

    /// Stops reading from this connection; the peer is slowed down by its own full buffers.
    pub fn pause_input(&mut self) {
        self.conns.pause_input(self.id);
    }

    /// Goes on reading; input that was left unconsumed is given again first.
    pub fn resume_input(&mut self) {
        self.conns.resume_input(self.id);
    }

    /// Opens an outgoing connection that `client` serves. See [`Room::connect`].
    ///
    /// # Errors
    /// When the descriptor or the offload queue cannot be had at once.
    pub fn connect(&mut self, to: impl Into<ConnectTo>, client: S::Client) -> io::Result<ConnId> {
        self.others.connect(self.conns, to.into(), client)
    }

    /// Makes a connection of a descriptor, served by `client`. See [`Room::adopt`].
    ///
    /// # Errors
    /// When the descriptor cannot be polled, as a regular file cannot.
    pub fn adopt(&mut self, descriptor: impl Into<OwnedFd>, client: S::Client) -> io::Result<ConnId> {
        self.others.adopt(self.conns, descriptor.into(), client)
    }

    /// A handle to this loop for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        self.others.handle.clone()
    }

    /// Runs `job` on one of a few worker threads, and then `then` on the loop with this client and the job's result.
    /// If the connection is gone by then, the result is dropped. A job that panics closes the connection
    /// ([`CloseReason::Panicked`](crate::CloseReason::Panicked)).
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when `Limits::offload_queue` jobs are waiting: say so to the client.
    pub fn offload<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut S::Client, &mut Context<'_, S>, T) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (handle, id) = (self.others.handle.clone(), self.id);
        self.conns.offload(Box::new(move || handle.finish_job(id, job, then)))?;
        self.conns.rare(id, |rare| rare.jobs += 1);
        Ok(())
    }
}

impl<S: Server> fmt::Debug for Context<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("id", &self.id).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What a hook of the server is given.
pub struct Room<'a, S: Server> {
    /// Every connection's I/O.
    pub conns: &'a mut Conns,
    /// Every client's object.
    pub clients: Clients<'a, S>,
    /// The time of this turn.
    pub now: Instant,
}

impl<S: Server> Room<'_, S> {
    /// Opens an outgoing connection on this loop, served by `client` with the same callbacks: `connection` when it
    /// is open, or `close` with [`CloseReason::ConnectFailed`](crate::CloseReason::ConnectFailed) if it cannot be opened within
    /// `Limits::connect_time` (or [`ConnectTo::within`]). A name is looked up on a worker thread; its addresses are
    /// tried one after the other.
    ///
    /// ```no_run
    /// # use lineplex::{ConnId, Room, Server};
    /// # fn example<S: Server>(room: &mut Room<'_, S>, client: S::Client) -> std::io::Result<ConnId> {
    /// room.connect("localhost:20203", client)
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the descriptor or the offload queue cannot be had at once, or the text is not `host:port`; the client
    /// object is dropped then.
    pub fn connect(&mut self, to: impl Into<ConnectTo>, client: S::Client) -> io::Result<ConnId> {
        self.clients.connect(self.conns, to.into(), client)
    }

    /// Makes a connection of any descriptor that can be polled (a pipe, a child's output, a socket pair, standard
    /// input), served by `client`. `connection` is called in the next turn. The descriptor is non-blocking while it
    /// is ours and gets its old mode back afterwards.
    ///
    /// # Errors
    /// When the descriptor cannot be polled, as a regular file cannot; it is closed then.
    pub fn adopt(&mut self, descriptor: impl Into<OwnedFd>, client: S::Client) -> io::Result<ConnId> {
        self.clients.adopt(self.conns, descriptor.into(), client)
    }

    /// A handle to this loop for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        self.clients.handle.clone()
    }
}

impl<S: Server> fmt::Debug for Room<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("now", &self.now).finish_non_exhaustive()
    }
}

/// A client's object beside the peer that it serves.
pub(super) struct Member<C> {
    pub(super) peer: Peer,
    pub(super) client: C,
}

/// The clients' objects: in a callback all but its own, in a hook of the server all.
pub struct Clients<'a, S: Server> {
    pub(super) members: Others<'a, Member<S::Client>>,
    /// Made in this callback; they move to the table when it returns.
    pub(super) added: &'a mut Vec<(ConnId, Member<S::Client>)>,
    pub(super) handle: &'a Handle<S>,
}

impl<S: Server> Clients<'_, S> {
    /// The object of that connection; none if it is gone, was denied, or is the running one.
    #[must_use]
    pub fn at(&self, id: ConnId) -> Option<&S::Client> {
        self.member(id).map(|member| &member.client)
    }

    /// The object of that connection, to change; none as for [`at`](Self::at).
    pub fn at_mut(&mut self, id: ConnId) -> Option<&mut S::Client> {
        if let Some((_, member)) = self.added.iter_mut().find(|(added, _)| *added == id) {
            return Some(&mut member.client);
        }
        self.members.at_mut(id).map(|member| &mut member.client)
    }

    /// Who is at the other end of that connection; none as for [`at`](Self::at).
    #[must_use]
    pub fn peer(&self, id: ConnId) -> Option<&Peer> {
        self.member(id).map(|member| &member.peer)
    }

    /// Every object with its connection, in no promised order; those of closing connections are still here.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &S::Client)> {
        let added = self.added.iter().map(|(id, member)| (*id, &member.client));
        self.members.iter().map(|(id, member)| (id, &member.client)).chain(added)
    }

    /// Every object with its connection, to change, as [`iter`](Self::iter).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut S::Client)> {
        let added = self.added.iter_mut().map(|(id, member)| (*id, &mut member.client));
        self.members.iter_mut().map(|(id, member)| (id, &mut member.client)).chain(added)
    }

    fn member(&self, id: ConnId) -> Option<&Member<S::Client>> {
        let added = self.added.iter().find(|(added, _)| *added == id).map(|(_, member)| member);
        added.or_else(|| self.members.at(id))
    }

    fn connect(&mut self, conns: &mut Conns, to: ConnectTo, client: S::Client) -> io::Result<ConnId> {
        let (id, peer) = conns.begin_connect(to, self.handle.resolver())?;
        self.added.push((id, Member { peer, client }));
        Ok(id)
    }

    fn adopt(&mut self, conns: &mut Conns, descriptor: OwnedFd, client: S::Client) -> io::Result<ConnId> {
        let (id, peer) = conns.begin_adopt(descriptor)?;
        self.added.push((id, Member { peer, client }));
        Ok(id)
    }
}

impl<S: Server> fmt::Debug for Clients<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|(id, _)| id)).finish()
    }
}
