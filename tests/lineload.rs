//! The load tool tells the truth: what a server does wrong on purpose is reported as that, and what is right as right.
//!
//! The servers are threads of the test with plain blocking sockets. Each makes one fault, at the first live connection
//! that comes so far, or at the first new one; nothing depends on time. The signals go to a small shell script, whose
//! restart is to execute itself again; the lines are answered by a server of the test beside it.

mod common;

#[path = "../examples/lineload/compare.rs"]
mod compare;
#[path = "lineload/servers.rs"]
mod servers;
#[path = "../examples/lineload/spread.rs"]
mod spread;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use common::lineload::lineload;
use common::perl::perl_is_there;
use common::served::{Served, has_proc, wait_until};
use common::{Child, TempDir, example};
use compare::{Difference, difference};
use servers::{Fault, LINES, LIVE, LOAD, Restarted, SCRIPT, State, listener, load, load_with, serve};
use socket2::{Domain, SockAddr, Socket, Type};
use spread::Spread;

// --- what is right

#[test]
fn a_server_that_behaves_is_reported_as_such() {
    let report = load(serve(Fault::None));
    report.expect_clean();
    assert!(report.number("lines_answered") >= LINES as f64, "{report}");
    assert_eq!(report.number("lines_sent"), report.number("lines_answered"));
    assert_eq!(report.number("new_ok"), report.number("new_started"));
    assert!(report.number("new_ok") > 0.0 && report.number("control_lines") > 0.0, "{report}");
    assert_eq!(report.said, "");
}

#[test]
fn the_example_echo_loses_nothing_over_tcp_and_unix_sockets() {
    let directory = TempDir::new();
    let path = format!("{}|unix", directory.path().join("socket").display());
    let mut served = Served::echo(&["--port", &path]);
    let (address, pid) = (served.address.to_string(), served.server.id().to_string());
    let report =
        lineload(&["--live", "50", "--rate", "200", "--lines", "20000", "--pid", &pid, &address, &path]);
    report.expect_clean();
    if has_proc() {
        assert_eq!(report.number("descriptors_after"), report.number("descriptors_before"), "{report}");
        assert_eq!(report.number("pid_after"), f64::from(served.server.id()), "{report}");
    }
    served.control_is_fine();
    served.stop();
}

#[test]
fn the_example_samplechat_loses_none_of_the_lines_among_those_of_others() {
    let mut command = Command::new(example("samplechat"));
    let mut child = Child::spawn(command.args(["--host", "127.0.0.1", "--port", "0"]));
    let address = child.wait_for_address().to_string();
    let load = ["--among", "--live", "20", "--rate", "50", "--line-rate", "1000", "--lines", "1000"];
    let report = lineload(&[&load, &["--timeout", "30", address.as_str()][..]].concat());
    report.expect_clean();
    assert!(report.number("new_ok") > 0.0 && report.number("control_lines") > 0.0, "{report}");
}

#[test]
fn a_full_queue_of_a_unix_listener_is_no_refusal() {
    let directory = TempDir::new();
    let path = directory.path().join("socket");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(1).unwrap();
    let served = Arc::new(State::new(1, Fault::None));
    // Whoever comes after the live client waits until that has said many lines: the queue is full by then.
    thread::spawn(move || {
        for index in 0.. {
            if index == 1 {
                wait_until("the live client has said 500 lines", || {
                    served.lines.load(Ordering::SeqCst) >= 500
                });
            }
            let (socket, _) = listener.accept().expect("a client comes");
            let served = Arc::clone(&served);
            thread::spawn(move || served.talk(&socket, index));
        }
    });
    let address = format!("{}|unix", path.display());
    let report =
        lineload(&["--live", "1", "--line-rate", "2000", "--lines", "1000", "--rate", "200", &address]);
    report.expect_clean();
    assert!(report.number("new_queue_full") > 0.0, "{report}");
}

// --- what is wrong with a live client

