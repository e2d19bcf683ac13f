//! The tokens that a control plane shows to the management API: made, listed and revoked by the operator. Several are in
//! force at once, so that a new one can be tried before the old one goes.

use dapbox_protocol::model::Time;
use dapbox_store::{
    Tx, WriteError,
    api_token::{ApiToken, MAX_API_TOKENS, check_name},
};

/// Why an API token is not made or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiTokenError {
    /// It cannot have such a name.
    #[error("{0}")]
    Name(&'static str),
    /// Another one has the name.
    #[error("there is an API token {0:?} already; revoke it, or choose another name")]
    Taken(String),
    /// There are too many.
    #[error("there are {MAX_API_TOKENS} API tokens; revoke some")]
    TooMany,
    /// There is none with this name.
    #[error("there is no API token {0:?}; 'dapbox token list' shows all")]
    Unknown(String),
}

/// Adds a token. Those that have expired go. The same one again is fine.
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

/// Revokes the token with this name: it is refused from now on.
pub fn revoke(tx: &mut Tx<'_>, name: &str) -> Result<ApiToken, WriteError<ApiTokenError>> {
    let found = tx.api_tokens().values().find(|token| token.name == name).cloned();
    let Some(token) = found else { return Err(WriteError::Refused(ApiTokenError::Unknown(name.to_owned()))) };
    tx.remove_api_token(&token.hash);
    Ok(token)
}
