//! Backups and restores of nodes.

use dapbox::{
    aggregator::restored::{self, Restored},
    model::Duration,
    store::Options,
    support::clock,
};

use super::Node;

pub fn options() -> Options {
    Options { cache_bytes: 1 << 20, ..Options::default() }
}

/// Backs up a running node, with its key.
pub async fn back_up(node: &Node) -> Vec<u8> {
    let client = reqwest::Client::builder().unix_socket(node.config.control_socket()).build().unwrap();
    let answer = client.get("http://control/backup?key").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap().to_vec()
}

/// Stops a node, restores a backup of it into another directory, and starts it there.
pub async fn restore_from(node: &mut Node, backup: &[u8]) -> Restored {
    node.stop().await;
    let dir = node.dir.path().join("restored");
    let times = (clock::now(), Duration(node.config.limits.clock_skew.as_secs()));
    let restored = restored::restore(&dir, &options(), backup, None, times, |_| ()).unwrap();
    node.config.data_dir = dir;
    node.resume().await;
    restored
}
