//! The message server on the wire, byte for byte: the sessions and the test cases of Passenger's own server, and what is
//! promised beyond them.
//!
//! Each test runs a server of its own in a thread; its handlers tell what they hear through a channel. Numbers in comments
//! are those of the cases in the original's MessageServerTest.

#![cfg(feature = "auth")]

mod common;

use std::any::Any;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::messages::{BANNER, OK, TOKEN, WRONG, array, hex, login, scalar, server};
use common::{Client, TempDir};
use lineplex::codec::message::Elements;
use lineplex::config::{Limits, ListenAt};
use lineplex::personality::message::{
    Answer, ClientContext, Credential, Dialect, ExitHandler, Handler, MessageServer, Messages, Penalties,
    Processed, Rights, StatusHandler, Wait,
};
use lineplex::{Ended, Handle, Mux, Room};

const NAME_TOO_LONG: &str = "002354686520737570706c69656420757365726e616d6520697320746f6f206c6f6e672e00";
const PASSWORD_TOO_LONG: &str = "002354686520737570706c6965642070617373776f726420697320746f6f206c6f6e672e00";

/// A server in a thread, ended when it is dropped.
struct Served {
    address: String,
    handle: Handle<MessageServer>,
    thread: Option<JoinHandle<lineplex::Result<Ended>>>,
    _directory: TempDir,
}

impl Served {
    /// On a Unix socket that takes descriptors.
    fn start(build: impl FnOnce(&mut Messages) + Send + 'static) -> Self {
        let directory = TempDir::new();
        let path = directory.path().join("socket");
        let (sender, receiver) = mpsc::channel();
        let address = path.display().to_string();
        let thread = thread::spawn(move || {
            let mut mux = Mux::new(server(build), Limits::default())?;
            mux.listen(&ListenAt::unix(path).accept_fds(1))?;
            sender.send(mux.handle()).expect("the test waits for it");
            mux.run()
        });
        let handle = receiver.recv().expect("the server starts");
        Self { address, handle, thread: Some(thread), _directory: directory }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.address)
    }

    /// A client that has logged in.
    fn client(&self) -> Client {
        self.client_of("test")
    }

    fn client_of(&self, account: &str) -> Client {
        let mut client = self.connect();
        client.expect(hex(BANNER));
        client.send(login(account, "12345"));
        client.expect(hex(OK));
        client
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.handle.stop(0);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(Ok(_)))), "{ended:?}");
        }
    }
}

/// Tells what it hears, `LABEL what`, and takes the requests that it is told to take.
struct Teller {
    label: &'static str,
    takes: fn(&str) -> bool,
    told: Sender<String>,
    clients: u32,
}

impl Teller {
    fn new(label: &'static str, takes: fn(&str) -> bool, told: &Sender<String>) -> Self {
        Self { label, takes, told: told.clone(), clients: 0 }
    }

    fn tell(&self, what: &str) {
        let _ = self.told.send(format!("{} {what}", self.label));
    }
}

impl Handler for Teller {
    type Context = u32;

    fn new_client(&mut self, _: &mut ClientContext<'_>) -> io::Result<Option<u32>> {
        self.clients += 1;
        self.tell(&format!("new {}", self.clients));
        Ok(Some(self.clients))
    }

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        own: Option<&mut u32>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        let word = String::from_utf8_lossy(message.get(0).expect("it has an element")).into_owned();
        self.tell(&format!("{word} of {}", own.expect("its context")));
        match &*word {
            "close" => client.close(),
            "abort" => client.conns.abort(client.id),
            "fail" => return Err(io::Error::other("as it was asked to")),
            "panic" => panic!("as it was asked to"),
            _ => {}
        }
        if !(self.takes)(&word) {
            return Ok(Processed::NotMine);
        }
        client.reply(&["taken", self.label])?;
        Ok(Processed::Done)
    }

    fn client_disconnected(&mut self, _: &mut ClientContext<'_>, own: Option<&mut u32>) {
        self.tell(&format!("gone {}", own.expect("its context")));
    }
}

