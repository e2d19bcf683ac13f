//! The notifications of a task: which change of a window is one, and its text.

use dapbox_protocol::model::{Id, Time};
use dapbox_results::{Window, WindowState};
use dapbox_store::CollectorRecord;
use serde_json::json;

/// The kind of [`NotificationId`].
enum NotificationKind {}

/// Identifies a notification. It is the same in all repetitions, so that a receiver can ignore them.
type NotificationId = Id<NotificationKind, 16>;

/// What a notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A result arrived.
    Collected,
    /// The result of a window is lost.
    Lost,
    /// A window has too few reports.
    TooFewReports,
    /// A window has no result for longer than the patience of its schedule.
    Overdue,
    /// A test.
    Test,
}

impl Notification {
    /// The name, as in the field `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collected => "result.collected",
            Self::Lost => "window.lost",
            Self::TooFewReports => "window.too_few_reports",
            Self::Overdue => "window.overdue",
            Self::Test => "test",
        }
    }

    /// The notification of a change of a window, if it is one.
    pub fn of(before: Option<&Window>, after: &Window) -> Option<Self> {
        if before.is_some_and(|before| before.state.name() == after.state.name()) {
            return None;
        }
        match after.state {
            WindowState::Collected(_) => Some(Self::Collected),
            WindowState::Lost { .. } => Some(Self::Lost),
            WindowState::TooFewReports { .. } => Some(Self::TooFewReports),
            _ => None,
        }
    }

    /// The JSON text of a new notification.
    pub fn body(self, record: &CollectorRecord, window: Option<&Window>, now: Time) -> String {
        json!({
            "id": NotificationId::random(),
            "type": self.name(),
            "time": now,
            "task": { "id": record.public.id, "name": record.name },
            "window": window.map(|window| json!({
                "number": window.number,
                "state": window.state.name(),
                "interval": window.shown_interval(),
            })),
        })
        .to_string()
    }
}
