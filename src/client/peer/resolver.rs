//! A DNS resolver that does not use the C library.
//!
//! # Decision: resolve hosts without the C library
//!
//! In a static binary, name resolution of the C library loads shared libraries of the system, as configured in
//! `nsswitch.conf`. It crashes or fails if their version differs. The resolver therefore reads `/etc/hosts` and
//! `/etc/resolv.conf` itself, and again when they change. Dynamic binaries do the same, so that tests cover it. Other
//! sources of `nsswitch.conf` are not used.
//!
//! A name in the hosts file is never looked up in DNS, for either address family.

mod files;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::future::select;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use self::files::ResolvConf;
use dapbox_support::files as text_files;

/// The configuration of name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The hosts file.
const HOSTS: &str = "/etc/hosts";
/// The port of name servers (RFC 1035 section 4.2).
const PORT: u16 = 53;
/// Maximum duration of a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
/// Time to wait for the addresses of the second family, because a name server may drop queries of an unknown type.
const OTHER_FAMILY_TIMEOUT: Duration = Duration::from_secs(1);

/// A failed lookup. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookupError(String);

/// Resolves host names. Clones share their state.
#[derive(Clone)]
pub struct Resolver {
    resolver: Arc<Mutex<Option<(FileStamp, Dns)>>>,
    sources: Arc<Sources>,
    limit: Duration,
}

/// Files and port to use.
struct Sources {
    servers: PathBuf,
    hosts: PathBuf,
    port: u16,
}

/// A DNS client with a description of its name servers for errors.
#[derive(Clone)]
struct Dns {
    resolver: TokioResolver,
    servers: Arc<str>,
}

/// Modification time and length, to detect changes of a file.
type FileStamp = Option<(SystemTime, u64)>;

impl Default for Resolver {
    fn default() -> Self {
        Self::of(Sources { servers: RESOLV_CONF.into(), hosts: HOSTS.into(), port: PORT })
    }
}

impl Resolver {
    fn of(sources: Sources) -> Self {
        Self { resolver: Arc::default(), sources: Arc::new(sources), limit: LOOKUP_TIMEOUT }
    }

    /// Limits a lookup to most of a connection timeout, so that a slow lookup is reported as such and not as a
    /// connection timeout.
    pub fn for_connect_timeout(&self, connect_timeout: Duration) -> Self {
        Self { limit: LOOKUP_TIMEOUT.min(connect_timeout * 4 / 5), ..self.clone() }
    }

    /// Resolves a host to at least one address.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let known = self.lookup_local(host);
        if !known.is_empty() {
            return Ok(known);
        }
        let dns = self.dns().map_err(|error| failed(host, "", &error.to_string()))?;
        match tokio::time::timeout(self.limit, ask(&dns.resolver, host)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(failed(host, &dns.servers, &explain(&error))),
            Err(_) => Err(failed(host, &dns.servers, &format!("timed out after {} ms", self.limit.as_millis()))),
        }
    }

    /// Resolves a host without DNS.
    fn lookup_local(&self, host: &str) -> Vec<IpAddr> {
        if let Ok(address) = host.parse() {
            return vec![address];
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        // A hosts file with invalid UTF-8 may still have readable names.
        let text = text_files::read(&self.sources.hosts).unwrap_or_default();
        let found = files::addresses_of(&String::from_utf8_lossy(&text), host);
        let lower = host.to_ascii_lowercase();
        // RFC 6761 section 6.3: never sent to a name server.
        if found.is_empty() && (lower == "localhost" || lower.ends_with(".localhost")) {
            return vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        found
    }

    /// A DNS client for the current configuration file. Call it on the runtime that awaits the lookups.
    fn dns(&self) -> Result<Dns, NetError> {
        let stamp = stamp(&self.sources.servers);
        let mut known = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, dns)) if *of == stamp => Ok(dns.clone()),
            _ => {
                let dns = build_dns(&self.sources)?;
                *known = Some((stamp, dns.clone()));
                Ok(dns)
            }
        }
    }
}

fn failed(host: &str, servers: &str, why: &str) -> LookupError {
    LookupError(format!("cannot resolve {host} by DNS: {why}{servers}"))
}

fn explain(error: &NetError) -> String {
    if error.is_nx_domain() {
        "no such name".to_owned()
    } else if error.is_no_records_found() {
        "no address records".to_owned()
    } else {
        error.to_string()
    }
}

fn stamp(path: &Path) -> FileStamp {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// Queries both address families in parallel. One of them suffices.
async fn ask(resolver: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, NetError> {
    let ipv6 = Box::pin(addresses(resolver, host, RecordType::AAAA));
    let ipv4 = Box::pin(addresses(resolver, host, RecordType::A));
    let (first, other) = select(ipv6, ipv4).await.factor_first();
    match first {
        Ok(mut found) => {
            if let Ok(Ok(more)) = tokio::time::timeout(OTHER_FAMILY_TIMEOUT, other).await {
                found.extend(more);
            }
            // IPv6 first: connecting tries the first family, and the other one shortly after.
            found.sort_by_key(IpAddr::is_ipv4);
            Ok(found)
        }
        Err(error) => other.await.map_err(|later| if error.is_no_records_found() { later } else { error }),
    }
}

/// Queries the addresses of one family. Fails if there is none.
async fn addresses(resolver: &TokioResolver, host: &str, kind: RecordType) -> Result<Vec<IpAddr>, NetError> {
    let found = resolver.lookup(host, kind).await?;
    let addresses = found.answers().iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    let addresses: Vec<_> = addresses.collect();
    if addresses.is_empty() { Err(NetError::from("no address in the response")) } else { Ok(addresses) }
}

fn build_dns(sources: &Sources) -> Result<Dns, NetError> {
    let text = text_files::read(&sources.servers);
    let is_there = text.is_ok();
    let mut conf = ResolvConf::parse(&String::from_utf8_lossy(&text.unwrap_or_default()));
    for entry in &conf.unusable {
        tracing::warn!(path = %sources.servers.display(), entry, "name server configuration entry ignored");
    }
    if conf.servers.is_empty() {
        // resolv.conf(5): without a file or a name server, the local machine is used.
        conf.servers.push(Ipv4Addr::LOCALHOST.into());
    }
    let names: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
    let missing = if is_there { String::new() } else { format!("; {} is missing", sources.servers.display()) };
    let servers = format!(" (name server {}{missing})", names.join(", ")).into();
    let of_server = |address: &IpAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let connections = connections.map(|connection| {
            let mut connection = connection;
            connection.port = sources.port;
            connection
        });
        NameServerConfig::new(*address, true, connections.into())
    };
    let config = ResolverConfig::from_parts(None, conf.search, conf.servers.iter().map(of_server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    (options.ndots, options.attempts, options.timeout) = (conf.ndots, conf.attempts, conf.timeout);
    options.edns0 = conf.edns0;
    options.use_hosts_file = ResolveHosts::Never;
    // Connections are pooled, so lookups are rare, and a change of an address takes effect immediately.
    options.cache_size = 0;
    Ok(Dns { resolver: builder.build()?, servers })
}

impl Resolve for Resolver {
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
mod tests;
