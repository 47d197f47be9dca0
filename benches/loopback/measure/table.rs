//! The results as Markdown.

use std::fmt::{self, Write};

use super::calls;
use super::rounds::{Record, Results};
use super::work::{WORKS, Work};

/// All tables of these results; `base` is the peer that the others are compared with.
pub(crate) struct Tables<'a> {
    pub(crate) results: &'a Results,
    pub(crate) base: &'a str,
}

/// A middle value and where the true one lies.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    /// `None` of no values. The interval is what covers the true median in 95 of 100 cases, if the values are
    /// independent: from 9 rounds the second lowest and the second highest; below 6 all of them, and they are too few.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let last = count.checked_sub(1)?;
        let median = (values[last / 2] + values[count / 2]) / 2.0;
        // Each value is as likely above the true median as below it. `tails` is the chance that at most `cut` are on
        // one side, either one.
        let (mut cut, mut term) = (0, 0.5_f64.powi(count as i32));
        let mut tails = 2.0 * term;
        loop {
            term *= (count - cut) as f64 / (cut + 1) as f64;
            tails += 2.0 * term;
            if tails > 0.05 {
                break;
            }
            cut += 1;
        }
        Some(Self { median, low: values[cut], high: values[last - cut] })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}..{:.2})", self.median, self.low, self.high)
    }
}

