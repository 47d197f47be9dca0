//! The format of the state is pinned by golden states, and no state, however damaged, does harm.
//!
//! `tests/golden/MAJOR.MINOR.state` is what that version of the format wrote for the loop of `mux/handover/tests.rs` and
//! the process below, and `MAJOR.MINOR.txt` beside it what the readers of today make of it. To add the pair of a new
//! version: raise the number in `state/container.rs`, run `LINEPLEX_GOLDEN=write cargo test --lib golden`, look at the new
//! text, and add both to [`GOLDEN`]. Old ones stay as they are for as long as their major number is read, whatever
//! is changed: a text that has to be written anew means that a running server cannot be restarted with the new version.
//! All that a text may gain is what its version did not know yet, with the value that stands for this.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::resource::{Resource, setrlimit};

use super::birth::{KNOWN, METRICS, Sections, Will};
use super::listeners::Kept;
use super::succession::{Files, pack_state};
use super::*;
use crate::config::{Ipv, Limits, ListenAddr, ListenAt};
use crate::mux::golden::{KINDS, golden, live, stream, text};
use crate::net::{Listener, OwnedPath};
use crate::state::container::{Section, pack, unpack};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

/// Every version that was ever written, oldest first, and how many connections its state has.
const GOLDEN: [(&[u8], &str, usize); 2] = [
    (include_bytes!("../../../tests/golden/1.0.state"), include_str!("../../../tests/golden/1.0.txt"), 6),
    (include_bytes!("../../../tests/golden/1.1.state"), include_str!("../../../tests/golden/1.1.txt"), 7),
];

#[test]
fn golden_states_of_every_version_are_read_as_they_were_meant() {
    for (state, expected, _) in GOLDEN {
        let read = read_all(state.to_vec()).unwrap();
        assert_eq!(read, expected, "\n{read}");
    }
}

#[test]
fn golden_states_of_every_version_are_taken_up() {
    for (state, _, conns) in GOLDEN {
        let sockets = Sockets::new();
        let mut hands = Hands { sockets: &sockets, given: Vec::new() };
        let state = Sections::of(state.to_vec()).unwrap();
        hands.take_process(&state).unwrap();
        let count = live(state.loop_reader().unwrap(), &mut |fd| hands.take(fd)).unwrap();
        assert_eq!(count, conns);
        assert!(hands.given.len() > conns, "{:?}", hands.given);
    }
}

#[test]
fn golden_states_are_written_in_the_same_bytes_as_ever() {
    let packed = written();
    let version = format!("{}.{}", packed[8], packed[10]);
    if std::env::var_os("LINEPLEX_GOLDEN").is_some_and(|value| value == "write") {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        fs::write(directory.join(format!("{version}.state")), &packed).unwrap();
        fs::write(directory.join(format!("{version}.txt")), read_all(packed).unwrap()).unwrap();
        return;
    }
    let (newest, ..) = GOLDEN[GOLDEN.len() - 1];
    assert_eq!(packed[..12], newest[..12], "the golden state of version {version} is missing");
    for (ours, theirs) in unpack(&packed, &KNOWN).unwrap().into_iter().zip(unpack(newest, &KNOWN).unwrap()) {
        // Counters come and go; a reader passes over those that it does not know.
        if ours.0 != METRICS {
            assert_eq!(ours, theirs, "section {}, version {version}: is this a new format?", ours.0);
        }
    }
}

#[test]
fn golden_states_of_which_a_bit_is_wrong_or_a_byte_is_missing_are_refused() {
    for (state, ..) in GOLDEN {
        let mut bytes = state.to_vec();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(unpack(&bytes, &KNOWN).is_err(), "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
            assert!(unpack(&bytes[..at], &KNOWN).is_err(), "cut at byte {at}");
        }
        bytes.push(0);
        assert!(unpack(&bytes, &KNOWN).is_err());
    }
}

