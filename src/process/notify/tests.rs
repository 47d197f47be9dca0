//! What reaches a manager that reads, is behind, was replaced, or is not there.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::RawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sys::socket::{ControlMessageOwned, recvmsg};

use super::*;

/// A minute: long enough for any machine, and never waited for when all is well.
const LONG: Duration = Duration::from_secs(60);

/// Reads as a manager does.
struct Fake {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Fake {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("lp-notify-{}-{number}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self { socket: bound(&path), path }
    }

    fn told_by(&self) -> Notify {
        Notify::at(self.path.as_os_str(), true, None)
    }

    /// The next message, and what its descriptors are; they are closed.
    #[track_caller]
    fn next(&self) -> (String, Vec<String>) {
        let mut bytes = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(received) => break received,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => panic!("nothing is told: {error}"),
            }
        };
        let mut descriptors = Vec::new();
        for control in received.cmsgs().unwrap() {
            let ControlMessageOwned::ScmRights(numbers) = control else { panic!("{control:?}") };
            for number in numbers {
                descriptors.push(what(number));
                nix::unistd::close(number).unwrap();
            }
        }
        let count = received.bytes;
        (String::from_utf8(bytes[..count].to_vec()).unwrap(), descriptors)
    }

    #[track_caller]
    fn next_text(&self) -> String {
        let (text, descriptors) = self.next();
        assert_eq!(descriptors, [""; 0], "{text}");
        text
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn bound(path: &PathBuf) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// The system's name for what is behind a descriptor: `socket:[4711]`.
fn what(number: RawFd) -> String {
    fs::read_link(format!("/proc/self/fd/{number}")).unwrap().display().to_string()
}

/// Sends until the manager has room for nothing more; how many it took.
fn fill(notify: &Notify) -> usize {
    let manager = notify.manager.as_ref().unwrap();
    (0..).find(|_| manager.send("X=", None, Duration::ZERO).is_err()).unwrap()
}

#[test]
fn each_message_has_its_fields_in_one_datagram() {
    let fake = Fake::new();
    let notify = fake.told_by();
    assert!(notify.is_active());
    notify.ready("serving");
    assert_eq!(fake.next_text(), "READY=1\nSTATUS=serving");
    notify.status("a\nMAINPID=1 \u{e9}");
    assert_eq!(fake.next_text(), "STATUS=a%0AMAINPID=1 %C3%A9");
    notify.reloaded("generation 2");
    assert_eq!(fake.next_text(), "READY=1\nSTATUS=generation 2");
    notify.stopping();
    assert_eq!(fake.next_text(), "STOPPING=1");
    notify.main_pid(4711, false);
    assert_eq!(fake.next_text(), "MAINPID=4711");
    notify.main_pid(4712, true);
    assert_eq!(fake.next_text(), "MAINPID=4712\nREADY=1");
    notify.watchdog();
    assert_eq!(fake.next_text(), "WATCHDOG=1");
    notify.status(&"x".repeat(2000));
    assert_eq!(fake.next_text().len(), "STATUS=".len() + STATUS_MAX_BYTES);
}

#[test]
fn a_reload_has_the_time_by_the_clock_that_the_manager_reads() {
    let fake = Fake::new();
    let now = || match NotifyState::monotonic_usec_now().unwrap() {
        NotifyState::MonotonicUsec(now) => now,
        other => panic!("{other:?}"),
    };
    let before = now();
    fake.told_by().reloading("probing");
    let after = now();
    let text = fake.next_text();
    let time = text.strip_prefix("RELOADING=1\nSTATUS=probing\nMONOTONIC_USEC=").unwrap();
    assert!((before..=after).contains(&time.parse().unwrap()), "{before} {text} {after}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_is_stored_under_a_name_that_the_manager_takes_and_removed_by_it() {
    let fake = Fake::new();
    let notify = fake.told_by();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    notify.store("[::1]:20203 50%", listener.as_fd());
    let (text, descriptors) = fake.next();
    assert_eq!(text, "FDSTORE=1\nFDPOLL=0\nFDNAME=kept-[%3A%3A1]%3A20203 50%25");
    assert_eq!(descriptors, [what(listener.as_raw_fd())]);
    notify.unstore("chat");
    assert_eq!(fake.next_text(), "FDSTOREREMOVE=1\nFDNAME=kept-chat");

    // Neither a name that is too long nor a manager that keeps nothing gets a message.
    notify.store(&"x".repeat(251), listener.as_fd());
    notify.unstore(&"x".repeat(251));
    let other = Notify::at(fake.path.as_os_str(), false, None);
    other.store("chat", listener.as_fd());
    other.unstore("chat");
    other.status("done");
    assert_eq!(fake.next_text(), "STATUS=done");
}

#[test]
fn a_barrier_ends_when_the_manager_has_read_it_and_what_came_before() {
    let fake = Fake::new();
    let notify = fake.told_by();
    notify.status("before");
    thread::scope(|scope| {
        let reader = scope.spawn(|| [fake.next(), fake.next()]);
        notify.barrier(LONG).unwrap();
        let [(first, _), (second, descriptors)] = reader.join().unwrap();
        assert_eq!([first.as_str(), second.as_str()], ["STATUS=before", "BARRIER=1"]);
        assert_eq!(descriptors.len(), 1);
    });
}

#[test]
fn a_barrier_that_nobody_answers_times_out() {
    let fake = Fake::new();
    let notify = fake.told_by();
    for _ in 0..2 {
        let error = notify.barrier(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        // The second time not even the question finds room.
        fill(&notify);
    }
}

#[test]
fn a_manager_that_does_not_read_blocks_nobody_and_gets_the_rest_when_it_reads_again() {
    let fake = Fake::new();
    let notify = fake.told_by();
    let taken = fill(&notify);
    notify.watchdog();
    notify.status("dropped");
    thread::scope(|scope| {
        let reader = scope.spawn(|| (0..=taken).map(|_| fake.next_text()).collect::<Vec<_>>());
        // What it must not miss waits for room.
        notify.manager.as_ref().unwrap().send("READY=1", None, LONG).unwrap();
        let read = reader.join().unwrap();
        assert!(read[..taken].iter().all(|text| text == "X=") && read[taken] == "READY=1", "{read:?}");
    });
    notify.watchdog();
    assert_eq!(fake.next_text(), "WATCHDOG=1");
}

#[test]
fn a_manager_that_was_replaced_is_connected_to_anew_and_one_that_is_gone_harms_nobody() {
    let mut fake = Fake::new();
    let notify = fake.told_by();
    fs::remove_file(&fake.path).unwrap();
    fake.socket = bound(&fake.path);
    notify.status("here");
    assert_eq!(fake.next_text(), "STATUS=here");

    fs::remove_file(&fake.path).unwrap();
    drop(std::mem::replace(&mut fake.socket, UnixDatagram::unbound().unwrap()));
    notify.status("nobody hears this");
    assert!(notify.manager.as_ref().unwrap().failure_told.get());
    assert!(notify.barrier(LONG).is_err());
    fake.socket = bound(&fake.path);
    notify.status("again");
    assert_eq!(fake.next_text(), "STATUS=again");
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_an_address_too() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("lp-notify-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    Notify::at(OsStr::new(&format!("@{name}")), false, None).ready("up");
    let mut bytes = [0; 100];
    let count = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"READY=1\nSTATUS=up");
}

#[test]
fn without_a_usable_address_nothing_is_told_and_nothing_fails() {
    let (listener, _) = UnixDatagram::pair().unwrap();
    for address in ["", "relative", "vsock:2:1234", &format!("/{}", "x".repeat(200))] {
        let notify = Notify::at(OsStr::new(address), true, Some(LONG));
        assert!(!notify.is_active(), "{address}");
        assert_eq!(notify.watchdog_period(), None);
        notify.ready("up");
        notify.store("chat", listener.as_fd());
        notify.barrier(Duration::ZERO).unwrap();
    }
}

#[test]
fn a_socket_of_another_kind_at_the_address_is_no_manager() {
    let fake = Fake::new();
    fs::remove_file(&fake.path).unwrap();
    let _stream = UnixListener::bind(&fake.path).unwrap();
    let notify = fake.told_by();
    notify.ready("up");
    assert!(notify.barrier(LONG).is_err());
}

#[test]
fn a_watchdog_period_of_nothing_is_none() {
    let fake = Fake::new();
    assert_eq!(Notify::at(fake.path.as_os_str(), false, Some(Duration::ZERO)).watchdog_period(), None);
    let period = Some(Duration::from_millis(1500));
    assert_eq!(Notify::at(fake.path.as_os_str(), false, period).watchdog_period(), period);
}
