//! Which of the bytes that come are answers: all, or with `--among` those lines only that have the client's own mark,
//! as from a chat that tells everybody what everybody says.

use std::borrow::Cow;

use crate::lines::mark;

/// What one connection has to look at.
#[derive(Debug)]
pub(crate) enum Answers {
    All,
    Among {
        mark: Vec<u8>,
        /// The begin of a line whose end has not come.
        part: Vec<u8>,
    },
}

impl Answers {
    /// The answers for `client`.
    pub(crate) fn new(client: usize, is_among: bool) -> Self {
        if is_among { Self::Among { mark: mark(client), part: Vec::new() } } else { Self::All }
    }

    /// Forgets the begin of a line: the connection is a new one.
    pub(crate) fn clear(&mut self) {
        if let Self::Among { part, .. } = self {
            part.clear();
        }
    }

    /// The answers in what came, with all before the mark left out and the line ending that was sent. The other lines
    /// are passed over.
    pub(crate) fn take<'a>(&mut self, came: &'a [u8]) -> Cow<'a, [u8]> {
        let Self::Among { mark, part } = self else { return Cow::Borrowed(came) };
        part.extend_from_slice(came);
        let end = memchr::memrchr(b'\n', part).map_or(0, |at| at + 1);
        let mut answers = Vec::new();
        for line in part[..end].split_inclusive(|&byte| byte == b'\n') {
            if let Some(at) = memchr::memmem::find(line, mark) {
                let line = &line[at..];
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                answers.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                answers.push(b'\n');
            }
        }
        part.drain(..end);
        if part.len() > PART_MAX_BYTES {
            // No answer of ours is so long.
            part.clear();
        }
        Cow::Owned(answers)
    }
}

/// The longest line that is kept until its end comes.
const PART_MAX_BYTES: usize = 1 << 20;
