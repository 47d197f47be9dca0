//! The example `message_ping` as a process: its sample, a restart with its clients, and what it does with passwords.

#![cfg(feature = "auth")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::messages::{array, login, printed};
use common::{Child, Client, TempDir, example};
use lineplex::personality::message::{Dialect, MessageClient};

fn logged_in(child_address: std::net::SocketAddr, password: &str) -> Client {
    let mut client = Client::connect(child_address);
    client.expect(array(&["version", "1"]));
    client.send(login("test", password));
    client.expect(array(&["ok"]));
    client
}

#[test]
fn its_sample_lets_the_account_test_in() {
    let mut child = Child::spawn(Command::new(example("message_ping")).args(["--port", "127.0.0.1:0"]));
    let address = child.wait_for_address();
    let mut client = logged_in(address, "12345");
    for count in 0..3 {
        client.send(array(&["ping"]));
        client.expect(array(&["pong", &count.to_string()]));
    }
    client.send(array(&["exit"]));
    client.expect([array(&["Passed security"]), array(&["exit command received"])].concat());
    client.expect_eof();
    assert!(child.expect_exit().success());
}

#[test]
fn a_unix_socket_is_its_owners_alone_and_speaks_the_dialect_that_is_asked_for() {
    let directory = TempDir::new();
    let path = directory.path().join("ping.sock");
    let port = format!("{}|unix", path.display());
    let mut child =
        Child::spawn(Command::new(example("message_ping")).args(["--port", &port, "--dialect", "status"]));
    let line = child.wait_for("listening on");
    assert!(line.ends_with(&format!("; try: a message client at unix:{}", path.display())), "{line}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    let mut client = MessageClient::connect_unix(&path).unwrap();
    client.login("test", "12345", Dialect::Status).unwrap();
    client.write(&["ping"]).unwrap();
    assert_eq!(client.read().unwrap().unwrap(), [b"pong".as_slice(), b"0"]);
}

#[test]
fn a_restart_keeps_logged_in_clients_with_half_a_request_and_those_who_are_about_to_log_in() {
    let mut child = Child::spawn(Command::new(example("message_ping")).args(["--port", "127.0.0.1:0"]));
    let address = child.wait_for_address();
    let mut client = logged_in(address, "12345");
    let mut newcomer = Client::connect(address);
    newcomer.expect(array(&["version", "1"]));
    let ping = array(&["ping"]);
    for round in 0..3u32 {
        client.send([ping.as_slice(), &ping[..4]].concat());
        client.expect(array(&["pong", &(2 * round).to_string()]));
        child.signal("HUP");
        child.wait_for(&format!("restart {} done", round + 1));
        client.send(&ping[4..]);
        client.expect(array(&["pong", &(2 * round + 1).to_string()]));
    }
    newcomer.send(login("test", "12345"));
    newcomer.expect(array(&["ok"]));
    newcomer.send(ping);
    newcomer.expect(array(&["pong", "0"]));
}

#[test]
fn a_restart_in_any_step_of_a_login_keeps_it_or_ends_it_and_others_log_in() {
    let settings = ["--refusal_seconds", "2", "--refusal_max_seconds", "2", "--login_seconds", "60"];
    let mut child =
        Child::spawn(Command::new(example("message_ping")).args(["--port", "127.0.0.1:0"]).args(settings));
    let address = child.wait_for_address();
    let begin = |bytes: &[u8]| {
        let mut client = Client::connect(address);
        client.expect(array(&["version", "1"]));
        client.send(bytes);
        client
    };
    let whole = login("test", "12345");
    let mut named = begin(&whole[..8]);
    // Half a name, and half a password: neither is written down.
    let mut cut = [begin(&whole[..6]), begin(&whole[..whole.len() - 1])];
    let mut refused = begin(&login("test\nwarn  forged", "wrong"));
    let line = child.wait_for("refused");
    assert!(line.contains("login of \"test\\nwarn  forged\" from 127.0.0.1"), "{line}");
    // Most likely being checked: it is let in before, or closed.
    let mut checked = begin(&whole);
    child.signal("HUP");
    child.wait_for("restart 1 done");
    named.send(&whole[8..]);
    named.expect(array(&["ok"]));
    cut.iter_mut().for_each(Client::expect_eof);
    assert!([array(&["ok"]), Vec::new()].contains(&checked.next_bytes(5).unwrap_or_default()));
    refused.expect(array(&["Invalid username or password."]));
    refused.expect_eof();
    let _ = logged_in(address, "12345");
    // A graceful stop ends them all.
    let mut left = [begin(b""), begin(&whole[..8]), begin(&login("test", "wrong"))];
    child.wait_for("refused");
    child.signal("QUIT");
    left.iter_mut().for_each(Client::expect_eof);
    assert!(child.expect_exit().success());
}

#[test]
fn a_client_whose_account_is_gone_after_a_restart_is_closed_and_others_have_the_new_rights() {
    let directory = TempDir::new();
    let path = directory.path().join("ping.toml");
    let hash = hash_of("12345");
    let accounts = |test: &str| {
        format!("port = \"127.0.0.1:0\"\n[app.accounts]\n{test}\nother = {{ password = \"{hash}\" }}\n")
    };
    fs::write(&path, accounts(&format!("test = {{ password = \"{hash}\", rights = \"all\" }}"))).unwrap();
    let mut child = Child::spawn(Command::new(example("message_ping")).arg("--conf_file").arg(&path));
    let mut client = logged_in(child.wait_for_address(), "12345");
    fs::write(&path, accounts(&format!("test = {{ password = \"{hash}\", rights = \"none\" }}"))).unwrap();
    child.signal("HUP");
    child.wait_for("restart 1 done");
    client.send(array(&["inspect"]));
    client.expect(array(&["SecurityException", "Insufficient rights to execute this command."]));
    fs::write(&path, accounts("")).unwrap();
    child.signal("HUP");
    child.wait_for("its account is gone");
    client.expect_eof();
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    for (key, values) in [
        ("login_seconds", &["0", "-1", "nan", "3601"][..]),
        ("logins_max", &["0"]),
        ("refusal_seconds", &["-1", "nan"]),
        ("refusal_max_seconds", &["0.05", "3601", "inf"]),
        ("hashing_jobs", &["0"]),
        ("request_max_bytes", &["0", "65536"]),
        ("dialect", &["other"]),
        ("host", &["0.0.0.0"]),
    ] {
        for value in values {
            let option = format!("--{key}={value}");
            let ran = Command::new(example("message_ping")).args(["--check", "--port=0", &option]).output();
            let said = String::from_utf8(ran.unwrap().stderr).unwrap();
            let named = if key == "host" { "allow_plaintext" } else { key };
            assert!(said.contains(named) && said.lines().count() < 4, "{option}: {said}");
        }
    }
    let fine = ["--check", "--port=0", "--refusal_seconds=0", "--refusal_max_seconds=0", "--logins_max=1"];
    assert!(Command::new(example("message_ping")).args(fine).status().unwrap().success());
}

/// Of a password, made by the example.
fn hash_of(password: &str) -> String {
    let line = printed("--hash_password", &format!("{password}\n"));
    line.strip_prefix("password = \"").unwrap().trim_end().strip_suffix('"').unwrap().to_owned()
}

// F19, F20
#[test]
fn a_password_is_found_nowhere_in_the_process_nor_in_its_log_after_the_login_and_after_a_restart() {
    const CANARY: &str = "canary-7f1bd09a-that-sings-in-no-memory";
    const WRONG: &str = "canary-7f1bd09a-that-is-another-one";
    let directory = TempDir::new();
    let path = directory.path().join("ping.toml");
    let hash = hash_of(CANARY);
    fs::write(
        &path,
        format!(
            "port = \"127.0.0.1:0\"\nlog_level = 4\n[app.accounts]\ntest = {{ password = \"{hash}\" }}\n"
        ),
    )
    .unwrap();
    let mut child = Child::spawn(Command::new(example("message_ping")).arg("--conf_file").arg(&path));
    let address = child.wait_for_address();
    let mut client = Client::connect(address);
    client.expect(array(&["version", "1"]));
    let bytes = login("test", CANARY);
    // Also where it comes in two pieces.
    client.send(&bytes[..25]);
    client.send(&bytes[25..]);
    client.expect(array(&["ok"]));
    let mut wrong = Client::connect(address);
    wrong.expect(array(&["version", "1"]));
    wrong.send(login("test", WRONG));
    wrong.expect(array(&["Invalid username or password."]));
    client.send(array(&["ping"]));
    client.expect(array(&["pong", "0"]));
    expect_not_in_memory(child.id(), b"canary-7f1bd09a-that", "logged in");
    child.signal("HUP");
    child.wait_for("restart 1 done");
    client.send(array(&["ping"]));
    client.expect(array(&["pong", "1"]));
    expect_not_in_memory(child.id(), b"canary-7f1bd09a-that", "after a restart");
    child.signal("TERM");
    assert!(child.expect_exit().success());
    let log = child.expect_log();
    assert!(log.iter().all(|line| !line.contains("canary")), "{log:#?}");
}

// F19
#[test]
fn a_password_is_found_nowhere_however_its_login_ends() {
    const CANARY: &[u8] = b"canary-4c0de5a1-that-sings-in-no-memory-not-even-where-a-login-is-broken-off-or-comes-late-or-is-long";
    let directory = TempDir::new();
    let path = directory.path().join("ping.toml");
    let settings = "port = \"127.0.0.1:0\"\nlog_level = 4\n[app]\nlogin_seconds = 3\nhashing_jobs = 1\n";
    fs::write(&path, settings).unwrap();
    let mut child = Child::spawn(Command::new(example("message_ping")).arg("--conf_file").arg(&path));
    let address = child.wait_for_address();
    let secret = std::str::from_utf8(&CANARY[..100]).unwrap();
    let whole = login("test", secret);
    let part = whole.len() - 30;
    let too_long = login(&"x".repeat(101), secret);
    let name = login(&"x".repeat(101), "").len() - 4;
    let ends: [(&str, &[u8], &[u8]); 7] = [
        ("all of it, refused", &whole, b""),
        ("in pieces, refused", &whole[..part], &whole[part..]),
        ("half of it", &whole[..part], b""),
        ("with a name that is too long", &too_long, b""),
        ("after a name that was too long", &too_long[..name], &too_long[name..]),
        ("late", b"", &whole),
        ("late, the second half", &whole[..part], &whole[part..]),
    ];
    for (how, first, second) in ends {
        let mut client = Client::connect(address);
        client.expect(array(&["version", "1"]));
        client.send(first);
        if how.contains("late") {
            client.expect_eof();
        } else if how.contains("was too long") {
            client.expect(array(&["The supplied username is too long."]));
        }
        let _ = client.try_send(second);
        if how.contains("refused") {
            client.expect(array(&["Invalid username or password."]));
        } else {
            client.half_close();
        }
        let _ = client.next_to_eof();
        // The loop has gone on since.
        Client::connect(address).expect(array(&["version", "1"]));
        expect_not_in_memory(child.id(), &CANARY[..20], how);
    }
    let leaves = Client::connect(address);
    leaves.send(&whole);
    leaves.reset();
    // The check that it has left behind is over before another one begins.
    let mut after = Client::connect(address);
    after.send(login("test", "wrong"));
    after.expect([array(&["version", "1"]), array(&["Invalid username or password."])].concat());
    expect_not_in_memory(child.id(), &CANARY[..20], "reset");
}

#[test]
fn the_token_of_a_default_account_is_in_its_file_and_not_in_the_process() {
    let directory = TempDir::new();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = directory.path().join("ping.toml");
    let secrets = directory.path().display();
    fs::write(
        &path,
        format!("port = \"127.0.0.1:0\"\n[app]\nsecrets_directory = \"{secrets}\"\ndefault_accounts.admin = \"exit\"\n"),
    )
    .unwrap();
    let mut child = Child::spawn(Command::new(example("message_ping")).arg("--conf_file").arg(&path));
    let address = child.wait_for_address();
    let token = fs::read(directory.path().join("admin.secret")).unwrap();
    let log_in = || {
        let mut client = MessageClient::connect_tcp(address).unwrap();
        client.login("admin", &token, Dialect::Classic).unwrap();
        client
    };
    let _client = log_in();
    expect_not_in_memory(child.id(), &token[..32], "a default account");
    child.signal("HUP");
    child.wait_for("restart 1 done");
    let _another = log_in();
    expect_not_in_memory(child.id(), &token[..32], "a default account");
}

/// Looks through all that the process could write down. Only root may; to everybody else it is closed, which is checked then.
#[track_caller]
fn expect_not_in_memory(pid: u32, secret: &[u8], when: &str) {
    let Ok(mut memory) = File::open(format!("/proc/{pid}/mem")) else {
        assert!(fs::read_link(format!("/proc/{pid}/exe")).is_err(), "the process can be looked into");
        return;
    };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut searched = 0;
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let (start, end) = map.split_whitespace().next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.seek(SeekFrom::Start(start)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        searched += bytes.len();
        let found = memchr::memmem::find(&bytes, secret);
        assert!(found.is_none(), "{when}: {:#x} in {map}", start + found.unwrap_or(0) as u64);
    }
    assert!(searched > 100_000, "only {searched} bytes could be read");
}
