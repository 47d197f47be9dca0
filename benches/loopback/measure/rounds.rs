//! Rounds: every peer gets the same load in turns, so that what disturbs the machine disturbs all alike.
//!
//! A round is the bare loop, each peer, and the bare loop again as a control; every second round goes backwards.
//! A ratio is taken inside its round only, against the mean of the two.

use std::fs::File;
use std::io::{self, Write};

use super::calls;
use super::server::{Peer, Start};
use super::window::{Figures, Times};
use super::work::Work;

/// What is run.
pub(crate) struct Plan {
    pub(crate) works: Vec<&'static Work>,
    /// The first is what the others are compared with.
    pub(crate) peers: Vec<Peer>,
    pub(crate) rounds: usize,
    pub(crate) times: Times,
    pub(crate) start: Start,
    /// System calls are counted too, in a run of their own.
    pub(crate) count_calls: bool,
    /// Open descriptors that a process may have.
    pub(crate) descriptors: u64,
    /// Gets every record as a line of JSON.
    pub(crate) json: Option<File>,
}

/// One run of one peer.
pub(crate) struct Record {
    pub(crate) work: &'static str,
    pub(crate) peer: String,
    /// `None`: its system calls were counted.
    pub(crate) round: Option<usize>,
    /// The second run of the first peer.
    pub(crate) control: bool,
    pub(crate) figures: Figures,
}

impl Record {
    fn json(&self) -> String {
        let name = self.peer.replace('\\', "\\\\").replace('"', "\\\"");
        let round = self.round.map_or_else(|| "null".to_owned(), |round| round.to_string());
        let mut line = format!(
            "{{\"work\":\"{}\",\"peer\":\"{name}\",\"round\":{round},\"control\":{}",
            self.work, self.control
        );
        for (name, value) in self.figures.iter().filter(|(_, value)| value.is_finite()) {
            line += &format!(",\"{name}\":{value}");
        }
        line + "}\n"
    }
}

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    /// Workload, peer, and what went wrong.
    pub(crate) failed: Vec<(&'static str, String, String)>,
    /// Workloads that need more than this machine has, and what.
    pub(crate) skipped: Vec<(&'static str, String)>,
}

impl Plan {
    /// Runs it all. What fails is left out from then on, and told of.
    pub(crate) fn run(mut self) -> io::Result<Results> {
        let mut results = Results::default();
        let limit = self.descriptors;
        let (works, lacking): (Vec<&Work>, Vec<&Work>) =
            self.works.iter().partition(|work| work.descriptors() <= limit);
        let needs = |work: &Work| format!("{} descriptors, the limit is {limit}", work.descriptors());
        results.skipped = lacking.into_iter().map(|work| (work.name, needs(work))).collect();
        self.works = works;
        for round in 0..self.rounds {
            for at in 0..self.works.len() {
                self.round(self.works[at], Some(round), &mut results)?;
            }
        }
        if self.count_calls && calls::tool().is_some() {
            for at in 0..self.works.len() {
                if self.works[at].has_messages() {
                    self.round(self.works[at], None, &mut results)?;
                }
            }
        }
        Ok(results)
    }

    /// One round of one workload; without a number the one that counts system calls.
    fn round(&mut self, work: &'static Work, round: Option<usize>, results: &mut Results) -> io::Result<()> {
        let able = self.peers.iter().filter(|peer| peer.modes.contains(&work.mode()));
        let mut turns: Vec<_> = able.map(|peer| (peer, false)).collect();
        if round.is_some() {
            turns.extend(self.peers.first().map(|peer| (peer, true)));
        }
        if round.is_some_and(|round| round % 2 == 1) {
            turns.reverse();
        }
        for (peer, control) in turns {
            if results.failed.iter().any(|(at, name, _)| *at == work.name && *name == peer.name) {
                continue;
            }
            let figures = match work.run(peer, self.start, self.times, round.is_none()) {
                Ok(figures) => figures,
                Err(error) => {
                    eprintln!("{}, {}: {error}", work.name, peer.name);
                    results.failed.push((work.name, peer.name.clone(), error.to_string()));
                    continue;
                }
            };
            let record = Record { work: work.name, peer: peer.name.clone(), round, control, figures };
            if let Some(file) = &mut self.json {
                file.write_all(record.json().as_bytes())?;
            }
            results.records.push(record);
        }
        Ok(())
    }
}
