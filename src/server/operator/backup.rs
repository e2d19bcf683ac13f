//! Backups of a running server through the control socket.
//!
//! A backup is created on its own thread and sent in chunks through a bounded queue. A slow or disconnected reader
//! affects only the backup. A backup without its end marker is incomplete, which the reader detects.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{runtime::Handle, sync::mpsc};
use warp::Reply;

use crate::{operator::context::OperatorContext, transport::http::failure, upkeep::store_options::store_options};
use dapbox_aggregator::Error;
use dapbox_protocol::{model::Secret, wire::Problem};
use dapbox_store::{BackupError, BackupOptions};

/// The path of backups.
pub const PATH: &str = "/backup";
/// The query for a backup that includes the key.
pub const WITH_KEY: &str = "key";
/// Size of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Maximum number of queued chunks.
const QUEUED_CHUNKS: usize = 4;

type Chunk = Result<Bytes, BackupError>;

/// Responds with a backup, once its first chunk exists.
pub async fn answer(ctx: Arc<OperatorContext>, with_key: bool) -> warp::reply::Response {
    match begin(ctx, with_key).await {
        Ok((first, mut rest)) => {
            let first = futures_util::stream::iter([Ok(first)]);
            let rest = futures_util::stream::poll_fn(move |context| rest.poll_recv(context));
            warp::reply::stream(first.chain(rest)).into_response()
        }
        Err(error) => failure(error).into_response(),
    }
}

async fn begin(ctx: Arc<OperatorContext>, with_key: bool) -> Result<(Bytes, mpsc::Receiver<Chunk>), Error> {
    let mut key = None;
    if with_key {
        let config = ctx.config.get();
        let found = store_options(&config).key.read(&config.data_dir);
        key = Some(found.map_err(|error| Problem::from_status(409).with_detail(error.to_string()))?);
    }
    let (sender, mut receiver) = mpsc::channel::<Chunk>(QUEUED_CHUNKS);
    tokio::task::spawn_blocking(move || make(&ctx, key, sender));
    match receiver.recv().await {
        Some(Ok(first)) => Ok((first, receiver)),
        Some(Err(error)) => Err(Problem::from_status(409).with_detail(error.to_string()).into()),
        None => Err(Error::Busy),
    }
}

/// Creates a backup until it is complete or the reader disconnects.
fn make(ctx: &OperatorContext, key: Option<Secret>, sender: mpsc::Sender<Chunk>) {
    let options = BackupOptions { key, tracking_bytes: ctx.config.get().limits.max_backup_tracking_bytes };
    let mut pieces = ChunkWriter { ctx, sender, piece: Vec::new() };
    match ctx.store.backup(&mut pieces, options) {
        Ok(made) => tracing::info!(record_count = made.records, bytes = made.bytes, "backup created"),
        Err(error) => {
            tracing::warn!(%error, "backup failed");
            pieces.send(Err(error));
        }
    }
}

/// Writes to the queue in chunks.
struct ChunkWriter<'a> {
    ctx: &'a OperatorContext,
    sender: mpsc::Sender<Chunk>,
    piece: Vec<u8>,
}

impl ChunkWriter<'_> {
    /// Waits for a place in the queue. Returns `false` if the reader has disconnected or the server stops.
    fn send(&self, piece: Chunk) -> bool {
        Handle::current().block_on(async {
            tokio::select! {
                sent = self.sender.send(piece) => sent.is_ok(),
                () = self.ctx.stop.stopped() => false,
            }
        })
    }
}

impl io::Write for ChunkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() || self.send(Ok(piece.into())) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader has disconnected, or the server is stopping"))
    }
}
