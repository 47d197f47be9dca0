//! A record in words, for the golden state.

use std::fmt::Write as _;

use super::*;

impl SavedConn<'_> {
    /// What was read, a few facts a line.
    pub(in super::super) fn text(&self) -> String {
        let mut text = String::new();
        let (fd, kind, phase, side) = (self.fd, self.kind, self.phase, self.write_side);
        let _ = writeln!(text, "  descriptor {fd}, {kind:?}, {phase:?}, writing {side:?}");
        let names = [
            (FRESH, "fresh"),
            (ENDING, "ending"),
            (EOF_SEEN, "eof seen"),
            (WOKEN, "woken"),
            (PAUSED, "paused"),
            (CHOKED, "choked"),
            (AGAIN, "again"),
            (HOLD_OPEN, "hold open"),
            (LATE, "late"),
        ];
        let set: Vec<&str> =
            names.iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, name)| *name).collect();
        let _ = writeln!(text, "  flags {:#x}: {}", self.flags, set.join(", "));
        let _ = writeln!(text, "  deadline {:?}, guard {:?}", self.deadline, self.guard);
        if let Some((bytes, marks, skipped)) = self.input {
            let _ = writeln!(text, "  input \"{}\", marks {marks}, skipped {skipped}", bytes.escape_ascii());
        }
        let _ = writeln!(text, "  output \"{}\"", self.output.escape_ascii());
        if let Some(rare) = &self.rare {
            let SavedRare { linger, discarded, heard, line_began, allowance, throttled, stalled } = rare;
            let _ = writeln!(text, "  linger {linger:?}, discarded {discarded}");
            let _ = writeln!(text, "  heard {heard:?}, line began {line_began:?}");
            let _ = writeln!(text, "  allowance {allowance:?}, throttled {throttled:?}, stalled {stalled:?}");
        }
        let role = match self.role {
            CLIENT => "client",
            DENIED => "denied",
            REFUSED => "refused",
            _ => "left",
        };
        let _ = write!(text, "  {role}, {:?}", self.peer);
        text
    }
}
