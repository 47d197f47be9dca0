//! A state that changes its format: counts lines, and in its second version knows names.
//!
//!     cargo run --example upgrade -- --conf_file config/upgrade.toml
//!     telnet 127.0.0.1 20203
//!
//! Say a few lines, set `format = 2` in the file, and send a SIGHUP: who is connected goes on counting, and can say
//! `name ada`. With `format = 1` again the restart is refused: the old version cannot read what the new one has
//! written, and the new one goes on. In a real server the two formats are two versions of the program.

use std::io;
use std::process::ExitCode;

use lineplex::config::{Config, ConfigBuilder};
use lineplex::state::{StateReader, StateWriter};
use lineplex::{Context, Error, ErrorKind, Input, MuxCallback, Peer, Result, Saved, Server};

#[derive(Default)]
struct Counter {
    settings: Settings,
    /// Lines of everybody, ever.
    lines: u64,
}

/// The table `[app]` of the configuration file, or options of the command line.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(default)]
struct Settings {
    format: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: 1 }
    }
}

/// In format 1 a number; in format 2 a number and a name.
struct Client {
    format: u32,
    lines: u64,
    name: String,
}

impl Counter {
    /// Whether this version of the program reads that version of the state: its own and all before it.
    fn reads(&self, version: u32) -> Result<()> {
        let own = self.settings.format;
        if (1..=own).contains(&version) {
            return Ok(());
        }
        let context = format!("the state has format {version}, this program reads 1 to {own}");
        Err(Error::new(ErrorKind::State, context))
    }
}

impl Server for Counter {
    type Client = Client;

    fn configure_hook(&mut self, config: &mut ConfigBuilder) {
        config.app_name("upgrade").about("Counts lines, and in format 2 knows names.");
        config.conf_file_if_exists("config/upgrade.toml").set_default("host", "127.0.0.1");
        config.app_option("format", "NUMBER", "format of the state, 1 or 2");
    }

    fn post_configure_hook(&mut self, config: &Config) -> Result<()> {
        self.settings = config.app()?;
        match self.settings.format {
            1 | 2 => Ok(()),
            other => Err(Error::new(ErrorKind::Config, format!("format: {other} is neither 1 nor 2"))),
        }
    }

    fn client(&mut self, _peer: &Peer) -> Client {
        Client { format: self.settings.format, lines: 0, name: "nobody".to_owned() }
    }

    fn save(&self, out: &mut StateWriter) {
        out.version(self.settings.format).u64(self.lines);
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.reads(state.version())?;
        self.lines = state.u64()?;
        Ok(())
    }

    fn restore_client(&mut self, _peer: &Peer, state: &mut StateReader<'_>) -> Result<Client> {
        self.reads(state.version())?;
        let lines = state.u64()?;
        // Format 1 had no names.
        let name = if state.version() == 1 { "nobody" } else { state.text()? };
        Ok(Client { format: self.settings.format, lines, name: name.to_owned() })
    }
}

impl MuxCallback<Counter> for Client {
    fn input(&mut self, ctx: &mut Context<'_, Counter>, input: &mut Input) -> io::Result<()> {
        while let Some(line) = input.line() {
            self.lines += 1;
            ctx.server.lines += 1;
            let all = ctx.server.lines;
            if self.format == 1 {
                write!(ctx, "line {}, {all} of all\r\n", self.lines);
                continue;
            }
            if let Some(name) = line.strip_prefix(b"name ") {
                self.name = String::from_utf8_lossy(name).into_owned();
            }
            write!(ctx, "line {} of {}, {all} of all\r\n", self.lines, self.name);
        }
        Ok(())
    }

    fn save(&self, out: &mut StateWriter) -> Saved {
        out.version(self.format).u64(self.lines);
        if self.format == 2 {
            out.text(&self.name);
        }
        Saved::Keep
    }
}

fn main() -> ExitCode {
    lineplex::run(Counter::default())
}
