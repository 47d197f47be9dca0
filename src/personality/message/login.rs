//! The login: the banner, a name and a password as scalar messages, the check, the verdict.
//!
//! The client has one budget of time for its part. The password is read into a buffer that is wiped, and wiped where it was
//! received; it is checked on another thread, few at once, with the same work whether the account exists or not. A refusal
//! comes no earlier than its time, so that it tells nothing but "no".

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::account::Account;
use super::database::Challenge;
use super::dialect::Dialect;
use super::messages::{MessageHost, Place};
use super::penalties::Source;
use super::session::{Session, State, held, shown};
use crate::codec::message::{self, ScalarReader};
use crate::net::PeerAddr;
use crate::state::{StateError, StateReader, StateWriter};
use crate::{Context, Input, Peer, Saved};

/// How far a login is.
pub(super) struct Login {
    name: Vec<u8>,
    step: Step,
}

enum Step {
    Name(ScalarReader),
    Password(ScalarReader),
    /// The password is here and waits to be checked, or is being checked.
    Check {
        password: Arc<Zeroizing<Vec<u8>>>,
        since: Instant,
    },
    /// The verdict waits for its time.
    Refused,
}

impl Default for Login {
    fn default() -> Self {
        Self { name: Vec::new(), step: Step::Name(ScalarReader::new(USERNAME_MAX_BYTES)) }
    }
}

impl Login {
    /// A login of which nothing is half read goes along. A password never does.
    pub(super) fn save(&self, out: &mut StateWriter) -> Saved {
        let (has_name, reader) = match &self.step {
            Step::Name(reader) => (false, reader),
            Step::Password(reader) => (true, reader),
            Step::Check { .. } | Step::Refused => return Saved::Drain,
        };
        if !reader.is_fresh() {
            return Saved::Drain;
        }
        out.bool(has_name).bytes(&self.name);
        Saved::Keep
    }

    pub(super) fn restore(state: &mut StateReader<'_>) -> Result<Self, StateError> {
        let (has_name, name) = (state.bool()?, state.bytes()?);
        let step = match has_name {
            true => Step::Password(ScalarReader::new(PASSWORD_MAX_BYTES)),
            false => Step::Name(ScalarReader::new(USERNAME_MAX_BYTES)),
        };
        Ok(Self { name: name.to_vec(), step })
    }
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NameTooLong,
    PasswordTooLong,
    /// The name or the password.
    Wrong,
    TooMany,
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
            (Self::TooMany, Dialect::Classic) => "Too many logins at once. Try again later.",
            (Self::TooMany, Dialect::Status) => "Too many logins at once, try again later",
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

