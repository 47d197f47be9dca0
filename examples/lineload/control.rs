//! The control client: one short line each millisecond, in a thread of its own so that the load's work is not
//! measured with it.
//!
//! Two things are measured. *Latency*: the next line is due 1 ms after the last was due; if an answer takes 20 ms, the
//! 19 lines that were due meanwhile follow at once, and each counts from its own time, as it would for clients that do
//! not wait for each other. *Silence*: the time from when a line was due, or the one before was answered if that was
//! later, to its answer; a server that answers less than a line a millisecond has a latency that grows, and no silence.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::Shared;
use crate::answers::Answers;
use crate::lines::mark;
use crate::options::Options;
use crate::report::Control;
use crate::spread::Spread;

/// Measures until the load stops.
pub(crate) fn run(options: &Options, shared: &Shared) -> Control {
    let mut client = Client { options, socket: None, answers: Answers::new(options.live, options.is_among) };
    let mut control = Control { lines: 0, broken: 0, spread: Spread::new(), silence: Spread::new() };
    // The longest silence since the last HUP, and how many HUPs there were then.
    let mut longest = Duration::ZERO;
    let mut hups = 0;
    while !shared.has_begun() && !shared.is_stopped() {
        thread::sleep(STEP);
    }
    let mut due = Instant::now();
    let mut last = due;
    while !shared.is_stopped() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let is_answered = client.say(control.lines, shared, &mut control.broken);
        let now = Instant::now();
        control.lines += u64::from(is_answered);
        control.spread.add(now - due);
        let silence = now - due.max(last);
        longest = longest.max(silence);
        let hups_now = shared.hups();
        if hups_now > hups {
            // What lasts over a signal counts for the time before it and for the time after it.
            if hups > 0 {
                control.silence.add(longest);
            }
            // And for all the signals that came while it lasted.
            (hups + 1..hups_now).for_each(|_| control.silence.add(silence));
            (hups, longest) = (hups_now, silence);
        }
        last = now;
        due += STEP;
    }
    if hups > 0 {
        control.silence.add(longest);
    }
    control
}

/// The client, with its connection if there is one.
struct Client<'a> {
    options: &'a Options,
    socket: Option<Socket>,
    answers: Answers,
}

impl Client<'_> {
    /// Says a line and waits for its answer; on a broken connection it connects again and says it once more, until
    /// the load stops. Answers whether there was an answer.
    fn say(&mut self, number: u64, shared: &Shared, broken: &mut u64) -> bool {
        // The live clients have the numbers before this one.
        let mut line = if self.options.is_among { mark(self.options.live) } else { b"control ".to_vec() };
        line.extend_from_slice(format!("{number}\n").as_bytes());
        loop {
            if self.socket.is_none() {
                self.socket = self.options.addresses[0].connect(self.options.patience).ok();
                self.answers.clear();
            }
            if let Some(socket) = &mut self.socket {
                let until = Instant::now() + self.options.patience;
                if ask(socket, &mut self.answers, &line, until) {
                    return true;
                }
                self.socket = None;
                // The load stops before its server does, but a control line may be on its way then.
                *broken += u64::from(!shared.is_stopped());
            }
            if shared.is_stopped() || shared.server_is_gone() {
                return false;
            }
            thread::sleep(STEP);
        }
    }
}

/// Whether `line` comes back in time, and no other answer.
fn ask(socket: &mut Socket, answers: &mut Answers, line: &[u8], until: Instant) -> bool {
    if socket.write_all(line).is_err() {
        return false;
    }
    let mut chunk = [0; 16 * 1024];
    let mut answered = 0;
    while answered < line.len() {
        let Ok(count @ 1..) = socket.read(&mut chunk) else { return false };
        let came = answers.take(&chunk[..count]);
        if !line[answered..].starts_with(&came) {
            return false;
        }
        answered += came.len();
        // Other lines may go on coming.
        if answered < line.len() && Instant::now() >= until {
            return false;
        }
    }
    true
}

/// Between two lines.
const STEP: Duration = Duration::from_millis(1);
