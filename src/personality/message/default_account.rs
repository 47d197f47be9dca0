//! The account that a server makes for the programs of its own user: a random token, in a file that only that user reads.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::account::Account;
use super::credential::Credential;
use super::database::AccountsDatabase;
use super::rights::Rights;
use super::secret::fill_random;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::directory::Directory;

impl AccountsDatabase {
    /// Adds an account with a new random token of 100 bytes, and writes the token to the file `<name>.secret` in
    /// `directory`, from where a client of the same user reads it, all bytes as they are. Gives the account and the path.
    /// What was at that path is replaced at once; an account of the same name is replaced after that.
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
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(plain) {
            let shown: String = name.chars().take(NAME_MAX_BYTES).collect();
            let why = "the name of its file has 1 to 100 characters of a-z, A-Z, 0-9, _ and -";
            let what = format!("cannot make the account `{}`: {why}", shown.escape_debug());
            return Err(Error::new(ErrorKind::Config, what));
        }
        let mut token = Zeroizing::new([0; TOKEN_BYTES]);
        fill_random(&mut *token)?;
        let credential = Credential::token(&*token)?;
        let file = format!("{name}.secret");
        let failed = |cause: std::io::Error| {
            let kind = if cause.kind() == std::io::ErrorKind::PermissionDenied {
                ErrorKind::Config
            } else {
                ErrorKind::Io
            };
            Error::with_source(kind, format!("cannot write {file} in {}", directory.display()), cause)
        };
        Directory::open(directory)
            .and_then(|opened| opened.put(OsStr::new(&file), &*token))
            .map_err(failed)?;
        Ok((self.add(name.as_bytes(), credential, rights), directory.join(&file)))
    }
}

/// As long as the protocol lets a user name be.
pub(super) const NAME_MAX_BYTES: usize = 100;
/// As long as the protocol lets a password be.
const TOKEN_BYTES: usize = 100;

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
