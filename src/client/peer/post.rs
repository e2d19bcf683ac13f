//! Notifications: a POST of JSON to an address that is not a DAP party.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use url::Url;

use super::{
    Peer, PeerError, Proxy,
    error::{classify, invalid_request},
};
use dapbox_support::Phase;

/// Media type of the body.
const JSON: &str = "application/json";

impl Peer {
    /// Posts JSON to `url` with additional headers, and returns the HTTP status. Does not retry, follow redirects or read
    /// the body of the response. Errors name the host only, because the path and query of such an address are often
    /// secret.
    pub async fn post_json(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<u16, PeerError> {
        let via = self.options.proxies.for_url(url);
        let shown = shown(url, via.as_ref());
        if let Some(Proxy { url: Err(why), .. }) = &via {
            return Err(invalid_request(&shown, why));
        }
        let mut request = self.http.post(url.clone()).timeout(self.options.timeout).header(CONTENT_TYPE, JSON);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.pass_failpoint(Phase::Before, |why| PeerError::Connect { url: shown.clone(), why }).await?;
        let response = request.body(body).send().await.map_err(|error| classify(&shown, &error.without_url()))?;
        self.pass_failpoint(Phase::After, |why| PeerError::Broken { url: shown.clone(), why }).await?;
        Ok(response.status().as_u16())
    }
}

/// The host of an address, with the proxy if there is one.
fn shown(url: &Url, via: Option<&Proxy>) -> String {
    let origin = url.origin().ascii_serialization();
    via.map_or_else(|| origin.clone(), |proxy| format!("{origin} through {proxy}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use warp::{Filter, http::StatusCode};

    use super::*;
    use crate::peer::PeerOptions;

    #[tokio::test]
    async fn posts_with_headers_and_follows_no_redirect() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/secret?key=x", listener.local_addr().unwrap()).parse().unwrap();
        let routes = warp::post().and(warp::header("x-signature")).and(warp::body::bytes()).map(
            |signature: String, body: Bytes| {
                let status = if (signature.as_str(), &body[..]) == ("abc", b"{}") { 307 } else { 400 };
                let reply = warp::reply::with_header("", "location", "http://127.0.0.1:1/");
                warp::reply::with_status(reply, StatusCode::from_u16(status).unwrap())
            },
        );
        tokio::spawn(warp::serve(routes).incoming(listener).run());
        let peer = Peer::new(&PeerOptions::default()).unwrap().with_limits(Duration::from_secs(10), 0);
        let header = (HeaderName::from_static("x-signature"), HeaderValue::from_static("abc"));
        assert_eq!(peer.post_json(&url, &[header], Bytes::from_static(b"{}")).await, Ok(307));
    }

    #[tokio::test]
    async fn errors_hide_path_and_query() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/secret?key=x", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let peer = Peer::new(&PeerOptions::default()).unwrap();
        let error = peer.post_json(&url, &[], Bytes::new()).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1") && !error.contains("secret") && !error.contains("key="), "{error}");
    }
}
