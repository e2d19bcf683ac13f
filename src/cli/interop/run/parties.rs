//! The four parties of a run: those that are somewhere, and those that run in this process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration as Span,
};

use tokio::time::Instant;

use super::{
    super::{
        super::{Failure, Outcome},
        serve::{Kind, Served},
    },
    Where,
    remote::Remote,
};
use crate::{model::Revision, peer::Peer};

/// The parties.
pub struct Parties {
    /// Uploads.
    pub client: Remote,
    /// Takes uploads, and drives the protocol.
    pub leader: Remote,
    /// Answers the leader.
    pub helper: Remote,
    /// Gets the results.
    pub collector: Remote,
    /// Those that are ours.
    own: Vec<Served>,
}

impl Parties {
    /// Starts those that are nowhere else, and waits for all.
    pub async fn gather(places: &Where, revision: Revision, peer: &Peer, patience: Span) -> Result<Self, Failure> {
        let mut own = Vec::new();
        match Self::gather_with(places, revision, peer, patience, &mut own).await {
            Ok([client, leader, helper, collector]) => Ok(Self { client, leader, helper, collector, own }),
            Err(failure) => {
                stop(own).await?;
                Err(failure)
            }
        }
    }

    async fn gather_with(
        places: &Where,
        revision: Revision,
        peer: &Peer,
        patience: Span,
        own: &mut Vec<Served>,
    ) -> Result<[Remote; 4], Failure> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // What a runner asks for is done once: an upload that is repeated is counted twice.
        let asking = peer.once_each()?;
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
                Some(url) => Remote::new(name, url, host, &asking, patience),
                None => {
                    let served = Served::start(&kind, any, revision, peer.clone()).await?;
                    let remote = Remote::new(name, &served.url(), None, &asking, patience);
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
        <[Remote; 4]>::try_from(remotes).map_err(|_| Failure::new("there are four parties"))
    }

    /// All of them.
    pub fn all(&self) -> [&Remote; 4] {
        [&self.client, &self.leader, &self.helper, &self.collector]
    }

    /// Stops those that are ours.
    pub async fn stop(self) -> Outcome {
        stop(self.own).await
    }
}

async fn stop(own: Vec<Served>) -> Outcome {
    let mut outcome = Ok(());
    for served in own {
        outcome = outcome.and(served.stop().await);
    }
    outcome
}
