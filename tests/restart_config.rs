//! Restarts with a configuration that is wrong: the old one serves on, and the log says where the mistake is.
//!
//! Method: as tests/restart_fails.rs, with the server of its own and the same clients; here the configuration file is what
//! changes. `LINEPLEX_LONG=1` asks for 1000 mutations instead of 200, whose seed is printed; `LINEPLEX_SEED=` repeats it.

#![cfg(target_os = "linux")]
#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "restart_fails/ground.rs"]
mod ground;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use common::served::long_form;
use ground::{CONF, Ground, random};

/// What is right; each broken file has one line more, the fourth, or one of these replaced.
const GOOD: &str = "\
port = [\"127.0.0.1:0\", \"s|unix\"]
probe_seconds = 60
commit_seconds = 60

[app]
word = \"first\"
";

#[test]
fn a_broken_file_changes_nothing_and_the_log_has_its_place() {
    let mut ground = Ground::configured(GOOD);
    for (line, why) in BROKEN_LINES {
        let broken = GOOD.replacen("\n\n", &format!("\n{line}\n"), 1);
        ground.is_refused_with(&broken, &format!("{CONF}:4:{why}"));
    }
    for (from, to, why) in BROKEN_ELSEWHERE {
        assert!(GOOD.contains(from));
        ground.is_refused_with(&GOOD.replacen(from, to, 1), why);
    }
    ground.has_restarted_with(&GOOD.replace("first", "second"), "second");
    ground.stops();
}

#[test]
fn several_mistakes_are_told_at_once() {
    let mut ground = Ground::configured(GOOD);
    let broken = GOOD.replacen("\n\n", "\nlog_level = 9\non_hup = \"jump\"\nidle_seconds = -1\n", 1);
    for place in ["4", "5", "6"] {
        ground.is_refused_with(&broken, &format!("{CONF}:{place}:"));
    }
    ground.stops();
}

#[test]
fn a_file_that_is_no_text_or_cannot_be_read_changes_nothing() {
    let mut ground = Ground::configured(GOOD);
    for (bytes, why) in [
        (b"port = \"\xff\xfe\"\n".as_slice(), "conf.toml"),
        (&[0; 4096], "conf.toml:1:"),
        (b"\x7fELF\x02\x01\x01", "conf.toml:1:"),
        (b"[[[[[[[[[[[[[[[[", "conf.toml:1:"),
    ] {
        ground.write_conf(bytes);
        ground.is_refused(why);
    }
    let path = ground.path(CONF);
    fs::remove_file(&path).unwrap();
    ground.is_refused("conf.toml");
    fs::create_dir(&path).unwrap();
    ground.is_refused("conf.toml");
    fs::remove_dir(&path).unwrap();
    // Root may read whatever there is.
    ground.write_conf(GOOD);
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        ground.is_refused("Permission denied");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    ground.has_restarted_with(GOOD, "first");
    ground.stops();
}

/// Any byte may be another, missing, twice, or at the end: what is accepted serves, and so does what was there before.
#[test]
fn a_file_that_was_changed_at_random_is_accepted_or_refused_and_nobody_notices() {
    let (mut ground, mut random) = (Ground::configured(GOOD), random());
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..if long_form() { 1000 } else { 200 } {
        let mut bytes = GOOD.as_bytes().to_vec();
        // The listeners stay, so that the clients that come find them.
        let first = GOOD.find('\n').unwrap() + 1;
        for _ in 0..random.usize(1..4) {
            if bytes.len() == first {
                break;
            }
            let at = random.usize(first..bytes.len());
            match random.u8(0..5) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] = *random.choice(b"\n\"'[]{}=#,.-_ 0123456789abcdefx").unwrap(),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => bytes.insert(at, bytes[random.usize(first..at + 1)]),
            }
        }
        ground.write_conf(&bytes);
        match ground.restarts_or_fails("") {
            true => accepted += 1,
            false => refused += 1,
        }
    }
    println!("{accepted} accepted, {refused} refused");
    ground.has_restarted_with(GOOD, "first");
    ground.stops();
}

/// What the probe has read counts, whatever the file says by then.
#[test]
fn the_file_that_was_tried_is_the_one_that_counts() {
    let mut ground = Ground::configured(GOOD);
    for (at, later) in ["no_such_key = 1", "[", "", "word = \"never\""].into_iter().enumerate() {
        fs::write(ground.path("later"), later).unwrap();
        ground.plan("probe:post_configure_hook:sh mv later conf.toml");
        let word = format!("tried-{at}");
        ground.has_restarted_with(&GOOD.replace("first", &word), &word);
        assert_eq!(fs::read_to_string(ground.path(CONF)).unwrap(), later);
    }
    fs::write(ground.path("later"), "[").unwrap();
    ground.plan("probe:post_configure_hook:sh rm conf.toml");
    ground.has_restarted_with(&GOOD.replace("first", "last"), "last");
    ground.stops();
}

