//! Bearer tokens of a task at one of its aggregators.
//!
//! # Decision: only the tokens of a task change
//!
//! A task is immutable except for its tokens, because a leaked token must be replaceable. Tokens are stored beside the
//! task. The accepting side accepts the previous and the new token for a grace period. The presenting side tries the
//! newest token first and falls back to older ones, so either side may rotate first. A retried request uses the tokens
//! that are valid at the retry, not those of the first attempt.

use serde::{Deserialize, Serialize};

use crate::model::{Duration, Party, Secret, TaskId, Time, TokenHash};

/// Maximum number of valid tokens per direction. Older tokens are revoked.
const MAX_TOKENS: usize = 4;

/// The tokens of a task at one of its aggregators, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    accepted: Vec<ExpiringToken<TokenHash>>,
    presented: Vec<ExpiringToken<Secret>>,
}

/// A token or its hash, with its expiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ExpiringToken<T> {
    token: T,
    /// Expiry; `None` for a token that does not expire.
    until: Option<Time>,
}

/// A request of the operator to rotate a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenChange {
    /// The task.
    pub task: TaskId,
    /// The new token.
    pub new: NewToken,
    /// Grace period of the previous tokens.
    pub keep_old: Duration,
}

/// A new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewToken {
    /// Presented by the peer: the collector to the leader, or the leader to the helper. Only the hash is stored.
    Accepted(TokenHash),
    /// Presented to the helper by this leader.
    Presented(Secret),
}

/// Status of a token. Its hash is not secret, because tokens are random.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Who presents the token.
    pub direction: TokenDirection,
    /// The SHA-256 hash of the token.
    pub hash: TokenHash,
    /// Expiry; `None` for a token that does not expire.
    pub until: Option<Time>,
    /// Time at which the peer last presented the token while several were valid, since the server started.
    pub last_presented: Option<Time>,
}

/// Who presents a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenDirection {
    /// The peer presents it to this aggregator.
    Accepted,
    /// This aggregator presents it to the helper.
    Presented,
}

impl Tokens {
    /// The initial tokens of a task.
    pub fn of(party: &Party) -> Self {
        let (accepted, presented) = match party {
            Party::Leader { helper_token, collector_token } => (*collector_token, Some(helper_token.clone())),
            Party::Helper { leader_token } => (*leader_token, None),
        };
        let for_ever = |token| ExpiringToken { token, until: None };
        Self {
            accepted: vec![ExpiringToken { token: accepted, until: None }],
            presented: presented.map(for_ever).into_iter().collect(),
        }
    }

    /// Configured tokens, which do not expire.
    pub fn permanent(accepted: &[TokenHash], presented: &[Secret]) -> Self {
        Self {
            accepted: accepted.iter().map(|token| ExpiringToken { token: *token, until: None }).collect(),
            presented: presented.iter().map(|token| ExpiringToken { token: token.clone(), until: None }).collect(),
        }
    }

    /// Finds a valid token and returns its hash. Takes the same time for every wrong token.
    pub fn find(&self, token: &[u8], now: Time) -> Option<TokenHash> {
        let in_force = self.accepted.iter().filter(|known| known.is_valid(now));
        // Compares all tokens, so that the duration does not reveal a near match.
        in_force.fold(None, |found, known| if known.token.matches(token) { Some(known.token) } else { found })
    }

    /// Whether the token with this hash is valid now.
    pub fn accepts(&self, hash: TokenHash, now: Time) -> bool {
        self.accepted.iter().any(|known| known.token == hash && known.is_valid(now))
    }

    /// Number of tokens that are valid now.
    pub fn accepted_count(&self, now: Time) -> usize {
        self.accepted.iter().filter(|known| known.is_valid(now)).count()
    }

    /// The valid tokens to present to the helper, in the order of preference.
    pub fn to_present(&self, now: Time) -> impl Iterator<Item = &Secret> {
        self.presented.iter().filter(move |known| known.is_valid(now)).map(|known| &known.token)
    }

    /// Rotates a token. Previous tokens stay valid for at most `keep_old`.
    pub fn change(&mut self, new: NewToken, now: Time, keep_old: Duration) {
        match new {
            NewToken::Accepted(hash) => replace(&mut self.accepted, hash, now, keep_old),
            NewToken::Presented(token) => replace(&mut self.presented, token, now, keep_old),
        }
    }

