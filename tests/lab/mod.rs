//! A server of closures, for tests of the mux: each test gives it the few callbacks that it is about.
//!
//! Every callback and hook tells what it is in one line of text, `LABEL what`, which the test reads from a channel;
//! the label of a client is its serial number, or the one it was made with. Beside that the lab watches, in every
//! test, over the contracts of order and nesting: `connection` first and once, no `input` after `eof`, `eof` once,
//! `close` last and once and after the socket is gone, no callback inside another. A breach fails the test when its
//! [`Run`] or [`Hand`] is dropped.

#![allow(dead_code, reason = "each test file uses its part of this module")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lineplex::config::{Limits, ListenAt};
use lineplex::metrics::Metrics;
use lineplex::{
    CloseReason, ConnId, Context, Ended, Handle, Input, Mux, MuxCallback, Outcome, Peer, Room, Server,
};

use crate::common::{Client, DEADLINE, TempDir};

pub(crate) type Cx<'a> = Context<'a, Lab>;
type Plain = Rc<dyn Fn(&mut Cx<'_>) -> io::Result<()>>;
type WithInput = Rc<dyn Fn(&mut Cx<'_>, &mut Input) -> io::Result<()>>;
type OnLine = Rc<dyn Fn(&mut Cx<'_>, &[u8]) -> io::Result<()>>;
type OnClose = Rc<dyn Fn(&mut Cx<'_>, &CloseReason)>;
type OnRoom<T> = Rc<dyn Fn(&mut Room<'_, Lab>) -> T>;
type OnPeer<T> = Rc<dyn Fn(&mut Room<'_, Lab>, &Peer) -> T>;
type OnDenied = Rc<dyn Fn(&mut Room<'_, Lab>, ConnId)>;
type OnKey = Rc<dyn Fn(&mut Room<'_, Lab>, u64)>;
type OnClient = Rc<dyn Fn(&Peer)>;

/// The server. What is not given does nothing, except that a line is echoed with LF.
pub(crate) struct Lab {
    /// The connection of every label that has been seen, gone or not.
    pub(crate) ids: HashMap<String, ConnId>,
    watch: Watch,
    nested: u32,
    connection: Option<Plain>,
    input: Option<WithInput>,
    line: Option<OnLine>,
    eof: Option<WithInput>,
    timeout: Option<Plain>,
    wake: Option<Plain>,
    drained: Option<Plain>,
    close: Option<OnClose>,
    client: Option<OnClient>,
    accepted: Option<OnPeer<()>>,
    allow: Option<OnPeer<bool>>,
    denied: Option<OnDenied>,
    done: Option<OnPeer<()>>,
    tick: Option<OnRoom<()>>,
    due: Option<OnKey>,
    closing: Option<OnRoom<()>>,
}

/// Where the lab tells what happens.
#[derive(Clone)]
struct Watch {
    events: Sender<String>,
    receiver: Arc<Mutex<Option<Receiver<String>>>>,
    faults: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn fault(&self, text: String) {
        self.faults.lock().unwrap().push(text);
    }
}

macro_rules! setters {
    ($($name:ident $field:ident ($($arg:ty),*) $(-> $answer:ty)?;)+) => {
        $(pub(crate) fn $name(mut self, call: impl Fn($($arg),*) $(-> $answer)? + 'static) -> Self {
            self.$field = Some(Rc::new(call));
            self
        })+
    };
}

impl Lab {
    pub(crate) fn new() -> Self {
        let (events, receiver) = mpsc::channel();
        Self {
            ids: HashMap::new(),
            watch: Watch { events, receiver: Arc::new(Mutex::new(Some(receiver))), faults: Arc::default() },
            nested: 0,
            connection: None,
            input: None,
            line: None,
            eof: None,
            timeout: None,
            wake: None,
            drained: None,
            close: None,
            client: None,
            accepted: None,
            allow: None,
            denied: None,
            done: None,
            tick: None,
            due: None,
            closing: None,
        }
    }

    setters! {
        on_connection connection (&mut Cx<'_>) -> io::Result<()>;
        on_input input (&mut Cx<'_>, &mut Input) -> io::Result<()>;
        on_line line (&mut Cx<'_>, &[u8]) -> io::Result<()>;
        on_eof eof (&mut Cx<'_>, &mut Input) -> io::Result<()>;
        on_timeout timeout (&mut Cx<'_>) -> io::Result<()>;
        on_wake wake (&mut Cx<'_>) -> io::Result<()>;
        on_drained drained (&mut Cx<'_>) -> io::Result<()>;
        on_close close (&mut Cx<'_>, &CloseReason);
        on_client client (&Peer);
        on_accepted accepted (&mut Room<'_, Self>, &Peer);
        on_allow allow (&mut Room<'_, Self>, &Peer) -> bool;
        on_denied denied (&mut Room<'_, Self>, ConnId);
        on_done done (&mut Room<'_, Self>, &Peer);
        on_tick tick (&mut Room<'_, Self>);
        on_due due (&mut Room<'_, Self>, u64);
        on_closing closing (&mut Room<'_, Self>);
    }

    /// Tells the test something.
    pub(crate) fn tell(&self, text: impl Into<String>) {
        // A test that has ended does not listen.
        let _ = self.watch.events.send(text.into());
    }

    /// The connection of that label.
    #[track_caller]
    pub(crate) fn id(&self, label: &str) -> ConnId {
        *self.ids.get(label).unwrap_or_else(|| panic!("nobody is called {label}"))
    }

    fn hook<T>(&mut self, name: &str, run: impl FnOnce() -> T) -> T {
        if std::mem::replace(&mut self.nested, 1) != 0 {
            self.watch.fault(format!("the hook {name} inside a callback"));
        }
        self.tell(name);
        let answer = catch_unwind(AssertUnwindSafe(run));
        self.nested = 0;
        answer.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// The client: where it stands in its life, for the watch over the order.
pub(crate) struct LabClient {
    pub(crate) label: String,
    /// For a test to count in.
    pub(crate) count: u64,
    connected: bool,
    ended: bool,
    closed: bool,
    watch: Watch,
}

impl LabClient {
    /// One for `connect` and `adopt`.
    pub(crate) fn named(lab: &Lab, label: &str) -> Self {
        let (label, watch) = (label.to_owned(), lab.watch.clone());
        Self { label, count: 0, connected: false, ended: false, closed: false, watch }
    }

    fn enter<T>(&mut self, ctx: &mut Cx<'_>, what: &str, run: impl FnOnce(&mut Self, &mut Cx<'_>) -> T) -> T {
        let Self { label, watch, .. } = &*self;
        let failed_to_open = what.starts_with("close connect-failed");
        if std::mem::replace(&mut ctx.server.nested, 1) != 0 {
            watch.fault(format!("{label}: {what} inside another callback"));
        }
        if self.closed {
            watch.fault(format!("{label}: {what} after close"));
        }
        if self.connected == (what == "connection") && !failed_to_open && !what.starts_with("close panicked")
        {
            watch.fault(format!("{label}: {what} out of order with connection"));
        }
        ctx.server.ids.insert(label.clone(), ctx.id);
        if !what.is_empty() {
            ctx.server.tell(format!("{label} {what}"));
        }
        let answer = catch_unwind(AssertUnwindSafe(|| run(&mut *self, &mut *ctx)));
        ctx.server.nested = 0;
        answer.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for LabClient {
    fn drop(&mut self) {
        if self.connected && !self.closed && !thread::panicking() {
            self.watch.fault(format!("{}: dropped without close", self.label));
        }
    }
}

impl Server for Lab {
    type Client = LabClient;

    fn client(&mut self, peer: &Peer) -> LabClient {
        if let Some(call) = self.client.clone() {
            call(peer);
        }
        LabClient::named(self, &peer.serial.to_string())
    }

    fn post_accept_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer) {
        let call = self.accepted.clone();
        self.hook(&format!("accepted {}", peer.serial), || call.map(|call| call(room, peer)));
    }

    fn allow_deny_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer) -> bool {
        self.allow.clone().is_none_or(|call| call(room, peer))
    }

    fn request_denied_hook(&mut self, room: &mut Room<'_, Self>, id: ConnId, peer: &Peer) {
        let call = self.denied.clone();
        self.hook(&format!("denied {}", peer.serial), || call.map(|call| call(room, id)));
    }

    fn post_process_request_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer, outcome: Outcome) {
        let call = self.done.clone();
        self.hook(&format!("done {} {outcome:?}", peer.serial), || call.map(|call| call(room, peer)));
    }

    fn run_dequeue(&mut self, room: &mut Room<'_, Self>) {
        let call = self.tick.clone();
        self.hook("tick", || call.map(|call| call(room)));
    }

    fn timeout(&mut self, room: &mut Room<'_, Self>, key: u64) {
        let call = self.due.clone();
        self.hook(&format!("due {key}"), || call.map(|call| call(room, key)));
    }

    fn pre_server_close_hook(&mut self, room: &mut Room<'_, Self>, _: lineplex::Closing) {
        let call = self.closing.clone();
        self.hook("closing", || call.map(|call| call(room)));
    }
}

impl MuxCallback<Lab> for LabClient {
    fn connection(&mut self, ctx: &mut Cx<'_>) -> io::Result<()> {
        let call = ctx.server.connection.clone();
        let answer = self.enter(ctx, "connection", |me, ctx| {
            me.connected = true;
            call.map_or(Ok(()), |call| call(ctx))
        });
        self.connected = true;
        answer
    }

    fn input(&mut self, ctx: &mut Cx<'_>, input: &mut Input) -> io::Result<()> {
        if self.ended {
            self.watch.fault(format!("{}: input after eof", self.label));
        }
        let (raw, line) = (ctx.server.input.clone(), ctx.server.line.clone());
        self.enter(ctx, "", |me, ctx| {
            if let Some(raw) = raw {
                return raw(ctx, input);
            }
            while let Some(text) = input.line() {
                me.count += 1;
                match &line {
                    Some(line) => {
                        ctx.server.tell(format!("{} line {}", me.label, text.escape_ascii()));
                        line(ctx, text)?;
                    }
                    None => {
                        ctx.write(text);
                        ctx.write(b"\n");
                    }
                }
            }
            Ok(())
        })
    }

    fn eof(&mut self, ctx: &mut Cx<'_>, input: &mut Input) -> io::Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            self.watch.fault(format!("{}: a second eof", self.label));
        }
        let call = ctx.server.eof.clone();
        self.enter(ctx, "eof", |_, ctx| call.map_or(Ok(()), |call| call(ctx, input)))
    }

    fn timeout(&mut self, ctx: &mut Cx<'_>) -> io::Result<()> {
        let call = ctx.server.timeout.clone();
        self.enter(ctx, "timeout", |_, ctx| call.map_or(Ok(()), |call| call(ctx)))
    }

    fn wake(&mut self, ctx: &mut Cx<'_>) -> io::Result<()> {
        let call = ctx.server.wake.clone();
        self.enter(ctx, "wake", |_, ctx| call.map_or(Ok(()), |call| call(ctx)))
    }

    fn drained(&mut self, ctx: &mut Cx<'_>) -> io::Result<()> {
        let call = ctx.server.drained.clone();
        self.enter(ctx, "", |_, ctx| call.map_or(Ok(()), |call| call(ctx)))
    }

    fn close(&mut self, ctx: &mut Cx<'_>, reason: &CloseReason) {
        let call = ctx.server.close.clone();
        let id = ctx.id;
        if ctx.write(b"nobody hears this") || ctx.conns.is_open(id) {
            self.watch.fault(format!("{}: writable or open in close", self.label));
        }
        self.enter(ctx, &format!("close {}", reason.word()), |me, ctx| {
            me.closed = true;
            call.inspect(|call| call(ctx, reason));
        });
    }
}

/// The two kinds of socket; most contracts are tested on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Tcp,
    Unix,
}

pub(crate) const BOTH: [Net; 2] = [Net::Tcp, Net::Unix];

impl Net {
    pub(crate) fn at(self, dir: &TempDir) -> ListenAt {
        match self {
            Self::Tcp => ListenAt::tcp("127.0.0.1", 0),
            Self::Unix => ListenAt::unix(dir.path().join("lab")),
        }
    }
}

/// What the lab told, read by the test.
struct Story {
    events: Receiver<String>,
    seen: Vec<String>,
    /// Events before this one have been waited for.
    at: usize,
    faults: Arc<Mutex<Vec<String>>>,
}

impl Story {
    fn of(lab: &Lab) -> Self {
        let events = lab.watch.receiver.lock().unwrap().take().expect("a lab is run once");
        Self { events, seen: Vec::new(), at: 0, faults: Arc::clone(&lab.watch.faults) }
    }

    /// Whether `event` has come since the last one that was waited for.
    fn find(&mut self, event: &str) -> bool {
        self.seen.extend(self.events.try_iter());
        let found = self.seen[self.at..].iter().position(|seen| seen == event);
        found.inspect(|at| self.at += at + 1).is_some()
    }

    fn check(&self) {
        let faults = self.faults.lock().unwrap();
        if !thread::panicking() {
            assert!(faults.is_empty(), "breaches of contract: {faults:?}; told: {:?}", self.seen);
        }
    }
}

/// A lab that runs in a thread of its own until it is stopped or dropped.
pub(crate) struct Run {
    pub(crate) addr: String,
    pub(crate) handle: Handle<Lab>,
    story: Story,
    thread: Option<JoinHandle<lineplex::Result<Ended>>>,
    _dir: TempDir,
}

impl Run {
    /// On TCP.
    pub(crate) fn start(limits: Limits, make: impl FnOnce() -> Lab + Send + 'static) -> Self {
        Self::on(Net::Tcp, limits, make)
    }

    pub(crate) fn on(net: Net, limits: Limits, make: impl FnOnce() -> Lab + Send + 'static) -> Self {
        Self::with(net, limits, make, |_| {})
    }

    /// `prepare` sees the mux before it runs.
    pub(crate) fn with(
        net: Net,
        limits: Limits,
        make: impl FnOnce() -> Lab + Send + 'static,
        prepare: impl FnOnce(&mut Mux<Lab>) + Send + 'static,
    ) -> Self {
        let dir = TempDir::new();
        let at = net.at(&dir);
        let (send, receive) = mpsc::channel();
        let thread = thread::spawn(move || {
            let lab = make();
            let story = Story::of(&lab);
            let mut mux = Mux::new(lab, limits)?;
            let addr = mux.listen(&at)?;
            prepare(&mut mux);
            send.send((addr.to_string(), mux.handle(), story)).expect("the test waits for this");
            mux.run()
        });
        let (addr, handle, story) = receive.recv_timeout(DEADLINE).expect("the lab starts");
        Self { addr, handle, story, thread: Some(thread), _dir: dir }
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.addr)
    }

    /// Waits for `event`; those before it are passed over.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str) {
        let until = Instant::now() + DEADLINE;
        while !self.story.find(event) {
            match self.story.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(next) => self.story.seen.push(next),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no \"{event}\" in time; told: {:?}", self.story.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    assert!(
                        self.story.find(event),
                        "it ended without \"{event}\"; told: {:?}",
                        self.story.seen
                    );
                    return;
                }
            }
        }
    }

    /// Everything told so far, by a loop that has done all that was asked before.
    #[track_caller]
    pub(crate) fn told(&mut self) -> Vec<String> {
        self.ask(|_, _| ());
        self.story.seen.extend(self.story.events.try_iter());
        self.story.seen.clone()
    }

    /// Runs `visit` on the loop and waits for its answer.
    #[track_caller]
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut Lab, &mut Room<'_, Lab>) -> T + Send + 'static,
    ) -> T {
        let (send, receive) = mpsc::channel();
        self.handle.run(move |lab, room| drop(send.send(visit(lab, room)))).expect("the lab runs");
        receive.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("the lab does not answer"))
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        self.ask(|_, room| room.conns.metrics())
    }

    /// Stops it (if it has not ended) and waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> lineplex::Result<Ended> {
        let _ = self.handle.stop(0);
        self.ended()
    }

    /// Waits for its end, which something else brings.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> lineplex::Result<Ended> {
        let ended = self.thread.take().expect("it is ended once").join().expect("the loop never panics");
        self.story.seen.extend(self.story.events.try_iter());
        ended
    }

    /// Everything that was told, after the end.
    pub(crate) fn whole_story(&self) -> &[String] {
        assert!(self.thread.is_none());
        &self.story.seen
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let ended = self.end();
            if !thread::panicking() {
                ended.expect("the loop ends without an error");
            }
        }
        self.story.check();
    }
}

/// A lab whose turns the test takes by hand, in its own thread.
pub(crate) struct Hand {
    pub(crate) mux: Mux<Lab>,
    pub(crate) addr: String,
    story: Story,
    _dir: TempDir,
}

impl Hand {
    /// On a Unix socket, where what a client sends is at the server when its call returns.
    #[track_caller]
    pub(crate) fn new(limits: Limits, lab: Lab) -> Self {
        Self::on(Net::Unix, limits, lab)
    }

    #[track_caller]
    pub(crate) fn on(net: Net, limits: Limits, lab: Lab) -> Self {
        let dir = TempDir::new();
        let story = Story::of(&lab);
        let mut mux = Mux::new(lab, limits).expect("a poll can be had");
        let addr = mux.listen(&net.at(&dir)).expect("it can listen").to_string();
        Self { mux, addr, story, _dir: dir }
    }

    /// One turn that does not wait.
    #[track_caller]
    pub(crate) fn turn(&mut self) -> Option<Ended> {
        self.mux.turn(Some(Duration::ZERO)).expect("the loop goes on")
    }

    /// Takes turns until `event` has been told.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str) {
        let until = Instant::now() + DEADLINE;
        while !self.story.find(event) {
            assert!(Instant::now() < until, "no \"{event}\" in time; told: {:?}", self.story.seen);
            self.mux.turn(Some(Duration::from_millis(100))).expect("the loop goes on");
        }
    }

    /// Takes turns until `done` says so.
    #[track_caller]
    pub(crate) fn until(&mut self, mut done: impl FnMut(&mut Mux<Lab>) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done(&mut self.mux) {
            assert!(Instant::now() < until, "not in time; told: {:?}", self.told());
            self.mux.turn(Some(Duration::from_millis(10))).expect("the loop goes on");
        }
    }

    /// Connects one client and takes turns until its `connection` has been called and no event of it is left.
    #[track_caller]
    pub(crate) fn client(&mut self) -> Client {
        let before = self.metrics().accepted;
        let client = Client::connect(&self.addr);
        self.until(|mux| mux.conns().metrics().accepted > before);
        // The first event of a new socket says that it can be written to.
        self.turn();
        client
    }

    pub(crate) fn told(&mut self) -> Vec<String> {
        self.story.seen.extend(self.story.events.try_iter());
        self.story.seen.clone()
    }

    /// What was told since the last call of this.
    pub(crate) fn news(&mut self) -> Vec<String> {
        self.story.seen.extend(self.story.events.try_iter());
        self.story.at = 0;
        std::mem::take(&mut self.story.seen)
    }

    pub(crate) fn metrics(&mut self) -> Metrics {
        self.mux.conns().metrics()
    }

    #[track_caller]
    pub(crate) fn id(&mut self, label: &str) -> ConnId {
        self.mux.server().id(label)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if !thread::panicking() {
            // So that the watch sees every client's close.
            self.mux.conns().stop(0);
            while self.turn().is_none() {}
        }
        self.story.check();
    }
}
