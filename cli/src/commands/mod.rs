//! What each command does. One module a verb family; each parses nothing and decides nothing that
//! the model or the catalog could decide.

mod agent;
mod bundle;
mod catalog;
mod context;
pub(crate) mod dev;
mod dlq;
mod doctor;
mod drain;
mod events;
mod explain;
mod fleet;
mod hold;
mod inbox;
mod locks;
mod migrate;
mod moves;
mod operation;
mod outbox;
mod pipeline;
mod rebalance;
mod selected;
mod status;
mod wait;

use std::{fs, path::Path};

use clap::CommandFactory as _;
use serde_json::json;

use crate::{
    args::{Cli, Command},
    context::Context,
    error::CliError,
    exit::Exit,
};

/// Runs one command.
pub(crate) async fn run(context: &Context, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Migrate(args) => migrate::run(context, &args).await,
        Command::Outbox(command) => outbox::run(context, command).await,
        Command::Inbox(command) => inbox::run(context, command).await,
        Command::Pipeline(command) => pipeline::run(context, command).await,
        Command::Dlq(command) => dlq::run(context, command).await,
        Command::Fleet(command) => fleet::run(context, &command).await,
        Command::Agent(command) => agent::run(context, command).await,
        Command::Drain(args) => drain::drain(context, args).await,
        Command::Undrain(args) => drain::undrain(context, args).await,
        Command::Cordon(args) => hold::cordon(context, args).await,
        Command::Uncordon(args) => hold::uncordon(context, args).await,
        Command::Wait(args) => wait::run(context, args).await,
        Command::Hold(command) => hold::run(context, command).await,
        Command::Rebalance(command) => rebalance::run(context, command).await,
        Command::Move(args) => moves::run(context, args).await,
        Command::Operation(command) => operation::run(context, command).await,
        Command::Status(args) => status::run(context, &args).await,
        Command::Doctor(args) => doctor::run(context, &args).await,
        Command::Locks(command) => locks::run(context, command).await,
        Command::Explain(args) => explain::run(context, &args).await,
        Command::Events(args) => events::run(context, args).await,
        Command::Bundle(command) => bundle::run(context, command).await,
        Command::Context(command) => self::context::run(context, command),
        Command::Dev(args) => Box::pin(dev::run(context, &args)).await,
        Command::DevBroker(args) => dev::run_broker(&args).await,
        Command::Completion { shell } => completion(context, shell),
        Command::Man { directory } => man(context, directory.as_deref()),
        Command::Version => version(context),
    }
}

fn completion(context: &Context, shell: clap_complete::Shell) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidectl", &mut script);
    context.screen.raw(&script)?;
    Ok(Exit::Done)
}

fn man(context: &Context, directory: Option<&Path>) -> Result<Exit, CliError> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(|error| CliError::io("write the manual page", error))?;
        context.screen.raw(&page)?;
        return Ok(Exit::Done);
    };
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .map_err(|error| {
            let doing = format!("write the manual pages to {}", directory.display());
            CliError::io(doing, error)
        })?;
    Ok(Exit::Done)
}

fn version(context: &Context) -> Result<Exit, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    let catalog_version = tide_catalog::schema::version();
    let data = json!({"version": version, "catalog_version": catalog_version});
    context.screen.show(&data, |_| {
        format!("tidectl {version} (catalog version {catalog_version})")
    })?;
    Ok(Exit::Done)
}
