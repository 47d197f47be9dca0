//! The user that serves: what is given up, what was opened before, and what refuses to start.
//!
//! Most of it needs root, and is skipped with a line without. What the kernel says of the process counts (`proc(5)`,
//! `status`), not what the server says. The numbers in the comments are those of the acceptance cases that these carry
//! over, and of the faults of files and privileges (F8, F9).

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/detached.rs"]
mod detached;
#[path = "flow/running.rs"]
mod running;

use std::fs::{self, Permissions};
use std::net::{SocketAddrV4, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Client;
use common::served::{has_proc, wait_until};
use detached::{Detached, Home, is_root, line_of, own_address, status_line};
use nix::unistd::{Group, User};
use running::{Flow, refused, says};

/// A user that every system has and that owns nothing, with its group.
fn nobody() -> (u32, u32) {
    let user = User::from_name("nobody").ok().flatten().expect("there is a user nobody");
    (user.uid.as_raw(), user.gid.as_raw())
}

fn can_see() -> bool {
    is_root() && has_proc()
}

/// Real, effective, saved and file system id.
fn four(id: u32) -> String {
    [id; 4].map(|id| id.to_string()).join(" ")
}

/// Fails unless every thread of the process has these ids, no rights, and no way to new ones.
#[track_caller]
fn expect_ids(pid: u32, uid: u32, gid: u32, groups: &[u32]) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
    let mut seen = 0;
    for thread in threads.filter_map(Result::ok) {
        // A thread may end while one looks.
        let Ok(text) = fs::read_to_string(thread.path().join("status")) else { continue };
        seen += 1;
        assert_eq!(line_of(&text, "Uid"), four(uid));
        assert_eq!(line_of(&text, "Gid"), four(gid));
        let mut found: Vec<u32> =
            line_of(&text, "Groups").split_whitespace().filter_map(|group| group.parse().ok()).collect();
        found.sort_unstable();
        assert_eq!(found, groups);
        if uid != 0 {
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                assert_eq!(line_of(&text, set), "0000000000000000", "{set}");
            }
        }
        assert_eq!(line_of(&text, "NoNewPrivs"), "1");
    }
    assert!(seen > 0);
}

/// The server, where every user can start it, also from a directory that is closed to others.
#[track_caller]
fn open_copy(home: &Home) -> PathBuf {
    let path = home.path("server");
    // By another process: one of ours that is just being started would hold the copy open for writing, and a program
    // that is written cannot be run.
    let copied = Command::new("cp").arg(common::example("flow_server")).arg(&path).status();
    assert!(copied.is_ok_and(|status| status.success()), "it cannot be copied");
    for path in [path.as_path(), home.0.path()] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("they are ours");
    }
    path
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).expect("it is there");
    (found.uid(), found.gid())
}

// ── giving up ──

// A45, F8
#[test]
fn user_and_group_are_changed_when_everything_is_open() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    let socket = home.path("s");
    let low = low_port();
    let mut command = home.command();
    command.args(["--background", "--user=nobody", &format!("--group={gid}")]);
    command.args([format!("--port={low}"), running::unix(&socket)]);
    let server = Detached::started(home, &mut command);
    expect_ids(server.pid, uid, gid, &[gid]);
    assert_eq!(owner(&socket), (uid, gid));
    assert_eq!(owner(&server.home.path("log")), (uid, gid));
    // Whoever can write it says which process root's --stop ends.
    assert_eq!(owner(&server.home.pid_file()), (0, 0));
    assert_eq!(owner(&server.home.status_file()), (0, 0));
    for addr in [low.to_string(), socket.display().to_string()] {
        says(&mut Client::connect(&addr), "served");
    }
    wait_until("it is in the log", || server.home.log().contains("serving as nobody, group "));
    // It can still write its log, and tell of its restarts.
    server.signal("USR1");
    server.client();
    let log = server.stop();
    assert!(!log.contains(" error ") && log.contains("closing"), "{log}");
}

// A46
#[test]
fn a_user_alone_brings_its_own_groups_and_none_of_roots_stay() {
    if !can_see() || !has_setpriv() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    let mut command = Command::new("setpriv");
    command.args(["--groups=0,4,27", "--"]).arg(common::example("flow_server"));
    command.args([home.pid_option(), "--port=127.0.0.1:0".to_owned(), "--user=nobody".to_owned()]);
    let flow = Flow::started(&mut command);
    expect_ids(flow.child.id(), uid, gid, &[gid]);
    says(&mut flow.client(), "served");
    flow.stop();
}

