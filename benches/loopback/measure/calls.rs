//! How many system calls a process makes, and how many of them read or write: by the kernel's tracepoint through `perf`, which hardly slows it down, or else
//! by `strace`, under which it is many times slower and so finds more events in each wait.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::{fmt, io};

use super::{sys, wrong};

/// How many calls there were.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) all: u64,
    pub(crate) recvs: u64,
    pub(crate) sends: u64,
}

/// A count that is under way.
pub(crate) struct Calls {
    tool: Tool,
    process: Process,
    /// Where perf is told to begin and to stop, and says that it has.
    control: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Perf,
    Strace,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perf => "perf",
            Self::Strace => "strace",
        })
    }
}

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The better of the tools that work here.
pub(crate) fn tool() -> Option<Tool> {
    static TOOL: OnceLock<Option<Tool>> = OnceLock::new();
    let works = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    *TOOL.get_or_init(|| {
        if works(Command::new("perf").args(["stat", "-e", &events(), "true"])) {
            Some(Tool::Perf)
        } else if works(Command::new("strace").args(["-o", "/dev/null", "true"])) {
            Some(Tool::Strace)
        } else {
            None
        }
    })
}

impl Calls {
    /// Counts the calls of all threads of that process from now on.
    pub(crate) fn count(pid: u32) -> io::Result<Self> {
        let tool = tool().ok_or_else(|| wrong("neither perf nor strace works here"))?;
        let mut command = match tool {
            Tool::Perf => {
                let mut perf = Command::new("perf");
                perf.args(["stat", "-x", ",", "-e", &events(), "-D", "-1", "--control", "fd:0,1", "-p"]);
                perf.arg(pid.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
                perf
            }
            Tool::Strace => {
                let mut strace = Command::new("strace");
                strace.args(["-c", "-f", "-p", &pid.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
                strace
            }
        };
        sys::bind_child(&mut command, None);
        let mut process = Process(command.stderr(Stdio::piped()).spawn()?);
        let control = process.0.stdin.take().zip(process.0.stdout.take().map(BufReader::new));
        let mut calls = Self { tool, process, control };
        match tool {
            Tool::Perf => calls.tell("enable")?,
            Tool::Strace => calls.wait_for_strace()?,
        }
        Ok(calls)
    }

    /// Stops; how many there were.
    pub(crate) fn end(mut self) -> io::Result<Counts> {
        if self.tool == Tool::Perf {
            self.tell("disable")?;
        }
        sys::interrupt(self.process.0.id())?;
        let mut report = String::new();
        if let Some(mut stderr) = self.process.0.stderr.take() {
            stderr.read_to_string(&mut report)?;
        }
        let mut counts = Counts::default();
        for line in report.lines() {
            // perf: count, unit, event. strace: % time, seconds, usecs/call, calls, errors if any, the name.
            let (count, name) = match self.tool {
                Tool::Perf => (line.split(',').next(), line.split(',').nth(2)),
                Tool::Strace => (
                    line.split_whitespace().nth(3),
                    line.split_whitespace().last().filter(|name| *name != "|"),
                ),
            };
            let (Some(Ok(count)), Some(name)) = (count.map(str::parse::<u64>), name) else { continue };
            let name = name.strip_prefix(ENTER).unwrap_or(name);
            match name {
                ENTERED | "total" => counts.all = count,
                _ if RECVS.contains(&name) => counts.recvs += count,
                _ if SENDS.contains(&name) => counts.sends += count,
                _ => {}
            }
        }
        if counts.all == 0 {
            Err(wrong(format!("{} says: {}", self.tool, report.trim())))
        } else {
            Ok(counts)
        }
    }

    fn tell(&mut self, what: &str) -> io::Result<()> {
        let Some((orders, answers)) = self.control.as_mut() else { return Ok(()) };
        writeln!(orders, "{what}")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        // A zero byte stands after the newline of the answer before.
        match answer.contains("ack") {
            true => Ok(()),
            false => Err(wrong(format!("perf does not {what} counting"))),
        }
    }

    /// Until it says that it holds the process.
    fn wait_for_strace(&mut self) -> io::Result<()> {
        let Some(stderr) = self.process.0.stderr.as_mut() else { return Ok(()) };
        let mut said = Vec::new();
        let mut byte = [0];
        while stderr.read(&mut byte)? > 0 {
            said.push(byte[0]);
            if byte == *b"\n" && String::from_utf8_lossy(&said).contains(" attached") {
                return Ok(());
            }
        }
        Err(wrong(format!("strace says: {}", String::from_utf8_lossy(&said).trim())))
    }
}

const ENTERED: &str = "raw_syscalls:sys_enter";
/// Before the name of a call.
const ENTER: &str = "syscalls:sys_enter_";
const RECVS: &[&str] = &["recvfrom", "recvmsg", "read", "readv"];
const SENDS: &[&str] = &["sendto", "sendmsg", "write", "writev"];

/// What perf counts.
fn events() -> String {
    let names = RECVS.iter().chain(SENDS).map(|name| format!(",{ENTER}{name}"));
    ENTERED.to_owned() + &names.collect::<String>()
}
