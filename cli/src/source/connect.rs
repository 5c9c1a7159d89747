//! Chooses whom to ask: what the operator said, or the control plane if it answers and the
//! database if it does not.

use std::time::Duration;

use futures_util::future::join_all;
use tide_model::GroupName;
use tokio::time::sleep;
use tonic::transport::Uri;

use super::{ControlPlane, Database, Session, Source, rpc::label};
use crate::{
    args::SourceChoice,
    context::{Context, control_plane_address},
    error::CliError,
};

/// A control plane that another source can stand in for must answer within this.
const PROBE: Duration = Duration::from_secs(3);
/// The pause before a source that went away is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Connects to the chosen source. Says so on stderr when it is not the first choice.
pub async fn connect(context: &Context) -> Result<Source, CliError> {
    let (source, note) = choose(context).await?;
    if let Some(note) = note {
        context.screen.say(note);
    }
    Ok(source)
}

/// Connects again after the source went away, as often as it takes. Fails only with what trying
/// again cannot help.
pub async fn reconnect(context: &Context) -> Result<Source, CliError> {
    loop {
        sleep(PAUSE).await;
        match connect(context).await {
            Err(error) if error.is_transient() => {}
            result => return result,
        }
    }
}

/// Asks every control plane that is named, all at once: its address, and the group that it leads, or
/// why it cannot be asked. Fails only if an address is none.
pub async fn ask_each(
    context: &Context,
) -> Result<Vec<(String, Result<GroupName, CliError>)>, CliError> {
    let settings = &context.settings;
    let addresses = settings.control_planes()?;
    let asked = addresses.iter().map(async |address| {
        let answer = async {
            let deadline = settings.timeout.min(PROBE);
            let found = ControlPlane::connect(address, &settings.access, deadline).await?;
            Ok(found.with_deadline(settings.timeout).fleet().await?.group)
        };
        (label(address), answer.await)
    });
    Ok(join_all(asked).await)
}

/// The source, and what the operator should know about the choice.
async fn choose(context: &Context) -> Result<(Source, Option<String>), CliError> {
    let settings = &context.settings;
    match settings.source {
        SourceChoice::Database => Ok((Source::Database(Box::new(database(context).await?)), None)),
        SourceChoice::Auto if settings.knows_database() => {
            match control_plane(context, settings.timeout.min(PROBE)).await {
                Ok(found) => {
                    let found = found.with_deadline(settings.timeout);
                    Ok((Source::ControlPlane(Box::new(found)), None))
                }
                Err(error @ CliError::Unreachable { .. }) => {
                    let database = database(context).await?;
                    let database = database.instead_of("control plane unreachable");
                    Ok((
                        Source::Database(Box::new(database)),
                        Some(format!("{error}; using the database")),
                    ))
                }
                Err(other) => Err(other),
            }
        }
        SourceChoice::Auto | SourceChoice::ControlPlane => {
            let found = control_plane(context, settings.timeout).await?;
            Ok((Source::ControlPlane(Box::new(found)), None))
        }
    }
}

/// The first of the control planes that answers. A standby says which one is active, and its word
/// is taken once: two that name each other must not send us in circles.
async fn control_plane(context: &Context, deadline: Duration) -> Result<ControlPlane, CliError> {
    let mut last = None;
    for address in context.settings.control_planes()? {
        let found = match answering(context, &address, deadline).await {
            Err(error) => match error.leader().and_then(control_plane_address) {
                Some(leader) => answering(context, &leader, deadline).await,
                None => Err(error),
            },
            found => found,
        };
        match found {
            Err(error @ CliError::Unreachable { .. }) => last = Some(error),
            found => return found,
        }
    }
    Err(last.expect("a list is never empty, and each of it was found or failed"))
}

async fn answering(
    context: &Context,
    address: &Uri,
    deadline: Duration,
) -> Result<ControlPlane, CliError> {
    let settings = &context.settings;
    let mut control_plane = ControlPlane::connect(address, &settings.access, deadline).await?;
    control_plane.probe().await?;
    // A control plane serves one group. Draining another group's agent of the same name would be
    // the worst way to find that out.
    if settings.group_given {
        let served = control_plane.fleet().await?.group;
        if served != settings.group {
            return Err(CliError::usage(
                format!(
                    "control plane at {} serves group {served}, not {}",
                    control_plane.label(),
                    settings.group
                ),
                "name its group's control plane with --control-plane, or use --source database",
            ));
        }
    }
    Ok(control_plane)
}

async fn database(context: &Context) -> Result<Database, CliError> {
    let settings = &context.settings;
    let session = Session::open(settings.server()?, settings.timeout).await?;
    Ok(Database::new(session, settings.group.clone()))
}
