//! The helpers of `tests/common` do what the tests that lean on them believe.

mod common;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::{Child, Client, Missed, TempDir};

#[test]
fn a_client_hands_out_lines_and_bytes_in_order_and_keeps_them_all() {
    let (mut client, mut server) = tcp_pair();
    server.write_all(b"one\r\ntwo\nabc").unwrap();
    assert_eq!(client.expect_line(), "one");
    client.expect(b"two\na");
    drop(server);
    assert_eq!(client.expect_to_eof(), b"bc");
    client.expect_eof();
    assert_eq!(client.received(), b"one\r\ntwo\nabc");
}

#[test]
#[should_panic(expected = "\"x\" before the end of stream")]
fn a_byte_before_the_end_of_stream_fails_the_test() {
    let (mut client, mut server) = tcp_pair();
    server.write_all(b"x").unwrap();
    drop(server);
    client.expect_eof();
}

#[test]
fn an_unfinished_line_is_no_line_and_is_not_lost() {
    let (mut client, mut server) = tcp_pair();
    server.write_all(b"part").unwrap();
    drop(server);
    assert!(matches!(client.next_line(), Err(Missed::Eof)));
    client.expect(b"part");
}

#[test]
fn a_half_closed_client_still_receives() {
    let (mut client, mut server) = tcp_pair();
    client.send("all");
    client.half_close();
    let mut sent = String::new();
    server.read_to_string(&mut sent).unwrap();
    assert_eq!(sent, "all");
    server.write_all(b"more\n").unwrap();
    assert_eq!(client.expect_line(), "more");
}

#[test]
fn a_reset_reaches_the_server_as_one() {
    let (client, mut server) = tcp_pair();
    client.reset();
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_connects_from_the_address_it_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = if cfg!(target_os = "linux") { Ipv4Addr::new(127, 0, 0, 9) } else { Ipv4Addr::LOCALHOST };
    let client = Client::connect_from(IpAddr::V4(source), listener.local_addr().unwrap());
    assert_eq!(listener.accept().unwrap().1, client.local_addr());
    assert_eq!(client.local_addr().ip(), source);
}

#[test]
fn a_path_is_the_address_of_a_unix_socket() {
    let dir = TempDir::new();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(path.display());
    listener.accept().unwrap().0.write_all(b"hello\n").unwrap();
    assert_eq!(client.expect_line(), "hello");
    drop(dir);
    assert!(!path.exists());
}

#[test]
fn a_child_tells_its_address_its_log_and_its_status() {
    let script = "echo ready, listening on 127.0.0.1:7. >&2; echo last >&2; exit 3";
    let mut child = Child::spawn(Command::new("sh").args(["-c", script]));
    assert_eq!(child.wait_for_address().to_string(), "127.0.0.1:7");
    assert_eq!(child.expect_exit().code(), Some(3));
    assert_eq!(child.expect_log(), ["ready, listening on 127.0.0.1:7.", "last"]);
}

#[test]
fn a_signal_reaches_the_child() {
    let mut child = Child::spawn(Command::new("sleep").arg("60"));
    child.signal("TERM");
    assert_eq!(child.expect_exit().signal(), Some(15));
}

fn tcp_pair() -> (Client, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the kernel has a free port");
    let client = Client::connect(listener.local_addr().expect("a listener has an address"));
    (client, listener.accept().expect("a client is waiting").0)
}
