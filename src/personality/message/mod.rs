//! The message server: requests of many kinds on one socket, served by pluggable handlers behind a login, wire-compatible
//! with the clients of Passenger's `MessageServer`.

mod account;
mod accounts_file;
mod credential;
mod database;
mod default_account;
mod penalties;
mod rights;
mod secret;

pub use account::Account;
pub use accounts_file::AccountsFile;
pub use credential::{Credential, PASSWORD_MAX_BYTES, TOKEN_MIN_BYTES, hash_password};
pub use database::{AccountsDatabase, Challenge};
pub use penalties::{Penalties, Source};
pub use rights::{RightNames, Rights};
pub use secret::url_safe_secret;
