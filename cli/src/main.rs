//! `tidectl`, the operator's tool. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidectl::run(std::env::args_os())
}
