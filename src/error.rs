//! The crate's one error type.
//!
//! An [`Error`] says what to do (its [`ErrorKind`]), what was being done (its context, one level, lower case, no
//! full stop) and what caused it (reached through [`source`](std::error::Error::source), never printed twice).
//! Inside a connection the currency is [`std::io::Error`]; this type is for the life of the whole server.

use std::fmt;

/// The result of everything that can stop a server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which kind of help an [`Error`] needs.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line is wrong: exit status 2.
    Usage,
    /// A setting is wrong, whatever its source: mend the configuration.
    Config,
    /// A listener could not be opened: mend the address, its rights, or stop what holds it.
    Bind,
    /// The operating system refused something else.
    Io,
    /// A hook of the application refused to go on.
    Hook,
    /// The state of the image before cannot be read: exit status 70. That image goes on, or starts afresh without it.
    State,
}

/// What went wrong with the server as a whole.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with no cause below it. `context` is one level: lower case, no full stop.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error caused by `source`, which is printed after the context by [`Error::chain`] only.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// Which kind of help is needed.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The exit status that tells this error to a supervisor: 2 for the command line, 70 for the state of a handover
    /// (`EX_SOFTWARE` of `sysexits(3)`), else 1.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            ErrorKind::Usage => 2,
            ErrorKind::State => 70,
            _ => 1,
        }
    }

    /// The whole story on one line: this level, then every cause, joined with `: `.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.context.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_level_and_the_chain_is_all_of_them() {
        let cause = std::io::Error::other("address in use");
        let error = Error::with_source(ErrorKind::Bind, "cannot listen on 127.0.0.1:80", cause);
        assert_eq!(error.to_string(), "cannot listen on 127.0.0.1:80");
        assert_eq!(error.chain(), "cannot listen on 127.0.0.1:80: address in use");
        assert_eq!(error.exit_status(), 1);
        assert_eq!(Error::new(ErrorKind::Usage, "unknown option").exit_status(), 2);
        assert_eq!(Error::new(ErrorKind::State, "cannot read the state").exit_status(), 70);
    }
}
