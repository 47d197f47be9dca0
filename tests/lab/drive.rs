//! The two ways to run a lab: [`Run`], in a thread of its own, and [`Hand`], turn by turn in the thread of the test.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lineplex::config::{Limits, ListenAt};
use lineplex::metrics::Metrics;
use lineplex::{ConnId, Ended, Handle, Mux, Room};

use super::Lab;
use crate::common::{Client, DEADLINE, TempDir};

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
        let events =
            lab.watch.receiver.lock().expect("nobody panics with it").take().expect("a lab is run once");
        Self { events, seen: Vec::new(), at: 0, faults: Arc::clone(&lab.watch.faults) }
    }

    /// Whether `event` has come since the last one that was waited for.
    fn find(&mut self, event: &str) -> bool {
        self.seen.extend(self.events.try_iter());
        let found = self.seen[self.at..].iter().position(|seen| seen == event);
        found.inspect(|at| self.at += at + 1).is_some()
    }

    fn check(&self) {
        let faults = self.faults.lock().expect("nobody panics with it");
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

    /// The connection of the only client.
    #[track_caller]
    pub(crate) fn id_of_only(&mut self) -> ConnId {
        self.id("1")
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
