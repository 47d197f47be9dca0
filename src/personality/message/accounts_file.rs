//! The file of accounts: TOML, read strictly, all mistakes at once with their places.
//!
//! It is opened once, and looked at by its descriptor before it is read; a link to it is followed, since what is believed
//! is the file and not its name. No message shows a password or a token, nor what stands where one of them belongs. Nothing
//! changes until all of it has been read: see [`AccountsDatabase::replace_file_accounts`](super::AccountsDatabase::replace_file_accounts).

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::account::NAME_MAX_BYTES;
use super::credential::Credential;
use super::rights::{RightNames, Rights};
use crate::config::file;
use crate::config::node::{At, Entry, Kind, Mistakes, Node, hint};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::daemon::{effective_user, user_name};
use crate::sys::directory::check_way;

/// What a file of accounts says, before it counts.
///
/// ```toml
/// [accounts.alice]
/// password = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$…"   # as `hash_password` gives it
/// rights = "get,exit"                                          # all, if it is left out
///
/// [accounts.deployer]
/// token = "blake2b:…:…"                                        # as `Credential::encoded` gives it
/// ```
pub struct AccountsFile {
    pub(super) accounts: Vec<(Box<[u8]>, Credential, Rights)>,
}

impl AccountsFile {
    /// Reads the file at `path`, of at most 1 MiB. It must belong to this user or root, be writable for nobody else, and not
    /// be readable for everybody. The directories that lead to it must be this user's or root's, and writable for nobody else
    /// unless they are sticky: who can rename one could put an older file back.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: it cannot be opened or believed, or has mistakes: each is a line with its place and its remedy.
    pub fn read(path: &Path, names: &RightNames) -> Result<Self> {
        let refuse = |why: String| Error::new(ErrorKind::Config, why);
        let file = open(path).map_err(refuse)?;
        let text = Zeroizing::new(file::read_open(&file, path).map_err(refuse)?);
        let mut mistakes = Mistakes::default();
        let mut accounts = Vec::new();
        let mut found = false;
        match file::parse(&path.to_string_lossy(), &text) {
            Ok(entries) => found = read_top(&entries, names, &mut accounts, &mut mistakes),
            Err((at, what)) => mistakes.add("", &at, what),
        }
        mistakes.into_result()?;
        // A file that is being written is empty at first, and would lock everybody out.
        if !found {
            return Err(refuse(format!(
                "{}: it has no table [accounts]; with an empty one nobody can log in",
                path.display()
            )));
        }
        Ok(Self { accounts })
    }

    /// How many accounts it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

/// Names and rights only.
impl fmt::Debug for AccountsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.accounts.iter().map(|(name, _, rights)| (name.escape_ascii().to_string(), rights));
        f.debug_map().entries(shown).finish()
    }
}

/// Opens the file, if it can be believed and is nobody else's business.
fn open(path: &Path) -> Result<File, String> {
    // A pipe that nobody writes to would stop us here.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let refuse = |why: String| format!("the file of accounts {}: {why}", path.display());
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|cause| {
        let remedy = match cause.kind() {
            io::ErrorKind::NotFound => "; make it, or name another one",
            io::ErrorKind::PermissionDenied => "; let this user read it",
            _ => "",
        };
        refuse(format!("{cause}{remedy}"))
    })?;
    let found = file.metadata().map_err(|cause| refuse(cause.to_string()))?;
    if let Some(why) = objection(&found, effective_user()) {
        return Err(refuse(why));
    }
    let path = std::path::absolute(path).and_then(|path| check_way(&path));
    path.map_err(|cause| refuse(cause.to_string()))?;
    Ok(file)
}

/// Why user `own` had better not believe it.
fn objection(found: &Metadata, own: u32) -> Option<String> {
    let mode = found.mode() & 0o7777;
    if !found.is_file() {
        Some("it is no regular file".to_owned())
    } else if found.uid() != own && found.uid() != 0 {
        let trusted = if own == 0 { String::new() } else { format!(" or {}", user_name(own)) };
        let owner = user_name(found.uid());
        Some(format!("it belongs to {owner}, who could let anybody in; chown it to root{trusted}"))
    } else if mode & 0o022 != 0 {
        Some(format!("others than its owner can write it (mode {mode:04o}); chmod 640 it"))
    } else if mode & 0o004 != 0 {
        Some(format!("everybody can read it and try passwords at home (mode {mode:04o}); chmod 640 it"))
    } else {
        None
    }
}

