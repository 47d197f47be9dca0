use std::cell::Cell;

use super::*;

thread_local! {
    /// Blocks of 1 KiB that hashes of this thread have filled.
    pub(in super::super) static COUNTED: Cell<u64> = const { Cell::new(0) };
}

/// How many blocks `f` fills.
pub(in super::super) fn work_of<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNTED.get();
    (f(), COUNTED.get() - before)
}

fn matches(credential: &Credential, secret: &[u8]) -> bool {
    credential.matches(secret, Work::LEAST, &mut Memory::default())
}

/// Of "password", made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1` of its tests.
const REFERENCE: &str =
    "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

#[test]
fn only_the_right_password_is_right() {
    for right in [&b"correct"[..], b"", b"\0\xff", &[7; PASSWORD_MAX_BYTES]] {
        let credential = Credential::hash_with(right, Work::LEAST).unwrap();
        assert!(matches(&credential, right));
        for wrong in [&b"wrong"[..], b"correc", b"correct ", b"\0", &[7; PASSWORD_MAX_BYTES + 1]] {
            assert!(!matches(&credential, wrong), "{wrong:?}");
        }
        assert!(right.is_empty() || !matches(&credential, b""));
        assert!(!credential.matches_token(right), "a password is never answered at once");
    }
}

#[test]
fn only_the_right_token_is_right() {
    let right = [9; 100];
    let credential = Credential::token(&right).unwrap();
    assert!(matches(&credential, &right) && credential.matches_token(&right));
    for wrong in [&right[..99], b"", &[9; 101], &[8; 100], &[9; PASSWORD_MAX_BYTES + 1]] {
        assert!(!matches(&credential, wrong) && !credential.matches_token(wrong));
    }
}

#[test]
fn the_default_work_is_done_and_written_down() {
    let (phc, work) = work_of(|| hash_password(b"12345").unwrap());
    assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
    assert_eq!(work, 2 * 19_456);
    let credential = Credential::from_phc(&phc).unwrap();
    assert!(matches(&credential, b"12345") && !matches(&credential, b"12346"));
    assert_ne!(hash_password(b"12345").unwrap(), phc, "every hash has its own salt");
}

#[test]
fn a_hash_of_the_reference_implementation_is_understood() {
    let credential = Credential::from_phc(REFERENCE).unwrap();
    assert!(matches(&credential, b"password"));
    assert!(!matches(&credential, b"passworD"));
    assert_eq!(credential.encoded(), REFERENCE);
}

#[test]
fn what_is_encoded_can_be_read_again() {
    let password = Credential::hash_with(b"secret", Work::LEAST).unwrap();
    let again = Credential::from_phc(&password.encoded()).unwrap();
    assert!(matches(&again, b"secret"));
    assert!(again.is_same(&password));
    let token = Credential::token(b"0123456789abcdef").unwrap();
    let again = Credential::from_digest(&token.encoded()).unwrap();
    assert!(matches(&again, b"0123456789abcdef") && again.is_same(&token));
    assert!(!token.is_same(&password));
    assert!(!token.is_same(&Credential::token(b"0123456789abcdef").unwrap()), "another key");
}

#[test]
fn a_hash_of_another_kind_or_of_too_much_work_is_refused_without_being_shown() {
    let change = |from: &str, to: &str| {
        assert!(REFERENCE.contains(from));
        REFERENCE.replacen(from, to, 1)
    };
    for (text, why) in [
        ("canary-12345".to_owned(), "no password hash"),
        (String::new(), "no password hash"),
        ("$".repeat(100_000), "no password hash"),
        ("$1$canary$canary".to_owned(), "no password hash"),
        (change("argon2id", "argon2i"), "argon2id"),
        (change("argon2id", "argon2d"), "argon2id"),
        (change("argon2id", "scrypt"), "argon2id"),
        (change("v=19", "v=16"), "version"),
        (change("$v=19", ""), "version"),
        (change("m=65536", "m=262145"), "m is 262145, more than 262144"),
        (change("t=2", "t=11"), "t is 11, more than 10"),
        (change("p=1", "p=5"), "p is 5, more than 4"),
        (change("m=65536", "m=7"), "parameters"),
        (change("t=2", "t=0"), "parameters"),
        (change("p=1", "p=0"), "parameters"),
        (change("t=2,p=1", "p=1,t=2"), "in this order"),
        (change("p=1", "p=1,keyid=Y2FuYXJ5"), "m, t and p"),
        (change(",p=1", ""), "no password hash"),
        (change("m=65536", "m=99999999999"), "no password hash"),
        (change("c29tZXNhbHQ", "c29tZQ"), "no password hash"),
        (change("$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", ""), "no password hash"),
        (change("CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "CTFhFdXPJO1aFaMaO6Mm"), "digest"),
    ] {
        let (error, work) = work_of(|| Credential::from_phc(&text).unwrap_err());
        let error = error.chain();
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains("canary") && error.len() < 200, "{error}");
        assert_eq!(work, 0);
    }
}

#[test]
fn a_damaged_hash_is_refused_or_is_another_one_but_never_a_panic() {
    let mut random = fastrand::Rng::with_seed(3);
    let small = REFERENCE.replacen("m=65536", "m=8", 1);
    for _ in 0..20_000 {
        let mut bytes = small.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(b' '..127),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.u8(b' '..127)),
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(credential) = Credential::from_phc(&text) {
            assert_eq!(credential.encoded(), text);
        }
    }
}

