//! The pid file of a server: who gets it, what is refused, and when it goes.
//!
//! Each server is a process of its own, in the foreground unless it must survive its launcher. The numbers in the comments
//! are those of the acceptance cases that these carry over, and of the faults of processes and files (E17, E18).

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/detached.rs"]
mod detached;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use common::Child;
use common::served::{has_proc, wait_until};
use detached::{Detached, Home, is_alive, signal};
use running::{Flow, refused, says};

// ── the life of it ──

// A28
#[test]
fn it_is_there_while_the_server_serves_and_goes_with_term_int_and_quit() {
    for name in ["TERM", "INT", "QUIT"] {
        let home = Home::new();
        let mut flow = Flow::started(&mut home.command());
        assert_eq!(home.pid(), Some(flow.child.id()));
        assert_eq!(fs::metadata(home.pid_file()).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(home.status("pid"), Some(flow.child.id().to_string()));
        assert_eq!(
            (home.status("generation"), home.status("ok")),
            (Some("0".to_owned()), Some("1".to_owned()))
        );
        flow.child.signal(name);
        assert_eq!(flow.ended().0, Some(0), "{name}");
        assert!(!home.pid_file().exists() && !home.status_file().exists(), "{name}");
    }
}

#[test]
fn it_goes_whatever_ends_the_server() {
    // A fatal error, a status of the application's own, a refusing hook, and a panic that unwinds out of the server.
    for (line, status) in [("fatal the disk is gone\n", 1), ("stop 3\n", 3)] {
        let home = Home::new();
        let mut flow = Flow::started(&mut home.command());
        flow.client().send(line);
        assert_eq!(flow.ended().0, Some(status), "{line}");
        assert!(!home.pid_file().exists() && !home.status_file().exists(), "{line}");
    }
    for (name, value, status) in [
        ("FLOW_REFUSE", "pre_bind_hook", 1),
        ("FLOW_REFUSE", "pre_loop_hook", 1),
        ("FLOW_DO", "post_bind_hook panic", 101),
    ] {
        let home = Home::new();
        let (ended, log) = refused(home.command().env(name, value));
        assert_eq!(ended, Some(status), "{value}: {log}");
        assert!(!home.pid_file().exists() && !home.status_file().exists(), "{value}");
    }
}

// A66
#[test]
fn a_panic_in_a_callback_leaves_it_where_it_is() {
    let home = Home::new();
    let flow = Flow::started(&mut home.command());
    let mut b = flow.client();
    let mut a = flow.client();
    a.send("panic at the disco\n");
    let _ = a.next_to_eof();
    says(&mut b, "still served");
    assert_eq!(home.pid(), Some(flow.child.id()));
    let (status, log) = refused(&mut home.command());
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("already running"), "{log}");
    flow.stop();
    assert!(!home.pid_file().exists());
}

#[test]
fn a_restart_in_place_keeps_it_and_its_lock() {
    let server = Detached::start(&[]);
    for generation in 1..=2 {
        server.signal("HUP");
        wait_until("the restart is done", || {
            server.home.status("generation") == Some(generation.to_string())
        });
        assert_eq!(server.home.pid(), Some(server.pid));
        let (status, log) = refused(&mut server.home.command());
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains(&format!("already running, pid {}", server.pid)), "{log}");
        server.client();
    }
    server.signal("TERM");
    server.expect_end();
    assert!(!server.home.pid_file().exists() && !server.home.status_file().exists());
}

// ── two servers ──

// A39
#[test]
fn a_second_server_ends_with_status_1_and_the_number_of_the_first_which_is_not_touched() {
    let home = Home::new();
    let flow = Flow::started(&mut home.command());
    let before = fs::read(home.pid_file()).unwrap();
    for option in ["--log_level=0", "--background"] {
        let launched = home.launch(home.command().arg(option));
        assert_eq!(launched.status.code(), Some(1), "{}", launched.said);
        let expected = format!(
            "flow_server: already running, pid {} ({}); stop it first or choose another pid_file",
            flow.child.id(),
            home.pid_file().display()
        );
        assert_eq!(launched.said, expected);
        assert!(home.log().contains(&expected));
        // It refused before it opened anything.
        assert!(!launched.told.lines().any(|line| line.starts_with("ready ")));
    }
    assert_eq!(fs::read(home.pid_file()).unwrap(), before);
    says(&mut flow.client(), "untouched");
    flow.stop();
}

