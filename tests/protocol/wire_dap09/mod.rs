//! DAP-09's messages: byte fixtures, properties of the decoders, and the published Janus crates as a second opinion.

mod codecs;
mod fixtures;
mod janus;
mod properties;
mod strategies;
