//! Single-threaded event-loop servers for protocols that answer fast: chat, line protocols, control ports.
//!
//! You write two types: a **server**, the one object of the process, with what all clients share and the hooks of its
//! life ([`Server`]), and a **client**, the object of one connection, with its callbacks ([`MuxCallback`]). The crate
//! does the rest: the command line and a strict configuration file, listeners, access lists, limits for everything,
//! deadlines, signals, the log. One thread runs it all, so callbacks have plain `&mut` on what they share, and nothing
//! needs a lock. It is the shape of Perl's Net::Server::Multiplex; the README has a table for those who come from there.
//!
//! # An echo server, whole
//!
#![cfg_attr(all(feature = "config", feature = "signals", feature = "daemon"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "config", feature = "signals", feature = "daemon")), doc = "```ignore")]
//! use std::io;
//! use std::process::ExitCode;
//!
//! use lineplex::{Context, Input, MuxCallback, Peer, Server};
//!
//! struct Echo;
//! struct EchoClient;
//!
//! impl Server for Echo {
//!     type Client = EchoClient;
//!
//!     fn client(&mut self, _peer: &Peer) -> EchoClient {
//!         EchoClient
//!     }
//! }
//!
//! impl MuxCallback<Echo> for EchoClient {
//!     fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
//!         while let Some(line) = input.line() {
//!             ctx.write_parts(&[line, b"\n"]);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     lineplex::run(Echo)
//! }
//! ```
//!
//! # The life of a server
//!
//! ```text
//! configure   configure_hook → command line and file → post_configure_hook
//! bind        pre_bind_hook → listeners are opened → post_bind_hook
//! loop        pre_loop_hook
//!               a client:  post_accept_hook → allow_deny_hook → client() → connection → input … eof → close
//!               denied:    request_denied_hook
//!               else:      run_dequeue · timeout · signal_hook
//! close       pre_server_close_hook → close of every client → post_child_cleanup_hook
//! ```
//!
//! [`run`] goes through it and gives the exit status; [`run_with`] takes a [`Config`](config::Config) from code;
//! [`Mux`] is the loop alone. [`Mux::turn`] is one round of it, a list of eight phases: wait, time and signals, accept,
//! read, wake, deadlines and the tick, send, close. All that callbacks write in one turn leaves in one system call for
//! each connection. Nothing calls a callback from inside another one: closing a connection, even one's own, marks it, and
//! the last phase acts on the mark.
//!
//! Every queue, buffer and loop is bounded by a field of [`Limits`](config::Limits), which says what happens at it.
//! A callback that answers `Err` or panics costs its own connection. What takes long goes to a worker thread with
//! [`Context::offload`]; other threads reach the loop through a [`Handle`].
//!
//! # A restart that keeps the clients
//!
//! SIGHUP puts the next image of the program in the place of this one: same process id, same listeners, same clients. It
//! is tried first, in a process of its own, and if anything is wrong this image goes on. A client's object goes along if
//! its [`save`](MuxCallback::save) says so, and [`Server::restore_client`] makes it again; the connection itself, with
//! what was half received and half sent, needs nothing. See [`state`] for what is saved, and [`Server`] for the hooks.
//!
//! # Several processes
//!
//! A loop uses one core. What needs more is several processes of one server that inherit one listening socket: a service
//! manager, or a small supervisor such as the example `scale`, opens it and passes it on (`LISTEN_FDS`, socket activation).
//! To the crate each of them is a server like any other.
//!
//! | | |
//! |---|---|
//! | is shared | the socket with its queue: whoever is awake takes the next client, and a process that ends leaves the queue to the others |
//! | is not | all else: clients, who stay where they are, state, counters, and the limits, so `max_connections` and `max_per_address` are those of each process. A room that spans processes needs something to talk through: a server that all of them [`connect`](Context::connect) to |
//! | a restart | HUP to each: all clients stay. TERM to one after the other: only its own clients go, and nobody is refused. A `pid_file` is one process's |
//! | how even it is | roughly, with a few processes: 2000 clients came to 646, 674, 495 and 185 in four. More processes than cores make it worse |
//! | what a new client costs | it wakes every process that sleeps, once, a few µs each: eight idle processes woke 8.1 times a client, two busy ones 0.8 times. Lines wake only who they are for. Of many clients that stay for a moment, fewer processes serve more |
//! | cores | as many processes as cores, less what the network takes; pinned with `CPUAffinity=` or `taskset -c` where that is measured to help |
//!
//! With systemd a socket and a template; `systemctl reload chat@1` restarts one of them:
//!
//! ```ini
//! # chat.socket
//! [Socket]
//! ListenStream=20203
//! Service=chat@1.service
//! [Install]
//! WantedBy=sockets.target
//!
//! # chat@.service: systemctl enable --now chat.socket chat@1 chat@2 chat@3
//! [Service]
//! Type=notify
//! Sockets=chat.socket
//! ExecStart=/usr/local/bin/chat --conf_file=/etc/chat.toml
//! ExecReload=/bin/kill -HUP $MAINPID
//! CPUAffinity=%i
//! Restart=on-failure
//! [Install]
//! WantedBy=multi-user.target
//! ```
//!
//! What this crate does not do, and refuses with a sentence, is `SO_REUSEPORT`, where each process has a socket of its own
//! on one port: who waits in the queue of one that closes is reset (48 of 100, when one of two did), so no restart could
//! promise that nobody is refused; and any program of the same user can join, and gets its share of the clients.
//!
//! # Map
//!
//! A module uses only what stands on a floor below it, and on its own floor only what is listed above it.
//!
//! | floor | modules |
//! |---|---|
//! | values: no I/O, no clock | [`Error`]; [`codec`] wire formats; [`Input`] and [`Output`]; [`ConnId`]; [`wheel`] the timers; [`access`] allow and deny lists; [`metrics`]; [`state`] what a handover keeps |
//! | edges: what touches the system | [`config`] file, command line, limits; [`net`] listeners and streams; [`signals`]; [`logging`] |
//! | mux: the loop | [`Mux`], [`Server`], [`MuxCallback`], [`Context`], [`Room`], [`Conns`], [`Handle`] |
//! | process: the flow | [`run`], [`run_with`] |
//! | personalities: servers that others are used to | `personality`, with the feature `auth` |
//!
//! # Testing
//!
//! A server of your own is tested as it runs, in a thread, on a port that the system chooses:
//!
//! ```
//! # use lineplex::{Context, Input, MuxCallback, Peer, Server};
//! # struct Echo;
//! # struct EchoClient;
//! # impl Server for Echo {
//! #     type Client = EchoClient;
//! #     fn client(&mut self, _: &Peer) -> EchoClient { EchoClient }
//! # }
//! # impl MuxCallback<Echo> for EchoClient {
//! #     fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> std::io::Result<()> {
//! #         while let Some(line) = input.line() { ctx.write(line); ctx.write(b"\n"); }
//! #         Ok(())
//! #     }
//! # }
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::TcpStream;
//! use std::{sync::mpsc, thread};
//!
//! use lineplex::config::{Limits, ListenAt};
//! use lineplex::{Ended, Mux};
//!
//! // The mux is made in its thread, which it never leaves; the address and a handle come out.
//! let (sender, receiver) = mpsc::channel();
//! let server = thread::spawn(move || -> lineplex::Result<Ended> {
//!     let limits = Limits { line_max_bytes: 512, ..Limits::default() };
//!     let mut mux = Mux::new(Echo, limits)?;
//!     let addr = mux.listen(&ListenAt::tcp("127.0.0.1", 0))?;
//!     sender.send((addr, mux.handle())).expect("the test waits for it");
//!     mux.run()
//! });
//! let (addr, handle) = receiver.recv()?;
//!
//! let mut client = TcpStream::connect(addr.to_string())?;
//! client.write_all(b"hello\n")?;
//! let mut answer = String::new();
//! BufReader::new(&client).read_line(&mut answer)?;
//! assert_eq!(answer, "hello\n");
//!
//! handle.stop(0)?;
//! let ended = server.join().expect("it did not panic")?;
//! assert_eq!(ended, Ended::Stop { status: 0, closed: 1, cut: 0 });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without a thread, [`Mux::turn`] with a time to wait runs the loop by hand, one turn at a time. A protocol that is
//! only bytes needs no loop at all: `Input::from(b"…".as_slice())` is what a callback would be given.
//!
//! # Features and portability
//!
//! `config` (configuration file, command line, access lists), `signals` and `daemon` (Unix calls) are on by default;
//! `run` needs all three. `systemd` has it tell that service manager what it does. Unix only: Linux is where it is
//! tested. 64-bit only.

