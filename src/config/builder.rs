//! From the five sources to one [`Config`].
//!
//! Each source becomes a list of nodes; the sources are applied from the weakest to the strongest, so that the
//! strongest one that sets a key wins, whole: a list is never put together from two sources. Then what belongs together
//! (listeners, access lists, logging) is put together, and only if nothing at all was wrong is there a configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::app::AppSettings;
use super::args::{self, Arguments, Giver};
use super::base::Base;
use super::draft::{Draft, Rules};
use super::node::{At, Entry, Kind, Mistakes, Node};
use super::ports;
use super::table::{self, Opt};
use super::{Config, Extra, LogConfig, LogFunction, LogTarget, Value, checks, file, help};
use crate::access::{Access, AccessList};
use crate::{Error, ErrorKind, Result};

/// Collects the sources of a configuration. The application's `configure_hook` is given one.
///
/// The first source that sets a key wins: [`set`](Self::set), the command line, the
/// [arguments to run](Self::run_arguments), the configuration file, [`set_default`](Self::set_default). Nothing is
/// read or checked before [`build`](Self::build).
///
/// ```
/// use lineplex::config::{ConfigBuilder, Outcome};
///
/// let mut builder = ConfigBuilder::new();
/// builder.app_name("chat").arguments(["--port", "127.0.0.1:0", "--greeting=hello"]);
/// builder.app_option("greeting", "TEXT", "what a newcomer is told").set_default("log_level", 3);
/// let Outcome::Config(config) = builder.build().unwrap() else { panic!("no help was asked for") };
/// assert_eq!(config.listen[0].name, "127.0.0.1:0");
/// assert_eq!(config.log.level, 3);
///
/// #[derive(serde::Deserialize)]
/// struct Settings { greeting: String }
/// assert_eq!(config.app::<Settings>().unwrap().greeting, "hello");
/// ```
#[derive(Debug, Default)]
pub struct ConfigBuilder {
    code: Vec<(String, Value)>,
    defaults: Vec<(String, Value)>,
    conf_file: Option<PathBuf>,
    conf_files_if_exist: Vec<PathBuf>,
    conf_text: Option<(PathBuf, String)>,
    app_name: Option<String>,
    version: Option<String>,
    about: String,
    app_options: Vec<AppOption>,
    log_function: Option<LogFunction>,
    arguments: Option<Vec<OsString>>,
    run_arguments: Vec<OsString>,
    unix_mode: Option<u32>,
    base: Base,
}

/// What came of the sources.
#[derive(Debug)]
pub enum Outcome {
    /// A configuration to run with (or only checked, see [`Config::check_only`]).
    Config(Box<Config>),
    /// `--help` was given: print this on standard output and exit with status 0.
    Help(String),
    /// `--version` was given: print this on standard output and exit with status 0.
    Version(String),
}

/// An option that the application declared.
#[derive(Clone, Debug)]
pub(super) struct AppOption {
    pub(super) name: String,
    /// Empty: a flag.
    pub(super) hint: String,
    pub(super) help: String,
}

