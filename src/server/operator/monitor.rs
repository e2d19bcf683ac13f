//! The private listener for those who watch: metrics, health, the overview and the status page, over plain HTTP.
//!
//! Whoever reaches it may read all of it, and can change nothing. So it listens on the loopback interface unless it is
//! told otherwise. A browser on the same machine reaches that too, which is why `host` looks at what it asks for.
//!
//! It has its own connections, so that there is an answer however busy the other listener is, and it goes on until the
//! server has stopped, so that a load balancer learns why.

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
    app::App,
    operator::{metrics, overview, page},
    transport::{
        host,
        http::{Response, content, failure},
    },
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::Problem;
use dapbox_support::{Fault, Part};

/// Connections at once. Those who watch are few.
const CONNECTIONS: usize = 64;

/// How long a client may take over the head of a request, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Serves connections until it is dropped.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let (address, shared) = (listener.local_addr().ok(), app.clone());
    let filter = warp::method().and(warp::path::full()).and(warp::header::headers_cloned()).then(
        move |method: Method, path: warp::path::FullPath, headers| {
            let app = shared.clone();
            async move { answer(&app, address, &method, path.as_str(), &headers).await }
        },
    );
    let service = TowerToHyperService::new(warp::service(filter));
    let (places, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    loop {
        app.failpoints.turn(Part::MonitorListener);
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept monitoring connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
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
            drop(place);
        });
    }
}

async fn answer(
    app: &Arc<App>,
    address: Option<SocketAddr>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response {
    let response = if let Err(problem) = host::check(address, headers) {
        Err(problem.into())
    } else if !matches!(*method, Method::GET | Method::HEAD) {
        Err(Problem::from_status(405).with_detail("nothing can be changed here").into())
    } else {
        look_up(app, path, headers).await
    };
    let mut response = response.unwrap_or_else(failure);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    secured(response)
}

async fn look_up(app: &Arc<App>, path: &str, headers: &HeaderMap) -> Result<Response, Error> {
    match path {
        "/" => status_page(app).await,
        "/metrics" => metrics(app, headers).await,
        "/status.json" => json(&overview::take(app).await?),
        "/healthz" => Ok(healthz(app)),
        "/readyz" => Ok(readyz(app)),
        _ => Err(Problem::from_status(404)
            .with_detail("there are /metrics, /healthz, /readyz, /status.json and /")
            .into()),
    }
}

/// The overview as a page for people.
async fn status_page(app: &Arc<App>) -> Result<Response, Error> {
    let overview = overview::take(app).await?;
    let mut response = content(StatusCode::OK, page::MEDIA_TYPE, page::render(&overview));
    let policy = HeaderValue::try_from(page::policy())
        .map_err(|error| Fault::while_doing("writing the policy of the status page", error))?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// Everything for Prometheus, in the newer format if it asks for that.
async fn metrics(app: &Arc<App>, headers: &HeaderMap) -> Result<Response, Error> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (open, shared) = (accept.contains("application/openmetrics-text"), app.clone());
    let text = tokio::task::spawn_blocking(move || metrics::text(&shared, open)).await;
    let (media_type, body) = text.map_err(|error| Fault::while_doing("gathering the metrics", error))??;
    Ok(content(StatusCode::OK, media_type, body))
}

/// Whether the process works. If not, nothing but a restart helps.
fn healthz(app: &App) -> Response {
    match overview::fault(app) {
        None => content(StatusCode::OK, TEXT, "ok\n"),
        Some(fault) => content(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{fault}\n")),
    }
}

/// Whether the server does its work. If not, that may be over by itself.
fn readyz(app: &App) -> Response {
    match overview::not_ready(app)[..] {
        [] => content(StatusCode::OK, TEXT, "ready\n"),
        ref reasons => content(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(value).map_err(|error| Fault::while_doing("writing an answer as JSON", error))?;
    Ok(content(StatusCode::OK, JSON, body))
}

/// What browsers must not do with what they get from here.
fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        // The page has a policy of its own. Nothing else is to be shown by a browser as more than text.
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
