//! Whether a connection still serves anybody.
//!
//! A connection is of use while a request is being answered, and as long as its client takes what we send. What the
//! client sends does not count: one that sends the head of a request byte by byte, or only pings, is not served. This
//! holds for every protocol and for what comes before one, so that there is one rule, and none that a new protocol could
//! be without.

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

/// Whether a connection still serves anybody.
pub struct Activity {
    /// Requests that are being answered.
    running: AtomicUsize,
    /// When it last did.
    last: Mutex<Instant>,
}

impl Activity {
    /// That of a connection that begins.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), last: Mutex::new(Instant::now()) })
    }

    /// Says that a request is being answered, until the guard is dropped.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.running.fetch_add(1, Ordering::SeqCst);
        Answering(self.clone())
    }

    /// Says that the connection served its client just now.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Resolves when the connection has served nobody for that long.
    pub async fn ceases(&self, patience: Duration) {
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

/// A request is being answered for as long as this lives.
pub struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        // In this order, or the connection would seem to have been idle all the time.
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A stream that notes when its client takes something.
pub struct Noted<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Noted<S> {
    /// Notes it there.
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

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
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
