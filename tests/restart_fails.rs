//! Restarts that fail: whatever is wrong with the new image, the old one goes on, nobody loses a byte, the log says why,
//! and a good restart works afterwards.
//!
//! Method: the server of tests/restart_fails/server.rs fails where a file tells it to, on trial (the *probe*) or when it
//! has taken the place of the old one (the *heir*), or its program is replaced by something else. Two clients, TCP and
//! Unix, have always sent half a line; after each failure they send the rest and compare every byte, as does a client that
//! came during the restart. Then nobody is left but the one that serves. Every fault comes twice; with `LINEPLEX_LONG=1`
//! twenty times, and what is random 1000 times instead of 50. What is random begins with a printed seed; `LINEPLEX_SEED=`
//! repeats it.

#![cfg(target_os = "linux")]
#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "restart_fails/ground.rs"]
mod ground;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::served::{long_form, wait_until};
use common::{Client, example};
use ground::{Ground, PATIENT, SERVER, Speaker, random};
use nix::sys::signal::Signal;

// ── faults of the application ──

#[test]
fn an_image_that_dies_on_trial_is_refused_and_the_log_says_how_it_ended() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for step in TRIED {
            for (fault, how) in DEATHS {
                ground.plan(&format!("probe:{step}:{fault}"));
                ground.is_refused(&format!("the new image ended in the probe without a word ({how}"));
            }
            ground.plan(&format!("probe:{step}:panic"));
            ground.is_refused(&panics(step, "ended in the probe without a word (exit status: 101"));
        }
        ground.plan("");
        ground.restarts();
    }
    ground.stops();
}

#[test]
fn an_image_that_refuses_on_trial_is_refused_with_its_own_words() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for step in &TRIED[1..] {
            ground.plan(&format!("probe:{step}:err"));
            ground.is_refused(&refuses(step));
        }
        ground.plan("");
        ground.restarts();
    }
    ground.stops();
}

#[test]
fn an_heir_that_dies_gives_the_service_back() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for step in INHERITED {
            for (fault, _) in DEATHS {
                ground.plan(&format!("heir:{step}:{fault}"));
                ground.is_rolled_back("the new image died before it had taken over");
            }
            ground.plan(&format!("heir:{step}:panic"));
            ground.is_rolled_back(&panics(step, "died before it had taken over"));
        }
        ground.plan("");
        ground.restarts();
    }
    ground.stops();
}

#[test]
fn an_heir_that_refuses_gives_the_service_back_with_its_own_words() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for step in &INHERITED[1..] {
            ground.plan(&format!("heir:{step}:err"));
            ground.is_rolled_back(&format!("the new image gave up: {}", refuses(step)));
        }
        ground.plan("");
        ground.restarts();
    }
    ground.stops();
}

/// One server for each fault, all at once: they only wait.
#[test]
fn an_image_that_hangs_or_stands_still_is_ended_by_the_limits() {
    thread::scope(|scope| {
        for step in TRIED {
            scope.spawn(move || hangs(&format!("probe:{step}:hang"), ["1", "60"]));
        }
        scope.spawn(|| hangs("probe:pre_bind_hook:stop", ["1", "60"]));
        for step in INHERITED {
            scope.spawn(move || hangs(&format!("heir:{step}:hang"), ["60", "1"]));
        }
        scope.spawn(|| hangs("heir:restore:stop", ["60", "1"]));
    });
}

#[track_caller]
fn hangs(fault: &str, [probe_seconds, commit_seconds]: [&str; 2]) {
    let limits = [format!("--probe_seconds={probe_seconds}"), format!("--commit_seconds={commit_seconds}")];
    let mut ground = Ground::new(&limits.each_ref().map(String::as_str));
    for _ in 0..rounds() {
        ground.plan(fault);
        if fault.starts_with("probe") {
            ground.is_refused("the new image did not answer the probe within probe_seconds = 1");
        } else {
            ground.is_rolled_back("the new image did not commit within commit_seconds = 1 and was killed");
        }
        ground.plan("");
        ground.restarts_in_the_end();
    }
    ground.stops();
}

