//! Reading and writing the presentation language of TLS (RFC 8446 section 3).

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// The structure or field that was being read.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}
