//! The help text, made from the table that drives parsing: the short one fits a screen, the long one has everything.

use super::args::Help;
use super::builder::AppOption;
use super::draft::Draft;
use super::table::{self, OPTIONS};

/// The help of a program. The short one has at most 24 lines of at most 80 columns, however many options the
/// application declared: what does not fit is counted.
pub(super) fn text(help: Help, program: &str, about: &str, app: &[AppOption]) -> String {
    let mut lines = Vec::new();
    lines.extend(about.lines().next().filter(|about| !about.is_empty()).map(str::to_owned));
    lines.push(format!("Usage: {program} [--OPTION=VALUE | --OPTION VALUE]..."));
    lines.push(String::new());
    let app_lines: Vec<String> =
        app.iter().map(|option| line(&option.name, &option.hint, &option.help, "")).collect();
    match help {
        Help::Short => {
            lines.extend(
                OPTIONS
                    .iter()
                    .filter(|option| option.common && table::is_available(option))
                    .map(|option| line(option.name, option.hint, option.help, "")),
            );
            lines.extend(special());
            let room = LINES_MAX.saturating_sub(lines.len() + 1);
            if app_lines.len() > room {
                let shown = room.saturating_sub(1);
                let more = app_lines.len() - shown;
                lines.push("of this server:".to_owned());
                lines.extend(app_lines.into_iter().take(shown));
                lines.push(format!("  and {more} more: --help=all"));
            } else if !app_lines.is_empty() {
                lines.push("of this server:".to_owned());
                lines.extend(app_lines);
            }
            lines = lines.iter().map(|line| cut(line)).collect();
        }
        Help::All => {
            let mut draft = Draft::new();
            for option in OPTIONS.iter().filter(|option| table::is_available(option)) {
                let shown = draft.show(option);
                lines.push(line(option.name, option.hint, option.help, &shown));
            }
            lines.extend(special());
            if !app_lines.is_empty() {
                lines.push("of this server:".to_owned());
                lines.extend(app_lines);
            }
            lines.extend(NOTES.map(str::to_owned));
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn line(name: &str, hint: &str, help: &str, default: &str) -> String {
    let left = if hint.is_empty() { format!("  --{name}") } else { format!("  --{name} {hint}") };
    let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    let gap = if left.chars().count() < LEFT_COLUMNS { "" } else { "  " };
    format!("{left:LEFT_COLUMNS$}{gap}{help}{default}").trim_end().to_owned()
}

fn special() -> Vec<String> {
    let control = ("reload, --stop", "[--wait]", "reload or stop the server that runs");
    let mut rows = vec![
        ("check", "", "check the settings and exit"),
        ("help[=all]", "", "this text; all: every option, its default"),
        ("version", "", "say the version and exit"),
    ];
    if cfg!(feature = "daemon") {
        rows.insert(0, control);
    }
    rows.into_iter().map(|(name, hint, help)| line(name, hint, help, "")).collect()
}

/// At most a screen's width.
fn cut(line: &str) -> String {
    if line.chars().count() <= COLUMNS_MAX {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(COLUMNS_MAX - 3).collect();
    short.push_str("...");
    short
}

const NOTES: [&str; 4] = [
    "",
    "In a configuration file (TOML) the names are the same without dashes, and the",
    "options of this server stand in the table [app]. Sizes may be written 64k or 1M;",
    "0 turns off what is off by default. A list option may be repeated.",
];
const LINES_MAX: usize = 24;
const COLUMNS_MAX: usize = 80;
const LEFT_COLUMNS: usize = 32;
