//! The probe: a process of the next image that tries the restart while this one serves. Both ends of it.
//!
//! The channel is a pair of sockets that keep messages apart; the probe has one as its descriptor 0. The image that
//! serves sends a sample of its state and its listeners. The probe runs the hooks of configure and bind with the new
//! configuration, opens the listeners that are new, tries to take up the sample, and answers `no` and why, or `ok`, the
//! bytes of the configuration file that it has read, and the new listeners. Then it ends.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::birth::{PROBE, Sections, Will};
use super::link::TEXT_MAX;
use super::listeners::{self, Described, Kept, Sorted};
use crate::config::{Config, Limits};
use crate::logging;
use crate::mux::{Mux, Server};
use crate::process::image::{HANDOVER, Image};
use crate::state::container::{Section, pack, unpack};
use crate::state::{StateReader, StateWriter};
use crate::{Error, ErrorKind, Result, sys};

/// The probe's own side.
#[derive(Debug)]
pub(crate) struct Trial {
    channel: OwnedFd,
    state: Sections,
    /// The listeners, in the order of the state.
    descriptors: Vec<Option<OwnedFd>>,
    pub(crate) will: Will,
}

impl Trial {
    /// Receives what there is to try. If it cannot be read, this process ends, and says why to the image that serves.
    pub(super) fn begin(image: &mut Image) -> Result<Self> {
        // It has the listeners, and must not keep them if the image that serves is killed.
        sys::end_with_parent();
        let fail = |error: io::Error| Error::with_source(ErrorKind::State, "the probe has no channel", error);
        let channel = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
        sys::close_stdin().map_err(fail)?;
        match Self::receive(&channel, image) {
            Ok((state, descriptors, will)) => Ok(Self { channel, state, descriptors, will }),
            Err(error) => {
                logging::fatal(&error.chain());
                refuse(&channel, &error);
                sys::exit_now(error.exit_status().into())
            }
        }
    }

