//! Why there is no certificate, and what its operator can do about it.

use std::{io, path::PathBuf};

use instant_acme::{Error, Problem};

use dapbox_client::peer::RootCertificatesError;

/// The longest text of an authority that is shown.
const MAX_TEXT: usize = 300;
/// What the names of RFC 8555's problems begin with (section 6.7).
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The authority could not be asked, or not be understood.
    #[error(transparent)]
    Unasked(#[from] Unasked),
    /// The authority refused a request.
    #[error("the authority refused: {}", said(.0))]
    Refused(Problem),
    /// The authority is not convinced that a domain is ours.
    #[error("the authority could not check {domain}: {}", said(.problem))]
    Unproved {
        /// The domain.
        domain: String,
        /// What it found instead of us.
        problem: Problem,
    },
    /// The authority's answer is not what the protocol says.
    #[error("the authority's answer makes no sense: {0}")]
    Unexpected(String),
    /// The authority wants to be convinced in ways that need more than port 443.
    #[error("the authority does not offer the challenge TLS-ALPN-01 for {0}")]
    NoChallenge(String),
    /// The authority takes its time.
    #[error("the authority did not come to an end in time")]
    Slow,
    /// A certificate that we do not want.
    #[error("the authority sent {0}")]
    Unfit(String),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something that cannot fail did.
    #[error("{0}")]
    Ours(String),
}

/// Why there is no answer of the authority's.
#[derive(Debug, thiserror::Error)]
pub enum Unasked {
    /// The certificates that it would be trusted by cannot be read.
    #[error("acme.directory_ca_file: {0}")]
    RootCertificates(RootCertificatesError),
    /// There is no client.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
    /// The connection was not made, or broke.
    #[error("cannot {} the authority: {why}", if *.connected { "talk to" } else { "connect to" })]
    Broken {
        /// The innermost cause.
        why: String,
        /// Whether there was a connection.
        connected: bool,
    },
    /// The answer is longer than we accept.
    #[error("the authority's answer is longer than {0} bytes")]
    TooLong(usize),
    /// A failure that does not explain itself.
    #[error("the authority answered with status {0}")]
    Status(u16),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::Refused(problem),
            Error::Timeout(_) => Self::Slow,
            Error::Other(error) => match error.downcast::<Unasked>() {
                Ok(unasked) => Self::Unasked(*unasked),
                Err(error) => Self::Unexpected(plain(&error.to_string())),
            },
            error => Self::Unexpected(plain(&error.to_string())),
        }
    }
}

impl Trouble {
    /// Whether the authority does not know our account: it is another one under the same address, or has forgotten us.
    pub fn is_unknown_account(&self) -> bool {
        matches!(self, Self::Refused(problem) if kind(problem) == "accountDoesNotExist")
    }

    /// Whether the authority asks us to stay away, and may not have said for how long.
    pub fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Refused(problem) if kind(problem) == "rateLimited" || problem.status == Some(429))
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unproved { problem, .. } => unproved(kind(problem)),
            Self::Refused(problem) => refused(kind(problem)),
            Self::Unasked(Unasked::RootCertificates(_)) => {
                "make it a readable file of PEM certificates, or leave it empty"
            }
            Self::Unasked(Unasked::Broken { .. }) => {
                "can this machine resolve and reach the host of acme.directory, and is the authority's own certificate \
                 one that acme.directory_ca_file or the system trusts?"
            }
            Self::Unasked(Unasked::Status(500..)) | Self::Slow => "the authority may be busy; it is asked again",
            Self::Unasked(_) | Self::Unexpected(_) => "is acme.directory the URL of an ACME directory?",
            Self::NoChallenge(_) => "choose an authority that does, such as Let's Encrypt",
            Self::Unfit(_) => "ask who runs the authority; check this machine's clock",
            Self::File { .. } => "give the server's user the right to write there, and make room",
            Self::Ours(_) => "please report this",
        }
    }
}

/// What helps if the authority could not check a domain.
fn unproved(kind: &str) -> &'static str {
    match kind {
        "dns" => "the domain's DNS must have an A or AAAA record that leads to this server",
        "caa" => "a CAA record in the domain's DNS forbids this authority: add it there, or choose another authority",
        "connection" => {
            "port 443 of the domain must lead to this server: set `listen` or forward the port, open the firewall, and \
             check that no AAAA record leads elsewhere"
        }
        "rateLimited" => "wait, and leave the server running meanwhile",
        _ => {
            "somebody else answers on port 443 of the domain: does its DNS lead to this server, and does what is in \
             between pass TLS through?"
        }
    }
}

/// What helps if the authority refused a request.
fn refused(kind: &str) -> &'static str {
    match kind {
        "rateLimited" => "wait, and leave the server running meanwhile: restarts do not help",
        "rejectedIdentifier" | "unsupportedIdentifier" | "malformed" => {
            "the authority gives no certificates for such names: check acme.domains"
        }
        "caa" | "dns" | "connection" => unproved(kind),
        "externalAccountRequired" => "this authority wants accounts that were made elsewhere, which is not supported",
        "invalidContact" | "unsupportedContact" => "check acme.contact_email",
        "userActionRequired" => "agree to the authority's new terms of service, see its answer",
        "accountDoesNotExist" => "a new account is made with the next attempt",
        "unauthorized" => "if the account was closed, remove its file in the data directory's `acme`",
        "badCSR" | "orderNotReady" | "badSignatureAlgorithm" | "badPublicKey" => "please report this",
        _ => "see what the authority says; it is asked again",
    }
}

/// The name of a problem.
fn kind(problem: &Problem) -> &str {
    let name = problem.r#type.as_deref().unwrap_or_default();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// What an authority says, as one short line.
fn said(problem: &Problem) -> String {
    let details = problem.subproblems.iter().filter_map(|inner| inner.detail.as_deref());
    let details: Vec<&str> = problem.detail.as_deref().into_iter().chain(details).collect();
    plain(&format!("{} ({})", details.join("; "), kind(problem)))
}

/// Somebody else's text as one short line without control characters.
fn plain(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        serde_json::from_value(serde_json::json!({ "type": format!("{PREFIX}{kind}"), "detail": detail })).unwrap()
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let unproved = |kind: &str| Trouble::Unproved { domain: "a.example".to_owned(), problem: problem(kind, "x") };
        for (trouble, hint) in [
            (unproved("connection"), "port 443"),
            (unproved("dns"), "A or AAAA record"),
            (unproved("caa"), "CAA"),
            (unproved("unauthorized"), "somebody else answers"),
            (Error::Api(problem("rateLimited", "too many")).into(), "wait"),
            (Error::Api(problem("rejectedIdentifier", "no")).into(), "acme.domains"),
            (Error::Other(Box::new(Unasked::Status(503))).into(), "asked again"),
            (Error::Str("nothing").into(), "ACME directory"),
        ] {
            assert!(trouble.remedy().contains(hint), "{trouble}: {}", trouble.remedy());
        }
        assert!(Trouble::from(Error::Api(problem("rateLimited", ""))).is_rate_limit());
        assert!(Trouble::from(Error::Api(problem("accountDoesNotExist", ""))).is_unknown_account());
    }

    #[test]
    fn what_an_authority_says_is_shown_short_and_plain() {
        let trouble = Trouble::Refused(problem("malformed", &format!("a\n\u{1b}[31m{}", "b".repeat(1000))));
        let text = trouble.to_string();
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    }
}
