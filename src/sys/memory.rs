//! Memory in a descriptor that nobody can change any more: the state of an image, for the next one to read.
//!
//! On Linux it is a sealed memfd (`memfd_create(2)`). Elsewhere, and where a sandbox forbids that, it is a temporary
//! file without a name, open for reading only.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A descriptor with `bytes`, read from the beginning, which can be neither changed nor cut from now on; close-on-exec.
/// `name` is what `/proc` shows for it, at most 249 bytes.
///
/// # Errors
/// No memory, no descriptors left; where it is a file, whatever creating one fails with, with its path.
pub(crate) fn sealed_memory(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    match memfd(name) {
        Ok(memory) => seal(memory, bytes),
        // No such call, or a filter of system calls that does not let it through.
        Err(Errno::ENOSYS | Errno::EPERM) => unnamed_file(&std::env::temp_dir(), bytes),
        Err(errno) => Err(errno.into()),
    }
}

/// The bytes of a descriptor that [`sealed_memory`] made, maybe in another process, wherever its position is.
///
/// # Errors
/// `InvalidData` when it could still be changed, or has more than `max` bytes; `UnexpectedEof` when it was cut all the
/// same; what reading fails with.
pub(crate) fn read_sealed(fd: impl AsFd, max: u64) -> io::Result<Vec<u8>> {
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    let metadata = file.metadata()?;
    let refuse = |context: String| Err(io::Error::new(io::ErrorKind::InvalidData, context));
    if !is_sealed(&file) && !is_unnamed_and_read_only(&file, &metadata)? {
        return refuse("the memory with the state is not sealed".to_owned());
    }
    let size = metadata.len();
    if size > max {
        return refuse(format!("the state has {size} bytes, more than the {max} that are allowed"));
    }
    // The size is a fact here, not an announcement, and a 64-bit number is a length.
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn memfd(name: &CStr) -> nix::Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Systems can be set to refuse memory that does not say it will never be a program; before Linux 6.3 the flag is
    // unknown.
    match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        made => made,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn memfd(_name: &CStr) -> nix::Result<OwnedFd> {
    Err(Errno::ENOSYS)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn seal(memory: OwnedFd, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut memory = File::from(memory);
    memory.write_all(bytes)?;
    memory.rewind()?;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(memory.into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn seal(_memory: OwnedFd, _bytes: &[u8]) -> io::Result<OwnedFd> {
    Err(Errno::ENOSYS.into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_sealed(file: &File) -> bool {
    use nix::fcntl::SealFlag;

    // A file that is no memory has none (EINVAL).
    fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SEALS))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_sealed(_file: &File) -> bool {
    false
}

/// What [`unnamed_file`] makes.
fn is_unnamed_and_read_only(file: &File, metadata: &std::fs::Metadata) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    Ok(metadata.is_file() && metadata.nlink() == 0 && flags & OFlag::O_ACCMODE == OFlag::O_RDONLY)
}

/// A file in `folder` with `bytes`, which has lost its name again, opened for reading.
fn unnamed_file(folder: &Path, bytes: &[u8]) -> io::Result<OwnedFd> {
    let (path, mut file) = new_file(folder)?;
    let reading = File::open(&path);
    // First of all the name: whatever fails from here on, no file stays behind.
    std::fs::remove_file(&path)?;
    let reading = reading?;
    let (written, read) = (file.metadata()?, reading.metadata()?);
    if (written.dev(), written.ino()) != (read.dev(), read.ino()) {
        return Err(io::Error::other(format!("{} was exchanged for another file", path.display())));
    }
    file.write_all(bytes)?;
    Ok(reading.into())
}

/// A file that did not exist, readable by its owner only, and its path.
fn new_file(folder: &Path) -> io::Result<(PathBuf, File)> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let mut tries = 0;
    loop {
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let nanos = super::monotonic().subsec_nanos();
        let path = folder.join(format!("lineplex-{}-{made}-{nanos}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < FILE_TRIES => tries += 1,
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("cannot create {}: {error}", path.display()),
                ));
            }
        }
    }
}

/// No byte changes, none is added or lost, and no seal is added: so the last one is for the seals.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEALS: nix::fcntl::SealFlag = nix::fcntl::SealFlag::F_SEAL_SHRINK
    .union(nix::fcntl::SealFlag::F_SEAL_GROW)
    .union(nix::fcntl::SealFlag::F_SEAL_WRITE)
    .union(nix::fcntl::SealFlag::F_SEAL_SEAL);

/// Names of temporary files that somebody else has are tried so many times.
const FILE_TRIES: u32 = 16;

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn is_cloexec(fd: impl AsFd) -> bool {
        fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
    }

    #[test]
    fn sealed_memory_is_read_back_from_the_beginning_and_can_no_longer_change() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let memory = sealed_memory(c"test", &bytes).unwrap();
        assert!(is_cloexec(&memory));
        assert_eq!(read_sealed(&memory, 300_000).unwrap(), bytes);
        assert_eq!(read_sealed(&memory, 300_000).unwrap(), bytes, "the position does not matter");
        let mut file = File::from(memory);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(1).is_err() && file.set_len(300_001).is_err());
        let mut first = [0; 3];
        file.read_exact(&mut first).unwrap();
        assert_eq!(first, [0, 1, 2], "it stands at its beginning");
        assert!(read_sealed(sealed_memory(c"", b"").unwrap(), 0).unwrap().is_empty());
    }

    #[test]
    fn more_than_the_maximum_is_refused() {
        let memory = sealed_memory(c"test", &[1; 1000]).unwrap();
        let error = read_sealed(&memory, 999).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("1000 bytes, more than the 999"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_lacks_a_seal_is_refused() {
        use nix::fcntl::SealFlag;

        for missing in SEALS.iter() {
            let memory = memfd(c"test").unwrap();
            fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS - missing)).unwrap();
            assert!(read_sealed(&memory, 10).is_err(), "{missing:?}");
        }
        // Linux 6.3 adds a seal of its own, which is no reason to refuse.
        let memory = seal(memfd(c"test").unwrap(), b"1").unwrap();
        assert!(SealFlag::from_bits_retain(fcntl(&memory, FcntlArg::F_GET_SEALS).unwrap()).contains(SEALS));
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let folder = std::env::temp_dir();
        let (path, writing) = new_file(&folder).unwrap();
        let reading = File::open(&path).unwrap();
        let named = read_sealed(&reading, 10);
        std::fs::remove_file(&path).unwrap();
        assert!(named.is_err(), "a file with a name could be opened and changed");
        assert!(read_sealed(&writing, 10).is_err(), "a file that is open for writing can be changed");
        assert!(read_sealed(&reading, 10).unwrap().is_empty());
        assert!(read_sealed(super::super::pipe().unwrap().0, 10).is_err());
    }

    #[test]
    fn without_memory_a_file_without_a_name_does() {
        let folder = std::env::temp_dir();
        let made = unnamed_file(&folder, b"the state").unwrap();
        assert!(is_cloexec(&made));
        assert_eq!(read_sealed(&made, 100).unwrap(), b"the state");
        assert!(File::from(made.try_clone().unwrap()).write_all(b"x").is_err());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", made.as_raw_fd()));
        assert!(link.is_err() || link.unwrap().to_string_lossy().ends_with("(deleted)"));
        let error = unnamed_file(Path::new("/nonexistent"), b"").unwrap_err();
        assert!(error.to_string().starts_with("cannot create /nonexistent/lineplex-"), "{error}");
    }
}