#[track_caller]
fn expect_told(told: &Receiver<String>, expected: &[&str]) {
    for expected in expected {
        assert_eq!(told.recv_timeout(Duration::from_secs(60)).as_deref(), Ok(*expected));
    }
}

struct Ping;

impl Handler for Ping {
    type Context = u64;

    fn new_client(&mut self, _: &mut ClientContext<'_>) -> io::Result<Option<u64>> {
        Ok(Some(0))
    }

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        count: Option<&mut u64>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        let (Some(b"ping"), Some(count)) = (message.get(0), count) else { return Ok(Processed::NotMine) };
        client.reply(&["pong", &count.to_string()])?;
        *count += 1;
        Ok(Processed::Done)
    }
}

fn ping_server() -> Served {
    Served::start(|messages| {
        messages.add_handler(Ping);
    })
}

#[test]
fn the_golden_session_of_the_classic_dialect() {
    let served = ping_server();
    let mut client = served.connect();
    client.expect(hex(BANNER));
    client.send(hex("0000000474657374 000000053132333435"));
    client.expect(hex("00036f6b00"));
    client.send(hex("000570696e6700"));
    client.expect(hex("0007706f6e67003000"));
    client.send(hex("000570696e6700 000570696e6700"));
    client.expect(hex("0007706f6e67003100 0007706f6e67003200"));
    client.send(array(&["unknown", "request"]));
    client.expect_eof();
}

#[test]
fn the_golden_session_of_the_status_dialect() {
    let served = Served::start(|messages| {
        messages.set_dialect(Dialect::Status).add_handler(Ping);
    });
    let mut client = served.connect();
    client.expect(hex(BANNER));
    client.send(hex("0000000474657374 000000053132333435"));
    client.expect(hex("000a73746174757300 6f6b00"));
    client.send(hex("000570696e6700"));
    client.expect(hex("0007706f6e67003000"));
    let mut wrong = served.connect();
    wrong.send(login("test", "wrong"));
    wrong.expect(hex(BANNER));
    wrong.expect(hex(
        "002a 73746174757300 6572726f7200 496e76616c696420757365726e616d65206f722070617373776f726400",
    ));
    wrong.expect_eof();
}

#[test]
fn any_split_of_the_same_bytes_gives_the_same_session() {
    let served = ping_server();
    let bytes = [login("test", "12345"), array(&["ping"]), array(&["ping", "with", ""])].concat();
    let answer = [hex(BANNER), hex(OK), array(&["pong", "0"]), array(&["pong", "1"])].concat();
    for at in 1..bytes.len() {
        let mut client = served.connect();
        client.expect(hex(BANNER));
        client.send(&bytes[..at]);
        client.send(&bytes[at..]);
        client.expect(&answer[hex(BANNER).len()..]);
    }
    let mut client = served.connect();
    for byte in &bytes {
        client.send([*byte]);
    }
    client.expect(answer);
}

// 1, 2
#[test]
fn wrong_names_and_passwords_get_one_verdict_and_the_end_and_a_hashed_one_logs_in() {
    let served = Served::start(|messages| {
        let hash = Credential::hash(b"secret").expect("a password can be hashed");
        messages.accounts().add(b"hashed", hash, Rights::ALL);
        messages.add_handler(Ping);
        // Late answers are not what this is about.
        messages.set_penalties(Penalties::new(Duration::ZERO, Duration::ZERO));
    });
    for (name, password) in
        [("nobody", "12345"), ("test", "wrong"), ("test", ""), ("hashed", "wrong"), ("hashed", ""), ("", "")]
    {
        let mut client = served.connect();
        client.expect(hex(BANNER));
        client.send(login(name, password));
        client.expect(hex(WRONG));
        client.expect_eof();
    }
    let mut client = served.connect();
    client.expect(hex(BANNER));
    // The request comes before the verdict.
    client.send([login("hashed", "secret"), array(&["ping"])].concat());
    client.expect(hex(OK));
    client.expect(array(&["pong", "0"]));
}

