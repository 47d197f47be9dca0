//! The application's own settings.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default)]
struct Settings {
    text: String,
    whole: i64,
    small: u8,
    fraction: f64,
    flag: bool,
    maybe: Option<u32>,
    list: Vec<String>,
    numbers: Vec<u16>,
    mode: Mode,
    inner: Inner,
    rooms: BTreeMap<String, Inner>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Open,
    Closed,
    Limited {
        seats: u8,
    },
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Inner {
    topic: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            text: "default".to_owned(),
            whole: 0,
            small: 0,
            fraction: 0.0,
            flag: false,
            maybe: None,
            list: Vec::new(),
            numbers: Vec::new(),
            mode: Mode::Open,
            inner: Inner::default(),
            rooms: BTreeMap::new(),
        }
    }
}

const NAMES: [&str; 9] =
    ["text", "whole", "small", "fraction", "maybe", "list", "numbers", "mode", "unknown"];

fn declared(mut builder: ConfigBuilder) -> ConfigBuilder {
    for name in NAMES {
        builder.app_option(name, "VALUE", "a setting");
    }
    builder.app_option("flag", "", "a flag");
    builder
}

#[track_caller]
fn error(builder: ConfigBuilder) -> (ErrorKind, String) {
    let error = built(builder).app::<Settings>().expect_err("a mistake");
    (error.kind(), error.chain())
}

#[test]
fn every_type_comes_from_the_file() {
    let settings: Settings = config(
        "[app]\ntext = '5'\nwhole = -5\nsmall = 255\nfraction = 2\nflag = true\nmaybe = 7\nlist = ['a', 'b']\n\
         numbers = [1, 65535]\nmode = { limited = { seats = 3 } }\n[app.inner]\ntopic = 'x'\n[app.rooms.main]\ntopic = 'y'\n",
    )
    .app()
    .unwrap();
    let expected = Settings {
        text: "5".to_owned(),
        whole: -5,
        small: 255,
        fraction: 2.0,
        flag: true,
        maybe: Some(7),
        list: vec!["a".to_owned(), "b".to_owned()],
        numbers: vec![1, 65_535],
        mode: Mode::Limited { seats: 3 },
        inner: Inner { topic: "x".to_owned() },
        rooms: BTreeMap::from([("main".to_owned(), Inner { topic: "y".to_owned() })]),
    };
    assert_eq!(settings, expected);
}

#[test]
fn a_word_of_the_command_line_becomes_what_is_asked_for() {
    let words = [
        "--text=5",
        "--whole",
        "-5",
        "--small=7",
        "--fraction=1.5",
        "--flag",
        "--maybe=3",
        "--list=1",
        "--numbers=1",
        "--numbers=2",
        "--mode=closed",
    ];
    let settings: Settings = built(declared(with_arguments(&words))).app().unwrap();
    assert_eq!((settings.text.as_str(), settings.whole, settings.small), ("5", -5, 7));
    assert_eq!((settings.fraction, settings.flag, settings.maybe), (1.5, true, Some(3)));
    assert_eq!((settings.list, settings.numbers), (vec!["1".to_owned()], vec![1, 2]));
    assert_eq!(settings.mode, Mode::Closed);
    for (word, expected) in [("yes", true), ("0", false), ("off", false), ("true", true)] {
        let builder = declared(with_arguments(&[&format!("--flag={word}")]));
        assert_eq!(built(builder).app::<Settings>().unwrap().flag, expected, "{word}");
    }
}

#[test]
fn a_single_value_given_twice_is_the_last_one() {
    let settings: Settings = built(declared(with_arguments(&["--text=a", "--text=b"]))).app().unwrap();
    assert_eq!(settings.text, "b");
}

/// A48, for the application's settings.
#[test]
fn the_strongest_source_of_each_setting_wins() {
    let texts: Vec<String> = (0..=5)
        .map(|removed| {
            let mut builder = declared(without_file());
            if removed < 1 {
                builder.set("app.text", "code");
            }
            if removed < 2 {
                builder.arguments(["--text=line"]);
            }
            if removed < 3 {
                builder.run_arguments(["--text=run"]);
            }
            if removed < 4 {
                builder.conf_text("x.toml", "[app]\ntext = 'file'\nwhole = 1");
            }
            if removed < 5 {
                builder.set_default("app.text", "weakest");
            }
            built(builder).app::<Settings>().unwrap().text
        })
        .collect();
    assert_eq!(texts, ["code", "line", "run", "file", "weakest", "default"]);
}

