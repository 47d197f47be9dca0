//! What a log line looks like: one line of printable ASCII, whatever was logged.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::Level;

/// One record on its way to the log. The text is raw; it is escaped where it is written, off the loop.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) text: String,
}

impl Line {
    /// A record now; of a longer text the first 4 KiB are kept.
    pub(super) fn new(level: Level, text: fmt::Arguments<'_>) -> Self {
        Self { time: SystemTime::now(), level, text: capped(text) }
    }

    /// `2026-11-21T03:45:58.123Z warn  TEXT` and a newline, at most 4 KiB in all: what is longer ends in `...`.
    pub(super) fn format(&self) -> String {
        let mut line = String::with_capacity(self.text.len().min(LINE_MAX_BYTES) + 40);
        push_time(&mut line, self.time);
        // Writing to a String cannot fail.
        let _ = write!(line, " {:<5} ", level_name(self.level));
        escape(&mut line, self.text.as_bytes(), LINE_MAX_BYTES - 1);
        line.push('\n');
        line
    }

    /// `<N>TEXT` and a newline, at most 4 KiB in all: `sd-daemon(3)`, for a standard error that the journal reads. It notes
    /// the time itself.
    pub(super) fn format_prefixed(&self) -> String {
        let mut line = format!("<{}>", severity(self.level));
        escape(&mut line, self.text.as_bytes(), LINE_MAX_BYTES - 1);
        line.push('\n');
        line
    }

    /// `<PRI>ident[pid]: TEXT`, what `/dev/log` expects: RFC 3164 (section 4.1) without its host, which is left out
    /// there, and without its time, which is local and which the receiver adds where it is missing (section 4.3.3). A tag
    /// longer than the 32 bytes of the RFC and a text longer than its 1024 pass every receiver on the same host.
    pub(super) fn format_syslog(&self, facility: u8, ident: &str) -> String {
        let mut line = format!("<{}>", u32::from(facility) * 8 + u32::from(severity(self.level)));
        // What would end the tag too early.
        let tag = ident.replace([' ', ':', '[', ']'], "_");
        escape(&mut line, tag.as_bytes(), IDENT_MAX_BYTES);
        let _ = write!(line, "[{}]: ", std::process::id());
        escape(&mut line, self.text.as_bytes(), LINE_MAX_BYTES);
        line
    }

    /// The fields of one journal entry (`systemd.journal-fields(7)`), each a line `NAME=value`, as no value has a line end.
    /// The journal adds the time and, as the system knows it, the process.
    pub(super) fn format_journald(&self, facility: u8, ident: &str) -> String {
        let mut entry =
            format!("PRIORITY={}\nSYSLOG_FACILITY={facility}\nSYSLOG_IDENTIFIER=", severity(self.level));
        let start = entry.len();
        escape(&mut entry, ident.as_bytes(), start + IDENT_MAX_BYTES);
        entry.push_str("\nMESSAGE=");
        let start = entry.len();
        escape(&mut entry, self.text.as_bytes(), start + LINE_MAX_BYTES);
        entry.push('\n');
        entry
    }
}

