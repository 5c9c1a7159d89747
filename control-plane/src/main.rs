//! The control plane's process. Everything it does is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use tide_control_plane::{args::Args, config::Config, run};

fn main() -> ExitCode {
    tide_daemon::main_exit("tide-control-plane", || {
        let config = Config::resolve(Args::parse())?;
        Ok((config.log_format, run(config)))
    })
}
