//! Lines: bytes up to LF, with one CR directly before it dropped.
//!
//! [`scan`] finds the next line in what has arrived, [`encode`] writes one so that it stays one, and [`safe_text`] makes
//! text from a stranger harmless for a terminal. They keep no state: what `scan` has to remember between two arrivals is
//! one number, which it gives out and takes back.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// What [`scan`] found at the head of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A whole line is there.
    Line {
        /// Length of the line without its ending: the line is `bytes[..len]`.
        len: usize,
        /// Where the next line begins: the offset after the LF.
        next: usize,
    },
    /// No LF yet, and the line may still be short enough: wait for more bytes.
    Partial {
        /// What to hand back as `searched` when more bytes have arrived.
        searched: usize,
    },
    /// The line, without its ending, is longer than the limit. Its LF may be there or may not.
    TooLong {
        /// How many leading bytes hold no LF. To skip the line, throw these away and go on up to the next LF.
        searched: usize,
    },
}

/// Looks for the first line in `bytes`.
///
/// `searched` says how many leading bytes are known to hold no LF (0 for a new line), so that a line that comes byte by
/// byte is looked through once. More than there are bytes counts as all. `max` is the longest line, in bytes and without
/// its ending; with 0 only empty lines pass. A CR at the very end counts as half an ending, so `max` bytes and a CR are
/// not too long before the next byte has come. At most `max` + 2 bytes are looked at, however many there are.
///
/// ```
/// use lineplex::codec::line::{Scan, scan};
///
/// assert_eq!(scan(b"hello\r\nnext", 0, 80), Scan::Line { len: 5, next: 7 });
/// assert_eq!(scan(b"hel", 0, 80), Scan::Partial { searched: 3 });
/// assert_eq!(scan(b"hello\n", 3, 4), Scan::TooLong { searched: 5 });
/// ```
#[inline]
#[must_use]
pub fn scan(bytes: &[u8], searched: usize, max: usize) -> Scan {
    let window = &bytes[..bytes.len().min(max.saturating_add(2))];
    let searched = searched.min(window.len());
    let lf = memchr(b'\n', &window[searched..]).map(|found| searched + found);
    let end = lf.unwrap_or(window.len());
    let len = end - usize::from(end > 0 && window[end - 1] == b'\r');
    match lf {
        _ if len > max => Scan::TooLong { searched: end },
        Some(lf) => Scan::Line { len, next: lf + 1 },
        None => Scan::Partial { searched: end },
    }
}

/// Where the first LF of `block` is; none if it holds none.
///
/// It looks at every byte, so that the compiler makes it a few vector instructions: half of what a call of `memchr` is.
#[inline]
pub(crate) fn first_lf(block: &[u8; NEAR]) -> Option<usize> {
    let mut marks = [0; NEAR];
    for ((mark, byte), to_the_end) in marks.iter_mut().zip(block).zip(TO_THE_END) {
        *mark = if *byte == b'\n' { to_the_end } else { 0 };
    }
    let first = marks.into_iter().fold(0, u8::max);
    // The remainder changes nothing; it says that the place is inside the block.
    (first > 0).then(|| (NEAR - usize::from(first)) % NEAR)
}

/// How a line ends on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// `\n`.
    #[default]
    Lf,
    /// `\r\n`, as telnet and most line protocols of the RFCs want it.
    CrLf,
}

/// Appends one line and its ending to `out`.
///
/// It stays one line for the reader, whatever it holds: each LF and each CR in it is replaced by a space (a CR too,
/// because at the end it would be taken for half of the ending, and elsewhere it sends a terminal back to the margin).
/// Of any other line exactly these bytes come out of [`scan`] again.
///
/// ```
/// use lineplex::codec::line::{Ending, encode};
///
/// let mut out = Vec::new();
/// encode(b"one\ntwo", Ending::CrLf, &mut out);
/// assert_eq!(out, b"one two\r\n");
/// ```
pub fn encode(line: &[u8], ending: Ending, out: &mut Vec<u8>) {
    let end: &[u8] = match ending {
        Ending::Lf => b"\n",
        Ending::CrLf => b"\r\n",
    };
    out.reserve(line.len() + end.len());
    let mut rest = line;
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(b' ');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(end);
}

