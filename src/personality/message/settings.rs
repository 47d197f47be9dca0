//! What a configuration file says about a message server: [`Settings`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::account::NAME_MAX_BYTES;
use super::accounts_file::{self, AccountsFile, is_weak};
use super::credential::Credential;
use super::default_account::DefaultAccounts;
use super::dialect::Dialect;
use super::messages::{MessageHost, Messages, close_orphans};
use super::penalties::Penalties;
use super::rights::{RightNames, Rights};
use super::secret::harden_process;
use crate::config::{Config, ConfigBuilder, ListenAddr};
use crate::mux::Closing;
use crate::{Error, ErrorKind, Result, Room};

/// The settings of a message server, for serde: the table `[app]` of [`MessageServer`](super::MessageServer), or a table of
/// your own settings.
///
/// | key | meaning | values | default |
/// |---|---|---|---|
/// | `accounts` | who can log in: a table of [`AccountEntry`] by name | names of at most 100 bytes | empty |
/// | `accounts_file` | who can log in, see [`AccountsFile`]; relative to where the server was started | at most 1 MiB | none |
/// | `default_accounts` | a table of rights by name: accounts whose random tokens the server puts into files, see below | at most 100 | empty |
/// | `secrets_directory` | where those files are, as the serving user sees it, after `user` and `chroot` | a directory that only this user can change | none |
/// | `dialect` | see [`Dialect`] | `"classic"`, `"status"` | `"classic"` |
/// | `dialects` | a table of dialects by the names of listeners | those there are | empty |
/// | `login_seconds` | time for a login, everything together; fractions count | more than 0, at most 3600 | 2 |
/// | `logins_max` | logins under way at once; one address or user at most half, see [`Messages::set_logins_max`] | from 1 | 1024 |
/// | `refusal_seconds` | after a login until it is refused, doubled with each failure, see [`Penalties`] | at most the next | 0.1 |
/// | `refusal_max_seconds` | the longest that it is doubled to | at most 3600 | 3.2 |
/// | `hashing_jobs` | passwords that are checked at once, each with the memory of its hash: 19 MiB, at most 256 | 1 to 64; no use above `offload_threads` | 2 |
/// | `request_max_bytes` | longest request | 1 to 65,535 | 65,535 |
/// | `allow_plaintext` | passwords may cross a network that others can listen to | | false |
/// | `core_dumps` | the process may be dumped and traced, its memory with what clients say | | false |
///
/// A default account `NAME` is for programs of the server's own user: its token, 100 random bytes, is the whole of the file
/// `NAME.secret`, mode 0600, in `secrets_directory`. It is made when the server starts, after it has become the user that
/// serves and before it serves anybody; it stays the same in a restart (SIGHUP); and it is gone when the server stops. A file
/// that a restart does not find as it was left is made anew, with a warning. Passenger's own was `_passenger-status` with the
/// three `inspect` rights.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// See the table.
    pub accounts: BTreeMap<String, AccountEntry>,
    /// See the table.
    pub accounts_file: Option<String>,
    /// See the table.
    pub default_accounts: BTreeMap<String, String>,
    /// See the table.
    pub secrets_directory: Option<String>,
    /// See the table.
    pub dialect: Dialect,
    /// See the table.
    pub dialects: BTreeMap<String, Dialect>,
    /// See the table.
    #[serde(deserialize_with = "login_seconds")]
    pub login_seconds: f64,
    /// See the table.
    #[serde(deserialize_with = "logins_max")]
    pub logins_max: usize,
    /// See the table.
    #[serde(deserialize_with = "refusal_seconds")]
    pub refusal_seconds: f64,
    /// See the table.
    #[serde(deserialize_with = "refusal_seconds")]
    pub refusal_max_seconds: f64,
    /// See the table.
    #[serde(deserialize_with = "hashing_jobs")]
    pub hashing_jobs: usize,
    /// See the table.
    #[serde(deserialize_with = "request_max_bytes")]
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
            default_accounts: BTreeMap::new(),
            secrets_directory: None,
            dialect: Dialect::default(),
            dialects: BTreeMap::new(),
            login_seconds: 2.0,
            logins_max: 1024,
            refusal_seconds: 0.1,
            refusal_max_seconds: 3.2,
            hashing_jobs: 2,
            request_max_bytes: REQUEST_MAX_BYTES,
            allow_plaintext: false,
            core_dumps: false,
        }
    }
}