// 3
#[test]
fn whoever_takes_too_long_to_log_in_is_closed_without_a_word() {
    let served = Served::start(|messages| {
        messages.set_login_timeout(Duration::from_millis(40)).add_handler(Ping);
    });
    for sent in [&b""[..], &scalar("test"), &[scalar("test"), hex("00000005 3132")].concat()] {
        let mut client = served.connect();
        client.expect(hex(BANNER));
        // On a slow machine it may be closed already.
        let _ = client.try_send(sent);
        assert_eq!(client.next_to_eof().unwrap_or_default(), b"");
    }
}

// 3
#[test]
fn a_login_that_comes_little_by_little_has_no_more_time_than_any_other() {
    let served = Served::start(|messages| {
        messages.set_login_timeout(Duration::from_millis(40)).add_handler(Ping);
    });
    let mut client = UnixStream::connect(&served.address).unwrap();
    // Nothing but a moment: each byte is in time, and all of them are not.
    client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut heard = Vec::new();
    for byte in login(&"x".repeat(100), &"x".repeat(100)).iter().cycle() {
        let _ = client.write_all(&[*byte]);
        let mut buffer = [0; 100];
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => heard.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // What it was sent after its end is unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(heard, hex(BANNER), "no verdict");
}

#[test]
fn nobody_is_timed_out_after_the_login() {
    let served = Served::start(|messages| {
        messages.set_login_timeout(Duration::from_millis(500)).add_handler(Ping);
    });
    let mut client = served.connect();
    client.send(login("program", TOKEN));
    client.expect(hex(BANNER));
    client.expect(hex(OK));
    // A second one that says nothing is timed out after the first would be.
    served.connect().expect_to_eof();
    client.send(array(&["ping"]));
    client.expect(array(&["pong", "0"]));
}

// 4, 5
#[test]
fn a_name_or_password_that_is_too_long_is_refused_when_it_is_announced() {
    let served = ping_server();
    let mut client = served.connect();
    client.expect(hex(BANNER));
    client.send(scalar([b'x'; 1023]));
    client.expect(hex(NAME_TOO_LONG));
    client.expect_eof();
    let mut client = served.connect();
    client.expect(hex(BANNER));
    client.send([scalar("test"), hex("ffffffff")].concat());
    client.expect(hex(PASSWORD_TOO_LONG));
    client.expect_eof();
    // 100 bytes are not too long, 101 are.
    let mut client = served.connect();
    client.expect(hex(BANNER));
    client.send([scalar([b'x'; 100]), scalar([b'x'; 100])].concat());
    client.expect(hex(WRONG));
    let mut client = served.connect();
    client.expect(hex(BANNER));
    client.send([scalar([b'x'; 100]), scalar([b'x'; 101])].concat());
    client.expect(hex(PASSWORD_TOO_LONG));
}

// 6, 7, 10
#[test]
fn handlers_are_asked_in_order_with_the_context_of_the_client_until_one_takes_the_request() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |_| false, &sender));
        messages.add_handler(Teller::new("b", |_| true, &sender));
        messages.add_handler(Teller::new("c", |_| true, &sender));
    });
    let mut first = served.client();
    expect_told(&told, &["a new 1", "b new 1", "c new 1"]);
    let mut second = served.client();
    expect_told(&told, &["a new 2", "b new 2", "c new 2"]);
    for (is_first, word, expected) in [
        (true, "x", ["a x of 1", "b x of 1"]),
        (false, "y", ["a y of 2", "b y of 2"]),
        (true, "z", ["a z of 1", "b z of 1"]),
    ] {
        let client = if is_first { &mut first } else { &mut second };
        client.send(array(&[word]));
        client.expect(array(&["taken", "b"]));
        expect_told(&told, &expected);
    }
}

