//! System calls that fail in the course of a restart: it is refused, or done all the same, and nobody notices.
//!
//! Method: as tests/restart_fails.rs; besides, strace answers the n-th call of one kind, counted from the attaching just
//! before SIGHUP, with an error instead of making it, for n = 1, 2, ... until a restart makes fewer such calls: up to the
//! third, or as far as it goes with `LINEPLEX_LONG=1`. Traced is the process that serves, whose heir is the same process;
//! or every process of the restart, each with a count of its own. Not among the calls are those that cannot fail, those of
//! serving (tests/faults.rs), and those of the allocator, whose failure ends any Rust program. Where strace may not attach
//! these tests say `skipped` and pass (see tests/common/strace.rs).

#![cfg(target_os = "linux")]
#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "restart_fails/ground.rs"]
mod ground;

use common::served::long_form;
use common::strace::{Strace, strace_works};
use ground::{Ground, PATIENT};

#[test]
fn a_call_that_fails_in_the_image_that_serves_or_in_its_heir_costs_a_restart_at_most() {
    sweep(Strace::of);
}

#[test]
fn a_call_that_fails_in_a_probe_or_a_standby_costs_a_restart_at_most() {
    sweep(Strace::of_all);
}

/// How strace is attached.
type Attach = fn(u32, &str, &str) -> Strace;

#[track_caller]
fn sweep(attach: Attach) {
    if !strace_works() {
        return;
    }
    let mut ground = Ground::new(&PATIENT);
    let (mut done, mut failed) = (0, 0);
    for (call, error) in CALLS {
        for nth in 1..=if long_form() { 1000 } else { 3 } {
            let inject = format!("{call}:error={error}:when={nth}");
            let strace = attach(ground.pid.unsigned_abs(), call, &inject);
            let restarted = ground.restarts_or_fails("");
            let injected = strace.detach().iter().any(|line| line.contains("(INJECTED)"));
            (done, failed) = (done + u32::from(restarted), failed + u32::from(!restarted));
            if !injected {
                assert!(restarted, "{call}: it failed without a cause");
                break;
            }
        }
    }
    println!("{done} restarts done, {failed} refused or rolled back");
    ground.restarts();
    ground.stops();
}

const CALLS: [(&str, &str); 29] = [
    ("clone", "EAGAIN"),
    ("close_range", "ENOSYS"),
    ("dup2", "EBUSY"),
    ("epoll_create1", "EMFILE"),
    ("epoll_ctl", "ENOSPC"),
    ("eventfd2", "EMFILE"),
    ("execve", "ENOMEM"),
    ("fcntl", "EMFILE"),
    ("getcwd", "ENOENT"),
    ("getdents64", "EIO"),
    ("getsockname", "ENOBUFS"),
    ("getsockopt", "ENOBUFS"),
    ("kill", "EPERM"),
    ("lseek", "EINVAL"),
    ("memfd_create", "EMFILE"),
    // A file in the place of the memory.
    ("memfd_create", "ENOSYS"),
    ("openat", "EMFILE"),
    ("/^p?poll$", "ENOMEM"),
    ("pipe2", "EMFILE"),
    ("prctl", "EINVAL"),
    ("pread64", "EIO"),
    ("prlimit64", "EPERM"),
    ("read", "EIO"),
    ("readlink", "EACCES"),
    ("recvmsg", "ENOMEM"),
    ("sendmsg", "ENOBUFS"),
    ("setsockopt", "ENOMEM"),
    ("socketpair", "EMFILE"),
    ("wait4", "ECHILD"),
];
