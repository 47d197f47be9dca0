//! The example samplechat, as its users see it: real processes, real sockets, the bytes on the wire.
//!
//! The numbers in the comments are those of the acceptance cases of the chat that it carries over. The order of two
//! lines is asserted only where one receiver gets both; a moment is never asserted, only what comes before what.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Command;

use common::{Child, Client, Missed, TempDir, complains, example};

/// The chat on a port of its own, at log level 4, bytes unchanged unless the options say otherwise.
struct Chat {
    child: Child,
    addr: SocketAddr,
}

impl Chat {
    #[track_caller]
    fn start(options: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", options)
    }

    #[track_caller]
    fn start_at(port: &str, options: &[&str]) -> Self {
        let mut command = Command::new(example("samplechat"));
        command.args(["--port", port, "--log_level=4", "--safe_text=false"]).args(options);
        let mut child = Child::spawn(&mut command);
        let addr = child.wait_for_address();
        Self { child, addr }
    }

    /// A client that has read its own welcome as number `number`.
    #[track_caller]
    fn join(&self, number: u32) -> Client {
        let mut client = Client::connect(self.addr);
        client.expect(greeting(number, "127.0.0.1"));
        client
    }

    /// As [`Chat::join`], seen by `others` too.
    #[track_caller]
    fn join_before(&self, number: u32, others: &mut [&mut Client]) -> Client {
        let client = self.join(number);
        for other in others {
            other.expect(joined(number, "127.0.0.1"));
        }
        client
    }

    /// Ends it and fails unless that goes well.
    #[track_caller]
    fn stop(mut self) -> Vec<String> {
        self.child.signal("TERM");
        let status = self.child.expect_exit();
        let log = self.child.expect_log().to_vec();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        log
    }
}

// A01
#[test]
fn the_first_client_is_told_of_its_own_joining_and_welcomed_and_nothing_else() {
    let chat = Chat::start(&[]);
    let mut a = Client::connect(chat.addr);
    a.expect("JOIN: (#1) from 127.0.0.1\r\nWelcome, number 1.\r\n");
    a.half_close();
    a.expect_eof();
    chat.stop();
}

// A02
#[test]
fn everybody_hears_who_joins_and_only_the_newcomer_is_welcomed() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let mut b = Client::connect(chat.addr);
    b.expect("JOIN: (#2) from 127.0.0.1\r\nWelcome, number 2.\r\n");
    a.expect("JOIN: (#2) from 127.0.0.1\r\n");
    a.half_close();
    a.expect_eof();
    b.expect("LEFT: (#1) from 127.0.0.1\r\n");
    chat.stop();
}

// A03
#[test]
fn a_line_goes_to_everybody_and_its_sender_is_told_how_many_bytes_that_were() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    a.send("hello\r\n");
    a.expect("[1 - 127.0.0.1] hello\r\n - sent 23 byte message\r\n");
    b.expect("[1 - 127.0.0.1] hello\r\n");
    b.half_close();
    b.expect_eof();
    chat.stop();
}

// A04
#[test]
fn lines_of_one_packet_are_answered_line_by_line_and_blank_ones_not_at_all() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    b.send("one\ntwo\r\n\r\n\npart");
    b.expect("[2 - 127.0.0.1] one\r\n - sent 21 byte message\r\n");
    b.expect("[2 - 127.0.0.1] two\r\n - sent 21 byte message\r\n");
    b.send("ial\n");
    b.expect("[2 - 127.0.0.1] partial\r\n - sent 25 byte message\r\n");
    a.expect("[2 - 127.0.0.1] one\r\n[2 - 127.0.0.1] two\r\n[2 - 127.0.0.1] partial\r\n");
    b.half_close();
    b.expect_eof();
    a.expect("LEFT: (#2) from 127.0.0.1\r\n");
    chat.stop();
}

// A05
#[test]
fn a_line_that_comes_byte_by_byte_is_one_line() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    for byte in b"slow and steady\r\n" {
        a.send([*byte]);
    }
    a.expect("[1 - 127.0.0.1] slow and steady\r\n - sent 33 byte message\r\n");
    a.half_close();
    a.expect_eof();
    chat.stop();
}

