//! The client of the test server: what it is told to do, and what of it a restart keeps.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use lineplex::state::{StateError, StateReader, StateWriter};
use lineplex::{CloseReason, ConnectTo, Context, Error, ErrorKind, Input, MuxCallback, Saved};

use super::Flow;

/// A client; the commands that it knows are the arms of the functions below.
#[derive(Debug)]
pub(super) struct Driven {
    /// Empty for one that a listener took; else what it is called when its lines are told.
    told_as: String,
    name: String,
    /// Input is not touched until so many bytes are there.
    wanted: u64,
    /// Whether a restart keeps it.
    keeps: bool,
    /// How often it has been asked, and from which time on the answer is no.
    asked: Cell<u32>,
    turns_at: Option<u32>,
    last_wish: LastWish,
}

/// What it does when it is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LastWish {
    Nothing,
    CloseTheOthers,
    Stop,
}

impl Default for Driven {
    fn default() -> Self {
        Self {
            told_as: String::new(),
            name: String::new(),
            wanted: 0,
            keeps: true,
            asked: Cell::new(0),
            turns_at: None,
            last_wish: LastWish::Nothing,
        }
    }
}

impl Driven {
    fn told(name: &str) -> Self {
        Self { told_as: name.to_owned(), ..Self::default() }
    }

    pub(super) fn restore(state: &mut StateReader<'_>) -> Result<Self, StateError> {
        Ok(Self {
            told_as: state.text()?.to_owned(),
            name: state.text()?.to_owned(),
            wanted: state.u64()?,
            ..Self::default()
        })
    }

    fn obey(&mut self, ctx: &mut Context<'_, Flow>, line: &str) -> io::Result<()> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "stop" => ctx.conns.stop(number(rest)?),
            "fatal" => ctx.conns.fatal(Error::new(ErrorKind::Hook, rest)),
            "panic" => panic!("{rest}"),
            "panic-next" => ctx.server.panics_next = true,
            "fail" => return Err(io::Error::other(rest.to_owned())),
            "big" => {
                ctx.write(&vec![b'x'; number(rest)?]);
            }
            // So many numbers, 4 bytes each, from 0 up.
            "pattern" => {
                let bytes: Vec<u8> = (0..number::<u32>(rest)?).flat_map(u32::to_be_bytes).collect();
                ctx.write(&bytes);
            }
            // Keeps the loop busy until somebody at that path lets go.
            "wait" => {
                UnixStream::connect(rest)?.read_to_end(&mut Vec::new())?;
                println!("waited");
            }
            "timer" => ctx.set_timeout(Duration::from_secs_f64(number(rest)?)),
            "after" => {
                let (seconds, key) = rest.split_once(' ').unwrap_or((rest, "0"));
                ctx.conns.after(Duration::from_secs_f64(number(seconds)?), number(key)?);
            }
            "log" => {
                let (level, text) = rest.split_once(' ').unwrap_or((rest, ""));
                log::log!(number(level)?, "{}", text.replace("\\n", "\n"));
            }
            _ => return self.obey_about_connections(ctx, line, command, rest),
        }
        Ok(())
    }

    fn obey_about_connections(
        &mut self,
        ctx: &mut Context<'_, Flow>,
        line: &str,
        command: &str,
        rest: &str,
    ) -> io::Result<()> {
        match command {
            "close" => ctx.close(),
            "pause" => ctx.pause_input(),
            "resume-all" => {
                let ids: Vec<_> = ctx.conns.all().collect();
                ids.into_iter().for_each(|id| ctx.conns.resume_input(id));
            }
            "tell" => {
                ctx.conns.broadcast(format!("{rest}\n").as_bytes(), |_| true);
            }
            "shut" => ctx.shutdown_write(),
            "hold-open" => ctx.hold_open(),
            "pause-listener" => ctx.conns.listener(rest).pause(),
            "resume-listener" => ctx.conns.listener(rest).resume(),
            // Results of other threads, which somebody at that path lets go on.
            "offload" => {
                let path = rest.to_owned();
                let job = move || UnixStream::connect(path)?.read_to_end(&mut Vec::new());
                ctx.offload(job, |_, ctx, result: io::Result<usize>| {
                    println!("offloaded: #{}", ctx.peer.serial());
                    writeln!(ctx, "offloaded {}", result?);
                    Ok(())
                })?;
            }
            "thread" => {
                std::thread::spawn(std::thread::park);
            }
            "connect" => {
                let to = if rest.contains('/') { ConnectTo::from(Path::new(rest)) } else { rest.into() };
                ctx.connect(to, Self::told("outgoing"))?;
            }
            // A named pipe, which somebody writes to; read and written, so that it never ends.
            "adopt" => {
                let pipe =
                    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(rest)?;
                ctx.adopt(pipe, Self::told("pipe"))?;
            }
            "pair" => {
                let (one, other) = UnixStream::pair()?;
                ctx.server.kept.pair = Some(ctx.adopt(one, Self::told("one"))?);
                ctx.adopt(other, Self::told("other"))?;
            }
            "pair-say" => {
                let pair = ctx.server.kept.pair.ok_or(io::ErrorKind::NotFound)?;
                assert!(writeln!(ctx.conns.to(pair), "{rest}"), "the name reaches nobody");
            }
            // What was passed is told the rest of the line.
            "take-fd" => match ctx.take_fd() {
                Some(fd) => writeln!(std::fs::File::from(fd), "{rest}")?,
                None => drop(ctx.write(b"no descriptor\n")),
            },
            "pass-fd" => {
                let file = OpenOptions::new().read(true).open(rest)?;
                assert!(ctx.write_fd(file), "it is a Unix socket");
            }
            _ => return self.obey_about_restarts(ctx, line, command, rest),
        }
        Ok(())
    }

    fn obey_about_restarts(
        &mut self,
        ctx: &mut Context<'_, Flow>,
        line: &str,
        command: &str,
        rest: &str,
    ) -> io::Result<()> {
        match command {
            "keep" => self.keeps = true,
            "drain" => self.keeps = false,
            "turn" => self.turns_at = Some(number(rest)?),
            "close-others-at-close" => self.last_wish = LastWish::CloseTheOthers,
            "stop-at-close" => self.last_wish = LastWish::Stop,
            "name" => rest.clone_into(&mut self.name),
            "note" => rest.clone_into(&mut ctx.server.kept.note),
            "want" => self.wanted = number(rest)?,
            "wake-at-close" => ctx.server.farewell.wake.push(ctx.id),
            "ask-at-close" => ctx.server.farewell.ask = Some(rest.to_owned()),
            "say-at-close" => ctx.server.farewell.broadcast = Some(format!("{rest}\n")),
            "who" => {
                let (serial, listener) = (ctx.peer.serial(), ctx.peer.listener().to_owned());
                let (id, note) = (ctx.id, &ctx.server.kept.note);
                let who = format!("{id} #{serial} by {listener}: {} / {note}\n", self.name);
                ctx.write(who.as_bytes());
            }
            _ => {
                writeln!(ctx, "{line}");
            }
        }
        Ok(())
    }
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> io::Result<T> {
    text.parse().map_err(io::Error::other)
}