    /// Status of all valid tokens.
    pub fn statuses(&self, now: Time) -> Vec<TokenStatus> {
        let status = |direction, hash, until| TokenStatus { direction, hash, until, last_presented: None };
        let accepted = self.accepted.iter().filter(|known| known.is_valid(now));
        let accepted = accepted.map(|known| status(TokenDirection::Accepted, known.token, known.until));
        let presented = self.presented.iter().filter(|known| known.is_valid(now));
        let presented =
            presented.map(|known| status(TokenDirection::Presented, TokenHash::of(known.token.expose()), known.until));
        accepted.chain(presented).collect()
    }
}

impl<T> ExpiringToken<T> {
    fn is_valid(&self, now: Time) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Inserts a token at the front. Repeating the call only changes the expiry of the other tokens.
fn replace<T: PartialEq>(tokens: &mut Vec<ExpiringToken<T>>, new: T, now: Time, keep_old: Duration) {
    let end = now.saturating_add(keep_old);
    tokens.retain(|known| known.is_valid(now) && known.token != new);
    for old in tokens.iter_mut() {
        old.until = Some(old.until.map_or(end, |until| until.min(end)));
    }
    tokens.insert(0, ExpiringToken { token: new, until: None });
    tokens.truncate(MAX_TOKENS);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1000);
    const WEEK: Duration = Duration(7 * 86_400);

    fn helper() -> Tokens {
        Tokens::of(&Party::Helper { leader_token: TokenHash::of(b"first") })
    }

    fn change(tokens: &mut Tokens, token: &[u8], now: Time, keep: Duration) {
        tokens.change(NewToken::Accepted(TokenHash::of(token)), now, keep);
    }

    fn good(tokens: &Tokens, now: Time) -> Vec<&'static str> {
        let all = ["first", "second", "third"];
        all.into_iter().filter(|token| tokens.find(token.as_bytes(), now).is_some()).collect()
    }

    #[test]
    fn accepts_old_and_new_token_during_grace_period() {
        let mut tokens = helper();
        assert_eq!(good(&tokens, NOW), ["first"]);
        change(&mut tokens, b"second", NOW, WEEK);
        assert_eq!(good(&tokens, NOW), ["first", "second"]);
        let end = NOW.saturating_add(WEEK);
        assert_eq!(good(&tokens, Time(end.0 - 1)), ["first", "second"]);
        assert_eq!(good(&tokens, end), ["second"]);
        // A second rotation does not extend the expiry that the first one set.
        change(&mut tokens, b"third", Time(end.0 - 1), WEEK);
        assert_eq!(good(&tokens, end), ["second", "third"]);
        assert_eq!(good(&tokens, end.saturating_add(WEEK)), ["third"]);
    }

    #[test]
    fn revokes_old_token_without_grace_period() {
        let mut tokens = helper();
        change(&mut tokens, b"second", NOW, Duration(0));
        assert_eq!(good(&tokens, NOW), ["second"]);
    }

    #[test]
    fn repeated_change_is_idempotent_and_can_revoke_the_old_token() {
        let mut tokens = helper();
        change(&mut tokens, b"second", NOW, WEEK);
        let before = tokens.clone();
        change(&mut tokens, b"second", Time(NOW.0 + 5), WEEK);
        assert_eq!(tokens, before);
        change(&mut tokens, b"second", Time(NOW.0 + 5), Duration(0));
        assert_eq!(good(&tokens, Time(NOW.0 + 5)), ["second"]);
    }

    #[test]
    fn bounds_the_number_of_tokens() {
        let mut tokens = helper();
        change(&mut tokens, b"second", NOW, WEEK);
        change(&mut tokens, b"first", NOW, WEEK);
        assert_eq!(good(&tokens, NOW.saturating_add(WEEK)), ["first"]);
        (0..100_u8).for_each(|n| change(&mut tokens, &[n], NOW, WEEK));
        assert_eq!(tokens.accepted.len(), MAX_TOKENS);
    }

    #[test]
    fn presents_newest_token_first() {
        let (old, new) = (Secret::random_token(), Secret::random_token());
        let party = Party::Leader { helper_token: old.clone(), collector_token: TokenHash::of(b"c") };
        let mut tokens = Tokens::of(&party);
        tokens.change(NewToken::Presented(new.clone()), NOW, WEEK);
        assert_eq!(tokens.to_present(NOW).collect::<Vec<_>>(), [&new, &old]);
        assert_eq!(tokens.to_present(NOW.saturating_add(WEEK)).collect::<Vec<_>>(), [&new]);
        assert!(!format!("{tokens:?}").contains(new.expose_text().unwrap()));
    }
}
