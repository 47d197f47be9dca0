//! What every handler is given of a client: [`ClientContext`].

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::account::Account;
use super::database::AccountsDatabase;
use super::messages::Counters;
use super::rights::Rights;
use crate::codec::message;
use crate::{ConnId, Conns, Peer};

/// One logged-in client, as all handlers see it. The fields are public so that they can be borrowed apart.
pub struct ClientContext<'a> {
    /// Every connection's I/O, to write to others or to stop the server.
    pub conns: &'a mut Conns,
    /// The client's connection.
    pub id: ConnId,
    /// Who is at its other end.
    pub peer: &'a Peer,
    /// The time of this turn.
    pub now: Instant,
    /// Whose login this client used. The account stays the client's even if it is removed from the database, until a restart
    /// or a reload closes it; changed rights count at once.
    pub account: &'a Arc<Account>,
    /// All accounts, to add one for a helper process, say.
    pub accounts: &'a AccountsDatabase,
    /// What has happened so far at this server.
    pub counters: &'a Counters,
    /// For replies, used again and again.
    pub(super) scratch: &'a mut Vec<u8>,
}

impl ClientContext<'_> {
    /// What names this client in logs: its connection and account, escaped.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} ({})", self.id, self.account.name().escape_ascii())
    }

    /// Sends an array message. Never blocks. False as [`Conns::write`].
    ///
    /// ```
    /// # use lineplex::personality::message::ClientContext;
    /// # fn example(client: &mut ClientContext<'_>) -> std::io::Result<()> {
    /// client.reply(&["pong", "3"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An element holds a NUL, or the message would be longer than 65,535 bytes: nothing is sent.
    pub fn reply<E: AsRef<[u8]>>(&mut self, elements: &[E]) -> io::Result<bool> {
        self.scratch.clear();
        message::write_array(self.scratch, elements)?;
        Ok(self.conns.write(self.id, self.scratch))
    }

    /// Sends a scalar message: any bytes. Answers as [`reply`](Self::reply); `Limits::output_hard_bytes` is the limit.
    ///
    /// # Errors
    /// More than 4 GiB.
    pub fn reply_scalar(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let header = message::scalar_header(bytes.len())?;
        Ok(self.conns.write_parts(self.id, &[&header, bytes]))
    }

    /// Sends a descriptor without the negotiation that [`Wait::Send`](super::Wait::Send) does: one byte 0 that carries it. For
    /// clients that have switched the negotiation off. False when the client has no Unix socket, or as [`Conns::write`].
    pub fn write_fd(&mut self, descriptor: OwnedFd) -> bool {
        self.conns.write_fd(self.id, descriptor)
    }

    /// Lets the client pass if its account has all of `rights`: it is told `Passed security`, and the reply of the request
    /// follows. Else it is told `SecurityException` and why.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] if it lacks any of them.
    pub fn require_rights(&mut self, rights: Rights) -> io::Result<()> {
        if self.account.has_rights(rights) {
            return self.pass_security();
        }
        self.reply(&["SecurityException", INSUFFICIENT])?;
        let context = format!("the account {} lacks the right {rights}", self.account.name().escape_ascii());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, context))
    }

    /// Tells the client `Passed security` without a check, where a protocol has that step but needs no right.
    ///
    /// # Errors
    /// None that can happen; for the form of [`require_rights`](Self::require_rights).
    pub fn pass_security(&mut self) -> io::Result<()> {
        self.reply(&["Passed security"]).map(drop)
    }

    /// Closes the client when everything written so far has been sent.
    pub fn close(&mut self) {
        self.conns.close(self.id);
    }
}

impl fmt::Debug for ClientContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientContext")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// As the original words it, which its clients show to people.
const INSUFFICIENT: &str = "Insufficient rights to execute this command.";
