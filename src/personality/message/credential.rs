//! What proves who somebody is: the slow hash of a password, or the quick digest of a random token.
//!
//! Rests on argon2 and blake2; never keeps what was given to it, and never compares secrets but by [`is_same`], whose time
//! does not depend on where they differ. Whatever the answer, the work is the same: that of the parameters of the hash.
//! A password of a person needs a slow hash, since it may be guessed (RFC 9106); a random token of 128 bits or more
//! cannot, so that a keyed digest will do, and it is checked in less than a microsecond.

use std::fmt;

use argon2::password_hash::phc::{self, Output, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use blake2::Blake2bMac;
use blake2::digest::array::Array;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _, consts::U32};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::secret::fill_random;
use crate::error::{Error, ErrorKind, Result};

/// The secret of an account, in a form from which it cannot be read back. `Debug` shows no part of it.
///
/// ```
/// use lineplex::personality::message::Credential;
///
/// let credential = Credential::token(b"0123456789abcdef")?;
/// assert_eq!(format!("{credential:?}"), "Credential::Token(***)");
/// # Ok::<(), lineplex::Error>(())
/// ```
#[derive(Clone)]
pub struct Credential(Kind);

#[derive(Clone)]
enum Kind {
    Password(PasswordHash),
    Token(TokenDigest),
}

impl Credential {
    /// For a password that a person chose, of at most [`PASSWORD_MAX_BYTES`]; an empty one is a password too. Hashed with
    /// argon2id, 19 MiB, two passes, one lane, and a random salt, which takes some 25 ms and so does each check.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: it is too long. [`ErrorKind::Io`]: no memory, or no random bytes.
    pub fn hash(password: &[u8]) -> Result<Self> {
        Self::hash_with(password, Work::DEFAULT)
    }

    /// The same with other work.
    pub(super) fn hash_with(password: &[u8], work: Work) -> Result<Self> {
        if password.len() > PASSWORD_MAX_BYTES {
            let what =
                format!("a password has at most {PASSWORD_MAX_BYTES} bytes, this one {}", password.len());
            return Err(Error::new(ErrorKind::Config, what));
        }
        let failed = || Error::new(ErrorKind::Io, "cannot hash the password: not enough memory");
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        let mut digest = [0; DIGEST_BYTES];
        if !work.run(password, &salt, &mut digest, &mut Memory::default()) {
            return Err(failed());
        }
        let salt = Salt::new(&salt).map_err(|_| failed())?;
        let digest = Output::new(&digest).map_err(|_| failed())?;
        Ok(Self(Kind::Password(PasswordHash { work, salt, digest })))
    }

    /// For a password whose hash is known, as a PHC string: `$argon2id$v=19$m=19456,t=2,p=1$…$…`. Only argon2id is taken,
    /// with at most 256 MiB (`m`, in KiB), 10 passes (`t`) and 4 lanes (`p`): more would let a line in a file stop the server.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: why it is refused, without any part of it, since it might be a password.
    pub fn from_phc(text: &str) -> Result<Self> {
        PasswordHash::parse(text).map(|hash| Self(Kind::Password(hash))).map_err(refusal)
    }

    /// For a random secret of a program, of [`TOKEN_MIN_BYTES`] to [`PASSWORD_MAX_BYTES`]: a digest with a random key is
    /// kept. What a person can remember is no token: give it to [`Credential::hash`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: it is too short to be random enough, or too long. [`ErrorKind::Io`]: no random bytes.
    pub fn token(token: &[u8]) -> Result<Self> {
        if !(TOKEN_MIN_BYTES..=PASSWORD_MAX_BYTES).contains(&token.len()) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "a token has {TOKEN_MIN_BYTES} to {PASSWORD_MAX_BYTES} random bytes, this one {}; a password that a \
                     person chose needs a hash",
                    token.len()
                ),
            ));
        }
        let mut key = [0; KEY_BYTES];
        fill_random(&mut key)?;
        Ok(Self(Kind::Token(TokenDigest { mac: mac(&key, token), key })))
    }

    /// For nobody: it is the digest of no token that anybody knows.
    pub(super) fn of_nobody() -> Self {
        Self(Kind::Token(TokenDigest { key: [0; KEY_BYTES], mac: [0; DIGEST_BYTES] }))
    }

    /// For a token whose digest is known, as [`Credential::encoded`] gives it: `blake2b:` and 32, `:` and 64 hexadecimal
    /// digits.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: it is no such text; no part of it is shown.
    pub fn from_digest(text: &str) -> Result<Self> {
        let digest = TokenDigest::parse(text);
        let wrong = "it is no digest of a token (`blake2b:` and 32, `:` and 64 hexadecimal digits)";
        digest.map(|digest| Self(Kind::Token(digest))).ok_or_else(|| refusal(wrong.to_owned()))
    }

    /// What a file of accounts keeps: the PHC string of a password, or the digest of a token. Neither gives the secret away,
    /// but whoever has the first can try passwords at home: so it belongs into no log.
    #[must_use]
    pub fn encoded(&self) -> String {
        match &self.0 {
            Kind::Password(hash) => hash.encoded(),
            Kind::Token(digest) => digest.encoded(),
        }
    }

    /// What a check of it costs; `None` for a token, which costs nothing to speak of.
    pub(super) fn work(&self) -> Option<Work> {
        match &self.0 {
            Kind::Password(hash) => Some(hash.work),
            Kind::Token(_) => None,
        }
    }

    /// Whether `secret` is right, as far as that can be told at once: never, for a password.
    pub(super) fn matches_token(&self, secret: &[u8]) -> bool {
        match &self.0 {
            Kind::Password(_) => {
                spend_token_check(secret);
                false
            }
            Kind::Token(digest) => digest.matches(secret),
        }
    }

    /// Whether `secret` is right, at any price: a right token alone is answered without the work of a hash, which is `spent`
    /// for a wrong one.
    pub(super) fn matches(&self, secret: &[u8], spent: Work, memory: &mut Memory) -> bool {
        match &self.0 {
            Kind::Password(hash) => hash.matches(secret, memory),
            Kind::Token(digest) => {
                let right = digest.matches(secret);
                if !right {
                    spent.spend(secret, memory);
                }
                right
            }
        }
    }

    /// Whether it was made of the same text; of two hashes of one password with different salts, it is not.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        is_same(self.encoded().as_bytes(), other.encoded().as_bytes())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Password(_) => "Credential::Password(***)",
            Kind::Token(_) => "Credential::Token(***)",
        })
    }
}

