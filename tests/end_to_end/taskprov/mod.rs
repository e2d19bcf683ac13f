//! Tasks that are set up in-band (draft-wang-ppm-dap-taskprov-06 with DAP-09): nobody adds them, and what is unsafe is refused.

mod lifecycle;
mod pair;
mod refusals;
