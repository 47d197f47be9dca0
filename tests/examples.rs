//! Every example does what it says on its first page: it starts from its sample configuration, serves, and stops.

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Child, Client, TempDir, example};
use lineplex::config::{Config, ConfigBuilder, Limits, Outcome};

#[cfg(not(feature = "auth"))]
const EXAMPLES: [&str; 6] = ["echo", "broadcast", "samplechat", "hooks", "upgrade", "scale"];
#[cfg(feature = "auth")]
const EXAMPLES: [&str; 7] = ["echo", "broadcast", "samplechat", "hooks", "upgrade", "scale", "message_ping"];

#[test]
fn echo_starts_from_its_sample_and_sends_lines_back() {
    let (mut child, mut clients) = start_with_clients("echo");
    clients[0].send("hello\r\nagain\n");
    clients[0].expect("hello\nagain\n");
    stop(&mut child);
    clients[0].expect_eof();
}

#[test]
fn broadcast_starts_from_its_sample_and_sends_lines_to_all_the_others() {
    let (mut child, mut clients) = start_with_clients("broadcast");
    let [a, b] = &mut clients;
    // Nobody is told who is there: each says something until the other hears it.
    b.send("from b\r\n");
    a.expect("from b\n");
    a.send("from a\n");
    b.expect("from a\n");
    stop(&mut child);
    a.expect_eof();
    b.expect_eof();
}

#[test]
fn samplechat_starts_from_its_sample_which_sets_safe_text() {
    let (mut child, mut clients) = start_with_clients("samplechat");
    let [a, b] = &mut clients;
    a.expect("JOIN: (#1) from 127.0.0.1\r\nWelcome, number 1.\r\nJOIN: (#2) from 127.0.0.1\r\n");
    b.expect("JOIN: (#2) from 127.0.0.1\r\nWelcome, number 2.\r\n");
    a.send("\x1b[2J\r\n");
    a.expect("[1 - 127.0.0.1] \u{fffd}[2J\r\n - sent 24 byte message\r\n");
    b.expect("[1 - 127.0.0.1] \u{fffd}[2J\r\n");
    stop(&mut child);
}

#[test]
fn hooks_starts_from_its_sample_and_answers_with_a_count() {
    let (mut child, mut clients) = start_with_clients("hooks");
    clients[0].send("four\r\n");
    clients[0].expect("4 bytes\r\n");
    stop(&mut child);
    clients[0].expect_eof();
}

#[test]
fn upgrade_starts_from_its_sample_and_counts_lines() {
    let (mut child, mut clients) = start_with_clients("upgrade");
    clients[0].send("one\ntwo\r\n");
    clients[0].expect("line 1, 1 of all\r\nline 2, 2 of all\r\n");
    clients[1].send("three\n");
    clients[1].expect("line 1, 3 of all\r\n");
    stop(&mut child);
    clients[0].expect_eof();
}

#[test]
fn an_example_says_where_it_listens_and_how_to_try_it() {
    for name in EXAMPLES {
        let mut child = start(name);
        let line = child.wait_for("listening on ");
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
        // To type lines into a message server would lead nowhere.
        let way = match name {
            "message_ping" => format!("a message client at tcp://127.0.0.1:{port}"),
            _ => format!("telnet 127.0.0.1 {port}"),
        };
        assert!(line.ends_with(&format!("listening on 127.0.0.1:{port}; try: {way}")), "{line}");
        stop(&mut child);
    }
}

#[test]
fn the_help_fits_a_terminal_of_24_lines_and_80_columns_and_names_the_options() {
    for name in EXAMPLES {
        let output = finish(Command::new(example(name)).arg("--help"));
        assert_eq!(output.status.code(), Some(0), "{name}");
        // What the example prints before it knows that help was asked for is its own.
        let text = text(&output.stdout);
        assert!(text.lines().count() <= 24, "{name}: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{name}: {text}");
        let is_cut = |line: &str| line.ends_with("...") && !line.starts_with("Usage: ");
        assert!(!text.lines().any(is_cut), "{name}: a line is cut short: {text}");
        let own: &[&str] = match name {
            "samplechat" => &["--junior_seconds", "--senior_seconds", "--safe_text"],
            "upgrade" => &["--format"],
            "scale" => &["--workers", "--worker"],
            _ => &[],
        };
        for option in
            ["--conf_file", "--port", "--host", "--allow", "--log_level", "--check"].iter().chain(own)
        {
            assert!(text.contains(option), "{name}: no {option}: {text}");
        }
        assert!(text.contains(&format!("Usage: {name} ")), "{text}");
    }
}

#[test]
fn the_long_help_names_every_option_with_its_default() {
    for name in EXAMPLES {
        let text = text(&finish(Command::new(example(name)).arg("--help=all")).stdout);
        for (option, default) in
            [("--line_max_bytes", "[64k]"), ("--listen", "[4096]"), ("--stop_seconds", "[10]")]
        {
            let line = text.lines().find(|line| line.contains(option));
            assert!(line.is_some_and(|line| line.ends_with(default)), "{name}: {option}: {line:?}");
        }
    }
}

#[test]
fn the_version_is_one_line() {
    for name in EXAMPLES {
        let output = finish(Command::new(example(name)).arg("--version"));
        let text = text(&output.stdout);
        let version = concat!("(lineplex ", env!("CARGO_PKG_VERSION"), ")");
        assert!(output.status.success() && text.lines().last().unwrap().ends_with(version), "{text}");
    }
}

