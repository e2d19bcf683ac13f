//! Messages of DAP-18 and later drafts: byte fixtures, properties of the decoders, and uploads that arrive in pieces.

mod codecs;
mod drafts;
mod fixtures;
mod properties;
mod strategies;
mod upload;
