//! Accepting connections and serving them until the server stops.
//!
//! A connection has its place, one of a limited number, from the moment that it is accepted. What must happen before it
//! can be served, such as a TLS handshake, happens beside the loop that accepts. HTTP/1.1 and HTTP/2 are told apart by the
//! first bytes, which for HTTP/2 never differ (RFC 9113 section 3.4).

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::Instant,
};
use warp::{Filter, Reply};

use crate::{
    app::App,
    transport::{
        activity::{Activity, Noted},
        http::Request,
        origin::Origin,
    },
};
use dapbox_aggregator::config::Config;
use dapbox_support::Part;

/// The longest head of a request in bytes (HTTP/1.1). Ours are a few hundred; browsers may send some more.
const HEAD_BYTES: usize = 64 << 10;
/// The longest list of headers in bytes (HTTP/2, RFC 9113 section 6.5.2).
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// Requests in progress at once on one connection (HTTP/2). There should be at least 100 (RFC 9113 section 6.5.2).
const STREAMS: u32 = 128;
/// How much a client may send ahead on one connection, whatever its streams (HTTP/2). A leader in another part of the
/// world, 100 ms away, can send 10 MB per second with it.
const WINDOW: u32 = 1 << 20;
/// How long a connection that is to end, because the server stops or nothing happened on it, may go on without serving
/// anybody.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often it is said that there are too many connections.
const COMPLAINT: Duration = Duration::from_secs(60);

/// A connection that can be served.
pub struct Opened<S> {
    /// Where requests come in.
    pub stream: S,
    /// Who is at the other end.
    pub origin: Origin,
}

/// What a connection that was accepted becomes. It may take its time, and may fail.
pub type Opening<S> = Pin<Box<dyn Future<Output = io::Result<Opened<S>>> + Send>>;

/// A socket that connections come in on.
pub trait Accept: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Waits for the next connection.
    fn next(&self) -> impl Future<Output = io::Result<Opening<Self::Stream>>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<Opening<TcpStream>> {
        let (stream, address) = self.accept().await?;
        // Answers are written at once; waiting for more to send only delays them.
        stream.set_nodelay(true)?;
        Ok(Box::pin(async move { Ok(Opened { stream, origin: Origin::of(address, false) }) }))
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<Opening<UnixStream>> {
        let (stream, _) = self.accept().await?;
        Ok(Box::pin(async move { Ok(Opened { stream, origin: Origin::LOCAL }) }))
    }
}

/// Serves connections with `handle` until the server stops, then lets requests in progress finish. Its connections are
/// limited apart from all others: whoever floods the public address does not shut the operator out.
pub async fn serve<L, H, F>(app: Arc<App>, part: Part, listener: L, handle: H)
where
    L: Accept,
    H: Fn(Arc<App>, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output: Reply> + Send + 'static,
{
    let places = Arc::new(places(&app.config));
    serve_within(app, part, listener, places, handle).await;
}

/// As many places as there may be connections.
pub fn places(config: &Config) -> Semaphore {
    Semaphore::new(config.limits.max_connections.min(Semaphore::MAX_PERMITS))
}

/// As [`serve`], with at most as many connections at once as there are places.
pub async fn serve_within<L, H, F>(app: Arc<App>, part: Part, listener: L, places: Arc<Semaphore>, handle: H)
where
    L: Accept,
    H: Fn(Arc<App>, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output: Reply> + Send + 'static,
{
    let (mut connections, mut complained) = (JoinSet::new(), None);
    loop {
        app.failpoints.turn(part);
        let opening = tokio::select! {
            accepted = listener.next() => match accepted {
                Ok(opening) => opening,
                Err(error) => {
                    refused(&error).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = app.stopped() => break,
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            drop(opening);
            too_many(&app, &mut complained);
            continue;
        };
        let (app, handle) = (app.clone(), handle.clone());
        connections.spawn(async move {
            let opened = tokio::select! {
                opened = opening => opened,
                () = app.stopped() => return,
            };
            match opened {
                Ok(opened) => converse(app, opened, handle).await,
                Err(error) => tracing::debug!(%error, "connection not established"),
            }
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection to its end.
async fn converse<S, H, F>(app: Arc<App>, opened: Opened<S>, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Arc<App>, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output: Reply> + Send + 'static,
{
    let Opened { stream, origin } = opened;
    let (shared, activity) = (app.clone(), Activity::new());
    let stream = Noted::new(stream, activity.clone());
    let busy = activity.clone();
    let filter = warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query, headers, body| {
            let origin = origin.behind(&headers, &shared.config.proxy.trusted);
            let request = Request::new(method, path.as_str().to_owned(), query, headers, origin, body);
            let (answer, answering) = (handle(shared.clone(), request), busy.answering());
            async move {
                let answer = answer.await;
                drop(answering);
                answer
            }
        });
    let service = TowerToHyperService::new(warp::service(filter));
    let builder = protocols(*app.config.limits.head_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = activity.ceases(*app.config.limits.head_timeout) => None,
        () = app.stopped() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // What is being answered is still answered. With HTTP/2 the client learns which requests will not be (RFC 9113
            // section 6.8).
            connection.as_mut().graceful_shutdown();
            activity.touch();
            tokio::select! {
                ended = connection => ended,
                () = activity.ceases(LAST_WORDS) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, client = ?origin.client, "connection failed");
    }
}

/// HTTP/1.1 and HTTP/2 with their limits.
fn protocols(head_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST_BYTES)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    builder
}

/// A connection that broke while it was accepted is its client's affair; anything else, such as too many open files,
/// is ours and will not be over at once.
async fn refused(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "cannot accept connection");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Counts a connection that found no place, and says so now and then.
fn too_many(app: &App, complained: &mut Option<Instant>) {
    app.refused_connections.fetch_add(1, Ordering::Relaxed);
    if complained.is_none_or(|last| last.elapsed() >= COMPLAINT) {
        *complained = Some(Instant::now());
        let max_connections = app.config.limits.max_connections;
        tracing::warn!(max_connections, "connection limit reached");
    }
}
