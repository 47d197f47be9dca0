//! The accounts of a message server through the whole program: the accounts file at the start, at both kinds of SIGHUP, and
//! the default accounts with their files. The program is the example `message_ping`.

#![cfg(feature = "auth")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::messages::printed;
use common::{Child, TempDir, example};
use lineplex::personality::message::{ClientError, Credential, Dialect, MessageClient};

/// A directory that is its owner's alone, with the configuration, the accounts file and the socket of a server.
struct Place(TempDir);

impl Place {
    /// With `app` in the table `[app]`.
    fn new(app: &str) -> Self {
        let place = Self(TempDir::new());
        fs::set_permissions(place.0.path(), Permissions::from_mode(0o700)).unwrap();
        place.configure("", app);
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn configure(&self, settings: &str, app: &str) {
        let port = self.at("ping.sock");
        let text = format!("port = \"{}|unix\"\n{settings}\n[app]\n{app}\n", port.display());
        fs::write(self.at("ping.toml"), text).unwrap();
    }

    fn write_accounts(&self, text: &str) {
        fs::write(self.at("accounts.toml"), text).unwrap();
        fs::set_permissions(self.at("accounts.toml"), Permissions::from_mode(0o600)).unwrap();
    }

    /// In that directory, so that relative paths are in it.
    fn command(&self) -> Command {
        let mut command = Command::new(example("message_ping"));
        command.args(["--conf_file", "ping.toml"]).current_dir(self.0.path());
        command
    }

    fn serve(&self) -> Child {
        let mut child = Child::spawn(&mut self.command());
        child.wait_for("listening on");
        child
    }

    /// What a server says that cannot start.
    #[track_caller]
    fn refused(&self) -> String {
        let Output { status, stderr, .. } = self.command().stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.starts_with("message_ping: ") || said.contains("\nmessage_ping: "), "{said}");
        said
    }

    fn log_in(&self, name: &str, secret: impl AsRef<[u8]>) -> Result<MessageClient, ClientError> {
        let mut client = MessageClient::connect_unix(self.at("ping.sock")).unwrap();
        client.set_timeout(Some(common::DEADLINE)).unwrap();
        client.login(name, secret, Dialect::Classic).map(|()| client)
    }

    #[track_caller]
    fn client(&self, name: &str, secret: impl AsRef<[u8]>) -> MessageClient {
        self.log_in(name, secret).unwrap()
    }

    #[track_caller]
    fn expect_wrong(&self, name: &str, secret: impl AsRef<[u8]>) {
        match self.log_in(name, secret) {
            Err(ClientError::Refused(why)) => assert_eq!(why, "Invalid username or password."),
            other => panic!("{other:?}"),
        }
    }
}

#[track_caller]
fn expect_pong(client: &mut MessageClient) {
    client.write(&["ping"]).unwrap();
    assert_eq!(client.read().unwrap().unwrap()[0], b"pong");
}

/// Whether the client may inspect.
#[track_caller]
fn may_inspect(client: &mut MessageClient) -> bool {
    client.write(&["inspect"]).unwrap();
    let passed = client.check_security().is_ok();
    if passed {
        let text = String::from_utf8(client.read_scalar(1 << 20).unwrap().unwrap()).unwrap();
        assert!(text.lines().any(|line| line.starts_with("open ")), "{text}");
    }
    passed
}

/// An entry of the accounts file with a token, which is quicker than a password.
fn entry(name: &str, token: &str, rights: &str) -> String {
    let digest = Credential::token(token.as_bytes()).unwrap().encoded();
    format!("[accounts.{name}]\ntoken = \"{digest}\"\nrights = \"{rights}\"\n")
}

const TOKEN: &str = "0123456789abcdef-one";
const OTHER: &str = "0123456789abcdef-two";

#[test]
fn what_the_program_makes_of_a_password_and_of_a_token_logs_in_from_the_accounts_file() {
    let place = Place::new("accounts_file = \"accounts.toml\"");
    let password = printed("--hash-password", "correct horse\n");
    let made = printed("--make_token", "");
    let (secret, token) = made.strip_prefix("secret: ").unwrap().split_once('\n').unwrap();
    place.write_accounts(&format!(
        "[accounts.person]\n{password}[accounts.program]\n{token}rights = \"none\"\n"
    ));
    let _child = place.serve();
    let mut person = place.client("person", "correct horse");
    expect_pong(&mut person);
    assert!(may_inspect(&mut person));
    let mut program = place.client("program", secret);
    expect_pong(&mut program);
    assert!(!may_inspect(&mut program));
    place.expect_wrong("person", "");
    place.expect_wrong("person", secret);
    place.expect_wrong("program", "");
    place.expect_wrong("program", "correct horse");
}

