//! What must not take a server down, or must take it down with a clear word: a log that is not written, and background parts
//! that panic.

mod background;
mod log;