/// One account in a configuration: `password` or `token`, one of them, and `rights`. Neither is the secret itself: the first
/// is what [`hash_password`](super::hash_password) gives, the second what [`Credential::encoded`] gives of a random token.
#[derive(Clone, Debug)]
pub struct AccountEntry {
    /// Read from either of them.
    pub credential: Credential,
    /// As [`RightNames::parse`] reads them; without the key: all.
    pub rights: Option<String>,
}

impl<'de> Deserialize<'de> for AccountEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Seen::Table(written) = from.deserialize_struct("account", &accounts_file::SETTINGS, Unshown)?
        else {
            return Err(de::Error::custom("it is no table; write [accounts.NAME]"));
        };
        match (written.password, written.token) {
            (Some(credential), None) | (None, Some(credential)) => {
                Ok(Self { credential, rights: written.rights })
            }
            _ => Err(de::Error::custom("it needs a password or a token, and one only")),
        }
    }
}

/// An account as it is written.
#[derive(Deserialize)]
struct Written {
    #[serde(default, deserialize_with = "password")]
    password: Option<Credential>,
    #[serde(default, deserialize_with = "token")]
    token: Option<Credential>,
    rights: Option<String>,
}

impl Settings {
    /// Declares the settings as options of the command line, and has Unix sockets be their owner's alone (mode 0700) unless a
    /// listener says otherwise (`mode = 0o1777` is the original's); for `configure_hook`.
    pub fn declare(config: &mut ConfigBuilder) {
        config.unix_mode_default(0o700);
        config.app_option("accounts_file", "FILE", "who can log in");
        config.app_option("secrets_directory", "DIRECTORY", "where the tokens of default_accounts are");
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
    /// [`ErrorKind::Config`]: a value is out of its bounds, a dialect is for a listener that is not there, a password would
    /// cross a network in the clear, or the accounts have mistakes.
    pub fn apply(&self, messages: &mut Messages, names: &RightNames, config: &Config) -> Result<()> {
        messages
            .set_login_timeout(login_time(self.login_seconds).map_err(|what| refuse("login_seconds", what))?);
        between(self.hashing_jobs, HASHING_JOBS_MAX).map_err(|what| refuse("hashing_jobs", what))?;
        between(self.request_max_bytes, REQUEST_MAX_BYTES)
            .map_err(|what| refuse("request_max_bytes", what))?;
        self.bound_logins(messages)?;
        messages.set_hashing_jobs(self.hashing_jobs).set_request_max_bytes(self.request_max_bytes);
        messages.set_dialect(self.dialect);
        messages.dialects.clear();
        for (listener, dialect) in &self.dialects {
            if !config.listen.iter().any(|at| at.name == *listener) {
                let known: Vec<String> = config.listen.iter().map(|at| format!("`{}`", at.name)).collect();
                let listener = listener.escape_debug();
                return Err(refuse(
                    "dialects",
                    format!("no listener is called `{listener}`; there is {}", known.join(", ")),
                ));
            }
            messages.set_dialect_of(listener.clone(), *dialect);
        }
        self.refuse_plaintext(config)?;
        self.read_accounts(messages, names, config)?;
        messages.defaults = self.defaults(names, config)?;
        if config.restarted() {
            let renewed = messages.defaults.take_up(&messages.accounts)?;
            for why in renewed.iter().filter(|_| !config.probing()) {
                log::warn!("{}; it is made anew", why.chain());
            }
        }
        Ok(())
    }

    /// Who gets a place to log in, and what a failure costs.
    fn bound_logins(&self, messages: &mut Messages) -> Result<()> {
        logins(self.logins_max).map_err(|what| refuse("logins_max", what))?;
        let first = refusal_time(self.refusal_seconds).map_err(|what| refuse("refusal_seconds", what))?;
        let most =
            refusal_time(self.refusal_max_seconds).map_err(|what| refuse("refusal_max_seconds", what))?;
        if first > most {
            let (first, most) = (self.refusal_seconds, self.refusal_max_seconds);
            let what = format!("{most} is less than refusal_seconds, which is {first}; set both");
            return Err(refuse("refusal_max_seconds", what));
        }
        messages.set_logins_max(self.logins_max).set_penalties(Penalties::new(first, most));
        Ok(())
    }

    /// The last that is to be done before anybody is served: the process is closed to debuggers unless `core_dumps` says
    /// otherwise ([`harden_process`]), the default accounts get their files, and clients whose account is gone since a
    /// restart are closed ([`close_orphans`]); for `pre_loop_hook`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: others can change the directory for secrets. [`ErrorKind::Io`]: a file cannot be written, or
    /// the system refuses.
    pub fn begin<S: MessageHost>(&self, messages: &mut Messages, room: &mut Room<'_, S>) -> Result<()> {
        if !self.core_dumps {
            harden_process()?;
        }
        messages.defaults.make(&messages.accounts)?;
        if messages.accounts.is_empty() {
            log::warn!("there are no accounts: nobody can log in; set accounts_file");
        }
        close_orphans(room, &messages.accounts);
        Ok(())
    }

    /// Takes the accounts of a configuration that was read again, all or none ([`read_accounts`](Self::read_accounts)), and
    /// closes the clients whose account is gone; for `reload_hook`. All else needs a restart: the default accounts too.
    ///
    /// # Errors
    /// As [`read_accounts`](Self::read_accounts).
    pub fn reload<S: MessageHost>(
        &self,
        messages: &mut Messages,
        names: &RightNames,
        room: &mut Room<'_, S>,
        config: &Config,
    ) -> Result<()> {
        self.read_accounts(messages, names, config)?;
        close_orphans(room, &messages.accounts);
        Ok(())
    }

    /// Removes the files of the default accounts if this is the end; for `pre_server_close_hook`.
    pub fn end(messages: &mut Messages, closing: Closing) {
        if closing == Closing::Stop {
            messages.defaults.remove();
        }
    }

    /// Takes the accounts of the settings and of the accounts file, all or none: those that were listed there before and are
    /// not any more are removed, those that were added by the program stay. Nobody is closed: see [`reload`](Self::reload).
    /// Warns of hashes that are quicker to guess than they should be.
    ///
    /// # Errors
    /// What is wrong with them; nothing is changed then.
    pub fn read_accounts(&self, messages: &mut Messages, names: &RightNames, config: &Config) -> Result<()> {
        let mut read: Vec<(Box<[u8]>, Credential, Rights)> = Vec::new();
        for (name, entry) in &self.accounts {
            let rights = self.rights_of(name, entry, names).map_err(|what| {
                let file = config.conf_file.as_ref().map(|path| format!("{}: ", path.display()));
                Error::new(ErrorKind::Config, format!("{}{what}", file.unwrap_or_default()))
            })?;
            read.push((name.as_bytes().into(), entry.credential.clone(), rights));
        }
        if let Some(path) = &self.accounts_file {
            let path = config.absolute(path).map_err(|error| refuse("accounts_file", error.chain()))?;
            for (name, credential, rights) in AccountsFile::read(&path, names)?.accounts {
                let elsewhere =
                    |name| self.accounts.contains_key(name) || self.default_accounts.contains_key(name);
                if std::str::from_utf8(&name).is_ok_and(elsewhere) {
                    let (name, path) = (name.escape_ascii(), path.display());
                    let what =
                        format!("{path}: the account {name} also stands in the configuration; remove one");
                    return Err(Error::new(ErrorKind::Config, what));
                }
                read.push((name, credential, rights));
            }
        }
        if !config.probing() {
            warn_of_weak(&read);
        }
        messages.accounts().replace_file_accounts(AccountsFile { accounts: read });
        Ok(())
    }

    fn rights_of(&self, name: &str, entry: &AccountEntry, names: &RightNames) -> Result<Rights, String> {
        let shown = name.chars().take(NAME_MAX_BYTES).collect::<String>();
        let account = format!("accounts.{}", shown.escape_debug());
        if name.len() > NAME_MAX_BYTES {
            return Err(format!("{account}: a name has at most {NAME_MAX_BYTES} bytes"));
        }
        if self.default_accounts.contains_key(name) {
            return Err(format!("{account}: it is a default account too; remove one of them"));
        }
        let rights = entry.rights.as_deref().map(|text| names.parse(text)).transpose();
        let rights = rights.map_err(|error| format!("{account}.rights: {error}"))?;
        Ok(rights.unwrap_or(Rights::ALL))
    }

    fn defaults(&self, names: &RightNames, config: &Config) -> Result<DefaultAccounts> {
        if self.default_accounts.len() > DEFAULT_ACCOUNTS_MAX {
            let count = self.default_accounts.len();
            return Err(refuse(
                "default_accounts",
                format!("{count} are too many: at most {DEFAULT_ACCOUNTS_MAX}"),
            ));
        }
        let mut wanted = Vec::new();
        for (name, rights) in &self.default_accounts {
            let rights = names.parse(rights).map_err(|error| refuse("default_accounts", error.chain()))?;
            wanted.push((name.clone(), rights));
        }
        let directory = match &self.secrets_directory {
            Some(path) => {
                config.absolute(path).map_err(|error| refuse("secrets_directory", error.chain()))?
            }
            None if wanted.is_empty() => return Ok(DefaultAccounts::default()),
            None => {
                return Err(refuse("default_accounts", "their tokens need a secrets_directory".to_owned()));
            }
        };
        DefaultAccounts::new(directory, wanted)
    }

    fn refuse_plaintext(&self, config: &Config) -> Result<()> {
        let open = config.listen.iter().find_map(|at| match &at.addr {
            ListenAddr::Tcp { host, port, .. } if !is_loopback(host) => Some(format!("{host} port {port}")),
            _ => None,
        });
        match open {
            Some(at) if !self.allow_plaintext => Err(refuse(
                "port",
                format!(
                    "passwords would come to {at} in the clear: listen on a Unix socket or on 127.0.0.1, or set \
                     allow_plaintext = true"
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn refuse(key: &str, what: String) -> Error {
    Error::new(ErrorKind::Config, format!("{key}: {what}"))
}

/// One line about all of them.
fn warn_of_weak(read: &[(Box<[u8]>, Credential, Rights)]) {
    let mut weak = read.iter().filter(|(_, credential, _)| is_weak(credential));
    let Some((first, ..)) = weak.next() else { return };
    log::warn!(
        "weak password hashes: {}, the first that of {}; whoever reads them can try passwords quickly: make them anew, with at \
         least 7 MiB (m=7168) and 35 MiB over all passes (m times t)",
        1 + weak.count(),
        first.escape_ascii()
    );
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn login_time(seconds: f64) -> Result<Duration, String> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time <= LOGIN_TIME_MAX => Ok(time),
        _ => Err(format!("{seconds} is out of range: more than 0, at most 3600 seconds")),
    }
}

fn refusal_time(seconds: f64) -> Result<Duration, String> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time <= LOGIN_TIME_MAX => Ok(time),
        _ => Err(format!("{seconds} is out of range: 0 to 3600 seconds")),
    }
}

fn logins(most: usize) -> Result<usize, String> {
    if most > 0 { Ok(most) } else { Err("with 0 nobody could log in; at least 1".to_owned()) }
}

fn between(value: usize, most: usize) -> Result<usize, String> {
    if (1..=most).contains(&value) { Ok(value) } else { Err(format!("{value} is out of range: 1 to {most}")) }
}

// Checked where they are read, so that a mistake has its place.

fn login_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let seconds = f64::deserialize(from)?;
    login_time(seconds).map_err(de::Error::custom)?;
    Ok(seconds)
}

fn logins_max<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    logins(usize::deserialize(from)?).map_err(de::Error::custom)
}

fn refusal_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let seconds = f64::deserialize(from)?;
    refusal_time(seconds).map_err(de::Error::custom)?;
    Ok(seconds)
}

fn hashing_jobs<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    between(usize::deserialize(from)?, HASHING_JOBS_MAX).map_err(de::Error::custom)
}

