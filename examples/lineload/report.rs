//! What came of a run: everything that was counted and measured, the verdict, and how both are printed.

use std::fmt::Write;

use nix::unistd::Pid;

use crate::process::Held;
use crate::spread::Spread;
use crate::tally::Tally;

/// What the control client measured.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) lines: u64,
    /// Connections it lost, and wrong answers.
    pub(crate) broken: u64,
    /// From the time at which each line was due to its answer.
    pub(crate) spread: Spread,
    /// The longest of them after each HUP and before the next.
    pub(crate) silence: Spread,
}

/// What the HUPs did.
#[derive(Debug)]
pub(crate) struct Restarts {
    pub(crate) hups: u64,
    /// Those for which there was no time, or no server.
    pub(crate) unsent: u64,
    /// The sent ones with a storm counted as one.
    pub(crate) waves: u64,
    /// By the server's count.
    pub(crate) finished: u64,
    pub(crate) failed: u64,
    /// HUPs after which no restart was seen to end in time.
    pub(crate) unfinished: u64,
    /// New images of the process that were seen, whatever the server says; `None` where they cannot be.
    pub(crate) images: Option<u64>,
    /// Whether the server says how its restarts go.
    pub(crate) is_watched: bool,
    pub(crate) spread: Spread,
}

/// The server at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) pid: Pid,
    pub(crate) held: Option<Held>,
}

/// Everything about a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) live: usize,
    pub(crate) seed: u64,
    pub(crate) pid_may_change: bool,
    pub(crate) tally: Tally,
    pub(crate) control: Control,
    pub(crate) restarts: Option<Restarts>,
    pub(crate) before: Option<Seen>,
    /// `None` as well if the server is gone.
    pub(crate) after: Option<Seen>,
}

impl Report {
    /// What is wrong, a sentence each; nothing if nothing was lost.
    pub(crate) fn losses(&self) -> Vec<String> {
        let (tally, new) = (&self.tally, &self.tally.new);
        let restarts = self.restarts.as_ref();
        let counts = [
            (tally.broken(), "live clients lost their connection"),
            (tally.wrong(), "live clients got other bytes than they had sent"),
            (tally.lines_lost, "lines were lost"),
            (new.refused, "new connections were refused"),
            (new.reset, "new connections were reset"),
            (new.closed, "new connections were closed without their answer"),
            (new.timed_out, "new connections had no answer in time"),
            (new.wrong, "new connections got other bytes than they had sent"),
            (new.failed, "new connections could not be made on this side"),
            (self.control.broken, "times the control client was broken"),
            (restarts.map_or(0, |restarts| restarts.unfinished), "restarts were not seen to end"),
            (restarts.map_or(0, |restarts| restarts.unsent), "HUPs could not be sent"),
        ];
        let nonzero = counts.into_iter().filter(|(count, _)| *count > 0);
        let mut losses: Vec<String> = nonzero.map(|(count, what)| format!("{count} {what}")).collect();
        match (self.before, self.after) {
            (Some(before), None) => losses.push(format!("the server, pid {}, is gone", before.pid)),
            (Some(before), Some(after)) if before.pid != after.pid && !self.pid_may_change => {
                losses.push(format!("the pid changed from {} to {}", before.pid, after.pid));
            }
            _ => {}
        }
        if restarts
            .is_some_and(|restarts| restarts.images == Some(0) && restarts.finished + restarts.failed == 0)
        {
            losses.push("the HUPs caused no restart: the process runs the same image".to_owned());
        }
        if tally.lines_answered + new.ok + self.control.lines == 0 {
            losses.push("not one line was answered".to_owned());
        }
        losses
    }

    /// Every number with its key, in the order of printing.
    fn values(&self) -> Vec<(&'static str, f64)> {
        let (tally, new, control) = (&self.tally, &self.tally.new, &self.control);
        let mut values = vec![
            ("clean", f64::from(u8::from(self.losses().is_empty()))),
            ("seconds", tally.duration.as_secs_f64()),
            ("seed", self.seed as f64),
            ("live", self.live as f64),
            ("lines_sent", tally.lines_sent as f64),
            ("lines_answered", tally.lines_answered as f64),
            ("lines_lost", tally.lines_lost as f64),
            ("broken", tally.broken() as f64),
            ("broken_closed", tally.closed as f64),
            ("broken_reset", tally.reset as f64),
            ("broken_silent", tally.silent as f64),
            ("wrong", tally.wrong() as f64),
            ("wrong_lost", tally.wrong_lost as f64),
            ("wrong_repeated", tally.wrong_repeated as f64),
            ("wrong_reordered", tally.wrong_reordered as f64),
            ("wrong_changed", tally.wrong_changed as f64),
            ("new_started", new.started as f64),
            ("new_ok", new.ok as f64),
            ("new_refused", new.refused as f64),
            ("new_reset", new.reset as f64),
            ("new_closed", new.closed as f64),
            ("new_timed_out", new.timed_out as f64),
            ("new_wrong", new.wrong as f64),
            ("new_failed", new.failed as f64),
            ("new_queue_full", new.queue_full as f64),
            ("new_late", new.late as f64),
            ("control_lines", control.lines as f64),
            ("control_broken", control.broken as f64),
        ];
        spread(&mut values, ["new_ms_p50", "new_ms_p99", "new_ms_max"], &new.spread);
        spread(&mut values, ["control_ms_p50", "control_ms_p99", "control_ms_max"], &control.spread);
        if let Some(restarts) = &self.restarts {
            let [least, median, most] = tally.failed_per_hup(restarts.waves);
            values.extend([
                ("hups", restarts.hups as f64),
                ("hups_unsent", restarts.unsent as f64),
                ("restarts", restarts.finished as f64),
                ("restarts_failed", restarts.failed as f64),
                ("restarts_unfinished", restarts.unfinished as f64),
                ("images", restarts.images.map_or(-1.0, |images| images as f64)),
                ("failed_per_hup_min", least as f64),
                ("failed_per_hup_median", median as f64),
                ("failed_per_hup_max", most as f64),
            ]);
            spread(&mut values, ["restart_ms_p50", "restart_ms_p99", "restart_ms_max"], &restarts.spread);
            spread(&mut values, ["silence_ms_p50", "silence_ms_p99", "silence_ms_max"], &control.silence);
        }
        for (seen, keys) in [
            (self.before, ["pid_before", "descriptors_before", "rss_kib_before"]),
            (self.after, ["pid_after", "descriptors_after", "rss_kib_after"]),
        ] {
            let Some(seen) = seen else { continue };
            values.push((keys[0], f64::from(seen.pid.as_raw())));
            if let Some(held) = seen.held {
                values.extend([(keys[1], held.descriptors as f64), (keys[2], held.rss_kib as f64)]);
            }
        }
        values
    }

