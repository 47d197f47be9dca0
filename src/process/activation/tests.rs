//! What a manager can pass, right and wrong, and which listener gets it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::*;

fn passed(fds: Vec<(OwnedFd, &str)>) -> Passed {
    Passed { fds: fds.into_iter().map(|(fd, name)| (fd, name.to_owned())).collect() }
}

fn config(listen: Vec<ListenAt>) -> Config {
    let mut config = Config::default();
    config.listen = listen;
    config
}

#[track_caller]
fn opened(fds: Vec<(OwnedFd, &str)>, listen: &[ListenAt]) -> Vec<Listener> {
    listeners(passed(fds), &config(listen.to_vec()), &Notify::from_env()).unwrap()
}

#[track_caller]
fn refused(fds: Vec<(OwnedFd, &str)>, listen: &[ListenAt]) -> String {
    let error = listeners(passed(fds), &config(listen.to_vec()), &Notify::from_env()).unwrap_err();
    assert_eq!((error.kind(), error.exit_status()), (ErrorKind::Bind, 1));
    error.chain()
}

/// A listening TCP socket as a manager opens it, and its address, whose IP is no other test's: when it is closed, nobody
/// else has it.
fn tcp() -> (OwnedFd, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let listener =
        TcpListener::bind(SocketAddr::from(([127, 0, 9, NEXT.fetch_add(1, Ordering::Relaxed)], 0))).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener.into(), addr)
}

fn at(addr: SocketAddr) -> ListenAt {
    ListenAt::tcp(&addr.ip().to_string(), addr.port())
}

/// Shows that who connects there reaches this listener.
#[track_caller]
fn reaches(addr: SocketAddr, listener: &Listener) {
    let client = TcpStream::connect(addr).unwrap();
    let (_stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, crate::net::PeerAddr::Ip(client.local_addr().unwrap()));
}

#[test]
fn a_name_decides_before_the_address_and_the_order_is_that_of_the_configuration() {
    let [(first, first_addr), (second, second_addr)] = [tcp(), tcp()];
    let listen = [ListenAt::tcp(&second_addr.ip().to_string(), 0).named("any"), at(first_addr)];
    // The second fits the first listener by its name; the first fits the second one, by its address.
    let found = opened(vec![(first, "samplechat.socket"), (second, "any")], &listen);
    assert_eq!([found[0].name(), found[1].name()], ["any", listen[1].name.as_str()]);
    reaches(second_addr, &found[0]);
    reaches(first_addr, &found[1]);
}

