//! Wire formats: bytes in, values out, and back.
//!
//! Nothing here reads, writes, waits or knows a connection; every function is a function of its arguments, and any split
//! of the same bytes gives the same values.

pub mod line;
pub mod message;
