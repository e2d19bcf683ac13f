//! Messages and cryptography: encodings, official vectors, and the requirements of the drafts.

mod hpke_vectors;
mod requirements;
#[path = "../common/skip.rs"]
mod skip;
mod vdaf_vectors;
mod wire_current;
mod wire_dap09;
mod wire_taskprov;
