//! What one connection does: [`MuxCallback`], and the values that its callbacks are given.

use std::fmt;
use std::io;

use super::context::Context;
use super::server::Server;
use crate::buffer::Input;
use crate::state::StateWriter;

/// The behaviour of one connection, implemented by your client type; the loop pushes events into it.
///
/// # Order
///
/// [`connection`](Self::connection) comes first, once. Then [`input`](Self::input), [`timeout`](Self::timeout),
/// [`wake`](Self::wake) and [`drained`](Self::drained) come any number of times, [`eof`](Self::eof) at most once and
/// after it no more `input`. [`close`](Self::close) comes last, exactly once, when the socket is gone; nothing comes
/// after it. (A connection that is over before it was open, such as an outgoing one that nobody answered, has `close` as
/// its only callback.) No callback is ever
/// called inside another one: closing a connection, even one's own, only marks it.
///
/// # Results
///
/// | a callback | what happens |
/// |---|---|
/// | answers `Ok(())` | the connection goes on |
/// | answers `Err(e)` | logged (at most one line every ten seconds); what was written is sent; then the connection closes with [`CloseReason::Failed`] |
/// | panics | logged; the connection is cut with [`CloseReason::Panicked`], or the process aborts (`on_panic = "abort"`) |
///
/// Neither harms another connection. What a panic leaves half done in the shared server is the server's own to mend.
///
/// # Time
///
/// All callbacks run on one thread, one after the other: a slow one makes everybody wait. Give long work to
/// [`Context::offload`].
///
/// ```
/// use lineplex::{Context, Input, MuxCallback, Peer, Server};
/// use std::io;
///
/// struct Echo;
/// struct EchoClient;
///
/// impl Server for Echo {
///     type Client = EchoClient;
///     fn client(&mut self, _peer: &Peer) -> EchoClient {
///         EchoClient
///     }
/// }
///
/// impl MuxCallback<Echo> for EchoClient {
///     fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
///         while let Some(line) = input.line() {
///             ctx.write(line);
///             ctx.write(b"\r\n");
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot serve a connection of `{S}`",
    note = "implement `MuxCallback<{S}>` for it: only `input` is required"
)]
pub trait MuxCallback<S: Server> {
    /// The connection is open: greet. Called once, before anything else; what is written here is sent first.
    ///
    /// # Errors
    /// See the table above.
    fn connection(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Bytes have arrived, or whole lines are left from the turn before. Take from the front of `input` what is
    /// complete and leave the rest: it comes back with more behind it. Called after every read, of up to
    /// `Limits::bytes_per_turn`, so possibly with half a line.
    ///
    /// # Errors
    /// See the table above.
    fn input(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()>;

    /// The peer has ended its side; `input` holds what is left, perhaps a line without its ending. Every byte that
    /// was sent before has been through [`input`](Self::input). Afterwards what is owed is sent and the connection
    /// closes, unless [`Context::hold_open`] keeps our side.
    ///
    /// # Errors
    /// See the table above.
    fn eof(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        let _ = (ctx, input);
        Ok(())
    }

    /// The deadline of [`Context::set_timeout`] has passed; it is cleared, set it again for the next one. Without
    /// an implementation the connection is closed with [`CloseReason::TimedOut`].
    ///
    /// # Errors
    /// See the table above.
    fn timeout(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        ctx.conns.close_because(ctx.id, CloseReason::TimedOut);
        Ok(())
    }

    /// Somebody called [`Handle::wake`](crate::Handle::wake) or [`Conns::wake`](crate::Conns::wake) for this
    /// connection. Several wakes before the loop gets here may be one call.
    ///
    /// # Errors
    /// See the table above.
    fn wake(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// Everything written so far has been taken by the kernel: the moment to write more of something long. Called
    /// at most once a turn.
    ///
    /// # Errors
    /// See the table above.
    fn drained(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        let _ = ctx;
        Ok(())
    }

    /// The connection is gone, its socket is closed: tell the others. Writing to it reaches nobody.
    fn close(&mut self, ctx: &mut Context<'_, S>, reason: &CloseReason) {
        let _ = (ctx, reason);
    }

    /// A restart (SIGHUP) is about to hand the connections over to the next image of the program: write into `out` what
    /// this object must know there and answer [`Saved::Keep`]; `Server::restore_client` makes it again from that. The
    /// connection itself (its socket, unconsumed input, unsent output, deadline) needs nothing: it goes along.
    ///
    /// Called several times for each restart, so it must change nothing outside `out`. What is not said here is lost:
    /// never write passwords or keys. By default the client is not kept: `close` is called with
    /// [`CloseReason::Handover`], what it is owed is sent, and its connection ends.
    ///
    /// ```
    /// use lineplex::state::StateWriter;
    /// use lineplex::{Context, Input, MuxCallback, Peer, Saved, Server};
    /// # use std::io;
    ///
    /// struct Counter;
    /// struct CounterClient { lines: u64 }
    ///
    /// impl Server for Counter {
    ///     type Client = CounterClient;
    ///     fn client(&mut self, _: &Peer) -> CounterClient {
    ///         CounterClient { lines: 0 }
    ///     }
    ///     fn restore_client(
    ///         &mut self,
    ///         _: &Peer,
    ///         state: &mut lineplex::state::StateReader<'_>,
    ///     ) -> lineplex::Result<CounterClient> {
    ///         Ok(CounterClient { lines: state.u64()? })
    ///     }
    /// }
    ///
    /// impl MuxCallback<Counter> for CounterClient {
    ///     fn input(&mut self, ctx: &mut Context<'_, Counter>, input: &mut Input) -> io::Result<()> {
    ///         while input.line().is_some() {
    ///             self.lines += 1;
    ///             write!(ctx, "{}\n", self.lines);
    ///         }
    ///         Ok(())
    ///     }
    ///     fn save(&self, out: &mut StateWriter) -> Saved {
    ///         out.u64(self.lines);
    ///         Saved::Keep
    ///     }
    /// }
    /// ```
    fn save(&self, out: &mut StateWriter) -> Saved {
        let _ = out;
        Saved::Drain
    }
}

/// What a restart does with a client, as its [`MuxCallback::save`] answers.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It goes on in the next image; its peer notices nothing.
    Keep,
    /// It cannot: it is sent what it is owed and its connection ends.
    Drain,
}

impl<S: Server> MuxCallback<S> for Box<dyn MuxCallback<S>> {
    fn connection(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        (**self).connection(ctx)
    }

    fn input(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        (**self).input(ctx, input)
    }

    fn eof(&mut self, ctx: &mut Context<'_, S>, input: &mut Input) -> io::Result<()> {
        (**self).eof(ctx, input)
    }

    fn timeout(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        (**self).timeout(ctx)
    }

    fn wake(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        (**self).wake(ctx)
    }

    fn drained(&mut self, ctx: &mut Context<'_, S>) -> io::Result<()> {
        (**self).drained(ctx)
    }

    fn close(&mut self, ctx: &mut Context<'_, S>, reason: &CloseReason) {
        (**self).close(ctx, reason);
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        (**self).save(out)
    }
}

/// Why a connection is gone.
#[non_exhaustive]
#[derive(Debug)]
pub enum CloseReason {
    /// The peer ended its side; what we owed it was sent.
    Eof,
    /// We closed it: `close`, after what was written had been sent.
    Asked,
    /// We cut it: `abort`; unsent output was dropped.
    Aborted,
    /// Its deadline (`set_timeout`) passed and the client does not implement `timeout`.
    TimedOut,
    /// It was silent for `Limits::idle_time`.
    Idle,
    /// A line took longer than `Limits::line_time`.
    LineDeadline,
    /// A line was longer than `Limits::line_max_bytes`.
    LineTooLong,
    /// More than `Limits::input_max_bytes` were left unconsumed.
    InputLimit,
    /// More than `Limits::output_hard_bytes` were waiting to be sent.
    OutputLimit,
    /// It took nothing of its output for `Limits::output_stall_time`.
    OutputStalled,
    /// Reading or writing failed, for example because the peer reset the connection.
    Io(io::Error),
    /// An outgoing connection could not be opened; `connection` was never called.
    ConnectFailed(io::Error),
    /// A callback answered with this error.
    Failed(io::Error),
    /// A callback panicked.
    Panicked,
    /// The server stops.
    Shutdown,
    /// The server restarts, and this client does not go along ([`MuxCallback::save`]).
    Handover,
}

impl CloseReason {
    /// One word for logs and counters, for example `eof`, `output-limit`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Asked => "asked",
            Self::Aborted => "aborted",
            Self::TimedOut => "timed-out",
            Self::Idle => "idle",
            Self::LineDeadline => "line-deadline",
            Self::LineTooLong => "line-too-long",
            Self::InputLimit => "input-limit",
            Self::OutputLimit => "output-limit",
            Self::OutputStalled => "output-stalled",
            Self::Io(_) => "io",
            Self::ConnectFailed(_) => "connect-failed",
            Self::Failed(_) => "failed",
            Self::Panicked => "panicked",
            Self::Shutdown => "shutdown",
            Self::Handover => "handover",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) | Self::ConnectFailed(error) | Self::Failed(error) => {
                write!(f, "{}: {error}", self.word())
            }
            _ => f.write_str(self.word()),
        }
    }
}
