//! Loads on a server in another process, and what they cost it. Stands alone: the standard library and libc.
//!
//! A [`Peer`](server::Peer) says how a server is started, a [`Work`](work::Work) which load it gets, and
//! [`rounds`] runs both in turns. Every byte that a server sends is checked; one that is wrong ends its run.

pub(crate) mod broadcast;
pub(crate) mod calls;
pub(crate) mod churn;
pub(crate) mod echo;
pub(crate) mod goals;
pub(crate) mod histogram;
pub(crate) mod idle;
pub(crate) mod line;
pub(crate) mod mixed;
pub(crate) mod rounds;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod sys;
pub(crate) mod table;
pub(crate) mod window;
pub(crate) mod work;

use std::io;

/// What is wrong, in a sentence.
pub(crate) fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
