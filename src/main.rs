//! The `dapbox` command.

fn main() {}
