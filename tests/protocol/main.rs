//! Messages and cryptography: encodings, official vectors, and the requirements of the drafts.

mod dap18_requirements;
mod hpke_vectors;
#[path = "../common/skip.rs"]
mod skip;
mod vdaf_vectors;
mod wire_dap09;
mod wire_dap18;
mod wire_taskprov;
