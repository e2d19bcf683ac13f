//! `dapbox interop serve`: one party behind the interop test API.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    aggregator,
    api::{PREFIX, Ready, Reply, Status},
    client, collector,
    response::{ApiResponse, bad_request, ok_response},
};
use crate::{
    cli::{
        args::{Format, OutputArgs, PeerArgs, RevisionArg},
        failure::{Failure, Outcome},
        local_pair::WorkDir,
        logging,
        signals::StopSignals,
        style::{self, Style, print},
    },
    config::Log,
    model::Revision,
    peer::Peer,
    server::json_server::{self, JsonServer},
    support::Fault,
};

/// Arguments of `dapbox interop serve`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a client, which uploads measurements.
    #[command(after_help = "The API has /internal/test/ready and /internal/test/upload.\n\n\
        Examples:\n  \
        dapbox interop serve client\n  \
        dapbox interop serve client --listen 127.0.0.1:8084 --dap 18")]
    Client(Common),
    /// Serve an aggregator (leader or helper): a complete server on a second address.
    #[command(
        after_help = "The API has /internal/test/ready, endpoint_for_task and add_task. DAP is served at another address, \
        which endpoint_for_task returns with the host name of the request.\n\n\
        Examples:\n  \
        dapbox interop serve aggregator\n  \
        dapbox interop serve aggregator --listen 127.0.0.1:8082 -o json\n  \
        dapbox interop serve aggregator --data-dir keep --dap-listen 127.0.0.1:9082"
    )]
    Aggregator(AggregatorArgs),
    /// Serve a collector, which collects batches and stores the results.
    #[command(after_help = "The API has /internal/test/ready, add_task, collection_start and collection_poll.\n\n\
        Examples:\n  \
        dapbox interop serve collector\n  \
        dapbox interop serve collector --listen 127.0.0.1:8083")]
    Collector(Common),
}

/// Arguments of all parties.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Address of the API; port 0 selects a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080", value_parser = crate::config::address::parse)]
    listen: SocketAddr,
    /// Allow addresses that other machines can reach, as in a container. Everyone who can reach the API can add tasks,
    /// upload and read results.
    #[arg(long)]
    allow_remote: bool,
    /// DAP revision.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = RevisionArg::default())]
    dap: RevisionArg,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Further arguments of an aggregator.
#[derive(Debug, clap::Args)]
pub struct AggregatorArgs {
    /// Address of DAP; a free port on the address of the API by default.
    #[arg(long, value_name = "IP:PORT", value_parser = crate::config::address::parse)]
    dap_listen: Option<SocketAddr>,
    /// Directory for the data; a temporary one by default.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Runs `dapbox interop serve`.
pub async fn run(command: Command) -> Outcome {
    let mut signals = StopSignals::new()?;
    let (kind, common) = match &command {
        Command::Client(common) => (Kind::Client, common),
        Command::Collector(common) => (Kind::Collector, common),
        Command::Aggregator(args) => (aggregator_kind(args), &args.common),
    };
    let addresses = [Some(common.listen), kind.second_address()];
    check_addresses(addresses.into_iter().flatten(), common.allow_remote)?;
    logging::start(&Log::default())?;
    let served = ServedParty::start(&kind, common.listen, common.dap.revision(), common.peer.peer()?).await?;
    print_ready(&kind, &served, common)?;
    let outcome = tokio::select! {
        _ = signals.next() => Ok(()),
        fault = served.failed() => Err(Failure::new(format!("fatal error: {fault}"))),
    };
    served.stop().await?;
    outcome
}

fn aggregator_kind(args: &AggregatorArgs) -> Kind {
    let beside = SocketAddr::new(args.common.listen.ip(), 0);
    Kind::Aggregator { dap_listen: args.dap_listen.unwrap_or(beside), data_dir: args.data_dir.clone() }
}

/// Refuses addresses that other machines can reach, unless allowed.
fn check_addresses(addresses: impl Iterator<Item = SocketAddr>, allow_remote: bool) -> Outcome {
    match addresses.into_iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if !allow_remote => Err(Failure::usage(format!(
            "{address} is reachable from other machines, and the interop test API has no authentication (hint: use a \
             loopback address such as 127.0.0.1:8080, or --allow-remote in an isolated network)"
        ))),
        _ => Ok(()),
    }
}

fn print_ready(kind: &Kind, served: &ServedParty, common: &Common) -> std::io::Result<()> {
    if common.allow_remote {
        style::warn("the API has no authentication: everyone who can reach it can add tasks, upload and read results");
    }
    let (name, url) = (kind.name(), served.url());
    if common.output.format == Format::Json {
        return print(json!({ "party": name, "url": url, "dap_url": served.dap_url() }));
    }
    let style = Style::stdout();
    print(style.bold(&format!("The {name} is ready (for tests only).")))?;
    print(format!("  {} {}", style.dim("API"), style.accent(&url)))?;
    if let Some(url) = served.dap_url() {
        print(format!("  {} {url}", style.dim("DAP")))?;
    }
    print("Press Ctrl-C to stop.")
}

