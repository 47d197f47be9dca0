//! The cases of Passenger's MessageReadersWritersTest, the bytes of the originals, and what is promised beyond them.

use std::error::Error as _;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn written(elements: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(&mut out, elements).unwrap();
    out
}

fn owned(elements: Elements<'_>) -> Vec<Vec<u8>> {
    elements.iter().map(<[u8]>::to_vec).collect()
}

/// The bytes of a hexadecimal text with blanks.
#[track_caller]
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// What the four readers have in common, so that one test goes through all of them.
trait Reader {
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError>;
    fn is_done(&self) -> bool;
    fn reset(&mut self);
    /// The value in a form that can be compared.
    fn value(&self) -> Option<String>;
}

macro_rules! reader {
    ($reader:ty, $this:ident => $value:expr) => {
        impl Reader for $reader {
            fn feed(&mut self, bytes: &[u8]) -> Result<usize, MessageError> {
                <$reader>::feed(self, bytes)
            }
            fn is_done(&self) -> bool {
                <$reader>::is_done(self)
            }
            fn reset(&mut self) {
                <$reader>::reset(self);
            }
            fn value(&self) -> Option<String> {
                let $this = self;
                $value
            }
        }
    };
}

reader!(U16Reader, this => this.value().map(|value| value.to_string()));
reader!(U32Reader, this => this.value().map(|value| value.to_string()));
reader!(ArrayReader, this => this.elements().map(|elements| format!("{:?}", owned(elements))));
reader!(ScalarReader, this => this.value().map(|value| format!("{value:?}")));

/// Each reader, new, with a message that it takes and the value of it.
fn readers() -> Vec<(Box<dyn Reader>, Vec<u8>, String)> {
    let array = |elements: &[&str]| {
        let value = format!("{:?}", elements.iter().map(|element| element.as_bytes()).collect::<Vec<_>>());
        (Box::new(ArrayReader::new(100)) as Box<dyn Reader>, written(elements), value)
    };
    let scalar = |max, body: &[u8]| {
        let mut bytes = Vec::new();
        write_scalar(&mut bytes, body).unwrap();
        (Box::new(ScalarReader::new(max)) as Box<dyn Reader>, bytes, format!("{body:?}"))
    };
    vec![
        (Box::new(U16Reader::new()), hex("3039"), "12345".to_owned()),
        (Box::new(U32Reader::new()), hex("b2d05e00"), "3000000000".to_owned()),
        array(&[]),
        array(&["hello"]),
        array(&["hello", "", "world !!"]),
        scalar(100, b""),
        scalar(100, b"ab\0cd\r\n"),
        scalar(100_000, &[b'x'; 10_000]),
    ]
}

#[track_caller]
fn assert_done(reader: &mut dyn Reader, value: &str) {
    assert!(reader.is_done());
    assert_eq!(reader.value().as_deref(), Some(value));
    assert_eq!(reader.feed(b"garbage"), Ok(0));
    assert_eq!(reader.value().as_deref(), Some(value));
}

#[test]
fn a_new_reader_is_not_done_and_takes_nothing_of_nothing() {
    for (mut reader, ..) in readers() {
        assert!(!reader.is_done());
        assert_eq!(reader.value(), None);
        assert_eq!(reader.feed(b""), Ok(0));
        assert!(!reader.is_done());
    }
}

#[test]
fn a_message_that_comes_byte_by_byte_is_done_with_its_last_byte() {
    for (mut reader, bytes, value) in readers() {
        for byte in &bytes {
            assert!(!reader.is_done());
            assert_eq!(reader.feed(&[*byte]), Ok(1));
            assert_eq!(reader.feed(b""), Ok(0));
        }
        assert_done(&mut *reader, &value);
    }
}

#[test]
fn a_message_that_comes_at_once_is_taken_whole_and_nothing_after_it() {
    for (mut reader, mut bytes, value) in readers() {
        let length = bytes.len();
        assert_eq!(reader.feed(&bytes), Ok(length));
        assert_done(&mut *reader, &value);
        reader.reset();
        bytes.extend_from_slice(b"garbage");
        assert_eq!(reader.feed(&bytes), Ok(length));
        assert_done(&mut *reader, &value);
    }
}

#[test]
fn a_reader_that_is_reset_in_the_middle_begins_anew() {
    for (mut reader, bytes, value) in readers() {
        reader.feed(&bytes[..bytes.len() - 1]).unwrap();
        reader.reset();
        assert!(!reader.is_done());
        assert_eq!(reader.feed(&bytes), Ok(bytes.len()));
        assert_done(&mut *reader, &value);
    }
}

