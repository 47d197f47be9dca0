//! The lines that are sent: who, which, and a filling; so that a lost, repeated or damaged one is seen.
//!
//! `@00042 0000001234 abcdefghi…`, 64 bytes with the newline.

/// Bytes of a line, its newline included.
pub(crate) const SIZE: usize = 64;
/// Without it.
pub(crate) const TEXT: usize = SIZE - 1;

const FILLING: &[u8; TEXT - 18] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRS";

/// The lines of one sender, one after the other.
#[derive(Clone)]
pub(crate) struct Line([u8; SIZE]);

impl Line {
    /// Number 0 of `who`, below 100 000.
    pub(crate) fn first(who: usize) -> Self {
        let mut bytes = [b'\n'; SIZE];
        bytes[..18].copy_from_slice(format!("@{who:05} {:010} ", 0).as_bytes());
        bytes[18..TEXT].copy_from_slice(FILLING);
        Self(bytes)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8; SIZE] {
        &self.0
    }

    #[inline]
    pub(crate) fn text(&self) -> &[u8] {
        &self.0[..TEXT]
    }

    /// The next one.
    #[inline]
    pub(crate) fn advance(&mut self) {
        for digit in self.0[7..17].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }
}

/// Looks for one of our lines anywhere in `line`: its sender and its number.
#[inline]
pub(crate) fn find(line: &[u8]) -> Option<(usize, u64)> {
    let mut rest = line;
    loop {
        // Mostly it is at the front.
        let at = if rest.first() == Some(&b'@') { 0 } else { rest.iter().position(|&byte| byte == b'@')? };
        let text = rest.get(at..at + TEXT)?;
        if text[6] == b' ' && text[17] == b' ' && text[18..] == FILLING[..] {
            if let (Some(who), Some(number)) = (digits(&text[1..6]), digits(&text[7..17])) {
                return Some((who as usize, number));
            }
        }
        rest = &rest[at + 1..];
    }
}

#[inline]
fn digits(text: &[u8]) -> Option<u64> {
    text.iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}
