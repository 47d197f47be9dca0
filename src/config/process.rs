//! What the process is and how it restarts: the values that `user`, `pid_file`, `background`, `probe_seconds` and their
//! like become.
//!
//! Nothing is looked up or opened here; `process` does that.

use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(feature = "config")]
use super::base::Base;
#[cfg(feature = "config")]
use super::draft::Draft;
#[cfg(feature = "config")]
use super::node::{At, Kind, Mistakes, Node};

/// Who the process runs as, where, and how it is found again. Everything but [`ProcessConfig::on_hup`] needs the feature
/// `daemon`; without it a value is refused.
///
/// A restart in place keeps all of it: nothing here is done a second time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessConfig {
    /// The user to become when the listeners are open: a name of the system's, or a number. With it go all groups of the
    /// user before; none of those stay. Default: whoever started the process. Anybody but root can name only itself.
    pub user: Option<String>,
    /// The group to become then: a name or a number; more of them, separated by commas or blanks, are added to the
    /// supplementary ones. Default: the primary group of [`ProcessConfig::user`], if one is given.
    pub group: Option<String>,
    /// The directory that becomes the root, absolute, when the listeners are open and before the user changes; needs
    /// root. Default: none. Paths outside it can no longer be reached: a log is not reopened, the paths of Unix sockets
    /// stay when the server stops, and the pid file stays as an empty file. A restart starts the program by the path that
    /// it was started by: where it, the libraries that it loads, or its configuration file are not inside under the same
    /// paths, the restart is refused, and the server goes on. It needs no devices and no `/proc` there.
    pub chroot: Option<PathBuf>,
    /// Go on in the background, in a session of its own. The process that was started waits until the server is about
    /// to serve and ends with status 0, or says what went wrong and ends with the server's status. Then standard input
    /// and output become `/dev/null`, the working directory `/`; standard error too, unless the log goes there.
    pub background: bool,
    /// The same as [`ProcessConfig::background`]. In Net::Server only this one makes a session and gives up the standard
    /// streams; without that a terminal that is closed takes its servers with it.
    pub setsid: bool,
    /// The file that holds the number of the process, absolute, and whose lock keeps a second server away; `--reload`
    /// and `--stop` find the server by it. Beside it stands `<pid_file>.status`. Both are made by the user that starts
    /// the server and stay that user's. Default: none.
    pub pid_file: Option<PathBuf>,
    /// Permission bits that new files do not get, in octal as `0o027`; those of the owner cannot be among them. Default:
    /// as it is, but `0o027` for a server in the background. A Unix socket with a `mode` of its own is not concerned.
    pub umask: Option<u32>,
    /// What SIGHUP does. Default: a restart that keeps every connection.
    pub on_hup: OnHup,
}

impl ProcessConfig {
    /// Whether the server leaves the process that was started: `background` or `setsid`.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.background || self.setsid
    }

    /// The umask to be set: the one asked for, 027 for a server in the background, or `None` to leave it.
    #[must_use]
    pub fn umask_to_set(&self) -> Option<u32> {
        self.umask.or_else(|| self.is_daemon().then_some(DAEMON_UMASK))
    }
}

/// What SIGHUP does.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnHup {
    /// Restarts the program in place, with the same process id and every connection. In a file: `"handover"`.
    #[default]
    Handover,
    /// Reads the configuration again, in the same image: the access lists and the tick are taken from it, and what the
    /// application's `reload_hook` takes; all else stays as it is. In a file: `"reload"`.
    Reload,
    /// Nothing. In a file: `"ignore"`.
    Ignore,
}

/// How long the steps of a restart may take, and how much it may carry. Past each of them the restart is given up and
/// the server goes on as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartConfig {
    /// For the new program to start on trial, read its configuration and open its listeners. Default 10 s. File:
    /// `probe_seconds`.
    pub probe_time: Duration,
    /// For the new program to take over. Default 5 s. File: `commit_seconds`.
    pub commit_time: Duration,
    /// For jobs of `offload` to end; the clients of those that have not are drained. Default 1 s. File:
    /// `quiesce_seconds`.
    pub quiesce_time: Duration,
    /// Most bytes of state, of all clients and the server together. Default 256 MiB.
    pub state_max_bytes: usize,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            probe_time: Duration::from_secs(10),
            commit_time: Duration::from_secs(5),
            quiesce_time: Duration::from_secs(1),
            state_max_bytes: 256 * 1024 * 1024,
        }
    }
}

/// What the command line asks to be done to a server that runs, instead of running one.
#[cfg(feature = "config")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) action: Action,
    /// `--wait`: until it is done.
    pub(crate) wait: bool,
}

/// What is done to it.
#[cfg(feature = "config")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// `--reload`
    Reload,
    /// `--stop`
    Stop,
}

