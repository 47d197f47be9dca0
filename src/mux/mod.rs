//! The loop: one poll, its listeners, a slab of connections, and the objects that serve them.
//!
//! [`Mux::turn`] is the function to read: a numbered list of phases, one call each. Everything that a callback does
//! to a connection is a mark or an append; the phases act on it. The mux does not know pids, exec, users or files:
//! [`Mux::run`] says how it ended and the process flow ([`run`](crate::run)) decides what that means.

mod accept;
mod callback;
mod conn;
mod connect;
mod conns;
mod context;
mod descriptors;
mod fanout;
mod flush;
mod gather;
mod handle;
mod handover;
mod offload;
mod peer;
mod pool;
mod read;
mod saved_conn;
mod server;
mod stop;
mod time;
mod timers;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};

pub use callback::{CloseReason, MuxCallback, Saved};
pub use connect::ConnectTo;
pub use conns::{Conns, ListenerRef, To};
pub use context::{Clients, Context, Room};
pub use handle::{Handle, Refused};
#[cfg(all(test, feature = "config", feature = "signals", feature = "daemon"))]
pub(crate) use handover::tests as golden;
#[cfg(all(feature = "config", feature = "signals", feature = "daemon"))]
pub(crate) use handover::{LoopReader, LoopState, Woke};
pub use peer::Peer;
pub use server::{Closing, Outcome, Server};

use accept::{Census, Door, Quiets, RegisterDoor, suppressed};
use conn::{Flag, Phase};
use context::Member;
use handle::Ask;

use crate::buffer::Input;
use crate::config::{Limits, ListenAt, OnPanic};
use crate::net::{Listener, LocalAddr};
use crate::slots::{ConnId, Table};
use crate::{Error, ErrorKind, Result};

/// The loop of one server, on the thread that makes it. Dropped before it has ended, it closes every socket without
/// another callback.
///
/// [`run`](crate::run) makes one for you. To embed the loop in a thread or a test, make it yourself:
///
/// ```
/// # use lineplex::{config::{Limits, ListenAt}, Context, Input, Mux, MuxCallback, Peer, Server};
/// # struct Echo;
/// # struct EchoClient;
/// # impl Server for Echo {
/// #     type Client = EchoClient;
/// #     fn client(&mut self, _: &Peer) -> EchoClient { EchoClient }
/// # }
/// # impl MuxCallback<Echo> for EchoClient {
/// #     fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> std::io::Result<()> {
/// #         while let Some(line) = input.line() { ctx.write(line); ctx.write(b"\n"); }
/// #         Ok(())
/// #     }
/// # }
/// use std::io::{BufRead, BufReader, Write};
///
/// let (send, receive) = std::sync::mpsc::channel();
/// let thread = std::thread::spawn(move || -> lineplex::Result<_> {
///     let mut mux = Mux::new(Echo, Limits::default())?;
///     let addr = mux.listen(&ListenAt::tcp("127.0.0.1", 0))?;
///     send.send((addr, mux.handle())).unwrap();
///     mux.run()
/// });
/// let (addr, handle) = receive.recv().unwrap();
/// let mut stream = std::net::TcpStream::connect(addr.to_string())?;
/// stream.write_all(b"hello\n")?;
/// let mut line = String::new();
/// BufReader::new(&stream).read_line(&mut line)?;
/// assert_eq!(line, "hello\n");
/// handle.stop(0)?;
/// thread.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Mux<S: Server> {
    server: S,
    conns: Conns,
    clients: Table<Member<S::Client>>,
    /// Made by the running callback; they move to the table when it returns.
    added: Vec<(ConnId, Member<S::Client>)>,
    handle: Handle<S>,
    poll: Poll,
    events: Events,
    /// The one buffer that is read into.
    scratch: Input,
    asks: VecDeque<Ask<S>>,
    woken: bool,
    /// Turns in a row that the events of one wait were as many as it can bring.
    crowded: u16,
    /// Memory of a list that is being worked off.
    spare_list: Vec<ConnId>,
    /// Connections whose output waits for the next turn.
    next_dirty: Vec<ConnId>,
    /// A sweep found work there; the next poll says whether an event was on its way.
    suspects: Vec<ConnId>,
    census: Census,
    quiet: Quiets,
    gather: gather::Gather,
    /// The turn, the low bits; never 0.
    turn: u8,
    /// When the next wait begins: the end of the last turn.
    rested: Instant,
    /// Callbacks of this turn, and the last one, for the complaint about a slow turn.
    calls: u32,
    last_call: &'static str,
    tick: Option<Duration>,
    ending: stop::Ending,
    /// Neither clients nor input are taken, because a restart waits for what is under way.
    resting: bool,
    /// The process flow is to be asked.
    outside: bool,
    /// When the first tick is due, if an image before this one was waiting for it.
    first_tick: Option<Instant>,
    #[cfg(feature = "config")]
    access: crate::access::Access,
    #[cfg(feature = "signals")]
    signals: Option<crate::signals::Signals>,
    signalled: bool,
    #[cfg(feature = "signals")]
    reopen_logs: Option<Box<dyn FnMut()>>,
}