// 8, 9, 11
#[test]
fn a_request_that_nobody_takes_closes_its_connection_and_all_handlers_hear_of_it() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |word| word == "known", &sender));
        messages.add_handler(Teller::new("b", |_| false, &sender));
    });
    let (mut first, mut second) = (served.client(), served.client());
    expect_told(&told, &["a new 1", "b new 1", "a new 2", "b new 2"]);
    for _ in 0..2 {
        first.send(array(&["known"]));
        first.expect(array(&["taken", "a"]));
        expect_told(&told, &["a known of 1"]);
    }
    first.send([array(&["unknown"]), array(&["known"])].concat());
    first.expect_eof();
    first.half_close();
    expect_told(&told, &["a unknown of 1", "b unknown of 1", "a gone 1", "b gone 1"]);
    second.send(array(&["known"]));
    second.expect(array(&["taken", "a"]));
    expect_told(&told, &["a known of 2"]);
    drop(second);
    expect_told(&told, &["a gone 2", "b gone 2"]);
}

#[test]
fn an_empty_request_closes_and_no_handler_sees_it() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |_| true, &sender));
    });
    for (at, bytes) in ["0000", "0003616263"].iter().enumerate() {
        let mut client = served.client();
        client.send(hex(bytes));
        client.expect_eof();
        client.half_close();
        expect_told(&told, &[&format!("a new {}", at + 1), &format!("a gone {}", at + 1)]);
    }
}

#[test]
fn a_handler_that_fails_or_panics_costs_its_own_client_only() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |_| true, &sender));
    });
    let mut other = served.client();
    expect_told(&told, &["a new 1"]);
    for (at, word) in ["fail", "panic"].into_iter().enumerate() {
        let mut client = served.client();
        client.send(array(&[word]));
        assert_eq!(client.next_to_eof().unwrap_or_default(), b"");
        client.half_close();
        let number = at + 2;
        let expected =
            [format!("a new {number}"), format!("a {word} of {number}"), format!("a gone {number}")];
        expect_told(&told, &expected.each_ref().map(String::as_str));
    }
    other.send(array(&["x"]));
    other.expect(array(&["taken", "a"]));
}

#[test]
fn a_handler_that_closes_the_client_is_the_last_to_hear_of_its_requests() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |_| true, &sender));
    });
    for (at, word) in ["close", "abort"].into_iter().enumerate() {
        let mut client = served.client();
        client.send(array(&[word, "and", "more"]).repeat(3));
        assert_eq!(client.next_to_eof().unwrap_or_default(), b"");
        client.half_close();
        let number = at + 1;
        let expected =
            [format!("a new {number}"), format!("a {word} of {number}"), format!("a gone {number}")];
        expect_told(&told, &expected.each_ref().map(String::as_str));
    }
    drop(served);
    assert_eq!(told.recv().ok(), None);
}

/// Panics when a client leaves.
struct Clinging;

impl Handler for Clinging {
    type Context = ();

    fn process_message(
        &mut self,
        _: &mut ClientContext<'_>,
        _: Option<&mut ()>,
        _: Elements<'_>,
    ) -> io::Result<Processed> {
        Ok(Processed::NotMine)
    }

    fn client_disconnected(&mut self, _: &mut ClientContext<'_>, _: Option<&mut ()>) {
        panic!("as it was asked to");
    }
}

#[test]
fn a_handler_that_panics_when_a_client_leaves_does_not_keep_it_from_the_others() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |_| true, &sender));
        messages.add_handler(Clinging).add_handler(Clinging);
        messages.add_handler(Teller::new("d", |_| true, &sender));
    });
    drop(served.client());
    expect_told(&told, &["a new 1", "d new 1", "a gone 1", "d gone 1"]);
    drop(served.client());
    expect_told(&told, &["a new 2", "d new 2", "a gone 2", "d gone 2"]);
}

/// Takes no client.
struct Unwilling;

impl Handler for Unwilling {
    type Context = ();