#[test]
fn a_group_alone_leaves_the_user_and_replaces_all_groups() {
    if !can_see() || !has_setpriv() {
        return;
    }
    let name = Group::from_gid(1.into()).unwrap().map_or_else(|| "1".to_owned(), |group| group.name);
    for (list, expected) in [(name.clone(), vec![1]), (format!("{name}, 4242 4243"), vec![1, 4242, 4243])] {
        let mut command = Command::new("setpriv");
        command.args(["--groups=0,4,27", "--"]).arg(common::example("flow_server"));
        let flow = Flow::started(command.args(["--port=127.0.0.1:0", &format!("--group={list}")]));
        expect_ids(flow.child.id(), 0, 1, &expected);
        flow.stop();
    }
}

#[test]
fn more_groups_than_one_are_added_to_those_of_the_user() {
    if !can_see() {
        return;
    }
    let (uid, _) = nobody();
    let flow = Flow::start(&["--user=nobody", "--group=4242,4243"]);
    expect_ids(flow.child.id(), uid, 4242, &[4242, 4243]);
    flow.stop();
}

#[test]
fn a_number_without_a_name_is_a_user_if_a_group_is_given() {
    if !can_see() {
        return;
    }
    let flow = Flow::start(&["--user=4242", "--group=4243"]);
    expect_ids(flow.child.id(), 4242, 4243, &[4243]);
    flow.stop();
    let (status, log) = refused(running::server().args(["--port=127.0.0.1:0", "--user=4242"]));
    assert_eq!(status, Some(1), "{log}");
    assert!(
        log.contains("user: 4242 has no entry in the system, so its group is unknown; set `group`"),
        "{log}"
    );
}

#[test]
fn a_unix_socket_keeps_the_owner_that_its_own_settings_name() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    fs::write(
        home.path("x.toml"),
        format!(
            "user = 'nobody'\nport = [{{ path = '{0}/a', mode = 0o660, group = 4242 }}, {{ path = '{0}/b', owner = 0 }}, '{0}/c|unix']\n",
            home.0.path().display()
        ),
    )
    .unwrap();
    let flow = Flow::started(running::server().arg("--conf_file").arg(home.path("x.toml")));
    assert_eq!(owner(&home.path("a")), (uid, 4242));
    assert_eq!(owner(&home.path("b")), (0, gid));
    assert_eq!(owner(&home.path("c")), (uid, gid));
    flow.stop();
}

#[test]
fn the_pid_file_goes_where_the_user_may_remove_it_and_is_emptied_where_not() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    for its_own in [true, false] {
        let home = Home::new();
        if its_own {
            std::os::unix::fs::chown(home.0.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut flow = Flow::started(home.command().arg("--user=nobody"));
        assert_eq!(home.pid(), Some(flow.child.id()));
        flow.child.signal("TERM");
        assert_eq!(flow.ended().0, Some(0));
        if its_own {
            assert!(!home.pid_file().exists() && !home.status_file().exists());
            continue;
        }
        assert_eq!(fs::read(home.pid_file()).unwrap(), b"");
        assert_eq!(fs::read(home.status_file()).unwrap(), b"");
        // An empty one is no obstacle, and no reason for a warning.
        let flow = Flow::started(home.command().arg("--user=nobody"));
        assert_eq!(home.pid(), Some(flow.child.id()));
        flow.stop();
        assert!(!home.log().contains("stale pid file"), "{}", home.log());
    }
}

#[test]
fn a_server_that_gave_up_its_privileges_restarts_in_place() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    let mut command = Command::new(open_copy(&home));
    command.args([home.pid_option(), home.log_option(), "--port=127.0.0.1:0".to_owned()]);
    command.args(["--background", "--user=nobody"]).arg(running::unix(&home.path("s")));
    let server = Detached::started(home, &mut command);
    for generation in 1..=2 {
        server.signal("HUP");
        wait_until("the restart is done", || {
            server.home.status("generation") == Some(generation.to_string())
        });
        expect_ids(server.pid, uid, gid, &[gid]);
        assert_eq!(server.home.pid(), Some(server.pid));
        server.client();
    }
    server.stop();
}

/// A server in the background with relative paths, whose user cannot enter the directory that it was started in.
#[track_caller]
fn in_a_closed_directory(program: &Path, home: Home, words: &[&str]) -> Detached {
    fs::set_permissions(home.0.path(), Permissions::from_mode(0o700)).expect("it is ours");
    let mut command = Command::new(program);
    command.current_dir(home.0.path()).args(["--port=127.0.0.1:0", "--background"]).args(words);
    // Nothing else on its command line says whose it is.
    command.arg(format!("--syslog_ident={}", home.0.path().display()));
    Detached::started(home, &mut command)
}

