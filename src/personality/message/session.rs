//! One client: its login, its requests one after the other, and what it is in the middle of when the server restarts.
//!
//! The login is in `login.rs`. After it, requests and what they ask for are taken from the input as it lies there, whole or
//! not at all, so a restart finds nothing half read.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::account::Account;
use super::database::AccountsDatabase;
use super::handler::{Answer, Processed, Wait};
use super::login::Login;
use super::messages::{Joining, MessageHost, Messages, Seat};
use crate::codec::message::{self, DESCRIPTOR_BYTE, Elements, GOT_IO, PASS_IO};
use crate::logging::{CLIENTS, Quiet};
use crate::state::{StateReader, StateWriter};
use crate::{CloseReason, Context, Error, ErrorKind, Input, MuxCallback, Result, Saved};

/// One client of a message server: the object that serves its connection.
pub struct Session {
    pub(super) state: State,
}

/// Where a client stands.
pub(super) enum State {
    LoggingIn(Login),
    Serving(Box<Serving>),
    /// Its account is gone since a restart: its handlers hear of the end, and that is all.
    Orphaned(Box<Serving>),
    /// It is being closed or turned away; what it still sends is thrown away.
    Over {
        /// As the login's.
        placed: bool,
    },
}

/// A client that has logged in.
pub(super) struct Serving {
    account: Arc<Account>,
    /// One for each handler.
    seats: Vec<Seat>,
    /// The names of the handlers.
    names: Rc<[String]>,
    stage: Stage,
    /// A handler is new since a restart and has not heard of the client.
    to_join: bool,
}

/// What the next input is. Numbers are places of handlers.
enum Stage {
    Request,
    Array(usize),
    Scalar(usize, u32),
    Descriptor(usize),
    /// `pass IO`, for this descriptor.
    PassIo(usize, OwnedFd),
    GotIo(usize),
    /// Nothing: a job runs, and input is not read.
    Job(usize),
}

impl Session {
    /// A client that has just come.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::LoggingIn(Login::default()) }
    }

    /// Takes up what [`MuxCallback::save`] wrote; for [`Server::restore_client`](crate::Server::restore_client). Rights are
    /// those that the account has now. A client whose account is gone is closed by [`close_orphans`](super::close_orphans).
    ///
    /// # Errors
    /// The state is of another version, a handler cannot restore its context, or a handler is gone that a request waits for.
    pub fn restore(messages: &mut Messages, state: &mut StateReader<'_>) -> Result<Self> {
        if state.version() != STATE_VERSION {
            let context = format!("a message client has state {}, this is {STATE_VERSION}", state.version());
            return Err(Error::new(ErrorKind::State, context));
        }
        let state = match state.u8()? {
            LOGGING_IN => State::LoggingIn(Login::restore(state)?),
            SERVING => {
                let serving = Box::new(Serving::restore(messages, state)?);
                match messages.accounts.is_current(&serving.account) {
                    true => State::Serving(serving),
                    false => State::Orphaned(serving),
                }
            }
            other => return Err(crate::state::StateError::invalid("a message client", other.into()).into()),
        };
        Ok(Self { state })
    }

    /// Whether the account of this client is gone since a restart.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        matches!(self.state, State::Orphaned(_))
    }

    /// Whose login the client used; none before the login.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<Account>> {
        match &self.state {
            State::Serving(serving) => Some(&serving.account),
            _ => None,
        }
    }

    /// Has the account of its name as it is by now. False if there is none any more.
    pub(super) fn follow_account(&mut self, accounts: &AccountsDatabase) -> bool {
        let State::Serving(serving) = &mut self.state else { return !self.is_orphaned() };
        accounts.get(serving.account.name()).map(|account| serving.account = account).is_some()
    }

    /// The login is over and right: the handlers are told.
    pub(super) fn welcome<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        account: Arc<Account>,
    ) -> io::Result<()> {
        let messages = ctx.server.messages();
        let serving = Serving {
            account,
            seats: Vec::new(),
            names: messages.names(),
            stage: Stage::Request,
            to_join: false,
        };
        // In place before a handler can fail, so that those before it hear of the end.
        self.state = State::Serving(Box::new(serving));
        let State::Serving(serving) = &mut self.state else { return Ok(()) };
        let (messages, mut client) = serving.split(ctx);
        messages.join(&mut client)
    }

    fn serve<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        let State::Serving(serving) = &mut self.state else { return Ok(()) };
        if std::mem::take(&mut serving.to_join) {
            let (messages, mut client) = serving.split(ctx);
            messages.join(&mut client)?;
        }
        while !input.is_empty() && ctx.conns.is_open(ctx.id) {
            if !serving.step(ctx, input)? {
                break;
            }
        }
        if !ctx.conns.is_open(ctx.id) {
            input.rest();
        }
        Ok(())
    }

    /// The job of a request is done.
    fn job_done<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        result: Box<dyn std::any::Any + Send>,
    ) -> io::Result<()> {
        let State::Serving(serving) = &mut self.state else { return Ok(()) };
        ctx.resume_input();
        match serving.stage {
            Stage::Job(at) => serving.go_on(ctx, at, Answer::Job(result)),
            _ => Ok(()),
        }
    }
}

