//! The management API, through which a control plane sets tasks up (the "aggregator API" of Divvi Up's control plane).
//!
//! It is at a path of the public address, or at an address of its own, or off. Whoever shows an API token may do all of
//! it, with the tasks and peers that were set up here and with our HPKE keys; every other task is none of its business.
//!
//! A request is refused in this order: no good token (401), media types (406, 415), no such resource (404), no such method
//! (405), too many others (503), and then what is wrong with it. So a control plane can tell a token that is not taken from a
//! URL that leads elsewhere.

mod keys;
mod peers;
mod tasks;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;
use warp::http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::{
    app::App,
    dap::{auth, flow::unhurried},
    operator::live::Live,
    transport::http::{Request, Response, content, failure, head},
};
use dapbox_aggregator::{Error, config::Config, provision, views::ApiTokenStatus};
use dapbox_client::peer;
use dapbox_protocol::{
    model::{Revision, Secret, Time, TokenHash},
    wire::{
        Problem,
        management::{Configuration, MEDIA_TYPE, OnUnknownMember},
    },
};
use dapbox_store::{
    Store, Tx,
    api_token::{ApiToken, find},
};
use dapbox_support::{Fault, Point, clock, version};

/// Unknown members that are logged at most, until the next start.
const MAX_IGNORED_MEMBERS: usize = 100;
/// The most characters of an unknown member's name that are logged.
const MAX_MEMBER_CHARS: usize = 200;

/// What the server has for the management API, beside what is stored.
pub struct Management {
    /// What the tokens of tasks are derived from, if the API is on.
    seed: Option<Secret>,
    /// When each API token was last shown.
    uses: Mutex<HashMap<TokenHash, Time>>,
    /// The unknown members that were logged.
    ignored: Mutex<HashSet<String>>,
}

impl Management {
    /// Makes the secret that tokens of tasks are derived from, if it is needed and not there.
    pub async fn begin(config: &Config, store: &Store) -> Result<Self, Fault> {
        let stored = store.read(|view| Ok(view.token_seed().cloned()))?;
        let seed = match stored {
            Some(seed) => Some(seed),
            None if !config.management.is_on() => None,
            None => {
                let make = |tx: &mut Tx<'_>| provision::init_seed(tx, provision::new_seed());
                Some(store.write(Point::ManagementSeed, make).await?)
            }
        };
        Ok(Self { seed, uses: Mutex::default(), ignored: Mutex::default() })
    }

    fn seed(&self) -> Result<&Secret, Fault> {
        self.seed.as_ref().ok_or_else(|| Fault::new("the management API is asked, and was off when the server started"))
    }

    fn note(&self, hash: TokenHash, now: Time) {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, now);
    }

    /// Logs an unknown member of a request, once per name. Returns whether it was logged.
    fn ignore(&self, member: &str) -> bool {
        let member: String = member.chars().take(MAX_MEMBER_CHARS).collect();
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = ignored.len() < MAX_IGNORED_MEMBERS && ignored.insert(member.clone());
        if is_new {
            tracing::warn!(member, "management API member ignored");
        }
        is_new
    }

    /// Forgets a token that was revoked.
    pub fn forget(&self, hash: &TokenHash) {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }
}

/// All API tokens, for the operator.
pub fn tokens(app: &App) -> Result<Vec<ApiTokenStatus>, Fault> {
    let uses = app.management.uses.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let status = |token: &ApiToken| ApiTokenStatus { token: token.clone(), last_used: uses.get(&token.hash).copied() };
    app.store.read(|view| Ok(view.api_tokens().values().map(status).collect()))
}

/// What of a path at the public address is below the API's, if the API is there.
pub fn below<'a>(config: &Live, path: &'a str) -> Option<&'a str> {
    let base = Some(config.management.path.as_str()).filter(|base| !base.is_empty())?;
    path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request at the API's own address.
pub async fn answer_at_root(app: Arc<App>, request: Request) -> Response {
    let path = request.path.clone();
    handle(&app, &path, request).await
}

