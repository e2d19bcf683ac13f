//! Requests and responses of the control socket.

use serde::{Serialize, de::DeserializeOwned};
use warp::http::StatusCode;

use crate::{
    operator::context::OperatorContext,
    transport::http::{Request, Response, content},
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::Problem;
use dapbox_support::Fault;

const JSON: &str = "application/json";

/// Reads the JSON body of a request.
pub async fn read<T: DeserializeOwned>(ctx: &OperatorContext, request: &mut Request) -> Result<T, Error> {
    read_at_most(ctx.config.get().limits.max_message_bytes, ctx, request).await
}

/// Reads the JSON body of a request, of at most `limit` bytes.
pub async fn read_at_most<T: DeserializeOwned>(
    limit: usize,
    ctx: &OperatorContext,
    request: &mut Request,
) -> Result<T, Error> {
    let (config, bodies) = (ctx.config.get(), &ctx.slots.request_bodies);
    let limits = &config.limits;
    let (timeout, silence) = (*limits.request_timeout, *limits.max_body_silence);
    let body = request.read_body(limit, timeout, &ctx.memory, bodies, silence).await?;
    let read = serde_json::from_slice(&body);
    read.map_err(|error| Problem::from_status(400).with_detail(format!("invalid request: {error}")).into())
}

/// A response with a JSON body.
pub fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(value).map_err(|error| Fault::while_doing("serializing a response", error))?;
    Ok(content(status, JSON, body))
}
