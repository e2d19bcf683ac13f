//! Bearer tokens of requests, compared by their hashes (DAP-09 section 3.1).

use warp::http::{HeaderMap, header};

use dapbox_protocol::{
    model::{TaskId, Time, TokenHash, Tokens},
    wire::{Problem, ProblemType},
};

/// The header of the interop test design. Deployed leaders still send it.
const DAP_AUTH_TOKEN: &str = "dap-auth-token";

/// Checks that a request carries a valid token, and returns its hash. `Authorization: Bearer` takes precedence over
/// `DAP-Auth-Token`.
pub fn check(headers: &HeaderMap, task: TaskId, tokens: &Tokens, now: Time) -> Result<TokenHash, Problem> {
    let refuse = |detail: &str| Problem::new(ProblemType::UnauthorizedRequest).with_detail(detail).with_task(task);
    match token(headers) {
        Some(token) => tokens.find(token, now).ok_or_else(|| refuse("the token is not valid for the task")),
        None => Err(refuse("missing token; send Authorization: Bearer or DAP-Auth-Token")),
    }
}

fn token(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers).or_else(|| Some(headers.get(DAP_AUTH_TOKEN)?.as_bytes()))
}

/// Extracts the token of `Authorization: Bearer` (RFC 6750 section 2.1).
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn prefers_bearer_with_any_case() {
        assert_eq!(token(&headers(&[("authorization", "bEARER a"), ("dap-auth-token", "b")])), Some(&b"a"[..]));
        assert_eq!(token(&headers(&[("dap-auth-token", "b")])), Some(&b"b"[..]));
        assert_eq!(token(&headers(&[("authorization", "Basic abc")])), None);
        assert_eq!(token(&headers(&[])), None);
    }
}
