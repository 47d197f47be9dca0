//! All accounts of a server, and the question whether somebody is who they say.
//!
//! A handle that every thread may have. The lock is held for a look-up only, never for a hash, so that the loop never waits
//! long. The hash is computed by a [`Challenge`], which can go to another thread. Whether a name is known, and of which
//! kind its secret is, cannot be told from the work that a wrong secret costs, as long as all passwords are hashed with the
//! same parameters: one that is hashed with less is told "no" sooner, unless the answer is held back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::account::{Account, Origin};
use super::accounts_file::AccountsFile;
use super::credential::{Credential, Memory, Work, spend_token_check};
use super::rights::Rights;

/// The accounts that can log in. A clone is another handle to the same ones.
///
/// ```
/// use lineplex::personality::message::{AccountsDatabase, Credential, Rights};
///
/// let accounts = AccountsDatabase::new();
/// accounts.add(b"ci", Credential::token(b"c0ffee0ddba11c0ffee0ddba11")?, Rights::GET);
/// let account = accounts.authenticate(b"ci", b"c0ffee0ddba11c0ffee0ddba11").expect("it is right");
/// assert!(account.has_rights(Rights::GET));
/// assert!(accounts.authenticate(b"ci", b"").is_none());
/// # Ok::<(), lineplex::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct AccountsDatabase(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Table {
    accounts: BTreeMap<Box<[u8]>, Arc<Account>>,
    /// What the check of that password costs which costs the most; none where there are no passwords.
    work: Option<Work>,
}

impl Table {
    /// To be called after every change.
    fn weigh(&mut self) {
        let works = self.accounts.values().filter_map(|account| account.credential().work());
        self.work = works.max_by_key(|work| work.blocks());
    }
}

impl AccountsDatabase {
    /// A database without accounts: nobody can log in.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an account, in the place of one with the same name: who has logged in to that one keeps it. Wire clients send
    /// names of at most 100 bytes.
    #[allow(clippy::must_use_candidate, reason = "added is added")]
    pub fn add(&self, name: &[u8], credential: Credential, rights: Rights) -> Arc<Account> {
        let account = Arc::new(Account::new(name, credential, rights, Origin::Code));
        let mut table = self.lock();
        table.accounts.insert(name.into(), Arc::clone(&account));
        table.weigh();
        account
    }

    /// Puts the accounts of a file in the place of those that came from a file before, all at once. Those added from code
    /// stay, also where the file has the same name. An account whose secret has not changed stays the same one, with the
    /// rights of the file. Gives those that are gone, removed or with another secret: whoever is logged in as one of them
    /// keeps it, and it is for the caller to end that.
    #[allow(clippy::must_use_candidate, reason = "not everybody cares who is gone")]
    pub fn replace_file_accounts(&self, file: AccountsFile) -> Vec<Arc<Account>> {
        let mut table = self.lock();
        let old: Vec<Box<[u8]>> = table
            .accounts
            .values()
            .filter(|old| old.origin() == Origin::File)
            .map(|old| old.name().into())
            .collect();
        let mut gone: BTreeMap<_, _> =
            old.into_iter().filter_map(|name| table.accounts.remove_entry(&name)).collect();
        for (name, credential, rights) in file.accounts {
            if table.accounts.contains_key(&name) {
                log::warn!(
                    "the account {} of the file is one of the program's, which stays",
                    name.escape_ascii()
                );
                continue;
            }
            let account = match gone.remove(&name) {
                Some(old) if old.credential().is_same(&credential) => {
                    old.set_rights(rights);
                    old
                }
                other => {
                    gone.extend(other.map(|other| (name.clone(), other)));
                    Arc::new(Account::new(&name, credential, rights, Origin::File))
                }
            };
            table.accounts.insert(name, account);
        }
        table.weigh();
        gone.into_values().collect()
    }

