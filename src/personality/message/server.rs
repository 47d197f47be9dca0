//! The ready server: [`MessageServer`], for programs that need nothing but handlers.

use std::fmt;

use super::database::AccountsDatabase;
use super::handler::Handler;
use super::messages::{MessageHost, Messages};
use super::rights::RightNames;
use super::session::Session;
use super::settings::Settings;
use crate::config::{Config, ConfigBuilder};
use crate::net::LocalAddr;
use crate::state::StateReader;
use crate::{Closing, Peer, Result, Room, Server};

/// A message server whose every setting can stand in its configuration file. Add handlers and [run](crate::run) it:
///
#[cfg_attr(feature = "signals", doc = "```no_run")]
#[cfg_attr(not(feature = "signals"), doc = "```ignore")]
/// use lineplex::personality::message::{ExitHandler, MessageServer, StatusHandler};
///
/// fn main() -> std::process::ExitCode {
///     let mut server = MessageServer::new("deployd");
///     server.add_handler(StatusHandler).add_handler(ExitHandler);
///     lineplex::run(server)
/// }
/// ```
///
/// Its settings are those of the configuration, or their defaults: they replace what the program has set on its
/// [`Messages`] before.
///
/// With hooks, settings or other clients of your own, write a [`Server`] that has a [`Messages`] and implements
/// [`MessageHost`], in which these hooks are one call each: `configure_hook` → [`Settings::declare`], `post_configure_hook` →
/// [`Settings::apply`], `client` → [`Session::new`], `restore_client` → [`Session::restore`], `pre_loop_hook` →
/// [`Settings::begin`], `reload_hook` → [`Settings::reload`], `pre_server_close_hook` → [`Settings::end`]. One is written
/// out in the documentation of [the module](super).
pub struct MessageServer {
    name: String,
    about: String,
    conf_file: Option<String>,
    messages: Messages,
    rights: RightNames,
    settings: Settings,
}

impl MessageServer {
    /// A server of that name, for logs and `--help`, without accounts and handlers.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            about: "Serves requests behind a login.".to_owned(),
            conf_file: None,
            messages: Messages::new(AccountsDatabase::new()),
            rights: RightNames::default(),
            settings: Settings::default(),
        }
    }

    /// The sentence of `--help`.
    pub fn about(&mut self, sentence: impl Into<String>) -> &mut Self {
        self.about = sentence.into();
        self
    }

    /// The configuration file that is read if no other is named and it exists.
    pub fn conf_file_if_exists(&mut self, path: impl Into<String>) -> &mut Self {
        self.conf_file = Some(path.into());
        self
    }

    /// Adds a handler behind those that are there.
    pub fn add_handler(&mut self, handler: impl Handler) -> &mut Self {
        self.messages.add_handler(handler);
        self
    }

    /// How long a client may take to log in; the setting `login_seconds` of a configuration wins, and as for that, more than
    /// an hour refuses to start. See [`Messages::set_login_timeout`].
    ///
    /// # Panics
    /// Zero.
    pub fn set_login_timeout(&mut self, time: std::time::Duration) -> &mut Self {
        self.messages.set_login_timeout(time);
        self.settings.login_seconds = time.as_secs_f64();
        self
    }

    /// Who can log in, to add accounts from the program.
    #[must_use]
    pub fn accounts(&self) -> &AccountsDatabase {
        self.messages.accounts()
    }

    /// The rights that an accounts file can name, to add your own.
    pub fn rights(&mut self) -> &mut RightNames {
        &mut self.rights
    }
}

impl MessageHost for MessageServer {
    fn messages(&mut self) -> &mut Messages {
        &mut self.messages
    }

    fn session(client: &mut Session) -> Option<&mut Session> {
        Some(client)
    }
}

impl Server for MessageServer {
    type Client = Session;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config.app_name(&self.name).about(&self.about).set_default("host", "127.0.0.1");
        config.set_default("app.login_seconds", self.settings.login_seconds);
        if let Some(path) = &self.conf_file {
            config.conf_file_if_exists(path);
        }
        Settings::declare(config);
    }

    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        self.settings = config.app()?;
        self.settings.apply(&mut self.messages, &self.rights, config)
    }

    fn client(&mut self, _peer: &Peer) -> Session {
        Session::new()
    }

    fn restore_client(&mut self, _peer: &Peer, state: &mut StateReader<'_>) -> Result<Session> {
        Session::restore(&mut self.messages, state)
    }

    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        self.settings.begin(&mut self.messages, room)
    }

    /// In the words of [`MessageClient::from_address`](super::MessageClient::from_address) and of Passenger's clients; lines
    /// that are typed say nothing to it.
    fn try_hint(&self, addr: &LocalAddr) -> String {
        let at = match addr.near() {
            LocalAddr::Ip(addr) => format!("tcp://{addr}"),
            LocalAddr::Unix(path) => format!("unix:{}", path.display()),
        };
        format!("a message client at {at}")
    }

    fn reload_hook(&mut self, room: &mut Room<'_, Self>, config: &Config) -> Result<()> {
        config.app::<Settings>()?.reload(&mut self.messages, &self.rights, room, config)
    }

    fn pre_server_close_hook(&mut self, _room: &mut Room<'_, Self>, closing: Closing) {
        Settings::end(&mut self.messages, closing);
    }
}

impl fmt::Debug for MessageServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageServer")
            .field("name", &self.name)
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}
