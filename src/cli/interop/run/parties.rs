//! The four parties of a run: those that are somewhere, and those that run in this process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration as Span,
};

use tokio::time::Instant;

use super::{
    super::{
        super::{Failure, Outcome},
        serve::{Kind, ServedParty},
    },
    PartyUrls,
    remote::RemoteParty,
};
use crate::{model::Revision, peer::Peer};

/// The parties.
pub struct Parties {
    /// Uploads.
    pub client: RemoteParty,
    /// Takes uploads, and drives the protocol.
    pub leader: RemoteParty,
    /// Answers the leader.
    pub helper: RemoteParty,
    /// Gets the results.
    pub collector: RemoteParty,
    /// Those that are ours.
    own: Vec<ServedParty>,
}

impl Parties {
    /// Starts those that are nowhere else, and waits for all.
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
        // What a runner asks for is done once: an upload that is repeated is counted twice.
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
        <[RemoteParty; 4]>::try_from(remotes).map_err(|_| Failure::new("there are four parties"))
    }

    /// All of them.
    pub fn all(&self) -> [&RemoteParty; 4] {
        [&self.client, &self.leader, &self.helper, &self.collector]
    }

    /// Stops those that are ours.
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
