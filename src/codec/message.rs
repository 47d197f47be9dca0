//! Messages of Passenger's `MessageChannel`: two kinds of integers, arrays of short byte strings, and scalars of any bytes.
//!
//! | kind | on the wire | longest |
//! |---|---|---|
//! | `u16`, `u32` | big-endian | |
//! | array | `u16` length of the body; in the body each element and one NUL after it | 65,535 bytes of body |
//! | scalar | `u32` length of the body; the body | 2³² − 1 bytes of body |
//! | descriptor | [`DESCRIPTOR_BYTE`], sent together with one descriptor | 1 |
//!
//! Nothing on the wire says which kind comes next: both ends have to know it. For what lies in a buffer there are [`array()`]
//! and [`scalar`], which borrow; for what comes in pieces there are [`ArrayReader`] and its siblings, which own what they
//! have read. [`write_array`] and [`write_scalar`] append to a buffer.
//!
//! It never trusts a length: a header over the reader's maximum is an error before a byte of the body is taken, and memory
//! grows with the bytes that have come. Nothing here prints what a message holds; it may be a password.

#[cfg(test)]
mod tests;

use std::{fmt, io, iter, mem};

use memchr::{memchr, memchr_iter, memrchr};

/// The longest body of an array message, in bytes, the NULs counted: what its header can say.
pub const ARRAY_MAX_BYTES: usize = 65_535;

/// The byte that a descriptor travels with: a control message needs at least one.
pub const DESCRIPTOR_BYTE: u8 = 0;

/// The one element of the array with which a receiver asks for a descriptor.
///
/// It is sent when the receiver's next read will take a descriptor; without it an earlier read could take the byte and lose
/// the descriptor.
pub const PASS_IO: &str = "pass IO";

/// The one element of the array with which a receiver says that it has the descriptor, so that the sender may close its own.
pub const GOT_IO: &str = "got IO";

/// Why bytes are no message, or values cannot become one.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// The body is longer than is allowed: by the reader, or by what a header can say.
    TooLong {
        /// Length of the body, in bytes: what the header says, or what was to be written.
        announced: usize,
        /// The most that is allowed, in bytes.
        max: usize,
    },
    /// An element to be written holds a NUL, which would end it early.
    Nul {
        /// Which element, counted from 0.
        element: usize,
    },
    /// Elements that should be keys and values are odd in number.
    OddCount {
        /// How many elements there are.
        count: usize,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { announced, max } => {
                write!(f, "a message of {announced} bytes, where {max} are allowed")
            }
            Self::Nul { element } => write!(f, "element {element} of a message holds a NUL"),
            Self::OddCount { count } => write!(f, "{count} elements, which cannot be keys and values"),
        }
    }
}

impl std::error::Error for MessageError {}

/// With the kind `InvalidData`; the error itself is what `get_ref` gives.
impl From<MessageError> for io::Error {
    fn from(error: MessageError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The elements of an array message, borrowed from its body.
///
/// They may be empty, and hold any byte but NUL. Bytes after the last NUL belong to no element and are dropped, as the
/// originals do; a body without a NUL has no elements. `Debug` shows how many there are, and none of them.
///
/// ```
/// use lineplex::codec::message::Elements;
///
/// let elements = Elements::new(b"ping\0\0rest");
/// assert_eq!(elements.len(), 2);
/// assert_eq!(elements.get(0), Some(b"ping".as_slice()));
/// assert_eq!(elements.iter().collect::<Vec<_>>(), [b"ping".as_slice(), b""]);
/// assert_eq!(format!("{elements:?}"), "Elements { len: 2, .. }");
/// ```
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    /// Empty, or ends with a NUL.
    body: &'a [u8],
}

impl<'a> Elements<'a> {
    /// The elements of a `body`, without its header, of any length. Nothing is allocated, and nothing looked at but its end.
    #[inline]
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        if body.last() == Some(&0) {
            return Self { body };
        }
        let end = memrchr(0, body).map_or(0, |last| last + 1);
        Self { body: &body[..end] }
    }

