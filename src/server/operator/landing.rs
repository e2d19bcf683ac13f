//! The page at the root of the public address and at the base path of a revision. It describes the service and lists
//! the URLs of the DAP resources. It contains no data of the operator or of tasks except `public_url`.

use warp::http::{HeaderValue, Method, StatusCode, header};

use crate::{
    operator::page::{MEDIA_TYPE, landing},
    transport::http::{Request, Response, content},
};
use dapbox_aggregator::Error;
use dapbox_protocol::{model::Revision, wire};
use dapbox_support::Fault;

/// Whether a request is for this page.
pub fn is_requested(request: &Request) -> bool {
    let is_base = |revision| {
        let rest = request
            .path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(wire::for_revision(revision).path_prefix()));
        matches!(rest, Some("" | "/"))
    };
    let is_page = request.path == "/" || Revision::ALL.into_iter().any(is_base);
    is_page && matches!(request.method, Method::GET | Method::HEAD)
}

/// Responds with the page.
pub fn answer(public_url: &str) -> Result<Response, Error> {
    let mut response = content(StatusCode::OK, MEDIA_TYPE, landing::render(public_url));
    let policy = HeaderValue::try_from(landing::policy())
        .map_err(|error| Fault::while_doing("creating the content security policy of the root page", error))?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
