//! What an account may do: a set of bits, and the names that files and applications call them by.
//!
//! Values only: no I/O and no clock. The nine rights of Passenger 3.0 keep their names and bits; an application adds its
//! own names, which take the bits that are left. The bits never travel on the wire.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use crate::config::node::hint;
use crate::error::{Error, ErrorKind, Result};

/// A set of rights, 32 at most.
///
/// ```
/// use lineplex::personality::message::Rights;
///
/// let rights = Rights::GET | Rights::EXIT;
/// assert!(rights.contains(Rights::EXIT) && rights.contains(Rights::NONE));
/// assert!(!rights.contains(Rights::GET | Rights::CLEAR), "both of them, or it is no");
/// assert_eq!(rights.to_string(), "get,exit");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rights(u32);

impl Rights {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Every right, those included that nobody has named yet.
    pub const ALL: Self = Self(u32::MAX);
    /// To take something out of a pool.
    pub const GET: Self = Self(1);
    /// To empty a pool.
    pub const CLEAR: Self = Self(1 << 1);
    /// To take something out of a pool for good.
    pub const DETACH: Self = Self(1 << 2);
    /// To read parameters.
    pub const GET_PARAMETERS: Self = Self(1 << 3);
    /// To change parameters.
    pub const SET_PARAMETERS: Self = Self(1 << 4);
    /// To see the state, without what is private.
    pub const INSPECT_BASIC_INFO: Self = Self(1 << 5);
    /// To see what is private in the state.
    pub const INSPECT_SENSITIVE_INFO: Self = Self(1 << 6);
    /// To see what the threads of the process do.
    pub const INSPECT_BACKTRACES: Self = Self(1 << 8);
    /// To end the server.
    pub const EXIT: Self = Self(1 << 31);

    /// Whether every right of `needed` is in this set. So [`Rights::NONE`] always is. (Passenger's own check was content
    /// with any one of them.)
    #[must_use]
    pub const fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// The bits, to keep them in an atomic.
    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    /// The set with these bits.
    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Rights {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// `none`, `all`, or the names with commas between them; a right of an application is `bit_` and its number.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => return f.write_str("none"),
            Self::ALL => return f.write_str("all"),
            _ => {}
        }
        let mut comma = "";
        for bit in (0..u32::BITS).filter(|bit| self.0 >> bit & 1 != 0) {
            match NAMED.iter().find(|(_, right)| right.0 == 1 << bit) {
                Some((name, _)) => write!(f, "{comma}{name}")?,
                None => write!(f, "{comma}bit_{bit}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

/// As [`fmt::Display`], in parentheses.
impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

/// Which names there are for rights: at first the nine of [`Rights`].
///
/// ```
/// use lineplex::personality::message::{RightNames, Rights};
///
/// let mut names = RightNames::default();
/// let deploy = names.add("deploy")?;
/// assert_eq!(names.parse("get,deploy")?, Rights::GET | deploy);
/// assert_eq!(names.parse("exit,all")?, Rights::ALL);
/// # Ok::<(), lineplex::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RightNames(Vec<(String, Rights)>);

impl Default for RightNames {
    fn default() -> Self {
        Self(NAMED.iter().map(|(name, right)| ((*name).to_owned(), *right)).collect())
    }
}

impl RightNames {
    /// Names a right of the application, which gets a bit that no name has yet; there are 23 of them. `name` has 1 to 64
    /// characters of `a` to `z`, `0` to `9`, `_`, `-`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: not such a name, a name that is taken (`all` and `none` are), or no bit left.
    pub fn add(&mut self, name: &str) -> Result<Rights> {
        let refuse = |why: &str| {
            let shown = name.chars().take(NAME_MAX_BYTES).collect::<String>();
            let context = format!("cannot add the right `{}`: {why}", shown.escape_debug());
            Err(Error::new(ErrorKind::Config, context))
        };
        let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(plain) {
            return refuse("a name has 1 to 64 characters of a-z, 0-9, _ and -");
        }
        if matches!(name, "all" | "none") || self.named(name).is_some() {
            return refuse("that name is taken");
        }
        let taken = self.0.iter().fold(Rights::NONE, |all, (_, right)| all | *right);
        let Some(bit) = (0..u32::BITS).find(|bit| taken.0 >> bit & 1 == 0) else {
            return refuse("all 32 bits have a name");
        };
        let right = Rights(1 << bit);
        self.0.push((name.to_owned(), right));
        Ok(right)
    }

    /// The set that `text` says: names with commas between them, read from the left. `all` and `none` replace what stands
    /// before them; empty items are passed over, blanks are not. An empty text is [`Rights::NONE`].
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the first name that is unknown.
    pub fn parse(&self, text: &str) -> Result<Rights> {
        self.parse_over(text, Rights::NONE)
    }

    /// The same, beginning with `default` instead of nothing, which names add to.
    ///
    /// # Errors
    /// As [`RightNames::parse`].
    pub fn parse_over(&self, text: &str, default: Rights) -> Result<Rights> {
        let mut rights = default;
        for item in text.split(',') {
            rights = match item {
                "" => rights,
                "all" => Rights::ALL,
                "none" => Rights::NONE,
                name => rights | self.named(name).ok_or_else(|| self.unknown(name))?,
            };
        }
        Ok(rights)
    }

    fn named(&self, name: &str) -> Option<Rights> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, right)| *right)
    }

    fn unknown(&self, name: &str) -> Error {
        let shown: String = name.chars().take(NAME_MAX_BYTES).collect();
        let known = self.0.iter().map(|(known, _)| known.as_str()).chain(["all", "none"]);
        let hint = hint(name.trim(), known);
        Error::new(ErrorKind::Config, format!("there is no right called `{}`{hint}", shown.escape_debug()))
    }
}

/// The rights of Passenger 3.0.
const NAMED: [(&str, Rights); 9] = [
    ("get", Rights::GET),
    ("clear", Rights::CLEAR),
    ("detach", Rights::DETACH),
    ("get_parameters", Rights::GET_PARAMETERS),
    ("set_parameters", Rights::SET_PARAMETERS),
    ("inspect_basic_info", Rights::INSPECT_BASIC_INFO),
    ("inspect_sensitive_info", Rights::INSPECT_SENSITIVE_INFO),
    ("inspect_backtraces", Rights::INSPECT_BACKTRACES),
    ("exit", Rights::EXIT),
];
/// Longest name of a right, and how much of a wrong one is shown.
const NAME_MAX_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_needed_right_must_be_there_and_none_always_is() {
        let rights = Rights::GET | Rights::CLEAR;
        assert!(rights.contains(Rights::GET) && rights.contains(Rights::CLEAR) && rights.contains(rights));
        assert!(!rights.contains(Rights::GET | Rights::EXIT));
        assert!(Rights::NONE.contains(Rights::NONE) && !Rights::NONE.contains(Rights::GET));
        assert!(Rights::ALL.contains(Rights::ALL) && !rights.contains(Rights::ALL));
    }

