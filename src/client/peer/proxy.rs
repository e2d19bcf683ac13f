//! HTTP proxies from the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case.
//!
//! `reqwest` reads these variables too, but silently drops invalid values, does not report which variable applies, and
//! does not apply `NO_PROXY=*` to IP addresses.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use url::{Host, Url};

/// Variables per scheme; the first one that is set applies, and upper case takes precedence over lower case.
const HTTP_VARIABLES: [&str; 2] = ["HTTP_PROXY", "ALL_PROXY"];
const HTTPS_VARIABLES: [&str; 2] = ["HTTPS_PROXY", "ALL_PROXY"];
/// The variable with hosts that are reached without a proxy.
const NO_PROXY_VARIABLE: &str = "NO_PROXY";

/// The proxies of an environment. Clones share their state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Arc<Variables>);

/// The variables that are set, by name in upper case.
type Variables = BTreeMap<String, Variable>;

#[derive(Clone, PartialEq, Eq)]
struct Variable {
    /// The name as set.
    name: String,
    /// May contain a password.
    value: String,
}

/// A proxy for a request. Its text form omits the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The variable that configures the proxy.
    pub variable: String,
    /// URL of the proxy, or why it cannot be used.
    pub url: Result<Url, String>,
}

impl Proxies {
    /// The proxies of the process environment.
    pub fn from_env() -> Self {
        // A value that is not UTF-8 is not a URL either, and is reported when the proxy is used.
        Self::from_vars(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))),
        )
    }

    /// The proxies of an environment. Ignores unrelated and empty variables.
    pub fn from_vars(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut variables = Variables::new();
        for (name, value) in environment {
            let upper = name.to_ascii_uppercase();
            let is_ours =
                HTTP_VARIABLES.contains(&upper.as_str()) || upper == HTTPS_VARIABLES[0] || upper == NO_PROXY_VARIABLE;
            let is_plain = name == upper || name == name.to_ascii_lowercase();
            if !is_ours || !is_plain || value.trim().is_empty() {
                continue;
            }
            if name == upper || !variables.contains_key(&upper) {
                variables.insert(upper, Variable { name, value });
            }
        }
        Self(Arc::new(variables))
    }

    /// The variables as set. Values may contain passwords.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.values().map(|variable| (variable.name.clone(), variable.value.clone()))
    }

    /// The proxy for a URL. Loopback URLs never use a proxy.
    pub fn for_url(&self, url: &Url) -> Option<Proxy> {
        let of_scheme = match url.scheme() {
            "http" => HTTP_VARIABLES,
            "https" => HTTPS_VARIABLES,
            _ => return None,
        };
        let variable = of_scheme.iter().find_map(|name| self.0.get(*name))?;
        if is_local(url) || self.is_exempt(url) {
            return None;
        }
        Some(Proxy { variable: variable.name.clone(), url: parse(&variable.value) })
    }

    /// The proxies for `reqwest`. It connects directly if a proxy is invalid; the sender checks that first.
    pub fn for_client(&self) -> reqwest::Proxy {
        let proxies = self.clone();
        reqwest::Proxy::custom(move |url| proxies.for_url(url)?.url.ok())
    }

    fn is_exempt(&self, url: &Url) -> bool {
        let list = self.0.get(NO_PROXY_VARIABLE).map_or("", |variable| &variable.value);
        list.split(|c: char| c == ',' || c.is_whitespace()).any(|entry| entry_matches(entry, url))
    }
}

/// Parses the URL of a proxy. The default scheme is `http`.
fn parse(value: &str) -> Result<Url, String> {
    let value = value.trim();
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    // The error omits the value, which may contain a password.
    let url = Url::parse(&with_scheme).map_err(|error| format!("invalid proxy URL: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err("invalid proxy URL: no host".to_owned()),
        scheme => Err(format!("unsupported proxy scheme {scheme}:// (hint: use http:// or https://)")),
    }
}

/// Whether the host of a URL is this machine by definition.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Ipv6(address)) => {
            let address = address.to_canonical();
            address.is_loopback() || address.is_unspecified()
        }
        None => false,
    }
}

