//! The floors of the crate, the size of its files, and the pairs of examples and configuration files.
//!
//! A file imports only from floors below its own, and on its own floor only from what is listed above it: so the
//! table [`FLOORS`] is one order, and every import must point upwards in it. Read are the paths that begin with
//! `crate::`, and those with so many `super::` that they reach the root; what `lib.rs` exports counts as the unit
//! it comes from. Comments and tests are free to name anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// From the bottom of the house to its top, and on each floor in the order in which units may use each other. A
/// folder is one unit.
const FLOORS: &[(&str, &[&str])] = &[
    // `codec` before `buffer`: `Input::line` is the line codec, applied to a buffer.
    ("values", &["error", "codec", "buffer", "slots", "wheel", "access", "metrics", "state"]),
    ("edges", &["sys", "config", "net", "signals", "logging"]),
    ("mux", &["mux"]),
    ("process", &["process"]),
    ("personalities", &["personality"]),
];

/// Imports that point downwards all the same: the unit, the item, and why it may.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "buffer",
    "config::LongLine",
    "a plain enum, what `Input` does at its limit; it stands beside the other limits so that all are in one place",
)];

/// Lines of code in one file, without blanks, comments and tests.
const LINES_MAX: usize = 500;

#[test]
fn every_import_points_to_a_floor_below_or_to_a_unit_above_on_its_own() {
    let found = check(&sources());
    assert!(found.wrong.is_empty(), "\n{}", found.wrong.join("\n"));
}

#[test]
fn every_exception_is_still_needed() {
    let used = check(&sources()).excepted;
    for (unit, item, _) in EXCEPTIONS {
        assert!(
            used.contains(&format!("{unit} {item}")),
            "{unit} no longer uses {item}: remove the exception"
        );
    }
}

#[test]
fn no_file_has_more_than_500_lines_of_code() {
    let long: Vec<_> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path.clone(), code(text).lines().filter(|line| !line.trim().is_empty()).count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn every_example_has_its_configuration_file_and_every_file_its_example() {
    let examples = names("examples", "rs");
    assert!(!examples.is_empty());
    assert_eq!(examples, names("config", "toml"));
}

#[test]
fn a_planted_import_from_a_floor_above_is_found() {
    for (path, line) in [
        ("src/buffer.rs", "use crate::mux::Conns;"),
        ("src/wheel.rs", "use crate::net::Stream;"),
        ("src/codec/line.rs", "use crate::buffer::Input;"),
        ("src/codec/line.rs", "use crate::Input;"),
        ("src/codec/line.rs", "use super::super::buffer::Input;"),
        ("src/buffer.rs", "use super::net::Stream;"),
        ("src/net/stream.rs", "use crate::{\n    error::{Error, Result},\n    logging::Quiet,\n};"),
        ("src/net/stream.rs", "fn f() { crate::logging::fatal(\"\"); }"),
        ("src/mux/read.rs", "use crate::process;"),
        ("src/mux/read.rs", "pub use crate::run as start;"),
        ("src/buffer.rs", "use crate::config::Limits;"),
        ("src/net/stream.rs", "use crate::nowhere::Thing;"),
        ("src/nowhere.rs", "use crate::Error;"),
        ("src/buffer.rs", "use crate::*;"),
    ] {
        let found = check(&[exports(), (path.to_owned(), line.to_owned())]);
        assert_eq!(found.wrong.len(), 1, "{path}: {line}\n{:?}", found.wrong);
        assert!(found.wrong[0].starts_with(path), "{:?}", found.wrong);
    }
}

#[test]
fn an_import_that_the_floors_allow_is_no_violation() {
    for (path, line) in [
        ("src/buffer.rs", "use crate::codec::line::{Scan, scan};"),
        ("src/buffer.rs", "use crate::config::LongLine;"),
        ("src/mux/read.rs", "use super::conn::Conn;\nuse super::super::buffer::Input;"),
        ("src/mux/read.rs", "use crate::mux::conn::Conn;\nuse crate::{ConnId, Result};"),
        ("src/process/mod.rs", "use crate::{mux::{Ended, Mux}, net};"),
        ("src/buffer.rs", "// use crate::mux::Conns;\n/// [`run`](crate::run)"),
        ("src/buffer.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::mux::Conns;\n}"),
        ("src/net/tests.rs", "use crate::mux::Conns;"),
        ("src/net/tests/more.rs", "use crate::mux::Conns;"),
    ] {
        let found = check(&[exports(), (path.to_owned(), line.to_owned())]);
        assert!(found.wrong.is_empty(), "{path}: {line}\n{:?}", found.wrong);
    }
}

#[test]
fn blanks_comments_and_tests_are_not_lines_of_code() {
    let text = "//! Head.\n\nfn f() {} // why\n    /// Doc.\nfn g() {}\n#[cfg(test)]\nmod tests {\n    fn h() {}\n}\n";
    let lines = code(text).lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(lines, 2);
}

/// What was found: sentences about what is wrong, and the exceptions that were made use of, as `unit item`.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    excepted: Vec<String>,
}

