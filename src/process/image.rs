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
}

impl Image {
    /// # Errors
    /// The system does not say which program this is.
    pub(super) fn of_process() -> io::Result<Self> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let directory = env::current_dir().ok();
        let running = env::current_exe()?;
        let program = match arguments.first().map(Path::new) {
            Some(called) if called.components().count() > 1 => {
                let called = std::path::absolute(called)?;
                if same_file(&called, &running) { called } else { running }
            }
            _ => running,
        };
        let own = |name: &OsString| OURS.iter().any(|ours| name == ours);
        let environment = env::vars_os().filter(|(name, _)| !own(name)).collect();
        Ok(Self { program, arguments, environment, directory })
    }

    /// Calls `work` in the working directory of the start, where relative paths mean what they meant. If that is gone,
    /// they mean nothing any more, and who reads them says so.
    pub(super) fn in_directory<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = env::current_dir();
        let moved = self.directory.as_ref().is_some_and(|then| env::set_current_dir(then).is_ok());
        let result = work();
        if let (true, Ok(now)) = (moved, now) {
            // It was there a moment ago.
            let _ = env::set_current_dir(now);
        }
        result
    }

    /// Argument and environment lists for `execve(2)`, with one variable more.
    ///
    /// # Errors
    /// None that a system allows: what came by `execve` holds no NUL byte.
    pub(super) fn lists(&self, name: &str, value: &str) -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let arguments: Result<Vec<CString>, _> =
            self.arguments.iter().map(|word| CString::new(word.as_bytes())).collect();
        let mut environment = Vec::with_capacity(self.environment.len() + 1);
        for (name, value) in &self.environment {
            environment.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        environment.push(CString::new(format!("{name}={value}"))?);
        Ok((program, arguments?, environment))
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

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Says to a new image what it is: see `handover/birth.rs`.
pub(super) const HANDOVER: &str = "LINEPLEX_HANDOVER";

/// Variables that concern one image only.
const OURS: [&str; 5] = [HANDOVER, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];
