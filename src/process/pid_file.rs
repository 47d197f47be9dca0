//! The pid file: it says which process serves, and its lock keeps a second one away.
//!
//! What decides is the lock (`flock(2)`), held as long as the server lives and never what the file says: a number left
//! behind by a crash is overwritten, also when some other process has it by now. The lock belongs to the open
//! description, so a restart in place and its standby share it, and whoever is left at the end holds it.
//!
//! The file is never given away: it stays with the user that started the server (root, as a rule), because a program
//! of root that believes it would otherwise signal whatever process the service's user has written there. A path that
//! is a symbolic link, another name of some file, no regular file or somebody else's is refused. Readers need no lock:
//! the first line is right at every moment.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::status::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::daemon::{Lock, effective_user, lock, user_name};

/// The pid file of this process, locked, and the status file beside it, which tells of restarts.
///
/// Both stay open, so that they can be written and emptied after the user has changed. Dropping it removes neither;
/// see [`PidFile::remove`].
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
    status: File,
}

impl PidFile {
    /// Makes the file at `path` (absolute), or takes over the one that a dead server left there; locks it, and writes
    /// the number of this process. The status file is made with it. Mode 0644 whatever the umask.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: a server holds the file, with its number; or something is at one of the two paths that
    /// cannot be a pid file. [`ErrorKind::Io`]: the system refuses.
    pub(super) fn create(path: &Path) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let file = open(path)?;
            take(path, &file)?;
            // A server that ended meanwhile may have removed the file that was opened: nobody would find it.
            if Place::of(path, &file)? == Place::Elsewhere {
                continue;
            }
            let status = open_status(path).inspect_err(|_| remove_if_empty(path, &file))?;
            let made = Self { path: path.to_owned(), file, status };
            made.warn_of_stale();
            let failed = |cause| cannot(path, "cannot be written", cause);
            made.rewrite(std::process::id()).map_err(failed)?;
            made.write_status(&Status { ok: true, message: "started".to_owned(), ..Status::default() });
            return Ok(made);
        }
        Err(refusal(path, REPLACED))
    }

    /// Goes on with the files of the image before this one: two descriptors of it, open and locked. `path` as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: they are no regular files, or the lock is not ours. That the path leads elsewhere by now is
    /// only a warning: it may be hidden by a chroot.
    pub(super) fn adopt(file: OwnedFd, status: OwnedFd, path: &Path) -> Result<Self> {
        let (file, status) = (File::from(file), File::from(status));
        for file in [&file, &status] {
            let found = file.metadata().map_err(|cause| cannot(path, "cannot be looked at", cause))?;
            if !found.is_file() {
                return Err(refusal(path, "what was inherited for it is no regular file"));
            }
        }
        if !lock(&file, Lock::Exclusive).map_err(|cause| cannot(path, "cannot be locked", cause))? {
            return Err(refusal(path, "what was inherited for it is locked by another process"));
        }
        if !is_at(path, &file) {
            log::warn!("the pid file {} is not the one of this server any more", path.display());
        }
        Ok(Self { path: path.to_owned(), file, status })
    }

    /// The descriptors of the pid file and of the status file, for the next image.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.file.as_fd(), self.status.as_fd()]
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `pid`: for a standby that takes over from an image that failed.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub(super) fn rewrite(&self, pid: u32) -> io::Result<()> {
        let text = format!("{pid}\n");
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Says how the last restart went, to whoever waits for it. The number of this process is put in. A failure is
    /// logged: the server does not depend on it.
    pub(super) fn write_status(&self, status: &Status) {
        let text = status.text(std::process::id());
        let written = self
            .status
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.status.set_len(text.len() as u64));
        if let Err(cause) = written {
            log::warn!("the status file {} cannot be written: {cause}", status_path(&self.path).display());
        }
    }

    /// What the status file says now; `None` if nothing whole.
    pub(super) fn status(&self) -> Option<Status> {
        Status::read(&self.status)
    }

    /// Removes both files, as far as they are still ours: the same file at the path, with the number of this process in
    /// it. Where the directory no longer allows that (the user has changed) or cannot be reached (a chroot), the pid file
    /// stays and is empty. Then the lock is given back, unless another process shares it.
    pub(super) fn remove(self) {
        if pid_in(&self.file) != Some(std::process::id()) {
            log::debug!("the pid file {} names another process and stays", self.path.display());
            return;
        }
        remove_or_empty(&status_path(&self.path), &self.status);
        remove_or_empty(&self.path, &self.file);
    }

    /// Tells of the number that a dead server left, or of what is no number.
    fn warn_of_stale(&self) {
        let shown = self.path.display();
        let is_empty = self.file.metadata().is_ok_and(|found| found.len() == 0);
        match pid_in(&self.file) {
            Some(pid) => log::warn!("stale pid file {shown}: {pid} is not running here; it is overwritten"),
            None if is_empty => {}
            None => log::warn!("stale pid file {shown}: what it holds is no number; it is overwritten"),
        }
    }
}

