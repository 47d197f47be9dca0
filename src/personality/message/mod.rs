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
//! # A server of your own
//!
//! Where handlers are not enough, a server has [`Messages`] as a part and passes on what concerns it. Then every hook is its
//! own, and so are its settings: here those of the messages are the table `[app.login]`.
//!
#![cfg_attr(feature = "signals", doc = "```")]
#![cfg_attr(not(feature = "signals"), doc = "```ignore")]
//! use lineplex::config::{Config, ConfigBuilder, Outcome};
//! use lineplex::personality::message::{
//!     AccountsDatabase, ExitHandler, MessageHost, Messages, RightNames, Session, Settings,
//! };
//! use lineplex::state::StateReader;
//! use lineplex::{Closing, Peer, Result, Room, Server};
//!
//! struct Deployd {
//!     messages: Messages,
//!     rights: RightNames,
//!     settings: DeploydSettings,
//! }
//!
//! /// The table `[app]`.
//! #[derive(Default, serde::Deserialize)]
//! #[serde(default)]
//! struct DeploydSettings {
//!     login: Settings,
//!     shows_clients: bool,
//! }
//!
//! impl Deployd {
//!     fn new() -> Result<Self> {
//!         let mut messages = Messages::new(AccountsDatabase::new());
//!         messages.add_handler(ExitHandler);
//!         let mut rights = RightNames::default();
//!         rights.add("deploy")?;
//!         Ok(Self { messages, rights, settings: DeploydSettings::default() })
//!     }
//! }
//!
//! impl MessageHost for Deployd {
//!     fn messages(&mut self) -> &mut Messages {
//!         &mut self.messages
//!     }
//!
//!     fn session(client: &mut Session) -> Option<&mut Session> {
//!         Some(client)
//!     }
//! }
//!
//! impl Server for Deployd {
//!     type Client = Session;
//!
//!     fn client(&mut self, _peer: &Peer) -> Session {
//!         Session::new()
//!     }
//!
//!     fn restore_client(&mut self, _peer: &Peer, state: &mut StateReader<'_>) -> Result<Session> {
//!         Session::restore(&mut self.messages, state)
//!     }
//!
//!     fn configure_hook(&mut self, config: &mut ConfigBuilder) {
//!         config.app_name("deployd").unix_mode_default(0o700).set_default("host", "127.0.0.1");
//!     }
//!
//!     fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
//!         self.settings = config.app()?;
//!         self.settings.login.apply(&mut self.messages, &self.rights, config)
//!     }
//!
//!     fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
//!         self.settings.login.begin(&mut self.messages, room)
//!     }
//!
//!     fn reload_hook(&mut self, room: &mut Room<'_, Self>, config: &Config) -> Result<()> {
//!         let settings: DeploydSettings = config.app()?;
//!         settings.login.reload(&mut self.messages, &self.rights, room, config)?;
//!         self.settings = settings;
//!         Ok(())
//!     }
//!
//!     fn pre_server_close_hook(&mut self, _room: &mut Room<'_, Self>, closing: Closing) {
//!         Settings::end(&mut self.messages, closing);
//!     }
//!
//!     // Any other hook, as in every server.
//!     fn post_accept_hook(&mut self, _room: &mut Room<'_, Self>, peer: &Peer) {
//!         if self.settings.shows_clients {
//!             log::info!("{} has come", peer.addr());
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let mut server = Deployd::new()?;
//! // `lineplex::run(server)` does what follows, and then serves.
//! let mut builder = ConfigBuilder::new();
//! server.configure_hook(&mut builder);
//! builder.arguments(["--port", "7000"]).conf_text(
//!     "deployd.toml",
//!     "[app]
//!      shows_clients = true
//!      [app.login.accounts.ci]
//!      password = '$argon2id$v=19$m=19456,t=2,p=1$bm90IG5lYXJseSBhcyBiYWQ$c29tZWRpZ2VzdDEyMzQ1Ng'
//!      rights = 'deploy'",
//! );
//! let Outcome::Config(config) = builder.build()? else { return Ok(()) };
//! server.post_configure_hook(&config)?;
//! assert_eq!(server.messages.accounts().list(), [b"ci"]);
//! # Ok(())
//! # }
//! ```
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
//! | an account that is removed leaves who is logged in | at the next restart or reload they are closed ([`close_orphans`]) |
//! | the default account's password: any 100 bytes, in a file of the generation's directory | the same, in `secrets_directory`; it outlives a restart ([`Settings`]) |

mod account;
mod account_command;
mod accounts_file;
mod client;
mod client_context;
mod credential;
mod crowd;
mod database;
mod default_account;
mod dialect;
mod handler;
mod hashing;
mod login;
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
pub use messages::{Counters, MessageHost, Messages, close_orphans};
pub use penalties::{Penalties, Source};
pub use rights::{RightNames, Rights};
pub use secret::{harden_process, url_safe_secret};
pub use server::MessageServer;
pub use session::Session;
pub use settings::{AccountEntry, Settings};
pub use stock::{ExitHandler, StatusHandler};
