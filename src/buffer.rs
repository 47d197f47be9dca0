//! The two buffers of a connection: [`Input`], bytes read and not yet consumed, and [`Output`], bytes written and
//! not yet sent.
//!
//! Neither touches a socket. An idle connection holds neither: the mux reads into one shared `Input` and keeps one
//! for a connection only while something is left in it; an `Output` comes from a pool with the first write and goes
//! back when the last byte has left.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use crate::codec::line::{NEAR, Scan, first_lf, scan};
use crate::config::LongLine;

/// Bytes that a client has sent and that nobody has consumed yet.
///
/// A callback takes from the front what it can use and leaves the rest; what is left comes back, with more behind
/// it, in the next call. Take lines with [`line`](Self::line), or a protocol of your own with
/// [`bytes`](Self::bytes), [`consume`](Self::consume) and [`take`](Self::take).
///
/// ```
/// # use lineplex::Input;
/// let mut input = Input::from(b"first\r\nsecond\nunfinished".as_slice());
/// assert_eq!(input.line(), Some(b"first".as_slice()));
/// assert_eq!(input.line(), Some(b"second".as_slice()));
/// assert_eq!(input.line(), None);
/// assert_eq!(input.bytes(), b"unfinished");
/// ```
#[derive(Debug)]
pub struct Input {
    /// Initialised memory; `start..end` is what is unconsumed.
    storage: Vec<u8>,
    start: usize,
    end: usize,
    /// So many leading unconsumed bytes are known to hold no line ending.
    searched: usize,
    line_max: usize,
    long_line: LongLine,
    /// Lines that may still be given in this turn.
    lines_left: u32,
    /// A line was longer than `line_max` and must close the connection; no line is given any more.
    overlong: bool,
    /// The tail of an overlong line is being thrown away.
    skipping: bool,
    /// Overlong lines thrown away since the last look.
    skipped: u32,
}

impl From<&[u8]> for Input {
    /// For tests and for protocols under test: these bytes, no limit on lines.
    fn from(bytes: &[u8]) -> Self {
        let mut input = Self::default();
        input.append(bytes);
        input.start_turn(u32::MAX);
        input
    }
}

impl Default for Input {
    /// Empty, no limit on lines.
    fn default() -> Self {
        Self::new(usize::MAX, LongLine::Close)
    }
}

impl Input {
    pub(crate) fn new(line_max: usize, long_line: LongLine) -> Self {
        Self {
            storage: Vec::new(),
            start: 0,
            end: 0,
            searched: 0,
            line_max,
            long_line,
            lines_left: 0,
            overlong: false,
            skipping: false,
            skipped: 0,
        }
    }

