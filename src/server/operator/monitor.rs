//! The monitoring listener: metrics, health, overview and status page over plain HTTP.
//!
//! Access is read-only and needs no credentials: see `transport/private_listener.rs`.
//!
//! The listener stops last, so that a load balancer learns why the
//! server stops.

use std::sync::Arc;

use tokio::net::TcpListener;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    operator::{context::MonitorContext, metrics, overview, page},
    transport::{
        http::{Response, content},
        private_listener::{self, PrivateContext, PrivateRequest},
    },
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::Problem;
use dapbox_support::{Fault, Part};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Serves connections until it is dropped.
pub async fn serve(ctx: Arc<MonitorContext>, listener: TcpListener) {
    let private = PrivateContext { clock: ctx.clock.clone(), failpoints: ctx.failpoints.clone() };
    let handle = move |request: PrivateRequest| {
        let ctx = ctx.clone();
        async move { look_up(&ctx, &request.path, &request.headers).await }
    };
    private_listener::serve(private, Part::MonitorListener, listener, handle).await;
}

async fn look_up(ctx: &Arc<MonitorContext>, path: &str, headers: &HeaderMap) -> Result<Response, Error> {
    match path {
        "/" => status_page(ctx).await,
        "/metrics" => metrics(ctx, headers).await,
        "/status.json" => json(&overview::take(ctx).await?),
        "/healthz" => Ok(healthz(ctx)),
        "/readyz" => Ok(readyz(ctx)),
        _ => Err(Problem::from_status(404)
            .with_detail("unknown path; available: /metrics, /healthz, /readyz, /status.json, /")
            .into()),
    }
}

/// The status page.
async fn status_page(ctx: &Arc<MonitorContext>) -> Result<Response, Error> {
    let overview = overview::take(ctx).await?;
    let mut response = content(StatusCode::OK, page::MEDIA_TYPE, page::render(&overview));
    let policy = HeaderValue::try_from(page::policy())
        .map_err(|error| Fault::while_doing("creating the content security policy of the status page", error))?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// The metrics, as OpenMetrics if the client accepts that.
async fn metrics(ctx: &Arc<MonitorContext>, headers: &HeaderMap) -> Result<Response, Error> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (open, shared) = (accept.contains("application/openmetrics-text"), ctx.clone());
    let text = tokio::task::spawn_blocking(move || metrics::text(&shared, open)).await;
    let (media_type, body) = text.map_err(|error| Fault::while_doing("gathering the metrics", error))??;
    Ok(content(StatusCode::OK, media_type, body))
}

/// Whether the process works. If not, only a restart helps.
fn healthz(ctx: &MonitorContext) -> Response {
    match overview::fault(ctx) {
        None => content(StatusCode::OK, TEXT, "ok\n"),
        Some(fault) => content(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{fault}\n")),
    }
}

/// Whether the server is ready. If not, it may recover.
fn readyz(ctx: &MonitorContext) -> Response {
    match overview::not_ready(ctx)[..] {
        [] => content(StatusCode::OK, TEXT, "ready\n"),
        ref reasons => content(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(value).map_err(|error| Fault::while_doing("serializing a response", error))?;
    Ok(content(StatusCode::OK, JSON, body))
}