impl Tables<'_> {
    fn records<'a>(&'a self, work: &'a Work, peer: &'a str) -> impl Iterator<Item = &'a Record> {
        self.results.records.iter().filter(move |record| record.work == work.name && record.peer == peer)
    }

    /// The peers that have a result there, the base first.
    fn peers(&self, work: &Work) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for record in self.results.records.iter().filter(|record| record.work == work.name) {
            if !names.contains(&record.peer.as_str()) {
                names.push(&record.peer);
            }
        }
        names.sort_by_key(|name| *name != self.base);
        names
    }

    fn median(&self, work: &Work, peer: &str, figure: &str) -> Option<f64> {
        let values = self.records(work, peer).filter_map(|record| record.figures.of(figure));
        Spread::of(values.collect()).map(|spread| spread.median)
    }

    /// A figure against the base's, inside each round.
    fn ratio(&self, work: &Work, peer: &str, figure: &str) -> Option<Spread> {
        let ratios = self.records(work, peer).filter_map(|record| {
            let mine = record.figures.of(figure)?;
            let same = self.records(work, self.base).filter(|base| base.round == record.round);
            let base: Vec<f64> = same.filter_map(|base| base.figures.of(figure)).collect();
            // The control is missing only where it failed.
            (!base.is_empty()).then(|| mine * base.len() as f64 / base.iter().sum::<f64>())
        });
        Spread::of(ratios.collect())
    }

    /// The base against itself: its second run over its first.
    fn control(&self, work: &Work) -> Option<Spread> {
        let of = |record: &Record| Some((record.round?, record.control, record.figures.of("cpu_ns_each")?));
        let runs: Vec<_> = self.records(work, self.base).filter_map(of).collect();
        let ratios = runs.iter().filter(|run| run.1).filter_map(|second| {
            let first = runs.iter().find(|run| run.0 == second.0 && !run.1)?;
            Some(second.2 / first.2)
        });
        Spread::of(ratios.collect())
    }

    fn timed_row(&self, work: &Work, peer: &str, out: &mut String) -> fmt::Result {
        let base = peer == self.base;
        let spread = if base { self.control(work) } else { self.ratio(work, peer, "cpu_ns_each") };
        let is_void = self.control(work).is_some_and(|control| (control.median - 1.0).abs() > VOID);
        let against = match spread {
            Some(spread) if base => format!("A/A {spread}{}", if is_void { " **void**" } else { "" }),
            Some(spread) => spread.to_string(),
            None => String::new(),
        };
        let goal = work.goal.filter(|_| peer == OURS).map_or(String::new(), |goal| format!("<= {goal:.2}"));
        write!(out, "| {} | {peer} | {against} | {goal} |", work.name)?;
        for figure in ["cpu_ns_each", "per_second", "p50_us", "p99_us", "p999_us", "calls_each"] {
            let value = self.median(work, peer, figure).filter(|value| *value > 0.0);
            let text = value.map_or(String::new(), |value| grouped(value, figure == "calls_each"));
            let ratio = self.ratio(work, peer, figure).filter(|_| !base && figure != "cpu_ns_each");
            let ratio =
                ratio.filter(|_| value.is_some()).map_or(String::new(), |r| format!(" ({:.2})", r.median));
            write!(out, " {text}{ratio} |")?;
        }
        writeln!(out)
    }

    fn timed(&self, out: &mut String) -> fmt::Result {
        let has_time = |work: &&Work| self.median(work, self.base, "cpu_ns_each").is_some();
        let works: Vec<_> = WORKS.iter().filter(has_time).collect();
        if works.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "| workload | server | CPU each, x {} | goal | CPU ns each | messages/s | p50 us | p99 us | p99.9 us | system calls each |",
            self.base
        )?;
        writeln!(out, "|---|---|---|---|--:|--:|--:|--:|--:|--:|")?;
        for work in works {
            for peer in self.peers(work) {
                self.timed_row(work, peer, out)?;
            }
        }
        writeln!(out)
    }

    fn others(&self, out: &mut String) -> fmt::Result {
        for (figures, head) in [
            (
                &["bytes_each", "bytes_each_after", "idle_cpu_us_per_s"][..],
                "bytes for each connection (goal 64) | after a line of each | CPU us/s while idle",
            ),
            (&["against_alone"][..], "CPU each with the idle ones, x without"),
        ] {
            let works: Vec<_> =
                WORKS.iter().filter(|work| self.median(work, self.base, figures[0]).is_some()).collect();
            if works.is_empty() {
                continue;
            }
            writeln!(out, "| workload | server | {head} |")?;
            writeln!(out, "|---|---{}|", "|--:".repeat(figures.len()))?;
            for work in works {
                for peer in self.peers(work) {
                    write!(out, "| {} | {peer} |", work.name)?;
                    for figure in figures {
                        let value = self.median(work, peer, figure).unwrap_or(f64::NAN);
                        write!(out, " {} |", grouped(value, *figure == "against_alone"))?;
                    }
                    writeln!(out)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// A Unix socket instead of TCP, the same load: the first peer after the base.
    fn unix(&self, out: &mut String) -> fmt::Result {
        let find = |name| WORKS.iter().find(|work| work.name == name);
        let (Some(tcp), Some(unix)) = (find("echo_50"), find("unix_50")) else { return Ok(()) };
        for peer in self.peers(unix) {
            let ratio = |figure| Some(self.median(unix, peer, figure)? / self.median(tcp, peer, figure)?);
            if let (Some(cpu), Some(rate)) = (ratio("cpu_ns_each"), ratio("per_second")) {
                writeln!(out, "unix_50 against echo_50, {peer}: CPU {cpu:.2}, messages/s {rate:.2}")?;
            }
        }
        Ok(())
    }

    fn notes(&self, out: &mut String) -> fmt::Result {
        for (work, peer, error) in &self.results.failed {
            writeln!(out, "failed: {work}, {peer}: {error}")?;
        }
        for (work, needs) in &self.results.skipped {
            writeln!(out, "skipped: {work} needs {needs}")?;
        }
        if self.results.records.iter().any(|record| record.round.is_none()) {
            if let Some(tool) = calls::tool() {
                writeln!(out, "system calls counted by {tool}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.timed(&mut out)?;
        self.others(&mut out)?;
        self.unix(&mut out)?;
        self.notes(&mut out)?;
        f.write_str(&out)
    }
}

/// A number for people: thousands apart, no more digits than mean something.
fn grouped(value: f64, is_small: bool) -> String {
    if is_small || value < 10.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The peer that the goals are for.
const OURS: &str = "ours";
/// How far the base may be from itself.
const VOID: f64 = 0.02;
