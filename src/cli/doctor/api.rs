//! Checks of the management API from a control plane's point of view: address, authentication and contents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::Value;

use super::{certificate, context::DoctorContext, names, public::check_leads_here};
use crate::{
    cli::{
        Failure,
        certificate::CertOwner,
        endpoint::Endpoint,
        findings::{CheckResult, Finding, failed, passed, warning},
    },
    config::TlsMode,
    model::Secret,
    peer::{Peer, PeerOptions, Resolver, RootCertificates, client_config},
    wire::management::MEDIA_TYPE,
};

/// Maximum length of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

/// The management API to check.
pub struct ApiProbe<'a> {
    /// Its URL, without a trailing slash.
    pub url: &'a str,
    /// A token that the API must accept, if there is one.
    pub token: Option<&'a Secret>,
    /// Whether the control plane is in a private network, so that addresses need not be public.
    pub is_private: bool,
    /// Root certificates trusted in addition to the web's.
    pub roots: &'a RootCertificates,
}

/// An HTTP client for the checks.
struct ApiClient<'a> {
    http: reqwest::Client,
    api: &'a ApiProbe<'a>,
}

impl ApiProbe<'_> {
    /// Runs all checks. Without a connection, those that need one are left out.
    pub async fn examine(&self, context: &DoctorContext) -> Result<Vec<Finding>, Failure> {
        let mut findings = vec![Finding::new("API URL", self.check_scheme())];
        let Some(endpoint) = Endpoint::of(self.url) else { return Ok(findings) };
        findings.push(Finding::new("public address", self.check_address(context, &endpoint).await));
        if endpoint.is_secure {
            let owner = match context.config.tls.mode {
                TlsMode::Off => CertOwner::Proxy,
                TlsMode::Files => CertOwner::Files,
                TlsMode::Acme => CertOwner::Acme,
            };
            let verdict = certificate::check_with_roots(context, &endpoint, owner, &self.roots.webpki_store()?).await;
            findings.extend(verdict.map(|verdict| Finding::new("certificate", verdict)));
        }
        let client = ApiClient::new(context, self)?;
        let (closed, is_reached) = client.check_without_token().await;
        findings.push(Finding::new("without a token", closed));
        // The token must not be visible on the network, even if it expires in minutes.
        let token = self.token.filter(|_| endpoint.is_secure || endpoint.is_loopback());
        if let (Some(token), true) = (token, is_reached) {
            let (opened, configuration) = client.check_with_token(token).await;
            findings.push(Finding::new("with a token", opened));
            if let Some(configuration) = configuration {
                findings.push(Finding::new("media types", client.check_media_types(token).await));
                findings.push(Finding::new("DAP URL", self.check_dap_url(context, &configuration).await));
            }
        }
        Ok(findings)
    }

    fn check_scheme(&self) -> CheckResult {
        let url = self.url;
        match Endpoint::of(url) {
            None => failed(format!("{url} is not a URL"), "Use the form https://helper.example/api"),
            Some(endpoint) if !endpoint.is_secure => failed(
                format!("{url} has no TLS: control planes require https, and the token would be sent in the clear"),
                "Enable TLS in this server (tls.mode) or in a proxy in front, and correct public_url.",
            ),
            Some(_) if url.contains(['?', '#']) => {
                failed(format!("{url} has a query or a fragment"), "Remove it: resources are located below the URL.")
            }
            Some(_) => passed(url),
        }
    }

    async fn check_address(&self, context: &DoctorContext, endpoint: &Endpoint) -> CheckResult {
        let addresses = match endpoint.address {
            Some(address) => vec![address],
            None => match names::resolve(context, &endpoint.host).await {
                Ok(addresses) => addresses,
                Err(why) => {
                    let remedy = "Create an A or AAAA record for it; wait until the change has propagated.";
                    return failed(format!("{} has no address: {why}", endpoint.host), remedy);
                }
            },
        };
        let private: Vec<_> = addresses.iter().copied().filter(|address| !is_public(*address)).collect();
        let text = format!("{} resolves to {}", endpoint.host, names::list(&addresses));
        match (private.is_empty(), self.is_private) {
            (true, _) => passed(text),
            (false, true) => passed(format!("{text}, on a private network")),
            (false, false) => failed(
                format!("{text}; {} is not a public address, and Divvi Up rejects the URL", names::list(&private)),
                "Correct the record. If it is in /etc/hosts here, others may see another address. For a control plane in \
                 your own network, use --private.",
            ),
        }
    }

    /// Checks that the DAP URL in the API's response leads to this server.
    async fn check_dap_url(&self, context: &DoctorContext, configuration: &Value) -> CheckResult {
        let remedy = "Correct public_url, which it is derived from, and reload the server.";
        // The response may come from any program, so text with control characters is not printed.
        let url = configuration["dap_url"].as_str().filter(|url| !url.contains(char::is_control));
        let Some(url) = url else {
            return failed("the response has no valid dap_url", "Check whether another program answers at this URL.");
        };
        let Some(endpoint) = Endpoint::of(url) else { return failed(format!("{url} is not a URL"), remedy) };
        if !endpoint.is_secure && !endpoint.is_loopback() && !self.is_private {
            return failed(format!("{url} has no TLS"), remedy);
        }
        let options = PeerOptions {
            connect_timeout: context.timeout,
            timeout: context.timeout,
            max_answer_bytes: MAX_RESPONSE_BYTES,
            roots: self.roots.clone(),
            proxies: context.proxies.clone(),
            ..PeerOptions::default()
        };
        match Peer::new(&options) {
            Ok(peer) => check_leads_here(context, &endpoint, url, url, &peer).await,
            Err(fault) => failed(fault.to_string(), "Check the root certificates of this system."),
        }
    }
}

