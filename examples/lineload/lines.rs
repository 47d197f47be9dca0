//! What the clients say: line `number` of client `client` is a function of the seed, so a run can be repeated.

use std::io::Write;

use fastrand::Rng;

/// The lines of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines {
    /// Another seed, other lines.
    pub(crate) seed: u64,
    /// Bytes of the longest line, without its newline; at least 1.
    pub(crate) max_bytes: usize,
    /// Whether every line begins with the mark of its client, which nothing else contains, and its number.
    pub(crate) is_marked: bool,
}

impl Lines {
    /// Appends one line with its newline: 1 to `max_bytes` printable bytes, which begin with `client:number ` where
    /// there is room for that. A mark is there even if there is not.
    pub(crate) fn push(&self, out: &mut Vec<u8>, client: usize, number: u64) {
        let own = self.seed ^ (client as u64).wrapping_mul(MIX_CLIENT) ^ number.wrapping_mul(MIX_NUMBER);
        let mut rng = Rng::with_seed(own);
        let start = out.len();
        let end = start + rng.usize(1..=self.max_bytes);
        // Writing to a vector cannot fail.
        if self.is_marked {
            out.extend_from_slice(&mark(client));
            let _ = write!(out, "{number} ");
        } else {
            let _ = write!(out, "{client}:{number} ");
            if out.len() > end {
                out.truncate(start);
            }
        }
        while out.len() < end {
            out.push(rng.u8(b' '..MARK));
        }
        out.push(b'\n');
    }
}

/// With what the lines of `client` begin if they are marked.
pub(crate) fn mark(client: usize) -> Vec<u8> {
    format!("{}{client}:", char::from(MARK)).into_bytes()
}

/// The newlines in `bytes`.
pub(crate) fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Bytes for a message, from the place `from` on: escaped, and the end of long ones left out.
pub(crate) fn shown(bytes: &[u8], from: usize) -> String {
    let head = if from > 0 { "..." } else { "" };
    let rest = &bytes[from.min(bytes.len())..];
    match rest.len() {
        0..=SHOWN_BYTES => format!("{head}\"{}\"", rest.escape_ascii()),
        _ => format!("{head}\"{}\"... ({} bytes)", rest[..SHOWN_BYTES].escape_ascii(), bytes.len()),
    }
}

/// Odd numbers with many bits, so that neighbours are far apart.
const MIX_CLIENT: u64 = 0x9E37_79B9_7F4A_7C15;
const MIX_NUMBER: u64 = 0xD1B5_4A32_D192_ED03;
/// The last printable byte: the text of a line has those before it.
const MARK: u8 = b'~';
/// As much of a line as a message shows.
const SHOWN_BYTES: usize = 60;
