use std::hint::black_box;
use std::time::Instant;

use proptest::prelude::*;

use super::container::{Section, pack, unpack};
use super::*;

/// Every value that can be written.
#[derive(Clone, Debug)]
enum Value {
    Bool(bool),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I64(i64),
    F64(u64),
    Bytes(Vec<u8>),
    Text(String),
    Duration(Duration),
    Conn(ConnId),
    Option(Option<Box<Self>>),
    List(Vec<Self>),
    Record(u32, Vec<Self>),
}

impl Value {
    fn write(&self, state: &mut StateWriter) {
        match self {
            Self::Bool(value) => state.bool(*value),
            Self::U8(value) => state.u8(*value),
            Self::U16(value) => state.u16(*value),
            Self::U32(value) => state.u32(*value),
            Self::U64(value) => state.u64(*value),
            Self::I64(value) => state.i64(*value),
            Self::F64(bits) => state.f64(f64::from_bits(*bits)),
            Self::Bytes(value) => state.bytes(value),
            Self::Text(value) => state.text(value),
            Self::Duration(value) => state.duration(*value),
            Self::Conn(value) => state.conn(*value),
            Self::Option(value) => state.option(value.as_ref(), |state, value| value.write(state)),
            Self::List(items) => state.list(items, |state, item| item.write(state)),
            Self::Record(version, values) => {
                let mut inner = StateWriter::new();
                inner.version(*version);
                values.iter().for_each(|value| value.write(&mut inner));
                state.record(&inner)
            }
        };
    }

