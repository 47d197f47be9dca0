//! Processes and what outlives an exec: programs, signals, flags of descriptors. The rest is in [`sys`](super), where
//! `unsafe` is.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// How many threads this process has that can still do something; `None` where the system does not tell (without
/// `/proc`). One that has been waited for is on its list a moment longer, on a busy machine a long one.
pub(crate) fn thread_count() -> Option<usize> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let count =
        threads.filter(|thread| !thread.as_ref().is_ok_and(|thread| is_ending(&thread.path()))).count();
    (count > 0).then_some(count)
}

/// Whether the thread with that folder has come to its end and will not run again (`proc_pid_stat(5)`, the flag
/// `PF_EXITING` of the kernel).
fn is_ending(thread: &Path) -> bool {
    match std::fs::read_to_string(thread.join("stat")) {
        Ok(stat) => {
            // Behind the name, which stands in parentheses and may hold anything, the flags are the seventh.
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            let flags = fields.split(' ').nth(6).and_then(|flags| flags.parse::<u32>().ok());
            flags.is_some_and(|flags| flags & PF_EXITING != 0)
        }
        // It has gone from the list before it was opened, or since.
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)),
    }
}

/// Puts the program at `path` in the place of this one (`execve(2)`): same process, same descriptors but for those that
/// are close-on-exec, same blocked, pending and ignored signals. `argv` begins with a name for it, by custom; `env` is
/// its whole environment, each `name=value`. Comes back only when it failed, and nothing has changed then.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    match nix::unistd::execve(path, argv, env) {
        Err(errno) => errno.into(),
        Ok(never) => match never {},
    }
}

/// The number of this process.
pub(crate) fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Waits until the child `pid` has ended, and takes its status (`waitpid(2)`), which is there once.
///
/// # Errors
/// `ECHILD` when it is no child, or its status has been taken; `EINVAL` when a real-time signal ended it.
pub(crate) fn wait_for(pid: i32) -> io::Result<ExitStatus> {
    let pid = one_process(pid)?;
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(ExitStatus::from_raw(status << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ExitStatus::from_raw(signal as i32)),
            // Stopped, or gone on: not asked for, and not the end.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Sends a signal to the process `pid`; 0 sends none and asks whether it exists (`kill(2)`).
///
/// # Errors
/// `ESRCH` when there is none, `EPERM` when it is somebody else's; `InvalidInput` for a `pid` that means many processes
/// (0 and below) and for a signal that has no name.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    let signal = if signal == 0 { None } else { Some(named(signal)?) };
    Ok(nix::sys::signal::kill(one_process(pid)?, signal)?)
}

/// Sends a signal to this thread (`raise(3)`). Where the thread holds it back it stays pending for it, also across an exec,
/// though other threads would let it through.
///
/// # Errors
/// `InvalidInput` for a signal that has no name.
pub(crate) fn raise(signal: i32) -> io::Result<()> {
    Ok(nix::sys::signal::raise(named(signal)?)?)
}

/// Holds these signals back from this thread until they are unblocked: they then arrive, also after an exec. Threads
/// that are started later have them blocked as well.
///
/// # Errors
/// `InvalidInput` for a signal that has no name.
pub(crate) fn block_signals(signals: &[i32]) -> io::Result<()> {
    Ok(set_of(signals)?.thread_block()?)
}

/// Lets these signals through to this thread.
///
/// # Errors
/// As [`block_signals`].
pub(crate) fn unblock_signals(signals: &[i32]) -> io::Result<()> {
    Ok(set_of(signals)?.thread_unblock()?)
}

/// The signals that process `pid` has been sent and holds back (`proc_pid_status(5)`, `SigPnd` and `ShdPnd`); none where the
/// system does not tell, and when there is no such process. One that has ended is asked as well until its parent has waited
/// for it.
pub(crate) fn pending_signals(pid: i32) -> Vec<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks = ["SigPnd:", "ShdPnd:"].map(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    });
    let pending = masks[0] | masks[1];
    (1..64).filter(|signal| pending >> (signal - 1) & 1 != 0).collect()
}

