//! Both buffers against naive models: lines split at LF, one `Vec` of bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// What a client that takes lines gets of `bytes`, which came in one piece and no more: the lines, and how many were
/// too long, of which the first ends it all under [`LongLine::Close`].
fn naive(bytes: &[u8], max: usize, policy: LongLine) -> (Vec<Vec<u8>>, u32) {
    let (mut lines, mut long) = (Vec::new(), 0);
    let mut pieces: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let unfinished = pieces.pop().unwrap();
    let strip = |piece: &'_ [u8]| piece.strip_suffix(b"\r").unwrap_or(piece).to_vec();
    for line in pieces.into_iter().map(strip) {
        if line.len() <= max {
            lines.push(line);
            continue;
        }
        long += 1;
        if policy == LongLine::Close {
            return (lines, long);
        }
    }
    (lines, long + u32::from(strip(unfinished).len() > max))
}

/// One connection's input as the mux keeps it: a shared buffer that is read into, and a held one while need be.
struct Connection {
    shared: Input,
    held: Option<Input>,
    pooled: Vec<Input>,
    lines: Vec<Vec<u8>>,
    long: u32,
    overlong: bool,
}

impl Connection {
    fn new(max: usize, policy: LongLine) -> Self {
        let shared = Input::new(max, policy);
        let pooled = vec![Input::new(max, policy)];
        Self { shared, held: None, pooled, lines: Vec::new(), long: 0, overlong: false }
    }

    /// The shared buffer has room for `room` more, where old bytes are: LF, the worst ones.
    fn receive(&mut self, chunk: &[u8], room: usize) {
        if let Some(held) = &mut self.held {
            held.append(chunk);
        } else {
            let storage = self.shared.storage(chunk.len() + room);
            storage.fill(b'\n');
            storage[..chunk.len()].copy_from_slice(chunk);
            self.shared.filled(chunk.len());
        }
    }