#[test]
fn what_is_written_has_the_bytes_of_the_originals() {
    let longest = "x".repeat(65_534);
    for (elements, bytes) in [
        (["hello", "", "world !!"].as_slice(), hex("0010 68656c6c6f00 00 776f726c6420212100")),
        (&[""], hex("0001 00")),
        (&["version", "1"], hex("000a 76657273696f6e00 3100")),
        (&["ok"], hex("0003 6f6b00")),
        (&["status", "ok"], hex("000a 73746174757300 6f6b00")),
        (
            &["status", "error", "Invalid username or password"],
            hex(concat!(
                "002a 73746174757300 6572726f7200 ",
                "496e76616c696420757365726e616d65206f722070617373776f726400"
            )),
        ),
        (&["Passed security"], hex("0010 50617373656420736563757269747900")),
        (&[PASS_IO], hex("0008 7061737320494f00")),
        (&[GOT_IO], hex("0007 676f7420494f00")),
        (&[&longest], [hex("ffff"), hex(&"78".repeat(65_534)), hex("00")].concat()),
    ] {
        assert_eq!(written(elements), bytes);
        let (read, length) = array(&bytes, ARRAY_MAX_BYTES).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        assert!(read.iter().eq(elements.iter().map(|element| element.as_bytes())));
    }
    for (body, bytes) in [(b"ab\0cd".as_slice(), hex("00000005 6162006364")), (b"", hex("00000000"))] {
        let mut out = Vec::new();
        write_scalar(&mut out, body).unwrap();
        assert_eq!(out, bytes);
        assert_eq!(scalar(&bytes, 5), Ok(Some((body, bytes.len()))));
    }
    assert_eq!(DESCRIPTOR_BYTE, 0);
}

#[test]
fn an_element_without_its_nul_is_dropped() {
    for (body, elements) in [
        (b"nargs\0bar".as_slice(), vec![b"nargs".as_slice()]),
        (b"bar", vec![]),
        (b"", vec![]),
        (b"\0", vec![b""]),
        (b"\0x", vec![b""]),
        (b"a\0\0", vec![b"a", b""]),
    ] {
        let read = Elements::new(body);
        assert_eq!(read.iter().collect::<Vec<_>>(), elements);
        assert_eq!((read.len(), read.is_empty()), (elements.len(), elements.is_empty()));
        assert_eq!(read.iter().len(), elements.len());
        for at in 0..=elements.len() {
            assert_eq!(read.get(at), elements.get(at).copied());
        }
        let mut reader = ArrayReader::new(100);
        reader.feed(&array_header(body.len()).unwrap()).unwrap();
        assert_eq!(reader.feed(body), Ok(body.len()));
        assert!(reader.elements().unwrap().iter().eq(elements));
    }
}

#[test]
fn a_body_at_the_maximum_passes_and_one_more_byte_is_an_error_after_the_header() {
    assert!(array(b"\0\x03ab\0", 3).unwrap().is_some());
    assert!(array(b"\0", 2).unwrap().is_none());
    let error = Err(MessageError::TooLong { announced: 3, max: 2 });
    assert_eq!(array(b"\0\x03", 2).map(|_| ()), error);
    assert_eq!(scalar(b"\0\0\0\x02ab", 2), Ok(Some((b"ab".as_slice(), 6))));
    assert_eq!(scalar(b"\0\0\0", 2), Ok(None));
    assert_eq!(scalar(b"\0\0\0\x03", 2).map(|_| ()), error);

    let readers: [(Box<dyn Reader>, _); 2] = [
        (Box::new(ArrayReader::new(2)), b"\0\x03".to_vec()),
        (Box::new(ScalarReader::new(2)), vec![0, 0, 0, 3]),
    ];
    for (mut reader, header) in readers {
        let (last, first) = header.split_last().unwrap();
        assert_eq!(reader.feed(first), Ok(first.len()));
        let error = error.map(|()| 0);
        assert_eq!(reader.feed(&[*last, b'a', b'b']), error);
        assert_eq!(reader.feed(b"ab"), error, "it stays in error");
        assert_eq!(reader.feed(b""), error, "it stays in error");
        assert!(!reader.is_done());
        reader.reset();
        assert_eq!(reader.feed(first), Ok(first.len()));
        assert_eq!(reader.feed(&[2]), Ok(1));
        assert_eq!(reader.feed(b"a\0b"), Ok(2));
        assert!(reader.is_done());
    }
}

