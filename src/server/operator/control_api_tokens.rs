//! API tokens on the control socket (`dapbox token`).

use std::sync::Arc;

use warp::http::StatusCode;

use crate::{
    operator::{
        context::OperatorContext,
        control_http::{json, read},
        management,
    },
    transport::http::{Request, Response, empty},
};
use dapbox_aggregator::{
    Error,
    api_tokens::{self, ApiTokenError},
};
use dapbox_protocol::wire::Problem;
use dapbox_store::{Tx, api_token::ApiToken};
use dapbox_support::Point;

/// The path of API tokens.
pub const PATH: &str = "/api_tokens";

/// Answers a request with a path that begins with [`PATH`].
pub async fn answer(ctx: &Arc<OperatorContext>, mut request: Request) -> Result<Response, Error> {
    let (method, path) = (request.method.as_str().to_owned(), request.path.clone());
    let name = path.strip_prefix(PATH).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned);
    match (method.as_str(), name) {
        ("GET", None) => json(StatusCode::OK, &management::tokens(&ctx.management)?),
        ("POST", None) => {
            let token: ApiToken = read(ctx, &mut request).await?;
            let clock = ctx.clock.clone();
            let add = move |tx: &mut Tx<'_>| api_tokens::add(tx, token, clock.now());
            ctx.store.try_write(Point::ApiTokenAdd, add).await.map_err(|error| error.map_refusal(refusal))?;
            Ok(empty(StatusCode::CREATED))
        }
        ("DELETE", Some(name)) => {
            let revoke = move |tx: &mut Tx<'_>| api_tokens::revoke(tx, &name);
            let revoked = ctx.store.try_write(Point::ApiTokenRevoke, revoke).await;
            let revoked = revoked.map_err(|error| error.map_refusal(refusal))?;
            ctx.management.api.forget(&revoked.hash);
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Err(Problem::from_status(404).into()),
    }
}

fn refusal(why: ApiTokenError) -> Error {
    let status = match why {
        ApiTokenError::Name(_) => 400,
        ApiTokenError::Unknown(_) => 404,
        ApiTokenError::Taken(_) | ApiTokenError::TooMany => 409,
    };
    Problem::from_status(status).with_detail(why.to_string()).into()
}
