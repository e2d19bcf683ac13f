//! Builds reports step by step as a client does, so that any step can be manipulated.

use std::sync::Arc;

use bytes::Bytes;
use dapbox::{
    client::AggregatorKeys,
    hpke,
    model::{
        AggregateShareReq, AggregationJobInitReq, BatchSelector, Checksum, CollectionReq, Extension, FixedSizeQuery,
        ForwardedCollectionReq, HpkeCiphertext, HpkeConfig, PartialBatchSelector, PlaintextInputShare, PrepareInit,
        Query, Report, ReportId, ReportMetadata, ReportShare, Role, Task, Time,
    },
    vdaf::{self, InputShare, Measurement, MeasurementShares, Preparer, VerifyParams},
    wire::{self, Wire},
};

use super::Parties;

/// Builds reports for one task.
pub struct ReportBuilder {
    pub task: Task,
    preparer: Arc<dyn Preparer>,
    pub keys: AggregatorKeys,
}

/// A report with unsealed shares.
#[derive(Clone)]
pub struct Draft {
    pub metadata: ReportMetadata,
    /// Extensions in both input shares.
    pub extensions: Vec<Extension>,
    pub public_share: Bytes,
    pub leader: PlaintextInputShare,
    pub helper: PlaintextInputShare,
}

impl Draft {
    /// Replaces the report's VDAF shares.
    pub fn set_shares(&mut self, shares: MeasurementShares) {
        self.public_share = shares.public_share.into();
        self.leader.payload = shares.leader_share.into();
        self.helper.payload = shares.helper_share.into();
    }
}

impl ReportBuilder {
    /// Fetches the aggregators' HPKE keys.
    pub async fn new(parties: &Parties) -> Self {
        let task = &parties.leader;
        Self {
            task: task.clone(),
            preparer: vdaf::preparer(task.public.revision, &task.public.vdaf).unwrap(),
            keys: parties.client().keys().await.unwrap(),
        }
    }

    fn wire(&self) -> &'static dyn Wire {
        wire::for_revision(self.task.public.revision)
    }

    /// Splits a measurement for a report id.
    pub fn shard(&self, measurement: &Measurement, id: &ReportId) -> MeasurementShares {
        self.preparer.shard(&self.wire().vdaf_context(&self.task.public.id), measurement, id).unwrap()
    }

    /// A valid unsealed report with exactly this time.
    pub fn draft(&self, measurement: &Measurement, time: Time) -> Draft {
        let metadata = ReportMetadata { id: ReportId::random(), time };
        let empty = PlaintextInputShare { extensions: Vec::new(), payload: Bytes::new() };
        let (extensions, public_share) = (Vec::new(), Bytes::new());
        let mut draft = Draft { metadata, extensions, public_share, leader: empty.clone(), helper: empty };
        draft.set_shares(self.shard(measurement, &metadata.id));
        draft
    }

    /// Seals both shares.
    pub fn seal(&self, draft: &Draft) -> Report {
        let helper_share = self.seal_share(draft, Role::Helper, &self.keys.helper, &draft.helper);
        Report {
            metadata: draft.metadata,
            extensions: draft.extensions.clone(),
            public_share: draft.public_share.clone(),
            leader_share: self.seal_share(draft, Role::Leader, &self.keys.leader, &draft.leader),
            helper_share,
        }
    }

    fn seal_share(&self, draft: &Draft, role: Role, key: &HpkeConfig, share: &PlaintextInputShare) -> HpkeCiphertext {
        let wire = self.wire();
        let aad = wire.input_share_aad(&self.task.public, &draft.metadata, &draft.extensions, &draft.public_share);
        hpke::seal(key, &wire.input_share_info(role), &aad, &wire.encode_plaintext(share)).unwrap()
    }

    /// A valid report.
    pub fn report(&self, measurement: &Measurement, time: Time) -> Report {
        self.seal(&self.draft(measurement, time))
    }

    /// A report that is changed before it is sealed.
    pub fn spoilt(&self, measurement: &Measurement, time: Time, spoil: impl FnOnce(&mut Draft)) -> Report {
        let mut draft = self.draft(measurement, time);
        spoil(&mut draft);
        self.seal(&draft)
    }

    /// The leader's request for one report. The leader's own share must be valid.
    pub fn init(&self, draft: &Draft) -> PrepareInit {
        let context = self.wire().vdaf_context(&self.task.public.id);
        let verification = VerifyParams { key: self.task.verify_key.expose(), context: &context };
        let share = InputShare {
            report_id: &draft.metadata.id,
            public_share: &draft.public_share,
            input_share: &draft.leader.payload,
        };
        let (_, message) = self.preparer.leader_start(verification, share).unwrap();
        let Report { metadata, extensions, public_share, helper_share, .. } = self.seal(draft);
        let share = ReportShare { metadata, extensions, public_share, input_share: helper_share };
        PrepareInit { share, message: message.into() }
    }

    /// An aggregation job of valid reports.
    pub fn job(&self, batch: PartialBatchSelector, drafts: &[Draft]) -> AggregationJobInitReq {
        self.job_of(batch, drafts.iter().map(|draft| self.init(draft)).collect())
    }

    /// An aggregation job (DAP-09 section 4.5.1.1, DAP-18 section 4.5.3.1).
    pub fn job_of(&self, batch: PartialBatchSelector, prepare_inits: Vec<PrepareInit>) -> AggregationJobInitReq {
        AggregationJobInitReq {
            verify_key_id: Some(self.task.verify_key_id),
            aggregation_parameter: Bytes::new(),
            batch,
            extensions: Vec::new(),
            prepare_inits,
        }
    }
}

impl Parties {
    /// The request for the aggregate share of these reports (DAP-09 section 4.6.2, DAP-18 section 4.6.4), with the
    /// query for exactly that batch.
    pub fn share_request(&self, batch: BatchSelector, drafts: &[Draft]) -> AggregateShareReq {
        let query = match batch {
            BatchSelector::TimeInterval(interval) => Query::TimeInterval(interval),
            BatchSelector::FixedSize(_) => Query::FixedSize(FixedSizeQuery::CurrentBatch),
        };
        self.share_request_for(query, batch, drafts)
    }

    /// The same request with another query.
    pub fn share_request_for(&self, query: Query, batch: BatchSelector, drafts: &[Draft]) -> AggregateShareReq {
        let mut checksum = Checksum::default();
        drafts.iter().for_each(|draft| checksum.add(&draft.metadata.id));
        let request = CollectionReq { query, aggregation_parameter: Bytes::new(), extensions: Vec::new() };
        let bytes = self.collection_req(query);
        AggregateShareReq {
            batch,
            aggregation_parameter: Bytes::new(),
            report_count: drafts.len() as u64,
            checksum,
            collection: Some(ForwardedCollectionReq { request, bytes }),
        }
    }
}

/// The same bytes with one bit flipped.
pub fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

/// An undefined extension (DAP-09 section 4.4.3, DAP-18 section 4.4.3).
pub fn extension(kind: u16) -> Extension {
    Extension { kind, data: Bytes::from_static(b"?") }
}

/// A config id that differs from the given one.
pub fn other_config_id(config: &HpkeConfig) -> u8 {
    config.id.wrapping_add(1)
}
