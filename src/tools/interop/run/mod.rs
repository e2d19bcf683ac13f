//! `dapbox interop run`: runs every VDAF, both batch modes and error cases between any mix of implementations.
//!
//! # Decision: the runner has no special access to any party
//!
//! The runner sends requests through the interop test API only, even to dapbox's own parties in this process. It computes
//! the expected results itself, from the uploaded measurements and without the code under test. So a bug in dapbox cannot
//! hide itself. Only `dapbox interop serve` has the API, which has no authentication; `dapbox serve` cannot enable it.

mod cases;
mod matrix;
mod parties;
mod remote;
mod row;
mod task;

use std::time::{Duration as Span, Instant};

use clap::ValueEnum;
use futures_util::{StreamExt, stream};

use self::{
    matrix::{Cell, Matrix},
    parties::Parties,
    remote::Host,
    row::Row,
    task::CellFailure,
};
use crate::{
    cli::{
        args::{Format, OutputArgs, PeerArgs, QueryKind, RevisionArg, parse_duration},
        failure::{Failure, Outcome},
        signals::StopSignals,
        style::{self, Style, print},
    },
    model::Revision,
};

/// Arguments of `dapbox interop run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A party without a URL runs in this process, so without options this tests dapbox against itself. \
    Other parties are reached through the interop test API (draft-dcook-ppm-dap-interop-test-design), which 'dapbox interop \
    serve' implements. The aggregators must reach each other, the client both of them, and the collector the leader.\n\n\
    A cell is 'not supported' if a party rejects its task or cannot parse its measurement, for example because it lacks \
    the VDAF or the batch mode. The exit code is 0 if no cell failed and at least one is ok.\n\n\
    Examples:\n  \
    dapbox interop run\n  \
    dapbox interop run --dap 18\n  \
    dapbox interop run --helper http://127.0.0.1:9002\n  \
    dapbox interop run --leader http://127.0.0.1:9001 --leader-host leader\n  \
    dapbox interop run --only count,histogram,too-few --mode fixed-size\n  \
    dapbox interop run --strict --timeout 2m -o json"
)]
pub struct Args {
    #[command(flatten)]
    places: PartyUrls,
    /// DAP revision of all parties.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = RevisionArg::default())]
    dap: RevisionArg,
    /// Run only these rows of the matrix.
    #[arg(long, value_enum, value_name = "ROW", value_delimiter = ',', num_args = 1..)]
    only: Vec<Row>,
    /// Run only this batch mode.
    #[arg(long, value_enum, value_name = "KIND")]
    mode: Option<QueryKind>,
    /// Reports per batch.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    reports: u64,
    /// Time limit for a response of a party, and for a result.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "60s")]
    timeout: Span,
    /// Time to wait for a result that must not appear.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "3s")]
    wait: Span,
    /// Cells to run concurrently.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// Fail if a cell is not supported.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// URLs of the parties that run elsewhere.
#[derive(Debug, clap::Args)]
pub struct PartyUrls {
    /// URL of the client's API.
    #[arg(long, value_name = "URL", value_parser = remote::parse_url)]
    client: Option<String>,
    /// URL of the leader's API.
    #[arg(long, value_name = "URL", value_parser = remote::parse_url)]
    leader: Option<String>,
    /// URL of the helper's API; may be the same as the leader's.
    #[arg(long, value_name = "URL", value_parser = remote::parse_url)]
    helper: Option<String>,
    /// URL of the collector's API.
    #[arg(long, value_name = "URL", value_parser = remote::parse_url)]
    collector: Option<String>,
    /// Host name of the leader for the other parties, as in a network of containers. By default the host of its URL. The
    /// port, 8080 by default, is used for leaders that return a relative endpoint.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = Host::parse, requires = "leader")]
    leader_host: Option<Host>,
    /// Host name of the helper, like --leader-host.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = Host::parse, requires = "helper")]
    helper_host: Option<Host>,
}

/// The parameters of all cells.
struct RunContext {
    parties: Parties,
    revision: Revision,
    reports: usize,
    timeout: Span,
    wait: Span,
}

/// Runs `dapbox interop run`.
pub async fn run(args: Args) -> Outcome {
    let mut signals = StopSignals::new()?;
    let revision = args.dap.revision();
    let (style, peer) = (Style::stdout(), args.peer.peer()?);
    let parties = tokio::select! {
        parties = Parties::connect(&args.places, revision, &peer, args.timeout) => parties?,
        name = signals.next() => return Err(Failure::new(format!("stopped by {name}"))),
    };
    let context =
        RunContext { parties, revision, reports: args.reports as usize, timeout: args.timeout, wait: args.wait };
    let walked = tokio::select! {
        walked = show(&args, &context, style) => walked,
        name = signals.next() => Err(Failure::new(format!("stopped by {name}"))),
    };
    let stopped = context.parties.stop().await;
    walked.and(stopped)
}

/// Runs the cells and prints the results.
async fn show(args: &Args, context: &RunContext, style: Style) -> Outcome {
    if args.output.format == Format::Text {
        for party in context.parties.all() {
            print(format!("  {} {}", style.dim(&format!("{:<10}", party.name)), style.accent(&party.url)))?;
        }
    }
    let matrix = run_cells(args, context).await;
    match args.output.format {
        Format::Json => print(matrix.to_json(context.revision, &context.parties)?)?,
        Format::Text => print(matrix.render(&args.modes(), style))?,
    }
    matrix.verdict(args.strict).map_err(Failure::new)
}

/// Runs all cells, several concurrently.
async fn run_cells(args: &Args, context: &RunContext) -> Matrix {
    let (begun, places) = (Instant::now(), args.cells());
    let progress = style::progress(places.len() as u64, "trying");
    let cells = stream::iter(places).map(|(row, mode)| {
        let progress = progress.clone();
        async move {
            let begun = Instant::now();
            let outcome: Result<(), CellFailure> = cases::run(context, row, mode).await;
            progress.inc(1);
            Cell { row, mode, outcome, took: begun.elapsed() }
        }
    });
    let cells = cells.buffered(args.jobs as usize).collect().await;
    progress.finish_and_clear();
    Matrix { cells, took: begun.elapsed() }
}

impl Args {
    fn modes(&self) -> Vec<QueryKind> {
        match self.mode {
            Some(mode) => vec![mode],
            None => QueryKind::value_variants().to_vec(),
        }
    }

    /// The cells of the matrix, row by row.
    fn cells(&self) -> Vec<(Row, QueryKind)> {
        let rows = Row::value_variants().iter().filter(|row| self.only.is_empty() || self.only.contains(row));
        let modes = self.modes();
        rows.flat_map(|row| {
            modes.iter().filter(|mode| row.applies(self.dap.revision(), **mode)).map(|mode| (*row, *mode))
        })
        .collect()
    }
}
