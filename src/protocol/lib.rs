//! The Distributed Aggregation Protocol without I/O: data types, message encodings, VDAFs and HPKE.
//!
//! | module | contents |
//! |---|---|
//! | [`model`] | data types: tasks, reports, batches, jobs |
//! | [`wire`] | message encodings; one directory for each protocol revision behind one trait |
//! | [`vdaf`] | measurements, shares and proofs; the only module that uses `prio` |
//! | [`hpke`] | key pairs, seal, open; the only module that uses the `hpke` crate |
//!
//! The crate has no sockets, files, threads or clocks. Functions take `now` as an argument.

#![deny(clippy::print_stderr)]

pub mod hpke;
pub mod model;
pub mod vdaf;
pub mod wire;