/// How a loop ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It stopped for good.
    Stop {
        /// The exit status that was asked for; 0 after a signal.
        status: u8,
        /// Connections that had been sent everything.
        closed: usize,
        /// Connections that were cut with something unsent.
        cut: usize,
    },
    /// SIGHUP asks for a restart. Nothing is closed: [`Mux::run`] may be called again.
    Restart,
}

impl<S: Server> Mux<S> {
    /// A loop without listeners.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the poll cannot be had.
    pub fn new(server: S, limits: Limits) -> Result<Self> {
        let no_poll = |error| Error::with_source(ErrorKind::Io, "cannot make the event loop", error);
        let poll = Poll::new().map_err(no_poll)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(no_poll)?;
        let registry = poll.registry().try_clone().map_err(no_poll)?;
        let now = Instant::now();
        let limits = with_descriptor_limit(bounded(limits));
        Ok(Self {
            handle: Handle::new(waker, limits.handle_queue),
            scratch: Input::new(limits.line_max_bytes, limits.long_line),
            gather: gather::Gather::new(limits.gather),
            conns: Conns::new(limits, registry, now),
            server,
            clients: Table::default(),
            added: Vec::new(),
            poll,
            events: Events::with_capacity(EVENTS),
            asks: VecDeque::new(),
            woken: false,
            crowded: 0,
            spare_list: Vec::new(),
            next_dirty: Vec::new(),
            suspects: Vec::new(),
            census: Census::default(),
            quiet: Quiets::new(),
            turn: 0,
            rested: now,
            calls: 0,
            last_call: "",
            tick: None,
            ending: stop::Ending::No,
            resting: false,
            outside: false,
            first_tick: None,
            #[cfg(feature = "config")]
            access: crate::access::Access::default(),
            #[cfg(feature = "signals")]
            signals: None,
            signalled: false,
            #[cfg(feature = "signals")]
            reopen_logs: None,
        })
    }

    /// Opens a listener; its first bound address, port 0 resolved.
    ///
    /// # Errors
    /// [`ErrorKind::Bind`] when it cannot be opened.
    pub fn listen(&mut self, at: &ListenAt) -> Result<LocalAddr> {
        let listeners = Listener::bind(at, &self.conns.limits)?;
        let none = || Error::new(ErrorKind::Bind, format!("`{}` has no address", at.name));
        let addr = listeners.first().ok_or_else(none)?.local_addr();
        for listener in listeners {
            self.add_listener(listener)?;
        }
        Ok(addr)
    }

