//! What a server is told before it starts: limits, listeners, access lists, logging, and the application's own
//! settings.

mod limits;
mod listen;

pub use limits::{KeepAlive, Limits, LongLine, OnPanic};
pub use listen::{Ipv, ListenAddr, ListenAt};