impl Serving {
    fn split<'a, S: MessageHost>(
        &'a mut self,
        ctx: &'a mut Context<'_, S>,
    ) -> (&'a mut Messages, Joining<'a>) {
        let client = Joining {
            conns: ctx.conns,
            id: ctx.id,
            peer: ctx.peer,
            now: ctx.now,
            account: &self.account,
            seats: &mut self.seats,
        };
        (ctx.server.messages(), client)
    }

    /// Takes the next part of the input, if it is whole and the turn allows it; whether there may be more to do.
    fn step<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<bool> {
        if input.lines_left() == 0 {
            return Ok(false);
        }
        let taken = match &self.stage {
            Stage::Job(_) => return Ok(false),
            Stage::Request => {
                let most = ctx.server.messages().request_max_bytes;
                let Some((request, length)) = message::array(input.bytes(), most)? else { return Ok(false) };
                self.request(ctx, request)?;
                length
            }
            Stage::Array(at) => {
                let at = *at;
                let Some((answer, length)) = message::array(input.bytes(), message::ARRAY_MAX_BYTES)? else {
                    return Ok(false);
                };
                self.go_on(ctx, at, Answer::Array(answer))?;
                length
            }
            Stage::Scalar(at, most) => {
                let (at, most) = (*at, *most);
                let Some((answer, length)) = message::scalar(input.bytes(), most)? else { return Ok(false) };
                self.go_on(ctx, at, Answer::Scalar(answer))?;
                length
            }
            Stage::Descriptor(at) => {
                let at = *at;
                let descriptor = ctx.take_fd().filter(|_| input.bytes().first() == Some(&DESCRIPTOR_BYTE));
                let Some(descriptor) = descriptor else {
                    return Err(wrong("no valid file descriptor was sent"));
                };
                say(ctx, GOT_IO)?;
                self.go_on(ctx, at, Answer::Descriptor(descriptor))?;
                1
            }
            Stage::PassIo(..) | Stage::GotIo(_) => {
                let most = message::ARRAY_MAX_BYTES;
                let Some((word, length)) = message::array(input.bytes(), most)? else { return Ok(false) };
                self.negotiate(ctx, word)?;
                length
            }
        };
        input.spend();
        input.consume(taken);
        Ok(true)
    }

    fn request<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, request: Elements<'_>) -> io::Result<()> {
        if !request.is_empty() {
            let (messages, mut client) = self.split(ctx);
            if let Some((at, processed)) = messages.process(&mut client, request)? {
                return self.proceed(ctx, at, processed);
            }
        }
        let (now, messages) = (ctx.now, ctx.server.messages());
        messages.counters.unknown_requests += 1;
        let count = request.len();
        let name = request.get(0).map_or_else(|| "an empty message".to_owned(), shown);
        let what = format_args!("connection {}: unknown request {name} of {count} elements, closed", ctx.id);
        warn(&mut messages.quiet.unknown, now, what);
        ctx.close();
        Ok(())
    }

    fn negotiate<S: MessageHost>(&mut self, ctx: &mut Context<'_, S>, word: Elements<'_>) -> io::Result<()> {
        let is = |expected: &str| word.len() == 1 && word.get(0) == Some(expected.as_bytes());
        match std::mem::replace(&mut self.stage, Stage::Request) {
            Stage::PassIo(at, descriptor) if is(PASS_IO) => {
                if !ctx.conns.write_fd(ctx.id, descriptor) {
                    return Err(wrong("a descriptor cannot be sent on this connection"));
                }
                self.stage = Stage::GotIo(at);
                Ok(())
            }
            Stage::GotIo(at) if is(GOT_IO) => self.go_on(ctx, at, Answer::Sent),
            _ => Err(wrong("the client does not negotiate about a descriptor as it should")),
        }
    }

    fn go_on<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        at: usize,
        answer: Answer<'_>,
    ) -> io::Result<()> {
        self.stage = Stage::Request;
        let (messages, mut client) = self.split(ctx);
        match messages.go_on(&mut client, at, answer)? {
            Processed::NotMine => Err(wrong("a handler has disowned a request that it had begun")),
            processed => self.proceed(ctx, at, processed),
        }
    }

    /// What follows a handler's answer.
    fn proceed<S: MessageHost>(
        &mut self,
        ctx: &mut Context<'_, S>,
        at: usize,
        processed: Processed,
    ) -> io::Result<()> {
        let Processed::Wait(wait) = processed else { return Ok(()) };
        self.stage = match wait {
            Wait::Array => Stage::Array(at),
            Wait::Scalar { max_bytes } => {
                let most = ctx.conns.limits().input_max_bytes.saturating_sub(size_of::<u32>());
                Stage::Scalar(at, max_bytes.min(u32::try_from(most).unwrap_or(u32::MAX)))
            }
            Wait::Descriptor => {
                say(ctx, PASS_IO)?;
                Stage::Descriptor(at)
            }
            Wait::Send(descriptor) => Stage::PassIo(at, descriptor),
            Wait::Job(job) => {
                ctx.offload(job, |client, ctx, result| match S::session(client) {
                    Some(session) => session.job_done(ctx, result),
                    None => Ok(()),
                })?;
                ctx.pause_input();
                Stage::Job(at)
            }
        };
        Ok(())
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        let (kind, at, most) = match self.stage {
            Stage::Request => (0, 0, 0),
            Stage::Array(at) => (1, at, 0),
            Stage::Scalar(at, most) => (2, at, most),
            Stage::Descriptor(at) => (3, at, 0),
            Stage::GotIo(at) => (4, at, 0),
            // What they wait with cannot be written down.
            Stage::PassIo(..) | Stage::Job(_) => return Saved::Drain,
        };
        let waiting = self.names.get(at).map_or("", String::as_str);
        out.bytes(self.account.name()).u8(kind).u32(most).text(waiting);
        let mut saved = Saved::Keep;
        let seats = self.names.iter().zip(&self.seats).filter_map(|(name, seat)| match seat {
            Seat::Taken(own) => Some((name, own)),
            Seat::Free => None,
        });
        out.list(seats, |out, (name, own)| {
            out.text(name).option(own.as_ref(), |out, own| {
                let mut inner = StateWriter::new();
                if own.save(&mut inner) == Saved::Drain {
                    saved = Saved::Drain;
                }
                out.record(&inner);
            });
        });
        saved
    }

    /// With an account that may do nothing if it is gone.
    fn restore(messages: &mut Messages, state: &mut StateReader<'_>) -> Result<Self> {
        let name = state.bytes()?;
        let account = messages.accounts.get(name).unwrap_or_else(|| Account::gone(name));
        let (kind, most, waiting) = (state.u8()?, state.u32()?, state.text()?);
        let at = messages.place_of(waiting);
        let stage = match (kind, at) {
            (0, _) => Stage::Request,
            (1, Some(at)) => Stage::Array(at),
            (2, Some(at)) => Stage::Scalar(at, most),
            (3, Some(at)) => Stage::Descriptor(at),
            (4, Some(at)) => Stage::GotIo(at),
            (1..=4, None) => {
                let context = format!("a client waits for the handler {waiting}, which is gone");
                return Err(Error::new(ErrorKind::State, context));
            }
            (other, _) => return Err(crate::state::StateError::invalid("a stage", other.into()).into()),
        };
        let names = messages.names();
        let mut seats: Vec<Seat> = names.iter().map(|_| Seat::Free).collect();
        let saved = state.list(|state| Ok((state.text()?, state.option(StateReader::record)?)))?;
        for (name, own) in saved {
            // What a handler had that is gone goes with it.
            let Some(at) = messages.place_of(name) else { continue };
            let own = match own {
                Some(mut own) => messages.restore_own(at, &mut own)?,
                None => None,
            };
            seats[at] = Seat::Taken(own);
        }
        let to_join = seats.iter().any(|seat| matches!(seat, Seat::Free));
        Ok(Self { account, seats, names, stage, to_join })
    }
}