#[test]
fn a_maximum_of_nothing_lets_only_an_empty_message_pass() {
    let mut reader = ScalarReader::new(0);
    assert_eq!(reader.feed(&[0, 0, 0, 0]), Ok(4));
    assert_eq!(reader.value(), Some(b"".as_slice()));
    reader.reset();
    assert_eq!(reader.feed(&[0, 0, 0, 1]), Err(MessageError::TooLong { announced: 1, max: 0 }));
    assert_eq!(array(&[0, 1, 0], 0).map(|_| ()), Err(MessageError::TooLong { announced: 1, max: 0 }));
    assert!(array(&[0, 0], 0).unwrap().unwrap().0.is_empty());
}

#[test]
fn a_message_that_cannot_be_written_leaves_the_output_as_it_was() {
    let mut out = b"before".to_vec();
    let long = "x".repeat(65_535);
    let error = MessageError::TooLong { announced: 65_536, max: ARRAY_MAX_BYTES };
    assert_eq!(write_array(&mut out, &[&long]), Err(error));
    assert_eq!(array_header(65_536), Err(error));
    assert_eq!(write_array(&mut out, &["one", "t\0o"]), Err(MessageError::Nul { element: 1 }));
    assert_eq!(out, b"before");
    // The length is all that counts, so no 4 GiB are needed for it.
    let error = MessageError::TooLong { announced: 1 << 32, max: u32::MAX as usize };
    assert_eq!(scalar_header(1 << 32), Err(error));
    assert_eq!(scalar_header(u32::MAX as usize), Ok([0xff; 4]));
}

#[test]
fn pairs_are_keys_and_values_and_an_odd_count_is_an_error() {
    let read = |body| pairs(Elements::new(body)).map(|pairs| pairs.collect::<Vec<_>>());
    assert_eq!(read(b""), Ok(vec![]));
    assert_eq!(read(b"k\0v\0"), Ok(vec![(b"k".as_slice(), b"v".as_slice())]));
    assert_eq!(read(b"\0a\0k\0\0k\0c\0").unwrap().len(), 3);
    assert_eq!(read(b"\0a\0k\0").unwrap_err(), MessageError::OddCount { count: 3 });
    assert_eq!(read(b"k\0").unwrap_err(), MessageError::OddCount { count: 1 });
    assert_eq!(pairs(Elements::new(b"a\0b\0c\0d\0")).unwrap().len(), 2);
}

#[test]
fn a_body_takes_no_memory_before_its_bytes_come_and_never_more_than_twice_as_much() {
    let mut reader = ScalarReader::new(u32::MAX);
    reader.feed(&[0xff; 4]).unwrap();
    assert_eq!((reader.announced(), reader.body.capacity()), (Some(u32::MAX), 0));
    for come in 1..=10_000 {
        reader.feed(b"x").unwrap();
        assert!(reader.body.capacity() <= 2 * come, "{} for {come}", reader.body.capacity());
    }
    reader.reset();
    assert_eq!(reader.body.capacity(), 0);
    let mut reader = ArrayReader::new(ARRAY_MAX_BYTES);
    reader.feed(&[0xff; 2]).unwrap();
    assert_eq!(reader.body.capacity(), 0);
}

#[test]
fn a_scalar_as_short_as_a_password_is_never_moved() {
    for max in [1, 100, RESERVED_MAX_BYTES] {
        let mut reader = ScalarReader::new(max);
        reader.feed(&scalar_header(max as usize).unwrap()).unwrap();
        assert_eq!(reader.body.capacity(), 0);
        reader.feed(b"x").unwrap();
        let place = reader.body.as_ptr();
        for _ in 1..max {
            assert_eq!(reader.feed(b"x"), Ok(1));
        }
        assert!(reader.is_done());
        assert_eq!((reader.body.as_ptr(), reader.body.capacity()), (place, max as usize));
    }
}

#[test]
#[cfg(feature = "auth")]
fn wiped_bytes_are_zero() {
    let mut secret = b"secret".to_vec();
    wipe(&mut secret);
    assert_eq!(secret, [0; 6]);
}

#[test]
fn what_is_taken_out_of_a_reader_leaves_it_as_new() {
    let mut reader = ScalarReader::new(100);
    assert_eq!(reader.take(), None);
    reader.feed(b"\0\0\0\x02a").unwrap();
    assert_eq!(reader.take(), None, "it is not done");
    reader.feed(b"b").unwrap();
    assert_eq!(reader.take(), Some(b"ab".to_vec()));
    assert_eq!((reader.announced(), reader.take()), (None, None));
    reader.feed(b"\0\0\0\x01c").unwrap();
    assert_eq!(reader.take(), Some(b"c".to_vec()));
}

