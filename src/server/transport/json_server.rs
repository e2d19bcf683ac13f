//! A small listener for JSON over POST, used by the interop test API.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use warp::{
    Filter,
    http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE},
};

use crate::transport::{
    host,
    http::{Request, Response, content, failure},
    origin::Origin,
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::{Problem, media};

const JSON: &str = "application/json";
/// Maximum length of a body, in bytes. A measurement of a hundred thousand numbers is a megabyte.
const BODY_BYTES: usize = 16 << 20;
/// Timeout of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Grace period for requests in progress at the stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// A response: the HTTP status and the body.
pub type Answer = (u16, Value);

/// A running listener.
pub struct JsonServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    /// Closed when the listener has ended.
    ended: watch::Receiver<()>,
}

impl JsonServer {
    /// Listens, and answers each POST with the result of `handle` for its path and body. `None` becomes 404.
    pub async fn start<H, F>(listen: SocketAddr, handle: H) -> io::Result<Self>
    where
        H: Fn(String, Bytes) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<Answer>> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let filter =
            warp::method().and(warp::path::full()).and(warp::header::headers_cloned()).and(warp::body::stream());
        let filter = filter.then(move |method, path: warp::path::FullPath, headers: HeaderMap, body| {
            let path = path.as_str().to_owned();
            let request = Request::new(method, path, String::new(), headers, Origin::LOCAL, body);
            answer(address, request, handle.clone())
        });
        let (stop, stopped) = oneshot::channel();
        let server = warp::serve(filter).incoming(listener).graceful(async {
            // Stopped, or dropped.
            let _ = stopped.await;
        });
        let (runs, ended) = watch::channel(());
        let running = tokio::spawn(async move {
            let _runs = runs;
            server.run().await;
        });
        Ok(Self { address, stop, running, ended })
    }

    /// Resolves when the listener has ended without having been stopped.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new requests, and a grace period for those in progress.
    pub async fn stop(self) {
        let Self { stop, mut running, .. } = self;
        drop(stop);
        if timeout(SHUTDOWN_GRACE, &mut running).await.is_err() {
            running.abort();
        }
    }
}

async fn answer<H, F>(address: SocketAddr, mut request: Request, handle: H) -> Response
where
    H: Fn(String, Bytes) -> F,
    F: Future<Output = Option<Answer>>,
{
    if let Err(problem) = host::check(Some(address), &request.headers) {
        return failure(Error::Problem(problem));
    }
    if request.method != Method::POST {
        return failure(Error::Problem(Problem::from_status(405)));
    }
    // Browsers send this media type to another origin only after a preflight request.
    if !request.header(CONTENT_TYPE).is_some_and(|found| media::matches(found, JSON)) {
        return failure(Error::Problem(Problem::from_status(415).with_detail(format!("the body must be {JSON}"))));
    }
    let body = match body(&mut request).await {
        Ok(body) => body,
        Err(problem) => return failure(Error::Problem(problem)),
    };
    match handle(request.path.clone(), body).await {
        Some((status, value)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            content(status, JSON, value.to_string())
        }
        None => failure(Error::Problem(Problem::from_status(404))),
    }
}

async fn body(request: &mut Request) -> Result<Bytes, Problem> {
    request.expect_at_most(BODY_BYTES)?;
    let (deadline, mut body) = (Instant::now() + BODY_TIMEOUT, Vec::new());
    while let Some(part) = request.next_chunk(deadline).await? {
        if body.len() + part.len() > BODY_BYTES {
            return Err(Request::too_long(BODY_BYTES));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.into())
}