/// A commit that comes about when its time is over: in time or not at all, and never by both.
#[test]
fn an_heir_that_is_about_as_slow_as_the_limit_serves_or_does_not() {
    let (mut ground, mut random) = (Ground::new(&["--probe_seconds=60", "--commit_seconds=0.3"]), random());
    for _ in 0..if long_form() { 300 } else { 15 } {
        // What comes before this hook takes its time as well.
        ground.plan(&format!("heir:pre_loop_hook:sleep {}", random.u64(230..300)));
        ground.restarts_or_fails("did not commit within commit_seconds = 0.3 and was killed");
    }
    ground.plan("");
    ground.restarts_in_the_end();
    ground.stops();
}

#[test]
fn an_heir_whose_standby_is_killed_goes_on_alone() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for step in INHERITED {
            ground.plan(&format!("heir:{step}:kill-standby"));
            ground.restarts();
        }
    }
    ground.plan("heir:restore:abort");
    ground.is_rolled_back("the new image died before it had taken over");
    ground.stops();
}

#[test]
fn an_heir_that_is_killed_at_any_moment_before_its_commit_gives_the_service_back() {
    let (mut ground, mut random) = (Ground::new(&PATIENT), random());
    ground.plan("heir:main:tell\nheir:pre_loop_hook:hang");
    for _ in 0..times() {
        ground.signal(Signal::SIGHUP);
        assert_eq!(ground.told.expect_line(), "main");
        thread::sleep(Duration::from_micros(random.u64(0..15_000)));
        ground.signal(Signal::SIGKILL);
        ground.has_failed("the new image died before it had taken over");
    }
    ground.plan("");
    ground.restarts();
    ground.stops();
}

/// What the hooks of the old image do wrong costs a restart at most. The state of the server is not left out: the next
/// image would be another server.
#[test]
fn a_panic_of_the_old_image_in_its_last_hooks_harms_nobody() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for hook in ["pre_server_close_hook", "restart_close_hook"] {
            ground.plan(&format!("any:{hook}:panic"));
            ground.restarts();
            ground.plan(&format!("any:{hook}:panic\nheir:pre_bind_hook:err"));
            ground.is_rolled_back("pre_bind_hook was asked to refuse");
        }
        ground.plan("any:save:panic");
        ground.is_refused("save of the server panicked");
        ground.plan("any:save:version");
        ground.is_refused("the server's state has version 9, this one reads 1");
    }
    ground.plan("");
    ground.restarts();
    ground.stops();
}

#[test]
fn a_server_that_has_given_work_to_other_threads_has_a_standby_all_the_same() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..5 * rounds() {
        assert_eq!(ground.says("offload"), "offloaded");
        ground.plan("heir:restore:abort");
        ground.is_rolled_back("the new image died before it had taken over");
    }
    ground.stops();
}

/// Its flag belongs to all who share it, so what an heir does to it in vain would make the old image wait for ever.
#[test]
fn an_adopted_descriptor_stays_as_it_is_when_the_heir_fails() {
    let mut ground = Ground::new(&PATIENT);
    let path = ground.path("adopted");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(ground.says(&format!("adopt {}", path.display())), "adopted");
    let mut adopted = Speaker::of(Client::of(listener.accept().unwrap().0));
    for fault in ["err", "panic", "exit"] {
        adopted.begin();
        ground.plan(&format!("heir:pre_loop_hook:{fault}"));
        ground.fails("the new image ");
        adopted.end();
    }
    adopted.begin();
    ground.plan("");
    ground.restarts();
    adopted.end();
    ground.stops();
}

// ── programs that are none of ours ──

#[test]
fn a_program_that_cannot_be_run_is_refused_on_trial() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for (make, why) in UNFIT {
            let _busy = make(&ground.path("next"));
            ground.program_is("next");
            ground.is_refused(&format!("cannot start {} for a probe: {why}", ground.path(SERVER).display()));
            ground.program_is_good();
        }
        fs::remove_file(ground.path(SERVER)).unwrap();
        ground.is_refused("for a probe: No such file or directory");
        ground.program_is_good();
        ground.restarts();
    }
    ground.stops();
}

