//! Uploads as they come in: an `UploadRequest` (DAP-18 section 4.4.2) may be longer than anybody wants to hold at once.

use bytes::{Bytes, BytesMut};

use crate::{
    model::{Report, TaskParameters},
    wire::{codec::Malformed, shared::decode},
};

use super::messages::{REPORT_LENGTHS, REPORT_START, Unit, get_report};

/// Takes an upload apart while its body arrives.
///
/// [Feed](Self::feed) it a chunk, take [reports](Self::next) until there is none, and so on; [finish](Self::finish) at
/// the end of the body. Then it never holds more than one report and a chunk. After an error the rest of the body means
/// nothing.
#[derive(Debug)]
pub struct UploadReader {
    unit: Unit,
    max_report_bytes: usize,
    buffer: BytesMut,
    is_empty: bool,
}

impl UploadReader {
    /// Starts an upload for a task, of reports that are at most `max_report_bytes` long.
    pub fn new(task: &TaskParameters, max_report_bytes: usize) -> Self {
        Self { unit: Unit::of(task), max_report_bytes, buffer: BytesMut::new(), is_empty: true }
    }

    /// Takes the next chunk of the body.
    pub fn feed(&mut self, chunk: Bytes) {
        self.buffer.extend_from_slice(&chunk);
    }

    /// The next report, if all of it is there.
    ///
    /// A report that is too long is refused as soon as it says so.
    #[allow(clippy::should_implement_trait, reason = "that there is none says nothing about the next call")]
    pub fn next(&mut self) -> Result<Option<Report>, Malformed> {
        let Some(len) = self.next_len()? else { return Ok(None) };
        self.is_empty = false;
        let report = self.buffer.split_to(len).freeze();
        decode("Report", report, |r| get_report(r, self.unit)).map(Some)
    }

    /// Ends the body: there must have been a report, and nothing after the last one.
    pub fn finish(self) -> Result<(), Malformed> {
        if !self.buffer.is_empty() {
            return Err(Malformed::new("Report", "ends too early"));
        }
        if self.is_empty { Err(Malformed::new("UploadRequest", "has no report")) } else { Ok(()) }
    }

    /// The length of the report at the front, if all of it is there.
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
