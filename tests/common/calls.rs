//! Single requests of the protocol, with whatever comes back.

use bytes::Bytes;
use dapbox::{
    model::{
        AggregateShareReq, AggregationJobId, CollectionJobId, CollectionReq, JobInit, PrepareResp, Query, Report,
        Revision,
    },
    peer::Answer,
    wire::{self, Call, Problem, ProblemType, Wire},
};

use super::{PATIENCE, Parties, peer};

/// The messages of the revision that all tasks here speak.
pub fn dap() -> &'static dyn Wire {
    wire::of(Revision::Dap09)
}

/// What a refusal says, checked to be a problem document.
pub fn problem(answer: &Answer) -> Problem {
    assert_eq!(answer.content_type.as_deref(), Some("application/problem+json"), "{answer:?}");
    Problem::from_json(answer.status, &answer.body)
}

/// Insists that the answer is a refusal of this kind, and names the task (DAP-09 section 3.2).
#[track_caller]
pub fn assert_refused(answer: &Answer, parties: &Parties, kind: ProblemType) {
    let problem = problem(answer);
    assert_eq!((problem.kind, problem.status), (kind, kind.status()), "{problem}");
    assert_eq!(problem.task_id, Some(parties.id()), "{problem}");
}

impl Parties {
    async fn to_leader(&self, call: &Call, body: Vec<u8>) -> Answer {
        peer().send(&self.leader.public.leader_url, call, Some(&self.collector_token), Bytes::from(body)).await.unwrap()
    }

    async fn to_helper(&self, call: &Call, body: Vec<u8>) -> Answer {
        peer().send(&self.leader.public.helper_url, call, Some(&self.helper_token), Bytes::from(body)).await.unwrap()
    }

    /// Uploads a report once.
    pub async fn upload(&self, report: &Report) -> Answer {
        self.upload_bytes(dap().encode_report(report)).await
    }

    /// Uploads anything once.
    pub async fn upload_bytes(&self, bytes: Vec<u8>) -> Answer {
        peer()
            .send(&self.leader.public.leader_url, &dap().upload_call(&self.id()), None, Bytes::from(bytes))
            .await
            .unwrap()
    }

    /// Uploads reports that are all taken.
    pub async fn upload_all<'a>(&self, reports: impl IntoIterator<Item = &'a Report>) {
        for report in reports {
            let answer = self.upload(report).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }

    /// Starts a collection job.
    pub async fn put_collection(&self, job: &CollectionJobId, query: Query) -> Answer {
        self.put_collection_with(job, query, b"").await
    }

    /// Starts a collection job with an aggregation parameter, which no Prio3 has.
    pub async fn put_collection_with(&self, job: &CollectionJobId, query: Query, parameter: &'static [u8]) -> Answer {
        let request = CollectionReq { query, aggregation_parameter: Bytes::from_static(parameter) };
        let body = dap().encode_collection_req(&request);
        self.to_leader(&dap().collection_create_call(&self.id(), job), body).await
    }

    /// Starts a collection job that is taken.
    pub async fn start_collection(&self, query: Query) -> CollectionJobId {
        let job = CollectionJobId::random();
        let answer = self.put_collection(&job, query).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        job
    }

    /// Asks once how a collection job is.
    pub async fn poll(&self, job: &CollectionJobId) -> Answer {
        self.to_leader(&dap().collection_poll_call(&self.id(), job), Vec::new()).await
    }

    /// Asks until a collection job is over, one way or the other.
    pub async fn outcome(&self, job: &CollectionJobId) -> Answer {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.poll(job).await;
            if answer.status != 202 {
                return answer;
            }
            assert!(std::time::Instant::now() < deadline, "the collection does not end");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Deletes a collection job.
    pub async fn delete_collection(&self, job: &CollectionJobId) -> Answer {
        self.to_leader(&dap().collection_delete_call(&self.id(), job), Vec::new()).await
    }

    /// Sends an aggregation job to the helper, as a leader does.
    pub async fn put_job(&self, job: &AggregationJobId, init: &JobInit) -> Answer {
        self.put_job_bytes(job, dap().encode_job_init(init)).await
    }

    /// Sends anything to the helper as an aggregation job.
    pub async fn put_job_bytes(&self, job: &AggregationJobId, body: Vec<u8>) -> Answer {
        self.to_helper(&dap().job_init_call(&self.id(), job), body).await
    }

    /// Sends a new aggregation job that the helper answers.
    pub async fn run_job(&self, init: &JobInit) -> Vec<PrepareResp> {
        let answer = self.put_job(&AggregationJobId::random(), init).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        dap().decode_job_resp(&answer.body, init.inits.len()).unwrap()
    }

    /// Deletes an aggregation job at the helper.
    pub async fn delete_job(&self, job: &AggregationJobId) -> Answer {
        self.to_helper(&dap().job_delete_call(&self.id(), job), Vec::new()).await
    }

    /// Asks the helper for its aggregate share, as a leader does.
    pub async fn ask_share(&self, request: &AggregateShareReq) -> Answer {
        self.to_helper(&dap().aggregate_share_call(&self.id()), dap().encode_aggregate_share_req(request)).await
    }
}
