//! Arguments in, exit code out; all else is the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cosgate::cli::run(std::env::args_os())
}
