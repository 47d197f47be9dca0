//! The accounts of a message server through the whole program: the accounts file at the start, at both kinds of SIGHUP, and
//! the default accounts with their files. The program is the example `message_ping`.

#![cfg(feature = "auth")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod common;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

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

/// What `message_ping OPTION` prints.
fn printed(option: &str, input: &str) -> String {
    let mut command = Command::new(example("message_ping"));
    let mut child = command.arg(option).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
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