/// A pid file as others see it.
#[derive(Debug)]
pub(super) struct Running {
    file: File,
    /// The process that holds it.
    pub(super) pid: i32,
}

/// What is to be found at the path of a pid file.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// The file of a server that has ended, with its number, if there is one.
    Stale(Option<u32>),
    /// A server holds it, but it has not written its number yet.
    Starting,
    /// A server.
    Running(Running),
}

impl Found {
    /// Looks at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: no pid file that can be believed; [`ErrorKind::Io`]: the system refuses.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(cause) => return Err(open_error(path, cause)),
        };
        let owner = check(path, &file)?.uid();
        if !is_held(path, &file)? {
            return Ok(Self::Stale(pid_in(&file)));
        }
        let Some(pid) = pid_in(&file).and_then(|pid| i32::try_from(pid).ok()) else {
            return Ok(Self::Starting);
        };
        // What a user wrote is believed about that user's processes only.
        let others = fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() != owner);
        if owner != 0 && others {
            let user = user_name(owner);
            return Err(refusal(path, &format!("it is {user}'s and names a process of another user")));
        }
        Ok(Self::Running(Running { file, pid }))
    }
}

impl Running {
    /// Whether a server still holds the file. For a moment this takes a shared lock, if nobody does.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the system refuses.
    pub(super) fn holds(&self, path: &Path) -> Result<bool> {
        is_held(path, &self.file)
    }

    /// The status file of that server.
    ///
    /// # Errors
    /// As [`Found::at`]; [`ErrorKind::Io`] when it is missing.
    pub(super) fn open_status(&self, path: &Path) -> Result<StatusFile> {
        let path = status_path(path);
        let opened = OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(&path);
        let file = opened.map_err(|cause| open_error(&path, cause))?;
        check(&path, &file)?;
        Ok(StatusFile(file))
    }
}

/// What a server says about its restarts, as others read it.
#[derive(Debug)]
pub(super) struct StatusFile(File);

impl StatusFile {
    /// What it says now; `None` in the middle of a change, and if there is nothing.
    pub(super) fn read(&self) -> Option<Status> {
        Status::read(&self.0)
    }
}

/// The path of the status file of the pid file at `path`.
pub(super) fn status_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".status");
    PathBuf::from(name)
}

/// Opens one of the two files for this server, or makes it.
fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(OPEN_FLAGS)
        .open(path);
    let file = opened.map_err(|cause| open_error(path, cause))?;
    let found = check(path, &file)?;
    if found.mode() & 0o7777 != MODE {
        // The umask took from it; what somebody else made is refused where it matters.
        let _ = file.set_permissions(Permissions::from_mode(MODE));
    }
    Ok(file)
}

/// Opens the status file of the pid file at `path`, or makes it.
fn open_status(path: &Path) -> Result<File> {
    let path = status_path(path);
    for _ in 0..ATTEMPTS {
        let file = open(&path)?;
        if Place::of(&path, &file)? == Place::Here {
            return Ok(file);
        }
    }
    Err(refusal(&path, REPLACED))
}

fn open_error(path: &Path, cause: io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::ELOOP) => refusal(path, "it is a symbolic link; remove it or choose another pid_file"),
        Some(libc::EISDIR | libc::ENXIO) => refusal(path, NOT_REGULAR),
        Some(libc::ENOENT) => refusal(path, "its directory does not exist; create it first"),
        _ => cannot(path, "cannot be opened", cause),
    }
}

/// Refuses what cannot be a pid file of ours.
fn check(path: &Path, file: &File) -> Result<Metadata> {
    let found = file.metadata().map_err(|cause| cannot(path, "cannot be looked at", cause))?;
    if !found.is_file() {
        return Err(refusal(path, NOT_REGULAR));
    }
    let (owner, own) = (found.uid(), effective_user());
    // Root looks at everybody's servers, but takes over nobody's file: see `Found::at`.
    if owner != own && owner != 0 && own != 0 {
        let user = user_name(owner);
        return Err(refusal(path, &format!("it belongs to {user}; remove it or choose another pid_file")));
    }
    Ok(found)
}