    fn new_client(&mut self, _: &mut ClientContext<'_>) -> io::Result<Option<()>> {
        Err(io::Error::other("unwilling"))
    }

    fn process_message(
        &mut self,
        _: &mut ClientContext<'_>,
        _: Option<&mut ()>,
        _: Elements<'_>,
    ) -> io::Result<Processed> {
        Ok(Processed::NotMine)
    }
}

#[test]
fn when_new_client_fails_the_handlers_before_it_hear_of_the_end() {
    let (sender, told) = mpsc::channel();
    let served = Served::start(move |messages| {
        messages.add_handler(Teller::new("a", |_| true, &sender));
        messages.add_handler(Unwilling);
        messages.add_handler(Teller::new("c", |_| true, &sender));
    });
    let mut client = served.client();
    client.expect_eof();
    client.half_close();
    expect_told(&told, &["a new 1", "a gone 1"]);
    drop(served);
    assert_eq!(told.recv().ok(), None);
}

#[test]
fn rights_are_checked_with_a_message_before_the_reply() {
    let served = Served::start(|messages| {
        messages.add_handler(StatusHandler).add_handler(ExitHandler);
    });
    let passed = hex("0010 50617373656420736563757269747900");
    let refused = hex(
        "003f 5365637572697479457863657074696f6e00 496e73756666696369656e742072696768747320746f2065786563757465207468697320636f6d6d616e642e00",
    );
    let mut client = served.client();
    client.send(array(&["inspect"]));
    client.expect(&passed);
    let header = client.next_bytes(4).expect("a scalar");
    let length = u32::from_be_bytes(header.try_into().expect("4 bytes"));
    let text = client.next_bytes(length as usize).expect("all of it");
    let text = String::from_utf8(text).expect("it is text");
    assert!(text.contains("accepted 1\n") && text.contains("\nlogins 1\nlogin_failures 0\n"), "{text}");
    let mut poor = served.client_of("poor");
    for _ in 0..2 {
        poor.send(array(&["inspect"]));
        poor.expect(&refused);
    }
    // This one closes, and the server stays.
    poor.send(array(&["exit"]));
    poor.expect(&refused);
    poor.expect_eof();
    client.send(array(&["exit"]));
    client.expect(&passed);
    client.expect(array(&["exit command received"]));
    client.expect_eof();
}

/// Asks back: an array, a scalar of at most 10 bytes, a job, and descriptors both ways.
struct Asker;

impl Handler for Asker {
    type Context = ();

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        _: Option<&mut ()>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        let wait = match message.get(0) {
            Some(b"array") => Wait::Array,
            Some(b"scalar") => Wait::Scalar { max_bytes: 10 },
            Some(b"job") => Wait::job(|| 6 * 7),
            Some(b"bad job") => Wait::job(|| -> u32 { panic!("as it was asked to") }),
            Some(b"take") => Wait::Descriptor,
            Some(b"give") => {
                let (ours, theirs) = UnixStream::pair()?;
                (&ours).write_all(b"through the descriptor")?;
                return Ok(Processed::Wait(Wait::Send(OwnedFd::from(theirs))));
            }
            _ => return Ok(Processed::NotMine),
        };
        client.reply(&["ask"])?;
        Ok(Processed::Wait(wait))
    }

    fn continue_message(
        &mut self,
        client: &mut ClientContext<'_>,
        _: Option<&mut ()>,
        answer: Answer<'_>,
    ) -> io::Result<Processed> {
        match answer {
            Answer::Array(elements) if elements.get(0) == Some(b"again") => {
                return Ok(Processed::Wait(Wait::Array));
            }
            Answer::Array(elements) => client.reply(&["array", &elements.len().to_string()])?,
            Answer::Scalar(bytes) => client.reply_scalar(bytes)?,
            Answer::Job(result) => {
                let result: Box<dyn Any + Send> = result;
                client.reply(&["job", &result.downcast::<i32>().expect("a number").to_string()])?
            }
            Answer::Descriptor(descriptor) => {
                File::from(descriptor).write_all(b"taken")?;
                client.reply(&["taken"])?
            }
            Answer::Sent => client.reply(&["sent"])?,
            _ => return Ok(Processed::NotMine),
        };
        Ok(Processed::Done)
    }
}

