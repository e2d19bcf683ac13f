//! Addresses to listen on.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Parses an address and a port. `localhost` means the IPv4 loopback address; other names are rejected, because they
/// may resolve to several, changing addresses.
///
/// # Errors
///
/// Describes the expected format.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.rsplit_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("localhost"));
    if let Some(port) = port.and_then(|(_, port)| port.parse::<u16>().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    Err(format!(
        "'{text}' is not a listen address; write an IP address and a port, such as 127.0.0.1:8080, [::1]:8080, or \
         [::]:8080 for all addresses (the only known name is localhost)"
    ))
}

/// Deserializes an address, for serde's `deserialize_with`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_addresses_and_localhost() {
        for (text, address) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            (" [::]:443 ", "[::]:443"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("LocalHost:0", "127.0.0.1:0"),
        ] {
            assert_eq!(parse(text).unwrap(), address.parse().unwrap(), "{text}");
        }
        for text in
            ["", "8080", ":8080", "*:8080", "127.0.0.1", "localhost", "localhost:http", "dap.example.org:80", "::1:80x"]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains(&format!("'{text}'")) && error.contains("127.0.0.1:8080"), "{error}");
        }
    }
}
