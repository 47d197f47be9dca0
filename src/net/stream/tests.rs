//! Streams against the real kernel.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::{Events, Poll};

use super::*;

/// Waits for an event of `stream`, then calls `done` until it is.
#[track_caller]
fn until<T>(
    stream: &mut Stream,
    mut done: impl FnMut(&mut Stream) -> io::Result<Option<T>>,
) -> io::Result<T> {
    let mut poll = Poll::new().unwrap();
    poll.registry().register(stream, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    let mut events = Events::with_capacity(4);
    let result = loop {
        match done(stream) {
            Ok(Some(value)) => break Ok(value),
            Err(cause) if cause.kind() != io::ErrorKind::WouldBlock => break Err(cause),
            Ok(None) | Err(_) => {
                let _ = poll.poll(&mut events, Some(Duration::from_secs(60)));
            }
        }
    };
    poll.registry().deregister(stream).unwrap();
    result
}

#[track_caller]
fn connected(stream: &mut Stream) -> io::Result<PeerAddr> {
    until(stream, |stream| stream.connected())
}

#[track_caller]
fn read_some(stream: &mut Stream) -> Vec<u8> {
    let mut buf = [0; 64];
    let count = until(stream, |stream| stream.read(&mut buf).map(Some)).unwrap();
    buf[..count].to_vec()
}

#[test]
fn a_tcp_connection_is_made_and_carries_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut stream = Stream::connect(addr, &Limits::default()).unwrap();
    assert_eq!(connected(&mut stream).unwrap(), PeerAddr::Ip(addr));
    let (mut other, _) = listener.accept().unwrap();
    assert!(SockRef::from(&stream).tcp_nodelay().unwrap());
    assert_eq!(stream.local_addr().unwrap(), LocalAddr::Ip(other.peer_addr().unwrap()));

    assert_eq!(stream.write_vectored(&[IoSlice::new(b"one "), IoSlice::new(b"two")]).unwrap(), 7);
    stream.shutdown_write().unwrap();
    let mut text = String::new();
    other.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
    other.write_all(b"reply").unwrap();
    assert_eq!(read_some(&mut stream), b"reply");
    drop(other);
    assert_eq!(read_some(&mut stream), b"");
}

#[test]
fn a_refused_connection_says_why() {
    // Bound but not listening, so that nobody else can take the number meanwhile.
    let socket = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let failed = Stream::connect(addr, &Limits::default()).and_then(|mut stream| connected(&mut stream));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_missing_unix_socket_is_not_found() {
    let missing = std::env::temp_dir().join(format!("lp-none-{}", std::process::id()));
    assert_eq!(Stream::connect_unix(missing).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn writing_to_a_closed_peer_is_an_error_and_no_signal() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    ours.set_nonblocking(true).unwrap();
    let mut streams = [
        Stream::unix(mio::net::UnixStream::from_std(ours.try_clone().unwrap())),
        Stream::adopt(ours.into()).unwrap(),
    ];
    for stream in &mut streams {
        assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let vectored = stream.write_vectored(&[IoSlice::new(b"x")]);
        assert_eq!(vectored.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn more_slices_than_the_system_takes_are_written_in_part() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::adopt(ours.into()).unwrap();
    let slices = vec![IoSlice::new(b"x"); IOV_MAX + 1];
    assert_eq!(stream.write_vectored(&slices).unwrap(), IOV_MAX);
}

#[test]
fn an_adopted_socket_pair_is_a_stream_and_gets_its_flag_back() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let shared = ours.try_clone().unwrap();
    let mut stream = Stream::adopt(ours.into()).unwrap();
    assert!(SockRef::from(&shared).nonblocking().unwrap());
    assert_eq!(stream.local_addr().unwrap(), LocalAddr::Unix(std::path::PathBuf::new()));
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(stream.write(b"hello").unwrap(), 5);
    stream.shutdown_write().unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(stream.connected().unwrap(), Some(PeerAddr::Adopted));
    drop(stream);
    assert!(!SockRef::from(&shared).nonblocking().unwrap());
}

#[test]
fn a_flag_that_was_set_before_stays_set() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let shared = ours.try_clone().unwrap();
    drop(Stream::adopt(ours.into()).unwrap());
    assert!(SockRef::from(&shared).nonblocking().unwrap());
}

#[test]
fn a_pipe_is_read_to_its_end_through_the_poll() {
    let (mut writer, reader) = mio::unix::pipe::new().unwrap();
    let mut stream = Stream::adopt(reader.into()).unwrap();
    stream.shutdown_write().unwrap();
    assert_eq!(stream.local_addr().unwrap_err().kind(), io::ErrorKind::Unsupported);
    writer.write_all(b"line\n").unwrap();
    assert_eq!(read_some(&mut stream), b"line\n");
    drop(writer);
    assert_eq!(read_some(&mut stream), b"");
}

#[test]
fn a_regular_file_is_refused_at_registration_in_words() {
    let path = std::env::temp_dir().join(format!("lp-file-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let poll = Poll::new().unwrap();
    let mut stream = Stream::adopt(file.into()).unwrap();
    let refused = poll.registry().register(&mut stream, Token(0), Interest::READABLE);
    std::fs::remove_file(&path).unwrap();
    if cfg!(target_os = "linux") {
        let cause = refused.unwrap_err();
        assert_eq!(cause.kind(), io::ErrorKind::Unsupported);
        assert!(cause.to_string().contains("cannot be polled"));
    }
}

#[test]
fn an_interrupted_call_is_repeated_and_other_errors_are_not() {
    let mut left = 3;
    let value = uninterrupted(|| {
        left -= 1;
        if left > 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(left) }
    });
    assert_eq!(value.unwrap(), 0);
    let failed: io::Result<()> = uninterrupted(|| Err(io::ErrorKind::WouldBlock.into()));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_stream_has_8_bytes_as_has_the_place_for_one() {
    assert_eq!((size_of::<Stream>(), align_of::<Stream>()), (8, 4));
    assert_eq!(size_of::<Option<Stream>>(), 8);
}
