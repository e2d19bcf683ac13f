//! A streaming decoder for `UploadRequest` (DAP-18 section 4.4.2), which may be too long to buffer.

use bytes::{Bytes, BytesMut};

use crate::{
    model::{Report, TaskParameters},
    wire::{codec::Malformed, shared::decode},
};

use super::messages::{REPORT_LENGTHS, REPORT_START, TimeUnit, get_report};

/// Decodes an upload while its body arrives.
///
/// For each chunk, call [`feed`](Self::feed) and then [`next`](Self::next) until it returns `None`. At the end of the
/// body, call [`finish`](Self::finish). Used like this, the decoder buffers at most one report and one chunk. Discard
/// it after an error.
#[derive(Debug)]
pub struct UploadReader {
    unit: TimeUnit,
    max_report_bytes: usize,
    buffer: BytesMut,
    is_empty: bool,
}

impl UploadReader {
    /// Creates a decoder for the reports of a task, each of at most `max_report_bytes` bytes.
    pub fn new(task: &TaskParameters, max_report_bytes: usize) -> Self {
        Self { unit: TimeUnit::of(task), max_report_bytes, buffer: BytesMut::new(), is_empty: true }
    }

    /// Adds a chunk of the body.
    pub fn feed(&mut self, chunk: Bytes) {
        self.buffer.extend_from_slice(&chunk);
    }

    /// Decodes the next report; `None` if it is not complete yet.
    ///
    /// Fails as soon as a length prefix exceeds the limit.
    #[allow(clippy::should_implement_trait, reason = "`None` means that more input is needed")]
    pub fn next(&mut self) -> Result<Option<Report>, Malformed> {
        let Some(len) = self.next_len()? else { return Ok(None) };
        self.is_empty = false;
        let report = self.buffer.split_to(len).freeze();
        decode("Report", report, |r| get_report(r, self.unit)).map(Some)
    }

    /// Ends the body. Fails if it had no report, or if bytes are left.
    pub fn finish(self) -> Result<(), Malformed> {
        if !self.buffer.is_empty() {
            return Err(Malformed::new("Report", "is truncated"));
        }
        if self.is_empty { Err(Malformed::new("UploadRequest", "has no report")) } else { Ok(()) }
    }

    /// Length of the first report in the buffer; `None` if it is not complete yet.
    fn next_len(&self) -> Result<Option<usize>, Malformed> {
        let mut len = REPORT_START;
        for (distance, width) in REPORT_LENGTHS {
            let at = len.saturating_add(distance);
            let end = at.saturating_add(width);
            let Some(length) = self.buffer.get(at..end) else { return Ok(None) };
            let length = length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
            len = end.saturating_add(length);
            if len > self.max_report_bytes {
                return Err(Malformed::too_many_bytes("Report"));
            }
        }
        Ok((len <= self.buffer.len()).then_some(len))
    }
}
