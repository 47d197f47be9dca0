//! A setting on its way from a source to the configuration: its value and where it was written.
//!
//! Every source (file, command line, code) turns into [`Node`]s, so that the option table has one thing to read and
//! every mistake can name its place. A node from the command line is a [`Kind::Word`]: untyped until somebody asks.

use std::fmt;
use std::sync::Arc;

use super::Value;
use crate::{Error, ErrorKind};

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// The command line; the option's name without dashes.
    Argument(String),
    /// The arguments to `run`.
    RunArgument(String),
    /// The configuration file; line and column count from 1, the column in characters.
    File { path: Arc<str>, line: usize, column: usize },
    /// `ConfigBuilder::set`.
    Code,
    /// `ConfigBuilder::set_default`.
    Default,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) kind: Kind,
}

/// The value itself.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Int(i64),
    /// A number that was written in octal, in a file.
    Octal(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    /// A value from the command line, whose type is what is asked for.
    Word(String),
    /// An option from the command line without a value.
    Flag,
    /// An option that was given more than once: a list takes all, everything else the last.
    Repeated(Vec<Node>),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A date of TOML, which no option takes.
    Date(String),
}

/// One key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: At,
    pub(crate) node: Node,
}

impl Node {
    /// A value from code.
    pub(super) fn from_value(value: Value, at: &At) -> Self {
        let kind = match value {
            Value::Int(int) => Kind::Int(int),
            Value::Float(float) => Kind::Float(float),
            Value::Bool(flag) => Kind::Bool(flag),
            Value::Text(text) => Kind::Text(text),
            Value::List(values) => {
                Kind::List(values.into_iter().map(|value| Self::from_value(value, at)).collect())
            }
            Value::Table(entries) => Kind::Table(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry { key, at: at.clone(), node: Self::from_value(value, at) })
                    .collect(),
            ),
        };
        Self { at: at.clone(), kind }
    }

    /// The one that counts where only one can.
    pub(super) fn last(&self) -> &Self {
        match &self.kind {
            Kind::Repeated(nodes) => nodes.last().unwrap_or(self),
            _ => self,
        }
    }

    /// All of them where several may be: a single value is a list of one.
    pub(super) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::Repeated(nodes) | Kind::List(nodes) => nodes,
            _ => std::slice::from_ref(self),
        }
    }

    /// A whole number of at least 0.
    pub(super) fn count(&self) -> Result<u64, String> {
        let node = self.last();
        match &node.kind {
            Kind::Int(int) | Kind::Octal(int) => u64::try_from(*int).ok(),
            Kind::Word(word) => word.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| format!("{node} is not a whole number of 0 or more"))
    }

    /// A number of bytes: a whole number, or text with a unit of 1024 (`64k`, `1M`, `1G`).
    pub(super) fn size(&self) -> Result<u64, String> {
        let node = self.last();
        match &node.kind {
            Kind::Text(text) | Kind::Word(text) => size_of(text),
            _ => node.count().ok(),
        }
        .ok_or_else(|| format!("{node} is not a number of bytes; write 65536 or \"64k\""))
    }

    /// Seconds, with or without a fraction, as far as they are a time.
    pub(super) fn seconds(&self) -> Result<f64, String> {
        let node = self.last();
        let seconds = match &node.kind {
            // Exact up to 2^53, and everything past ten years is refused below.
            #[allow(clippy::cast_precision_loss, reason = "refused long before it matters")]
            Kind::Int(int) | Kind::Octal(int) => Some(*int as f64),
            Kind::Float(float) => Some(*float),
            Kind::Word(word) => word.parse().ok(),
            _ => None,
        };
        match seconds {
            Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
            Some(_) => Err(format!("{node} is out of range: 0 to {SECONDS_MAX} seconds (ten years)")),
            None => Err(format!("{node} is not a number of seconds")),
        }
    }

    /// Yes or no.
    pub(super) fn flag(&self) -> Result<bool, String> {
        let node = self.last();
        match &node.kind {
            Kind::Bool(flag) => Some(*flag),
            Kind::Flag => Some(true),
            Kind::Word(word) => truth(word),
            _ => None,
        }
        .ok_or_else(|| format!("{node} is neither true nor false"))
    }

    /// Text, without control characters.
    pub(super) fn text(&self) -> Result<&str, String> {
        let node = self.last();
        match &node.kind {
            Kind::Text(text) | Kind::Word(text) if text.contains(char::is_control) => {
                Err(format!("{node} has a control character"))
            }
            Kind::Text(text) | Kind::Word(text) => Ok(text),
            _ => Err(format!("{node} is not text; write it in quotes")),
        }
    }
}

