//! The sources together: what is taken, from whom, and what is said about the rest.

mod app;
mod ports;
mod process;

use std::time::Duration;

use proptest::prelude::*;

use super::table::OPTIONS;
use super::*;

/// A builder that reads nothing of the test's own process, with `toml` as its file `x.toml`.
fn with_file(toml: &str) -> ConfigBuilder {
    let mut builder = without_file();
    builder.conf_text("x.toml", toml);
    builder
}

fn without_file() -> ConfigBuilder {
    let mut builder = ConfigBuilder::new();
    builder.app_name("chat").arguments([""; 0]);
    builder
}

#[track_caller]
fn built(builder: ConfigBuilder) -> Config {
    match builder.build() {
        Ok(Outcome::Config(config)) => *config,
        other => panic!("no configuration: {other:?}"),
    }
}

#[track_caller]
fn config(toml: &str) -> Config {
    built(with_file(toml))
}

/// The lines of the error.
#[track_caller]
fn refused(builder: ConfigBuilder) -> Vec<String> {
    match builder.build() {
        Err(error) => error.chain().lines().map(str::to_owned).collect(),
        Ok(outcome) => panic!("not refused: {outcome:?}"),
    }
}

#[track_caller]
fn refused_line(toml: &str) -> String {
    let lines = refused(with_file(toml));
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.concat()
}

/// `--key=value` and the like.
fn with_arguments(arguments: &[&str]) -> ConfigBuilder {
    let mut builder = without_file();
    builder.arguments(arguments);
    builder
}

#[test]
fn without_any_source_there_are_the_defaults() {
    let config = built(without_file());
    assert_eq!(config.listen.len(), 1);
    assert_eq!(config.listen[0].addr, ListenAt::tcp("*", 20_203).addr);
    assert_eq!(config.limits, Limits::default());
    assert!(config.access.is_empty());
    assert_eq!(config.check_for_dequeue, None);
    assert_eq!((config.log.level, config.log.target), (2, LogTarget::Stderr));
    assert_eq!(config.conf_file, None);
    assert!(!config.check_only && config.warnings.is_empty());
}

#[test]
fn every_limit_is_read_under_its_file_name() {
    let config = config(
        "line_max_bytes = 512\nlong_line = 'skip'\ninput_max_bytes = '2k'\noutput_soft_bytes = 1\noutput_hard_bytes = '1M'\n\
         max_connections = 3\nmax_per_address = 4\nmax_per_network = 5\nnetwork_prefix_v4 = 32\nnetwork_prefix_v6 = 128\n\
         lines_per_second = 6\nlines_burst = 7\nline_seconds = 0.5\noutput_stall_seconds = 28\nidle_seconds = 8\ndrain_seconds = 9\n\
         linger_seconds = 10\nlinger_max_seconds = 11\nlinger_max_bytes = 12\nconnect_seconds = 13\nstop_seconds = 14\n\
         accepts_per_turn = 15\nbytes_per_turn = 1024\nlines_per_turn = 17\nrequests_per_turn = 27\nexpiries_per_turn = 18\n\
         gather = true\ngather_max_seconds = 0.25\nslow_turn_seconds = 1.5\non_panic = 'abort'\nkeepalive_idle_seconds = 19\nkeepalive_interval_seconds = 20\n\
         keepalive_count = 21\ntcp_user_timeout_seconds = 22\ntcp_nodelay = false\ntcp_notsent_lowat = '1k'\n\
         offload_threads = 23\noffload_queue = 24\nhandle_queue = 25\n",
    );
    let seconds = Duration::from_secs;
    let expected = Limits {
        line_max_bytes: 512,
        long_line: LongLine::Skip,
        input_max_bytes: 2048,
        output_soft_bytes: 1,
        output_hard_bytes: 1 << 20,
        max_connections: Some(3),
        max_per_address: Some(4),
        max_per_network: Some(5),
        network_prefix_v4: 32,
        network_prefix_v6: 128,
        lines_per_second: Some(6),
        lines_burst: 7,
        line_time: Some(Duration::from_millis(500)),
        output_stall_time: Some(Duration::from_secs(28)),
        idle_time: Some(seconds(8)),
        drain_time: seconds(9),
        linger_time: seconds(10),
        linger_max_time: seconds(11),
        linger_max_bytes: 12,
        connect_time: seconds(13),
        stop_time: seconds(14),
        accepts_per_turn: 15,
        requests_per_turn: 27,
        bytes_per_turn: 1024,
        lines_per_turn: 17,
        expiries_per_turn: 18,
        gather: true,
        gather_max_time: Duration::from_millis(250),
        slow_turn: Duration::from_millis(1500),
        on_panic: OnPanic::Abort,
        keepalive: Some(KeepAlive { idle: seconds(19), interval: seconds(20), count: 21 }),
        tcp_user_timeout: Some(seconds(22)),
        tcp_nodelay: false,
        tcp_notsent_lowat: Some(1024),
        offload_threads: 23,
        offload_queue: 24,
        handle_queue: 25,
    };
    assert_eq!(config.limits, expected);
}

