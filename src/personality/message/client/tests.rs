//! The client against a peer written by hand, on the other end of a socket pair: with the cases of Passenger's
//! MessageChannelTest and MessageIOTest.

use std::fs::File;
use std::net::TcpListener;
use std::thread;

use super::*;
use crate::sys;

const LONG: Duration = Duration::from_secs(60);
const BANNER_BYTES: &[u8] = b"\0\x0aversion\x001\0";
const LOGIN_BYTES: &[u8] = b"\0\0\0\x04test\0\0\0\x0512345";

/// A client and the other end, neither of which waits for ever.
fn pair() -> (MessageClient, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(LONG)).unwrap();
    theirs.set_write_timeout(Some(LONG)).unwrap();
    let mut client = MessageClient::from(ours);
    client.set_timeout(Some(LONG)).unwrap();
    (client, theirs)
}

/// A client whose peer has said `bytes`, and closes its sending side.
fn told(bytes: &[u8]) -> (MessageClient, UnixStream) {
    let (client, mut peer) = pair();
    peer.write_all(bytes).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    (client, peer)
}

#[track_caller]
fn assert_next(peer: &mut impl io::Read, expected: &[u8]) {
    let mut came = vec![0; expected.len()];
    peer.read_exact(&mut came).unwrap();
    assert_eq!(came, expected);
}

/// All that a peer receives up to the end of the stream.
#[track_caller]
fn rest(client: MessageClient, mut peer: UnixStream) -> Vec<u8> {
    drop(client);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    rest
}

/// How a login ends with a server that says `verdict` after the banner, whatever it is sent.
#[track_caller]
fn login(verdict: &[&str], dialect: Dialect) -> Result<(), ClientError> {
    let mut bytes = BANNER_BYTES.to_vec();
    message::write_array(&mut bytes, verdict).unwrap();
    let (mut client, peer) = told(&bytes);
    let result = client.login("test", "12345", dialect);
    assert_eq!(rest(client, peer), LOGIN_BYTES);
    result
}

#[track_caller]
fn kind<T: fmt::Debug>(result: Result<T, impl Into<ClientError>>) -> ErrorKind {
    match result.unwrap_err().into() {
        ClientError::Io(error) => error.kind(),
        refused => panic!("{refused:?}"),
    }
}

#[track_caller]
fn refusal(result: Result<(), ClientError>) -> String {
    match result.unwrap_err() {
        ClientError::Refused(text) => text,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_session_has_the_bytes_of_the_original() {
    let (mut client, mut peer) = pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            peer.write_all(BANNER_BYTES).unwrap();
            assert_next(&mut peer, LOGIN_BYTES);
            peer.write_all(b"\0\x03ok\0").unwrap();
            assert_next(&mut peer, b"\0\x05ping\0");
            peer.write_all(b"\0\x07pong\x000\0").unwrap();
            assert_next(&mut peer, b"\0\x05ping\0\0\x05ping\0");
            peer.write_all(b"\0\x07pong\x001\0\0\x07pong\x002\0").unwrap();
            assert_next(&mut peer, b"\0\x08unknown\0");
        });
        client.login("test", "12345", Dialect::Classic).unwrap();
        client.write(&["ping"]).unwrap();
        assert_eq!(client.read().unwrap().unwrap(), [b"pong", b"0".as_slice()]);
        client.write(&["ping"]).unwrap();
        client.write(&["ping"]).unwrap();
        assert_eq!(client.read().unwrap().unwrap(), [b"pong", b"1".as_slice()]);
        assert_eq!(client.read().unwrap().unwrap(), [b"pong", b"2".as_slice()]);
        client.write(&["unknown"]).unwrap();
        assert_eq!(client.read().unwrap(), None);
    });
}