    /// Consumes the next whole line and gives it without its ending: LF, or CR LF. Other bytes, a lone CR and NUL
    /// among them, are data.
    ///
    /// None when no whole line is here, when the connection has had its lines for this turn
    /// (`Limits::lines_per_turn`; the next turn goes on), and after a line longer than `Limits::line_max_bytes`,
    /// which closes the connection or is skipped as `Limits::long_line` says.
    #[inline]
    pub fn line(&mut self) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        let Some(len) = self.near_line() else { return self.any_line() };
        // Looked up once more, which costs nothing, so that no reference is held while the line is decided about.
        let line = &self.storage.get(self.start..)?.first_chunk::<NEAR>()?[..len];
        self.start += len + 1;
        self.lines_left -= 1;
        match line {
            [line @ .., b'\r'] | line => Some(line),
        }
    }

    /// How long the next line is, its CR included, if it is as most are: short, and nothing is the matter with it.
    #[inline]
    fn near_line(&self) -> Option<usize> {
        if self.searched > 0 || self.lines_left == 0 || self.overlong | self.skipping {
            return None;
        }
        let len = first_lf(self.storage.get(self.start..)?.first_chunk()?)?;
        // Behind the end old bytes may follow, and they may hold an LF.
        (len < self.len() && len <= self.line_max).then_some(len)
    }

    /// Consumes the next line, whatever it is like.
    fn any_line(&mut self) -> Option<&[u8]> {
        loop {
            if self.lines_left == 0 || self.overlong {
                return None;
            }
            match scan(&self.storage[self.start..self.end], self.searched, self.line_max) {
                Scan::Line { len, next } => {
                    let at = self.start;
                    self.start += next;
                    self.searched = 0;
                    self.lines_left -= 1;
                    if !std::mem::take(&mut self.skipping) {
                        return Some(&self.storage[at..at + len]);
                    }
                }
                Scan::Partial { searched } => {
                    self.searched = searched;
                    if self.skipping {
                        self.clear();
                    }
                    return None;
                }
                Scan::TooLong { searched } => self.too_long(searched),
            }
        }
    }

    /// Everything that is unconsumed.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// Consumes the first `count` bytes, or all if there are fewer.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len());
        self.start += count;
        self.searched = self.searched.saturating_sub(count);
    }

    /// Consumes exactly `count` bytes and gives them; none, and nothing consumed, while fewer are here.
    #[inline]
    pub fn take(&mut self, count: usize) -> Option<&[u8]> {
        if self.len() < count {
            return None;
        }
        let at = self.start;
        self.consume(count);
        Some(&self.storage[at..at + count])
    }

    /// Consumes everything and gives it: in `eof`, the last line if it had no ending.
    pub fn rest(&mut self) -> &[u8] {
        let at = self.start;
        self.consume(usize::MAX);
        &self.storage[at..self.end]
    }

    /// Consumes the first `count` bytes, or all if there are fewer, and overwrites them here with zeros, so that a
    /// secret does not stay in memory until other bytes come. What [`line`](Self::line) or another method has consumed
    /// before is not reached: look at the secret with [`bytes`](Self::bytes), then wipe it.
    ///
    /// Only this buffer is wiped: of a secret that came in several pieces, the system and the mux may have had copies.
    ///
    /// ```
    /// # use lineplex::Input;
    /// let mut input = Input::from(b"password;more".as_slice());
    /// assert!(input.bytes().starts_with(b"password"));
    /// input.wipe(b"password".len());
    /// assert_eq!(input.bytes(), b";more");
    /// ```
    #[cfg(feature = "auth")]
    pub fn wipe(&mut self, count: usize) {
        use zeroize::Zeroize as _;
        let at = self.start;
        self.consume(count);
        self.storage[at..self.start].zeroize();
    }

    /// Throws away everything, which with logins may be a password that came too late: then it is wiped.
    pub(crate) fn discard(&mut self) {
        #[cfg(feature = "auth")]
        self.wipe(usize::MAX);
        #[cfg(not(feature = "auth"))]
        self.consume(usize::MAX);
    }

    /// For a protocol without lines: takes one of the lines that the connection may have in this turn
    /// (`Limits::lines_per_turn`, and `Limits::lines_per_second` where a rate is set), to be asked before each message.
    /// False when none is left: stop, and leave the rest unconsumed; `input` is called again with it, in the next turn
    /// or when the rate allows more.
    ///
    /// Ask only when a whole message is here: one taken for half a message is spent all the same. In `eof` it is
    /// always true.
    ///
    /// ```
    /// # use lineplex::Input;
    /// /// Messages of four bytes.
    /// fn serve(input: &mut Input) -> usize {
    ///     let mut served = 0;
    ///     while input.len() >= 4 && input.spend() {
    ///         served += usize::from(input.take(4).is_some());
    ///     }
    ///     served
    /// }
    /// assert_eq!(serve(&mut Input::from(b"onetwothree!".as_slice())), 3);
    /// ```
    #[inline]
    pub fn spend(&mut self) -> bool {
        let any = self.lines_left > 0;
        self.lines_left -= u32::from(any);
        any
    }

    /// How many bytes are unconsumed.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether everything is consumed.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Memory to read into, `size` bytes; what was unconsumed is forgotten.
    pub(crate) fn storage(&mut self, size: usize) -> &mut [u8] {
        if self.storage.len() < size {
            self.storage.resize(size, 0);
        }
        &mut self.storage[..size]
    }

    /// The first `filled` bytes of the storage are what was read.
    pub(crate) fn filled(&mut self, filled: usize) {
        (self.start, self.end, self.searched) = (0, filled, 0);
    }

    /// Adds bytes behind what is unconsumed.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.storage.truncate(self.end);
        self.storage.drain(..self.start);
        self.storage.extend_from_slice(bytes);
        (self.start, self.end) = (0, self.storage.len());
    }

    /// Moves what must outlive this call to `held`: what is unconsumed, and where the search for lines stands.
    pub(crate) fn hand_over(&mut self, held: &mut Self) {
        held.append(self.bytes());
        (held.searched, held.overlong, held.skipping) = (self.searched, self.overlong, self.skipping);
        (held.lines_left, held.skipped) = (self.lines_left, self.skipped);
        self.reset();
    }

    /// Makes it as new, but for its memory.
    pub(crate) fn reset(&mut self) {
        self.clear();
        (self.overlong, self.skipping, self.skipped) = (false, false, 0);
    }

    /// Bytes of memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.storage.capacity()
    }

    pub(crate) fn start_turn(&mut self, lines: u32) {
        self.lines_left = lines;
    }

    pub(crate) fn lines_left(&self) -> u32 {
        self.lines_left
    }

    /// Whether more lines may be here than this turn gave.
    pub(crate) fn stopped_by_budget(&self) -> bool {
        self.lines_left == 0 && !self.is_empty()
    }

    pub(crate) fn overlong(&self) -> bool {
        self.overlong
    }

    /// Overlong lines thrown away since this was last asked.
    pub(crate) fn take_skipped(&mut self) -> u32 {
        std::mem::take(&mut self.skipped)
    }

    /// Whether nothing of it must be kept until more bytes come.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_empty() && !self.skipping && !self.overlong
    }

    /// Where the search for lines stands, for a restart: two marks in one number, and the lines thrown away.
    pub(crate) fn marks(&self) -> (u8, u32) {
        (u8::from(self.overlong) | u8::from(self.skipping) << 1, self.skipped)
    }

    /// Takes up what [`marks`](Self::marks) gave.
    pub(crate) fn set_marks(&mut self, marks: u8, skipped: u32) {
        (self.overlong, self.skipping, self.skipped) = (marks & 1 != 0, marks & 2 != 0, skipped);
    }

    fn clear(&mut self) {
        (self.start, self.end, self.searched) = (0, 0, 0);
    }

    fn too_long(&mut self, searched: usize) {
        if self.long_line == LongLine::Close {
            self.overlong = true;
            return;
        }
        if !std::mem::replace(&mut self.skipping, true) {
            self.skipped += 1;
        }
        match memchr::memchr(b'\n', &self.bytes()[searched.min(self.len())..]) {
            Some(at) => {
                // Up to the line ending, which the next scan takes as the end of an (empty) line to be skipped.
                self.consume(searched.min(self.len()) + at);
            }
            None => self.clear(),
        }
        self.searched = 0;
    }
}

