//! A server of closures, for tests of the mux: each test gives it the few callbacks that it is about.
//!
//! Every callback and hook tells what it is in one line of text, `LABEL what`, which the test reads from a channel;
//! the label of a client is its serial number, or the one it was made with. Beside that the lab watches, in every
//! test, over the contracts of order and nesting: `connection` first and once, no `input` after `eof`, `eof` once,
//! `close` last and once and after the socket is gone, no callback inside another. A breach fails the test when its
//! [`Run`] or [`Hand`] is dropped.

#![allow(dead_code, unused_imports, reason = "each test file uses its part of this module")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod drive;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use lineplex::{CloseReason, ConnId, Context, Input, MuxCallback, Outcome, Peer, Room, Server};

pub(crate) use drive::{BOTH, Hand, Net, Run};

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
        self.faults.lock().expect("nobody panics with it").push(text);
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
        LabClient::named(self, &peer.serial().to_string())
    }

    fn post_accept_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer) {
        let call = self.accepted.clone();
        self.hook(&format!("accepted {}", peer.serial()), || call.map(|call| call(room, peer)));
    }

    fn allow_deny_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer) -> bool {
        self.allow.clone().is_none_or(|call| call(room, peer))
    }

    fn request_denied_hook(&mut self, room: &mut Room<'_, Self>, id: ConnId, peer: &Peer) {
        let call = self.denied.clone();
        self.hook(&format!("denied {}", peer.serial()), || call.map(|call| call(room, id)));
    }

    fn post_process_request_hook(&mut self, room: &mut Room<'_, Self>, peer: &Peer, outcome: Outcome) {
        let call = self.done.clone();
        self.hook(&format!("done {} {outcome:?}", peer.serial()), || call.map(|call| call(room, peer)));
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