#[test]
fn the_accounts_in_the_readme_log_in() {
    let place = Place::new("accounts_file = \"accounts.toml\"");
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```toml\n[accounts.alice]").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    place.write_accounts(&format!("[accounts.alice]{block}"));
    let _child = place.serve();
    assert!(may_inspect(&mut place.client("alice", "correct horse")));
    assert!(may_inspect(&mut place.client("ci", "ifqwzDhqYIPlQ5XyIUYbZkQ1a1kJAj4QRmHymGdCY0p")));
}

#[test]
fn a_mistake_about_accounts_refuses_to_start_and_says_where_and_what_to_do() {
    let place = Place::new("accounts_file = \"accounts.toml\"");
    let path = place.at("accounts.toml");
    let file = format!("the file of accounts {}: ", path.display());
    let said = place.refused();
    assert!(said.contains(&file) && said.contains("make it, or name another"), "{said}");
    let good = entry("a", TOKEN, "all");
    for mode in [0o620, 0o602, 0o604] {
        place.write_accounts(&good);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let said = place.refused();
        assert!(said.contains(&file) && said.contains("chmod 640 it"), "{said}");
    }
    for (text, place_and_words) in [
        ("[accounts.a\n", ":1:12: "),
        ("\n\n[accounts.a]\npassword = \"12345\"\n", ":4:12: accounts.a.password: it is no password hash"),
        ("[accounts.a]\ntoken = \"x\"\nrights = \"exti\"\n", ":3:10: accounts.a.rights: "),
        ("[account.a]\n", ":1:2: unknown key `account`; did you mean `accounts`?"),
        (&format!("{good}{good}"), ":4:11: duplicate key"),
    ] {
        place.write_accounts(text);
        let said = place.refused();
        assert!(said.contains(&format!("{}{place_and_words}", path.display())), "{said}");
        assert!(!said.contains("12345"), "{said}");
    }
    place.write_accounts(&good);
    // Only root can give it away; that somebody else's file is refused is also a case of the tests beside the code.
    if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
        let said = place.refused();
        assert!(
            said.contains(&file) && said.contains("it belongs to ") && said.contains("chown it to root"),
            "{said}"
        );
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    fs::create_dir(place.at("open")).unwrap();
    fs::set_permissions(place.at("open"), Permissions::from_mode(0o777)).unwrap();
    fs::rename(&path, place.at("open/accounts.toml")).unwrap();
    place.configure("", "accounts_file = \"open/accounts.toml\"");
    let said = place.refused();
    assert!(said.contains("0777") && said.contains("leads there") && said.contains("chmod go-w"), "{said}");
}

#[test]
fn a_mistake_in_the_table_of_accounts_or_a_setting_out_of_bounds_has_its_place_and_shows_no_secret() {
    let digest = Credential::token(TOKEN.as_bytes()).unwrap().encoded();
    for (app, words) in [
        ("accounts.a = \"12345\"", "ping.toml:4:14: app.accounts.a: it is no table; write [accounts.NAME]"),
        ("accounts.a = 12345", "ping.toml:4:14: app.accounts.a: it is no table; write [accounts.NAME]"),
        ("accounts.a.token = { x = \"12345\" }", "ping.toml:4:22: app.accounts.a.token: unknown key `x`"),
        ("accounts.a.token = [\"12345\"]", "ping.toml:4:20: app.accounts.a.token: invalid type: sequence"),
        ("accounts.a.token = 2012-03-04", "ping.toml:4:20: app.accounts.a.token: it is no digest of a token"),
        (
            "[app.accounts.a]\npassword = \"12345\"",
            "ping.toml:5:12: app.accounts.a.password: it is no password hash",
        ),
        ("[app.accounts.a]\npassword = 12345", "ping.toml:5:12: app.accounts.a.password: it is not text"),
        ("[app.accounts.a]\ntoken = 123.45", "ping.toml:5:9: app.accounts.a.token: it is not text"),
        ("[app.accounts.a]\npasword = \"12345\"", "unknown key `pasword`; did you mean `password`?"),
        (
            "[app.accounts.a]\nrights = \"all\"",
            "ping.toml:4:1: app.accounts.a: it needs a password or a token",
        ),
        (&format!("[app.accounts.a]\ntoken = \"{digest}\"\nrights = \"exti\""), "did you mean `exit`?"),
        (&format!("accounts.{}.token = \"{digest}\"", "n".repeat(101)), "a name has at most 100 bytes"),
        ("login_seconds = 0", "ping.toml:4:17: app.login_seconds: 0 is out of range"),
        ("login_seconds = 3601.0", "ping.toml:4:17: app.login_seconds: 3601 is out of range"),
        ("logins_max = 0", "ping.toml:4:14: app.logins_max: with 0 nobody could log in"),
        ("refusal_seconds = -1", "ping.toml:4:19: app.refusal_seconds: -1 is out of range: 0 to 3600"),
        ("refusal_seconds = nan", "ping.toml:4:19: app.refusal_seconds: NaN is out of range: 0 to 3600"),
        (
            "refusal_max_seconds = 3600.1",
            "ping.toml:4:23: app.refusal_max_seconds: 3600.1 is out of range: 0 to 3600",
        ),
        (
            "refusal_seconds = 5",
            "refusal_max_seconds: 3.2 is less than refusal_seconds, which is 5; set both",
        ),
        ("hashing_jobs = 0", "ping.toml:4:16: app.hashing_jobs: 0 is out of range: 1 to 64"),
        ("hashing_jobs = 65", "ping.toml:4:16: app.hashing_jobs: 65 is out of range: 1 to 64"),
        (
            "request_max_bytes = 65536",
            "ping.toml:4:21: app.request_max_bytes: 65536 is out of range: 1 to 65535",
        ),
        ("dialect = \"modern\"", "ping.toml:4:11: app.dialect: unknown variant `modern`"),
        ("dialects.nobody = \"status\"", "no listener is called `nobody`; there is `"),
        ("default_accounts.a = \"all\"", "default_accounts: their tokens need a secrets_directory"),
        ("secrets_directory = \".\"\ndefault_accounts.a = \"exti\"", "did you mean `exit`?"),
        ("secrets_directory = \".\"\ndefault_accounts.\"a/b\" = \"all\"", "cannot make the account `a/b`"),
        ("secrets_directory = \"none\"\ndefault_accounts.a = \"all\"", "/none/a.secret: No such file"),
    ] {
        let said = Place::new(app).refused();
        assert!(said.contains(words), "{app}: {said}");
        assert!(!said.contains("12345") && !said.contains("123.45") && !said.contains(&digest), "{said}");
    }
    for (settings, least, most) in [
        ("login_seconds", "0.001", "3600"),
        ("logins_max", "1", "1000000"),
        ("refusal_seconds", "0", "3.2"),
        ("refusal_max_seconds", "0.1", "3600"),
        ("hashing_jobs", "1", "64"),
        ("request_max_bytes", "1", "65535"),
    ] {
        for value in [least, most] {
            let place = Place::new(&format!("{settings} = {value}"));
            let output = place.command().arg("--check").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn a_hundred_default_accounts_are_taken_and_one_more_refused() {
    let table = |count| {
        let names: Vec<String> = (0..count).map(|number| format!("account-{number} = \"get\"")).collect();
        Place::new(&format!("secrets_directory = \".\"\ndefault_accounts = {{ {} }}", names.join(", ")))
    };
    assert!(table(100).command().arg("--check").output().unwrap().status.success());
    let said = table(101).refused();
    assert!(said.contains("default_accounts: 101 are too many: at most 100"), "{said}");
}

#[test]
fn weak_hashes_are_taken_with_one_warning() {
    let place = Place::new("accounts_file = \"accounts.toml\"");
    let phc = "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQ$c29tZWRpZ2VzdDEyMzQ1Ng";
    let weak = ["b", "c"].map(|name| format!("[accounts.{name}]\npassword = \"{phc}\"\n")).concat();
    place.write_accounts(&format!("{}{weak}", entry("a", TOKEN, "all")));
    let mut child = Child::spawn(&mut place.command());
    let line = child.wait_for_one_of(&["weak", "listening"]);
    assert!(line.contains("weak password hashes: 2, the first that of b") && !line.contains("$"), "{line}");
    child.wait_for("listening on");
    place.client("a", TOKEN);
}

#[test]
fn an_account_may_stand_in_one_place_only() {
    let inline = |name: &str| {
        let digest = Credential::token(TOKEN.as_bytes()).unwrap().encoded();
        format!(
            "accounts_file = \"accounts.toml\"\nsecrets_directory = \".\"\ndefault_accounts.one = \"all\"\n\
                 [app.accounts.{name}]\ntoken = \"{digest}\"\n"
        )
    };
    for (in_file, in_settings) in [("same", "same"), ("one", "other"), ("other", "one")] {
        let place = Place::new(&inline(in_settings));
        place.write_accounts(&entry(in_file, TOKEN, "all"));
        let said = place.refused();
        assert!(said.contains("remove one"), "{said}");
    }
}

#[test]
fn a_restart_takes_up_what_was_added_to_changed_in_and_removed_from_the_accounts_file() {
    accounts_are_read_again("handover", "restart 1 done", "restart 2 done");
}

#[test]
fn a_reload_takes_up_what_was_added_to_changed_in_and_removed_from_the_accounts_file() {
    accounts_are_read_again("reload", "read again", "read again");
}

fn accounts_are_read_again(on_hup: &str, done: &str, done_again: &str) {
    let place = Place::new("");
    place.configure(&format!("on_hup = \"{on_hup}\""), "accounts_file = \"accounts.toml\"");
    let accounts = |text: &[String]| place.write_accounts(&text.concat());
    accounts(&["kept", "changed", "poorer", "removed"].map(|name| entry(name, TOKEN, "all")));
    let mut child = place.serve();
    let mut clients = ["kept", "changed", "poorer", "removed"].map(|name| place.client(name, TOKEN));
    clients.iter_mut().for_each(expect_pong);

    accounts(&[
        entry("added", OTHER, "all"),
        entry("kept", TOKEN, "all"),
        entry("changed", OTHER, "none"),
        entry("poorer", TOKEN, "none"),
    ]);
    child.signal("HUP");
    child.wait_for("its account is gone");
    if on_hup == "reload" {
        child.wait_for(done);
    }
    expect_pong(&mut place.client("added", OTHER));
    place.expect_wrong("removed", TOKEN);
    place.expect_wrong("changed", TOKEN);
    place.client("changed", OTHER);
    place.client("kept", TOKEN);
    let [kept, changed, poorer, removed] = &mut clients;
    assert!(may_inspect(kept), "nothing has changed for it");
    expect_pong(changed);
    assert!(!may_inspect(changed), "it stays, with the rights of now");
    assert!(!may_inspect(poorer));
    assert_eq!(removed.read().unwrap(), None, "its account is gone, and so is it");

    // The rights of whose secret has changed are still those of now.
    accounts(&[entry("changed", OTHER, "all"), entry("kept", TOKEN, "all")]);
    child.signal("HUP");
    child.wait_for(done_again);
    assert!(may_inspect(changed) && may_inspect(kept));
    assert_eq!(poorer.read().unwrap(), None);
}

#[test]
fn a_restart_with_a_broken_accounts_file_is_refused_and_changes_nothing() {
    a_broken_file_changes_nothing("handover", "restart failed, this image goes on");
}

#[test]
fn a_reload_with_a_broken_accounts_file_changes_nothing() {
    a_broken_file_changes_nothing("reload", "reload failed, nothing has changed");
}

fn a_broken_file_changes_nothing(on_hup: &str, failed: &str) {
    let place = Place::new("");
    let app = "accounts_file = \"accounts.toml\"";
    place.configure(&format!("on_hup = \"{on_hup}\""), app);
    let good = [entry("kept", TOKEN, "all"), entry("also", TOKEN, "all")].concat();
    place.write_accounts(&good);
    let mut child = place.serve();
    let mut client = place.client("kept", TOKEN);
    let path = place.at("accounts.toml");
    let added = entry("added", OTHER, "all");
    for (text, words) in [
        (format!("{added}[accounts.kept]\npassword = \"canary\"\n"), ":5:12: accounts.kept.password"),
        (format!("{added}[accounts.k"), ":4:12: "),
        (String::new(), ": it has no table [accounts]"),
    ] {
        place.write_accounts(&text);
        child.signal("HUP");
        let line = child.wait_for(failed);
        assert!(line.contains(&format!("{}{words}", path.display())), "{line}");
        assert!(line.contains(" error ") && !line.contains("canary"), "{line}");
        expect_pong(&mut client);
        place.client("also", TOKEN);
        place.expect_wrong("added", OTHER);
    }
    fs::remove_file(&path).unwrap();
    child.signal("HUP");
    let line = child.wait_for(failed);
    assert!(line.contains("make it, or name another"), "{line}");
    place.write_accounts(&good);
    // Values out of bounds beside good accounts.
    place.configure(&format!("on_hup = \"{on_hup}\""), &format!("{app}\nhashing_jobs = 0"));
    child.signal("HUP");
    child.wait_for(failed);
    assert!(may_inspect(&mut client));
    child.signal("TERM");
    assert!(child.expect_exit().success());
}

const DEFAULTS: &str =
    "secrets_directory = \"run\"\ndefault_accounts = { status = \"inspect_basic_info\", admin = \"exit\" }";

/// With the directory for secrets.
fn place_with_defaults() -> Place {
    let place = Place::new(DEFAULTS);
    fs::create_dir(place.at("run")).unwrap();
    fs::set_permissions(place.at("run"), Permissions::from_mode(0o755)).unwrap();
    place
}

#[test]
fn the_token_of_a_default_account_logs_in_outlives_a_restart_and_goes_with_the_server() {
    let place = place_with_defaults();
    let mut child = place.serve();
    let path = place.at("run/status.secret");
    let token = fs::read(&path).unwrap();
    assert_eq!((token.len(), fs::metadata(&path).unwrap().mode() & 0o7777), (100, 0o600));
    let admins = fs::read(place.at("run/admin.secret")).unwrap();
    assert_ne!(token, admins);
    place.expect_wrong("status", "");
    place.expect_wrong("status", &admins);
    let mut client = place.client("status", &token);
    assert!(may_inspect(&mut client));

    child.signal("HUP");
    child.wait_for("restart 1 done");
    assert!(fs::read(&path).unwrap() == token, "who has read it can still use it");
    assert!(may_inspect(&mut client) && may_inspect(&mut place.client("status", &token)));
    client.write(&["exit"]).unwrap();
    assert!(client.check_security().is_err(), "that is the right of the other one");

    let mut admin = place.client("admin", &admins);
    admin.write(&["exit"]).unwrap();
    admin.check_security().unwrap();
    assert_eq!(admin.read().unwrap().unwrap(), [b"exit command received"]);
    assert!(child.expect_exit().success());
    assert_eq!(fs::read_dir(place.at("run")).unwrap().count(), 0);

    let mut child = place.serve();
    let next = fs::read(&path).unwrap();
    assert!(next != token && may_inspect(&mut place.client("status", &next)));
    place.expect_wrong("status", &token);
    child.signal("TERM");
    let log = child.expect_log().join("\n");
    for secret in [&token, &next, &admins] {
        assert!(!log.contains(&secret[..16].escape_ascii().to_string()));
    }
    assert!(!path.exists());
}

#[test]
fn a_restart_makes_a_token_anew_whose_file_was_touched_and_keeps_its_clients() {
    let place = place_with_defaults();
    let mut child = place.serve();
    let path = place.at("run/status.secret");
    let token = fs::read(&path).unwrap();
    let mut client = place.client("status", &token);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    child.signal("HUP");
    child.wait_for("status.secret: it is not the file that was made; it is made anew");
    child.wait_for("restart 1 done");
    let next = fs::read(&path).unwrap();
    assert!(next != token && fs::metadata(&path).unwrap().mode() & 0o7777 == 0o600);
    assert!(may_inspect(&mut client) && may_inspect(&mut place.client("status", &next)));
    place.expect_wrong("status", &token);

    fs::set_permissions(place.at("run"), Permissions::from_mode(0o777)).unwrap();
    child.signal("HUP");
    let line = child.wait_for("restart failed");
    assert!(line.contains("0777") && line.contains("chmod go-w"), "{line}");
    assert!(may_inspect(&mut client) && may_inspect(&mut place.client("status", &next)));
}

#[test]
fn a_server_that_cannot_start_leaves_the_tokens_of_the_one_that_runs() {
    let place = place_with_defaults();
    let _child = place.serve();
    let token = fs::read(place.at("run/status.secret")).unwrap();
    assert!(place.refused().contains("ping.sock"));
    let check = place.command().arg("--check").output().unwrap();
    assert!(check.status.success());
    assert!(may_inspect(&mut place.client("status", &token)));
}

#[test]
fn tokens_are_not_written_where_others_could_change_them() {
    let place = place_with_defaults();
    for mode in [0o770, 0o777, 0o702] {
        fs::set_permissions(place.at("run"), Permissions::from_mode(mode)).unwrap();
        let said = place.refused();
        assert!(said.contains("run/admin.secret") && said.contains(&format!("{mode:04o}")), "{said}");
    }
    assert_eq!(fs::read_dir(place.at("run")).unwrap().count(), 0);
}
