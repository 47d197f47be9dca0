//! What the tests of message servers share: messages as bytes, a server with accounts, and one whose turns the test makes.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lineplex::Mux;
use lineplex::codec::message::{write_array, write_scalar};
use lineplex::config::{Limits, ListenAt};
use lineplex::personality::message::{Credential, MessageHost, MessageServer, Messages, Rights};

use super::{Client, DEADLINE, example};

pub(crate) const BANNER: &str = "000a76657273696f6e003100";
pub(crate) const OK: &str = "00036f6b00";
pub(crate) const WRONG: &str = "001e496e76616c696420757365726e616d65206f722070617373776f72642e00";

/// Of `12345`.
const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$3GmntW/Q/IlERZZeoH0pUw$Z43LKqbbZ5Hm9GfCpIdNBzVZeDZzWCdrOE4CKS3d0No";

/// Bytes written as hexadecimal digits; blanks between them mean nothing.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    digits.chunks(2).map(byte).collect()
}

pub(crate) fn array(elements: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(&mut out, elements).expect("the test writes what can be written");
    out
}

pub(crate) fn scalar(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    write_scalar(&mut out, bytes.as_ref()).expect("the test writes what can be written");
    out
}

pub(crate) fn login(name: &str, password: &str) -> Vec<u8> {
    [scalar(name), scalar(password)].concat()
}

/// Accounts: `test` with the password `12345`, `poor` with the same and no rights, `program` with the token
/// [`TOKEN`]. A minute for a login.
pub(crate) fn server(build: impl FnOnce(&mut Messages)) -> MessageServer {
    let mut server = MessageServer::new("test");
    let hash = || Credential::from_phc(HASH).expect("it is a hash");
    server.accounts().add(b"test", hash(), Rights::ALL);
    server.accounts().add(b"poor", hash(), Rights::NONE);
    let token = Credential::token(TOKEN.as_bytes()).expect("it is long enough");
    server.accounts().add(b"program", token, Rights::ALL);
    server.messages().set_login_timeout(Duration::from_secs(60));
    build(server.messages());
    server
}

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What `message_ping OPTION` prints.
pub(crate) fn printed(option: &str, input: &str) -> String {
    let mut command = Command::new(example("message_ping"));
    let mut child =
        command.arg(option).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(input.as_bytes()).expect("it is read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("it is text")
}

/// A [`server`] whose turns the test makes itself, so that it knows what has happened and what has not.
pub(crate) struct Driven {
    pub(crate) mux: Mux<MessageServer>,
    address: SocketAddr,
}

impl Driven {
    /// With one thread for slow work.
    pub(crate) fn new(build: impl FnOnce(&mut Messages)) -> Self {
        let limits = Limits { offload_threads: 1, ..Limits::default() };
        let mut mux = Mux::new(server(build), limits).expect("a loop can be made");
        let address = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).expect("a port is free");
        Self { mux, address: address.to_string().parse().expect("it is one of TCP") }
    }

    /// A client with the address 127.0.0.`host`.
    #[track_caller]
    pub(crate) fn connect(&self, host: u8) -> Client {
        Client::connect_from(IpAddr::from([127, 0, 0, host]), self.address)
    }

    /// A client that sends a login, which has been read.
    #[track_caller]
    pub(crate) fn log_in(&mut self, host: u8, name: &str, password: &str) -> Client {
        let before = self.mux.conns().metrics().bytes_in;
        let (client, bytes) = (self.connect(host), login(name, password));
        client.send(&bytes);
        self.turn_until(|mux| mux.conns().metrics().bytes_in == before + bytes.len() as u64);
        client
    }

    #[track_caller]
    pub(crate) fn turn_until(&mut self, mut is_so: impl FnMut(&mut Mux<MessageServer>) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !is_so(&mut self.mux) {
            let metrics = self.mux.conns().metrics();
            let counters = self.mux.server().messages().counters();
            assert!(Instant::now() < until, "not in time; {counters:?}, {metrics:?}");
            self.mux.turn(Some(Duration::from_secs(1))).expect("it turns");
        }
    }
}
