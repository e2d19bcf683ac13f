//! Base URLs of aggregators in files, flags and requests.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

/// The base URL of an aggregator: `http` or `https`, a host, and an optional port and path.
///
/// Parsing trims surrounding whitespace and changes nothing else: DAP-18 binds the bytes of the URL into sealed
/// messages (section 4.1), so case and trailing slashes are preserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

/// An invalid base URL. The message starts with the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BaseUrlError(String);

impl BaseUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL as an owned text.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Whether both URLs name the same resource, ignoring default ports, the case of the host, and trailing slashes.
    pub fn is_equivalent_to(&self, other: &Self) -> bool {
        let (Ok(one), Ok(other)) = (Url::parse(&self.0), Url::parse(&other.0)) else { return false };
        let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
        one.origin() == other.origin() && path(&one) == path(&other)
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let text = text.trim();
        let refuse = |why: &str| Err(BaseUrlError(format!("'{}' {why}", text.escape_debug())));
        // `Url::parse` drops line breaks and blanks, completes slashes, and reads '\' as '/'. Other parsers do not.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return refuse("must not contain spaces, line breaks or control characters");
        }
        if !text.is_ascii() || text.contains('\\') {
            return refuse(
                "must be ASCII without backslashes (hint: write international names in their DNS form, xn--)",
            );
        }
        let begins = "must begin with https:// or http:// and a host (example: https://dap.example.org)";
        let Some((scheme, rest)) = text.split_once("://") else { return refuse(begins) };
        let is_web = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        if !is_web || rest.is_empty() || rest.starts_with('/') {
            return refuse(begins);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            // The URL may contain a password, so the error does not show it.
            return Err(BaseUrlError("the URL must not contain a user or password".to_owned()));
        }
        if rest.contains(['?', '#']) {
            return refuse("must not contain a query or fragment");
        }
        match Url::parse(text) {
            Ok(url) if url.has_host() => Ok(Self(text.to_owned())),
            Ok(_) => refuse(begins),
            Err(error) => refuse(&format!("is not a URL: {error}")),
        }
    }
}

/// Deserializes a base URL into its text, for serde's `deserialize_with`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(BaseUrl::into_string).map_err(D::Error::custom)
}

/// Deserializes a text without surrounding whitespace, for serde's `deserialize_with`.
pub fn deserialize_trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_bytes_except_surrounding_whitespace() {
        for url in [
            "https://a.example",
            "https://a.example/",
            "HTTPS://A.example:443/x//y/",
            "http://127.0.0.1:8080/dap-09/",
            "http://[::1]:80/%2F",
            "https://xn--exmple-cua.example/dap-18/",
        ] {
            for given in [url.to_owned(), format!(" \t{url}\r\n")] {
                assert_eq!(given.parse::<BaseUrl>().unwrap().as_str(), url);
            }
        }
    }

    #[test]
    fn rejects_ambiguous_urls() {
        for (url, why) in [
            ("", "must begin with"),
            ("a.example", "must begin with"),
            ("ftp://a.example/", "must begin with"),
            ("https:a.example", "must begin with"),
            ("https:/a.example", "must begin with"),
            ("https:///a.example", "must begin with"),
            ("https://", "must begin with"),
            ("https:\\\\a.example", "backslash"),
            ("https://a.example\\b", "backslash"),
            ("https://ä.example/", "ASCII"),
            ("https://a.exam\nple/", "line breaks"),
            ("https://a.example/a b", "spaces"),
            ("https://a.example/\u{a0}x", "spaces"),
            ("https://a.example/\u{0}", "control"),
            ("https://a.example/?", "query"),
            ("https://a.example/?x=1", "query"),
            ("https://a.example/#", "fragment"),
            ("https://a.example?x", "query"),
            ("https://user@a.example/", "user"),
            ("https://user:secret@a.example/", "password"),
            ("https://@a.example/", "user"),
            ("https://a.example:99999/", "port"),
            ("https://[::1/", "not a URL"),
        ] {
            let error = url.parse::<BaseUrl>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{url:?}: {error}");
        }
    }

    #[test]
    fn recognizes_equivalent_urls() {
        let url = |text: &str| text.parse::<BaseUrl>().unwrap();
        let one = url("https://a.example/dap");
        for other in ["https://a.example/dap/", "https://A.example:443/dap//", "HTTPS://a.example/x/../dap"] {
            assert!(one.is_equivalent_to(&url(other)), "{other}");
        }
        for other in
            ["http://a.example/dap", "https://a.example/", "https://a.example:444/dap", "https://b.example/dap"]
        {
            assert!(!one.is_equivalent_to(&url(other)), "{other}");
        }
    }
}
