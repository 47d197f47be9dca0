//! The message server: requests of many kinds on one socket, served by pluggable handlers behind a login, wire-compatible
//! with the clients of Passenger's `MessageServer`.
//!
//! A client logs in with a name and a password, and then sends requests, array messages that each [`Handler`] is offered in
//! turn. What is on the wire is [`codec::message`](crate::codec::message)'s; who may log in stands in the
//! [`AccountsDatabase`]; [`MessageServer`] is the ready server, [`Messages`] and [`Session`] are its parts for a server of
//! your own.
//!
//! # The life of a client
//!
//! ```text
//! server → client   array   version, 1
//! client → server   scalar  name            at most 100 bytes
//! client → server   scalar  password        at most 100 bytes
//! server → client   array   the verdict, in the listener's dialect; anything but "ok" is followed by the end
//!                   new_client of every handler
//! client → server   array   a request       process_message of one handler after the other, until one takes it
//!                   client_disconnected of every handler
//! ```
//!
//! Requests of one client are served one after the other, and it may send the next before the reply. A request that nobody
//! takes, and an empty one, close the connection without a word.
//!
//! # Where it differs from the original
//!
//! | original | here |
//! |---|---|
//! | one right of several is enough | all that are asked for |
//! | nothing limits who logs in | places for logins under way, shared out by source; a line in which every source has its turn |
//! | passwords are kept and compared as they are | argon2id, checked on a thread of the pool, or random tokens; compared in constant time, wiped |
//! | the verdict tells by its time whether a name exists | the same work and the same delay |
//! | any exception but its own ends the process | a handler that fails or panics costs its client |
//! | `newClient` fails: no handler hears of the end | those hear of it that had succeeded |
//! | an empty request is undefined | it closes the connection |
//! | the socket is everybody's | mode 0700, unless the listener says `mode = 0o1777` |
//! | one thread for each client | one loop; a request that waits is a state ([`Wait`]) |
//! | gone with a restart | logged-in clients stay, with half a request; rights are those of the new accounts |

mod account;
mod account_command;
mod accounts_file;
mod client;
mod client_context;
mod credential;
mod database;
mod default_account;
mod dialect;
mod handler;
mod login;
mod logins;
mod messages;
mod penalties;
mod rights;
mod secret;
mod server;
mod session;
mod settings;
mod stock;

pub use account::Account;
pub use account_command::account_command;
pub use accounts_file::AccountsFile;
pub use client::{ClientError, MessageClient};
pub use client_context::ClientContext;
pub use credential::{Credential, PASSWORD_MAX_BYTES, TOKEN_MIN_BYTES, hash_password};
pub use database::{AccountsDatabase, Challenge};
pub use dialect::Dialect;
pub use handler::{Answer, Handler, Job, Processed, Wait};
pub use messages::{Counters, MessageHost, Messages};
pub use penalties::{Penalties, Source};
pub use rights::{RightNames, Rights};
pub use secret::url_safe_secret;
pub use server::{MessageServer, close_orphans, harden_process};
pub use session::Session;
pub use settings::{AccountEntry, Settings};
pub use stock::{ExitHandler, StatusHandler};
