//! The `dapbox` command.

fn main() -> std::process::ExitCode {
    dapbox::cli::run()
}
