//! The servers that the load tool is tried against, and a script that restarts.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{SockRef, Socket};

use crate::common::lineload::{Report, lineload};
use crate::common::{Child, TempDir};

/// What a server does wrong, once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// With the 1000th line of a live client:
    DropByte,
    DropLine,
    Swap,
    Repeat,
    Change,
    Close,
    Reset,
    Silence,
    /// The last line once more, when a live client has said all.
    Parting,
    /// The same with the first line of a new connection.
    New(&'static Self),
}

/// One server.
#[derive(Debug)]
pub(crate) struct State {
    /// The first so many connections are the live ones.
    live: usize,
    fault: Fault,
    is_done: AtomicBool,
    /// Lines answered to live clients.
    pub(crate) lines: AtomicU64,
}

/// What comes after a fault.
enum Next {
    GoOn,
    End,
}

pub(crate) fn serve(fault: Fault) -> SocketAddr {
    let (listener, address) = listener();
    let served = Arc::new(State::new(LIVE, fault));
    // The thread waits for clients until the test process ends.
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let (Ok(stream), served) = (stream, Arc::clone(&served)) else { return };
            thread::spawn(move || served.talk(&Socket::from(stream), index));
        }
    });
    address
}

pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the kernel has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    (listener, address)
}

impl State {
    pub(crate) fn new(live: usize, fault: Fault) -> Self {
        Self { live, fault, is_done: AtomicBool::new(false), lines: AtomicU64::new(0) }
    }

    /// Answers lines to the end of the stream; an error is the client's.
    pub(crate) fn talk(&self, socket: &Socket, index: usize) {
        let _ = self.answer(socket, index);
    }

    fn answer(&self, mut socket: &Socket, index: usize) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * 1024, socket);
        let mut line = Vec::new();
        for number in 1.. {
            let last = std::mem::take(&mut line);
            if reader.read_until(b'\n', &mut line)? == 0 {
                if matches!(self.fault, Fault::Parting) && index < self.live && self.is_first() {
                    socket.write_all(&last)?;
                }
                return Ok(());
            }
            let is_live = index < self.live;
            let fault = match self.fault {
                Fault::New(fault) if !is_live && !line.starts_with(b"control ") => *fault,
                fault if is_live && number >= 1000 => fault,
                _ => Fault::None,
            };
            if !matches!(fault, Fault::None | Fault::New(_) | Fault::Parting) && self.is_first() {
                if let Next::End = commit(fault, &mut reader, socket, &line)? {
                    return Ok(());
                }
            } else {
                socket.write_all(&line)?;
            }
            self.lines.fetch_add(u64::from(is_live), Ordering::SeqCst);
        }
        Ok(())
    }

    fn is_first(&self) -> bool {
        !self.is_done.swap(true, Ordering::SeqCst)
    }
}

/// Makes the fault with `line`.
fn commit(fault: Fault, reader: &mut impl BufRead, mut socket: &Socket, line: &[u8]) -> io::Result<Next> {
    match fault {
        Fault::DropByte => socket.write_all(&line[1..])?,
        Fault::DropLine => {}
        Fault::Swap => {
            let mut next = Vec::new();
            reader.read_until(b'\n', &mut next)?;
            socket.write_all(&[&next, line].concat())?;
        }
        Fault::Repeat => socket.write_all(&[line, line].concat())?,
        Fault::Change => socket.write_all(&[b"\x01", &line[1..]].concat())?,
        Fault::Close => {
            // The socket itself stays until the client has gone: with unread bytes its end would be a reset.
            socket.shutdown(Shutdown::Write)?;
            reader.read_to_end(&mut Vec::new())?;
            return Ok(Next::End);
        }
        Fault::Reset => {
            SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
            return Ok(Next::End);
        }
        Fault::Silence => {
            reader.read_to_end(&mut Vec::new())?;
            return Ok(Next::End);
        }
        Fault::None | Fault::Parting | Fault::New(_) => unreachable!("no fault that begins with a line"),
    }
    Ok(Next::GoOn)
}

/// Runs the tool against a server of the test.
#[track_caller]
pub(crate) fn load(address: SocketAddr) -> Report {
    load_with(address, &[])
}

#[track_caller]
pub(crate) fn load_with(address: SocketAddr, arguments: &[&str]) -> Report {
    lineload(&[&LOAD, arguments, &[&address.to_string()]].concat())
}

/// A script that stands for a server with restarts, with its files in a directory of its own.
pub(crate) struct Restarted {
    _script: Child,
    directory: TempDir,
    address: SocketAddr,
}

impl Restarted {
    pub(crate) fn start(script: &str) -> Self {
        Self::start_with(script, "")
    }

    /// `argument` is the second one of the script; the first counts its restarts.
    pub(crate) fn start_with(script: &str, argument: &str) -> Self {
        let directory = TempDir::new();
        let script = format!("{script}\n{WAIT}");
        fs::write(directory.path().join("script"), script).expect("a fresh directory is writable");
        let mut command = Command::new("sh");
        command.args(["script", "0", argument]).current_dir(directory.path());
        let mut child = Child::spawn(&mut command);
        fs::write(directory.path().join("pid"), child.id().to_string()).expect("it is still writable");
        child.wait_for("ready");
        Self { _script: child, directory, address: serve(Fault::None) }
    }

    #[track_caller]
    pub(crate) fn load(&self, arguments: &[&str]) -> Report {
        let pid_file = self.directory.path().join("pid");
        let pid_file = pid_file.to_str().expect("a path of the test is text");
        let address = self.address.to_string();
        let load = ["--live", "4", "--rate", "50", "--line-rate", "1000", "--timeout", "30"];
        lineload(&[&load, arguments, &["--pid-file", pid_file, &address]].concat())
    }
}

/// Live clients, and lines that they say together: at least one of them says a quarter.
pub(crate) const LIVE: usize = 4;
pub(crate) const LINES: u64 = 20_000;
/// The load for a server of the test.
pub(crate) const LOAD: [&str; 10] =
    ["--live", "4", "--rate", "50", "--line-rate", "0", "--lines", "20000", "--timeout", "30"];
/// Executes itself again for each HUP, and counts that in the status file. The trap is set before the status says so.
pub(crate) const SCRIPT: &str = r#"
n=$1
trap 'exec sh script $((n + 1)) $2' HUP
printf "generation = $n\nbusy = 0\n" > pid.status
[ $n = 0 ] && echo ready >&2
"#;
/// Waits for signals. A wait that a signal interrupts would miss one that comes just before it.
const WAIT: &str = "while :; do sleep 0.05; done\n";
