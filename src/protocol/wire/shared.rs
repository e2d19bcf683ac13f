//! Code that the revisions share: layouts that did not change, and parsing of paths.
//!
//! `put` functions write, `get` functions read. Field names are those of the drafts.

use std::str::FromStr;

use bytes::Bytes;

use crate::{
    model::{Checksum, Extension, HpkeCiphertext, HpkeConfig, ReportId, Role, TaskId, ids},
    wire::{
        Problem, ProblemType, RequestSpec,
        codec::{Malformed, Reader, Writer},
    },
};

pub(super) type Decoded<T> = Result<T, Malformed>;

/// The leader's request to continue an aggregation job (`AggregationJobContinueReq`, DAP-09 section 4.5.2.1, DAP-18
/// section 4.5.4.1).
///
/// The supported VDAFs have one round, so a helper decodes this request only to reject it with the right problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregationJobContinueReq {
    /// The step that the helper should advance to; 1 for the first continuation.
    pub step: u16,
    /// The reports with the leader's next message.
    pub continues: Vec<PrepareContinue>,
}

/// A report with the leader's next preparation message (`PrepareContinue`, DAP-09 section 4.5.2.1; `VerifyContinue`,
/// DAP-18 section 4.5.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareContinue {
    /// The report.
    pub report_id: ReportId,
    /// The leader's encoded ping-pong message.
    pub message: Bytes,
}

/// A path or query that does not identify a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// The resource does not exist: 404.
    #[error("no such resource")]
    NoSuchResource,
    /// An id in the path is malformed: `invalidMessage`.
    #[error("invalid {0}: not unpadded base64url of its length")]
    InvalidId(&'static str),
    /// The step in the query is malformed: `invalidMessage`.
    #[error("invalid step: not a number from 0 to 65535")]
    InvalidStep,
}

impl From<InvalidPath> for Problem {
    fn from(bad: InvalidPath) -> Self {
        match bad {
            InvalidPath::NoSuchResource => Self::from_status(404),
            InvalidPath::InvalidId(_) | InvalidPath::InvalidStep => {
                Self::new(ProblemType::InvalidMessage).with_detail(bad.to_string())
            }
        }
    }
}

/// Encodes a message of about `len` bytes.
pub(super) fn encode(len: usize, put: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::with_capacity(len);
    put(&mut writer);
    writer.finish()
}

/// Decodes a complete message. Fails if bytes are left.
pub(super) fn decode<T>(what: &'static str, bytes: Bytes, get: impl FnOnce(&mut Reader) -> Decoded<T>) -> Decoded<T> {
    let mut reader = Reader::new(bytes);
    let message = get(&mut reader)?;
    reader.finish(what)?;
    Ok(message)
}

pub(super) fn get_id<K, const N: usize>(r: &mut Reader, what: &'static str) -> Decoded<ids::Id<K, N>> {
    Ok(ids::Id::new(r.array(what)?))
}

pub(super) fn get_checksum(r: &mut Reader, what: &'static str) -> Decoded<Checksum> {
    Ok(Checksum::new(r.array(what)?))
}

pub(super) fn unknown_value(what: &'static str) -> Malformed {
    Malformed::new(what, "has an undefined value")
}

// HPKE (DAP-09 sections 4 and 4.4.1, DAP-18 sections 4.1 and 4.4.1).

pub(super) fn put_ciphertext(w: &mut Writer, ciphertext: &HpkeCiphertext) {
    w.u8(ciphertext.config_id);
    w.opaque16(&ciphertext.enc);
    w.opaque32(&ciphertext.payload);
}

pub(super) fn get_ciphertext(r: &mut Reader) -> Decoded<HpkeCiphertext> {
    get_ciphertext_of(r, 1)
}

/// Reads the helper's input share in an aggregation job.
///
/// Accepts an empty ciphertext, although the layout forbids it: deployed leaders accept such uploads, and failing here
/// would let one client invalidate the whole job. The ciphertext does not open, so only its own report is rejected.
pub(super) fn get_forwarded_ciphertext(r: &mut Reader) -> Decoded<HpkeCiphertext> {
    get_ciphertext_of(r, 0)
}

