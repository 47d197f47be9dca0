//! How this image of the program came to be: started afresh, as a probe, or as the heir of the image before it.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use super::link::Standby;
use super::listeners::{self, Described};
use super::trial::Trial;
use crate::config::Config;
use crate::logging;
use crate::mux::LoopReader;
use crate::process::image::{HANDOVER, Image};
use crate::process::pid_file::PidFile;
use crate::state::container::unpack;
use crate::state::{StateError, StateReader};
use crate::sys::daemon::{group_ids, user_ids};
use crate::sys::{self, Inherited};
use crate::{Error, ErrorKind, Result};

/// What this process is.
#[derive(Debug)]
pub(crate) enum Birth {
    /// Started by somebody.
    Fresh,
    /// Tries a restart for the image that serves, and is thrown away.
    Probe(Box<Trial>),
    /// Goes on where the image before it, in the same process, has stopped.
    Heir(Box<Heir>),
}

/// What the image before left.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) will: Will,
    state: Sections,
    standby: Option<Standby>,
}

/// The part of the state that is the process flow's.
#[derive(Debug)]
pub(crate) struct Will {
    /// Restarts that have succeeded before this one.
    pub(crate) generation: u64,
    /// When this restart began, on the system's monotonic clock.
    pub(crate) began: Duration,
    /// The configuration file as the probe had read it; a probe itself is told only which one is in force.
    pub(crate) conf: Option<(PathBuf, String)>,
    /// The path of the pid file, and the descriptors of that and of the status file.
    pub(crate) pid_files: Option<(PathBuf, [OwnedFd; 2])>,
    /// The log file: its path, and its descriptor, which a probe does not get.
    pub(crate) log: Option<(PathBuf, Option<OwnedFd>)>,
    pub(crate) listeners: Vec<Described>,
}

impl Birth {
    /// Looks at how this process was started, once, before it opens anything or has another thread. `image` takes up the
    /// paths that the image before was started with.
    ///
    /// # Errors
    /// What the image before left cannot be read. It must not be touched then: it is somebody else's again.
    pub(crate) fn of_process(image: &mut Image, inherited: &mut Inherited) -> Result<Self> {
        let Some(value) = std::env::var_os(HANDOVER) else { return Ok(Self::Fresh) };
        // Not possible beside other threads; then children see it, and it means nothing to another process.
        let _ = sys::remove_env(HANDOVER);
        let value = value.into_string().unwrap_or_default();
        if !is_its_callers()? {
            let what =
                "comes from whoever called this set-user-id program, which takes nothing over from him";
            return Err(Error::new(ErrorKind::State, format!("{HANDOVER} {what}")));
        }
        if value == PROBE {
            return Ok(Self::Probe(Box::new(Trial::begin(image)?)));
        }
        Heir::born(&value, image, inherited).map(|heir| Self::Heir(Box::new(heir)))
    }
}

impl Heir {
    /// Ends this process if what was left to it cannot be read, and says why to the standby.
    fn born(value: &str, image: &mut Image, inherited: &mut Inherited) -> Result<Self> {
        let fail = |what: &str| Error::new(ErrorKind::State, format!("{HANDOVER}={value}: {what}"));
        let broken =
            |error: io::Error| Error::with_source(ErrorKind::State, "the state cannot be taken over", error);
        let fields: Vec<i32> = value.split(':').filter_map(|field| field.parse().ok()).collect();
        let [FORM, pid, memory, commit, gone, standby] = fields[..] else {
            return Err(fail("is not what the image before writes"));
        };
        if pid != sys::own_pid() {
            return Err(fail("is meant for another process; unset it"));
        }
        let standby = match standby {
            0 => None,
            pid => {
                let (commit, gone) = (inherited.take(commit), inherited.take(gone));
                Some(Standby::inherited(commit.map_err(broken)?, gone.map_err(broken)?, pid))
            }
        };
        let mut read = || {
            let memory = inherited.take(memory).map_err(broken)?;
            let state = Sections::of(sys::read_sealed(&memory, STATE_READ_MAX).map_err(broken)?)?;
            let will = Will::read(&state, image, &mut |fd| inherited.take(fd))?;
            Ok((state, will))
        };
        match read() {
            Ok((state, will)) => Ok(Self { will, state, standby }),
            Err(error) => {
                let error: Error = error;
                logging::fatal(&error.chain());
                if let Some(standby) = standby {
                    standby.give_up(&error.chain());
                }
                // The application must not go on in this process as if its server had come to an end.
                sys::exit_now(error.exit_status().into())
            }
        }
    }

