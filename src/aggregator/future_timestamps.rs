//! Stored timestamps ahead of the clock.
//!
//! A server with a fast clock stores timestamps that lie far in the future once the clock is corrected. Keys and jobs
//! are corrected (`keys/plan.rs`, `store/sweep.rs`). A horizon is not, because it never decreases.

use crate::views::overview::FutureTimestamp;
use dapbox_protocol::model::{Duration, Time};
use dapbox_store::{KeyStage, TaskState, View};

/// The allowed clock difference, in seconds.
const ALLOWED: Duration = Duration(86_400);
/// The most timestamps listed.
const MOST: usize = 100;

/// Lists stored timestamps that are ahead of the clock, at most `MOST`.
pub fn future_timestamps(view: &View<'_>, now: Time) -> Vec<FutureTimestamp> {
    let latest = now.saturating_add(ALLOWED);
    let of = |record: String, time: Time, is_permanent: bool| FutureTimestamp { record, time, is_permanent };
    let keys = view.keys().values().filter(|key| !matches!(key.stage, KeyStage::Deleted { .. }));
    let keys = keys.map(|key| of(format!("HPKE key {}", key.config.id), key.created, false));
    let tokens = view.api_tokens().values().map(|token| of(format!("API token {}", token.name), token.created, false));
    let unknown = view.history_lost_before().map(|before| of("past closed by a restore".to_owned(), before, true));
    let fixed =
        keys.chain(tokens).chain(unknown).filter(|record| record.time > latest.saturating_add(view.clock_skew()));
    let horizons = view.tasks().filter_map(|(id, state)| {
        let allowed = latest.saturating_add(view.clock_skew()).saturating_add(state.task.public.time_precision);
        let horizon = state.replay.horizon().filter(|horizon| *horizon > allowed)?;
        Some(of(format!("closed past of task {id}"), horizon, true))
    });
    let set_up = |state: &TaskState| {
        let provisioned = state.provision.as_ref().map(|provision| provision.at);
        provisioned.or_else(|| state.in_band.as_ref().map(|in_band| in_band.at)).filter(|at| *at > latest)
    };
    let tasks = view.tasks().filter_map(|(id, state)| Some(of(format!("set-up of task {id}"), set_up(state)?, false)));
    fixed.chain(horizons).chain(tasks).take(MOST).collect()
}
