//! How a loop ends: at once, or gracefully, or with the wish for a restart.
//!
//! At once (INT, TERM, `stop`): `pre_server_close_hook`, one send for everybody who has output, then every
//! connection is closed and hears it in `close`; what is written there is dropped. Gracefully (QUIT): the hook, then
//! no new client, everybody drained, at most `Limits::stop_time`; a second signal ends it at once.

use super::Mux;
use super::callback::CloseReason;
use super::conn::Phase;
use super::server::{Closing, Server};
use super::timers::TimerKey;
use super::{Ended, accept};
use crate::Result;
use crate::slots::ConnId;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    closed: usize,
    cut: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    No,
    /// A restart was asked for; nothing has changed.
    #[cfg_attr(not(feature = "signals"), allow(dead_code, reason = "only a signal asks for it"))]
    Restart,
    /// Draining; so many connections were there when it began.
    Graceful {
        all: usize,
    },
    Over(Ended),
}

impl Ending {
    pub(super) fn is_graceful(&self) -> bool {
        matches!(self, Self::Graceful { .. })
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::No)
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        match self {
            Self::Over(ended) => Some(*ended),
            _ => None,
        }
    }
}

impl<S: Server> Mux<S> {
    #[cfg(feature = "signals")]
    pub(super) fn take_signals(&mut self) {
        use crate::signals::Signal;
        let Some(signals) = self.signals.as_mut() else { return };
        let pending: Vec<_> = signals.pending().collect();
        for signal in pending {
            log::debug!("{} received", signal.name());
            match signal {
                Signal::Interrupt | Signal::Terminate => self.conns.stop(0),
                Signal::Quit => self.stop_gracefully(),
                Signal::HangUp => {
                    if matches!(self.ending, Ending::No) {
                        self.ending = Ending::Restart;
                    }
                }
                Signal::User1 => {
                    if let Some(reopen) = self.reopen_logs.as_mut() {
                        reopen();
                    }
                }
                other => {
                    self.hook("signal_hook", |server, room| server.signal_hook(room, other));
                }
            }
        }
    }

    /// Takes no new client and drains everybody, at most `Limits::stop_time`; asked twice, stops at once. In a callback:
    /// [`Conns::stop_gracefully`](crate::Conns::stop_gracefully).
    pub fn stop_gracefully(&mut self) {
        if !matches!(self.ending, Ending::No | Ending::Restart) {
            self.conns.stop(0);
            return;
        }
        // Who waits in a queue already has been promised an answer.
        self.conns.doors.iter_mut().for_each(|door| door.ready = true);
        for _ in 0..QUEUES_MAX {
            if !self.conns.doors_wait() {
                break;
            }
            self.accept();
        }
        self.conns.ending = true;
        self.hook("pre_server_close_hook", |server, room| {
            server.pre_server_close_hook(room, Closing::Stop);
        });
        self.conns.doors.clear();
        let ids: Vec<ConnId> = self.conns.slots.iter().map(|(id, _)| id).collect();
        self.ending = Ending::Graceful { all: ids.len() };
        for id in ids {
            self.conns.close_because(id, CloseReason::Shutdown);
        }
        self.conns.timers.wish(TimerKey::Stop, Some(self.conns.limits.stop_time));
        self.conns.settle_timers();
    }

    /// After each turn: has the loop ended?
    pub(super) fn see_about_ending(&mut self) -> Result<Option<Ended>> {
        if let Some(error) = self.conns.fatal.take() {
            self.hook("fatal_hook", |server, _| server.fatal_hook(&error));
            self.stop_now(error.exit_status());
            return Err(error);
        }
        if std::mem::take(&mut self.conns.drain) && self.conns.stop.is_none() {
            self.stop_gracefully();
        }
        Ok(match (self.conns.stop, self.ending) {
            (Some(status), _) => Some(self.stop_now(status)),
            (None, Ending::Graceful { .. }) if self.conns.slots.is_empty() => Some(self.stop_now(0)),
            (None, Ending::Restart) => {
                self.ending = Ending::No;
                Some(Ended::Restart)
            }
            _ => None,
        })
    }

    fn stop_now(&mut self, status: u8) -> Ended {
        self.conns.ending = true;
        let before = match self.ending {
            Ending::Graceful { all } => all,
            _ => {
                self.hook("pre_server_close_hook", |server, room| {
                    server.pre_server_close_hook(room, Closing::Stop);
                });
                self.conns.slots.len()
            }
        };
        // Whoever was served in this turn may be sent one more thing. Another number of the turn would be an old one of some.
        self.conns.slots.iter_mut().for_each(|(_, conn)| conn.drained_turn = 0);
        self.flush_and_reap();
        let tally = self.close_everybody();
        let waiting = std::mem::take(&mut self.asks);
        for ask in waiting.into_iter().chain(self.handle.end()) {
            self.contain("drop", || drop(ask));
        }
        let cut = tally.cut;
        let ended = Ended::Stop { status, closed: before.max(tally.closed + cut) - cut, cut };
        self.ending = Ending::Over(ended);
        ended
    }

    fn close_everybody(&mut self) -> Tally {
        let ids: Vec<ConnId> = self.conns.slots.iter().map(|(id, _)| id).collect();
        let mut tally = Tally::default();
        for id in &ids {
            let Some(conn) = self.conns.slots.at_mut(*id) else { continue };
            if conn.output_len() > 0 || (conn.phase == Phase::Opening) {
                tally.cut += 1;
            } else {
                tally.closed += 1;
            }
            if let Some(stream) = conn.stream.as_mut() {
                // What lies unread would make the close a reset, which destroys what was just sent.
                let _ = stream.shutdown_write();
                if let Ok(count) = stream.read(self.scratch.storage(accept::DISCARD)) {
                    self.scratch.filled(count);
                    self.scratch.discard();
                }
            }
            self.conns.cut(*id, CloseReason::Shutdown);
        }
        self.conns.lists.gone.clear();
        for id in ids {
            self.reap(id);
        }
        tally
    }
}

/// How often the listeners' queues are emptied at a graceful stop: at 64 clients each, 4096, which is the backlog.
pub(super) const QUEUES_MAX: usize = 64;
