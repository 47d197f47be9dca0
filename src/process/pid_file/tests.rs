//! The file, its lock and its path, in one process: each open of a file has a lock of its own.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A fresh directory, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lineplex-pid-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("x.pid")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn own() -> String {
    format!("{}\n", std::process::id())
}

#[test]
fn a_pid_file_holds_the_number_and_goes_with_its_status() {
    let directory = Directory::new();
    let path = directory.file();
    let pid_file = PidFile::create(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), own());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
    let status = pid_file.status().unwrap();
    assert_eq!((status.pid, status.generation, status.ok), (std::process::id(), 0, true));
    pid_file.remove();
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 0);
}

#[test]
fn a_second_one_is_refused_with_the_number_of_the_first() {
    let directory = Directory::new();
    let path = directory.file();
    let pid_file = PidFile::create(&path).unwrap();
    let error = PidFile::create(&path).unwrap_err();
    let expected = format!(
        "already running, pid {} ({}); stop it first or choose another pid_file",
        std::process::id(),
        path.display()
    );
    assert_eq!((error.kind(), error.chain()), (ErrorKind::Config, expected));
    assert_eq!(fs::read_to_string(&path).unwrap(), own());
    pid_file.remove();
    PidFile::create(&path).unwrap().remove();
}

#[test]
fn who_only_looks_keeps_no_server_away() {
    let directory = Directory::new();
    let path = directory.file();
    fs::write(&path, "1\n").unwrap();
    let looking = File::open(&path).unwrap();
    assert!(lock(&looking, Lock::Shared).unwrap());
    let starting = thread::spawn(move || PidFile::create(&path).map(PidFile::remove));
    // It cannot be done yet: the lock is in its way.
    thread::yield_now();
    drop(looking);
    starting.join().unwrap().unwrap();
}

// E18, A40
#[test]
fn what_a_dead_server_left_is_overwritten() {
    let directory = Directory::new();
    let path = directory.file();
    for left in ["", "4194304\n", "4194304", "99999999999999999999\n", "nonsense\nmore", "\0\0\0", "0\n"] {
        fs::write(&path, left).unwrap();
        let pid_file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own(), "{left:?}");
        pid_file.remove();
    }
    fs::write(&path, vec![b'7'; 100_000]).unwrap();
    PidFile::create(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), own());
}

// E18
#[test]
fn what_is_no_file_of_ours_is_refused_and_untouched() {
    let directory = Directory::new();
    let target = directory.0.join("target");
    fs::write(&target, "precious").unwrap();
    let path = directory.file();
    let refused = |why: &str| {
        let error = PidFile::create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.chain();
        assert!(text.starts_with(&format!("the pid file {}", path.display())), "{text}");
        assert!(text.contains(why), "{why}: {text}");
        assert!(Found::at(&path).is_err(), "{why}: believed");
        let _ = fs::remove_file(&path);
    };
    symlink(&target, &path).unwrap();
    refused("it is a symbolic link");
    symlink(directory.0.join("nothing"), &path).unwrap();
    refused("it is a symbolic link");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    refused("it is no regular file");
    drop(UnixListener::bind(&path).unwrap());
    refused("it is no regular file");
    fs::create_dir(&path).unwrap();
    let error = PidFile::create(&path).unwrap_err();
    assert!(error.chain().contains("it is no regular file"), "{}", error.chain());
    fs::remove_dir(&path).unwrap();
    fs::hard_link(&target, &path).unwrap();
    let error = PidFile::create(&path).unwrap_err();
    assert!(error.chain().contains("it has another name too"), "{}", error.chain());
    fs::remove_file(&path).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    let nowhere = directory.0.join("none/x.pid");
    assert!(PidFile::create(&nowhere).unwrap_err().chain().contains("its directory does not exist"));
    // The same for the file beside it; then nothing is left of the first either.
    symlink(&target, status_path(&path)).unwrap();
    let error = PidFile::create(&path).unwrap_err();
    assert!(error.chain().contains("x.pid.status: it is a symbolic link"), "{}", error.chain());
    assert!(!path.exists());
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

// E18
#[test]
fn a_file_of_another_user_is_not_taken_over() {
    if effective_user() != 0 {
        println!("skipped: only root can make such a file");
        return;
    }
    let directory = Directory::new();
    let path = directory.file();
    fs::write(&path, "1\n").unwrap();
    std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
    let error = PidFile::create(&path).unwrap_err();
    assert!(error.chain().contains("it belongs to 4242"), "{}", error.chain());
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    // Root looks, but does not believe what it says of a process that is not that user's.
    let held = File::open(&path).unwrap();
    assert!(lock(&held, Lock::Exclusive).unwrap());
    if Path::new("/proc/1").exists() {
        let error = Found::at(&path).unwrap_err();
        assert!(
            error.chain().contains("it is 4242's and names a process of another user"),
            "{}",
            error.chain()
        );
    }
}

// A42, E18
#[test]
fn a_file_that_replaced_ours_or_names_another_process_stays() {
    let directory = Directory::new();
    let path = directory.file();
    let pid_file = PidFile::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "1\n").unwrap();
    pid_file.remove();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");

    let pid_file = PidFile::create(&path).unwrap();
    fs::write(&path, "1\n").unwrap();
    pid_file.remove();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
}

