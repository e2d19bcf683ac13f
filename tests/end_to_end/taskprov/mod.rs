//! In-band tasks (draft-wang-ppm-dap-taskprov-06 with DAP-09): they are provisioned by requests, and unsafe ones are
//! rejected.

mod lifecycle;
mod pair;
mod refusals;
