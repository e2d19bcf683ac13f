//! DNS names: whether they resolve, and whether the server's own name resolves to this machine.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::{context::DoctorContext, join_findings};
use crate::{
    cli::{
        endpoint::Endpoint,
        findings::{CheckResult, Finding, failed, passed, warning},
    },
    config::TlsMode,
};

/// Checks the server's own names. The names of peers are checked with the peers.
pub async fn examine(context: &DoctorContext) -> Vec<Finding> {
    let mut names: Vec<String> = Vec::new();
    let public = Endpoint::of(&context.config.public_url)
        .filter(|endpoint| endpoint.address.is_none() && !endpoint.is_loopback());
    names.extend(public.map(|endpoint| endpoint.host));
    if context.config.tls.mode == TlsMode::Acme {
        names.extend(context.config.acme.domains.iter().cloned());
    }
    names.sort_unstable();
    names.dedup();
    join_findings(names.into_iter().map(async |name| {
        let verdict = ours(resolve(context, &name).await);
        vec![Finding::new("public name", verdict).with_subject(name)]
    }))
    .await
}

/// Resolves a name to its addresses, sorted and without duplicates.
pub async fn resolve(context: &DoctorContext, name: &str) -> Result<Vec<IpAddr>, String> {
    let found = tokio::time::timeout(context.timeout, context.names.lookup(name)).await;
    let mut addresses = found.map_err(|_| "timed out".to_owned())?.map_err(|error| error.to_string())?;
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Formats addresses.
pub fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn ours(found: Result<Vec<IpAddr>, String>) -> CheckResult {
    let addresses = match found {
        Ok(addresses) => addresses,
        Err(why) => {
            return failed(
                format!("has no address: {why}"),
                "Create an A or AAAA record for it; wait until the change has propagated.",
            );
        }
    };
    let text = list(&addresses);
    if addresses.iter().all(|address| address.is_loopback() || address.is_unspecified()) {
        return warning(
            format!("resolves to {text} here, a loopback address"),
            "If it is in /etc/hosts, others may see another address: check from elsewhere. Otherwise correct the record.",
        );
    }
    match addresses.iter().filter(|address| !is_local(**address)).count() {
        0 => passed(format!("resolves to {text}, this machine")),
        // That depends on the network in front. Whether the URL leads here is another check.
        _ => passed(format!("resolves to {text}; not an address of this machine, as behind a router or a proxy")),
    }
}

/// Whether an address belongs to this machine: only those can be bound.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::Severity;

    #[test]
    fn checks_addresses_of_public_name() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_local(parse("127.0.0.1")) && !is_local(parse("192.0.2.1")));
        assert_eq!(ours(Ok(vec![parse("127.0.1.1")])).unwrap_err().severity, Severity::Warning);
        assert_eq!(ours(Err("no such name".to_owned())).unwrap_err().severity, Severity::Failed);
        assert!(ours(Ok(vec![parse("192.0.2.1"), parse("127.0.0.1")])).unwrap().contains("not an address of this"));
    }
}
