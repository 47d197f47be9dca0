//! What makes a process a daemon: its user, root, session, streams and umask, and the lock that keeps a second one away.
//!
//! Thin calls, one system call each as a rule; what they are for, and in which order, is `process`'s business. Only there
//! with the feature `daemon`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::FlockArg;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{self, Gid, Group, Uid, User};

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    /// Its primary group; `None` for a number that the system has no name for.
    pub(crate) gid: Option<u32>,
    name: Option<CString>,
}

impl Account {
    /// The groups that a process of this user has beside its group `gid`, with that one; only `gid` for a number without
    /// a name.
    ///
    /// # Errors
    /// Whatever the look-up fails with.
    pub(crate) fn groups(&self, gid: u32) -> io::Result<Vec<u32>> {
        match &self.name {
            Some(name) => groups_of(name, Gid::from_raw(gid)),
            None => Ok(vec![gid]),
        }
    }
}

/// Real, effective and saved ids of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
}

impl Ids {
    /// Whether all three are `id`.
    pub(crate) fn all(self, id: u32) -> bool {
        [self.real, self.effective, self.saved] == [id; 3]
    }
}

/// The user called `name_or_number`, found as [`user_id`](super::user_id) finds it. Reads the system's tables, which a
/// chroot hides.
///
/// # Errors
/// As [`user_id`](super::user_id).
pub(crate) fn account(name_or_number: &str) -> io::Result<Account> {
    let uid = super::user_id(name_or_number)?;
    let user = match User::from_name(name_or_number)? {
        Some(user) => Some(user),
        None => User::from_uid(Uid::from_raw(uid))?,
    };
    Ok(match user {
        Some(user) => Account { uid, gid: Some(user.gid.as_raw()), name: Some(CString::new(user.name)?) },
        None => Account { uid, gid: None, name: None },
    })
}

#[cfg(not(target_vendor = "apple"))]
fn groups_of(name: &CStr, gid: Gid) -> io::Result<Vec<u32>> {
    Ok(unistd::getgrouplist(name, gid)?.into_iter().map(Gid::as_raw).collect())
}

/// Where the list cannot be had: that group alone.
#[cfg(target_vendor = "apple")]
fn groups_of(_name: &CStr, gid: Gid) -> io::Result<Vec<u32>> {
    Ok(vec![gid.as_raw()])
}

/// What a user is called, for messages: its name, or its number where it has none.
pub(crate) fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// The same of a group.
pub(crate) fn group_name(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or_else(|| gid.to_string(), |group| group.name)
}

/// The user whose rights this process has.
pub(crate) fn effective_user() -> u32 {
    unistd::geteuid().as_raw()
}

/// The user ids of this process.
///
/// # Errors
/// None in practice.
pub(crate) fn user_ids() -> io::Result<Ids> {
    #[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
    {
        let ids = unistd::getresuid()?;
        Ok(Ids { real: ids.real.as_raw(), effective: ids.effective.as_raw(), saved: ids.saved.as_raw() })
    }
    #[cfg(any(target_vendor = "apple", target_os = "netbsd"))]
    {
        let effective = unistd::geteuid().as_raw();
        Ok(Ids { real: unistd::getuid().as_raw(), effective, saved: effective })
    }
}

/// The group ids of this process.
///
/// # Errors
/// None in practice.
pub(crate) fn group_ids() -> io::Result<Ids> {
    #[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
    {
        let ids = unistd::getresgid()?;
        Ok(Ids { real: ids.real.as_raw(), effective: ids.effective.as_raw(), saved: ids.saved.as_raw() })
    }
    #[cfg(any(target_vendor = "apple", target_os = "netbsd"))]
    {
        let effective = unistd::getegid().as_raw();
        Ok(Ids { real: unistd::getgid().as_raw(), effective, saved: effective })
    }
}

/// The supplementary groups of this process, in order, each once.
///
/// # Errors
/// None in practice.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn groups() -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = unistd::getgroups()?.into_iter().map(Gid::as_raw).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// Replaces the supplementary groups of this process, all threads of it.
///
/// # Errors
/// `EPERM` for anybody but root; `EINVAL` for more than the system takes.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    Ok(unistd::setgroups(&groups)?)
}

/// The same where the system's directory service has them, and not the process.
#[cfg(target_vendor = "apple")]
pub(crate) fn groups() -> io::Result<Vec<u32>> {
    Ok(Vec::new())
}