/// In a process of its own, which may have little memory and few descriptors: whatever a state announces, more than that
/// is not asked for.
#[test]
fn golden_states_with_wrong_content_under_a_right_checksum_do_no_harm() {
    const ALONE: &str = "LINEPLEX_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = format!("{}::golden_states_with_wrong_content_under_a_right_checksum_do_no_harm", path());
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}\n{output:?}");
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024).unwrap();
    setrlimit(Resource::RLIMIT_AS, address_space() + MEMORY, address_space() + MEMORY).unwrap();
    let open = open_files();
    let (mut tried, mut taken_up) = (0, 0);
    for (state, ..) in GOLDEN {
        let mut sockets = Sockets::new();
        damaged(state, |bytes| {
            tried += 1;
            taken_up += u32::from(try_out(&sockets, bytes));
            if tried % 8 == 0 {
                // Some have been shut down or are full by now.
                sockets = Sockets::new();
            }
        });
    }
    assert_eq!(open_files(), open, "what was taken is closed, and nothing else");
    println!("{tried} states tried, {taken_up} taken up");
    assert!(tried > 15_000 && taken_up > tried / 100, "{taken_up} of {tried}");
}

/// Calls `tried` with damaged states, whose checksum is right.
fn damaged(state: &[u8], mut tried: impl FnMut(Vec<u8>)) {
    let sections: Vec<(u16, Vec<u8>)> =
        unpack(state, &KNOWN).unwrap().into_iter().map(|(id, bytes)| (id, bytes.to_vec())).collect();
    let mut with = |which: usize, bytes: &[u8]| {
        let mut all = sections.clone();
        all[which].1 = bytes.to_vec();
        tried(repacked(&all));
    };
    for (which, (id, good)) in sections.iter().enumerate() {
        // The counters are many, and one is like the other.
        for at in (0..good.len()).step_by(if *id == METRICS { 7 } else { 1 }) {
            with(which, &good[..at]);
            // A number at its ends, wherever one stands.
            for extreme in [u64::MAX, 1 << 63, 0] {
                let mut bytes = good.clone();
                let length = (bytes.len() - at).min(8);
                bytes[at..at + length].copy_from_slice(&extreme.to_le_bytes()[..length]);
                with(which, &bytes);
            }
        }
    }
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..10_000 {
        let which = random.usize(..sections.len());
        let mut bytes = sections[which].1.clone();
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..bytes.len());
            match random.u8(0..5) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, random.u8(..16)),
                _ => {
                    // A part of it once more.
                    let part = bytes[at..(at + random.usize(..64)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        with(which, &bytes);
    }
    // A section that is not there at all.
    for (which, _) in sections.iter().enumerate() {
        let mut all = sections.clone();
        all.remove(which);
        tried(repacked(&all));
    }
}

fn repacked(sections: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let sections: Vec<Section<'_>> =
        sections.iter().map(|(id, bytes)| Section { id: *id, critical: *id != METRICS, bytes }).collect();
    pack(&sections)
}

/// Reads a state as an heir does, and serves it for a moment; whether that was possible.
fn try_out(sockets: &Sockets, bytes: Vec<u8>) -> bool {
    let Ok(state) = Sections::of(bytes) else { return false };
    let Ok(reader) = state.loop_reader() else { return false };
    let mut hands = Hands { sockets, given: Vec::new() };
    // Both, whatever becomes of the other.
    let process = hands.take_process(&state).is_ok();
    let taken_up = live(reader, &mut |fd| hands.take(fd)).is_ok();
    process && taken_up
}

/// What the numbers of a golden state stand for here, with the other ends.
struct Sockets {
    conns: Vec<(OwnedFd, OwnedFd)>,
    tcp: OwnedFd,
    unix: OwnedFd,
    file: OwnedFd,
}

impl Sockets {
    fn new() -> Self {
        Self {
            conns: KINDS.into_iter().map(stream).collect(),
            tcp: TcpListener::bind("127.0.0.1:0").unwrap().into(),
            unix: unix_listener().unwrap(),
            file: File::open("/dev/null").unwrap().into(),
        }
    }
}

/// The descriptors that a golden state names, each given away once.
struct Hands<'a> {
    sockets: &'a Sockets,
    given: Vec<RawFd>,
}

