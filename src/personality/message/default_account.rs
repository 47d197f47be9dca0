//! The accounts that a server makes for the programs of its own user: random tokens, in files that only that user reads.
//!
//! A token lives as long as the server: a cold start makes a new one, a restart in place reads the file again, so that who
//! has read it before can still log in, and the stop takes the file away.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::account::{Account, NAME_MAX_BYTES, SECRET_MAX_BYTES};
use super::credential::Credential;
use super::database::AccountsDatabase;
use super::rights::Rights;
use super::secret::fill_random;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::directory::{Directory, FileId};

impl AccountsDatabase {
    /// Adds an account with a new random token of 100 bytes, and writes the token to the file `<name>.secret` in
    /// `directory`, from where a client of the same user reads it, all bytes as they are. Gives the account and the path.
    /// What was at that path is replaced at once; an account of the same name is replaced after that. A program that calls this
    /// before it runs makes a new token at every restart, and in the probe before it: a server's own are
    /// `default_accounts` of [`Settings`](super::Settings).
    ///
    /// `name` has 1 to 100 characters of letters, digits, `_` and `-`. `directory` must be this user's or root's and not
    /// writable for others, but it may be a sticky one of this user's; a link to a directory is refused. The same holds for
    /// what leads to it, where links and sticky directories of root are fine.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the name, or a directory that others could change. [`ErrorKind::Io`]: the system refuses.
    pub fn default_account(
        &self,
        directory: &Path,
        name: &str,
        rights: Rights,
    ) -> Result<(Arc<Account>, PathBuf)> {
        check_name(name)?;
        let (account, _) = self.make_default(directory, name, rights)?;
        Ok((account, directory.join(file_name(name))))
    }

    /// The same with a name that is known to be one.
    fn make_default(&self, directory: &Path, name: &str, rights: Rights) -> Result<(Arc<Account>, FileId)> {
        let mut token = Zeroizing::new([0; SECRET_MAX_BYTES]);
        fill_random(&mut *token)?;
        let credential = Credential::token(&*token)?;
        let written = Directory::open(directory).and_then(|opened| opened.put(&file_name(name), &*token));
        let id = written.map_err(|cause| failed("write", directory, name, cause))?;
        Ok((self.add(name.as_bytes(), credential, rights), id))
    }
}

/// The default accounts of a server, and what is to be done about their files.
#[derive(Debug, Default)]
pub(super) struct DefaultAccounts {
    directory: PathBuf,
    /// Those that have no file yet.
    wanted: Vec<(String, Rights)>,
    written: Vec<(String, FileId)>,
}

impl DefaultAccounts {
    /// # Errors
    /// [`ErrorKind::Config`]: a name that no file can have.
    pub(super) fn new(directory: PathBuf, wanted: Vec<(String, Rights)>) -> Result<Self> {
        wanted.iter().try_for_each(|(name, _)| check_name(name))?;
        Ok(Self { directory, wanted, written: Vec::new() })
    }

    /// After a restart, in the probe too: adds the accounts with the tokens that are in their files. Where a file is not as
    /// it was left, the account gets a token that nobody knows, so that its clients stay, until [`make`](Self::make) gives
    /// it another one; why is the answer.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], [`ErrorKind::Io`]: the directory can no longer be believed or opened.
    pub(super) fn take_up(&mut self, accounts: &AccountsDatabase) -> Result<Vec<Error>> {
        let mut renewed = Vec::new();
        for (name, rights) in std::mem::take(&mut self.wanted) {
            let refuse = |cause| failed("read", &self.directory, &name, cause);
            let directory = Directory::open(&self.directory).map_err(refuse)?;
            let mut token = Zeroizing::new([0; SECRET_MAX_BYTES]);
            let read = directory.read(&file_name(&name), &mut *token).map_err(refuse);
            if read.is_err() {
                fill_random(&mut *token)?;
            }
            accounts.add(name.as_bytes(), Credential::token(&*token)?, rights);
            match read {
                Ok(id) => self.written.push((name, id)),
                Err(error) => {
                    renewed.push(error);
                    self.wanted.push((name, rights));
                }
            }
        }
        Ok(renewed)
    }

    /// Adds the accounts that have no file yet, and writes their files.
    ///
    /// # Errors
    /// As [`AccountsDatabase::default_account`].
    pub(super) fn make(&mut self, accounts: &AccountsDatabase) -> Result<()> {
        for (name, rights) in std::mem::take(&mut self.wanted) {
            let (_, id) = accounts.make_default(&self.directory, &name, rights)?;
            log::info!(
                "the token of the account {name} is in {}",
                self.directory.join(file_name(&name)).display()
            );
            self.written.push((name, id));
        }
        Ok(())
    }

