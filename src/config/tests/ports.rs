//! The port grammar (`port`, `host`, `proto`, `ipv`, `listen`).

use super::*;

/// The listeners of a file, in short.
#[track_caller]
fn listeners(toml: &str) -> Vec<String> {
    config(toml).listen.iter().map(short).collect()
}

fn short(at: &ListenAt) -> String {
    match &at.addr {
        ListenAddr::Tcp { host, port, ipv } => format!("{host} {port} {ipv:?}"),
        ListenAddr::Unix { path, .. } => path.display().to_string(),
    }
}

#[test]
fn every_form_of_an_entry_is_understood() {
    let cases = [
        ("20203", "* 20203 Any"),
        ("0", "* 0 Any"),
        ("'20203'", "* 20203 Any"),
        ("'127.0.0.1:20203'", "127.0.0.1 20203 Any"),
        ("'*:20203'", "* 20203 Any"),
        ("'chat.example-1.org:20203'", "chat.example-1.org 20203 Any"),
        ("'[::1]:20204'", "::1 20204 Any"),
        ("'[::1] 20204'", "::1 20204 Any"),
        ("'[fe80::1%eth0]:1'", "fe80::1%eth0 1 Any"),
        ("'127.0.0.1:20203/tcp/IPv4'", "127.0.0.1 20203 V4"),
        ("'127.0.0.1|20203|tcp|ipv4'", "127.0.0.1 20203 V4"),
        ("'localhost 20203, TCP v4v6'", "localhost 20203 Any"),
        ("'[::1]:20203/tcp/IPv6'", "::1 20203 V6"),
        ("'20203/tcp'", "* 20203 Any"),
        ("'20203/v6'", "* 20203 V6"),
        ("'/run/x.sock|unix'", "/run/x.sock"),
        ("'/run/x.sock | unix'", "/run/x.sock"),
        ("{ port = 5 }", "* 5 Any"),
        ("{ port = '5', host = '[::1]', ipv = 6 }", "::1 5 V6"),
        ("{ port = '127.0.0.1:5' }", "127.0.0.1 5 Any"),
        ("{ port = '127.0.0.1:5/v4', host = '::1', ipv = 6 }", "127.0.0.1 5 V4"),
        ("{ ipv = 6, host = '::1', port = '127.0.0.1:5/v4' }", "127.0.0.1 5 V4"),
        ("{ path = '/run/x.sock' }", "/run/x.sock"),
        ("{ port = '/run/x.sock', proto = 'unix' }", "/run/x.sock"),
        ("{ port = '/run/x.sock|unix', mode = 0o660 }", "/run/x.sock"),
    ];
    for (entry, expected) in cases {
        assert_eq!(listeners(&format!("port = [{entry}]")), [expected], "{entry}");
    }
}