// A06, A07, A09
#[test]
fn bytes_pass_unchanged_and_only_one_carriage_return_belongs_to_the_ending() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let lines: [(&[u8], &[u8]); 9] = [
        (b"a\rb\n", b"a\rb"),
        (b"c\r\r\n", b"c\r"),
        (b"\0\xff\xfb\x01\n", b"\0\xff\xfb\x01"),
        ("grüße, 世界\r\n".as_bytes(), "grüße, 世界".as_bytes()),
        (b"\x1b[2J\tx\n", b"\x1b[2J\tx"),
        (b"  spaced  \r\n", b"  spaced  "),
        (b"0\n", b"0"),
        (b"00\r\n", b"00"),
        (b"quit\n", b"quit"),
    ];
    for (sent, text) in lines {
        a.send(sent);
        a.expect(said(1, text));
        a.expect(acknowledged(1, text.len()));
    }
    a.half_close();
    a.expect_eof();
    chat.stop();
}

// A08
#[test]
fn a_line_of_9000_bytes_arrives_whole_and_counts_9018() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    let text = vec![b'x'; 9000];
    a.send([text.as_slice(), b"\n"].concat());
    a.expect(said(1, &text));
    a.expect(" - sent 9018 byte message\r\n");
    b.expect(said(1, &text));
    chat.stop();
}

#[test]
fn a_line_past_the_limit_closes_its_sender_and_reaches_nobody() {
    let chat = Chat::start(&["--line_max_bytes=100"]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    b.send([vec![b'x'; 100], b"\n".to_vec()].concat());
    a.expect(said(2, &[b'x'; 100]));
    b.send([vec![b'y'; 101], b"\n".to_vec()].concat());
    a.expect("LEFT: (#2) from 127.0.0.1\r\n");
    b.expect(said(2, &[b'x'; 100]));
    b.expect(acknowledged(2, 100));
    b.expect("Line too long.\r\n");
    b.expect_eof();
    chat.stop();
}

// A10
#[test]
fn a_client_that_half_closes_gets_what_it_is_owed_and_then_the_end() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    b.send("x\n");
    b.half_close();
    b.expect("[2 - 127.0.0.1] x\r\n - sent 19 byte message\r\n");
    b.expect_eof();
    a.expect("[2 - 127.0.0.1] x\r\nLEFT: (#2) from 127.0.0.1\r\n");
    chat.stop();
}

// A11
#[test]
fn an_unfinished_line_is_discarded_when_its_client_leaves() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    b.send("said to nobody");
    b.half_close();
    b.expect_eof();
    a.expect("LEFT: (#2) from 127.0.0.1\r\n");
    a.send("still here\n");
    a.expect(said(1, b"still here"));
    chat.stop();
}

// A12
#[test]
fn a_client_that_resets_has_left_and_the_chat_goes_on() {
    let chat = Chat::start(&[]);
    let mut a = chat.join(1);
    let b = chat.join_before(2, &mut [&mut a]);
    b.reset();
    a.expect("LEFT: (#2) from 127.0.0.1\r\n");
    let mut c = chat.join_before(3, &mut [&mut a]);
    c.send("well\n");
    a.expect(said(3, b"well"));
    c.half_close();
    c.expect(said(3, b"well"));
    c.expect(acknowledged(3, 4));
    c.expect_eof();
    chat.stop();
}

// A13
#[test]
fn a_silent_client_becomes_a_senior_and_is_then_sent_away() {
    let chat = Chat::start(&["--junior_seconds=0.05", "--senior-seconds", "0.125"]);
    let mut a = chat.join(1);
    a.expect("You have been here a while: you may now be quiet for 0.125 seconds.\r\n");
    a.expect("Nothing heard from you for 0.125 seconds. Goodbye.\r\n");
    a.expect_eof();
    chat.stop();
}

