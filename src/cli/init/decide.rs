//! Derives a valid configuration from flags and answers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::{
    super::{Failure, doctor, endpoint::Endpoint, findings::Severity},
    Args, ServerRole, TlsChoice,
    prompt::{Prompter, Question},
};
use crate::config::{Config, TlsMode, address, check_public_url};

/// Data directory of a service (Filesystem Hierarchy Standard 3.0, section 5.8).
const SERVICE_DATA: &str = "/var/lib/dapbox";
/// Port behind a proxy or for this machine only.
const LOOPBACK_PORT: u16 = 8080;
/// Port of HTTPS and ACME.
const HTTPS_PORT: u16 = 443;

/// The chosen settings.
pub struct Decisions {
    /// The intended role.
    pub role: ServerRole,
    /// The source of TLS.
    pub tls: TlsChoice,
    /// The configuration.
    pub config: Config,
}

/// Derives the settings from flags, and from answers where a flag is missing.
pub fn decide(args: Args, prompter: &mut Prompter) -> Result<Decisions, Failure> {
    let role = match args.role {
        Some(role) => role,
        None => {
            let choices = [
                (ServerRole::Helper, "helper: answers requests of other organizations' leaders"),
                (ServerRole::Leader, "leader: receives uploads and works with another organization's helper"),
                (ServerRole::Both, "both: depends on the task, or not known yet"),
            ];
            prompter.select("--role", "Role of this server", &choices, 2)?
        }
    };
    let url = public_url(&args, prompter)?;
    let tls = tls(&args, url.as_deref(), prompter)?;
    let mut config = Config { public_url: url.unwrap_or_default(), ..Config::default() };
    check_fitting(&args, tls, &config)?;
    match tls {
        TlsChoice::Acme => acme(&args, &mut config, prompter)?,
        TlsChoice::Files => files(&args, &mut config, prompter)?,
        TlsChoice::Proxy => config.proxy.trusted = proxies(&args),
        TlsChoice::Off => {}
    }
    config.data_dir = data_dir(&args, prompter)?;
    config.listen = listen(&args, tls, &config, prompter)?;
    Ok(Decisions { role, tls, config })
}

/// The public URL. A server for tests on this machine needs none.
fn public_url(args: &Args, prompter: &mut Prompter) -> Result<Option<String>, Failure> {
    let read = |text: &str| -> Result<Option<String>, String> {
        let text = text.trim().trim_end_matches('/');
        check_public_url(text).map_err(|why| format!("the public URL {why}"))?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    };
    if let Some(text) = &args.public_url {
        return read(text).map_err(Failure::usage);
    }
    if args.tls == Some(TlsChoice::Off) {
        return Ok(None);
    }
    let text = "Public URL, such as https://dap.example.org (empty: none)";
    let flag = if args.tls.is_some() { "--public-url" } else { "--public-url (not with --tls off)" };
    prompter.require(&Question { flag, text, default: String::new(), read: &read })
}

fn tls(args: &Args, url: Option<&str>, prompter: &mut Prompter) -> Result<TlsChoice, Failure> {
    if let Some(tls) = args.tls {
        return Ok(tls);
    }
    let choices = [
        (TlsChoice::Acme, "acme: automatic certificates from Let's Encrypt (needs port 443)"),
        (TlsChoice::Files, "files: an existing certificate in files"),
        (TlsChoice::Proxy, "proxy: nginx, Caddy or a load balancer in front adds TLS"),
        (TlsChoice::Off, "off: plain HTTP, for tests on this machine"),
    ];
    // Flags of one choice imply it.
    let default = if args.certificate_file.is_some() || args.key_file.is_some() {
        1
    } else if !args.trusted_proxy.is_empty() {
        2
    } else {
        match url.and_then(Endpoint::of) {
            Some(endpoint) if endpoint.is_secure && endpoint.address.is_none() && !endpoint.is_loopback() => 0,
            Some(endpoint) if endpoint.is_secure => 1,
            _ => 3,
        }
    };
    prompter.select("--tls", "Source of TLS", &choices, default)
}

/// Refuses contradictory settings.
fn check_fitting(args: &Args, tls: TlsChoice, config: &Config) -> Result<(), Failure> {
    let foreign = [
        ("--domain", TlsChoice::Acme, !args.domain.is_empty()),
        ("--contact-email", TlsChoice::Acme, args.contact_email.is_some()),
        ("--certificate-file", TlsChoice::Files, args.certificate_file.is_some()),
        ("--key-file", TlsChoice::Files, args.key_file.is_some()),
        ("--trusted-proxy", TlsChoice::Proxy, !args.trusted_proxy.is_empty()),
    ];
    if let Some((flag, wanted, _)) = foreign.iter().find(|(_, wanted, given)| *given && *wanted != tls) {
        return Err(Failure::usage(format!("{flag} requires --tls {}", name(*wanted))));
    }
    let wrong = |text: String| Err(Failure::usage(text));
    match Endpoint::of(&config.public_url) {
        Some(endpoint) if tls != TlsChoice::Off && !endpoint.is_secure => {
            wrong(format!("--tls {} requires a public URL with https://", name(tls)))
        }
        Some(endpoint) if tls == TlsChoice::Off && endpoint.is_secure => {
            wrong("an https URL needs TLS: use --tls acme, files, or proxy if a proxy in front adds it".to_owned())
        }
        Some(endpoint) if tls == TlsChoice::Acme && (endpoint.address.is_some() || endpoint.is_loopback()) => {
            wrong(format!("--tls acme needs a DNS name: no authority issues a certificate for {}", endpoint.host))
        }
        _ => Ok(()),
    }
}

