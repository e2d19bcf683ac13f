//! Replaces the tokens of tasks.

use dapbox_protocol::model::{
    Time,
    tokens::{NewToken, TokenChange, TokenStatus},
};
use dapbox_store::{Tx, WriteError};

/// Why a token is not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The task does not exist.
    #[error("the task does not exist; list tasks with 'dapbox task list'")]
    NoTask,
    /// A helper presents no token.
    #[error("a helper presents no token; change the token that it accepts with 'dapbox task token accept'")]
    NothingPresented,
    /// The tokens belong to the peer.
    #[error(
        "the task was set up in-band and uses the tokens in the file of its peer (option taskprov.peers); change \
             them there"
    )]
    InBand,
}

/// Replaces a token. Returns the valid tokens.
pub fn change(tx: &mut Tx<'_>, change: TokenChange, now: Time) -> Result<Vec<TokenStatus>, WriteError<TokenError>> {
    let Some(state) = tx.task(&change.task) else { return Err(WriteError::Refused(TokenError::NoTask)) };
    if state.in_band.is_some() {
        return Err(WriteError::Refused(TokenError::InBand));
    }
    let presents = state.tokens.to_present(now).next().is_some();
    if matches!(change.new, NewToken::Presented(_)) && !presents {
        return Err(WriteError::Refused(TokenError::NothingPresented));
    }
    let mut tokens = state.tokens.clone();
    tokens.change(change.new, now, change.keep_old);
    let statuses = tokens.statuses(now);
    tx.put_tokens(&change.task, tokens)?;
    Ok(statuses)
}