/// The PHC string for `password`, to be written into a file of accounts. As slow as [`Credential::hash`].
///
/// # Errors
/// As [`Credential::hash`].
///
/// ```
/// use lineplex::personality::message::{Credential, hash_password};
///
/// let phc = hash_password(b"correct horse battery staple")?;
/// assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
/// Credential::from_phc(&phc)?;
/// # Ok::<(), lineplex::Error>(())
/// ```
pub fn hash_password(password: &[u8]) -> Result<String> {
    Ok(Credential::hash(password)?.encoded())
}

/// What one check of a password costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Memory, in KiB.
    pub(super) memory_kib: u32,
    /// How often all of it is gone through.
    pub(super) passes: u32,
    /// Independent parts; they are computed one after the other.
    pub(super) lanes: u32,
}

impl Work {
    /// The second recommendation of OWASP's "Password Storage Cheat Sheet".
    pub(super) const DEFAULT: Self = Self { memory_kib: 19_456, passes: 2, lanes: 1 };
    /// The least that argon2 takes, for tests.
    #[cfg(test)]
    pub(super) const LEAST: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// To say which of two is more.
    pub(super) fn blocks(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }

    /// Fills `digest` with the hash of the first [`PASSWORD_MAX_BYTES`] of `password`; false when there is no memory for it.
    fn run(self, password: &[u8], salt: &[u8], digest: &mut [u8], memory: &mut Memory) -> bool {
        #[cfg(test)]
        tests::COUNTED.with(|count| count.set(count.get() + self.blocks()));
        let password = &password[..password.len().min(PASSWORD_MAX_BYTES)];
        let done = Params::new(self.memory_kib, self.passes, self.lanes, None).and_then(|params| {
            let blocks = memory.blocks(params.block_count()).ok_or(argon2::Error::OutOfMemory)?;
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into_with_memory(password, salt, digest, blocks)
        });
        if let Err(cause) = &done {
            log::error!("a password cannot be hashed and counts as wrong: {cause}");
        }
        done.is_ok()
    }

    /// Does what a check of `password` costs, for nothing.
    pub(super) fn spend(self, password: &[u8], memory: &mut Memory) {
        let mut digest = Zeroizing::new([0; DIGEST_BYTES]);
        let done = self.run(password, &[0; SALT_BYTES], &mut *digest, memory);
        std::hint::black_box(done & is_same(&*digest, &[0; DIGEST_BYTES]));
    }
}

/// The memory of a hash, which the next one can have again: of a check that touches it for the first time, half is the
/// system's finding it.
#[derive(Default)]
pub(super) struct Memory(Vec<Block>);

impl Memory {
    fn blocks(&mut self, count: usize) -> Option<&mut [Block]> {
        if self.0.len() < count {
            // Not both at once.
            self.0 = Vec::new();
            // Room is asked for that is not touched: from `MAPPED_MIN_BYTES` glibc never takes a heap, but maps and unmaps. In
            // a heap the small things that jobs leave behind come to lie between one hash and the next, and the memory of many
            // stays.
            self.0.try_reserve_exact(count.max(MAPPED_MIN_BYTES / Block::SIZE)).ok()?;
            self.0.resize(count, Block::default());
        }
        self.0.get_mut(..count)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("kib", &self.0.len()).finish_non_exhaustive()
    }
}

/// Does what a check of a token costs, for nothing.
pub(super) fn spend_token_check(secret: &[u8]) {
    let digest = TokenDigest { key: [0; KEY_BYTES], mac: [0; DIGEST_BYTES] };
    std::hint::black_box(digest.matches(secret));
}