    /// The account of that name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Arc<Account>> {
        self.lock().accounts.get(name).cloned()
    }

    /// Removes the account of that name; whether there was one. Nobody can log in to it from now on, not even whose secret
    /// is being checked; those who have logged in keep it.
    #[allow(clippy::must_use_candidate, reason = "gone is gone")]
    pub fn remove(&self, name: &[u8]) -> bool {
        let mut table = self.lock();
        let was_there = table.accounts.remove(name).is_some();
        table.weigh();
        was_there
    }

    /// Every name, sorted by its bytes.
    #[must_use]
    pub fn list(&self) -> Vec<Vec<u8>> {
        self.lock().accounts.keys().map(|name| name.to_vec()).collect()
    }

    /// How many accounts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().accounts.len()
    }

    /// Whether nobody can log in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().accounts.is_empty()
    }

    /// 0, then 1, 2 and so on: for names that do not repeat as long as this database lives.
    #[must_use = "the next one is another"]
    pub fn unique_number(&self) -> u64 {
        self.0.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The question whether somebody is `name`, which is answered by a secret; for a name that is not known as well. It is
    /// for the loop: one look-up.
    pub fn challenge(&self, name: &[u8]) -> Challenge {
        let table = self.lock();
        let account = table.accounts.get(name).cloned();
        let spent = table.work.unwrap_or(Work::DEFAULT);
        drop(table);
        Challenge { account, spent, database: self.clone() }
    }

    /// Whether `password` is the one of `name`, and then its account. This takes as long as a hash of a password: on the
    /// thread of a loop use [`AccountsDatabase::challenge`].
    #[must_use]
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<Account>> {
        self.challenge(name).verify(password)
    }

    /// Whether that account has been neither removed nor replaced.
    pub(super) fn is_current(&self, account: &Arc<Account>) -> bool {
        self.lock().accounts.get(account.name()).is_some_and(|current| Arc::ptr_eq(current, account))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic in between leaves an account more or less, and an older weight: nothing half done.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names and rights, and nothing of the secrets.
impl fmt::Debug for AccountsDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().accounts.values()).finish()
    }
}

/// The question whether somebody is who they say. It is about the account as it was when it was asked; the answer is no when
/// that is no longer the one in the database.
///
/// On a loop: [`Challenge::try_token`] first, and if that says no, [`Challenge::verify`] on another thread.
#[must_use = "it answers nothing by itself"]
pub struct Challenge {
    /// None: nobody has that name.
    account: Option<Arc<Account>>,
    /// What a wrong secret costs where there is no hash to check.
    spent: Work,
    database: AccountsDatabase,
}

impl Challenge {
    /// The account if `secret` is its token: takes about a microsecond, whatever it finds. No answer means nothing yet,
    /// neither that the secret is wrong nor that there is such an account: [`Challenge::verify`] says so.
    #[must_use]
    pub fn try_token(&self, secret: &[u8]) -> Option<Arc<Account>> {
        let Some(account) = &self.account else {
            spend_token_check(secret);
            return None;
        };
        account.credential().matches_token(secret).then(|| self.confirmed(account)).flatten()
    }

    /// The account if `secret` is its password or token. This is for another thread than the loop's: it takes some 25 ms and
    /// 19 MiB for a password and for everything that is wrong. A secret of more than
    /// [`PASSWORD_MAX_BYTES`](super::PASSWORD_MAX_BYTES) is wrong after the same work.
    #[must_use]
    pub fn verify(self, secret: &[u8]) -> Option<Arc<Account>> {
        self.verify_in(secret, &mut Memory::default())
    }

    /// The same in memory that is there.
    pub(super) fn verify_in(self, secret: &[u8], memory: &mut Memory) -> Option<Arc<Account>> {
        let Some(account) = &self.account else {
            spend_token_check(secret);
            self.spent.spend(secret, memory);
            return None;
        };
        account.credential().matches(secret, self.spent, memory).then(|| self.confirmed(account)).flatten()
    }

    /// The account, if it has been neither removed nor replaced meanwhile.
    fn confirmed(&self, account: &Arc<Account>) -> Option<Arc<Account>> {
        self.database.is_current(account).then(|| Arc::clone(account))
    }
}

/// Nothing, since even whether the name is known is nobody's business.
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
