//! DAP-18 resources: media types, requests of clients, and paths of servers (sections 3, 4.4 to 4.6 and 9.1, and
//! appendix A).

use crate::{
    model::{AggregateShareId, AggregationJobId, CollectionJobId, TaskId},
    wire::{
        RequestSpec, ResourceKind,
        shared::{InvalidPath, parse_id, path_parts, request_without_body, task_id},
    },
};

/// Media types of DAP-18 (section 9.1): one type, with a parameter for the message. Compare them with
/// [`matches`](crate::wire::media::matches).
pub mod media {
    /// `HpkeConfigList`.
    pub const HPKE_CONFIG_LIST: &str = "application/ppm-dap;message=hpke-config-list";
    /// `UploadRequest`.
    pub const UPLOAD_REQ: &str = "application/ppm-dap;message=upload-req";
    /// `UploadErrors`.
    pub const UPLOAD_ERRORS: &str = "application/ppm-dap;message=upload-errors";
    /// `AggregationJobInitReq`.
    pub const AGGREGATION_JOB_INIT_REQ: &str = "application/ppm-dap;message=aggregation-job-init-req";
    /// `AggregationJobContinueReq`.
    pub const AGGREGATION_JOB_CONTINUE_REQ: &str = "application/ppm-dap;message=aggregation-job-continue-req";
    /// `AggregationJobResp`.
    pub const AGGREGATION_JOB_RESP: &str = "application/ppm-dap;message=aggregation-job-resp";
    /// `AggregateShareReq`.
    pub const AGGREGATE_SHARE_REQ: &str = "application/ppm-dap;message=aggregate-share-req";
    /// `AggregateShare`.
    pub const AGGREGATE_SHARE: &str = "application/ppm-dap;message=aggregate-share";
    /// `CollectionJobReq`.
    pub const COLLECTION_JOB_REQ: &str = "application/ppm-dap;message=collection-job-req";
    /// `CollectionJobResp`.
    pub const COLLECTION_JOB_RESP: &str = "application/ppm-dap;message=collection-job-resp";
}

/// Query parameter of an aggregation job (section 4.5.3.2).
const STEP: &str = "step";

/// A resource, identified by the path of a request (section 3, appendix A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// An aggregator's HPKE configurations (section 4.4.1).
    HpkeConfig,
    /// The upload resource of a task (section 4.4.2).
    Reports(TaskId),
    /// The collection of a task's aggregation jobs (section 4.5.3).
    AggregationJobs(TaskId),
    /// An aggregation job (section 4.5.3).
    AggregationJob(TaskId, AggregationJobId),
    /// The collection of a task's collection jobs (section 4.6.1).
    CollectionJobs(TaskId),
    /// A collection job (section 4.6.1).
    CollectionJob(TaskId, CollectionJobId),
    /// The collection of a task's aggregate shares (section 4.6.4).
    AggregateShares(TaskId),
    /// An aggregate share (section 4.6.4).
    AggregateShare(TaskId, AggregateShareId),
}

impl Resource {
    /// The path of the resource, relative to the base URL and without a leading slash: `tasks/ID/reports`.
    pub fn path(&self) -> String {
        match self {
            Self::HpkeConfig => "hpke_config".to_owned(),
            Self::Reports(task) => format!("tasks/{task}/reports"),
            Self::AggregationJobs(task) => format!("tasks/{task}/aggregation_jobs"),
            Self::AggregationJob(task, job) => format!("tasks/{task}/aggregation_jobs/{job}"),
            Self::CollectionJobs(task) => format!("tasks/{task}/collection_jobs"),
            Self::CollectionJob(task, job) => format!("tasks/{task}/collection_jobs/{job}"),
            Self::AggregateShares(task) => format!("tasks/{task}/aggregate_shares"),
            Self::AggregateShare(task, share) => format!("tasks/{task}/aggregate_shares/{share}"),
        }
    }
}

/// Parses the path of a request, relative to the revision's prefix and without a leading slash: `tasks/ID/reports`.
pub fn parse_path(path: &str) -> Result<Resource, InvalidPath> {
    let (task, resources, id) = match path_parts(path) {
        [Some("hpke_config"), None, ..] => return Ok(Resource::HpkeConfig),
        [Some("tasks"), Some(task), Some(resources), id, None] => (task, resources, id),
        _ => return Err(InvalidPath::NoSuchResource),
    };
    Ok(match (resources, id) {
        ("reports", None) => Resource::Reports(task_id(task)?),
        ("aggregation_jobs", None) => Resource::AggregationJobs(task_id(task)?),
        ("aggregation_jobs", Some(job)) => {
            Resource::AggregationJob(task_id(task)?, parse_id(job, "aggregation job id")?)
        }
        ("collection_jobs", None) => Resource::CollectionJobs(task_id(task)?),
        ("collection_jobs", Some(job)) => Resource::CollectionJob(task_id(task)?, parse_id(job, "collection job id")?),
        ("aggregate_shares", None) => Resource::AggregateShares(task_id(task)?),
        ("aggregate_shares", Some(share)) => {
            Resource::AggregateShare(task_id(task)?, parse_id(share, "aggregate share id")?)
        }
        _ => return Err(InvalidPath::NoSuchResource),
    })
}