/// Locks the file for this process.
fn take(path: &Path, file: &File) -> Result<()> {
    let failed = |cause| cannot(path, "cannot be locked", cause);
    let begun = Instant::now();
    while !lock(file, Lock::Exclusive).map_err(failed)? {
        // Somebody who only looks whether a server runs has a shared lock, for a moment.
        let looked_at = lock(file, Lock::Shared).map_err(failed)?;
        if !looked_at || begun.elapsed() > LOOK_MAX {
            let pid = pid_in(file).map_or_else(String::new, |pid| format!(", pid {pid}"));
            let shown = path.display();
            let what = format!("already running{pid} ({shown}); stop it first or choose another pid_file");
            return Err(Error::new(ErrorKind::Config, what));
        }
        lock(file, Lock::Open).map_err(failed)?;
        thread::sleep(LOOK_WAIT);
    }
    Ok(())
}

/// What a path is to an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    /// The path leads to another file, or nowhere.
    Elsewhere,
}

impl Place {
    /// Where `file`, which was opened at `path`, is now, with the same user's rights that will write it.
    fn of(path: &Path, file: &File) -> Result<Self> {
        let opened = file.metadata().map_err(|cause| cannot(path, "cannot be looked at", cause))?;
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Self::Elsewhere),
            Err(cause) => return Err(cannot(path, "cannot be looked at", cause)),
        };
        if !is_same(&found, &opened) {
            return Ok(Self::Elsewhere);
        }
        // Both from one look at the path: with one name only, this is no file that is known by another.
        if found.nlink() != 1 {
            return Err(refusal(path, "it has another name too; remove it or choose another pid_file"));
        }
        if found.uid() != effective_user() && found.uid() != 0 {
            let user = user_name(found.uid());
            return Err(refusal(
                path,
                &format!("it belongs to {user}; remove it or choose another pid_file"),
            ));
        }
        Ok(Self::Here)
    }
}

/// Whether somebody has the file locked alone. If nobody does, this takes a shared lock for a moment.
fn is_held(path: &Path, file: &File) -> Result<bool> {
    let failed = |cause| cannot(path, "cannot be locked", cause);
    let free = lock(file, Lock::Shared).map_err(failed)?;
    if free {
        lock(file, Lock::Open).map_err(failed)?;
    }
    Ok(!free)
}

fn is_at(path: &Path, file: &File) -> bool {
    let found = fs::symlink_metadata(path).ok().zip(file.metadata().ok());
    found.is_some_and(|(found, opened)| is_same(&found, &opened))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The number in the first line; `None` if there is none.
fn pid_in(file: &File) -> Option<u32> {
    let mut bytes = [0; PID_MAX_BYTES];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let line = bytes[..length].split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok().filter(|pid| *pid != 0)
}

/// Undoes the making of a file in which nothing has been written.
fn remove_if_empty(path: &Path, file: &File) {
    if file.metadata().is_ok_and(|found| found.len() == 0) && is_at(path, file) {
        let _ = fs::remove_file(path);
    }
}

fn remove_or_empty(path: &Path, file: &File) {
    let removed = if is_at(path, file) { fs::remove_file(path) } else { Err(io::ErrorKind::NotFound.into()) };
    if let Err(cause) = removed {
        log::debug!("{} cannot be removed and is emptied: {cause}", path.display());
        let _ = file.set_len(0);
    }
}

fn refusal(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the pid file {}: {why}", path.display()))
}

fn cannot(path: &Path, what: &str, cause: io::Error) -> Error {
    Error::with_source(ErrorKind::Io, format!("the pid file {} {what}", path.display()), cause)
}

/// No symbolic link at the end of the path, no waiting for the other end of a pipe, no terminal.
const OPEN_FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
/// Everybody may know.
const MODE: u32 = 0o644;
/// Files that are replaced while they are opened.
const ATTEMPTS: u32 = 16;
/// For those who only look at the lock to be done with it.
const LOOK_MAX: Duration = Duration::from_secs(2);
const LOOK_WAIT: Duration = Duration::from_millis(1);
/// Longer than any number of a process.
const PID_MAX_BYTES: usize = 32;
const REPLACED: &str = "somebody replaces it again and again; choose another pid_file";
const NOT_REGULAR: &str = "it is no regular file; remove it or choose another pid_file";

#[cfg(test)]
mod tests;