    fn receive(channel: &OwnedFd, image: &mut Image) -> Result<(Sections, Vec<Option<OwnedFd>>, Will)> {
        let fail =
            |error: io::Error| Error::with_source(ErrorKind::State, "the probe is sent nothing", error);
        let (mut memory, mut received) = (None, Vec::new());
        let mut expected = 0;
        let mut buffer = [0; 64];
        while memory.is_none() || received.len() < expected {
            let (length, descriptors) = sys::receive_with_fds(channel, &mut buffer).map_err(fail)?;
            if length == 0 {
                return Err(fail(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut descriptors = descriptors.into_iter();
            if memory.is_none() {
                let text = std::str::from_utf8(&buffer[..length]).unwrap_or("");
                expected = text
                    .parse()
                    .map_err(|_| Error::new(ErrorKind::State, "the image before speaks another language"))?;
                memory = descriptors.next();
            }
            received.extend(descriptors.map(Some));
        }
        let memory = memory.ok_or_else(|| fail(io::ErrorKind::UnexpectedEof.into()))?;
        let state = Sections::of(sys::read_sealed(&memory, SAMPLE_READ_MAX).map_err(fail)?)?;
        let mut none = |_| Err(io::ErrorKind::Unsupported.into());
        let will = Will::read(&state, image, &mut none)?;
        Ok((state, received, will))
    }

    /// Takes over the listeners that stay and opens those that are new.
    pub(crate) fn listeners(&mut self, config: &Config) -> Result<Sorted> {
        let there = std::mem::take(&mut self.will.listeners);
        let places: Vec<RawFd> = there.iter().map(|described| described.fd).collect();
        let descriptors = &mut self.descriptors;
        Sorted::sort(&config.listen, there, &config.limits, |fd| {
            let at = places.iter().position(|place| *place == fd);
            let found = at.and_then(|at| descriptors.get_mut(at)).and_then(Option::take);
            found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it was not handed over"))
        })
    }

    /// Tries to take up the sample of the state.
    pub(crate) fn rehearse<S: Server>(&self, server: &mut S) -> Result<()> {
        Mux::rehearse(server, self.state.loop_reader()?)
    }

    /// All is well: gives the image that serves what it needs for the restart.
    pub(crate) fn succeed(&self, config: &Config, sorted: &mut Sorted) -> Result<()> {
        let fail = |error: io::Error| Error::with_source(ErrorKind::Io, "the probe cannot answer", error);
        let mut answer = StateWriter::new();
        let conf = config.conf_file.as_ref().zip(config.conf_text());
        answer.option(conf, |out, (path, text)| {
            out.bytes(path.as_os_str().as_bytes()).text(text);
        });
        let added: Vec<&Kept> = sorted.added.iter().filter_map(|at| sorted.open.get(*at)).collect();
        answer.list(&added, |out, kept| {
            listeners::write(out, &kept.listener, false);
        });
        let packed = pack(&[Section { id: ANSWER, critical: true, bytes: answer.as_bytes() }]);
        let memory = sys::sealed_memory(c"lineplex-answer", &packed).map_err(fail)?;
        let descriptors: Vec<BorrowedFd<'_>> =
            added.iter().filter_map(|kept| kept.listener.descriptor()).collect();
        send(&self.channel, "ok", &memory, &descriptors).map_err(fail)?;
        for at in &sorted.added {
            if let Some(kept) = sorted.open.get_mut(*at) {
                kept.listener.keep_path();
            }
        }
        Ok(())
    }

    /// Something is wrong: says what.
    pub(crate) fn refuse(&self, error: &Error) {
        refuse(&self.channel, error);
    }
}

fn refuse(channel: &OwnedFd, error: &Error) {
    let mut message = b"no ".to_vec();
    message.extend(error.chain().bytes().take(TEXT_MAX));
    // If nobody listens any more, nobody needs to know.
    let _ = sys::send_with_fds(channel, &message, &[]);
}

/// The side of the image that serves.
#[derive(Debug)]
pub(super) struct Probe {
    child: Child,
    pub(super) channel: OwnedFd,
    received: Received,
    /// When its end of the channel was found closed.
    closed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Received {
    expected: Option<usize>,
    memory: Option<OwnedFd>,
    descriptors: Vec<OwnedFd>,
}

/// What a probe has found good.
#[derive(Debug)]
pub(super) struct Approved {
    pub(super) conf: Option<(PathBuf, String)>,
    /// Listeners that it has opened; their paths are removed if the restart does not happen.
    pub(super) added: Vec<Kept>,
}

impl Probe {
    /// Starts the next image and sends it `state` with the listeners in it.
    pub(super) fn start(image: &Image, state: &[u8], listeners: &[BorrowedFd<'_>]) -> Result<Self> {
        let fail = |error| {
            let what =
                format!("cannot start {} for a probe{}", image.program.display(), image.remedy(&error));
            Error::with_source(ErrorKind::Io, what, error)
        };
        let (ours, theirs) = sys::seqpacket_pair().map_err(fail)?;
        let memory = sys::sealed_memory(c"lineplex-sample", state).map_err(fail)?;
        let mut command = Command::new(&image.program);
        if let Some((name, words)) = image.arguments.split_first() {
            command.arg0(name).args(words);
        }
        let environment = image.environment.iter().filter(|(name, _)| name != OsStr::new("NOTIFY_SOCKET"));
        command.env_clear().envs(environment.map(|(name, value)| (name, value))).env(HANDOVER, PROBE);
        command.stdin(Stdio::from(theirs)).stdout(nowhere());
        let child = command.spawn().map_err(fail)?;
        // The command holds the other end: with it gone, the end of the probe is the end of the channel.
        drop(command);
        let probe = Self { child, channel: ours, received: Received::default(), closed: None };
        match send(&probe.channel, &listeners.len().to_string(), &memory, listeners) {
            // One that ended at once has said why, or its status does.
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                Err(fail(error))
            }
            _ => {
                // From here on nothing is waited for: the loop serves.
                SockRef::from(&probe.channel).set_nonblocking(true).map_err(fail)?;
                Ok(probe)
            }
        }
    }

    /// What it has answered; none if it has not, or not all.
    ///
    /// # Errors
    /// It refuses, or has ended without a word.
    pub(super) fn answer(&mut self, limits: &Limits) -> Option<Result<Approved>> {
        let mut buffer = vec![0; TEXT_MAX + 16];
        loop {
            match sys::receive_with_fds(&self.channel, &mut buffer) {
                Ok((0, _)) => return self.ended().map(Err),
                Ok((length, descriptors)) => match self.take(&buffer[..length], descriptors, limits) {
                    None => {}
                    done => return done,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // It has ended before it read everything; what it said comes behind this, told once.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => {
                    return Some(Err(Error::with_source(ErrorKind::Io, "the probe's answer", error)));
                }
            }
        }
    }

    fn take(&mut self, text: &[u8], descriptors: Vec<OwnedFd>, limits: &Limits) -> Option<Result<Approved>> {
        let mut descriptors = descriptors.into_iter();
        if let Some(why) = text.strip_prefix(b"no ") {
            let why = String::from_utf8_lossy(why).into_owned();
            return Some(Err(Error::new(ErrorKind::Config, why)));
        }
        let received = &mut self.received;
        if let Some(count) = text.strip_prefix(b"ok ") {
            received.expected = std::str::from_utf8(count).ok().and_then(|count| count.parse().ok());
            received.memory = descriptors.next();
        }
        received.descriptors.extend(descriptors);
        let (Some(expected), Some(memory)) = (received.expected, &received.memory) else {
            return Some(Err(Error::new(ErrorKind::State, "the probe's answer cannot be read")));
        };
        (received.descriptors.len() >= expected)
            .then(|| approve(memory, std::mem::take(&mut received.descriptors), limits))
    }

    /// When to ask again although nothing has come.
    pub(super) fn due(&self) -> Option<Instant> {
        self.closed.map(|_| Instant::now() + LOOK_TIME)
    }

    /// Its end of the channel is closed: it has ended, or is about to; none if it needs a moment more.
    fn ended(&mut self) -> Option<Error> {
        let since = *self.closed.get_or_insert_with(Instant::now);
        let how = match self.child.try_wait() {
            Ok(None) if since.elapsed() < END_TIME => return None,
            Ok(None) => {
                let what = "the new image closed its end in the probe without a word, and does not end";
                return Some(Error::new(ErrorKind::State, what));
            }
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let what = format!("the new image ended in the probe without a word ({how})");
        Some(Error::new(ErrorKind::State, what))
    }
}

impl Drop for Probe {
    /// It is not needed any more, whatever it does.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For what the hooks of a probe print, which the image that serves has printed: the null device. A chroot may have none,
/// and where the output of this process goes (in the background nowhere) is better than no restart.
fn nowhere() -> Stdio {
    File::options().write(true).open("/dev/null").map_or_else(|_| Stdio::inherit(), Stdio::from)
}

fn approve(memory: &OwnedFd, descriptors: Vec<OwnedFd>, limits: &Limits) -> Result<Approved> {
    let fail =
        |error: io::Error| Error::with_source(ErrorKind::State, "the probe's answer cannot be read", error);
    let bytes = sys::read_sealed(memory, SAMPLE_READ_MAX).map_err(fail)?;
    let sections = unpack(&bytes, &[ANSWER])?;
    let mut answer = StateReader::of(sections.first().map_or(&[][..], |(_, bytes)| bytes));
    let conf = answer.option(|from| {
        let path = PathBuf::from(OsStr::from_bytes(from.bytes()?));
        Ok((path, from.text()?.to_owned()))
    })?;
    let described: Vec<Described> = answer.list(listeners::read)?;
    if described.len() != descriptors.len() {
        return Err(Error::new(ErrorKind::State, "the probe's listeners did not all arrive"));
    }
    let added = described.into_iter().zip(descriptors).map(|(described, fd)| described.with(fd, limits));
    Ok(Approved { conf, added: added.collect::<Result<_>>()? })
}

/// Sends a first message with `memory` and the descriptors, and as many more as they need.
fn send(channel: &OwnedFd, word: &str, memory: &OwnedFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = if word == "ok" { format!("ok {}", descriptors.len()) } else { word.to_owned() };
    let (first, rest) = descriptors.split_at(descriptors.len().min(DESCRIPTORS_MAX - 1));
    let mut with_memory = vec![memory.as_fd()];
    with_memory.extend_from_slice(first);
    sys::send_with_fds(channel, text.as_bytes(), &with_memory)?;
    for chunk in rest.chunks(DESCRIPTORS_MAX) {
        sys::send_with_fds(channel, b"more", chunk)?;
    }
    Ok(())
}

/// For a probe that has closed its end to end itself, and between two looks whether it has.
const END_TIME: Duration = Duration::from_secs(1);
const LOOK_TIME: Duration = Duration::from_millis(2);
/// The one section of an answer.
const ANSWER: u16 = 16;
/// Descriptors that one message carries; the system takes 253.
const DESCRIPTORS_MAX: usize = 250;
/// A sample has at most a hundred clients, but the server's own state is whole.
const SAMPLE_READ_MAX: u64 = 4 * 1024 * 1024 * 1024;