    /// How many there are. They are counted: one pass over the bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Whether there are none. One empty element is not none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The element at `index`, counted from 0; none past the end. It is looked for from the front, so to see all use
    /// [`iter`](Self::iter).
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.iter().nth(index)
    }

    /// All of them, in order.
    #[inline]
    #[must_use]
    pub fn iter(&self) -> Iter<'a> {
        Iter { rest: self.body }
    }
}

impl<'a> IntoIterator for Elements<'a> {
    type Item = &'a [u8];
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Elements<'a> {
    type Item = &'a [u8];
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elements").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The elements one after the other, from [`Elements::iter`].
#[derive(Clone)]
pub struct Iter<'a> {
    /// Empty, or ends with a NUL.
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = nul(self.rest)?;
        let (element, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = memchr_iter(0, self.rest).count();
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl iter::FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("left", &self.len()).finish_non_exhaustive()
    }
}

/// Elements two by two, from [`pairs`].
#[derive(Clone, Debug)]
pub struct Pairs<'a>(Iter<'a>);

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.next()?, self.0.next()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len() / 2, Some(self.0.len() / 2))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

impl iter::FusedIterator for Pairs<'_> {}

/// The elements as keys and values: first a key, then its value, and so on. Collected into a map, the last of equal keys
/// wins, as it does in the originals.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use lineplex::codec::message::{Elements, pairs};
///
/// let options: BTreeMap<_, _> = pairs(Elements::new(b"max\x002\0max\x003\0"))?.collect();
/// assert_eq!(options[b"max".as_slice()], b"3");
/// # Ok::<(), lineplex::codec::message::MessageError>(())
/// ```
///
/// # Errors
/// [`MessageError::OddCount`] when the last key has no value.
pub fn pairs(elements: Elements<'_>) -> Result<Pairs<'_>, MessageError> {
    let count = elements.len();
    if count % 2 == 1 {
        return Err(MessageError::OddCount { count });
    }
    Ok(Pairs(elements.iter()))
}

/// The array message at the front of `bytes`: its elements, and its length with the header, which is where the next message
/// begins. None while it is incomplete. `max` is the longest body, in bytes.
///
/// ```
/// use lineplex::codec::message::{ARRAY_MAX_BYTES, array};
///
/// let (elements, length) = array(b"\0\x05ping\0rest", ARRAY_MAX_BYTES)?.ok_or("incomplete")?;
/// assert_eq!(elements.get(0), Some(b"ping".as_slice()));
/// assert_eq!(length, 7);
/// assert!(array(b"\0\x05pin", ARRAY_MAX_BYTES)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`MessageError::TooLong`] as soon as the header is there and says more than `max`.
#[inline]
pub fn array(bytes: &[u8], max: usize) -> Result<Option<(Elements<'_>, usize)>, MessageError> {
    let Some((header, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let announced = allowed(u16::from_be_bytes(*header).into(), max)?;
    Ok(rest.get(..announced).map(|body| (Elements::new(body), header.len() + announced)))
}

/// The scalar message at the front of `bytes`: its body, and its length with the header. None while it is incomplete. `max`
/// is the longest body, in bytes.
///
/// ```
/// use lineplex::codec::message::scalar;
///
/// assert_eq!(scalar(b"\0\0\0\x02ab\0", 100)?, Some((b"ab".as_slice(), 6)));
/// assert_eq!(scalar(b"\0\0\0\x02a", 100)?, None);
/// # Ok::<(), lineplex::codec::message::MessageError>(())
/// ```
///
/// # Errors
/// [`MessageError::TooLong`] as soon as the header is there and says more than `max`.
pub fn scalar(bytes: &[u8], max: u32) -> Result<Option<(&[u8], usize)>, MessageError> {
    let Some((header, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let announced = allowed(u32::from_be_bytes(*header) as usize, max as usize)?;
    Ok(rest.get(..announced).map(|body| (body, header.len() + announced)))
}

/// Appends an array message to `out`. No elements make a message without a body, which a reader takes for an empty one;
/// the originals have no use for it.
///
/// ```
/// use lineplex::codec::message::write_array;
///
/// let mut out = Vec::new();
/// write_array(&mut out, &["version", "1"])?;
/// assert_eq!(out, b"\0\x0aversion\x001\0");
/// # Ok::<(), lineplex::codec::message::MessageError>(())
/// ```
///
/// # Errors
/// [`MessageError::TooLong`] for a body over [`ARRAY_MAX_BYTES`], [`MessageError::Nul`] for an element with a NUL in it;
/// `out` is as it was then.
pub fn write_array<E: AsRef<[u8]>>(out: &mut Vec<u8>, elements: &[E]) -> Result<(), MessageError> {
    let length = elements.iter().map(|element| element.as_ref().len() + 1).sum();
    let header = array_header(length)?;
    if let Some(element) = elements.iter().position(|element| nul(element.as_ref()).is_some()) {
        return Err(MessageError::Nul { element });
    }
    out.reserve(header.len() + length);
    out.extend_from_slice(&header);
    for element in elements {
        out.extend_from_slice(element.as_ref());
        out.push(0);
    }
    Ok(())
}

/// Where the first NUL is. Elements are short as a rule, and in so few bytes a plain search is the quicker one.
#[inline]
fn nul(bytes: &[u8]) -> Option<usize> {
    let (front, rest) = bytes.split_at(bytes.len().min(16));
    match front.iter().position(|byte| *byte == 0) {
        None if !rest.is_empty() => memchr(0, rest).map(|at| front.len() + at),
        found => found,
    }
}

/// Appends a scalar message to `out`. To send a long body without copying it, send [`scalar_header`] and the body.
///
/// ```
/// use lineplex::codec::message::write_scalar;
///
/// let mut out = Vec::new();
/// write_scalar(&mut out, b"ab\0cd")?;
/// assert_eq!(out, b"\0\0\0\x05ab\0cd");
/// # Ok::<(), lineplex::codec::message::MessageError>(())
/// ```
///
/// # Errors
/// [`MessageError::TooLong`] for more than 2³² − 1 bytes; `out` is as it was then.
pub fn write_scalar(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), MessageError> {
    let header = scalar_header(bytes.len())?;
    out.reserve(header.len() + bytes.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(bytes);
    Ok(())
}

/// The header of an array message whose body, elements and their NULs, has `length` bytes.
///
/// # Errors
/// [`MessageError::TooLong`] over [`ARRAY_MAX_BYTES`].
pub fn array_header(length: usize) -> Result<[u8; 2], MessageError> {
    u16::try_from(length)
        .map(u16::to_be_bytes)
        .map_err(|_| MessageError::TooLong { announced: length, max: ARRAY_MAX_BYTES })
}

/// The header of a scalar message whose body has `length` bytes.
///
/// # Errors
/// [`MessageError::TooLong`] over 2³² − 1.
pub fn scalar_header(length: usize) -> Result<[u8; 4], MessageError> {
    u32::try_from(length)
        .map(u32::to_be_bytes)
        .map_err(|_| MessageError::TooLong { announced: length, max: u32::MAX as usize })
}

/// Reads a `u16` that comes in pieces.
///
/// ```
/// use lineplex::codec::message::U16Reader;
///
/// let mut reader = U16Reader::new();
/// assert_eq!(reader.feed(b"\x01")?, 1);
/// assert_eq!(reader.feed(b"\x02rest")?, 1);
/// assert_eq!(reader.value(), Some(258));
/// # Ok::<(), lineplex::codec::message::MessageError>(())
/// ```
#[derive(Debug, Default)]
pub struct U16Reader(Fixed<2>);

impl U16Reader {
    /// A reader that has read nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Fixed::new())
    }

    /// Takes bytes from the front until there are two, and answers how many it took: 0 when it is done.
    ///
    /// # Errors
    /// None; it has the shape of the other readers.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError> {
        Ok(self.0.feed(bytes))
    }

    /// Whether the number is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.value().is_some()
    }

    /// The number; none before it is done.
    #[must_use]
    pub fn value(&self) -> Option<u16> {
        self.0.bytes().map(u16::from_be_bytes)
    }

    /// Forgets what it has read, for the next number.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Reads a `u32` that comes in pieces, as [`U16Reader`] reads its two bytes.
#[derive(Debug, Default)]
pub struct U32Reader(Fixed<4>);

impl U32Reader {
    /// A reader that has read nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Fixed::new())
    }

    /// Takes bytes from the front until there are four, and answers how many it took: 0 when it is done.
    ///
    /// # Errors
    /// None; it has the shape of the other readers.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError> {
        Ok(self.0.feed(bytes))
    }

    /// Whether the number is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.value().is_some()
    }

    /// The number; none before it is done.
    #[must_use]
    pub fn value(&self) -> Option<u32> {
        self.0.bytes().map(u32::from_be_bytes)
    }

    /// Forgets what it has read, for the next number.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Reads an array message that comes in pieces. Its buffer grows with them and is kept for the next message.
///
/// ```
/// use lineplex::codec::message::ArrayReader;
///
/// let mut reader = ArrayReader::new(100);
/// assert_eq!(reader.feed(b"\0\x05pi")?, 4);
/// assert!(reader.elements().is_none());
/// assert_eq!(reader.feed(b"ng\0rest")?, 3);
/// let elements = reader.elements().ok_or("it is there")?;
/// assert_eq!(elements.get(0), Some(b"ping".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ArrayReader {
    max: usize,
    header: U16Reader,
    /// Never longer than the header says, and empty while the header is incomplete or says too much.
    body: Vec<u8>,
}

impl ArrayReader {
    /// A reader of bodies up to `max` bytes; from [`ARRAY_MAX_BYTES`] on it takes all.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, header: U16Reader::new(), body: Vec::new() }
    }

    /// Takes bytes from the front, at most to the end of the message, and answers how many it took: 0 when it is done.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] when the header says more than the maximum; nothing of the body was taken, and every
    /// further call answers the same until [`reset`](Self::reset).
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError> {
        let header = self.header.feed(bytes)?;
        let Some(announced) = self.header.value() else {
            return Ok(header);
        };
        let missing = allowed(announced.into(), self.max)? - self.body.len();
        let rest = &bytes[header..];
        let piece = &rest[..rest.len().min(missing)];
        self.body.extend_from_slice(piece);
        Ok(header + piece.len())
    }

    /// Whether the message is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.elements().is_some()
    }

    /// The elements; none before it is done.
    #[must_use]
    pub fn elements(&self) -> Option<Elements<'_>> {
        let announced = allowed(self.header.value()?.into(), self.max).ok()?;
        (self.body.len() == announced).then(|| Elements::new(&self.body))
    }

    /// Forgets message and error, for the next message.
    pub fn reset(&mut self) {
        self.header.reset();
        self.body.clear();
    }
}

