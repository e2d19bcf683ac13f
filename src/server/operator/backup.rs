//! A backup of the running server, through the control socket.
//!
//! It is made on a thread of its own and handed on in pieces, of which a few wait at most: whoever takes them may be slow,
//! or go away, and only the backup ends with that. What was answered with success and has no proper end is not a backup,
//! and its reader can tell.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{runtime::Handle, sync::mpsc};
use warp::Reply;

use crate::{app::App, transport::http::failure};
use dapbox_aggregator::Error;
use dapbox_protocol::{model::Secret, wire::Problem};
use dapbox_store::{BackupError, BackupOptions};

/// Where a backup is asked for.
pub const PATH: &str = "/backup";
/// The query of a request that asks for the key as well.
pub const WITH_KEY: &str = "key";
/// How many bytes are handed on at once.
const PIECE_BYTES: usize = 256 << 10;
/// How many pieces wait for whoever takes them.
const PIECES: usize = 4;

type Piece = Result<Bytes, BackupError>;

/// Answers with a backup, once its beginning is there.
pub async fn answer(app: Arc<App>, with_key: bool) -> warp::reply::Response {
    match begin(app, with_key).await {
        Ok((first, mut rest)) => {
            let first = futures_util::stream::iter([Ok(first)]);
            let rest = futures_util::stream::poll_fn(move |context| rest.poll_recv(context));
            warp::reply::stream(first.chain(rest)).into_response()
        }
        Err(error) => failure(error).into_response(),
    }
}

async fn begin(app: Arc<App>, with_key: bool) -> Result<(Bytes, mpsc::Receiver<Piece>), Error> {
    let mut key = None;
    if with_key {
        let found = crate::store_options(&app.config).key.read(&app.config.data_dir);
        key = Some(found.map_err(|error| Problem::from_status(409).with_detail(error.to_string()))?);
    }
    let (sender, mut receiver) = mpsc::channel::<Piece>(PIECES);
    tokio::task::spawn_blocking(move || make(&app, key, sender));
    match receiver.recv().await {
        Some(Ok(first)) => Ok((first, receiver)),
        Some(Err(error)) => Err(Problem::from_status(409).with_detail(error.to_string()).into()),
        None => Err(Error::Busy),
    }
}

/// Makes a backup for as long as somebody takes it.
fn make(app: &App, key: Option<Secret>, sender: mpsc::Sender<Piece>) {
    let options = BackupOptions { key, tracking_bytes: app.config.limits.max_backup_tracking_bytes };
    let mut pieces = Pieces { app, sender, piece: Vec::new() };
    match app.store.backup(&mut pieces, options) {
        Ok(made) => tracing::info!(record_count = made.records, bytes = made.bytes, "backup created"),
        Err(error) => {
            tracing::warn!(%error, "backup failed");
            pieces.send(Err(error));
        }
    }
}

/// Hands bytes on in pieces.
struct Pieces<'a> {
    app: &'a App,
    sender: mpsc::Sender<Piece>,
    piece: Vec<u8>,
}

impl Pieces<'_> {
    /// Waits for a place. False if nobody takes it any more, or the server is asked to stop.
    fn send(&self, piece: Piece) -> bool {
        Handle::current().block_on(async {
            tokio::select! {
                sent = self.sender.send(piece) => sent.is_ok(),
                () = self.app.stopped() => false,
            }
        })
    }
}

impl io::Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() || self.send(Ok(piece.into())) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it any more, or the server is stopping"))
    }
}