impl MuxCallback<Flow> for Driven {
    fn connection(&mut self, _ctx: &mut Context<'_, Flow>) -> io::Result<()> {
        if !self.told_as.is_empty() {
            println!("{}: open", self.told_as);
        }
        Ok(())
    }

    fn input(&mut self, ctx: &mut Context<'_, Flow>, input: &mut Input) -> io::Result<()> {
        loop {
            let wanted = usize::try_from(self.wanted).expect("a length");
            if wanted > 0 {
                let Some(bytes) = input.take(wanted) else { return Ok(()) };
                let text = bytes.escape_ascii().to_string();
                writeln!(ctx, "took {text}");
                self.wanted = 0;
            }
            let Some(line) = input.line() else { return Ok(()) };
            let line = String::from_utf8_lossy(line);
            if self.told_as.is_empty() {
                self.obey(ctx, &line)?;
            } else {
                println!("{}: {line}", self.told_as);
            }
        }
    }

    fn eof(&mut self, ctx: &mut Context<'_, Flow>, _input: &mut Input) -> io::Result<()> {
        if ctx.peer.serial() > 0 && self.name == "tells-eof" {
            println!("eof: #{}", ctx.peer.serial());
        }
        Ok(())
    }

    fn timeout(&mut self, ctx: &mut Context<'_, Flow>) -> io::Result<()> {
        println!("timeout: #{}", ctx.peer.serial());
        Ok(())
    }

    fn wake(&mut self, ctx: &mut Context<'_, Flow>) -> io::Result<()> {
        println!("wake: #{}", ctx.peer.serial());
        Ok(())
    }

    fn close(&mut self, ctx: &mut Context<'_, Flow>, reason: &CloseReason) {
        println!("close: #{} ({reason})", ctx.peer.serial());
        match self.last_wish {
            LastWish::Nothing => {}
            LastWish::CloseTheOthers => {
                let ids: Vec<_> = ctx.conns.all().collect();
                ids.into_iter().for_each(|id| ctx.conns.close(id));
            }
            LastWish::Stop => ctx.conns.stop(3),
        }
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        self.asked.set(self.asked.get() + 1);
        if !self.keeps || self.turns_at.is_some_and(|turn| self.asked.get() >= turn) {
            return Saved::Drain;
        }
        out.text(&self.told_as).text(&self.name).u64(self.wanted);
        Saved::Keep
    }
}
