//! When messages count: from the moment that the server is warm until the time is over.

use std::io;
use std::time::{Duration, Instant};

use super::calls::{Calls, Counts};
use super::histogram::Histogram;
use super::server::Server;
use super::{sys, wrong};

/// How long a server is warmed up, and measured.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm: Duration,
    pub(crate) run: Duration,
}

/// Figures by their names, in the order in which they were taken.
#[derive(Clone, Default)]
pub(crate) struct Figures(Vec<(&'static str, f64)>);

impl Figures {
    pub(crate) fn put(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    pub(crate) fn of(&self, name: &str) -> Option<f64> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().copied()
    }
}

enum Phase {
    /// The load is being built up.
    Before,
    Warm,
    Run,
    /// What is under way is still awaited.
    Over,
}

/// What all measurements of one server add up to.
#[derive(Default)]
pub(crate) struct Sums {
    messages: u64,
    time: Duration,
    server: Duration,
    load: Duration,
    latency: Histogram,
    calls: Option<Counts>,
    /// CPU of each message, in nanoseconds, by measurement.
    pub(crate) parts: Vec<f64>,
}

impl Sums {
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        let each = |all: f64| if self.messages > 0 { all / self.messages as f64 } else { f64::NAN };
        figures.put("messages", self.messages as f64);
        if let Some(calls) = &self.calls {
            figures.put("calls_each", each(calls.all as f64));
            figures.put("recvs_each", each(calls.recvs as f64));
            figures.put("sends_each", each(calls.sends as f64));
            return figures;
        }
        let seconds = self.time.as_secs_f64();
        figures.put("seconds", seconds);
        figures.put("per_second", self.messages as f64 / seconds);
        figures.put("cpu_ns_each", each(self.server.as_nanos() as f64));
        figures.put("server_busy", self.server.as_secs_f64() / seconds);
        figures.put("load_busy", self.load.as_secs_f64() / seconds);
        for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            figures.put(name, self.latency.quantile_us(part));
        }
        figures
    }

    /// A quantile of the times, in microseconds.
    pub(crate) fn quantile_us(&self, part: f64) -> f64 {
        self.latency.quantile_us(part)
    }
}

/// One measurement of one server. A load asks [`go_on`](Self::go_on) after every batch of events.
pub(crate) struct Window<'a> {
    server: &'a Server,
    times: Times,
    /// System calls are counted instead of time.
    traced: bool,
    phase: Phase,
    until: Instant,
    begun: Option<Begun>,
    messages: u64,
    latency: Histogram,
    sums: &'a mut Sums,
}

struct Begun {
    at: Instant,
    server: Duration,
    load: Duration,
    calls: Option<Calls>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(server: &'a Server, times: Times, traced: bool, sums: &'a mut Sums) -> Self {
        Self {
            server,
            times,
            traced,
            phase: Phase::Before,
            until: Instant::now() + START_MAX,
            begun: None,
            messages: 0,
            latency: Histogram::default(),
            sums,
        }
    }

    pub(crate) fn server(&self) -> &'a Server {
        self.server
    }

    /// `messages` have arrived, each that long after it was sent.
    #[inline]
    pub(crate) fn count(&mut self, messages: u64, took: Duration) {
        self.messages += messages;
        self.latency.record(took, messages);
    }

    /// More messages whose time is not taken.
    #[inline]
    pub(crate) fn count_untimed(&mut self, messages: u64) {
        self.messages += messages;
    }

    /// Only the time.
    #[inline]
    pub(crate) fn time(&mut self, took: Duration) {
        self.latency.record(took, 1);
    }

    /// Whether the load is to go on sending. `ready`: the server has heard everybody.
    ///
    /// # Errors
    /// The load was never ready, the server is gone, or its calls cannot be counted.
    pub(crate) fn go_on(&mut self, ready: bool) -> io::Result<bool> {
        let now = Instant::now();
        match self.phase {
            Phase::Before if ready => {
                self.phase = Phase::Warm;
                self.until = now + self.times.warm;
            }
            Phase::Before if now > self.until => {
                return Err(wrong(format!("not everybody is served after {} s", START_MAX.as_secs())));
            }
            Phase::Warm if now >= self.until => self.begin()?,
            Phase::Run if now >= self.until => self.end()?,
            _ => {}
        }
        Ok(!matches!(self.phase, Phase::Over))
    }

    fn begin(&mut self) -> io::Result<()> {
        let calls = if self.traced { Some(Calls::count(self.server.pid())?) } else { None };
        (self.messages, self.latency) = (0, Histogram::default());
        let load = sys::cpu_time(std::process::id())?;
        self.begun = Some(Begun { at: Instant::now(), server: self.server.cpu_time()?, load, calls });
        self.phase = Phase::Run;
        self.until = Instant::now() + self.times.run;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let begun = self.begun.take().ok_or_else(|| wrong("the window was never open"))?;
        let server = self.server.cpu_time()? - begun.server;
        self.sums.time += begun.at.elapsed();
        self.sums.server += server;
        self.sums.load += sys::cpu_time(std::process::id())? - begun.load;
        self.sums.messages += self.messages;
        self.sums.latency.add(&self.latency);
        if self.messages > 0 {
            self.sums.parts.push(server.as_nanos() as f64 / self.messages as f64);
        }
        if let Some(calls) = begun.calls {
            self.sums.calls = Some(calls.end()?);
        }
        self.phase = Phase::Over;
        Ok(())
    }
}

/// For building up the load.
const START_MAX: Duration = Duration::from_secs(30);
/// No event for that long, while something is awaited, ends a run.
pub(crate) const STALL: Duration = Duration::from_secs(5);