/// Parses the query of an aggregation job request: the optional step of the leader (section 4.5.3.2).
pub fn parse_step(query: &str) -> Result<Option<u16>, InvalidPath> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let step = pairs.find(|(name, _)| name == STEP);
    step.map(|(_, step)| number(&step).ok_or(InvalidPath::InvalidStep)).transpose()
}

/// Unlike `parse`, rejects a plus sign.
fn number(digits: &str) -> Option<u16> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

pub(super) fn hpke_config() -> RequestSpec {
    RequestSpec { accept: Some(media::HPKE_CONFIG_LIST), ..request_without_body("GET", Resource::HpkeConfig.path()) }
}

pub(super) fn upload(task: &TaskId) -> RequestSpec {
    RequestSpec {
        content_type: Some(media::UPLOAD_REQ),
        accept: Some(media::UPLOAD_ERRORS),
        ..request_without_body("POST", Resource::Reports(*task).path())
    }
}

/// The server chooses the id (section 3.2).
pub(super) fn create(kind: ResourceKind, task: &TaskId) -> RequestSpec {
    let (resources, content_type) = match kind {
        ResourceKind::AggregationJob => (Resource::AggregationJobs(*task), media::AGGREGATION_JOB_INIT_REQ),
        ResourceKind::CollectionJob => (Resource::CollectionJobs(*task), media::COLLECTION_JOB_REQ),
        ResourceKind::AggregateShare => (Resource::AggregateShares(*task), media::AGGREGATE_SHARE_REQ),
    };
    let content_type = Some(content_type);
    RequestSpec { content_type, accept: Some(representation(kind)), ..request_without_body("POST", resources.path()) }
}

pub(super) fn poll(kind: ResourceKind, resource_path: &str) -> RequestSpec {
    let path = match kind {
        ResourceKind::AggregationJob => with_step(resource_path),
        ResourceKind::CollectionJob | ResourceKind::AggregateShare => resource_path.to_owned(),
    };
    RequestSpec { accept: Some(representation(kind)), ..request_without_body("GET", path) }
}

pub(super) fn delete(resource_path: &str) -> RequestSpec {
    let path = resource_path.split('?').next().unwrap_or_default();
    request_without_body("DELETE", path.to_owned())
}

/// The media type of the resource when it is ready.
fn representation(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::AggregationJob => media::AGGREGATION_JOB_RESP,
        ResourceKind::CollectionJob => media::COLLECTION_JOB_RESP,
        ResourceKind::AggregateShare => media::AGGREGATE_SHARE,
    }
}

