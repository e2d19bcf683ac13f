//! Pages and files of results over HTTP.
//!
//! The private listener, `results.listen`, shows all tasks without credentials, like the monitoring listener. The public
//! address shows a task below `/results/` to holders of a link, if `results.public` is set. Both are read-only.
//!
//! # Decision: a link opens one task and nothing else
//!
//! The token of a link is a part of the path, so that a colleague needs no account. A path with an unknown, expired or
//! revoked token is not distinguishable from any other unknown path. Tokens are never logged: this file handles the
//! paths that contain them and answers before a request is logged. Pages have no links to other sites and send no
//! `Referer`, and search engines are told not to index them.

use std::sync::Arc;

use tokio::net::TcpListener;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    results::{
        addresses::{Format, LINKS, TASKS, private_addresses},
        context::ResultsContext,
        render,
    },
    transport::{
        http::{self, Request, Response},
        private_listener::{self, PrivateContext, PrivateRequest, secured},
    },
};
use dapbox_aggregator::{Error, collecting::links, config::Config};
use dapbox_pages::Addresses;
use dapbox_protocol::{model::TaskId, wire::Problem};
use dapbox_support::Part;

/// Serves the private listener until the server stops.
pub async fn serve(ctx: Arc<ResultsContext>, listener: TcpListener) {
    let private = PrivateContext { clock: ctx.clock.clone(), failpoints: ctx.failpoints.clone() };
    let stop = ctx.stop.clone();
    let handle = move |request: PrivateRequest| {
        let ctx = ctx.clone();
        async move { Ok(finished(answer(&ctx, &request).await, &request.headers)) }
    };
    tokio::select! {
        () = private_listener::serve(private, Part::ResultsListener, listener, handle) => {}
        () = stop.stopped() => {}
    }
}

/// Whether a path of the public address belongs to a link.
pub fn is_public(config: &Config, path: &str) -> bool {
    config.results.public && path.starts_with(LINKS)
}

/// Answers a request at the public address with a path for which [`is_public`] holds.
pub async fn answer_publicly(ctx: &Arc<ResultsContext>, request: Request) -> Response {
    let answered = match (request.method_of_resource(), request.path.strip_prefix(LINKS)) {
        ("GET", Some(rest)) => of_link(ctx, rest, &request.query).await,
        (_, Some(_)) => Err(Problem::from_status(405).with_detail("results are read-only").into()),
        (_, None) => Err(not_found()),
    };
    let mut response = secured(finished(answered, &request.headers));
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if request.method == Method::HEAD { http::head(response) } else { response }
}

/// Answers a request at the private listener.
async fn answer(ctx: &Arc<ResultsContext>, request: &PrivateRequest) -> Result<Response, Error> {
    let PrivateRequest { path, query, .. } = request;
    if let Some(rest) = path.strip_prefix(LINKS) {
        return of_link(ctx, rest, query).await;
    }
    if let Some(rest) = path.strip_prefix(TASKS) {
        let (id, format) = Format::split(rest);
        let id: TaskId = id.parse().map_err(|_| not_found())?;
        return render::task(ctx, id, private_addresses(&id), format, query).await;
    }
    match path.as_str() {
        "/" => render::overview(ctx).await,
        "/openapi.json" => render::openapi(),
        _ => Err(not_found()),
    }
}

/// Answers a request for the task of a link. `rest` is the path after [`LINKS`].
async fn of_link(ctx: &Arc<ResultsContext>, rest: &str, query: &str) -> Result<Response, Error> {
    let ((token, format), now) = (Format::split(rest), ctx.clock.now());
    let task = ctx.store.read(|view| Ok(links::find(view, token, now)))?.ok_or_else(not_found)?;
    let addresses = Addresses { overview: None, task: format!("{LINKS}{token}") };
    render::task(ctx, task, addresses, format, query).await
}

/// The response for unknown paths, and for unknown, expired and revoked links.
fn not_found() -> Error {
    Problem::from_status(404).with_detail("no such page, or the link has expired").into()
}

/// Adds the headers of results. Answers 304 if the client has the same representation.
fn finished(answered: Result<Response, Error>, asked: &HeaderMap) -> Response {
    let mut response = answered.unwrap_or_else(http::failure);
    let tag = response.headers().get(header::ETAG).cloned();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex, nofollow"));
    if let Some(tag) = tag {
        // Kept by the client only, and validated at each use.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        if asked.get_all(header::IF_NONE_MATCH).iter().any(|known| has_tag(known, &tag)) {
            headers.remove(header::CONTENT_TYPE);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = bytes::Bytes::new();
        }
    }
    response
}

/// Whether `If-None-Match` lists an entity tag (RFC 9110 section 13.1.2).
fn has_tag(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(known), Ok(tag)) = (known.to_str(), tag.to_str()) else { return false };
    known.trim() == "*" || known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_public_only_if_configured() {
        let mut config = Config::default();
        assert!(!is_public(&config, "/results/x"));
        config.results.public = true;
        assert!(is_public(&config, "/results/x") && !is_public(&config, "/results") && !is_public(&config, "/tasks/x"));
    }

    #[test]
    fn known_representation_is_not_sent_again() {
        let tagged = || {
            let mut response = http::content(StatusCode::OK, "text/csv", "a,b");
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"x\""));
            Ok(response)
        };
        let asked = |tag: &'static str| HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(tag))]);
        for (tag, status) in [("\"x\"", 304), ("\"y\", W/\"x\"", 304), ("*", 304), ("\"y\"", 200)] {
            let response = finished(tagged(), &asked(tag));
            assert_eq!(response.status(), status, "{tag}");
            assert_eq!(response.body().is_empty(), status == 304, "{tag}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "private, no-cache");
        }
    }
}
