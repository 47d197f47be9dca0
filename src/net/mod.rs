//! Listeners and streams: the sockets of the loop.
//!
//! Rests on mio and socket2. Every descriptor here is non-blocking and closed on exec; nothing here waits, except
//! [`Listener::bind`] while it resolves a name. Socket options live in one place (`options.rs`): they are set on the
//! listening socket, from which Linux gives them to every accepted one, so that an accept costs one system call.
//! Addresses are shown canonically: an IPv4 peer of a dual-stack socket is `1.2.3.4`, never `::ffff:1.2.3.4`.

mod addr;
mod listener;
mod options;
mod stream;
mod unix;

pub use crate::sys::Credentials;
pub use addr::{LocalAddr, PeerAddr};
pub use listener::Listener;
pub(crate) use listener::Other;
pub use stream::Stream;
pub(crate) use stream::StreamKind;
pub(crate) use unix::OwnedPath;
