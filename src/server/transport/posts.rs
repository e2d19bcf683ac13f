//! A small listener of its own: POSTs with JSON, answered by one function. The interop test API is served by it, beside
//! whatever else a process does.

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
/// The longest body in bytes. A measurement of a hundred thousand numbers is a megabyte.
const BODY_BYTES: usize = 16 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in progress may go on when it stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// An answer: the HTTP status, and the body.
pub type Answer = (u16, Value);

/// A listener that runs until it is stopped.
pub struct Posts {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    /// Closed when it has ended, however that came.
    ended: watch::Receiver<()>,
}

impl Posts {
    /// Listens, and answers every POST with what `handle` makes of its path and body. `None` is answered 404.
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
            // Stopped, or forgotten by whoever could stop it.
            let _ = stopped.await;
        });
        let (runs, ended) = watch::channel(());
        let running = tokio::spawn(async move {
            let _runs = runs;
            server.run().await;
        });
        Ok(Self { address, stop, running, ended })
    }

    /// Resolves when it has ended without having been stopped.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new requests, those in progress may go on for a moment.
    pub async fn stop(self) {
        let Self { stop, mut running, .. } = self;
        drop(stop);
        if timeout(LAST_WORDS, &mut running).await.is_err() {
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
    // A page in a browser on this machine can send anything but this to another origin without being asked first.
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