/// Checks all `sources`, which are paths and texts; `src/lib.rs` among them says what the root exports.
fn check(sources: &[(String, String)]) -> Found {
    let root = sources.iter().find(|(path, _)| path == "src/lib.rs").expect("lib.rs is there");
    let exported = exported(&code(&root.1));
    let mut found = Found::default();
    for (path, text) in sources.iter().filter(|(path, _)| path != "src/lib.rs") {
        let modules = modules(path);
        if is_test(path) {
            continue;
        }
        let unit = &modules[0];
        let Some(own) = rank(unit) else {
            found.wrong.push(format!("{path}: `{unit}` stands on no floor; give it a place in FLOORS"));
            continue;
        };
        for item in imports(&code(text), modules.len()) {
            let first = item.split("::").next().unwrap_or_default();
            let target = exported.get(first).map_or(first, String::as_str);
            if EXCEPTIONS.iter().any(|(from, what, _)| from == unit && *what == item) {
                found.excepted.push(format!("{unit} {item}"));
                continue;
            }
            match rank(target) {
                None => {
                    found.wrong.push(format!("{path}: `{item}` is on no floor and not exported by lib.rs"))
                }
                Some(theirs) if target != unit && theirs >= own => {
                    found
                        .wrong
                        .push(format!("{path}: `{unit}` must not use `{item}`, which stands above it"));
                }
                Some(_) => {}
            }
        }
    }
    found
}

/// The place of a unit in the one order that the floors make.
fn rank(unit: &str) -> Option<usize> {
    FLOORS.iter().flat_map(|(_, units)| *units).position(|known| *known == unit)
}

/// The modules that a file's path stands for: `src/mux/read.rs` is `mux`, `read`.
fn modules(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inner.split('/').map(str::to_owned).collect()
}

/// Whether a file holds nothing but tests.
fn is_test(path: &str) -> bool {
    modules(path).iter().any(|module| module == "tests")
}

/// The text without comments and without what follows the beginning of the tests, which stand at the end.
fn code(text: &str) -> String {
    let mut kept = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let tests = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test");
        if tests && lines.get(at + 1).is_some_and(|next| next.starts_with("mod tests")) {
            break;
        }
        if !line.trim_start().starts_with("//") {
            kept.push(line.split(" //").next().unwrap_or_default());
        }
    }
    kept.join("\n")
}

/// The names that `lib.rs` exports, each with the unit that it comes from.
fn exported(lib: &str) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for part in lib.split("pub use ").skip(1) {
        let mut paths = Vec::new();
        expand(part.split(';').next().unwrap_or_default(), "", &mut paths);
        for path in paths {
            let unit = path.split("::").next().unwrap_or_default();
            let name = path.rsplit("::").next().unwrap_or_default();
            names.insert(name.to_owned(), unit.to_owned());
        }
    }
    names
}

/// Every path of `code` that begins at the root of the crate, without that beginning; `depth` modules deep, so many
/// `super::` lead to the root.
fn imports(code: &str, depth: usize) -> Vec<String> {
    let mut paths = Vec::new();
    let supers = "super::".repeat(depth);
    for beginning in ["crate::", &supers] {
        for (at, _) in code.match_indices(beginning) {
            let before = code[..at].chars().next_back();
            // A part of a longer path or word: `super::super::` in a file that is one module deep, `my_crate::`.
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':') {
                continue;
            }
            expand(&code[at + beginning.len()..], "", &mut paths);
        }
    }
    paths
}

/// The paths that `tree`, a path or a use tree at the beginning of a text, stands for: `a::{b, c::{d}}` is `a::b`
/// and `a::c::d`. Gives the rest of the text behind it.
fn expand<'a>(tree: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let mut rest = tree.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            rest = expand(rest, prefix, paths).trim_start();
            // An alias, then the comma.
            if let Some(alias) = rest.strip_prefix("as ") {
                rest = alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        return rest.strip_prefix('}').unwrap_or(rest);
    }
    let word_end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(rest.len());
    let (word, after) = rest.split_at(word_end);
    let path = if prefix.is_empty() { word.to_owned() } else { format!("{prefix}::{word}") };
    match after.strip_prefix("::") {
        Some(more) if more.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '{' || c == '*') => {
            expand(more, &path, paths)
        }
        _ => {
            paths.push(path);
            // A character that belongs to no use tree must not stop the way through a group.
            if word.is_empty() { after.get(1..).unwrap_or_default() } else { after }
        }
    }
}

/// Every source file of the crate, with its path from the root of the package.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(Path::new(env!("CARGO_MANIFEST_DIR")), "src", &mut files);
    assert!(files.len() > 20, "only {} files found", files.len());
    files
}

fn collect(root: &Path, folder: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(root.join(folder)).expect("the sources are there") {
        let entry = entry.expect("a folder can be read");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(root, &path, files);
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).expect("a source file is text");
            files.push((path, text));
        }
    }
}

/// A root like the real one, for fake sources.
fn exports() -> (String, String) {
    let text = "pub use buffer::{Input, Output};\npub use error::{Error, ErrorKind, Result};\n\
                pub use process::{run, run_with};\npub use slots::ConnId;\n";
    ("src/lib.rs".to_owned(), text.to_owned())
}

/// The names of the files of a folder with that extension, sorted, without it.
fn names(folder: &str, extension: &str) -> Vec<String> {
    let entries =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}