/// For a sentence: `` `text` ``, `99999`, `a list`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Int(int) => write!(f, "{int}"),
            Kind::Octal(int) => write!(f, "{int:#o}"),
            Kind::Float(float) => write!(f, "{float:?}"),
            Kind::Bool(flag) => write!(f, "{flag}"),
            Kind::Text(text) | Kind::Word(text) => write!(f, "`{}`", text.escape_debug()),
            Kind::Flag => f.write_str("an option without a value"),
            Kind::Repeated(_) | Kind::List(_) => f.write_str("a list"),
            Kind::Table(_) => f.write_str("a table"),
            Kind::Date(date) => write!(f, "the date {date}"),
        }
    }
}

impl At {
    /// Begins the line about a mistake with `key`.
    fn prefix(&self, key: &str) -> String {
        let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
        match self {
            Self::Argument(name) => format!("--{name}: "),
            Self::RunArgument(name) => format!("arguments to run: --{name}: "),
            Self::File { path, line, column } => format!("{path}:{line}:{column}: {key}"),
            Self::Code => format!("configure_hook: {key}"),
            Self::Default => format!("configure_hook (default): {key}"),
        }
    }
}

/// Everything that was found wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<(Option<At>, String)>);

impl Mistakes {
    /// The value of `key` is wrong. An empty key is left out.
    pub(crate) fn add(&mut self, key: &str, at: &At, what: impl fmt::Display) {
        self.0.push((Some(at.clone()), format!("{}{what}", at.prefix(key))));
    }

    /// As [`Mistakes::add`], where nobody may have written the key.
    pub(super) fn add_somewhere(&mut self, key: &str, at: Option<&At>, what: impl fmt::Display) {
        match at {
            Some(at) => self.add(key, at, what),
            None => self.0.push((None, format!("{key}: {what}"))),
        }
    }

    /// A mistake that says its own place.
    pub(crate) fn add_line(&mut self, at: At, line: String) {
        self.0.push((Some(at), line));
    }

    /// One error with a line for each mistake, ordered by source and place; `Ok` if there is none.
    pub(crate) fn into_result(mut self) -> crate::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        let usage = self.0.iter().any(|(at, _)| matches!(at, Some(At::Argument(_))));
        let kind = if usage { ErrorKind::Usage } else { ErrorKind::Config };
        let mut lines: Vec<String> = self.0.into_iter().map(|(_, line)| line).collect();
        lines.dedup();
        Err(Error::new(kind, lines.join("\n")))
    }
}

/// What `word` was probably meant to be: the nearest of `known`, if it is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_MAX {
        return None;
    }
    let best = known.into_iter().map(|name| (distance(word, name), name)).min_by_key(|(steps, _)| *steps);
    best.filter(|(steps, name)| *steps <= 1 + name.len() / 5 && *steps < name.len()).map(|(_, name)| name)
}

/// `; did you mean ...?` or nothing.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Steps from one word to the other: insert, delete, replace, or swap two neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut steps = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(before[j - 2] + 1);
            }
            row.push(steps);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// The words for yes and no on a command line.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn size_of(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let short = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match short.as_bytes().last()? {
        b'k' => (&short[..short.len() - 1], 10),
        b'm' => (&short[..short.len() - 1], 20),
        b'g' => (&short[..short.len() - 1], 30),
        _ => (short, 0),
    };
    let digits = digits.trim_end();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Ten years of 365 days.
const SECONDS_MAX: f64 = 315_360_000.0;
/// Longest word that a hint is looked for.
const WORD_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Node {
        Node { at: At::Code, kind: Kind::Word(text.to_owned()) }
    }

    #[test]
    fn a_size_takes_plain_bytes_and_units_of_1024() {
        let cases = [("512", 512), ("64k", 65_536), ("64 KiB", 65_536), ("1M", 1 << 20), ("2g", 2 << 30)];
        for (text, bytes) in cases {
            assert_eq!(word(text).size(), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5k", "64x", "99999999999g", "+5", "é"] {
            assert!(word(text).size().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_finite_and_between_zero_and_ten_years() {
        assert_eq!(word("0.25").seconds(), Ok(0.25));
        assert_eq!(word("315360000").seconds(), Ok(315_360_000.0));
        for text in ["-0.1", "nan", "inf", "315360001", "1e30", "soon"] {
            assert!(word(text).seconds().is_err(), "{text}");
        }
    }

    #[test]
    fn a_hint_is_given_for_a_slip_of_the_fingers_and_not_for_another_word() {
        let known = ["port", "host", "proto", "idle_seconds"];
        assert_eq!(nearest("prot", known), Some("port"));
        assert_eq!(nearest("idel_second", known), Some("idle_seconds"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"p".repeat(10_000), known), None);
    }
}
