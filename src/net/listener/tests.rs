//! Listeners against the real kernel: loopback addresses and sockets in fresh temporary directories.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use mio::{Events, Poll};
use socket2::SockRef;

use super::*;

#[track_caller]
fn bind(at: &ListenAt) -> Listener {
    let mut listeners = Listener::bind(at, &Limits::default()).unwrap();
    assert_eq!(listeners.len(), 1);
    listeners.remove(0)
}

#[track_caller]
fn refused(at: &ListenAt) -> String {
    let error = Listener::bind(at, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bind);
    error.chain()
}

/// The next client, waited for through a poll as the loop does.
#[track_caller]
fn accept(listener: &mut Listener) -> (Stream, PeerAddr) {
    let mut poll = Poll::new().unwrap();
    poll.registry().register(listener, Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(4);
    loop {
        match listener.accept() {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll.poll(&mut events, Some(Duration::from_secs(60)));
            }
            other => {
                poll.registry().deregister(listener).unwrap();
                return other.unwrap();
            }
        }
    }
}

fn tcp_addr(listener: &Listener) -> SocketAddr {
    match listener.local_addr() {
        LocalAddr::Ip(addr) => addr,
        LocalAddr::Unix(path) => panic!("{path:?}"),
    }
}

fn unix_at(path: &Path, mode: Option<u32>) -> ListenAt {
    let mut at = ListenAt::unix(path);
    if let ListenAddr::Unix { mode: wanted, .. } = &mut at.addr {
        *wanted = mode;
    }
    at
}

fn tcp_at(host: &str, port: u16, ipv: Ipv) -> ListenAt {
    let mut at = ListenAt::tcp(host, port);
    at.addr = ListenAddr::Tcp { host: host.to_owned(), port, ipv };
    at
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn an_accepted_socket_has_every_option_without_a_further_call() {
    let mut listener = bind(&ListenAt::tcp("127.0.0.1", 0));
    let client = TcpStream::connect(tcp_addr(&listener)).unwrap();
    let (stream, peer) = accept(&mut listener);
    assert_eq!(peer, PeerAddr::Ip(client.local_addr().unwrap()));
    let socket = SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert!(socket.nonblocking().unwrap());
    #[cfg(target_os = "linux")]
    {
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16 * 1024);
        let listening = listener.descriptor().unwrap();
        let listening = SockRef::from(&listening);
        assert!(listening.reuse_address().unwrap());
        assert!(!listening.reuse_port().unwrap());
    }
}

#[test]
fn options_that_are_off_are_off_on_the_accepted_socket() {
    let limits = Limits {
        tcp_nodelay: false,
        keepalive: None,
        tcp_user_timeout: None,
        tcp_notsent_lowat: None,
        ..Limits::default()
    };
    let mut listener = Listener::bind(&ListenAt::tcp("127.0.0.1", 0), &limits).unwrap().remove(0);
    let _client = TcpStream::connect(tcp_addr(&listener)).unwrap();
    let (stream, _) = accept(&mut listener);
    let socket = SockRef::from(&stream);
    assert!(!socket.tcp_nodelay().unwrap());
    assert!(!socket.keepalive().unwrap());
}

