//! Errors of requests to peers.

use std::time::Duration;

use super::trust;
use dapbox_protocol::wire::Problem;

/// The reason why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The URL is not `http` or `https`, or a header is invalid. Nothing was sent.
    #[error("cannot send a request to {url}: {why}")]
    InvalidRequest {
        /// The URL.
        url: String,
        /// The problem.
        why: String,
    },
    /// The connection failed. Nothing was sent.
    #[error("cannot connect to {url}: {why}")]
    Connect {
        /// The URL.
        url: String,
        /// The root cause.
        why: String,
    },
    /// The server's certificate is not trusted, so the connection failed. Nothing was sent.
    #[error("untrusted certificate of {url}: {why}")]
    UntrustedCertificate {
        /// The URL.
        url: String,
        /// The problem with the certificate, and a remedy if the server is genuine.
        why: String,
    },
    /// The response was not complete in time. The peer may have processed the request.
    #[error("request to {url} timed out")]
    Timeout {
        /// The URL.
        url: String,
    },
    /// The connection broke. The peer may have processed the request.
    #[error("connection to {url} broke: {why}")]
    Broken {
        /// The URL.
        url: String,
        /// The root cause.
        why: String,
    },
    /// The response exceeds the size limit. The peer has processed the request.
    #[error("response of {url} exceeds {limit} bytes")]
    AnswerTooLong {
        /// The URL.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The reason why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no response.
    #[error(transparent)]
    NoAnswer(#[from] PeerError),
    /// The peer rejected the request.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The response violates the protocol.
    #[error("unexpected response: {0}")]
    Unexpected(String),
}

impl PeerError {
    /// Whether the peer has certainly not received the request.
    pub fn never_sent(&self) -> bool {
        matches!(self, Self::InvalidRequest { .. } | Self::Connect { .. } | Self::UntrustedCertificate { .. })
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::InvalidRequest { .. } | Self::UntrustedCertificate { .. } | Self::AnswerTooLong { .. })
    }
}

impl RequestError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoAnswer(error) => error.is_retryable(),
            Self::Refused(problem) => is_retryable(problem.status),
            Self::Unexpected(_) => false,
        }
    }

    /// Delay that the peer requests.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after.map(Duration::from_secs),
            _ => None,
        }
    }

    /// The peer's problem, if it rejected the request.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}

/// Whether a request with this response status may succeed later: the peer is overloaded, slow or failing.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// Creates an error for a request that cannot be sent.
pub(super) fn invalid_request(url: &str, why: impl ToString) -> PeerError {
    PeerError::InvalidRequest { url: url.to_owned(), why: why.to_string() }
}

/// Classifies an error of `reqwest`.
pub(super) fn classify(url: &str, error: &reqwest::Error) -> PeerError {
    let url = url.to_owned();
    let why = root_cause(error);
    if error.is_builder() {
        PeerError::InvalidRequest { url, why }
    } else if let Some(why) = trust::certificate_error(error) {
        PeerError::UntrustedCertificate { url, why }
    } else if error.is_connect() {
        PeerError::Connect { url, why }
    } else if error.is_timeout() {
        PeerError::Timeout { url }
    } else {
        PeerError::Broken { url, why }
    }
}

/// The text of the innermost cause of an error.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_transient_statuses_only() {
        for status in [408, 429, 500, 502, 503, 504, 507] {
            assert!(is_retryable(status));
        }
        for status in [301, 400, 401, 403, 404, 409, 413] {
            assert!(!is_retryable(status));
        }
    }
}
