//! One connection as a record: what of it goes along in a restart.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::conn::{Conn, Flag, Phase, Rare, WriteSide};
use super::descriptors::Arrivals;
use super::peer::{ListenerName, Peer};
use super::timers::{Heard, TimerId, Timers};
use crate::buffer::{FD_BYTE, Input, Output};
use crate::config::Limits;
use crate::net::{Credentials, PeerAddr, Stream, StreamKind};
use crate::slots::ConnId;
use crate::state::{StateError, StateReader, StateWriter};

/// One moment, on the clock of this image and on the one that both images know.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) at: Instant,
    /// Of the system's monotonic clock.
    pub(super) stamp: Duration,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), stamp: crate::sys::monotonic() }
    }

    /// The moment that another image had stamped.
    pub(super) fn of(stamp: Duration) -> Self {
        // In this order, and in `now` in the other: what lies between two looks at the clock makes a timer late, never early.
        let passed = crate::sys::monotonic().saturating_sub(stamp);
        let now = Instant::now();
        Self { at: now.checked_sub(passed).unwrap_or(now), stamp }
    }

    fn left(&self, until: Instant) -> Duration {
        until.saturating_duration_since(self.at)
    }

    fn passed(&self, since: Instant) -> Duration {
        self.at.saturating_duration_since(since)
    }

    fn until(&self, left: Duration) -> Instant {
        self.at + left.min(super::TIME_MAX)
    }

    fn since(&self, passed: Duration) -> Instant {
        self.at.checked_sub(passed).unwrap_or(self.at)
    }
}

impl Timers {
    /// What is left of a timer at that moment.
    pub(super) fn left(&self, id: TimerId, clock: &Clock) -> Option<Duration> {
        self.wheel.deadline(id.name()).map(|at| clock.left(at))
    }
}

