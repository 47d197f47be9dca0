//! Handlers that every message server can use: [`StatusHandler`], [`ExitHandler`].

use std::fmt::Write as _;
use std::io;

use super::client_context::ClientContext;
use super::handler::{Handler, Processed};
use super::rights::Rights;
use crate::codec::message::Elements;

/// `inspect` → a scalar message with every counter of the loop and of the message server, a line `NAME VALUE` each. Needs the
/// right `inspect_basic_info`; a client without it is told so and stays connected.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusHandler;

impl Handler for StatusHandler {
    type Context = ();

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        _own: Option<&mut ()>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        if message.len() != 1 || message.get(0) != Some(b"inspect") {
            return Ok(Processed::NotMine);
        }
        if client.require_rights(Rights::INSPECT_BASIC_INFO).is_err() {
            return Ok(Processed::Done);
        }
        let mut text = String::new();
        let metrics = client.conns.metrics();
        let of_loop = metrics.iter().map(|(name, _, value)| (name, value));
        for (name, value) in of_loop.chain(client.counters.iter()) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} {value}");
        }
        client.reply_scalar(text.as_bytes())?;
        Ok(Processed::Done)
    }
}

/// `exit` → `exit command received`, and the server stops gracefully: every client is sent what it is owed. Needs the right
/// `exit`; a client without it is told so and closed, as in the original.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExitHandler;

impl Handler for ExitHandler {
    type Context = ();

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        _own: Option<&mut ()>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        if message.len() != 1 || message.get(0) != Some(b"exit") {
            return Ok(Processed::NotMine);
        }
        client.require_rights(Rights::EXIT)?;
        log::warn!("client {} has asked the server to exit", client.name());
        client.conns.stop_gracefully();
        client.reply(&["exit command received"])?;
        Ok(Processed::Done)
    }
}