/// The same, when it was right on trial and is replaced before it is to take over.
#[test]
fn a_program_that_cannot_be_run_any_more_leaves_the_old_one_in_its_place() {
    let mut ground = Ground::new(&PATIENT);
    for _ in 0..rounds() {
        for (make, why) in UNFIT {
            let _busy = make(&ground.path("next"));
            ground.plan("probe:restore:sh rm server && mv next server");
            ground.is_refused(&format!("cannot run {}: {why}", ground.path(SERVER).display()));
            ground.program_is_good();
        }
        ground.plan("probe:restore:sh rm server");
        ground.is_refused("No such file or directory");
        ground.plan("");
        ground.program_is_good();
        ground.restarts();
    }
    ground.stops();
}

/// A program of which a part is missing, as when it is replaced by being written over: the system refuses it, or kills it.
#[test]
fn a_program_that_was_cut_is_refused_on_trial_and_rolled_back_in_place() {
    let mut ground = Ground::new(&PATIENT);
    let code = entry_point(&example("restart_fails_server"));
    for _ in 0..rounds() {
        for length in [0, 1, 4, 63, 64, 500, 4096, 64 * 1024, code / 4, code / 2] {
            cut(&ground.path("next"), length);
            ground.program_is("next");
            ground.fails("the new image ended in the probe without a word (signal: |for a probe: ");
            ground.program_is_good();
            cut(&ground.path("next"), length);
            ground.plan("probe:restore:sh mv -f next server");
            ground.fails("the new image died before it had taken over|cannot run ");
            ground.program_is_good();
            ground.plan("");
        }
        ground.restarts();
    }
    ground.stops();
}

#[test]
fn a_program_that_knows_nothing_of_a_restart_is_refused_on_trial() {
    let mut ground = Ground::new(&["--probe_seconds=1", "--commit_seconds=60"]);
    for _ in 0..rounds() {
        for (program, why) in [
            ("/bin/true", "the new image ended in the probe without a word (exit status: 0)"),
            ("/bin/false", "the new image ended in the probe without a word (exit status: 1)"),
        ] {
            symlink(program, ground.path("next")).unwrap();
            ground.program_is("next");
            ground.is_refused(why);
            ground.program_is_good();
        }
        // Its own end of the channel is its standard input.
        for (script, why) in [
            ("printf 'no it says' >&0", "it says"),
            ("printf 'ok 0' >&0", "the probe's answer cannot be read"),
            ("printf 'ok 18446744073709551616' >&0", "the probe's answer cannot be read"),
            ("printf 'hello' >&0", "the probe's answer cannot be read"),
            ("head -c 9999 /dev/zero >&0", "a message was cut"),
            ("while :; do :; done", "the new image did not answer the probe within probe_seconds = 1"),
            // It lives on, but can answer nothing any more.
            (
                "exec sleep 60 <&-",
                "the new image closed its end in the probe without a word, and does not end|did not answer",
            ),
        ] {
            write_script(&ground.path("next"), script);
            ground.program_is("next");
            ground.is_refused(why);
            ground.program_is_good();
        }
        ground.restarts_in_the_end();
    }
    ground.stops();
}

#[test]
fn a_program_that_knows_nothing_of_a_restart_gives_the_service_back() {
    // What it says goes to the end of the pipe that an heir has for its standby.
    let said = |text: &str| format!("IFS=:; set -- $LINEPLEX_HANDOVER; printf '{text}' >/proc/$$/fd/$4");
    let limit = "the new image did not commit within commit_seconds = 1 and was killed";
    let scripts = [
        ("exit 0".to_owned(), "the new image died before it had taken over"),
        ("exec sleep 60".to_owned(), limit),
        ("kill -STOP $$".to_owned(), limit),
        (said("Enot today"), "the new image gave up: not today"),
        (format!("{}; exec sleep 60", said("Enot today")), "the new image gave up: not today"),
        (format!("{}; exec sleep 60", said("X")), "the new image said 88, which means nothing"),
        (
            format!("{}; exec sleep 60", said("\\377\\377\\377")),
            "the new image said 255, which means nothing",
        ),
    ];
    // One server for each: they only wait.
    thread::scope(|scope| {
        for (script, why) in scripts {
            scope.spawn(move || gives_back(&script, why));
        }
    });
}

