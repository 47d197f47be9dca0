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
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
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
    fn records<'a>(&'a self, work: &'a str, peer: &'a str) -> impl Iterator<Item = &'a Record> {
        self.results.records.iter().filter(move |record| record.work == work && record.peer == peer)
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

    /// A figure of one server.
    pub(crate) fn values(&self, work: &Work, peer: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.records(work.name, peer).filter_map(|record| record.figures.of(figure)).collect())
    }

    fn median(&self, work: &Work, peer: &str, figure: &str) -> Option<f64> {
        self.values(work, peer, figure).map(|spread| spread.median)
    }

    /// A figure against the base's, inside each round.
    pub(crate) fn ratio(&self, work: &Work, peer: &str, figure: &str) -> Option<Spread> {
        self.ratio_to(work, peer, figure, (work.name, self.base))
    }

    /// A figure against the same of that workload and server, inside each round.
    pub(crate) fn ratio_to(
        &self,
        work: &Work,
        peer: &str,
        figure: &str,
        than: (&str, &str),
    ) -> Option<Spread> {
        let ratios = self.records(work.name, peer).filter_map(|record| {
            let mine = record.figures.of(figure)?;
            let same = self.records(than.0, than.1).filter(|base| base.round == record.round);
            let base: Vec<f64> = same.filter_map(|base| base.figures.of(figure)).collect();
            // The control is missing only where it failed.
            (!base.is_empty()).then(|| mine * base.len() as f64 / base.iter().sum::<f64>())
        });
        Spread::of(ratios.collect())
    }

    /// Why its ratios of CPU are not to be believed.
    pub(crate) fn void(&self, work: &Work) -> Option<String> {
        let rounds = self.records(work.name, self.base).filter_map(|record| record.round).max()? + 1;
        let control = self.control(work)?.median;
        if (control - 1.0).abs() > VOID {
            return Some(format!("A/A {control:.2}"));
        }
        (rounds < ROUNDS).then(|| format!("{rounds} of {ROUNDS} rounds"))
    }

    /// The base against itself: its second run over its first.
    fn control(&self, work: &Work) -> Option<Spread> {
        let of = |record: &Record| Some((record.round?, record.control, record.figures.of("cpu_ns_each")?));
        let runs: Vec<_> = self.records(work.name, self.base).filter_map(of).collect();
        let ratios = runs.iter().filter(|run| run.1).filter_map(|second| {
            let first = runs.iter().find(|run| run.0 == second.0 && !run.1)?;
            Some(second.2 / first.2)
        });
        Spread::of(ratios.collect())
    }

    fn timed_row(&self, work: &Work, peer: &str, out: &mut String) -> fmt::Result {
        let base = peer == self.base;
        let spread = if base { self.control(work) } else { self.ratio(work, peer, "cpu_ns_each") };
        let against = match spread {
            Some(spread) if base => format!("A/A {spread}"),
            Some(spread) => spread.to_string(),
            None => String::new(),
        };
        write!(out, "| {} | {peer} | {against} |", work.name)?;
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
            "| workload | server | CPU each, x {} | CPU ns each | messages/s | p50 us | p99 us | p99.9 us | system calls each |",
            self.base
        )?;
        writeln!(out, "|---|---|---|--:|--:|--:|--:|--:|--:|")?;
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
                "bytes for each connection | after a line of each | CPU us/s while idle",
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

    /// What a client's load does to the time of 50 others.
    fn mixed(&self, out: &mut String) -> fmt::Result {
        let Some(work) = WORKS.iter().find(|work| self.median(work, self.base, "alone_p50_us").is_some())
        else {
            return Ok(());
        };
        writeln!(out, "| 50 clients | server | p50 us (x alone, x {0}) | p99 us | p99.9 us |", self.base)?;
        writeln!(out, "|---|---|--:|--:|--:|")?;
        for (case, figures) in MIXED {
            for peer in self.peers(work) {
                write!(out, "| {case} | {peer} |")?;
                for (figure, alone) in figures.iter().zip(MIXED[0].1) {
                    let value = self.median(work, peer, figure).unwrap_or(f64::NAN);
                    let alone = value / self.median(work, peer, alone).unwrap_or(f64::NAN);
                    let ratio = self.ratio(work, peer, figure).map_or(f64::NAN, |ratio| ratio.median);
                    write!(out, " {} ({alone:.2}, {ratio:.2}) |", grouped(value, false))?;
                }
                writeln!(out)?;
            }
        }
        writeln!(out)
    }

    fn goals(&self, out: &mut String) -> fmt::Result {
        let goals = WORKS.iter().flat_map(|work| work.goals.iter().map(move |goal| (work, goal)));
        let known: Vec<_> =
            goals.filter_map(|(work, goal)| Some((work, goal, goal.verdict(work, self)?))).collect();
        if known.is_empty() {
            return Ok(());
        }
        writeln!(out, "| workload | goal | measured | |")?;
        writeln!(out, "|---|---|--:|---|")?;
        for (work, goal, (spread, verdict)) in known {
            writeln!(out, "| {} | {} | {spread} | {verdict} |", work.name, goal.text(self.base))?;
        }
        writeln!(out)
    }

    /// How far the parts of one load lie apart: where they have more than one rhythm, it is seen here.
    fn parts(&self, out: &mut String) -> fmt::Result {
        for work in WORKS {
            for peer in self.peers(work) {
                let mut parts: Vec<f64> = self
                    .records(work.name, peer)
                    .filter(|r| r.round.is_some())
                    .flat_map(|r| r.parts.clone())
                    .collect();
                parts.sort_by(f64::total_cmp);
                let Some(last) = parts.len().checked_sub(1).filter(|last| *last >= PARTS) else { continue };
                let at = |tenths: usize| grouped(parts[last * tenths / 10], false);
                writeln!(
                    out,
                    "{}, {peer}: CPU ns each in {} parts, from the lowest tenth to the highest: {}, {}, **{}**, {}, {}",
                    work.name,
                    parts.len(),
                    at(1),
                    at(3),
                    at(5),
                    at(7),
                    at(9)
                )?;
            }
        }
        writeln!(out)
    }

    fn notes(&self, out: &mut String) -> fmt::Result {
        for (work, peer, error) in &self.results.failed {
            writeln!(out, "failed: {work}, {peer}: {error}")?;
        }
        for (name, needs) in &self.results.absent {
            writeln!(out, "without {name}: needs {needs}")?;
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
        self.mixed(&mut out)?;
        self.goals(&mut out)?;
        self.parts(&mut out)?;
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

/// How far the base may be from itself.
const VOID: f64 = 0.02;
/// Fewer say nothing about a goal.
const ROUNDS: usize = 9;
/// Fewer are no distribution.
const PARTS: usize = 20;
/// The cases of the mixed load.
const MIXED: &[(&str, [&str; 3])] = &[
    ("alone", ["alone_p50_us", "alone_p99_us", "alone_p999_us"]),
    ("beside one that pipelines", ["pipeline_p50_us", "pipeline_p99_us", "pipeline_p999_us"]),
    ("beside 1000 that read slowly", ["slow_p50_us", "slow_p99_us", "slow_p999_us"]),
];
