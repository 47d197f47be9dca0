//! The two buffers of a connection: [`Input`], bytes read and not yet consumed, and [`Output`], bytes written and
//! not yet sent.
//!
//! Neither touches a socket. An idle connection holds neither: the mux reads into one shared `Input` and keeps one
//! for a connection only while something is left in it; an `Output` comes from a pool with the first write and goes
//! back when the last byte has left.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use crate::codec::line::{Scan, scan};
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
    segments: VecDeque<Segment>,
    /// Bytes of the front segment that are sent already; less than its length.
    sent: usize,
    /// Unsent bytes in all segments.
    len: usize,
    /// An empty vector whose memory the next segment of our own uses.
    spare: Vec<u8>,
}

#[derive(Debug)]
enum Segment {
    Own(Vec<u8>),
    Shared(Rc<[u8]>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
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
        if bytes.len() > hard.saturating_sub(self.len) {
            return false;
        }
        self.len += bytes.len();
        let single = self.segments.len() == 1;
        if let Some(Segment::Own(last)) = self.segments.back_mut() {
            // A receiver that is always a little behind must not keep what it was sent for ever. Each byte moves at
            // most once for each byte that has left.
            if single && self.sent >= last.len() / 2 {
                last.drain(..std::mem::take(&mut self.sent));
            }
            last.extend_from_slice(bytes);
        } else if !bytes.is_empty() {
            let mut own = std::mem::take(&mut self.spare);
            own.extend_from_slice(bytes);
            self.segments.push_back(Segment::Own(own));
        }
        true
    }

    /// Adds a reference to `bytes`, under the same limit. Pieces shorter than 512 bytes are copied all
    /// the same: one more piece in a send costs more than that.
    pub fn append_shared(&mut self, bytes: &Rc<[u8]>, hard: usize) -> bool {
        if bytes.len() < SHARE_MIN_BYTES {
            return self.append(bytes, hard);
        }
        if bytes.len() > hard.saturating_sub(self.len) {
            return false;
        }
        self.len += bytes.len();
        self.segments.push_back(Segment::Shared(Rc::clone(bytes)));
        true
    }

    /// The unsent bytes if they lie in one piece, as they nearly always do.
    #[inline]
    #[must_use]
    pub fn single(&self) -> Option<&[u8]> {
        match self.segments.front() {
            Some(front) if self.segments.len() == 1 => Some(&front.bytes()[self.sent..]),
            _ => None,
        }
    }

    /// A copy of the unsent bytes.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(self.sent + self.len);
        self.segments.iter().for_each(|segment| bytes.extend_from_slice(segment.bytes()));
        bytes.drain(..self.sent);
        bytes
    }

    /// The first pieces of the unsent bytes, as many as fit into `slices`; how many those are.
    pub fn front<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut sent = self.sent;
        let mut used = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(&segment.bytes()[sent..]);
            sent = 0;
            used += 1;
        }
        used
    }

    /// The first `count` unsent bytes (at most all) are sent.
    pub fn advance(&mut self, count: usize) {
        let mut count = count.min(self.len);
        self.len -= count;
        while let Some(front) = self.segments.front() {
            let left = front.bytes().len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            if let Some(Segment::Own(mut own)) = self.segments.pop_front() {
                if own.capacity() > self.spare.capacity() && own.capacity() <= SPARE_MAX_BYTES {
                    own.clear();
                    self.spare = own;
                }
            }
        }
    }

    /// Forgets everything that is unsent.
    pub fn clear(&mut self) {
        self.advance(usize::MAX);
    }
}

/// From this length on a broadcast is shared among its receivers instead of copied to each. A copy of 512 bytes costs
/// some 25 ns, a reference 6; but each further piece costs its receiver some 20 ns in the system call, so short lines
/// that leave together are better copied together.
pub(crate) const SHARE_MIN_BYTES: usize = 512;

/// Larger buffers are given back to the allocator when they are empty, so that one big answer leaves no trace.
const SPARE_MAX_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