/// The same where it cannot be done.
///
/// # Errors
/// `Unsupported`, always.
#[cfg(target_vendor = "apple")]
pub(crate) fn set_groups(_groups: &[u32]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sets the real, effective and saved group of this process, all threads of it.
///
/// # Errors
/// `EPERM` for a group that it may not have.
pub(crate) fn set_group(gid: u32) -> io::Result<()> {
    let gid = Gid::from_raw(gid);
    #[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
    unistd::setresgid(gid, gid, gid)?;
    // For root this sets all three.
    #[cfg(any(target_vendor = "apple", target_os = "netbsd"))]
    unistd::setgid(gid)?;
    Ok(())
}

/// Sets the real, effective and saved user of this process, all threads of it.
///
/// # Errors
/// `EPERM` for a user that it may not become; `EAGAIN` when the user has too many processes.
pub(crate) fn set_user(uid: u32) -> io::Result<()> {
    let uid = Uid::from_raw(uid);
    #[cfg(not(any(target_vendor = "apple", target_os = "netbsd")))]
    unistd::setresuid(uid, uid, uid)?;
    #[cfg(any(target_vendor = "apple", target_os = "netbsd"))]
    unistd::setuid(uid)?;
    Ok(())
}

/// Whether this process can make itself root. If so, it is root now.
pub(crate) fn becomes_root() -> bool {
    let root = Uid::from_raw(0);
    unistd::seteuid(root).is_ok() || unistd::setuid(root).is_ok()
}

/// Whether this process can make root's group its own. If so, it has it now.
pub(crate) fn becomes_root_group() -> bool {
    let root = Gid::from_raw(0);
    unistd::setegid(root).is_ok() || unistd::setgid(root).is_ok()
}

/// From now on no program that is started from this thread or from a later one gets rights that this process does not
/// have, as from a set-user-id bit (`PR_SET_NO_NEW_PRIVS`). Elsewhere than on Linux nothing happens.
///
/// # Errors
/// `EINVAL` before Linux 3.5.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

/// Makes `path` the root of this process, and its working directory.
///
/// # Errors
/// `EPERM` for anybody but root; what a missing directory is answered with.
pub(crate) fn change_root(path: &Path) -> io::Result<()> {
    unistd::chroot(path)?;
    // Without this the old root could still be reached through the working directory.
    std::env::set_current_dir("/")
}

/// Sets the permission bits that new files do not get; of the whole process.
pub(crate) fn set_umask(mask: u32) {
    // 9 bits: no truncation where a mode has 16.
    #[allow(clippy::unnecessary_cast, reason = "a mode has 16 bits on some systems")]
    let _before = nix::sys::stat::umask(Mode::from_bits_truncate(mask as _));
}

/// Leaves the terminal: a session and a process group of its own (`setsid(2)`).
///
/// # Errors
/// `EPERM` for one that leads a process group; a child just forked never does.
pub(crate) fn new_session() -> io::Result<()> {
    unistd::setsid()?;
    Ok(())
}

/// Lets every signal through to this thread.
pub(crate) fn unblock_signals() {
    // It fails only for an operation that does not exist.
    let _ = SigSet::empty().thread_set_mask();
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Input,
    Output,
    Error,
}

/// Puts `file` in the place of a standard stream (`dup2(2)`).
///
/// # Errors
/// None in practice.
pub(crate) fn redirect(stream: Stream, file: impl AsFd) -> io::Result<()> {
    match stream {
        Stream::Input => unistd::dup2_stdin(file)?,
        Stream::Output => unistd::dup2_stdout(file)?,
        Stream::Error => unistd::dup2_stderr(file)?,
    }
    Ok(())
}

/// How a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// By one description alone.
    Exclusive,
    /// By any number that are content with that.
    Shared,
    /// Not any more.
    Open,
}

/// Locks the description behind `file` (`flock(2)`) without waiting; false when somebody else's lock is in the way. The lock
/// stays through an exec and in a fork, until every descriptor of the description is closed.
///
/// # Errors
/// `ENOLCK`, no memory for it; a file system without locks.
// nix's other form unlocks when it is dropped, for everybody who shares the description.
#[allow(deprecated, reason = "the lock must outlive the value: it is handed to other images of the program")]
pub(crate) fn lock(file: &File, how: Lock) -> io::Result<bool> {
    let how = match how {
        Lock::Exclusive => FlockArg::LockExclusiveNonblock,
        Lock::Shared => FlockArg::LockSharedNonblock,
        Lock::Open => FlockArg::Unlock,
    };
    loop {
        match nix::fcntl::flock(file.as_raw_fd(), how) {
            Ok(()) => return Ok(true),
            Err(Errno::EWOULDBLOCK) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_an_account_with_a_group_and_a_number_without_a_name_is_one_without() {
        let root = account("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, Some(0)));
        assert!(root.groups(0).unwrap().contains(&0), "{root:?}");
        assert!(root.groups(77).unwrap().contains(&77), "{root:?}");
        assert_eq!(account("0").unwrap(), root);
        let nobody = account("1234567890").unwrap();
        assert_eq!(nobody, Account { uid: 1_234_567_890, gid: None, name: None });
        assert_eq!(nobody.groups(77).unwrap(), [77]);
        assert_eq!((user_name(0), user_name(1_234_567_890)), ("root".to_owned(), "1234567890".to_owned()));
        assert_eq!(account("no such user").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(group_name(1_234_567_890), "1234567890");
    }

    #[test]
    fn the_ids_of_a_test_are_all_the_same() {
        assert!(user_ids().unwrap().all(effective_user()));
        let group = group_ids().unwrap();
        assert!(group.all(group.real));
    }

    #[test]
    fn a_lock_keeps_other_descriptions_away_and_lets_its_own_in_again() {
        let path = std::env::temp_dir().join(format!("lineplex-lock-{}", std::process::id()));
        let [one, other] = [(), ()].map(|()| File::create(&path).unwrap());
        let same = one.try_clone().unwrap();
        assert!(lock(&one, Lock::Exclusive).unwrap());
        assert!(lock(&same, Lock::Exclusive).unwrap());
        assert!(!lock(&other, Lock::Exclusive).unwrap() && !lock(&other, Lock::Shared).unwrap());
        drop(one);
        assert!(!lock(&other, Lock::Shared).unwrap(), "the same description holds it still");
        assert!(lock(&same, Lock::Shared).unwrap());
        assert!(lock(&other, Lock::Shared).unwrap());
        assert!(!lock(&other, Lock::Exclusive).unwrap());
        drop(same);
        assert!(lock(&other, Lock::Exclusive).unwrap());
        assert!(lock(&other, Lock::Open).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