impl<'a> ApiClient<'a> {
    fn new(context: &DoctorContext, api: &'a ApiProbe<'a>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(api.roots)?)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Resolver::default().for_connect_timeout(context.timeout))
            .proxy(context.proxies.for_client())
            .timeout(context.timeout)
            .build()?;
        Ok(Self { http, api })
    }

    /// The URL without and with a trailing slash: control planes request the configuration at the first, resources below it.
    fn url_variants(&self) -> [String; 2] {
        [self.api.url.to_owned(), format!("{}/", self.api.url)]
    }

    async fn get(&self, url: &str, token: Option<&Secret>, accept: &str) -> Result<Response, String> {
        let mut request = self.http.get(url).header(ACCEPT, accept);
        if let Some(token) = token.and_then(Secret::expose_text) {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|error| root_cause(&error))
    }

    /// Checks that requests without a token are refused. The flag is whether the API can be reached at all.
    async fn check_without_token(&self) -> (CheckResult, bool) {
        for url in self.url_variants() {
            let answer = match self.get(&url, None, MEDIA_TYPE).await {
                Ok(answer) => answer,
                Err(why) => {
                    let remedy = "See the checks above. Check that the server runs and that all firewalls allow \
                        the port. Some routers do not let you reach your own public address from inside: then run this on \
                        another machine.";
                    return (failed(format!("{url} does not answer: {why}"), remedy), false);
                }
            };
            match answer.status() {
                StatusCode::UNAUTHORIZED => {}
                status => return (failed(format!("{url} answers {status}, not 401"), hint_for_status(status)), true),
            }
        }
        (passed("401, with and without a trailing slash"), true)
    }

    /// Checks that a request with the token succeeds, and returns the configuration.
    async fn check_with_token(&self, token: &Secret) -> (CheckResult, Option<Value>) {
        let mut told = None;
        for url in self.url_variants() {
            let answer = match self.get(&url, Some(token), MEDIA_TYPE).await {
                Ok(answer) => answer,
                Err(why) => return (failed(format!("{url} does not answer: {why}"), "Retry."), None),
            };
            let (status, media_type) = (answer.status(), media_type(&answer));
            if status != StatusCode::OK {
                return (failed(format!("{url} answers {status}, not 200"), hint_for_status(status)), None);
            }
            if media_type.as_deref() != Some(MEDIA_TYPE) {
                let found = media_type.unwrap_or_else(|| "none".to_owned());
                let remedy = "Check whether another program answers at this URL, or a proxy changes headers.";
                return (failed(format!("{url} answers with media type {found}, not {MEDIA_TYPE}"), remedy), None);
            }
            told = read(answer).await;
        }
        match told {
            Some(told) => (passed("200 with the correct media type, with and without a trailing slash"), Some(told)),
            None => (failed("the response is not JSON", "Check whether another program answers at this URL."), None),
        }
    }

    /// Checks that headers arrive unchanged: the API refuses other media types than its own.
    async fn check_media_types(&self, token: &Secret) -> CheckResult {
        let other = self.get(self.api.url, Some(token), "application/json").await.map(|answer| answer.status());
        let post = self.http.request(Method::POST, format!("{}/tasks", self.api.url));
        let post = post.header(ACCEPT, MEDIA_TYPE).header(CONTENT_TYPE, "application/json").body("{}");
        let post = post.bearer_auth(token.expose_text().unwrap_or_default()).send().await;
        let post = post.map(|answer| answer.status()).map_err(|error| root_cause(&error));
        let remedy =
            "Configure the proxy in front to forward Accept, Content-Type and all paths below the URL unchanged.";
        match (other, post) {
            (Ok(StatusCode::NOT_ACCEPTABLE), Ok(StatusCode::UNSUPPORTED_MEDIA_TYPE)) => {
                passed("other media types are refused (406, 415)")
            }
            (Err(why), _) | (_, Err(why)) => failed(format!("no answer: {why}"), "Retry."),
            (Ok(other), Ok(post)) => {
                warning(format!("other media types are answered {other} and {post}, not 406 and 415"), remedy)
            }
        }
    }
}

