//! Ports and paths that come, go and stay.
//!
//! Each test has an address of 127.0.0.0/8 to itself: a port that it gives up is nobody else's there.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::common::{Client, TempDir};
use crate::running::{Flow, Gate, quiet, says, server, wait_until};

/// A server with a configuration file.
struct Configured {
    flow: Flow,
    file: PathBuf,
    directory: TempDir,
}

impl Configured {
    #[track_caller]
    fn start(ports: &str) -> Self {
        Self::with_gate(ports, None)
    }

    #[track_caller]
    fn with_gate(ports: &str, gate: Option<String>) -> Self {
        let directory = TempDir::new();
        let file = directory.path().join("x.toml");
        write(&file, &ports.replace("DIR", &directory.path().display().to_string()));
        let mut command = server();
        command.arg("--conf_file").arg(&file).envs(gate.map(|gate| ("FLOW_AT", gate)));
        Self { flow: Flow::started(&mut command), file, directory }
    }

    /// From the next restart on it listens there; `DIR` is its directory.
    #[track_caller]
    fn listen(&self, ports: &str) {
        write(&self.file, &ports.replace("DIR", &self.directory.path().display().to_string()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn write(file: &Path, ports: &str) {
    fs::write(file, format!("port = [{ports}]\n")).expect("a fresh directory is writable");
}

/// The name of the listener that a client came through, as the server knows it.
#[track_caller]
fn listener_of(client: &mut Client) -> String {
    client.send("who\n");
    let who = client.expect_line();
    let (_, after) = who.split_once(" by ").expect("a client knows where it came from");
    after.split_once(": ").expect("a name follows").0.to_owned()
}

// A37
#[test]
fn a_port_that_is_added_is_opened_and_one_that_is_removed_is_closed_after_those_who_wait_there() {
    let kept = "{ host = '127.77.1.1', port = 0, name = 'kept' }";
    let removed = "{ host = '127.77.1.1', port = 0, name = 'removed' }, 'DIR/removed|unix'";
    let added = "{ host = '127.77.1.8', port = 0, name = 'added' }, 'DIR/added|unix'";
    let mut server = Configured::start(&format!("{removed}, {kept}"));
    let flow = &mut server.flow;
    let before = flow.addrs.clone();
    let [mut on_port, mut on_path, mut on_kept] = [0, 1, 2].map(|at| Client::connect(&before[at]));
    for client in [&mut on_port, &mut on_path, &mut on_kept] {
        says(client, "here");
    }
    // Some wait where nobody takes them.
    let path = server.directory.path().join("removed").display().to_string();
    on_kept.send(format!("pause-listener removed\npause-listener {path}|unix\n"));
    says(&mut on_kept, "done");
    let mut waiting: Vec<Client> = before[..2].iter().cycle().take(20).map(Client::connect).collect();
    for client in &waiting {
        client.send("served all the same\n");
    }
    write(
        &server.file,
        &format!("{kept}, {added}").replace("DIR", &server.directory.path().display().to_string()),
    );
    flow.restart();
    assert_eq!(flow.addrs[0], before[2], "the port that stays has its number");
    for addr in &before[..2] {
        flow.child.wait_for(&format!("no longer listening on {addr}"));
    }
    for client in &mut waiting {
        client.expect("served all the same\n");
    }
    assert!(TcpStream::connect(&before[0]).is_err(), "it is closed");
    assert!(!server.directory.path().join("removed").exists());
    for (client, name) in [(&mut on_port, "removed"), (&mut on_kept, "kept")] {
        assert_eq!(listener_of(client), name);
    }
    says(&mut on_path, "still here");
    let mut newcomers: Vec<Client> = flow.addrs[1..].iter().take(2).map(Client::connect).collect();
    assert_eq!(listener_of(&mut newcomers[0]), "added");
    says(&mut newcomers[1], "here");
    let addrs = flow.addrs.clone();
    let log = server.flow.stop();
    quiet(&log);
    for addr in &addrs[1..3] {
        assert!(log.contains(&format!("listening on {addr}; try: ")), "{log}");
    }
    assert_eq!(log.matches(" listening on ").count(), 3 + 2 + 2, "{log}");
    assert!(!server.directory.path().join("added").exists());
}

// A38
#[test]
fn port_0_keeps_its_number_whatever_else_changes() {
    let of = |name: &str| format!("{{ host = '127.77.1.2', port = 0, name = '{name}' }}");
    let [a, b, c] = ["a", "b", "c"].map(of);
    let mut server = Configured::start(&format!("{a}, {b}"));
    let [addr_a, addr_b] = [0, 1].map(|at| server.flow.addrs[at].clone());
    server.listen(&format!("{c}, {b}, {a}"));
    server.flow.restart();
    assert_eq!(server.flow.addrs[1..], [addr_b.clone(), addr_a.clone()], "each by its name");
    let addr_c = server.flow.addrs[0].clone();
    assert!(addr_c != addr_a && addr_c != addr_b);
    server.listen(&format!("{b}, {c}"));
    server.flow.restart();
    assert_eq!(server.flow.addrs[..2], [addr_b.clone(), addr_c.clone()]);
    server.flow.child.wait_for(&format!("no longer listening on {addr_a}"));
    server.listen(&b);
    server.flow.restart();
    assert_eq!(server.flow.addrs[0], addr_b);
    server.flow.child.wait_for(&format!("no longer listening on {addr_c}"));
    quiet(&server.flow.stop());
}

// A37
#[test]
fn a_listener_that_gets_another_name_is_the_same() {
    let of = |name: &str| {
        format!(
            "{{ host = '127.77.1.3', port = 0, name = '{name}' }}, {{ path = 'DIR/s', name = '{name}-path' }}"
        )
    };
    let mut server = Configured::start(&of("old"));
    let addrs = server.flow.addrs.clone();
    let mut old: Vec<Client> = addrs.iter().map(Client::connect).collect();
    old.iter_mut().for_each(|client| says(client, "here"));
    server.listen(&of("new"));
    server.flow.restart();
    assert_eq!(server.flow.addrs, addrs);
    let mut new: Vec<Client> = addrs.iter().map(Client::connect).collect();
    assert_eq!([listener_of(&mut old[0]), listener_of(&mut old[1])], ["old", "old-path"]);
    assert_eq!([listener_of(&mut new[0]), listener_of(&mut new[1])], ["new", "new-path"]);
    quiet(&server.flow.stop());
}

#[test]
fn a_listener_that_the_application_has_paused_stays_so() {
    let mut server = Configured::start("'127.77.1.4:0', { path = 'DIR/s', name = 'paused' }");
    let mut client = Client::connect(&server.flow.addrs[0]);
    client.send("pause-listener paused\n");
    says(&mut client, "done");
    let mut waiting = Client::connect(&server.flow.addrs[1]);
    waiting.send("who\n");
    server.flow.restart();
    let mut other = Client::connect(&server.flow.addrs[0]);
    says(&mut other, "it is the third");
    client.send("resume-listener paused\n");
    assert!(waiting.expect_line().contains(" #3 by paused: "), "it came after the other: {waiting}");
    quiet(&server.flow.stop());
}

#[test]
fn another_mode_is_not_set_and_said_to_be_so_once() {
    let mut server = Configured::start("{ path = 'DIR/s', mode = 0o600, name = 's' }");
    let mode = |server: &Configured| fs::metadata(server.path("s")).unwrap().permissions().mode() & 0o777;
    server.listen("{ path = 'DIR/s', mode = 0o666, name = 's' }");
    server.flow.restart();
    assert_eq!(mode(&server), 0o600);
    says(&mut Client::connect(&server.flow.addrs[0]), "here");
    let log = server.flow.stop();
    let warning = "warn  listen `s`: mode, owner and group change only when the server is started anew";
    assert_eq!(log.matches(warning).count(), 1, "{log}");
}

// A37
#[test]
fn a_new_port_that_is_busy_refuses_the_restart_with_its_reason() {
    let busy = TcpListener::bind("127.77.1.5:0").unwrap();
    let addr = busy.local_addr().unwrap();
    let mut server = Configured::start("'127.77.1.5:0'");
    let mut client = Client::connect(&server.flow.addrs[0]);
    let path = server.path("live");
    let live = UnixListener::bind(&path).unwrap();
    fs::write(server.path("file"), "not a socket").unwrap();
    server.listen(&format!("'127.77.1.5:0', '{addr}', 'DIR/live|unix', 'DIR/file|unix', 'DIR/new|unix'"));
    let line = server.flow.refused_restart();
    for reason in [
        format!("cannot listen on {addr}: another program listens there; stop it or choose another port"),
        format!("cannot listen on {}: another server is listening there", path.display()),
        format!("cannot listen on {}: there is something else", server.path("file").display()),
    ] {
        assert!(line.contains(&reason), "{reason}: {line}");
    }
    assert!(!server.path("new").exists(), "what could be opened is closed again");
    says(&mut client, "still here");
    assert!(
        live.set_nonblocking(true).is_ok() && live.accept().is_ok(),
        "only the look of the probe came there"
    );
    drop((busy, live));
    fs::remove_file(server.path("file")).unwrap();
    server.flow.restart();
    assert_eq!(server.flow.addrs.len(), 5);
    says(&mut client, "still here");
    says(&mut Client::connect(addr), "here");
    server.flow.stop();
}

/// A listener that is removed serves who waits at it, so it is open while the new ones are opened.
#[test]
fn a_new_address_that_a_removed_listener_still_has_is_refused_with_what_to_do() {
    let stays = "'127.77.1.9:0'";
    let mut server = Configured::start(&format!("{stays}, '127.77.1.10:0'"));
    let addr = server.flow.addrs[1].clone();
    let port = addr.rsplit_once(':').unwrap().1;
    let mut client = Client::connect(&addr);
    for new in [format!("*:{port}"), format!("0.0.0.0:{port}"), addr.clone()] {
        server.listen(&format!("{stays}, '{new}'"));
        let line = server.flow.refused_restart();
        let reason = format!(
            ":{port}: this server's own listener on {addr} is to go, but has the port until the restart is over; \
             remove it by one restart and add this one by the next, or stop the server and start it anew"
        );
        assert!(line.contains(&reason), "{new}: {line}");
        says(&mut client, "still here");
    }
    // Beside one that stays there is no way.
    server.listen(&format!("{stays}, '127.77.1.10:0', '*:{port}'"));
    let line = server.flow.refused_restart();
    let reason = format!("own listener on {addr} has the port already; leave one of the two out");
    assert!(line.contains(&reason), "{line}");
    // As it was told.
    server.listen(stays);
    server.flow.restart();
    server.flow.child.wait_for(&format!("no longer listening on {addr}"));
    server.listen(&format!("{stays}, '{addr}'"));
    server.flow.restart();
    says(&mut Client::connect(&addr), "here");
    says(&mut client, "still here");
    server.flow.stop();
}

#[test]
fn what_was_opened_for_a_restart_that_is_refused_later_is_closed_again() {
    for (who, hook) in [("probe", "post_bind_hook"), ("heir", "pre_loop_hook")] {
        let mut gate = Gate::new();
        let wish = gate.at(&format!("{who}:{hook}=refuse"));
        let mut server = Configured::with_gate("'127.77.1.6:0'", Some(wish));
        let mut client = Client::connect(&server.flow.addrs[0]);
        gate.close();
        server.listen("'127.77.1.6:0', 'DIR/new|unix'");
        let line = server.flow.refused_restart();
        assert!(line.contains(&format!("{hook} refuses")), "{line}");
        says(&mut client, "still here");
        wait_until("the path is gone", || !server.path("new").exists());
        client.send("stop 0\n");
        client.expect_eof();
        server.flow.told.expect_to_eof();
    }
}

// A71
#[test]
fn the_path_of_a_unix_socket_survives_hup_and_is_gone_after_term() {
    let mut server = Configured::start("'DIR/s|unix'");
    let inode = |server: &Configured| fs::symlink_metadata(server.path("s")).unwrap().ino();
    let before = inode(&server);
    let mut client = Client::connect(&server.flow.addrs[0]);
    for _ in 0..3 {
        server.flow.restart();
        assert!(fs::symlink_metadata(server.path("s")).unwrap().file_type().is_socket());
        assert_eq!(inode(&server), before);
        says(&mut client, "still here");
        says(&mut Client::connect(&server.flow.addrs[0]), "too");
    }
    let path = server.path("s");
    quiet(&server.flow.stop());
    assert!(!path.exists());
}

// A71
#[test]
fn a_path_that_another_server_has_taken_meanwhile_is_not_removed() {
    let mut server = Configured::start("'127.77.1.7:0', 'DIR/s|unix', 'DIR/t|unix'");
    let mut client = Client::connect(&server.flow.addrs[1]);
    says(&mut client, "here");
    for name in ["s", "t"] {
        let theirs = UnixListener::bind(server.path("theirs")).unwrap();
        fs::rename(server.path("theirs"), server.path(name)).unwrap();
        // A dead one would do as well.
        drop(theirs);
    }
    server.flow.restart();
    server.listen("'127.77.1.7:0', 'DIR/s|unix'");
    server.flow.restart();
    server.flow.child.wait_for("no longer listening on");
    assert!(server.path("t").exists(), "it was theirs");
    says(&mut client, "still here");
    let path = server.path("s");
    let Configured { flow, directory, .. } = server;
    quiet(&flow.stop());
    assert!(path.exists(), "it was theirs");
    drop(directory);
}
