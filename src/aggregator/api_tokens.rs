//! API tokens, with which control planes authenticate to the management API. Operators create, list and revoke them.
//! Several can be valid, so that a token can be rotated without downtime.

use dapbox_protocol::model::Time;
use dapbox_store::{
    Tx, WriteError,
    api_token::{ApiToken, MAX_API_TOKENS, check_name},
};

/// Why an API token is not added or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiTokenError {
    /// The name is invalid.
    #[error("{0}")]
    Name(&'static str),
    /// The name or token exists.
    #[error("API token {0:?} exists already; revoke it or choose another name")]
    Taken(String),
    /// There are too many tokens.
    #[error("{MAX_API_TOKENS} API tokens exist, which is the maximum; revoke some")]
    TooMany,
    /// No token has this name.
    #[error("API token {0:?} does not exist; list them with 'dapbox token list'")]
    Unknown(String),
}

/// Adds a token and deletes expired ones. Adding the same token again succeeds.
pub fn add(tx: &mut Tx<'_>, token: ApiToken, now: Time) -> Result<(), WriteError<ApiTokenError>> {
    check_name(&token.name).map_err(|why| WriteError::Refused(ApiTokenError::Name(why)))?;
    let good: Vec<_> = tx.api_tokens().values().filter(|known| known.is_active(now)).collect();
    match good.iter().find(|known| known.name == token.name || known.hash == token.hash) {
        Some(known) if known.name == token.name && known.hash == token.hash => return Ok(()),
        Some(known) => return Err(WriteError::Refused(ApiTokenError::Taken(known.name.clone()))),
        None if good.len() >= MAX_API_TOKENS => return Err(WriteError::Refused(ApiTokenError::TooMany)),
        None => {}
    }
    let expired: Vec<_> =
        tx.api_tokens().values().filter(|known| !known.is_active(now)).map(|known| known.hash).collect();
    expired.iter().for_each(|hash| tx.remove_api_token(hash));
    Ok(tx.put_api_token(token)?)
}

/// Revokes the token with this name.
pub fn revoke(tx: &mut Tx<'_>, name: &str) -> Result<ApiToken, WriteError<ApiTokenError>> {
    let found = tx.api_tokens().values().find(|token| token.name == name).cloned();
    let Some(token) = found else { return Err(WriteError::Refused(ApiTokenError::Unknown(name.to_owned()))) };
    tx.remove_api_token(&token.hash);
    Ok(token)
}