fn asking_server() -> Served {
    Served::start(|messages| {
        messages.add_handler(Asker).add_handler(Ping);
    })
}

#[test]
fn an_exchange_inside_a_request_takes_what_it_asked_for_and_then_the_next_request() {
    let served = asking_server();
    let mut client = served.client();
    let ask = array(&["ask"]);
    // All at once, as a client may that knows what will be asked.
    client.send([array(&["array"]), array(&["again"]), array(&["ping", "x"]), array(&["ping"])].concat());
    client.expect([ask.clone(), array(&["array", "2"]), array(&["pong", "0"])].concat());
    client.send([array(&["scalar"]), scalar("ten bytes!"), array(&["ping"])].concat());
    client.expect([ask.clone(), scalar("ten bytes!"), array(&["pong", "1"])].concat());
    client.send([array(&["job"]), array(&["ping"])].concat());
    client.expect([ask.clone(), array(&["job", "42"]), array(&["pong", "2"])].concat());
    client.send([array(&["scalar"]), hex("0000000b")].concat());
    client.expect(ask);
    client.expect_eof();
}

#[test]
fn a_job_that_panics_costs_its_client() {
    let served = asking_server();
    let mut client = served.client();
    client.send(array(&["bad job"]));
    client.expect(array(&["ask"]));
    assert_eq!(client.next_to_eof().unwrap_or_default(), b"");
    served.client().send(array(&["ping"]));
}

#[test]
fn answers_inside_a_request_wait_for_the_next_turn_as_requests_do() {
    let served = asking_server();
    let mut client = served.client();
    let lines = || {
        let (sender, receiver) = mpsc::channel();
        let tell = move |_: &mut MessageServer, room: &mut Room<'_, MessageServer>| {
            let metrics = room.conns.metrics();
            sender.send((metrics.lines, metrics.turns)).expect("it is waited for");
        };
        served.handle.run(tell).expect("the server runs");
        receiver.recv().expect("it answers")
    };
    let (before, turn) = lines();
    let count = 1000;
    client.send([array(&["array"]), array(&["again"]).repeat(count), array(&["end"])].concat());
    client.expect([array(&["ask"]), array(&["array", "1"])].concat());
    let (after, turn_after) = lines();
    assert_eq!(after - before, count as u64 + 2);
    let most = u64::from(Limits::default().lines_per_turn);
    assert!(turn_after - turn >= count as u64 / most, "{} turns", turn_after - turn);
}

/// A client that goes in the middle of whatever was asked back has gone, once, for every handler.
#[test]
fn a_client_may_leave_wherever_a_request_waits() {
    for asked in ["array", "scalar", "job", "take", "give"] {
        let (sender, told) = mpsc::channel();
        let served = Served::start(move |messages| {
            messages.add_handler(Asker).add_handler(Teller::new("b", |_| true, &sender));
        });
        let client = served.client();
        // The last byte is the first half of an answer.
        client.send([array(&[asked]), vec![0]].concat());
        drop(client);
        expect_told(&told, &["b new 1", "b gone 1"]);
        drop(served);
        assert_eq!(told.recv().ok(), None, "{asked}");
    }
}

#[test]
fn a_wrong_word_where_a_descriptor_is_negotiated_closes() {
    let served = asking_server();
    for words in [array(&["give me"]), array(&["pass IO", ""]), array(&["ping"])] {
        let mut client = served.client();
        client.send([array(&["give"]), words].concat());
        assert_eq!(client.next_to_eof().unwrap_or_default(), b"");
    }
    let mut client = served.client();
    client.send(array(&["take"]));
    client.expect([array(&["ask"]), array(&["pass IO"])].concat());
    // A byte without a descriptor.
    client.send([0]);
    assert_eq!(client.next_to_eof().unwrap_or_default(), b"");
}

