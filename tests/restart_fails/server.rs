//! The server that tests/restart_fails.rs restarts: it sends lines back, keeps its clients, and fails where it is told.
//!
//! The file that the environment variable `FAULTS` names has a line `WHO:STEP:FAULT` for each fault, and is read anew at
//! each step. `WHO` is the process: `first`, `probe` or `heir`, as it was born; or `any`. `STEP` is `main` or the name of
//! a hook. `FAULT` is an arm of [`Faults::happen`]. Every line of a client comes back with its number; `pid` tells who
//! serves.

use std::env;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, abort, exit};
use std::thread;
use std::time::Duration;

use lineplex::config::{Config, ConfigBuilder};
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Closing, Context, Error, ErrorKind, Input, MuxCallback, Peer, Result, Room, Saved, Server};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;

/// Where this process fails.
#[derive(Clone, Default)]
struct Faults {
    who: &'static str,
    /// The standby of the image before, while this one is its heir.
    standby: Option<i32>,
}

impl Faults {
    /// To be called before the crate takes the variable away.
    fn of_process() -> Self {
        let value = env::var("LINEPLEX_HANDOVER");
        let who = match value.as_deref() {
            Err(_) => "first",
            Ok("probe") => "probe",
            Ok(_) => "heir",
        };
        let standby = value.ok().and_then(|value| value.rsplit(':').next()?.parse().ok());
        Self { who, standby }
    }

    /// What is to happen at this step, by this process.
    fn at(&self, step: &str) -> Vec<String> {
        let path = env::var("FAULTS").unwrap_or_default();
        let text = fs::read_to_string(path).unwrap_or_default();
        let mine = |line: &&str| {
            let mut parts = line.splitn(3, ':');
            let (who, at) = (parts.next(), parts.next());
            (who == Some(self.who) || who == Some("any")) && at == Some(step)
        };
        let faults = text.lines().filter(mine).filter_map(|line| line.splitn(3, ':').nth(2));
        faults.map(str::to_owned).collect()
    }

    /// Fails, if this step is to; `Err` where the step can answer with one.
    fn step(&self, step: &str) -> Result<()> {
        self.at(step).iter().try_for_each(|fault| self.happen(step, fault))
    }

    fn happen(&self, step: &str, fault: &str) -> Result<()> {
        let (word, rest) = fault.split_once(' ').unwrap_or((fault, ""));
        match word {
            "abort" => abort(),
            "exit" => exit(3),
            "panic" => panic!("{step} was asked to panic"),
            "hang" => loop {
                thread::park();
            },
            "err" => return Err(Error::new(ErrorKind::Hook, format!("{step} was asked to refuse"))),
            // The first one only takes off the handler of the standard library.
            "segv" => (0..2).for_each(|_| raise(Signal::SIGSEGV).expect("it may")),
            "kill" => raise(Signal::SIGKILL).expect("it may"),
            "stop" => raise(Signal::SIGSTOP).expect("it may"),
            "kill-standby" => {
                if let Some(standby) = self.standby {
                    kill(Pid::from_raw(standby), Signal::SIGKILL).expect("it is ours");
                }
            }
            "tell" => println!("{step}"),
            "sleep" => thread::sleep(Duration::from_millis(rest.parse().expect("milliseconds"))),
            "sh" => {
                let status = Command::new("sh").args(["-c", rest]).status();
                assert!(status.is_ok_and(|status| status.success()), "{rest}");
            }
            // Read by whoever wrote it.
            "version" => {}
            _ => panic!("no such fault: {fault}"),
        }
        Ok(())
    }

    /// The same for a hook that answers with nothing.
    fn hook(&self, hook: &str) {
        self.step(hook).unwrap_or_else(|error| panic!("{}", error.chain()));
    }
}

#[derive(Default)]
struct Failing {
    faults: Faults,
    /// A setting.
    word: String,
    /// Restarts that this server has been through.
    restarts: u32,
    refused: u32,
}

struct FailingClient {
    faults: Faults,
    /// Lines answered.
    lines: u64,
}

