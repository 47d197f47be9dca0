//! What the next image of the program is started with, and everything about it that can be wrong.
#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::served::{has_proc, long_form};
use crate::common::{TempDir, example};
use crate::running::{Flow, Gate, quiet, says, server, wait_until};

/// Puts a file in the place of `program`. It is `cp` that writes it: a program that any process has open for writing, a
/// child of another test before its exec too, cannot be run.
#[track_caller]
fn put(program: &Path, content: &Path, mode: u32) {
    let beside = program.with_extension("new");
    let copied = Command::new("cp").args([content, &beside]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", content.display());
    fs::set_permissions(&beside, Permissions::from_mode(mode)).expect("it is ours");
    fs::rename(beside, program).expect("the directory is ours");
}

/// The program itself, under a path of the test's.
#[track_caller]
fn copy_to(path: &Path) {
    put(path, &example("flow_server"), 0o755);
}

fn proc(flow: &Flow, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{what}", flow.child.id()))
}

#[test]
fn the_hooks_are_told_whether_they_run_in_a_probe_or_after_a_restart() {
    let steps = ["post_configure_hook", "pre_bind_hook", "restart_open_hook", "post_bind_hook", "restore"];
    let mut gate = Gate::new();
    let wishes: Vec<String> = ["probe", "heir"]
        .iter()
        .flat_map(|who| steps.iter().map(move |step| format!("{who}:{step}=wait")))
        .map(|wish| gate.at(&wish))
        .collect();
    let mut command = server();
    command.env("FLOW_AT", wishes.join(";"));
    let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
    let mut client = flow.client();
    gate.close();
    flow.child.signal("HUP");
    for who in ["probe", "heir"] {
        for step in steps {
            let waiting = gate.wait();
            assert_eq!(waiting.who, format!("{who}:{step}"));
            assert_eq!(waiting.pid == flow.child.id(), who == "heir");
        }
    }
    flow.restarted();
    says(&mut client, "still here");
    quiet(&flow.stop());
}

// A36
#[test]
fn relative_paths_of_program_and_configuration_mean_what_they_meant_at_the_start() {
    for called in ["./flow_server", "flow_server"] {
        let directory = TempDir::new();
        copy_to(&directory.path().join("flow_server"));
        fs::write(directory.path().join("x.toml"), "port = '127.0.0.1:0'\n").unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("PATH=$PWD:$PATH; exec {called} --conf_file x.toml")]);
        let mut flow = Flow::started(command.current_dir(directory.path()));
        let mut client = flow.client();
        for count in 2..4 {
            let ports = vec!["'127.0.0.1:0'"; count].join(", ");
            fs::write(directory.path().join("x.toml"), format!("port = [{ports}]\n")).unwrap();
            flow.restart();
            assert_eq!(flow.addrs.len(), count, "{called}");
            says(&mut client, "still here");
        }
        quiet(&flow.stop());
    }
}

#[test]
fn a_working_directory_that_is_gone_is_missed_only_by_what_was_in_it() {
    let directory = TempDir::new();
    let (inside, file) = (directory.path().join("inside"), directory.path().join("x.toml"));
    for (option, goes) in [(file.display().to_string(), true), ("x.toml".to_owned(), false)] {
        fs::create_dir(&inside).unwrap();
        for file in [&file, &inside.join("x.toml")] {
            fs::write(file, "port = '127.0.0.1:0'\n").unwrap();
        }
        let mut flow = Flow::started(server().current_dir(&inside).args(["--conf_file", &option]));
        let mut client = flow.client();
        fs::remove_dir_all(&inside).unwrap();
        for _ in 0..2 {
            if goes {
                flow.restart();
            } else {
                let line = flow.refused_restart();
                assert!(line.contains("inside/x.toml"), "{line}");
            }
            says(&mut client, "still here");
        }
        flow.stop();
    }
}

// A36
#[test]
fn a_program_that_was_replaced_is_the_next_image() {
    if !has_proc() {
        return;
    }
    let directory = TempDir::new();
    let program = directory.path().join("flow_server");
    copy_to(&program);
    let mut flow = Flow::started(Command::new(&program).arg("--port=127.0.0.1:0"));
    let mut client = flow.client();
    for _ in 0..2 {
        copy_to(&program);
        let inode = || fs::metadata(proc(&flow, "exe")).unwrap().ino();
        let new = fs::metadata(&program).unwrap().ino();
        assert_ne!(inode(), new);
        flow.restart();
        assert_eq!(fs::metadata(proc(&flow, "exe")).unwrap().ino(), new);
        says(&mut client, "still here");
    }
    quiet(&flow.stop());
    // A link that leads to another version.
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    [&one, &two].into_iter().for_each(|path| copy_to(path));
    fs::remove_file(&program).unwrap();
    symlink(&one, &program).unwrap();
    let mut flow = Flow::started(Command::new(&program).arg("--port=127.0.0.1:0"));
    let mut client = flow.client();
    fs::remove_file(&program).unwrap();
    symlink(&two, &program).unwrap();
    flow.restart();
    assert_eq!(fs::read_link(proc(&flow, "exe")).unwrap(), two);
    says(&mut client, "still here");
    quiet(&flow.stop());
}

