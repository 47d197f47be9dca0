//! The README's configuration is valid, and its mistakes are answered as it says.

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{TempDir, example};

#[test]
fn the_configuration_in_the_readme_is_valid() {
    let output = check(&block("toml", "port = [20203, \"["));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_mistakes_in_the_readme_are_answered_as_it_says() {
    let output = check(&block("toml", "port = [20203, 99999]"));
    assert_eq!(output.status.code(), Some(1));
    let said = block("text", "samplechat: chat.toml:");
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

/// The block of the README in that language that begins with `start`.
fn block(language: &str, start: &str) -> String {
    let readme = include_str!("../README.md");
    let fence = format!("```{language}\n");
    let block = readme.split(&fence).skip(1).find(|rest| rest.starts_with(start));
    let block = block.and_then(|rest| rest.split("```").next());
    block.unwrap_or_else(|| panic!("the README has no such block in {language}: {start}")).to_owned()
}
