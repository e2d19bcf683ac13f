//! How a task is shown to people. Never sent to another party of the protocol.

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::Time;

/// Titles, units and labels of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Presentation {
    /// A title instead of the task's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What is measured, in a sentence or two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The unit of the measurement, such as `ms` or `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Labels of the bins of a histogram, or of the positions of a vector, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Edges of the bins of a histogram of an ordered quantity, ascending: one more than bins. The first may be `-inf` and the
    /// last `inf`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<f64>,
    /// Remarks on dates, such as a release.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// A remark on a date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The time.
    pub at: Time,
    /// The remark.
    pub text: String,
}

// Edges are never NaN: `check` rejects it.
impl Eq for Presentation {}
