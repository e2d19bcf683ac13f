//! Protects listeners without credentials against DNS rebinding.
//!
//! A browser on the same machine can reach a loopback address for any site. The site can read the response only if its
//! own name resolves to 127.0.0.1. A listener on a loopback address therefore accepts only `localhost` or a literal
//! address as host. On other addresses, every host is accepted.

use std::net::{IpAddr, SocketAddr};

use warp::http::{HeaderMap, header};

use dapbox_protocol::wire::Problem;

/// Rejects a request for another host than the listener at `address`.
pub fn check(address: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), Problem> {
    if is_ours(address, headers) {
        return Ok(());
    }
    let detail = "unexpected host; this listener accepts only localhost or its literal address";
    Err(Problem::from_status(421).with_detail(detail))
}

fn is_ours(address: Option<SocketAddr>, headers: &HeaderMap) -> bool {
    if address.is_some_and(|address| !address.ip().is_loopback()) {
        return true;
    }
    // HTTP/1.0 has no such header. Every browser sends it.
    let Some(host) = headers.get(header::HOST) else { return true };
    host.to_str().is_ok_and(|host| {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        name.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderValue;

    use super::*;

    #[test]
    fn rejects_foreign_host_on_loopback() {
        let is_ours = |address: &str, host: &'static str| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            super::is_ours(address.parse().ok(), &headers)
        };
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "127.0.0.1", "[::1]:9464", "[::1]"] {
            assert!(is_ours("127.0.0.1:9464", host), "{host}");
        }
        for host in ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "", ":1"]
        {
            assert!(!is_ours("127.0.0.1:9464", host), "{host}");
            assert!(!is_ours("[::1]:9464", host), "{host}");
            assert!(is_ours("10.0.0.7:9464", host), "{host}");
        }
        assert!(super::is_ours("127.0.0.1:9464".parse().ok(), &HeaderMap::new()));
    }
}