#[test]
fn a_login_succeeds_with_the_verdict_of_its_own_dialect_only() {
    for dialect in [Dialect::Classic, Dialect::Status] {
        login(dialect.verdict_ok(), dialect).unwrap();
    }
    assert_eq!(kind(login(&["status", "ok"], Dialect::Classic)), ErrorKind::InvalidData);
    for verdict in [["ok"].as_slice(), &["No."], &[], &["status", "maybe"], &["status"], &["status", "error"]]
    {
        assert_eq!(kind(login(verdict, Dialect::Status)), ErrorKind::InvalidData, "{verdict:?}");
    }
    assert_eq!(kind(login(&[], Dialect::Classic)), ErrorKind::InvalidData);
}

#[test]
fn a_refusal_is_the_sentence_of_the_server_harmless_for_a_terminal() {
    for dialect in [Dialect::Classic, Dialect::Status] {
        let result = login(&dialect.verdict_error("\x1b[2Jno, não"), dialect);
        assert_eq!(result.as_ref().unwrap_err().to_string(), "the server refuses: \u{fffd}[2Jno, não");
        assert_eq!(refusal(result), "\u{fffd}[2Jno, não");
    }
}

#[test]
fn nothing_is_sent_after_a_wrong_greeting() {
    for greeting in
        [["version", "2"].as_slice(), &["version"], &["version", "1", ""], &["hello"], &[], &["1", "version"]]
    {
        let mut bytes = Vec::new();
        message::write_array(&mut bytes, greeting).unwrap();
        let (mut client, peer) = told(&bytes);
        assert_eq!(kind(client.login("test", "12345", Dialect::Classic)), ErrorKind::InvalidData);
        assert_eq!(rest(client, peer), b"");
    }
}

