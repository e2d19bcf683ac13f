//! A task for tests of this crate and of the server.

use dapbox_protocol::{
    hpke::{Keypair, Suite},
    model::{BatchMode, Duration, Party, Revision, Secret, Task, TaskId, TaskParameters, TokenHash, VdafConfig},
    vdaf, wire,
};

/// A helper's task with leader-selected batches of ten reports.
pub fn task(revision: Revision) -> Task {
    let vdaf = VdafConfig::Prio3Count;
    let preparer = vdaf::preparer(revision, &vdaf).unwrap();
    Task {
        public: TaskParameters {
            id: TaskId::random(),
            revision,
            info: if wire::for_revision(revision).has_task_info() { "test".to_owned() } else { String::new() },
            leader_url: "https://leader.example/dap/".to_owned(),
            helper_url: "https://helper.example/dap/".to_owned(),
            batch_mode: BatchMode::fixed_size(None),
            vdaf,
            min_batch_size: 10,
            time_precision: Duration(3600),
            task_expiration: None,
            task_interval: None,
            noise: None,
        },
        verify_key: Secret::random(preparer.verify_key_length()),
        verify_key_id: 0,
        max_batch_query_count: 1,
        report_expiry_age: None,
        collector_hpke_config: Keypair::generate(0, Suite::DEFAULT).unwrap().config().clone(),
        party: Party::Helper { leader_token: TokenHash::of(b"token") },
    }
}
