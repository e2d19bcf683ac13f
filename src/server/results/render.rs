//! Renders pages and files of results on a blocking thread.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use warp::http::{HeaderValue, StatusCode, header};

use crate::{
    results::{
        addresses::{Format, TASKS},
        context::ResultsContext,
        load,
    },
    transport::http::{Response, content},
};
use dapbox_aggregator::Error;
use dapbox_pages::{self as pages, Addresses, Selection, export, overview, selection::SelectionError};
use dapbox_protocol::{model::TaskId, wire::Problem};
use dapbox_results::Window;
use dapbox_store::CollectorRecord;
use dapbox_support::{Fault, version::VERSION};

/// Maximum number of pages and files that are rendered at the same time. Each may hold the results of years in memory.
pub const RENDERS: usize = 4;
/// How long a request waits for its turn.
const RENDER_WAIT: Duration = Duration::from_secs(10);
/// Length of an entity tag, in bytes of the hash.
const TAG_BYTES: usize = 16;

/// Maximum number of numbers in one page or file, to bound memory. A longer file is refused; a page shows the latest windows.
const MAX_NUMBERS: usize = 4_000_000;

/// Media type of files with comma-separated values (RFC 4180).
const CSV: &str = "text/csv; charset=utf-8; header=present";
/// Media type of files with a line of JSON for each window.
const NDJSON: &str = "application/x-ndjson";
/// Media type of JSON.
const JSON: &str = "application/json";

/// The page of all tasks.
pub async fn overview(ctx: &Arc<ResultsContext>) -> Result<Response, Error> {
    rendered(ctx, |ctx| {
        let wanted =
            |record: &CollectorRecord, windows: &[Window]| Ok(latest(record, overview::needed_results(windows)));
        let tasks = load::task_ids(ctx)?.into_iter().filter_map(|id| load::task(ctx, &id, wanted).transpose());
        let views = tasks.collect::<Result<Vec<_>, _>>()?;
        let config = ctx.config.get();
        let page = overview::render(&config.public_url, &views, &|view| format!("{TASKS}{}", view.id));
        Ok(Some(page_response(page)?))
    })
    .await
}

/// A representation of the results of a task.
pub async fn task(
    ctx: &Arc<ResultsContext>,
    id: TaskId,
    addresses: Addresses,
    format: Format,
    query: &str,
) -> Result<Response, Error> {
    let query = query.to_owned();
    rendered(ctx, move |ctx| {
        let wanted = |record: &CollectorRecord, windows: &[Window]| {
            let selection = select(&query, record)?;
            match format {
                Format::Html => Ok(latest(record, pages::task::needed_results(&selection, windows))),
                Format::Csv | Format::Ndjson | Format::Json => at_most(record, selection.needed_results(windows)),
            }
        };
        let Some(view) = load::task(ctx, &id, wanted)? else { return Ok(None) };
        let selection = Selection::parse(&query, &view.zone()).map_err(invalid)?;
        let mut body = Vec::new();
        let (media_type, written) = match format {
            Format::Html => return page_response(pages::task::render(&view, &selection, &addresses)).map(Some),
            Format::Csv => (CSV, export::csv(&view, &selection, &mut body)),
            Format::Ndjson => (NDJSON, export::ndjson(&view, &selection, &mut body)),
            Format::Json => (JSON, export::json(&view, &selection, &mut body)),
        };
        written.map_err(|why| Problem::from_status(422).with_detail(why.to_string()))?;
        Ok(Some(represented(media_type, body)?))
    })
    .await
}

/// The description of the addresses and formats for programs.
pub fn openapi() -> Result<Response, Error> {
    Ok(represented(JSON, pages::openapi::document(VERSION))?)
}

fn select(query: &str, record: &CollectorRecord) -> Result<Selection, Error> {
    let zone = record.settings.schedule.zone().map_err(|why| Problem::from_status(500).with_detail(why))?;
    Selection::parse(query, &zone).map_err(|why| invalid(why).into())
}

fn invalid(why: SelectionError) -> Problem {
    Problem::from_status(400).with_detail(why.to_string())
}

/// The latest of these windows, as many as have [`MAX_NUMBERS`].
fn latest(record: &CollectorRecord, mut windows: Vec<u64>) -> Vec<u64> {
    let surplus = windows.len().saturating_sub(max_windows(record));
    windows.drain(..surplus);
    windows
}

/// These windows, if they do not have more than [`MAX_NUMBERS`].
fn at_most(record: &CollectorRecord, windows: Vec<u64>) -> Result<Vec<u64>, Error> {
    let max = max_windows(record);
    if windows.len() > max {
        let (found, length) = (windows.len(), record.public.vdaf.vector_length());
        let detail = format!(
            "{found} windows of {length} numbers are too many for one file; select at most {max} windows with from and to"
        );
        return Err(Problem::from_status(422).with_detail(detail).into());
    }
    Ok(windows)
}

fn max_windows(record: &CollectorRecord) -> usize {
    (MAX_NUMBERS / record.public.vdaf.vector_length().max(1)).max(1)
}

/// A page with its policy.
fn page_response(page: String) -> Result<Response, Error> {
    let mut response = represented(pages::MEDIA_TYPE, page)?;
    let policy = HeaderValue::try_from(pages::policy())
        .map_err(|error| Fault::while_doing("creating the content security policy of a page", error))?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// Renders on a blocking thread, with a limit of concurrent ones. `None` means that the task does not exist.
async fn rendered(
    ctx: &Arc<ResultsContext>,
    render: impl FnOnce(&ResultsContext) -> Result<Option<Response>, Error> + Send + 'static,
) -> Result<Response, Error> {
    let permit = tokio::time::timeout(RENDER_WAIT, ctx.renders.clone().acquire_owned()).await;
    let Ok(Ok(permit)) = permit else { return Err(Error::Busy) };
    let shared = ctx.clone();
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        render(&shared)
    });
    let done = done.await.map_err(|error| Fault::while_doing("rendering results", error))?;
    done?.ok_or_else(|| Problem::from_status(404).with_detail("this server does not collect the task").into())
}

/// A response with an entity tag, so that unchanged representations are not sent again.
fn represented(media_type: &'static str, body: impl Into<Bytes>) -> Result<Response, Fault> {
    let body = body.into();
    let hash = Sha256::digest(&body);
    let tag: String = hash.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect();
    let tag = HeaderValue::try_from(format!("\"{tag}\""));
    let tag = tag.map_err(|error| Fault::while_doing("creating an entity tag", error))?;
    let mut response = content(StatusCode::OK, media_type, body);
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}