/// The text of a stranger, so that showing it cannot move another's cursor, colour their screen or reverse their text.
///
/// Replaced by U+FFFD, one for one, and never left out (what is left out can join its neighbours to something new):
///
/// * control characters: C0 (ESC, LF and CR among them) except TAB, DEL, and C1 (U+0080 to U+009F);
/// * those that steer the direction of text: U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069;
/// * line and paragraph separators, U+2028 and U+2029, and the byte order mark, U+FEFF;
/// * every byte that is not part of valid UTF-8: raw C1 bytes, and telnet's IAC (0xFF), are such.
///
/// The answer is valid UTF-8, at most three times as long, and borrowed if nothing had to change. Take the ending off
/// first: it is a control character too.
///
/// ```
/// use lineplex::codec::line::safe_text;
///
/// assert_eq!(&*safe_text(b"\x1b[2Jhi\xff"), "\u{fffd}[2Jhi\u{fffd}".as_bytes());
/// ```
#[must_use]
pub fn safe_text(line: &[u8]) -> Cow<'_, [u8]> {
    // Nearly every line is this. Without an early end the loop is done many bytes at a time.
    if line.iter().fold(true, |plain, &byte| plain & (matches!(byte, b' '..=b'~') | (byte == b'\t'))) {
        return Cow::Borrowed(line);
    }
    if std::str::from_utf8(line).is_ok_and(|text| !text.chars().any(is_harmful)) {
        return Cow::Borrowed(line);
    }
    let mut safe = String::with_capacity(line.len() + 16);
    for chunk in line.utf8_chunks() {
        safe.extend(chunk.valid().chars().map(|c| if is_harmful(c) { REPLACEMENT } else { c }));
        safe.extend(chunk.invalid().iter().map(|_| REPLACEMENT));
    }
    Cow::Owned(safe.into_bytes())
}