    pub(super) fn begin_login<S: MessageHost>(&self, ctx: &mut Context<'_, S>) {
        let time = ctx.server.messages().login_time;
        ctx.write(BANNER);
        ctx.set_timeout(time);
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
                Step::Refused => {
                    input.rest();
                    return Ok(());
                }
            };
            match reader.feed(input.bytes()) {
                Ok(taken) => input.wipe(taken),
                Err(_) => {
                    input.wipe(usize::MAX);
                    ctx.server.messages().counters.login_failures += 1;
                    self.refuse(ctx, refusal);
                    return Ok(());
                }
            }
            let Some(value) = reader.take().map(Zeroizing::new) else { continue };
            if refusal == Refusal::NameTooLong {
                login.name = value.to_vec();
                login.step = Step::Password(ScalarReader::new(PASSWORD_MAX_BYTES));
            } else {
                return self.check(ctx, value);
            }
        }
        Ok(())
    }

    /// The password is here.
    fn check<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        password: Zeroizing<Vec<u8>>,
    ) -> io::Result<()> {
        let Some(login) = self.login() else { return Ok(()) };
        // The client has done its part.
        ctx.conns.clear_timeout(ctx.id);
        let messages = ctx.server.messages();
        if let Some(account) = messages.accounts.challenge(&login.name).try_token(&password) {
            return self.accept(ctx, account);
        }
        login.step = Step::Check { password: Arc::new(password), since: ctx.now };
        ctx.conns.pause_input(ctx.id);
        match messages.hashing.ask(ctx.id) {
            Place::Here => self.hash(ctx),
            Place::Later => Ok(()),
            Place::Full => {
                self.refuse(ctx, Refusal::TooMany);
                Ok(())
            }
        }
    }

    /// Its turn to be checked has come.
    pub(super) fn place_is_free<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        let granted = ctx.server.messages().hashing.has(ctx.id);
        let waits = matches!(self.login().map(|login| &login.step), Some(Step::Check { .. }));
        if granted && waits { self.hash(ctx) } else { Ok(()) }
    }

    /// Has the password checked on another thread.
    fn hash<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        let Some(Login { name, step: Step::Check { password, .. } }) = self.login() else { return Ok(()) };
        let challenge: Challenge = ctx.server.messages().accounts.challenge(name);
        let password = Arc::clone(password);
        let done = ctx.offload(
            move || challenge.verify(&password),
            |client, ctx, account| match S::session(client) {
                Some(session) => session.checked(ctx, account),
                None => Ok(()),
            },
        );
        if done.is_err() {
            // Other work has filled the pool: again in a moment.
            ctx.set_timeout(POOL_FULL_WAIT);
        }
        Ok(())
    }

    fn checked<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        account: Option<Arc<Account>>,
    ) -> io::Result<()> {
        let messages = ctx.server.messages();
        messages.hashing.release(ctx.id, ctx.conns);
        // It may have been removed while the answer waited for the loop.
        let Some(account) = account.filter(|account| messages.accounts.is_current(account)) else {
            self.fail(ctx);
            return Ok(());
        };
        self.accept(ctx, account)
    }

    fn accept<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, account: Arc<Account>) -> io::Result<()> {
        ctx.resume_input();
        let messages = ctx.server.messages();
        messages.counters.logins += 1;
        messages.penalties.success(source(ctx.peer));
        messages.scratch.clear();
        let verdict = messages.dialect_of(ctx.peer.listener()).verdict_ok();
        message::write_array(&mut messages.scratch, verdict)?;
        ctx.conns.write(ctx.id, &messages.scratch);
        self.welcome(ctx, account)
    }

    /// Neither name nor password is said to be the wrong one.
    fn fail<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) {
        let Some(login) = self.login() else { return };
        let Step::Check { since, .. } = &login.step else { return };
        let messages = ctx.server.messages();
        messages.counters.login_failures += 1;
        let due = messages.penalties.delay(source(ctx.peer), &login.name, ctx.now);
        if let Some(more) = messages.quiet.failure.allow(ctx.now) {
            let name = shown(&login.name);
            log::warn!(
                "connection {}: login of {name} from {} refused{}",
                ctx.id,
                ctx.peer.addr(),
                held(more)
            );
        }
        let due = due.saturating_sub(ctx.now.saturating_duration_since(*since));
        login.step = Step::Refused;
        ctx.set_timeout(due);
    }

    /// The time for the login, or until a verdict, is over.
    pub(super) fn login_time_is_over<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        let Some(login) = self.login() else { return Ok(()) };
        match &login.step {
            Step::Refused => self.refuse(ctx, Refusal::Wrong),
            Step::Check { .. } => return self.hash(ctx),
            Step::Name(_) | Step::Password(_) => {
                let (now, messages) = (ctx.now, ctx.server.messages());
                messages.counters.login_timeouts += 1;
                if let Some(more) = messages.quiet.timeout.allow(now) {
                    log::warn!(
                        "connection {}: login timed out, from {}{}",
                        ctx.id,
                        ctx.peer.addr(),
                        held(more)
                    );
                }
                self.state = State::Over;
                // Without a word.
                ctx.close();
            }
        }
        Ok(())
    }

    fn refuse<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, refusal: Refusal) {
        let messages = ctx.server.messages();
        messages.scratch.clear();
        let dialect = messages.dialect_of(ctx.peer.listener());
        let verdict = dialect.verdict_error(refusal.text(dialect));
        // Its texts are ours, and fit.
        if message::write_array(&mut messages.scratch, &verdict).is_ok() {
            ctx.conns.write(ctx.id, &messages.scratch);
        }
        self.state = State::Over;
        ctx.close();
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
/// As the original's; a longer one is refused as soon as it is announced.
const USERNAME_MAX_BYTES: u32 = 100;
const PASSWORD_MAX_BYTES: u32 = 100;
const POOL_FULL_WAIT: Duration = Duration::from_millis(20);
