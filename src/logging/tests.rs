//! The sink as the facade calls it. Each test has a sink of its own; the process's is used by one test only.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::Facility;

/// A minute: long enough for any machine, and never waited for when all is well.
const LONG: Duration = Duration::from_secs(60);

#[track_caller]
fn open(config: &LogConfig) -> (Arc<Sink>, Logger) {
    let sink = Arc::new(Sink::default());
    let (logger, excuse) = Logger::open(&sink, config, None).unwrap();
    assert_eq!(excuse, None);
    (sink, logger)
}

fn log_to(sink: &Sink, level: Level, target: &str, text: &str) {
    sink.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
}

fn to_file(path: &Path) -> LogConfig {
    LogConfig { target: LogTarget::File(path.to_owned()), ..LogConfig::default() }
}

/// The system's log and the journal at `path`.
fn to_socket(path: &Path, facility: &str) -> [LogConfig; 2] {
    let (socket, ident) = (path.to_owned(), "chat".to_owned());
    let facility = Facility::named(facility).unwrap();
    let syslog = LogTarget::Syslog { socket: socket.clone(), ident: ident.clone(), facility };
    [syslog, LogTarget::Journald { socket, ident, facility }]
        .map(|target| LogConfig { target, ..LogConfig::default() })
}

/// A log that collects what its function is given.
fn collecting(level: u8) -> (Arc<Mutex<Vec<String>>>, LogConfig) {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let function = LogFunction::new(move |level, text| kept.lock().unwrap().push(format!("{level} {text}")));
    (lines, LogConfig { level, function: Some(function), ..LogConfig::default() })
}

#[test]
fn each_level_has_its_lines_and_connections_come_at_three() {
    let all = ["ERROR e", "WARN w", "WARN client w", "INFO i", "INFO client i", "DEBUG d", "TRACE t"];
    let expected: [&[usize]; 5] = [&[0], &[0, 1, 2], &[0, 1, 2, 3], &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4, 5]];
    for (level, expected) in expected.iter().enumerate() {
        let (lines, config) = collecting(u8::try_from(level).unwrap());
        let (sink, _logger) = open(&config);
        for line in all {
            let (name, text) = line.split_once(' ').unwrap();
            let target = if text.starts_with("client") { CLIENTS } else { "lineplex::mux" };
            log_to(&sink, name.parse().unwrap(), target, text);
        }
        let expected: Vec<&str> = expected.iter().map(|index| all[*index]).collect();
        assert_eq!(*lines.lock().unwrap(), expected, "level {level}");
    }
}

#[test]
fn a_function_gets_the_raw_text_on_the_calling_thread_and_may_panic_and_log() {
    let sink = Arc::new(Sink::default());
    let seen: Arc<Mutex<Vec<(std::thread::ThreadId, String)>>> = Arc::default();
    let (kept, inner) = (Arc::clone(&seen), Arc::downgrade(&sink));
    let function = LogFunction::new(move |_, text| {
        kept.lock().unwrap().push((std::thread::current().id(), text.to_owned()));
        log_to(&inner.upgrade().unwrap(), Level::Error, "inner", "from the function");
        assert_ne!(text, "panic");
    });
    let config = LogConfig { function: Some(function), ..LogConfig::default() };
    let (logger, _) = Logger::open(&sink, &config, None).unwrap();
    for text in ["a\n\x1b", "panic", "after"] {
        log_to(&sink, Level::Info, "x", text);
    }
    let seen = seen.lock().unwrap();
    let texts: Vec<&str> = seen.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["a\n\x1b", "panic", "after"]);
    assert!(seen.iter().all(|(thread, _)| *thread == std::thread::current().id()));
    assert!(logger.flush(Duration::ZERO) && logger.stop(Duration::ZERO));
    assert_eq!(logger.lost(), 0);
}

#[test]
fn lines_are_appended_to_a_file_that_others_cannot_read() {
    use std::os::unix::fs::PermissionsExt;

    let path = temporary("append");
    fs::write(&path, "before\n").unwrap();
    let (sink, logger) = open(&to_file(&path));
    log_to(&sink, Level::Warn, "x", "one\ntwo");
    drop(logger);
    log_to(&sink, Level::Warn, "x", "after the end");
    let text = fs::read_to_string(&path).unwrap();
    let (first, second) = text.split_once('\n').unwrap();
    assert_eq!(first, "before");
    assert!(second.ends_with("Z warn  one%0Atwo\n") && second.lines().count() == 1, "{text}");

    fs::remove_file(&path).unwrap();
    let (_sink, _logger) = open(&to_file(&path));
    // The umask takes away, never adds.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_start() {
    let sink = Arc::new(Sink::default());
    let missing = temporary("missing").join("log");
    let error = Logger::open(&sink, &to_file(&missing), None).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}

