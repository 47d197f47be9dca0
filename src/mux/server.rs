//! The one object of the process: [`Server`], the factory of clients and every hook of the flow.

use super::callback::MuxCallback;
use super::context::Room;
use super::peer::Peer;
use crate::config::Config;
#[cfg(feature = "config")]
use crate::config::ConfigBuilder;
use crate::net::LocalAddr;
use crate::slots::ConnId;
use crate::state::{StateReader, StateWriter};
use crate::{Error, ErrorKind, Result};

/// What all connections share, and the hooks of the server's life. Only [`Client`](Self::Client) and
/// [`client`](Self::client) are required; the hooks stand here in the order in which [`run`](crate::run) calls them,
/// which is Net::Server's.
///
/// | phase | hooks |
/// |---|---|
/// | configure | `configure_hook`, then command line and file are read, then `post_configure_hook` |
/// | bind | `pre_bind_hook`, (after a restart `restart_open_hook`), then the listeners are opened, then `post_bind_hook`, (after a restart `restore`, `restore_client` for each client) |
/// | loop | `pre_loop_hook`; for each client `post_accept_hook`, `allow_deny_hook`, (`request_denied_hook` or [`client`](Self::client) and its callbacks), `post_process_request_hook` and the client's `close`; `run_dequeue`, `timeout` and `signal_hook` when they are due |
/// | close | `pre_server_close_hook`, every client's `close`, `post_child_cleanup_hook`; on a fatal error `fatal_hook` first |
/// | restart | for the probe `save` and every client's `save`; then `pre_server_close_hook`, every client's `save`, `close` of those that do not go along, `post_child_cleanup_hook`, `restart_close_hook`, and once more what is kept: `save` and the clients' `save`; then the next image begins with `configure_hook`; `restart_failed_hook` if this one goes on |
///
/// Before a restart a *probe*, a process of its own that is thrown away, runs the hooks of the phases configure and bind
/// with the next image and the new configuration; [`Config::probing`] tells.
///
/// A hook that panics in the loop phase is logged and counted, and the loop goes on; where its answer decides
/// (`allow_deny_hook`, `client`) the peer is denied. An `Err` before the loop refuses to start: exit status 1.
pub trait Server: Sized + 'static {
    /// What serves one connection. An `enum` or a `Box<dyn MuxCallback<Self>>` serves several kinds.
    type Client: MuxCallback<Self>;

    /// Makes the object for a client that was let in. If it panics, the peer is closed and nobody else is harmed.
    fn client(&mut self, peer: &Peer) -> Self::Client;

    /// Before anything is read: name the application, declare its options, set what nobody may change, give
    /// defaults.
    #[cfg(feature = "config")]
    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        let _ = config;
    }

    /// The configuration is complete and valid: take what is yours (`config.app()`), refuse what makes no sense.
    ///
    /// # Errors
    /// Refuses to start.
    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Before the listeners are opened.
    ///
    /// # Errors
    /// Refuses to start.
    fn pre_bind_hook(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// After a restart only: the listeners are about to be taken over from the image before, and new ones bound.
    ///
    /// # Errors
    /// Refuses the restart.
    fn restart_open_hook(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// The listeners are open; their addresses, port 0 resolved, are in `room.conns.local_addrs()` from
    /// [`pre_loop_hook`](Self::pre_loop_hook) on.
    ///
    /// # Errors
    /// Refuses to start.
    fn post_bind_hook(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// A restart is about to hand over: write into `out` what this object must know in the next image, beside its
    /// settings. Called several times for each restart: it must change nothing outside `out`. If it panics, the restart
    /// is refused.
    fn save(&self, out: &mut StateWriter) {
        let _ = out;
    }

    /// After a restart only: takes back what [`save`](Self::save) wrote, all of it. Also called in the probe, which
    /// tries a restart before it happens: it must change nothing but this object.
    ///
    /// # Errors
    /// Refuses the restart; the image before goes on.
    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// After a restart only: makes a client's object again from what its [`MuxCallback::save`] wrote, all of it. Called
    /// once for each, after [`restore`](Self::restore), and in the probe for some of them.
    ///
    /// # Errors
    /// Refuses the restart; the image before goes on.
    fn restore_client(&mut self, peer: &Peer, state: &mut StateReader<'_>) -> Result<Self::Client> {
        let _ = (peer, state);
        Err(Error::new(
            ErrorKind::State,
            "a client was saved but this server does not implement restore_client",
        ))
    }

    /// The last call before clients are served. After a restart those that were kept are in the room.
    ///
    /// # Errors
    /// Refuses to start, or the restart.
    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        let _ = room;
        Ok(())
    }

    /// How somebody on the same machine tries the server at `addr`: what the log says behind `listening on ADDRESS; try: `.
    /// Without it: the command that sends it lines ([`LocalAddr::hint`]).
    fn try_hint(&self, addr: &LocalAddr) -> String {
        addr.hint()
    }

    /// A client was taken from a listener; nothing is decided yet.
    fn post_accept_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer) {
        let _ = (room, peer);
    }

    /// The access lists let this peer in; false denies it all the same.
    fn allow_deny_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer) -> bool {
        let _ = (room, peer);
        true
    }

    /// The peer is denied, by the lists or by the hook. `room.conns.write(id, ..)` sends it a farewell; then it is
    /// closed. It has no client object, is in nobody's list, and what it sends is thrown away.
    fn request_denied_hook(&mut self, room: &mut Room<'_, Self>, id: ConnId, peer: &Peer) {
        let _ = (room, id, peer);
    }

    /// A client taken from a listener is gone, served or denied; its socket is closed. Comes just before the
    /// client's own `close`.
    fn post_process_request_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer, outcome: Outcome) {
        let _ = (room, peer, outcome);
    }

    /// The tick: `check_for_dequeue` seconds after the last one ended. Runs on the loop, so it must be quick.
    fn run_dequeue(&mut self, room: &mut Room<'_, Self>) {
        let _ = room;
    }

    /// The timer that [`Conns::after`](crate::Conns::after) set under this key is due.
    fn timeout(&mut self, room: &mut Room<'_, Self>, key: u64) {
        let _ = (room, key);
    }

    /// A signal that means nothing to the loop itself: USR2, ALRM, TTIN, TTOU.
    #[cfg(feature = "signals")]
    fn signal_hook(&mut self, room: &mut Room<'_, Self>, signal: crate::signals::Signal) {
        let _ = (room, signal);
    }

    /// The server is about to close. Connections and listeners are still open: what is written here is sent, as far
    /// as the kernel takes it at once (INT, TERM) or until the deadline of the graceful stop (QUIT).
    fn pre_server_close_hook(&mut self, room: &mut Room<'_, Self>, closing: Closing) {
        let _ = (room, closing);
    }

    /// Every connection is closed; the listeners go next. In a restart: every connection that does not go along is.
    fn post_child_cleanup_hook(&mut self) {}

    /// The last hook of an image that hands over: only [`save`](Self::save) and the clients' own come after it.
    fn restart_close_hook(&mut self) {}

    /// A restart was refused or failed, and this image goes on. If the next one had not been started yet, nothing was
    /// called before; else [`pre_server_close_hook`](Self::pre_server_close_hook) and
    /// [`restart_close_hook`](Self::restart_close_hook) were, and clients that do not go along are gone.
    fn restart_failed_hook(&mut self, room: &mut Room<'_, Self>, error: &Error) {
        let _ = (room, error);
    }

    /// SIGHUP came and `on_hup = "reload"`: the configuration was read again and is valid. Take what is yours; when this
    /// returns, the access lists and the tick come into force. Everything else in it needs a restart.
    ///
    /// # Errors
    /// Told in the log; what the crate itself would have taken stays as it was. A panic is told as well.
    fn reload_hook(&mut self, room: &mut Room<'_, Self>, config: &Config) -> Result<()> {
        let _ = (room, config);
        Ok(())
    }

    /// The server cannot start or go on: called before anything is closed. When it has returned, the error goes to
    /// standard error and to the log; exit status 1 (2 for a wrong command line).
    fn fatal_hook(&mut self, error: &Error) {
        let _ = error;
    }
}

/// How a client that a listener had taken ended up.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was let in and had a client object.
    Served,
    /// It was denied.
    Denied,
}

/// Why the server closes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It stops for good.
    Stop,
    /// It hands over to the next image: whoever can goes along.
    Handover,
}
