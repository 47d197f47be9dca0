//! Single-threaded event-driven servers for fast line and message protocols.

#[cfg(feature = "config")]
pub mod access;
mod buffer;
pub mod codec;
pub mod config;
mod error;
pub mod logging;
pub mod metrics;
mod mux;
pub mod net;
#[cfg(all(feature = "config", feature = "signals"))]
mod process;
#[cfg(feature = "signals")]
pub mod signals;
mod slots;
mod sys;
pub mod wheel;

pub use buffer::{Input, Output};
pub use error::{Error, ErrorKind, Result};
pub use mux::{
    Clients, CloseReason, Closing, ConnectTo, Conns, Context, Ended, Handle, ListenerRef, Mux, MuxCallback,
    Outcome, Peer, Refused, Room, Server, To,
};
#[cfg(all(feature = "config", feature = "signals"))]
pub use process::{run, run_with};
pub use slots::ConnId;
