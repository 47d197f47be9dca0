use super::super::credential::tests::work_of;
use super::*;

const TOKEN: &[u8] = b"0123456789abcdef-token";

fn password(text: &[u8]) -> Credential {
    Credential::hash_with(text, Work::LEAST).unwrap()
}

fn database() -> AccountsDatabase {
    let accounts = AccountsDatabase::new();
    accounts.add(b"person", password(b"12345"), Rights::GET);
    accounts.add(b"program", Credential::token(TOKEN).unwrap(), Rights::EXIT);
    accounts
}

#[test]
fn the_right_secret_gives_the_account_and_every_other_none() {
    let accounts = database();
    assert_eq!(accounts.authenticate(b"person", b"12345").unwrap().rights(), Rights::GET);
    assert_eq!(accounts.authenticate(b"program", TOKEN).unwrap().rights(), Rights::EXIT);
    let wrong = [&b""[..], b"1234", b"123456", b"wrong", &[b'x'; 5000]];
    for name in [&b"person"[..], b"program", b"nobody", b"", b"PERSON", b"person\0"] {
        for secret in wrong {
            assert!(accounts.authenticate(name, secret).is_none(), "{name:?} {secret:?}");
            assert!(accounts.challenge(name).try_token(secret).is_none());
        }
    }
    assert!(accounts.authenticate(b"program", b"12345").is_none());
    assert!(accounts.authenticate(b"person", TOKEN).is_none());
    assert!(accounts.authenticate(b"nobody", b"12345").is_none());
}

#[test]
fn names_and_passwords_may_be_empty_or_any_bytes() {
    let accounts = AccountsDatabase::new();
    accounts.add(b"", password(b""), Rights::ALL);
    accounts.add(b"\0\xff\n", password(b"\0\xfe"), Rights::ALL);
    assert_eq!(accounts.authenticate(b"", b"").unwrap().name(), b"");
    assert_eq!(accounts.authenticate(b"\0\xff\n", b"\0\xfe").unwrap().name(), b"\0\xff\n");
    assert!(accounts.authenticate(b"", b"x").is_none() && accounts.authenticate(b"\0\xff\n", b"").is_none());
}

#[test]
fn everything_wrong_is_the_same_work_whether_the_name_is_known_or_not() {
    let accounts = database();
    let long = vec![b'x'; 1 << 20];
    for secret in [&b""[..], b"wrong", TOKEN, &long] {
        let work = |name: &[u8]| work_of(|| accounts.authenticate(name, secret)).1;
        assert_eq!(work(b"person"), Work::LEAST.blocks());
        assert_eq!(work(b"nobody"), Work::LEAST.blocks());
        assert_eq!(work(b""), Work::LEAST.blocks());
        if secret != TOKEN {
            assert_eq!(work(b"program"), Work::LEAST.blocks());
        }
    }
}

#[test]
fn a_name_that_is_not_known_costs_what_the_costliest_password_costs() {
    let more = Work { memory_kib: 16, passes: 3, lanes: 2 };
    let accounts = AccountsDatabase::new();
    let unknown = || work_of(|| accounts.authenticate(b"nobody", b"wrong")).1;
    assert_eq!(unknown(), Work::DEFAULT.blocks(), "without passwords, as much as the usual one");
    accounts.add(b"a", password(b"12345"), Rights::ALL);
    assert_eq!(unknown(), Work::LEAST.blocks());
    accounts.add(b"b", Credential::hash_with(b"12345", more).unwrap(), Rights::ALL);
    assert_eq!(unknown(), more.blocks());
    accounts.remove(b"b");
    assert_eq!(unknown(), Work::LEAST.blocks());
}

#[test]
fn a_right_token_is_answered_without_the_work_of_a_hash() {
    let accounts = database();
    let (account, work) = work_of(|| accounts.challenge(b"program").try_token(TOKEN));
    assert_eq!((account.unwrap().name(), work), (&b"program"[..], 0));
    for (name, secret) in [(&b"person"[..], &b"12345"[..]), (b"nobody", TOKEN), (b"program", b"wrong")] {
        let (account, work) = work_of(|| accounts.challenge(name).try_token(secret));
        assert!(account.is_none() && work == 0, "{name:?}");
    }
}

#[test]
fn a_challenge_is_answered_on_another_thread() {
    let challenge = database().challenge(b"person");
    let account = std::thread::spawn(move || challenge.verify(b"12345")).join().unwrap();
    assert_eq!(account.unwrap().name(), b"person");
}

#[test]
fn who_is_removed_or_replaced_while_the_secret_is_checked_does_not_get_in() {
    let accounts = database();
    let removed = accounts.challenge(b"person");
    let replaced = accounts.challenge(b"program");
    assert!(accounts.remove(b"person") && !accounts.remove(b"person"));
    accounts.add(b"program", Credential::token(TOKEN).unwrap(), Rights::NONE);
    assert!(removed.verify(b"12345").is_none());
    assert!(replaced.try_token(TOKEN).is_none() && replaced.verify(TOKEN).is_none());
    assert!(accounts.authenticate(b"program", TOKEN).is_some());
}

#[test]
fn who_has_logged_in_keeps_the_account_that_is_removed() {
    let accounts = database();
    let account = accounts.authenticate(b"person", b"12345").unwrap();
    accounts.remove(b"person");
    assert!(account.has_rights(Rights::GET) && accounts.get(b"person").is_none());
    account.set_rights(Rights::NONE);
    assert!(!account.has_rights(Rights::GET));
}

#[test]
fn names_are_listed_in_the_order_of_their_bytes_and_a_clone_sees_the_same() {
    let accounts = database();
    assert!(AccountsDatabase::new().is_empty() && !accounts.is_empty());
    let other = accounts.clone();
    other.add(b"\xff", password(b""), Rights::NONE);
    accounts.add(b"A", password(b""), Rights::NONE);
    accounts.add(b"A", password(b"other"), Rights::ALL);
    assert_eq!(accounts.list(), [&b"A"[..], b"person", b"program", b"\xff"]);
    assert_eq!(accounts.len(), 4);
    assert!(accounts.authenticate(b"A", b"").is_none() && accounts.authenticate(b"A", b"other").is_some());
}

#[test]
fn numbers_count_from_zero_for_all_handles_together() {
    let accounts = database();
    let numbers = [accounts.unique_number(), accounts.clone().unique_number(), accounts.unique_number()];
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn debug_shows_no_secret_and_a_challenge_nothing_at_all() {
    let accounts = AccountsDatabase::new();
    accounts.add(b"person", password(b"canary-canary-canary"), Rights::GET);
    let shown = format!("{accounts:?}");
    assert!(shown.contains("person") && !shown.contains("canary") && !shown.contains("argon2"), "{shown}");
    assert_eq!(format!("{:?}", accounts.challenge(b"person")), "Challenge { .. }");
}

#[test]
fn handles_and_questions_go_to_other_threads() {
    fn is_sent<T: Send + 'static>() {}
    fn is_shared<T: Sync>() {}
    is_sent::<AccountsDatabase>();
    is_shared::<AccountsDatabase>();
    is_sent::<Challenge>();
    is_shared::<Account>();
}
