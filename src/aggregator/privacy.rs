//! The account of a task's noise: what its collected batches have spent, and the budget that they may spend.
//!
//! # Decision: the account is the number of collected batches
//!
//! Each collected batch spends the task's epsilon once, also if its result is never fetched. Epsilons add up (basic
//! composition), because a person may have reports in every batch. The number of collected batches is durable and never
//! decreases, so the account needs no second record that could differ from it.
//!
//! # Decision: a restored account is uncertain
//!
//! A backup does not know the batches that were collected after it. Until the operator has said how many there were, a
//! task with a budget releases nothing. The other aggregator knows.

use dapbox_protocol::{
    model::{Epsilon, TaskId},
    wire::{Problem, ProblemType},
};
use dapbox_store::{PrivacyRecord, TaskState, Tx, WriteError};
use dapbox_support::{Fault, format::counted};

use crate::{
    counters,
    views::privacy::{BudgetChange, PrivacyAccount, PrivacyChange},
};

/// The number of batches that were ever collected here, without those that a restored directory does not know.
pub fn collected_batches(state: &TaskState) -> u64 {
    state.collected.len() as u64 + state.counters.get(counters::BATCH_FORGOTTEN).copied().unwrap_or(0)
}

/// The account of a task; `None` without noise.
pub fn account(state: &TaskState) -> Option<PrivacyAccount> {
    let epsilon = state.task.public.noise?;
    let PrivacyRecord { budget, unknown_batches, is_uncertain } = state.privacy;
    let batches = collected_batches(state).saturating_add(unknown_batches);
    let allowed = budget.map(|budget| budget.quotient(&epsilon).unwrap_or(0));
    Some(PrivacyAccount {
        epsilon,
        batches,
        spent: epsilon.times(batches),
        budget,
        batches_left: allowed.map(|allowed| allowed.saturating_sub(batches)),
        is_uncertain,
    })
}

/// Checks that a task may release one more batch.
///
/// # Errors
///
/// Says which budget is spent, or that the account is uncertain. The protocol has no type for this problem.
pub fn check(state: &TaskState) -> Result<(), Problem> {
    let Some(PrivacyAccount { epsilon, batches, spent, budget: Some(budget), batches_left, is_uncertain }) =
        account(state)
    else {
        return Ok(());
    };
    let refuse = |detail: String| Err(Problem::from_status(403).with_detail(detail).with_task(state.task.public.id));
    if is_uncertain {
        return refuse(format!(
            "the privacy budget of the task is {budget}, and its use is unknown since the aggregator was restored"
        ));
    }
    if batches_left != Some(0) {
        return Ok(());
    }
    let (spent, batches) = (amount(spent), counted(batches, "batch"));
    refuse(format!("the privacy budget of the task is used up: {spent} of {budget}, by {batches} of epsilon {epsilon}"))
}

/// Changes the budget of a task, or says how many batches were collected. Returns the account.
///
/// # Errors
///
/// Refuses a task that does not exist or has no noise, a budget with too many digits, and a number of batches below the
/// known one.
pub fn change(tx: &mut Tx<'_>, change: &PrivacyChange) -> Result<PrivacyAccount, WriteError<Problem>> {
    let id = &change.task;
    let refuse = |kind: ProblemType, detail: String| {
        Err(WriteError::Refused(Problem::new(kind).with_detail(detail).with_task(*id)))
    };
    let invalid = |detail: String| refuse(ProblemType::HttpStatus(400), detail);
    let Some(state) = tx.task(id) else { return refuse(ProblemType::UnrecognizedTask, String::new()) };
    let (Some(account), Some(epsilon)) = (account(state), state.task.public.noise) else {
        return invalid("the task has no noise, so there is nothing to account for".to_owned());
    };
    let (known, mut record) = (collected_batches(state), state.privacy);
    match change.budget {
        BudgetChange::Keep => {}
        BudgetChange::Remove => record.budget = None,
        BudgetChange::Set(budget) => {
            if budget.quotient(&epsilon).is_none() {
                return invalid(format!("the budget {budget} has too many digits for the epsilon {epsilon}"));
            }
            record.budget = Some(budget);
        }
    }
    if let Some(batches) = change.batches {
        if batches < account.batches {
            return invalid(format!("{} batches were collected; the number cannot be lowered", account.batches));
        }
        (record.unknown_batches, record.is_uncertain) = (batches - known, false);
    }
    if record != state.privacy {
        tx.put_privacy(id, record)?;
    }
    let changed = tx.task(id).and_then(self::account);
    changed.ok_or_else(|| WriteError::Fault(Fault::new("a task disappeared during a change of its privacy budget")))
}

/// Marks the account of a task in a restored directory as uncertain.
pub fn mark_uncertain(tx: &mut Tx<'_>, id: &TaskId) -> Result<(), Fault> {
    match tx.task(id) {
        Some(state) if state.task.public.noise.is_some() => {
            let record = PrivacyRecord { is_uncertain: true, ..state.privacy };
            tx.put_privacy(id, record)
        }
        _ => Ok(()),
    }
}

/// The account in one line, for people.
pub fn describe(account: &PrivacyAccount) -> String {
    let PrivacyAccount { epsilon, batches, spent, budget, batches_left, is_uncertain } = account;
    let (spent, least) = (amount(*spent), if *is_uncertain { "at least " } else { "" });
    let limit = match (budget, batches_left) {
        (Some(budget), Some(left)) => format!(" of a budget of {budget}, {} left", counted(*left, "batch")),
        _ => ", without a budget".to_owned(),
    };
    let restored = match is_uncertain {
        true => "; later batches are unknown since a restore (hint: 'dapbox task privacy --batches')",
        false => "",
    };
    format!("{least}{spent} spent by {} of epsilon {epsilon}{limit}{restored}", counted(*batches, "batch"))
}

fn amount(spent: Option<Epsilon>) -> String {
    spent.map_or_else(|| "0".to_owned(), |spent| spent.to_string())
}
