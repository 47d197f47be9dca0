//! Phases 5 and 6: requests of other threads and wakers; what is due.

use super::Mux;
use super::callback::{CloseReason, MuxCallback};
use super::conn::{Conn, Flag, Phase};
use super::handle::Ask;
use super::server::Server;
use super::timers::TimerKey;
use crate::slots::ConnId;

impl<S: Server> Mux<S> {
    /// Phase 5.
    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.woken) {
            self.handle.collect(&mut self.asks);
        }
        for _ in 0..self.conns.limits.requests_per_turn.max(1) {
            let Some(ask) = self.asks.pop_front() else { break };
            self.conns.metrics.wakes += 1;
            self.grant_ask(ask);
        }
        if !self.conns.lists.woken.is_empty() {
            let spare = std::mem::take(&mut self.spare_list);
            let mut woken = std::mem::replace(&mut self.conns.lists.woken, spare);
            for id in woken.drain(..) {
                let Some(conn) = self.conns.slots.at_mut(id) else { continue };
                // One that is not open yet keeps it in mind.
                conn.put(Flag::WOKEN, conn.is_to_come());
                if !conn.is(Flag::WOKEN) {
                    self.call_open(id, "wake", MuxCallback::wake);
                }
            }
            self.spare_list = woken;
        }
        self.conns.settle_timers();
    }

    pub(super) fn grant_ask(&mut self, ask: Ask<S>) {
        match ask {
            Ask::Wake(id) => self.conns.wake(id),
            Ask::Client(id, work) => self.call_open(id, "handle", work),
            Ask::Server(work) => {
                self.hook("handle", work);
            }
            Ask::Resolved(id, addresses) => self.conns.resolved(id, addresses),
            Ask::JobDone(id, work) => {
                self.conns.job_is_over(id);
                self.call_open(id, "offload", work);
            }
            Ask::JobPanicked(id, panic) => {
                self.conns.job_is_over(id);
                self.panicked("an offloaded job", panic);
                self.conns.cut(id, CloseReason::Panicked);
            }
            Ask::Stop(status) => self.conns.stop(status),
            Ask::Drain => self.conns.stop_gracefully(),
        }
    }

    /// Phase 6. First what is due is collected, then it is called, so a timer that sets itself again at once waits
    /// for the next turn.
    pub(super) fn time(&mut self) {
        if self.crowded > 0 {
            return self.conns.settle_timers();
        }
        // Every turn: this is how the wheel learns the time.
        let budget = self.conns.limits.expiries_per_turn.max(1);
        self.conns.timers.wheel.collect(self.conns.now, budget);
        if !self.conns.timers.wheel.is_empty() {
            let mut tick = false;
            self.conns.timers.firing = true;
            while let Some(key) = self.conns.pop_due() {
                self.conns.metrics.expiries += 1;
                match key {
                    TimerKey::Deadline(id) => self.deadline_due(id),
                    TimerKey::Guard(id) => self.conns.guard_due(id),
                    TimerKey::Server(key) => {
                        self.hook("timeout", |server, room| server.timeout(room, key));
                    }
                    TimerKey::Tick => tick = true,
                    TimerKey::Door(door) => self.conns.unpark(Some(door)),
                    TimerKey::Sweep => self.sweep(),
                    TimerKey::Stop => self.conns.stop(0),
                    TimerKey::Outside => self.outside = true,
                }
            }
            self.conns.timers.firing = false;
            if tick {
                self.conns.metrics.ticks += 1;
                self.hook("run_dequeue", S::run_dequeue);
                self.conns.timers.wish(TimerKey::Tick, self.tick);
            }
        }
        self.conns.settle_timers();
    }

    fn deadline_due(&mut self, id: ConnId) {
        match self.conns.slots.at_mut(id) {
            Some(conn) if conn.is_to_come() => conn.rare().late = true,
            _ => self.call_open(id, "timeout", MuxCallback::timeout),
        }
    }

    /// Calls a callback of a connection that is being served; of no other.
    pub(super) fn call_open(
        &mut self,
        id: ConnId,
        name: &'static str,
        callback: impl FnOnce(&mut S::Client, &mut super::Context<'_, S>) -> std::io::Result<()>,
    ) {
        let served = |conn: &Conn| conn.phase == Phase::Open && !conn.is(Flag::FRESH);
        if self.conns.slots.at(id).is_some_and(served) {
            self.call(id, name, callback);
        } else {
            // What it owns is the application's, and may panic when it goes.
            self.contain("drop", || drop(callback));
        }
    }
}
