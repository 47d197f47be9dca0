//! The command line: `--key=value`, `--key value`, `--flag`; a dash in a name counts as an underscore.
//!
//! Strict: an unknown option, an abbreviation and a loose word are refused. The words after `--` are the
//! application's.

use std::ffi::OsString;

use super::builder::AppOption;
use super::node::{At, Kind, Mistakes, Node, truth};
use super::process::{Action, Control, NO_DAEMON};
use super::table::{self, Opt};

/// What a list of arguments says.
#[derive(Default)]
pub(super) struct Arguments {
    /// Our options, each once.
    pub(super) ours: Vec<(&'static Opt, Node)>,
    /// The application's, each once, by the name that it declared.
    pub(super) app: Vec<(String, Node)>,
    /// `--help`, `--help=all`.
    pub(super) help: Option<Help>,
    /// `--version`
    pub(super) version: bool,
    /// `--check`
    pub(super) check: bool,
    /// `--reload`, `--stop`, `--wait`, in the order of [`CONTROL`].
    pub(super) control: [bool; 3],
    /// What follows `--`.
    pub(super) rest: Vec<String>,
}

/// How much help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Help {
    Short,
    All,
}

/// Who gave the arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Giver {
    CommandLine,
    Run,
}

impl Giver {
    fn at(self, name: &str) -> At {
        match self {
            Self::CommandLine => At::Argument(name.to_owned()),
            Self::Run => At::RunArgument(name.to_owned()),
        }
    }
}

/// Reads `words`, which do not begin with the program's name.
pub(super) fn parse(
    giver: Giver,
    words: &[OsString],
    app_options: &[AppOption],
    mistakes: &mut Mistakes,
) -> Arguments {
    let mut found = Arguments::default();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(word) = utf8(giver, word, mistakes) else { continue };
        if word == "--" {
            found.rest =
                words.by_ref().filter_map(|word| utf8(giver, word, mistakes)).map(str::to_owned).collect();
            break;
        }
        let Some(option) = option_text(word) else {
            let known = word.split(['=', ':']).next().is_some_and(|name| table::find(name).is_some());
            let remedy = if known { format!("; write --{word}") } else { String::new() };
            let what = format!("`{}` is not an option{remedy}", word.escape_debug());
            mistakes.add_line(giver.at(""), what);
            continue;
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let name = name.replace('-', "_");
        if special(giver, &name, value.as_deref(), &mut found, mistakes) {
            continue;
        }
        let Some(target) = Target::find(&name, app_options) else {
            let names = app_options.iter().map(|option| option.name.as_str());
            let names = names.chain(SPECIAL);
            mistakes.add("", &giver.at(&name), table::unknown("option", &name, names));
            continue;
        };
        let next = words.peek().and_then(|next| next.to_str());
        let value = value.or_else(|| {
            let takes = next.is_some_and(|next| target.takes(next));
            if takes { words.next().and_then(|word| word.to_str()).map(str::to_owned) } else { None }
        });
        let at = giver.at(target.name());
        match value {
            Some(value) => target.push(Node { at, kind: Kind::Word(value) }, &mut found),
            None if target.is_flag() => target.push(Node { at, kind: Kind::Flag }, &mut found),
            None => mistakes.add("", &at, format!("it needs a value: --{name}={}", target.hint())),
        }
    }
    found
}

/// The option of a word, without its dashes. `-h` and `-V` are the only short ones.
fn option_text(word: &str) -> Option<&str> {
    match word {
        "-h" => Some("help"),
        "-V" => Some("version"),
        _ => word.strip_prefix("--"),
    }
}

