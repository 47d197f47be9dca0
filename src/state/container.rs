//! The container of a whole state: a header, then sections.
//!
//! | bytes | what |
//! |--:|---|
//! | 8 | `lineplex` |
//! | 2, 2 | major and minor number of the format: another major cannot be read, another minor can |
//! | 8 | length of everything, header included |
//! | 4 | CRC-32 of everything but these four bytes |
//! | | then each section: |
//! | 2 | its id, which occurs once |
//! | 1 | 1 if it is critical, else 0 |
//! | 8 | how many bytes follow |
//!
//! Numbers are little endian. The checksum is against accidents, not against an attacker: who can write the state can
//! write its checksum. A reader refuses a critical section that it does not know and skips any other, so a new image's
//! state can still be read by an old one as long as what was added may be missed.

use super::{StateError, bytes_are};

/// A part of the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    /// What it is; once in a state.
    pub(crate) id: u16,
    /// Whether a reader that does not know it must refuse the state.
    pub(crate) critical: bool,
    /// Its content.
    pub(crate) bytes: &'a [u8],
}

/// All `sections` in one piece.
pub(crate) fn pack(sections: &[Section<'_>]) -> Vec<u8> {
    let total: usize = sections.iter().map(|section| SECTION_BYTES + section.bytes.len()).sum();
    let mut packed = Vec::with_capacity(HEADER_BYTES + total);
    packed.extend_from_slice(MAGIC);
    packed.extend_from_slice(&MAJOR.to_le_bytes());
    packed.extend_from_slice(&MINOR.to_le_bytes());
    packed.extend_from_slice(&((HEADER_BYTES + total) as u64).to_le_bytes());
    packed.extend_from_slice(&[0; 4]);
    for section in sections {
        packed.extend_from_slice(&section.id.to_le_bytes());
        packed.push(u8::from(section.critical));
        packed.extend_from_slice(&(section.bytes.len() as u64).to_le_bytes());
        packed.extend_from_slice(section.bytes);
    }
    let sum = checksum(&packed);
    packed[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    packed
}

/// The sections of `bytes` whose ids are `known`, in the order in which they stand there.
///
/// # Errors
/// For whatever [`pack`] did not write: another format, a byte more or less, a bit changed, a section twice; and for a
/// critical section that is not known.
pub(crate) fn unpack<'a>(bytes: &'a [u8], known: &[u16]) -> Result<Vec<(u16, &'a [u8])>, StateError> {
    check_header(bytes)?;
    let mut rest = &bytes[HEADER_BYTES..];
    let mut seen = Vec::new();
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let (section, after) = next(rest, bytes.len() - rest.len())?;
        rest = after;
        // A few dozen at most are known, and whoever makes up thousands only delays himself.
        if seen.contains(&section.id) {
            return Err(StateError::new(format!("section {} is there twice", section.id)));
        }
        seen.push(section.id);
        if known.contains(&section.id) {
            sections.push((section.id, section.bytes));
        } else if section.critical {
            return Err(StateError::new(format!(
                "section {} is critical and not known to this version",
                section.id
            )));
        }
    }
    Ok(sections)
}

fn check_header(bytes: &[u8]) -> Result<(), StateError> {
    let mut at = 0;
    let short = || StateError::new(format!("ends at byte {} in the middle of the header", bytes.len()));
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err(StateError::new("this is no state of lineplex: it does not begin with `lineplex`"));
    }
    let _magic: [u8; 8] = take(bytes, &mut at).ok_or_else(short)?;
    let major = u16::from_le_bytes(take(bytes, &mut at).ok_or_else(short)?);
    let minor = u16::from_le_bytes(take(bytes, &mut at).ok_or_else(short)?);
    if major != MAJOR {
        return Err(StateError::new(format!("state format {major}.{minor}, this version reads {MAJOR}.x")));
    }
    let announced = u64::from_le_bytes(take(bytes, &mut at).ok_or_else(short)?);
    let sum = u32::from_le_bytes(take(bytes, &mut at).ok_or_else(short)?);
    if announced != bytes.len() as u64 {
        let length = bytes.len();
        return Err(StateError::new(format!("announces {announced} bytes in all, {length} are there")));
    }
    if sum != checksum(bytes) {
        return Err(StateError::new("the checksum is wrong: some of the bytes are not what was written"));
    }
    Ok(())
}

/// The section that `rest` begins with, and what follows it; `at` is its place.
fn next(rest: &[u8], at: usize) -> Result<(Section<'_>, &[u8]), StateError> {
    let mut read = 0;
    let short = || StateError::new(format!("ends in the middle of the section at byte {at}"));
    let id = u16::from_le_bytes(take(rest, &mut read).ok_or_else(short)?);
    let [flags] = take(rest, &mut read).ok_or_else(short)?;
    let announced = u64::from_le_bytes(take(rest, &mut read).ok_or_else(short)?);
    if flags > 1 {
        return Err(StateError::new(format!("section {id} at byte {at} has the unknown flags {flags}")));
    }
    let left = &rest[read..];
    match usize::try_from(announced).ok().and_then(|length| left.split_at_checked(length)) {
        Some((bytes, after)) => Ok((Section { id, critical: flags == 1, bytes }, after)),
        None => Err(StateError::new(format!(
            "section {id} at byte {at} announces {announced} bytes, only {} left",
            bytes_are(left.len())
        ))),
    }
}

/// The `N` bytes at `at`, which then points behind them; none if there are fewer.
fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
    let part = bytes.get(*at..)?.first_chunk()?;
    *at += N;
    Some(*part)
}

/// Of everything but the checksum itself. `packed` is at least a header.
fn checksum(packed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&packed[..CHECKSUM_AT]);
    hasher.update(&packed[HEADER_BYTES..]);
    hasher.finalize()
}

const MAGIC: &[u8; 8] = b"lineplex";
const MAJOR: u16 = 1;
const MINOR: u16 = 1;
/// Behind the magic bytes, the two numbers of the format and the length.
const CHECKSUM_AT: usize = 8 + 2 + 2 + 8;
const HEADER_BYTES: usize = CHECKSUM_AT + 4;
/// In front of the content of a section.
const SECTION_BYTES: usize = 2 + 1 + 8;
