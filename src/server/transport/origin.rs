//! The client of a request, by its connection or by the headers of trusted proxies.
//!
//! Proxies append the address of their client to `X-Forwarded-For`. Entries to the left of an address that is not a
//! trusted proxy come from that client and may be forged.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use warp::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client of a request and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address; `None` on the control socket.
    pub client: Option<IpAddr>,
    /// Whether the client uses HTTPS, with us or with a trusted proxy.
    pub https: bool,
}

impl Origin {
    /// The origin of requests on the control socket.
    pub const LOCAL: Self = Self { client: None, https: false };

    /// The origin of a connection.
    pub fn of(address: SocketAddr, https: bool) -> Self {
        Self { client: Some(address.ip().to_canonical()), https }
    }

    /// Applies the headers of trusted proxies. Headers from other clients are ignored.
    pub fn behind(self, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
        let Some(peer) = self.client.filter(is_trusted) else { return self };
        let lists = headers.get_all(FORWARDED_FOR).iter();
        let entries = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).rev();
        let mut client = peer;
        for entry in entries {
            // An entry that is not an address is unknown; the proxy that added it is known.
            let Some(address) = address(entry) else { break };
            client = address;
            if !is_trusted(&address) {
                break;
            }
        }
        // With several proxies, the last one is certainly trusted.
        let schemes = headers.get_all(FORWARDED_PROTO).iter();
        let scheme = schemes.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).next_back();
        let https = scheme.map_or(self.https, |scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"));
        Self { client: Some(client), https }
    }
}

/// Parses an address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok();
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    fn from(address: &str) -> Origin {
        Origin::of(format!("{address}:1").parse().unwrap(), false)
    }

    fn client(peer: &str, list: &str) -> String {
        let origin = from(peer).behind(&headers(&[(FORWARDED_FOR, list)]), &trusted());
        origin.client.unwrap().to_string()
    }

    #[test]
    fn trusts_only_configured_proxies() {
        assert_eq!(client("192.0.2.1", "198.51.100.7"), "192.0.2.1");
        assert_eq!(client("10.0.0.1", "198.51.100.7"), "198.51.100.7");
        assert_eq!(client("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.9.9.9"), "198.51.100.7");
        assert_eq!(client("10.0.0.1", "10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(client("10.0.0.1", "198.51.100.7, unknown, 10.0.0.2"), "10.0.0.2");
        assert_eq!(client("10.0.0.1", ""), "10.0.0.1");
        assert_eq!(client("[fd00::1]", "[2001:db8::7]:4711"), "2001:db8::7");
        assert_eq!(client("[::ffff:10.0.0.1]", "2001:db8::7,10.0.0.2:80, [fd00::2]"), "2001:db8::7");
        let list = headers(&[(FORWARDED_FOR, "198.51.100.7")]);
        assert_eq!(Origin::LOCAL.behind(&list, &trusted()), Origin::LOCAL);
    }

    #[test]
    fn takes_scheme_from_nearest_proxy() {
        let https = |peer: &str, said: &str| from(peer).behind(&headers(&[(FORWARDED_PROTO, said)]), &trusted()).https;
        assert!(https("10.0.0.1", "HTTPS"));
        assert!(https("10.0.0.1", "http, https"));
        assert!(!https("10.0.0.1", "https, http"));
        assert!(!https("192.0.2.1", "https"));
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])),
            any::<[u8; 16]>().prop_map(IpAddr::from),
            any::<[u8; 15]>().prop_map(|rest| {
                let mut bytes = [0xfd; 16];
                bytes[1..].copy_from_slice(&rest);
                IpAddr::from(bytes)
            }),
        ]
        .prop_map(|address| address.to_canonical())
    }

    proptest! {
        /// A chain of proxies: the client sends an arbitrary list, and each proxy appends the address of its client.
        /// The result is always the true address.
        #[test]
        fn rejects_spoofed_addresses(
            lies in proptest::collection::vec("[ -~]{0,20}", 0..4),
            attacker in any_address().prop_filter("outside", |a| !trusted().iter().any(|n| n.contains(a))),
            proxies in proptest::collection::vec(any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])), 1..4),
            split in any::<bool>(),
        ) {
            let hops = [&[attacker], &proxies[..proxies.len() - 1]].concat();
            let truth = hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let lies = lies.join(",");
            let pairs = match split {
                true => vec![(FORWARDED_FOR, lies), (FORWARDED_FOR, truth)],
                false => vec![(FORWARDED_FOR, format!("{lies}, {truth}"))],
            };
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.clone(), value.as_str())).collect();
            let last = SocketAddr::new(proxies[proxies.len() - 1], 1);
            let found = Origin::of(last, false).behind(&headers(&pairs), &trusted());
            prop_assert_eq!(found.client, Some(attacker));
            // Without any proxy.
            let alone = Origin::of(SocketAddr::new(attacker, 1), false);
            prop_assert_eq!(alone.behind(&headers(&pairs), &trusted()), alone);
        }
    }
}
