//! Without the feature `systemd`: no manager is ever told anything. The other `notify.rs` says what each method means.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Notify;

#[allow(dead_code, reason = "what a restart and the watchdog need")]
impl Notify {
    pub(super) fn from_env() -> Self {
        Self
    }

    pub(super) fn is_active(&self) -> bool {
        false
    }

    pub(super) fn ready(&self, _status: &str) {}

    pub(super) fn reloading(&self, _status: &str) {}

    pub(super) fn reloaded(&self, _status: &str) {}

    pub(super) fn stopping(&self) {}

    pub(super) fn status(&self, _status: &str) {}

    pub(super) fn main_pid(&self, _pid: u32, _ready: bool) {}

    pub(super) fn barrier(&self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn watchdog(&self) {}

    pub(super) fn watchdog_period(&self) -> Option<Duration> {
        None
    }

    pub(super) fn store(&self, _listener: &str, _fd: BorrowedFd<'_>) {}

    pub(super) fn unstore(&self, _listener: &str) {}

    pub(super) fn forget(&self, _name: &str) {}
}