/// What is not a setting.
fn special(
    giver: Giver,
    name: &str,
    value: Option<&str>,
    found: &mut Arguments,
    mistakes: &mut Mistakes,
) -> bool {
    match (name, value) {
        (name, _) if giver == Giver::Run && SPECIAL.contains(&name) => {
            mistakes.add("", &giver.at(name), "it belongs to the command line");
        }
        ("help", None) => found.help = Some(found.help.unwrap_or(Help::Short)),
        ("help", Some("all")) => found.help = Some(Help::All),
        ("version", None) => found.version = true,
        ("check", None) => found.check = true,
        ("help", Some(_)) => mistakes.add("", &giver.at(name), "write --help or --help=all"),
        (name, Some(_)) if SPECIAL.contains(&name) => {
            mistakes.add("", &giver.at(name), "it takes no value");
        }
        (name, None) if CONTROL.contains(&name) => {
            if !cfg!(feature = "daemon") {
                mistakes.add("", &giver.at(name), NO_DAEMON);
            }
            for (known, given) in CONTROL.iter().zip(&mut found.control) {
                *given |= *known == name;
            }
        }
        _ => return false,
    }
    true
}

/// What `--reload`, `--stop` and `--wait` come to.
pub(super) fn control(arguments: &Arguments, mistakes: &mut Mistakes) -> Option<Control> {
    let mut wrong = |name: &str, what: &str| {
        mistakes.add("", &At::Argument(name.to_owned()), what);
        None
    };
    let [reload, stop, wait] = arguments.control;
    match (reload, stop) {
        (true, true) => wrong("reload", "not together with --stop"),
        (true, false) if arguments.check => wrong("reload", "not together with --check"),
        (false, true) if arguments.check => wrong("stop", "not together with --check"),
        (true, false) => Some(Control { action: Action::Reload, wait }),
        (false, true) => Some(Control { action: Action::Stop, wait }),
        (false, false) if wait => wrong("wait", "it belongs to --reload or --stop"),
        (false, false) => None,
    }
}

fn utf8<'a>(giver: Giver, word: &'a OsString, mistakes: &mut Mistakes) -> Option<&'a str> {
    let text = word.to_str();
    if text.is_none() {
        mistakes.add_line(giver.at(""), format!("the argument {word:?} is not UTF-8"));
    }
    text
}

/// The option that a name stands for.
enum Target<'a> {
    Ours(&'static Opt),
    App(&'a AppOption),
}

impl<'a> Target<'a> {
    fn find(name: &str, app_options: &'a [AppOption]) -> Option<Self> {
        let app = || app_options.iter().find(|option| table::same_name(&option.name, name)).map(Self::App);
        table::find(name).map(Self::Ours).or_else(app)
    }

    fn name(&self) -> &str {
        match self {
            Self::Ours(option) => option.name,
            Self::App(option) => &option.name,
        }
    }

    fn hint(&self) -> &str {
        match self {
            Self::Ours(option) => option.hint,
            Self::App(option) => &option.hint,
        }
    }

    fn is_flag(&self) -> bool {
        self.hint().is_empty()
    }

    /// Whether the next word is this option's value.
    fn takes(&self, next: &str) -> bool {
        if self.is_flag() { truth(next).is_some() } else { !next.starts_with("--") }
    }

    fn push(&self, node: Node, found: &mut Arguments) {
        let before = match self {
            Self::Ours(option) => {
                let before = found.ours.iter_mut().find(|(known, _)| known.name == option.name);
                before.map(|(_, before)| before)
            }
            Self::App(option) => {
                let before = found.app.iter_mut().find(|(known, _)| *known == option.name);
                before.map(|(_, before)| before)
            }
        };
        match (before, self) {
            (Some(Node { kind: Kind::Repeated(nodes), .. }), _) => nodes.push(node),
            (Some(before), _) => {
                let at = node.at.clone();
                let first = std::mem::replace(before, Node { at, kind: Kind::Flag });
                before.kind = Kind::Repeated(vec![first, node]);
            }
            (None, Self::Ours(option)) => found.ours.push((option, node)),
            (None, Self::App(option)) => found.app.push((option.name.clone(), node)),
        }
    }
}

/// The options that are not settings; no application can have one of these names.
pub(super) const SPECIAL: [&str; 6] = ["check", "help", "reload", "stop", "version", "wait"];
const CONTROL: [&str; 3] = ["reload", "stop", "wait"];