#[test]
fn a_wildcard_takes_both_versions_and_shows_ipv4_peers_as_ipv4() {
    if !has_ipv6() {
        return;
    }
    for host in ["*", "::"] {
        let mut listener = bind(&ListenAt::tcp(host, 0));
        let port = tcp_addr(&listener).port();
        assert!(tcp_addr(&listener).is_ipv6());
        assert_eq!(listener.local_addr().hint(), format!("telnet 127.0.0.1 {port}"));
        let _four = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (stream, peer) = accept(&mut listener);
        assert_eq!(peer.to_string(), "127.0.0.1");
        assert_eq!(stream.local_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
        let _six = TcpStream::connect(("::1", port)).unwrap();
        assert_eq!(accept(&mut listener).1.to_string(), "::1");
    }
}

#[test]
fn ipv6_alone_leaves_the_same_port_of_ipv4_free() {
    if !has_ipv6() {
        return;
    }
    // A client of another test may hold the number on IPv4 by chance, but not each time.
    let free = (0..16).any(|_| {
        let six = bind(&tcp_at("*", 0, Ipv::V6));
        let port = tcp_addr(&six).port();
        assert!(SockRef::from(&six.descriptor().unwrap()).only_v6().unwrap());
        Listener::bind(&tcp_at("*", port, Ipv::V4), &Limits::default()).is_ok()
    });
    assert!(free);
}

#[test]
fn a_wildcard_falls_back_to_ipv4_where_ipv6_is_missing() {
    for missing in
        [io::Error::from(io::ErrorKind::AddrNotAvailable), io::Error::from_raw_os_error(EAFNOSUPPORT)]
    {
        let without = |addr: SocketAddr, versions| match addr {
            SocketAddr::V6(_) => Err(match missing.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => missing.kind().into(),
            }),
            SocketAddr::V4(_) => open(addr, versions, 8, &Limits::default()),
        };
        let bound = bind_host("*", 0, Ipv::Any, &without).unwrap();
        assert!(bound[0].addr.is_ipv4());
        assert!(TcpStream::connect(("127.0.0.1", bound[0].addr.port())).is_ok());
        // Whoever asked for IPv6 by name is told.
        assert!(bind_host("*", 0, Ipv::V6, &without).is_err());
        assert!(bind_host("::", 0, Ipv::Any, &without).is_err());
    }
}

#[test]
fn another_error_of_the_wildcard_is_no_reason_to_fall_back() {
    let calls = std::cell::Cell::new(0);
    let busy = |_: SocketAddr, _| {
        calls.set(calls.get() + 1);
        Err(io::ErrorKind::AddrInUse.into())
    };
    assert!(bind_host("*", 1, Ipv::Any, &busy).is_err());
    assert_eq!(calls.get(), 1);
}

#[test]
fn several_addresses_on_port_0_share_a_number_that_is_free_on_all() {
    let addrs = ["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    let calls = std::cell::Cell::new(0);
    let busy_once = |addr: SocketAddr, versions| {
        calls.set(calls.get() + 1);
        if calls.get() == 2 {
            Err(io::ErrorKind::AddrInUse.into())
        } else {
            open(addr, versions, 8, &Limits::default())
        }
    };
    let bound = bind_addrs(&addrs, &busy_once).unwrap();
    assert_eq!(bound.len(), 2);
    assert_eq!(bound[0].addr.port(), bound[1].addr.port());
    assert!(calls.get() >= 4, "{}", calls.get());
}

#[test]
fn an_address_of_a_name_that_the_host_lacks_is_passed_over_unless_it_is_the_only_one() {
    let lacking = |addr: SocketAddr, versions| match addr {
        SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        SocketAddr::V4(_) => open(addr, versions, 8, &Limits::default()),
    };
    let six = "[::1]:0".parse().unwrap();
    let bound = bind_addrs(&[six, "127.0.0.1:0".parse().unwrap()], &lacking).unwrap();
    assert_eq!(bound.len(), 1);
    assert!(bind_addrs(&[six], &lacking).is_err());
}

#[test]
fn a_name_is_resolved_and_filtered_by_version() {
    let listener = bind(&tcp_at("localhost", 0, Ipv::V4));
    assert!(tcp_addr(&listener).ip().is_loopback());
    assert!(tcp_addr(&listener).is_ipv4());
}

#[test]
fn an_address_of_the_other_version_is_refused() {
    assert!(refused(&tcp_at("127.0.0.1", 0, Ipv::V6)).contains("ipv"));
    assert!(refused(&tcp_at("::1", 0, Ipv::V4)).contains("[::1]:0"));
}

#[test]
fn every_failing_address_is_told_at_once_and_none_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    let ats = [
        ListenAt::unix(&path),
        ListenAt::tcp("127.0.0.1", taken_port),
        ListenAt::tcp("203.0.113.77", 0),
        ListenAt::unix(directory.path("missing/chat.sock")),
    ];
    let error = Listener::bind_all(&ats, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bind);
    let text = error.chain();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].contains(&format!("127.0.0.1:{taken_port}")) && lines[0].contains("choose another port"),
        "{text}"
    );
    assert!(lines[1].contains("203.0.113.77:0") && lines[1].contains("no such address"), "{text}");
    assert!(lines[2].contains("directory does not exist"), "{text}");
    assert!(!path.exists());
}

