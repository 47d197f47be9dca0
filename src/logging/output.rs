//! Where lines are written: standard error, a file, or the system's log. Used by the writer's thread only.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::line::Line;
use crate::config::{Facility, LogTarget};
use crate::error::{Error, ErrorKind, Result};

/// An open log.
#[derive(Debug)]
pub(super) struct Output {
    kind: Kind,
    /// The last line is there in part only (the disk was full): the next one begins a new line.
    torn: bool,
}

#[derive(Debug)]
enum Kind {
    /// Opened at the first line, and again after a reopen, because a daemon redirects descriptor 2.
    Stderr(Option<Stderr>),
    File(LogFile),
    Syslog(Receiver),
    Journald(Receiver),
}

/// A duplicate of descriptor 2, so that a write that blocks does not hold the standard library's lock.
#[derive(Debug)]
struct Stderr {
    file: File,
    /// The journal reads it.
    is_journal: bool,
}

/// A log file, shared with whoever carries it into another image.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    pub(super) file: Arc<File>,
    path: PathBuf,
}

/// A socket that takes one datagram a line.
#[derive(Debug)]
struct Receiver {
    path: PathBuf,
    ident: String,
    facility: u8,
    socket: Option<UnixDatagram>,
}

impl Output {
    /// Opens `target` now, so that a mistake is told at start. Where a file cannot be opened any more, `inherited`, the
    /// descriptor under which another image had it open, takes its place; the second answer then says why.
    pub(super) fn open(target: &LogTarget, inherited: Option<OwnedFd>) -> Result<(Self, Option<String>)> {
        let mut excuse = None;
        let kind = match target {
            LogTarget::Stderr => Kind::Stderr(None),
            LogTarget::File(path) => {
                let path = std::path::absolute(path).map_err(|cause| cannot_open(path, cause))?;
                let log = match (LogFile::open(&path), inherited) {
                    (Ok(log), _) => log,
                    (Err(cause), Some(fd)) => {
                        excuse = Some(cannot_open(&path, cause).chain());
                        LogFile { file: Arc::new(File::from(fd)), path }
                    }
                    (Err(cause), None) => return Err(cannot_open(&path, cause)),
                };
                Kind::File(log)
            }
            LogTarget::Syslog { socket, ident, facility } => {
                Kind::Syslog(Receiver::open(socket, ident, *facility)?)
            }
            LogTarget::Journald { socket, ident, facility } => {
                Kind::Journald(Receiver::open(socket, ident, *facility)?)
            }
        };
        Ok((Self { kind, torn: false }, excuse))
    }

    /// A log on an open file, under `path` when it is reopened.
    #[cfg(test)]
    pub(super) fn of(file: File, path: impl Into<PathBuf>) -> Self {
        Self { kind: Kind::File(LogFile { file: Arc::new(file), path: path.into() }), torn: false }
    }

    /// The open file, where the log is one.
    pub(super) fn file(&self) -> Option<LogFile> {
        match &self.kind {
            Kind::File(log) => Some(log.clone()),
            _ => None,
        }
    }

    /// Opens the same path again, for a log that was renamed; the old one stays in use if that fails.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stderr(stderr) => *stderr = None,
            Kind::File(log) => {
                *log = LogFile::open(&log.path).map_err(|cause| {
                    let path = log.path.display();
                    io::Error::new(cause.kind(), format!("cannot reopen the log {path}: {cause}"))
                })?;
                self.torn = false;
            }
            Kind::Syslog(receiver) | Kind::Journald(receiver) => receiver.socket = None,
        }
        Ok(())
    }

    /// Writes one line with one system call (unless the system takes it in parts). A file that is non-blocking and full
    /// is waited for, a second at most, not at all once `hurry` is set.
    pub(super) fn write(&mut self, line: &Line, hurry: &AtomicBool) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stderr(slot) => {
                let stderr = match slot {
                    Some(stderr) => stderr,
                    None => slot.insert(Stderr::open()?),
                };
                let text = if stderr.is_journal { line.format_prefixed() } else { line.format() };
                write_line(&stderr.file, &mut self.torn, &text, hurry)
            }
            Kind::File(log) => write_line(&log.file, &mut self.torn, &line.format(), hurry),
            Kind::Syslog(receiver) => {
                let text = line.format_syslog(receiver.facility, &receiver.ident);
                receiver.send(text.as_bytes())
            }
            Kind::Journald(receiver) => {
                let entry = line.format_journald(receiver.facility, &receiver.ident);
                receiver.send(entry.as_bytes())
            }
        }
    }
}