// A13
#[test]
fn the_others_hear_that_a_silent_client_has_left() {
    let chat = Chat::start(&["--junior_seconds=0.2", "--senior_seconds=0.2"]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    let mut told = Vec::new();
    // B talks all the time, and so it is A who is silent.
    while tick(&mut b) && overhear(&mut a, 2, &mut told) {}
    assert_eq!(told.last().unwrap(), "Nothing heard from you for 0.2 seconds. Goodbye.");
    drop(a);
    while b.expect_line() != "LEFT: (#1) from 127.0.0.1" {}
    chat.stop();
}

// A14
#[test]
fn talking_does_not_put_off_becoming_a_senior() {
    let chat = Chat::start(&["--junior_seconds=0.3", "--senior_seconds=60"]);
    let mut a = chat.join(1);
    // If each line put it off, this would go on until a wait fails.
    'talking: loop {
        a.send("talk\n");
        loop {
            match a.expect_line().as_str() {
                " - sent 22 byte message" => break,
                "[1 - 127.0.0.1] talk" => {}
                upgrade => {
                    assert_eq!(upgrade, "You have been here a while: you may now be quiet for 60 seconds.");
                    break 'talking;
                }
            }
        }
        assert!(a.received().len() < 64 * 1024 * 1024, "it talks and talks");
    }
    chat.stop();
}

// A15
#[test]
fn one_byte_of_an_unfinished_line_keeps_a_senior() {
    let chat = Chat::start(&["--junior_seconds=0.05", "--senior_seconds=1", "--line_max_bytes=1M"]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    let mut clock = chat.join_before(3, &mut [&mut a, &mut b]);
    let (mut a_told, mut b_told) = (Vec::new(), Vec::new());
    // B says nothing at all; A sends single bytes without an end, at the pace of a third one's round trips.
    while tick(&mut clock) && overhear(&mut b, 3, &mut b_told) {
        assert!(overhear(&mut a, 3, &mut a_told), "A was sent away while it was sending: {a_told:?}");
        if a_told.len() == 1 {
            a.send("x");
        }
    }
    let upgrade = "You have been here a while: you may now be quiet for 1 seconds.";
    let bye = "Nothing heard from you for 1 seconds. Goodbye.";
    assert_eq!(b_told, [upgrade, bye]);
    assert_eq!(a_told, [upgrade]);
    // Now that it is silent too, its time comes.
    while a.expect_line() != bye {}
    a.expect_eof();
    chat.stop();
}

// A16
#[test]
fn the_deadline_of_a_client_that_has_gone_is_nobodys_any_more() {
    let mut chat = Chat::start(&["--junior_seconds=0.1", "--senior_seconds=0.1"]);
    let mut b = Client::connect(chat.addr);
    let mut a = Client::connect(chat.addr);
    a.expect_line();
    a.half_close();
    a.expect_to_eof();
    chat.child.wait_for("is gone: eof");
    // Connected after it, this one's two deadlines are later than its one.
    let mut c = Client::connect(chat.addr);
    let told = String::from_utf8(c.expect_to_eof()).unwrap();
    assert_eq!(told.matches("You have been here a while").count(), 1, "{told}");
    assert!(told.ends_with("Nothing heard from you for 0.1 seconds. Goodbye.\r\n"), "{told}");
    b.expect_to_eof();
    let log = chat.stop();
    let of_it = log.iter().filter(|line| line.contains("client 2 at")).count();
    assert_eq!(of_it, 1, "{log:#?}");
    assert!(!complains(&log), "{log:#?}");
}

// A17, A18, A21
#[test]
fn a_denied_client_is_told_so_takes_a_number_and_is_heard_by_nobody() {
    let chat = Chat::start(&["--allow=127.0.0.0/8", "--deny=127.0.0.2"]);
    let mut a = chat.join(1);
    let x = Client::connect_from(IpAddr::from([127, 0, 0, 2]), chat.addr);
    // It may be closed already.
    let _ = x.try_send("evil\nmore evil");
    let mut x = told_no(x);
    let _ = x.try_send("\nand again\n");
    let y = Client::connect_from(IpAddr::from([127, 0, 0, 2]), chat.addr);
    let _ = y.try_send("evil\n");
    y.half_close();
    told_no(y);
    let g = chat.join(4);
    g.send("good\n");
    a.expect(joined(4, "127.0.0.1"));
    a.expect(said(4, b"good"));
    a.half_close();
    a.expect_eof();
    x.expect_eof();
    chat.stop();
}

/// Reads the refusal and the end behind it.
#[track_caller]
fn told_no(mut client: Client) -> Client {
    client.expect("Sorry, you are not allowed here.\r\n");
    client.expect_eof();
    client
}

// A20
#[test]
fn a_deny_list_alone_denies_everybody() {
    let chat = Chat::start(&["--deny", "10.0.0.1"]);
    for source in [[127, 0, 0, 1], [127, 0, 0, 9]] {
        told_no(Client::connect_from(IpAddr::from(source), chat.addr));
    }
    chat.stop();
}

// A22
#[test]
fn networks_are_allowed_and_denied_on_a_dual_stack_listener() {
    let chat = Chat::start_at("0", &["--host=*", "--cidr_allow=127.0.0.0/8", "--cidr_deny=127.0.0.2/32"]);
    let port = chat.addr.port();
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Client::connect(v4).expect(greeting(1, "127.0.0.1"));
    told_no(Client::connect_from(IpAddr::from([127, 0, 0, 2]), v4));
    if has_ipv6() {
        told_no(Client::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))));
    }
    chat.stop();
}