#[test]
fn zero_turns_off_what_can_be_off() {
    let config = config(
        "max_connections = 0\nmax_per_address = 0\nlines_per_second = 0\nidle_seconds = 0\ntcp_user_timeout_seconds = 0\n\
         tcp_notsent_lowat = 0\nkeepalive = false\ncheck_for_dequeue = 0\n",
    );
    let limits = config.limits;
    assert_eq!((limits.max_connections, limits.max_per_address, limits.lines_per_second), (None, None, None));
    assert_eq!((limits.idle_time, limits.tcp_user_timeout, limits.tcp_notsent_lowat), (None, None, None));
    assert_eq!((limits.keepalive, config.check_for_dequeue), (None, None));
}

/// A48: constructor, command line, run arguments, file, defaults; removing each in turn exposes the next.
#[test]
fn the_first_source_that_sets_a_key_wins() {
    let levels: Vec<u8> = (0..=5)
        .map(|removed| {
            let mut builder = without_file();
            if removed < 1 {
                builder.set("log_level", 4);
            }
            if removed < 2 {
                builder.arguments(["--log_level=3"]);
            }
            if removed < 3 {
                builder.run_arguments(["--log_level", "0"]);
            }
            if removed < 4 {
                builder.conf_text("x.toml", "log_level = 1");
            }
            if removed < 5 {
                builder.set_default("log_level", 4);
            }
            built(builder).log.level
        })
        .collect();
    assert_eq!(levels, [4, 3, 0, 1, 4, 2]);
}

/// A49: two values in one source, one in a weaker one: two values.
#[test]
fn a_list_is_taken_whole_from_the_strongest_source() {
    let mut builder = with_file("port = [1, 2, 3]");
    builder.arguments(["--port", "127.0.0.1:0", "--port=127.0.0.1:4"]);
    let names: Vec<String> = built(builder).listen.into_iter().map(|at| at.name).collect();
    assert_eq!(names, ["127.0.0.1:0", "127.0.0.1:4"]);
}

#[test]
fn within_one_source_the_last_of_a_single_value_wins() {
    assert_eq!(built(with_arguments(&["--log_level=1", "--log-level", "3"])).log.level, 3);
    let mut builder = without_file();
    builder.set("log_level", 1).set("log_level", 4);
    assert_eq!(built(builder).log.level, 4);
}

/// A57: check_for_dequeue from the file and the command line; 0 disables.
#[test]
fn check_for_dequeue_works_from_everywhere_and_zero_disables_it() {
    let file = "check_for_dequeue = 1.5";
    assert_eq!(config(file).check_for_dequeue, Some(Duration::from_millis(1500)));
    for (words, expected) in [("--check_for_dequeue=2", Some(2)), ("--check-for-dequeue=0", None)] {
        let mut builder = with_file(file);
        builder.arguments([words]);
        assert_eq!(built(builder).check_for_dequeue, expected.map(Duration::from_secs), "{words}");
    }
    let mut builder = with_file(file);
    builder.set("check_for_dequeue", 0.25);
    assert_eq!(built(builder).check_for_dequeue, Some(Duration::from_millis(250)));
}

