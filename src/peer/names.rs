//! The addresses of hosts, asked of the name servers without the C library.
//!
//! A static binary that asks the C library loads parts of the system's own C library into itself, as `nsswitch.conf` has it,
//! and crashes or fails where that is of another release. So this reads `/etc/hosts` and `/etc/resolv.conf` itself, again
//! when they have changed, and does the same whether the binary is static or not. What other sources `nsswitch.conf` may
//! name is not asked.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::parse_resolv_conf,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Where the name servers are.
const SERVERS: &str = "/etc/resolv.conf";
/// The files that a resolver is made of.
const FILES: [&str; 2] = [SERVERS, "/etc/hosts"];

/// A name that has no address, as far as we could learn. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

/// Finds the addresses of hosts. Clones are the same.
#[derive(Clone, Default)]
pub struct Names {
    resolver: Arc<Mutex<Option<(Stamps, TokioResolver)>>>,
}

/// By what it is seen that the files have changed.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl Names {
    /// The addresses of a host, at least one.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let failed = |error: NetError| {
            let hint = if Path::new(SERVERS).exists() { "" } else { " (there is no /etc/resolv.conf)" };
            let why = if error.is_nx_domain() {
                "there is no such name".to_owned()
            } else if error.is_no_records_found() {
                "no name server has one".to_owned()
            } else {
                error.to_string()
            };
            NameError(format!("cannot find the address of {host}{hint}: {why}"))
        };
        let resolver = self.resolver().map_err(failed)?;
        let found = resolver.lookup_ip(host).await.map_err(failed)?;
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() { Err(NameError(format!("{host} has no address"))) } else { Ok(addresses) }
    }

    /// A resolver of the files as they are now. Must be called on the runtime that answers are waited for on.
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let stamps = FILES.map(stamp);
        let mut known = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, resolver)) if *of == stamps => Ok(resolver.clone()),
            _ => {
                let resolver = make()?;
                *known = Some((stamps, resolver.clone()));
                Ok(resolver)
            }
        }
    }
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn make() -> Result<TokioResolver, NetError> {
    let (config, options) = match fs::read(SERVERS).ok().map(parse_resolv_conf) {
        Some(Ok(parsed)) => parsed,
        // What resolv.conf(5) says of a file that is missing or names no server: it is on this machine.
        _ => {
            let server = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            (ResolverConfig::from_parts(None, Vec::new(), vec![server]), ResolverOpts::default())
        }
    };
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let ours = builder.options_mut();
    *ours = options;
    // Connections are kept, so that names are seldom asked for; whoever moves a host wants that to be noticed.
    ours.cache_size = 0;
    ours.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build()
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.lookup(name.as_str()).await?;
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_is_found_and_nonsense_is_not() {
        let names = Names::default();
        let found = names.lookup("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        // Never a name: a label has at most 63 octets (RFC 1035 section 2.3.4).
        let error = names.lookup(&"x".repeat(64)).await.unwrap_err().to_string();
        assert!(error.contains("cannot find the address of xxx"), "{error}");
    }
}