impl fmt::Debug for ArrayReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ArrayReader");
        shown
            .field("max", &self.max)
            .field("announced", &self.header.value())
            .field("read", &self.body.len());
        shown.finish_non_exhaustive()
    }
}

/// Reads a scalar message that comes in pieces, and may be a password.
///
/// With the feature `auth` the bytes are overwritten before their memory is given back: at [`reset`](Self::reset), when the
/// reader is dropped, and when the buffer had to grow. Up to a maximum of 4,096 bytes it never grows: the whole maximum is
/// reserved with the first byte of a body. Above that it doubles as bytes come, whatever the header says. Without the feature
/// the bytes are only forgotten. `Debug` shows lengths.
///
/// ```
/// use lineplex::codec::message::{MessageError, ScalarReader};
///
/// let mut reader = ScalarReader::new(100);
/// assert_eq!(reader.feed(b"\0\0\0\x05123")?, 7);
/// assert_eq!(reader.announced(), Some(5));
/// assert_eq!(reader.feed(b"45next")?, 2);
/// assert_eq!(reader.value(), Some(b"12345".as_slice()));
///
/// reader.reset();
/// assert_eq!(reader.feed(b"\0\0\0\x65"), Err(MessageError::TooLong { announced: 101, max: 100 }));
/// # Ok::<(), MessageError>(())
/// ```
pub struct ScalarReader {
    max: u32,
    header: U32Reader,
    /// Never longer than the header says, and empty while the header is incomplete or says too much. Its memory beyond its
    /// length has never been written.
    body: Vec<u8>,
}