/// Bytes that a callback has written and that the kernel has not taken yet.
#[derive(Debug, Default)]
pub struct Output {
    /// What comes before `own`: nearly always nothing.
    pieces: VecDeque<Piece>,
    /// Copied bytes, the newest.
    own: Vec<u8>,
    /// Bytes at the front, of the first piece or of `own`, that are sent already.
    sent: usize,
    /// Unsent bytes in all.
    len: usize,
}

/// Bytes that are not copied together with others.
#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    /// `bytes[from..]`, stored once for all who are sent it.
    Shared {
        bytes: Rc<[u8]>,
        from: usize,
    },
    /// The byte of a descriptor, which travels with nothing else.
    Fd(OwnedFd),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        self.plain().unwrap_or(FD_BYTE)
    }

    /// Bytes that may be sent together with others.
    fn plain(&self) -> Option<&[u8]> {
        match self {
            Self::Own(bytes) => Some(bytes),
            Self::Shared { bytes, from } => Some(&bytes[*from..]),
            Self::Fd(_) => None,
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Fd(fd) => Some(fd.as_fd()),
            Self::Own(_) | Self::Shared { .. } => None,
        }
    }
}

impl Output {
    /// Unsent bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything is sent.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a copy of `bytes`, unless more than `hard` bytes would then be unsent: false, and nothing is added.
    #[inline]
    pub fn append(&mut self, bytes: &[u8], hard: usize) -> bool {
        self.append_parts(&[bytes], hard)
    }

