//! The queue and its thread against logs that do not take lines.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::*;

/// A minute: long enough for any machine, and never waited for when all is well.
const LONG: Duration = Duration::from_secs(60);

/// A writer on a blocking pipe, and the end that reads it.
fn piped() -> (Arc<Writer>, File) {
    let (sender, receiver) = mio::unix::pipe::new().unwrap();
    let [sender, receiver] = [OwnedFd::from(sender), OwnedFd::from(receiver)].map(File::from);
    for file in [&sender, &receiver] {
        SockRef::from(file).set_nonblocking(false).unwrap();
    }
    (Writer::new(Output::of(sender, "/nowhere/log")), receiver)
}

fn push(writer: &Arc<Writer>, text: &str) {
    writer.push(Line::new(Level::Info, format_args!("{text}")));
}

#[test]
fn a_pipe_that_nobody_reads_never_blocks_the_caller_and_every_lost_line_is_told_of() {
    let (writer, receiver) = piped();
    let text = "x".repeat(1000);
    let mut pushed = 0_u64;
    // Pipe and queue hold some thousand lines; if a push waited, this would not end.
    while writer.lost() < 100 {
        push(&writer, &text);
        pushed += 1;
    }
    assert!(pushed > QUEUE_MAX_LINES as u64);
    assert!(!writer.flush(Duration::from_millis(1)));
    assert!(!writer.stop(Duration::from_millis(1)), "the thread cannot have ended");
    writer.resume();

    let lost = writer.lost();
    let mut lines = BufReader::new(receiver).lines();
    let (mut read, mut told) = (0, 0);
    while read + told < pushed {
        let line = lines.next().unwrap().unwrap();
        match line.strip_suffix(" log lines lost") {
            Some(start) => told += start.rsplit(' ').next().unwrap().parse::<u64>().unwrap(),
            None => {
                assert!(line.ends_with("xxx"), "{line}");
                read += 1;
            }
        }
    }
    assert_eq!(told, lost);
    push(&writer, "back");
    assert!(lines.next().unwrap().unwrap().ends_with("info  back"));
    assert_eq!(writer.lost(), lost);
    assert!(writer.stop(LONG));
}

#[test]
fn the_queue_takes_its_limit_and_not_one_line_more() {
    let (writer, receiver) = piped();
    assert!(writer.stop(Duration::ZERO), "there is no thread yet");
    for _ in 0..QUEUE_MAX_LINES {
        push(&writer, "fits");
    }
    assert_eq!(writer.lost(), 0);
    push(&writer, "one too many");
    assert_eq!(writer.lost(), 1);

    let reader = thread::spawn(move || {
        let mut text = String::new();
        BufReader::new(receiver).read_to_string(&mut text).unwrap();
        text
    });
    writer.resume();
    assert!(writer.stop(LONG));
    drop(writer);
    let text = reader.join().unwrap();
    assert_eq!(text.lines().filter(|line| line.ends_with("fits")).count(), QUEUE_MAX_LINES);
    assert!(text.ends_with(" 1 log lines lost\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_lines_harms_nobody_and_is_told_when_there_is_room() {
    let path = std::env::temp_dir().join(format!("lp-full-{}", std::process::id()));
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let writer = Writer::new(Output::of(full, &path));
    push(&writer, "one");
    push(&writer, "two");
    assert!(writer.flush(LONG));
    assert_eq!(writer.lost(), 2);
    writer.reopen();
    assert!(writer.flush(LONG));
    push(&writer, "three");
    assert!(writer.stop(LONG));
    assert_eq!(writer.lost(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let ends: Vec<&str> = text.lines().map(|line| &line[25..]).collect();
    assert_eq!(ends, ["warn  2 log lines lost", "info  three"]);
}

#[test]
fn a_stopped_writer_keeps_its_lines_and_a_resumed_one_writes_them() {
    let (writer, receiver) = piped();
    let mut lines = BufReader::new(receiver).lines();
    for round in 0..50 {
        push(&writer, "before");
        assert!(writer.stop(LONG), "round {round}");
        assert!(writer.lock().thread.is_none());
        push(&writer, "while stopped");
        assert!(writer.lock().thread.is_none());
        writer.resume();
        assert!(lines.next().unwrap().unwrap().ends_with("before"));
        assert!(lines.next().unwrap().unwrap().ends_with("while stopped"));
    }
    assert!(writer.stop(LONG));
}

#[test]
fn a_log_that_nobody_uses_has_no_thread() {
    let (writer, _receiver) = piped();
    assert!(writer.flush(Duration::ZERO));
    assert!(writer.lock().thread.is_none());
    assert!(writer.stop(Duration::ZERO));
}

#[test]
fn a_full_log_that_does_not_block_is_given_up_in_a_hurry() {
    let (sender, receiver) = mio::unix::pipe::new().unwrap();
    let writer = Writer::new(Output::of(File::from(OwnedFd::from(sender)), "/nowhere/log"));
    let text = "x".repeat(4000);
    for _ in 0..200 {
        push(&writer, &text);
    }
    // Whether or not it is done in no time, after this the thread waits for nothing.
    if !writer.stop(Duration::ZERO) {
        assert!(writer.stop(LONG));
    }
    assert!(writer.lost() > 0);
    drop(receiver);
}
