//! Signals as events of the loop.
//!
//! Rests on signal-hook: its handler only writes to a socket pair, which the loop polls; what a signal means is decided
//! on the loop's own stack. Signals belong to the process, not to a mux: a process has one [`Signals`] at a time.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::{Interest, Registry, Token, event::Source};
use signal_hook::consts::signal::{
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGXFSZ,
};

/// The signals that the loop takes. All others keep the effect that the system gives them (`signal(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGINT, Ctrl-C: stop promptly.
    Interrupt,
    /// SIGTERM: stop promptly.
    Terminate,
    /// SIGQUIT: stop gracefully.
    Quit,
    /// SIGHUP: restart, keeping the connections.
    HangUp,
    /// SIGUSR1: reopen log files.
    User1,
    /// SIGUSR2: the application's.
    User2,
    /// SIGALRM: survived.
    Alarm,
    /// SIGTTIN: survived.
    TtyIn,
    /// SIGTTOU: survived.
    TtyOut,
}

impl Signal {
    /// The system's name for it: `SIGTERM`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Quit => "SIGQUIT",
            Self::HangUp => "SIGHUP",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
            Self::Alarm => "SIGALRM",
            Self::TtyIn => "SIGTTIN",
            Self::TtyOut => "SIGTTOU",
        }
    }

    #[cfg(feature = "daemon")]
    fn asks_for_the_end(self) -> bool {
        matches!(self, Self::Interrupt | Self::Terminate | Self::Quit)
    }

    fn of(number: i32) -> Option<Self> {
        SIGNALS.iter().find(|(known, _)| *known == number).map(|(_, signal)| *signal)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Sees to it that the status of a child can be had, also when this process was started with SIGCHLD ignored, which
/// would throw it away: the signal is caught and does nothing. Programs that are started from here begin with its
/// default.
///
/// # Errors
/// The system refuses a handler.
#[cfg(all(feature = "config", feature = "daemon"))]
pub(crate) fn keep_children() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::new(AtomicBool::new(false))).map(drop)
}

/// The process's signals, as a source of events.
///
/// While one exists, the signals of [`Signal`] have no effect but to be [`pending`](Signals::pending) here. SIGPIPE
/// is not among them: Rust programs ignore it from the start. SIGXFSZ, which kills a process whose log reaches the
/// file size limit, is caught and does nothing, so that the write fails instead (`EFBIG`); it is not *ignored*, so a
/// program started from here begins with its default again.
///
/// Dropping it does not give the signals their default effect back: they are then lost.
pub struct Signals {
    inner: signal_hook_mio::v1_0::Signals,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals(..)")
    }
}

impl Signals {
    /// Catches all of [`Signal`] from now on.
    ///
    /// # Errors
    /// No descriptors left, or the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        let inner = signal_hook_mio::v1_0::Signals::new(SIGNALS.map(|(number, _)| number))?;
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(Self { inner })
    }

    /// Holds them all back: they stay pending in this thread and across `execve(2)`.
    ///
    /// # Errors
    /// `sigprocmask(2)` refuses.
    #[cfg(feature = "daemon")]
    pub(crate) fn block() -> io::Result<()> {
        crate::sys::block_signals(&held())
    }

    /// Lets them through again, those that came meanwhile first.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    #[cfg(feature = "daemon")]
    pub(crate) fn unblock() -> io::Result<()> {
        crate::sys::unblock_signals(&held())
    }

    /// While they are held back: raises what is pending here once more, so that it stays pending for whoever takes over.
    /// True if one of them asks for the end.
    #[cfg(feature = "daemon")]
    pub(crate) fn hold(&mut self) -> bool {
        let pending: Vec<Signal> = self.pending().collect();
        for signal in &pending {
            let number = SIGNALS.iter().find(|(_, known)| known == signal).map(|(number, _)| *number);
            // To oneself it cannot fail. To the process, another thread might take it.
            let _ = number.map(crate::sys::raise);
        }
        pending.into_iter().any(Signal::asks_for_the_end)
    }

    /// Sends what is pending at the process `from`, which holds it back, to `to` once more. True if one of them asks for the
    /// end. Nothing where the system does not tell what is pending.
    #[cfg(all(feature = "config", feature = "daemon"))]
    pub(crate) fn pass_on(from: i32, to: i32) -> bool {
        let pending = crate::sys::pending_signals(from);
        let mut ends = false;
        for (number, signal) in SIGNALS.iter().filter(|(number, _)| pending.contains(number)) {
            // Who is gone needs none.
            let _ = crate::sys::kill(to, *number);
            ends |= signal.asks_for_the_end();
        }
        ends
    }

    /// What has come since the last call, each signal at most once however often it came, in no particular order.
    pub fn pending(&mut self) -> impl Iterator<Item = Signal> + use<'_> {
        self.inner.pending().filter_map(Signal::of)
    }
}

impl Source for Signals {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.inner.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.inner.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }
}

/// The numbers of all of them, and of SIGXFSZ.
#[cfg(feature = "daemon")]
fn held() -> [i32; 10] {
    let mut held = [SIGXFSZ; 10];
    for (place, (number, _)) in held.iter_mut().zip(SIGNALS) {
        *place = number;
    }
    held
}

const SIGNALS: [(i32, Signal); 9] = [
    (SIGINT, Signal::Interrupt),
    (SIGTERM, Signal::Terminate),
    (SIGQUIT, Signal::Quit),
    (SIGHUP, Signal::HangUp),
    (SIGUSR1, Signal::User1),
    (SIGUSR2, Signal::User2),
    (SIGALRM, Signal::Alarm),
    (SIGTTIN, Signal::TtyIn),
    (SIGTTOU, Signal::TtyOut),
];

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};

    /// One test for all, because signals are the process's: two of these in parallel would see each other's.
    #[test]
    fn every_signal_wakes_the_poll_and_is_pending_once_and_sigxfsz_is_survived() {
        let mut poll = Poll::new().unwrap();
        let mut signals = Signals::new().unwrap();
        poll.registry().register(&mut signals, Token(7), Interest::READABLE).unwrap();
        let mut events = Events::with_capacity(8);
        for (number, expected) in SIGNALS {
            signal_hook::low_level::raise(number).unwrap();
            signal_hook::low_level::raise(number).unwrap();
            let mut seen = Vec::new();
            while seen.is_empty() {
                poll.poll(&mut events, None).or_else(interrupted).unwrap();
                seen.extend(signals.pending());
            }
            assert_eq!(seen, [expected], "{}", expected.name());
            assert_eq!(signals.pending().count(), 0);
        }
        signal_hook::low_level::raise(SIGXFSZ).unwrap();
        assert_eq!(signals.pending().count(), 0);
    }

    fn interrupted(cause: io::Error) -> io::Result<()> {
        if cause.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(cause) }
    }

    #[test]
    fn every_signal_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = SIGNALS.iter().map(|(_, signal)| signal.name()).collect();
        assert_eq!(names.len(), SIGNALS.len());
        assert_eq!(Signal::Terminate.to_string(), "SIGTERM");
        assert_eq!(Signal::of(0), None);
    }
}