#[test]
fn a_file_that_was_removed_meanwhile_is_made_again() {
    let directory = Directory::new();
    let path = directory.file();
    let first = PidFile::create(&path).unwrap();
    // As a server does that ends while another one has opened its file already.
    let opened = open(&path).unwrap();
    first.remove();
    assert!(lock(&opened, Lock::Exclusive).unwrap());
    assert_eq!(Place::of(&path, &opened).unwrap(), Place::Elsewhere);
    let second = PidFile::create(&path).unwrap();
    assert_eq!(Place::of(&path, &second.file).unwrap(), Place::Here);
}

#[test]
fn another_image_goes_on_with_the_same_lock() {
    let directory = Directory::new();
    let path = directory.file();
    let first = PidFile::create(&path).unwrap();
    let [file, status] = first.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
    drop(first);
    assert!(path.exists());
    let adopted = PidFile::adopt(file, status, &path).unwrap();
    assert!(PidFile::create(&path).is_err());
    adopted.write_status(&Status { generation: 1, ok: true, ..Status::default() });
    assert_eq!(adopted.status().unwrap().generation, 1);
    // A standby takes over, and then the first image goes: the file is not its own any more.
    adopted.rewrite(1).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    adopted.remove();
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
}

#[test]
fn what_no_image_left_is_not_adopted() {
    let directory = Directory::new();
    let path = directory.file();
    let held = PidFile::create(&path).unwrap();
    let another = || OwnedFd::from(File::open(&path).unwrap());
    let error = PidFile::adopt(another(), another(), &path).unwrap_err();
    assert!(error.chain().contains("is locked by another process"), "{}", error.chain());
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let error = PidFile::adopt(another(), socket.into(), &path).unwrap_err();
    assert!(error.chain().contains("is no regular file"), "{}", error.chain());
    held.remove();
}

#[test]
fn others_see_whether_a_server_runs() {
    let directory = Directory::new();
    let path = directory.file();
    assert!(matches!(Found::at(&path).unwrap(), Found::Nothing));
    fs::write(&path, "4242\n").unwrap();
    assert!(matches!(Found::at(&path).unwrap(), Found::Stale(Some(4242))));
    fs::write(&path, "").unwrap();
    assert!(matches!(Found::at(&path).unwrap(), Found::Stale(None)));
    let held = PidFile::create(&path).unwrap();
    let Found::Running(running) = Found::at(&path).unwrap() else { panic!("not seen") };
    assert_eq!(u32::try_from(running.pid).unwrap(), std::process::id());
    assert!(running.holds(&path).unwrap());
    held.file.set_len(0).unwrap();
    assert!(matches!(Found::at(&path).unwrap(), Found::Starting));
    held.rewrite(std::process::id()).unwrap();
    held.remove();
    assert!(!running.holds(&path).unwrap());
}
