//! What a configuration file says about a message server: [`Settings`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::accounts_file::AccountsFile;
use super::credential::Credential;
use super::dialect::Dialect;
use super::messages::Messages;
use super::penalties::Penalties;
use super::rights::{RightNames, Rights};
use crate::config::{Config, ConfigBuilder, ListenAddr};
use crate::{Error, ErrorKind, Result};

/// The settings of a message server, for serde: the table `[app]` of [`MessageServer`](super::MessageServer), or a table of
/// your own settings.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `accounts` | who can log in: a table of [`AccountEntry`] by name | empty |
/// | `accounts_file` | who can log in, see [`AccountsFile`]; relative to where the server was started | none |
/// | `dialect` | `"classic"` or `"status"`, see [`Dialect`] | `"classic"` |
/// | `dialects` | a table of dialects by the names of listeners | empty |
/// | `login_seconds` | time for a login, everything together; fractions count | 2 |
/// | `logins_max` | logins under way at once; one address or user at most half, see [`Messages::set_logins_max`] | 1024 |
/// | `refusal_seconds` | after a login until it is refused, doubled with each failure, see [`Penalties`] | 0.1 |
/// | `refusal_max_seconds` | the longest that it is doubled to | 3.2 |
/// | `hashing_jobs` | passwords that are checked at once, 19 MiB each | 2 |
/// | `request_max_bytes` | longest request | 65,535 |
/// | `allow_plaintext` | passwords may cross a network that others can listen to | false |
/// | `core_dumps` | the process may be dumped and traced, its memory with what clients say | false |
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default)]
pub struct Settings {
    /// See the table.
    pub accounts: BTreeMap<String, AccountEntry>,
    /// See the table.
    pub accounts_file: Option<String>,
    /// See the table.
    pub dialect: Dialect,
    /// See the table.
    pub dialects: BTreeMap<String, Dialect>,
    /// See the table.
    pub login_seconds: f64,
    /// See the table.
    pub logins_max: usize,
    /// See the table.
    pub refusal_seconds: f64,
    /// See the table.
    pub refusal_max_seconds: f64,
    /// See the table.
    pub hashing_jobs: usize,
    /// See the table.
    pub request_max_bytes: usize,
    /// See the table.
    pub allow_plaintext: bool,
    /// See the table.
    pub core_dumps: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            accounts_file: None,
            dialect: Dialect::default(),
            dialects: BTreeMap::new(),
            login_seconds: 2.0,
            logins_max: 1024,
            refusal_seconds: 0.1,
            refusal_max_seconds: 3.2,
            hashing_jobs: 2,
            request_max_bytes: crate::codec::message::ARRAY_MAX_BYTES,
            allow_plaintext: false,
            core_dumps: false,
        }
    }
}

/// One account in a file. Either `password` or `token` must be there; both are hashes, never the secret itself.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct AccountEntry {
    /// What [`hash_password`](super::hash_password) gives: an argon2id hash in its usual text form.
    pub password: Option<String>,
    /// What [`Credential::encoded`] gives of a random token.
    pub token: Option<String>,
    /// As [`RightNames::parse`] reads them; without the key: all.
    pub rights: Option<String>,
}

impl AccountEntry {
    /// # Errors
    /// [`ErrorKind::Config`], naming the account.
    fn read(&self, name: &str, names: &RightNames) -> Result<(Credential, Rights)> {
        let refuse =
            |key: &str, what: String| Error::new(ErrorKind::Config, format!("accounts.{name}{key}: {what}"));
        let credential = match (&self.password, &self.token) {
            (Some(password), None) => {
                Credential::from_phc(password).map_err(|error| refuse(".password", error.chain()))?
            }
            (None, Some(token)) => {
                Credential::from_digest(token).map_err(|error| refuse(".token", error.chain()))?
            }
            _ => return Err(refuse("", "it needs either password or token".to_owned())),
        };
        let rights = match &self.rights {
            Some(text) => names.parse(text).map_err(|error| refuse(".rights", error.chain()))?,
            None => Rights::ALL,
        };
        Ok((credential, rights))
    }
}

impl Settings {
    /// Declares the settings as options of the command line, and has Unix sockets be their owner's alone (mode 0700) unless a
    /// listener says otherwise (`mode = 0o1777` is the original's); for `configure_hook`.
    pub fn declare(config: &mut ConfigBuilder) {
        config.unix_mode_default(0o700);
        config.app_option("accounts_file", "FILE", "who can log in");
        config.app_option("dialect", "NAME", "of all listeners: classic or status");
        config.app_option("login_seconds", "SECONDS", "time for a login, 2");
        config.app_option("logins_max", "N", "logins under way at once, 1024");
        config.app_option("refusal_seconds", "SECONDS", "until a login is refused, 0.1");
        config.app_option("refusal_max_seconds", "SECONDS", "the same after many failures, 3.2");
        config.app_option("hashing_jobs", "N", "passwords checked at once, 2");
        config.app_option("request_max_bytes", "N", "longest request, 65535");
        config.app_option("allow_plaintext", "BOOL", "passwords may cross a network, false");
        config.app_option("core_dumps", "BOOL", "the process may be dumped and traced, false");
    }

