//! What an application keeps over a handover: values written by one image of the program and read by the next.
//!
//! A [`StateWriter`] collects values, each with a byte in front that says its type, all numbers little endian; a
//! [`StateReader`] gives them back in the same order and refuses what is not there. Both are plain memory.
//!
//! The bytes come from another program, if only from an older version of this one, so nothing in them is trusted: every
//! length is compared with what is left, nothing is allocated because a number announces it, and no input panics. That
//! they are the bytes that were written is the container's business, which has a checksum over everything.
//!
//! # A new format
//!
//! Each state has a version of the application's own, 0 unless [`StateWriter::version`] sets one. A program that changes
//! what it keeps raises it, and reads what the versions before have written:
//!
//! * *An upgrade* reads the old version, and has a default for what that did not know.
//! * *A downgrade* finds a version that it does not know, and must refuse it: `Err` of `restore` or `restore_client`. The
//!   probe runs them before anything is decided, so the image that serves goes on, and the log says why.
//! * What the probe cannot see, the standby mends: it has a sample of the clients, not all of them.
//!
//! The example `upgrade` is a server whose state has two formats. To check a format in a test, write it with
//! [`StateWriter::new`] and read it with [`StateWriter::reader`].

pub(crate) mod container;

use std::fmt;
use std::io;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::slots::ConnId;

/// The state of one object, as it is written.
///
/// Calls chain. Numbers, times and `bool` take 2 to 13 bytes; texts and bytes take 9 more than their length.
///
/// | what changed in the application | what its reader does |
/// |---|---|
/// | a value was added at the end | reads it if the reader is not [empty](StateReader::is_empty) |
/// | anything else | raises the [version](Self::version) and goes by [`StateReader::version`] |
///
/// ```
/// use lineplex::state::{StateError, StateReader, StateWriter};
///
/// struct Player {
///     name: String,
///     level: u32,
///     friends: Vec<String>,
/// }
///
/// impl Player {
///     fn save(&self, state: &mut StateWriter) {
///         state.version(1).text(&self.name).u32(self.level).list(&self.friends, |state, friend| {
///             state.text(friend);
///         });
///     }
///
///     fn restore(state: &mut StateReader<'_>) -> Result<Self, StateError> {
///         let name = state.text()?.to_owned();
///         let level = state.u32()?;
///         // Version 0 had no friends.
///         let friends = match state.version() {
///             0 => Vec::new(),
///             _ => state.list(|state| Ok(state.text()?.to_owned()))?,
///         };
///         state.finish()?;
///         Ok(Self { name, level, friends })
///     }
/// }
///
/// let mut state = StateWriter::new();
/// Player { name: "ada".into(), level: 7, friends: vec!["bob".into()] }.save(&mut state);
/// let ada = Player::restore(&mut state.reader())?;
/// assert_eq!((ada.name.as_str(), ada.level, ada.friends.len()), ("ada", 7, 1));
///
/// // What the version before wrote is read as well.
/// let mut state = StateWriter::new();
/// state.text("bob").u32(1);
/// assert!(Player::restore(&mut state.reader())?.friends.is_empty());
/// # Ok::<(), StateError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateWriter {
    bytes: Vec<u8>,
    version: u32,
}

