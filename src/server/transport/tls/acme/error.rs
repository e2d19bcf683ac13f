//! Errors of obtaining a certificate, with hints for the operator.

use std::{io, path::PathBuf};

use instant_acme::{Error, Problem};

use dapbox_client::peer::RootCertificatesError;

/// Maximum length of a text of the CA that is shown.
const MAX_TEXT: usize = 300;
/// The prefix of problem types (RFC 8555 section 6.7).
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why no certificate was obtained.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The CA could not be reached.
    #[error(transparent)]
    AuthorityError(#[from] AuthorityError),
    /// The CA refused a request.
    #[error("the CA refused the request: {}", problem_text(.0))]
    Refused(Problem),
    /// The CA could not validate a domain.
    #[error("the CA could not validate {domain}: {}", problem_text(.problem))]
    NotValidated {
        /// The domain.
        domain: String,
        /// The CA's problem.
        problem: Problem,
    },
    /// The response violates the protocol.
    #[error("unexpected response of the CA: {0}")]
    Unexpected(String),
    /// The CA does not offer TLS-ALPN-01.
    #[error("the CA does not offer TLS-ALPN-01 for {0}")]
    NoChallenge(String),
    /// The order timed out.
    #[error("ACME order timed out")]
    Timeout,
    /// The issued certificate is not acceptable.
    #[error("the CA issued {0}")]
    UnsuitableCertificate(String),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// An internal error.
    #[error("{0}")]
    Internal(String),
}

/// Why the CA did not respond.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The root certificates for the CA are invalid.
    #[error("acme.directory_ca_file: {0}")]
    RootCertificates(RootCertificatesError),
    /// The HTTP client cannot be created.
    #[error("cannot create an HTTP client: {0}")]
    Client(String),
    /// The connection failed or broke.
    #[error("cannot {} the CA: {why}", if *.connected { "talk to" } else { "connect to" })]
    Broken {
        /// The innermost cause.
        why: String,
        /// Whether there was a connection.
        connected: bool,
    },
    /// The response is too long.
    #[error("the response of the CA exceeds {0} bytes")]
    TooLong(usize),
    /// A failure without a problem document.
    #[error("the CA responded with status {0}")]
    Status(u16),
}

impl From<Error> for AcmeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::Refused(problem),
            Error::Timeout(_) => Self::Timeout,
            Error::Other(error) => match error.downcast::<AuthorityError>() {
                Ok(error) => Self::AuthorityError(*error),
                Err(error) => Self::Unexpected(sanitize(&error.to_string())),
            },
            error => Self::Unexpected(sanitize(&error.to_string())),
        }
    }
}

impl AcmeError {
    /// Whether the CA does not know our account, for example after its database was reset.
    pub fn is_unknown_account(&self) -> bool {
        matches!(self, Self::Refused(problem) if kind(problem) == "accountDoesNotExist")
    }

    /// Whether the CA reported a rate limit, possibly without `Retry-After`.
    pub fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Refused(problem) if kind(problem) == "rateLimited" || problem.status == Some(429))
    }

    /// The hint for the operator.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotValidated { problem, .. } => validation_hint(kind(problem)),
            Self::Refused(problem) => refusal_hint(kind(problem)),
            Self::AuthorityError(AuthorityError::RootCertificates(_)) => {
                "set it to a readable file of PEM certificates, or leave it empty"
            }
            Self::AuthorityError(AuthorityError::Broken { .. }) => {
                "check that this machine can resolve and reach the host of acme.directory, and that acme.directory_ca_file or the system trusts its certificate"
            }
            Self::AuthorityError(AuthorityError::Status(500..)) | Self::Timeout => {
                "the CA may be overloaded; the server retries"
            }
            Self::AuthorityError(_) | Self::Unexpected(_) => {
                "check that acme.directory is the URL of an ACME directory"
            }
            Self::NoChallenge(_) => "choose a CA that does, such as Let's Encrypt",
            Self::UnsuitableCertificate(_) => "check the clock of this machine, or contact the CA",
            Self::File { .. } => "check permissions and free space",
            Self::Internal(_) => "please report this",
        }
    }
}

/// The hint if the CA could not validate a domain.
fn validation_hint(kind: &str) -> &'static str {
    match kind {
        "dns" => "add an A or AAAA record for the domain that points to this server",
        "caa" => "a CAA record of the domain forbids this CA: extend the record, or choose another CA",
        "connection" => {
            "port 443 of the domain must reach this server: set `listen` or forward the port, open the firewall, and check the AAAA record"
        }
        "rateLimited" => "wait, and keep the server running",
        _ => {
            "another server answers on port 443 of the domain: check its DNS records, and that proxies in between pass TLS through"
        }
    }
}

/// The hint if the CA refused a request.
fn refusal_hint(kind: &str) -> &'static str {
    match kind {
        "rateLimited" => "wait, and keep the server running; restarts do not help",
        "rejectedIdentifier" | "unsupportedIdentifier" | "malformed" => {
            "the CA does not issue certificates for such names: check acme.domains"
        }
        "caa" | "dns" | "connection" => validation_hint(kind),
        "externalAccountRequired" => "this CA requires external account binding, which is not supported",
        "invalidContact" | "unsupportedContact" => "check acme.contact_email",
        "userActionRequired" => "accept the new terms of service of the CA, see its response",
        "accountDoesNotExist" => "the next attempt creates a new account",
        "unauthorized" => "if the account was closed, remove its file in `acme` of the data directory",
        "badCSR" | "orderNotReady" | "badSignatureAlgorithm" | "badPublicKey" => "please report this",
        _ => "see the response of the CA; the server retries",
    }
}

/// The name of a problem type.
fn kind(problem: &Problem) -> &str {
    let name = problem.r#type.as_deref().unwrap_or_default();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The text of a problem, as one short line.
fn problem_text(problem: &Problem) -> String {
    let details = problem.subproblems.iter().filter_map(|inner| inner.detail.as_deref());
    let details: Vec<&str> = problem.detail.as_deref().into_iter().chain(details).collect();
    sanitize(&format!("{} ({})", details.join("; "), kind(problem)))
}

/// Converts foreign text to one short line without control characters.
fn sanitize(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        serde_json::from_value(serde_json::json!({ "type": format!("{PREFIX}{kind}"), "detail": detail })).unwrap()
    }

    #[test]
    fn maps_each_error_to_hint() {
        let not_validated =
            |kind: &str| AcmeError::NotValidated { domain: "a.example".to_owned(), problem: problem(kind, "x") };
        for (error, hint) in [
            (not_validated("connection"), "port 443"),
            (not_validated("dns"), "A or AAAA record"),
            (not_validated("caa"), "CAA"),
            (not_validated("unauthorized"), "another server answers"),
            (Error::Api(problem("rateLimited", "too many")).into(), "wait"),
            (Error::Api(problem("rejectedIdentifier", "no")).into(), "acme.domains"),
            (Error::Other(Box::new(AuthorityError::Status(503))).into(), "retries"),
            (Error::Str("nothing").into(), "ACME directory"),
        ] {
            assert!(error.remedy().contains(hint), "{error}: {}", error.remedy());
        }
        assert!(AcmeError::from(Error::Api(problem("rateLimited", ""))).is_rate_limit());
        assert!(AcmeError::from(Error::Api(problem("accountDoesNotExist", ""))).is_unknown_account());
    }

    #[test]
    fn sanitizes_authority_text() {
        let error = AcmeError::Refused(problem("malformed", &format!("a\n\u{1b}[31m{}", "b".repeat(1000))));
        let text = error.to_string();
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    }
}
