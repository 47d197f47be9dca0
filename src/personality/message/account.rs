//! One account: a name, what proves it, and what it may do.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::credential::Credential;
use super::rights::Rights;

/// Somebody who can log in. Shared by the [`AccountsDatabase`](super::AccountsDatabase) and the clients that have logged in,
/// who keep it when it is removed there.
///
/// Name and secret are what they are; rights can be changed from any thread, and are asked for at each use.
pub struct Account {
    name: Box<[u8]>,
    credential: Credential,
    rights: AtomicU32,
    origin: Origin,
}

/// Who added an account, and so who takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Code,
    File,
}

impl Account {
    pub(super) fn new(name: &[u8], credential: Credential, rights: Rights, origin: Origin) -> Self {
        Self { name: name.into(), credential, rights: AtomicU32::new(rights.bits()), origin }
    }

    /// One that is in no database any more, for a client that has logged in to it.
    pub(super) fn gone(name: &[u8]) -> Arc<Self> {
        Arc::new(Self::new(name, Credential::of_nobody(), Rights::NONE, Origin::Code))
    }

    /// Its name: any bytes, and none at all is a name too. The protocol lets nobody log in whose name has more than 100.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What it may do now.
    #[must_use]
    pub fn rights(&self) -> Rights {
        Rights::from_bits(self.rights.load(Ordering::Acquire))
    }

    /// Says what it may do from now on, also to those who have logged in.
    pub fn set_rights(&self, rights: Rights) {
        self.rights.store(rights.bits(), Ordering::Release);
    }

    /// Whether it has all of these rights; [`Rights::NONE`] it always has.
    #[must_use]
    pub fn has_rights(&self, needed: Rights) -> bool {
        self.rights().contains(needed)
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name.escape_ascii().to_string())
            .field("credential", &self.credential)
            .field("rights", &self.rights())
            .field("origin", &self.origin)
            .finish()
    }
}

/// Longest name that a client can send, as in the original.
pub(super) const NAME_MAX_BYTES: usize = 100;
/// Longest password or token that it can send.
pub(super) const SECRET_MAX_BYTES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_can_be_changed_while_others_hold_the_account() {
        let credential = Credential::token(b"0123456789abcdef").unwrap();
        let account = Account::new(b"me", credential, Rights::GET | Rights::EXIT, Origin::Code);
        assert!(account.has_rights(Rights::GET | Rights::EXIT) && account.has_rights(Rights::NONE));
        account.set_rights(Rights::GET);
        assert!(account.has_rights(Rights::GET) && !account.has_rights(Rights::GET | Rights::EXIT));
        assert_eq!(account.rights(), Rights::GET);
    }

    #[test]
    fn debug_shows_name_and_rights_and_nothing_of_the_secret() {
        let credential = Credential::token(b"canary-canary-canary").unwrap();
        let shown = format!("{:?}", Account::new(b"me\n\xff", credential, Rights::GET, Origin::File));
        assert_eq!(
            shown,
            r#"Account { name: "me\\n\\xff", credential: Credential::Token(***), rights: Rights(get), origin: File }"#
        );
    }
}