impl Stderr {
    fn open() -> io::Result<Self> {
        let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let is_journal = is_journal(&file, std::env::var_os("JOURNAL_STREAM"));
        Ok(Self { file, is_journal })
    }
}

/// Whether the journal reads standard error.
pub(super) fn stderr_is_journal() -> bool {
    Stderr::open().is_ok_and(|stderr| stderr.is_journal)
}

/// Whether `file` is the stream that `JOURNAL_STREAM` names by device and inode (`systemd.exec(5)`). The variable alone says
/// nothing: whoever starts a server from a service may have redirected it.
fn is_journal(file: &File, stream: Option<OsString>) -> bool {
    let Some(stream) = stream else { return false };
    file.metadata().is_ok_and(|found| stream == *format!("{}:{}", found.dev(), found.ino()))
}

impl LogFile {
    /// See [`Logger::give_to`](super::Logger::give_to).
    #[cfg(feature = "daemon")]
    pub(super) fn give_to(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<bool> {
        let opened = self.file.metadata()?;
        if !opened.is_file() {
            return Ok(true);
        }
        let found = std::fs::symlink_metadata(&self.path)?;
        if (found.dev(), found.ino(), found.nlink()) != (opened.dev(), opened.ino(), 1) {
            return Ok(false);
        }
        std::os::unix::fs::fchown(&*self.file, uid, gid).map(|()| true)
    }

    fn open(path: &Path) -> io::Result<Self> {
        // A terminal that is logged to must not become the terminal of a daemon, and with it its signals.
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(FILE_MODE).custom_flags(libc::O_NOCTTY);
        Ok(Self { file: Arc::new(options.open(path)?), path: path.to_owned() })
    }
}

impl Receiver {
    fn open(path: &Path, ident: &str, facility: Facility) -> Result<Self> {
        let socket = connect(path).map_err(|cause| cannot_open(path, cause))?;
        let (path, ident) = (path.to_owned(), ident.to_owned());
        Ok(Self { path, ident, facility: facility.code(), socket: Some(socket) })
    }

    /// Sends one datagram; a receiver that was restarted is connected to once more. A full queue is an error at once.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(bytes) {
                Ok(_) => return Ok(()),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Err(cause),
                Err(_) => self.socket = None,
            }
        }
        self.socket.insert(connect(&self.path)?).send(bytes).map(drop)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

fn cannot_open(path: &Path, cause: io::Error) -> Error {
    Error::with_source(ErrorKind::Io, format!("cannot open the log {}", path.display()), cause)
}

fn write_line(file: &File, torn: &mut bool, line: &str, hurry: &AtomicBool) -> io::Result<()> {
    if *torn {
        write_whole(file, format!("\n{line}").as_bytes(), torn, hurry)
    } else {
        write_whole(file, line.as_bytes(), torn, hurry)
    }
}

fn write_whole(mut file: &File, mut bytes: &[u8], torn: &mut bool, hurry: &AtomicBool) -> io::Result<()> {
    let mut waits = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                *torn = !bytes.is_empty();
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                // Somebody else made the shared description non-blocking; there is no poll on this thread.
                if waits == FULL_WAITS || hurry.load(Ordering::Relaxed) {
                    return Err(cause);
                }
                waits += 1;
                std::thread::sleep(FULL_WAIT);
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// Of a log that is made new; the umask takes away from it.
const FILE_MODE: u32 = 0o640;

/// How often, and how long each, a full non-blocking file is waited for.
const FULL_WAITS: u32 = 100;
const FULL_WAIT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_that_the_manager_named_is_the_journal() {
        let [first, second] = ["/dev/null", "/dev/zero"].map(|path| File::open(path).unwrap());
        let named = |file: &File| {
            let found = file.metadata().unwrap();
            Some(OsString::from(format!("{}:{}", found.dev(), found.ino())))
        };
        assert!(is_journal(&first, named(&first)) && is_journal(&second, named(&second)));
        assert!(!is_journal(&second, named(&first)));
        for other in ["", ":", "1", "a:b", "0:0"] {
            assert!(!is_journal(&first, Some(other.into())), "{other}");
        }
        assert!(!is_journal(&first, None));
    }
}