impl StateWriter {
    /// A state without any value, of version 0. In a server the mux makes it; this is for tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The version of the application's format, which is kept beside the values and not among them; 0 unless set. It
    /// may be set at any time; the last call counts.
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Writes a `bool`.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.put(Type::Bool, &[u8::from(value)])
    }

    /// Writes a `u8`.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(Type::U8, &[value])
    }

    /// Writes a `u16`.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(Type::U16, &value.to_le_bytes())
    }

    /// Writes a `u32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(Type::U32, &value.to_le_bytes())
    }

    /// Writes a `u64`. What is a `usize` in memory is written as one.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(Type::U64, &value.to_le_bytes())
    }

    /// Writes an `i64`.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.put(Type::I64, &value.to_le_bytes())
    }

    /// Writes an `f64`, with all its bits: a NaN stays the NaN that it is.
    pub fn f64(&mut self, value: f64) -> &mut Self {
        self.put(Type::F64, &value.to_bits().to_le_bytes())
    }

    /// Writes bytes, any number of them.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.put(Type::Bytes, &(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    /// Writes a text, of any length.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.put(Type::Text, &(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self
    }

    /// Writes a length of time, to the nanosecond. A moment is kept as the time that is left until it.
    pub fn duration(&mut self, value: Duration) -> &mut Self {
        self.put(Type::Duration, &value.as_secs().to_le_bytes());
        self.bytes.extend_from_slice(&value.subsec_nanos().to_le_bytes());
        self
    }

    /// Writes the name of a connection, which names the same connection after the handover.
    pub fn conn(&mut self, value: ConnId) -> &mut Self {
        self.put(Type::Conn, &value.to_bits().to_le_bytes())
    }

    /// Writes whether there is a value, and with `write` the value if there is one.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            None => self.put(Type::None, &[]),
            Some(value) => {
                self.put(Type::Some, &[]);
                write(self, value);
                self
            }
        }
    }

    /// Writes how many items there are, and each of them with `write`, which must write at least one value: a list
    /// of nothing but a number cannot be read back.
    ///
    /// ```
    /// use lineplex::state::StateWriter;
    ///
    /// let mut state = StateWriter::new();
    /// state.list([("red", 3), ("blue", 5)], |state, (name, count)| {
    ///     state.text(name).u8(count);
    /// });
    /// let read = state.reader().list(|state| Ok((state.text()?, state.u8()?)))?;
    /// assert_eq!(read, [("red", 3), ("blue", 5)]);
    /// # Ok::<(), lineplex::state::StateError>(())
    /// ```
    pub fn list<I: IntoIterator>(
        &mut self,
        items: I,
        mut write: impl FnMut(&mut Self, I::Item),
    ) -> &mut Self {
        self.put(Type::List, &[]);
        let count_at = self.bytes.len();
        self.bytes.extend_from_slice(&0_u64.to_le_bytes());
        let mut count = 0_u64;
        for item in items {
            write(self, item);
            count += 1;
        }
        self.bytes[count_at..count_at + 8].copy_from_slice(&count.to_le_bytes());
        self
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads back what was written so far, as the next image will: for tests of an application.
    #[must_use]
    pub fn reader(&self) -> StateReader<'_> {
        StateReader { bytes: &self.bytes, at: 0, version: self.version }
    }

    /// Writes a whole state with its version, as one value.
    pub(crate) fn record(&mut self, inner: &Self) -> &mut Self {
        self.put(Type::Record, &inner.version.to_le_bytes());
        self.bytes.extend_from_slice(&(inner.bytes.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(&inner.bytes);
        self
    }

    /// What was written, without the version.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, kind: Type, value: &[u8]) -> &mut Self {
        self.bytes.push(kind as u8);
        self.bytes.extend_from_slice(value);
        self
    }
}

/// The state of one object, as it is read: value by value, in the order in which they were written.
///
/// Texts and bytes are borrowed from the state. After an error the place in the state is not to be relied on: give the
/// error back, the handover is refused and the image before goes on. [`StateWriter`] has an example.
#[derive(Clone, Debug)]
pub struct StateReader<'a> {
    bytes: &'a [u8],
    /// How many bytes have been read; never more than there are.
    at: usize,
    version: u32,
}

impl<'a> StateReader<'a> {
    /// What the writer gave to [`StateWriter::version`].
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Reads a `bool`.
    ///
    /// # Errors
    /// The next value is another one, or there is none. So for all that read one value.
    pub fn bool(&mut self) -> Result<bool, StateError> {
        let at = self.at;
        let [value] = self.fixed(Type::Bool)?;
        match value {
            0 | 1 => Ok(value == 1),
            _ => Err(StateError(Kind::Invalid { expected: Type::Bool, at })),
        }
    }

    /// Reads a `u8`.
    ///
    /// # Errors
    /// As [`bool`](Self::bool).
    pub fn u8(&mut self) -> Result<u8, StateError> {
        self.fixed(Type::U8).map(u8::from_le_bytes)
    }

    /// Reads a `u16`.
    ///
    /// # Errors
    /// As [`bool`](Self::bool).
    pub fn u16(&mut self) -> Result<u16, StateError> {
        self.fixed(Type::U16).map(u16::from_le_bytes)
    }

    /// Reads a `u32`.
    ///
    /// # Errors
    /// As [`bool`](Self::bool).
    pub fn u32(&mut self) -> Result<u32, StateError> {
        self.fixed(Type::U32).map(u32::from_le_bytes)
    }

    /// Reads a `u64`.
    ///
    /// # Errors
    /// As [`bool`](Self::bool).
    pub fn u64(&mut self) -> Result<u64, StateError> {
        self.fixed(Type::U64).map(u64::from_le_bytes)
    }

    /// Reads an `i64`.
    ///
    /// # Errors
    /// As [`bool`](Self::bool).
    pub fn i64(&mut self) -> Result<i64, StateError> {
        self.fixed(Type::I64).map(i64::from_le_bytes)
    }