impl Server for Failing {
    type Client = FailingClient;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config.app_option("word", "WORD", "a setting of the application");
        if self.faults.step("configure_hook").is_err() {
            config.set("no_such_option", 1);
        }
    }

    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct App {
            word: Option<String>,
        }
        self.word = config.app::<App>()?.word.unwrap_or_default();
        self.faults.step("post_configure_hook")
    }

    fn pre_bind_hook(&mut self, _: &Config) -> Result<()> {
        self.faults.step("pre_bind_hook")
    }

    fn restart_open_hook(&mut self, _: &Config) -> Result<()> {
        self.faults.step("restart_open_hook")
    }

    fn post_bind_hook(&mut self, _: &Config) -> Result<()> {
        self.faults.step("post_bind_hook")
    }

    fn save(&self, out: &mut StateWriter) {
        self.faults.hook("save");
        let version = if self.faults.at("save").iter().any(|fault| fault == "version") { 9 } else { 1 };
        out.version(version).u32(self.restarts).u32(self.refused);
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.faults.step("restore")?;
        if state.version() != 1 {
            let text = format!("the server's state has version {}, this one reads 1", state.version());
            return Err(Error::new(ErrorKind::State, text));
        }
        self.restarts = state.u32()? + 1;
        self.refused = state.u32()?;
        Ok(())
    }

    fn restore_client(&mut self, _: &Peer, state: &mut StateReader<'_>) -> Result<FailingClient> {
        self.faults.step("restore_client")?;
        Ok(FailingClient { faults: self.faults.clone(), lines: state.u64()? })
    }

    fn pre_loop_hook(&mut self, room: &mut Room<'_, Self>) -> Result<()> {
        self.faults.step("pre_loop_hook")?;
        let addrs: Vec<String> = room.conns.local_addrs().map(|(_, addr)| addr.to_string()).collect();
        println!("ready {}", addrs.join(" "));
        Ok(())
    }

    fn client(&mut self, _: &Peer) -> FailingClient {
        FailingClient { faults: self.faults.clone(), lines: 0 }
    }

    fn pre_server_close_hook(&mut self, _: &mut Room<'_, Self>, _: Closing) {
        self.faults.hook("pre_server_close_hook");
    }

    fn restart_close_hook(&mut self) {
        self.faults.hook("restart_close_hook");
    }

    fn restart_failed_hook(&mut self, _: &mut Room<'_, Self>, error: &Error) {
        self.refused += 1;
        // One line for each, however many mistakes a file has.
        println!("refused {}", error.chain().replace('\n', "; "));
    }
}

impl MuxCallback<Failing> for FailingClient {
    fn input(&mut self, ctx: &mut Context<'_, Failing>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            self.lines += 1;
            let number = self.lines;
            let line = String::from_utf8_lossy(line);
            let (word, rest) = line.split_once(' ').unwrap_or((&*line, ""));
            match word {
                "pid" => {
                    let (restarts, refused) = (ctx.server.restarts, ctx.server.refused);
                    let pid = std::process::id();
                    writeln!(ctx, "{number} pid {pid}, {restarts} restarts, {refused} refused");
                }
                "word" => {
                    let word = &ctx.server.word;
                    ctx.conns.write(ctx.id, format!("{number} {word}\n").as_bytes());
                }
                // A descriptor that blocks for everybody else who has it.
                "adopt" => {
                    let client = Self { faults: self.faults.clone(), lines: 0 };
                    ctx.adopt(UnixStream::connect(rest)?, client)?;
                    writeln!(ctx, "{number} adopted");
                }
                // By another thread, which then waits for more.
                "offload" => ctx.offload(
                    || (),
                    move |_, ctx, ()| {
                        writeln!(ctx, "{number} offloaded");
                        Ok(())
                    },
                )?,
                _ => {
                    writeln!(ctx, "{number} {line}");
                }
            }
        }
        Ok(())
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        self.faults.hook("save_client");
        out.u64(self.lines);
        Saved::Keep
    }
}

fn main() -> ExitCode {
    let faults = Faults::of_process();
    faults.hook("main");
    lineplex::run(Failing { faults, ..Failing::default() })
}
