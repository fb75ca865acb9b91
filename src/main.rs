//! The `remit` program: parses its arguments and ends with the exit code of the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    remit::cli::run()
}