    /// The state of the loop.
    ///
    /// # Errors
    /// A section is missing.
    pub(crate) fn loop_reader(&self) -> Result<LoopReader<'_>> {
        self.state.loop_reader()
    }

    /// The pid file, as the image before had it.
    ///
    /// # Errors
    /// It is not what it was.
    pub(crate) fn pid_file(&mut self, config: &Config) -> Result<Option<PidFile>> {
        let Some((path, [file, status])) = self.will.pid_files.take() else {
            if config.process.pid_file.is_some() {
                log::warn!("pid_file is made only when the server is started anew");
            }
            return Ok(None);
        };
        if config.process.pid_file.as_ref() != Some(&path) {
            log::warn!(
                "the pid file stays {}: it changes only when the server is started anew",
                path.display()
            );
        }
        PidFile::adopt(file, status, &path).map(Some)
    }

    /// From now on this image serves: nothing may fail any more. Gives what is left of the image before.
    pub(crate) fn commit(&mut self) -> Option<Standby> {
        let standby = self.standby.take()?;
        standby.commit();
        Some(standby)
    }

    /// Tells the image before why this one gives up.
    pub(crate) fn give_up(&self, error: &Error) {
        if let Some(standby) = &self.standby {
            standby.give_up(&error.chain());
        }
    }
}

impl Will {
    pub(super) fn read(
        state: &Sections,
        image: &mut Image,
        take: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
    ) -> Result<Self> {
        let (mut process, mut there) = (state.section(PROCESS)?, state.section(LISTENERS)?);
        let program = process.bytes()?;
        image.set_paths(program, process.option(StateReader::bytes)?);
        let (generation, began) = (process.u64()?, process.duration()?);
        let conf = process.option(|from| Ok((path_of(from.bytes()?), from.text()?.to_owned())))?;
        let mut descriptor = |number: u32| {
            let fail = |error| Error::with_source(ErrorKind::State, "a file of the process flow", error);
            take(RawFd::try_from(number).unwrap_or(-1)).map_err(fail)
        };
        let pid_files = match process.option(|from| Ok((path_of(from.bytes()?), from.u32()?, from.u32()?)))? {
            Some((path, pid_file, status)) => Some((path, [descriptor(pid_file)?, descriptor(status)?])),
            None => None,
        };
        let log = match process.option(|from| Ok((path_of(from.bytes()?), from.option(StateReader::u32)?)))? {
            Some((path, number)) => Some((path, number.map(descriptor).transpose()?)),
            None => None,
        };
        let mut listeners = there.list(listeners::read)?;
        let new = there.u32()?;
        listeners.iter_mut().rev().zip(0..new).for_each(|(described, _)| described.is_new = true);
        Ok(Self { generation, began, conf, pid_files, log, listeners })
    }
}

/// A state that was checked as a whole.
#[derive(Debug)]
pub(super) struct Sections {
    bytes: Vec<u8>,
    places: Vec<(u16, Range<usize>)>,
}

impl Sections {
    /// # Errors
    /// It is not a state, or was damaged.
    pub(super) fn of(bytes: Vec<u8>) -> Result<Self> {
        let base = bytes.as_ptr().addr();
        let places = unpack(&bytes, &KNOWN)?
            .into_iter()
            .map(|(id, section)| {
                let start = section.as_ptr().addr() - base;
                (id, start..start + section.len())
            })
            .collect();
        Ok(Self { bytes, places })
    }

    fn section(&self, wanted: u16) -> Result<StateReader<'_>> {
        let place = self.places.iter().find(|(id, _)| *id == wanted);
        let (_, range) = place.ok_or_else(|| StateError::new(format!("section {wanted} is missing")))?;
        Ok(StateReader::of(&self.bytes[range.clone()]))
    }

    /// The part that is the loop's.
    ///
    /// # Errors
    /// A section is missing.
    pub(super) fn loop_reader(&self) -> Result<LoopReader<'_>> {
        Ok(LoopReader {
            shared: self.section(LOOP)?,
            server: self.section(SERVER)?.record()?,
            conns: self.section(CONNS)?,
            metrics: self.section(METRICS).ok(),
        })
    }
}

/// Whether this process has no other rights than whoever started it. A state says which program to run at the next
/// restart, and which process to end.
fn is_its_callers() -> Result<bool> {
    let fail = |error| Error::with_source(ErrorKind::Io, "cannot tell which user this is", error);
    let (users, groups) = (user_ids().map_err(fail)?, group_ids().map_err(fail)?);
    Ok(users.all(users.real) && groups.all(groups.real))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// Sections of a state.
pub(super) const PROCESS: u16 = 1;
pub(super) const LISTENERS: u16 = 2;
pub(super) const LOOP: u16 = 3;
pub(super) const SERVER: u16 = 4;
pub(super) const CONNS: u16 = 5;
pub(super) const METRICS: u16 = 6;
pub(super) const KNOWN: [u16; 6] = [PROCESS, LISTENERS, LOOP, SERVER, CONNS, METRICS];

/// The value of the variable for a probe, which has its channel as descriptor 0.
pub(super) const PROBE: &str = "probe";
/// The form of the value for an heir: the form, its pid, the state, two ends of pipes, the pid of the standby or 0.
pub(super) const FORM: i32 = 1;

/// Most that an heir reads: the image before has held its own limit.
const STATE_READ_MAX: u64 = 4 * 1024 * 1024 * 1024;