    /// Puts the settings into force and reads the accounts file; for `post_configure_hook`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: a value makes no sense, a dialect is for a listener that is not there, a password would cross a
    /// network in the clear, or the accounts file has mistakes.
    pub fn apply(&self, messages: &mut Messages, names: &RightNames, config: &Config) -> Result<()> {
        let refuse = |what: String| Err(Error::new(ErrorKind::Config, what));
        match Duration::try_from_secs_f64(self.login_seconds) {
            Ok(time) if !time.is_zero() && time <= LOGIN_TIME_MAX => messages.set_login_timeout(time),
            _ => return refuse(format!("login_seconds: {} is not between 0 and 3600", self.login_seconds)),
        };
        self.bound_logins(messages)?;
        if self.hashing_jobs == 0 {
            return refuse("hashing_jobs: with 0 no password would ever be checked".to_owned());
        }
        if self.request_max_bytes == 0 || self.request_max_bytes > crate::codec::message::ARRAY_MAX_BYTES {
            return refuse(format!(
                "request_max_bytes: {} is not between 1 and 65535",
                self.request_max_bytes
            ));
        }
        messages.set_hashing_jobs(self.hashing_jobs).set_request_max_bytes(self.request_max_bytes);
        messages.set_dialect(self.dialect);
        messages.dialects.clear();
        for (listener, dialect) in &self.dialects {
            if !config.listen.iter().any(|at| at.name == *listener) {
                let known: Vec<&str> = config.listen.iter().map(|at| at.name.as_str()).collect();
                return refuse(format!(
                    "dialects: there is no listener `{listener}`; there is {}",
                    known.join(", ")
                ));
            }
            messages.set_dialect_of(listener.clone(), *dialect);
        }
        self.refuse_plaintext(config)?;
        self.read_accounts(messages, names, config)
    }

    fn bound_logins(&self, messages: &mut Messages) -> Result<()> {
        let refuse = |what: String| Err(Error::new(ErrorKind::Config, what));
        if self.logins_max == 0 {
            return refuse("logins_max: with 0 nobody could log in".to_owned());
        }
        let seconds = [self.refusal_seconds, self.refusal_max_seconds];
        let [Ok(first), Ok(most)] = seconds.map(Duration::try_from_secs_f64) else {
            return refuse(format!("refusal_seconds, refusal_max_seconds: {seconds:?} are no times"));
        };
        if first > most || most > LOGIN_TIME_MAX {
            return refuse(format!("refusal_max_seconds: {most:?} is not between refusal_seconds and 3600"));
        }
        messages.set_logins_max(self.logins_max).set_penalties(Penalties::new(first, most));
        Ok(())
    }

    /// Takes the accounts of the settings and of the accounts file, all or none: those that were listed there before and are
    /// not any more are removed, those that were added by the program stay. Clients that are logged in stay too.
    ///
    /// # Errors
    /// What is wrong with the file; nothing is changed then.
    pub fn read_accounts(&self, messages: &mut Messages, names: &RightNames, config: &Config) -> Result<()> {
        let mut read: Vec<(Box<[u8]>, Credential, Rights)> = Vec::new();
        for (name, entry) in &self.accounts {
            let (credential, rights) = entry.read(name, names)?;
            read.push((name.as_bytes().into(), credential, rights));
        }
        if let Some(path) = &self.accounts_file {
            for (name, credential, rights) in AccountsFile::read(&config.absolute(path)?, names)?.accounts {
                if read.iter().any(|(known, ..)| *known == name) {
                    let name = name.escape_ascii();
                    let context = format!("accounts.{name}: it also stands in {path}");
                    return Err(Error::new(ErrorKind::Config, context));
                }
                read.push((name, credential, rights));
            }
        }
        messages.accounts().replace_file_accounts(AccountsFile { accounts: read });
        Ok(())
    }

    fn refuse_plaintext(&self, config: &Config) -> Result<()> {
        let open = config.listen.iter().find(|at| match &at.addr {
            ListenAddr::Tcp { host, .. } => !is_loopback(host),
            ListenAddr::Unix { .. } => false,
        });
        match open {
            Some(at) if !self.allow_plaintext => {
                let context = format!(
                    "port: passwords would come to {} in the clear: listen on a Unix socket or on 127.0.0.1, or set \
                     allow_plaintext = true",
                    at.name
                );
                Err(Error::new(ErrorKind::Config, context))
            }
            _ => Ok(()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

const LOGIN_TIME_MAX: Duration = Duration::from_secs(3600);
