//! Single-threaded event-driven servers for fast line and message protocols.

#[cfg(feature = "config")]
pub mod access;
pub mod codec;
pub mod config;
mod error;
pub mod wheel;
pub mod logging;
pub mod net;
#[cfg(feature = "signals")]
pub mod signals;
mod sys;

pub use error::{Error, ErrorKind, Result};