/// The kind of party.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A client.
    Client,
    /// A leader or helper.
    Aggregator {
        /// The address of DAP.
        dap_listen: SocketAddr,
        /// The data directory; a temporary one if `None`.
        data_dir: Option<PathBuf>,
    },
    /// A collector.
    Collector,
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Aggregator { .. } => "aggregator",
            Self::Collector => "collector",
        }
    }

    /// The address that it listens on besides the API.
    fn second_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Aggregator { dap_listen, .. } => Some(*dap_listen),
            Self::Client | Self::Collector => None,
        }
    }
}

/// A running party with its API.
pub struct ServedParty {
    posts: JsonServer,
    party: Party,
}

#[derive(Clone)]
enum Party {
    Client(Arc<client::Party>),
    Aggregator(Arc<aggregator::Party>),
    Collector(Arc<collector::Party>),
}

impl ServedParty {
    /// Starts a party and its API.
    pub async fn start(kind: &Kind, listen: SocketAddr, revision: Revision, peer: Peer) -> Result<Self, Failure> {
        let peer = peer.with_dap_auth_token_header();
        let party = match kind {
            Kind::Client => Party::Client(Arc::new(client::Party { revision, peer })),
            Kind::Collector => Party::Collector(Arc::new(collector::Party::new(revision, peer))),
            Kind::Aggregator { dap_listen, data_dir } => {
                let directory = WorkDir::new(data_dir.as_deref())?;
                Party::Aggregator(Arc::new(aggregator::Party::start(revision, directory, *dap_listen).await?))
            }
        };
        let shared = party.clone();
        let handle = move |path: String, body: Bytes| {
            let party = shared.clone();
            async move { party.answer(&path, &body).await.map(encode) }
        };
        match JsonServer::start(listen, handle).await {
            Ok(posts) => Ok(Self { posts, party }),
            Err(error) => {
                party.stop().await?;
                Err(Failure::new(format!("cannot listen on {listen}: {error} (hint: choose another --listen)")))
            }
        }
    }

    /// The base URL of the API.
    pub fn url(&self) -> String {
        format!("http://{}/", self.posts.address())
    }

    /// The DAP URL of an aggregator.
    fn dap_url(&self) -> Option<String> {
        match &self.party {
            Party::Aggregator(party) => Some(party.url()),
            Party::Client(_) | Party::Collector(_) => None,
        }
    }

    /// Resolves when the party fails.
    pub async fn failed(&self) -> Fault {
        let party = async {
            match &self.party {
                Party::Aggregator(party) => party.failed().await,
                Party::Client(_) | Party::Collector(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            fault = party => fault,
            () = self.posts.ended() => Fault::new("the listener of the API stopped"),
        }
    }

    /// Stops the party and its API.
    pub async fn stop(self) -> Outcome {
        self.posts.stop().await;
        self.party.stop().await
    }
}

impl Party {
    /// Answers a request to the API. `None` for a resource that this party does not have.
    async fn answer(&self, path: &str, body: &Bytes) -> Option<ApiResponse> {
        let name = path.strip_prefix('/')?.strip_prefix(PREFIX)?;
        if name == "ready" {
            return Some(match read::<Ready>(body) {
                Ok(_) => ok_response(Reply::of(Status::Success)),
                Err(answer) => answer,
            });
        }
        let answered = match (self, name) {
            (Self::Client(party), "upload") => match read(body) {
                Ok(request) => Ok(party.upload(request).await),
                Err(answer) => Err(answer),
            },
            (Self::Aggregator(party), "endpoint_for_task") => {
                read(body).map(|request| party.endpoint_for_task(&request))
            }
            (Self::Aggregator(party), "add_task") => match read(body) {
                Ok(request) => Ok(party.add_task(&request).await),
                Err(answer) => Err(answer),
            },
            (Self::Collector(party), "add_task") => read(body).map(|request| party.add_task(&request)),
            (Self::Collector(party), "collection_start") => match read(body) {
                Ok(request) => Ok(party.collection_start(&request).await),
                Err(answer) => Err(answer),
            },
            (Self::Collector(party), "collection_poll") => read(body).map(|request| party.collection_poll(&request)),
            _ => return None,
        };
        Some(answered.unwrap_or_else(|answer| answer))
    }

    async fn stop(self) -> Outcome {
        match self {
            Self::Aggregator(party) => match Arc::try_unwrap(party) {
                Ok(party) => party.stop().await,
                // A request in progress holds a reference. The process is about to exit.
                Err(_) => Ok(()),
            },
            Self::Client(_) | Self::Collector(_) => Ok(()),
        }
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiResponse> {
    serde_json::from_slice(body).map_err(bad_request)
}

fn encode(answer: ApiResponse) -> json_server::Answer {
    let (status, reply) = *answer;
    (status, serde_json::to_value(reply).unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_non_loopback_addresses_by_default() {
        let check = |address: &str, allowed| check_addresses([address.parse().unwrap()].into_iter(), allowed);
        for address in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80"] {
            assert!(check(address, false).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:80"] {
            let refused = check(address, false).unwrap_err();
            assert!(refused.message().contains("--allow-remote"), "{}", refused.message());
            assert!(check(address, true).is_ok(), "{address}");
        }
    }
}