/// The probable cause of an unexpected status.
fn hint_for_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => {
            "The URL is wrong or the API is off: set management.path, the path of the URL, and restart. A \
             proxy in front must forward the path and everything below it."
        }
        StatusCode::UNAUTHORIZED => {
            "Configure the proxy in front to forward Authorization; or another server answers at this URL."
        }
        _ if status.is_redirection() => "Use the URL that it redirects to: control planes do not follow redirects.",
        _ if status.is_server_error() => "Check the log of the server and of the proxy in front.",
        _ => "Check whether another program answers at this URL.",
    }
}

fn media_type(answer: &Response) -> Option<String> {
    answer.headers().get(CONTENT_TYPE)?.to_str().ok().map(str::to_owned)
}

async fn read(mut answer: Response) -> Option<Value> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).ok()
}

/// The root cause of an error.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Whether an address is public (not one of the special-purpose addresses of RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or_else(|| is_public_v6(address), is_public_v4),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    // Shared address space (RFC 6598), protocol assignments (RFC 6890) and benchmarking (RFC 2544).
    let is_special = (first == 100 && second & 0xc0 == 64)
        || (first, second, third) == (192, 0, 0)
        || (first == 198 && second & 0xfe == 18);
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || first == 0
        || first >= 240
        || is_special)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let is_documentation = (first, second) == (0x2001, 0xdb8);
    // Only 2000::/3 is global unicast (RFC 4291 section 2.4).
    first & 0xe000 == 0x2000 && !is_documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_public_addresses() {
        for text in
            ["8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "192.1.0.1", "2001:4860::8", "::ffff:8.8.8.8"]
        {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "::1",
            "::",
            "fc00::1",
            "fe80::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn rejects_url_without_https_or_with_query() {
        let roots = RootCertificates::default();
        let scheme = |url| ApiProbe { url, token: None, is_private: false, roots: &roots }.check_scheme();
        assert_eq!(scheme("https://helper.example/api"), Ok("https://helper.example/api".to_owned()));
        for (url, says) in [
            ("http://helper.example/api", "no TLS"),
            ("helper.example/api", "not a URL"),
            ("https://helper.example/api?x", "a query"),
        ] {
            assert!(scheme(url).unwrap_err().detail.contains(says), "{url}");
        }
    }
}
