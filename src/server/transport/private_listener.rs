//! Private listeners: read-only resources over plain HTTP, for monitoring and for results.
//!
//! Access needs no credentials. A private listener therefore listens on the loopback interface by default. A browser on
//! the same machine can reach that, so [`host`] checks the `Host` header.
//!
//! Each listener has its own connections and responds under load.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

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
    shared::clock::Clock,
    transport::{
        host,
        http::{Response, failure},
    },
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::Problem;
use dapbox_support::{Failpoints, Part};

/// Maximum number of connections of a listener.
const CONNECTIONS: usize = 64;

/// Timeout of the head of a request, and of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A request of a private listener: GET or HEAD, for a permitted host.
pub struct PrivateRequest {
    /// The path, with a leading slash.
    pub path: String,
    /// The query without the question mark, or empty.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
}

/// What a private listener needs.
#[derive(Clone)]
pub struct PrivateContext {
    /// Delays the next attempt after a failure.
    pub clock: Arc<dyn Clock>,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}

/// Serves connections until it is dropped.
pub async fn serve<H, F>(ctx: PrivateContext, part: Part, listener: TcpListener, handle: H)
where
    H: Fn(PrivateRequest) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Error>> + Send + 'static,
{
    let address = listener.local_addr().ok();
    let filter = warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .then(move |method: Method, path: warp::path::FullPath, query, headers| {
            let request = PrivateRequest { path: path.as_str().to_owned(), query, headers };
            answer(address, method, request, handle.clone())
        });
    let service = TowerToHyperService::new(warp::service(filter));
    let (permits, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    loop {
        ctx.failpoints.turn(part);
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%part, %error, "cannot accept private connection");
                ctx.clock.sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = service.clone();
        connections.spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%part, %error, "private connection failed");
            }
            drop(permit);
        });
    }
}

async fn answer<H, F>(address: Option<SocketAddr>, method: Method, request: PrivateRequest, handle: H) -> Response
where
    H: Fn(PrivateRequest) -> F,
    F: Future<Output = Result<Response, Error>>,
{
    let response = if let Err(problem) = host::check(address, &request.headers) {
        Err(problem.into())
    } else if !matches!(method, Method::GET | Method::HEAD) {
        Err(Problem::from_status(405).with_detail("this listener is read-only").into())
    } else {
        handle(request).await
    };
    let mut response = response.unwrap_or_else(failure);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    secured(response)
}

/// Adds headers that restrict browsers, unless the response has them.
pub fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        // Pages have their own policy. Browsers must not render anything else as more than text.
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