// A36
#[test]
fn a_program_that_cannot_be_run_refuses_the_restart() {
    let directory = TempDir::new();
    let program = directory.path().join("flow_server");
    copy_to(&program);
    let mut flow = Flow::started(Command::new(&program).arg("--port=127.0.0.1:0"));
    let mut client = flow.client();
    let whole = fs::read(example("flow_server")).unwrap();
    let content = directory.path().join("content");
    for (what, bytes, mode, reason) in [
        ("not executable", &whole[..], 0o644, "Permission denied"),
        ("no program", b"\x00\x01\x02\x03 nothing", 0o755, "Exec format error"),
        ("truncated", &whole[..8192], 0o755, ""),
        ("another program", b"#!/bin/sh\nexit 3\n", 0o755, "without a word (exit status: 3)"),
        ("empty", b"", 0o755, ""),
    ] {
        fs::write(&content, bytes).unwrap();
        put(&program, &content, mode);
        let line = flow.refused_restart();
        assert!(line.contains(reason), "{what}: {line}");
        says(&mut client, what);
    }
    fs::remove_file(&program).unwrap();
    let line = flow.refused_restart();
    assert!(line.contains(&program.display().to_string()) && line.contains("No such file"), "{line}");
    copy_to(&program);
    flow.restart();
    says(&mut client, "still here");
    flow.stop();
}

// A35
#[test]
fn a_configuration_that_is_wrong_refuses_the_restart_with_all_its_mistakes() {
    let directory = TempDir::new();
    let file = directory.path().join("x.toml");
    fs::write(&file, "port = '127.0.0.1:0'\n").unwrap();
    let mut flow = Flow::started(server().arg("--conf_file").arg(&file));
    let mut client = flow.client();
    for (text, mistakes) in [
        ("port = \n", &["x.toml:1:"][..]),
        (
            "port = 99999\n prot = 1\n",
            &["x.toml:1:8: port: 99999 is no port", "x.toml:2:2: unknown key `prot`"],
        ),
        ("deny = '10.0.0.1/33'\n", &["x.toml:1:8: deny: "]),
        ("[app]\nunknown = 1\n", &["x.toml:2:1: app: unknown key `unknown`"]),
        ("log_file = '/no/such/directory/log'\n", &["/no/such/directory/log"]),
    ] {
        fs::write(&file, text).unwrap();
        let line = flow.refused_restart();
        assert!(mistakes.iter().all(|mistake| line.contains(mistake)), "{text}: {line}");
        says(&mut client, "still here");
    }
    fs::remove_file(&file).unwrap();
    let line = flow.refused_restart();
    assert!(line.contains("x.toml"), "{line}");
    fs::write(&file, "port = '127.0.0.1:0'\n").unwrap();
    flow.restart();
    says(&mut client, "still here");
    flow.stop();
}

#[test]
fn a_hook_that_refuses_panics_or_exits_in_the_probe_refuses_the_restart() {
    for hook in ["post_configure_hook", "pre_bind_hook", "restart_open_hook", "post_bind_hook", "restore"] {
        for (what, reason) in [
            ("refuse", format!("{hook} refuses")),
            ("panic", format!("{hook} was asked to panic")),
            ("exit", "the new image ended in the probe without a word (exit status: 9)".to_owned()),
        ] {
            let mut gate = Gate::new();
            let mut command = server();
            command.env("FLOW_AT", gate.at(&format!("probe:{hook}={what}"))).arg("--port=127.0.0.1:0");
            let mut flow = Flow::started(&mut command);
            let mut client = flow.client();
            gate.close();
            let line = flow.refused_restart();
            assert!(line.contains(&reason), "{hook}, {what}: {line}");
            says(&mut client, "still here");
            gate.open();
            flow.restart();
            says(&mut client, "still here");
            flow.stop();
        }
    }
}

#[test]
fn a_probe_that_does_not_answer_in_time_is_ended() {
    let mut gate = Gate::new();
    let mut command = server();
    command.env("FLOW_AT", gate.at("probe:post_bind_hook=wait")).arg("--probe_seconds=0.2");
    let mut flow = Flow::started(command.arg("--port=127.0.0.1:0"));
    let mut client = flow.client();
    gate.close();
    let line = flow.refused_restart();
    assert!(line.contains("the new image did not answer the probe within probe_seconds = 0.2"), "{line}");
    // On a busy machine it may not have come to the gate before.
    says(&mut client, "still here");
    gate.open();
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
}