#[test]
fn a_request_longer_than_allowed_closes_as_soon_as_it_is_announced() {
    let served = Served::start(|messages| {
        messages.set_request_max_bytes(5).add_handler(Ping);
    });
    let mut client = served.client();
    client.send(array(&["ping"]));
    client.expect(array(&["pong", "0"]));
    client.send(hex("0006"));
    client.expect_eof();
}

#[test]
fn many_requests_at_once_are_answered_in_order_and_others_are_served_between() {
    let served = ping_server();
    let mut flood = served.client();
    let mut other = served.client();
    let count = 5000;
    flood.send(array(&["ping"]).repeat(count));
    other.send(array(&["ping"]));
    other.expect(array(&["pong", "0"]));
    for number in 0..count {
        flood.expect(array(&["pong", &number.to_string()]));
    }
}

#[test]
fn a_hundred_logins_at_once_all_succeed_and_the_server_answers_meanwhile() {
    let served = Served::start(|messages| {
        let hash = Credential::hash(b"secret").expect("a password can be hashed");
        messages.accounts().add(b"hashed", hash, Rights::ALL);
        messages.add_handler(Ping);
    });
    let mut quick = served.client();
    let mut clients: Vec<Client> = (0..100).map(|_| served.connect()).collect();
    for client in &mut clients {
        client.send(login("hashed", "secret"));
    }
    // Twenty leave before it is their turn.
    let left = clients.split_off(80);
    drop(left);
    quick.send(array(&["ping"]));
    quick.expect(array(&["pong", "0"]));
    for client in &mut clients {
        client.expect([hex(BANNER), hex(OK)].concat());
    }
}

#[test]
fn descriptors_travel_both_ways_with_the_blocking_client() {
    use lineplex::personality::message::MessageClient;
    let served = asking_server();
    let mut client = MessageClient::connect_unix(&served.address).unwrap();
    client.login("test", "12345", Dialect::Classic).unwrap();
    for _ in 0..20 {
        client.write(&["give"]).unwrap();
        let mut text = String::new();
        UnixStream::from(client.read_fd().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the descriptor");
        assert_eq!(client.read().unwrap().unwrap(), [b"sent"]);
        let (ours, theirs) = UnixStream::pair().unwrap();
        client.write(&["take"]).unwrap();
        assert_eq!(client.read().unwrap().unwrap(), [b"ask"]);
        client.write_fd(theirs.as_fd()).unwrap();
        drop(theirs);
        assert_eq!(client.read().unwrap().unwrap(), [b"taken"]);
        let mut text = String::new();
        (&ours).read_to_string(&mut text).unwrap();
        assert_eq!(text, "taken");
    }
}

/// Debian's package `passenger` has the Ruby client of version 6, which speaks the dialect `status`, and the channel below it.
#[test]
fn passengers_own_ruby_library_is_served_in_both_dialects() {
    let present =
        Command::new("ruby").args(["-e", "require 'phusion_passenger'"]).stderr(Stdio::null()).status();
    if !present.is_ok_and(|status| status.success()) {
        assert!(
            std::env::var_os("LINEPLEX_REQUIRE_PASSENGER").is_none(),
            "the Ruby library of Passenger is not here"
        );
        eprintln!("skipped: the Ruby library of Passenger is not here");
        return;
    }
    for (word, dialect) in [("classic", Dialect::Classic), ("status", Dialect::Status)] {
        let served = Served::start(move |messages| {
            messages.set_dialect(dialect).add_handler(Asker).add_handler(Ping);
        });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ruby/message_client.rb");
        let ran =
            Command::new("ruby").args([script, word, &served.address, "test", "12345"]).output().unwrap();
        let (said, why) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && said.ends_with("done\n"), "{word}: {said}{why}");
    }
}