/// Answers a request whose path below the API's is `path`, with its leading slash if it is not empty.
pub async fn handle(app: &Arc<App>, path: &str, request: Request) -> Response {
    let is_head = request.method == Method::HEAD;
    let mut response = answer(app, path, request).await.unwrap_or_else(failure);
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

/// What a path names.
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

async fn answer(app: &Arc<App>, path: &str, mut request: Request) -> Result<Response, Error> {
    let by = authorize(app, &request)?;
    check_media_types(&request)?;
    let Some(resource) = Resource::parse(path) else {
        return Err(Problem::from_status(404).with_detail("there is no such resource in the management API").into());
    };
    let (method, methods) = (request.method_of_resource().to_owned(), resource.methods());
    if !methods.split(", ").any(|known| known == method) {
        let mut response =
            failure(Problem::from_status(405).with_detail(format!("this resource takes {methods}")).into());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        return Ok(response);
    }
    let body = body(app, &mut request).await?;
    let _slot = app.slots.management()?;
    match (resource, method.as_str()) {
        (Resource::Configuration, _) => configuration(app),
        (Resource::Tasks, _) => tasks::create(app, by, &body).await,
        (Resource::TaskIds, _) => tasks::list(app, &request.query),
        (Resource::Task(id), "GET") => tasks::show(app, id),
        (Resource::Task(id), "PATCH") => tasks::change(app, id, &body).await,
        (Resource::Task(id), _) => tasks::remove(app, id).await,
        (Resource::Uploads(id), _) => tasks::metrics(app, id, provision::upload_metrics),
        (Resource::Aggregations(id), _) => tasks::metrics(app, id, provision::aggregation_metrics),
        (Resource::Keys, "GET") => keys::list(app),
        (Resource::Keys, _) => keys::make(app, &body).await,
        (Resource::Key(id), "GET") => keys::show(app, id),
        (Resource::Key(id), "PATCH") => keys::change(app, id, &body).await,
        (Resource::Key(id), _) => keys::delete(app, id).await,
        (Resource::Peers, "GET") => peers::list(app),
        (Resource::Peers, "POST") => peers::add(app, &body).await,
        (Resource::Peers, _) => peers::remove(app, &body).await,
    }
}

/// The name of the API token that the request shows, if it is in force.
fn authorize(app: &App, request: &Request) -> Result<String, Error> {
    let refuse = |detail: &str| Err(Problem::from_status(401).with_detail(detail).into());
    let Some(token) = auth::bearer(&request.headers) else {
        return refuse("the request carries no token; send Authorization: Bearer");
    };
    let now = clock::now();
    let found = app.store.read(|view| Ok(find(view.api_tokens().values(), token, now).cloned()))?;
    let Some(found) = found else { return refuse("the request's token is not one that is in force for this API") };
    app.management.note(found.hash, now);
    Ok(found.name)
}

/// Both are compared to the letter.
fn check_media_types(request: &Request) -> Result<(), Problem> {
    let expect = |name: HeaderName, status| {
        let detail = || format!("the header {name} must be {MEDIA_TYPE}");
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

async fn body(app: &App, request: &mut Request) -> Result<Bytes, Problem> {
    let limits = &app.config.limits;
    let (budget, bodies) = (&app.request_memory, &app.slots.request_bodies);
    let (timeout, silence) = (*limits.request_timeout, *limits.max_body_silence);
    request.read_body(limits.max_message_bytes, timeout, budget, bodies, silence).await
}

fn configuration(app: &App) -> Result<Response, Error> {
    json(StatusCode::OK, &Configuration::ours(&own_url(app), version::VERSION))
}

/// The protocol that tasks speak that are set up here.
const REVISION: Revision = Revision::Dap09;

/// Our base URL for that protocol.
fn own_url(app: &App) -> String {
    peer::dap_url(&app.config.public_url, REVISION)
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(value).map_err(|error| Fault::while_doing("writing an answer as JSON", error))?;
    Ok(content(status, MEDIA_TYPE, body))
}

/// Reads a body. Unknown members are ignored.
fn read<T>(app: &App, read: impl FnOnce(&mut OnUnknownMember<'_>) -> Result<T, String>) -> Result<T, Error> {
    read(&mut |member| {
        app.management.ignore(member);
    })
    .map_err(bad)
}

/// What is wrong with a request.
fn bad(detail: impl Into<String>) -> Error {
    Problem::from_status(400).with_detail(detail.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_unknown_member_once_and_few_names() {
        let management = Management { seed: None, uses: Mutex::default(), ignored: Mutex::default() };
        assert!(management.ignore("vdaf.note"));
        assert!(!management.ignore("vdaf.note"), "the same name again");
        let logged = (0..2 * MAX_IGNORED_MEMBERS).filter(|n| management.ignore(&n.to_string())).count();
        assert_eq!(logged, MAX_IGNORED_MEMBERS - 1);
    }

    #[test]
    fn both_slash_forms_and_nothing_beside_them() {
        let mut config = Config { public_url: "https://a.example".to_owned(), ..Config::default() };
        assert_eq!(below(&Live::new(config.clone()), "/api"), None);
        config.management.path = "/api".to_owned();
        let live = Live::new(config);
        for (path, rest) in [("/api", Some("")), ("/api/", Some("/")), ("/api/tasks", Some("/tasks")), ("/apix", None)]
        {
            assert_eq!(below(&live, path), rest, "{path}");
        }
    }

    #[test]
    fn a_path_is_one_resource_or_none() {
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