#![cfg_attr(
    not(all(feature = "config", feature = "signals", feature = "daemon")),
    allow(dead_code, unused_imports, reason = "what only the process flow uses")
)]

#[cfg(feature = "config")]
pub mod access;
mod buffer;
pub mod codec;
pub mod config;
mod error;
pub mod logging;
pub mod metrics;
mod mux;
pub mod net;
#[cfg(feature = "auth")]
pub mod personality;
#[cfg(all(feature = "config", feature = "signals", feature = "daemon"))]
mod process;
#[cfg(feature = "signals")]
pub mod signals;
mod slots;
pub mod state;
mod sys;
pub mod wheel;

pub use buffer::{Input, Output};
pub use error::{Error, ErrorKind, Result};
pub use mux::{
    Clients, CloseReason, Closing, ConnectTo, Conns, Context, Ended, Handle, ListenerRef, Mux, MuxCallback,
    Outcome, Peer, Refused, Room, Saved, Server, To,
};
#[cfg(all(feature = "config", feature = "signals", feature = "daemon"))]
pub use process::{run, run_with};
pub use slots::ConnId;

/// The examples of the README, as tests.
#[cfg(all(doctest, feature = "config", feature = "signals", feature = "daemon"))]
#[doc = include_str!("../README.md")]
struct Readme;