    /// The numbers as lines `key = value`. The keys for signals and for the process are there if those were asked for.
    pub(crate) fn plain(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.values() {
            // Writing to a string cannot fail. Whole numbers are printed as such.
            let _ = writeln!(text, "{key} = {}", (value * 1e3).round() / 1e3);
        }
        text
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let (tally, new, control) = (&self.tally, &self.tally.new, &self.control);
        let mut rows = vec![
            ("live clients", self.live.to_string()),
            (
                "  lines",
                format!(
                    "{} sent, {} answered, {} lost",
                    tally.lines_sent, tally.lines_answered, tally.lines_lost
                ),
            ),
            (
                "  broken",
                format!(
                    "{} (closed {}, reset {}, silent {})",
                    tally.broken(),
                    tally.closed,
                    tally.reset,
                    tally.silent
                ),
            ),
            (
                "  wrong bytes",
                format!(
                    "{} (lost {}, repeated {}, reordered {}, changed {})",
                    tally.wrong(),
                    tally.wrong_lost,
                    tally.wrong_repeated,
                    tally.wrong_reordered,
                    tally.wrong_changed
                ),
            ),
            (
                "new connections",
                format!(
                    "{} ok, {} refused, {} reset, {} closed, {} timed out, {} wrong",
                    new.ok, new.refused, new.reset, new.closed, new.timed_out, new.wrong
                ),
            ),
            (
                "",
                format!("{} late, {} met a full queue, {} failed here", new.late, new.queue_full, new.failed),
            ),
            ("  ms to the answer", milliseconds(&new.spread)),
            ("control client", format!("{} lines, {} broken", control.lines, control.broken)),
            ("  ms to the answer", milliseconds(&control.spread)),
        ];
        if let Some(restarts) = &self.restarts {
            rows.extend(self.restart_rows(restarts));
        }
        if let Some(before) = self.before {
            rows.push(("server", server(before, self.after)));
        }
        let mut text = String::new();
        for (name, value) in rows {
            let _ = writeln!(text, "{name:<20}{value}");
        }
        text
    }

    fn restart_rows(&self, restarts: &Restarts) -> Vec<(&'static str, String)> {
        let [least, median, most] = self.tally.failed_per_hup(restarts.waves);
        let mut text = restarts.hups.to_string();
        // Writing to a string cannot fail.
        if restarts.is_watched {
            let (finished, failed, unfinished) = (restarts.finished, restarts.failed, restarts.unfinished);
            let _ =
                write!(text, "; {finished} restarts finished, {failed} failed, {unfinished} not seen to end");
        }
        if let Some(images) = restarts.images {
            let _ = write!(text, "; {images} new images seen");
        }
        let mut rows = vec![("HUPs", text)];
        if restarts.spread.count() > 0 {
            rows.push(("  ms to the end", milliseconds(&restarts.spread)));
        }
        rows.push(("  ms of silence", milliseconds(&self.control.silence)));
        rows.push(("  clients failed", format!("least {least}, median {median}, most {most} a HUP")));
        rows
    }
}

fn spread(values: &mut Vec<(&'static str, f64)>, keys: [&'static str; 3], spread: &Spread) {
    values.extend([
        (keys[0], spread.percentile_ms(50)),
        (keys[1], spread.percentile_ms(99)),
        (keys[2], spread.max_ms()),
    ]);
}

fn milliseconds(spread: &Spread) -> String {
    let (half, most, max) = (spread.percentile_ms(50), spread.percentile_ms(99), spread.max_ms());
    format!("p50 {half:.1}, p99 {most:.1}, max {max:.1}")
}

fn server(before: Seen, after: Option<Seen>) -> String {
    let Some(after) = after else { return format!("pid {}, gone", before.pid) };
    let mut text = format!("pid {} -> {}", before.pid, after.pid);
    if let (Some(one), Some(other)) = (before.held, after.held) {
        let _ = write!(
            text,
            "; descriptors {} -> {}; RSS {} -> {} KiB",
            one.descriptors, other.descriptors, one.rss_kib, other.rss_kib
        );
    }
    text
}