#[test]
fn a_dropped_byte_is_reported() {
    let report = load(serve(Fault::DropByte));
    report.expect_losses(&[("wrong_lost", 1.0), ("lines_lost", 1.0)]);
    assert_eq!(report.number("wrong"), 1.0);
    assert!(report.said.contains("line 1000, ") && report.said.contains(": 1 byte is lost; "), "{report}");
}

#[test]
fn a_dropped_line_is_reported() {
    let report = load(serve(Fault::DropLine));
    report.expect_losses(&[("wrong_lost", 1.0), ("lines_lost", 1.0)]);
    assert!(report.said.contains("bytes are lost; "), "{report}");
}

#[test]
fn two_swapped_lines_are_reported() {
    let report = load(serve(Fault::Swap));
    report.expect_losses(&[("wrong_reordered", 1.0)]);
    assert!(report.said.contains("line 1000, "), "{report}");
    assert!(report.said.contains(": lines are in another order; expected \""), "{report}");
}

#[test]
fn a_line_that_comes_twice_is_reported() {
    load(serve(Fault::Repeat)).expect_losses(&[("wrong_repeated", 1.0)]);
}

#[test]
fn among_other_lines_a_dropped_and_a_swapped_one_are_reported_too() {
    let report = load_with(serve(Fault::DropLine), &["--among"]);
    report.expect_losses(&[("wrong_lost", 1.0), ("lines_lost", 1.0)]);
    load_with(serve(Fault::Swap), &["--among"]).expect_losses(&[("wrong_reordered", 1.0)]);
}

#[test]
fn a_changed_byte_is_reported() {
    let report = load(serve(Fault::Change));
    report.expect_losses(&[("wrong_changed", 1.0)]);
    assert!(report.said.contains("found \"\\x01"), "{report}");
}

#[test]
fn a_closed_connection_is_reported() {
    let report = load(serve(Fault::Close));
    assert!(report.number("lines_lost") >= 1.0, "{report}");
    report.expect_losses(&[("broken_closed", 1.0), ("lines_lost", report.number("lines_lost"))]);
    assert!(
        report.said.contains("line 1000, ") && report.said.contains(": closed by the server; "),
        "{report}"
    );
}

#[test]
fn a_reset_connection_is_reported() {
    let report = load(serve(Fault::Reset));
    assert!(report.number("lines_lost") >= 1.0, "{report}");
    report.expect_losses(&[("broken_reset", 1.0), ("lines_lost", report.number("lines_lost"))]);
    assert!(report.said.contains(": reset; "), "{report}");
}

#[test]
fn a_silent_connection_is_reported() {
    // Of a machine that stands still for so long others may become silent too.
    let report = load_with(serve(Fault::Silence), &["--timeout", "3"]);
    assert_eq!(report.status, Some(1), "{report}");
    assert!(report.number("broken_silent") >= 1.0 && report.number("lines_lost") >= 1.0, "{report}");
    assert!(report.said.contains(": no answer in time; "), "{report}");
}

#[test]
fn bytes_after_the_last_answer_are_reported() {
    load(serve(Fault::Parting)).expect_losses(&[("wrong_repeated", 1.0)]);
}

#[test]
fn losses_that_are_expected_leave_the_exit_status_alone() {
    let report = load_with(serve(Fault::Reset), &["--expect-losses"]);
    assert_eq!(report.status, Some(0), "{report}");
    assert_eq!((report.number("clean"), report.number("broken_reset")), (0.0, 1.0), "{report}");
}

// --- what is wrong with a new connection

#[test]
fn a_new_connection_with_a_wrong_answer_is_reported() {
    load(serve(Fault::New(&Fault::Change))).expect_losses(&[("new_wrong", 1.0)]);
}

#[test]
fn a_new_connection_that_gets_more_than_its_answer_is_reported() {
    load(serve(Fault::New(&Fault::Repeat))).expect_losses(&[("new_wrong", 1.0)]);
}

