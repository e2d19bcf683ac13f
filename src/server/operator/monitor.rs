//! The monitoring listener: metrics, health, overview and status page over plain HTTP.
//!
//! Access is read-only and needs no credentials. It therefore listens on the loopback interface by default. A browser
//! on the same machine can reach that, so `host` checks the `Host` header.
//!
//! The listener has its own connections and responds under load. It stops last, so that a load balancer learns why the
//! server stops.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use warp::{
    Filter,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

use crate::{
    operator::{context::MonitorContext, metrics, overview, page},
    transport::{
        host,
        http::{Response, content, failure},
    },
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::Problem;
use dapbox_support::{Fault, Part};

/// Maximum number of connections.
const CONNECTIONS: usize = 64;

/// Timeout of the head of a request, and of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Serves connections until it is dropped.
pub async fn serve(ctx: Arc<MonitorContext>, listener: TcpListener) {
    let (address, shared) = (listener.local_addr().ok(), ctx.clone());
    let filter = warp::method().and(warp::path::full()).and(warp::header::headers_cloned()).then(
        move |method: Method, path: warp::path::FullPath, headers| {
            let ctx = shared.clone();
            async move { answer(&ctx, address, &method, path.as_str(), &headers).await }
        },
    );
    let service = TowerToHyperService::new(warp::service(filter));
    let (permits, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    loop {
        ctx.failpoints.turn(Part::MonitorListener);
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept monitoring connection");
                ctx.clock.sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = service.clone();
        connections.spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "monitoring connection failed");
            }
            drop(permit);
        });
    }
}

async fn answer(
    ctx: &Arc<MonitorContext>,
    address: Option<SocketAddr>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response {
    let response = if let Err(problem) = host::check(address, headers) {
        Err(problem.into())
    } else if !matches!(*method, Method::GET | Method::HEAD) {
        Err(Problem::from_status(405).with_detail("this listener is read-only").into())
    } else {
        look_up(ctx, path, headers).await
    };
    let mut response = response.unwrap_or_else(failure);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    secured(response)
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

/// Adds headers that restrict browsers.
fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        // The status page has its own policy. Browsers must not render anything else as more than text.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
