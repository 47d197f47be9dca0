//! What the sessions of a message server share: [`Messages`], the list of handlers, the accounts, the settings and the
//! counters; and [`MessageHost`], by which a session finds it in any server.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client_context::ClientContext;
use super::crowd::Places;
use super::database::AccountsDatabase;
use super::default_account::DefaultAccounts;
use super::dialect::Dialect;
use super::handler::{Answer, Handler, Own, Processed, Registered};
use super::hashing::Hashing;
use super::penalties::Penalties;
use super::session::Session;
use crate::codec::message::{ARRAY_MAX_BYTES, Elements};
use crate::logging::Quiet;
use crate::state::StateReader;
use crate::{ConnId, Conns, Result, Room, Server};

/// A server that has message clients, alone or beside others. [`MessageServer`](super::MessageServer) is the ready one; a
/// server of your own, with hooks or with other kinds of clients on the same loop, implements this and has [`Session`] as
/// its client, or as one variant of an `enum` that passes the callbacks on.
pub trait MessageHost: Server {
    /// What the sessions share.
    fn messages(&mut self) -> &mut Messages;

    /// The message session in a client of this server; none if the client is of another kind.
    fn session(client: &mut Self::Client) -> Option<&mut Session>;
}

/// Handlers, accounts, settings and counters of a message server.
pub struct Messages {
    pub(super) accounts: AccountsDatabase,
    pub(super) defaults: DefaultAccounts,
    handlers: Vec<Box<dyn Registered>>,
    /// Of the handlers, in their order; shared by the sessions, who save by name.
    names: Rc<[String]>,
    /// Until a client has logged in.
    pub(super) login_time: Duration,
    pub(super) request_max_bytes: usize,
    pub(super) dialect: Dialect,
    /// By the name of a listener.
    pub(super) dialects: BTreeMap<String, Dialect>,
    pub(super) places: Places,
    pub(super) hashing: Hashing,
    pub(super) penalties: Penalties,
    pub(super) counters: Counters,
    pub(super) quiet: Quiets,
    /// For replies.
    pub(super) scratch: Vec<u8>,
}

/// What has happened so far.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Clients that have logged in.
    pub logins: u64,
    /// Logins with an unknown name, a wrong password, or one that was too long.
    pub login_failures: u64,
    /// Logins that took longer than they may take, be it that the client was slow or that its password had to wait.
    pub login_timeouts: u64,
    /// Clients that were told to try again later, since too many logins were under way.
    pub logins_turned_away: u64,
    /// Requests that a handler has taken.
    pub requests: u64,
    /// Requests that nobody knew, and that closed their connection.
    pub unknown_requests: u64,
}

impl Counters {
    /// Every counter, its name and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("logins", self.logins),
            ("login_failures", self.login_failures),
            ("login_timeouts", self.login_timeouts),
            ("logins_turned_away", self.logins_turned_away),
            ("requests", self.requests),
            ("unknown_requests", self.unknown_requests),
        ]
        .into_iter()
    }
}

/// What limits the log lines that a client can cause.
pub(super) struct Quiets {
    pub(super) failure: Quiet,
    pub(super) timeout: Quiet,
    pub(super) crowd: Quiet,
    pub(super) unknown: Quiet,
}

impl Messages {
    /// With these accounts, no handlers, and the defaults: the classic dialect, 2 s for a login.
    #[must_use]
    pub fn new(accounts: AccountsDatabase) -> Self {
        let quiet = || Quiet::new(Duration::from_secs(10));
        Self {
            accounts,
            defaults: DefaultAccounts::default(),
            handlers: Vec::new(),
            names: Rc::default(),
            login_time: LOGIN_TIME,
            request_max_bytes: ARRAY_MAX_BYTES,
            dialect: Dialect::default(),
            dialects: BTreeMap::new(),
            places: Places::new(LOGINS_MAX),
            hashing: Hashing::default(),
            penalties: Penalties::default(),
            counters: Counters::default(),
            quiet: Quiets { failure: quiet(), timeout: quiet(), crowd: quiet(), unknown: quiet() },
            scratch: Vec::new(),
        }
    }