/// What a connection is to the next image.
pub(super) enum Role<'a> {
    /// Served by a client, who wrote this.
    Client(&'a Peer, StateWriter),
    /// Denied; it reads its farewell.
    Denied(&'a Peer),
    /// Refused over a limit; it reads why.
    Refused,
    /// Only its socket is left, and its place in the counts if a listener had taken it.
    Left(Option<PeerAddr>),
}

/// A record that was read. Nothing of it is believed before it is used.
pub(super) struct SavedConn<'a> {
    pub(super) id: ConnId,
    pub(super) fd: RawFd,
    pub(super) deadline: Option<Duration>,
    pub(super) guard: Option<Duration>,
    role: u8,
    peer: Option<Peer>,
    state: Option<StateReader<'a>>,
    kind: StreamKind,
    pub(super) phase: Phase,
    write_side: WriteSide,
    flags: u32,
    input: Option<(&'a [u8], u8, u32)>,
    output: &'a [u8],
    rare: Option<SavedRare>,
    passing: SavedPassing,
}

/// The descriptors that it holds.
#[derive(Default)]
struct SavedPassing {
    /// At most so many wait to be taken.
    most: u8,
    waiting: Vec<RawFd>,
    /// Each with the place of its byte in the output.
    unsent: Vec<(usize, RawFd)>,
}

#[derive(Default)]
struct SavedRare {
    linger: Option<Duration>,
    discarded: u64,
    heard: Option<Duration>,
    line_began: Option<Duration>,
    allowance: Option<(f64, Duration)>,
    throttled: Option<Duration>,
    stalled: Option<Duration>,
}

impl<'a> SavedConn<'a> {
    /// Writes a connection; false if it has no descriptor to go along with.
    pub(super) fn write(
        out: &mut StateWriter,
        id: ConnId,
        conn: &Conn,
        role: Role<'_>,
        timers: &Timers,
        clock: &Clock,
    ) -> bool {
        let Some(stream) = conn.stream.as_ref().filter(|_| conn.phase != Phase::Gone) else { return false };
        let mut record = StateWriter::new();
        record.conn(id).u32(stream.as_fd().as_raw_fd().unsigned_abs());
        record.u8(match stream.kind() {
            StreamKind::Tcp => 0,
            StreamKind::Unix => 1,
            StreamKind::Descriptor { was_blocking: false } => 2,
            StreamKind::Descriptor { was_blocking: true } => 3,
        });
        record.u8(match conn.phase {
            Phase::Opening | Phase::Open => 0,
            Phase::Draining => 1,
            Phase::Lingering | Phase::Gone => 2,
        });
        record.u8(match conn.write_side() {
            WriteSide::Open => 0,
            WriteSide::Ending => 1,
            WriteSide::Shut => 2,
        });
        record.u32(flags(conn));
        for timer in [TimerId::deadline(id), TimerId::guard(id)] {
            record.option(timers.left(timer, clock), |out, left| {
                out.duration(left);
            });
        }
        record.option(conn.held.as_deref(), |out, held| {
            let (marks, skipped) = held.marks();
            out.bytes(held.bytes()).u8(marks).u32(skipped);
        });
        write_output(&mut record, conn.output.as_deref());
        let heard = timers.when(conn.heard, clock.at).map(|since| clock.passed(since));
        let none = Rare::default();
        let rare = conn.rare.as_deref().or_else(|| heard.and(Some(&none)));
        record.option(rare, |out, rare| write_rare(out, rare, heard, clock));
        let passes = passes_fds(conn);
        write_role(&mut record, role, if passes { PASSES_FDS } else { 0 });
        if passes {
            write_passing(&mut record, conn);
        }
        out.record(&record);
        true
    }

    pub(super) fn read(from: &mut StateReader<'a>) -> Result<Self, StateError> {
        let mut record = from.record()?;
        let record = &mut record;
        let (id, fd) = (record.conn()?, read_fd(record)?);
        let kind = match record.u8()? {
            0 => StreamKind::Tcp,
            1 => StreamKind::Unix,
            kind @ (2 | 3) => StreamKind::Descriptor { was_blocking: kind == 3 },
            other => return Err(StateError::invalid("a kind of stream", other.into())),
        };
        let phase = match record.u8()? {
            0 => Phase::Open,
            1 => Phase::Draining,
            2 => Phase::Lingering,
            other => return Err(StateError::invalid("a phase", other.into())),
        };
        let write_side = match record.u8()? {
            0 => WriteSide::Open,
            1 => WriteSide::Ending,
            2 => WriteSide::Shut,
            other => return Err(StateError::invalid("a writing side", other.into())),
        };
        let flags = record.u32()?;
        let (deadline, guard) = (read_time(record)?, read_time(record)?);
        let input = record.option(|held| Ok((held.bytes()?, held.u8()?, held.u32()?)))?;
        let output = record.bytes()?;
        let rare = record.option(read_rare)?;
        let marked = record.u8()?;
        let role = marked & !PASSES_FDS;
        let peer = record.option(read_peer)?;
        let state = match role {
            CLIENT => Some(record.record()?),
            DENIED | REFUSED | LEFT => None,
            _ => return Err(StateError::invalid("a role", marked.into())),
        };
        let passing = match marked & PASSES_FDS {
            0 => SavedPassing::default(),
            _ => read_passing(record, output)?,
        };
        let fits = match role {
            CLIENT => phase == Phase::Open && peer.is_some(),
            DENIED => phase != Phase::Open && peer.is_some(),
            _ => phase != Phase::Open,
        };
        if !fits {
            return Err(StateError::invalid("a connection of role", role.into()));
        }
        Ok(Self {
            id,
            fd,
            deadline,
            guard,
            role,
            peer,
            state,
            kind,
            phase,
            write_side,
            flags,
            input,
            output,
            rare,
            passing,
        })
    }

    /// The descriptors that [`into_conn`](Self::into_conn) wants besides its own, in this order.
    pub(super) fn passed(&self) -> impl Iterator<Item = RawFd> {
        let unsent = self.passing.unsent.iter().map(|(_, fd)| *fd);
        self.passing.waiting.iter().copied().chain(unsent)
    }

    /// Whose client is to be made again, and from what.
    pub(super) fn client(&self) -> Option<(Peer, StateReader<'a>)> {
        Some((self.peer?, self.state.clone()?))
    }

    /// The address under which it counts against the limits per address.
    pub(super) fn counted(&self) -> Option<PeerAddr> {
        let peer = self.peer.as_ref()?;
        (self.role != CLIENT || peer.serial() > 0).then(|| peer.addr())
    }

    /// The connection again, with its descriptor and those that it [passed](Self::passed).
    pub(super) fn into_conn(
        self,
        fd: OwnedFd,
        passed: Vec<OwnedFd>,
        limits: &Limits,
        timers: &Timers,
        clock: &Clock,
    ) -> io::Result<Conn> {
        let stream = Stream::inherit(fd, self.kind)?;
        let mut conn = Conn::new(Some(stream), self.phase);
        conn.set_write_side(self.write_side);
        let flag = |flag: u32| self.flags & flag != 0;
        conn.set(Flag::INHERITED);
        conn.put(Flag::FRESH, flag(FRESH));
        conn.put(Flag::ENDING, flag(ENDING));
        conn.put(Flag::EOF_SEEN, flag(EOF_SEEN));
        conn.put(Flag::WOKEN, flag(WOKEN));
        conn.put(Flag::PAUSED, flag(PAUSED));
        conn.put(Flag::CHOKED, flag(CHOKED));
        conn.put(Flag::AGAIN, flag(AGAIN));
        conn.put(Flag::HOLD_OPEN, flag(HOLD_OPEN));
        if let Some((bytes, marks, skipped)) = self.input {
            let mut held = Box::new(Input::new(limits.line_max_bytes, limits.long_line));
            held.append(bytes);
            held.set_marks(marks, skipped);
            conn.held = Some(held);
        }
        let mut waiting = VecDeque::from(passed);
        let unsent = waiting.split_off(self.passing.waiting.len().min(waiting.len()));
        if !self.output.is_empty() {
            conn.output = Some(output_of(self.output, &self.passing.unsent, unsent));
        }
        conn.put(Flag::TAKES_FDS, self.passing.most > 0);
        let has_rare = self.rare.is_some() || self.role != CLIENT || self.passing.most > 0;
        let SavedRare { linger, discarded, heard, line_began, allowance, throttled, stalled } =
            self.rare.unwrap_or_default();
        conn.heard = heard.map_or(Heard::NEVER, |passed| timers.heard(clock.since(passed)));
        let rare = Rare {
            refused: self.role == REFUSED,
            linger_until: linger.map(|left| clock.until(left)),
            discarded: usize::try_from(discarded).unwrap_or(usize::MAX),
            line_began: line_began.map(|passed| clock.since(passed)),
            allowance: allowance.map(|(tokens, passed)| (tokens, clock.since(passed))),
            throttled: throttled.map(|left| clock.until(left)),
            stalled: stalled.map(|passed| clock.since(passed)),
            left: self.peer.as_ref().filter(|_| self.role == LEFT).map(Peer::addr),
            denied: self.peer.filter(|_| self.role == DENIED),
            late: flag(LATE),
            arrivals: Arrivals { most: self.passing.most, waiting },
            ..Rare::default()
        };
        if has_rare {
            conn.put(Flag::THROTTLED, rare.throttled.is_some());
            conn.rare = Some(Box::new(rare));
        }
        Ok(conn)
    }
}

fn flags(conn: &Conn) -> u32 {
    let late = conn.rare.as_ref().is_some_and(|rare| rare.late);
    [
        (conn.is(Flag::FRESH), FRESH),
        (conn.is(Flag::ENDING), ENDING),
        (conn.is(Flag::EOF_SEEN), EOF_SEEN),
        (conn.is(Flag::WOKEN), WOKEN),
        (conn.is(Flag::PAUSED), PAUSED),
        (conn.is(Flag::CHOKED), CHOKED),
        (conn.is(Flag::AGAIN), AGAIN),
        (conn.is(Flag::HOLD_OPEN), HOLD_OPEN),
        (late, LATE),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .fold(0, |flags, (_, flag)| flags | flag)
}

fn write_output(out: &mut StateWriter, output: Option<&Output>) {
    match output {
        None => out.bytes(&[]),
        Some(output) => match output.single() {
            Some(bytes) => out.bytes(bytes),
            None => out.bytes(&output.to_vec()),
        },
    };
}

/// The output again, each of `fds` with the byte whose place `unsent` says.
fn output_of(bytes: &[u8], unsent: &[(usize, RawFd)], fds: VecDeque<OwnedFd>) -> Box<Output> {
    let mut output = Box::new(Output::default());
    let mut from = 0;
    for ((at, _), fd) in unsent.iter().zip(fds) {
        // The places are in order and within the bytes: the reader has seen to it.
        output.append(bytes.get(from..*at).unwrap_or_default(), usize::MAX);
        output.append_fd(fd, usize::MAX);
        from = at + FD_BYTE.len();
    }
    output.append(bytes.get(from..).unwrap_or_default(), usize::MAX);
    output
}

/// Whether it holds descriptors, or may be passed some.
fn passes_fds(conn: &Conn) -> bool {
    conn.rare.as_ref().is_some_and(|rare| rare.arrivals.most > 0)
        || conn.output.as_ref().is_some_and(|output| output.fds().next().is_some())
}

fn write_passing(out: &mut StateWriter, conn: &Conn) {
    let arrivals = conn.rare.as_ref().map(|rare| &rare.arrivals);
    out.u8(arrivals.map_or(0, |arrivals| arrivals.most));
    out.list(arrivals.iter().flat_map(|arrivals| &arrivals.waiting), |out, fd| {
        out.u32(fd.as_raw_fd().unsigned_abs());
    });
    out.list(conn.output.iter().flat_map(|output| output.fds()), |out, (at, fd)| {
        out.u64(at as u64).u32(fd.as_raw_fd().unsigned_abs());
    });
}

fn read_passing(from: &mut StateReader<'_>, output: &[u8]) -> Result<SavedPassing, StateError> {
    let most = from.u8()?;
    let waiting = from.list(read_fd)?;
    let mut end = 0;
    let unsent = from.list(|from| {
        let at = from.u64()?;
        let place = usize::try_from(at).ok().filter(|at| (end..output.len()).contains(at));
        let place = place.ok_or_else(|| StateError::invalid("the place of a descriptor", at))?;
        end = place + FD_BYTE.len();
        Ok((place, read_fd(from)?))
    })?;
    if waiting.len() > usize::from(most) {
        return Err(StateError::invalid("waiting descriptors", waiting.len() as u64));
    }
    Ok(SavedPassing { most, waiting, unsent })
}

fn read_fd(from: &mut StateReader<'_>) -> Result<RawFd, StateError> {
    let fd = from.u32()?;
    RawFd::try_from(fd).map_err(|_| StateError::invalid("a descriptor", fd.into()))
}

fn write_rare(out: &mut StateWriter, rare: &Rare, heard: Option<Duration>, clock: &Clock) {
    let write_time = |out: &mut StateWriter, time: Option<Duration>| {
        out.option(time, |out, time| {
            out.duration(time);
        });
    };
    write_time(out, rare.linger_until.map(|until| clock.left(until)));
    out.u64(rare.discarded as u64);
    write_time(out, heard);
    write_time(out, rare.line_began.map(|since| clock.passed(since)));
    out.option(rare.allowance, |out, (tokens, counted)| {
        out.f64(tokens).duration(clock.passed(counted));
    });
    write_time(out, rare.throttled.map(|until| clock.left(until)));
    write_time(out, rare.stalled.map(|since| clock.passed(since)));
}

fn read_rare(from: &mut StateReader<'_>) -> Result<SavedRare, StateError> {
    Ok(SavedRare {
        linger: read_time(from)?,
        discarded: from.u64()?.min(crate::metrics::COUNT_MAX),
        heard: read_time(from)?,
        line_began: read_time(from)?,
        // More lines than a rate can give or owe make no time that a clock knows.
        allowance: from
            .option(|from| Ok((from.f64()?, from.duration()?)))?
            .filter(|(tokens, _)| tokens.abs() <= f64::from(u32::MAX)),
        throttled: read_time(from)?,
        stalled: read_time(from)?,
    })
}

fn read_time(from: &mut StateReader<'_>) -> Result<Option<Duration>, StateError> {
    Ok(from.option(StateReader::duration)?.map(|time| time.min(super::TIME_MAX)))
}

fn write_role(out: &mut StateWriter, role: Role<'_>, mark: u8) {
    match role {
        Role::Client(peer, state) => {
            out.u8(CLIENT | mark);
            write_peer(out, Some(peer));
            out.record(&state);
        }
        Role::Denied(peer) => {
            out.u8(DENIED | mark);
            write_peer(out, Some(peer));
        }
        Role::Refused => {
            out.u8(REFUSED | mark);
            write_peer(out, None);
        }
        Role::Left(addr) => {
            out.u8(LEFT | mark);
            write_peer(out, addr.map(Peer::without_listener).as_ref());
        }
    }
}

fn write_peer(out: &mut StateWriter, peer: Option<&Peer>) {
    out.option(peer, |out, peer| {
        match peer.addr() {
            PeerAddr::Ip(addr) => out.u8(0).text(&addr.to_string()),
            PeerAddr::Unix(who) => out.u8(1).option(who, |out, who| {
                out.u32(who.uid).u32(who.gid).i64(who.pid.map_or(-1, i64::from));
            }),
            PeerAddr::Adopted => out.u8(2),
        };
        out.u64(peer.serial()).text(peer.listener());
    });
}

fn read_peer(from: &mut StateReader<'_>) -> Result<Peer, StateError> {
    let addr = match from.u8()? {
        0 => PeerAddr::Ip(read_addr(from)?),
        1 => PeerAddr::Unix(from.option(|from| {
            let (uid, gid, pid) = (from.u32()?, from.u32()?, from.i64()?);
            Ok(Credentials { uid, gid, pid: i32::try_from(pid).ok().filter(|pid| *pid > 0) })
        })?),
        2 => PeerAddr::Adopted,
        other => return Err(StateError::invalid("a kind of peer", other.into())),
    };
    let (serial, listener) = (from.u64()?, from.text()?);
    Ok(Peer::new(addr, serial, ListenerName::of(listener)))
}

fn read_addr(from: &mut StateReader<'_>) -> Result<SocketAddr, StateError> {
    from.text()?.parse().map_err(|_| StateError::invalid("an address", 0))
}

const CLIENT: u8 = 0;
const DENIED: u8 = 1;
const REFUSED: u8 = 2;
const LEFT: u8 = 3;
/// Added to a role: what the connection has to do with descriptors follows. A reader of version 1.0 refuses the role, as it
/// must: it would send the bytes of descriptors without these, and leave them open.
const PASSES_FDS: u8 = 16;

const FRESH: u32 = 1;
const ENDING: u32 = 2;
const EOF_SEEN: u32 = 4;
const WOKEN: u32 = 8;
const PAUSED: u32 = 16;
const CHOKED: u32 = 32;
const AGAIN: u32 = 64;
const HOLD_OPEN: u32 = 128;
const LATE: u32 = 256;

#[cfg(test)]
mod tests;