    /// Takes clients from an open listener.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be registered.
    pub fn add_listener(&mut self, mut listener: Listener) -> Result<()> {
        let at = self.conns.doors.len();
        self.conns.metrics.registrations += 1;
        self.conns.registry.register_door(&mut listener, at).map_err(|error| {
            let context = format!("cannot watch the listener on {}", listener.local_addr());
            Error::with_source(ErrorKind::Io, context, error)
        })?;
        if listener.at().fds() > 0 {
            self.conns.set_fds_apart();
        }
        self.conns.doors.push(Door::new(listener));
        Ok(())
    }

    /// Who is let in, from now on.
    #[cfg(feature = "config")]
    pub fn set_access(&mut self, access: crate::access::Access) {
        self.access = access;
    }

    /// Calls `Server::run_dequeue` every `period`, counted from the end of the last call; `None` or zero: never.
    pub fn set_tick(&mut self, period: Option<Duration>) {
        self.tick = period.filter(|period| !period.is_zero());
        let waited = self.first_tick.take().map(|at| at.saturating_duration_since(Instant::now()));
        let first = self.tick.map(|period| waited.map_or(period, |left| left.min(period)));
        self.conns.timers.wish(timers::TimerKey::Tick, first);
        self.conns.settle_timers();
    }

    /// Serves these signals as events of the loop: INT, TERM, QUIT stop it, HUP asks for a restart, USR1 calls
    /// `reopen_logs`, all others go to `Server::signal_hook`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when they cannot be registered.
    #[cfg(feature = "signals")]
    pub fn set_signals(
        &mut self,
        mut signals: crate::signals::Signals,
        reopen_logs: impl FnMut() + 'static,
    ) -> Result<()> {
        use mio::event::Source;
        signals
            .register(&self.conns.registry, SIGNALS, mio::Interest::READABLE)
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot watch for signals", error))?;
        self.signals = Some(signals);
        // One may have come before the poll watched.
        self.signalled = true;
        self.reopen_logs = Some(Box::new(reopen_logs));
        Ok(())
    }

