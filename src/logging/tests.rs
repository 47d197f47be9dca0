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
    let logger = Logger::open(&sink, config).unwrap();
    (sink, logger)
}

fn log_to(sink: &Sink, level: Level, target: &str, text: &str) {
    sink.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
}

fn to_file(path: &Path) -> LogConfig {
    LogConfig { target: LogTarget::File(path.to_owned()), ..LogConfig::default() }
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
    let logger = Logger::open(&sink, &config).unwrap();
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
    let error = Logger::open(&sink, &to_file(&missing)).unwrap_err();
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
fn syslog_gets_one_datagram_a_line_also_after_it_was_restarted() {
    let path = temporary("syslog");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let facility = Facility::named("local0").unwrap();
    let target = LogTarget::Syslog { socket: path.clone(), ident: "chat".to_owned(), facility };
    let (sink, logger) = open(&LogConfig { target, ..LogConfig::default() });
    let receive = |socket: &UnixDatagram| {
        let mut buf = [0; 8192];
        let count = socket.recv(&mut buf).unwrap();
        String::from_utf8(buf[..count].to_vec()).unwrap()
    };
    let pid = std::process::id();
    log_to(&sink, Level::Error, "x", "one\n");
    assert_eq!(receive(&receiver), format!("<131>chat[{pid}]: one%0A"));

    drop(receiver);
    fs::remove_file(&path).unwrap();
    log_to(&sink, Level::Error, "x", "nobody hears this");
    assert!(logger.flush(LONG));
    assert_eq!(logger.lost(), 1);
    let receiver = UnixDatagram::bind(&path).unwrap();
    log_to(&sink, Level::Info, "x", "two");
    assert_eq!(receive(&receiver), format!("<132>chat[{pid}]: 1 log lines lost"));
    assert_eq!(receive(&receiver), format!("<134>chat[{pid}]: two"));
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_syslog_that_does_not_read_loses_lines_and_blocks_nobody() {
    let path = temporary("syslog-full");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let facility = Facility::default();
    let target = LogTarget::Syslog { socket: path.clone(), ident: "chat".to_owned(), facility };
    let (sink, logger) = open(&LogConfig { target, ..LogConfig::default() });
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

#[test]
fn a_syslog_that_is_not_there_is_an_error_at_start() {
    let target = LogTarget::Syslog {
        socket: temporary("syslog-none"),
        ident: "chat".to_owned(),
        facility: Facility::default(),
    };
    let sink = Arc::new(Sink::default());
    assert!(Logger::open(&sink, &LogConfig { target, ..LogConfig::default() }).is_err());
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