#[test]
fn what_is_no_port_is_refused_with_a_sentence() {
    let cases = [
        ("99999", "99999 is no port: 1 to 65535"),
        ("'99999'", "99999 is no port: 1 to 65535"),
        ("-1", "-1 is no port"),
        ("'-1'", "neither a port (0 to 65535) nor a service"),
        ("1.5", "1.5 is no port: a number, text"),
        ("'1.5'", "neither a port"),
        ("true", "true is no port"),
        ("'22101,22102'", "two ports; write a list: [22101, 22102]"),
        ("'::1:20204'", "an IPv6 address goes in brackets"),
        ("'[::1'", "no closing bracket"),
        ("''", "is no port"),
        ("'host:'", "is no port"),
        ("'a b:1'", "is no port"),
        ("'h@st:1'", "no address or host name"),
        ("'no-such-service-here'", "nor a service"),
        ("'/run/x.sock'", "write it as \"/run/x.sock|unix\""),
        ("'/run/x.sock|tcp'", "is a path; only |unix"),
        ("'/run/x.sock|unixdgram'", "datagrams are not available"),
        ("'20203/udp'", "datagrams are not available"),
        ("'20203/ssl'", "TLS is not available"),
        ("[1]", "a list stands inside"),
        ("{ host = '::1' }", "the table has no port"),
        ("{ port = 1, proto = 'sctp' }", "`sctp` is no protocol; tcp and unix are"),
        ("{ port = 1, mode = 0o660 }", "only a Unix listener has it"),
        ("{ path = '/x', host = '*' }", "only a TCP listener has it"),
        ("{ port = 1, proto = 'unix' }", "a Unix socket needs a path"),
        ("{ path = '/x', mode = 1777 }", "write permission bits in octal: 0o660"),
        ("{ path = '/x', mode = 0o1770 }", "write permission bits in octal: 0o660"),
        ("{ path = '/x', mode = 660 }", "write permission bits in octal: 0o660"),
        ("{ path = '/x', mode = '0888' }", "write permission bits in octal"),
        ("{ path = '' }", "needs a path"),
        ("{ port = 1, cert_file = 'x' }", "not available in this version"),
        ("{ port = 1, accept_fds = 1 }", "only a Unix listener has it"),
        ("{ path = '/x', accept_fds = 251 }", "251 is no number of descriptors: 0 to 250"),
        ("{ path = '/x', accept_fds = -1 }", "no number of descriptors"),
        ("{ port = 1, ipv = 5 }", "no IP version"),
        ("{ port = 1, listen = 0 }", "no backlog"),
    ];
    for (entry, expected) in cases {
        let line = refused_line(&format!("port = [{entry}]"));
        assert!(line.starts_with("x.toml:1:") && line.contains(expected), "{entry}\n{line}");
    }
    assert!(refused_line("port = []").contains("the list is empty"));
}

#[test]
fn every_bad_key_of_a_table_is_told() {
    let lines = refused(with_file("port = [{ prot = 1, mode = 1, ipv = 9, port = 70000 }]"));
    assert_eq!(lines.len(), 4, "{lines:?}");
}

#[test]
fn the_other_lists_pair_with_the_ports_and_the_last_value_repeats() {
    assert_eq!(
        listeners("port = [1, 2, 3, '[::1]:4']\nhost = ['127.0.0.1', '127.0.0.2']\nipv = [4, '*']"),
        ["127.0.0.1 1 V4", "127.0.0.2 2 Any", "127.0.0.2 3 Any", "::1 4 Any"]
    );
    assert_eq!(
        listeners("port = ['/run/a', 5, '/run/b|unix']\nproto = ['unix', 'tcp']"),
        ["/run/a", "* 5 Any", "/run/b"]
    );
    let backlogs: Vec<_> = config("port = [1, { port = 2, listen = 9 }]\nlisten = 7")
        .listen
        .iter()
        .map(|at| at.backlog)
        .collect();
    assert_eq!(backlogs, [Some(7), Some(9)]);
    assert_eq!(listeners("host = '127.0.0.1'"), ["127.0.0.1 20203 Any"]);
}

#[test]
fn the_lists_pair_across_sources_too() {
    let mut builder = with_file("port = [1, 2]");
    builder.arguments(["--host", "127.0.0.1", "--ipv=4"]);
    let found: Vec<String> = built(builder).listen.iter().map(short).collect();
    assert_eq!(found, ["127.0.0.1 1 V4", "127.0.0.1 2 V4"]);
}

#[test]
fn a_value_without_a_port_is_refused() {
    assert!(refused_line("port = 1\nhost = ['a', 'b']").contains("host: 2 values for 1 port(s)"));
    assert!(refused_line("proto = 'udp'").starts_with("x.toml:1:9: proto: datagrams"));
    assert!(refused_line("host = 'a b'").starts_with("x.toml:1:8: host: "));
}

#[test]
fn a_listener_is_named_by_its_entry_or_its_name() {
    let config = config(
        "port = [20203, '127.0.0.1:20204', { port = 20205, name = 'admin' }, { port = 6, host = '::1' }, '/run/x|unix']",
    );
    let names: Vec<&str> = config.listen.iter().map(|at| at.name.as_str()).collect();
    assert_eq!(names, ["20203", "127.0.0.1:20204", "admin", "[::1]:6", "/run/x|unix"]);
}