/// A50: unknown key, port 99999, wrong type: key and line named, all of them at once.
#[test]
fn every_mistake_of_every_source_is_told_at_once() {
    let mut builder = with_file(
        "# a comment\n\nprot = 20203\nport = [20203, 99999]\nlog_level = \"high\"\nidle_seconds = -1\n\
         output_soft_bytes = '2M'\nbytes_per_turn = 10\nserver_type = 'Fork'\n",
    );
    builder.arguments(["--prot=1", "--lines_burst=many", "loose", "--on_panic"]);
    builder.set("hots", "::1").set("tcp_nodelay", 1);
    let error = builder.build().err().unwrap();
    assert_eq!((error.kind(), error.exit_status()), (ErrorKind::Usage, 2));
    let text = error.chain();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "`loose` is not an option",
        "--lines_burst: `many` is not a whole number of 0 or more",
        "--on_panic: it needs a value: --on_panic=WHAT",
        "--prot: unknown option `prot`; did you mean `port`?",
        "x.toml:3:1: unknown key `prot`; did you mean `port`?",
        "x.toml:4:16: port: 99999 is no port: 1 to 65535, or 0 for any free one",
        "x.toml:5:13: log_level: `high` is no level: 0 errors, 1 warnings, 2 notices, 3 connections, 4 debug",
        "x.toml:6:16: idle_seconds: -1 is out of range: 0 to 315360000 seconds (ten years)",
        "x.toml:8:18: bytes_per_turn: 10 is too small: at least 1024",
        "x.toml:9:1: server_type: there are no children: one process serves everybody",
        "configure_hook: unknown key `hots`; did you mean `host`?",
        "configure_hook: tcp_nodelay: 1 is neither true nor false",
        "output_hard_bytes: 1048576 is less than output_soft_bytes (2097152); raise it or lower output_soft_bytes",
    ];
    for line in expected {
        assert!(lines.contains(&line), "{line}\nis missing from\n{text}");
    }
    assert_eq!(lines.len(), expected.len(), "{text}");
}

#[test]
fn a_mistake_in_the_file_is_exit_status_1_even_where_a_stronger_source_hides_it() {
    let mut builder = with_file("log_level = 9");
    builder.arguments(["--log_level=1"]);
    let error = builder.build().err().unwrap();
    assert_eq!((error.kind(), error.exit_status()), (ErrorKind::Config, 1));
    assert!(error.to_string().starts_with("x.toml:1:13: log_level: 9 is no level"), "{error}");
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    let line = refused_line("log_level = 1\nport = [1,\n");
    assert!(line.starts_with("x.toml:2:") || line.starts_with("x.toml:3:"), "{line}");
    let line = refused_line("ü = 1\nlog_level = 1\nlog_level = 2\n");
    assert!(line.starts_with("x.toml:"), "{line}");
}

#[test]
fn a_column_counts_characters() {
    assert_eq!(
        refused_line("port = [{ port = 1, name = 'ü', mdoe = 1 }]"),
        "x.toml:1:33: port: unknown key `mdoe`; did you mean `mode`?"
    );
}

#[test]
fn wrong_types_are_refused_for_every_option() {
    for option in OPTIONS.iter().filter(|option| option.name != "conf_file") {
        for wrong in ["1979-05-27", "{ a = 1 }", "nan", "[[1979-05-27]]"] {
            let lines = refused(with_file(&format!("{} = {wrong}", option.name)));
            assert!(lines.iter().any(|line| line.starts_with("x.toml:1:")), "{} {lines:?}", option.name);
            assert!(lines.iter().all(|line| line.contains(option.name)), "{} {lines:?}", option.name);
        }
    }
}