    /// Adds a copy of all `parts`, one after the other, under the same limit: all or nothing.
    #[inline(always)]
    pub fn append_parts(&mut self, parts: &[&[u8]], hard: usize) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > hard.saturating_sub(self.len) {
            return false;
        }
        self.len += len;
        if self.sent > 0 {
            self.reclaim();
        }
        self.own.reserve(len);
        parts.iter().for_each(|part| self.own.extend_from_slice(part));
        true
    }

    /// Adds a reference to `bytes`, under the same limit. Pieces shorter than 512 bytes are copied all
    /// the same: one more piece in a send costs more than that.
    pub fn append_shared(&mut self, bytes: &Rc<[u8]>, hard: usize) -> bool {
        self.append_tail(bytes, 0, hard)
    }

    /// Adds a reference to the bytes behind the first `from`, as [`append_shared`](Self::append_shared).
    pub(crate) fn append_tail(&mut self, bytes: &Rc<[u8]>, from: usize, hard: usize) -> bool {
        let len = bytes.len() - from;
        if len < SHARE_MIN_BYTES {
            return self.append(&bytes[from..], hard);
        }
        if len > hard.saturating_sub(self.len) {
            return false;
        }
        self.len += len;
        if !self.own.is_empty() {
            self.pieces.push_back(Piece::Own(std::mem::take(&mut self.own)));
        }
        self.pieces.push_back(Piece::Shared { bytes: Rc::clone(bytes), from });
        true
    }

    /// Adds the byte of a descriptor, and `fd` with it, unless more than `hard` bytes would then be unsent: false, and
    /// `fd` is closed.
    pub(crate) fn append_fd(&mut self, fd: OwnedFd, hard: usize) -> bool {
        if hard <= self.len {
            return false;
        }
        self.len += FD_BYTE.len();
        if !self.own.is_empty() {
            self.pieces.push_back(Piece::Own(std::mem::take(&mut self.own)));
        }
        self.pieces.push_back(Piece::Fd(fd));
        true
    }

    /// The unsent descriptors, each with the place of its byte among the unsent bytes.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let mut end = 0;
        self.pieces.iter().filter_map(move |piece| {
            let at = end;
            end += piece.bytes().len();
            // The first piece is the only one that can be sent in part, and the byte of a descriptor cannot.
            piece.fd().map(|fd| (at.saturating_sub(self.sent), fd))
        })
    }

    /// The descriptor behind the first `pieces` pieces of the unsent bytes, if one comes there.
    pub(crate) fn fd_behind(&self, pieces: usize) -> Option<BorrowedFd<'_>> {
        self.pieces.get(pieces)?.fd()
    }

    /// The unsent bytes if they lie in one piece, as they nearly always do, and no descriptor is among them.
    #[inline]
    #[must_use]
    pub fn single(&self) -> Option<&[u8]> {
        if self.len == 0 {
            None
        } else if self.pieces.is_empty() {
            Some(&self.own[self.sent..])
        } else if self.pieces.len() == 1 && self.own.is_empty() {
            self.pieces[0].plain().map(|bytes| &bytes[self.sent..])
        } else {
            None
        }
    }

    /// A copy of the unsent bytes, those of descriptors among them.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(self.sent + self.len);
        self.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece.bytes()));
        bytes.extend_from_slice(&self.own);
        bytes.drain(..self.sent);
        bytes
    }

    /// The first pieces of the unsent bytes, as many as fit into `slices` and come before a descriptor; how many those
    /// are.
    pub fn front<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let own = (!self.own.is_empty()).then_some(&*self.own);
        let mut sent = self.sent;
        let mut used = 0;
        let plain = self.pieces.iter().map(Piece::plain).chain(own.map(Some)).map_while(|bytes| bytes);
        for (slice, bytes) in slices.iter_mut().zip(plain) {
            *slice = IoSlice::new(&bytes[sent..]);
            sent = 0;
            used += 1;
        }
        used
    }

    /// The first `count` unsent bytes (at most all) are sent.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.sent += count;
        if !self.pieces.is_empty() {
            self.pass_over_pieces();
        }
        if self.len == 0 {
            self.sent = 0;
            self.own.clear();
        }
    }

    /// Lets go of what is sent entirely.
    #[inline(never)]
    fn pass_over_pieces(&mut self) {
        while let Some(piece) = self.pieces.front() {
            let len = piece.bytes().len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            self.pieces.pop_front();
        }
    }

    /// Bytes of memory that it holds for what comes next.
    pub(crate) fn capacity(&self) -> usize {
        self.own.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// A receiver that is always a little behind must not keep what it was sent for ever. Each byte moves at most once
    /// for each byte that has left.
    #[cold]
    fn reclaim(&mut self) {
        if self.pieces.is_empty() && self.sent >= self.own.len() / 2 {
            self.own.drain(..std::mem::take(&mut self.sent));
        }
    }

    /// Forgets everything that is unsent.
    pub fn clear(&mut self) {
        self.advance(usize::MAX);
    }
}

/// What a descriptor travels with, since it cannot alone.
pub(crate) const FD_BYTE: &[u8] = &[0];

/// From this length on a broadcast is shared among its receivers instead of copied to each. A copy of 512 bytes costs
/// some 25 ns, a reference 6; but each further piece costs its receiver some 20 ns in the system call, so short lines
/// that leave together are better copied together.
pub(crate) const SHARE_MIN_BYTES: usize = 512;

#[cfg(test)]
mod tests;
