//! The management API, through which a control plane sets up tasks (the "aggregator API" of Divvi Up).
//!
//! It is served at a path of the public address, at its own address, or not at all. An API token grants access to the
//! tasks and peers that were set up here and to the HPKE keys, but not to other tasks.
//!
//! Checks are ordered: token (401), media types (406, 415), resource (404), method (405), load (503), and then the
//! content. A control plane can therefore distinguish a rejected token from a wrong URL.

mod keys;
mod peers;
pub mod state;
mod tasks;

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use warp::http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    dap::auth,
    operator::context::ManagementContext,
    transport::http::{Request, Response, content, failure, head},
};
use dapbox_aggregator::{Error, config::Config, provision, views::ApiTokenStatus};
use dapbox_client::peer;
use dapbox_protocol::{
    model::Revision,
    wire::{
        Problem,
        management::{Configuration, MEDIA_TYPE, OnUnknownMember},
    },
};
use dapbox_store::api_token::{ApiToken, find};
use dapbox_support::{Fault, version};

/// Lists all API tokens, for the operator.
pub fn tokens(ctx: &ManagementContext) -> Result<Vec<ApiTokenStatus>, Fault> {
    let uses = ctx.api.uses();
    let status = |token: &ApiToken| ApiTokenStatus { token: token.clone(), last_used: uses.get(&token.hash).copied() };
    ctx.store.read(|view| Ok(view.api_tokens().values().map(status).collect()))
}

/// The part of a path below the base path of the API, if the API is enabled there.
pub fn below<'a>(config: &Config, path: &'a str) -> Option<&'a str> {
    let base = Some(config.management.path.as_str()).filter(|base| !base.is_empty())?;
    path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request at the API's own address.
pub async fn answer_at_root(ctx: Arc<ManagementContext>, request: Request) -> Response {
    let path = request.path.clone();
    handle(&ctx, &path, request).await
}

