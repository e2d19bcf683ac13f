//! API tokens of the management API, and what is stored of a task that a control plane provisioned.

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{Time, TokenHash};

/// The most API tokens that are in force at once.
pub const MAX_API_TOKENS: usize = 32;
/// The longest name of an API token, in bytes.
pub const MAX_NAME: usize = 64;

/// What stands beside a task that a control plane has set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provision {
    /// When it did.
    pub at: Time,
    /// The name of the API token that it showed.
    pub by: String,
    /// Reports after this time are refused. It takes the place of the end that the task came with, and may change: in
    /// DAP-09 nothing that is sealed is bound to it.
    pub end: Option<Time>,
}

/// A token for the management API. Only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// What the operator calls it.
    pub name: String,
    /// The SHA-256 hash of the token. It is no secret: tokens are random.
    pub hash: TokenHash,
    /// When it was made.
    pub created: Time,
    /// Until when it is in force; for ever if there is no time.
    pub until: Option<Time>,
}

impl ApiToken {
    /// Whether it may be shown now.
    pub fn is_active(&self, now: Time) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Which of the tokens that are in force was shown. Takes the same time for every wrong one.
pub fn find<'a>(tokens: impl Iterator<Item = &'a ApiToken>, shown: &[u8], now: Time) -> Option<&'a ApiToken> {
    // All are compared, so that the time does not tell which one was nearly right.
    let good = tokens.filter(|token| token.is_active(now));
    good.fold(None, |found, token| if token.hash.matches(shown) { Some(token) } else { found })
}

/// What is wrong with the name of an API token, if anything. It stands in paths, logs and tables.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match name.len() {
        1..=MAX_NAME if name.bytes().all(fits) && !name.starts_with(['-', '.']) => Ok(()),
        _ => Err("a name has at most 64 letters, digits and any of -._ and begins with none of - and ."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_active_tokens_only() {
        let token = |name: &str, until| ApiToken {
            name: name.to_owned(),
            hash: TokenHash::of(name.as_bytes()),
            created: Time(1),
            until,
        };
        let tokens = [token("old", Some(Time(10))), token("new", None)];
        let found =
            |shown: &str, now| find(tokens.iter(), shown.as_bytes(), Time(now)).map(|token| token.name.as_str());
        assert_eq!((found("old", 9), found("new", 9), found("other", 9)), (Some("old"), Some("new"), None));
        assert_eq!((found("old", 10), found("new", u64::MAX), found("", 9)), (None, Some("new"), None));
    }

    #[test]
    fn accepts_names_that_fit_into_paths() {
        for name in ["divvi-up", "a", "2026.11", "A_b"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "..", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