// E17
#[test]
fn of_twenty_servers_that_start_at_once_exactly_one_lives() {
    for left in [None, Some("4194304\n")] {
        let home = Home::new();
        if let Some(left) = left {
            fs::write(home.pid_file(), left).unwrap();
        }
        let mut started: Vec<_> = (0..20).map(|_| Child::spawn_told(&mut home.command())).collect();
        let mut alive = Vec::new();
        for (number, (child, told)) in started.iter_mut().enumerate() {
            // The one that lives says that it is ready; the others end.
            let ready = loop {
                match told.next_line() {
                    Ok(line) if line.starts_with(b"ready ") => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            if ready {
                alive.push(number);
            } else {
                assert_eq!(child.expect_exit().code(), Some(1), "{child}");
                assert!(child.expect_log().iter().any(|line| line.contains("already running")), "{child}");
            }
        }
        let [lives] = alive[..] else { panic!("{alive:?} live") };
        let child = &mut started[lives].0;
        assert_eq!(home.pid(), Some(child.id()));
        child.signal("TERM");
        assert!(child.expect_exit().success());
        assert!(!home.pid_file().exists());
    }
}

#[test]
fn one_that_ends_makes_room_for_one_that_starts_at_that_moment() {
    let home = Home::new();
    for _ in 0..20 {
        let mut first = Flow::started(&mut home.command());
        first.child.signal("TERM");
        // Until the first has ended, this one is refused: it must never end up with a file that is removed.
        let second = loop {
            let (mut child, mut told) = Child::spawn_told(&mut home.command());
            match told.next_line() {
                Ok(line) if line.starts_with(b"ready ") => break child,
                _ => assert_eq!(child.expect_exit().code(), Some(1), "{child}"),
            }
        };
        assert_eq!(first.ended().0, Some(0));
        assert_eq!(home.pid(), Some(second.id()));
        second.signal("KILL");
    }
}

// ── what is in the way ──

// A40
#[test]
fn the_number_of_a_dead_server_is_overwritten_with_a_warning() {
    let server = Detached::start(&[]);
    let dead = server.pid;
    signal(dead, "KILL");
    server.expect_end();
    assert_eq!(server.home.pid(), Some(dead), "nobody could take it away");
    let flow = Flow::started(&mut server.home.command());
    assert_eq!(server.home.pid(), Some(flow.child.id()));
    flow.stop();
    let log = server.home.log();
    let warning =
        format!("warn  stale pid file {}: {dead} is not running here", server.home.pid_file().display());
    assert!(log.contains(&warning), "{log}");
    assert!(!server.home.pid_file().exists());
}

// A41
#[test]
fn the_number_of_an_unrelated_process_that_lives_is_no_obstacle() {
    let home = Home::new();
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(home.pid_file(), format!("{}\n", other.id())).unwrap();
    let flow = Flow::started(&mut home.command());
    assert_eq!(home.pid(), Some(flow.child.id()));
    flow.stop();
    assert!(home.log().contains(&format!("{} is not running here", other.id())), "{}", home.log());
    assert!(other.try_wait().unwrap().is_none(), "it lives on");
    other.kill().unwrap();
    other.wait().unwrap();
}

// E18
#[test]
fn garbage_and_cut_numbers_are_overwritten() {
    for left in ["", "12", "-1\n", "\n\n", "hello\n", "\u{0}\u{0}", "99999999999999999999999\n"] {
        let home = Home::new();
        fs::write(home.pid_file(), left).unwrap();
        let flow = Flow::started(&mut home.command());
        assert_eq!(home.pid(), Some(flow.child.id()), "{left:?}");
        assert_eq!(
            fs::read_to_string(home.pid_file()).unwrap(),
            format!("{}\n", flow.child.id()),
            "{left:?}"
        );
        flow.stop();
    }
}

// E18
#[test]
fn what_is_no_file_of_ours_refuses_the_start_and_is_not_touched() {
    let home = Home::new();
    let precious = home.path("precious");
    fs::write(&precious, "precious").unwrap();
    let path = home.pid_file();
    let refuse = |why: &str| {
        let (status, log) = refused(&mut home.command());
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains(&format!("the pid file {}: {why}", path.display())), "{why}: {log}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    };
    symlink(&precious, &path).unwrap();
    refuse("it is a symbolic link");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    refuse("it is no regular file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refuse("it is no regular file");
    fs::remove_dir(&path).unwrap();
    fs::hard_link(&precious, &path).unwrap();
    refuse("it has another name too");
    fs::remove_file(&path).unwrap();
    symlink(&precious, home.status_file()).unwrap();
    let (status, log) = refused(&mut home.command());
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("x.pid.status: it is a symbolic link"), "{log}");
    assert!(!path.exists(), "nothing is left of it");
}

// A42
#[test]
fn one_that_replaced_ours_is_not_removed() {
    let home = Home::new();
    let first = Flow::started(&mut home.command());
    fs::remove_file(home.pid_file()).unwrap();
    fs::remove_file(home.status_file()).unwrap();
    let second = Flow::started(&mut home.command());
    assert_eq!(home.pid(), Some(second.child.id()));
    first.stop();
    assert_eq!(home.pid(), Some(second.child.id()));
    assert!(home.status_file().exists());
    second.stop();
    assert!(!home.pid_file().exists());
}

// A42
#[test]
fn one_that_names_another_process_is_not_removed() {
    if !has_proc() {
        return;
    }
    let home = Home::new();
    let flow = Flow::started(&mut home.command());
    let own = std::process::id();
    fs::write(home.pid_file(), format!("{own}\n")).unwrap();
    flow.stop();
    assert_eq!(home.pid(), Some(own));
    assert!(is_alive(own));
}