    /// Removes the files that are still those that were written.
    pub(super) fn remove(&mut self) {
        let written = std::mem::take(&mut self.written);
        let Some(directory) = (!written.is_empty()).then(|| Directory::open(&self.directory)) else { return };
        for (name, id) in written {
            // It may be gone already, as its directory may; what stays lets nobody in any more.
            let _ = directory.as_ref().map(|directory| directory.remove(&file_name(&name), id));
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.len() <= NAME_MAX_BYTES && name.bytes().all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_MAX_BYTES).collect();
    let why = "the name of its file has 1 to 100 characters of a-z, A-Z, 0-9, _ and -";
    let what = format!("cannot make the account `{}`: {why}", shown.escape_debug());
    Err(Error::new(ErrorKind::Config, what))
}

fn file_name(name: &str) -> OsString {
    format!("{name}.secret").into()
}

fn failed(verb: &str, directory: &Path, name: &str, cause: std::io::Error) -> Error {
    let kind = match cause.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::Config,
        _ => ErrorKind::Io,
    };
    let file = directory.join(file_name(name));
    Error::with_source(kind, format!("cannot {verb} {}", file.display()), cause)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn the_token_in_the_file_logs_in_and_the_one_before_and_an_empty_one_do_not() {
        let place = std::env::temp_dir().join(format!("lp-default-account-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o700)).unwrap();
        let accounts = AccountsDatabase::new();
        let (account, path) = accounts.default_account(&place, "admin", Rights::EXIT).unwrap();
        assert_eq!((account.name(), account.rights()), (&b"admin"[..], Rights::EXIT));
        assert_eq!(path, place.join("admin.secret"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let first = fs::read(&path).unwrap();
        assert_eq!(first.len(), 100);
        let logs_in = |token: &[u8]| accounts.challenge(b"admin").try_token(token).is_some();
        assert!(logs_in(&first) && !logs_in(b"") && !logs_in(&first[..99]) && !logs_in(&[0; 100]));
        accounts.default_account(&place, "admin", Rights::EXIT).unwrap();
        let second = fs::read(&path).unwrap();
        assert!(second != first && logs_in(&second) && !logs_in(&first));
        fs::set_permissions(&place, Permissions::from_mode(0o770)).unwrap();
        let error = accounts.default_account(&place, "other", Rights::EXIT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.chain().contains("0770") && accounts.get(b"other").is_none(), "{}", error.chain());
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_restart_takes_up_the_token_and_makes_another_where_the_file_is_not_as_it_was_left() {
        let place = std::env::temp_dir().join(format!("lp-default-taken-up-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o700)).unwrap();
        let defaults = || {
            let wanted = ["kept", "lost"].map(|name| (name.to_owned(), Rights::GET));
            DefaultAccounts::new(place.clone(), wanted.to_vec()).unwrap()
        };
        let token = |name: &str| fs::read(place.join(file_name(name))).unwrap();
        let mut before = defaults();
        before.make(&AccountsDatabase::new()).unwrap();
        let [kept, lost] = ["kept", "lost"].map(token);
        fs::set_permissions(place.join("lost.secret"), Permissions::from_mode(0o644)).unwrap();

        let accounts = AccountsDatabase::new();
        let logs_in =
            |name: &str, token: &[u8]| accounts.challenge(name.as_bytes()).try_token(token).is_some();
        let mut after = defaults();
        let failed = after.take_up(&accounts).unwrap();
        assert!(failed.len() == 1 && failed[0].chain().contains("lost.secret"), "{failed:?}");
        assert_eq!(accounts.list(), [b"kept", b"lost"]);
        assert!(logs_in("kept", &kept) && !logs_in("lost", &lost));
        assert_eq!(token("lost"), lost, "nothing is written yet");
        after.make(&accounts).unwrap();
        assert!(logs_in("kept", &kept) && token("kept") == kept);
        assert!(logs_in("lost", &token("lost")) && !logs_in("lost", &lost));

        before.remove();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "one that was written anew is another's");
        after.remove();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        fs::remove_dir(&place).unwrap();
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let accounts = AccountsDatabase::new();
        for name in ["", ".", "..", "a/b", "../a", "a.b", "a b", "a\0", "é", &"x".repeat(101)] {
            let error = accounts.default_account(Path::new("/nonexistent"), name, Rights::ALL).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{name:?}");
        }
        let error = accounts.default_account(Path::new("/nonexistent"), "a", Rights::ALL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(accounts.is_empty());
    }
}