#[derive(Clone)]
struct PasswordHash {
    work: Work,
    salt: Salt,
    digest: Output,
}

impl PasswordHash {
    /// Reads a PHC string (<https://github.com/P-H-C/phc-string-format>); the reason if it is refused.
    fn parse(text: &str) -> Result<Self, String> {
        let no_hash = || "it is no password hash (`$argon2id$v=19$m=19456,t=2,p=1$SALT$DIGEST`)".to_owned();
        let parsed = phc::PasswordHash::new(text).map_err(|_| no_hash())?;
        if parsed.algorithm != argon2::ARGON2ID_IDENT {
            return Err("it is a hash of another kind than argon2id".to_owned());
        }
        if parsed.version != Some(Version::V0x13.into()) {
            return Err("it is of another version of argon2id than 19".to_owned());
        }
        let number = |name: &str| parsed.params.get_decimal(name).ok_or_else(no_hash);
        let work = Work { memory_kib: number("m")?, passes: number("t")?, lanes: number("p")? };
        let Work { memory_kib, passes, lanes } = work;
        // Nothing twice, and no parameter that we would leave out.
        if parsed.params.as_str() != format!("m={memory_kib},t={passes},p={lanes}") {
            return Err("its parameters are others than m, t and p, in this order".to_owned());
        }
        let bounds = [("m", memory_kib, MEMORY_MAX_KIB), ("t", passes, PASSES_MAX), ("p", lanes, LANES_MAX)];
        if let Some((name, value, max)) = bounds.into_iter().find(|(_, value, max)| value > max) {
            return Err(format!("its parameter {name} is {value}, more than {max}"));
        }
        Params::new(memory_kib, passes, lanes, None)
            .map_err(|cause| format!("its parameters are refused: {cause}"))?;
        let (Some(salt), Some(digest)) = (parsed.salt, parsed.hash) else {
            return Err(no_hash());
        };
        if digest.len() < DIGEST_MIN_BYTES {
            return Err(format!("its digest has fewer than {DIGEST_MIN_BYTES} bytes"));
        }
        Ok(Self { work, salt, digest })
    }

    fn encoded(&self) -> String {
        let Work { memory_kib, passes, lanes } = self.work;
        format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}${}", self.salt, self.digest)
    }

    fn matches(&self, password: &[u8], memory: &mut Memory) -> bool {
        let expected = self.digest.as_bytes();
        let mut found = Zeroizing::new(vec![0; expected.len()]);
        let done = self.work.run(password, &self.salt, &mut found, memory);
        let right = is_same(&found, expected);
        done & right & (password.len() <= PASSWORD_MAX_BYTES)
    }
}

#[derive(Clone)]
struct TokenDigest {
    key: [u8; KEY_BYTES],
    mac: [u8; DIGEST_BYTES],
}

impl TokenDigest {
    fn parse(text: &str) -> Option<Self> {
        let (key, mac) = text.strip_prefix(DIGEST_PREFIX)?.split_once(':')?;
        Some(Self { key: bytes_of(key)?, mac: bytes_of(mac)? })
    }

    fn encoded(&self) -> String {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{DIGEST_PREFIX}{}:{}", digits(&self.key), digits(&self.mac))
    }

    fn matches(&self, token: &[u8]) -> bool {
        let cut = &token[..token.len().min(PASSWORD_MAX_BYTES)];
        is_same(&mac(&self.key, cut), &self.mac) & (token.len() <= PASSWORD_MAX_BYTES)
    }
}

/// Keyed BLAKE2b of 256 bits (RFC 7693).
fn mac(key: &[u8; KEY_BYTES], text: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut padded = Array::from([0; 64]);
    padded[..KEY_BYTES].copy_from_slice(key);
    let mut mac = Blake2bMac::<U32>::new(&padded);
    padded.zeroize();
    mac.update(text);
    mac.finalize_fixed().into()
}

/// Whether two texts are the same, in a time that depends on their length only.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// The bytes that exactly so many hexadecimal digits stand for.
fn bytes_of<const LENGTH: usize>(digits: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let digits = digits.as_bytes();
    if digits.len() != 2 * LENGTH {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

fn refusal(why: String) -> Error {
    Error::new(ErrorKind::Config, why)
}

/// Longest password and token, in bytes; a longer one is wrong, after the same work. A client of a message server can send 100.
pub const PASSWORD_MAX_BYTES: usize = 1024;
/// Shortest token: 128 bits, if they are random.
pub const TOKEN_MIN_BYTES: usize = 16;
/// 256 MiB.
const MEMORY_MAX_KIB: u32 = 256 * 1024;
const PASSES_MAX: u32 = 10;
const LANES_MAX: u32 = 4;
/// Over `DEFAULT_MMAP_THRESHOLD_MAX` of glibc.
const MAPPED_MIN_BYTES: usize = 33 * 1024 * 1024;
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// Shortest digest in a file.
const DIGEST_MIN_BYTES: usize = 16;
const DIGEST_PREFIX: &str = "blake2b:";

#[cfg(test)]
pub(super) mod tests;
