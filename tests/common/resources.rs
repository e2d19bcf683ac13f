//! The HTTP resources of a task at their servers, for requests that our clients never make.

use dapbox::{
    model::{ReportId, Revision, TaskId},
    wire::{RequestSpec, ResourceKind, current, dap09},
};

use super::{
    Parties,
    raw::{RawAnswer, send_raw},
};

/// A resource (DAP-09 section 4.3, DAP-18 appendix A).
pub struct Resource {
    pub url: String,
    /// The methods that it allows.
    pub allow: &'static str,
    /// The method that carries a body, and the media type of that body.
    pub post: Option<(&'static str, &'static str)>,
    pub token: Option<String>,
    /// The URL of the same path at the other aggregator, which does not have the resource.
    pub url_elsewhere: String,
}

/// The resources of a task that accept a body: uploads, aggregation jobs, their continuations, collection jobs, and
/// aggregate shares.
pub fn resources(parties: &Parties, task: TaskId) -> Vec<Resource> {
    let wire = parties.wire();
    let create = |kind| wire.create_request(kind, &task, ReportId::random().as_bytes());
    let allow = |call: &RequestSpec| match (parties.revision(), call.method) {
        // A requester that chooses the id also polls and deletes at this path.
        (Revision::Dap09, "PUT") if call.resource_path.is_some() => "PUT, POST, DELETE",
        (_, method) => method,
    };
    let resource = |kind: Option<ResourceKind>, call: RequestSpec| {
        let allow = allow(&call);
        let post = Some((call.method, call.content_type.unwrap()));
        at(parties, kind, &call.path, allow, post)
    };
    vec![
        resource(None, wire.upload_request(&task)),
        resource(Some(ResourceKind::AggregationJob), create(ResourceKind::AggregationJob)),
        continuation(parties, task),
        resource(Some(ResourceKind::CollectionJob), create(ResourceKind::CollectionJob)),
        resource(Some(ResourceKind::AggregateShare), create(ResourceKind::AggregateShare)),
    ]
}

/// The resources without a request body.
pub fn resources_without_body(parties: &Parties, task: TaskId) -> Vec<Resource> {
    let mut found = vec![at(parties, None, "hpke_config", "GET, HEAD", None)];
    if parties.revision() != Revision::Dap09 {
        for kind in [ResourceKind::CollectionJob, ResourceKind::AggregateShare] {
            found.push(at(parties, Some(kind), &parties.missing_path_of(kind, task), "GET, HEAD, DELETE", None));
        }
    }
    found
}

fn continuation(parties: &Parties, task: TaskId) -> Resource {
    let (allow, media_type) = match parties.revision() {
        Revision::Dap09 => ("PUT, POST, DELETE", dap09::media::AGGREGATION_JOB_CONTINUE_REQ),
        Revision::Dap18 | Revision::Dap19 => ("GET, HEAD, POST, DELETE", current::media::AGGREGATION_JOB_CONTINUE_REQ),
    };
    let kind = ResourceKind::AggregationJob;
    at(parties, Some(kind), &parties.missing_path_of(kind, task), allow, Some(("POST", media_type)))
}

/// A path at its server. Uploads and keys need no token.
fn at(
    parties: &Parties,
    kind: Option<ResourceKind>,
    path: &str,
    allow: &'static str,
    post: Option<(&'static str, &'static str)>,
) -> Resource {
    let (leader, helper) = (parties.at_leader(path), parties.at_helper(path));
    let (url, url_elsewhere, token) = match kind {
        None => (leader, helper, None),
        Some(ResourceKind::CollectionJob) => (leader, helper, Some(&parties.collector_token)),
        Some(_) => (helper, leader, Some(&parties.helper_token)),
    };
    let token = token.map(|token| token.expose_text().unwrap().to_owned());
    Resource { url, allow, post, token, url_elsewhere }
}

impl Resource {
    /// Sends a body with the right media type.
    pub async fn send(&self, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> RawAnswer {
        let (method, media_type) = self.post.unwrap();
        send_raw(method, url, &[headers, &[("content-type", media_type)]].concat(), body).await
    }

    /// Sends a body with the right media type and token to the right server.
    pub async fn send_authorized(&self, body: Vec<u8>) -> RawAnswer {
        self.send(&self.url, &[("authorization", &self.bearer())], body).await
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token.clone().unwrap_or_default())
    }

    /// Browsers may read the answers of this resource (DAP-09 section 4.4: clients may be web pages).
    fn for_browsers(&self) -> bool {
        self.url.ends_with("/reports")
    }

    #[track_caller]
    pub fn check_cors(&self, said: &RawAnswer) {
        let expected = if self.for_browsers() { "*" } else { "" };
        assert_eq!(said.header("access-control-allow-origin"), expected, "{said:?}");
    }
}
