//! The `dapbox` command.

#![deny(clippy::print_stderr)]

fn main() -> std::process::ExitCode {
    dapbox::cli::run()
}