impl Hands<'_> {
    fn take(&mut self, number: RawFd) -> io::Result<OwnedFd> {
        let sockets = self.sockets;
        let at = number.checked_sub(FIRST_CONN).and_then(|at| usize::try_from(at).ok());
        let conn = at.and_then(|at| sockets.conns.get(at)).map(|(conn, _)| conn);
        let found = match number {
            FIRST_LISTENER => Some(&sockets.tcp),
            UNIX_LISTENER | LAST_LISTENER => Some(&sockets.unix),
            FIRST_PASSED..=LAST_FILE => Some(&sockets.file),
            _ => conn,
        };
        let found = found.filter(|_| !self.given.contains(&number));
        let taken = found.ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        self.given.push(number);
        Ok(taken)
    }

    /// The process flow's part, as an heir takes it up whose configuration names no listener any more.
    fn take_process(&mut self, state: &Sections) -> Result<()> {
        let mut image = Image::golden("", "");
        let will = Will::read(state, &mut image, &mut |fd| self.take(fd))?;
        let sorted = Sorted::sort(&[], will.listeners, &Limits::default(), |fd| self.take(fd))?;
        assert!(sorted.open.is_empty());
        Ok(())
    }
}

/// The golden state as it is written today.
fn written() -> Vec<u8> {
    let (mut mux, state) = golden();
    let limits = Limits::default();
    let unix = ListenAt {
        name: "local".to_owned(),
        addr: ListenAddr::Unix {
            path: "/run/golden/chat.sock".into(),
            mode: Some(0o660),
            owner: Some("golden".to_owned()),
            group: None,
            accept_fds: 4,
        },
        backlog: Some(128),
    };
    let tcp = ListenAt {
        name: "chat".to_owned(),
        addr: ListenAddr::Tcp { host: "127.0.0.1".to_owned(), port: 0, ipv: Ipv::V4 },
        backlog: None,
    };
    let tcp = Listener::adopt(TcpListener::bind("127.0.0.1:0").unwrap().into(), &tcp, &limits).unwrap();
    let mut local = Listener::adopt(unix_listener().unwrap(), &unix, &limits).unwrap();
    local.own_path(OwnedPath::of("/run/golden/chat.sock".into(), 7, 123_456_789_012));
    let added =
        Listener::adopt(unix_listener().unwrap(), &ListenAt::unix("/run/golden/new"), &limits).unwrap();
    let bound = tcp.local_addr();
    mux.take_over_listener(tcp, false).unwrap();
    mux.take_over_listener(local, true).unwrap();
    let conf = Some((PathBuf::from("/etc/golden.toml"), "port = 20203\n".to_owned()));
    let approved = Approved { conf, added: vec![Kept::new(added)] };
    let image = Image::golden("/usr/local/bin/golden", "/srv/golden");
    let restart = Restart::new(image, RestartConfig::default(), limits, 3, Duration::new(86_399, 5));
    let [pid_file, status, log] = [(); 3].map(|()| File::open("/dev/null").unwrap());
    let numbers = [&pid_file, &status, &log].map(|file| file.as_raw_fd());
    let files = Files {
        pid_files: Some((Path::new("/run/golden.pid"), [pid_file.as_fd(), status.as_fd()])),
        log: Some((Path::new("/var/log/golden"), Some(log.try_clone().unwrap().into()))),
    };
    let log = files.descriptors().last().unwrap().as_raw_fd();
    let packed = pack_state(&state, &restart, &mux, Some(&approved), &files);

    // Which numbers the system gives is different each time.
    let conns: Vec<RawFd> = mux.descriptors(&state.kept).map(|fd| fd.as_raw_fd()).collect();
    let listeners: Vec<RawFd> = mux
        .listeners()
        .map(|(listener, _)| listener)
        .chain(approved.added.iter().map(|kept| &kept.listener))
        .map(|listener| listener.descriptor().unwrap().as_raw_fd())
        .collect();
    let crate::net::LocalAddr::Ip(bound) = bound else { panic!("{bound}") };
    let mut sections: Vec<(u16, Vec<u8>)> =
        unpack(&packed, &KNOWN).unwrap().into_iter().map(|(id, bytes)| (id, bytes.to_vec())).collect();
    renumber(&mut sections[0].1, &[numbers[0], numbers[1], log], FIRST_FILE);
    renumber(&mut sections[1].1, &listeners, FIRST_LISTENER);
    replace(&mut sections[1].1, 0, &[U16, bound.port().to_le_bytes()[0], bound.port().to_le_bytes()[1]], &{
        let port = 20203_u16.to_le_bytes();
        [U16, port[0], port[1]]
    });
    renumber(&mut sections[4].1, &conns, FIRST_CONN);
    repacked(&sections)
}

