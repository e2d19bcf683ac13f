//! Options of the management API for control planes.

use serde::{Deserialize, Serialize};

use super::{Config, OptionalAddress};

/// The management API. It is disabled unless it has a path or an address. It needs `public_url`, because control planes
/// receive that URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// Its path on the public address, such as `/api`; empty (default) for none.
    pub path: String,
    /// Its own address, with the certificate of the public address; empty (default) for none.
    pub listen: OptionalAddress,
}

impl Default for Management {
    fn default() -> Self {
        Self { path: String::new(), listen: OptionalAddress(None) }
    }
}

impl Management {
    /// Whether the API is enabled.
    pub fn is_on(&self) -> bool {
        !self.path.is_empty() || self.listen.0.is_some()
    }

    /// The URL of the API below the public URL, if it has a path there.
    pub fn url(&self, public_url: &str) -> Option<String> {
        (!self.path.is_empty()).then(|| format!("{}{}", public_url.trim_end_matches('/'), self.path))
    }
}

/// Validates the options.
pub(super) fn check(config: &Config) -> Result<(), String> {
    check_path(&config.management.path)?;
    if config.management.is_on() && config.public_url.is_empty() {
        return Err("the management API needs public_url, which control planes receive: set it".to_owned());
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(fits);
    let Some(parts) = path.strip_prefix('/').filter(|parts| parts.split('/').all(is_part)) else {
        return Err(format!(
            "management.path '{path}' must be like /api: a slash, then letters, digits and -._~, without a slash at \
             the end"
        ));
    };
    match parts.split('/').next() {
        Some(first) if first.starts_with("dap-") => {
            Err(format!("management.path '{path}' must not be below /{first}, which is reserved for the protocol"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(path: &str, public_url: &str) -> Result<(), String> {
        let mut config = Config { public_url: public_url.to_owned(), ..Config::default() };
        config.management.path = path.to_owned();
        check(&config)
    }

    #[test]
    fn validates_management_path_and_public_url() {
        for path in ["", "/api", "/aggregator/api-1", "/api/v0.1"] {
            assert_eq!(with(path, "https://dap.example.org"), Ok(()), "{path}");
        }
        for path in ["/", "api", "/api/", "//api", "/a b", "/../api", "/dap-09/api", "/api?x", "/%61pi"] {
            assert!(with(path, "https://dap.example.org").is_err(), "{path}");
        }
        assert!(with("/api", "").unwrap_err().contains("public_url"));
        let mut config = Config::default();
        config.management.listen = OptionalAddress("127.0.0.1:1".parse().ok());
        assert!(check(&config).unwrap_err().contains("public_url"));
    }

    #[test]
    fn management_url_is_below_the_public_url() {
        let management = Management { path: "/api".to_owned(), ..Management::default() };
        assert_eq!(management.url("https://a.example/x/").as_deref(), Some("https://a.example/x/api"));
        assert_eq!(Management::default().url("https://a.example"), None);
    }
}
