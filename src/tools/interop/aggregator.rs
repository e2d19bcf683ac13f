//! The aggregator behind the interop test API: a complete server that tasks are added to.

use std::net::{IpAddr, SocketAddr};

use super::{
    api::{self, AddTask, Aggregator, EndpointForTask, Reply, Status},
    description::TaskDescription,
    response::{ApiResponse, ok_response},
};
use crate::{
    cli::{
        failure::Failure,
        local_pair::{Node, WorkDir},
    },
    config::Seconds,
    model::{Party as Role, Revision, Secret, Task, TokenHash},
    support::Fault,
};

/// An aggregator of any number of tasks, as leader or helper.
pub struct Party {
    revision: Revision,
    node: Node,
    /// The data directory; a temporary one is removed on drop.
    _directory: WorkDir,
}

impl Party {
    /// Starts the server on its own address.
    pub async fn start(revision: Revision, directory: WorkDir, listen: SocketAddr) -> Result<Self, Failure> {
        let mut config = Node::config(directory.path().join("data"), listen, None);
        // Parties that got their token through this API may send it in this header only.
        config.peer.dap_auth_token = true;
        // A runner waits for each collection, and there are few.
        config.leader.collection_retry_after = Seconds::new(0);
        Ok(Self { revision, node: Node::start_with(config).await?, _directory: directory })
    }

    /// Answers `endpoint_for_task`: all tasks have the same DAP URL.
    pub fn endpoint_for_task(&self, request: &EndpointForTask) -> ApiResponse {
        let (url, address) = (self.url(), self.node.address());
        let endpoint = match request.hostname.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => url.replacen(&address.to_string(), &authority(name, address.port()), 1),
            None => url,
        };
        ok_response(Reply { endpoint: Some(endpoint), ..Reply::of(Status::Success) })
    }

    /// The DAP URL.
    pub fn url(&self) -> String {
        self.node.url(self.revision)
    }

    /// Answers `add_task`.
    pub async fn add_task(&self, request: &AddTask) -> ApiResponse {
        let added = match task(self.revision, request) {
            Ok(task) => self.node.add(&task).await.map_err(|failure| failure.message().to_owned()),
            Err(why) => Err(why),
        };
        ok_response(added.map_or_else(Reply::error, |()| Reply::of(Status::Success)))
    }

    /// Resolves when the server fails.
    pub async fn failed(&self) -> Fault {
        self.node.failed().await
    }

    /// Stops the server.
    pub async fn stop(self) -> Result<(), Failure> {
        self.node.stop().await
    }
}

/// A host with a port, as in a URL.
fn authority(name: &str, port: u16) -> String {
    match name.parse() {
        Ok(ip @ IpAddr::V6(_)) => SocketAddr::new(ip, port).to_string(),
        _ => format!("{name}:{port}"),
    }
}

/// The task that a request describes.
fn task(revision: Revision, request: &AddTask) -> Result<Task, String> {
    let description = TaskDescription {
        id: request.task_id,
        leader: &request.leader,
        helper: &request.helper,
        vdaf: &request.vdaf,
        time_precision: Some(request.time_precision),
        bound: &request.bound,
        max_batch_size: request.max_batch_size,
        start: request.start(),
        end: request.end(),
    };
    let token = |name: &str, text: &str| Secret::token(text).map_err(|why| format!("{name}: {why}"));
    let between = token("leader_authentication_token", &request.leader_authentication_token)?;
    let party = match (request.role, &request.collector_authentication_token) {
        (Aggregator::Helper, _) => Role::Helper { leader_token: TokenHash::of(between.expose()) },
        (Aggregator::Leader, None) => return Err("collector_authentication_token is missing".to_owned()),
        (Aggregator::Leader, Some(text)) => {
            let collector_token = TokenHash::of(token("collector_authentication_token", text)?.expose());
            Role::Leader { helper_token: between, collector_token }
        }
    };
    Ok(Task {
        public: description.parameters(revision)?,
        verify_key: Secret::new(request.vdaf_verify_key.0.clone()),
        verify_key_id: 0,
        max_batch_query_count: request.max_batch_query_count.map_or(1, |count| count.0),
        report_expiry_age: None,
        collector_hpke_config: api::decode_key(revision, &request.collector_hpke_config)?,
        party,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_authority_of_name_and_address() {
        assert_eq!(authority("leader", 80), "leader:80");
        assert_eq!(authority("127.0.0.1", 80), "127.0.0.1:80");
        assert_eq!(authority("::1", 80), "[::1]:80");
    }
}
