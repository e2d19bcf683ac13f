//! DAP-18 messages: byte fixtures, properties of the decoders, and uploads that arrive in pieces.

mod codecs;
mod fixtures;
mod properties;
mod strategies;
mod upload;
