//! What went wrong where an answer differs from what was sent: bytes lost, bytes repeated, lines in another order,
//! or bytes changed. Pure functions over bytes; `tests/lineload.rs` tries them.

use std::fmt::{self, Display};

/// How what was found differs from what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// So many bytes are missing, and what follows them is right.
    Lost(usize),
    /// So many bytes came once more, and what follows them is right.
    Repeated(usize),
    /// A later line came before an earlier one.
    Reordered,
    /// Anything else: bytes that nobody sent.
    Changed,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(1) => f.write_str("1 byte is lost"),
            Self::Lost(count) => write!(f, "{count} bytes are lost"),
            Self::Repeated(1) => f.write_str("1 byte came twice"),
            Self::Repeated(count) => write!(f, "{count} bytes came twice"),
            Self::Reordered => f.write_str("lines are in another order"),
            Self::Changed => f.write_str("bytes are changed"),
        }
    }
}

/// Says what differs. `before` is what was right so far, as much of it as is known; `expected` and `found` begin with
/// the line that differs: all of it that was sent, and all that has come.
pub(crate) fn difference(before: &[u8], expected: &[u8], found: &[u8]) -> Difference {
    let same = expected.iter().zip(found).take_while(|(one, other)| one == other).count();
    let (left, came) = (&expected[same..], &found[same..]);
    // All that came after the fault must be what was sent, from some place on. A few bytes are somewhere by chance.
    let is_lost = |count: &usize| {
        left[*count..].starts_with(came) && (came.len() >= SURE_BYTES || count + came.len() == left.len())
    };
    if let Some(count) = (1..=left.len()).find(is_lost) {
        return Difference::Lost(count);
    }
    let sent_before = [before, &found[..same]].concat();
    let is_repeated = |count: &usize| {
        left.starts_with(&came[*count..])
            && memchr::memmem::find(&sent_before, &came[..*count]).is_some()
            && (*count < came.len() || *count >= SURE_BYTES || left.is_empty())
    };
    if let Some(count) = (1..=came.len()).find(is_repeated) {
        return Difference::Repeated(count);
    }
    if is_reordered(expected, found) { Difference::Reordered } else { Difference::Changed }
}

/// Whether the first line that was found is a later one of the expected, and the first expected one comes after it.
fn is_reordered(expected: &[u8], found: &[u8]) -> bool {
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (expected, found) = (lines(expected), lines(found));
    match (expected.split_first(), found.split_first()) {
        (Some((due, later)), Some((first, rest))) => later.contains(first) && rest.contains(due),
        _ => false,
    }
}

/// Fewer bytes than these may be found in a place by chance.
const SURE_BYTES: usize = 4;
