//! Detects idle connections.
//!
//! A connection is active while a request is being answered and while the client receives data. Data that the client
//! sends does not count, such as a slow request head or pings. The rule applies to every protocol, including the phase
//! before one is known.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// The activity of a connection.
pub struct Activity {
    /// Number of requests being answered.
    running: AtomicUsize,
    /// Time of the last activity.
    last: Mutex<Instant>,
}

impl Activity {
    /// The activity of a new connection.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), last: Mutex::new(Instant::now()) })
    }

    /// Marks a request as being answered, until the guard is dropped.
    pub fn answering(self: &Arc<Self>) -> RequestGuard {
        self.running.fetch_add(1, Ordering::SeqCst);
        RequestGuard(self.clone())
    }

    /// Records activity.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves when the connection has been idle for `patience`.
    pub async fn idle_for(&self, patience: Duration) {
        loop {
            let last = match self.running.load(Ordering::SeqCst) {
                0 => *self.last.lock().unwrap_or_else(PoisonError::into_inner),
                _ => Instant::now(),
            };
            let end = last + patience;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Marks a request as being answered.
pub struct RequestGuard(Arc<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // In this order, or the connection would seem idle since the request began.
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A stream that records when the client receives data.
pub struct ActivityStream<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> ActivityStream<S> {
    /// Wraps a stream.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.touch();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ActivityStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ActivityStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