/// The severity of `syslog(3)`.
pub(super) fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Appends `bytes` to `line` with everything but printable ASCII as `%XX` (upper case), newlines and tabs included,
/// until `line` has `max` bytes; what is longer ends in `...`.
pub(super) fn escape(line: &mut String, bytes: &[u8], max: usize) {
    // Where the text must end if something follows that does not fit.
    let mut cut = line.len();
    for &byte in bytes {
        let printable = (b' '..=b'~').contains(&byte);
        if line.len() + if printable { 1 } else { 3 } > max {
            line.truncate(cut);
            line.push_str(CUT_MARK);
            return;
        }
        if printable {
            line.push(char::from(byte));
        } else {
            let _ = write!(line, "%{byte:02X}");
        }
        if line.len() + CUT_MARK.len() <= max {
            cut = line.len();
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The first 4 KiB of what `text` says, in whole characters, and nothing allocated for the rest.
fn capped(text: fmt::Arguments<'_>) -> String {
    struct Capped(String);

    impl Write for Capped {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let mut room = (LINE_MAX_BYTES - self.0.len()).min(part.len());
            while !part.is_char_boundary(room) {
                room -= 1;
            }
            self.0.push_str(&part[..room]);
            // An error ends the formatting, which is what is wanted.
            if room < part.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }

    let mut kept = Capped(String::new());
    let _ = kept.write_fmt(text);
    kept.0
}

/// RFC 3339 in UTC with milliseconds. A time before 1970 is shown as 1970.
fn push_time(line: &mut String, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    let _ = write!(line, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// Year, month and day of the `days`-th day after 1970-01-01, in the Gregorian calendar: years are counted from 1 March,
/// so that the leap day is the last of its year, in cycles of 400 years, which have 146 097 days.
fn date(days: u64) -> (u64, u64, u64) {
    // 0000-03-01 is 719 468 days before 1970-01-01.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // The months from March on have 31 30 31 30 31 days, over and over: 153 in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month, day)
}

/// One write of at most this many bytes is whole even in a pipe that others write to (`PIPE_BUF`, `pipe(7)`).
pub(super) const LINE_MAX_BYTES: usize = 4096;

const IDENT_MAX_BYTES: usize = 64;

const CUT_MARK: &str = "...";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64, millis: u64) -> String {
        let mut line = String::new();
        push_time(&mut line, UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis));
        line
    }

    fn line(text: &str) -> Line {
        Line { time: UNIX_EPOCH, level: Level::Warn, text: text.to_owned() }
    }

    #[test]
    fn times_are_utc_through_leap_years_and_centuries() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400, 1), "2000-02-29T00:00:00.001Z");
        assert_eq!(at(951_868_800, 0), "2000-03-01T00:00:00.000Z");
        assert_eq!(at(1_000_000_000, 0), "2001-09-09T01:46:40.000Z");
        assert_eq!(at(1_735_603_200, 0), "2024-12-31T00:00:00.000Z");
        assert_eq!(at(1_735_689_600, 0), "2025-01-01T00:00:00.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut before = date(0);
        for days in 1..800 * 366 {
            let (year, month, day) = date(days);
            let leap = before.0 % 4 == 0 && (before.0 % 100 != 0 || before.0 % 400 == 0);
            let length = match before.1 {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match before {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == length => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!((year, month, day), next);
            before = next;
        }
    }

    #[test]
    fn a_line_has_its_time_its_level_and_its_text() {
        assert_eq!(line("slow client").format(), "1970-01-01T00:00:00.000Z warn  slow client\n");
        let error = Line { level: Level::Error, ..line("x") };
        assert_eq!(error.format(), "1970-01-01T00:00:00.000Z error x\n");
    }

    #[test]
    fn control_and_foreign_bytes_are_shown_in_upper_case() {
        let text = line("a\r\n\t\x1b[1m\x7fé%0a ~").format();
        assert!(text.ends_with(" a%0D%0A%09%1B[1m%7F%C3%A9%0a ~\n"), "{text}");
    }

    #[test]
    fn a_syslog_line_begins_with_its_priority() {
        let pid = std::process::id();
        assert_eq!(line("a\nb").format_syslog(3, "chat"), format!("<28>chat[{pid}]: a%0Ab"));
        let debug = Line { level: Level::Debug, ..line("x") };
        assert_eq!(debug.format_syslog(23, "c\nd"), format!("<191>c%0Ad[{pid}]: x"));
    }

    #[test]
    fn a_syslog_tag_ends_where_the_receiver_ends_it() {
        let pid = std::process::id();
        assert_eq!(line("x").format_syslog(3, "my chat[1]: a"), format!("<28>my_chat_1___a[{pid}]: x"));
        let long = line("x").format_syslog(3, &"c".repeat(100));
        assert_eq!(long.len(), IDENT_MAX_BYTES + format!("[{pid}]: x").len());
    }

    #[test]
    fn a_line_for_the_journal_of_standard_error_begins_with_its_priority_and_has_no_time() {
        assert_eq!(line("a\nb").format_prefixed(), "<4>a%0Ab\n");
        let error = Line { level: Level::Error, ..line("x") };
        assert_eq!(error.format_prefixed(), "<3>x\n");
        assert_eq!(line(&"x".repeat(5000)).format_prefixed().len(), LINE_MAX_BYTES);
    }

    #[test]
    fn a_journal_entry_has_a_line_for_each_field_and_no_text_makes_another() {
        let entry = line("a\nPRIORITY=0").format_journald(3, "my\nchat");
        let fields = "PRIORITY=4\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=my%0Achat\nMESSAGE=a%0APRIORITY=0\n";
        assert_eq!(entry, fields);
        let long = line(&"x".repeat(5000)).format_journald(3, &"c".repeat(100));
        let lengths: Vec<usize> = long.lines().map(str::len).collect();
        let [ident, text] = ["SYSLOG_IDENTIFIER=".len(), "MESSAGE=".len()];
        assert_eq!(lengths, [10, 17, ident + IDENT_MAX_BYTES, text + LINE_MAX_BYTES]);
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_above_ends_in_dots() {
        let room = LINE_MAX_BYTES - line("").format().len();
        let whole = line(&"x".repeat(room)).format();
        assert_eq!(whole.len(), LINE_MAX_BYTES);
        assert!(whole.ends_with("xxx\n"));
        let cut = line(&"x".repeat(room + 1)).format();
        assert_eq!(cut.len(), LINE_MAX_BYTES);
        assert!(cut.ends_with("x...\n"));
    }

    #[test]
    fn a_huge_record_is_capped_while_it_is_formatted() {
        let part = "é".repeat(1000);
        let line = Line::new(Level::Info, format_args!("-{part}{part}{part}{}", Unreached));
        assert_eq!(line.text.len(), LINE_MAX_BYTES - 1);
    }

    struct Unreached;

    impl fmt::Display for Unreached {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("formatted past the cap")
        }
    }

    proptest! {
        #[test]
        fn whatever_is_logged_is_one_line_of_printable_ascii(bytes: Vec<u8>, max in 3usize..600) {
            let mut line = String::new();
            escape(&mut line, &bytes, max);
            prop_assert!(line.len() <= max);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let all: String = bytes.iter().map(|byte| match byte {
                b' '..=b'~' => char::from(*byte).to_string(),
                _ => format!("%{byte:02X}"),
            }).collect();
            if all.len() <= max {
                prop_assert_eq!(line, all);
            } else {
                let kept = line.strip_suffix("...").unwrap();
                prop_assert!(all.starts_with(kept));
                prop_assert!(kept.len() + 3 + 3 > max);
            }
        }
    }
}