#[test]
fn the_largest_work_that_is_allowed_is_taken() {
    for at in ["m=262144,t=10,p=4", "m=8,t=1,p=1"] {
        Credential::from_phc(&REFERENCE.replacen("m=65536,t=2,p=1", at, 1)).unwrap();
    }
}

#[test]
fn what_is_no_digest_of_a_token_is_refused_without_being_shown() {
    let good = Credential::token(b"0123456789abcdef").unwrap().encoded();
    for wrong in [
        "canary".to_owned(),
        String::new(),
        good[1..].to_owned(),
        good[..good.len() - 1].to_owned(),
        format!("{good}0"),
        good.replacen("blake2b:", "canary:", 1),
        format!("blake2b:{}:{}", "é".repeat(16), "0".repeat(64)),
        format!("blake2b:{}:{}", "+1".repeat(16), "0".repeat(64)),
    ] {
        let error = Credential::from_digest(&wrong).unwrap_err().chain();
        assert!(error.contains("no digest of a token") && !error.contains("canary"), "{error}");
    }
    assert!(Credential::from_digest(&good).is_ok());
}

#[test]
fn a_token_that_cannot_be_random_enough_is_refused_and_so_is_one_that_is_too_long() {
    for (length, ok) in [(0, false), (15, false), (16, true), (1024, true), (1025, false)] {
        assert_eq!(Credential::token(&vec![b'x'; length]).is_ok(), ok, "{length}");
    }
    assert!(Credential::hash_with(&[b'x'; 1025], Work::LEAST).is_err());
}

#[test]
fn a_long_password_is_as_much_work_as_a_short_one() {
    let credential = Credential::hash_with(b"right", Work::LEAST).unwrap();
    let long = vec![b'x'; 1 << 20];
    for secret in [&b"right"[..], b"", b"wrong", &long] {
        assert_eq!(work_of(|| matches(&credential, secret)).1, Work::LEAST.blocks());
    }
}

#[test]
fn a_wrong_token_is_as_much_work_as_a_wrong_password_and_a_right_one_none() {
    let credential = Credential::token(b"0123456789abcdef").unwrap();
    let work =
        |secret: &[u8]| work_of(|| credential.matches(secret, Work::DEFAULT, &mut Memory::default())).1;
    assert_eq!(work(b"0123456789abcdef"), 0);
    assert_eq!(work(b"0123456789abcdeX"), Work::DEFAULT.blocks());
    assert_eq!(work(b""), Work::DEFAULT.blocks());
}

#[test]
fn debug_shows_nothing_of_a_secret() {
    let password = Credential::hash_with(b"canary-canary-canary", Work::LEAST).unwrap();
    let token = Credential::token(b"canary-canary-canary").unwrap();
    assert_eq!(format!("{password:?} {token:?}"), "Credential::Password(***) Credential::Token(***)");
}

/// The time of the comparison must not say how much of a secret was right: Welch's t-test after dudect (Reparaz, Balasch,
/// Verbauwhede, "Dude, is my code constant time?"), 10^6 times of each of two classes in random order, the slowest of them
/// left out as there is more on a machine than this. Run it where nothing else does:
///
/// ```text
/// cargo test --release --features auth --lib -- --ignored --nocapture the_time_of_a_comparison
/// ```
#[test]
#[ignore = "measures; needs a quiet machine and a release build"]
fn the_time_of_a_comparison_does_not_say_where_two_digests_differ() {
    const PAIRS: usize = 1_000_000;
    let mut random = fastrand::Rng::with_seed(7);
    let mut secret = [0; DIGEST_BYTES];
    random.fill(&mut secret);
    let early = {
        let mut other = secret;
        other[0] ^= 1;
        other
    };
    let late = {
        let mut other = secret;
        other[DIGEST_BYTES - 1] ^= 1;
        other
    };
    for (name, one, other) in [("first or last byte", early, late), ("equal or first byte", secret, early)] {
        let mut times: [Vec<f64>; 2] = [Vec::with_capacity(PAIRS), Vec::with_capacity(PAIRS)];
        for _ in 0..2 * PAIRS {
            let class = random.usize(..2);
            // The same place in memory for both, chosen without a branch.
            let guess: [u8; DIGEST_BYTES] = std::array::from_fn(|at| [one[at], other[at]][class]);
            let begun = std::time::Instant::now();
            for _ in 0..16 {
                std::hint::black_box(is_same(std::hint::black_box(&guess), std::hint::black_box(&secret)));
            }
            times[class].push(begun.elapsed().as_secs_f64() * 1e9);
        }
        let t = welch(&mut times);
        println!("{name}: t = {t:.2}");
        assert!(t.abs() < 4.5, "{name}: t = {t}");
    }
}

/// Welch's t of two samples, without what is slower than nine tenths of both together.
fn welch(times: &mut [Vec<f64>; 2]) -> f64 {
    let mut all: Vec<f64> = times.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 9 / 10];
    let [one, other] = times.each_mut().map(|sample| {
        sample.retain(|time| *time <= limit);
        let count = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / count;
        let variance = sample.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (one.0 - other.0) / (one.1 + other.1).sqrt()
}
