//! Random bytes of the operating system, secrets made of them, and what keeps secrets in the memory of this process.

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// A random secret of 43 characters of `a` to `z`, `A` to `Z`, `0` to `9`, all equally likely: 256 bits, which fit in
/// addresses and environments as they are. It is wiped when it is dropped; its `Debug` shows it, so do not log it.
///
/// # Errors
/// [`ErrorKind::Io`]: the system gives no random bytes.
///
/// ```
/// use lineplex::personality::message::{Credential, url_safe_secret};
///
/// let secret = url_safe_secret()?;
/// let credential = Credential::token(secret.as_bytes())?;
/// # assert_eq!(secret.len(), 43);
/// # Ok::<(), lineplex::Error>(())
/// ```
pub fn url_safe_secret() -> Result<Zeroizing<String>> {
    // Enough from the beginning: a string that grows would leave a copy behind.
    let mut secret = Zeroizing::new(String::with_capacity(SECRET_CHARS));
    let mut bytes = Zeroizing::new([0; SECRET_CHARS]);
    while secret.len() < SECRET_CHARS {
        fill_random(&mut *bytes)?;
        let wanted = SECRET_CHARS - secret.len();
        secret.extend(bytes.iter().filter_map(|byte| symbol(*byte)).take(wanted));
    }
    Ok(secret)
}

/// Keeps what this process has in memory from others of its user: no core is dumped, and on Linux no debugger can attach.
/// For good, and to be called by each image anew: in `pre_loop_hook`.
///
/// # Errors
/// [`ErrorKind::Io`]: `setrlimit(2)` or `prctl(2)` refuses.
pub fn harden_process() -> Result<()> {
    sys::harden_process().map_err(|error| {
        Error::with_source(ErrorKind::Io, "core dumps cannot be switched off (core_dumps)", error)
    })
}

/// The symbol for a random byte; `None` for the eight values that are left over when 256 are dealt to 62 symbols.
fn symbol(byte: u8) -> Option<char> {
    let even = 256 / SYMBOLS.len() * SYMBOLS.len();
    (usize::from(byte) < even).then(|| char::from(SYMBOLS[usize::from(byte) % SYMBOLS.len()]))
}

/// Fills `bytes` from the system's random source, which does not wait once the machine has started.
pub(super) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|cause| Error::new(ErrorKind::Io, format!("the system gives no random bytes: {cause}")))
}

const SYMBOLS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
/// 43 times log2(62) is a little over 256.
const SECRET_CHARS: usize = 43;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn a_secret_has_43_letters_and_digits_and_is_never_the_same() {
        let secrets: BTreeSet<String> = (0..200).map(|_| url_safe_secret().unwrap().to_string()).collect();
        assert_eq!(secrets.len(), 200);
        for secret in &secrets {
            assert_eq!(secret.len(), 43);
            assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{secret}");
        }
    }

    #[test]
    fn every_symbol_stands_for_four_bytes() {
        let mut counts = BTreeMap::new();
        for symbol in (0..=u8::MAX).filter_map(symbol) {
            *counts.entry(symbol).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 62);
        assert!(counts.values().all(|count| *count == 4), "{counts:?}");
    }
}
