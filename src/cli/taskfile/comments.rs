//! The comments of task files.

use crate::model::Role;

/// The first lines of each party's file.
pub fn heading(role: Role) -> &'static [&'static str] {
    match role {
        Role::Leader => &[
            "The leader's part of a DAP task. SECRET: for the leader's operator only.",
            "Add it to the leader: dapbox task add leader.toml",
        ],
        Role::Helper => &[
            "The helper's part of a DAP task. SECRET: for the helper's operator only.",
            "Add it to the helper: dapbox task add helper.toml",
        ],
        Role::Client => &[
            "The clients' part of a DAP task. Public: contains no secrets.",
            "Upload: dapbox upload --task client.toml MEASUREMENT",
        ],
        Role::Collector => &[
            "The collector's part of a DAP task. SECRET: it decrypts all aggregates.",
            "Collect: dapbox collect --task collector.toml",
            "Collect on schedule and show the results: dapbox task add collector.toml",
        ],
    }
}

/// Comments above keys and tables.
pub const COMMENTS: [(&str, &str); 33] = [
    ("name", "Local name of the task, not sent to other parties. May be changed."),
    ("[task]", "The same in all four files. Compare it with the other parties: a task is immutable."),
    ("info", "Distinguishes tasks with the same parameters. Every report is bound to it."),
    ("min_batch_size", "Minimum number of reports of an aggregate."),
    ("time_precision", "Unit to which the times of reports are rounded down."),
    ("starts", "Reports before this time are refused."),
    ("expires", "Reports after this time are refused."),
    ("report_expiry_age", "Age after which reports are refused and deleted, with uncollected sums."),
    ("noise", "Epsilon of the noise that each aggregator adds to its aggregate shares. Smaller means more noise."),
    ("configuration", "In-band task: these parameters, encoded; sent with every request."),
    ("[task.batch]", "Batch mode."),
    ("batch_time_window_size", "A batch contains reports of one time window of this length only, in seconds."),
    ("[task.vdaf]", "VDAF: the function that is computed."),
    ("verify_key", "SECRET. Shared by leader and helper only."),
    ("verify_key_id", "Id of the verification key, the same at leader and helper."),
    ("helper_token", "SECRET. Token that the leader presents to the helper."),
    ("collector_token_hash", "SHA-256 of the token that the collector presents to the leader."),
    ("leader_token_hash", "SHA-256 of the token that the leader presents to the helper."),
    ("since", "Start of the first collection, unless 'dapbox collect' has --since."),
    ("token", "SECRET. Token that the collector presents to the leader."),
    ("previous_token", "SECRET. Tried if the leader refuses the new token. Delete it once the leader accepts that."),
    ("private_key", "SECRET. Decrypts the aggregates. Keep a copy: without it they are lost."),
    (
        "[schedule]",
        "When a server collects the task after 'dapbox task add collector.toml'. May be changed and added again.",
    ),
    ("start", "Start of the first window."),
    ("every", "Length of windows: 'day', 'week', 'month', or a duration such as '6h'."),
    ("time_zone", "Time zone of days, weeks and months."),
    ("grace", "How long to wait for late reports after the end of a window."),
    ("on_too_few", "A window with too few reports: 'wait' for more, 'extend' it by the next one, or 'skip' it."),
    ("patience", "How long the leader may have no result before a window counts as having too few reports."),
    ("[presentation]", "How the results are shown. May be changed and added again."),
    ("[leader.collector_key]", "Public key to which aggregates are encrypted (numbers as in RFC 9180)."),
    ("[helper.collector_key]", "Public key to which aggregates are encrypted (numbers as in RFC 9180)."),
    ("[collector.key]", "Public key to which aggregates are encrypted (numbers as in RFC 9180)."),
];