#[test]
fn a_server_that_closes_before_the_verdict_is_an_early_end() {
    for bytes in [b"".as_slice(), b"\0", b"\0\x0aversion", BANNER_BYTES, b"\0\x0aversion\x001\0\0\x03o"] {
        let (mut client, _peer) = told(bytes);
        let error = client.login("test", "12345", Dialect::Classic).unwrap_err();
        assert_eq!(error.to_string(), "cannot talk with the message server");
        assert_eq!(kind(Err::<(), _>(error)), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn the_verdict_is_read_even_if_the_server_took_nothing_of_the_login() {
    let (mut client, peer) = told(b"\0\x0aversion\x001\0\0\x04No.\0");
    drop(peer);
    assert_eq!(refusal(client.login("test", "12345", Dialect::Classic)), "No.");
}

#[test]
fn no_error_and_no_debug_output_shows_the_password() {
    let (mut client, peer) = told(b"\0\x0aversion\x001\0\0\x04No.\0");
    let error = client.login("test", "sesame", Dialect::Status).unwrap_err();
    let shown = format!("{client:?} {error:?} {error}");
    assert!(!shown.contains("sesame"), "{shown}");
    drop(peer);
}

#[test]
fn a_security_message_lets_pass_or_refuses() {
    let check = |said: &[&str]| {
        let mut bytes = Vec::new();
        message::write_array(&mut bytes, said).unwrap();
        told(&bytes).0.check_security()
    };
    check(&["Passed security"]).unwrap();
    assert_eq!(refusal(check(&["SecurityException", "No rights."])), "No rights.");
    for said in [["Passed security", ""].as_slice(), &["SecurityException"], &["pong"], &[]] {
        assert_eq!(kind(check(said)), ErrorKind::InvalidData);
    }
    assert_eq!(kind(told(b"").0.check_security()), ErrorKind::UnexpectedEof);
}

#[test]
fn the_end_is_none_at_a_message_border_and_an_error_inside_a_message() {
    let (mut client, _peer) = told(b"\0\x03ok\0");
    assert_eq!(client.read().unwrap(), Some(vec![b"ok".to_vec()]));
    assert_eq!(client.read().unwrap(), None);
    assert_eq!(client.read_scalar(9).unwrap(), None);
    for bytes in [b"\0".as_slice(), b"\0\x03", b"\0\x03ok"] {
        assert_eq!(kind(told(bytes).0.read()), ErrorKind::UnexpectedEof);
    }
    for bytes in [b"\0".as_slice(), b"\0\0\0", b"\0\0\0\x02", b"\0\0\0\x02a"] {
        assert_eq!(kind(told(bytes).0.read_scalar(9)), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn kinds_of_messages_may_be_mixed_and_a_scalar_has_a_maximum() {
    let (mut client, mut peer) = pair();
    let mut writing = MessageClient::from(UnixStream::from(client.as_fd().try_clone_to_owned().unwrap()));
    let big: Vec<u8> = (0..1_000_000).map(|at| at as u8).collect();
    thread::scope(|scope| {
        // An echo.
        scope.spawn(move || {
            let mut reading = peer.try_clone().unwrap();
            io::copy(&mut reading, &mut peer).unwrap();
        });
        client.write(&["a", "", "b c"]).unwrap();
        client.write_scalar(b"\0\r\n").unwrap();
        client.write(&[""]).unwrap();
        client.write_scalar(b"").unwrap();
        client.write::<&str>(&[]).unwrap();
        assert_eq!(client.read().unwrap().unwrap(), [b"a".as_slice(), b"", b"b c"]);
        assert_eq!(client.read_scalar(3).unwrap().unwrap(), b"\0\r\n");
        assert_eq!(client.read().unwrap().unwrap(), [b""]);
        assert_eq!(client.read_scalar(0).unwrap().unwrap(), b"");
        assert_eq!(client.read().unwrap().unwrap(), Vec::<Vec<u8>>::new());

        scope.spawn(|| writing.write_scalar(&big).unwrap());
        assert_eq!(client.read_scalar(1_000_000).unwrap().unwrap(), big);

        client.write_scalar(b"four").unwrap();
        assert_eq!(kind(client.read_scalar(3)), ErrorKind::InvalidData);
        client.shutdown_write().unwrap();
    });
}

#[test]
fn what_cannot_be_written_is_the_callers_mistake_and_sends_nothing() {
    let (mut client, peer) = pair();
    assert_eq!(kind(client.write(&["a\0b"])), ErrorKind::InvalidInput);
    assert_eq!(kind(client.write(&["x".repeat(65_535)])), ErrorKind::InvalidInput);
    client.write(&["ok"]).unwrap();
    assert_eq!(rest(client, peer), b"\0\x03ok\0");
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let (mut client, _peer) = pair();
    client.set_timeout(Some(Duration::from_millis(1))).unwrap();
    let error = client.read().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("within the time that was set"), "{error}");
    assert_eq!(kind(client.set_timeout(Some(Duration::ZERO))), ErrorKind::InvalidInput);
    client.set_timeout(Some(Duration::MAX)).unwrap();
    client.set_timeout(None).unwrap();
}

/// The timeouts of the original's MessageIOTest.
#[test]
fn whatever_a_message_lacks_is_waited_for_and_what_is_there_is_not() {
    for there in [b"".as_slice(), b"\0", b"\0\x05", b"\0\x05pin"] {
        let (mut client, mut peer) = pair();
        peer.write_all(there).unwrap();
        client.set_timeout(Some(Duration::from_nanos(1))).unwrap();
        assert_eq!(kind(client.read()), ErrorKind::TimedOut, "{there:?}");
    }
    for there in [b"".as_slice(), b"\0\0\0", b"\0\0\0\x04", b"\0\0\0\x04pin"] {
        let (mut client, mut peer) = pair();
        peer.write_all(there).unwrap();
        client.set_timeout(Some(Duration::from_nanos(1))).unwrap();
        assert_eq!(kind(client.read_scalar(100)), ErrorKind::TimedOut, "{there:?}");
        assert_eq!(kind(client.read_fd_unasked()), ErrorKind::TimedOut);
    }
    // No time is needed for what is there.
    let (mut client, mut peer) = pair();
    peer.write_all(b"\0\x05ping\0\0\0\0\x04pong\0\x08pass IO\0\0\x07got IO\0").unwrap();
    client.set_timeout(Some(Duration::from_nanos(1))).unwrap();
    assert_eq!(client.read().unwrap().unwrap(), [b"ping"]);
    assert_eq!(client.read_scalar(4).unwrap().unwrap(), b"pong");
    client.write_fd(File::open("/dev/null").unwrap().as_fd()).unwrap();
    client.write(&["still here"]).unwrap();
}

#[test]
fn the_time_of_a_call_is_over_although_the_peer_says_or_reads_a_little_all_the_time() {
    // Until the client has gone.
    let a_moment_later = |peer: &UnixStream| !sys::wait_readable(peer, Duration::from_millis(1)).unwrap();
    let (mut client, mut peer) = pair();
    client.set_timeout(Some(Duration::from_millis(50))).unwrap();
    let dripping = thread::spawn(move || {
        peer.write_all(&[0xff; 2]).unwrap();
        while a_moment_later(&peer) && peer.write_all(b"x").is_ok() {}
    });
    assert_eq!(kind(client.login("test", "12345", Dialect::Classic)), ErrorKind::TimedOut);
    drop(client);
    dripping.join().unwrap();

    let (mut client, peer) = pair();
    client.set_timeout(Some(Duration::from_millis(50))).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let sipping =
        thread::spawn(move || while a_moment_later(&other) && (&peer).read(&mut [0; 4096]).is_ok() {});
    assert_eq!(kind(client.write_scalar(&vec![0; 64 << 20])), ErrorKind::TimedOut);
    drop((client, one));
    sipping.join().unwrap();
}

#[test]
fn a_descriptor_travels_both_ways_and_messages_follow_it() {
    let (mut client, peer) = pair();
    let mut peer = MessageClient::from(peer);
    let (reading, writing) = sys::pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let fd = peer.read_fd().unwrap();
            peer.write(&["mine now"]).unwrap();
            peer.write_fd(fd.as_fd()).unwrap();
            peer.write_scalar(b"yours again").unwrap();
        });
        client.write_fd(writing.as_fd()).unwrap();
        drop(writing);
        assert_eq!(client.read().unwrap().unwrap(), [b"mine now"]);
        let back = client.read_fd().unwrap();
        assert_eq!(client.read_scalar(100).unwrap().unwrap(), b"yours again");
        File::from(back).write_all(b"through").unwrap();
    });
    let mut text = String::new();
    File::from(reading).read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[test]
fn a_descriptor_that_is_sent_has_the_bytes_of_the_original() {
    let (mut client, mut peer) = told(b"\0\x08pass IO\0\0\x07got IO\0");
    let (_reading, writing) = sys::pipe().unwrap();
    client.write_fd(writing.as_fd()).unwrap();
    let mut buffer = [1; 9];
    let (length, fds) = sys::receive_with_fds(&peer, &mut buffer).unwrap();
    assert_eq!((length, buffer[0], fds.len()), (1, 0, 1));
    client.write_fd_unasked(writing.as_fd()).unwrap();
    let (length, fds) = sys::receive_with_fds(&peer, &mut buffer).unwrap();
    assert_eq!((length, buffer[0], fds.len()), (1, 0, 1));
    drop(client);
    assert_eq!(peer.read(&mut buffer).unwrap(), 0);
}

#[test]
fn a_descriptor_that_is_received_has_the_bytes_of_the_original() {
    let (mut client, mut peer) = pair();
    let (_reading, writing) = sys::pipe().unwrap();
    sys::send_with_fds(&peer, &[0], &[writing.as_fd()]).unwrap();
    peer.write_all(b"\0\x03ok\0").unwrap();
    sys::send_with_fds(&peer, &[0], &[writing.as_fd()]).unwrap();
    client.read_fd().unwrap();
    assert_next(&mut peer, b"\0\x08pass IO\0\0\x07got IO\0");
    assert_eq!(client.read().unwrap().unwrap(), [b"ok"]);
    client.read_fd_unasked().unwrap();
    assert_eq!(rest(client, peer), b"");
}

#[test]
fn a_descriptor_is_not_sent_to_a_peer_that_does_not_ask_for_it() {
    let (_reading, writing) = sys::pipe().unwrap();
    for bytes in [b"\0\x07got IO\0".as_slice(), b"\0\x09pass IO\0\0", b"\0\0"] {
        let (mut client, peer) = told(bytes);
        assert_eq!(kind(client.write_fd(writing.as_fd())), ErrorKind::InvalidData);
        assert_eq!(rest(client, peer), b"");
    }
    assert_eq!(kind(told(b"").0.write_fd(writing.as_fd())), ErrorKind::UnexpectedEof);
}

#[test]
fn a_descriptor_that_is_not_confirmed_is_an_error() {
    let (_reading, writing) = sys::pipe().unwrap();
    for (bytes, expected) in [
        (b"\0\x08pass IO\0\0\x08pass IO\0".as_slice(), ErrorKind::InvalidData),
        (b"\0\x08pass IO\0\0\x08got IO\0\0", ErrorKind::InvalidData),
        (b"\0\x08pass IO\0", ErrorKind::UnexpectedEof),
        (b"\0\x08pass IO\0\0\x07got", ErrorKind::UnexpectedEof),
    ] {
        let (mut client, _peer) = told(bytes);
        assert_eq!(kind(client.write_fd(writing.as_fd())), expected);
    }
}

#[test]
fn what_is_not_exactly_one_descriptor_is_an_error_and_not_confirmed() {
    let (mut client, peer) = told(b"\0\x03ok\0");
    assert_eq!(kind(client.read_fd()), ErrorKind::InvalidData);
    assert_eq!(rest_after_reset(client, peer), b"\0\x08pass IO\0");

    let (mut client, peer) = told(b"");
    assert_eq!(kind(client.read_fd()), ErrorKind::UnexpectedEof);
    assert_eq!(rest(client, peer), b"\0\x08pass IO\0");

    let (mut client, peer) = pair();
    let (reading, writing) = sys::pipe().unwrap();
    sys::send_with_fds(&peer, &[0], &[writing.as_fd(), writing.as_fd()]).unwrap();
    assert_eq!(kind(client.read_fd()), ErrorKind::InvalidData);
    assert_eq!(rest(client, peer), b"\0\x08pass IO\0");
    // Both copies are closed.
    drop(writing);
    assert_eq!(File::from(reading).read(&mut [0]).unwrap(), 0);
}

/// As [`rest`], for a client that leaves bytes unread, whose end is a reset on some systems.
#[track_caller]
fn rest_after_reset(client: MessageClient, mut peer: UnixStream) -> Vec<u8> {
    drop(client);
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    rest
}

#[test]
fn an_address_leads_to_a_tcp_port_where_no_descriptor_can_travel() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_read_timeout(Some(LONG)).unwrap();
            peer.write_all(BANNER_BYTES).unwrap();
            assert_next(&mut peer, LOGIN_BYTES);
            peer.write_all(b"\0\x0astatus\0ok\0").unwrap();
            assert_next(&mut peer, b"\0\x05ping\0");
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        });
        let mut client = MessageClient::open(&address, "test", b"12345", Dialect::Status).unwrap();
        client.set_timeout(Some(LONG)).unwrap();
        assert_eq!(kind(client.read_fd()), ErrorKind::Unsupported);
        assert_eq!(kind(client.read_fd_unasked()), ErrorKind::Unsupported);
        assert_eq!(kind(client.write_fd(listener.as_fd())), ErrorKind::Unsupported);
        assert_eq!(kind(client.write_fd_unasked(listener.as_fd())), ErrorKind::Unsupported);
        client.write(&["ping"]).unwrap();
        client.shutdown_write().unwrap();
        assert_eq!(client.read().unwrap(), None);
    });
}

#[test]
fn an_address_of_another_form_is_refused_and_a_path_must_be_there() {
    for address in ["", "/run/x", "http://localhost:80", "tcp:localhost:80", "tcp://localhost", "tcp://:x"] {
        assert_eq!(kind(MessageClient::from_address(address)), ErrorKind::InvalidInput, "{address}");
    }
    assert_eq!(kind(MessageClient::from_address("unix:/nowhere/at/all")), ErrorKind::NotFound);
    assert_eq!(kind(MessageClient::connect_unix("x".repeat(200))), ErrorKind::InvalidInput);
}