    /// Reads a value of the same type and compares it.
    #[track_caller]
    fn check(&self, state: &mut StateReader<'_>) {
        match self {
            Self::Bool(value) => assert_eq!(state.bool(), Ok(*value)),
            Self::U8(value) => assert_eq!(state.u8(), Ok(*value)),
            Self::U16(value) => assert_eq!(state.u16(), Ok(*value)),
            Self::U32(value) => assert_eq!(state.u32(), Ok(*value)),
            Self::U64(value) => assert_eq!(state.u64(), Ok(*value)),
            Self::I64(value) => assert_eq!(state.i64(), Ok(*value)),
            Self::F64(bits) => assert_eq!(state.f64().map(f64::to_bits), Ok(*bits)),
            Self::Bytes(value) => assert_eq!(state.bytes(), Ok(value.as_slice())),
            Self::Text(value) => assert_eq!(state.text(), Ok(value.as_str())),
            Self::Duration(value) => assert_eq!(state.duration(), Ok(*value)),
            Self::Conn(value) => assert_eq!(state.conn(), Ok(*value)),
            Self::Option(None) => assert_eq!(state.option(|_| Ok(())), Ok(None)),
            Self::Option(Some(value)) => {
                let read = state.option(|state| {
                    value.check(state);
                    Ok(())
                });
                assert_eq!(read, Ok(Some(())));
            }
            Self::List(items) => {
                let mut expected = items.iter();
                let read = state.list(|state| {
                    expected.next().unwrap().check(state);
                    Ok(())
                });
                assert_eq!(read.map(|read| read.len()), Ok(items.len()));
            }
            Self::Record(version, values) => {
                let mut inner = state.record().unwrap();
                assert_eq!(inner.version(), *version);
                values.iter().for_each(|value| value.check(&mut inner));
                inner.finish().unwrap();
            }
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::U8),
        any::<u16>().prop_map(Value::U16),
        any::<u32>().prop_map(Value::U32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::F64),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        prop::collection::vec(any::<char>(), 0..20).prop_map(|text| Value::Text(text.into_iter().collect())),
        (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Value::Duration(Duration::new(s, n))),
        (1 << 32..=u64::MAX).prop_map(|bits| Value::Conn(ConnId::from_bits(bits).unwrap())),
    ];
    leaf.prop_recursive(3, 30, 8, |inner| {
        prop_oneof![
            prop::option::of(inner.clone()).prop_map(|value| Value::Option(value.map(Box::new))),
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            (any::<u32>(), prop::collection::vec(inner, 0..8))
                .prop_map(|(v, values)| Value::Record(v, values)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(any_value(), 0..12), version: u32) {
        let mut state = StateWriter::new();
        values.iter().for_each(|value| value.write(&mut state));
        state.version(version);
        let mut reader = state.reader();
        prop_assert_eq!(reader.version(), version);
        for value in &values {
            prop_assert!(!reader.is_empty());
            value.check(&mut reader);
        }
        prop_assert!(reader.is_empty());
        prop_assert_eq!(reader.finish(), Ok(()));
        // And beyond the end is nothing.
        prop_assert!(reader.bool().is_err());
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(0..24_u8, 0..200), calls: [u8; 20]) {
        let mut reader = StateReader::of(&bytes);
        for call in calls {
            let before = reader.left();
            let _ = read_any(&mut reader, call, 3);
            prop_assert!(reader.left() <= before);
        }
    }

    #[test]
    fn no_bytes_make_the_container_panic(noise in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
        let mut bytes = if magic { b"lineplex\x01\0\0\0".to_vec() } else { Vec::new() };
        bytes.extend(noise);
        prop_assert!(unpack(&bytes, &[1, 2]).is_err());
    }

    /// The same behind a header that is right, so that it is the sections that are looked at.
    #[test]
    fn no_sections_make_the_container_panic(noise in prop::collection::vec(0..4_u8, 0..60)) {
        let bytes = container_of(&noise);
        for (_, section) in unpack(&bytes, &[0, 1, 2, 3]).unwrap_or_default() {
            prop_assert!(section.len() < noise.len());
        }
    }
}

/// Calls one of the reader's functions, with functions for the inner values of lists and options.
fn read_any(reader: &mut StateReader<'_>, call: u8, depth: u8) -> Result<(), StateError> {
    let inner = |reader: &mut StateReader<'_>| match depth {
        0 => Ok(()),
        _ => read_any(reader, call / 2, depth - 1),
    };
    match call % 15 {
        0 => reader.bool().map(drop),
        1 => reader.u8().map(drop),
        2 => reader.u16().map(drop),
        3 => reader.u32().map(drop),
        4 => reader.u64().map(drop),
        5 => reader.i64().map(drop),
        6 => reader.f64().map(drop),
        7 => reader.bytes().map(drop),
        8 => reader.text().map(drop),
        9 => reader.duration().map(drop),
        10 => reader.conn().map(drop),
        11 => reader.option(inner).map(drop),
        12 | 13 => reader.list(inner).map(drop),
        _ => reader.record().map(drop),
    }
}

/// `rest` behind a header with the right length and checksum.
fn container_of(rest: &[u8]) -> Vec<u8> {
    let mut bytes = pack(&[]);
    bytes.extend_from_slice(rest);
    let length = bytes.len() as u64;
    bytes[12..20].copy_from_slice(&length.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..20]);
    hasher.update(&bytes[24..]);
    let sum = hasher.finalize();
    bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A state as a server writes it, small enough for exhaustive tests.
fn packed() -> Vec<u8> {
    let mut first = StateWriter::new();
    first.version(3).text("a room").list(0..5_u8, |state, n| {
        state.u8(n).option(Some(n), |state, n| {
            state.u16(n.into());
        });
    });
    let mut second = StateWriter::new();
    second.record(&first).duration(Duration::from_millis(1500)).bytes(b"half a li");
    pack(&[
        Section { id: 1, critical: true, bytes: second.as_bytes() },
        Section { id: 2, critical: false, bytes: b"" },
        Section { id: 700, critical: false, bytes: b"extra" },
    ])
}

#[test]
fn a_packed_state_is_unpacked_in_the_order_of_its_sections() {
    let packed = packed();
    let sections = unpack(&packed, &[700, 1, 2]).unwrap();
    assert_eq!(sections.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 700]);
    assert_eq!((sections[1].1, sections[2].1), (b"".as_slice(), b"extra".as_slice()));
    let mut reader = StateReader::of(sections[0].1);
    let mut record = reader.record().unwrap();
    assert_eq!((record.version(), record.text()), (3, Ok("a room")));
    assert_eq!(reader.duration(), Ok(Duration::from_millis(1500)));
    assert_eq!(reader.bytes(), Ok(b"half a li".as_slice()));
    assert!(unpack(&pack(&[]), &[]).unwrap().is_empty());
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    let mut packed = packed();
    for length in 0..packed.len() {
        assert!(unpack(&packed[..length], &[1, 2, 700]).is_err(), "{length} bytes");
    }
    packed.push(0);
    assert!(unpack(&packed, &[1, 2, 700]).is_err());
}

#[test]
fn every_changed_bit_is_refused() {
    let mut packed = packed();
    for bit in 0..packed.len() * 8 {
        packed[bit / 8] ^= 1 << (bit % 8);
        assert!(unpack(&packed, &[1, 2, 700]).is_err(), "bit {bit}");
        packed[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(unpack(&packed, &[1, 2, 700]).is_ok());
}

#[test]
fn an_unknown_section_is_skipped_unless_it_is_critical() {
    let packed = packed();
    let known = unpack(&packed, &[1]).unwrap();
    assert_eq!(known.len(), 1);
    let error = unpack(&packed, &[2, 700]).unwrap_err();
    assert_eq!(error.to_string(), "section 1 is critical and not known to this version");
}

#[test]
fn a_section_twice_is_refused_known_or_not() {
    let twice = Section { id: 9, critical: false, bytes: b"x" };
    let packed = pack(&[twice, twice]);
    for known in [[9], [8]] {
        assert_eq!(unpack(&packed, &known).unwrap_err().to_string(), "section 9 is there twice");
    }
}

#[test]
fn another_major_format_is_refused_by_its_number_and_another_minor_is_read() {
    let mut packed = packed();
    packed[8..12].copy_from_slice(&[2, 0, 0, 0]);
    let error = unpack(&packed, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "state format 2.0, this version reads 1.x");

    let mut minor = container_of(b"\x05\0\0\x01\0\0\0\0\0\0\0x");
    minor[10] = 7;
    let minor_sum = {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&minor[..20]);
        hasher.update(&minor[24..]);
        hasher.finalize()
    };
    minor[20..24].copy_from_slice(&minor_sum.to_le_bytes());
    assert_eq!(unpack(&minor, &[5]).unwrap(), [(5, b"x".as_slice())]);
}

#[test]
fn what_is_wrong_with_a_container_is_said() {
    for (bytes, text) in [
        (b"linefeed....".to_vec(), "this is no state of lineplex: it does not begin with `lineplex`"),
        (b"linepl".to_vec(), "ends at byte 6 in the middle of the header"),
        (packed()[..30].to_vec(), "announces 160 bytes in all, 30 are there"),
        (container_of(b"\x05\0\0"), "ends in the middle of the section at byte 24"),
        (container_of(b"\x05\0\x04\0\0\0\0\0\0\0\0"), "section 5 at byte 24 has the unknown flags 4"),
        (
            container_of(b"\x05\0\0\x09\0\0\0\0\0\0\0x"),
            "section 5 at byte 24 announces 9 bytes, only 1 byte is left",
        ),
    ] {
        assert_eq!(unpack(&bytes, &[5]).unwrap_err().to_string(), text);
    }
    let mut changed = packed();
    changed[60] ^= 1;
    let error = unpack(&changed, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "the checksum is wrong: some of the bytes are not what was written");
}

#[test]
fn what_is_wrong_with_a_value_is_said_with_its_place() {
    let mut state = StateWriter::new();
    state.u64(7).bool(true).text("hi");
    let bytes = state.as_bytes();
    let read = |count: usize| {
        let mut reader = StateReader::of(&bytes[..count]);
        reader.u64().and_then(|_| reader.bool()).and_then(|_| reader.text()).unwrap_err().to_string()
    };
    assert_eq!(read(0), "expected a u64 at byte 0, found the end");
    assert_eq!(read(5), "ends at byte 5 in the middle of a u64");
    assert_eq!(read(14), "ends at byte 14 in the middle of a text");
    assert_eq!(read(21), "a text at byte 11 announces 2 bytes, only 1 byte is left");
    assert_eq!(state.reader().text().unwrap_err().to_string(), "expected a text at byte 0, found a u64");
    let error = StateReader::of(&[200]).option(|_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "expected an option at byte 0, found the unknown type 200");
    assert_eq!(
        StateReader::of(&[1, 2]).bool().unwrap_err().to_string(),
        "a bool at byte 0 has no valid value"
    );
    let mut reader = state.reader();
    reader.u64().unwrap();
    assert_eq!(reader.finish().unwrap_err().to_string(), "13 bytes are left over");
    assert_eq!(StateReader::of(b"x").finish().unwrap_err().to_string(), "1 byte is left over");
}

#[test]
fn values_that_cannot_be_are_refused() {
    let mut text = StateWriter::new();
    text.text("ab");
    let mut bytes = text.as_bytes().to_vec();
    bytes[9] = 0xff;
    assert!(StateReader::of(&bytes).text().unwrap_err().to_string().contains("no valid value"));

    let mut duration = StateWriter::new();
    duration.duration(Duration::MAX);
    assert_eq!(duration.reader().duration(), Ok(Duration::MAX));
    let mut bytes = duration.as_bytes().to_vec();
    bytes[9..13].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
    assert!(StateReader::of(&bytes).duration().is_err());

    // Generation 0 is never given.
    let mut bytes = vec![Type::Conn as u8];
    bytes.extend(5_u64.to_le_bytes());
    assert!(StateReader::of(&bytes).conn().is_err());
}

#[test]
fn a_count_that_nothing_stands_behind_is_refused_at_once() {
    let mut bytes = vec![Type::List as u8];
    bytes.extend(u64::from(u32::MAX).to_le_bytes());
    bytes.extend([Type::Bool as u8; 11]);
    assert_eq!(bytes.len(), 20);
    // Had anything been allocated for items of 4 KiB each, this would be the end.
    let mut calls = 0;
    let read = StateReader::of(&bytes).list(|_| {
        calls += 1;
        Ok([0_u8; 4096])
    });
    let error = read.map(|items| items.len()).unwrap_err();
    assert_eq!(error.to_string(), "a list at byte 0 announces 4294967295 items, only 11 bytes are left");
    assert_eq!(calls, 0);

    let mut text = vec![Type::Text as u8];
    text.extend(u64::MAX.to_le_bytes());
    let error = StateReader::of(&text).text().unwrap_err();
    assert_eq!(
        error.to_string(),
        "a text at byte 0 announces 18446744073709551615 bytes, only 0 bytes are left"
    );
}

#[test]
fn an_item_that_takes_no_byte_ends_its_list() {
    let mut state = StateWriter::new();
    state.list(0..1000_u16, |state, n| {
        state.u16(n);
    });
    let mut calls = 0;
    let error = state
        .reader()
        .list(|_| {
            calls += 1;
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "an item of a list at byte 9 was read without any value");
    assert_eq!(calls, 1);

    let mut empty = StateWriter::new();
    empty.list(0..3, |_, _| {});
    assert!(empty.reader().list(|_| Ok(())).is_err(), "a list of nothing is refused before any item");
}

#[test]
fn the_last_version_counts() {
    let mut state = StateWriter::new();
    assert_eq!(state.reader().version(), 0);
    state.version(1).u8(1).version(u32::MAX);
    assert_eq!((state.reader().version(), state.len(), state.is_empty()), (u32::MAX, 2, false));
}

#[test]
fn an_error_becomes_the_errors_of_its_callers() {
    let error = Error::from(StateError::new("there is no room 7"));
    assert_eq!((error.kind(), error.exit_status()), (ErrorKind::State, 70));
    assert_eq!(error.chain(), "cannot read the state of the image before: there is no room 7");
    let error = io::Error::from(StateError::new("there is no room 7"));
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (io::ErrorKind::InvalidData, "there is no room 7")
    );
}

/// `cargo test --release --lib state -- --ignored --nocapture`
#[test]
#[ignore = "prints a time and checks nothing"]
fn ten_thousand_records_of_300_bytes() {
    for _ in 0..5 {
        let begun = Instant::now();
        let mut state = StateWriter::new();
        state.list(0..10_000_u64, |state, n| {
            let mut one = StateWriter::new();
            one.version(1).u64(n).text("somebody").duration(Duration::from_millis(n)).bool(true);
            one.option(Some(n), |one, n| {
                one.u64(n);
            });
            one.bytes(&[7; 220]);
            state.record(&one);
        });
        let packed = pack(&[Section { id: 1, critical: true, bytes: state.as_bytes() }]);
        let written = begun.elapsed();
        let sections = unpack(&packed, &[1]).unwrap();
        let read = StateReader::of(sections[0].1).list(|state| {
            let mut one = state.record()?;
            black_box((one.u64()?, one.text()?, one.duration()?, one.bool()?));
            black_box((one.option(|one| one.u64())?, one.bytes()?));
            one.finish()
        });
        assert_eq!(read.unwrap().len(), 10_000);
        println!("{} bytes: written in {written:?}, read in {:?}", packed.len(), begun.elapsed() - written);
    }
}