/// The error of `new` on the port of `old`, which this server has open.
#[track_caller]
fn refused_beside(old: &Listener, new: &str) -> String {
    let at = ListenAt::tcp(new, tcp_addr(old).port());
    let others = [Other { listener: old, goes: true }];
    Listener::bind_all_beside(&[at], &Limits::default(), &others).unwrap_err().chain()
}

#[test]
fn a_listener_of_this_server_that_is_in_the_way_is_told_from_another_program() {
    let mut pairs = vec![("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("127.0.0.1", "127.0.0.1")];
    if has_ipv6() {
        pairs.extend([("*", "127.0.0.1"), ("127.0.0.1", "*"), ("*", "::1"), ("::1", "*"), ("*", "0.0.0.0")]);
    }
    for (old, new) in pairs {
        let old = bind(&ListenAt::tcp(old, 0));
        let error = refused_beside(&old, new);
        let expected = format!(": this server's own listener on {} is to go, but has", old.local_addr());
        assert!(error.contains(&expected) && !error.contains("another program"), "{new}: {error}");
    }
    // Ours has the number on another address.
    let ours = bind(&ListenAt::tcp("127.99.1.1", 0));
    let _theirs = TcpListener::bind(("127.99.1.3", tcp_addr(&ours).port())).unwrap();
    let error = refused_beside(&ours, "127.99.1.3");
    assert!(error.contains("another program listens there"), "{error}");
}

#[test]
fn two_listeners_of_one_configuration_that_exclude_each_other_are_told_so() {
    let holder = bind(&ListenAt::tcp("127.99.1.2", 0));
    let port = tcp_addr(&holder).port();
    drop(holder);
    let ats = [ListenAt::tcp("127.99.1.2", port), ListenAt::tcp("0.0.0.0", port)];
    let error = Listener::bind_all(&ats, &Limits::default()).unwrap_err().chain();
    let expected = format!("listener on 127.99.1.2:{port} has the port already; leave one of the two out");
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn the_remedy_for_a_low_port_names_the_right_that_is_missing() {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    assert!(bind_error("x", 80, denied()).to_string().contains("CAP_NET_BIND_SERVICE"));
    assert!(!bind_error("x", 8080, denied()).to_string().contains("1024"));
}

#[test]
fn a_rebind_keeps_the_port_that_the_kernel_chose() {
    // An address of its own, so that no parallel test takes the number between the two binds.
    let mut listener = bind(&ListenAt::tcp("127.0.0.9", 0).named("chat"));
    let before = tcp_addr(&listener);
    listener.rebind(&Limits::default()).unwrap();
    assert_eq!((tcp_addr(&listener), listener.name()), (before, "chat"));
    let _client = TcpStream::connect(before).unwrap();
    accept(&mut listener);
}

#[test]
fn a_unix_listener_has_its_mode_tells_the_peer_and_removes_its_path() {
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    let mut listener = bind(&unix_at(&path, Some(0o660)));
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    assert_eq!(listener.local_addr(), LocalAddr::Unix(path.clone()));
    assert_eq!(directory.names(), ["chat.sock"]);
    let mut client = UnixStream::connect(&path).unwrap();
    let (mut stream, peer) = accept(&mut listener);
    #[cfg(feature = "daemon")]
    {
        use std::os::unix::fs::MetadataExt;
        let PeerAddr::Unix(Some(credentials)) = peer else { panic!("{peer:?}") };
        assert_eq!(credentials.uid, fs::symlink_metadata(&path).unwrap().uid());
        #[cfg(target_os = "linux")]
        assert_eq!(credentials.pid, i32::try_from(std::process::id()).ok());
    }
    assert_eq!(peer.to_string(), "unix");
    assert_eq!(stream.write(b"hello\n").unwrap(), 6);
    let mut hello = [0; 6];
    client.read_exact(&mut hello).unwrap();
    client.write_all(b"bye").unwrap();
    drop(listener);
    assert!(!path.exists());
}

// F4
#[test]
fn a_directory_that_everybody_can_write_in_is_refused_unless_it_is_sticky() {
    let directory = TempDir::new();
    let at = unix_at(&directory.0.join("s"), Some(0o600));
    for (mode, fits) in
        [(0o700, true), (0o755, true), (0o775, true), (0o1777, true), (0o777, false), (0o703, false)]
    {
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(mode)).unwrap();
        match Listener::bind(&at, &Limits::default()) {
            Ok(_) => assert!(fits, "{mode:o}"),
            Err(error) => {
                assert!(!fits, "{mode:o}: {}", error.chain());
                assert!(error.chain().contains("everybody can write in its directory"), "{}", error.chain());
            }
        }
    }
}

// F5
#[test]
fn a_link_put_in_the_place_of_a_fresh_socket_changes_nothing_elsewhere() {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    let directory = TempDir::new();
    let victim = directory.0.join("victim");
    fs::write(&victim, "").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let (at, over) = (unix_at(&directory.0.join("s"), Some(0o666)), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&directory.0).unwrap().flatten() {
                    if entry.file_name().as_encoded_bytes().starts_with(b".s.") {
                        let _ = fs::remove_file(entry.path());
                        let _ = symlink(&victim, entry.path());
                    }
                }
            }
        });
        for _ in 0..300 {
            // It may fail; what lies in its place is then removed.
            drop(Listener::bind(&at, &Limits::default()));
            let _ = fs::remove_file(directory.0.join("s"));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn mode_and_owner_are_set_before_the_path_appears() {
    // The watcher sees only the final name; whatever it sees there must have the final mode.
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    while_looking(
        || {
            let Ok(found) = fs::symlink_metadata(&path) else { return false };
            assert_eq!(found.permissions().mode() & 0o7777, 0o600);
            true
        },
        || drop(bind(&unix_at(&path, Some(0o600)))),
    );
}

#[test]
fn a_dead_socket_is_replaced_and_its_path_never_vanishes() {
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    let bind_and_die = || bind(&ListenAt::unix(&path)).keep_path();
    bind_and_die();
    while_looking(
        || {
            if let Err(cause) = UnixStream::connect(&path) {
                assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
            }
            true
        },
        bind_and_die,
    );
}

/// Repeats `work`, at least 2000 times, until `look`, on another thread, has seen what it wants to see as often; fails
/// if `look` does.
#[track_caller]
fn while_looking(look: impl Fn() -> bool + Send + Sync, work: impl Fn()) {
    let (seen, worked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let enough = |count: &AtomicUsize| count.load(Ordering::Relaxed) >= 2000;
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            while !enough(&seen) || !enough(&worked) {
                if look() {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        while !looker.is_finished() {
            work();
            worked.fetch_add(1, Ordering::Relaxed);
        }
        looker.join().unwrap();
    });
}

#[test]
fn a_living_server_and_everything_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new();
    let living = directory.path("living.sock");
    let listener = bind(&ListenAt::unix(&living));
    assert!(refused(&ListenAt::unix(&living)).contains("another server is listening"));
    assert!(UnixStream::connect(&living).is_ok());

    fs::write(directory.path("file"), "kept").unwrap();
    fs::create_dir(directory.path("directory")).unwrap();
    symlink(&living, directory.path("link")).unwrap();
    for name in ["file", "directory", "link"] {
        let text = refused(&ListenAt::unix(directory.path(name)));
        assert!(text.contains("not a socket"), "{name}: {text}");
    }
    assert_eq!(fs::read_to_string(directory.path("file")).unwrap(), "kept");

    let _datagrams = UnixDatagram::bind(directory.path("datagrams")).unwrap();
    assert!(refused(&ListenAt::unix(directory.path("datagrams"))).contains("cannot tell"));
    drop(listener);
    assert_eq!(directory.names(), ["datagrams", "directory", "file", "link"]);
}

#[test]
fn a_server_with_a_full_queue_is_alive() {
    let directory = TempDir::new();
    let path = directory.path("full.sock");
    let mut at = ListenAt::unix(&path);
    at.backlog = Some(0);
    let _listener = bind(&at);
    let mut waiting = Vec::new();
    while let Ok(client) = mio::net::UnixStream::connect(&path) {
        waiting.push(client);
        assert!(waiting.len() < 10_000);
    }
    assert!(refused(&at).contains("another server is listening"));
}

#[test]
fn the_path_of_another_server_is_not_removed() {
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    let old = bind(&ListenAt::unix(&path));
    fs::remove_file(&path).unwrap();
    let _new = bind(&ListenAt::unix(&path));
    drop(old);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_rebound_unix_listener_serves_the_same_path_and_still_owns_it() {
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    let mut listener = bind(&ListenAt::unix(&path));
    listener.rebind(&Limits::default()).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    accept(&mut listener);
    drop(listener);
    assert!(directory.names().is_empty());
}

#[test]
fn a_rebind_that_fails_leaves_a_closed_listener_that_may_be_bound_later() {
    let directory = TempDir::new();
    let path = directory.path("chat.sock");
    let mut listener = bind(&ListenAt::unix(&path));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "in the way").unwrap();
    assert!(listener.rebind(&Limits::default()).is_err());
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::NotConnected);
    fs::remove_file(&path).unwrap();
    listener.rebind(&Limits::default()).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    accept(&mut listener);
}

