//! When messages count: from the moment that the server is warm until the time is over.

use std::io;
use std::time::{Duration, Instant};

use super::calls::Calls;
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

/// One measurement of one server. A load asks [`go_on`](Self::go_on) after every batch of events.
pub(crate) struct Window<'a> {
    server: &'a Server,
    times: Times,
    /// System calls are counted instead of time.
    traced: bool,
    phase: Phase,
    until: Instant,
    begun: Option<Begun>,
    figures: Figures,
    messages: u64,
    latency: Histogram,
}

struct Begun {
    at: Instant,
    server: Duration,
    load: Duration,
    calls: Option<Calls>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(server: &'a Server, times: Times, traced: bool) -> Self {
        Self {
            server,
            times,
            traced,
            phase: Phase::Before,
            until: Instant::now() + START_MAX,
            begun: None,
            figures: Figures::default(),
            messages: 0,
            latency: Histogram::new(),
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
        (self.messages, self.latency) = (0, Histogram::new());
        let load = sys::cpu_time(std::process::id())?;
        self.begun = Some(Begun { at: Instant::now(), server: self.server.cpu_time()?, load, calls });
        self.phase = Phase::Run;
        self.until = Instant::now() + self.times.run;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let begun = self.begun.take().ok_or_else(|| wrong("the window was never open"))?;
        let server = self.server.cpu_time()? - begun.server;
        let seconds = begun.at.elapsed().as_secs_f64();
        let load = sys::cpu_time(std::process::id())? - begun.load;
        let messages = self.messages as f64;
        let each = |all: f64| if messages > 0.0 { all / messages } else { f64::NAN };
        self.figures.put("messages", messages);
        if let Some(calls) = begun.calls {
            self.figures.put("calls_each", each(calls.end()? as f64));
        } else {
            self.figures.put("seconds", seconds);
            self.figures.put("per_second", messages / seconds);
            self.figures.put("cpu_ns_each", each(server.as_nanos() as f64));
            self.figures.put("server_busy", server.as_secs_f64() / seconds);
            self.figures.put("load_busy", load.as_secs_f64() / seconds);
            for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
                self.figures.put(name, self.latency.quantile_us(part));
            }
        }
        self.phase = Phase::Over;
        Ok(())
    }

    /// What was measured.
    pub(crate) fn figures(self) -> Figures {
        self.figures
    }
}

/// For building up the load.
const START_MAX: Duration = Duration::from_secs(30);
/// No event for that long, while something is awaited, ends a run.
pub(crate) const STALL: Duration = Duration::from_secs(5);
