//! What the loop counts about itself: plain numbers, read with [`Conns::metrics`](crate::Conns::metrics).
//!
//! Counters only grow (from the start of the mux, in the unit that their line names); gauges say what is now. They
//! make claims about system calls testable without a clock.

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident;)+) => {
        /// Counters and gauges of one mux.
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Metrics {
            /// Every metric: its name, whether it is a `counter` or a `gauge`, its value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), stringify!($kind), self.$name)),+].into_iter()
            }

            /// Goes on counting where another image stopped. A name that this version does not know is passed over.
            pub(crate) fn set(&mut self, name: &str, value: u64) {
                $(if name == stringify!($name) {
                    self.$name = value.min(COUNT_MAX);
                })+
            }
        }
    };
}

metrics! {
    /// Turns of the loop.
    counter turns;
    /// Waits in the kernel (`epoll_wait`).
    counter waits;
    /// Calls of accept, those that found nobody included.
    counter accept_calls;
    /// Calls of recv.
    counter recv_calls;
    /// Of those, calls that found nothing to read.
    counter recv_empty;
    /// Calls of send.
    counter send_calls;
    /// Of those, calls that the kernel took no byte of.
    counter send_refused;
    /// Registrations of connections and listeners with the poll (`epoll_ctl`): one for each, none later.
    counter registrations;
    /// Connections taken from the poll before their close (`epoll_ctl`): adopted descriptors only, since somebody else
    /// may have them open. For all others the close does it.
    counter deregistrations;
    /// Bytes received.
    counter bytes_in;
    /// Bytes sent.
    counter bytes_out;
    /// Lines taken with `Input::line`, and what was taken with `Input::spend` in their place.
    counter lines;
    /// Descriptors that clients passed and that were kept for `Conns::take_fd`.
    counter fds_in;
    /// Descriptors that clients passed and that were closed, since as many were waiting as may (`Conns::take_fd`).
    counter fds_refused;
    /// Receives in which descriptors were lost, as a rule because this process had none left.
    counter fds_lost;
    /// Descriptors passed to peers.
    counter fds_out;
    /// Descriptors that wait for `Conns::take_fd`.
    gauge fds_waiting;
    /// Connections open now, denied and closing ones included.
    gauge open;
    /// Connections that have output which the kernel does not take now, because their peers read slowly.
    gauge blocked;
    /// Clients taken from listeners, those refused or denied included.
    counter accepted;
    /// Of those, refused because a limit was reached.
    counter refused;
    /// Of those, denied by the access lists or a hook.
    counter denied;
    /// Errors of accept that were survived, and clients that could not be registered with the poll.
    counter accept_errors;
    /// Outgoing connections begun.
    counter connects;
    /// Connections closed.
    counter closed;
    /// Of those, closed over an output limit: too much waited, or nothing was taken for too long.
    counter output_limit;
    /// Lines longer than the limit.
    counter long_lines;
    /// Callbacks that answered with an error, and calls that failed as only a mistake in the program can make them.
    counter failures;
    /// Callbacks and hooks that panicked.
    counter panics;
    /// Deadlines and timers served.
    counter expiries;
    /// Ticks (`run_dequeue`).
    counter ticks;
    /// Flushes that waited for more lines (`gather`).
    counter gathers;
    /// Turns that left what was to be sent to the next one because of that.
    counter gather_turns;
    /// Turns longer than `slow_turn`.
    counter slow_turns;
    /// Requests from other threads served.
    counter wakes;
    /// Jobs given to the offload threads.
    counter offloads;
    /// Jobs refused because their queue was full.
    counter offloads_refused;
    /// Sweeps: each second, while connections are blocked or had an event that nothing followed, these are tried once
    /// more, in case an event was lost.
    counter sweeps;
    /// Connections that a sweep found work for, bytes to read or much room to send, without an event having told of it
    /// by then or in the wait after: lost edges, made good. It stays 0 unless the system breaks its promise.
    counter lost_edges;
}

/// Nothing can be counted so far: at a thousand million a second it takes a hundred years.
pub(crate) const COUNT_MAX: u64 = 1 << 62;