#[test]
fn a_path_may_have_107_bytes_and_one_more_is_refused_with_its_length() {
    let directory = TempDir::new();
    let room = 107 - directory.path("").as_os_str().len();
    let longest = directory.path(&"x".repeat(room));
    assert_eq!(longest.as_os_str().len(), 107);
    drop(bind(&ListenAt::unix(&longest)));
    let text = refused(&ListenAt::unix(directory.path(&"x".repeat(room + 1))));
    assert!(text.contains("108 bytes") && text.contains("at most 107"), "{text}");
    assert!(directory.names().is_empty());
}

#[test]
fn a_path_without_sense_is_refused_in_words() {
    let directory = TempDir::new();
    assert!(refused(&ListenAt::unix(directory.path("a\0b"))).contains("NUL"));
    assert!(refused(&ListenAt::unix("\0abstract")).contains("NUL"));
    assert!(Listener::bind(&ListenAt::unix(""), &Limits::default()).is_err());
    assert!(refused(&ListenAt::unix("/")).contains("names no file"));
    let mut at = ListenAt::unix(directory.path("chat.sock"));
    if let ListenAddr::Unix { owner, .. } = &mut at.addr {
        *owner = Some("no such user".to_owned());
    }
    assert!(refused(&at).contains("no such user"));
    assert!(directory.names().is_empty());
}

