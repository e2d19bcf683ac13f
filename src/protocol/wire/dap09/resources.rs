//! DAP-09's resources: media types, the calls that a party makes, and the paths that a server understands
//! (sections 4.3 to 4.6 and 8.1).

use crate::{
    model::{AggregationJobId, CollectionJobId, TaskId},
    wire::{
        Call, Interaction,
        shared::{BadPath, parse_id, path_parts, plain, task_id},
    },
};

/// Media types of DAP-09 (section 8.1). Compare them with [`matches`](crate::wire::media::matches): clients may change
/// the case and add parameters.
pub mod media {
    /// `HpkeConfigList`.
    pub const HPKE_CONFIG_LIST: &str = "application/dap-hpke-config-list";
    /// `Report`.
    pub const REPORT: &str = "application/dap-report";
    /// `AggregationJobInitReq`.
    pub const AGGREGATION_JOB_INIT_REQ: &str = "application/dap-aggregation-job-init-req";
    /// `AggregationJobContinueReq`.
    pub const AGGREGATION_JOB_CONTINUE_REQ: &str = "application/dap-aggregation-job-continue-req";
    /// `AggregationJobResp`.
    pub const AGGREGATION_JOB_RESP: &str = "application/dap-aggregation-job-resp";
    /// `AggregateShareReq`.
    pub const AGGREGATE_SHARE_REQ: &str = "application/dap-aggregate-share-req";
    /// `AggregateShare`.
    pub const AGGREGATE_SHARE: &str = "application/dap-aggregate-share";
    /// `CollectionReq`.
    pub const COLLECT_REQ: &str = "application/dap-collect-req";
    /// `Collection`.
    pub const COLLECTION: &str = "application/dap-collection";
}

/// What a request's path names (section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// An aggregator's HPKE configurations (section 4.4.1).
    HpkeConfig,
    /// Where a task's reports are uploaded (section 4.4.2).
    Reports(TaskId),
    /// An aggregation job (section 4.5.1).
    AggregationJob(TaskId, AggregationJobId),
    /// A collection job (section 4.6.1).
    CollectionJob(TaskId, CollectionJobId),
    /// Where the leader asks for aggregate shares (section 4.6.2).
    AggregateShares(TaskId),
}

/// Reads the path of a request, below the revision's prefix and without a leading slash: `tasks/ID/reports`.
pub fn parse_path(path: &str) -> Result<Resource, BadPath> {
    match path_parts(path) {
        [Some("hpke_config"), None, None, None, None] => Ok(Resource::HpkeConfig),
        [Some("tasks"), Some(task), Some("reports"), None, None] => Ok(Resource::Reports(task_id(task)?)),
        [Some("tasks"), Some(task), Some("aggregate_shares"), None, None] => {
            Ok(Resource::AggregateShares(task_id(task)?))
        }
        [Some("tasks"), Some(task), Some("aggregation_jobs"), Some(job), None] => {
            Ok(Resource::AggregationJob(task_id(task)?, parse_id(job, "aggregation job id")?))
        }
        [Some("tasks"), Some(task), Some("collection_jobs"), Some(job), None] => {
            Ok(Resource::CollectionJob(task_id(task)?, parse_id(job, "collection job id")?))
        }
        _ => Err(BadPath::NoSuchResource),
    }
}

/// Reads the query of a request for HPKE configurations: the task that they are for, if it says so (section 4.4.1).
pub fn parse_hpke_config_query(query: &str) -> Result<Option<TaskId>, BadPath> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "task_id").map(|(_, id)| task_id(&id)).transpose()
}

pub(super) fn hpke_config(task: Option<&TaskId>) -> Call {
    let path = task.map_or_else(|| "hpke_config".to_owned(), |task| format!("hpke_config?task_id={task}"));
    Call { accept: Some(media::HPKE_CONFIG_LIST), ..plain("GET", path) }
}

pub(super) fn upload(task: &TaskId) -> Call {
    Call { content_type: Some(media::REPORT), ..plain("PUT", format!("tasks/{task}/reports")) }
}

pub(super) fn create(interaction: Interaction, task: &TaskId, id: &[u8; 16]) -> Call {
    let job = AggregationJobId::new(*id);
    let at = |place: String, content_type, accept| Call {
        content_type: Some(content_type),
        accept,
        place: Some(place.clone()),
        ..plain("PUT", place)
    };
    match interaction {
        Interaction::AggregationJob => at(
            format!("tasks/{task}/aggregation_jobs/{job}"),
            media::AGGREGATION_JOB_INIT_REQ,
            Some(media::AGGREGATION_JOB_RESP),
        ),
        Interaction::CollectionJob => at(format!("tasks/{task}/collection_jobs/{job}"), media::COLLECT_REQ, None),
        Interaction::AggregateShare => Call {
            content_type: Some(media::AGGREGATE_SHARE_REQ),
            accept: Some(media::AGGREGATE_SHARE),
            ..plain("POST", format!("tasks/{task}/aggregate_shares"))
        },
    }
}