/// The value of the flag.
fn name(tls: TlsChoice) -> &'static str {
    match tls {
        TlsChoice::Acme => "acme",
        TlsChoice::Files => "files",
        TlsChoice::Proxy => "proxy",
        TlsChoice::Off => "off",
    }
}

fn acme(args: &Args, config: &mut Config, prompter: &Prompter) -> Result<(), Failure> {
    config.tls.mode = TlsMode::Acme;
    let host = Endpoint::of(&config.public_url).map(|endpoint| endpoint.host);
    let covering = |domains: Vec<String>| match &host {
        Some(host) if !domains.iter().any(|domain| domain.eq_ignore_ascii_case(host)) => {
            Err(format!("the host of the public URL, {host}, must be among the names"))
        }
        _ if domains.is_empty() => Err("the certificate needs at least one name".to_owned()),
        _ => Ok(domains),
    };
    config.acme.domains = match (&args.domain[..], &host) {
        // Without a public URL the names are required.
        ([], _) => {
            let read = |text: &str| {
                covering(text.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect())
            };
            let text = "Names in the certificate, separated by commas";
            prompter.check_complete()?;
            let default = host.clone().unwrap_or_default();
            prompter.ask(&Question { flag: "--domain", text, default, read: &read })?
        }
        (domains, _) => covering(domains.to_vec()).map_err(|why| Failure::usage(format!("--domain: {why}")))?,
    };
    config.acme.contact_email = match &args.contact_email {
        Some(address) => address.clone(),
        None => {
            let text = "Contact address for the authority (empty: none)";
            let read = |text: &str| match text.is_empty() || text.contains('@') {
                true => Ok(text.to_owned()),
                false => Err(format!("'{text}' is not an email address")),
            };
            prompter.ask(&Question { flag: "--contact-email", text, default: String::new(), read: &read })?
        }
    };
    Ok(())
}

fn files(args: &Args, config: &mut Config, prompter: &mut Prompter) -> Result<(), Failure> {
    config.tls.mode = TlsMode::Files;
    let usable = |path: &Path| -> Result<PathBuf, String> {
        let path = absolute(path)?;
        if path.is_file() { Ok(path) } else { Err(format!("there is no file {}", path.display())) }
    };
    let read = |text: &str| usable(Path::new(text));
    // Empty is accepted only without a terminal: the flag is reported as missing then.
    let optional = |text: &str| if text.is_empty() { Ok(None) } else { read(text).map(Some) };
    let mut file = |given: &Option<PathBuf>, flag: &'static str, text: &str| match given {
        Some(path) => usable(path).map(Some).map_err(|why| Failure::usage(format!("{flag}: {why}"))),
        None => prompter.require(&Question { flag, text, default: String::new(), read: &optional }),
    };
    let certificate = file(&args.certificate_file, "--certificate-file", "Certificate file with the full chain, PEM")?;
    let key = file(&args.key_file, "--key-file", "Private key file, PEM")?;
    let (Some(certificate), Some(key)) = (certificate, key) else {
        prompter.check_complete()?;
        return Err(Failure::usage("--tls files needs --certificate-file and --key-file"));
    };
    (config.tls.certificate_file, config.tls.key_file) = (certificate, key);
    check_certificate(config).map_err(Failure::usage)
}

/// Checks the certificate files.
fn check_certificate(config: &Config) -> Result<(), String> {
    match doctor::check_certificate_files(config) {
        Err(issue) if issue.severity == Severity::Failed => {
            Err(format!("the certificate in {}: {}", config.tls.certificate_file.display(), issue.detail))
        }
        // A certificate that expires soon can be renewed later.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Addresses of the proxies in front: loopback by default.
fn proxies(args: &Args) -> Vec<IpNet> {
    if !args.trusted_proxy.is_empty() {
        return args.trusted_proxy.clone();
    }
    [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].map(IpNet::from).to_vec()
}

/// The data directory as an absolute path, independent of the server's working directory.
fn data_dir(args: &Args, prompter: &Prompter) -> Result<PathBuf, Failure> {
    let usable = |path: &Path| -> Result<PathBuf, String> {
        let path = absolute(path)?;
        match path.metadata() {
            Ok(found) if !found.is_dir() => Err(format!("{} exists and is not a directory", path.display())),
            _ => Ok(path),
        }
    };
    let read = |text: &str| usable(Path::new(text));
    if let Some(path) = &args.data_dir {
        return usable(path).map_err(|why| Failure::usage(format!("--data-dir: {why}")));
    }
    let is_service = args.config.starts_with("/etc");
    let default = if is_service { PathBuf::from(SERVICE_DATA) } else { Config::default().data_dir };
    let text = "Data directory";
    prompter.ask(&Question { flag: "--data-dir", text, default: default.display().to_string(), read: &read })
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    if path.to_str().is_none() {
        return Err(format!("{path:?} is not UTF-8 text; choose another path"));
    }
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn listen(args: &Args, tls: TlsChoice, config: &Config, prompter: &Prompter) -> Result<SocketAddr, Failure> {
    if let Some(listen) = args.listen {
        return Ok(listen);
    }
    let default = match tls {
        TlsChoice::Acme => everywhere(HTTPS_PORT),
        TlsChoice::Files => everywhere(Endpoint::of(&config.public_url).map_or(HTTPS_PORT, |endpoint| endpoint.port)),
        TlsChoice::Proxy | TlsChoice::Off => SocketAddr::from((Ipv4Addr::LOCALHOST, LOOPBACK_PORT)),
    };
    let read = |text: &str| address::parse(text);
    let text = "Listen address";
    prompter.ask(&Question { flag: "--listen", text, default: default.to_string(), read: &read })
}

/// All addresses of this machine, IPv6 included if it is available.
fn everywhere(port: u16) -> SocketAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}
