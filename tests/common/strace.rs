//! System calls that fail under a running process, by strace. Where it is missing or may not attach (Yama's
//! `ptrace_scope` above 0 without root) a test says `skipped` and passes, unless `LINEPLEX_REQUIRE_STRACE=1`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::Child;
use super::served::Served;

/// strace on one thread of a process that is already running: the count of `when` begins here.
pub(crate) struct Strace(Child);

impl Strace {
    /// Answers calls of `call` by the main thread as `how` says.
    #[track_caller]
    pub(crate) fn inject(served: &Served, call: &str, how: &str) -> Self {
        Self::of(served.server.id(), call, &format!("{call}:{how}"))
    }

    /// Traces `calls` of the thread `task`, and makes them fail as `inject` says if it says anything.
    #[track_caller]
    pub(crate) fn of(task: u32, calls: &str, inject: &str) -> Self {
        Self::started(&mut Command::new("strace"), task, calls, inject)
    }

    /// The same of every thread and child of the process `task`, now or later; each has a count of its own.
    #[track_caller]
    pub(crate) fn of_all(task: u32, calls: &str, inject: &str) -> Self {
        Self::started(Command::new("strace").arg("--follow-forks"), task, calls, inject)
    }

    #[track_caller]
    fn started(command: &mut Command, task: u32, calls: &str, inject: &str) -> Self {
        command.arg(format!("--attach={task}")).arg(format!("--trace={calls}"));
        if !inject.is_empty() {
            command.arg(format!("--inject={inject}"));
        }
        let mut strace = Child::spawn(command);
        // The thread has been told to stop by then, and makes no further call untraced.
        strace.wait_for("attached");
        Self(strace)
    }

    /// The next line with `text`; an error's name is there only if it was injected or really happened.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        self.0.wait_for(text)
    }

    /// Lets the thread go; all lines so far.
    #[track_caller]
    pub(crate) fn detach(mut self) -> Vec<String> {
        self.0.signal("TERM");
        self.0.expect_exit();
        self.0.expect_log().to_vec()
    }
}

/// Whether strace can be used here; says so if not, and fails if it must.
pub(crate) fn strace_works() -> bool {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    let works = WORKS.get_or_init(|| {
        // Ends when its input does.
        let mut target = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("cat: {error}"))?;
        let mut strace = Command::new("strace")
            .args([format!("--attach={}", target.id()), "--inject=close:error=EIO:when=1..3".to_owned()])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let mut line = String::new();
        let stderr = strace.stderr.take().expect("it was asked for");
        let read = BufReader::new(stderr).read_line(&mut line).map_err(|error| error.to_string());
        drop(target.stdin.take());
        for mut child in [strace, target] {
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
        }
        read?;
        if line.contains("attached") { Ok(()) } else { Err(line) }
    });
    if let Err(why) = works {
        let must = std::env::var_os("LINEPLEX_REQUIRE_STRACE").is_some_and(|value| value == "1");
        assert!(!must, "LINEPLEX_REQUIRE_STRACE=1, but: {why}");
        println!("skipped: {why}");
    }
    works.is_ok()
}
