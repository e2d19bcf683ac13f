//! Reports as a client makes them, step by step, so that any step can go wrong.

use std::sync::Arc;

use bytes::Bytes;
use dapbox::{
    client::AggregatorKeys,
    hpke,
    model::{
        AggregateShareReq, BatchSelector, Checksum, Extension, HpkeCiphertext, HpkeConfig, JobInit, PartialBatch,
        PlaintextInputShare, PrepareInit, Report, ReportId, ReportMetadata, ReportShare, Role, Secret, TaskId, Time,
    },
    vdaf::{self, InputShare, Measurement, Preparer, Sharded, Verification},
};

use super::{Parties, calls::dap};

/// Makes reports for one task.
pub struct Forge {
    task: TaskId,
    preparer: Arc<dyn Preparer>,
    verify_key: Secret,
    pub keys: AggregatorKeys,
}

/// A report whose shares are not sealed yet.
#[derive(Clone)]
pub struct Draft {
    pub metadata: ReportMetadata,
    pub public_share: Bytes,
    pub leader: PlaintextInputShare,
    pub helper: PlaintextInputShare,
}

impl Draft {
    /// Puts the VDAF's parts in the place of the report's own.
    pub fn set_shares(&mut self, shares: Sharded) {
        self.public_share = shares.public_share.into();
        self.leader.payload = shares.leader_share.into();
        self.helper.payload = shares.helper_share.into();
    }
}

impl Forge {
    /// Fetches the aggregators' keys.
    pub async fn new(parties: &Parties) -> Self {
        let task = &parties.leader;
        Self {
            task: task.public.id,
            preparer: vdaf::preparer(task.public.revision, &task.public.vdaf).unwrap(),
            verify_key: task.verify_key.clone(),
            keys: parties.client().keys().await.unwrap(),
        }
    }

    /// Splits a measurement for a report id.
    pub fn shard(&self, measurement: &Measurement, id: &ReportId) -> Sharded {
        self.preparer.shard(&dap().vdaf_context(&self.task), measurement, id).unwrap()
    }

    /// A good report, not sealed yet. Its time is kept as given.
    pub fn draft(&self, measurement: &Measurement, time: Time) -> Draft {
        let metadata = ReportMetadata { id: ReportId::random(), time };
        let empty = PlaintextInputShare { extensions: Vec::new(), payload: Bytes::new() };
        let mut draft = Draft { metadata, public_share: Bytes::new(), leader: empty.clone(), helper: empty };
        draft.set_shares(self.shard(measurement, &metadata.id));
        draft
    }

    /// Seals both shares.
    pub fn seal(&self, draft: &Draft) -> Report {
        let helper_share = self.seal_share(draft, Role::Helper, &self.keys.helper, &draft.helper);
        Report {
            metadata: draft.metadata,
            public_share: draft.public_share.clone(),
            leader_share: self.seal_share(draft, Role::Leader, &self.keys.leader, &draft.leader),
            helper_share,
        }
    }

    fn seal_share(&self, draft: &Draft, role: Role, key: &HpkeConfig, share: &PlaintextInputShare) -> HpkeCiphertext {
        let aad = dap().input_share_aad(&self.task, &draft.metadata, &draft.public_share);
        hpke::seal(key, &dap().input_share_info(role), &aad, &dap().encode_plaintext(share)).unwrap()
    }

    /// A good report.
    pub fn report(&self, measurement: &Measurement, time: Time) -> Report {
        self.seal(&self.draft(measurement, time))
    }

    /// A report with something wrong in it before it is sealed.
    pub fn spoilt(&self, measurement: &Measurement, time: Time, spoil: impl FnOnce(&mut Draft)) -> Report {
        let mut draft = self.draft(measurement, time);
        spoil(&mut draft);
        self.seal(&draft)
    }

    /// What the leader sends to the helper about a report. The leader's own share must hold.
    pub fn init(&self, draft: &Draft) -> PrepareInit {
        let context = dap().vdaf_context(&self.task);
        let verification = Verification { key: self.verify_key.expose(), context: &context };
        let share = InputShare {
            report_id: &draft.metadata.id,
            public_share: &draft.public_share,
            input_share: &draft.leader.payload,
        };
        let (_, message) = self.preparer.leader_start(verification, share).unwrap();
        let Report { metadata, public_share, helper_share, .. } = self.seal(draft);
        let share = ReportShare { metadata, public_share, input_share: helper_share };
        PrepareInit { share, message: message.into() }
    }

    /// An aggregation job of good reports.
    pub fn job(&self, batch: PartialBatch, drafts: &[Draft]) -> JobInit {
        job(batch, drafts.iter().map(|draft| self.init(draft)).collect())
    }
}

/// An aggregation job (DAP-09 section 4.5.1.1).
pub fn job(batch: PartialBatch, inits: Vec<PrepareInit>) -> JobInit {
    JobInit { aggregation_parameter: Bytes::new(), batch, inits }
}

/// The request for the aggregate share of these reports (DAP-09 section 4.6.2).
pub fn share_request(batch: BatchSelector, drafts: &[Draft]) -> AggregateShareReq {
    let mut checksum = Checksum::default();
    drafts.iter().for_each(|draft| checksum.add(&draft.metadata.id));
    AggregateShareReq { batch, aggregation_parameter: Bytes::new(), report_count: drafts.len() as u64, checksum }
}

/// The same bytes with one bit flipped.
pub fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

/// An extension that nobody defined (DAP-09 section 4.4.3).
pub fn extension(kind: u16) -> Extension {
    Extension { kind, data: Bytes::from_static(b"?") }
}

/// The config id of another key than the one given.
pub fn another_id(config: &HpkeConfig) -> u8 {
    config.id.wrapping_add(1)
}
