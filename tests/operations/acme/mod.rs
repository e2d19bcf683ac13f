//! ACME certificates with the real `dapbox serve` and Pebble, the test authority of Let's Encrypt.
//!
//! Events are log lines of the server. Certificates are observed by a separate client.

mod appliance;
mod authority;
mod broken;

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};

use reqwest::{Certificate, Client, tls::TlsInfo};

use crate::common::skip::has_programs;
use appliance::{Appliance, reserve};
use authority::{Authority, Dns, Means};
use broken::{Broken, Kind};

const DOMAINS: [&str; 2] = ["dap.example.test", "dap-2.example.test"];
/// Log events.
const ISSUED: &str = "certificate issued";
const FAILED: &str = "certificate order failed";

/// A client that trusts one root, or any certificate.
fn client(server: SocketAddr, root: Option<Certificate>) -> Client {
    let mut builder = Client::builder().tls_info(true).no_proxy();
    for domain in DOMAINS {
        builder = builder.resolve(domain, server);
    }
    match root {
        Some(root) => builder.tls_certs_only([root]).build().unwrap(),
        None => builder.tls_danger_accept_invalid_certs(true).build().unwrap(),
    }
}

/// The certificate of the server that answered a request.
async fn shown(client: &Client, server: SocketAddr, domain: &str) -> Result<Vec<u8>, reqwest::Error> {
    let answer = client.get(format!("https://{domain}:{}/dap-09/hpke_config", server.port())).send().await?;
    assert_eq!(answer.status(), 200);
    let certificate = answer.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec();
    assert!(!answer.bytes().await.unwrap().is_empty());
    Ok(certificate)
}

/// The files of a directory, which only its owner may read.
fn files(dir: &Path) -> Vec<String> {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700);
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let content = entries.map(|path| {
        assert_eq!(mode(&path), 0o600, "{path:?}");
        fs::read_to_string(path).unwrap()
    });
    content.collect()
}

#[tokio::test]
async fn issues_certificate_and_keeps_it_over_restarts() {
    if !has_programs(&["pebble", "pebble-challtestsrv"]) {
        return;
    }
    let (dns, port) = (Dns::start().await, reserve());
    let means = Means::new(port.address.port());
    let mut appliance = Appliance::new(port, &DOMAINS, &means);
    appliance.start().await;
    let address = appliance.address;

    // Without an authority the server runs and reports why it has no certificate.
    let line = appliance.wait_for(FAILED).await;
    assert!(line["error"].as_str().unwrap().contains("cannot connect to the CA"), "{line}");
    assert!(line["hint"].as_str().unwrap().contains("acme.directory"), "{line}");
    shown(&client(address, None), address, DOMAINS[0]).await.unwrap_err();

    // The authority starts, and rejects many valid nonces.
    let authority = Authority::start(&means, &dns, &[("PEBBLE_WFE_NONCEREJECT", "30")]).await;
    appliance.wait_for(ISSUED).await;
    let root = authority.root().await;
    let fresh = || client(address, Some(root.clone()));
    let first = shown(&fresh(), address, DOMAINS[0]).await.unwrap();
    assert_eq!(shown(&fresh(), address, DOMAINS[1]).await.unwrap(), first);
    let kept = files(&appliance.data_dir().join("acme"));
    assert_eq!(kept.len(), 2, "an account and a certificate");

    // The issued certificate is reused.
    let orders = authority.orders();
    appliance.stop();
    appliance.start().await;
    assert_eq!(shown(&fresh(), address, DOMAINS[0]).await.unwrap(), first);
    assert_eq!(authority.orders(), orders);

    // Other domains need another certificate; the account stays.
    appliance.stop();
    appliance.set_domains(&DOMAINS[..1]);
    appliance.start().await;
    appliance.wait_for(ISSUED).await;
    assert_ne!(shown(&fresh(), address, DOMAINS[0]).await.unwrap(), first);
    shown(&fresh(), address, DOMAINS[1]).await.unwrap_err();
    assert_eq!(files(&appliance.data_dir().join("acme")).len(), 3, "the same account, and two certificates");

    // A damaged certificate is ordered again.
    appliance.stop();
    for file in fs::read_dir(appliance.data_dir().join("acme")).unwrap() {
        fs::write(file.unwrap().path(), "{}").unwrap();
    }
    appliance.start().await;
    appliance.wait_for("ACME account created").await;
    appliance.wait_for(ISSUED).await;
    shown(&fresh(), address, DOMAINS[0]).await.unwrap();

    // No secret was logged at the finest level.
    appliance.stop();
    let log = appliance.log();
    for secret in kept.iter().flat_map(|file| secrets(file)) {
        assert!(!log.contains(secret), "a secret in the log");
    }
}