type Accounts = Vec<(Box<[u8]>, Credential, Rights)>;

/// Whether the table of accounts is there.
fn read_top(entries: &[Entry], names: &RightNames, accounts: &mut Accounts, mistakes: &mut Mistakes) -> bool {
    let mut found = false;
    for Entry { key, at, node } in entries {
        match &node.kind {
            Kind::Table(tables) if key == TABLE => {
                found = true;
                for entry in tables {
                    accounts.extend(read_account(entry, names, mistakes));
                }
            }
            _ if key == TABLE => {
                found = true;
                mistakes.add(TABLE, at, "it is no table; write [accounts.NAME]");
            }
            _ => unknown(key, at, &[TABLE], mistakes),
        }
    }
    found
}

fn read_account(
    entry: &Entry,
    names: &RightNames,
    mistakes: &mut Mistakes,
) -> Option<(Box<[u8]>, Credential, Rights)> {
    let shown: String = entry.key.chars().take(NAME_MAX_BYTES).collect();
    let account = format!("{TABLE}.{}", shown.escape_debug());
    if entry.key.len() > NAME_MAX_BYTES {
        mistakes.add(&account, &entry.at, format!("a name has at most {NAME_MAX_BYTES} bytes"));
        return None;
    }
    let Kind::Table(settings) = &entry.node.kind else {
        mistakes.add(&account, &entry.at, "it is no table; write [accounts.NAME]");
        return None;
    };
    let mut credentials = Vec::new();
    let mut rights = Some(Rights::ALL);
    for Entry { key, at, node } in settings {
        let read = match key.as_str() {
            "password" => password(text(node)).map(|credential| credentials.push(Some(credential))),
            "token" => token(text(node)).map(|credential| credentials.push(Some(credential))),
            "rights" => read_rights(node, names).map(|read| rights = Some(read)),
            _ => {
                unknown(key, at, &SETTINGS, mistakes);
                continue;
            }
        };
        if let Err(why) = read {
            mistakes.add(&format!("{account}.{key}"), &node.at, why);
            match key.as_str() {
                "rights" => rights = None,
                _ => credentials.push(None),
            }
        }
    }
    if credentials.len() != 1 {
        mistakes.add(&account, &entry.at, "it needs a password or a token, and one only");
        return None;
    }
    Some((entry.key.as_bytes().into(), credentials.pop()??, rights?))
}

/// The hash of a password; what is none is not shown, as it may be one. None: it is not even text.
pub(super) fn password(text: Option<&str>) -> Result<Credential, String> {
    let read = text.map(Credential::from_phc);
    explained(read, "put the output of `hash_password` here, never the password itself")
}

/// The same for a token.
pub(super) fn token(text: Option<&str>) -> Result<Credential, String> {
    let read = text.map(Credential::from_digest);
    explained(read, "put the output of `Credential::encoded` here, never the token itself")
}

fn explained(read: Option<Result<Credential>>, remedy: &str) -> Result<Credential, String> {
    match read {
        Some(read) => read.map_err(|cause| format!("{cause}; {remedy}")),
        None => Err(format!("it is not text; {remedy}")),
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    }
}

fn read_rights(node: &Node, names: &RightNames) -> Result<Rights, String> {
    let Some(text) = text(node) else {
        return Err("it is not text; write names with commas between them: \"get,exit\"".to_owned());
    };
    names.parse(text).map_err(|cause| cause.to_string())
}

/// Whether it is the hash of a password, with less work than the least that OWASP's "Password Storage Cheat Sheet" has for
/// argon2id: 7 MiB and five passes, or more memory and fewer.
pub(super) fn is_weak(credential: &Credential) -> bool {
    credential.work().is_some_and(|work| {
        work.memory_kib < WEAK_MEMORY_KIB || work.blocks() < u64::from(WEAK_MEMORY_KIB) * WEAK_PASSES
    })
}

fn unknown(key: &str, at: &At, known: &[&str], mistakes: &mut Mistakes) {
    let shown: String = key.chars().take(NAME_MAX_BYTES).collect();
    let hint = hint(key, known.iter().copied());
    mistakes.add("", at, format!("unknown key `{}`{hint}", shown.escape_debug()));
}

const TABLE: &str = "accounts";
const WEAK_MEMORY_KIB: u32 = 7 * 1024;
const WEAK_PASSES: u64 = 5;
pub(super) const SETTINGS: [&str; 3] = ["password", "token", "rights"];

#[cfg(test)]
mod tests;
