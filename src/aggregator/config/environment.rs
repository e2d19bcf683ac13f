//! Environment variables that set options, and similar ones that do not.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use super::ConfigError;

/// The prefix of our environment variables.
pub(super) const PREFIX: &str = "DAPBOX_";
/// Variables with our prefix that set command line flags.
const FLAG_VARIABLES: [&str; 3] = ["DAPBOX_CA_FILE", "DAPBOX_CONFIG", "DAPBOX_VERIFY_KEY_SEED"];

/// The protocols of a Kubernetes service, in values and in names.
const PROTOCOLS: [(&str, &str); 3] = [("tcp://", "TCP"), ("udp://", "UDP"), ("sctp://", "SCTP")];

/// Reads the variables with our prefix.
///
/// # Errors
///
/// Rejects a name or value that is not UTF-8: ignoring it would leave an option at its default.
pub fn read(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut read = Vec::new();
    for (name, value) in environment {
        if !name.as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let refuse = |what: &str, name: &str| {
            let text = format!("the {what} of the environment variable {name} is not UTF-8; correct or unset it");
            Err(ConfigError::Invalid(text))
        };
        let Some(text) = name.to_str() else { return refuse("name", &format!("{name:?}")) };
        if FLAG_VARIABLES.contains(&text) {
            continue;
        }
        match value.into_string() {
            Ok(value) => read.push((text.to_owned(), value)),
            Err(_) => return refuse("value", text),
        }
    }
    Ok(read)
}

/// Returns the variables that Kubernetes sets for a service whose name starts with `dapbox`.
pub fn service_variables(environment: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let found =
        environment.into_iter().filter(|(name, value)| name.starts_with(PREFIX) && is_service_variable(name, value));
    let mut names: Vec<_> = found.map(|(name, _)| name).collect();
    names.sort_unstable();
    names
}

/// Whether a variable is meant to set an option.
pub(super) fn is_option(name: &str, value: &str) -> bool {
    name.starts_with(PREFIX) && !FLAG_VARIABLES.contains(&name) && !is_service_variable(name, value)
}

/// Whether Kubernetes sets this variable in every container, for a service named `dapbox` or `dapbox-…`: the address of
/// a service in the format of Docker links.
fn is_service_variable(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_link = PROTOCOLS.iter().any(|(scheme, _)| value.starts_with(scheme));
    if name.ends_with("_SERVICE_HOST") {
        return true;
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_number(value);
    }
    // An operator sets `DAPBOX_PORT` to a number.
    if name.ends_with("_PORT") && is_link {
        return true;
    }
    let Some((_, rest)) = name.rsplit_once("_PORT_") else { return false };
    let mut parts = rest.split('_');
    let (port, protocol, last) = (parts.next(), parts.next(), parts.next());
    port.is_some_and(is_number)
        && protocol.is_some_and(|protocol| PROTOCOLS.iter().any(|(_, known)| *known == protocol))
        && matches!(last, None | Some("PROTO" | "PORT" | "ADDR"))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn recognizes_variables_of_kubernetes_services() {
        for (name, value) in [
            ("DAPBOX_PORT", "tcp://10.0.0.7:8080"),
            ("DAPBOX_SERVICE_HOST", "10.0.0.7"),
            ("DAPBOX_SERVICE_PORT", "8080"),
            ("DAPBOX_SERVICE_PORT_HTTP", "8080"),
            ("DAPBOX_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("DAPBOX_PORT_8080_TCP_PROTO", "tcp"),
            ("DAPBOX_PORT_8080_TCP_PORT", "8080"),
            ("DAPBOX_PORT_8080_TCP_ADDR", "10.0.0.7"),
            ("DAPBOX_X_PORT", "udp://[fd00::7]:53"),
            ("DAPBOX_X_PORT_53_UDP_ADDR", "fd00::7"),
            ("DAPBOX_X_SERVICE_PORT_A_PORT_B", "1"),
            ("DAPBOX_LEADER_EU_1_PORT_132_SCTP_PROTO", "sctp"),
        ] {
            assert!(is_service_variable(name, value), "{name}={value}");
            assert!(!is_option(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("DAPBOX_PORT", "8080"),
            ("DAPBOX_LISTEN", "tcp://10.0.0.7:8080"),
            ("DAPBOX_LISTEN_PORT", "8080"),
            ("DAPBOX_SERVICE_PORT", "http"),
            ("DAPBOX_PORT_X_TCP", "tcp://10.0.0.7:8080"),
            ("DAPBOX_PORT_8080_TLS", "10.0.0.7"),
            ("DAPBOX_PORT_8080_TCP_NAME", "x"),
            ("DAPBOX_LIMITS__WORKERS", "4"),
        ] {
            assert!(!is_service_variable(name, value) && is_option(name, value), "{name}={value}");
        }
    }

    #[test]
    fn rejects_variables_that_are_not_utf8() {
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let one = |name: &[u8], value: &[u8]| read([(text(name), text(value))]);
        assert_eq!(one(b"DAPBOX_LISTEN", b"x").unwrap(), [("DAPBOX_LISTEN".to_owned(), "x".to_owned())]);
        let error = one(b"DAPBOX_LISTEN", b"127.0.0.1:1\xff").unwrap_err().to_string();
        assert!(error.contains("value of the environment variable DAPBOX_LISTEN"), "{error}");
        assert!(one(b"DAPBOX_\xff", b"x").unwrap_err().to_string().contains("name"));
        // Variables of others, and paths for flags, may hold any bytes.
        for name in [&b"OTHER"[..], b"\xff", b"DAPBOX_CONFIG"] {
            assert_eq!(one(name, b"\xff").unwrap(), []);
        }
    }
}
