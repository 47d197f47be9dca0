//! What the figures were taken on, in one line.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use crate::peers::run;

pub(crate) fn facts() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = run(Command::new("rustc").arg("--version")).unwrap_or_default();
    let rustc = rustc.split(' ').nth(1).unwrap_or("unknown");
    format!("{}, {cores} cores, Linux {}, rustc {rustc}", model.unwrap_or("unknown CPU"), kernel.trim())
}

/// How many programs wanted to run during the last minute. Above 0.3 others disturb the figures.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
