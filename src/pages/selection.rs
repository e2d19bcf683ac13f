//! The selection of windows in the address of a page or file: `?from=2026-11-01&to=2026-12-01&sum`.

use dapbox_protocol::model::Time;

/// What to show. Its text form is the query of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Windows that end after this time; all, if absent.
    pub from: Option<Time>,
    /// Windows that start before this time; all, if absent.
    pub to: Option<Time>,
    /// A second range, to compare with.
    pub compare: Option<(Time, Time)>,
    /// Whether the windows are added up.
    pub sum: bool,
    /// A window to show alone, such as the distribution of a histogram.
    pub window: Option<u64>,
}