    /// A handle to this loop for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        self.handle.clone()
    }

    /// The server.
    pub fn server(&mut self) -> &mut S {
        &mut self.server
    }

    /// The connections.
    pub fn conns(&mut self) -> &mut Conns {
        &mut self.conns
    }

    /// The server and a room, outside any turn: for what a program prepares before it calls [`run`](Self::run).
    pub fn enter<T>(&mut self, visit: impl FnOnce(&mut S, &mut Room<'_, S>) -> T) -> T {
        let now = self.conns.now;
        let clients = Clients { members: self.clients.all(), added: &mut self.added, handle: &self.handle };
        let result = visit(&mut self.server, &mut Room { conns: &mut self.conns, clients, now });
        self.take_in_added();
        self.conns.settle_timers();
        result
    }

    /// Turns until the server stops or asks for a restart.
    ///
    /// # Errors
    /// What was fatal: given to [`Conns::fatal`], or [`ErrorKind::Io`] when the poll or a listener is broken for
    /// good. `fatal_hook` has been called and every connection is closed.
    pub fn run(&mut self) -> Result<Ended> {
        self.rested = Instant::now();
        loop {
            if let Some(ended) = self.round(None)? {
                return Ok(ended);
            }
        }
    }

    /// One round of the loop. Waits at most `wait` (`None`: as long as nothing is due) and serves what there is.
    /// `Some` when the loop has ended. With [`Limits::gather`] a turn may leave output to the next one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn turn(&mut self, wait: Option<Duration>) -> Result<Option<Ended>> {
        self.rested = Instant::now();
        self.round(wait)
    }

    /// A turn, when `rested` says what time it is.
    fn round(&mut self, wait: Option<Duration>) -> Result<Option<Ended>> {
        if let Some(ended) = self.ending.ended() {
            return Ok(Some(ended));
        }
        // Set between two turns.
        self.conns.settle_timers();
        self.poll(wait); //             1  wait for events and mark what they are about
        self.begin(); //                2  the time; signals
        if self.resting {
            self.see_outgoing();
        } else {
            self.accept(); //           3  new clients
            self.read(); //             4  input, end of input
        }
        self.wake(); //                 5  other threads, wakers
        self.time(); //                 6  deadlines, then the tick
        if !self.gathers() {
            self.flush_and_reap(); //   7  send; 8  close
        }
        self.rest()
    }

    /// Phase 1. Marks every connection that an event is about; nothing is called.
    fn poll(&mut self, wait: Option<Duration>) {
        let timeout = if self.has_work() { Some(Duration::ZERO) } else { self.next_due(wait) };
        self.conns.metrics.waits += 1;
        let mut polled = self.poll.poll(&mut self.events, timeout);
        if matches!(&polled, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
            // After a stand-still (SIGSTOP, a debugger) deadlines may be past and input be here: it is seen first.
            self.conns.metrics.waits += 1;
            polled = self.poll.poll(&mut self.events, Some(Duration::ZERO));
        }
        if let Err(error) = polled {
            if error.kind() != io::ErrorKind::Interrupted {
                self.conns.fatal(Error::with_source(ErrorKind::Io, "waiting for events failed", error));
            }
            self.events.clear();
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
            match ConnId::of_token(event.token()) {
                Some(id) => mark(&mut self.conns, id, event),
                None => match event.token() {
                    WAKER => self.woken = true,
                    SIGNALS => self.signalled = true,
                    OUTSIDE => self.outside = true,
                    Token(door) => {
                        if let Some(door) = self.conns.doors.get_mut(door - FIRST_DOOR) {
                            door.ready = true;
                        }
                    }
                },
            }
        }
        // A full batch may not be all: input beyond it is seen before any deadline is decided, within reason.
        self.crowded = if count >= EVENTS && self.crowded < CROWDED_MAX { self.crowded + 1 } else { 0 };
        for id in self.suspects.drain(..) {
            if let Some(conn) = self.conns.slots.at_mut(id) {
                self.conns.metrics.lost_edges += u64::from(conn.take(Flag::SWEPT));
            }
        }
    }

    /// Phase 2.
    fn begin(&mut self) {
        self.conns.set_now(Instant::now());
        self.conns.metrics.turns += 1;
        self.turn = self.turn.wrapping_add(1).max(1);
        self.calls = 0;
        #[cfg(feature = "signals")]
        if std::mem::take(&mut self.signalled) {
            self.take_signals();
        }
    }

    /// The end of a turn: is it the last?
    fn rest(&mut self) -> Result<Option<Ended>> {
        self.rested = Instant::now();
        let took = self.rested.saturating_duration_since(self.conns.now);
        if took > self.conns.limits.slow_turn && self.calls > 0 {
            self.conns.metrics.slow_turns += 1;
            if let Some(more) = self.quiet.slow.allow(self.rested) {
                let (calls, last) = (self.calls, self.last_call);
                log::warn!(
                    "a turn took {} ms: {calls} callbacks, the last was {last}{}",
                    took.as_millis(),
                    suppressed(more)
                );
            }
        }
        self.outside |= self.resting && self.is_at_rest();
        self.see_about_ending()
    }

    /// Whether something waits that no event announces.
    fn has_work(&self) -> bool {
        let lists = &self.conns.lists;
        !(lists.dirty.is_empty()
            && lists.woken.is_empty()
            && lists.gone.is_empty()
            && self.conns.fanout.is_empty())
            || (!self.resting && (!lists.ready.is_empty() || self.conns.doors_wait()))
            || self.signalled
            || !self.asks.is_empty()
            || self.conns.drain
            || self.crowded > 0
            || (self.ending.is_graceful() && self.conns.slots.is_empty())
            || self.conns.stop.is_some()
    }

    fn next_due(&self, wait: Option<Duration>) -> Option<Duration> {
        let due = self.conns.timers.wheel.next().map(|at| at.saturating_duration_since(self.rested));
        match (due, wait) {
            (Some(due), Some(wait)) => Some(due.min(wait)),
            (due, wait) => due.or(wait),
        }
    }

    /// Calls one callback of a connection's client, and contains what it does wrong.
    #[inline(always)]
    fn call(
        &mut self,
        id: ConnId,
        name: &'static str,
        callback: impl FnOnce(&mut S::Client, &mut Context<'_, S>) -> io::Result<()>,
    ) {
        let Some((member, members)) = self.clients.split(id) else { return };
        (self.calls, self.last_call) = (self.calls + 1, name);
        let now = self.conns.now;
        let Member { peer, client } = member;
        let others = Clients { members, added: &mut self.added, handle: &self.handle };
        let mut ctx = Context { server: &mut self.server, conns: &mut self.conns, others, id, peer, now };
        let answer = catch_unwind(AssertUnwindSafe(|| callback(client, &mut ctx)));
        if !self.added.is_empty() {
            self.take_in_added();
        }
        if !matches!(answer, Ok(Ok(()))) {
            self.call_failed(id, name, answer);
        }
    }

    #[cold]
    fn call_failed(&mut self, id: ConnId, name: &'static str, answer: std::thread::Result<io::Result<()>>) {
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.callback_failed(id, name, error),
            Err(panic) => {
                self.panicked(name, panic);
                self.conns.cut(id, CloseReason::Panicked);
            }
        }
    }

    /// Calls one hook of the server; none if it panicked.
    fn hook<T>(&mut self, name: &'static str, hook: impl FnOnce(&mut S, &mut Room<'_, S>) -> T) -> Option<T> {
        (self.calls, self.last_call) = (self.calls + 1, name);
        let now = self.conns.now;
        let clients = Clients { members: self.clients.all(), added: &mut self.added, handle: &self.handle };
        let mut room = Room { conns: &mut self.conns, clients, now };
        let server = &mut self.server;
        let answer = catch_unwind(AssertUnwindSafe(|| hook(server, &mut room)));
        if !self.added.is_empty() {
            self.take_in_added();
        }
        answer.map_err(|panic| self.panicked(name, panic)).ok()
    }

    /// Runs something of the application's that is neither.
    fn contain(&mut self, name: &'static str, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.panicked(name, panic);
        }
    }

    fn take_in_added(&mut self) {
        for (id, member) in self.added.drain(..) {
            self.clients.put(id, member);
        }
    }

    fn callback_failed(&mut self, id: ConnId, name: &'static str, error: io::Error) {
        self.conns.metrics.failures += 1;
        if let Some(more) = self.quiet.failed.allow(self.conns.now) {
            log::error!("connection {id}: {name}: {error}{}", suppressed(more));
        }
        self.conns.close_because(id, CloseReason::Failed(error));
    }

    /// A system call for a connection failed: it is over. What no peer and no network can cause is told as the
    /// mistake of the program that it is: somebody has closed or replaced a descriptor that the loop owns.
    fn io_failed(&mut self, id: ConnId, call: &'static str, error: io::Error) {
        if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT)) {
            self.conns.metrics.failures += 1;
            if let Some(more) = self.quiet.failed.allow(self.conns.now) {
                log::error!(
                    "connection {id}: {call}: {error}; a mistake of ours or of the application's{}",
                    suppressed(more)
                );
            }
        }
        self.conns.cut(id, CloseReason::Io(error));
    }

    fn panicked(&mut self, name: &'static str, panic: Box<dyn Any + Send>) {
        self.conns.metrics.panics += 1;
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
        if self.conns.limits.on_panic == OnPanic::Abort {
            crate::logging::fatal(&format!("{name} panicked, aborting as on_panic says: {text}"));
            std::process::abort();
        }
        if let Some(more) = self.quiet.panicked.allow(self.conns.now) {
            log::error!("{name} panicked: {text}{}", suppressed(more));
        }
        // A payload may panic again when it is dropped; leaking that one is the lesser evil.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
    }
}

