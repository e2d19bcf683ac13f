//! Validation of the ACME options.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use url::{Host, Url};

use super::{Config, TlsMode};
use dapbox_protocol::model::BaseUrl;

/// The shortest first delay for an authority on another machine.
const LEAST_PAUSE: Duration = Duration::from_secs(60);
/// The most names that public authorities accept in one certificate.
const MAX_DOMAINS: usize = 100;
/// The longest DNS name and the longest label, in characters (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Validates `[acme]`.
pub fn check(config: &Config) -> Result<(), String> {
    let acme = &config.acme;
    if config.tls.mode == TlsMode::Acme && acme.domains.is_empty() {
        return Err("tls.mode is 'acme', but acme.domains is empty: set it to the names of this server, such as \
                    [\"dap.example.org\"]"
            .to_owned());
    }
    if acme.domains.len() > MAX_DOMAINS {
        return Err(format!("acme.domains has more than {MAX_DOMAINS} names, the maximum of public authorities"));
    }
    let mut seen = BTreeSet::new();
    for domain in &acme.domains {
        check_domain(domain).map_err(|why| format!("acme.domains: '{domain}' {why}"))?;
        if !seen.insert(domain.to_ascii_lowercase()) {
            return Err(format!("acme.domains: '{domain}' occurs twice"));
        }
    }
    check_email(&acme.contact_email)?;
    let is_base = acme.directory.parse::<BaseUrl>().is_ok();
    let directory = Url::parse(&acme.directory).ok().filter(|url| is_base && url.scheme() == "https");
    let Some(directory) = directory else {
        return Err(format!("acme.directory: '{}' is not an https URL", acme.directory));
    };
    if *acme.retry_initial < LEAST_PAUSE && !is_local(&directory) {
        return Err("acme.retry_initial must be at least a minute: authorities limit the number of attempts".into());
    }
    if acme.retry_initial > acme.retry_max || acme.retry_initial.is_zero() {
        return Err("acme.retry_initial must be positive and must not exceed acme.retry_max".to_owned());
    }
    Ok(())
}

/// Checks that an authority can validate a name by TLS-ALPN-01 (RFC 8737 section 3).
fn check_domain(domain: &str) -> Result<(), &'static str> {
    let bare = domain.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return Err("is an address, but certificates need names: create a DNS name for this server");
    }
    if domain.starts_with("*.") {
        return Err("has a wildcard, which TLS-ALPN-01 cannot validate: list each name");
    }
    if !domain.is_ascii() {
        return Err("is not ASCII: write it in its DNS form, with xn--");
    }
    let is_label = |label: &str| {
        let fits = (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        fits && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let ends_in_number = domain.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if domain.len() > MAX_NAME || !domain.split('.').all(is_label) || ends_in_number {
        return Err("is not a DNS name: write it like dap.example.org, without https:// and port");
    }
    Ok(())
}

/// Checks the contact address. It is sent as a `mailto` URL with a single address (RFC 8555 section 7.3).
fn check_email(email: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_graphic() && !"?%&,;:<>()[]\"\\".contains(c);
    let plausible = email.split_once('@').is_some_and(|(user, domain)| {
        !user.is_empty() && email.chars().all(is_plain) && domain.contains('.') && check_domain(domain).is_ok()
    });
    if email.is_empty() || plausible {
        return Ok(());
    }
    Err(format!(
        "acme.contact_email: '{email}' is not an e-mail address: write it like admin@example.org, or leave it \
         empty"
    ))
}

/// Whether a URL leads to this machine.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Seconds, *};

    fn with(change: impl FnOnce(&mut Config)) -> Result<(), String> {
        let mut config = Config::default();
        config.tls.mode = TlsMode::Acme;
        config.acme.domains = vec!["dap.example.org".to_owned()];
        change(&mut config);
        check(&config)
    }

    #[test]
    fn rejects_invalid_domains() {
        assert_eq!(with(|_| {}), Ok(()));
        for name in ["Example.ORG", "localhost", "xn--bcher-kva.example", "a.b.c.d.example", "1.example"] {
            assert_eq!(with(|config| config.acme.domains = vec![name.to_owned()]), Ok(()), "{name}");
        }
        let long = format!("{}.example", "a".repeat(64));
        for (name, hint) in [
            ("192.0.2.1", "address"),
            ("[2001:db8::1]", "address"),
            ("*.example.org", "wildcard"),
            ("bücher.example", "xn--"),
            ("https://example.org", "not a DNS name"),
            ("example.org:443", "not a DNS name"),
            ("example.org.", "not a DNS name"),
            ("ex ample.org", "not a DNS name"),
            ("-a.example", "not a DNS name"),
            ("1.2.3.4.5", "not a DNS name"),
            ("../../etc", "not a DNS name"),
            ("", "not a DNS name"),
            (long.as_str(), "not a DNS name"),
        ] {
            let error = with(|config| config.acme.domains = vec![name.to_owned()]).unwrap_err();
            assert!(error.contains(hint) && error.contains("acme.domains"), "{error}");
        }
        let twice = with(|config| config.acme.domains.push("DAP.example.org".to_owned())).unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
    }

    #[test]
    fn rejects_invalid_acme_options() {
        assert!(with(|config| config.acme.domains.clear()).unwrap_err().contains("is empty"));
        for email in ["admin", "@example.org", "a@b", "a@example.org?subject=x", "a b@example.org", "a@b@example.org"] {
            let error = with(|config| config.acme.contact_email = email.to_owned()).unwrap_err();
            assert!(error.contains("not an e-mail address"), "{error}");
        }
        assert_eq!(with(|config| config.acme.contact_email = "first.last+dap@example.org".to_owned()), Ok(()));
        for directory in ["http://example.org/dir", "example.org", ""] {
            let error = with(|config| config.acme.directory = directory.to_owned()).unwrap_err();
            assert!(error.contains("not an https URL"), "{error}");
        }
        let hasty = |directory: &str| {
            with(|config| {
                config.acme.directory = directory.to_owned();
                config.acme.retry_initial = Seconds::new(1);
            })
        };
        assert!(hasty("https://example.org/dir").unwrap_err().contains("at least a minute"));
        assert_eq!(hasty("https://127.0.0.1:14000/dir"), Ok(()));
        // Without `acme` no domains are needed.
        assert_eq!(check(&Config::default()), Ok(()));
    }
}