#[test]
fn an_option_of_the_original_that_is_not_here_is_refused_with_the_reason() {
    assert_eq!(
        refused_line("max_servers = 5"),
        "x.toml:1:1: max_servers: one process serves everybody; use max_connections"
    );
    assert_eq!(
        refused(with_arguments(&["--reverse-lookups=1"])),
        [
            "--reverse_lookups: peers are not looked up by name in this version; use addresses and networks in allow and deny"
        ]
    );
    assert!(refused_line("ipv6_package = 'x'").ends_with("use ipv"));
}

#[test]
fn a_port_shared_by_sockets_is_refused_with_what_to_do_instead() {
    for (written, place) in
        [("reuse_port = true", "1:1: reuse_port"), ("port = [{ port = 1, reuse_port = true }]", "1:")]
    {
        let line = refused_line(written);
        assert!(line.starts_with(&format!("x.toml:{place}")), "{line}");
        assert!(line.contains("let several processes inherit one socket"), "{line}");
    }
    assert!(
        refused(with_arguments(&["--reuse-port"]))[0].starts_with("--reuse_port: sockets that share a port")
    );
}

/// A22, A23, A24: lists are compiled at start; what is malformed is told with its place.
#[test]
fn access_lists_are_compiled_at_start_with_the_place_of_each_bad_rule() {
    let access = config("cidr_allow = ['127.0.0.0/8']\ncidr_deny = '127.0.0.2/32'").access;
    let admits = ["127.0.0.1", "127.0.0.2", "::1"].map(|ip| access.admits(ip.parse().unwrap()));
    assert_eq!(admits, [true, false, false]);
    let mut builder = with_file("allow = '127.0.0.1'");
    builder.arguments(["--deny=127.0.0.3", "--allow=127.0.0.2", "--allow", "127.0.0.3"]);
    let access = built(builder).access;
    let admits = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| access.admits(ip.parse().unwrap()));
    assert_eq!(admits, [false, true, false]);
    let lines = refused(with_file(
        "allow = ['127.0.0.1',\n  '127.0.0.9|0.2']\ncidr_allow = ['127.0.0.0/99']\ncidr_deny = ['10.0.0.0/99']\ndeny = 5\n",
    ));
    let starts = [
        "x.toml:2:3: allow: ",
        "x.toml:3:15: cidr_allow: ",
        "x.toml:4:14: cidr_deny: ",
        "x.toml:5:8: deny: ",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let line = refused(with_arguments(&["--allow=127.0.0.1", "--deny", "127.0.0.9|0.2"]));
    assert!(line[0].starts_with("--deny: "), "{line:?}");
}

#[test]
fn the_log_goes_where_log_file_says() {
    let absolute = std::path::absolute("chat.log").unwrap();
    assert_eq!(config("log_file = 'chat.log'").log.target, LogTarget::File(absolute));
    assert_eq!(config("log_file = 'stderr'").log.target, LogTarget::Stderr);
    for name in ["syslog", "Sys::Syslog"] {
        let toml = format!("log_file = '{name}'\nsyslog_facility = 'local3'\nsyslog_logsock = '/run/log'");
        let LogTarget::Syslog { socket, ident, facility } = config(&toml).log.target else {
            panic!("{name} is not the system's log")
        };
        assert_eq!((socket.to_str(), ident.as_str(), facility.code()), (Some("/run/log"), "chat", 19));
    }
    let LogTarget::Journald { socket, ident, facility } = config("log_file = 'journald'").log.target else {
        panic!("it is not the journal")
    };
    let found = (socket.to_str(), ident.as_str(), facility.code());
    assert_eq!(found, (Some("/run/systemd/journal/socket"), "chat", 3));
    let toml = "log_file = 'journald'\nsyslog_ident = 'x'\njournald_logsock = '/run/journal'";
    let config_of_it = config(toml);
    assert!(matches!(&config_of_it.log.target,
        LogTarget::Journald { socket, ident, .. } if socket.to_str() == Some("/run/journal") && ident == "x"));
    assert_eq!(config_of_it.warnings(), [""; 0]);
    assert!(refused_line("syslog_facility = 'local8'").contains("no facility"));
    assert!(refused_line("log_file = 'Log::Log4perl'").contains("log_function in code"));
    assert_eq!(config("syslog_ident = 'x'").warnings().len(), 1);
    assert_eq!(config("log_file = 'journald'\nsyslog_logsock = '/x'").warnings().len(), 1);
    assert_eq!(config("log_file = 'syslog'\njournald_logsock = '/x'").warnings().len(), 1);
}

