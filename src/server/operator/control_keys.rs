//! HPKE keys on the control socket (`dapbox keys`).

use std::sync::Arc;

use warp::http::StatusCode;

use crate::{
    operator::{
        context::OperatorContext,
        control_http::{json, read},
    },
    transport::http::{Request, Response},
    upkeep::supervise::run_to_completion,
};
use dapbox_aggregator::{
    Error,
    keys::{KeyError, Request as Order},
    views::keys::RotateRequest,
};
use dapbox_protocol::wire::Problem;

/// The path of keys.
pub const PATH: &str = "/keys";

/// Answers a request with a path that begins with [`PATH`].
pub async fn answer(ctx: &Arc<OperatorContext>, mut request: Request) -> Result<Response, Error> {
    let (method, path) = (request.method.as_str().to_owned(), request.path.clone());
    let mut parts = path.strip_prefix(PATH).unwrap_or_default().split('/').skip(1);
    let order = match (method.as_str(), parts.next(), parts.next(), parts.next()) {
        ("GET", None, ..) => return json(StatusCode::OK, &ctx.upkeep.keys.list().await?),
        ("POST", Some("rotate"), None, _) => {
            let RotateRequest { now } = read(ctx, &mut request).await?;
            Order::Rotate { now }
        }
        ("POST", Some(id), Some("activate"), None) => Order::Activate(parse(id)?),
        ("POST", Some(id), Some("disable"), None) => Order::Disable(parse(id)?),
        ("DELETE", Some(id), None, _) => Order::Delete(parse(id)?),
        _ => return Err(Problem::from_status(404).into()),
    };
    let keys = ctx.upkeep.keys.clone();
    // A stored change must be applied even if the operator disconnects.
    let changes = run_to_completion(async move {
        let changed = keys.change(order).await;
        Ok(changed.map_err(|error| error.map_refusal(refusal))?)
    });
    json(StatusCode::OK, &changes.await?)
}

fn refusal(why: KeyError) -> Problem {
    let status = if matches!(why, KeyError::Unknown(_)) { 404 } else { 409 };
    Problem::from_status(status).with_detail(why.to_string())
}

fn parse(id: &str) -> Result<u8, Problem> {
    id.parse()
        .map_err(|_| Problem::from_status(400).with_detail("invalid HPKE key id; expected a number from 0 to 255"))
}
