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
        let SavedPassing { most, waiting, unsent } = &self.passing;
        if *most > 0 || !unsent.is_empty() {
            let _ = writeln!(text, "  of {most} descriptors wait {waiting:?}, unsent {unsent:?}");
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

#[test]
fn descriptors_are_believed_only_where_the_output_has_room_for_their_bytes() {
    let read = |most: u8, waiting: &[u32], unsent: &[(u64, u32)]| {
        let mut out = StateWriter::new();
        out.u8(most);
        out.list(waiting, |out, fd| {
            out.u32(*fd);
        });
        out.list(unsent, |out, (at, fd)| {
            out.u64(*at).u32(*fd);
        });
        read_passing(&mut out.reader(), b"a\0\0b")
    };
    let right = read(2, &[7, 8], &[(1, 9), (2, 10)]).unwrap();
    assert_eq!((right.waiting, right.unsent), (vec![7, 8], vec![(1, 9), (2, 10)]));
    assert!(read(1, &[7, 8], &[]).is_err(), "more than may wait");
    assert!(read(0, &[], &[(2, 9), (1, 9)]).is_err(), "out of order");
    assert!(read(0, &[], &[(1, 9), (1, 9)]).is_err(), "two in one place");
    assert!(read(0, &[], &[(3, 9)]).is_ok());
    assert!(read(0, &[], &[(4, 9)]).is_err(), "behind the end");
    assert!(read(0, &[], &[(u64::MAX, 9)]).is_err());
    assert!(read(1, &[u32::MAX], &[]).is_err(), "no descriptor has that number");
}
