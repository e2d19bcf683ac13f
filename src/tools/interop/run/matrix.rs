//! The results: a matrix as text or JSON.

use std::{collections::BTreeMap, time::Duration as Span};

use serde::Serialize;

use super::{parties::Parties, row::Row, task::CellFailure};
use crate::{
    cli::{
        args::QueryKind,
        style::{self, Style, counted},
    },
    model::Revision,
};

/// Widths of the columns, in characters.
const ROW_WIDTH: usize = 18;
const CELL_WIDTH: usize = 16;

/// A cell of the matrix.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The test case.
    pub row: Row,
    /// The batch mode.
    pub mode: QueryKind,
    /// The outcome.
    pub outcome: Result<(), CellFailure>,
    /// The duration.
    pub took: Span,
}

impl Cell {
    fn verdict(&self) -> &'static str {
        match self.outcome {
            Ok(()) => "ok",
            Err(CellFailure::Failed(_)) => "failed",
            Err(CellFailure::NotSupported(_)) => "not supported",
        }
    }

    fn reason(&self) -> Option<&str> {
        match &self.outcome {
            Ok(()) => None,
            Err(CellFailure::Failed(why) | CellFailure::NotSupported(why)) => Some(why),
        }
    }
}

/// All cells of a run, in the order of the matrix.
pub struct Matrix {
    /// The cells.
    pub cells: Vec<Cell>,
    /// Duration of the run.
    pub took: Span,
}

/// The JSON form of a run.
#[derive(Serialize)]
struct MatrixJson<'a> {
    revision: Revision,
    parties: BTreeMap<&'static str, &'a str>,
    ok: usize,
    failed: usize,
    not_supported: usize,
    seconds: f64,
    cells: Vec<CellJson<'a>>,
}

#[derive(Serialize)]
struct CellJson<'a> {
    row: String,
    mode: &'static str,
    verdict: &'static str,
    reason: Option<&'a str>,
    seconds: f64,
}

impl Matrix {
    fn count(&self, verdict: &str) -> usize {
        self.cells.iter().filter(|cell| cell.verdict() == verdict).count()
    }

    /// Fails if a cell failed or none is ok. Cells that are not supported fail the run only if `strict`.
    pub fn verdict(&self, strict: bool) -> Result<(), String> {
        let (all, ok) = (self.cells.len(), self.count("ok"));
        let (failed, not_supported) = (self.count("failed"), self.count("not supported"));
        match (failed, not_supported) {
            (1.., _) => Err(format!("{failed} of {all} failed")),
            (0, 1..) if strict => Err(format!("{not_supported} of {all} are not supported")),
            _ if ok == 0 => Err("no cell is supported".to_owned()),
            _ => Ok(()),
        }
    }

    /// The matrix as JSON.
    pub fn to_json(&self, revision: Revision, parties: &Parties) -> serde_json::Result<String> {
        let cells = self.cells.iter().map(|cell| CellJson {
            row: cell.row.name(),
            mode: mode_name(cell.mode),
            verdict: cell.verdict(),
            reason: cell.reason(),
            seconds: cell.took.as_secs_f64(),
        });
        serde_json::to_string_pretty(&MatrixJson {
            revision,
            parties: parties.all().map(|party| (party.name, party.url.as_str())).into(),
            ok: self.count("ok"),
            failed: self.count("failed"),
            not_supported: self.count("not supported"),
            seconds: self.took.as_secs_f64(),
            cells: cells.collect(),
        })
    }

    /// The matrix as text.
    pub fn render(&self, modes: &[QueryKind], style: Style) -> String {
        let titles: String = modes.iter().map(|mode| format!("{:<CELL_WIDTH$}", mode_name(*mode))).collect();
        let mut text = format!("\n  {:ROW_WIDTH$}{}\n", "", style.bold(titles.trim_end()));
        let mut rows: Vec<Row> = self.cells.iter().map(|cell| cell.row).collect();
        rows.dedup();
        for row in rows {
            let found = |mode: &QueryKind| self.cells.iter().find(|cell| (cell.row, cell.mode) == (row, *mode));
            let line: String = modes.iter().map(|mode| format_cell(found(mode), style)).collect();
            text += &format!("  {:<ROW_WIDTH$}{}\n", row.name(), line.trim_end());
        }
        for cell in &self.cells {
            if let Some(reason) = cell.reason() {
                let title = format!("{}, {}: {}", cell.row.name(), mode_name(cell.mode), cell.verdict());
                text += &format!("\n  {}\n    {reason}\n", style.bold(&title));
            }
        }
        let [ok, failed, not_supported] = ["ok", "failed", "not supported"].map(|verdict| self.count(verdict));
        let all = counted(self.cells.len() as u64, "cell");
        let took = style::elapsed(self.took);
        format!("{text}\n{all}: {ok} ok, {failed} failed, {not_supported} not supported, in {took}.")
    }
}

/// A cell, padded to the width of its column. Colors have no width.
fn format_cell(cell: Option<&Cell>, style: Style) -> String {
    let verdict = cell.map_or("-", Cell::verdict);
    let text = match verdict {
        "ok" => style.good(verdict),
        "failed" => style.bad(verdict),
        _ => style.dim(verdict),
    };
    format!("{text}{}", " ".repeat(CELL_WIDTH.saturating_sub(verdict.len())))
}

/// The name of a batch mode.
fn mode_name(mode: QueryKind) -> &'static str {
    match mode {
        QueryKind::TimeInterval => "time-interval",
        QueryKind::FixedSize => "fixed-size",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(outcomes: [Result<(), CellFailure>; 3]) -> Matrix {
        let places = [
            (Row::Count, QueryKind::TimeInterval),
            (Row::Count, QueryKind::FixedSize),
            (Row::Overlap, QueryKind::TimeInterval),
        ];
        let cells = places.into_iter().zip(outcomes);
        let cells = cells.map(|((row, mode), outcome)| Cell { row, mode, outcome, took: Span::ZERO });
        Matrix { cells: cells.collect(), took: Span::from_secs(2) }
    }

    fn not_supported() -> Result<(), CellFailure> {
        Err(CellFailure::NotSupported("leader, add_task: what?".to_owned()))
    }

    #[test]
    fn renders_matrix_with_reasons() {
        let matrix = matrix([CellFailure::failed("the result is 1, not 2"), not_supported(), Ok(())]);
        let text = matrix.render(&[QueryKind::TimeInterval, QueryKind::FixedSize], Style::plain());
        let expected = "
                    time-interval   fixed-size
  count             failed          not supported
  overlap           ok              -

  count, time-interval: failed
    the result is 1, not 2

  count, fixed-size: not supported
    leader, add_task: what?

3 cells: 1 ok, 1 failed, 1 not supported, in 2.00 s.";
        assert_eq!(text, expected);
    }

    #[test]
    fn run_fails_if_nothing_is_supported() {
        let verdict = |outcomes, strict| matrix(outcomes).verdict(strict);
        assert_eq!(verdict([Ok(()), not_supported(), Ok(())], false), Ok(()));
        assert_eq!(verdict([Ok(()), not_supported(), Ok(())], true), Err("1 of 3 are not supported".to_owned()));
        let nothing = || [not_supported(), not_supported(), not_supported()];
        assert_eq!(verdict(nothing(), false), Err("no cell is supported".to_owned()));
        let failed = [CellFailure::failed("x"), not_supported(), Ok(())];
        assert_eq!(verdict(failed, false), Err("1 of 3 failed".to_owned()));
    }
}
