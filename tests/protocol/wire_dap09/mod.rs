//! DAP-09 messages: byte fixtures, properties of the decoders, and the published Janus crates as an independent
//! implementation.

mod codecs;
mod fixtures;
mod janus;
mod properties;
mod strategies;
