//! The README's configuration is valid, and its mistakes are answered as it says.

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{TempDir, example};

#[test]
fn the_configuration_in_the_readme_is_valid() {
    let output = check(&block("toml", 0));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_mistakes_in_the_readme_are_answered_as_it_says() {
    let output = check(&block("toml", 1));
    assert_eq!(output.status.code(), Some(1));
    let said = block("text", 3);
    assert!(said.starts_with("samplechat: chat.toml:"), "another block now stands there: {said}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), said);
}

/// What the chat says when it checks `text` as the file `chat.toml`.
fn check(text: &str) -> Output {
    let directory = TempDir::new();
    fs::write(directory.path().join("chat.toml"), text).expect("a fresh directory is writable");
    let mut command = Command::new(example("samplechat"));
    command.args(["--check", "--conf_file", "chat.toml"]).current_dir(directory.path());
    command.output().expect("the example starts")
}

/// The `n`th block of the README in that language, counted from 0.
fn block(language: &str, n: usize) -> String {
    let readme = include_str!("../README.md");
    let fence = format!("```{language}\n");
    let block = readme.split(&fence).nth(n + 1).and_then(|rest| rest.split("```").next());
    block.unwrap_or_else(|| panic!("the README has no block {n} in {language}")).to_owned()
}
