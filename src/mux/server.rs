//! The one object of the process: [`Server`], the factory of clients and every hook of the flow.

use super::callback::{MuxCallback, Peer};
use super::context::Room;
use crate::config::Config;
#[cfg(feature = "config")]
use crate::config::ConfigBuilder;
use crate::slots::ConnId;
use crate::{Error, Result};

/// What all connections share, and the hooks of the server's life. Only [`Client`](Self::Client) and
/// [`client`](Self::client) are required; the hooks stand here in the order in which [`run`](crate::run) calls them,
/// which is Net::Server's.
///
/// | phase | hooks |
/// |---|---|
/// | configure | `configure_hook`, then command line and file are read, then `post_configure_hook` |
/// | bind | `pre_bind_hook`, then the listeners are opened, then `post_bind_hook` |
/// | loop | `pre_loop_hook`; for each client `post_accept_hook`, `allow_deny_hook`, (`request_denied_hook` or [`client`](Self::client) and its callbacks), `post_process_request_hook` and the client's `close`; `run_dequeue`, `timeout` and `signal_hook` when they are due |
/// | close | `pre_server_close_hook`, every client's `close`, `post_child_cleanup_hook`; on a fatal error `fatal_hook` first |
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

    /// The listeners are open; their addresses, port 0 resolved, are in `room.conns.local_addrs()` from
    /// [`pre_loop_hook`](Self::pre_loop_hook) on.
    ///
    /// # Errors
    /// Refuses to start.
    fn post_bind_hook(&mut self, config: &Config) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// The last call before clients are served.
    ///
    /// # Errors
    /// Refuses to start.
    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        let _ = room;
        Ok(())
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

    /// Every connection is closed; the listeners go next.
    fn post_child_cleanup_hook(&mut self) {}

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
}