pub(super) fn collection_poll(place: &str) -> Call {
    Call { accept: Some(media::COLLECTION), place: Some(place.to_owned()), ..plain("POST", place.to_owned()) }
}

pub(super) fn delete(place: &str) -> Call {
    plain("DELETE", place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Problem, ProblemType};

    const TASK: TaskId = TaskId::new([1; 32]);
    const AGGREGATION: AggregationJobId = AggregationJobId::new([2; 16]);
    const COLLECTION: CollectionJobId = CollectionJobId::new([3; 16]);

    #[test]
    fn what_a_party_calls_is_what_a_server_understands() {
        let aggregation = Ok(Resource::AggregationJob(TASK, AGGREGATION));
        let collection = Ok(Resource::CollectionJob(TASK, COLLECTION));
        let create_job = create(Interaction::AggregationJob, &TASK, AGGREGATION.as_bytes());
        let create_collection = create(Interaction::CollectionJob, &TASK, COLLECTION.as_bytes());
        let place = |call: &Call| call.place.clone().unwrap();
        for (call, resource) in [
            (upload(&TASK), Ok(Resource::Reports(TASK))),
            (delete(&place(&create_job)), aggregation),
            (create_job, aggregation),
            (create(Interaction::AggregateShare, &TASK, AGGREGATION.as_bytes()), Ok(Resource::AggregateShares(TASK))),
            (collection_poll(&place(&create_collection)), collection),
            (delete(&place(&create_collection)), collection),
            (create_collection, collection),
        ] {
            assert_eq!(parse_path(&call.path), resource, "{}", call.path);
        }
        let call = hpke_config(Some(&TASK));
        let (path, query) = call.path.split_once('?').unwrap();
        assert_eq!(parse_path(path), Ok(Resource::HpkeConfig));
        assert_eq!(parse_hpke_config_query(query), Ok(Some(TASK)));
    }

    #[test]
    fn a_task_id_in_a_query_is_optional_but_never_ignored() {
        assert_eq!(parse_hpke_config_query(""), Ok(None));
        assert_eq!(parse_hpke_config_query("other=1"), Ok(None));
        assert_eq!(parse_hpke_config_query("task_id="), Err(BadPath::BadId("task id")));
        assert_eq!(parse_hpke_config_query("task_id"), Err(BadPath::BadId("task id")));
        assert_eq!(parse_hpke_config_query(&format!("a=b&task_id={TASK}")), Ok(Some(TASK)));
    }

    #[test]
    fn a_bad_path_is_a_problem() {
        assert_eq!(Problem::from(BadPath::NoSuchResource).status, 404);
        let problem = Problem::from(BadPath::BadId("task id"));
        assert_eq!(problem.kind, ProblemType::InvalidMessage);
        assert_eq!(problem.detail, "the task id is not the unpadded base64url of an id of its length");
    }

    #[test]
    fn unknown_paths_and_bad_ids_are_told_apart() {
        for path in ["", "/", "tasks", "tasks/", "hpke_config/", "hpke_config/x", "tasks/x", "tasks/x/unknown"] {
            assert_eq!(parse_path(path), Err(BadPath::NoSuchResource), "{path}");
        }
        for path in [
            format!("tasks/{TASK}/reports/"),
            format!("/tasks/{TASK}/reports"),
            format!("tasks/{TASK}/aggregation_jobs"),
            format!("tasks/{TASK}/aggregation_jobs/{AGGREGATION}/more"),
            format!("tasks/{TASK}/aggregation_jobs/{AGGREGATION}/more/and/more"),
        ] {
            assert_eq!(parse_path(&path), Err(BadPath::NoSuchResource), "{path}");
        }
        for path in ["tasks//reports".to_owned(), format!("tasks/{TASK}=/reports"), format!("tasks/{TASK}A/reports")] {
            assert_eq!(parse_path(&path), Err(BadPath::BadId("task id")), "{path}");
        }
        let path = format!("tasks/{TASK}/aggregation_jobs/{TASK}");
        assert_eq!(parse_path(&path), Err(BadPath::BadId("aggregation job id")));
        let path = format!("tasks/{TASK}/collection_jobs/AgICAgICAgICAgICAgICA+");
        assert_eq!(parse_path(&path), Err(BadPath::BadId("collection job id")));
    }
}
