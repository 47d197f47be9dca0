//! The login: the banner, a name and a password as scalar messages, the check, the verdict.
//!
//! One budget of time for all of it: whoever is not in when it is over is closed without a word. The password is read into a
//! buffer that is wiped, and wiped where it was received; it is checked on another thread, few at once, with the same work
//! whether the account exists or not. A refusal comes no earlier than its time, so that it tells nothing but "no".

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::account::{Account, NAME_MAX_BYTES, SECRET_MAX_BYTES};
use super::dialect::Dialect;
use super::hashing::HashingPlace;
use super::messages::MessageHost;
use super::penalties::Source;
use super::session::{Session, State, shown, warn};
use crate::codec::message::{self, ScalarReader};
use crate::net::PeerAddr;
use crate::state::{StateError, StateReader, StateWriter};
use crate::{Context, Input, Peer, Saved};

/// How far a login is.
pub(super) struct Login {
    name: Vec<u8>,
    step: Step,
    /// When it is over. None until it begins, and after a restart until the password is there: the deadline of the connection
    /// goes along, and counts.
    until: Option<Instant>,
    /// Whether it has one of the [`Places`](super::crowd::Places), which after a restart it has not.
    placed: bool,
}

enum Step {
    Name(ScalarReader),
    Password(ScalarReader),
    /// The password is here and waits to be checked, or is being checked.
    Check {
        password: Arc<Zeroizing<Vec<u8>>>,
        since: Instant,
        running: bool,
    },
    /// The verdict waits for its time; if that is too late, there will be none.
    Refused {
        told: bool,
    },
}

impl Step {
    /// A longer name is refused as soon as it is announced, and so is a longer password.
    fn name() -> Self {
        Self::Name(ScalarReader::new(NAME_MAX_BYTES as u32))
    }

    fn password() -> Self {
        Self::Password(ScalarReader::new(SECRET_MAX_BYTES as u32))
    }
}

impl Default for Login {
    fn default() -> Self {
        Self::at(Step::name(), Vec::new())
    }
}

impl Login {
    fn at(step: Step, name: Vec<u8>) -> Self {
        Self { name, step, until: None, placed: false }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// A login of which nothing is half read goes along, and a refusal that waits for its time. A password never does.
    pub(super) fn save(&self, out: &mut StateWriter) -> Saved {
        let step = match &self.step {
            Step::Name(reader) if reader.is_fresh() => NAME,
            Step::Password(reader) if reader.is_fresh() => PASSWORD,
            Step::Refused { told: true } => REFUSED,
            _ => return Saved::Drain,
        };
        out.u8(step).bytes(&self.name);
        Saved::Keep
    }

    pub(super) fn restore(state: &mut StateReader<'_>) -> Result<Self, StateError> {
        let (step, name) = (state.u8()?, state.bytes()?);
        let step = match step {
            NAME => Step::name(),
            PASSWORD => Step::password(),
            REFUSED => Step::Refused { told: true },
            other => return Err(StateError::invalid("a login", other.into())),
        };
        Ok(Self::at(step, name.to_vec()))
    }
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NameTooLong,
    PasswordTooLong,
    /// The name or the password.
    Wrong,
    /// Too many logins are under way.
    Crowded,
}

impl Refusal {
    /// What the client is told. The classic sentences are the original's.
    fn text(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::NameTooLong, Dialect::Classic) => "The supplied username is too long.",
            (Self::NameTooLong, Dialect::Status) => "The supplied username is too long",
            (Self::PasswordTooLong, Dialect::Classic) => "The supplied password is too long.",
            (Self::PasswordTooLong, Dialect::Status) => "The supplied password is too long",
            (Self::Wrong, Dialect::Classic) => "Invalid username or password.",
            (Self::Wrong, Dialect::Status) => "Invalid username or password",
            (Self::Crowded, Dialect::Classic) => "Too many logins at once. Try again later.",
            (Self::Crowded, Dialect::Status) => "Too many logins at once, try again later",
        }
    }
}

impl Session {
    fn login(&mut self) -> Option<&mut Login> {
        match &mut self.state {
            State::LoggingIn(login) => Some(login),
            _ => None,
        }
    }