// A24
#[test]
fn a_glob_and_an_address_match_whole_addresses_only() {
    let chat = Chat::start(&["--allow=127.0.0.9", "--allow=127.1.*"]);
    let from = |source: [u8; 4]| Client::connect_from(IpAddr::from(source), chat.addr);
    from([127, 0, 0, 9]).expect(greeting(1, "127.0.0.9"));
    told_no(from([127, 0, 0, 90]));
    told_no(from([127, 0, 0, 1]));
    from([127, 1, 2, 3]).expect(greeting(4, "127.1.2.3"));
    told_no(from([127, 10, 2, 3]));
    chat.stop();
}

// A23, A24
#[test]
fn a_pattern_that_is_none_refuses_to_start_and_says_what_to_write() {
    for (option, remedy) in [
        ("--allow=127.0.0.9|0.2", "`127.0.0.9|0.2`: regular expressions are not offered"),
        ("--deny=127\\..*", "write an entry for each address, a network such as `10.0.0.0/8`, or a glob"),
        ("--allow=127.0.0.0/33", "a number of 0 to 32"),
        ("--cidr_deny=300.0.0.0/8", "not a network: write a whole address"),
    ] {
        let mut child =
            Child::spawn(Command::new(example("samplechat")).args(["--port=127.0.0.1:0", option]));
        assert_eq!(child.expect_exit().code(), Some(2));
        let log = child.expect_log().join("\n");
        let key = option.trim_start_matches('-').split('=').next().unwrap();
        assert!(log.contains(key) && log.contains(remedy), "{option}: {log}");
        assert!(!log.contains("listening on"), "{log}");
    }
}

// A19
#[test]
fn a_dual_stack_listener_shows_ipv4_peers_as_ipv4() {
    for options in [["--host=*", "--ipv=*"], ["--host", "::"]] {
        if options[1] == "::" && !has_ipv6() {
            continue;
        }
        let chat = Chat::start_at("0", &options);
        let port = chat.addr.port();
        let mut a = Client::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        a.expect(greeting(1, "127.0.0.1"));
        if has_ipv6() {
            let mut b = Client::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
            b.expect(greeting(2, "::1"));
            b.send("six\n");
            b.expect("[2 - ::1] six\r\n - sent 15 byte message\r\n");
            a.expect("JOIN: (#2) from ::1\r\n[2 - ::1] six\r\n");
        }
        chat.stop();
    }
}

// A70, on TCP and Unix.
#[test]
fn clients_of_a_unix_socket_and_of_tcp_share_one_room() {
    let directory = TempDir::new();
    let path = directory.path().join("chat.sock");
    let chat = Chat::start(&["--port", &format!("{}|unix", path.display())]);
    let mut a = chat.join(1);
    let mut b = Client::connect(path.display());
    b.expect(greeting(2, "unix"));
    a.expect(joined(2, "unix"));
    b.send("down here\n");
    b.expect("[2 - unix] down here\r\n - sent 22 byte message\r\n");
    a.expect("[2 - unix] down here\r\n");
    a.send("up there\n");
    b.expect(said(1, b"up there"));
    b.half_close();
    b.expect_eof();
    a.expect(said(1, b"up there"));
    a.expect(acknowledged(1, 8));
    a.expect("LEFT: (#2) from unix\r\n");
    chat.stop();
    assert!(!path.exists(), "the path of the socket is gone");
}

// A71, the part about the rule
#[test]
fn a_client_of_a_unix_socket_is_no_address_and_passes_lists_of_addresses() {
    let directory = TempDir::new();
    let path = directory.path().join("chat.sock");
    let chat =
        Chat::start(&["--port", &format!("{}|unix", path.display()), "--deny=0.0.0.0/0", "--deny=::/0"]);
    told_no(Client::connect(chat.addr));
    Client::connect(path.display()).expect(greeting(2, "unix"));
    chat.stop();
}

