//! What a server's program does for whoever writes its accounts file, instead of serving: [`account_command`].

use std::io::{self, BufRead, IsTerminal as _};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::account::SECRET_MAX_BYTES;
use super::credential::{Credential, hash_password};
use super::secret::url_safe_secret;
use crate::error::{Error, ErrorKind, Result};

/// Does what the command line asks for if its first word is one of these, and gives the status that `main` returns then; for
/// the first line of a `main`.
///
/// | word | what is printed |
/// |---|---|
/// | `--hash_password` | `password = "…"`, for an account of the accounts file, of the password that is the first line of standard input |
/// | `--make_token` | `secret: …`, random, for a program to log in with, and `token = "…"` for its account |
///
/// The status is 1 if there is no password, or one of more than the 100 bytes that a client can send.
///
#[cfg_attr(feature = "signals", doc = "```no_run")]
#[cfg_attr(not(feature = "signals"), doc = "```ignore")]
/// # use std::process::ExitCode;
/// use lineplex::personality::message::{MessageServer, account_command};
///
/// fn main() -> ExitCode {
///     account_command().unwrap_or_else(|| lineplex::run(MessageServer::new("deployd")))
/// }
/// ```
#[must_use = "a server that runs all the same was not asked for"]
pub fn account_command() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let done = match words.next()?.to_str()?.replace('-', "_").as_str() {
        "__hash_password" => {
            if io::stdin().is_terminal() {
                eprintln!("type the password, which will be seen, and Enter");
            }
            hashed(io::stdin().lock()).map(|line| println!("{line}"))
        }
        "__make_token" => made().map(|(secret, line)| println!("secret: {}\n{line}", *secret)),
        _ => return None,
    };
    let Err(error) = done else { return Some(ExitCode::SUCCESS) };
    let program = std::path::Path::new(&program).file_name().unwrap_or_default();
    eprintln!("{}: {}", program.to_string_lossy(), error.chain());
    Some(ExitCode::from(error.exit_status()))
}

/// The line for the password that is the first line there.
fn hashed(from: impl BufRead) -> Result<String> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::Config, why));
    // Enough from the beginning, as a buffer that grows leaves copies behind: two bytes too many, one of which may be a CR.
    let mut password = Zeroizing::new(Vec::with_capacity(SECRET_MAX_BYTES + 2));
    for byte in from.bytes().take(password.capacity()) {
        match byte {
            Ok(b'\n') => break,
            Ok(byte) => password.push(byte),
            Err(cause) => return Err(Error::with_source(ErrorKind::Io, "cannot read standard input", cause)),
        }
    }
    let length = password.strip_suffix(b"\r").unwrap_or(&password).len();
    password.truncate(length);
    if password.is_empty() {
        return refuse("there is no password on standard input; try: program --hash_password < FILE");
    }
    if password.len() > SECRET_MAX_BYTES {
        return refuse("the password has more than the 100 bytes that a client can send");
    }
    Ok(format!("password = \"{}\"", hash_password(&password)?))
}

fn made() -> Result<(Zeroizing<String>, String)> {
    let secret = url_safe_secret()?;
    let line = format!("token = \"{}\"", Credential::token(secret.as_bytes())?.encoded());
    Ok((secret, line))
}

#[cfg(test)]
mod tests {
    use super::super::credential::Memory;
    use super::*;

    fn credential<'a>(line: &'a str, key: &str) -> &'a str {
        line.strip_prefix(key).and_then(|rest| rest.strip_prefix(" = \"")?.strip_suffix('"')).unwrap()
    }

    #[test]
    fn a_password_is_hashed_without_the_end_of_its_line_and_only_of_a_length_that_can_be_sent() {
        for text in ["12345", "12345\n", "12345\r\n", "12345\nmore\n"] {
            let line = hashed(text.as_bytes()).unwrap();
            let read = Credential::from_phc(credential(&line, "password")).unwrap();
            assert!(read.matches(b"12345", read.work().unwrap(), &mut Memory::default()), "{text:?}");
        }
        assert!(hashed("x".repeat(100).as_bytes()).is_ok());
        assert!(hashed(format!("{}\r\n", "x".repeat(100)).as_bytes()).is_ok());
        for text in ["x".repeat(101), "x".repeat(10_000), format!("{}\n", "x".repeat(101))] {
            assert!(hashed(text.as_bytes()).unwrap_err().chain().contains("100 bytes"), "{}", text.len());
        }
        for text in ["", "\n", "\r\n"] {
            assert!(hashed(text.as_bytes()).unwrap_err().chain().contains("no password"), "{text:?}");
        }
    }

    #[test]
    fn the_line_of_a_token_is_of_the_secret_beside_it() {
        let (secret, line) = made().unwrap();
        let read = Credential::from_digest(credential(&line, "token")).unwrap();
        assert!(read.matches_token(secret.as_bytes()) && !read.matches_token(b""));
    }
}
