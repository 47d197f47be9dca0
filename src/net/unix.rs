//! Unix sockets in the file system: how a listener takes a path, and gives it back.
//!
//! A path is taken by binding a temporary name beside it, setting mode and owner there, listening, and renaming it
//! over the path. So nobody can connect before mode and owner are right, the umask (which is process-wide) is left
//! alone, and a path that existed exists all the time. What lies at the path already is replaced only if it is a
//! socket that refuses connections. Ours is recognised by device and inode and by nothing else (`getsockname(2)` keeps
//! the temporary name). The directory must be writable only for those who may replace the server's socket; one that
//! everybody can write in is refused, unless it is sticky.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::{
    fs::OpenOptions,
    os::fd::AsRawFd as _,
    os::unix::fs::{OpenOptionsExt as _, chown},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// A path in the file system that belongs to a listening socket of ours.
#[derive(Debug)]
pub(crate) struct OwnedPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnedPath {
    /// A claim that was handed over: the path, and device and inode of the socket there.
    pub(crate) fn of(path: PathBuf, device: u64, inode: u64) -> Self {
        Self { path, device, inode }
    }

    /// The same in parts, to hand it over.
    pub(crate) fn parts(&self) -> (&Path, u64, u64) {
        (&self.path, self.device, self.inode)
    }

    /// Removes the path if it still is our socket; another server's, which replaced it, stays.
    pub(super) fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| self.is(&found)) {
            // It may be gone already, or the directory closed to us since the privileges were dropped: nothing to do.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn is(&self, found: &Metadata) -> bool {
        (found.dev(), found.ino()) == (self.device, self.inode)
    }
}

/// What the configuration says about the path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access<'a> {
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<&'a str>,
    pub(super) group: Option<&'a str>,
    /// Clients may pass descriptors.
    pub(super) passes_fds: bool,
}

/// A socket that listens at `path` (absolute), and the claim to remove that path later.
pub(super) fn listen(path: &Path, access: Access<'_>, backlog: i32) -> Result<(Socket, OwnedPath)> {
    let fail = |context: &str, cause: io::Error| {
        Error::with_source(ErrorKind::Bind, format!("cannot listen on {}: {context}", path.display()), cause)
    };
    let owner = access.owner.map(sys::user_id).transpose().map_err(|cause| fail("owner", cause))?;
    let group = access.group.map(sys::group_id).transpose().map_err(|cause| fail("group", cause))?;
    check_path(path)?;
    check_vacant(path)?;
    let (socket, temporary) = bind_beside(path)?;
    let prepare = || {
        let made = set_access(&temporary, access.mode, owner, group)
            .map_err(|cause| fail("cannot set its mode and owner", cause))?;
        sys::set_passes_fds(&socket, access.passes_fds);
        socket.listen(backlog).map_err(|cause| fail("the system refuses", cause))?;
        fs::rename(&temporary, path).map_err(|cause| fail("cannot put it in place", cause))?;
        Ok(OwnedPath { path: path.to_owned(), device: made.dev(), inode: made.ino() })
    };
    match prepare() {
        Ok(owned) => Ok((socket, owned)),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Sets mode and owner of the socket at `path`, which was made a moment ago. Whoever may write in its directory could have
/// put a link in its place since; so it is opened without following one, looked at, and changed by that descriptor.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_access(
    path: &Path,
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
) -> io::Result<Metadata> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    let made = opened.metadata()?;
    if !made.file_type().is_socket() || made.nlink() != 1 {
        return Err(io::Error::other("somebody has put something else in its place"));
    }
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    // Without /proc, as in a bare chroot, there is only the path.
    let target = if by_descriptor.exists() { by_descriptor } else { path.to_owned() };
    if let Some(mode) = mode {
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
    }
    if owner.is_some() || group.is_some() {
        chown(&target, owner, group)?;
    }
    Ok(made)
}

/// The same where a socket cannot be opened.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_access(
    path: &Path,
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
) -> io::Result<Metadata> {
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, owner, group)?;
    }
    fs::symlink_metadata(path)
}