impl ScalarReader {
    /// A reader of bodies up to `max` bytes; with 0 only an empty one passes.
    #[must_use]
    pub const fn new(max: u32) -> Self {
        Self { max, header: U32Reader::new(), body: Vec::new() }
    }

    /// Takes bytes from the front, at most to the end of the message, and answers how many it took: 0 when it is done.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] when the header says more than the maximum; nothing of the body was taken, and every
    /// further call answers the same until [`reset`](Self::reset).
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError> {
        let header = self.header.feed(bytes)?;
        let Some(announced) = self.header.value() else {
            return Ok(header);
        };
        let announced = allowed(announced as usize, self.max as usize)?;
        let rest = &bytes[header..];
        let piece = &rest[..rest.len().min(announced - self.body.len())];
        self.make_room(piece.len(), announced);
        self.body.extend_from_slice(piece);
        Ok(header + piece.len())
    }

    /// Whether the message is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.value().is_some()
    }

    /// The body; none before it is done.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        let announced = allowed(self.announced()? as usize, self.max as usize).ok()?;
        (self.body.len() == announced).then_some(&*self.body)
    }

    /// Whether nothing was taken since it was made or reset.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.header.0.filled == 0
    }

    /// The body, and the reader is as after [`reset`](Self::reset); none, and nothing happens, before it is done. The bytes
    /// are the caller's now: if they are secret, so is wiping them.
    #[must_use]
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if !self.is_done() {
            return None;
        }
        self.header.reset();
        Some(mem::take(&mut self.body))
    }

    /// How many bytes of body the header says, be it too many; none while the header is incomplete.
    #[must_use]
    pub fn announced(&self) -> Option<u32> {
        self.header.value()
    }

    /// Forgets message and error, for the next message, and gives the memory back.
    pub fn reset(&mut self) {
        self.header.reset();
        wipe(&mut self.body);
        self.body = Vec::new();
    }

    /// Room for `more` bytes, so that adding them moves nothing; what is left behind is wiped. `announced` is all that the
    /// message will ever need.
    fn make_room(&mut self, more: usize, announced: usize) {
        let needed = self.body.len() + more;
        if needed <= self.body.capacity() {
            return;
        }
        let room = if self.max <= RESERVED_MAX_BYTES {
            self.max as usize
        } else {
            needed.max(2 * self.body.capacity()).min(announced)
        };
        let mut roomy = Vec::with_capacity(room);
        roomy.extend_from_slice(&self.body);
        wipe(&mut self.body);
        self.body = roomy;
    }
}

