//! The configuration file: TOML, read strictly, every key and value with its line and column.
//!
//! Only reading and placing happens here; what a key means is the business of the option table.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::node::{At, Entry, Kind, Node};

/// The text of the file at `path`, which may be 1 MiB.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path);
    read_open(&file.map_err(|error| cannot_read(path, &error))?, path)
}

/// The same of a file that is open; `path` is what messages call it.
pub(crate) fn read_open(file: &std::fs::File, path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(path, &error))?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(format!("{} is larger than {FILE_MAX_BYTES} bytes", path.display()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        format!("{} is not UTF-8 in line {line}", path.display())
    })
}

pub(crate) fn cannot_read(path: &Path, cause: &std::io::Error) -> String {
    format!("cannot read {}: {cause}", path.display())
}

/// The top-level entries of `text` in the order of the file, or its first syntax error with its place. `path` is
/// what messages call the file.
pub(crate) fn parse(path: &str, text: &str) -> Result<Vec<Entry>, (At, String)> {
    let places = Places::new(path, text);
    match DeTable::parse(text) {
        Ok(table) => Ok(entries(table.get_ref(), &places)),
        Err(error) => {
            let at = places.at(error.span().unwrap_or(0..0));
            let lines: Vec<&str> = error.message().lines().map(str::trim).collect();
            Err((at, lines.join("; ")))
        }
    }
}

fn entries(table: &DeTable<'_>, places: &Places<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            at: places.at(key.span()),
            node: node(value.get_ref(), value.span(), places),
        })
        .collect();
    entries.sort_by(|a, b| a.at.cmp(&b.at));
    entries
}

fn node(value: &DeValue<'_>, span: Range<usize>, places: &Places<'_>) -> Node {
    let kind = match value {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(octal) if integer.radix() == 8 => Kind::Octal(octal),
            Ok(integer) => Kind::Int(integer),
            // TOML ends where i64 does; as a float it is out of every range, and is shown as it was written.
            Err(_) => Kind::Float(integer.as_str().parse().unwrap_or(f64::INFINITY)),
        },
        DeValue::Float(float) => Kind::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Kind::Bool(*flag),
        DeValue::Datetime(date) => Kind::Date(date.to_string()),
        DeValue::Array(array) => {
            Kind::List(array.iter().map(|item| node(item.get_ref(), item.span(), places)).collect())
        }
        DeValue::Table(table) => Kind::Table(entries(table, places)),
    };
    Node { at: places.at(span), kind }
}

/// Turns byte offsets into lines and columns.
struct Places<'a> {
    path: Arc<str>,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(path: &str, text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { path: path.into(), text, lines: std::iter::once(0).chain(ends).collect() }
    }

    fn at(&self, span: Range<usize>) -> At {
        let offset = span.start.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let before = String::from_utf8_lossy(&self.text.as_bytes()[start..offset]);
        At::File { path: Arc::clone(&self.path), line, column: 1 + before.chars().count() }
    }
}

/// Largest configuration file.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
