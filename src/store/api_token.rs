//! Tokens of the management API, and the stored data of provisioned tasks.

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{Time, TokenHash};

/// The most valid API tokens.
pub const MAX_API_TOKENS: usize = 32;
/// The maximum length of a token name, in bytes.
pub const MAX_NAME: usize = 64;

/// The stored data of a provisioned task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provision {
    /// When the task was provisioned.
    pub at: Time,
    /// The name of the API token used.
    pub by: String,
    /// The end of the task: later reports are rejected. It replaces the initial end and may change, because in DAP-09
    /// nothing sealed is bound to it.
    pub end: Option<Time>,
}

/// An API token. Only its hash is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// The name of the token.
    pub name: String,
    /// SHA-256 of the token. It is not secret, because tokens are random.
    pub hash: TokenHash,
    /// When the token was created.
    pub created: Time,
    /// When the token expires; `None` for never.
    pub until: Option<Time>,
}

impl ApiToken {
    /// Whether the token is valid.
    pub fn is_active(&self, now: Time) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Finds the valid token that was presented. Takes the same time for every wrong token.
pub fn find<'a>(tokens: impl Iterator<Item = &'a ApiToken>, shown: &[u8], now: Time) -> Option<&'a ApiToken> {
    // All tokens are compared, so that the time reveals no near miss.
    let good = tokens.filter(|token| token.is_active(now));
    good.fold(None, |found, token| if token.hash.matches(shown) { Some(token) } else { found })
}

/// Validates the name of an API token. It is used in paths, logs and tables.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match name.len() {
        1..=MAX_NAME if name.bytes().all(fits) && !name.starts_with(['-', '.']) => Ok(()),
        _ => Err("a name has 1 to 64 letters, digits and -._ and does not start with - or ."),
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