#[test]
fn an_inherited_listener_must_be_what_the_configuration_says() {
    let limits = Limits::default();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let at = ListenAt::tcp("127.0.0.1", addr.port());
    let adopt = |fd: OwnedFd, at: &ListenAt| Listener::adopt(fd, at, &limits).map_err(|error| error.chain());

    let mut adopted = adopt(socket.try_clone().unwrap().into(), &at).unwrap();
    let client = TcpStream::connect(addr).unwrap();
    let (stream, _) = accept(&mut adopted);
    assert!(SockRef::from(&stream).tcp_nodelay().unwrap());

    let other_port = ListenAt::tcp("127.0.0.1", addr.port().wrapping_add(1).max(1));
    assert!(adopt(socket.try_clone().unwrap().into(), &other_port).unwrap_err().contains("listens on"));
    assert!(adopt(socket.try_clone().unwrap().into(), &ListenAt::tcp("*", 0)).is_err());
    assert!(adopt(socket.into(), &ListenAt::unix("/x")).unwrap_err().contains("not a Unix socket"));
    assert!(adopt(client.into(), &at).unwrap_err().contains("not listening"));
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(adopt(datagrams.into(), &at).unwrap_err().contains("not a stream"));
    let file = fs::File::open("/dev/null").unwrap();
    assert!(adopt(file.into(), &at).unwrap_err().contains("not a socket"));
}

#[test]
fn a_listener_that_is_shared_keeps_its_options_until_they_are_set() {
    let limits = Limits::default();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = ListenAt::tcp("127.0.0.1", socket.local_addr().unwrap().port());
    let nodelay = || SockRef::from(&socket).tcp_nodelay().unwrap();
    let shared = Listener::share(socket.try_clone().unwrap().into(), &at, &limits).unwrap();
    assert!(!nodelay(), "who serves it now may go on doing so");
    shared.set_options(&limits).unwrap();
    assert!(nodelay());
}

/// A fresh directory, removed with what is in it.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lp-listen-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