impl ConfigBuilder {
    /// A builder without any source but the process's own command line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` from code, the strongest source. `key` is a name as in the file, or `app.` and the name of a setting
    /// of the application. Set again, it replaces the whole value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        put(&mut self.code, key, value.into());
        self
    }

    /// Sets `key` from code where no other source does (Net::Server's `default_values`). Keys as for [`Self::set`].
    pub fn set_default(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        put(&mut self.defaults, key, value.into());
        self
    }

    /// Names the configuration file from code: it must exist, and no other source can name another (a `--conf_file`
    /// is then ignored with a warning).
    pub fn conf_file(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.conf_file = Some(path.into());
        self
    }

    /// Names a configuration file that is read if no source names another and if it exists. Of several, the first
    /// that exists. A restart or a reload of a server that has read one does not go on without.
    pub fn conf_file_if_exists(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.conf_files_if_exist.push(path.into());
        self
    }

    /// Gives the text of the configuration file; no file is opened then, whoever names one. `path` is what messages
    /// and [`Config::conf_file`] call it.
    pub fn conf_text(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> &mut Self {
        self.conf_text = Some((path.into(), text.into()));
        self
    }

    /// The program's name in help, version and system log. Default: the last part of the path it was started by.
    pub fn app_name(&mut self, name: impl Into<String>) -> &mut Self {
        self.app_name = Some(name.into());
        self
    }

    /// The program's version for `--version`. Default: only this crate's is said.
    pub fn version(&mut self, version: impl Into<String>) -> &mut Self {
        self.version = Some(version.into());
        self
    }

    /// One sentence that says what the program is, for the top of the help: its first line, of which 80 columns fit.
    pub fn about(&mut self, text: impl Into<String>) -> &mut Self {
        self.about = text.into();
        self
    }

    /// Declares a setting of the application as a command line option: `--name VALUE`, or a flag if `value_hint` is
    /// empty. The file has it in the table `[app]` without being declared. Its type is what [`Config::app`] asks for;
    /// given more than once, it is a list where one is asked for, and else the last counts.
    pub fn app_option(&mut self, name: &str, value_hint: &str, help: &str) -> &mut Self {
        let option = AppOption { name: name.to_owned(), hint: value_hint.to_owned(), help: help.to_owned() };
        self.app_options.push(option);
        self
    }

    /// Hands every log line to `function` in place of a file (Net::Server's `log_function`); see [`LogFunction`].
    pub fn log_function(&mut self, function: impl Fn(log::Level, &str) + Send + Sync + 'static) -> &mut Self {
        self.log_function = Some(LogFunction::new(function));
        self
    }

    /// The command line in place of the process's own, without the program's name.
    pub fn arguments<I>(&mut self, arguments: I) -> &mut Self
    where
        I: IntoIterator<Item: Into<OsString>>,
    {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Arguments that rank between the command line and the file (Net::Server's arguments to `run`), written as on a
    /// command line.
    pub fn run_arguments<I>(&mut self, arguments: I) -> &mut Self
    where
        I: IntoIterator<Item: Into<OsString>>,
    {
        self.run_arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// The permission bits, at most `0o777`, of every Unix listener whose entry has no `mode` of its own. Not called: as
    /// the umask leaves them. A server whose socket is not for everybody says so here, so that an administrator who
    /// forgets the mode does not open it.
    ///
    /// ```
    /// use lineplex::config::{ConfigBuilder, ListenAddr, Outcome};
    ///
    /// let mut builder = ConfigBuilder::new();
    /// builder.unix_mode_default(0o600).arguments(["--port", "/run/private.sock|unix"]);
    /// let Outcome::Config(config) = builder.build().unwrap() else { panic!("no help was asked for") };
    /// assert!(matches!(config.listen[0].addr, ListenAddr::Unix { mode: Some(0o600), .. }));
    /// ```
    pub fn unix_mode_default(&mut self, mode: u32) -> &mut Self {
        self.unix_mode = Some(mode);
        self
    }

    /// Relative paths mean what they meant in `directory`, or nothing if that is gone.
    #[cfg(all(feature = "signals", feature = "daemon"))]
    pub(crate) fn relative_to(&mut self, directory: Option<&Path>) {
        self.base = directory.map_or(Base::Gone, |directory| Base::At(directory.to_owned()));
    }

    /// Reads all sources and puts them together. Relative paths of ours (not of `[app]`) are made absolute.
    ///
    /// # Errors
    /// Every mistake, one line each, with its place and what to do: [`ErrorKind::Usage`] if one of them is on the
    /// command line, else [`ErrorKind::Config`].
    pub fn build(self) -> Result<Outcome> {
        let mut mistakes = Mistakes::default();
        let mut warnings = Vec::new();
        self.check_app_options(&mut mistakes);

        let words = self.arguments.clone().unwrap_or_else(|| std::env::args_os().skip(1).collect());
        let line = args::parse(Giver::CommandLine, &words, &self.app_options, &mut mistakes);
        let name = self.app_name.clone().unwrap_or_else(program_name);
        if let Some(how_much) = line.help {
            return Ok(Outcome::Help(help::text(how_much, &name, &self.about, &self.app_options)));
        }
        if line.version {
            return Ok(Outcome::Version(version_text(&name, self.version.as_deref())));
        }
        let run = args::parse(Giver::Run, &self.run_arguments, &self.app_options, &mut mistakes);
        let control = args::control(&line, &mut mistakes);
        let (check_only, arguments) = (line.check, line.rest.clone());

        let code = Source::from_code(&self.code, &At::Code, &mut mistakes);
        let defaults = Source::from_code(&self.defaults, &At::Default, &mut mistakes);
        let (line, run) = (Source::from_arguments(line), Source::from_arguments(run));
        let read = self.read_file([&code, &line, &run, &defaults], &mut mistakes, &mut warnings);
        let file = read.as_ref().map(|read| Source::from_file(read, &self.app_options, &mut mistakes));

        let sources = [Some(defaults), file, Some(run), Some(line), Some(code)];
        let (mut draft, app) = merge(sources.into_iter().flatten(), &mut mistakes);
        draft.base = self.base.clone();
        draft.unix_mode = self.unix_mode;
        let mut config = assemble(draft, &name, &mut mistakes, &mut warnings);
        mistakes.into_result()?;

        config.log.function = self.log_function;
        if config.process.is_daemon()
            && config.log.function.is_none()
            && config.log.target == LogTarget::Stderr
        {
            warnings.push("background: the log stays on standard error; set log_file".to_owned());
        }
        config.warnings = warnings;
        config.check_only = check_only;
        config.extra = Extra { app, arguments, conf_text: None, control, base: self.base.clone() };
        if let Some(read) = read {
            config.conf_file =
                Some(self.base.absolute(&read.path).map_err(|what| Error::new(ErrorKind::Config, what))?);
            config.extra.conf_text = Some(read.text);
        }
        Ok(Outcome::Config(Box::new(config)))
    }

    fn check_app_options(&self, mistakes: &mut Mistakes) {
        for option in &self.app_options {
            let ours = table::find(&option.name).is_some()
                || args::SPECIAL.contains(&option.name.as_str())
                || option.name.is_empty();
            if ours {
                mistakes.add(
                    "app_option",
                    &At::Code,
                    format!("`{}` is an option of every server", option.name),
                );
            }
        }
    }

    /// The file that the first source names, or that exists; `None` if there is none, or it cannot be read.
    fn read_file(
        &self,
        sources: [&Source; 4],
        mistakes: &mut Mistakes,
        warnings: &mut Vec<String>,
    ) -> Option<ReadFile> {
        if let Some((path, text)) = &self.conf_text {
            return Some(ReadFile { path: path.clone(), text: text.clone() });
        }
        let mut named = sources.iter().filter_map(|source| source.conf_file());
        let (path, at) = if let Some(path) = &self.conf_file {
            if let Some(other) = named.next() {
                warnings.push(format!("conf_file: {} is ignored; the program names its own", other.last()));
            }
            (path.clone(), At::Code)
        } else if let Some(node) = named.next() {
            let at = node.last().at.clone();
            match node.text() {
                Ok(path) => (PathBuf::from(path), at),
                Err(what) => {
                    mistakes.add("conf_file", &at, what);
                    return None;
                }
            }
        } else {
            // One that cannot be looked at may be there: it must not be passed over as if there were no settings.
            let there =
                |path: &&PathBuf| self.base.reach(path).is_ok_and(|path| path.try_exists().unwrap_or(true));
            (self.conf_files_if_exist.iter().find(there)?.clone(), At::Default)
        };
        match self.base.reach(&path).and_then(|path| file::read(&path)) {
            Ok(text) => Some(ReadFile { path, text }),
            Err(what) => {
                mistakes.add("conf_file", &at, what);
                None
            }
        }
    }
}

/// A configuration file.
struct ReadFile {
    path: PathBuf,
    text: String,
}

/// What one source sets: each option and each setting of the application at most once.
#[derive(Default)]
struct Source {
    ours: Vec<(&'static Opt, Node)>,
    app: Vec<Entry>,
    app_at: Option<At>,
}

impl Source {
    fn from_code(settings: &[(String, Value)], at: &At, mistakes: &mut Mistakes) -> Self {
        let mut source = Self::default();
        for (key, value) in settings {
            let node = Node::from_value(value.clone(), at);
            if let Some(key) = key.strip_prefix("app.") {
                source.app.push(Entry { key: key.to_owned(), at: at.clone(), node });
            } else if let Some(option) = table::find_exact(key) {
                source.ours.push((option, node));
            } else {
                mistakes.add("", at, table::unknown("key", key, [""; 0]));
            }
        }
        source
    }

    fn from_arguments(arguments: Arguments) -> Self {
        let entry = |(key, node): (String, Node)| Entry { key, at: node.at.clone(), node };
        Self { ours: arguments.ours, app: arguments.app.into_iter().map(entry).collect(), app_at: None }
    }

    fn from_file(read: &ReadFile, app_options: &[AppOption], mistakes: &mut Mistakes) -> Self {
        let mut source = Self::default();
        let entries = match file::parse(&read.path.display().to_string(), &read.text) {
            Ok(entries) => entries,
            Err((at, what)) => {
                mistakes.add("", &at, what);
                return source;
            }
        };
        for Entry { key, at, node } in entries {
            if key == "app" {
                source.app_at = Some(at);
                match node.kind {
                    Kind::Table(entries) => source.app = entries,
                    _ => mistakes.add("app", &node.at, format!("{node} is not a table; write [app]")),
                }
            } else if key == "conf_file" {
                mistakes.add("", &at, "conf_file cannot stand in a configuration file");
            } else if let Some(option) = table::find_exact(&key) {
                source.ours.push((option, node));
            } else if app_options.iter().any(|option| option.name == key) {
                let what = format!("`{key}` is a setting of the application; put it in the table [app]");
                mistakes.add("", &at, what);
            } else {
                mistakes.add("", &at, table::unknown("key", &key, ["app"]));
            }
        }
        source
    }

    fn conf_file(&self) -> Option<&Node> {
        self.ours.iter().find(|(option, _)| option.name == "conf_file").map(|(_, node)| node)
    }
}

/// Applies the sources, the weakest first, and keeps the strongest of each setting of the application.
fn merge(sources: impl Iterator<Item = Source>, mistakes: &mut Mistakes) -> (Draft, AppSettings) {
    let mut draft = Draft::new();
    let mut app = AppSettings::default();
    for source in sources {
        for (option, node) in &source.ours {
            draft.apply(option, node, mistakes);
        }
        for entry in source.app {
            match app.entries.iter_mut().find(|known| known.key == entry.key) {
                Some(known) => *known = entry,
                None => app.entries.push(entry),
            }
        }
        app.at = source.app_at.or(app.at);
    }
    (draft, app)
}

/// Puts together what belongs together, and checks it.
fn assemble(mut draft: Draft, name: &str, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> Config {
    let listen = ports::listeners(&draft, mistakes, warnings);
    let access = access(&draft, mistakes);
    draft.limits.keepalive = Some(draft.probes);
    for (key, what) in checks::limits(&draft.limits) {
        mistakes.add_somewhere(key, draft.set_at.get(key), what);
    }
    if !draft.keepalive {
        draft.limits.keepalive = None;
    }
    let target = log_target(&draft, name, mistakes);
    let is_syslog = matches!(target, LogTarget::Syslog { .. });
    let is_journald = matches!(target, LogTarget::Journald { .. });
    for (key, is_used, what) in [
        ("syslog_ident", is_syslog || is_journald, "neither `syslog` nor `journald`"),
        ("syslog_facility", is_syslog || is_journald, "neither `syslog` nor `journald`"),
        ("syslog_logsock", is_syslog, "not `syslog`"),
        ("journald_logsock", is_journald, "not `journald`"),
    ] {
        if draft.set_at.contains_key(key) && !is_used {
            warnings.push(format!("{key}: without effect; log_file is {what}"));
        }
    }
    let (process, restart) = draft.process.finish(&draft.base, &draft.set_at, mistakes);
    Config {
        listen,
        access,
        process,
        restart,
        check_for_dequeue: draft.check_for_dequeue,
        log: LogConfig { level: draft.log_level, target, function: None },
        limits: draft.limits,
        ..Config::default()
    }
}

fn access(draft: &Draft, mistakes: &mut Mistakes) -> Access {
    let allow = [("allow", &draft.allow), ("cidr_allow", &draft.cidr_allow)];
    let deny = [("deny", &draft.deny), ("cidr_deny", &draft.cidr_deny)];
    let [allow, deny] = [allow, deny].map(|lists| {
        let rules = lists.into_iter().flat_map(|(key, rules): (&str, &Rules)| {
            rules.iter().map(move |(text, at)| (key, text.as_str(), at))
        });
        rules.collect::<Vec<_>>()
    });
    let text = |rules: &[(&str, &str, &At)]| -> Vec<String> {
        rules.iter().map(|(_, text, _)| (*text).to_owned()).collect()
    };
    Access::new(&text(&allow), &text(&deny)).unwrap_or_else(|errors| {
        for error in errors {
            let (list, rules) = match error.list {
                AccessList::Allow => ("allow", &allow),
                AccessList::Deny => ("deny", &deny),
            };
            let (key, at) = rules.get(error.index).map_or((list, None), |(key, _, at)| (*key, Some(*at)));
            let what = format!("`{}`: {}", error.text.escape_debug(), error.remedy);
            mistakes.add_somewhere(key, at, what);
        }
        Access::default()
    })
}

fn log_target(draft: &Draft, name: &str, mistakes: &mut Mistakes) -> LogTarget {
    let mut path_of = |key, text: &str| {
        draft.base.absolute(Path::new(text)).unwrap_or_else(|what| {
            mistakes.add_somewhere(key, draft.set_at.get(key), what);
            PathBuf::new()
        })
    };
    let ident = || draft.syslog_ident.clone().unwrap_or_else(|| name.to_owned());
    let facility = draft.syslog_facility;
    match draft.log_file.as_deref() {
        None | Some("stderr") => LogTarget::Stderr,
        Some(text) if text == "syslog" || text.eq_ignore_ascii_case("Sys::Syslog") => {
            let socket = draft.syslog_logsock.as_deref().unwrap_or("/dev/log");
            LogTarget::Syslog { socket: path_of("syslog_logsock", socket), ident: ident(), facility }
        }
        Some("journald") => {
            let socket = draft.journald_logsock.as_deref().unwrap_or("/run/systemd/journal/socket");
            LogTarget::Journald { socket: path_of("journald_logsock", socket), ident: ident(), facility }
        }
        Some(text) => LogTarget::File(path_of("log_file", text)),
    }
}

/// Puts `value` in the place of an earlier one.
fn put(settings: &mut Vec<(String, Value)>, key: &str, value: Value) {
    match settings.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => *known = value,
        None => settings.push((key.to_owned(), value)),
    }
}

fn program_name() -> String {
    let first = std::env::args_os().next();
    let name = first.as_deref().map(Path::new).and_then(Path::file_name);
    name.map_or_else(|| "server".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn version_text(name: &str, version: Option<&str>) -> String {
    let ours = concat!("lineplex ", env!("CARGO_PKG_VERSION"));
    version.map_or_else(|| format!("{name} ({ours})\n"), |version| format!("{name} {version} ({ours})\n"))
}