    /// Adds a handler behind those that are there; to be called before the server runs, since a client that is connected
    /// does not come to know it.
    pub fn add_handler(&mut self, handler: impl Handler) -> &mut Self {
        let mut names = self.names.to_vec();
        names.push(unique(handler.name(), &names));
        self.names = names.into();
        self.handlers.push(Box::new(handler));
        self
    }

    /// How long a login may take, everything together, also until its password is checked: whoever is not in by then is
    /// closed without a word. Default 2 s, in which two cores check some 150 passwords. Who has not sent the password when the
    /// server restarts, has for the check as long again.
    ///
    /// # Panics
    /// Zero, with which nobody could log in.
    pub fn set_login_timeout(&mut self, time: Duration) -> &mut Self {
        assert!(!time.is_zero(), "a login needs time");
        self.login_time = time;
        self
    }

    /// Longest request in bytes, without its header of 2. Default, and the most that the wire format has, 65,535. A longer
    /// one closes the connection as soon as it is announced.
    pub fn set_request_max_bytes(&mut self, bytes: usize) -> &mut Self {
        self.request_max_bytes = bytes.min(ARRAY_MAX_BYTES);
        self
    }

    /// The dialect of all listeners that have none of their own. Default [`Dialect::Classic`].
    pub fn set_dialect(&mut self, dialect: Dialect) -> &mut Self {
        self.dialect = dialect;
        self
    }

    /// The dialect of the listener of that name ([`ListenAt::name`](crate::config::ListenAt)).
    pub fn set_dialect_of(&mut self, listener: impl Into<String>, dialect: Dialect) -> &mut Self {
        self.dialects.insert(listener.into(), dialect);
        self
    }

    /// Passwords that are checked at once, each with 19 MiB on a thread of the offload pool; at least 1, and no use above
    /// `Limits::offload_threads`. Others wait their turn. Default 2.
    pub fn set_hashing_jobs(&mut self, jobs: usize) -> &mut Self {
        self.hashing.set_most(jobs);
        self
    }

    /// Logins under way at once. One source (an address, or a user on a Unix socket) may have as many as are left, so one
    /// alone half of them; for whoever comes then there is a verdict that says so. Default 1024.
    pub fn set_logins_max(&mut self, logins: usize) -> &mut Self {
        self.places.set_most(logins);
        self
    }

    /// What failed logins cost. Default [`Penalties::default()`]; no answer comes later than a login may take.
    pub fn set_penalties(&mut self, penalties: Penalties) -> &mut Self {
        self.penalties = penalties;
        self
    }

