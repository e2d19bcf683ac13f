//! Tests of the store through its public interface.

mod backup;
mod compact;
mod damage;
mod directory;
mod group;
mod model;
mod reports;
mod sweep;

use std::path::Path;

use bytes::Bytes;

use super::{Options, Store};
use dapbox_protocol::model::{
    BatchMode, Duration, HpkeCiphertext, HpkeConfig, Party, Report, ReportId, ReportMetadata, Revision, Secret, Task,
    TaskId, TaskParameters, Time, TokenHash, VdafConfig,
};
use dapbox_support::Point;

/// Memory for a few sums, less than the longest sums of the tests.
const SUM_CACHE_BYTES: usize = 100_000;

/// The time precision of the tasks, in seconds.
const PRECISION: u64 = 100;

fn open(dir: &Path) -> Store {
    Store::open(dir, Options { cache_bytes: 1 << 20, sum_cache_bytes: SUM_CACHE_BYTES, ..Options::default() }).unwrap()
}

fn task_id(n: u8) -> TaskId {
    TaskId::new([n; 32])
}

fn task(n: u8) -> Task {
    Task {
        public: TaskParameters {
            id: task_id(n),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: "https://leader.example/".into(),
            helper_url: "https://helper.example/".into(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Count,
            min_batch_size: 10,
            time_precision: Duration(PRECISION),
            task_expiration: None,
            task_interval: None,
            noise: None,
        },
        verify_key: Secret::new(b"the verify key !".to_vec()),
        verify_key_id: 0,
        max_batch_query_count: 1,
        report_expiry_age: None,
        collector_hpke_config: HpkeConfig { id: 1, kem_id: 0x20, kdf_id: 1, aead_id: 1, public_key: vec![5; 32] },
        party: Party::Leader {
            helper_token: Secret::new(b"the helper's token".to_vec()),
            collector_token: TokenHash::of(b"the collector's token"),
        },
    }
}

fn report_id(n: u32) -> ReportId {
    let mut bytes = [0xab; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    ReportId::new(bytes)
}

/// A report whose leader share has `len` bytes.
fn report(n: u32, time: u64, len: usize) -> Report {
    let sealed = |config_id, len| HpkeCiphertext {
        config_id,
        enc: Bytes::from(vec![n as u8; 32]),
        payload: Bytes::from((0..len).map(|i| (i as u32 ^ n) as u8).collect::<Vec<_>>()),
    };
    Report {
        metadata: ReportMetadata { id: report_id(n), time: Time(time) },
        extensions: Vec::new(),
        public_share: Bytes::from_static(b"public"),
        leader_share: sealed(1, len),
        helper_share: sealed(2, 40),
    }
}

async fn add_task(store: &Store, n: u8) {
    store.write(Point::Test, move |tx| tx.add_task(task(n))).await.unwrap();
}
