//! The message server: requests of many kinds on one socket, served by pluggable handlers behind a login, wire-compatible
//! with the clients of Passenger's `MessageServer`.

mod dialect;

pub use dialect::Dialect;