/// Whether an entry of `NO_PROXY` matches a URL: `*`, a domain including its subdomains, an address, or a network, with
/// an optional port.
fn entry_matches(entry: &str, url: &Url) -> bool {
    if entry == "*" {
        return true;
    }
    let (entry, port) = split_port(entry);
    if entry.is_empty() || port.is_some_and(|port| url.port_or_known_default() != Some(port)) {
        return false;
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical(),
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let domain = entry.strip_prefix('*').unwrap_or(entry);
            let domain = domain.strip_prefix('.').unwrap_or(domain).to_ascii_lowercase();
            return name == domain || name.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'));
        }
        None => return false,
    };
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    match (bare.parse::<IpAddr>(), bare.parse::<IpNet>()) {
        (Ok(known), _) => known.to_canonical() == address,
        (_, Ok(network)) => network.contains(&address),
        _ => false,
    }
}

/// Splits an optional port from an entry. The last group of a bare IPv6 address is not a port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Ok(url) => {
                let port = url.port().map_or(String::new(), |port| format!(":{port}"));
                write!(
                    f,
                    "the proxy {}://{}{port} ({})",
                    url.scheme(),
                    url.host_str().unwrap_or_default(),
                    self.variable
                )
            }
            Err(_) => write!(f, "the proxy of {}", self.variable),
        }
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_vars(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn chosen(variables: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(variables).for_url(&Url::parse(url).unwrap()).map(|proxy| proxy.to_string())
    }

    #[test]
    fn chooses_by_scheme_and_names_the_variable() {
        let all = [("all_proxy", "http://all:1"), ("HTTPS_PROXY", "user:pass@secure:2"), ("https_proxy", "other:3")];
        assert_eq!(chosen(&all, "http://a.example/").unwrap(), "the proxy http://all:1 (all_proxy)");
        assert_eq!(chosen(&all, "https://a.example/").unwrap(), "the proxy http://secure:2 (HTTPS_PROXY)");
        assert_eq!(chosen(&[("HTTP_PROXY", " "), ("Http_Proxy", "x")], "http://a.example/"), None);
        let shown = format!("{:?}", proxies(&all));
        assert!(!shown.contains("pass"), "{shown}");
    }

    #[test]
    fn never_uses_a_proxy_for_loopback() {
        let all = [("ALL_PROXY", "http://127.0.0.1:9")];
        for url in [
            "http://localhost:1/",
            "http://a.localhost./",
            "https://127.8.0.1/",
            "http://[::1]:80/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(chosen(&all, url), None, "{url}");
        }
        assert!(chosen(&all, "http://128.0.0.1/").is_some());
    }

    #[test]
    fn respects_no_proxy() {
        let is_direct = |list: &str, url: &str| chosen(&[("ALL_PROXY", "p:1"), ("no_proxy", list)], url).is_none();
        for (list, url) in [
            ("*", "https://a.example/"),
            ("*", "https://192.0.2.1/"),
            ("*", "https://[2001:db8::1]/"),
            ("b.example, A.example", "https://x.a.example/"),
            (".a.example", "https://a.example/"),
            ("*.a.example", "https://x.a.example./"),
            ("192.0.2.1", "https://192.0.2.1/"),
            ("192.0.2.0/24 10.0.0.0/8", "https://10.1.2.3/"),
            ("2001:db8::1", "https://[2001:db8::1]/"),
            ("[2001:db8::1]", "https://[2001:db8::1]/"),
            ("[2001:db8::1]:443", "https://[2001:db8::1]/"),
            ("a.example:8443", "https://a.example:8443/"),
        ] {
            assert!(is_direct(list, url), "{list} {url}");
        }
        for (list, url) in [
            ("", "https://a.example/"),
            ("a.example", "https://xa.example/"),
            ("a.example:8443", "https://a.example/"),
            ("192.0.2.1", "https://192.0.2.10/"),
            ("192.0.2.0/24", "https://192.0.3.1/"),
            ("2001:db8::1", "https://[2001:db8::2]/"),
        ] {
            assert!(!is_direct(list, url), "{list} {url}");
        }
    }

    #[test]
    fn reports_unusable_proxies() {
        for (value, why) in [
            ("socks5h://proxy:1080", "socks5h://"),
            ("socks4://proxy", "socks4://"),
            ("http://", "invalid proxy URL"),
            ("http://user:secret@proxy:port", "invalid proxy URL"),
        ] {
            let proxy = proxies(&[("ALL_PROXY", value)]).for_url(&Url::parse("https://a.example").unwrap()).unwrap();
            let error = proxy.url.unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }
}