/// Refuses what no socket can be called.
fn check_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let refuse = |why: String| {
        let shown = path.as_os_str().to_string_lossy().escape_debug().to_string();
        Err(Error::new(ErrorKind::Bind, format!("cannot listen on {shown}: {why}")))
    };
    if bytes.contains(&0) {
        return refuse("a path holds no NUL byte (sockets without a path are not supported)".to_owned());
    }
    if bytes.len() > PATH_MAX_BYTES {
        let length = bytes.len();
        return refuse(format!(
            "the path has {length} bytes, a socket's at most {PATH_MAX_BYTES}: choose a shorter one"
        ));
    }
    if path.file_name().is_none() || bytes.ends_with(b"/") {
        return refuse("the path names no file".to_owned());
    }
    match path.parent().map(fs::metadata) {
        Some(Ok(directory)) if !directory.is_dir() => refuse("its directory is not a directory".to_owned()),
        Some(Ok(directory)) if directory.mode() & (OTHERS_WRITE | STICKY) == OTHERS_WRITE => refuse(
            "everybody can write in its directory, and so put another socket in its place: chmod o-w it, or +t"
                .to_owned(),
        ),
        Some(Err(cause)) if cause.kind() == io::ErrorKind::NotFound => {
            refuse("its directory does not exist: create it first".to_owned())
        }
        _ => Ok(()),
    }
}

/// Refuses a path where something lies that is not a dead socket.
fn check_vacant(path: &Path) -> Result<()> {
    let refuse = |why: &str, cause: Option<io::Error>| {
        let context = format!("cannot listen on {}: {why}", path.display());
        Err(match cause {
            Some(cause) => Error::with_source(ErrorKind::Bind, context, cause),
            None => Error::new(ErrorKind::Bind, context),
        })
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return refuse("cannot look at the path", Some(cause)),
    };
    if !found.file_type().is_socket() {
        return refuse(
            "there is something else that is not a socket: remove it or choose another path",
            None,
        );
    }
    match probe(path) {
        Ok(()) => refuse("another server is listening there: stop it or choose another path", None),
        Err(cause) => match cause.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::WouldBlock => {
                refuse("another server is listening there: stop it or choose another path", None)
            }
            _ => refuse("cannot tell whether another server is listening there", Some(cause)),
        },
    }
}

/// One connection attempt that never waits: with a full queue it fails with `EAGAIN`.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// A non-blocking socket bound to a fresh name in the directory of `path`.
fn bind_beside(path: &Path) -> Result<(Socket, PathBuf)> {
    let fail = |context: &str, cause: io::Error| {
        Error::with_source(ErrorKind::Bind, format!("cannot listen on {}: {context}", path.display()), cause)
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|cause| fail("no socket", cause))?;
    socket.set_nonblocking(true).map_err(|cause| fail("no socket", cause))?;
    for attempt in 1.. {
        let temporary = temporary_name(path)?;
        let bound = SockAddr::unix(&temporary).and_then(|addr| socket.bind(&addr));
        match bound {
            Ok(()) => return Ok((socket, temporary)),
            // Left behind by a process that had our number and was killed on this very line.
            Err(cause) if cause.kind() == io::ErrorKind::AddrInUse && attempt < TEMPORARY_ATTEMPTS => {}
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                return Err(fail("no right to create a file in its directory", cause));
            }
            Err(cause) => return Err(fail("cannot bind beside it", cause)),
        }
    }
    unreachable!("the last attempt returns")
}

/// `.{name}.{pid}.{n}` beside `path`, or `.{pid}.{n}` where that is too long for a socket.
fn temporary_name(path: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    let suffix = format!(".{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(&suffix);
    for name in [name, suffix.into()] {
        let temporary = path.with_file_name(name);
        if temporary.as_os_str().len() <= PATH_MAX_BYTES {
            return Ok(temporary);
        }
    }
    let context = format!(
        "cannot listen on {}: its directory leaves no room for a temporary name (a socket's path has at most \
         {PATH_MAX_BYTES} bytes): choose a shorter one",
        path.display()
    );
    Err(Error::new(ErrorKind::Bind, context))
}

/// `sun_path` less its NUL (`unix(7)`): 108 bytes on Linux, 104 on the BSDs and macOS.
const PATH_MAX_BYTES: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// Bits of a directory's mode: others may write in it; they may remove only what is theirs.
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Fresh names that are tried before the directory is given up.
const TEMPORARY_ATTEMPTS: u32 = 16;
