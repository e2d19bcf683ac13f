//! DNS rebinding: which host a request to a listener without passwords may name.
//!
//! A browser on the same machine reaches a loopback address on behalf of any site that it shows. Such a site can read
//! nothing of another origin, unless its own name resolves to 127.0.0.1. So a listener on a loopback address answers only to
//! requests for `localhost` or a literal address, which no site can have as its name. On any other address it has the names
//! that its operator's network gives it, and answers to all of them.

use std::net::{IpAddr, SocketAddr};

use warp::http::{HeaderMap, header};

use dapbox_protocol::wire::Problem;

/// Refuses a request that names another host than this listener at `address`.
pub fn check(address: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), Problem> {
    if is_ours(address, headers) {
        return Ok(());
    }
    let detail = "this listener answers to localhost or its literal address only, to keep web sites out";
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
    fn a_loopback_listener_answers_to_names_that_no_site_can_have() {
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