#[test]
fn levels_map_to_those_of_the_log_facade() {
    use ::log::LevelFilter::{Debug, Error, Info, Warn};
    for (level, filter) in [(0, Error), (1, Warn), (2, Info), (3, Info), (4, Debug)] {
        let log = config(&format!("log_level = {level}")).log;
        assert_eq!((log.level_filter(), log.logs_connections()), (filter, level >= 3));
    }
    assert!(refused_line("log_level = 5").contains("is no level"));
}

#[test]
fn flags_need_no_value_and_swallow_only_a_yes_or_no() {
    let cases: [(&[&str], bool); 5] = [
        (&["--tcp_nodelay"], true),
        (&["--tcp-nodelay=false"], false),
        (&["--tcp_nodelay", "no"], false),
        (&["--tcp_nodelay", "--log_level=1"], true),
        (&["--tcp_nodelay=0", "--tcp_nodelay"], true),
    ];
    for (words, expected) in cases {
        assert_eq!(built(with_arguments(words)).limits.tcp_nodelay, expected, "{words:?}");
    }
}

#[test]
fn loose_words_abbreviations_and_missing_values_are_refused() {
    let cases: [(&[&str], &str); 7] = [
        (&["log_level=1"], "`log_level=1` is not an option; write --log_level=1"),
        (&["-x"], "`-x` is not an option"),
        (&["--log_lev=1"], "--log_lev: unknown option `log_lev`; did you mean `log_level`?"),
        (&["--port"], "--port: it needs a value: --port=PORT"),
        (&["--port", "--check"], "--port: it needs a value: --port=PORT"),
        (&["--check=1"], "--check: it takes no value"),
        (&["--help=some"], "--help: write --help or --help=all"),
    ];
    for (words, expected) in cases {
        assert_eq!(refused(with_arguments(words)), [expected], "{words:?}");
    }
}

#[test]
fn what_follows_two_dashes_is_the_applications() {
    let config = built(with_arguments(&["--check", "--", "--log_level", "9", "--"]));
    assert!(config.check_only());
    assert_eq!(config.arguments(), ["--log_level", "9", "--"]);
    assert_eq!(config.log.level, 2);
}

