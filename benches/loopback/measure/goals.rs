//! What is to be reached, and whether it was.

use super::table::{Spread, Tables};
use super::work::Work;

/// One figure of one server, and its bound.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) peer: &'static str,
    pub(crate) what: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) than: Than,
    pub(crate) bound: f64,
    pub(crate) exact: bool,
}

/// What the figure is a multiple of.
#[derive(Clone, Copy)]
pub(crate) enum Than {
    /// Nothing: it stands for itself.
    One,
    /// The bare loop's.
    Base,
    /// That server's.
    Peer(&'static str),
    /// Messages for each second of CPU, of that server's; the bound is the least.
    PerCpuOf(&'static str),
    /// Its own under that load.
    Work(&'static str),
}

impl Goal {
    /// At most so many times the bare loop's CPU.
    pub(crate) const fn cpu(bound: f64) -> Self {
        Self { peer: "ours", what: "CPU each", figure: "cpu_ns_each", than: Than::Base, bound, exact: false }
    }

    pub(crate) const fn most(what: &'static str, figure: &'static str, bound: f64) -> Self {
        Self { peer: "ours", what, figure, than: Than::One, bound, exact: false }
    }

    /// To two digits.
    pub(crate) const fn exactly(what: &'static str, figure: &'static str, bound: f64) -> Self {
        Self { exact: true, ..Self::most(what, figure, bound) }
    }

    /// The goal, in words.
    pub(crate) fn text(&self, base: &str) -> String {
        let Self { peer, what, bound, .. } = self;
        match self.than {
            Than::One if self.exact => format!("{peer}: {what} = {bound:.2}"),
            Than::One => format!("{peer}: {what} <= {bound}"),
            Than::Base => format!("{peer}: {what} <= {bound:.2} x {base}"),
            Than::Peer(other) => format!("{peer}: {what} <= {bound:.2} x {other}"),
            Than::PerCpuOf(other) => format!("{peer}: messages per CPU second >= {bound:.2} x {other}"),
            Than::Work(other) => format!("{peer}: {what} <= {bound:.2} x {other}"),
        }
    }

    /// The figure, and whether the goal is met, by how much it is missed, or why nobody knows.
    pub(crate) fn verdict(&self, work: &Work, tables: &Tables<'_>) -> Option<(Spread, String)> {
        let spread = match self.than {
            Than::One => tables.values(work, self.peer, self.figure),
            Than::Base => tables.ratio(work, self.peer, self.figure),
            Than::Peer(other) => tables.ratio_to(work, self.peer, self.figure, (work.name, other)),
            Than::PerCpuOf(other) => tables.ratio_to(work, other, self.figure, (work.name, self.peer)),
            Than::Work(other) => tables.ratio_to(work, self.peer, self.figure, (other, self.peer)),
        }?;
        let (met, perhaps, missed) = match self.than {
            _ if self.exact => {
                let met = (spread.median * 100.0).round() / 100.0 == self.bound;
                (met, false, spread.median / self.bound - 1.0)
            }
            Than::PerCpuOf(_) => {
                let missed = 1.0 - spread.median / self.bound;
                (missed <= 0.0, spread.high >= self.bound, missed)
            }
            _ => (spread.median <= self.bound, spread.low <= self.bound, spread.median / self.bound - 1.0),
        };
        let void = if matches!(self.than, Than::One) { None } else { tables.void(work) };
        Some((
            spread,
            match void {
                Some(why) => format!("void: {why}"),
                None if met => "met".to_owned(),
                // The rounds cannot tell it from a miss.
                None if perhaps => "met, the interval includes it".to_owned(),
                None => format!("**missed by {:.0} %**", missed * 100.0),
            },
        ))
    }
}