    pub(super) fn begin_login<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        let (now, from) = (ctx.now, source(ctx.peer));
        ctx.write(BANNER);
        let messages = ctx.server.messages();
        ctx.conns.set_timeout(ctx.id, messages.login_time);
        if !messages.places.take(from) {
            messages.counters.logins_turned_away += 1;
            let what =
                format_args!("connection {}: too many logins at once, from {}", ctx.id, ctx.peer.addr());
            warn(&mut messages.quiet.crowd, now, what);
            // The rest is done when that is sent, at the latest when its time is over.
            self.state = State::Over { placed: false };
            return tell(ctx, Refusal::Crowded);
        }
        if let Some(login) = self.login() {
            (login.until, login.placed) = (Some(now + messages.login_time), true);
        }
    }

    /// It was turned away and has been told. It is not waited for: there may be many.
    pub(super) fn turn_out<S: MessageHost>(&self, ctx: &mut Context<'_, S>) {
        if let State::Over { .. } = &self.state {
            ctx.abort();
        }
    }

    /// Takes what there is of the name and the password.
    pub(super) fn log_in<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        input: &mut Input,
    ) -> io::Result<()> {
        while !input.is_empty() {
            let Some(login) = self.login() else { return Ok(()) };
            let (reader, refusal) = match &mut login.step {
                Step::Name(reader) => (reader, Refusal::NameTooLong),
                Step::Password(reader) => (reader, Refusal::PasswordTooLong),
                Step::Check { .. } => return Ok(()),
                Step::Refused { .. } => {
                    input.wipe(usize::MAX);
                    return Ok(());
                }
            };
            match reader.feed(input.bytes()) {
                Ok(taken) => input.wipe(taken),
                Err(_) => {
                    input.wipe(usize::MAX);
                    self.note_failure(ctx, refusal);
                    self.refuse(ctx, refusal);
                    return Ok(());
                }
            }
            let Some(value) = reader.take().map(Zeroizing::new) else { continue };
            if refusal == Refusal::NameTooLong {
                login.name = value.to_vec();
                login.step = Step::password();
            } else {
                return self.take_password(ctx, value);
            }
        }
        Ok(())
    }

    fn take_password<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        password: Zeroizing<Vec<u8>>,
    ) -> io::Result<()> {
        let Some(login) = self.login() else { return Ok(()) };
        let messages = ctx.server.messages();
        if let Some(account) = messages.accounts.challenge(&login.name).try_token(&password) {
            return self.accept(ctx, account);
        }
        login.until.get_or_insert(ctx.now + messages.login_time);
        login.step = Step::Check { password: Arc::new(password), since: ctx.now, running: false };
        ctx.conns.pause_input(ctx.id);
        self.check(ctx);
        Ok(())
    }

    /// Has the password checked on another thread, if its turn has come; else it will be asked again.
    pub(super) fn check<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        let Some(Login { name, step: Step::Check { password, running, .. }, until, .. }) = self.login()
        else {
            return;
        };
        if *running {
            return;
        }
        let (now, from) = (ctx.now, source(ctx.peer));
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let messages = ctx.server.messages();
        let wait = messages.penalties.wait(from, now);
        if !wait.is_zero() {
            messages.hashing.leave(ctx.id, ctx.conns);
            ctx.set_timeout(wait.min(left));
            return;
        }
        if !messages.hashing.ask(ctx.id, from, ctx.conns) {
            ctx.set_timeout(left);
            return;
        }
        let (challenge, password) = (messages.accounts.challenge(name), Arc::clone(password));
        let lent = messages.hashing.memory();
        let place = HashingPlace(ctx.handle());
        let work = move || {
            // The memory is given back before the place, with which the next check begins.
            let (_held, mut lent) = (place, lent);
            challenge.verify_in(&password, &mut lent.memory)
        };
        let given = ctx.offload(work, |client, ctx, account| match S::session(client) {
            Some(session) => session.checked(ctx, account),
            None => Ok(()),
        });
        *running = given.is_ok();
        // Other work has filled the pool: again in a moment.
        ctx.set_timeout(if *running { left } else { POOL_FULL_WAIT.min(left) });
    }

    fn checked<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        account: Option<Arc<Account>>,
    ) -> io::Result<()> {
        let accounts = &ctx.server.messages().accounts;
        // It may have been removed while the answer waited for the loop.
        match account.filter(|account| accounts.is_current(account)) {
            Some(account) => self.accept(ctx, account),
            None => {
                self.fail(ctx);
                Ok(())
            }
        }
    }

    fn accept<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, account: Arc<Account>) -> io::Result<()> {
        ctx.clear_timeout();
        ctx.resume_input();
        self.give_place_back(ctx);
        let messages = ctx.server.messages();
        messages.counters.logins += 1;
        messages.scratch.clear();
        let verdict = messages.dialect_of(ctx.peer.listener()).verdict_ok();
        message::write_array(&mut messages.scratch, verdict)?;
        ctx.conns.write(ctx.id, &messages.scratch);
        self.welcome(ctx, account)
    }

    /// Neither name nor password is said to be the wrong one.
    fn fail<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        self.note_failure(ctx, Refusal::Wrong);
        let (now, from) = (ctx.now, source(ctx.peer));
        let Some(login) = self.login() else { return };
        let (Step::Check { since, .. }, Some(until)) = (&login.step, login.until) else { return };
        let penalties = &mut ctx.server.messages().penalties;
        let due = (*since + penalties.delay(from, &login.name, now)).min(until);
        // Earlier than the first delay it would tell how long the check took.
        let told = due >= *since + penalties.first();
        login.step = Step::Refused { told };
        ctx.set_timeout(due.saturating_duration_since(now));
    }

    fn note_failure<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, refusal: Refusal) {
        let Some(login) = self.login() else { return };
        let messages = ctx.server.messages();
        messages.counters.login_failures += 1;
        let (id, name, from) = (ctx.id, shown(&login.name), ctx.peer.addr());
        let why = refusal.text(Dialect::Status);
        let what = format_args!("connection {id}: login of {name} from {from} refused: {why}");
        warn(&mut messages.quiet.failure, ctx.now, what);
    }

    /// The deadline of the connection has come: it is that of the login, or of what it waits for.
    pub(super) fn login_deadline<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        let (now, messages) = (ctx.now, ctx.server.messages());
        let Some(login) = self.login() else { return };
        let waited = match &login.step {
            Step::Refused { told: true } => return self.refuse(ctx, Refusal::Wrong),
            Step::Check { .. } if !login.is_over(now) => return self.check(ctx),
            Step::Name(_) | Step::Password(_) => false,
            Step::Check { .. } | Step::Refused { .. } => true,
        };
        messages.counters.login_timeouts += 1;
        let (id, from) = (ctx.id, ctx.peer.addr());
        let waited = if waited { ", its password still unanswered" } else { "" };
        let what = format_args!("connection {id}: login timed out{waited}, from {from}");
        warn(&mut messages.quiet.timeout, now, what);
        // Without a word.
        self.end_login(ctx);
    }

    fn refuse<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, refusal: Refusal) {
        tell(ctx, refusal);
        self.end_login(ctx);
    }

    /// The login is over, and the connection about to be. It keeps its place until it is: to wait for a client that does not
    /// read what it is told costs a descriptor, too.
    fn end_login<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        ctx.server.messages().hashing.leave(ctx.id, ctx.conns);
        let placed = self.login().is_some_and(|login| login.placed);
        self.state = State::Over { placed };
        ctx.close();
    }

    fn give_place_back<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        let placed = match &mut self.state {
            State::LoggingIn(Login { placed, .. }) | State::Over { placed } => std::mem::take(placed),
            State::Serving(_) | State::Orphaned(_) => false,
        };
        if placed {
            ctx.server.messages().places.give_back(source(ctx.peer));
        }
    }

    /// The connection is gone. A check that runs gives its place back when it is over.
    pub(super) fn leave_login<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        ctx.server.messages().hashing.leave(ctx.id, ctx.conns);
        self.give_place_back(ctx);
    }
}

/// Tells the client why it is refused.
fn tell<S: MessageHost>(ctx: &mut Context<'_, S>, refusal: Refusal) {
    let messages = ctx.server.messages();
    messages.scratch.clear();
    let dialect = messages.dialect_of(ctx.peer.listener());
    let verdict = dialect.verdict_error(refusal.text(dialect));
    // Its texts are ours, and fit.
    if message::write_array(&mut messages.scratch, &verdict).is_ok() {
        ctx.conns.write(ctx.id, &messages.scratch);
    }
}

fn source(peer: &Peer) -> Source {
    match peer.addr() {
        PeerAddr::Ip(addr) => addr.ip().into(),
        PeerAddr::Unix(Some(who)) => Source::User(who.uid),
        PeerAddr::Unix(None) | PeerAddr::Adopted => Source::Unknown,
    }
}

/// The array message `version`, `1`.
const BANNER: &[u8] = b"\0\x0aversion\x001\0";
const POOL_FULL_WAIT: Duration = Duration::from_millis(20);

/// In a saved state.
const NAME: u8 = 0;
const PASSWORD: u8 = 1;
const REFUSED: u8 = 2;