#[test]
fn a_file_is_read_from_where_the_first_source_says() {
    let directory = std::env::temp_dir().join(format!("lineplex-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, level: u8| {
        let path = directory.join(name);
        std::fs::write(&path, format!("log_level = {level}\n")).unwrap();
        path
    };
    let (first, second, third) = (write("1.toml", 1), write("2.toml", 3), write("3.toml", 4));
    let option = format!("--conf_file={}", second.display());

    let mut builder = with_arguments(&[&option]);
    builder.conf_file_if_exists(directory.join("none.toml")).conf_file_if_exists(&third);
    let config = built(builder);
    assert_eq!((config.log.level, config.conf_file.as_deref()), (3, Some(second.as_path())));
    assert_eq!(config.conf_text(), Some("log_level = 3\n"));

    let mut builder = without_file();
    builder.conf_file_if_exists(directory.join("none.toml")).conf_file_if_exists(&third);
    assert_eq!(built(builder).log.level, 4);

    let mut builder = with_arguments(&[&option]);
    builder.conf_file(&first);
    let config = built(builder);
    assert_eq!((config.log.level, config.warnings().len()), (1, 1));

    let missing = directory.join("none.toml");
    let lines = refused(with_arguments(&["--conf_file", "two\nlines.toml"]));
    assert_eq!(lines, ["--conf_file: `two\\nlines.toml` has a control character"]);
    let lines = refused(with_arguments(&["--conf_file", missing.to_str().unwrap(), "--log_level=7"]));
    assert!(lines[0].starts_with(&format!("--conf_file: cannot read {}: ", missing.display())), "{lines:?}");
    assert!(lines[1].starts_with("--log_level: "), "{lines:?}");

    std::fs::write(&first, b"a = 1\nb = '\xff'\n").unwrap();
    let mut builder = without_file();
    builder.conf_file(&first);
    let line = refused(builder);
    assert!(line[0].starts_with("configure_hook: conf_file: ") && line[0].ends_with("in line 2"), "{line:?}");
    let mut builder = without_file();
    builder.conf_file(&directory);
    assert!(refused(builder)[0].contains("cannot read"));
    std::fs::remove_dir_all(&directory).unwrap();

    assert_eq!(
        refused_line("conf_file = 'y.toml'"),
        "x.toml:1:1: conf_file cannot stand in a configuration file"
    );
}

#[test]
fn the_short_help_fits_a_screen_and_the_long_one_has_every_option() {
    let help = |words: &str, options: usize| {
        let mut builder = with_arguments(&["--nonsense", words]);
        builder.about("A chat server for everybody who has telnet.");
        for number in 0..options {
            builder.app_option(&format!("setting_{number}"), "TEXT", &"long ".repeat(30));
        }
        match builder.build().unwrap() {
            Outcome::Help(text) => text,
            other => panic!("{other:?}"),
        }
    };
    // Without `daemon` three lines less are ours.
    let room = if cfg!(feature = "daemon") { 4 } else { 7 };
    for options in [0, 1, 3, 4, 5, 6, 7, 8, 50] {
        let text = help("--help", options);
        assert!(text.lines().count() <= 24, "{} lines\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("--port PORT") && text.contains("--check "), "{text}");
        assert_eq!(text.contains("--setting_0"), options > 0, "{text}");
        assert_eq!(text.contains("more: --help=all"), options > room, "{options}\n{text}");
    }
    let all = help("--help=all", 50);
    for option in OPTIONS.iter().filter(|option| table::is_available(option)) {
        assert!(all.contains(&format!("  --{}", option.name)), "{}", option.name);
    }
    assert!(all.contains("--setting_49") && all.contains("[64k]") && all.contains("[0.1]"), "{all}");
}

#[test]
fn no_line_of_the_short_help_is_cut() {
    let Outcome::Help(text) = with_arguments(&["-h"]).build().unwrap() else { panic!("no help") };
    assert!(
        text.lines().filter(|line| line.ends_with("...")).all(|line| line.starts_with("Usage")),
        "{text}"
    );
    let long = OPTIONS.iter().filter(|option| option.common && option.help.chars().count() > 44);
    assert_eq!(long.map(|option| option.name).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_version_names_the_program() {
    let mut builder = with_arguments(&["--version"]);
    builder.version("2.1");
    let Outcome::Version(text) = builder.build().unwrap() else { panic!("no version") };
    assert_eq!(text, concat!("chat 2.1 (lineplex ", env!("CARGO_PKG_VERSION"), ")\n"));
}

#[test]
fn a_log_function_is_handed_on() {
    let mut builder = without_file();
    let (sender, receiver) = std::sync::mpsc::channel();
    builder.log_function(move |level, line| drop(sender.send(format!("{level} {line}"))));
    built(builder).log.function.unwrap().call(::log::Level::Warn, "full");
    assert_eq!(receiver.try_recv().unwrap(), "WARN full");
}

#[test]
fn a_configuration_from_code_is_held_to_the_same_rules() {
    let mut config = Config::default();
    assert!(config.validate().is_ok());
    config.limits.line_max_bytes = 0;
    config.limits.network_prefix_v4 = 33;
    config.listen = vec![ListenAt::unix("/".repeat(107)), ListenAt::unix("/".repeat(108)).named("long")];
    let text = config.validate().unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("line_max_bytes: 0 is too small"), "{text}");
    assert!(lines[2].starts_with("listen `long`: "), "{text}");
}

#[test]
fn limits_are_checked_below_at_and_above() {
    for (key, good, bad) in [
        ("line_max_bytes", 1_i64, 0_i64),
        ("input_max_bytes", 65_536, 65_535),
        ("output_hard_bytes", 262_144, 262_143),
        ("network_prefix_v4", 32, 33),
        ("network_prefix_v6", 128, 129),
        ("network_prefix_v6", 0, 256),
        ("bytes_per_turn", 1024, 1023),
        ("accepts_per_turn", 1, 0),
        ("requests_per_turn", 1, 0),
        ("handle_queue", 1, 0),
        ("keepalive_count", 127, 128),
        ("keepalive_idle_seconds", 32_767, 32_768),
        ("max_per_address", 4_294_967_295_i64, 4_294_967_296),
        ("listen", 1, 0),
        ("log_level", 4, 5),
        ("port", 65_535, 65_536),
    ] {
        config(&format!("{key} = {good}"));
        let line = refused_line(&format!("{key} = {bad}"));
        let name = line.split(": ").nth(1);
        assert!(line.starts_with("x.toml:1:") && name == Some(key), "{key} {line}");
    }
    assert!(refused_line("keepalive_interval_seconds = 1.5").contains("whole seconds"));
    assert!(refused_line("line_max_bytes = 99999999999999999999").contains("line_max_bytes"));
}

#[test]
fn an_option_of_the_application_cannot_take_a_name_of_ours() {
    let mut builder = without_file();
    builder.app_option("port", "N", "");
    assert_eq!(refused(builder), ["configure_hook: app_option: `port` is an option of every server"]);
}

const SAMPLE: &str = "port = [20203, '[::1]:20204', { port = '/run/x|unix', mode = 0o660 }]\nhost = '127.0.0.1'\n\
    allow = ['127.*']\nidle_seconds = 1.5\nline_max_bytes = '64k'\nlog_file = 'syslog'\n[app]\nname = 'ü'\nlist = [1, 2]\n";

proptest! {
    #[test]
    fn no_text_makes_the_file_reader_panic(text in any::<String>()) {
        drop(with_file(&text).build());
    }

    #[test]
    fn no_change_to_a_good_file_makes_it_panic(
        changes in proptest::collection::vec((0..SAMPLE.len(), "[\\x00-\\x7fü]{0,3}", 0..4_usize), 1..6)
    ) {
        let mut text = SAMPLE.to_owned();
        for (at, put, cut) in changes {
            let chars: Vec<char> = text.chars().collect();
            let at = at.min(chars.len());
            let rest = &chars[(at + cut).min(chars.len())..];
            text = chars[..at].iter().copied().chain(put.chars()).chain(rest.iter().copied()).collect();
        }
        if let Ok(Outcome::Config(config)) = with_file(&text).build() {
            drop(config.app::<std::collections::BTreeMap<String, toml::Value>>());
        }
    }

    #[test]
    fn no_value_of_any_option_makes_the_command_line_panic(
        option in 0..OPTIONS.len(), value in any::<String>()
    ) {
        let name = OPTIONS[option].name;
        if name != "conf_file" {
            drop(with_arguments(&[&format!("--{name}={value}")]).build());
        }
    }

    #[test]
    fn no_port_text_makes_it_panic(text in "[0-9a-z:/|,\\[\\] .*-]{0,20}") {
        drop(with_arguments(&["--port", &format!(" {text}")]).build());
    }
}
