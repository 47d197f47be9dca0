//! What a server says about its restarts, in a file beside the pid file: lines of `key = value`.
//!
//! Writer and reader share no lock. The text ends with a check over all before it, so a reader that comes in the middle
//! of a change sees that it does not fit, and looks again; what an earlier, longer text left behind it is passed over.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// How the restarts of a server go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The process that wrote it; put in when it is written.
    pub(super) pid: u32,
    /// Restarts that succeeded since the server was started.
    pub(super) generation: u64,
    /// When the last attempt that is over began, on the monotonic clock ([`monotonic`](crate::sys::monotonic)), to the
    /// nanosecond; 0 before the first.
    pub(super) restarts_started: Duration,
    /// An attempt is going on.
    pub(super) busy: bool,
    /// The last attempt that is over succeeded.
    pub(super) ok: bool,
    /// What came of it, for people: one line, of which [`MESSAGE_MAX_BYTES`] are kept.
    pub(super) message: String,
}

impl Status {
    /// As it stands in the file of the process `pid`.
    pub(super) fn text(&self, pid: u32) -> String {
        let Self { generation, busy, ok, .. } = self;
        let [busy, ok] = [busy, ok].map(|flag| u8::from(*flag));
        let started = self.restarts_started.as_nanos();
        let message = one_line(&self.message);
        let mut text = format!(
            "pid = {pid}\ngeneration = {generation}\nrestarts_started = {started}\nbusy = {busy}\nok = {ok}\n\
             message = {message}\n"
        );
        let check = check(text.as_bytes());
        text.push_str(&format!("{CHECK}{check:016x}\n"));
        text
    }

    /// What the file says; `None` if it is empty, in the middle of a change, or not such a file.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut bytes = [0; TEXT_MAX_BYTES];
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Self::parse(&bytes[..length])
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (body, rest) = text.split_once(&format!("\n{CHECK}"))?;
        let body = format!("{body}\n");
        let stated = u64::from_str_radix(rest.split_once('\n')?.0, 16).ok()?;
        if stated != check(body.as_bytes()) {
            return None;
        }
        let value = |key: &str| body.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        let number = |key: &str| value(key)?.parse::<u64>().ok();
        Some(Self {
            pid: u32::try_from(number("pid")?).ok()?,
            generation: number("generation")?,
            restarts_started: Duration::from_nanos(number("restarts_started")?),
            busy: number("busy")? != 0,
            ok: number("ok")? != 0,
            message: one_line(value("message")?),
        })
    }
}

/// `text` on one line, without what moves a terminal, and not too long.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for char in text.trim_end().chars() {
        let shown: String =
            if char.is_control() { char.escape_default().collect() } else { char.to_string() };
        if line.len() + shown.len() > MESSAGE_MAX_BYTES {
            break;
        }
        line.push_str(&shown);
    }
    line
}

/// FNV-1a, 64 bits: against a torn text, not against somebody who means it; only the server's user can write there.
fn check(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Begins the last line.
const CHECK: &str = "check = ";
/// Most of a message.
pub(super) const MESSAGE_MAX_BYTES: usize = 1024;
/// More than any text has, and than what two of them leave.
const TEXT_MAX_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Status {
        Status {
            pid: 4242,
            generation: 3,
            restarts_started: Duration::from_nanos(1_234_567_890_123),
            busy: true,
            ok: false,
            message: "chat.toml:3:1: unknown key `prot`".to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let status = example();
        assert_eq!(Status::parse(status.text(4242).as_bytes()), Some(status));
        let first = Status::default().text(1);
        assert!(
            first.starts_with(
                "pid = 1\ngeneration = 0\nrestarts_started = 0\nbusy = 0\nok = 0\nmessage = \ncheck = "
            ),
            "{first}"
        );
    }

    #[test]
    fn no_mixture_of_two_texts_is_taken_for_one() {
        let (old, new) = (example(), Status { busy: false, ok: true, message: "x".repeat(200), ..example() });
        for (first, second) in [(&old, &new), (&new, &old)] {
            let (from, to) = (first.text(4242), second.text(4242));
            for at in 0..=to.len() {
                // The first `at` bytes are new; what was there before lies behind them, as far as it went.
                let mut mixed = to.as_bytes()[..at].to_vec();
                mixed.extend_from_slice(from.as_bytes().get(at..).unwrap_or_default());
                let read = Status::parse(&mixed);
                assert!(
                    read.is_none() || read.as_ref() == Some(first) || read.as_ref() == Some(second),
                    "{at}"
                );
                if at == to.len() {
                    assert_eq!(read.as_ref(), Some(second));
                }
            }
        }
    }

    #[test]
    fn what_is_cut_or_changed_or_nothing_is_not_read() {
        let text = example().text(4242);
        for length in 0..text.len() - 1 {
            assert_eq!(Status::parse(&text.as_bytes()[..length]), None, "{length}");
        }
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let read = Status::parse(&changed);
            // The number of the check itself may be written in capitals.
            assert!(read.is_none() || read == Some(example()), "{at}: {read:?}");
        }
    }

    #[test]
    fn a_message_is_one_line_without_control_characters_and_has_a_limit() {
        let status = Status { message: "a\nb\x1b[2J\u{9b}ü\n".to_owned(), ..Status::default() };
        assert!(status.text(1).contains("\nmessage = a\\nb\\u{1b}[2J\\u{9b}ü\n"), "{}", status.text(1));
        for length in [1023, 1024, 1025, 100_000] {
            let status = Status { message: "y".repeat(length), ..Status::default() };
            let read = Status::parse(status.text(1).as_bytes()).unwrap();
            assert_eq!(read.message.len(), length.min(MESSAGE_MAX_BYTES), "{length}");
        }
        let longest = Status {
            message: "ü".repeat(MESSAGE_MAX_BYTES),
            restarts_started: Duration::from_nanos(u64::MAX),
            ..example()
        };
        assert!(
            2 * longest.text(u32::MAX).len() > TEXT_MAX_BYTES
                && longest.text(u32::MAX).len() < TEXT_MAX_BYTES
        );
    }
}
