//! Our public URL: whether it leads to this server.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;

use super::{certificate, ports::reachable, world::World};
use crate::{
    cli::{
        certificate::Whose,
        findings::{Finding, Verdict, failed, good, warning},
        place::Place,
    },
    config::TlsMode,
    model::Revision,
    peer::{self, Peer},
    wire,
};

/// Looks at our public URL, if we have one.
pub async fn examine(world: &World) -> Vec<Finding> {
    let Some(place) = Place::of(&world.config.public_url) else { return without(world) };
    // Without a proxy it is our own certificate, which is looked at where it is served.
    let is_direct = world.proxy(&place.url()).is_none();
    let is_behind = world.config.tls.mode == TlsMode::Off && place.is_secure && !place.is_loopback() && is_direct;
    let proxied = async { if is_behind { certificate::at(world, &place, Whose::Proxy).await } else { None } };
    let (verdict, proxied) = tokio::join!(public_url(world, &place), proxied);
    let mut findings = Vec::new();
    findings.extend(verdict.map(|verdict| Finding::new("public URL", verdict)));
    findings.extend(proxied.map(|verdict| Finding::new("certificate", verdict)));
    findings
}

/// Without one, nobody can look. Whoever has tasks is to be reached.
fn without(world: &World) -> Vec<Finding> {
    if world.known_tasks().iter().all(|task| {
        [&task.leader_url, &task.helper_url].iter().all(|url| Place::of(url).is_some_and(|place| place.is_loopback()))
    }) {
        return Vec::new();
    }
    let verdict = warning(
        "public_url is not set, so that nobody looks whether this server can be reached",
        "Set it in the configuration to the URL that the other parties have of this server, without /dap-09/.",
    );
    vec![Finding::new("public URL", verdict)]
}

async fn public_url(world: &World, place: &Place) -> Option<Verdict> {
    if !world.is_served() {
        return None;
    }
    let url = &world.config.public_url;
    let base = peer::dap_url(url, Revision::ALL[0]);
    Some(leads_here(world, place, url, &base, &world.peer).await)
}

/// Asks for our keys below a base URL of the oldest revision, and compares them with what is answered here.
pub async fn leads_here(world: &World, place: &Place, url: &str, base: &str, peer: &Peer) -> Verdict {
    let revision = Revision::ALL[0];
    let call = wire::of(revision).hpke_config_call(None);
    let here = async { if world.is_served() { asked_here(world, place, &call).await } else { None } };
    let (there, here) = tokio::join!(peer.send(base, &call, None, Bytes::new()), here);
    let there = match there {
        Ok(answer) => answer,
        Err(error) if place.is_loopback() => return failed(error.to_string(), "Correct public_url."),
        Err(error) => return unreachable(place, &error),
    };
    let remedy = "Correct public_url, the name's address, or what the proxy in front passes on: all of /dap-09/ and \
        /dap-18/ below it, unchanged.";
    if !there.is_success() {
        return failed(format!("{url} answers {}", there.status), remedy);
    }
    match (keys(revision, &there.body), here.and_then(|body| keys(revision, &body))) {
        (None, _) => failed(format!("{url} answers with something that is no DAP aggregator's"), remedy),
        (Some(there), Some(here)) if there != here => {
            failed(format!("{url} leads to another aggregator: it has other keys"), remedy)
        }
        (Some(_), Some(_)) => good(format!("{url} leads here")),
        (Some(_), None) => good(format!("{url} leads to an aggregator")),
    }
}

fn unreachable(place: &Place, error: &peer::PeerError) -> Verdict {
    let remedy = format!(
        "See the checks of name and certificate; open TCP port {} in all firewalls between. A router that does not let \
         you reach your own public address from within is no trouble for others: try from elsewhere.",
        place.port
    );
    failed(error.to_string(), remedy)
}

/// A list of keys, whatever its order.
fn keys(revision: Revision, body: &Bytes) -> Option<BTreeSet<(u8, Vec<u8>)>> {
    let configs = wire::of(revision).decode_hpke_configs(body).ok()?;
    Some(configs.iter().map(|config| (config.id, config.public_key.to_vec())).collect())
}

/// What this server answers itself, asked without any way around.
async fn asked_here(world: &World, place: &Place, call: &wire::Call) -> Option<Bytes> {
    let listen: SocketAddr = reachable(world.listen());
    let is_secure = world.config.tls.mode != TlsMode::Off;
    // The certificate is looked at elsewhere, and the address is our own.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .timeout(world.timeout)
        .resolve(&place.host, listen)
        .build()
        .ok()?;
    let scheme = if is_secure { "https" } else { "http" };
    let host = if place.address.is_none() { place.host.clone() } else { listen.ip().to_string() };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let prefix = wire::of(Revision::ALL[0]).prefix();
    let url = format!("{scheme}://{host}:{}/{prefix}/{}", listen.port(), call.path);
    let answer = http.get(url).send().await.ok()?;
    answer.bytes().await.ok()
}