    /// One call of `input`: lines as many as the turn gives; whether more may be here.
    fn give(&mut self, budget: u32) -> bool {
        let input = self.held.as_mut().unwrap_or(&mut self.shared);
        input.start_turn(budget);
        while let Some(line) = input.line() {
            self.lines.push(line.to_vec());
        }
        self.long += input.take_skipped();
        self.overlong = input.overlong();
        let stopped = input.stopped_by_budget();
        match self.held.take() {
            Some(held) if !held.is_idle() => self.held = Some(held),
            Some(mut held) => {
                held.reset();
                self.pooled.push(held);
            }
            None if !self.shared.is_idle() => {
                let mut held = self.pooled.pop().unwrap();
                self.shared.hand_over(&mut held);
                self.held = Some(held);
            }
            None => {}
        }
        self.shared.reset();
        stopped && !self.overlong
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(select(b"aab\0\r\n\n".as_slice()), 0..80)
}

/// Lines around the length of a block that is looked through at once.
fn long_text() -> impl Strategy<Value = Vec<u8>> {
    let line = (select([0, 1, 20, 61, 62, 63, 64, 65, 130].as_slice()), any::<bool>());
    vec(line, 0..12).prop_map(|lines| {
        let line = |(len, cr)| [vec![b'a'; len], vec![b'\r'; usize::from(cr)], vec![b'\n']].concat();
        lines.into_iter().flat_map(line).collect()
    })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_lines_of_a_naive_split(
        bytes in prop_oneof![text(), long_text()],
        sizes in prop_oneof![vec(1..12_usize, 1..20), vec(1..300_usize, 1..20)],
        room in select([0, 3, 100].as_slice()),
        budgets in vec(1..4_u32, 1..20),
        patience in vec(any::<bool>(), 1..20),
        max in select([0, 1, 2, 3, 5, 8, 40, 61, 62, 63, 64, usize::MAX].as_slice()),
        policy in select([LongLine::Close, LongLine::Skip].as_slice()),
    ) {
        let mut connection = Connection::new(max, policy);
        let (mut rest, mut sizes) = (bytes.as_slice(), sizes.iter().cycle());
        let (mut budgets, mut patience) = (budgets.iter().cycle(), patience.iter().cycle());
        while !rest.is_empty() && !connection.overlong {
            let (chunk, more) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            rest = more;
            connection.receive(chunk, room);
            // More may come before the lines that a turn left are given.
            while connection.give(*budgets.next().unwrap()) && *patience.next().unwrap() {}
        }
        while connection.held.is_some() && connection.give(*budgets.next().unwrap()) {}
        let (lines, long) = naive(&bytes, max, policy);
        prop_assert_eq!(connection.lines, lines);
        prop_assert_eq!(connection.long + u32::from(connection.overlong), long);
        prop_assert_eq!(connection.overlong, policy == LongLine::Close && long > 0);
    }

    #[test]
    fn take_consume_and_rest_do_what_they_do_to_a_vec(
        pieces in vec((prop_oneof![text(), long_text()], vec((0..4_u8, 0..9_usize), 0..12)), 1..8),
    ) {
        let (mut input, mut model) = (Input::default(), Vec::<u8>::new());
        for (piece, steps) in pieces {
            input.append(&piece);
            input.start_turn(u32::MAX);
            model.extend(&piece);
            for (step, count) in steps {
                match step {
                    0 => {
                        input.consume(count);
                        model.drain(..count.min(model.len()));
                    }
                    1 => {
                        let taken = (count <= model.len()).then(|| model.drain(..count).collect::<Vec<_>>());
                        prop_assert_eq!(input.take(count), taken.as_deref());
                    }
                    2 => {
                        let end = model.iter().position(|byte| *byte == b'\n');
                        let line = end.map(|end| model.drain(..=end).collect::<Vec<_>>());
                        let line = line.as_deref().map(|line| &line[..line.len() - 1]);
                        let line = line.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
                        prop_assert_eq!(input.line(), line);
                    }
                    _ if count == 0 => {
                        prop_assert_eq!(input.rest(), model.as_slice());
                        model.clear();
                    }
                    _ => {
                        let mut held = Input::default();
                        input.hand_over(&mut held);
                        prop_assert!(input.is_empty());
                        input = held;
                    }
                }
                prop_assert_eq!((input.bytes(), input.len()), (model.as_slice(), model.len()));
                prop_assert_eq!(input.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn output_is_a_vec_with_a_hard_limit(
        hard in 0..6000_usize,
        steps in vec((0..8_u8, 0..2000_usize), 0..60),
    ) {
        let (mut output, mut model) = (Output::default(), Vec::<u8>::new());
        for (number, (step, count)) in steps.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..count).map(|at| (at * 7 + number) as u8).collect();
            match step {
                0..5 => {
                    let bytes = if step == 0 { &bytes[..count.min(9)] } else { &bytes };
                    let added = match step {
                        0..3 => output.append(bytes, hard),
                        _ => output.append_shared(&Rc::from(bytes), hard),
                    };
                    prop_assert_eq!(added, model.len() + bytes.len() <= hard);
                    if added {
                        model.extend(bytes);
                    }
                }
                5 | 6 => {
                    output.advance(count);
                    model.drain(..count.min(model.len()));
                }
                _ if count < 200 => {
                    output.clear();
                    model.clear();
                }
                _ => {}
            }
            prop_assert_eq!((output.len(), output.is_empty()), (model.len(), model.is_empty()));
            same_pieces(&output, &model)?;
        }
    }
}

/// `single` and `front` show the unsent bytes of the model.
fn same_pieces(output: &Output, model: &[u8]) -> Result<(), TestCaseError> {
    let mut slices = [IoSlice::new(&[]); 64];
    let used = output.front(&mut slices);
    let joined: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
    prop_assert_eq!(&joined, model, "64 pieces are more than there are");
    prop_assert!(slices[..used].iter().all(|slice| !slice.is_empty()));
    match used {
        1 => prop_assert_eq!(output.single(), Some(model)),
        _ => prop_assert_eq!(output.single(), None),
    }
    let mut first = [IoSlice::new(&[]); 1];
    prop_assert_eq!(output.front(&mut first), used.min(1));
    prop_assert_eq!(&*first[0], slices[..used].first().map_or(&[][..], |slice| slice));
    Ok(())
}

#[test]
fn nothing_of_an_overlong_line_is_given_however_it_comes() {
    for policy in [LongLine::Close, LongLine::Skip] {
        let bytes = b"one\nSECRETSECRET\nsix\n";
        for at in 0..bytes.len() {
            let mut connection = Connection::new(3, policy);
            for chunk in [&bytes[..at], &bytes[at..]] {
                connection.receive(chunk, 0);
                while connection.give(1) {}
                let shown = connection.held.as_ref().map_or(&[][..], Input::bytes);
                assert!(policy == LongLine::Close || !shown.contains(&b'S') || shown.len() <= 4, "{at}");
                if connection.overlong {
                    break;
                }
            }
            let all = connection.lines.concat();
            assert_eq!(all, if policy == LongLine::Close { "one" } else { "onesix" }.as_bytes(), "{at}");
        }
    }
}

#[test]
fn no_line_is_given_after_an_overlong_one_that_closes() {
    let mut input = Input::new(3, LongLine::Close);
    input.append(b"toolong\nok\n");
    input.storage.resize(2 * NEAR, b'\n');
    for _ in 0..2 {
        input.start_turn(9);
        assert_eq!(input.line(), None);
        assert!(input.overlong() && !input.is_idle());
    }
    input.consume(8);
    assert_eq!(input.line(), None);
    assert_eq!(input.bytes(), b"ok\n");
    input.reset();
    input.append(b"ok\n");
    input.start_turn(9);
    assert_eq!(input.line(), Some(b"ok".as_slice()));
}

#[test]
fn the_budget_of_lines_is_exact_and_says_when_more_may_be_here() {
    let mut input = Input::new(9, LongLine::Close);
    input.append(b"1\n2\n3\n");
    for (budget, given, stopped) in [(0, 0, true), (2, 2, true), (1, 1, false), (5, 0, false)] {
        input.start_turn(budget);
        assert_eq!(std::iter::from_fn(|| input.line().map(|_| ())).count(), given);
        assert_eq!((input.lines_left(), input.stopped_by_budget()), (budget - given as u32, stopped));
    }
}

#[test]
fn spending_is_bound_by_the_same_budget_as_lines() {
    let mut input = Input::new(9, LongLine::Close);
    input.append(b"1\n2\n3\n4\n");
    input.start_turn(3);
    assert!(input.spend());
    assert_eq!(input.line(), Some(b"1".as_slice()));
    assert!(input.spend() && !input.spend() && !input.spend());
    assert_eq!(input.line(), None);
    assert_eq!(input.lines_left(), 0);
    assert!(input.stopped_by_budget(), "the next turn goes on");
    assert_eq!(input.bytes(), b"2\n3\n4\n", "what is spent consumes nothing");
    input.start_turn(1);
    assert!(input.spend());
    input.consume(usize::MAX);
    assert!(!input.stopped_by_budget(), "nothing is left to go on with");
}

#[cfg(feature = "auth")]
#[test]
fn what_is_wiped_is_consumed_and_gone_from_the_memory() {
    let mut input = Input::from(b"one\nsecret\ntwo\n".as_slice());
    assert_eq!(input.line(), Some(b"one".as_slice()));
    input.wipe(7);
    assert_eq!(input.storage, b"one\n\0\0\0\0\0\0\0two\n");
    input.wipe(0);
    assert_eq!(input.line(), Some(b"two".as_slice()));
    input.wipe(1);
    assert!(input.is_empty());
    let mut input = Input::from(b"short".as_slice());
    input.storage.extend_from_slice(b"old");
    input.wipe(usize::MAX);
    assert!(input.is_empty());
    assert_eq!(input.storage, b"\0\0\0\0\0old", "only what was unconsumed");
}

#[test]
fn the_hard_limit_of_output_is_exact() {
    let shared: Rc<[u8]> = Rc::from([b's'; SHARE_MIN_BYTES].as_slice());
    let mut output = Output::default();
    assert!(output.append(b"", 0) && output.is_empty());
    assert!(!output.append(b"x", 0) && !output.append_shared(&shared, SHARE_MIN_BYTES - 1));
    assert!(output.append(b"abc", 3) && !output.append(b"d", 3) && output.append(b"", 0));
    assert!(!output.append_shared(&shared, SHARE_MIN_BYTES + 2));
    assert!(output.append_shared(&shared, SHARE_MIN_BYTES + 3));
    assert_eq!(output.len(), SHARE_MIN_BYTES + 3);
    output.advance(4);
    assert_eq!(output.single(), Some(&shared[1..]), "what is shared is not copied");
    assert!(std::ptr::eq(output.single().unwrap().as_ptr(), &raw const shared[1]));
}

#[test]
fn a_descriptor_parts_the_output_and_is_closed_when_its_byte_has_left() {
    let (reading, writing) = std::os::unix::net::UnixStream::pair().unwrap();
    reading.set_nonblocking(true).unwrap();
    let is_open = || std::io::Read::read(&mut &reading, &mut [0]).is_err();
    let mut output = Output::default();
    assert!(!output.append_fd(writing.try_clone().unwrap().into(), 0), "over the limit");
    assert!(output.append(b"xxab", 4) && !output.append_fd(writing.try_clone().unwrap().into(), 4));
    output.advance(2);
    assert!(output.append_fd(writing.into(), 3) && output.append(b"cd", 5));
    let places = |output: &Output| output.fds().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!((places(&output), output.len(), output.to_vec()), (vec![2], 5, b"ab\0cd".to_vec()));

    let front = |output: &Output| {
        let mut slices = [IoSlice::new(&[]); 8];
        let used = output.front(&mut slices);
        (
            slices[..used].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>(),
            output.fd_behind(used).is_some(),
        )
    };
    assert_eq!(front(&output), (b"ab".to_vec(), true));
    output.advance(1);
    assert_eq!((front(&output), places(&output)), ((b"b".to_vec(), true), vec![1]));
    output.advance(1);
    assert_eq!((front(&output), places(&output)), ((Vec::new(), true), vec![0]));
    assert!(output.single().is_none() && is_open());
    output.advance(1);
    assert!(!is_open(), "its byte has left");
    assert_eq!((front(&output), output.single()), ((b"cd".to_vec(), false), Some(b"cd".as_slice())));
}

#[test]
fn the_memory_of_an_empty_output_counts_its_places_for_pieces() {
    let (mut output, shared) = (Output::default(), Rc::from([0_u8; SHARE_MIN_BYTES]));
    (0..1000).for_each(|_| assert!(output.append_shared(&shared, usize::MAX)));
    output.clear();
    assert!(output.capacity() > 16 * 1024, "the pool must not keep it");
}
