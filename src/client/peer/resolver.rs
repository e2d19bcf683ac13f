//! The addresses of hosts, without the C library.
//!
//! A static binary that asks the C library loads parts of the system's own C library into itself, as `nsswitch.conf` has it,
//! and crashes or fails where that is of another release. So this reads `/etc/hosts` and `/etc/resolv.conf` itself, again
//! when they have changed, and does the same whether the binary is static or not. What other sources `nsswitch.conf` may
//! name is not asked.
//!
//! A name in the hosts file is never asked of DNS, in either family of addresses.

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

/// Where the name servers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Names that are known without a name server.
const HOSTS: &str = "/etc/hosts";
/// The port of name servers (RFC 1035 section 4.2).
const PORT: u16 = 53;
/// How long a name may take, unless connecting must be faster.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the addresses of one family wait for those of the other: a name server may drop what it does not know.
const OTHER_FAMILY_TIMEOUT: Duration = Duration::from_secs(1);

/// A name that has no address, as far as we could learn. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookupError(String);

/// Finds the addresses of hosts. Clones are the same.
#[derive(Clone)]
pub struct Resolver {
    resolver: Arc<Mutex<Option<(FileStamp, Dns)>>>,
    sources: Arc<Sources>,
    limit: Duration,
}

/// Where names are looked up.
struct Sources {
    servers: PathBuf,
    hosts: PathBuf,
    port: u16,
}

/// What asks the name servers, and who they are.
#[derive(Clone)]
struct Dns {
    resolver: TokioResolver,
    servers: Arc<str>,
}

/// By what it is seen that the file has changed.
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

    /// The same for connections that are given up after a while: a name that takes most of it is an error before, which
    /// says that it was the name.
    pub fn within(&self, connect_timeout: Duration) -> Self {
        Self { limit: LOOKUP_TIMEOUT.min(connect_timeout * 4 / 5), ..self.clone() }
    }

    /// The addresses of a host, at least one.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let known = self.lookup_local(host);
        if !known.is_empty() {
            return Ok(known);
        }
        let dns = self.dns().map_err(|error| failed(host, "", &error.to_string()))?;
        match tokio::time::timeout(self.limit, ask(&dns.resolver, host)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(failed(host, &dns.servers, &explain(&error))),
            Err(_) => Err(failed(host, &dns.servers, &format!("no answer in {} ms", self.limit.as_millis()))),
        }
    }

    /// The addresses that are known without DNS.
    fn lookup_local(&self, host: &str) -> Vec<IpAddr> {
        if let Ok(address) = host.parse() {
            return vec![address];
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        // A hosts file of other bytes still has names that can be read.
        let text = text_files::read(&self.sources.hosts).unwrap_or_default();
        let found = files::addresses_of(&String::from_utf8_lossy(&text), host);
        let lower = host.to_ascii_lowercase();
        // RFC 6761 section 6.3: never asked of a name server.
        if found.is_empty() && (lower == "localhost" || lower.ends_with(".localhost")) {
            return vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        found
    }

    /// A resolver of the file as it is now. Must be called on the runtime that answers are waited for on.
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
    LookupError(format!("cannot find the address of {host} by DNS: {why}{servers}"))
}

fn explain(error: &NetError) -> String {
    if error.is_nx_domain() {
        "there is no such name".to_owned()
    } else if error.is_no_records_found() {
        "the name has no address".to_owned()
    } else {
        error.to_string()
    }
}

fn stamp(path: &Path) -> FileStamp {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// Asks for addresses of both families at the same time. Those of one are enough.
async fn ask(resolver: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, NetError> {
    let wide = Box::pin(addresses(resolver, host, RecordType::AAAA));
    let narrow = Box::pin(addresses(resolver, host, RecordType::A));
    let (first, other) = select(wide, narrow).await.factor_first();
    match first {
        Ok(mut found) => {
            if let Ok(Ok(more)) = tokio::time::timeout(OTHER_FAMILY_TIMEOUT, other).await {
                found.extend(more);
            }
            // IPv6 first: connecting tries the first family, and soon the other one.
            found.sort_by_key(IpAddr::is_ipv4);
            Ok(found)
        }
        Err(error) => other.await.map_err(|later| if error.is_no_records_found() { later } else { error }),
    }
}

/// The addresses of one family, at least one.
async fn addresses(resolver: &TokioResolver, host: &str, kind: RecordType) -> Result<Vec<IpAddr>, NetError> {
    let found = resolver.lookup(host, kind).await?;
    let addresses = found.answers().iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    let addresses: Vec<_> = addresses.collect();
    if addresses.is_empty() { Err(NetError::from("the answer has no address")) } else { Ok(addresses) }
}

fn build_dns(sources: &Sources) -> Result<Dns, NetError> {
    let text = text_files::read(&sources.servers);
    let is_there = text.is_ok();
    let mut conf = ResolvConf::parse(&String::from_utf8_lossy(&text.unwrap_or_default()));
    for entry in &conf.unusable {
        tracing::warn!(file = %sources.servers.display(), entry, "name server configuration entry ignored");
    }
    if conf.servers.is_empty() {
        // What resolv.conf(5) says of a file that is missing or names no server: it is on this machine.
        conf.servers.push(Ipv4Addr::LOCALHOST.into());
    }
    let names: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
    let missing = if is_there { String::new() } else { format!("; there is no {}", sources.servers.display()) };
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
    // Connections are kept, so that names are seldom asked for; whoever moves a host wants that to be noticed.
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
