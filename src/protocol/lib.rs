//! The Distributed Aggregation Protocol without I/O: nouns, message encodings, VDAFs and HPKE.
//!
//! | module | what it has |
//! |---|---|
//! | [`model`] | the nouns: tasks, reports, batches, jobs |
//! | [`wire`] | encodings of messages; one directory for each protocol revision behind one trait |
//! | [`vdaf`] | measurements, shares and proofs; alone in naming `prio` |
//! | [`hpke`] | key pairs, seal, open; alone in naming the `hpke` crate |
//!
//! No sockets, files, threads or clocks: `now` is an argument.

#![deny(clippy::print_stderr)]

pub mod hpke;
pub mod model;
pub mod vdaf;
pub mod wire;
