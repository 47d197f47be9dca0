//! The server as a process: its id, whether it lives, what it holds, and what it says about its restarts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal;
use nix::unistd::Pid;

/// How to find the process of the server.
#[derive(Debug, Clone)]
pub(crate) enum Process {
    Pid(i32),
    /// The file is read again before each signal, since the id may change.
    PidFile(PathBuf),
}

/// What a server says about its restarts, in the file beside its pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Restarts that succeeded.
    pub(crate) generation: u64,
    /// Another one for each attempt that is over, well or not.
    pub(crate) attempt: u64,
    /// Whether the last one succeeded.
    pub(crate) is_ok: bool,
    /// Whether one is under way.
    pub(crate) is_busy: bool,
}

/// What a process holds, from `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) rss_kib: u64,
}

impl Process {
    /// The id of the process now.
    pub(crate) fn pid(&self) -> Result<Pid, String> {
        match self {
            Self::Pid(pid) => Ok(Pid::from_raw(*pid)),
            Self::PidFile(path) => {
                let text =
                    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                // 0 and negative numbers would name groups of processes.
                let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
                pid.map(Pid::from_raw).ok_or_else(|| format!("{}: no pid in it", path.display()))
            }
        }
    }

    /// The file in which the server says how its restarts go: `FILE.status` beside the pid file.
    pub(crate) fn status_file(&self) -> Option<PathBuf> {
        match self {
            Self::Pid(_) => None,
            Self::PidFile(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".status");
                Some(name.into())
            }
        }
    }
}

impl Status {
    /// Reads lines `key = value`: `generation`, and if they are there `restarts_started`, `ok` and `busy`. `None` if the
    /// file or its key `generation` is not there. What else stands there does not matter.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let number = |wanted: &str| -> Option<u64> {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs.find(|(key, _)| key.trim() == wanted)?.1.trim().parse().ok()
        };
        let generation = number("generation")?;
        Some(Self {
            generation,
            attempt: number("restarts_started").unwrap_or(generation),
            is_ok: number("ok").unwrap_or(1) != 0,
            is_busy: number("busy").unwrap_or(0) != 0,
        })
    }
}

/// Whether the process is there and is no zombie.
pub(crate) fn is_alive(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // proc(5): the state stands after the name, which is in parentheses.
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => signal::kill(pid, None).is_ok() && !Path::new("/proc/self/stat").exists(),
    }
}

/// What changes when the process executes a program, even the same one: its id and the address on its stack at which
/// the system has put random bytes, which is another one each time. `None` where there is no `/proc`, where it belongs
/// to somebody else, where addresses are not random, and in the moment of the change.
pub(crate) fn image(pid: Pid) -> Option<(Pid, usize)> {
    let is_random = fs::read_to_string("/proc/sys/kernel/randomize_va_space").ok()?.trim() != "0";
    let vector = fs::read(format!("/proc/{pid}/auxv")).ok().filter(|_| is_random)?;
    // proc(5): pairs of words, a key and its value.
    let words: Vec<usize> = vector
        .chunks_exact(size_of::<usize>())
        .filter_map(|word| word.try_into().ok().map(usize::from_ne_bytes))
        .collect();
    let random = words.chunks_exact(2).find(|pair| pair[0] == AT_RANDOM && pair[1] != 0)?;
    Some((pid, random[1]))
}

/// What the process holds; `None` where there is no `/proc` or it belongs to somebody else.
pub(crate) fn held(pid: Pid) -> Option<Held> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(Held { descriptors, rss_kib: line.split_whitespace().next()?.parse().ok()? })
}

/// A server whose process is missing for so long is gone.
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(1);
/// The key of getauxval(3) for the address of the random bytes.
const AT_RANDOM: usize = 25;
