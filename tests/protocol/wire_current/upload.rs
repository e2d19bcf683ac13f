//! Uploads that arrive in pieces.

use bytes::Bytes;
use dapbox::{
    model::Report,
    wire::{Malformed, current::UploadReader},
};
use proptest::{prelude::*, sample::Index};

use super::{
    codecs::{UPLOAD, task},
    strategies,
};

const LIMIT: usize = 4096;

/// Feeds the pieces in order and collects the complete reports after each.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Report>, Malformed> {
    let mut reader = UploadReader::new(&task(), LIMIT);
    let mut reports = Vec::new();
    for piece in pieces {
        reader.feed(Bytes::copy_from_slice(piece));
        while let Some(report) = reader.next()? {
            reports.push(report);
        }
    }
    reader.finish().map(|()| reports)
}

/// The bytes between the cuts, some of which may coincide.
fn pieces<'a>(body: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|piece| &body[piece[0]..piece[1]]).collect()
}

fn report() -> Report {
    let bytes = |len: usize| Bytes::from(vec![7; len]);
    let share = dapbox::model::HpkeCiphertext { config_id: 1, enc: bytes(32), payload: bytes(100) };
    Report {
        metadata: dapbox::model::ReportMetadata {
            id: dapbox::model::ReportId::new([1; 16]),
            time: dapbox::model::Time(0),
        },
        extensions: vec![],
        public_share: bytes(10),
        leader_share: share.clone(),
        helper_share: share,
    }
}

proptest! {
    #[test]
    fn decodes_upload_in_any_pieces(reports in strategies::upload(), cuts: Vec<Index>) {
        let body = (UPLOAD.encode)(&reports);
        prop_assert_eq!(read(pieces(&body, &cuts)), Ok(reports.clone()));
        prop_assert_eq!(read(body.chunks(1)), Ok(reports.clone()));
        prop_assert_eq!(read([&body[..]]), Ok(reports));
    }

    /// The same bodies are rejected as a whole and in pieces.
    #[test]
    fn rejects_malformed_upload_in_any_pieces(
        reports in strategies::upload(),
        len: Index,
        damage: Option<(Index, u8)>,
        cuts: Vec<Index>,
    ) {
        let mut body = (UPLOAD.encode)(&reports);
        if let Some((at, value)) = damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        body.truncate(len.index(body.len() + 1));
        let whole = (UPLOAD.decode)(&body.clone().into()).ok();
        prop_assert_eq!(read(pieces(&body, &cuts)).ok(), whole);
    }

    #[test]
    fn survives_random_bytes(body in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..200), cuts: Vec<Index>) {
        let whole = (UPLOAD.decode)(&body.clone().into()).ok();
        prop_assert_eq!(read(pieces(&body, &cuts)).ok(), whole);
    }
}

#[test]
fn rejects_upload_without_reports() {
    assert_eq!(read([]).unwrap_err().to_string(), "malformed UploadRequest: has no report");
    assert_eq!(read([&[][..], &[]]), read([]));
}

#[test]
fn rejects_truncated_report() {
    let body = (UPLOAD.encode)(&vec![report(), report()]);
    for len in (1..body.len()).filter(|len| *len != body.len() / 2) {
        assert_eq!(read([&body[..len]]).unwrap_err().to_string(), "malformed Report: is truncated", "{len}");
    }
}

#[test]
fn limits_report_length() {
    let body = (UPLOAD.encode)(&vec![report()]);
    let read = |limit, len: usize| {
        let mut reader = UploadReader::new(&task(), limit);
        reader.feed(Bytes::copy_from_slice(&body[..len]));
        reader.next()
    };
    assert_eq!(read(body.len(), body.len()), Ok(Some(report())));
    assert!(read(body.len() - 1, body.len()).unwrap_err().is_too_long());
    // The last length announces too much; 100 bytes follow it.
    assert!(read(body.len() - 1, body.len() - 100).unwrap_err().is_too_long());
    assert_eq!(read(body.len() - 1, body.len() - 101), Ok(None));
}

#[test]
fn rejects_announced_excess_immediately() {
    let body = (UPLOAD.encode)(&vec![report()]);
    // The positions of the lengths of the public share and of both payloads.
    for at in [26, 75, 214] {
        let mut reader = UploadReader::new(&task(), LIMIT);
        reader.feed(Bytes::copy_from_slice(&body[..at]));
        assert_eq!(reader.next(), Ok(None), "{at}");
        reader.feed(Bytes::from_static(&[0xff; 4]));
        let refused = reader.next().unwrap_err();
        assert_eq!(refused.to_string(), "malformed Report: has too many bytes", "{at}");
    }
}