#[test]
fn a_new_connection_that_is_closed_is_reported() {
    load(serve(Fault::New(&Fault::Close))).expect_losses(&[("new_closed", 1.0)]);
}

#[test]
fn a_new_connection_that_is_reset_is_reported() {
    load(serve(Fault::New(&Fault::Reset))).expect_losses(&[("new_reset", 1.0)]);
}

#[test]
fn a_new_connection_without_an_answer_is_reported() {
    let report = load_with(serve(Fault::New(&Fault::Silence)), &["--timeout", "3"]);
    assert_eq!(report.status, Some(1), "{report}");
    assert!(report.number("new_timed_out") >= 1.0, "{report}");
}

#[test]
fn refused_connections_are_reported_and_the_live_clients_do_not_suffer() {
    let (listener, address) = listener();
    let served = Arc::new(State::new(LIVE, Fault::None));
    thread::spawn(move || {
        let mut listener = Some(listener);
        for index in 0.. {
            if index == LIVE + 20 {
                // Nobody listens until the live clients have had many more answers.
                drop(listener.take());
                let lines = served.lines.load(Ordering::SeqCst);
                wait_until("2000 lines more", || served.lines.load(Ordering::SeqCst) >= lines + 2000);
            }
            let open =
                listener.get_or_insert_with(|| TcpListener::bind(address).expect("it was ours before"));
            let (stream, _) = open.accept().expect("a client comes");
            let served = Arc::clone(&served);
            thread::spawn(move || served.talk(&Socket::from(stream), index));
        }
    });
    let report = load_with(address, &["--rate", "500", "--line-rate", "8000"]);
    assert_eq!(report.status, Some(1), "{report}");
    assert!(report.number("new_refused") > 0.0 && report.number("new_ok") > 0.0, "{report}");
    for key in ["broken", "wrong", "lines_lost", "new_wrong", "new_closed", "new_timed_out", "new_failed"] {
        assert_eq!(report.number(key), 0.0, "{key}: {report}");
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_with_the_remedy() {
    let (listener, address) = listener();
    drop(listener);
    let report = load(address);
    assert_eq!(report.status, Some(1), "{report}");
    assert!(report.said.contains("cannot connect live client"), "{report}");
    assert!(report.said.contains("is the server running?"), "{report}");
}

// --- signals

#[test]
fn each_hup_is_sent_when_the_restart_before_it_is_seen_to_end() {
    let restarted = Restarted::start(SCRIPT);
    let report = restarted.load(&["--hups", "10"]);
    report.expect_clean();
    assert_eq!((report.number("hups"), report.number("restarts")), (10.0, 10.0), "{report}");
    assert_eq!(report.number("restarts_unfinished"), 0.0, "{report}");
    assert!(report.number("restart_ms_max") > 0.0 && report.number("silence_ms_max") > 0.0, "{report}");
    if has_proc() {
        assert_eq!(report.number("images"), 10.0, "{report}");
        assert_eq!(report.number("pid_after"), report.number("pid_before"), "{report}");
    }
}

#[test]
fn a_restart_after_which_the_old_image_goes_on_is_counted() {
    let restarted = Restarted::start(
        &SCRIPT.replace("generation = $n", "generation = 7\\nrestarts_started = $n\\nok = 0"),
    );
    let report = restarted.load(&["--hups", "3"]);
    report.expect_clean();
    assert_eq!((report.number("restarts"), report.number("restarts_failed")), (0.0, 3.0), "{report}");
}

#[test]
fn a_restart_that_does_not_end_is_reported() {
    let restarted = Restarted::start(&SCRIPT.replace("busy = 0", "busy = $n"));
    let report = restarted.load(&["--hups", "2", "--timeout", "2"]);
    assert_eq!(report.status, Some(1), "{report}");
    // The first may be sent, since no restart was under way; the second never.
    assert_eq!(report.number("restarts_unfinished"), 1.0, "{report}");
}

#[test]
fn a_server_that_does_not_restart_is_reported() {
    let restarted = Restarted::start("trap : HUP; echo ready >&2");
    let report = restarted.load(&["--hups", "3", "--signal-every", "100"]);
    assert_eq!(report.number("hups"), 3.0, "{report}");
    if has_proc() {
        assert_eq!((report.status, report.number("images")), (Some(1), 0.0), "{report}");
    }
}

#[test]
fn a_server_that_a_hup_kills_is_reported() {
    let restarted = Restarted::start("echo ready >&2");
    let report = restarted.load(&["--hups", "3", "--signal-every", "100"]);
    assert_eq!(report.status, Some(1), "{report}");
    assert_eq!((report.number("hups"), report.number("hups_unsent")), (1.0, 2.0), "{report}");
    assert!(!report.has("pid_after"), "{report}");
}

#[test]
fn a_new_process_id_is_a_loss_unless_it_is_allowed() {
    let other = Child::spawn(Command::new("sleep").arg("60"));
    let script = SCRIPT.replace("exec sh", "echo $2 > pid; exec sh");
    let start = || Restarted::start_with(&script, &other.id().to_string());
    // After the first HUP the script has given the other process as its own, and answers for it.
    let report = start().load(&["--hups", "1"]);
    assert_eq!(report.status, Some(1), "{report}");
    assert_eq!(report.number("pid_after"), f64::from(other.id()), "{report}");
    start().load(&["--hups", "1", "--pid-may-change"]).expect_clean();
}

#[test]
fn a_storm_is_sent_whole() {
    let restarted = Restarted::start("trap : HUP; echo ready >&2");
    let report = restarted.load(&["--storm", "1000", "--expect-losses"]);
    assert_eq!((report.status, report.number("hups")), (Some(0), 1000.0), "{report}");
}

#[test]
fn the_original_loses_every_live_client_at_a_restart() {
    if !perl_is_there() {
        return;
    }
    let directory = TempDir::new();
    let pid_file = directory.path().join("pid");
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/perl/echo.pl"));
    let mut child = Child::spawn(command.args(["--port", "0", "--pid_file"]).arg(&pid_file));
    let address = child.wait_for_address().to_string();
    let load = ["--live", "10", "--rate", "50", "--line-rate", "500", "--hups", "1", "--timeout", "30"];
    let pid_file = pid_file.to_str().expect("a path of the test is text");
    let report = lineload(&[&load, &["--pid-file", pid_file, address.as_str()][..]].concat());
    assert_eq!(report.status, Some(1), "{report}");
    for (key, number) in [("broken", 10.0), ("failed_per_hup_min", 10.0), ("restarts", 1.0), ("wrong", 0.0)] {
        assert_eq!(report.number(key), number, "{key}: {report}");
    }
    assert_eq!(report.number("pid_after"), f64::from(child.id()), "{report}");
}

// --- the command line

#[test]
fn a_wrong_command_line_is_refused_with_the_remedy() {
    for (arguments, remedy) in [
        (&[][..], "no address; write host:port"),
        (&["--live", "many", "1"], "--live: `many` is no number from 0 to 100000"),
        (&["--window", "0", "1"], "--window: `0` is no number from 1 to"),
        (&["--lives", "2", "1"], "unknown option --lives; --help"),
        (&["--live"], "missing argument"),
        (&["--hups", "1", "1"], "add --pid PID or --pid-file FILE"),
        (&["localhost"], "write host:port or PATH|unix"),
        (&["-x"], "invalid option '-x'"),
    ] {
        let report = lineload(arguments);
        assert_eq!(report.status, Some(2), "{arguments:?}: {report}");
        assert!(
            report.said.starts_with("lineload: ") && report.said.contains(remedy),
            "{arguments:?}: {report}"
        );
        assert_eq!(report.said.lines().count(), 1, "{report}");
    }
}

#[test]
fn a_process_or_a_pid_file_that_is_not_there_is_an_error() {
    let (_listener, address) = listener();
    let address = address.to_string();
    // No system gives such a number.
    let pid = i32::MAX.to_string();
    for (arguments, said) in [
        (["--pid", &pid, &address], "there is no process"),
        (["--pid-file", "/nowhere/pid", &address], "/nowhere/pid: No such file"),
    ] {
        let report = lineload(&arguments);
        assert_eq!(report.status, Some(1), "{report}");
        assert!(report.said.contains(said), "{report}");
    }
}

#[test]
fn the_help_fits_a_terminal_of_80_columns_and_one_screen() {
    let output = Command::new(example("lineload")).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.lines().count() <= 26 && text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn the_table_ends_with_the_verdict() {
    for (fault, verdict) in [(Fault::None, "nothing lost\n"), (Fault::Reset, "lost their connection; ")] {
        let address = serve(fault).to_string();
        let mut command = Command::new(example("lineload"));
        let output = command.args(LOAD).arg(address).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("live clients        4\n"), "{text}");
        assert!(text.lines().last().is_some_and(|line| format!("{line}\n").contains(verdict)), "{text}");
    }
}

// --- the parts that are functions

#[test]
fn the_difference_of_what_came_to_what_was_sent_is_named() {
    let sent = b"one line\nsecond\nthird line\nfourth\n".as_slice();
    let named = |came: &[u8]| difference(b"before\n", sent, came);
    assert_eq!(named(b"one ine\nsecond\nthird line\nfourth\n"), Difference::Lost(1));
    assert_eq!(named(b"second\nthird line\nfourth\n"), Difference::Lost(9));
    assert_eq!(named(b"one linesecond\n"), Difference::Lost(1));
    assert_eq!(named(b"one line\nsecond\nthird line\nfourt\n"), Difference::Lost(1));
    assert_eq!(named(b"one line\none line\nsecond\nthird line\nfourth\n"), Difference::Repeated(9));
    assert_eq!(named(b"before\none line\nsecond\n"), Difference::Repeated(7));
    assert_eq!(named(b"one line\nsecond\nthird line\nfourth\nfourth\n"), Difference::Repeated(7));
    assert_eq!(named(b"oone line\nsecond\n"), Difference::Repeated(1));
    assert_eq!(named(b"second\none line\nthird line\nfourth\n"), Difference::Reordered);
    assert_eq!(named(b"third line\none line\nsecond\nfourth\n"), Difference::Reordered);
    assert_eq!(named(b"one lime\nsecond\nthird line\nfourth\n"), Difference::Changed);
    assert_eq!(named(b"GET / HTTP/1.0\n"), Difference::Changed);
    assert_eq!(difference(b"before\n", b"", b"before\n"), Difference::Repeated(7));
    assert_eq!(difference(b"before\n", b"", b"other\n"), Difference::Changed);
}

#[test]
fn a_spread_is_exact_to_three_per_cent_and_never_below_the_truth() {
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..20 {
        let count = rng.u64(1..500);
        let largest = 1 << rng.u32(1..30);
        let mut all: Vec<u64> = (0..count).map(|_| rng.u64(0..largest)).collect();
        let mut spread = Spread::new();
        all.iter().for_each(|micros| spread.add(Duration::from_micros(*micros)));
        all.sort_unstable();
        for per_cent in [1, 50, 99, 100] {
            let rank = (count * per_cent).div_ceil(100) as usize;
            let exact = all[rank - 1] as f64 / 1e3;
            let told = spread.percentile_ms(per_cent);
            assert!(told >= exact - 1e-9 && told <= exact * 1.032, "{per_cent} %: {told} for {exact}");
        }
        assert!((spread.max_ms() - all[all.len() - 1] as f64 / 1e3).abs() < 1e-9);
        assert_eq!(spread.count(), count);
    }
    let mut spread = Spread::new();
    assert_eq!((spread.percentile_ms(50), spread.max_ms()), (0.0, 0.0));
    spread.add(Duration::MAX);
    assert!(spread.percentile_ms(50) > 1e9);
}
