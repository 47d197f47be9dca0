use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::account::Account;
use super::super::credential::{Work, hash_password};
use super::super::database::AccountsDatabase;
use super::*;

const TOKEN: &[u8] = b"0123456789abcdef-token";

/// A file in a directory of this test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("lp-accounts-{}-{number}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
        let place = Self(directory);
        place.write(text);
        place
    }

    fn path(&self) -> PathBuf {
        self.0.join("accounts.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
        self.set_mode(0o640);
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(self.path(), Permissions::from_mode(mode)).unwrap();
    }

    fn read(&self) -> Result<AccountsFile> {
        AccountsFile::read(&self.path(), &RightNames::default())
    }

    /// What is said against `text`, one line for each mistake, without the path of the file.
    fn refused(&self, text: &str) -> Vec<String> {
        self.write(text);
        let error = self.read().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let prefix = format!("{}:", self.path().display());
        error.chain().lines().map(|line| line.replace(&prefix, "")).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn phc(password: &[u8]) -> String {
    Credential::hash_with(password, Work::LEAST).unwrap().encoded()
}

fn names(gone: &[Arc<Account>]) -> Vec<&[u8]> {
    gone.iter().map(|account| account.name()).collect()
}

#[test]
fn the_accounts_of_a_file_log_in_with_their_rights() {
    let token = Credential::token(TOKEN).unwrap().encoded();
    let place = Place::new(&format!(
        "[accounts.test]\npassword = \"{}\"\nrights = \"get,exit\"\n[accounts.\"\"]\ntoken = \"{token}\"\n",
        phc(b"12345")
    ));
    let file = place.read().unwrap();
    assert_eq!((file.len(), file.is_empty()), (2, false));
    let accounts = AccountsDatabase::new();
    assert!(accounts.replace_file_accounts(file).is_empty());
    assert_eq!(accounts.authenticate(b"test", b"12345").unwrap().rights(), Rights::GET | Rights::EXIT);
    assert_eq!(accounts.authenticate(b"", TOKEN).unwrap().rights(), Rights::ALL);
    assert!(accounts.authenticate(b"test", b"").is_none() && accounts.authenticate(b"", b"").is_none());
}

#[test]
fn what_hash_password_gives_is_what_the_file_takes() {
    let text = format!("[accounts.a]\npassword = \"{}\"", hash_password(b"12345").unwrap());
    assert_eq!(Place::new(&text).read().unwrap().len(), 1);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places_and_no_secret_among_them() {
    let place = Place::new("");
    let good = phc(b"x");
    let lines = place.refused(&format!(
        "acounts = 1\n[accounts]\na = \"canary\"\n[accounts.b]\npassword = \"canary\"\n[accounts.c]\npasword = \"canary\"\n\
         [accounts.d]\npassword = 31337\n[accounts.e]\ntoken = \"canary\"\nrights = \"gte\"\n[accounts.f]\npassword = \
         \"{good}\"\nrights = [\"get\"]\n[accounts.g]\n"
    ));
    let shown = lines.join("\n");
    assert!(
        !shown.contains("canary") && !shown.contains("31337") && !shown.contains("argon2id$v=19$m=8"),
        "{shown}"
    );
    for (line, parts) in [
        (0, ["1:1: ", "`acounts`; did you mean `accounts`?"]),
        (1, ["3:1: ", "accounts.a: it is no table"]),
        (2, ["5:12: accounts.b.password", "hash_password"]),
        (3, ["6:11: accounts.c", "needs a password or a token"]),
        (4, ["7:1: ", "`pasword`; did you mean `password`?"]),
        (5, ["9:12: accounts.d.password", "not text"]),
        (6, ["11:9: accounts.e.token", "Credential::encoded"]),
        (7, ["12:10: accounts.e.rights", "`gte`"]),
        (8, ["15:10: accounts.f.rights", "not text"]),
        (9, ["16:11: accounts.g", "needs a password or a token"]),
    ] {
        assert!(parts.iter().all(|part| lines[line].contains(part)), "{parts:?}\n{shown}");
    }
    assert_eq!(lines.len(), 10, "{shown}");
}

#[test]
fn two_secrets_for_one_account_are_refused() {
    let token = Credential::token(TOKEN).unwrap().encoded();
    let text = format!("[accounts.a]\npassword = \"{}\"\ntoken = \"{token}\"", phc(b"x"));
    assert!(Place::new("").refused(&text)[0].contains("one only"));
}

#[test]
fn a_name_of_100_bytes_is_taken_and_a_longer_one_refused() {
    let text = |length| format!("[accounts.{}]\npassword = \"{}\"", "n".repeat(length), phc(b"x"));
    let place = Place::new(&text(100));
    assert_eq!(place.read().unwrap().len(), 1);
    assert!(place.refused(&text(101))[0].contains("at most 100 bytes"));
}

#[test]
fn what_is_no_toml_is_refused_with_its_place_and_without_its_text() {
    let place = Place::new("");
    for text in [
        "[accounts.a]\npassword = canary",
        "[accounts.a]\npassword = \"canary",
        "[accounts.a]\npassword = \"canary\" canary",
        "[accounts.a]\npassword = \"a\"\npassword = \"canary\"",
        "[accounts.a]\ncanary",
    ] {
        let lines = place.refused(text).join("\n");
        let at = lines.split(':').next().unwrap();
        assert!(["2", "3"].contains(&at) && !lines.contains("canary"), "{lines}");
    }
}

#[test]
fn a_file_that_is_empty_or_cut_off_locks_nobody_out() {
    let place = Place::new("");
    assert!(place.refused("")[0].contains("no table [accounts]"));
    assert!(place.refused("# nothing yet\n")[0].contains("no table [accounts]"));
    place.write("[accounts]\n");
    assert!(place.read().unwrap().is_empty());
}

#[test]
fn a_file_that_others_can_write_or_everybody_can_read_is_refused_with_the_remedy() {
    let place = Place::new("[accounts]\n");
    for mode in (0..0o1000).filter(|mode| mode & 0o400 != 0) {
        place.set_mode(mode);
        let read = place.read();
        assert_eq!(read.is_ok(), mode & 0o026 == 0, "{mode:o}");
        if let Err(error) = read {
            assert!(error.chain().contains("chmod 640"), "{}", error.chain());
        }
    }
}

#[test]
fn a_file_that_others_could_replace_by_renaming_a_directory_is_refused_also_behind_a_link() {
    let place = Place::new("[accounts]\n");
    let link = place.0.join("link");
    symlink(place.path(), &link).unwrap();
    let other = Place::new("");
    let far = other.0.join("link");
    symlink(place.path(), &far).unwrap();
    let names = RightNames::default();
    for (mode, ok) in [(0o755, true), (0o1777, true), (0o775, false), (0o757, false)] {
        fs::set_permissions(&place.0, Permissions::from_mode(mode)).unwrap();
        for path in [&place.path(), &link, &far] {
            let read = AccountsFile::read(path, &names);
            assert_eq!(read.is_ok(), ok, "{mode:o}");
            if let Err(error) = read {
                let said = error.chain();
                assert!(said.contains(&format!("{} leads there", place.0.display())), "{said}");
                assert!(said.contains("chmod go-w") && said.contains(&format!("{mode:04o}")), "{said}");
            }
        }
    }
}

#[test]
fn a_hash_of_less_work_than_the_least_that_is_advised_is_weak() {
    let weak = |memory: u32, passes: u32| {
        let phc = format!("$argon2id$v=19$m={memory},t={passes},p=1$c29tZXNhbHQ$c29tZWRpZ2VzdDEyMzQ1Ng");
        is_weak(&Credential::from_phc(&phc).unwrap())
    };
    for (memory, passes) in [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5), (65_536, 3)] {
        assert!(!weak(memory, passes), "{memory} {passes}");
    }
    for (memory, passes) in [(7_168, 4), (7_167, 10), (4_096, 3), (19_456, 1), (35_839, 1)] {
        assert!(weak(memory, passes), "{memory} {passes}");
    }
    assert!(!is_weak(&Credential::token(TOKEN).unwrap()));
}

#[test]
fn a_link_is_followed_and_what_is_no_regular_file_refused() {
    let place = Place::new("[accounts]\n");
    let names = RightNames::default();
    let [link, pipe] = ["link", "pipe"].map(|name| place.0.join(name));
    symlink(place.path(), &link).unwrap();
    assert!(AccountsFile::read(&link, &names).is_ok());
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [&pipe, &place.0] {
        let error = AccountsFile::read(path, &names).unwrap_err().chain();
        assert!(error.contains("no regular file"), "{error}");
    }
    let error = AccountsFile::read(&place.0.join("missing"), &names).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn a_file_of_somebody_else_is_refused_unless_it_is_roots() {
    let place = Place::new("[accounts]\n");
    let found = fs::metadata(place.path()).unwrap();
    assert_eq!(objection(&found, found.uid()), None);
    let said = objection(&found, found.uid() + 1);
    assert_eq!(said.is_none(), found.uid() == 0, "{said:?}");
}

#[test]
fn a_reload_takes_away_what_the_file_no_longer_has_and_leaves_the_programs_own() {
    let (one, two) = (phc(b"one"), phc(b"two"));
    let account = |name: &str, phc: &str, rights: &str| {
        format!("[accounts.{name}]\npassword = \"{phc}\"\nrights = \"{rights}\"\n")
    };
    let place = Place::new(&[account("a", &one, "get"), account("b", &one, "get")].concat());
    let accounts = AccountsDatabase::new();
    let own = accounts.add(b"own", Credential::token(TOKEN).unwrap(), Rights::EXIT);
    accounts.replace_file_accounts(place.read().unwrap());
    let (a, b) = (accounts.get(b"a").unwrap(), accounts.get(b"b").unwrap());

    place.write(
        &[account("a", &one, "clear"), account("b", &two, "get"), account("own", &one, "all")].concat(),
    );
    let gone = accounts.replace_file_accounts(place.read().unwrap());
    assert_eq!(names(&gone), [b"b"], "its secret is another");
    assert!(Arc::ptr_eq(&gone[0], &b));
    assert!(Arc::ptr_eq(&a, &accounts.get(b"a").unwrap()) && a.rights() == Rights::CLEAR);
    assert!(accounts.authenticate(b"b", b"one").is_none() && accounts.authenticate(b"b", b"two").is_some());
    assert!(Arc::ptr_eq(&own, &accounts.get(b"own").unwrap()), "the program's own stays");
    assert!(accounts.authenticate(b"own", b"one").is_none());

    place.write("[accounts]\n");
    let gone = accounts.replace_file_accounts(place.read().unwrap());
    assert_eq!(names(&gone), [&b"a"[..], b"b"]);
    assert_eq!(accounts.list(), [b"own"]);
    assert!(a.has_rights(Rights::CLEAR), "who has it keeps it");
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let place = Place::new(&format!("[accounts.a]\npassword = \"{}\"\n", phc(b"x")));
    let accounts = AccountsDatabase::new();
    accounts.replace_file_accounts(place.read().unwrap());
    place.refused("[accounts.b]\npassword = \"canary\"\n");
    assert_eq!(accounts.list(), [b"a"]);
}

#[test]
fn debug_shows_names_and_rights_and_nothing_of_the_secrets() {
    let place = Place::new(&format!("[accounts.a]\npassword = \"{}\"\nrights = \"get\"", phc(b"canary")));
    assert_eq!(format!("{:?}", place.read().unwrap()), r#"{"a": Rights(get)}"#);
}
