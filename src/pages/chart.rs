//! Charts as SVG, rendered by the server.

pub mod columns;
pub mod frame;
pub mod heat;
pub mod marks;
pub mod rows;
pub mod scale;
pub mod stack;