#[test]
fn after_a_reopen_every_line_is_whole_in_one_of_the_two_files() {
    let path = temporary("rotate");
    let old = temporary("rotate-old");
    let (sink, logger) = open(&to_file(&path));
    for number in 0..3000 {
        if number == 1000 {
            fs::rename(&path, &old).unwrap();
            logger.reopen();
        }
        log_to(&sink, Level::Info, "x", &format!("line {number:04}"));
        if number % 1000 == 999 {
            assert!(logger.flush(LONG));
        }
    }
    drop(logger);
    let (first, second) = (fs::read_to_string(&old).unwrap(), fs::read_to_string(&path).unwrap());
    assert!(first.lines().count() >= 1000 && second.lines().count() >= 1000);
    let both = first + &second;
    for (number, line) in both.lines().enumerate() {
        assert!(line.ends_with(&format!(" info  line {number:04}")), "{line}");
    }
    assert_eq!(both.lines().count(), 3000);
    fs::remove_file(&path).unwrap();
    fs::remove_file(&old).unwrap();
}

#[test]
fn a_reopen_that_fails_keeps_the_old_file_and_says_so() {
    let directory = temporary("gone");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("log");
    let (sink, logger) = open(&to_file(&path));
    let kept = temporary("gone-kept");
    fs::rename(&path, &kept).unwrap();
    fs::remove_dir(&directory).unwrap();
    logger.reopen();
    assert!(logger.flush(LONG));
    log_to(&sink, Level::Info, "x", "still here");
    drop(logger);
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.contains("error cannot reopen the log") && text.ends_with("still here\n"), "{text}");
    fs::remove_file(&kept).unwrap();
}