    /// Reads an `f64`.
    ///
    /// # Errors
    /// As [`bool`](Self::bool).
    pub fn f64(&mut self) -> Result<f64, StateError> {
        self.fixed(Type::F64).map(f64::from_le_bytes)
    }

    /// Reads bytes, borrowed.
    ///
    /// # Errors
    /// As [`bool`](Self::bool), and for a length beyond the end of the state.
    pub fn bytes(&mut self) -> Result<&'a [u8], StateError> {
        self.sized(Type::Bytes)
    }

    /// Reads a text, borrowed.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and for what is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, StateError> {
        let at = self.at;
        let bytes = self.sized(Type::Text)?;
        std::str::from_utf8(bytes).map_err(|_| StateError(Kind::Invalid { expected: Type::Text, at }))
    }

    /// Reads a length of time.
    ///
    /// # Errors
    /// As [`bool`](Self::bool), and for nanoseconds that make up a second or more.
    pub fn duration(&mut self) -> Result<Duration, StateError> {
        let at = self.at;
        let seconds = u64::from_le_bytes(self.fixed(Type::Duration)?);
        match u32::from_le_bytes(self.part(Type::Duration)?) {
            nanoseconds @ 0..1_000_000_000 => Ok(Duration::new(seconds, nanoseconds)),
            _ => Err(StateError(Kind::Invalid { expected: Type::Duration, at })),
        }
    }

    /// Reads the name of a connection. The connection may be gone by now: its name then reaches nobody.
    ///
    /// # Errors
    /// As [`bool`](Self::bool), and for bits that name no connection.
    pub fn conn(&mut self) -> Result<ConnId, StateError> {
        let at = self.at;
        let bits = u64::from_le_bytes(self.fixed(Type::Conn)?);
        ConnId::from_bits(bits).ok_or(StateError(Kind::Invalid { expected: Type::Conn, at }))
    }

    /// Reads whether there is a value, and with `read` the value if there is one.
    ///
    /// # Errors
    /// As [`bool`](Self::bool), and whatever `read` fails with.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        if self.bytes.get(self.at) == Some(&(Type::None as u8)) {
            self.at += 1;
            return Ok(None);
        }
        let [] = self.fixed(Type::Some)?;
        read(self).map(Some)
    }

    /// Reads a list, each item with `read`. It grows as items are read, whatever number is announced.
    ///
    /// # Errors
    /// As [`bool`](Self::bool), and whatever `read` fails with; for more items than there are bytes left, and for an
    /// item that `read` took no byte for, because a number alone could then keep this busy for years.
    pub fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, StateError>,
    ) -> Result<Vec<T>, StateError> {
        let list_at = self.at;
        let announced = u64::from_le_bytes(self.fixed(Type::List)?);
        let left = self.left();
        if announced > left as u64 {
            return Err(StateError(Kind::Beyond { expected: Type::List, at: list_at, announced, left }));
        }
        let mut items = Vec::new();
        for _ in 0..announced {
            let item_at = self.at;
            items.push(read(self)?);
            if self.at == item_at {
                return Err(StateError(Kind::EmptyItem { at: item_at }));
            }
        }
        Ok(items)
    }

    /// Whether everything has been read. A value that a later version writes at the end is read if this is false.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left() == 0
    }

    /// To call after the last value, where nothing may follow.
    ///
    /// # Errors
    /// Something does follow.
    pub fn finish(&self) -> Result<(), StateError> {
        match self.left() {
            0 => Ok(()),
            count => Err(StateError(Kind::LeftOver { count })),
        }
    }

    /// A reader of plain values, of version 0.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, version: 0 }
    }

    /// Reads a whole state with its version. Its places are counted from its own beginning.
    pub(crate) fn record(&mut self) -> Result<Self, StateError> {
        let at = self.at;
        let version = u32::from_le_bytes(self.fixed(Type::Record)?);
        let bytes = self.rest_of(Type::Record, at)?;
        Ok(Self { bytes, at: 0, version })
    }

    /// The type's byte and `N` bytes of value.
    #[inline]
    fn fixed<const N: usize>(&mut self, expected: Type) -> Result<[u8; N], StateError> {
        let found = self.bytes.get(self.at).copied();
        if found != Some(expected as u8) {
            return Err(StateError(Kind::Other { expected, at: self.at, found }));
        }
        self.at += 1;
        self.part(expected)
    }

    /// The next `N` bytes, of a value whose type has been read.
    #[inline]
    fn part<const N: usize>(&mut self, expected: Type) -> Result<[u8; N], StateError> {
        match self.bytes[self.at..].first_chunk() {
            Some(part) => {
                self.at += N;
                Ok(*part)
            }
            None => Err(StateError(Kind::End { expected, at: self.bytes.len() })),
        }
    }

    /// The type's byte, a length, and so many bytes.
    fn sized(&mut self, expected: Type) -> Result<&'a [u8], StateError> {
        let at = self.at;
        let [] = self.fixed(expected)?;
        self.rest_of(expected, at)
    }

    /// A length and so many bytes, of a value that began at `at`.
    fn rest_of(&mut self, expected: Type, at: usize) -> Result<&'a [u8], StateError> {
        let announced = u64::from_le_bytes(self.part(expected)?);
        let rest = &self.bytes[self.at..];
        let value = usize::try_from(announced).ok().and_then(|length| rest.get(..length));
        let value = value.ok_or(StateError(Kind::Beyond { expected, at, announced, left: rest.len() }))?;
        self.at += value.len();
        Ok(value)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// What is wrong with a state: what was expected, at which byte of its record, and what is there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError(Kind);