// E9
#[test]
fn relative_paths_keep_their_meaning_in_a_restart_by_a_user_who_cannot_follow_them() {
    if !can_see() {
        return;
    }
    let open = Home::new();
    let program = open_copy(&open);
    let words = ["--user=nobody", "--pid_file=x.pid", "--log_file=log"];
    let server = in_a_closed_directory(&program, Home::new(), &words);
    server.signal("HUP");
    wait_until("the restart is done", || server.home.status("generation").as_deref() == Some("1"));
    server.client();
    server.signal("TERM");
    server.expect_end();
    let log = server.home.log();
    let expected = format!("cannot open the log {}: Permission denied", server.home.path("log").display());
    assert!(log.contains(&expected) && log.contains("going on in the file that was open"), "{log}");
    assert!(!log.contains("pid_file") && log.contains("closing"), "{log}");
    assert!(!Path::new("/log").exists() && !Path::new("/x.pid").exists());
}

// E4, F10
#[test]
fn a_configuration_that_the_new_user_cannot_read_refuses_the_restart() {
    if !can_see() {
        return;
    }
    let open = Home::new();
    let program = open_copy(&open);
    let home = Home::new();
    fs::write(home.path("x.toml"), "user = 'nobody'\npid_file = 'x.pid'\nlog_file = 'log'\n").unwrap();
    let server = in_a_closed_directory(&program, home, &["--conf_file=x.toml"]);
    let mut client = server.client();
    server.signal("HUP");
    wait_until("the restart has failed", || server.home.status("ok").as_deref() == Some("0"));
    let expected = format!("cannot read {}: Permission denied", server.home.path("x.toml").display());
    let message = server.home.status("message").unwrap();
    assert!(message.contains(&expected), "{message}");
    says(&mut client, "the same client");
    server.stop();
}

// ── the root of the file system ──

// F9
#[test]
fn a_chroot_takes_the_directory_with_it_and_needs_no_names_inside() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    let root = home.path("root");
    fs::create_dir(&root).unwrap();
    let mut command = home.command();
    command.args(["--background", "--user=nobody", &format!("--chroot={}", root.display())]);
    let server = Detached::started(home, command.arg(running::unix(&root.join("s"))));
    for link in ["root", "cwd"] {
        let found = fs::read_link(format!("/proc/{}/{link}", server.pid)).unwrap();
        assert_eq!(found, fs::canonicalize(&root).unwrap(), "{link}");
    }
    // There is no /dev/null in it.
    assert_eq!(fs::read_link(format!("/proc/{}/fd/1", server.pid)).unwrap().to_str(), Some("/dev/null"));
    expect_ids(server.pid, uid, gid, &[gid]);
    for addr in &server.addrs {
        says(&mut Client::connect(addr), "served");
    }
    server.signal("TERM");
    server.expect_end();
    // Neither can be reached from inside.
    assert_eq!(fs::read(server.home.pid_file()).unwrap(), b"");
    assert!(root.join("s").exists());
    let log = server.home.log();
    assert!(log.contains("serving as nobody, group ") && log.contains("closing"), "{log}");
}

/// Copies a file to where it is found by the same path when `root` is the root.
#[track_caller]
fn bring(root: &Path, file: &Path) {
    let inside = root.join(file.strip_prefix("/").expect("the path is absolute"));
    fs::create_dir_all(inside.parent().expect("it has a directory")).expect("the root is ours");
    let copied = Command::new("cp").arg("-L").arg(file).arg(inside).status();
    assert!(copied.is_ok_and(|status| status.success()), "it cannot be copied");
}