#[test]
fn words_and_variables_with_any_bytes_survive() {
    if !has_proc() {
        return;
    }
    let directory = TempDir::new();
    let path = directory.path().join("odd ' \u{fffd}\u{e4}.toml");
    fs::write(&path, "port = '127.0.0.1:0'\n").unwrap();
    let large = "x".repeat(100 * 1024);
    let mut command = server();
    command.arg0(OsStr::from_bytes(b"odd\xffname")).arg("--conf_file").arg(&path);
    command.env(OsStr::from_bytes(b"ODD\xff"), OsStr::from_bytes(b"\xfe\n=\x01")).env("LARGE", &large);
    command.env("EMPTY", "");
    let mut flow = Flow::started(&mut command);
    let mut client = flow.client();
    let words = || fs::read(proc(&flow, "cmdline")).unwrap();
    let variables = || {
        let all = fs::read(proc(&flow, "environ")).unwrap();
        let mut all: Vec<Vec<u8>> = all.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        all.retain(|entry| !entry.starts_with(b"LINEPLEX_HANDOVER="));
        all
    };
    let before = (words(), variables());
    assert!(before.1.contains(&b"ODD\xff=\xfe\n=\x01".to_vec()));
    for _ in 0..3 {
        flow.child.signal("HUP");
        flow.child.wait_for(" done; ");
        says(&mut client, "still here");
    }
    let words = fs::read(proc(&flow, "cmdline")).unwrap();
    assert_eq!(words.escape_ascii().to_string(), before.0.escape_ascii().to_string());
    let all = fs::read(proc(&flow, "environ")).unwrap();
    let mut all: Vec<Vec<u8>> = all.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let count = all.len();
    all.retain(|entry| !entry.starts_with(b"LINEPLEX_HANDOVER="));
    assert!(all == before.1, "the environment has changed");
    assert_eq!(count, all.len() + 1, "one variable more, which the image has removed for its children");
    quiet(&flow.stop());
}

/// What the server has open, without the numbers that change.
fn open_files(flow: &Flow) -> Vec<String> {
    let entries = fs::read_dir(proc(flow, "fd")).expect("the server runs");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let kind = |link: PathBuf| {
        let link = link.display().to_string();
        link.split(":[").next().unwrap_or_default().to_owned()
    };
    let mut files: Vec<String> = links.map(kind).collect();
    files.sort();
    files
}

/// Memory of the process that is in use, in KiB.
fn resident(flow: &Flow) -> u64 {
    let status = fs::read_to_string(proc(flow, "status")).expect("the server runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("proc(5) has it");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number of KiB")
}

#[test]
fn descriptors_and_memory_do_not_accumulate() {
    if !has_proc() {
        return;
    }
    let directory = TempDir::new();
    let (path, file) = (directory.path().join("s"), directory.path().join("x.toml"));
    let both = format!("port = ['127.0.0.1:0', '{}|unix', '127.77.3.1:0']\n", path.display());
    fs::write(&file, &both).unwrap();
    let mut command = Command::new("/bin/sh");
    // Left open by whoever starts it.
    command.args(["-c", "exec \"$0\" \"$@\" 7</dev/null 9>/dev/null"]);
    let mut flow = Flow::started(command.arg(example("flow_server")).arg("--conf_file").arg(&file));
    let mut clients = [flow.client(), flow.client(), flow.client()];
    let nulls = |flow: &Flow| open_files(flow).iter().filter(|file| *file == "/dev/null").count();
    assert!(nulls(&flow) >= 3, "standard input and what was left open: {:?}", open_files(&flow));
    fs::write(&file, both.replace(", '127.77.3.1:0'", "")).unwrap();
    flow.restart();
    flow.child.wait_for("no longer listening on 127.77.3.1");
    // A turn later nothing of the image before is left.
    says(&mut clients[0], "still here");
    assert_eq!(nulls(&flow), 1, "what was left open ends with the first image: {:?}", open_files(&flow));
    let expected = open_files(&flow);
    let memory = resident(&flow);
    for _ in 0..if long_form() { 500 } else { 50 } {
        flow.restart();
    }
    wait_until("the last restart leaves what was there", || open_files(&flow) == expected);
    let grown = resident(&flow).saturating_sub(memory);
    println!("{memory} KiB, {grown} more after the restarts");
    assert!(grown < 2048, "{grown} KiB more than {memory}");
    for client in &mut clients {
        says(client, "still here");
    }
    quiet(&flow.stop());
}