/// Whether process `pid` is a zombie (`proc_pid_stat(5)`): to its parent it has ended, while another thread of it may still
/// hold its descriptors open for a moment. False where the system does not tell.
pub(crate) fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, which may hold anything, stands in parentheses before the state.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Whether `fd` ends with the next exec.
///
/// # Errors
/// As `fcntl(2)`, which has none for a descriptor that is open.
pub(crate) fn set_cloexec(fd: impl AsFd, on: bool) -> io::Result<()> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Gives standard input up: it reads its end from now on.
///
/// # Errors
/// No descriptors left.
pub(crate) fn close_stdin() -> io::Result<()> {
    // Unlike the null device, this is there in any chroot.
    let (ended, _) = super::pipe()?;
    Ok(nix::unistd::dup2_stdin(ended)?)
}

/// The time since some moment in the past that all processes of the system agree on, and that an exec does not change
/// (`CLOCK_MONOTONIC`).
///
/// # Panics
/// Where there is no such clock, which is no system that the standard library runs on.
pub(crate) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("std::time::Instant needs the same clock");
    now.into()
}

/// Has this process killed when the thread that started it ends, as it does with its process, where the system can do
/// that (`prctl(2)`, `PR_SET_PDEATHSIG`).
pub(crate) fn end_with_parent() {
    // A number that every system with this call knows.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

/// Keeps what this process has in memory from other processes of its user: no core is dumped (`setrlimit(2)`, `RLIMIT_CORE`),
/// and where the system can do it, none may look into it with a debugger (`prctl(2)`, `PR_SET_DUMPABLE`). The limit is
/// handed down to children and programs that it becomes, the other ends with the next exec: so every image says it again.
///
/// # Errors
/// As `setrlimit(2)`, which has none for a limit that is lowered.
#[cfg(feature = "auth")]
pub(crate) fn harden_process() -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};

    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

fn one_process(pid: i32) -> io::Result<Pid> {
    if pid > 0 {
        return Ok(Pid::from_raw(pid));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not the number of one process")))
}

fn set_of(signals: &[i32]) -> io::Result<SigSet> {
    signals.iter().map(|signal| named(*signal)).collect()
}

fn named(signal: i32) -> io::Result<Signal> {
    Signal::try_from(signal).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("there is no signal {signal} with a name"))
    })
}