/// What the system loads to run a program; says so when nobody tells.
fn libraries(program: &Path) -> Option<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().ok().filter(|output| output.status.success());
    let Some(listed) = listed else {
        println!("skipped: no ldd tells what the program loads");
        return None;
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    Some(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

// F9
#[test]
fn a_restart_in_a_chroot_needs_the_program_inside_and_is_refused_without_it() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    let program = open_copy(&home);
    let Some(libraries) = libraries(&program) else { return };
    let root = home.path("root");
    fs::create_dir(&root).unwrap();
    let mut command = Command::new(&program);
    command.args([home.pid_option(), home.log_option(), "--port=127.0.0.1:0".to_owned()]);
    command.args(["--background", "--user=nobody", &format!("--chroot={}", root.display())]);
    command.args(["--probe_seconds=600", "--commit_seconds=600"]);
    let server = Detached::started(home, &mut command);
    let mut client = server.client();
    let reload = || {
        let asked = Command::new(&program).args([&server.home.pid_option(), "--reload", "--wait"]).output();
        let asked = asked.expect("it can be started");
        String::from_utf8_lossy(&[asked.stdout, asked.stderr].concat()).into_owned()
    };
    let expected = format!(
        "cannot start {} for a probe; it and all that it loads must be inside the chroot {}: No such file",
        program.display(),
        root.display()
    );
    let said = reload();
    assert!(said.contains(&expected), "{said}");
    says(&mut client, "the same client");
    // Not one device besides.
    libraries.iter().chain([&program]).for_each(|file| bring(&root, file));
    for generation in 1..=2 {
        assert_eq!(reload(), format!("pid {} has reloaded: restart {generation} done\n", server.pid));
        says(&mut client, "the same client");
        says(&mut Client::connect(&server.addrs[0]), "a new one");
        let now = fs::read_link(format!("/proc/{}/root", server.pid)).unwrap();
        assert_eq!(now, fs::canonicalize(&root).unwrap());
        expect_ids(server.pid, uid, gid, &[gid]);
    }
    let log = server.stop();
    assert!(log.contains("closing; clients told goodbye: "), "{log}");
}

// ── refusing ──

// A47
#[test]
fn what_cannot_be_had_refuses_the_start_before_anything_is_served() {
    let home = Home::new();
    fs::write(home.path("file"), "").unwrap();
    let file = format!("--chroot={}", home.path("file").display());
    for (option, what) in [
        ("--user=no-such-user", "user: there is no user \"no-such-user\""),
        ("--group=no-such-group", "group: there is no group \"no-such-group\""),
        ("--group=0,no-such-group", "group: there is no group \"no-such-group\""),
        ("--chroot=/no/such/directory", "chroot: /no/such/directory is no directory"),
        (&file, "is no directory"),
    ] {
        for launch in ["--keepalive", "--background", "--check"] {
            let launched = home.launch(home.command().args([option, launch]));
            assert_eq!(launched.status.code(), Some(1), "{option}: {}", launched.said);
            assert!(launched.said.contains(what), "{option}: {}", launched.said);
            assert!(!launched.told.contains("ready "), "{option}");
            assert!(!home.pid_file().exists(), "{option}");
        }
    }
}

// A45
#[test]
fn somebody_else_than_root_can_be_only_who_it_is() {
    if !can_see() {
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::new();
    let program = open_copy(&home);
    let as_nobody = |option: &str| {
        let mut command = Command::new(&program);
        command.args(["--port=127.0.0.1:0", option]).uid(uid).gid(gid);
        command
    };
    for option in ["--user=nobody", &format!("--user={uid}"), &format!("--group={gid}"), "--log_level=2"] {
        let flow = Flow::started(&mut as_nobody(option));
        assert_eq!(status_line(flow.child.id(), "Uid"), four(uid));
        let log = flow.stop();
        assert!(!log.contains("serving as"), "{log}");
    }
    for (option, what) in [
        ("--user=root", "user: only root can become root, group root, and this is nobody; start it as root"),
        ("--group=4242", "group: only root can become group 4242 and this is nobody"),
        ("--chroot=/tmp", "chroot: /tmp can be made the root by root only"),
    ] {
        let (status, log) = refused(&mut as_nobody(option));
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains(what), "{log}");
    }
}

#[test]
fn serving_as_root_is_worth_a_warning() {
    if !is_root() {
        return;
    }
    for options in [&[][..], &["--user=root"], &["--group=4242"]] {
        let log = Flow::start(options).stop();
        assert!(log.contains("warn  serving as root: set `user`, so that a fault costs less"), "{log}");
    }
    let log = Flow::start(&["--user=nobody"]).stop();
    assert!(!log.contains(" warn "), "{log}");
}

/// A port below 1024 that nobody uses.
#[track_caller]
fn low_port() -> SocketAddrV4 {
    let addrs = (600..1024).map(|port| SocketAddrV4::new(own_address(), port));
    let mut free = addrs.filter(|addr| TcpListener::bind(addr).is_ok());
    free.next().expect("one of 400 ports is free")
}

/// Whether groups can be set for a program; says so when they cannot.
fn has_setpriv() -> bool {
    let there = Command::new("setpriv").args(["--groups=0", "true"]).output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: there is no setpriv here");
    }
    there
}