#[test]
fn safe_text_shows_what_could_move_a_terminal_as_a_replacement_and_counts_what_was_sent() {
    let chat = Chat::start(&["--safe_text=true"]);
    let mut a = chat.join(1);
    let mut b = chat.join_before(2, &mut [&mut a]);
    for (sent, shown) in [
        (&b"\x1b[2J"[..], "\u{fffd}[2J"),
        (b"\xff\xfb\x01", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"a\rb", "a\u{fffd}b"),
        (b"tab\tstays", "tab\tstays"),
        ("grüße \u{202e}".as_bytes(), "grüße \u{fffd}"),
    ] {
        a.send([sent, b"\r\n"].concat());
        a.expect(said(1, shown.as_bytes()));
        a.expect(acknowledged(1, shown.len()));
        b.expect(said(1, shown.as_bytes()));
    }
    chat.stop();
}

// A76
#[test]
fn two_hundred_clients_are_all_greeted_and_all_hear_one() {
    let chat = Chat::start(&[]);
    let mut clients: Vec<Client> = (1..=200).map(|number| chat.join(number)).collect();
    clients[0].send("all of you\n");
    for (at, client) in clients.iter_mut().enumerate() {
        for number in at + 2..=200 {
            client.expect(joined(u32::try_from(number).unwrap(), "127.0.0.1"));
        }
        client.expect(said(1, b"all of you"));
    }
    clients[0].expect(acknowledged(1, 10));
    let log = chat.stop();
    assert!(
        log.iter().any(|line| line.contains("closing; clients told goodbye: 200, cut off: 0")),
        "{log:#?}"
    );
    for client in &mut clients {
        // Only the others' leaving may still be said, to those who are closed after them.
        let rest = String::from_utf8(client.expect_to_eof()).unwrap();
        assert!(rest.lines().all(|line| line.starts_with("LEFT: (#")), "{rest}");
    }
}

#[test]
fn settings_that_are_no_time_refuse_to_start() {
    for option in ["--junior_seconds=-1", "--senior_seconds=soon", "--safe_text=perhaps", "--juniorseconds=1"]
    {
        let mut child =
            Child::spawn(Command::new(example("samplechat")).args(["--port=127.0.0.1:0", option]));
        let status = child.expect_exit();
        let log = child.expect_log().join("\n");
        assert!(!status.success(), "{option}: {log}");
        let key = option.trim_start_matches('-').split('=').next().unwrap();
        assert!(log.contains(key), "{option}: {log}");
    }
}

fn joined(number: u32, address: &str) -> String {
    format!("JOIN: (#{number}) from {address}\r\n")
}

fn greeting(number: u32, address: &str) -> String {
    format!("{}Welcome, number {number}.\r\n", joined(number, address))
}

/// What everybody hears of a line from 127.0.0.1.
fn said(number: u32, text: &[u8]) -> Vec<u8> {
    [format!("[{number} - 127.0.0.1] ").as_bytes(), text, b"\r\n"].concat()
}

/// What its sender hears then; `length` is that of the text.
fn acknowledged(number: u32, length: usize) -> String {
    format!(" - sent {} byte message\r\n", format!("[{number} - 127.0.0.1] ").len() + length + 2)
}

/// One line said by `client`, up to its acknowledgement: one step of a clock that needs no time. Always true.
#[track_caller]
fn tick(client: &mut Client) -> bool {
    client.send("tick\n");
    while client.expect_line() != " - sent 22 byte message" {}
    true
}

/// Reads what `client` hears, up to the tick of `number`; false when the stream ends instead.
#[track_caller]
fn overhear(client: &mut Client, number: u32, heard: &mut Vec<String>) -> bool {
    loop {
        match client.next_line() {
            Ok(line) if line == said(number, b"tick") => return true,
            Ok(line) => heard.push(String::from_utf8_lossy(&line).trim_end().to_owned()),
            Err(Missed::Eof) => return false,
            Err(missed) => panic!("{missed}; {client}"),
        }
    }
}

/// Whether this machine has a loopback address of IPv6.
fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