#[test]
fn a_check_of_each_sample_succeeds_and_opens_no_listener() {
    for name in EXAMPLES {
        let output = finish(Command::new(example(name)).arg("--check"));
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        assert!(out.ends_with("the configuration is valid\n"), "{name}: {out}");
        assert!(!text(&output.stderr).contains("listening on"), "{name}");
    }
}

#[test]
fn an_example_reads_the_sample_below_the_directory_in_which_it_is_started() {
    for name in EXAMPLES {
        let directory = TempDir::new();
        fs::create_dir(directory.path().join("config")).unwrap();
        let path = directory.path().join(format!("config/{name}.toml"));
        fs::write(path, "port = 0\n  prot = 0\n").unwrap();
        let output = finish(Command::new(example(name)).current_dir(directory.path()));
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = text(&output.stderr);
        assert!(
            said.contains(&format!("config/{name}.toml:2:3: unknown key `prot`; did you mean `port`?")),
            "{said}"
        );
    }
}

#[test]
fn an_example_needs_no_sample() {
    for name in EXAMPLES {
        let directory = TempDir::new();
        let mut command = Command::new(example(name));
        let mut child = Child::spawn(command.args(["--port", "0"]).current_dir(directory.path()));
        let addr = child.wait_for_address();
        assert_eq!(
            addr.ip().to_string(),
            "127.0.0.1",
            "{name}: the default of the examples is this machine only"
        );
        drop(Client::connect(addr));
        stop(&mut child);
    }
}

#[test]
fn every_sample_is_short_and_changes_nothing_but_what_it_shows() {
    for name in EXAMPLES {
        let text = sample(name);
        assert!(text.lines().count() < 80, "{name}: {} lines", text.lines().count());
        let config = read(name, &text);
        assert_eq!(config.limits, Limits::default(), "{name}");
        assert!(config.access.is_empty() && config.check_for_dequeue.is_none(), "{name}");
        assert_eq!(config.listen.iter().map(|at| at.name.as_str()).collect::<Vec<_>>(), ["20203"], "{name}");
    }
}

#[test]
fn every_option_that_a_sample_shows_commented_out_is_valid_and_a_limit_shows_its_default() {
    for name in EXAMPLES {
        let text = sample(name);
        let shown = commented_options(&text);
        for key in ["port", "ipv", "listen", "allow", "deny", "log_level", "log_file", "check_for_dequeue"] {
            assert!(shown.iter().any(|shown| shown.key == key), "{name} does not show {key}");
        }
        let limits = shown.iter().filter(|shown| is_limit(&shown.key)).count();
        assert!(limits >= 8, "{name} shows only {limits} limits");
        for option in &shown {
            let config = read(name, &option.text);
            assert_eq!(
                config.limits,
                Limits::default(),
                "{name}: {} shows another value than the default",
                option.key
            );
            check_as_the_example_does(name, option);
        }
    }
}

/// A line `# key = value` of a sample.
struct Shown {
    key: String,
    /// The whole file with this line uncommented, and with no other line for that key.
    text: String,
}

fn commented_options(text: &str) -> Vec<Shown> {
    let lines: Vec<&str> = text.lines().collect();
    let key_of = |line: &str| {
        let key = line.split_once(" = ")?.0;
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_key.then(|| key.to_owned())
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(key) = line.strip_prefix("# ").and_then(key_of) else { continue };
        let mut with: Vec<&str> =
            lines.iter().map(|line| if key_of(line).as_ref() == Some(&key) { "" } else { line }).collect();
        with[at] = line.trim_start_matches("# ");
        found.push(Shown { key, text: with.join("\n") + "\n" });
    }
    found
}

/// The example itself takes the option too: its own settings are known to nobody else.
#[track_caller]
fn check_as_the_example_does(name: &str, option: &Shown) {
    // Relative paths of a sample come to lie in a fresh directory.
    let directory = TempDir::new();
    fs::write(directory.path().join("sample.toml"), &option.text).expect("a fresh file can be written");
    let mut command = Command::new(example(name));
    command.args(["--check", "--conf_file=sample.toml"]).current_dir(directory.path());
    let output = finish(&mut command);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{name}: {}: {said}", option.key);
}

fn is_limit(key: &str) -> bool {
    text(&finish(Command::new(example("echo")).arg("--help=all")).stdout)
        .lines()
        .skip_while(|line| !line.contains("--max_connections"))
        .any(|line| line.trim_start().starts_with(&format!("--{key} ")))
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/{name}.toml"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads a sample as an example does.
#[track_caller]
fn read(name: &str, text: &str) -> Config {
    let mut builder = ConfigBuilder::new();
    builder.arguments([""; 0]).conf_text(format!("config/{name}.toml"), text);
    match builder.build() {
        Ok(Outcome::Config(config)) => *config,
        Ok(_) => panic!("no help was asked for"),
        Err(error) => panic!("{}", error.chain()),
    }
}

#[track_caller]
fn start(name: &str) -> Child {
    let mut command = Command::new(example(name));
    Child::spawn(command.args(["--port", "127.0.0.1:0"]).current_dir(env!("CARGO_MANIFEST_DIR")))
}

#[track_caller]
fn start_with_clients(name: &str) -> (Child, [Client; 2]) {
    let mut child = start(name);
    let addr = child.wait_for_address();
    let clients = [Client::connect(addr), Client::connect(addr)];
    (child, clients)
}

#[track_caller]
fn stop(child: &mut Child) {
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

/// Runs a command that ends by itself.
#[track_caller]
fn finish(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
