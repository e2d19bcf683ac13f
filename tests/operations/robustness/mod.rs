//! Failures that a server must survive or that must stop it with a clear message: an unwritable log, and panicking
//! background parts.

mod background;
mod log;