/// Adds the step to the path of an aggregation job. It is always 0, because the supported VDAFs have one step. A helper
/// that responds synchronously may omit it from the location.
fn with_step(resource_path: &str) -> String {
    let separator = match resource_path.split_once('?') {
        Some((_, query)) if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == STEP) => {
            return resource_path.to_owned();
        }
        Some((_, "")) => "",
        Some(_) => "&",
        None => "?",
    };
    format!("{resource_path}{separator}{STEP}=0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Problem, ProblemType};

    const TASK: TaskId = TaskId::new([1; 32]);
    const AGGREGATION: AggregationJobId = AggregationJobId::new([2; 16]);
    const COLLECTION: CollectionJobId = CollectionJobId::new([3; 16]);
    const SHARE: AggregateShareId = AggregateShareId::new([4; 16]);

    const RESOURCES: [Resource; 8] = [
        Resource::HpkeConfig,
        Resource::Reports(TASK),
        Resource::AggregationJobs(TASK),
        Resource::AggregationJob(TASK, AGGREGATION),
        Resource::CollectionJobs(TASK),
        Resource::CollectionJob(TASK, COLLECTION),
        Resource::AggregateShares(TASK),
        Resource::AggregateShare(TASK, SHARE),
    ];

    #[test]
    fn parses_exact_paths_only() {
        for resource in RESOURCES {
            let path = resource.path();
            assert_eq!(parse_path(&path), Ok(resource), "{path}");
            assert!(parse_path(&format!("{path}/")).is_err());
            for longer in [format!("/{path}"), format!("{path}/x/y"), format!("x/{path}"), format!("{path}/x/y/z")] {
                assert_eq!(parse_path(&longer), Err(InvalidPath::NoSuchResource), "{longer}");
            }
        }
    }

    #[test]
    fn parses_the_example_of_the_draft() {
        let path = "tasks/8BY0RzZMzxvA46_8ymhzycOB9krN-QIGYvg_RsByGec/aggregation_jobs/lc7aUeGpdSNosNlh-UZhKA";
        let Ok(Resource::AggregationJob(task, job)) = parse_path(path) else { panic!("{:?}", parse_path(path)) };
        assert_eq!(task.as_bytes()[..4], [0xf0, 0x16, 0x34, 0x47]);
        assert_eq!(job.as_bytes()[12..], [0xf9, 0x46, 0x61, 0x28]);
    }

    #[test]
    fn server_parses_every_request_path() {
        let aggregation = RESOURCES[3].path();
        for (spec, method, resource) in [
            (hpke_config(), "GET", RESOURCES[0]),
            (upload(&TASK), "POST", RESOURCES[1]),
            (create(ResourceKind::AggregationJob, &TASK), "POST", RESOURCES[2]),
            (delete(&aggregation), "DELETE", RESOURCES[3]),
            (delete(&format!("{aggregation}?step=0")), "DELETE", RESOURCES[3]),
            (create(ResourceKind::CollectionJob, &TASK), "POST", RESOURCES[4]),
            (poll(ResourceKind::CollectionJob, &RESOURCES[5].path()), "GET", RESOURCES[5]),
            (create(ResourceKind::AggregateShare, &TASK), "POST", RESOURCES[6]),
            (poll(ResourceKind::AggregateShare, &RESOURCES[7].path()), "GET", RESOURCES[7]),
        ] {
            assert_eq!((spec.method, parse_path(&spec.path)), (method, Ok(resource)), "{spec:?}");
            assert_eq!(spec.content_type.is_some(), method == "POST", "{spec:?}");
            assert_eq!(spec.accept.is_some(), method != "DELETE", "{spec:?}");
            assert_eq!(spec.resource_path, None);
        }
    }

    #[test]
    fn poll_of_aggregation_job_includes_step() {
        let path = |resource_path: &str| poll(ResourceKind::AggregationJob, resource_path).path;
        assert_eq!(path("job"), "job?step=0");
        assert_eq!(path("job?"), "job?step=0");
        assert_eq!(path("job?a=b"), "job?a=b&step=0");
        assert_eq!(path("job?steps=1"), "job?steps=1&step=0");
        assert_eq!(path("job?step=0"), "job?step=0");
        assert_eq!(path("job?a=b&step=1"), "job?a=b&step=1");
        assert_eq!(poll(ResourceKind::CollectionJob, "job?a=b").path, "job?a=b");
        assert_eq!(poll(ResourceKind::AggregateShare, "share").path, "share");
    }

    #[test]
    fn parses_step() {
        assert_eq!(parse_step(""), Ok(None));
        assert_eq!(parse_step("a=b&steps=1"), Ok(None));
        assert_eq!(parse_step("step=0"), Ok(Some(0)));
        assert_eq!(parse_step("a=b&step=65535"), Ok(Some(65535)));
        for bad in ["step", "step=", "step=-1", "step=%2B1", "step=65536", "step=x", "step=0.0", "step=1&step=x"] {
            let expected = if bad.starts_with("step=1") { Ok(Some(1)) } else { Err(InvalidPath::InvalidStep) };
            assert_eq!(parse_step(bad), expected, "{bad}");
        }
        assert_eq!(Problem::from(InvalidPath::InvalidStep).kind, ProblemType::InvalidMessage);
    }

    #[test]
    fn distinguishes_unknown_paths_from_invalid_ids() {
        for path in ["", "/", "tasks", "tasks/", "hpke_config/x", "tasks/x", "tasks/x/unknown", "tasks/x/reports/y"] {
            assert_eq!(parse_path(path), Err(InvalidPath::NoSuchResource), "{path}");
        }
        for path in ["tasks//reports".to_owned(), format!("tasks/{TASK}=/reports"), format!("tasks/{TASK}A/reports")] {
            assert_eq!(parse_path(&path), Err(InvalidPath::InvalidId("task id")), "{path}");
        }
        for (resources, what) in [
            ("aggregation_jobs", "aggregation job id"),
            ("collection_jobs", "collection job id"),
            ("aggregate_shares", "aggregate share id"),
        ] {
            for id in [String::new(), TASK.to_string(), "AgICAgICAgICAgICAgICA+".to_owned()] {
                assert_eq!(parse_path(&format!("tasks/{TASK}/{resources}/{id}")), Err(InvalidPath::InvalidId(what)));
            }
        }
    }
}
