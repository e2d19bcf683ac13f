//! The public URL: whether it leads to this server.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;

use super::{certificate, context::DoctorContext, ports::connectable_address};
use crate::{
    cli::{
        certificate::CertOwner,
        endpoint::Endpoint,
        findings::{CheckResult, Finding, failed, passed, warning},
    },
    config::TlsMode,
    model::Revision,
    peer::{self, Peer},
    wire,
};

/// Checks the public URL, if it is set.
pub async fn examine(context: &DoctorContext) -> Vec<Finding> {
    let Some(endpoint) = Endpoint::of(&context.config.public_url) else { return check_unset(context) };
    // Without a proxy it is the server's own certificate, which another check covers.
    let is_direct = context.proxy(&endpoint.url()).is_none();
    let is_behind =
        context.config.tls.mode == TlsMode::Off && endpoint.is_secure && !endpoint.is_loopback() && is_direct;
    let proxied =
        async { if is_behind { certificate::check_at(context, &endpoint, CertOwner::Proxy).await } else { None } };
    let (verdict, proxied) = tokio::join!(public_url(context, &endpoint), proxied);
    let mut findings = Vec::new();
    findings.extend(verdict.map(|verdict| Finding::new("public URL", verdict)));
    findings.extend(proxied.map(|verdict| Finding::new("certificate", verdict)));
    findings
}

/// Warns if the public URL is not set though other parties must reach the server.
fn check_unset(context: &DoctorContext) -> Vec<Finding> {
    if context.known_tasks().iter().all(|task| {
        [&task.leader_url, &task.helper_url]
            .iter()
            .all(|url| Endpoint::of(url).is_some_and(|endpoint| endpoint.is_loopback()))
    }) {
        return Vec::new();
    }
    let verdict = warning(
        "public_url is not set: it cannot be checked whether other parties reach this server",
        "Set it to the URL of this server for other parties, without /dap-09/.",
    );
    vec![Finding::new("public URL", verdict)]
}

async fn public_url(context: &DoctorContext, endpoint: &Endpoint) -> Option<CheckResult> {
    if !context.is_running() {
        return None;
    }
    let url = &context.config.public_url;
    let base = peer::dap_url(url, Revision::ALL[0]);
    Some(check_leads_here(context, endpoint, url, &base, &context.peer).await)
}

/// Fetches the keys below a base URL and compares them with the keys of the local server.
pub async fn check_leads_here(
    context: &DoctorContext,
    endpoint: &Endpoint,
    url: &str,
    base: &str,
    peer: &Peer,
) -> CheckResult {
    let revision = Revision::ALL[0];
    let call = wire::for_revision(revision).hpke_config_request(None);
    let here = async { if context.is_running() { fetch_local_keys(context, endpoint, &call).await } else { None } };
    let (there, here) = tokio::join!(peer.send(base, &call, None, Bytes::new()), here);
    let there = match there {
        Ok(answer) => answer,
        Err(error) if endpoint.is_loopback() => return failed(error.to_string(), "Correct public_url."),
        Err(error) => return unreachable(endpoint, &error),
    };
    let remedy = "Correct public_url, its DNS record, or the paths that the proxy in front forwards: all of /dap-09/ and \
        /dap-18/ below it, unchanged.";
    if !there.is_success() {
        return failed(format!("{url} answers {}", there.status), remedy);
    }
    match (parse_keys(revision, &there.body), here.and_then(|body| parse_keys(revision, &body))) {
        (None, _) => failed(format!("the response of {url} is not from a DAP aggregator"), remedy),
        (Some(there), Some(here)) if there != here => {
            failed(format!("{url} leads to another aggregator, with other keys"), remedy)
        }
        (Some(_), Some(_)) => passed(format!("{url} leads here")),
        (Some(_), None) => passed(format!("{url} leads to an aggregator")),
    }
}

fn unreachable(endpoint: &Endpoint, error: &peer::PeerError) -> CheckResult {
    let remedy = format!(
        "See the checks of name and certificate; allow TCP port {} in all firewalls. Some routers do not let you \
         reach your own public address from inside: then check from another machine.",
        endpoint.port
    );
    failed(error.to_string(), remedy)
}

/// Parses a list of keys, regardless of its order.
fn parse_keys(revision: Revision, body: &Bytes) -> Option<BTreeSet<(u8, Vec<u8>)>> {
    let configs = wire::for_revision(revision).decode_hpke_configs(body).ok()?;
    Some(configs.iter().map(|config| (config.id, config.public_key.to_vec())).collect())
}

/// Fetches the keys from the local server directly.
async fn fetch_local_keys(context: &DoctorContext, endpoint: &Endpoint, call: &wire::RequestSpec) -> Option<Bytes> {
    let listen: SocketAddr = connectable_address(context.listen_address());
    let is_secure = context.config.tls.mode != TlsMode::Off;
    // Another check covers the certificate, and the address is local.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .timeout(context.timeout)
        .resolve(&endpoint.host, listen)
        .build()
        .ok()?;
    let scheme = if is_secure { "https" } else { "http" };
    let host = if endpoint.address.is_none() { endpoint.host.clone() } else { listen.ip().to_string() };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let prefix = wire::for_revision(Revision::ALL[0]).path_prefix();
    let url = format!("{scheme}://{host}:{}/{prefix}/{}", listen.port(), call.path);
    let answer = http.get(url).send().await.ok()?;
    answer.bytes().await.ok()
}
