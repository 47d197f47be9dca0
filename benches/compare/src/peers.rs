//! The servers that lineplex is compared with: what each is, how it is built, and what is missing where it cannot be.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server that can be run, or the reason why not.
pub(crate) struct Peer {
    /// As the table calls it.
    pub(crate) name: &'static str,
    /// What it is, and its version.
    pub(crate) about: String,
    /// For the bench: the command line, with `{mode}`, `{addr}` and `{port}`.
    pub(crate) command: Result<String, Missing>,
    /// More options of the bench, about how to speak to it.
    pub(crate) dialect: &'static [&'static str],
    /// Which of our servers does the same work.
    pub(crate) ours: &'static str,
}

/// What the machine lacks for a peer.
pub(crate) struct Missing {
    pub(crate) reason: String,
    /// The Debian packages that bring it.
    pub(crate) packages: &'static str,
}

/// The places where programs are: of this package and what it builds, and of the crate's examples.
pub(crate) struct Places {
    pub(crate) bin: PathBuf,
    pub(crate) examples: PathBuf,
}

/// Every peer, as far as this machine allows.
pub(crate) fn all(places: &Places) -> Vec<Peer> {
    vec![
        tokio(places, "tokio_tuned", "a task per connection, one write per read, the queue taken in batches"),
        tokio(places, "tokio_chat", "as its chat example: Framed, LinesCodec, a map of unbounded channels"),
        libevent(places),
        perl("iomultiplex", "IO::Multiplex", "libio-multiplex-perl"),
        perl("netserver", "Net::Server::Multiplex", PERL_PACKAGES),
        redis(),
        samplechat(places),
        chat_pl(),
    ]
}

impl Peer {
    fn new(
        name: &'static str,
        about: String,
        command: Result<String, String>,
        packages: &'static str,
    ) -> Self {
        let command = command
            .map(|command| format!("{command} {{mode}} {{addr}}"))
            .map_err(|reason| Missing { reason, packages });
        Self { name, about, command, dialect: &[], ours: "ours" }
    }

    /// It can broadcast only, and is told the port in its own way.
    fn of_its_own(self, arguments: &str, dialect: &'static [&'static str]) -> Self {
        let own = |command: String| command.replace("{mode} {addr}", arguments);
        Self { command: self.command.map(own), dialect, ..self }
    }
}

fn tokio(places: &Places, name: &'static str, what: &str) -> Peer {
    let about = format!("tokio {}: {what}", locked_version("tokio"));
    Peer::new(name, about, word(&places.bin.join(name)), "")
}

fn libevent(places: &Places) -> Peer {
    let target = places.bin.join("libevent");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).args([&target, &source("peers/libevent.c")]).arg("-levent_core");
    let built = run(&mut cc).and_then(|_| run(Command::new(&target).arg("--version")));
    let version = built.as_deref().unwrap_or_default().trim();
    let about = format!("libevent {version}: buffer events, changes of interest collected");
    Peer::new("libevent", about, built.and_then(|_| word(&target)), "gcc libc6-dev libevent-dev")
}

fn perl(name: &'static str, module: &str, packages: &'static str) -> Peer {
    let version = perl_version(module);
    let about = format!("Perl's {module} {}", version.as_deref().unwrap_or_default());
    let script = version.and_then(|_| word(&source(&format!("peers/{name}.pl"))));
    Peer::new(name, about, script.map(|script| format!("perl {script}")), packages)
}

/// Publishers and subscribers are different connections, as it wants them.
fn redis() -> Peer {
    let told = run(Command::new("redis-server").arg("--version"));
    let version = told.as_deref().ok().and_then(|told| told.split("v=").nth(1)?.split(' ').next());
    let about = format!("redis {}: PUBLISH to one channel", version.unwrap_or_default());
    let command = told.map(|_| "redis-server".to_owned());
    let arguments =
        "--bind 127.0.0.1 --port {port} --protected-mode no --save '' --appendonly no --daemonize no";
    let dialect = &[
        "--modes",
        "broadcast",
        "--expect",
        "receivers",
        "--login",
        r"SUBSCRIBE c\r\n",
        "--sender-login",
        "",
        "--prefix",
        r"*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$63\r\n",
        "--suffix",
        r"\r\n",
    ];
    Peer::new("redis", about, command, "redis-server").of_its_own(arguments, dialect)
}

/// The crate's example, to be seen beside the original.
fn samplechat(places: &Places) -> Peer {
    let about = "the crate's example samplechat".to_owned();
    let command = word(&places.examples.join("samplechat"));
    let arguments = "--port {port} --log_level 0 --junior_seconds 3600";
    Peer { ours: "", ..Peer::new("samplechat", about, command, "").of_its_own(arguments, CHAT) }
}

/// The same chat on the original.
fn chat_pl() -> Peer {
    let version = perl_version("Net::Server::Multiplex");
    let about = format!(
        "a samplechat on Perl's Net::Server::Multiplex {} (tests/perl/chat.pl)",
        version.as_deref().unwrap_or_default()
    );
    let script = version.and_then(|_| word(&source("../../tests/perl/chat.pl")));
    let command = script.map(|script| format!("perl {script}"));
    let arguments = "--port {port} --listen 4096 --junior_seconds 3600";
    Peer {
        ours: "samplechat",
        ..Peer::new("chat.pl", about, command, PERL_PACKAGES).of_its_own(arguments, CHAT)
    }
}

fn perl_version(module: &str) -> Result<String, String> {
    let mut perl = Command::new("perl");
    run(perl.arg(format!("-M{module}")).args(["-e", &format!("print {module}->VERSION")]))
}

/// The output of a command, or in one line why there is none.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().next().unwrap_or("failed")))
}

/// A path as one word of a command line.
fn word(path: &Path) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte);
    match path.to_str() {
        Some(text) if !text.bytes().all(is_plain) => {
            Err(format!("{text}: put it where no quotes are needed"))
        }
        Some(text) if path.exists() => Ok(text.to_owned()),
        _ => Err(format!("{}: not there", path.display())),
    }
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// The version of a dependency, from the lock file that this program was built with.
fn locked_version(name: &str) -> &'static str {
    let package = format!("name = \"{name}\"\nversion = \"");
    let rest = include_str!("../Cargo.lock").split_once(&package).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default()
}

const PERL_PACKAGES: &str = "libnet-server-perl libio-multiplex-perl";
/// Everybody hears everything, in lines that hold ours.
const CHAT: &[&str] = &["--modes", "broadcast", "--expect", "all"];
