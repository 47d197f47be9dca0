//! Whose is the path of a Unix socket: what a starting server takes, refuses and sets, and what a stopping one removes.
//!
//! Each test runs processes of its own. The numbers in the comments are those of the acceptance cases of the flow.

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use common::TempDir;
use running::{Flow, refused, says, server, unix, wait_until};

// A71
#[test]
fn a_path_left_behind_by_a_dead_server_is_taken() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let flow = Flow::start(&[&unix(&path)]);
    flow.client();
    flow.stop();
    assert!(!path.exists());
}

// A71
#[test]
fn a_path_with_a_live_server_is_refused_and_that_server_goes_on() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let first = Flow::start(&[&unix(&path)]);
    let mut client = first.client();
    let (status, log) = refused(server().arg(unix(&path)));
    assert_eq!(status, Some(1), "{log}");
    let why = format!("cannot listen on {}: another server is listening there", path.display());
    assert!(log.contains(&why), "{log}");
    says(&mut client, "still here");
    first.client();
    first.stop();
}

// A71
#[test]
fn a_path_with_anything_else_is_refused_and_left_alone() {
    let directory = TempDir::new();
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let folder = directory.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for path in [&file, &folder] {
        let (status, log) = refused(server().arg(unix(path)));
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains(&path.display().to_string()) && log.contains("not a socket"), "{log}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left behind");
}

// A71
#[test]
fn a_path_that_another_server_has_taken_since_is_not_removed() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let first = Flow::start(&[&unix(&path)]);
    fs::remove_file(&path).unwrap();
    let second = Flow::start(&[&unix(&path)]);
    first.stop();
    assert!(path.exists());
    second.client();
    second.stop();
    assert!(!path.exists());
}

// A72
#[test]
fn mode_and_group_of_a_unix_socket_are_set_when_its_path_appears() {
    let directory = TempDir::new();
    let path = directory.path().join("s");
    let group = another_group(directory.path());
    let file = directory.path().join("x.toml");
    let port = format!("port = [{{ path = \"{}\", mode = 0o660, group = \"{group}\" }}]\n", path.display());
    fs::write(&file, port).unwrap();
    let looker = thread::spawn(move || {
        let mut seen = None;
        wait_until("the path appears", || {
            seen = fs::symlink_metadata(&path).ok();
            seen.is_some()
        });
        seen.unwrap()
    });
    let flow = Flow::started(server().arg("--conf_file").arg(&file));
    let seen = looker.join().unwrap();
    assert!(seen.file_type().is_socket());
    assert_eq!((seen.permissions().mode() & 0o7777, seen.gid()), (0o660, group), "at its first sight");
    flow.client();
    flow.stop();
}

/// A group that this process may give a file to and that new files do not have by themselves, if there is one.
fn another_group(directory: &Path) -> u32 {
    let own = fs::metadata(directory).expect("it exists").gid();
    let others = nix::unistd::getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw);
    let may_any = nix::unistd::geteuid().is_root().then_some(own + 1);
    others.chain(may_any).find(|group| *group != own).unwrap_or(own)
}