impl StateError {
    /// An application's own: the values can be read and make no sense. `context` is lower case, without a full stop.
    pub fn new(context: impl Into<String>) -> Self {
        Self(Kind::Custom(context.into()))
    }

    /// One of ours: a number that means nothing where it stands.
    pub(crate) fn invalid(what: &str, value: u64) -> Self {
        Self::new(format!("{what} cannot be {value}"))
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Other { expected, at, found } => {
                write!(f, "expected {} at byte {at}, found ", expected.name())?;
                match found.map(|byte| (byte, Type::of(byte))) {
                    None => f.write_str("the end"),
                    Some((_, Some(kind))) => f.write_str(kind.name()),
                    Some((byte, None)) => write!(f, "the unknown type {byte}"),
                }
            }
            Kind::End { expected, at } => write!(f, "ends at byte {at} in the middle of {}", expected.name()),
            Kind::Beyond { expected, at, announced, left } => {
                let unit = if *expected == Type::List { "items" } else { "bytes" };
                let name = expected.name();
                write!(f, "{name} at byte {at} announces {announced} {unit}, only {} left", bytes_are(*left))
            }
            Kind::Invalid { expected, at } => {
                write!(f, "{} at byte {at} has no valid value", expected.name())
            }
            Kind::EmptyItem { at } => write!(f, "an item of a list at byte {at} was read without any value"),
            Kind::LeftOver { count } => write!(f, "{} left over", bytes_are(*count)),
            Kind::Custom(context) => f.write_str(context),
        }
    }
}

impl std::error::Error for StateError {}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::with_source(ErrorKind::State, "cannot read the state of the image before", error)
    }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A number of bytes as the beginning of a sentence about them.
fn bytes_are(count: usize) -> String {
    if count == 1 { "1 byte is".to_owned() } else { format!("{count} bytes are") }
}

/// Numbers without a unit are places in the state, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Other { expected: Type, at: usize, found: Option<u8> },
    End { expected: Type, at: usize },
    Beyond { expected: Type, at: usize, announced: u64, left: usize },
    Invalid { expected: Type, at: usize },
    EmptyItem { at: usize },
    LeftOver { count: usize },
    Custom(String),
}

/// The byte in front of a value. The numbers are the format: they stay, and new types get new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Type {
    Bool = 1,
    U8 = 2,
    U16 = 3,
    U32 = 4,
    U64 = 5,
    I64 = 6,
    F64 = 7,
    Bytes = 8,
    Text = 9,
    Duration = 10,
    Conn = 11,
    None = 12,
    Some = 13,
    List = 14,
    Record = 15,
}

impl Type {
    fn of(byte: u8) -> Option<Self> {
        TYPES.iter().map(|(kind, _)| *kind).find(|kind| *kind as u8 == byte)
    }

    fn name(self) -> &'static str {
        TYPES.iter().find(|(kind, _)| *kind == self).map_or("a value", |(_, name)| name)
    }
}

/// Every type, as messages call it.
const TYPES: &[(Type, &str)] = &[
    (Type::Bool, "a bool"),
    (Type::U8, "a u8"),
    (Type::U16, "a u16"),
    (Type::U32, "a u32"),
    (Type::U64, "a u64"),
    (Type::I64, "an i64"),
    (Type::F64, "an f64"),
    (Type::Bytes, "bytes"),
    (Type::Text, "a text"),
    (Type::Duration, "a duration"),
    (Type::Conn, "a connection"),
    (Type::None, "an option without a value"),
    (Type::Some, "an option"),
    (Type::List, "a list"),
    (Type::Record, "a record"),
];

#[cfg(test)]
mod tests;