/// Answers a request with `path` below the base path of the API: empty, or with a leading slash.
pub async fn handle(ctx: &Arc<ManagementContext>, path: &str, request: Request) -> Response {
    let is_head = request.method == Method::HEAD;
    let mut response = answer(ctx, path, request).await.unwrap_or_else(failure);
    if is_head {
        response = head(response);
    }
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A resource of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource<'a> {
    Configuration,
    Tasks,
    TaskIds,
    Task(&'a str),
    Uploads(&'a str),
    Aggregations(&'a str),
    Keys,
    Key(&'a str),
    Peers,
}

impl<'a> Resource<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.trim_start_matches('/').split('/');
        Some(match (parts.next()?, parts.next(), parts.next(), parts.next(), parts.next()) {
            ("", None, ..) => Self::Configuration,
            ("tasks", None, ..) => Self::Tasks,
            ("task_ids", None, ..) => Self::TaskIds,
            ("tasks", Some(id), None, ..) => Self::Task(id),
            ("tasks", Some(id), Some("metrics"), Some("uploads"), None) => Self::Uploads(id),
            ("tasks", Some(id), Some("metrics"), Some("aggregations"), None) => Self::Aggregations(id),
            ("hpke_configs", None, ..) => Self::Keys,
            ("hpke_configs", Some(id), None, ..) => Self::Key(id),
            ("taskprov", Some("peer_aggregators"), None, ..) => Self::Peers,
            _ => return None,
        })
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Configuration | Self::TaskIds | Self::Uploads(_) | Self::Aggregations(_) => "GET, HEAD",
            Self::Tasks => "POST",
            Self::Task(_) | Self::Key(_) => "GET, HEAD, PATCH, DELETE",
            Self::Keys => "GET, HEAD, PUT",
            Self::Peers => "GET, HEAD, POST, DELETE",
        }
    }
}

async fn answer(ctx: &Arc<ManagementContext>, path: &str, mut request: Request) -> Result<Response, Error> {
    let by = authorize(ctx, &request)?;
    check_media_types(&request)?;
    let Some(resource) = Resource::parse(path) else {
        return Err(Problem::from_status(404).with_detail("unknown resource of the management API").into());
    };
    let (method, methods) = (request.method_of_resource().to_owned(), resource.methods());
    if !methods.split(", ").any(|known| known == method) {
        let mut response = failure(
            Problem::from_status(405)
                .with_detail(format!("method not allowed; this resource supports {methods}"))
                .into(),
        );
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        return Ok(response);
    }
    let body = body(ctx, &mut request).await?;
    let _slot = ctx.slots.management()?;
    match (resource, method.as_str()) {
        (Resource::Configuration, _) => configuration(ctx),
        (Resource::Tasks, _) => tasks::create(ctx, by, &body).await,
        (Resource::TaskIds, _) => tasks::list(ctx, &request.query),
        (Resource::Task(id), "GET") => tasks::show(ctx, id),
        (Resource::Task(id), "PATCH") => tasks::change(ctx, id, &body).await,
        (Resource::Task(id), _) => tasks::remove(ctx, id).await,
        (Resource::Uploads(id), _) => tasks::metrics(ctx, id, provision::upload_metrics),
        (Resource::Aggregations(id), _) => tasks::metrics(ctx, id, provision::aggregation_metrics),
        (Resource::Keys, "GET") => keys::list(ctx),
        (Resource::Keys, _) => keys::make(ctx, &body).await,
        (Resource::Key(id), "GET") => keys::show(ctx, id),
        (Resource::Key(id), "PATCH") => keys::change(ctx, id, &body).await,
        (Resource::Key(id), _) => keys::delete(ctx, id).await,
        (Resource::Peers, "GET") => peers::list(ctx),
        (Resource::Peers, "POST") => peers::add(ctx, &body).await,
        (Resource::Peers, _) => peers::remove(ctx, &body).await,
    }
}

/// Checks the API token of a request, and returns its name.
fn authorize(ctx: &ManagementContext, request: &Request) -> Result<String, Error> {
    let refuse = |detail: &str| Err(Problem::from_status(401).with_detail(detail).into());
    let Some(token) = auth::bearer(&request.headers) else {
        return refuse("missing token; send Authorization: Bearer");
    };
    let now = ctx.clock.now();
    let found = ctx.store.read(|view| Ok(find(view.api_tokens().values(), token, now).cloned()))?;
    let Some(found) = found else { return refuse("invalid API token") };
    ctx.api.note(found.hash, now);
    Ok(found.name)
}

/// Checks the media types. The comparison is exact.
fn check_media_types(request: &Request) -> Result<(), Problem> {
    let expect = |name: HeaderName, status| {
        let detail = || format!("invalid {name} header; expected {MEDIA_TYPE}");
        match request.header(name.clone()) {
            Some(given) if given == MEDIA_TYPE => Ok(()),
            _ => Err(Problem::from_status(status).with_detail(detail())),
        }
    };
    expect(header::ACCEPT, 406)?;
    let needs_type = matches!(request.method, Method::POST | Method::PATCH);
    if needs_type || request.headers.contains_key(header::CONTENT_TYPE) {
        expect(header::CONTENT_TYPE, 415)?;
    }
    Ok(())
}

async fn body(ctx: &ManagementContext, request: &mut Request) -> Result<Bytes, Problem> {
    let config = ctx.config.get();
    let limits = &config.limits;
    let (budget, bodies) = (&ctx.memory, &ctx.slots.request_bodies);
    let (timeout, silence) = (*limits.request_timeout, *limits.max_body_silence);
    request.read_body(limits.max_message_bytes, timeout, budget, bodies, silence).await
}

fn configuration(ctx: &ManagementContext) -> Result<Response, Error> {
    json(StatusCode::OK, &Configuration::ours(&own_url(ctx), version::VERSION))
}

/// The revision of tasks that are set up here.
const REVISION: Revision = Revision::Dap09;

/// Our base URL of this revision.
fn own_url(ctx: &ManagementContext) -> String {
    peer::dap_url(&ctx.config.get().public_url, REVISION)
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(value).map_err(|error| Fault::while_doing("serializing a response", error))?;
    Ok(content(status, MEDIA_TYPE, body))
}

/// Decodes a body. Ignores unknown members.
fn read<T>(
    ctx: &ManagementContext,
    read: impl FnOnce(&mut OnUnknownMember<'_>) -> Result<T, String>,
) -> Result<T, Error> {
    read(&mut |member| {
        ctx.api.ignore(member);
    })
    .map_err(bad)
}

/// The error for an invalid request.
fn bad(detail: impl Into<String>) -> Error {
    Problem::from_status(400).with_detail(detail.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_base_path_exactly() {
        let mut config = Config { public_url: "https://a.example".to_owned(), ..Config::default() };
        assert_eq!(below(&config, "/api"), None);
        config.management.path = "/api".to_owned();
        for (path, rest) in [("/api", Some("")), ("/api/", Some("/")), ("/api/tasks", Some("/tasks")), ("/apix", None)]
        {
            assert_eq!(below(&config, path), rest, "{path}");
        }
    }

    #[test]
    fn parses_each_resource_path() {
        let parse = Resource::parse;
        assert!(["", "/", "//"].iter().all(|path| parse(path) == Some(Resource::Configuration)));
        assert_eq!(parse("//tasks"), Some(Resource::Tasks), "a client has joined two slashes");
        assert_eq!((parse("/tasks"), parse("/tasks/x")), (Some(Resource::Tasks), Some(Resource::Task("x"))));
        assert_eq!(parse("/tasks/x/metrics/uploads"), Some(Resource::Uploads("x")));
        assert_eq!(parse("/hpke_configs/7"), Some(Resource::Key("7")));
        assert_eq!(parse("/taskprov/peer_aggregators"), Some(Resource::Peers));
        for path in ["/task", "/tasks/x/y", "/tasks/x/metrics/uploads/y", "/taskprov", "/taskprov/peer_aggregators/x"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
