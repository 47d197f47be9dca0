//! Options about the process and its restarts, and what the command line asks of a server that runs.

use std::path::Path;

use super::*;
use crate::config::{Action, Control};

#[cfg(feature = "daemon")]
#[test]
fn every_option_of_the_process_is_read_under_its_file_name() {
    let config = config(
        "user = 'www'\ngroup = 'www, 33'\nchroot = '/srv/'\nbackground = true\nsetsid = true\npid_file = '/run/x.pid'\n\
         umask = '027'\non_hup = 'reload'\nprobe_seconds = 1.5\ncommit_seconds = 2\nquiesce_seconds = 0\n\
         state_max_bytes = '1M'\nlog_file = '/x'\n",
    );
    let expected = ProcessConfig {
        user: Some("www".to_owned()),
        group: Some("www, 33".to_owned()),
        chroot: Some("/srv".into()),
        background: true,
        setsid: true,
        pid_file: Some("/run/x.pid".into()),
        umask: Some(0o027),
        on_hup: OnHup::Reload,
    };
    assert_eq!(config.process, expected);
    let expected = RestartConfig {
        probe_time: Duration::from_millis(1500),
        commit_time: Duration::from_secs(2),
        quiesce_time: Duration::ZERO,
        state_max_bytes: 1 << 20,
    };
    assert_eq!(config.restart, expected);
    assert_eq!(config.warnings(), [""; 0]);
    config.validate().unwrap();
}

#[test]
fn without_options_the_process_is_left_as_it_is() {
    let config = built(without_file());
    assert_eq!(config.process, ProcessConfig::default());
    assert_eq!(config.restart, RestartConfig::default());
    assert_eq!((config.process.is_daemon(), config.process.umask_to_set()), (false, None));
    assert_eq!(config.control(), None);
}

#[cfg(feature = "daemon")]
#[test]
fn a_server_in_the_background_has_a_umask_of_its_own_unless_it_names_one() {
    for key in ["background", "setsid"] {
        let process = config(&format!("{key} = true\nlog_file = '/x'")).process;
        assert_eq!((process.is_daemon(), process.umask_to_set()), (true, Some(0o027)), "{key}");
    }
    assert_eq!(config("background = true\numask = '002'").process.umask_to_set(), Some(0o002));
    let config = config("background = true");
    assert_eq!(config.warnings(), ["background: the log stays on standard error; set log_file"]);
}

#[cfg(feature = "daemon")]
#[test]
fn a_umask_is_octal_wherever_it_comes_from() {
    for good in ["'027'", "'27'", "'0o027'", "0o027"] {
        assert_eq!(config(&format!("umask = {good}")).process.umask, Some(0o027), "{good}");
    }
    assert_eq!(built(with_arguments(&["--umask=027"])).process.umask, Some(0o027));
    assert_eq!(config("umask = 0").process.umask, Some(0));
    let mut builder = without_file();
    builder.set("umask", 0o077);
    assert_eq!(built(builder).process.umask, Some(0o077));
    for (bad, what) in [
        ("27", "write it in octal"),
        ("'28'", "write it in octal"),
        ("''", "write it in octal"),
        ("'1000'", "more than permission bits"),
        ("0o100", "take from the server its own files"),
    ] {
        let line = refused_line(&format!("umask = {bad}"));
        assert!(line.starts_with("x.toml:1:9: umask: ") && line.contains(what), "{bad}: {line}");
    }
}

#[cfg(feature = "daemon")]
#[test]
fn users_and_groups_are_names_or_numbers_and_paths_become_absolute() {
    assert_eq!(config("user = 1000\ngroup = 0").process.user.as_deref(), Some("1000"));
    let process = built(with_arguments(&["--user=nobody", "--pid-file=x.pid", "--chroot", "."])).process;
    assert_eq!(process.user.as_deref(), Some("nobody"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(process.pid_file.as_deref(), Some(here.join("x.pid").as_path()));
    assert_eq!(process.chroot.as_deref(), Some(here.as_path()));
    for (bad, at) in [("user = ''", 8), ("user = -1", 8), ("group = ' '", 9), ("pid_file = '/run/'", 12)] {
        assert!(refused_line(bad).starts_with(&format!("x.toml:1:{at}: ")), "{bad}");
    }
    assert!(refused_line("on_hup = 'restart'").contains("none of `handover`, `reload` and `ignore`"));
}

#[cfg(feature = "daemon")]
#[test]
fn a_configuration_by_hand_is_checked_too() {
    let mut config = Config::default();
    config.process.pid_file = Some("x.pid".into());
    config.process.umask = Some(0o777);
    config.restart.probe_time = Duration::ZERO;
    config.restart.state_max_bytes = 4095;
    let text = config.validate().unwrap_err().chain();
    for line in [
        "pid_file: `x.pid` is no absolute path; begin it with /",
        "umask: 0o777 would take from the server its own files; the first digit is 0",
        "probe_seconds: 0 is too small: the new program needs some time",
        "state_max_bytes: 4095 is too small: at least 4096",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    config.process = ProcessConfig { pid_file: Some(Path::new("/x.pid").into()), ..Default::default() };
    config.restart = RestartConfig { state_max_bytes: 4096, ..Default::default() };
    config.validate().unwrap();
}

#[cfg(feature = "daemon")]
#[test]
fn the_command_line_controls_a_server_that_runs() {
    let control = |words: &[&str]| built(with_arguments(words)).control();
    let asked = |action, wait| Some(Control { action, wait });
    assert_eq!(control(&["--reload"]), asked(Action::Reload, false));
    assert_eq!(control(&["--wait", "--reload", "--pid_file=/x"]), asked(Action::Reload, true));
    assert_eq!(control(&["--stop", "--wait", "--stop"]), asked(Action::Stop, true));
    for (words, line) in [
        (&["--wait"][..], "--wait: it belongs to --reload or --stop"),
        (&["--stop", "--reload"], "--reload: not together with --stop"),
        (&["--stop", "--check"], "--stop: not together with --check"),
        (&["--check", "--reload"], "--reload: not together with --check"),
        (&["--stop=now"], "--stop: it takes no value"),
        (&["--stpo"], "--stpo: unknown option `stpo`; did you mean `stop`?"),
    ] {
        assert_eq!(refused(with_arguments(words)), [line]);
    }
    let mut builder = without_file();
    builder.run_arguments(["--stop"]);
    assert_eq!(refused(builder), ["arguments to run: --stop: it belongs to the command line"]);
}

#[cfg(not(feature = "daemon"))]
#[test]
fn without_unix_calls_all_of_it_is_refused_with_the_reason() {
    let why = "not available: this program was built without the feature `daemon`";
    for line in ["user = 'www'", "background = true", "umask = '022'", "probe_seconds = 1", "pid_file = ''"] {
        assert!(refused_line(line).ends_with(why), "{line}");
    }
    assert_eq!(refused(with_arguments(&["--stop"])), [format!("--stop: {why}")]);
    let mut by_hand = Config::default();
    by_hand.process.chroot = Some(Path::new("/").into());
    assert_eq!(by_hand.validate().unwrap_err().chain(), format!("chroot: {why}"));
    assert_eq!(config("on_hup = 'ignore'").process.on_hup, OnHup::Ignore);
    assert_eq!(Control { action: Action::Stop, wait: true }.action, Action::Stop);
}