/// From the first line of what a thread does in the kernel at its end (`include/linux/sched.h`).
const PF_EXITING: u32 = 4;

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_of_tests_has_more_than_one_thread() {
        let count = std::thread::spawn(thread_count).join().unwrap();
        assert!(count.is_none_or(|count| count >= 2), "{count:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_was_waited_for_is_ending_or_off_the_list() {
        for _ in 0..1000 {
            let id = || nix::unistd::gettid().to_string();
            let thread = std::thread::spawn(id).join().unwrap();
            assert!(is_ending(&Path::new("/proc/self/task").join(thread)));
        }
        assert!(!is_ending(Path::new("/proc/thread-self")));
    }

    #[test]
    fn exec_of_nothing_comes_back_with_the_reason() {
        let name = CString::new("/nonexistent/program").unwrap();
        let error = exec(&name, std::slice::from_ref(&name), &[]);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// A program with a pipe as its input, waited for by its number only.
    #[allow(clippy::zombie_processes, reason = "the test waits for it by its number")]
    fn start(script: &str) -> (i32, Option<std::process::ChildStdin>) {
        let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        (i32::try_from(child.id()).unwrap(), child.stdin)
    }

    #[test]
    fn a_child_is_waited_for_once_and_its_status_says_how_it_ended() {
        let (pid, _stdin) = start("exit 42");
        assert_eq!(wait_for(pid).unwrap().code(), Some(42));
        assert_eq!(wait_for(pid).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_child_that_is_killed_has_a_signal_as_its_status() {
        let (pid, _stdin) = start("read line");
        kill(pid, 0).unwrap();
        kill(pid, libc::SIGKILL).unwrap();
        assert_eq!(wait_for(pid).unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn many_processes_at_once_are_neither_killed_nor_waited_for() {
        for pid in [0, -1, i32::MIN] {
            assert_eq!(kill(pid, libc::SIGTERM).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(wait_for(pid).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(kill(own, 12_345).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_blocked_signal_is_blocked_in_this_thread_until_it_is_unblocked() {
        let blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGWINCH);
        assert!(!blocked());
        block_signals(&[libc::SIGWINCH, libc::SIGURG]).unwrap();
        assert!(blocked());
        assert!(std::thread::scope(|scope| scope.spawn(blocked).join().unwrap()), "a new thread has it too");
        unblock_signals(&[libc::SIGURG]).unwrap();
        assert!(blocked());
        unblock_signals(&[libc::SIGWINCH]).unwrap();
        assert!(!blocked());
        assert_eq!(block_signals(&[0]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_signal_that_is_held_back_is_pending_until_it_is_let_through() {
        let (pid, stdin) = start("trap : USR1; trap : HUP; kill -STOP $$; read line");
        let stopped = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().any(|line| line.starts_with("State:") && line.contains('T'))
        };
        while !stopped() {
            std::thread::yield_now();
        }
        assert!(pending_signals(pid).is_empty());
        kill(pid, libc::SIGUSR1).unwrap();
        kill(pid, libc::SIGHUP).unwrap();
        assert_eq!(pending_signals(pid), [libc::SIGHUP, libc::SIGUSR1]);
        kill(pid, libc::SIGCONT).unwrap();
        drop(stdin);
        wait_for(pid).unwrap();
        assert!(pending_signals(pid).is_empty(), "there is no such process any more");
    }

    #[cfg(feature = "signals")]
    #[test]
    fn a_signal_that_is_raised_while_it_is_blocked_waits_for_this_thread() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let came = std::sync::Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGURG, std::sync::Arc::clone(&came)).unwrap();
        block_signals(&[libc::SIGURG]).unwrap();
        raise(libc::SIGURG).unwrap();
        // Sent to the process, any thread of the tests would have taken it.
        std::thread::spawn(|| {}).join().unwrap();
        assert!(!came.load(Ordering::SeqCst));
        unblock_signals(&[libc::SIGURG]).unwrap();
        assert!(came.load(Ordering::SeqCst));
        assert_eq!(raise(0).unwrap_err().raw_os_error(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_that_has_ended_is_a_zombie_until_it_is_waited_for() {
        let (pid, stdin) = start("read line");
        assert!(!is_zombie(pid));
        drop(stdin);
        while !is_zombie(pid) {
            std::thread::yield_now();
        }
        wait_for(pid).unwrap();
        assert!(!is_zombie(pid), "there is no such process any more");
    }

    #[test]
    fn the_monotonic_clock_goes_forward() {
        let first = monotonic();
        let second = monotonic();
        assert!(first > Duration::ZERO && second >= first);
    }

    /// What [`a_hardened_process_dumps_no_core_and_can_read_itself`] does in a process of its own, as its effect is for good.
    #[cfg(all(feature = "auth", target_os = "linux"))]
    #[test]
    fn the_hardened_process_itself() {
        use nix::sys::resource::{Resource, getrlimit};

        if std::env::var_os(HARDENED).is_none() {
            return;
        }
        assert!(nix::sys::prctl::get_dumpable().unwrap());
        harden_process().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        // What a restart asks of its own process.
        assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() >= 3);
        assert!(thread_count().is_some() && std::env::current_exe().unwrap().exists());
        harden_process().unwrap();
        println!("hardened");
    }

    #[cfg(all(feature = "auth", target_os = "linux"))]
    #[test]
    fn a_hardened_process_dumps_no_core_and_can_read_itself() {
        let test = "sys::processes::tests::the_hardened_process_itself";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(HARDENED, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("hardened"), "{said}");
    }

    #[cfg(all(feature = "auth", target_os = "linux"))]
    const HARDENED: &str = "LINEPLEX_TEST_HARDENED";
}