fn request_max_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    between(usize::deserialize(from)?, REQUEST_MAX_BYTES).map_err(de::Error::custom)
}

fn password<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Credential>, D::Error> {
    let seen = from.deserialize_str(Unshown)?;
    accounts_file::password(seen.text()).map(Some).map_err(de::Error::custom)
}

fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Credential>, D::Error> {
    let seen = from.deserialize_str(Unshown)?;
    accounts_file::token(seen.text()).map(Some).map_err(de::Error::custom)
}

/// What stands where a hash or an account belongs.
enum Seen {
    Text(Zeroizing<String>),
    Table(Box<Written>),
    Other,
}

impl Seen {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads it without complaint, since a complaint of serde would show it, and it may be a password.
struct Unshown;

impl<'de> Visitor<'de> for Unshown {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Seen, E> {
        Ok(Seen::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Seen, A::Error> {
        Written::deserialize(MapAccessDeserializer::new(entries))
            .map(|written| Seen::Table(Box::new(written)))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::Other)
    }
}

const LOGIN_TIME_MAX: Duration = Duration::from_secs(3600);
/// More than a gigabyte of memory.
const HASHING_JOBS_MAX: usize = 64;
const REQUEST_MAX_BYTES: usize = crate::codec::message::ARRAY_MAX_BYTES;
/// A file each.
const DEFAULT_ACCOUNTS_MAX: usize = 100;