#[test]
fn a_unix_listener_has_mode_owner_and_group() {
    for mode in ["0o660", "'0660'", "'660'", "'0o660'"] {
        let toml = format!("port = {{ path = '/run/x', mode = {mode}, owner = 'chat', group = 33 }}");
        let ListenAddr::Unix { mode, owner, group, .. } = config(&toml).listen.remove(0).addr else {
            panic!("not a Unix listener")
        };
        assert_eq!((mode, owner.as_deref(), group.as_deref()), (Some(0o660), Some("chat"), Some("33")));
    }
}

#[cfg(feature = "daemon")]
#[test]
fn a_unix_listener_says_how_many_descriptors_may_wait() {
    for (entry, most) in
        [("", 0), (", accept_fds = 0", 0), (", accept_fds = 1", 1), (", accept_fds = 250", 250)]
    {
        let config = config(&format!("port = {{ path = '/run/x'{entry} }}"));
        assert!(
            matches!(config.listen[0].addr, ListenAddr::Unix { accept_fds, .. } if accept_fds == most),
            "{entry}"
        );
    }
}

#[cfg(not(feature = "daemon"))]
#[test]
fn descriptors_need_their_feature() {
    let line = refused_line("port = { path = '/run/x', accept_fds = 1 }");
    assert!(line.contains("accept_fds needs the feature `daemon`"), "{line}");
}

#[test]
fn a_default_mode_is_for_those_unix_listeners_that_name_none() {
    let build = |mode| {
        let mut builder = with_file("port = ['/run/a|unix', { path = '/run/b', mode = 0o660 }, 5]");
        builder.unix_mode_default(mode);
        builder.build()
    };
    let Ok(Outcome::Config(config)) = build(0o600) else { panic!("not a configuration") };
    let modes = config.listen.iter().map(|at| match at.addr {
        ListenAddr::Unix { mode, .. } => mode,
        _ => None,
    });
    assert_eq!(modes.collect::<Vec<_>>(), [Some(0o600), Some(0o660), None]);
    let error = build(600).expect_err("decimal by mistake");
    assert!(error.chain().contains("the mode has more than permission bits"), "{}", error.chain());
}

#[test]
fn a_listener_given_twice_is_skipped_with_a_warning_but_port_0_may_repeat() {
    let config = config("port = [5, '*:5', '*:5/IPv4', '/x|unix', '/x|unix', 0, 0]");
    assert_eq!(config.listen.len(), 5);
    assert_eq!(
        config.warnings(),
        ["port: *:5 is the same as 5; it is skipped", "port: /x|unix is the same as /x|unix; it is skipped"]
    );
}

#[test]
fn a_unix_path_has_at_most_107_bytes_and_becomes_absolute() {
    let path = format!("/{}", "x".repeat(106));
    assert_eq!(listeners(&format!("port = '{path}|unix'")), [path.as_str()]);
    assert!(refused_line(&format!("port = '{path}x|unix'")).contains("has 108 bytes"));
    let absolute = std::path::absolute("chat.sock").unwrap();
    assert_eq!(listeners("port = 'chat.sock|unix'"), [absolute.to_str().unwrap()]);
}

#[test]
fn code_and_the_command_line_use_the_same_grammar() {
    let mut builder = without_file();
    builder.set(
        "port",
        vec![
            Value::from(5),
            Value::from("[::1]:6"),
            Value::Table(vec![("path".to_owned(), "/run/x".into()), ("mode".to_owned(), 0o600.into())]),
        ],
    );
    let found: Vec<String> = built(builder).listen.iter().map(short).collect();
    assert_eq!(found, ["* 5 Any", "::1 6 Any", "/run/x"]);
    assert_eq!(
        refused(with_arguments(&["--port=99999"])),
        ["--port: 99999 is no port: 1 to 65535, or 0 for any free one"]
    );
    let mut builder = without_file();
    builder.set("port", 99_999);
    assert!(refused(builder)[0].starts_with("configure_hook: port: 99999 is no port"));
}
