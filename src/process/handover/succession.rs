//! The moment of a restart: freeze, standby, exec. Nothing else runs.
//!
//! The image that serves forks a frozen copy of itself, the standby, and becomes the next image by `execve(2)`: same
//! process, same descriptors. The heir writes one byte to the standby when it has taken everything up, and the standby
//! ends. If the word does not come (the heir gives up, dies, or takes too long, and then it is killed), the standby
//! returns from here as if nothing had happened: it shares every descriptor, its poll included, and nobody has read or
//! written one of them meanwhile. So at any moment exactly one process may touch the clients.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use super::birth::{CONNS, FORM, KNOWN, LISTENERS, LOOP, METRICS, PROCESS, SERVER};
use super::link::{Standby, Verdict, link};
use super::trial::Approved;
use super::{Restart, listeners};
use crate::config::RestartConfig;
use crate::mux::{LoopState, Mux, Server};
use crate::process::around::Around;
use crate::process::image::HANDOVER;
use crate::signals::Signals;
use crate::slots::ConnId;
use crate::state::StateWriter;
use crate::state::container::{Section, pack, unpack};
use crate::sys::{self, Fork};
use crate::{Error, ErrorKind, Result};

/// Why this image goes on.
#[derive(Debug)]
pub(super) enum Stays {
    /// The next one was not started, or could not be.
    Kept(Error),
    /// It failed before it had committed, and this process, the standby, goes on in its place.
    TookOver(Error),
    /// A signal or a callback asks for the end of the server; it comes first.
    Stopped,
}

/// Becomes the next image. Returns only if this one goes on.
pub(super) fn hand_over<S: Server>(
    mux: &mut Mux<S>,
    restart: &Restart,
    approved: &Approved,
    around: &Around,
) -> Stays {
    let threads = mux.stop_threads();
    mux.part();
    let logging = around.stop_threads();
    if let Err(error) = Signals::block() {
        around.resume_threads();
        return Stays::Kept(Error::with_source(ErrorKind::Io, "cannot hold the signals back", error));
    }
    // Also what the last callbacks asked for.
    let stays = if mux.hold_signals() || mux.is_ending() {
        Stays::Stopped
    } else {
        let alone = threads && logging && sys::thread_count().is_none_or(|count| count == 1);
        let files = Files { pid_files: around.pid_files(), log: around.log(true) };
        match prepare(mux, restart, approved, &files) {
            // The last farewells may have asked for the end, too.
            Ok(_) if mux.is_ending() => Stays::Stopped,
            Ok((memory, kept)) => {
                Succession { restart, approved, files, alone, memory, kept }.run(mux, around)
            }
            Err(error) => Stays::Kept(error),
        }
    };
    around.resume_threads();
    let _ = Signals::unblock();
    stays
}

/// Writes the state down, reads it again to be sure, and seals it; with the connections that it has.
fn prepare<S: Server>(
    mux: &mut Mux<S>,
    restart: &Restart,
    approved: &Approved,
    files: &Files<'_>,
) -> Result<(OwnedFd, Vec<ConnId>)> {
    let fail = |error| Error::with_source(ErrorKind::Io, "the state cannot be written", error);
    let mut state = mux.state(usize::MAX)?;
    while mux.part_from(&state.turned) {
        state = mux.state(usize::MAX)?;
    }
    let packed = pack_state(&state, restart, mux, Some(approved), files);
    within_limit(packed.len(), &restart.limits)?;
    unpack(&packed, &KNOWN)?;
    Ok((sys::sealed_memory(c"lineplex-state", &packed).map_err(fail)?, state.kept))
}

/// Whether a state of so many bytes may be handed over.
pub(super) fn within_limit(bytes: usize, limits: &RestartConfig) -> Result<()> {
    let most = limits.state_max_bytes;
    if bytes <= most {
        return Ok(());
    }
    let what = format!("the state has {bytes} bytes, more than state_max_bytes = {most}");
    Err(Error::new(ErrorKind::State, what))
}

/// The sections of a state.
pub(super) fn pack_state<S: Server>(
    state: &LoopState,
    restart: &Restart,
    mux: &Mux<S>,
    approved: Option<&Approved>,
    files: &Files<'_>,
) -> Vec<u8> {
    let mut process = StateWriter::new();
    let (program, directory) = restart.image.paths();
    process.bytes(program).option(directory, |out, directory| {
        out.bytes(directory);
    });
    process.u64(restart.generation).duration(restart.began);
    let conf = match approved {
        Some(approved) => approved.conf.as_ref().map(|(path, text)| (path, text.as_str())),
        None => restart.image.conf_file.as_ref().map(|path| (path, "")),
    };
    process.option(conf, |out, (path, text)| {
        out.bytes(path.as_os_str().as_bytes()).text(text);
    });
    process.option(files.pid_files, |out, (path, files)| {
        out.bytes(path.as_os_str().as_bytes());
        for file in files {
            out.u32(file.as_raw_fd().unsigned_abs());
        }
    });
    process.option(files.log.as_ref(), |out, (path, file)| {
        out.bytes(path.as_os_str().as_bytes()).option(file.as_ref(), |out, file| {
            out.u32(file.as_raw_fd().unsigned_abs());
        });
    });
    let mut there = StateWriter::new();
    let added = approved.map_or(&[][..], |approved| &approved.added);
    let all = mux.listeners().chain(added.iter().map(|kept| (&kept.listener, false)));
    there.list(all.filter(|(listener, _)| listener.descriptor().is_some()), |out, (listener, paused)| {
        listeners::write(out, listener, paused);
    });
    there.u32(u32::try_from(added.len()).unwrap_or(u32::MAX));
    let mut server = StateWriter::new();
    server.record(&state.server);
    let sections = [
        (PROCESS, true, &process),
        (LISTENERS, true, &there),
        (LOOP, true, &state.shared),
        (SERVER, true, &server),
        (CONNS, true, &state.conns),
        (METRICS, false, &state.metrics),
    ];
    pack(&sections.map(|(id, critical, from)| Section { id, critical, bytes: from.as_bytes() }))
}

