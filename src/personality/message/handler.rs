//! What serves requests: [`Handler`], written by the application, and what its methods are given and answer.
//!
//! Handlers do not know the loop. They answer with what is to come next ([`Processed`]), so an exchange inside a request (a
//! question back, a descriptor, slow work) is a state that the session keeps, and nothing ever waits.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use super::client_context::ClientContext;
use crate::codec::message::Elements;
use crate::state::{StateReader, StateWriter};
use crate::{Error, ErrorKind, Result, Saved};

/// Serves one kind of requests, for all clients. Handlers are asked in the order in which they were
/// [added](super::Messages::add_handler): the first that does not answer [`Processed::NotMine`] ends the search, and a
/// request that nobody takes closes the connection.
///
/// | a method | what happens |
/// |---|---|
/// | answers `Err` or panics in `new_client` | the connection closes; [`client_disconnected`](Self::client_disconnected) is called for the handlers before it, which had succeeded |
/// | answers `Err` in another one | logged (one line every ten seconds at most), what was written is sent, the connection closes |
/// | panics | logged, the connection is cut; nobody else is harmed |
///
/// ```
/// use std::io;
/// use lineplex::codec::message::Elements;
/// use lineplex::personality::message::{ClientContext, Handler, Processed};
///
/// /// "ping" → "pong" and how often this client had it before.
/// struct Ping;
///
/// impl Handler for Ping {
///     type Context = u64;
///
///     fn new_client(&mut self, _client: &mut ClientContext<'_>) -> io::Result<Option<u64>> {
///         Ok(Some(0))
///     }
///
///     fn process_message(
///         &mut self,
///         client: &mut ClientContext<'_>,
///         count: Option<&mut u64>,
///         message: Elements<'_>,
///     ) -> io::Result<Processed> {
///         let (Some(b"ping"), Some(count)) = (message.get(0), count) else { return Ok(Processed::NotMine) };
///         client.reply(&["pong", &count.to_string()])?;
///         *count += 1;
///         Ok(Processed::Done)
///     }
/// }
/// ```
pub trait Handler: 'static {
    /// What it keeps for one client; `()` for a handler that keeps nothing.
    type Context: 'static;

    /// A client has logged in. Its own context, or none. What is written here follows the verdict.
    ///
    /// # Errors
    /// The client is closed.
    fn new_client(&mut self, client: &mut ClientContext<'_>) -> io::Result<Option<Self::Context>> {
        let _ = client;
        Ok(None)
    }

    /// A request has come; `message` has at least one element. `own` is what [`new_client`](Self::new_client) gave.
    ///
    /// # Errors
    /// See the table above. An error of [`ClientContext::require_rights`] may be passed on with `?`, which closes the
    /// connection, or be answered with `Ok(Processed::Done)`, which leaves it usable.
    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        own: Option<&mut Self::Context>,
        message: Elements<'_>,
    ) -> io::Result<Processed>;

    /// What [`Processed::Wait`] waited for is here. The request goes on; it ends with [`Processed::Done`].
    ///
    /// # Errors
    /// See the table above.
    fn continue_message(
        &mut self,
        client: &mut ClientContext<'_>,
        own: Option<&mut Self::Context>,
        answer: Answer<'_>,
    ) -> io::Result<Processed> {
        let _ = (client, own, answer);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the handler waits, but does not implement continue_message",
        ))
    }

    /// The client is gone, for whatever reason; what is written to it reaches nobody. Called once for each handler whose
    /// `new_client` succeeded, in order.
    fn client_disconnected(&mut self, client: &mut ClientContext<'_>, own: Option<&mut Self::Context>) {
        let _ = (client, own);
    }

    /// A restart is about to hand over this client: write what [`restore`](Self::restore) needs. A client of which any
    /// handler keeps a context without saving it is closed instead.
    fn save(own: &Self::Context, out: &mut StateWriter) -> Saved
    where
        Self: Sized,
    {
        let _ = (own, out);
        Saved::Drain
    }

    /// Makes the context of a client again from what [`save`](Self::save) wrote, all of it.
    ///
    /// # Errors
    /// Refuses the restart.
    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<Self::Context> {
        let _ = state;
        Err(Error::new(ErrorKind::State, "a handler's context was saved, but it does not implement restore"))
    }

    /// By what its contexts are found again after a restart. By default the name of the type. Of several handlers of one
    /// name the second is called `name 2`, and so on, in the order in which they were added.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

/// What a handler did with a request, or with a part of one.
#[non_exhaustive]
#[derive(Debug)]
pub enum Processed {
    /// It is no request of this handler: the next one is asked. Nothing may have been written. As the answer to
    /// [`Handler::continue_message`] it is an error.
    NotMine,
    /// It is served; the next request of this client may come.
    Done,
    /// It goes on with [`Handler::continue_message`] when this has come; until then this client's other input waits.
    Wait(Wait),
}

