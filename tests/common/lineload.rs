//! The load tool `examples/lineload`, run to its end, and what it reports.
//!
//! ```ignore
//! let report = lineload(&["--hups", "100", "--pid-file", pid_file, "--live", "200", &address]);
//! report.expect_clean();
//! assert_eq!(report.number("restarts"), 100.0);
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::process::{Command, Stdio};

use super::example;

/// What one run reported.
#[derive(Debug)]
pub(crate) struct Report {
    /// Its exit status: 0 nothing was lost, 1 something was or it could not run, 2 a wrong command line.
    pub(crate) status: Option<i32>,
    /// The `key = value` lines.
    values: BTreeMap<String, f64>,
    /// What it printed besides: failures one by one, errors.
    pub(crate) said: String,
}

/// Runs the load tool with `arguments` and waits for it. It bounds itself: by `--seconds`, or 10 s, with signals 600 s.
#[track_caller]
pub(crate) fn lineload(arguments: &[&str]) -> Report {
    let mut command = Command::new(example("lineload"));
    command.arg("--plain").args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout);
    let pairs = printed.lines().filter_map(|line| line.split_once(" = "));
    let values = pairs.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Report { status: output.status.code(), values, said }
}

impl Report {
    /// The number that it reported as `key`: `lines_lost`, `new_refused`, `restarts`... `lineload --plain` shows the
    /// keys. Fails the test if there is none.
    #[track_caller]
    pub(crate) fn number(&self, key: &str) -> f64 {
        let value = self.values.get(key);
        *value.unwrap_or_else(|| panic!("no {key} in {self}"))
    }

    /// Whether it reported a number as `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Fails unless nothing was lost, refused or broken and the process is the same.
    #[track_caller]
    pub(crate) fn expect_clean(&self) {
        assert!(self.status == Some(0) && self.number("clean") == 1.0, "{self}");
    }

    /// Fails unless it exited with 1 and these are the only losses that it reported, by their keys, with their numbers.
    #[track_caller]
    pub(crate) fn expect_losses(&self, losses: &[(&str, f64)]) {
        assert!(self.status == Some(1), "{self}");
        for key in LOSSES {
            let expected = losses.iter().find(|(name, _)| *name == key).map_or(0.0, |(_, number)| *number);
            assert!(self.number(key) == expected, "{key} is not {expected}: {self}");
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit status {:?}", self.status)?;
        self.values.iter().try_for_each(|(key, value)| writeln!(f, "  {key} = {value}"))?;
        self.said.lines().try_for_each(|line| writeln!(f, "  | {line}"))
    }
}

/// The keys of what can be lost.
const LOSSES: [&str; 15] = [
    "lines_lost",
    "broken_closed",
    "broken_reset",
    "broken_silent",
    "wrong_lost",
    "wrong_repeated",
    "wrong_reordered",
    "wrong_changed",
    "new_refused",
    "new_reset",
    "new_closed",
    "new_timed_out",
    "new_wrong",
    "new_failed",
    "control_broken",
];
