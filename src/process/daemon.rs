//! Into the background: the process that was started waits until the server is about to serve, and its exit status says
//! whether it does.
//!
//! One fork, before any thread exists. The child leaves the terminal at once (a session of its own) but keeps the
//! caller's standard error until it is ready, so that whatever keeps it from serving is read where it was started. The
//! launcher knows two things: a byte on a pipe, which is "ready", and the end of the pipe, which is the end of the child.
//! A launcher that is ended before (Ctrl-C) takes the start with it: the child finds nobody to report to, and ends with
//! status 1 instead of serving unnoticed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt as _;

use super::program;
use crate::error::{Error, ErrorKind, Result};
use crate::logging;
use crate::sys::daemon::{Stream, new_session, redirect, unblock_signals};
use crate::sys::{self, Fork};

/// How this process was launched, and whom it has to tell when it is ready.
#[derive(Debug)]
pub(super) struct Launch(Option<Background>);

/// The child of a launcher that waits.
#[derive(Debug)]
struct Background {
    /// The launcher reads at the other end.
    launcher: File,
    /// The null device, opened while it can be reached: a chroot may have none.
    null: File,
    /// The log goes to standard error, which therefore stays what it is.
    keeps_error: bool,
}

impl Launch {
    /// In the foreground: nobody waits, and nothing changes.
    pub(super) fn foreground() -> Self {
        Self(None)
    }

    /// Goes on in a child in the background, which is where this returns; the process that was started stays behind and
    /// ends with the child's outcome.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the process has other threads, or the system refuses.
    pub(super) fn background(keeps_error: bool) -> Result<Self> {
        let failed = |cause| Error::with_source(ErrorKind::Io, "cannot go into the background", cause);
        let null = OpenOptions::new().read(true).write(true).open(NULL).map_err(failed)?;
        let (reading, writing) = sys::pipe().map_err(failed)?;
        // What is buffered would be written by both.
        let _ = io::stdout().flush();
        match sys::fork().map_err(failed)? {
            Fork::Parent(child) => {
                drop(writing);
                wait(child, File::from(reading))
            }
            Fork::Child => {
                drop(reading);
                new_session().map_err(failed)?;
                Ok(Self(Some(Background { launcher: File::from(writing), null, keeps_error })))
            }
        }
    }

    /// Leaves the caller's streams and directory, and tells the launcher that the server is about to serve. In the
    /// foreground, and when it is called again, nothing happens.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the launcher is gone, so nobody would know of this server; or the system refuses.
    pub(super) fn ready(&mut self) -> Result<()> {
        let Some(Background { mut launcher, null, keeps_error }) = self.0.take() else { return Ok(()) };
        let failed = |cause| Error::with_source(ErrorKind::Io, "cannot leave the terminal", cause);
        std::env::set_current_dir("/").map_err(failed)?;
        redirect(Stream::Input, &null).map_err(failed)?;
        let _ = io::stdout().flush();
        redirect(Stream::Output, &null).map_err(failed)?;
        let gone = "whoever started it has ended before it was ready, so it does not serve";
        launcher.write_all(READY).map_err(|cause| Error::with_source(ErrorKind::Io, gone, cause))?;
        if !keeps_error {
            redirect(Stream::Error, &null).map_err(failed)?;
        }
        Ok(())
    }
}

/// The launcher's part: it ends when the child is ready or has ended.
fn wait(child: i32, mut reading: File) -> ! {
    // It can be interrupted, whatever it was started with.
    unblock_signals();
    let mut said = [0; READY.len()];
    if reading.read_exact(&mut said).is_ok() {
        sys::exit_now(0);
    }
    let what = match sys::wait_for(child) {
        Ok(ended) => match (ended.code(), ended.signal()) {
            // It has said why.
            (Some(status @ 1..), _) => sys::exit_now(status),
            (_, Some(signal)) => format!("signal {signal} ended it before it was ready"),
            _ => "it ended before it was ready".to_owned(),
        },
        Err(cause) => format!("it ended before it was ready, and its status is lost: {cause}"),
    };
    logging::fatal(&format!("{}: {what}", program()));
    sys::exit_now(1)
}

const NULL: &str = "/dev/null";
const READY: &[u8] = b"R";