#[track_caller]
fn gives_back(script: &str, why: &str) {
    let mut ground = Ground::new(&["--probe_seconds=60", "--commit_seconds=1"]);
    for _ in 0..rounds() {
        write_script(&ground.path("next"), script);
        ground.plan("probe:restore:sh mv -f next server");
        ground.is_rolled_back(why);
        ground.program_is_good();
        ground.plan("");
        ground.restarts_in_the_end();
    }
    ground.stops();
}

// ── signals ──

#[test]
fn a_signal_to_stop_during_a_trial_ends_server_and_probe() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut ground = Ground::new(&PATIENT);
        ground.plan("probe:restore:sh touch there\nprobe:restore:hang");
        ground.signal(Signal::SIGHUP);
        let there = ground.path("there");
        wait_until("the probe hangs", || there.exists());
        ground.stops_at(signal);
    }
}

/// The heir holds it back, so it would be lost with it.
#[test]
fn a_signal_to_stop_that_an_heir_was_sent_in_vain_is_obeyed_by_the_standby() {
    thread::scope(|scope| {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            for fault in ["hang", "err"] {
                scope.spawn(move || {
                    let mut ground = Ground::new(&["--probe_seconds=60", "--commit_seconds=1"]);
                    ground.plan(&format!("heir:main:tell\nheir:main:sleep 200\nheir:restore:{fault}"));
                    ground.signal(Signal::SIGHUP);
                    assert_eq!(ground.told.expect_line(), "main");
                    ground.stops_at(signal);
                });
            }
        }
    });
}

/// It has the listeners, so nobody could take its place.
#[test]
fn a_probe_does_not_outlive_a_server_that_is_killed() {
    let mut ground = Ground::new(&PATIENT);
    ground.plan("probe:restore:sh touch there\nprobe:restore:hang");
    ground.signal(Signal::SIGHUP);
    let there = ground.path("there");
    wait_until("the probe hangs", || there.exists());
    ground.signal(Signal::SIGKILL);
    ground.child.expect_exit();
    wait_until("nobody is left", || ground.processes().is_empty());
}

// ── what a failure leaves behind ──

#[test]
fn a_hundred_refused_restarts_leave_no_descriptor_and_no_memory_behind() {
    let mut ground = Ground::new(&PATIENT);
    let mut before = None;
    for at in 0..120 {
        match at % 4 {
            // On trial, in both ways; then by execve, when a standby is there already; and by the state.
            0 => ground.plan("probe:restore_client:err"),
            1 => ground.plan("probe:post_bind_hook:abort"),
            2 => ground.plan("probe:restore:sh mv server away"),
            _ => ground.plan("any:save:panic"),
        }
        ground.is_refused("");
        if at % 4 == 2 {
            fs::rename(ground.path("away"), ground.path(SERVER)).unwrap();
        }
        if at == 19 {
            before = Some((ground.descriptors(), ground.resident_kib()));
        }
    }
    let (descriptors, resident) = before.unwrap();
    assert_eq!(ground.descriptors(), descriptors);
    let grown = ground.resident_kib().saturating_sub(resident);
    assert!(grown <= GROWTH_MAX_KIB, "{grown} KiB more after a hundred refused restarts");
    ground.plan("");
    ground.restarts();
    ground.stops();
}

#[test]
fn a_service_that_was_given_back_many_times_has_the_descriptors_that_it_had() {
    let mut ground = Ground::new(&PATIENT);
    ground.plan("heir:restore:abort");
    ground.is_rolled_back("");
    let before = ground.descriptors();
    for _ in 0..times() / 2 {
        ground.is_rolled_back("");
    }
    // A client that has left may be there a moment longer.
    wait_until("the descriptors are no more", || ground.descriptors().len() <= before.len());
    ground.plan("");
    ground.restarts();
    // Its log has a descriptor of its own from the first line on.
    ground.child.wait_for(" done; ");
    let before = ground.descriptors().len();
    for _ in 0..times() / 2 {
        ground.restarts();
    }
    wait_until("the descriptors are no more", || ground.descriptors().len() <= before);
    ground.stops();
}