#[test]
fn a_new_listener_that_cannot_be_had_changes_nothing() {
    let mut ground = Ground::configured(GOOD);
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().to_string();
    let _held = UnixListener::bind(ground.path("held")).unwrap();
    fs::write(ground.path("file"), "").unwrap();
    let wanted = |listener: &str| GOOD.replacen("\"s|unix\"", &format!("\"s|unix\", {listener}"), 1);
    for (listener, why) in [
        (format!("\"{port}\""), "Address already in use"),
        ("\"held|unix\"".to_owned(), "another server is listening there"),
        ("\"file|unix\"".to_owned(), "not a socket"),
        ("\"nowhere/s|unix\"".to_owned(), "its directory does not exist"),
        ("\"192.0.2.1:20203\"".to_owned(), "192.0.2.1:20203"),
    ] {
        ground.is_refused_with(&wanted(&listener), why);
        // Together with one that can be had: that one is given back.
        ground.is_refused_with(&wanted(&format!("\"new|unix\", {listener}")), why);
        assert!(!ground.path("new").exists(), "{listener}");
    }
    // The probe has opened it, and then the heir fails, or cannot be started.
    for (fault, why) in [
        ("heir:restore:abort", "died"),
        ("heir:restore:err", "asked to refuse"),
        ("probe:restore:sh rm server", "cannot run"),
    ] {
        ground.plan(fault);
        ground.write_conf(wanted("\"new|unix\", \"127.0.0.1:0\""));
        ground.fails(why);
        assert!(!ground.path("new").exists(), "{fault}");
        if !ground.path(ground::SERVER).exists() {
            ground.program_is_good();
        }
    }
    ground.plan("");
    drop(busy);
    ground.has_restarted_with(&wanted(&format!("\"new|unix\", \"{port}\"")), "first");
    assert!(ground.path("new").exists());
    ground.says_through(&port);
    // And those that are gone from the file go.
    ground.has_restarted_with(GOOD, "first");
    assert!(!ground.path("new").exists());
    ground.stops();
}

#[test]
fn a_log_that_cannot_be_opened_changes_nothing() {
    let mut ground = Ground::configured(GOOD);
    for (log, why) in [
        ("log_file = \"nowhere/log\"", "nowhere/log"),
        ("log_file = \".\"", "Is a directory"),
        ("log_file = \"syslog\"\nsyslog_logsock = \"nowhere\"", "nowhere"),
        ("log_file = \"journald\"\njournald_logsock = \"nowhere\"", "nowhere"),
    ] {
        ground.is_refused_with(&GOOD.replacen("\n\n", &format!("\n{log}\n"), 1), why);
    }
    ground.has_restarted_with(GOOD, "first");
    ground.stops();
}

/// Each is the fourth line of an otherwise good file; with the column, and more where that is short.
const BROKEN_LINES: [(&str, &str); 42] = [
    ("port = 20203", "1:"),
    ("no_such_key = 1", "1: unknown key `no_such_key`"),
    ("log_levle = 3", "1: unknown key `log_levle`"),
    ("log_level", ""),
    ("log_level =", ""),
    ("log_level = = 3", ""),
    ("log_level = 3 4", ""),
    ("log_level = 3; # no comment", ""),
    ("log_level = 9", "13:"),
    ("log_level = -1", "13:"),
    ("log_level = 1.5", "13:"),
    ("log_level = \"loud\"", "13:"),
    ("log_level = [1]", "13:"),
    ("log_level = {}", "13:"),
    ("log_level = 99999999999999999999999999", ""),
    ("log_file = 5", "12:"),
    ("log_file = \"unfinished", ""),
    ("log_file = 'unfinished", ""),
    ("log_file = \"\\q\"", ""),
    ("on_hup = \"jump\"", "10:"),
    ("on_hup = true", "10:"),
    ("idle_seconds = -1", "16:"),
    ("idle_seconds = nan", "16:"),
    ("idle_seconds = inf", "16:"),
    ("idle_seconds = \"soon\"", "16:"),
    ("idle_seconds = 2020-01-01", "16:"),
    ("line_max_bytes = \"64 potatoes\"", "18:"),
    ("line_max_bytes = 0", "18:"),
    ("line_max_bytes = -5", "18:"),
    ("output_hard_bytes = 1", "21:"),
    ("long_line = \"fold\"", "13:"),
    ("allow = \"10.0.0.0/33\"", "9:"),
    ("allow = [\"127.0.0.1\", \"300.1.1.1\"]", "23:"),
    ("deny = \"^10\\\\.\"", "8:"),
    ("max_connections = \"many\"", "19:"),
    ("max_per_address = -1", "19:"),
    ("umask = 27", "9:"),
    ("umask = \"0o999\"", "9:"),
    ("chroot = 7", "10:"),
    ("keepalive = \"maybe\"", "13:"),
    ("probe_seconds = 1", "1:"),
    ("conf_file = \"other.toml\"", "1: conf_file cannot stand in a configuration file"),
];

/// A part of the good file, what stands there instead, and where the mistake is.
const BROKEN_ELSEWHERE: [(&str, &str, &str); 12] = [
    ("\n\n", "\n[app]\n", "conf.toml:5:"),
    ("\n\n", "\nlog_file = \"\"\"many lines\n", "conf.toml:7:1:"),
    ("port = [", "port = [70000, ", "conf.toml:1:9:"),
    ("port = [", "port = [\"127.0.0.1:http-alt-alt\", ", "conf.toml:1:9:"),
    ("port = [", "port = [\"\", ", "conf.toml:1:9:"),
    ("port = [", "port = [{ host = \"127.0.0.1\" }, ", "conf.toml:1:9:"),
    ("port = [", "port = [{ port = 1, colour = \"red\" }, ", "conf.toml:1:"),
    ("port = [", "port [", "conf.toml:1:6:"),
    ("probe_seconds = 60", "probe_seconds = 0", "conf.toml:2:17:"),
    ("commit_seconds = 60", "commit_seconds = 0", "conf.toml:3:18:"),
    ("word = \"first\"", "word = 5", "conf.toml:6:"),
    ("word = \"first\"", "word = \"first\"\nwrod = \"second\"", "conf.toml:7:"),
];