#[test]
fn an_address_is_found_in_each_way_to_write_it() {
    let (wildcard, addr) = {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let addr = listener.local_addr().unwrap();
        (OwnedFd::from(listener), addr)
    };
    let found = opened(vec![(wildcard, "")], &[ListenAt::tcp("*", addr.port())]);
    reaches(SocketAddr::from(([127, 0, 0, 1], addr.port())), &found[0]);

    let named = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = named.local_addr().unwrap();
    let found = opened(vec![(named.into(), "unknown")], &[ListenAt::tcp("localhost", addr.port())]);
    assert_eq!(found.len(), 1);
    reaches(addr, &found[0]);

    let directory = temporary();
    let (path, link) = (directory.join("s"), directory.join("link"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        let _ = fs::remove_file(directory.join("s"));
        let listener = UnixListener::bind(directory.join("s")).unwrap();
        let found = opened(vec![(listener.into(), "samplechat.socket")], &[ListenAt::unix(path)]);
        let _client = UnixStream::connect(path).unwrap();
        found[0].accept().unwrap();
        drop(found);
        assert!(path.exists(), "a path of the manager's is not removed");
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn port_0_takes_a_socket_of_its_host_that_no_other_listener_asks_for() {
    let [(first, first_addr), (second, second_addr)] = [tcp(), tcp()];
    let any = |addr: SocketAddr| ListenAt::tcp(&addr.ip().to_string(), 0);
    let listen = [any(first_addr), at(first_addr), any(second_addr)];
    let found = opened(vec![(first, ""), (second, "chat.socket")], &listen);
    assert_eq!(found.len(), 3);
    assert_ne!(found[0].local_addr(), LocalAddr::Ip(first_addr), "this one is opened");
    reaches(first_addr, &found[1]);
    reaches(second_addr, &found[2]);

    let (third, third_addr) = tcp();
    let found = opened(vec![(third, "kept-gone")], &[any(third_addr)]);
    assert_ne!(found[0].local_addr(), LocalAddr::Ip(third_addr), "what was kept is for its own name");
}

#[test]
fn several_sockets_of_one_name_go_each_to_its_listener() {
    let directory = temporary();
    let path = directory.join("s");
    let unix = UnixListener::bind(&path).unwrap();
    let [(first, first_addr), (second, second_addr)] = [tcp(), tcp()];
    let listen = [at(first_addr).named("chat"), ListenAt::unix(&path), at(second_addr)];
    let found = opened(vec![(first, "chat"), (unix.into(), "chat"), (second, "chat")], &listen);
    assert_eq!(found.iter().map(|found| found.at().clone()).collect::<Vec<_>>(), listen);
    reaches(first_addr, &found[0]);
    reaches(second_addr, &found[2]);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_not_passed_is_opened() {
    let (fd, addr) = tcp();
    let directory = temporary();
    let path = directory.join("s");
    let found = opened(vec![(fd, "")], &[ListenAt::unix(&path), at(addr)]);
    assert_eq!(found.len(), 2);
    UnixStream::connect(&path).unwrap();
    found[0].accept().unwrap();
    reaches(addr, &found[1]);
    drop(found);
    assert!(!path.exists(), "this one is ours");
    fs::remove_dir_all(directory).unwrap();
    assert_eq!(opened(Vec::new(), &[ListenAt::tcp("127.0.0.1", 0)]).len(), 1);
}

#[test]
fn what_is_no_listener_of_ours_is_closed() {
    let [(fd, addr), (kept, kept_addr)] = [tcp(), tcp()];
    let file = File::open("/dev/null").unwrap();
    let fds = vec![(fd, "other.socket"), (file.into(), "a file"), (kept, "kept-other")];
    assert_eq!(opened(fds, &[ListenAt::tcp("127.0.0.1", 0)]).len(), 1);
    for addr in [addr, kept_addr] {
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), IoKind::ConnectionRefused);
    }
}

#[test]
fn the_same_socket_twice_is_one_listener_and_the_units_wins() {
    let (fd, addr) = tcp();
    let again = fd.try_clone().unwrap();
    let listen = [at(addr).named("chat")];
    let found = opened(vec![(again, "kept-chat"), (fd, "chat")], &listen);
    assert_eq!(found.len(), 1);
    reaches(addr, &found[0]);
    drop(found);
    assert!(TcpStream::connect(addr).is_err(), "no duplicate is left");
}

#[test]
fn every_descriptor_that_is_not_what_its_name_or_address_says_is_told_of_at_once() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_addr = udp.local_addr().unwrap();
    let (other, other_addr) = tcp();
    let file = File::open("/dev/null").unwrap();
    let directory = temporary();
    let unix = UnixListener::bind(directory.join("there")).unwrap();
    let datagrams = UnixDatagram::bind(directory.join("datagrams")).unwrap();
    let (busy, busy_addr) = tcp();
    let listen = [
        at(udp_addr).named("udp"),
        ListenAt::tcp("127.0.0.1", 1).named("port"),
        ListenAt::tcp("127.0.0.1", 0).named("file"),
        ListenAt::unix(directory.join("here")).named("path"),
        ListenAt::unix(directory.join("datagrams")).named("datagrams"),
        at(busy_addr).named("busy"),
    ];
    let fds: Vec<(OwnedFd, &str)> = vec![
        (udp.into(), "samplechat.socket"),
        (other, "port"),
        (file.into(), "file"),
        (unix.into(), "path"),
        (datagrams.into(), ""),
    ];
    let text = refused(fds, &listen);
    for line in [
        "the inherited descriptor for udp is not a stream socket".to_owned(),
        format!("the inherited descriptor for port listens on {other_addr}"),
        "the inherited descriptor for file is not a socket: ".to_owned(),
        format!("the inherited descriptor for path listens on {}", directory.join("there").display()),
        "the inherited descriptor for datagrams is not a stream socket".to_owned(),
        format!("cannot listen on {busy_addr}: another program listens there"),
    ] {
        assert!(text.lines().any(|told| told.starts_with(&line)), "{line}: {text}");
    }
    drop(busy);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_connected_socket_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let _client = TcpStream::connect(addr).unwrap();
    let (connection, _) = listener.accept().unwrap();
    drop(listener);
    // As a unit with Accept=yes passes it.
    let text = refused(vec![(connection.into(), "connection")], &[at(addr)]);
    assert!(text.starts_with(&format!("the inherited descriptor for {addr} is not listening")), "{text}");
}

#[test]
fn a_kept_socket_is_found_by_its_name_as_the_manager_can_hold_it() {
    let (fd, addr) = tcp();
    let listen = [at(addr)];
    let name = stored_name(&listen[0].name).unwrap();
    assert_eq!(name, format!("kept-{}%3A{}", addr.ip(), addr.port()));
    reaches(addr, &opened(vec![(fd, name.as_str())], &listen)[0]);

    // One of ours was bound beside its path.
    let directory = temporary();
    let path = directory.join("s");
    let bound = opened(Vec::new(), &[ListenAt::unix(&path)]);
    let fd = bound[0].descriptor().unwrap().try_clone_to_owned().unwrap();
    // What a crash leaves.
    std::mem::forget(bound);
    let name = stored_name(&path.display().to_string()).unwrap();
    let found = opened(vec![(fd, name.as_str())], &[ListenAt::unix(&path)]);
    UnixStream::connect(&path).unwrap();
    found[0].accept().unwrap();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_kept_socket_that_fits_no_more_is_replaced_and_stops_nobody() {
    let [(moved, _), (free, addr)] = [tcp(), tcp()];
    drop(free);
    let directory = temporary();
    let path = directory.join("s");
    let unreachable = UnixListener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let file = File::open("/dev/null").unwrap();
    let listen = [at(addr).named("chat"), ListenAt::unix(&path).named("path")];
    let fds =
        vec![(moved, "kept-chat"), (unreachable.into(), "kept-path"), (OwnedFd::from(file), "kept-chat")];
    let found = opened(fds, &listen);
    reaches(addr, &found[0]);
    UnixStream::connect(&path).unwrap();
    found[1].accept().unwrap();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_variables_name_descriptors_from_3_on() {
    let taken = |count: &str, names: Option<&str>| {
        let mut there: BTreeMap<RawFd, OwnedFd> =
            (3..6).map(|fd| (fd, File::open("/dev/null").unwrap().into())).collect();
        let take = |fd: RawFd| there.remove(&fd).ok_or_else(|| IoKind::NotFound.into());
        Passed::of_variables(count, names, take)
            .map(|passed| passed.fds.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
            .map_err(|error| error.chain())
    };
    assert_eq!(taken("0", None), Ok(Vec::new()));
    assert_eq!(taken("2", None), Ok(vec![String::new(); 2]));
    assert_eq!(taken("2", Some("a:b")), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(taken("3", Some("a::b")), Ok(vec!["a".to_owned(), String::new(), "b".to_owned()]));
    for (count, names, what) in [
        ("4", None, "LISTEN_FDS=4: descriptor 6 was not passed: "),
        ("2147483647", None, "LISTEN_FDS=2147483647: descriptor 6 was not passed: "),
        ("3", Some("a:b"), "LISTEN_FDS=3: LISTEN_FDNAMES has another number of names, 2"),
        ("-1", Some("a"), "LISTEN_FDS=-1: LISTEN_FDNAMES has another number of names, 1"),
        ("", None, "LISTEN_FDS=: it is no number of descriptors"),
        ("2x", None, "LISTEN_FDS=2x: it is no number of descriptors"),
    ] {
        let error = taken(count, names).unwrap_err();
        assert!(error.starts_with(what), "{error}");
    }
}

#[test]
fn a_name_for_the_store_is_escaped_and_too_long_a_one_is_none() {
    assert_eq!(stored_name("chat 1").as_deref(), Some("kept-chat 1"));
    assert_eq!(
        stored_name("[::1]:20203 50%\n\u{e9}").as_deref(),
        Some("kept-[%3A%3A1]%3A20203 50%25%0A%C3%A9")
    );
    assert_eq!(stored_name(&"x".repeat(250)).map(|name| name.len()), Some(255));
    assert_eq!(stored_name(&"x".repeat(251)), None);
}

/// A fresh directory.
fn temporary() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("lp-passed-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap();
    path
}