#[test]
fn the_first_mistake_has_its_place() {
    let cases = [
        (
            "[app]\nsmall = 256",
            "x.toml:2:9: app.small: invalid value: integer `256`, expected a whole number of 0 to 255",
        ),
        ("[app]\nrooms = 1", "x.toml:2:9: app.rooms: invalid type: integer `1`, expected a table"),
        ("[app]\nnumbers = 1", "x.toml:2:11: app.numbers: invalid type: integer `1`, expected a list"),
        ("[app]\ntext = 5", "x.toml:2:8: app.text: invalid type: integer `5`, expected a string"),
        (
            "[app]\nnumbers = [1,\n  'x']",
            "x.toml:3:3: app.numbers: invalid type: string \"x\", expected a whole number of 0 to 65535",
        ),
        ("[app.inner]\ntopik = 'x'", "x.toml:2:1: app.inner: unknown key `topik`; did you mean `topic`?"),
        (
            "\n[app.rooms.main]\ntopic = 1",
            "x.toml:3:9: app.rooms.main.topic: invalid type: integer `1`, expected a string",
        ),
        ("[app]\ntxet = 'x'", "x.toml:2:1: app: unknown key `txet`; did you mean `text`?"),
    ];
    for (toml, expected) in cases {
        assert_eq!(error(with_file(toml)), (ErrorKind::Config, expected.to_owned()));
    }
    let (kind, text) = error(declared(with_arguments(&["--whole=many"])));
    assert_eq!(kind, ErrorKind::Usage);
    assert_eq!(text, "--whole: invalid type: string \"many\", expected a whole number");
    let (_, text) = error(declared(with_arguments(&["--unknown=1"])));
    assert_eq!(text, "--unknown: unknown key `unknown`");
    let mut builder = without_file();
    builder.set("app.small", -1);
    assert_eq!(
        error(builder).1,
        "configure_hook: app.small: invalid value: integer `-1`, expected a whole number of 0 to 255"
    );
}

#[test]
fn a_missing_setting_is_told_at_the_table() {
    #[derive(Debug, Deserialize)]
    struct Needs {
        #[allow(dead_code, reason = "only read by serde")]
        name: String,
    }
    let text = |config: Config| config.app::<Needs>().unwrap_err().to_string();
    assert_eq!(text(config("\n[app]\n")), "x.toml:2:2: app: missing field `name`");
    assert_eq!(text(built(without_file())), "app: missing field `name`");
}

#[test]
fn a_key_that_a_map_like_type_ignores_is_refused_too() {
    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    #[derive(Debug, Deserialize)]
    struct Flat {
        either: Either,
        #[serde(flatten)]
        rest: BTreeMap<String, i64>,
    }
    let mut builder = with_file("[app]\neither = 5\na = 1");
    builder.app_option("b", "N", "");
    builder.arguments(["--b=2"]);
    let flat: Flat = built(builder).app().unwrap();
    assert!(matches!(flat.either, Either::Number(5)));
    assert_eq!(flat.rest, BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
    let text: Flat = config("[app]\neither = 'x'").app().unwrap();
    assert!(matches!(text.either, Either::Text(text) if text == "x"));
}

#[test]
fn settings_that_nobody_asks_for_are_refused() {
    let mut builder = with_file("[app]\na = 1\n");
    builder.app_option("b", "N", "").arguments(["--b=1"]);
    let config = built(builder);
    assert_eq!(config.unclaimed(), ["a", "b"]);
    let error = config.refuse_unclaimed().unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        lines[0].starts_with("--b: unknown key") && lines[1].starts_with("x.toml:2:1: app: "),
        "{lines:?}"
    );
    let _: BTreeMap<String, i64> = config.app().unwrap();
    assert!(config.unclaimed().is_empty() && config.refuse_unclaimed().is_ok());
    assert!(built(without_file()).refuse_unclaimed().is_ok());
}

#[test]
fn an_undeclared_option_gets_a_hint_and_a_setting_outside_its_table_too() {
    assert_eq!(
        refused(declared(with_arguments(&["--fractoin=1"]))),
        ["--fractoin: unknown option `fractoin`; did you mean `fraction`?"]
    );
    assert_eq!(
        refused(declared(with_file("text = 'x'"))),
        ["x.toml:1:1: `text` is a setting of the application; put it in the table [app]"]
    );
    assert_eq!(refused_line("app = 5"), "x.toml:1:7: app: 5 is not a table; write [app]");
}

#[test]
fn a_name_with_a_dash_reaches_its_type_as_it_was_declared() {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Kebab {
        user_name: String,
    }
    for word in ["--user-name=x", "--user_name=x"] {
        let mut builder = with_arguments(&[word]);
        builder.app_option("user-name", "NAME", "");
        assert_eq!(built(builder).app::<Kebab>().unwrap().user_name, "x");
    }
}