/// Open files that go along beside the sockets.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// The path of the pid file, and the descriptors of that and of the status file.
    pub(super) pid_files: Option<(&'a Path, [BorrowedFd<'a>; 2])>,
    /// The path of the log file, and its descriptor.
    pub(super) log: Option<(&'a Path, Option<OwnedFd>)>,
}

impl Files<'_> {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let log = self.log.iter().filter_map(|(_, file)| file.as_ref().map(AsFd::as_fd));
        self.pid_files.into_iter().flat_map(|(_, files)| files).chain(log)
    }
}

struct Succession<'a> {
    restart: &'a Restart,
    approved: &'a Approved,
    files: Files<'a>,
    /// No other thread runs, so that a copy of this process is whole.
    alone: bool,
    memory: OwnedFd,
    /// Connections that the state has.
    kept: Vec<ConnId>,
}

impl Succession<'_> {
    fn run<S: Server>(&self, mux: &mut Mux<S>, around: &Around) -> Stays {
        let standby = match self.standby(around) {
            Ok(Forked::Standby(why)) => return Stays::TookOver(why),
            Ok(Forked::Original(standby)) => standby,
            Err(error) => {
                return Stays::Kept(Error::with_source(ErrorKind::Io, "no standby can be had", error));
            }
        };
        if let Some(standby) = &standby {
            if let Err(error) = around.announce(standby.pid) {
                standby.dismiss();
                return Stays::Kept(Error::with_source(
                    ErrorKind::Io,
                    "the service manager does not answer",
                    error,
                ));
            }
        }
        // One that another thread, which does not hold it back, has taken since.
        let stopped = mux.hold_signals();
        let failed = (!stopped).then(|| self.exec(mux, standby.as_ref()));
        if let Some(standby) = &standby {
            standby.dismiss();
        }
        let Some(error) = failed else { return Stays::Stopped };
        let program = self.restart.image.program.display();
        Stays::Kept(Error::with_source(ErrorKind::Io, format!("cannot run {program}"), error))
    }

    /// Makes the standby, by two forks so that it is nobody's child who would be told of its end. None where it cannot
    /// be had and the probe must be enough.
    fn standby(&self, around: &Around) -> io::Result<Forked> {
        if sys::own_pid() == 1 || !self.alone {
            return Ok(Forked::Original(None));
        }
        let (mut standby, vigil) = link()?;
        match sys::fork()? {
            Fork::Parent(middle) => {
                drop(vigil);
                // How it ended says nothing, and only the standby itself can tell that it is there.
                let _ = sys::wait_for(middle);
                standby.meet()?;
                Ok(Forked::Original(Some(standby)))
            }
            Fork::Child => {
                drop(standby);
                // From here on nobody may come back from here who is not needed: two would serve.
                if !matches!(sys::fork(), Ok(Fork::Child)) || vigil.begin().is_err() {
                    sys::exit_now(0);
                }
                let limit = self.restart.limits.commit_time;
                match vigil.wait(limit + around.announce_time()) {
                    Verdict::Serve(why) => Ok(Forked::Standby(why)),
                    Verdict::Leave { committed } => {
                        around.hand_back(vigil.heir);
                        // The image before waits for this end, and an heir does not.
                        let patience = self.restart.loop_limits.stop_time + STOP_GRACE;
                        let status = vigil.leave(if committed { patience } else { Duration::ZERO });
                        let crash = || around.last_word("the new image died when it had just taken over");
                        sys::exit_now(status.unwrap_or_else(crash).into())
                    }
                }
            }
        }
    }

    /// Runs the next image in this process; the error if it cannot be.
    fn exec<S: Server>(&self, mux: &Mux<S>, standby: Option<&Standby>) -> io::Error {
        let memory = self.memory.as_fd();
        let mut passed: Vec<BorrowedFd<'_>> = vec![memory];
        passed.extend(standby.iter().flat_map(|standby| standby.descriptors()));
        passed.extend(self.files.descriptors());
        passed.extend(self.approved.added.iter().filter_map(|kept| kept.listener.descriptor()));
        passed.extend(mux.listeners().filter_map(|(listener, _)| listener.descriptor()));
        passed.extend(mux.descriptors(&self.kept));
        let [commit, gone] = standby.map_or([-1; 2], Standby::numbers);
        let (own, memory, pid) =
            (sys::own_pid(), memory.as_raw_fd(), standby.map_or(0, |standby| standby.pid));
        let value = format!("{FORM}:{own}:{memory}:{commit}:{gone}:{pid}");
        let (program, arguments, environment): (CString, _, _) =
            match self.restart.image.lists(HANDOVER, &value) {
                Ok(lists) => lists,
                Err(error) => return error,
            };
        let cleared = passed.iter().try_for_each(|fd| sys::set_cloexec(fd, false));
        let error = cleared.err().unwrap_or_else(|| sys::exec(&program, &arguments, &environment));
        for fd in &passed {
            // Nothing is wrong with them: the descriptors are ours and open.
            let _ = sys::set_cloexec(fd, true);
        }
        error
    }
}

enum Forked {
    Original(Option<Standby>),
    /// This process is the standby, and must serve; why.
    Standby(Error),
}

/// For a server to end, on top of the time in which it sends what it owes.
const STOP_GRACE: Duration = Duration::from_secs(5);
