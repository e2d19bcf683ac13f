//! The four parties of a run, remote or in this process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration as Span,
};

use tokio::time::Instant;

use super::{
    super::serve::{Kind, ServedParty},
    PartyUrls,
    remote::RemoteParty,
};
use crate::{
    cli::failure::{Failure, Outcome},
    model::Revision,
    peer::Peer,
};

/// The four parties.
pub struct Parties {
    /// Uploads measurements.
    pub client: RemoteParty,
    /// Receives uploads and drives aggregation.
    pub leader: RemoteParty,
    /// Answers the leader.
    pub helper: RemoteParty,
    /// Collects results.
    pub collector: RemoteParty,
    /// The parties in this process.
    own: Vec<ServedParty>,
}

impl Parties {
    /// Starts the parties without a URL, and waits until all four are ready.
    pub async fn connect(places: &PartyUrls, revision: Revision, peer: &Peer, patience: Span) -> Result<Self, Failure> {
        let mut own = Vec::new();
        match Self::connect_all(places, revision, peer, patience, &mut own).await {
            Ok([client, leader, helper, collector]) => Ok(Self { client, leader, helper, collector, own }),
            Err(failure) => {
                stop(own).await?;
                Err(failure)
            }
        }
    }

    async fn connect_all(
        places: &PartyUrls,
        revision: Revision,
        peer: &Peer,
        patience: Span,
        own: &mut Vec<ServedParty>,
    ) -> Result<[RemoteParty; 4], Failure> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // Requests of a runner must not be repeated: a repeated upload counts twice.
        let asking = peer.without_connection_reuse()?;
        let aggregator = Kind::Aggregator { dap_listen: any, data_dir: None };
        let wanted = [
            ("client", &places.client, None, Kind::Client),
            ("leader", &places.leader, places.leader_host.clone(), aggregator.clone()),
            ("helper", &places.helper, places.helper_host.clone(), aggregator),
            ("collector", &places.collector, None, Kind::Collector),
        ];
        let mut remotes = Vec::new();
        for (name, url, host, kind) in wanted {
            let remote = match url {
                Some(url) => RemoteParty::new(name, url, host, &asking, patience),
                None => {
                    let served = ServedParty::start(&kind, any, revision, peer.clone()).await?;
                    let remote = RemoteParty::new(name, &served.url(), None, &asking, patience);
                    own.push(served);
                    remote
                }
            };
            remotes.push(remote);
        }
        let deadline = Instant::now() + patience;
        futures_util::future::try_join_all(remotes.iter().map(|remote| remote.ready(deadline)))
            .await
            .map_err(Failure::new)?;
        <[RemoteParty; 4]>::try_from(remotes).map_err(|_| Failure::new("expected four parties"))
    }

    /// All four parties.
    pub fn all(&self) -> [&RemoteParty; 4] {
        [&self.client, &self.leader, &self.helper, &self.collector]
    }

    /// Stops the parties in this process.
    pub async fn stop(self) -> Outcome {
        stop(self.own).await
    }
}

async fn stop(own: Vec<ServedParty>) -> Outcome {
    let mut outcome = Ok(());
    for served in own {
        outcome = outcome.and(served.stop().await);
    }
    outcome
}
