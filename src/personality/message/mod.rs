//! The message server: requests of many kinds on one socket, served by pluggable handlers behind a login, wire-compatible
//! with the clients of Passenger's `MessageServer`.

mod account;
mod client;
mod credential;
mod database;
mod dialect;
mod rights;
mod secret;

pub use account::Account;
pub use client::{ClientError, MessageClient};
pub use credential::{Credential, PASSWORD_MAX_BYTES, TOKEN_MIN_BYTES, hash_password};
pub use database::{AccountsDatabase, Challenge};
pub use dialect::Dialect;
pub use rights::{RightNames, Rights};
pub use secret::url_safe_secret;