/// Replaces each descriptor in its turn by one of the numbers from `first` on.
fn renumber(bytes: &mut [u8], numbers: &[RawFd], first: RawFd) {
    let value = |number: RawFd| {
        let [a, b, c, d] = number.to_le_bytes();
        [U32, a, b, c, d]
    };
    let mut from = 0;
    for (number, canonical) in numbers.iter().zip(first..) {
        from = replace(bytes, from, &value(*number), &value(canonical));
    }
}

/// Replaces the first `old` behind `from`; the place behind it.
fn replace(bytes: &mut [u8], from: usize, old: &[u8], new: &[u8]) -> usize {
    let at = from + bytes[from..].windows(old.len()).position(|part| part == old).expect("it was written");
    bytes[at..at + new.len()].copy_from_slice(new);
    at + new.len()
}

/// A whole state in words.
fn read_all(bytes: Vec<u8>) -> Result<String> {
    let state = Sections::of(bytes)?;
    let mut image = Image::golden("", "");
    let mut files = Vec::new();
    let will = Will::read(&state, &mut image, &mut |fd| {
        files.push(fd);
        Ok(File::open("/dev/null")?.into())
    })?;
    let (program, directory) = image.paths();
    let mut out = String::from("process\n");
    let _ = writeln!(out, "  program {}", program.escape_ascii());
    let _ = writeln!(out, "  directory {}", directory.unwrap_or_default().escape_ascii());
    let _ = writeln!(out, "  generation {}, began {:?}", will.generation, will.began);
    let _ = writeln!(out, "  conf {:?}", will.conf);
    let _ = writeln!(out, "  pid file {:?}", will.pid_files.map(|(path, _)| path));
    let _ = writeln!(out, "  log {:?}", will.log.map(|(path, file)| (path, file.is_some())));
    let _ = writeln!(out, "  their descriptors {files:?}");
    for listener in &will.listeners {
        let _ = writeln!(out, "listener\n  {listener:?}");
    }
    Ok(out + &text(state.loop_reader()?)?)
}

/// A listening socket without a name in the file system any more.
fn unix_listener() -> io::Result<OwnedFd> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("lineplex-golden-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path)?;
    fs::remove_file(&path)?;
    Ok(listener.into())
}

/// How many descriptors this process has open.
fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What this process has mapped, in bytes.
fn address_space() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// This module, as the test binary calls it.
fn path() -> &'static str {
    module_path!().split_once("::").unwrap().1
}

/// Numbers of descriptors in a golden state.
const FIRST_LISTENER: RawFd = 10;
const UNIX_LISTENER: RawFd = 11;
const LAST_LISTENER: RawFd = 12;
const FIRST_CONN: RawFd = 20;
const FIRST_PASSED: RawFd = 27;
const FIRST_FILE: RawFd = 30;
const LAST_FILE: RawFd = 32;
/// The bytes in front of a `u16` and a `u32` (see `state.rs`).
const U16: u8 = 3;
const U32: u8 = 4;
/// What reading damaged states may take at most, threads and the allocator's reserves included: far more than they
/// need, and far less than what they announce.
const MEMORY: u64 = 64 * 1024 * 1024;
