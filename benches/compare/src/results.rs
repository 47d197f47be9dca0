//! The runs of the loopback bench, from its lines of JSON, and what they come to.
//!
//! A ratio is taken inside its round, against the mean of the two runs of the bare loop there, and is then the median
//! over the rounds. The interval covers the true median in 95 of 100 cases from 6 rounds on; below that it is all
//! there is.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// What the others are measured against.
pub(crate) const RAW: &str = "raw";

pub(crate) struct Results(Vec<Run>);

/// One run of one server.
struct Run {
    work: String,
    server: String,
    /// None where system calls were counted.
    round: Option<u64>,
    /// The second run of the bare loop in its round.
    control: bool,
    figures: BTreeMap<String, f64>,
}

/// A median, and where the true one lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Results {
    /// # Errors
    /// The number of the line that is none of the bench, and what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let run = |(at, line)| Run::parse(line).ok_or_else(|| format!("line {}: no run: {line}", at + 1));
        text.lines().enumerate().map(run).collect::<Result<_, _>>().map(Self)
    }

    /// The workloads about messages, in the order in which they ran.
    pub(crate) fn works(&self) -> Vec<&str> {
        distinct(
            self.0.iter().filter(|run| run.figures.contains_key("cpu_ns_each")).map(|run| run.work.as_str()),
        )
    }

    /// The servers that went through a workload.
    pub(crate) fn servers(&self, work: &str) -> Vec<&str> {
        distinct(self.0.iter().filter(|run| run.work == work).map(|run| run.server.as_str()))
    }

    /// How many rounds there were.
    pub(crate) fn rounds(&self) -> u64 {
        self.0.iter().filter_map(|run| run.round).max().map_or(0, |last| last + 1)
    }

    pub(crate) fn median(&self, work: &str, server: &str, figure: &str) -> Option<f64> {
        let runs = self.0.iter().filter(|run| run.work == work && run.server == server);
        Spread::of(runs.filter_map(|run| run.figures.get(figure).copied()).collect())
            .map(|spread| spread.median)
    }

    /// A figure of `server` as a multiple of that of `base`.
    pub(crate) fn ratio(&self, work: &str, server: &str, base: &str, figure: &str) -> Option<Spread> {
        let of = |name: &'_ str, round| {
            let runs =
                self.0.iter().filter(|run| run.work == work && run.server == name && run.round == round);
            let values: Vec<f64> = runs.filter_map(|run| run.figures.get(figure).copied()).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let rounds = (0..self.rounds()).map(Some).chain([None]);
        Spread::of(rounds.filter_map(|round| Some(of(server, round)? / of(base, round)?)).collect())
    }

    /// A/A: the CPU of the bare loop's second runs against its first.
    pub(crate) fn control(&self, work: &str) -> Option<Spread> {
        let of = |round, control| {
            let is_it = |run: &&Run| {
                run.work == work && run.server == RAW && run.round == Some(round) && run.control == control
            };
            self.0.iter().find(is_it)?.figures.get("cpu_ns_each").copied()
        };
        Spread::of(
            (0..self.rounds()).filter_map(|round| Some(of(round, true)? / of(round, false)?)).collect(),
        )
    }

    /// Whether the machine was not quiet: equal programs differed.
    pub(crate) fn is_void(&self, work: &str) -> bool {
        self.control(work).is_none_or(|control| (control.median - 1.0).abs() > VOID)
    }
}

impl Run {
    fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let numbers =
            value.as_object()?.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        Some(Self {
            work: value["work"].as_str()?.to_owned(),
            server: value["peer"].as_str()?.to_owned(),
            round: value["round"].as_u64(),
            control: value["control"].as_bool()?,
            figures: numbers.collect(),
        })
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let cut = cut(values.len());
        let median = (values[last / 2] + values[values.len() / 2]) / 2.0;
        Some(Self { median, low: values[cut], high: values[last - cut] })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}..{:.2})", self.median, self.low, self.high)
    }
}

/// How many of `count` sorted values may be left out at either end, if the rest is to cover the true median in 95 of
/// 100 cases: whether a value is above it or below is the toss of a coin.
fn cut(count: usize) -> usize {
    let mut cut = 0;
    // The chance of exactly `cut` values below, and of at most that many.
    let mut term = 0.5_f64.powi(count as i32);
    let mut tail = term;
    loop {
        term *= (count - cut) as f64 / (cut + 1) as f64;
        tail += term;
        if 2.0 * tail > 0.05 {
            return cut;
        }
        cut += 1;
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// How far the bare loop may be from itself.
const VOID: f64 = 0.02;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(server: &str, round: &str, control: bool, cpu: f64) -> String {
        format!(
            "{{\"work\":\"w\",\"peer\":\"{server}\",\"round\":{round},\"control\":{control},\"cpu_ns_each\":{cpu}}}\n"
        )
    }

    #[test]
    fn a_ratio_is_taken_inside_its_round_against_both_runs_of_the_base() {
        let text = line("raw", "0", false, 90.0)
            + &line("it", "0", false, 200.0)
            + &line("raw", "0", true, 110.0)
            + &line("raw", "1", true, 10.0)
            + &line("it", "1", false, 40.0)
            + &line("raw", "1", false, 10.0);
        let results = Results::parse(&text).unwrap();
        let ratio = results.ratio("w", "it", RAW, "cpu_ns_each").unwrap();
        assert_eq!(ratio, Spread { median: 3.0, low: 2.0, high: 4.0 });
        assert_eq!(results.servers("w"), ["raw", "it"]);
        assert_eq!(results.rounds(), 2);
    }

    #[test]
    fn a_workload_is_void_when_the_base_differs_from_itself_by_more_than_2_percent() {
        let runs = |second| line("raw", "0", false, 100.0) + &line("raw", "0", true, second);
        assert!(!Results::parse(&runs(101.9)).unwrap().is_void("w"));
        assert!(Results::parse(&runs(102.1)).unwrap().is_void("w"));
        assert!(Results::parse(&runs(97.9)).unwrap().is_void("w"));
        assert!(Results::parse("").unwrap().is_void("w"), "never measured");
    }

    #[test]
    fn the_interval_is_everything_up_to_8_rounds_and_all_but_one_at_either_end_from_9_on() {
        assert_eq!([1, 3, 5, 8, 9, 11, 12, 15].map(cut), [0, 0, 0, 0, 1, 1, 2, 3]);
    }

    #[test]
    fn a_line_that_is_no_run_is_refused_by_its_number() {
        let text = line("raw", "0", false, 1.0) + "{\"work\":\"w\"}\n";
        assert!(Results::parse(&text).err().unwrap().starts_with("line 2: "));
    }
}