#[test]
fn nothing_prints_what_a_message_holds() {
    let mut scalar = ScalarReader::new(100);
    scalar.feed(b"\0\0\0\x09sesame").unwrap();
    assert_eq!(format!("{scalar:?}"), "ScalarReader { max: 100, announced: Some(9), read: 6, .. }");
    let mut array = ArrayReader::new(100);
    array.feed(b"\0\x07sesame\0").unwrap();
    assert_eq!(format!("{array:?}"), "ArrayReader { max: 100, announced: Some(7), read: 7, .. }");
    let elements = array.elements().unwrap();
    assert_eq!(format!("{elements:?} {:?}", elements.iter()), "Elements { len: 1, .. } Iter { left: 1, .. }");
}

#[test]
fn an_error_says_what_is_wrong_and_becomes_invalid_data() {
    for (error, text) in [
        (MessageError::TooLong { announced: 101, max: 100 }, "a message of 101 bytes, where 100 are allowed"),
        (MessageError::Nul { element: 2 }, "element 2 of a message holds a NUL"),
        (MessageError::OddCount { count: 3 }, "3 elements, which cannot be keys and values"),
    ] {
        let io = io::Error::from(error);
        assert_eq!((io.kind(), io.to_string()), (io::ErrorKind::InvalidData, text.to_owned()));
        assert!(io.source().is_none(), "its text is the error's own");
    }
}

/// Everything that the four readers, one after the other and again, make of a stream cut into `pieces`: values, and an
/// error as the last.
fn read_all(pieces: &[&[u8]], max: u32) -> Vec<String> {
    let mut readers: [Box<dyn Reader>; 4] = [
        Box::new(ArrayReader::new(max as usize)),
        Box::new(ScalarReader::new(max)),
        Box::new(U16Reader::new()),
        Box::new(U32Reader::new()),
    ];
    let (mut values, mut turn) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match readers[turn].feed(rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(error) => {
                    values.push(error.to_string());
                    return values;
                }
            }
            if readers[turn].is_done() {
                values.extend(readers[turn].value());
                readers[turn].reset();
                turn = (turn + 1) % readers.len();
            }
        }
    }
    values
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    for at in cuts {
        let (piece, more) = rest.split_at((*at).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

/// Bytes that often look like short messages.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![3 => Just(0), 2 => 1..12u8, 1 => any::<u8>()], 0..200)
}

proptest! {
    #[test]
    fn any_split_of_any_bytes_gives_the_same_values(
        bytes in stream(),
        cuts in vec(0..9usize, 0..60),
        max in 0..300u32,
    ) {
        prop_assert_eq!(read_all(&cut(&bytes, &cuts), max), read_all(&[&bytes], max));
    }

    #[test]
    fn borrowed_and_owned_readers_agree_on_any_bytes(bytes in stream(), max in 0..300usize) {
        let mut reader = ArrayReader::new(max);
        let fed = reader.feed(&bytes);
        match array(&bytes, max) {
            Ok(Some((elements, length))) => {
                prop_assert_eq!(fed, Ok(length));
                prop_assert_eq!(owned(reader.elements().unwrap()), owned(elements));
            }
            Ok(None) => prop_assert!(fed == Ok(bytes.len()) && !reader.is_done()),
            Err(error) => prop_assert_eq!(fed, Err(error)),
        }
        let mut reader = ScalarReader::new(max as u32);
        let fed = reader.feed(&bytes);
        match scalar(&bytes, max as u32) {
            Ok(Some((body, length))) => {
                prop_assert_eq!(fed, Ok(length));
                prop_assert_eq!(reader.value(), Some(body));
            }
            Ok(None) => prop_assert!(fed == Ok(bytes.len()) && !reader.is_done()),
            Err(error) => prop_assert_eq!(fed, Err(error)),
        }
    }

    #[test]
    fn what_is_written_is_read_again(
        elements in vec(vec(1..=255u8, 0..20), 0..20),
        body in vec(any::<u8>(), 0..10_000),
        cuts in vec(0..3000usize, 0..10),
    ) {
        let mut bytes = Vec::new();
        write_array(&mut bytes, &elements).unwrap();
        let end = bytes.len();
        write_scalar(&mut bytes, &body).unwrap();
        let (read, length) = array(&bytes, ARRAY_MAX_BYTES).unwrap().unwrap();
        prop_assert_eq!((owned(read), length), (elements, end));
        let mut reader = ScalarReader::new(10_000);
        for piece in cut(&bytes[end..], &cuts) {
            prop_assert_eq!(reader.feed(piece), Ok(piece.len()));
        }
        prop_assert_eq!(reader.take(), Some(body));
    }
}
