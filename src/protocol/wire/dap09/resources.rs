//! DAP-09 resources: media types, requests of clients, and paths of servers (sections 4.3 to 4.6 and 8.1).

use crate::{
    model::{AggregationJobId, CollectionJobId, TaskId},
    wire::{
        RequestSpec, ResourceKind,
        shared::{InvalidPath, parse_id, path_parts, request_without_body, task_id},
    },
};

/// Media types of DAP-09 (section 8.1). Compare them with [`matches`](crate::wire::media::matches), because clients may
/// change the case and add parameters.
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

/// A resource, identified by the path of a request (section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// An aggregator's HPKE configurations (section 4.4.1).
    HpkeConfig,
    /// The upload resource of a task (section 4.4.2).
    Reports(TaskId),
    /// An aggregation job (section 4.5.1).
    AggregationJob(TaskId, AggregationJobId),
    /// A collection job (section 4.6.1).
    CollectionJob(TaskId, CollectionJobId),
    /// The aggregate share resource of a task (section 4.6.2).
    AggregateShares(TaskId),
}

/// Parses the path of a request, relative to the revision's prefix and without a leading slash: `tasks/ID/reports`.
pub fn parse_path(path: &str) -> Result<Resource, InvalidPath> {
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
        _ => Err(InvalidPath::NoSuchResource),
    }
}

/// Parses the query of an HPKE configuration request: the optional task id (section 4.4.1).
pub fn parse_hpke_config_query(query: &str) -> Result<Option<TaskId>, InvalidPath> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "task_id").map(|(_, id)| task_id(&id)).transpose()
}

pub(super) fn hpke_config(task: Option<&TaskId>) -> RequestSpec {
    let path = task.map_or_else(|| "hpke_config".to_owned(), |task| format!("hpke_config?task_id={task}"));
    RequestSpec { accept: Some(media::HPKE_CONFIG_LIST), ..request_without_body("GET", path) }
}

pub(super) fn upload(task: &TaskId) -> RequestSpec {
    RequestSpec { content_type: Some(media::REPORT), ..request_without_body("PUT", format!("tasks/{task}/reports")) }
}

pub(super) fn create(kind: ResourceKind, task: &TaskId, id: &[u8; 16]) -> RequestSpec {
    let job = AggregationJobId::new(*id);
    let at = |resource_path: String, content_type, accept| RequestSpec {
        content_type: Some(content_type),
        accept,
        resource_path: Some(resource_path.clone()),
        ..request_without_body("PUT", resource_path)
    };
    match kind {
        ResourceKind::AggregationJob => at(
            format!("tasks/{task}/aggregation_jobs/{job}"),
            media::AGGREGATION_JOB_INIT_REQ,
            Some(media::AGGREGATION_JOB_RESP),
        ),
        ResourceKind::CollectionJob => at(format!("tasks/{task}/collection_jobs/{job}"), media::COLLECT_REQ, None),
        ResourceKind::AggregateShare => RequestSpec {
            content_type: Some(media::AGGREGATE_SHARE_REQ),
            accept: Some(media::AGGREGATE_SHARE),
            ..request_without_body("POST", format!("tasks/{task}/aggregate_shares"))
        },
    }
}

pub(super) fn collection_poll(resource_path: &str) -> RequestSpec {
    RequestSpec {
        accept: Some(media::COLLECTION),
        resource_path: Some(resource_path.to_owned()),
        ..request_without_body("POST", resource_path.to_owned())
    }
}

pub(super) fn delete(resource_path: &str) -> RequestSpec {
    request_without_body("DELETE", resource_path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Problem, ProblemType};

    const TASK: TaskId = TaskId::new([1; 32]);
    const AGGREGATION: AggregationJobId = AggregationJobId::new([2; 16]);
    const COLLECTION: CollectionJobId = CollectionJobId::new([3; 16]);

    #[test]
    fn server_parses_every_request_path() {
        let aggregation = Ok(Resource::AggregationJob(TASK, AGGREGATION));
        let collection = Ok(Resource::CollectionJob(TASK, COLLECTION));
        let create_job = create(ResourceKind::AggregationJob, &TASK, AGGREGATION.as_bytes());
        let create_collection = create(ResourceKind::CollectionJob, &TASK, COLLECTION.as_bytes());
        let resource_path = |spec: &RequestSpec| spec.resource_path.clone().unwrap();
        for (spec, resource) in [
            (upload(&TASK), Ok(Resource::Reports(TASK))),
            (delete(&resource_path(&create_job)), aggregation),
            (create_job, aggregation),
            (create(ResourceKind::AggregateShare, &TASK, AGGREGATION.as_bytes()), Ok(Resource::AggregateShares(TASK))),
            (collection_poll(&resource_path(&create_collection)), collection),
            (delete(&resource_path(&create_collection)), collection),
            (create_collection, collection),
        ] {
            assert_eq!(parse_path(&spec.path), resource, "{}", spec.path);
        }
        let spec = hpke_config(Some(&TASK));
        let (path, query) = spec.path.split_once('?').unwrap();
        assert_eq!(parse_path(path), Ok(Resource::HpkeConfig));
        assert_eq!(parse_hpke_config_query(query), Ok(Some(TASK)));
    }

    #[test]
    fn parses_optional_task_id_query() {
        assert_eq!(parse_hpke_config_query(""), Ok(None));
        assert_eq!(parse_hpke_config_query("other=1"), Ok(None));
        assert_eq!(parse_hpke_config_query("task_id="), Err(InvalidPath::InvalidId("task id")));
        assert_eq!(parse_hpke_config_query("task_id"), Err(InvalidPath::InvalidId("task id")));
        assert_eq!(parse_hpke_config_query(&format!("a=b&task_id={TASK}")), Ok(Some(TASK)));
    }

    #[test]
    fn maps_invalid_path_to_problem() {
        assert_eq!(Problem::from(InvalidPath::NoSuchResource).status, 404);
        let problem = Problem::from(InvalidPath::InvalidId("task id"));
        assert_eq!(problem.kind, ProblemType::InvalidMessage);
        assert_eq!(problem.detail, "invalid task id: not unpadded base64url of its length");
    }

    #[test]
    fn distinguishes_unknown_paths_from_invalid_ids() {
        for path in ["", "/", "tasks", "tasks/", "hpke_config/", "hpke_config/x", "tasks/x", "tasks/x/unknown"] {
            assert_eq!(parse_path(path), Err(InvalidPath::NoSuchResource), "{path}");
        }
        for path in [
            format!("tasks/{TASK}/reports/"),
            format!("/tasks/{TASK}/reports"),
            format!("tasks/{TASK}/aggregation_jobs"),
            format!("tasks/{TASK}/aggregation_jobs/{AGGREGATION}/more"),
            format!("tasks/{TASK}/aggregation_jobs/{AGGREGATION}/more/and/more"),
        ] {
            assert_eq!(parse_path(&path), Err(InvalidPath::NoSuchResource), "{path}");
        }
        for path in ["tasks//reports".to_owned(), format!("tasks/{TASK}=/reports"), format!("tasks/{TASK}A/reports")] {
            assert_eq!(parse_path(&path), Err(InvalidPath::InvalidId("task id")), "{path}");
        }
        let path = format!("tasks/{TASK}/aggregation_jobs/{TASK}");
        assert_eq!(parse_path(&path), Err(InvalidPath::InvalidId("aggregation job id")));
        let path = format!("tasks/{TASK}/collection_jobs/AgICAgICAgICAgICAgICA+");
        assert_eq!(parse_path(&path), Err(InvalidPath::InvalidId("collection job id")));
    }
}
