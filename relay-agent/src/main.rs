//! `tide-agent`.

use std::process::ExitCode;

use clap::Parser as _;
use tide_daemon::main_exit::{Failure, main_exit};
use tide_relay_agent::{
    args::{Args, Command},
    config::Config,
    run, status,
};

fn main() -> ExitCode {
    let args = Args::parse();
    main_exit("tide-agent", || {
        let config = Config::resolve(args.settings).map_err(|error| {
            let hint = error.hint();
            Failure::usage(error).with_hint(hint)
        })?;
        let log_format = config.log_format;
        Ok((log_format, async move {
            match args.command {
                Some(Command::Status) => status::run(config).await,
                Some(Command::Run) | None => run(config).await,
            }
        }))
    })
}