/// What is wrong with `config`: the key at fault, and the sentence about it.
pub(super) fn check(config: &ProcessConfig) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (key, name) in [("user", &config.user), ("group", &config.group)] {
        if name.as_ref().is_some_and(|name| name.trim().is_empty() || name.contains('\0')) {
            found.push((key, "it is neither a name nor a number".to_owned()));
        }
    }
    for (key, path) in [("chroot", &config.chroot), ("pid_file", &config.pid_file)] {
        found.extend(path.as_deref().and_then(path_mistake).map(|what| (key, what)));
    }
    if let Some(path) = &config.pid_file {
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            found.push(("pid_file", format!("{} names no file", path.display())));
        }
    }
    if let Some(mask) = config.umask {
        found.extend(umask_mistake(mask).map(|what| ("umask", what)));
    }
    if !cfg!(feature = "daemon") {
        let set = [
            ("user", config.user.is_some()),
            ("group", config.group.is_some()),
            ("chroot", config.chroot.is_some()),
            ("background", config.background),
            ("setsid", config.setsid),
            ("pid_file", config.pid_file.is_some()),
            ("umask", config.umask.is_some()),
        ];
        found.extend(set.iter().filter(|(_, set)| *set).map(|(key, _)| (*key, NO_DAEMON.to_owned())));
    }
    found
}

/// The same for a restart.
pub(super) fn check_restart(config: &RestartConfig) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (key, time) in [("probe_seconds", config.probe_time), ("commit_seconds", config.commit_time)] {
        if time.is_zero() {
            found.push((key, "0 is too small: the new program needs some time".to_owned()));
        }
    }
    if config.state_max_bytes < STATE_MIN_BYTES {
        let bytes = config.state_max_bytes;
        found.push(("state_max_bytes", format!("{bytes} is too small: at least {STATE_MIN_BYTES}")));
    }
    found
}

fn path_mistake(path: &Path) -> Option<String> {
    let shown = path.display();
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        Some("the path has a zero byte".to_owned())
    } else if !path.is_absolute() {
        Some(format!("`{shown}` is no absolute path; begin it with /"))
    } else {
        None
    }
}

fn umask_mistake(mask: u32) -> Option<String> {
    if mask > 0o777 {
        Some(format!("{mask:#o} has more than permission bits; write it in octal, as \"027\""))
    } else if mask & 0o700 != 0 {
        Some(format!("{mask:#05o} would take from the server its own files; the first digit is 0"))
    } else {
        None
    }
}

/// The part of a draft that is about the process.
#[cfg(feature = "config")]
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessDraft {
    pub(super) config: ProcessConfig,
    pub(super) chroot: Option<String>,
    pub(super) pid_file: Option<String>,
    pub(super) restart: RestartConfig,
}

#[cfg(feature = "config")]
impl ProcessDraft {
    /// Makes paths absolute and checks everything.
    pub(super) fn finish(
        mut self,
        base: &Base,
        set_at: &std::collections::BTreeMap<&'static str, At>,
        mistakes: &mut Mistakes,
    ) -> (ProcessConfig, RestartConfig) {
        let mut path_of = |key: &'static str, text: Option<String>| {
            let made = base.absolute(Path::new(&text?));
            made.map_err(|what| mistakes.add_somewhere(key, set_at.get(key), what)).ok()
        };
        // A directory may be written with a slash at its end.
        self.config.chroot = path_of("chroot", self.chroot);
        self.config.pid_file = path_of("pid_file", self.pid_file);
        // Without the feature the option itself has been refused.
        let found = if cfg!(feature = "daemon") { check(&self.config) } else { Vec::new() };
        for (key, what) in found.into_iter().chain(check_restart(&self.restart)) {
            mistakes.add_somewhere(key, set_at.get(key), what);
        }
        (self.config, self.restart)
    }
}

/// Reads `umask`: octal digits as text, or an octal number.
#[cfg(feature = "config")]
pub(super) fn umask(draft: &mut Draft, node: &Node) -> Result<(), String> {
    let node = node.last();
    let mask = match (&node.kind, &node.at) {
        (Kind::Text(text) | Kind::Word(text), _) => {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            let octal = digits.bytes().all(|byte| byte.is_ascii_digit());
            u32::from_str_radix(digits, 8).ok().filter(|_| octal)
        }
        // 27 would be 0o033: nobody means that.
        (Kind::Int(0) | Kind::Octal(_), _) | (Kind::Int(_), At::Code | At::Default) => {
            node.count().ok().and_then(|bits| u32::try_from(bits).ok())
        }
        _ => None,
    };
    let mask = mask.ok_or_else(|| format!("{node} is no umask; write it in octal: \"027\" or 0o027"))?;
    draft.process.config.umask = Some(mask);
    Ok(())
}

/// Reads `on_hup`.
#[cfg(feature = "config")]
pub(super) fn on_hup(draft: &mut Draft, node: &Node) -> Result<(), String> {
    draft.process.config.on_hup = match node.text()? {
        "handover" => OnHup::Handover,
        "reload" => OnHup::Reload,
        "ignore" => OnHup::Ignore,
        _ => return Err(format!("{} is none of `handover`, `reload` and `ignore`", node.last())),
    };
    Ok(())
}

/// Of a server in the background: others get nothing, the group may read.
const DAEMON_UMASK: u32 = 0o027;
/// A server without clients has a few hundred bytes of state.
const STATE_MIN_BYTES: usize = 4096;
/// Also said by the option table.
pub(super) const NO_DAEMON: &str = "not available: this program was built without the feature `daemon`";
