//! How the two generations of clients want to hear the end of a login. It builds the verdict and knows nothing else.

use serde::Deserialize;

/// How a server tells a client whether its login succeeded.
///
/// Banner (`version`, `1`), user name and password are the same in both, so a server cannot find out which one a client
/// speaks before the verdict: it is a setting of the listener.
///
/// | | clients | success | failure |
/// |---|---|---|---|
/// | `Classic` | Passenger 3.0.0 to 5.0.18 | `ok` | a sentence, alone |
/// | `Status` | Passenger 5.0.19 to 6 | `status`, `ok` | `status`, `error`, a sentence |
///
/// A client of the other generation takes either verdict for a refusal or an error. In a configuration file: `"classic"`,
/// the default, or `"status"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// One element.
    #[default]
    Classic,
    /// `status` and what it is.
    Status,
}

impl Dialect {
    /// The elements of the array message that says: logged in.
    #[must_use]
    pub fn verdict_ok(self) -> &'static [&'static str] {
        match self {
            Self::Classic => &[OK],
            Self::Status => &[STATUS, OK],
        }
    }

    /// The elements of the array message that says: refused, and why. `text` is what the client will show, and must hold no
    /// NUL and be shorter than an array message; it is used as it is, although classic clients expect a full stop and
    /// the others none. It should not be `ok`, which to a classic client is no refusal.
    ///
    /// ```
    /// use lineplex::personality::message::Dialect;
    ///
    /// assert_eq!(Dialect::Classic.verdict_error("No."), ["No."]);
    /// assert_eq!(Dialect::Status.verdict_error("no"), ["status", "error", "no"]);
    /// ```
    #[must_use]
    pub fn verdict_error(self, text: &str) -> Vec<&str> {
        match self {
            Self::Classic => vec![text],
            Self::Status => vec![STATUS, ERROR, text],
        }
    }
}

/// The first element of every verdict in the dialect `Status`.
pub(super) const STATUS: &str = "status";
/// The verdict of a login that succeeded.
pub(super) const OK: &str = "ok";
/// The verdict of one that did not, in the dialect `Status`.
pub(super) const ERROR: &str = "error";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_a_dialect_in_lower_case() {
        let read = |text: &str| Dialect::deserialize(toml::Value::String(text.to_owned()));
        assert_eq!(read("classic").unwrap(), Dialect::Classic);
        assert_eq!(read("status").unwrap(), Dialect::Status);
        assert!(read("Status").is_err());
        assert_eq!(Dialect::default(), Dialect::Classic);
    }

    #[test]
    fn a_verdict_is_what_clients_of_its_dialect_look_for() {
        assert_eq!(Dialect::Classic.verdict_ok(), ["ok"]);
        assert_eq!(Dialect::Status.verdict_ok(), ["status", "ok"]);
        assert_eq!(Dialect::Classic.verdict_error("No."), ["No."]);
        assert_eq!(Dialect::Status.verdict_error("no"), ["status", "error", "no"]);
    }
}
