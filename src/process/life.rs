//! What only a process that is started does, each thing once: go into the background, give up its privileges, report
//! that it is ready. An image that a restart puts in the place of another one inherits what is done already.

use super::activation::Passed;
use super::daemon::Launch;
use super::privileges::Privileges;
use crate::config::{Config, ListenAt, LogTarget};
use crate::error::{Error, ErrorKind, Result};
use crate::logging::Logger;
use crate::signals;
use crate::sys::daemon::{set_umask, unblock_signals};

/// What the process has still to do before it serves.
#[derive(Debug)]
pub(super) struct Life {
    launch: Launch,
    privileges: Privileges,
    passed: Passed,
}

impl Life {
    /// Resolves names, sets the umask, and goes into the background. To be called before any thread exists; in the
    /// background it returns in the child only.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a user, group or directory that cannot be had, [`ErrorKind::Io`] when the process cannot
    /// go into the background.
    pub(super) fn begin(config: &Config, passed: Passed) -> Result<Self> {
        let process = &config.process;
        let privileges = Privileges::resolve(process)?;
        signals::keep_children().map_err(|cause| {
            Error::with_source(ErrorKind::Io, "cannot take over the signal of children", cause)
        })?;
        if let Some(mask) = process.umask_to_set() {
            set_umask(mask);
        }
        let launch = if process.is_daemon() && !config.check_only() {
            Launch::background(config.log.function.is_none() && config.log.target == LogTarget::Stderr)?
        } else {
            Launch::foreground()
        };
        Ok(Self { launch, privileges, passed })
    }

    /// Lets every signal through, whatever the process was started with; to be called when they are caught.
    pub(super) fn unblock_signals(&self) {
        unblock_signals();
    }

    /// The listeners as they are to be opened.
    pub(super) fn listen(&self, config: &Config) -> Vec<ListenAt> {
        self.privileges.own_sockets(&config.listen)
    }

    /// The descriptors that the service manager has passed, once.
    pub(super) fn passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    /// Becomes the user that serves; everything that needs more rights has been done.
    ///
    /// # Errors
    /// As [`Privileges::give_up`].
    pub(super) fn give_up_privileges(&self, log: Option<&Logger>) -> Result<()> {
        self.privileges.give_up(log)
    }

    /// Tells whoever waits for it that the server is about to serve.
    ///
    /// # Errors
    /// As [`Launch::ready`].
    pub(super) fn ready(&mut self) -> Result<()> {
        self.launch.ready()
    }
}