/// What a request waits for.
#[non_exhaustive]
pub enum Wait {
    /// An array message of the client, which the handler has asked it for: [`Answer::Array`].
    Array,
    /// A scalar message of at most so many bytes: [`Answer::Scalar`]. A longer one closes the connection as soon as it is
    /// announced. Values above `Limits::input_max_bytes` less 4 are cut to that.
    Scalar {
        /// Bytes.
        max_bytes: u32,
    },
    /// A descriptor of the client (Unix listeners with `accept_fds`): `pass IO` is said, the descriptor taken, `got IO`
    /// said: [`Answer::Descriptor`].
    Descriptor,
    /// The client's `pass IO`; then it is sent this descriptor, and its `got IO` awaited: [`Answer::Sent`]. Our copy is
    /// closed when the kernel has it.
    Send(OwnedFd),
    /// Work that takes long, on a thread of the offload pool: [`Answer::Job`] with what it gave. If the pool is full
    /// (`Limits::offload_queue`) the connection closes.
    Job(Job),
}

/// What runs on another thread; see [`Wait::job`].
pub type Job = Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>;

impl Wait {
    /// [`Wait::Job`] for a closure. Its value comes as [`Answer::Job`], to be had with `downcast`.
    pub fn job<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self::Job(Box::new(move || Box::new(work())))
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array => f.write_str("Array"),
            Self::Scalar { max_bytes } => f.debug_struct("Scalar").field("max_bytes", max_bytes).finish(),
            Self::Descriptor => f.write_str("Descriptor"),
            Self::Send(fd) => f.debug_tuple("Send").field(fd).finish(),
            Self::Job(_) => f.write_str("Job"),
        }
    }
}

/// What a request has waited for.
#[non_exhaustive]
#[derive(Debug)]
pub enum Answer<'a> {
    /// For [`Wait::Array`]; possibly without any element.
    Array(Elements<'a>),
    /// For [`Wait::Scalar`].
    Scalar(&'a [u8]),
    /// For [`Wait::Descriptor`]; close-on-exec.
    Descriptor(OwnedFd),
    /// For [`Wait::Send`]: the client has it.
    Sent,
    /// For [`Wait::Job`].
    Job(Box<dyn Any + Send>),
}

/// What a handler keeps for a client, whatever its type.
pub(super) type Own = Option<Box<dyn Kept>>;

/// A handler's context in a session.
pub(super) trait Kept {
    fn save(&self, out: &mut StateWriter) -> Saved;
    fn any(&mut self) -> &mut dyn Any;
}

struct KeptBy<H: Handler>(H::Context);

impl<H: Handler> Kept for KeptBy<H> {
    fn save(&self, out: &mut StateWriter) -> Saved {
        H::save(&self.0, out)
    }

    fn any(&mut self) -> &mut dyn Any {
        self
    }
}

fn own<H: Handler>(own: &mut Own) -> Option<&mut H::Context> {
    own.as_mut()?.any().downcast_mut::<KeptBy<H>>().map(|kept| &mut kept.0)
}

fn kept<H: Handler>(context: H::Context) -> Box<dyn Kept> {
    Box::new(KeptBy::<H>(context))
}

/// A [`Handler`] of any type, in the list of a server.
pub(super) trait Registered {
    fn new_client(&mut self, client: &mut ClientContext<'_>) -> io::Result<Own>;
    fn process(
        &mut self,
        client: &mut ClientContext<'_>,
        own: &mut Own,
        message: Elements<'_>,
    ) -> io::Result<Processed>;
    fn go_on(
        &mut self,
        client: &mut ClientContext<'_>,
        own: &mut Own,
        answer: Answer<'_>,
    ) -> io::Result<Processed>;
    fn disconnected(&mut self, client: &mut ClientContext<'_>, own: &mut Own);
    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<Own>;
}

impl<H: Handler> Registered for H {
    fn new_client(&mut self, client: &mut ClientContext<'_>) -> io::Result<Own> {
        Ok(Handler::new_client(self, client)?.map(kept::<H>))
    }

    fn process(
        &mut self,
        client: &mut ClientContext<'_>,
        own: &mut Own,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        self.process_message(client, self::own::<H>(own), message)
    }

    fn go_on(
        &mut self,
        client: &mut ClientContext<'_>,
        own: &mut Own,
        answer: Answer<'_>,
    ) -> io::Result<Processed> {
        self.continue_message(client, self::own::<H>(own), answer)
    }

    fn disconnected(&mut self, client: &mut ClientContext<'_>, own: &mut Own) {
        self.client_disconnected(client, self::own::<H>(own));
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<Own> {
        Ok(Some(kept::<H>(Handler::restore(self, state)?)))
    }
}
