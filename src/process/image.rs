//! What this process was started with, kept for starting its next image: program, arguments, environment, directory.

use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As they were when the process began; what the application changes later is not handed on.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Absolute. Where the program was started by a path, that path: a link that is set to another version is followed.
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    /// None if it was gone already.
    pub(super) directory: Option<PathBuf>,
    /// The file that the configuration in force came from; set when that is known.
    pub(super) conf_file: Option<PathBuf>,
    /// The directory that this process is confined to, as the configuration in force says.
    pub(super) chroot: Option<PathBuf>,
    /// Its number then: another one than now in a standby that has taken over.
    pid: u32,
}

impl Image {
    pub(super) fn of_process() -> Self {
        let arguments: Vec<OsString> = env::args_os().collect();
        let called = arguments.first().map(PathBuf::from).unwrap_or_default();
        let program = program(called, env::current_exe().ok(), env::var_os("PATH"));
        let own = |name: &OsString| OURS.iter().any(|ours| name == ours);
        let environment = env::vars_os().filter(|(name, _)| !own(name)).collect();
        Self {
            program,
            arguments,
            environment,
            directory: env::current_dir().ok(),
            conf_file: None,
            chroot: None,
            pid: std::process::id(),
        }
    }

    /// As if that program had been started there.
    #[cfg(test)]
    pub(super) fn golden(program: &str, directory: &str) -> Self {
        let directory = Some(PathBuf::from(directory));
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory,
            conf_file: None,
            chroot: None,
            pid: 1,
        }
    }

    /// Argument and environment lists for `execve(2)`, with one variable more. The next image is watched as this one is,
    /// also when it is another process than the first.
    ///
    /// # Errors
    /// None that a system allows: what came by `execve` holds no NUL byte.
    pub(super) fn lists(&self, name: &str, value: &str) -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let arguments: Result<Vec<CString>, _> =
            self.arguments.iter().map(|word| CString::new(word.as_bytes())).collect();
        let mut environment = Vec::with_capacity(self.environment.len() + 1);
        let own = OsString::from(std::process::id().to_string());
        for (name, value) in &self.environment {
            let means_us = name == WATCHED && value.to_str() == Some(&self.pid.to_string());
            let value = if means_us { &own } else { value };
            environment.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        environment.push(CString::new(format!("{name}={value}"))?);
        Ok((program, arguments?, environment))
    }

    /// What to do when the program cannot be started for that reason, to follow the words that say so.
    pub(super) fn remedy(&self, error: &io::Error) -> String {
        match &self.chroot {
            Some(root) if error.kind() == io::ErrorKind::NotFound => {
                format!("; it and all that it loads must be inside the chroot {}", root.display())
            }
            _ => String::new(),
        }
    }

    /// The program and the directory as bytes, for the next image, to which relative arguments mean the same.
    pub(super) fn paths(&self) -> (&[u8], Option<&[u8]>) {
        let directory = self.directory.as_deref().map(|path| path.as_os_str().as_bytes());
        (self.program.as_os_str().as_bytes(), directory)
    }

    /// Takes up what [`paths`](Self::paths) gave in the image before.
    pub(super) fn set_paths(&mut self, program: &[u8], directory: Option<&[u8]>) {
        self.program = PathBuf::from(OsString::from_vec(program.to_vec()));
        self.directory = directory.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
    }
}

/// Where the program is that was started under the name `called`, of which the system says that it is `running`, unless
/// it has no `/proc`. If it is nowhere to be found, that name: a restart then says that it does not exist.
fn program(called: PathBuf, running: Option<PathBuf>, search: Option<OsString>) -> PathBuf {
    if called.components().count() > 1 {
        let called = std::path::absolute(&called).unwrap_or(called);
        return running.filter(|running| running.exists() && !same_file(&called, running)).unwrap_or(called);
    }
    running.unwrap_or_else(|| {
        let folders = search.iter().flat_map(env::split_paths);
        let found = folders.map(|folder| folder.join(&called)).find(|path| path.is_file());
        found.and_then(|path| std::path::absolute(path).ok()).unwrap_or(called)
    })
}

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Says to a new image what it is: see `handover/birth.rs`.
pub(super) const HANDOVER: &str = "LINEPLEX_HANDOVER";

/// Whom the service manager's watchdog means (`sd_watchdog_enabled(3)`).
const WATCHED: &str = "WATCHDOG_PID";

/// Variables that concern one image only.
const OURS: [&str; 5] = [HANDOVER, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

#[cfg(test)]
mod tests {
    use super::*;

    fn image(pid: u32, environment: &[(&str, &str)]) -> Image {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Image {
            program: "/bin/true".into(),
            arguments: Vec::new(),
            environment,
            directory: None,
            conf_file: None,
            chroot: None,
            pid,
        }
    }

    #[test]
    fn the_image_after_a_standby_that_took_over_is_watched_under_its_own_number() {
        let own = format!("WATCHDOG_PID={}", std::process::id());
        let listed = |pid: u32, value: &str| {
            let (_, _, environment) = image(pid, &[("WATCHDOG_PID", value)]).lists("A", "b").unwrap();
            environment[0].to_str().unwrap().to_owned()
        };
        assert_eq!(listed(12_345, "12345"), own);
        assert_eq!(listed(std::process::id(), &std::process::id().to_string()), own);
        assert_eq!(listed(12_345, "54321"), "WATCHDOG_PID=54321", "another process is meant");
    }

    #[test]
    fn a_program_is_found_where_it_was_called_and_without_proc_by_its_name() {
        let shell = PathBuf::from("/bin/sh");
        let real = fs::canonicalize(&shell).unwrap();
        assert_eq!(
            program(shell.clone(), Some(real.clone()), None),
            shell,
            "a link may lead elsewhere later"
        );
        assert_eq!(program("/bin/ls".into(), Some(real.clone()), None), real, "any name can be put first");
        assert_eq!(program("sh".into(), Some(real.clone()), None), real);
        assert_eq!(program(shell.clone(), Some("/bin/sh (deleted)".into()), None), shell);
        assert_eq!(program(shell.clone(), None, None), shell);
        assert_eq!(program("sh".into(), None, Some("/nonexistent:/bin".into())), shell);
        assert_eq!(
            program("no such program".into(), None, Some("/bin".into())),
            Path::new("no such program")
        );
    }
}