impl<S: Server> Drop for Mux<S> {
    /// Nobody serves what other threads ask for any more.
    fn drop(&mut self) {
        drop(self.handle.end());
    }
}

impl<S: Server> fmt::Debug for Mux<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("conns", &self.conns).finish_non_exhaustive()
    }
}

/// Notes what an event says about a connection.
#[inline(always)]
fn mark(conns: &mut Conns, id: ConnId, event: &Event) {
    let Some(conn) = conns.slots.at_mut(id) else { return };
    conn.clear(Flag::SWEPT);
    conn.set_if(Flag::FAULTY, event.is_error());
    let ended = event.is_read_closed() || event.is_error();
    if event.is_readable() || ended {
        conn.set(Flag::READABLE.or(Flag::DOUBTED).or(Flag::DOUBTED_TWICE));
        conn.set_if(Flag::ENDING, ended);
        conn.set_if(Flag::URGENT, is_urgent(event));
        conns.lists.ready(id, conn);
    }
    if event.is_writable() {
        if conn.phase == Phase::Opening {
            conns.lists.ready(id, conn);
        }
        if conn.take(Flag::BLOCKED) {
            conns.blocked -= 1;
            conns.lists.dirty(id, conn);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_urgent(event: &Event) -> bool {
    event.is_priority()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_urgent(_: &Event) -> bool {
    false
}

/// No budget that makes no progress, no soft limit above the hard one, and no time so long that adding it to the clock
/// could overflow.
fn bounded(mut limits: Limits) -> Limits {
    limits.bytes_per_turn = limits.bytes_per_turn.max(BYTES_MIN);
    limits.lines_per_turn = limits.lines_per_turn.max(1);
    // A write looks at the soft limit first, and at the hard one only past that.
    limits.output_soft_bytes = limits.output_soft_bytes.min(limits.output_hard_bytes);
    let whole = [
        &mut limits.drain_time,
        &mut limits.linger_time,
        &mut limits.linger_max_time,
        &mut limits.connect_time,
        &mut limits.stop_time,
    ];
    for time in whole
        .into_iter()
        .chain(&mut limits.line_time)
        .chain(&mut limits.idle_time)
        .chain(&mut limits.output_stall_time)
    {
        *time = TIME_MAX.min(*time);
    }
    limits
}

/// `max_connections`, where it is not set, is what the process may open less a reserve for files and newcomers.
fn with_descriptor_limit(mut limits: Limits) -> Limits {
    let descriptors = crate::sys::raise_descriptor_limit();
    let most = descriptors.saturating_sub(RESERVE).max(1);
    match limits.max_connections {
        Some(wanted) if wanted > most => {
            log::warn!(
                "max_connections = {wanted} needs more than the {descriptors} descriptors that this process may open: \
                 {most} it is (raise LimitNOFILE= or ulimit -n)"
            );
            limits.max_connections = Some(most);
        }
        Some(_) => {}
        None => limits.max_connections = Some(most),
    }
    limits
}

/// Tokens of generation 0 are the mux's own.
const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
/// What the process flow watches.
const OUTSIDE: Token = Token(2);
const FIRST_DOOR: usize = 3;
/// Events taken from the kernel at once. Each may need an output until the end of the turn: as many as the pool holds. What
/// more of them would take stays in the process, 30 bytes a connection with ten thousand that speak at once and 1024 here.
const EVENTS: usize = 128;
/// Descriptors kept back for files, listeners, and refused clients.
const RESERVE: usize = 32;
/// Turns in a row that deadlines wait for events; 512 × 128 connections have been seen then.
const CROWDED_MAX: u16 = 512;
/// What one turn reads from a connection, at least.
const BYTES_MIN: usize = 1024;
/// Ten years.
const TIME_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