    #[test]
    fn names_are_read_from_the_left_and_all_and_none_replace() {
        let names = RightNames::default();
        for (text, rights) in [
            ("", Rights::NONE),
            (",,", Rights::NONE),
            ("get", Rights::GET),
            ("get,,exit,", Rights::GET | Rights::EXIT),
            ("get,get", Rights::GET),
            ("get,all", Rights::ALL),
            ("all,none", Rights::NONE),
            ("all,none,clear", Rights::CLEAR),
            ("inspect_backtraces,detach", Rights::INSPECT_BACKTRACES | Rights::DETACH),
        ] {
            assert_eq!(names.parse(text).unwrap(), rights, "{text}");
        }
        assert_eq!(names.parse_over("", Rights::EXIT).unwrap(), Rights::EXIT);
        assert_eq!(names.parse_over("get", Rights::EXIT).unwrap(), Rights::GET | Rights::EXIT);
        assert_eq!(names.parse_over("none,get", Rights::EXIT).unwrap(), Rights::GET);
    }

    #[test]
    fn an_unknown_name_is_named_and_blanks_belong_to_a_name() {
        let names = RightNames::default();
        for (text, name) in [("get,gte", "`gte`"), ("get, exit", "` exit`"), ("GET", "`GET`"), (" ", "` `")] {
            let error = names.parse(text).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(names.parse(&"x".repeat(1 << 20)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn an_added_right_has_a_bit_of_its_own_until_there_is_none_left() {
        let mut names = RightNames::default();
        let mut seen = NAMED.iter().fold(Rights::NONE, |all, (_, right)| all | *right);
        for number in 0..23 {
            let right = names.add(&format!("right-{number}")).unwrap();
            assert_eq!(right.0.count_ones(), 1);
            assert_eq!(seen.0 & right.0, 0);
            seen |= right;
            assert_eq!(names.parse(&format!("right-{number}")).unwrap(), right);
        }
        assert_eq!(seen, Rights::ALL);
        assert!(names.add("one-more").unwrap_err().to_string().contains("32 bits"));
    }

    #[test]
    fn a_name_that_is_taken_or_cannot_be_written_in_a_list_is_refused() {
        let mut names = RightNames::default();
        for name in ["", "get", "all", "none", "a,b", "a b", "Ä", "UPPER", &"x".repeat(65)] {
            assert!(names.add(name).is_err(), "{name}");
        }
        names.add(&"x".repeat(64)).unwrap();
    }

    #[test]
    fn a_set_shows_its_names() {
        assert_eq!(format!("{} {:?}", Rights::NONE, Rights::ALL), "none Rights(all)");
        let rights = Rights::INSPECT_BASIC_INFO | RightNames::default().add("deploy").unwrap();
        assert_eq!(format!("{rights:?}"), "Rights(inspect_basic_info,bit_7)");
    }
}
