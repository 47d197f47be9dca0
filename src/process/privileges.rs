//! Who the server is when it serves: names are resolved at start, and given up are, in this order, the root of the file
//! system, the supplementary groups, the group, the user, and every way back.
//!
//! What is bound and opened before stays open: low ports, the log. Unix sockets are made for the new user already (their
//! own `owner` and `group` come first), the log file is given to it, so that it can be written to and opened again; the
//! pid file stays with who started the server, unlike in Net::Server, since whoever can write it decides which process
//! root's `--stop` ends. Every step that fails is fatal. Afterwards all of it is looked at again, and getting root back is
//! tried, which must fail.

use std::path::PathBuf;

use crate::config::{ListenAddr, ListenAt, ProcessConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::logging::Logger;
use crate::sys;
use crate::sys::daemon as os;

/// What is to change, resolved while the system's tables can be read.
#[derive(Debug)]
pub(super) struct Privileges {
    chroot: Option<PathBuf>,
    /// None: the process is what it should be.
    change: Option<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    /// None: only the groups change.
    uid: Option<u32>,
    gid: u32,
    /// Sorted; `gid` is one of them.
    groups: Vec<u32>,
}

impl Privileges {
    /// Looks up what `config` names.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: no such user, group or directory; or another user is asked for, and this one is not root.
    pub(super) fn resolve(config: &ProcessConfig) -> Result<Self> {
        let is_root = os::effective_user() == 0;
        if let Some(path) = &config.chroot {
            let refuse = |why: &str| refusal(format!("chroot: {} {why}", path.display()));
            if !path.is_dir() {
                return Err(refuse("is no directory; make it, or mend the setting"));
            }
            if !is_root {
                return Err(refuse("can be made the root by root only; start it as root, or leave it out"));
            }
        }
        let wanted = wanted(config)?;
        let change = match wanted {
            Some(change) if is_root => Some(change),
            Some(change) if !is_already(&change)? => return Err(only_root(&change)),
            _ => None,
        };
        Ok(Self { chroot: config.chroot.clone(), change })
    }

    /// The listeners as they are to be opened: a Unix socket belongs to the new user and group where its own settings do
    /// not say otherwise.
    pub(super) fn own_sockets(&self, listen: &[ListenAt]) -> Vec<ListenAt> {
        let mut listen = listen.to_vec();
        let Some(change) = &self.change else { return listen };
        for at in &mut listen {
            if let ListenAddr::Unix { owner, group, .. } = &mut at.addr {
                let uid = change.uid.map(|uid| uid.to_string());
                *owner = owner.take().or(uid);
                group.get_or_insert_with(|| change.gid.to_string());
            }
        }
        listen
    }

    /// Gives everything up, for good; warns of what remains to be warned of.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] or [`ErrorKind::Config`]: the server must not go on, whatever it is by now.
    pub(super) fn give_up(&self, log: Option<&Logger>) -> Result<()> {
        if let Some(change) = &self.change {
            give_log(change, log)?;
        }
        // A chroot hides the names.
        let shown = self.change.as_ref().map(|change| {
            let user = os::user_name(change.uid.unwrap_or_else(os::effective_user));
            format!("{user}, group {}", os::group_name(change.gid))
        });
        // The log's thread is made again afterwards: what is given up for one thread is inherited only from here on.
        let stopped = log.map(|log| log.stop(LOG_STOP));
        let done = self.give_up_all();
        if let (Some(log), Some(_)) = (log, stopped) {
            log.resume();
        }
        done?;
        if let Some(shown) = shown {
            log::info!("serving as {shown}");
        }
        if os::effective_user() == 0 {
            log::warn!("serving as root: set `user`, so that a fault costs less");
        }
        Ok(())
    }

    fn give_up_all(&self) -> Result<()> {
        if let Some(path) = &self.chroot {
            let what = format!("cannot make {} the root", path.display());
            os::change_root(path).map_err(|cause| Error::with_source(ErrorKind::Io, what, cause))?;
        }
        let Some(change) = &self.change else { return Ok(()) };
        let failed = |what: &'static str| move |cause| Error::with_source(ErrorKind::Io, what, cause);
        os::set_groups(&change.groups).map_err(failed("cannot give up the supplementary groups"))?;
        os::set_group(change.gid).map_err(failed("cannot change the group"))?;
        if let Some(uid) = change.uid {
            os::set_user(uid).map_err(failed("cannot change the user"))?;
        }
        verify(change)?;
        os::no_new_privileges().map_err(failed("cannot rule out new privileges"))
    }
}

/// The user and groups that `config` asks for.
fn wanted(config: &ProcessConfig) -> Result<Option<Change>> {
    let unknown = |key: &str, cause| Error::with_source(ErrorKind::Config, key, cause);
    let account = config.user.as_deref().map(os::account).transpose();
    let account = account.map_err(|cause| unknown("user", cause))?;
    let words = config.group.as_deref().unwrap_or_default().split([',', ' ', '\t']);
    let listed = words.filter(|word| !word.is_empty()).map(sys::group_id).collect::<Result<Vec<u32>, _>>();
    let listed = listed.map_err(|cause| unknown("group", cause))?;
    let gid = match (listed.first(), &account) {
        (Some(gid), _) => *gid,
        (None, None) => return Ok(None),
        (None, Some(account)) => account.gid.ok_or_else(|| {
            refusal(format!(
                "user: {} has no entry in the system, so its group is unknown; set `group`",
                account.uid
            ))
        })?,
    };
    let mut groups = listed;
    groups.push(gid);
    if let Some(account) = &account {
        let more = account.groups(gid);
        groups.extend(more.map_err(|cause| unknown("user: its groups cannot be read", cause))?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(Some(Change { uid: account.map(|account| account.uid), gid, groups }))
}

/// Whether the process has that user and group already. Supplementary groups it cannot change.
fn is_already(change: &Change) -> Result<bool> {
    let (users, groups) = ids()?;
    Ok(change.uid.is_none_or(|uid| users.all(uid)) && groups.all(change.gid))
}

fn only_root(change: &Change) -> Error {
    let group = os::group_name(change.gid);
    let (key, whom) = match change.uid.map(os::user_name) {
        Some(user) => ("user", format!("{user}, group {group},")),
        None => ("group", format!("group {group}")),
    };
    let own = os::user_name(os::effective_user());
    refusal(format!(
        "{key}: only root can become {whom} and this is {own}; start it as root, or as that user"
    ))
}

/// Gives the log to the new user.
fn give_log(change: &Change, log: Option<&Logger>) -> Result<()> {
    let Some(log) = log else { return Ok(()) };
    let given = log.give_to(change.uid, Some(change.gid)).map_err(|cause| {
        Error::with_source(ErrorKind::Io, "cannot give the log file to the new user", cause)
    })?;
    if !given {
        log::warn!(
            "the log file has another name or is behind a link; it stays as it is, and cannot be reopened"
        );
    }
    Ok(())
}

/// Looks whether the process is what it should be, and cannot go back.
fn verify(change: &Change) -> Result<()> {
    let (users, groups) = ids()?;
    let wrong = |what: &str| Err(Error::new(ErrorKind::Io, format!("privileges are not given up: {what}")));
    if !groups.all(change.gid) {
        return wrong("the group is another one");
    }
    let found = os::groups().map_err(no_ids)?;
    // The system may leave out the group that the process has anyway.
    if found.iter().any(|group| !change.groups.contains(group)) {
        return wrong("there are other supplementary groups");
    }
    let Some(uid) = change.uid else { return Ok(()) };
    if !users.all(uid) {
        return wrong("the user is another one");
    }
    if uid == 0 {
        return Ok(());
    }
    if os::becomes_root() || (!change.groups.contains(&0) && os::becomes_root_group()) {
        return wrong("the process can become root again");
    }
    Ok(())
}

fn ids() -> Result<(os::Ids, os::Ids)> {
    Ok((os::user_ids().map_err(no_ids)?, os::group_ids().map_err(no_ids)?))
}

fn no_ids(cause: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Io, "cannot tell which user this is", cause)
}

fn refusal(what: String) -> Error {
    Error::new(ErrorKind::Config, what)
}

/// For what is still to be logged before the change.
const LOG_STOP: std::time::Duration = std::time::Duration::from_secs(1);
