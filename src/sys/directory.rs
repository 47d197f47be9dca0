//! A directory that only this user and root can change, and files of secrets put into it.
//!
//! It is opened once, without following a link, and looked at by its descriptor; whatever is done there goes through that
//! descriptor, so that nobody can put another directory or a link in between (`symlink(7)`). What leads to it is looked
//! at as well, up to the root: who can rename a directory on the way can put another one there.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::daemon::{effective_user, user_name};

/// Such a directory, open.
#[derive(Debug)]
pub(crate) struct Directory(File);

impl Directory {
    /// Opens the directory at `path`, which must be this user's or root's, and which only its owner may write in; others
    /// may as well where it is sticky and this user's. What leads to it is checked by [`check_way`].
    ///
    /// # Errors
    /// As `open(2)`, with `ELOOP` or `ENOTDIR` for a link; `PermissionDenied` with a sentence when others could change it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A slash or a dot at the end would follow a link.
        let path: PathBuf = std::path::absolute(path)?.components().collect();
        check_way(&path)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = File::from(nix::fcntl::open(&path, flags, Mode::empty())?);
        let found = opened.metadata()?;
        check(found.uid(), found.mode(), effective_user()).map_err(denied)?;
        Ok(Self(opened))
    }

    /// Makes the file `name` (one component), readable for this user only, with these bytes; in the place of what is there,
    /// at once: nobody finds it missing or in part. A link there is replaced, not followed.
    ///
    /// # Errors
    /// The file cannot be made, written, or put in place, as where there is a directory.
    pub(crate) fn put(&self, name: &OsStr, bytes: &[u8]) -> io::Result<FileId> {
        let (temporary, file) = self.create_beside(name)?;
        let written = fill(file, bytes).and_then(|id| {
            renameat(&self.0, &*temporary, &self.0, name)?;
            Ok(id)
        });
        if written.is_err() {
            // It would be in nobody's way, but it may hold a part of a secret.
            let _ = unlinkat(&self.0, &*temporary, UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// Reads the file `name`, which must be as [`put`](Self::put) makes it: a regular one of this user's, for nobody else to
    /// read, with as many bytes as `bytes` takes.
    ///
    /// # Errors
    /// As `open(2)`, with `ELOOP` for a link; `InvalidData` when it is not such a file.
    pub(crate) fn read(&self, name: &OsStr, bytes: &mut [u8]) -> io::Result<FileId> {
        let mut file = self.open_file(name)?;
        let found = file.metadata()?;
        let as_made = found.is_file()
            && found.uid() == effective_user()
            && found.mode() & 0o7777 == 0o600
            && found.len() == bytes.len() as u64;
        if !as_made {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not the file that was made"));
        }
        file.read_exact(bytes)?;
        Ok(FileId::of(&found))
    }

    /// Removes the file `name` if it is that one; what somebody else has put there stays.
    ///
    /// # Errors
    /// As `open(2)` and `unlink(2)`.
    pub(crate) fn remove(&self, name: &OsStr, id: FileId) -> io::Result<()> {
        if FileId::of(&self.open_file(name)?.metadata()?) == id {
            unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }

    fn open_file(&self, name: &OsStr) -> io::Result<File> {
        // A pipe that nobody writes to would stop us here.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// A new file beside `name`.
    fn create_beside(&self, name: &OsStr) -> io::Result<(OsString, OwnedFd)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        for _ in 0..ATTEMPTS {
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            match openat(&self.0, &*temporary, flags, OWNER_ONLY) {
                Ok(file) => return Ok((temporary, file)),
                // Left behind by a process that had our number.
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EEXIST.into())
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

fn fill(file: OwnedFd, bytes: &[u8]) -> io::Result<FileId> {
    // The umask may have taken from it.
    fchmod(&file, OWNER_ONLY)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    Ok(FileId::of(&file.metadata()?))
}

/// Looks at every directory that leads to `path` (absolute), as it is written and as it is without links: each must be this
/// user's or root's, and not writable for others unless it is sticky, as the directory for temporary files is; there nobody
/// can rename what is another's. `path` itself is not looked at. OpenSSH does the same for the keys of users (`safe_path`).
///
/// # Errors
/// As `stat(2)`; `PermissionDenied` with a sentence that names the directory.
pub(crate) fn check_way(path: &Path) -> io::Result<()> {
    let own = effective_user();
    let resolved = std::fs::canonicalize(path)?;
    for directory in [path, &resolved].into_iter().flat_map(|path| path.ancestors().skip(1)) {
        let found = std::fs::metadata(directory)?;
        check_owner(found.uid(), own)
            .and_then(|()| if found.mode() & STICKY == 0 { check_mode(found.mode()) } else { Ok(()) })
            .map_err(|why| denied(format!("{} leads there: {why}", directory.display())))?;
    }
    Ok(())
}

fn denied(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// Why user `own` had better put no secret into a directory of `owner` with this mode.
fn check(owner: u32, mode: u32, own: u32) -> Result<(), String> {
    check_owner(owner, own)?;
    if mode & STICKY != 0 && owner == own { Ok(()) } else { check_mode(mode) }
}

fn check_owner(owner: u32, own: u32) -> Result<(), String> {
    if owner == own || owner == 0 {
        return Ok(());
    }
    let user = user_name(owner);
    Err(format!("it belongs to {user}, who could replace what is in it; choose one of your own"))
}

fn check_mode(mode: u32) -> Result<(), String> {
    let mode = mode & 0o7777;
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(format!("others can write in it (mode {mode:04o}); chmod go-w it, or choose another"))
}

const OWNER_ONLY: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// The group, and everybody.
const OTHERS_WRITE: u32 = 0o022;
/// Nobody but its owner and the directory's can rename a file.
const STICKY: u32 = 0o1000;
/// Temporary names that are tried.
const ATTEMPTS: u32 = 16;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn who_owns_the_directory_and_who_writes_in_it_decides() {
        const ROOT: u32 = 0;
        const ME: u32 = 1000;
        const OTHER: u32 = 1001;
        for mode in 0..0o10_000 {
            let closed = mode & 0o022 == 0;
            let sticky = mode & 0o1000 != 0;
            assert_eq!(check(ME, mode, ME).is_ok(), closed || sticky, "{mode:o}");
            assert_eq!(check(ROOT, mode, ROOT).is_ok(), closed || sticky, "{mode:o}");
            assert_eq!(check(ROOT, mode, ME).is_ok(), closed, "{mode:o}");
            assert!(check(OTHER, mode, ME).is_err() && check(OTHER, mode, ROOT).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn a_directory_that_others_can_write_in_is_refused_with_its_mode() {
        let place = Place::new();
        for (mode, ok) in [
            (0o700, true),
            (0o750, true),
            (0o755, true),
            (0o711, true),
            (0o720, false),
            (0o770, false),
            (0o775, false),
            (0o777, false),
            (0o702, false),
            (0o2770, false),
            (0o1770, true),
            (0o1777, true),
        ] {
            fs::set_permissions(&place.0, Permissions::from_mode(mode)).unwrap();
            match Directory::open(&place.0) {
                Ok(directory) => {
                    assert!(ok, "{mode:o}");
                    directory.put(OsStr::new("secret"), b"x").unwrap();
                }
                Err(error) => {
                    assert!(!ok, "{mode:o}: {error}");
                    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                    assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
                }
            }
        }
        fs::set_permissions(&place.0, Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_directory_on_the_way_that_others_can_rename_things_in_is_refused_by_its_name_also_behind_a_link() {
        let place = Place::new();
        let (outer, link) = (place.0.join("outer"), place.0.join("link"));
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        symlink(&outer, &link).unwrap();
        for (mode, ok) in [(0o700, true), (0o755, true), (0o775, false), (0o777, false), (0o1777, true)] {
            fs::set_permissions(&outer, Permissions::from_mode(mode)).unwrap();
            for path in [&inner, &link.join("inner"), &inner.join("../inner")] {
                match Directory::open(path) {
                    Ok(_) => assert!(ok, "{mode:o}"),
                    Err(error) => {
                        let said = error.to_string();
                        assert!(!ok && said.contains(&format!("{mode:04o}")), "{mode:o}: {said}");
                        assert!(said.contains("outer") || said.contains("link"), "{said}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_file_is_read_and_removed_as_it_was_made_only() {
        let place = Place::new();
        let path = place.0.join("secret");
        let name = OsStr::new("secret");
        let directory = Directory::open(&place.0).unwrap();
        let mut bytes = [0; 3];
        assert_eq!(directory.read(name, &mut bytes).unwrap_err().kind(), io::ErrorKind::NotFound);
        let id = directory.put(name, b"one").unwrap();
        assert_eq!((directory.read(name, &mut bytes).unwrap(), &bytes), (id, b"one"));
        assert!(directory.read(name, &mut [0; 2]).is_err() && directory.read(name, &mut [0; 4]).is_err());
        for mode in [0o640, 0o604, 0o620, 0o400, 0o4600] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(directory.read(name, &mut bytes).is_err(), "{mode:o}");
        }
        let other = directory.put(name, b"two").unwrap();
        directory.remove(name, id).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two", "it is another one");
        directory.remove(name, other).unwrap();
        fs::write(place.0.join("else"), "one").unwrap();
        symlink("else", &path).unwrap();
        assert!(directory.read(name, &mut bytes).is_err() && directory.remove(name, id).is_err());
        assert!(fs::symlink_metadata(&path).is_ok());
    }

    #[test]
    fn a_link_to_a_directory_is_refused_however_it_is_written() {
        let place = Place::new();
        fs::create_dir(place.0.join("real")).unwrap();
        symlink(place.0.join("real"), place.0.join("link")).unwrap();
        fs::write(place.0.join("file"), "").unwrap();
        for name in ["link", "link/", "link/.", "file", "missing"] {
            assert!(Directory::open(&place.0.join(name)).is_err(), "{name}");
        }
        Directory::open(&place.0.join("real/")).unwrap();
    }

    #[test]
    fn a_file_is_readable_for_its_owner_only_and_replaces_what_was_there() {
        let place = Place::new();
        let directory = Directory::open(&place.0).unwrap();
        let (path, elsewhere) = (place.0.join("secret"), place.0.join("elsewhere"));
        let check = |bytes: &[u8]| {
            let found = fs::symlink_metadata(&path).unwrap();
            assert!(found.is_file());
            assert_eq!((found.mode() & 0o7777, fs::read(&path).unwrap()), (0o600, bytes.to_vec()));
        };
        directory.put(OsStr::new("secret"), b"one").unwrap();
        check(b"one");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let reader = File::open(&path).unwrap();
        directory.put(OsStr::new("secret"), b"two\0").unwrap();
        check(b"two\0");
        assert_eq!(io::read_to_string(reader).unwrap(), "one", "who had it open keeps the old one");
        fs::write(&elsewhere, "untouched").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&elsewhere, &path).unwrap();
        directory.put(OsStr::new("secret"), b"three").unwrap();
        check(b"three");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn what_cannot_be_replaced_leaves_no_temporary_file() {
        let place = Place::new();
        fs::create_dir(place.0.join("secret")).unwrap();
        let directory = Directory::open(&place.0).unwrap();
        assert!(directory.put(OsStr::new("secret"), b"x").is_err());
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1);
    }

    #[test]
    fn the_directory_stays_the_one_that_was_looked_at() {
        let place = Place::new();
        let (path, moved) = (place.0.join("own"), place.0.join("moved"));
        fs::create_dir(&path).unwrap();
        let directory = Directory::open(&path).unwrap();
        fs::rename(&path, &moved).unwrap();
        symlink("/nonexistent", &path).unwrap();
        directory.put(OsStr::new("secret"), b"x").unwrap();
        assert_eq!(fs::read(moved.join("secret")).unwrap(), b"x");
    }

    /// An empty directory of this test, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("lp-directory-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