/// The reason of a panic: from the first hook on that runs with the configuration, it is told.
fn panics(step: &str, else_why: &str) -> String {
    match step {
        "main" | "configure_hook" => format!("the new image {else_why}"),
        _ => format!("a hook panicked: {step} was asked to panic"),
    }
}

/// The reason of a refusal; the first hook cannot answer with an error, and sets an option that there is not.
fn refuses(step: &str) -> String {
    match step {
        "configure_hook" => "configure_hook: unknown key `no_such_option`".to_owned(),
        _ => format!("{step} was asked to refuse"),
    }
}

/// Makes a file that is no program, by hand of another process: what this one has open for writing, a child that is
/// being started beside it has as well, and the system would find the file busy.
fn make(path: &Path, commands: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-ec", commands]).env("NEXT", path).env("GOOD", example("restart_fails_server"));
    assert!(shell.status().is_ok_and(|status| status.success()), "{commands}");
}

fn cut(path: &Path, length: u64) {
    make(path, &format!("head -c {length} \"$GOOD\" > \"$NEXT\"; chmod 755 \"$NEXT\""));
}

/// Where the code of a little-endian 64-bit ELF file begins: what is cut well before it has no instruction left to run. (A
/// cut at a part of the length would not do: most of a debug build is never loaded.)
fn entry_point(program: &Path) -> u64 {
    let mut header = [0; 32];
    File::open(program).and_then(|mut file| file.read_exact(&mut header)).expect("a program has a header");
    header[24..].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn write_script(path: &Path, script: &str) {
    make(path, &format!("cat > \"$NEXT\" <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 \"$NEXT\""));
}

/// Gives what has to be kept while it is tried.
type Make = fn(&Path) -> Option<File>;

/// What the system does not run, and what it says.
const UNFIT: [(Make, &str); 5] = [
    (
        |path| {
            make(path, "cp \"$GOOD\" \"$NEXT\"; chmod 644 \"$NEXT\"");
            None
        },
        "Permission denied",
    ),
    (
        |path| {
            fs::create_dir(path).expect("the name is new");
            None
        },
        "Permission denied",
    ),
    (
        // The machine that the head of an ELF file names.
        |path| {
            make(
                path,
                "cp \"$GOOD\" \"$NEXT\"; printf '\\377\\377' | dd of=\"$NEXT\" bs=1 seek=18 conv=notrunc 2>/dev/null",
            );
            None
        },
        "Exec format error",
    ),
    (
        |path| {
            make(path, "printf '#!/nonexistent/interpreter\\n' > \"$NEXT\"; chmod 755 \"$NEXT\"");
            None
        },
        "No such file or directory",
    ),
    (
        |path| {
            make(path, "cp \"$GOOD\" \"$NEXT\"");
            Some(File::options().append(true).open(path).expect("it was just made"))
        },
        "Text file busy",
    ),
];

/// Steps of a probe, and those of an heir, in their order.
const TRIED: [&str; 8] = [
    "main",
    "configure_hook",
    "post_configure_hook",
    "pre_bind_hook",
    "restart_open_hook",
    "post_bind_hook",
    "restore",
    "restore_client",
];
const INHERITED: [&str; 9] =
    [TRIED[0], TRIED[1], TRIED[2], TRIED[3], TRIED[4], TRIED[5], TRIED[6], TRIED[7], "pre_loop_hook"];

/// Ways to die, and how a parent is told of them.
const DEATHS: [(&str, &str); 4] =
    [("abort", "signal: 6"), ("exit", "exit status: 3"), ("segv", "signal: 11"), ("kill", "signal: 9")];

/// For the allocator's own ways; a hundred leaks of what a restart needs are many times that.
const GROWTH_MAX_KIB: usize = 256;

fn rounds() -> u32 {
    if long_form() { 20 } else { 2 }
}

fn times() -> u32 {
    if long_form() { 1000 } else { 50 }
}
