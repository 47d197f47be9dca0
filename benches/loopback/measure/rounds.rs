//! Rounds: every server gets the same load in turns, so that what disturbs the machine disturbs all alike.
//!
//! A round is the bare loop, each other one, and the bare loop again as a control, each a process of its own. All stand
//! ready, and their time is cut into parts of a tenth of a second that take turns: forwards, backwards, forwards. What one
//! part suffers its neighbours suffer as well, and a load that finds a rhythm (closed loops of many senders have two) is
//! begun anew in each. A ratio is taken inside its round only, over all parts, against the mean of the two bare loops.
//! Loads too big to stand side by side take turns as a whole; every second round goes backwards.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use super::calls;
use super::server::{Peer, Start};
use super::window::{Figures, Times};
use super::work::{Running, Work};

/// What is run.
pub(crate) struct Plan {
    pub(crate) works: Vec<&'static Work>,
    /// Beside those that a workload names, of which the first is what the others are compared with.
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
    /// CPU of each message in each part, in nanoseconds.
    pub(crate) parts: Vec<f64>,
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
        let parts: Vec<String> = self.parts.iter().map(|part| format!("{part:.1}")).collect();
        line + &format!(",\"parts\":[{}]}}\n", parts.join(","))
    }
}

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    /// Workload, peer, and what went wrong.
    pub(crate) failed: Vec<(&'static str, String, String)>,
    /// Workloads that need more than this machine has, and what.
    pub(crate) skipped: Vec<(&'static str, String)>,
    /// Servers that are not on this machine.
    pub(crate) absent: Vec<(&'static str, String)>,
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

    /// Who takes part, the bare loop first.
    fn turns(&self, work: &'static Work, traced: bool, results: &mut Results) -> Vec<Turn> {
        let mut turns = Vec::new();
        // One that the command line describes stands in for the known one of that name.
        for name in work.peers.iter().filter(|name| self.peers.iter().all(|peer| peer.name != **name)) {
            match Peer::known(name) {
                Ok(peer) => turns.push(Turn { peer, control: false, running: None }),
                Err(needs) if results.absent.iter().all(|(known, _)| known != name) => {
                    results.absent.push((*name, needs.to_string()));
                }
                Err(_) => {}
            }
        }
        let able = self.peers.iter().filter(|peer| peer.modes.contains(&work.mode())).cloned();
        turns.extend(able.map(|peer| Turn { peer, control: false, running: None }));
        if !traced {
            turns.extend(Peer::known(work.peers[0]).map(|peer| Turn { peer, control: true, running: None }));
        }
        let failed = |turn: &Turn| {
            results.failed.iter().any(|(at, name, _)| *at == work.name && *name == turn.peer.name)
        };
        turns.retain(|turn| !failed(turn));
        turns
    }

    /// One round of one workload; without a number the one that counts system calls.
    fn round(&mut self, work: &'static Work, round: Option<usize>, results: &mut Results) -> io::Result<()> {
        let mut turns = self.turns(work, round.is_none(), results);
        if round.is_some_and(|round| round % 2 == 1) {
            turns.reverse();
        }
        let fits = work.descriptors() * turns.len() as u64 <= self.descriptors;
        let together = if round.is_some() && work.has_parts() && fits { turns.len() } else { 1 };
        let count = (self.times.run.as_secs_f64() / PART.as_secs_f64()).round().max(1.0) as u32;
        let parts = if together > 1 { count } else { 1 };
        for group in turns.chunks_mut(together) {
            for turn in group.iter_mut() {
                turn.start(work, self.start, results);
            }
            for part in 0..parts {
                let warm = if part == 0 { self.times.warm } else { self.times.warm.min(PART / 5) };
                let times = Times { warm, run: self.times.run / parts };
                let mut order: Vec<&mut Turn> = group.iter_mut().collect();
                if part % 2 == 1 {
                    order.reverse();
                }
                for turn in order {
                    turn.measure(work, times, round.is_none(), results);
                }
            }
            for turn in group {
                let Some(running) = turn.running.take() else { continue };
                let (figures, parts) = running.figures();
                let (peer, control) = (turn.peer.name.clone(), turn.control);
                let record = Record { work: work.name, peer, round, control, figures, parts };
                if let Some(file) = &mut self.json {
                    file.write_all(record.json().as_bytes())?;
                }
                results.records.push(record);
            }
        }
        Ok(())
    }
}

/// One server in one round.
struct Turn {
    peer: Peer,
    control: bool,
    /// Until it fails.
    running: Option<Running>,
}

impl Turn {
    fn start(&mut self, work: &'static Work, how: Start, results: &mut Results) {
        match work.start(&self.peer, how) {
            Ok(running) => self.running = Some(running),
            Err(error) => self.fail(work, &error, results),
        }
    }

    fn measure(&mut self, work: &'static Work, times: Times, traced: bool, results: &mut Results) {
        if let Some(Err(error)) = self.running.as_mut().map(|running| running.measure(times, traced)) {
            self.running = None;
            self.fail(work, &error, results);
        }
    }

    fn fail(&self, work: &'static Work, error: &io::Error, results: &mut Results) {
        eprintln!("{}, {}: {error}", work.name, self.peer.name);
        results.failed.push((work.name, self.peer.name.clone(), error.to_string()));
    }
}

/// Of the time of a run.
const PART: Duration = Duration::from_millis(100);