    /// Who can log in.
    #[must_use]
    pub fn accounts(&self) -> &AccountsDatabase {
        &self.accounts
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn dialect_of(&self, listener: &str) -> Dialect {
        if self.dialects.is_empty() {
            return self.dialect;
        }
        self.dialects.get(listener).copied().unwrap_or(self.dialect)
    }

    pub(super) fn names(&self) -> Rc<[String]> {
        Rc::clone(&self.names)
    }

    /// Has every handler that does not know the client yet make its context.
    pub(super) fn join(&mut self, client: &mut Joining<'_>) -> std::io::Result<()> {
        let (seats, mut context) = client.split(&self.accounts, &self.counters, &mut self.scratch);
        for (at, handler) in self.handlers.iter_mut().enumerate() {
            match seats.get_mut(at) {
                Some(Seat::Taken(_)) => {}
                Some(free) => *free = Seat::Taken(handler.new_client(&mut context)?),
                None => seats.push(Seat::Taken(handler.new_client(&mut context)?)),
            }
        }
        Ok(())
    }

    /// Asks one handler after the other; which one took the request, and what it answered.
    pub(super) fn process(
        &mut self,
        client: &mut Joining<'_>,
        message: Elements<'_>,
    ) -> std::io::Result<Option<(usize, Processed)>> {
        let (seats, mut context) = client.split(&self.accounts, &self.counters, &mut self.scratch);
        for (at, (handler, seat)) in self.handlers.iter_mut().zip(seats).enumerate() {
            let Seat::Taken(own) = seat else { continue };
            match handler.process(&mut context, own, message)? {
                Processed::NotMine => {}
                processed => {
                    self.counters.requests += 1;
                    return Ok(Some((at, processed)));
                }
            }
        }
        Ok(None)
    }

    /// Gives a handler what its request has waited for.
    pub(super) fn go_on(
        &mut self,
        client: &mut Joining<'_>,
        at: usize,
        answer: Answer<'_>,
    ) -> std::io::Result<Processed> {
        let (seats, mut context) = client.split(&self.accounts, &self.counters, &mut self.scratch);
        match (self.handlers.get_mut(at), seats.get_mut(at)) {
            (Some(handler), Some(Seat::Taken(own))) => handler.go_on(&mut context, own, answer),
            _ => Ok(Processed::NotMine),
        }
    }

    /// Tells every handler that knows the client, also those behind one that panics.
    pub(super) fn disconnected(&mut self, client: &mut Joining<'_>) {
        let (seats, mut context) = client.split(&self.accounts, &self.counters, &mut self.scratch);
        let mut panicked = None;
        for (handler, seat) in self.handlers.iter_mut().zip(seats) {
            let Seat::Taken(own) = seat else { continue };
            let told = catch_unwind(AssertUnwindSafe(|| handler.disconnected(&mut context, own)));
            // One is for the loop to tell of. Another might panic again when it is dropped.
            if let Some(before) = told.err().and_then(|panic| panicked.replace(panic)) {
                std::mem::forget(before);
            }
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Where the handler of that name stands.
    pub(super) fn place_of(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    pub(super) fn restore_own(&mut self, at: usize, state: &mut StateReader<'_>) -> Result<Own> {
        let own = self.handlers[at].restore(state)?;
        state.finish()?;
        Ok(own)
    }
}

/// Closes the clients whose account is gone since a restart or a reload; for `pre_loop_hook` and `reload_hook`, where
/// [`Settings::begin`](super::Settings::begin) and [`Settings::reload`](super::Settings::reload) do it. Whoever has an account
/// of that name still, stays, with the rights that it has now; also if its secret is another one. To be rid of such a client,
/// remove the account, reload, and add it again.
pub fn close_orphans<S: MessageHost>(room: &mut Room<'_, S>, accounts: &AccountsDatabase) {
    let conns = &mut *room.conns;
    for (id, client) in room.clients.iter_mut() {
        if S::session(client).is_some_and(|session| !session.follow_account(accounts)) {
            log::warn!("connection {id}: closed, its account is gone");
            conns.close(id);
        }
    }
}

/// `name`, or with the first number behind it that makes it another than those that are taken.
fn unique(name: &str, taken: &[String]) -> String {
    let numbered = |number| if number == 1 { name.to_owned() } else { format!("{name} {number}") };
    let mut names = (1..).map(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("handlers", &self.names)
            .field("accounts", &self.accounts)
            .field("login_time", &self.login_time)
            .field("dialect", &self.dialect)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// What a handler has of a client.
pub(super) enum Seat {
    /// Its `new_client` has not been called: the handler is new since a restart.
    Free,
    Taken(Own),
}

/// A client on its way through the handlers.
pub(super) struct Joining<'a> {
    pub(super) conns: &'a mut Conns,
    pub(super) id: ConnId,
    pub(super) peer: &'a crate::Peer,
    pub(super) now: Instant,
    pub(super) account: &'a Arc<super::account::Account>,
    pub(super) seats: &'a mut Vec<Seat>,
}

impl Joining<'_> {
    /// What the handlers keep, and what each of them is shown of the client.
    fn split<'b>(
        &'b mut self,
        accounts: &'b AccountsDatabase,
        counters: &'b Counters,
        scratch: &'b mut Vec<u8>,
    ) -> (&'b mut Vec<Seat>, ClientContext<'b>) {
        let context = ClientContext {
            conns: self.conns,
            id: self.id,
            peer: self.peer,
            now: self.now,
            account: self.account,
            accounts,
            counters,
            scratch,
        };
        (self.seats, context)
    }
}

/// Logins under way at once, of everybody together. At it, and of a source that has as many as are left, a client is told to
/// try again later.
const LOGINS_MAX: usize = 1024;
/// As the original's.
const LOGIN_TIME: Duration = Duration::from_secs(2);