fn is_harmful(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{a}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The length of the block that [`first_lf`] looks through: most lines are shorter.
pub(crate) const NEAR: usize = 64;

/// How far each place in a block is from the end of the block.
const TO_THE_END: [u8; NEAR] = {
    let mut to_the_end = [NEAR as u8; NEAR];
    let mut at = 1;
    while at < NEAR {
        to_the_end[at] = to_the_end[at - 1] - 1;
        at += 1;
    }
    to_the_end
};

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_ends_at_lf_and_loses_one_cr() {
        assert_eq!(scan(b"", 0, 9), Scan::Partial { searched: 0 });
        assert_eq!(scan(b"\n", 0, 0), Scan::Line { len: 0, next: 1 });
        assert_eq!(scan(b"\r\n", 0, 0), Scan::Line { len: 0, next: 2 });
        assert_eq!(scan(b"a\r\r\nb\n", 0, 9), Scan::Line { len: 2, next: 4 });
        assert_eq!(scan(b"a\rb\n", 1, 9), Scan::Line { len: 3, next: 4 });
        assert_eq!(scan(b"a\n", usize::MAX, 9), Scan::Partial { searched: 2 });
        assert_eq!(scan(b"a\n", 0, usize::MAX), Scan::Line { len: 1, next: 2 });
    }

    #[test]
    fn the_limit_holds_below_at_and_above_it() {
        assert_eq!(scan(b"abc\n", 0, 3), Scan::Line { len: 3, next: 4 });
        assert_eq!(scan(b"abc\r\n", 0, 3), Scan::Line { len: 3, next: 5 });
        assert_eq!(scan(b"abc", 0, 3), Scan::Partial { searched: 3 });
        assert_eq!(scan(b"abc\r", 0, 3), Scan::Partial { searched: 4 });
        assert_eq!(scan(b"abc\r\r", 0, 3), Scan::TooLong { searched: 5 });
        assert_eq!(scan(b"abc\rd", 0, 3), Scan::TooLong { searched: 5 });
        assert_eq!(scan(b"abcd", 0, 3), Scan::TooLong { searched: 4 });
        assert_eq!(scan(b"abcd\n", 0, 3), Scan::TooLong { searched: 4 });
        assert_eq!(scan(b"abcdefghi\n", 0, 3), Scan::TooLong { searched: 5 });
        assert_eq!(scan(b"a", 0, 0), Scan::TooLong { searched: 1 });
    }

    #[test]
    fn the_first_lf_of_a_block_is_found_wherever_it_is() {
        assert_eq!(first_lf(&[b'x'; NEAR]), None);
        assert_eq!(first_lf(&[b'\n'; NEAR]), Some(0));
        for first in 0..NEAR {
            for other in first..NEAR {
                // The neighbours of LF, and bytes with the highest bit.
                let mut block = std::array::from_fn(|at| b"\x09\x0b\x8a\xff"[at % 4]);
                (block[first], block[other]) = (b'\n', b'\n');
                assert_eq!(first_lf(&block), Some(first), "{other}");
            }
        }
    }

    #[test]
    fn an_encoded_line_stays_one_line() {
        let mut out = Vec::new();
        encode(b"", Ending::Lf, &mut out);
        encode(b"\n", Ending::Lf, &mut out);
        encode(b"x\r", Ending::CrLf, &mut out);
        encode(b"\rx\r\ny", Ending::CrLf, &mut out);
        assert_eq!(out, b"\n \nx \r\n x  y\r\n");
    }

    #[test]
    fn what_moves_a_terminal_is_replaced_one_for_one() {
        let shown = |bytes: &[u8]| String::from_utf8(safe_text(bytes).into_owned()).unwrap();
        assert_eq!(shown(b"a\tb"), "a\tb");
        assert_eq!(shown(b"\x1b[31m\x07\x7f\r\n"), "\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(shown("caf\u{e9} \u{9b}2J".as_bytes()), "caf\u{e9} \u{fffd}2J");
        assert_eq!(shown(b"\x9b2J\xff\xfb\x01"), "\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(shown(b"\xe2\x82"), "\u{fffd}\u{fffd}", "each byte of a sequence cut short");
        for c in "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}".chars() {
            assert_eq!(shown(format!("a{c}b").as_bytes()), "a\u{fffd}b", "{c:?}");
        }
        for c in "\u{a0}\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}\u{1f600}".chars() {
            assert!(matches!(safe_text(c.to_string().as_bytes()), Cow::Borrowed(_)), "{c:?}");
        }
    }

    /// What a connection does with `scan`: the lines, `None` for one that was too long and skipped, and what is left.
    fn split(chunks: &[&[u8]], max: usize) -> (Vec<Option<Vec<u8>>>, Vec<u8>) {
        let (mut input, mut searched, mut skipping, mut lines) = (Vec::new(), 0, false, Vec::new());
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                match scan(&input, searched, max) {
                    Scan::Line { .. } | Scan::TooLong { .. } | Scan::Partial { .. } if skipping => {
                        let Some(lf) = memchr(b'\n', &input) else {
                            input.clear();
                            break;
                        };
                        input.drain(..=lf);
                        skipping = false;
                    }
                    Scan::Line { len, next } => {
                        lines.push(Some(input[..len].to_vec()));
                        input.drain(..next);
                        searched = 0;
                    }
                    Scan::TooLong { searched: gone } => {
                        lines.push(None);
                        input.drain(..gone);
                        (searched, skipping) = (0, true);
                    }
                    Scan::Partial { searched: so_far } => {
                        searched = so_far;
                        break;
                    }
                }
            }
        }
        (lines, input)
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![3 => Just(b'\n'), 3 => Just(b'\r'), 6 => any::<u8>(), 8 => b'a'..=b'z'];
        prop::collection::vec(byte, 0..120)
    }

    /// Text in which harmful characters, clean ones and broken UTF-8 are all likely.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            prop::char::range('\0', '\u{a5}').prop_map(|c| c.to_string().into_bytes()),
            prop::char::range('\u{2000}', '\u{2070}').prop_map(|c| c.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 1..4),
            "[ -~]{1,8}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Written down a second time, from the code charts, as plain ranges.
    fn forbidden(c: u32) -> bool {
        (c < 0x20 && c != 9)
            || (0x7f..0xa0).contains(&c)
            || [0x61c, 0x200e, 0x200f, 0x2028, 0x2029, 0xfeff].contains(&c)
            || (0x202a..=0x202e).contains(&c)
            || (0x2066..=0x2069).contains(&c)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_split_of_the_same_bytes_gives_the_same_lines(
            bytes in bytes(), cuts in prop::collection::vec(0..120usize, 0..20), max in 0..12usize,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (lines, _) = split(&chunks, max);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&lines, &split(&[&bytes], max).0);
            prop_assert_eq!(&lines, &split(&single, max).0);

            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(&b""[..], |at| &bytes[..=at]);
            let model: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').map(|line| {
                let line = &line[..line.len() - 1];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                (line.len() <= max).then(|| line.to_vec())
            }).collect();
            prop_assert_eq!(&lines[..model.len()], &model);
            prop_assert!(lines[model.len()..].iter().all(Option::is_none), "only the verdict on a tail comes early");
        }

        #[test]
        fn what_was_encoded_comes_out_of_scan_again(line in bytes(), crlf in any::<bool>(), rest in bytes()) {
            let mut out = Vec::new();
            encode(&line, if crlf { Ending::CrLf } else { Ending::Lf }, &mut out);
            let end = out.len();
            out.extend_from_slice(&rest);
            let clean: Vec<u8> =
                line.iter().map(|&byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte }).collect();
            prop_assert_eq!(scan(&out, 0, line.len()), Scan::Line { len: line.len(), next: end });
            prop_assert_eq!(&out[..line.len()], &clean[..]);
        }

        #[test]
        fn safe_text_is_clean_utf8_and_touches_nothing_else(line in text()) {
            let safe = safe_text(&line);
            let text = std::str::from_utf8(&safe).expect("valid UTF-8");
            prop_assert!(!text.chars().any(|c| forbidden(c.into())));
            prop_assert!(safe.len() <= 3 * line.len());
            let again = safe_text(&safe);
            prop_assert!(matches!(again, Cow::Borrowed(_)), "idempotent");
            let clean = std::str::from_utf8(&line).is_ok_and(|text| !text.chars().any(|c| forbidden(c.into())));
            prop_assert_eq!(clean, matches!(safe, Cow::Borrowed(_)));
            if let Ok(before) = std::str::from_utf8(&line) {
                prop_assert_eq!(before.chars().count(), text.chars().count(), "one for one");
                for (before, after) in before.chars().zip(text.chars()) {
                    prop_assert_eq!(after, if forbidden(before.into()) { '\u{fffd}' } else { before });
                }
            }
        }
    }
}