#[test]
fn syslog_and_journal_get_one_datagram_a_line_also_after_they_were_restarted() {
    let pid = std::process::id();
    let syslog = |priority, text: &str| format!("<{}>chat[{pid}]: {text}", 128 + priority);
    let entry = |priority, text: &str| {
        format!("PRIORITY={priority}\nSYSLOG_FACILITY=16\nSYSLOG_IDENTIFIER=chat\nMESSAGE={text}\n")
    };
    for number in 0..2 {
        let format =
            |priority, text| if number == 0 { syslog(priority, text) } else { entry(priority, text) };
        let path = temporary("syslog");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let (sink, logger) = open(&to_socket(&path, "local0")[number]);
        let receive = |socket: &UnixDatagram| {
            let mut buf = [0; 8192];
            let count = socket.recv(&mut buf).unwrap();
            String::from_utf8(buf[..count].to_vec()).unwrap()
        };
        log_to(&sink, Level::Error, "x", "one\n");
        assert_eq!(receive(&receiver), format(3, "one%0A"));

        drop(receiver);
        fs::remove_file(&path).unwrap();
        log_to(&sink, Level::Error, "x", "nobody hears this");
        assert!(logger.flush(LONG));
        assert_eq!(logger.lost(), 1);
        let receiver = UnixDatagram::bind(&path).unwrap();
        log_to(&sink, Level::Info, "x", "two");
        assert_eq!(receive(&receiver), format(4, "1 log lines lost"));
        assert_eq!(receive(&receiver), format(6, "two"));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_syslog_or_a_journal_that_does_not_read_loses_lines_and_blocks_nobody() {
    let path = temporary("syslog-full");
    for number in 0..2 {
        let receiver = UnixDatagram::bind(&path).unwrap();
        let (sink, logger) = open(&to_socket(&path, "daemon")[number]);
        for number in 0..3000 {
            log_to(&sink, Level::Info, "x", &number.to_string());
        }
        assert!(logger.flush(LONG));
        let lost = logger.lost();
        assert!(lost > 0 && lost < 3000, "{lost}");
        // Stopping tries once more to tell; there is still no room.
        assert!(logger.stop(LONG));
        drop(receiver);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_syslog_or_a_journal_that_is_not_there_is_an_error_at_start() {
    for config in to_socket(&temporary("syslog-none"), "daemon") {
        let sink = Arc::new(Sink::default());
        assert!(Logger::open(&sink, &config, None).is_err());
    }
}

#[test]
fn a_log_that_cannot_be_opened_any_more_goes_on_in_the_descriptor_that_was_carried() {
    let directory = temporary("carried");
    let path = directory.join("log");
    fs::create_dir(&directory).unwrap();
    let (sink, logger) = open(&to_file(&path));
    log_to(&sink, Level::Info, "x", "before");
    let carried = logger.carried().unwrap();
    drop(logger);
    let moved = temporary("carried-away");
    fs::rename(&directory, &moved).unwrap();

    let sink = Arc::new(Sink::default());
    let (logger, excuse) = Logger::open(&sink, &to_file(&path), Some(carried)).unwrap();
    let excuse = excuse.unwrap();
    assert!(excuse.starts_with(&format!("cannot open the log {}: ", path.display())), "{excuse}");
    log_to(&sink, Level::Info, "x", "after");
    assert!(logger.flush(LONG));
    // A reopen finds the path again; then the file of that is carried.
    fs::create_dir(&directory).unwrap();
    logger.reopen();
    log_to(&sink, Level::Info, "x", "anew");
    assert!(logger.flush(LONG));
    let mut carried = fs::File::from(logger.carried().unwrap());
    drop(logger);
    writeln!(carried, "through the duplicate").unwrap();
    let (old, new) = (fs::read_to_string(moved.join("log")).unwrap(), fs::read_to_string(&path).unwrap());
    assert!(old.lines().count() == 2 && old.ends_with(" info  after\n"), "{old}");
    assert!(new.ends_with(" info  anew\nthrough the duplicate\n"), "{new}");
    for directory in [directory, moved] {
        fs::remove_dir_all(directory).unwrap();
    }
}

#[test]
fn a_path_that_opens_is_preferred_to_the_carried_descriptor() {
    let (path, other) = (temporary("preferred"), temporary("other"));
    let carried = fs::File::create(&other).unwrap();
    let sink = Arc::new(Sink::default());
    let (logger, excuse) = Logger::open(&sink, &to_file(&path), Some(carried.into())).unwrap();
    assert_eq!(excuse, None);
    log_to(&sink, Level::Info, "x", "here");
    drop(logger);
    assert!(fs::read_to_string(&path).unwrap().ends_with("here\n"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "");
    for path in [path, other] {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn only_a_file_is_carried() {
    let (_sink, logger) = open(&collecting(4).1);
    assert!(logger.carried().is_none());
    let (_sink, logger) = open(&LogConfig::default());
    assert!(logger.carried().is_none());
}

#[cfg(feature = "daemon")]
#[test]
fn a_log_file_is_given_away_unless_its_path_is_a_link_or_it_has_another_name() {
    use std::os::unix::fs::MetadataExt;

    let (path, link) = (temporary("given"), temporary("link"));
    let owner = || fs::metadata(&path).map(|found| (found.uid(), found.gid())).unwrap();
    let (_sink, logger) = open(&to_file(&path));
    if owner().0 != 0 {
        println!("skipped: only root can give files away");
        return;
    }
    assert!(logger.give_to(Some(4242), Some(4243)).unwrap());
    assert_eq!(owner(), (4242, 4243));

    fs::hard_link(&path, &link).unwrap();
    assert!(!logger.give_to(Some(0), None).unwrap(), "it has another name");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let (_sink, logger) = open(&to_file(&link));
    assert!(!logger.give_to(Some(0), None).unwrap(), "its path is a link");
    assert_eq!(owner(), (4242, 4243));
    for path in [path, link] {
        fs::remove_file(path).unwrap();
    }
}

/// The only test that touches the process's logger.
#[test]
fn the_process_has_one_log_at_a_time_and_fatal_goes_there_too() {
    let path = temporary("process");
    let logger = install(&to_file(&path)).unwrap().unwrap();
    assert!(install(&LogConfig::default()).unwrap().is_none());
    fatal("cannot listen on a\ncannot listen on b");
    drop(logger);
    let text = fs::read_to_string(&path).unwrap();
    // Other tests of this process may have logged meanwhile.
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("cannot listen on")).collect();
    assert_eq!(ours.len(), 2, "{text}");
    assert!(
        ours[0].ends_with("error cannot listen on a") && ours[1].ends_with("error cannot listen on b"),
        "{text}"
    );
    let again = install(&to_file(&path)).unwrap();
    assert!(again.is_some());
    drop(again);
    fs::remove_file(&path).unwrap();
}

fn temporary(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("lp-log-{name}-{}-{number}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}
