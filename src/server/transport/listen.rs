//! Accepts connections and serves them until the server stops.
//!
//! # Decision: TLS handshakes run outside of the accept loop
//!
//! A connection counts against its limit from the moment that it is accepted. Slow steps before the first request, such
//! as a TLS handshake, run in the task of the connection. Slow handshakes therefore use connections but do not delay
//! others. The control socket and the monitoring listener have their own limits.
//!
//! HTTP/1.1 and HTTP/2 are distinguished by the first bytes, which are constant for HTTP/2 (RFC 9113 section 3.4).

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
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
    shared::{config_handle::ConfigHandle, stop::StopSignal},
    transport::{
        activity::{Activity, ActivityStream},
        http::Request,
        origin::Origin,
    },
};
use dapbox_aggregator::config::Config;
use dapbox_support::{Failpoints, Part};

/// Maximum length of a request head in bytes (HTTP/1.1). Peers send a few hundred, browsers somewhat more.
const HEAD_BYTES: usize = 64 << 10;
/// Maximum length of the header list in bytes (HTTP/2, RFC 9113 section 6.5.2).
const HEADER_LIST_BYTES: u32 = 16 << 10;
/// Maximum number of concurrent requests per connection (HTTP/2). It should be at least 100 (RFC 9113 section 6.5.2).
const STREAMS: u32 = 128;
/// Flow control window of a connection in bytes (HTTP/2). It allows 10 MB per second at a round trip time of 100 ms.
const WINDOW: u32 = 1 << 20;
/// Grace period of an idle connection that is being closed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Interval of warnings about too many connections.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A connection that is ready for requests.
pub struct Opened<S> {
    /// The stream of requests.
    pub stream: S,
    /// The client.
    pub origin: Origin,
}

/// The setup of an accepted connection. May take long, and may fail.
pub type Opening<S> = Pin<Box<dyn Future<Output = io::Result<Opened<S>>> + Send>>;

/// A listening socket.
pub trait Accept: Send + 'static {
    /// The stream of a connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Accepts the next connection.
    fn next(&self) -> impl Future<Output = io::Result<Opening<Self::Stream>>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<Opening<TcpStream>> {
        let (stream, address) = self.accept().await?;
        // Responses are complete, so that buffering would only delay them.
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

/// What a listener needs.
#[derive(Clone)]
pub struct ListenContext {
    /// The configuration.
    pub config: ConfigHandle,
    /// Ends the listener.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
}

/// Serves connections until the server stops, then finishes requests in progress. The listener has its own limit of
/// connections: a flood of the public address does not lock out the operator.
pub async fn serve<L, H, F>(ctx: ListenContext, part: Part, listener: L, handle: H)
where
    L: Accept,
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output: Reply> + Send + 'static,
{
    let permits = Arc::new(connection_limit(&ctx.config.get()));
    serve_within(ctx, part, listener, permits, handle).await;
}

/// The limit of connections.
pub fn connection_limit(config: &Config) -> Semaphore {
    Semaphore::new(config.limits.max_connections.min(Semaphore::MAX_PERMITS))
}

/// Serves connections like [`serve`], with a limit that others can observe.
pub async fn serve_within<L, H, F>(ctx: ListenContext, part: Part, listener: L, permits: Arc<Semaphore>, handle: H)
where
    L: Accept,
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output: Reply> + Send + 'static,
{
    let (mut connections, mut last_warning) = (JoinSet::new(), None);
    loop {
        ctx.failpoints.turn(part);
        let opening = tokio::select! {
            accepted = listener.next() => match accepted {
                Ok(opening) => opening,
                Err(error) => {
                    refused(&error).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = ctx.stop.stopped() => break,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            drop(opening);
            warn_of_refusal(&ctx, &mut last_warning);
            continue;
        };
        let (ctx, handle) = (ctx.clone(), handle.clone());
        connections.spawn(async move {
            let opened = tokio::select! {
                opened = opening => opened,
                () = ctx.stop.stopped() => return,
            };
            match opened {
                Ok(opened) => serve_connection(ctx, opened, handle).await,
                Err(error) => tracing::debug!(%error, "connection not established"),
            }
            drop(permit);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection to its end.
async fn serve_connection<S, H, F>(ctx: ListenContext, opened: Opened<S>, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output: Reply> + Send + 'static,
{
    let Opened { stream, origin } = opened;
    let (config, activity) = (ctx.config.clone(), Activity::new());
    let stream = ActivityStream::new(stream, activity.clone());
    let busy = activity.clone();
    let filter = warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query, headers, body| {
            let origin = origin.behind(&headers, &config.get().proxy.trusted);
            let request = Request::new(method, path.as_str().to_owned(), query, headers, origin, body);
            let (answer, answering) = (handle(request), busy.answering());
            async move {
                let answer = answer.await;
                drop(answering);
                answer
            }
        });
    let service = TowerToHyperService::new(warp::service(filter));
    let builder = protocols(*ctx.config.get().limits.head_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = activity.idle_for(*ctx.config.get().limits.head_timeout) => None,
        () = ctx.stop.stopped() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // Requests in progress are finished. With HTTP/2, the client learns which requests will not be answered
            // (RFC 9113 section 6.8).
            connection.as_mut().graceful_shutdown();
            activity.touch();
            tokio::select! {
                ended = connection => ended,
                () = activity.idle_for(SHUTDOWN_GRACE) => Ok(()),
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

/// Handles an error of `accept`. A connection that broke is the client's problem. Other errors, such as too many open
/// files, are ours and persist, so the loop pauses.
async fn refused(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "cannot accept connection");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Warns about a refused connection, at most once per interval.
fn warn_of_refusal(ctx: &ListenContext, last_warning: &mut Option<Instant>) {
    if last_warning.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
        *last_warning = Some(Instant::now());
        let max_connections = ctx.config.get().limits.max_connections;
        tracing::warn!(max_connections, "connection limit reached");
    }
}