impl<S: MessageHost> MuxCallback<S> for Session {
    fn connection(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        if let State::LoggingIn(_) = &self.state {
            self.begin_login(ctx);
        }
        Ok(())
    }

    fn input(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        if let State::LoggingIn(_) = &self.state {
            self.log_in(ctx, input)?;
        }
        match &self.state {
            State::Serving(_) => self.serve(ctx, input),
            State::LoggingIn(_) => Ok(()),
            State::Orphaned(_) => {
                input.rest();
                ctx.close();
                Ok(())
            }
            State::Over { .. } => {
                input.wipe(usize::MAX);
                Ok(())
            }
        }
    }

    fn timeout(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        // In this order: who is refused now is not turned out.
        self.turn_out(ctx);
        self.login_deadline(ctx);
        Ok(())
    }

    fn wake(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        self.check(ctx);
        Ok(())
    }

    fn drained(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        self.turn_out(ctx);
        Ok(())
    }

    fn close(&mut self, ctx: &mut Context<'_, S>, _reason: &CloseReason) {
        self.leave_login(ctx);
        if let State::Serving(serving) | State::Orphaned(serving) = &mut self.state {
            let (messages, mut client) = serving.split(ctx);
            messages.disconnected(&mut client);
        }
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        out.version(STATE_VERSION);
        match &self.state {
            State::LoggingIn(login) => {
                out.u8(LOGGING_IN);
                login.save(out)
            }
            State::Serving(serving) => {
                out.u8(SERVING);
                serving.save(out)
            }
            State::Orphaned(_) | State::Over { .. } => Saved::Drain,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("account", &self.account()).finish_non_exhaustive()
    }
}

fn say<S: MessageHost>(ctx: &mut Context<'_, S>, word: &str) -> io::Result<()> {
    let scratch = &mut ctx.server.messages().scratch;
    scratch.clear();
    message::write_array(scratch, &[word])?;
    ctx.conns.write(ctx.id, scratch);
    Ok(())
}

/// What a client called something, for a log line.
pub(super) fn shown(bytes: &[u8]) -> String {
    let end = bytes.len().min(SHOWN_MAX_BYTES);
    format!("\"{}\"{}", bytes[..end].escape_ascii(), if end < bytes.len() { "…" } else { "" })
}

/// Says what a client has caused: at most one line of a kind in ten seconds, the others among those that clients cause.
pub(super) fn warn(quiet: &mut Quiet, now: Instant, what: fmt::Arguments<'_>) {
    match quiet.allow(now) {
        Some(0) => log::warn!("{what}"),
        Some(more) => log::warn!("{what} ({more} more since the last such line)"),
        None => log::info!(target: CLIENTS, "{what}"),
    }
}

fn wrong(context: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, context)
}

const SHOWN_MAX_BYTES: usize = 40;

const STATE_VERSION: u32 = 1;
const LOGGING_IN: u8 = 0;
const SERVING: u8 = 1;