fn get_ciphertext_of(r: &mut Reader, min: usize) -> Decoded<HpkeCiphertext> {
    Ok(HpkeCiphertext {
        config_id: r.u8("HpkeCiphertext.config_id")?,
        enc: r.opaque16("HpkeCiphertext.enc", min)?,
        payload: r.opaque32("HpkeCiphertext.payload", min)?,
    })
}

/// Length of an encoded ciphertext.
pub(super) fn ciphertext_len(ciphertext: &HpkeCiphertext) -> usize {
    7 + ciphertext.enc.len() + ciphertext.payload.len()
}

/// HPKE application info: a text, and the role codes of sender and recipient.
pub(super) fn label(text: &[u8], sender: Role, recipient: Role) -> Vec<u8> {
    [text, &[sender as u8, recipient as u8]].concat()
}

pub(super) fn put_hpke_configs(w: &mut Writer, configs: &[HpkeConfig]) {
    w.vector16(|w| {
        for config in configs {
            w.u8(config.id);
            w.u16(config.kem_id);
            w.u16(config.kdf_id);
            w.u16(config.aead_id);
            w.opaque16(&config.public_key);
        }
    });
}

pub(super) fn get_hpke_configs(r: &mut Reader) -> Decoded<Vec<HpkeConfig>> {
    let mut taken = [false; 256];
    r.vector16("HpkeConfigList", 1, |r| {
        let config = get_hpke_config(r)?;
        if std::mem::replace(&mut taken[usize::from(config.id)], true) {
            // Ids must be distinct; otherwise a ciphertext does not identify its key.
            return Err(Malformed::new("HpkeConfigList", "has duplicate ids"));
        }
        Ok(config)
    })
}

fn get_hpke_config(r: &mut Reader) -> Decoded<HpkeConfig> {
    Ok(HpkeConfig {
        id: r.u8("HpkeConfig.id")?,
        kem_id: r.u16("HpkeConfig.kem_id")?,
        kdf_id: r.u16("HpkeConfig.kdf_id")?,
        aead_id: r.u16("HpkeConfig.aead_id")?,
        public_key: r.opaque16("HpkeConfig.public_key", 1)?.to_vec(),
    })
}

// Extensions (DAP-09 section 4.4.3; DAP-18 sections 4.4.3, 4.5.1 and 4.6.2).

pub(super) fn put_extensions<'a>(w: &mut Writer, extensions: impl IntoIterator<Item = &'a Extension>) {
    w.vector16(|w| {
        for extension in extensions {
            w.u16(extension.kind);
            w.opaque16(&extension.data);
        }
    });
}

/// Reads extensions in the order of the message.
pub(super) fn get_extensions(r: &mut Reader, what: &'static str) -> Decoded<Vec<Extension>> {
    r.vector16(what, 0, |r| {
        Ok(Extension { kind: r.u16("Extension.extension_type")?, data: r.opaque16("Extension.extension_data", 0)? })
    })
}

/// Length of an encoded list of extensions.
pub(super) fn extensions_len(extensions: &[Extension]) -> usize {
    2 + extensions.iter().map(|extension| 4 + extension.data.len()).sum::<usize>()
}

// Paths (DAP-09 section 4.3, DAP-18 section 3).

/// The segments of a path. The array is one longer than any valid path, so longer paths match nothing.
///
/// Segments are not percent-decoded, because ids and names need no encoding.
pub(super) fn path_parts(path: &str) -> [Option<&str>; 5] {
    let mut parts = path.split('/');
    std::array::from_fn(|_| parts.next())
}

pub(super) fn task_id(text: &str) -> Result<TaskId, InvalidPath> {
    parse_id(text, "task id")
}

pub(super) fn parse_id<I: FromStr>(text: &str, what: &'static str) -> Result<I, InvalidPath> {
    text.parse().map_err(|_| InvalidPath::InvalidId(what))
}

/// A request without a body.
pub(super) fn request_without_body(method: &'static str, path: String) -> RequestSpec {
    RequestSpec { method, path, content_type: None, accept: None, resource_path: None, advertisement: None }
}