impl Drop for ScalarReader {
    fn drop(&mut self) {
        wipe(&mut self.body);
    }
}

impl fmt::Debug for ScalarReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ScalarReader");
        shown.field("max", &self.max).field("announced", &self.announced()).field("read", &self.body.len());
        shown.finish_non_exhaustive()
    }
}

/// The first `N` bytes of what comes.
#[derive(Debug)]
struct Fixed<const N: usize> {
    bytes: [u8; N],
    /// How many of them have come, at most `N`.
    filled: usize,
}

impl<const N: usize> Fixed<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }

    fn feed(&mut self, bytes: &[u8]) -> usize {
        let missing = &mut self.bytes[self.filled..];
        let taken = missing.len().min(bytes.len());
        missing[..taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    fn bytes(&self) -> Option<[u8; N]> {
        (self.filled == N).then_some(self.bytes)
    }
}

impl<const N: usize> Default for Fixed<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// `announced`, if it is not over `max`.
fn allowed(announced: usize, max: usize) -> Result<usize, MessageError> {
    if announced > max {
        return Err(MessageError::TooLong { announced, max });
    }
    Ok(announced)
}

/// Overwrites what may be a password. Only where there are logins: a compiler leaves out a plain loop before memory is freed.
#[cfg(feature = "auth")]
fn wipe(bytes: &mut [u8]) {
    zeroize::Zeroize::zeroize(bytes);
}

#[cfg(not(feature = "auth"))]
fn wipe(_bytes: &mut [u8]) {}

/// Up to this maximum a [`ScalarReader`] reserves it whole: a page, far more than a password.
const RESERVED_MAX_BYTES: u32 = 4096;
