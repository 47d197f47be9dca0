//! Where lines are written: standard error, a file, or the system's log. Used by the writer's thread only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::line::Line;
use crate::config::LogTarget;
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
    /// A duplicate of descriptor 2, so that a write that blocks does not hold the standard library's lock; made at the
    /// first line, and again after a reopen, because a daemon redirects descriptor 2.
    Stderr(Option<File>),
    File {
        path: PathBuf,
        file: File,
    },
    Syslog {
        path: PathBuf,
        ident: String,
        facility: u8,
        socket: Option<UnixDatagram>,
    },
}

impl Output {
    /// Opens `target` now, so that a mistake is told at start.
    pub(super) fn open(target: &LogTarget) -> Result<Self> {
        let fail = |path: &Path, cause: io::Error| {
            Error::with_source(ErrorKind::Io, format!("cannot open the log {}", path.display()), cause)
        };
        let kind = match target {
            LogTarget::Stderr => Kind::Stderr(None),
            LogTarget::File(path) => {
                let path = std::path::absolute(path).map_err(|cause| fail(path, cause))?;
                let file = open_file(&path).map_err(|cause| fail(&path, cause))?;
                Kind::File { path, file }
            }
            LogTarget::Syslog { socket: path, ident, facility } => {
                let socket = connect(path).map_err(|cause| fail(path, cause))?;
                Kind::Syslog {
                    path: path.clone(),
                    ident: ident.clone(),
                    facility: facility.code(),
                    socket: Some(socket),
                }
            }
        };
        Ok(Self { kind, torn: false })
    }

    /// A log on an open file, under `path` when it is reopened.
    #[cfg(test)]
    pub(super) fn of(file: File, path: impl Into<PathBuf>) -> Self {
        Self { kind: Kind::File { path: path.into(), file }, torn: false }
    }

    /// Opens the same path again, for a log that was renamed; the old one stays in use if that fails.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stderr(file) => *file = None,
            Kind::File { path, file } => {
                *file = open_file(path).map_err(|cause| {
                    io::Error::new(cause.kind(), format!("cannot reopen the log {}: {cause}", path.display()))
                })?;
                self.torn = false;
            }
            Kind::Syslog { socket, .. } => *socket = None,
        }
        Ok(())
    }

    /// Writes one line with one system call (unless the system takes it in parts). A file that is non-blocking and full
    /// is waited for, a second at most, not at all once `hurry` is set.
    pub(super) fn write(&mut self, line: &Line, hurry: &AtomicBool) -> io::Result<()> {
        match &mut self.kind {
            Kind::Stderr(slot) => {
                let file = match slot {
                    Some(file) => file,
                    None => slot.insert(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
                };
                write_line(file, &mut self.torn, &line.format(), hurry)
            }
            Kind::File { file, .. } => write_line(file, &mut self.torn, &line.format(), hurry),
            Kind::Syslog { path, ident, facility, socket } => {
                let text = line.format_syslog(*facility, ident);
                send(socket, path, text.as_bytes())
            }
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

fn write_line(file: &mut File, torn: &mut bool, line: &str, hurry: &AtomicBool) -> io::Result<()> {
    if *torn {
        write_whole(file, format!("\n{line}").as_bytes(), torn, hurry)
    } else {
        write_whole(file, line.as_bytes(), torn, hurry)
    }
}

fn write_whole(file: &mut File, mut bytes: &[u8], torn: &mut bool, hurry: &AtomicBool) -> io::Result<()> {
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

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// Sends one datagram; a receiver that was restarted is connected to once more. A full queue is an error at once.
fn send(slot: &mut Option<UnixDatagram>, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(socket) = slot {
        match socket.send(bytes) {
            Ok(_) => return Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Err(cause),
            Err(_) => *slot = None,
        }
    }
    slot.insert(connect(path)?).send(bytes).map(drop)
}

/// Of a log that is made new; the umask takes away from it.
const FILE_MODE: u32 = 0o640;

/// How often, and how long each, a full non-blocking file is waited for.
const FULL_WAITS: u32 = 100;
const FULL_WAIT: Duration = Duration::from_millis(10);