/// The private keys in a file: the text of a JSON field, or of the first PEM block.
fn secrets(file: &str) -> Vec<&str> {
    let found: Vec<_> = match file.starts_with('{') {
        true => file.split('"').filter(|text| text.len() > 100).collect(),
        false => file.lines().skip(1).take_while(|line| !line.starts_with('-')).collect(),
    };
    assert!(!found.is_empty());
    found
}

#[tokio::test]
async fn renews_certificate_and_keeps_it_while_authority_refuses() {
    if !has_programs(&["pebble", "pebble-challtestsrv"]) {
        return;
    }
    let (dns, port) = (Dns::start().await, reserve());
    let mut means = Means::new(port.address.port());
    means.lifetime = 9;
    let mut appliance = Appliance::new(port, &DOMAINS, &means);
    let authority = Authority::start(&means, &dns, &[]).await;
    appliance.start().await;
    appliance.wait_for(ISSUED).await;
    let address = appliance.address;
    // This test is about the presented certificate, not about renewal in time on a slow machine.
    let kept_open = client(address, None);
    let first = shown(&kept_open, address, DOMAINS[0]).await.unwrap();

    // The authority loses its state, and one of the domains resolves elsewhere.
    drop(authority);
    dns.lead(DOMAINS[1], "127.0.0.9").await;
    let authority = Authority::start(&means, &dns, &[]).await;
    let line = appliance.wait_for_field(FAILED, "error", "could not validate").await;
    assert!(line["error"].as_str().unwrap().contains(DOMAINS[1]), "{line}");
    assert!(line["hint"].as_str().unwrap().contains("port 443"), "{line}");
    assert_eq!(shown(&client(address, None), address, DOMAINS[0]).await.unwrap(), first, "the old certificate stays");

    // It resolves to this machine again.
    dns.lead(DOMAINS[1], "127.0.0.1").await;
    appliance.wait_for(ISSUED).await;
    let renewed = shown(&client(address, None), address, DOMAINS[0]).await.unwrap();
    assert_ne!(renewed, first);
    assert_eq!(shown(&kept_open, address, DOMAINS[0]).await.unwrap(), first, "the old connection goes on");
    assert!(appliance.log().contains("ACME account unknown to authority"));
    assert!(authority.orders() > 0);

    // And renewed again automatically.
    appliance.wait_for(ISSUED).await;
    assert_ne!(shown(&client(address, None), address, DOMAINS[0]).await.unwrap(), renewed);
    appliance.stop();
}

#[tokio::test]
async fn tolerates_broken_authority() {
    let port = reserve();
    let means = Means::new(port.address.port());
    let mut appliance = Appliance::new(port, &DOMAINS, &means);
    let kinds = [Kind::Endless, Kind::Page, Kind::Elsewhere, Kind::Broken, Kind::Busy];
    let broken = Broken::start(&means, &kinds).await;
    appliance.start().await;
    let mut pause = String::new();
    for expected in ["exceeds", "JSON", "status 302", "status 500", "status 503"] {
        let line = appliance.wait_for(FAILED).await;
        assert!(line["error"].as_str().unwrap().contains(expected), "{line}");
        pause = line["delay"].as_str().unwrap().to_owned();
    }
    // It asked for an excessive pause.
    assert!(pause.starts_with("86400."), "{pause}");
    assert_eq!(broken.asked(), kinds.len());
    appliance.stop();
}
