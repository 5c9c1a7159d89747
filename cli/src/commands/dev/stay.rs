//! The fleet that stays until somebody ends it: what it is, where everything is, how it does.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use serde::Serialize;
use tide_model::{AgentName, GroupName, fleet::FleetView};
use tide_sandbox::{
    process::ProcessError,
    publisher::{PublishPlan, Publisher},
};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{
    PATIENCE,
    control::{self, Control},
    fleet::Fleet,
    stop::Stop,
    story::Story,
};
use crate::{
    args::DEFAULT_GROUP,
    context::Context,
    output::{
        Style, Tone,
        humanize::{counted, number, seconds},
        views,
    },
};

/// The pause between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// After so many messages publishing ends: what is published stays on the disk, and in the memory
/// of whoever keeps account of it.
const ENOUGH: usize = 1_000_000;

/// Where everything is.
#[derive(Debug, Serialize)]
struct Places<'a> {
    postgres_url: &'a str,
    control_plane: Option<String>,
    /// Metrics, by process.
    metrics: BTreeMap<String, String>,
    /// Process ids.
    processes: BTreeMap<String, u32>,
    kafka: &'a str,
    kafka_is: &'static str,
    webhooks: String,
    files: &'a Path,
    logs: &'a Path,
    seed: u64,
    started_in_seconds: f64,
}

/// What is shown once everything runs.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    #[serde(flatten)]
    places: Places<'a>,
    fleet: views::FleetStatus<'a>,
}

impl Places<'_> {
    fn agents(&self) -> impl Iterator<Item = &String> {
        self.processes
            .keys()
            .filter(|process| *process != control::NAME)
    }
}

/// Publishes, shows the fleet, and stays until it is time to stop.
pub(super) async fn stay(
    context: &Context,
    fleet: &mut Fleet,
    story: &mut Story,
    plan: PublishPlan,
    stop: &mut Stop,
) -> anyhow::Result<()> {
    let pool = sqlx::PgPool::connect(&fleet.surroundings.postgres_url).await?;
    let seed = plan.seed;
    let publisher = Publisher::start(&pool, plan).await?;
    show(context, fleet, story, seed).await?;
    let mut publisher = Some(publisher);
    let watched = async {
        let mut count = 0;
        loop {
            if let Some(steady) = &publisher {
                count = steady.committed();
            }
            if count >= ENOUGH
                && let Some(steady) = publisher.take()
            {
                steady.stop(PATIENCE).await?;
                let enough = number(ENOUGH as u64);
                story.tell(format_args!(
                    "{enough} messages are enough: publishing has ended"
                ));
            }
            let control = fleet.control.as_mut().and_then(Control::fallen);
            for fallen in fleet.agents.fallen().into_iter().chain(control) {
                story.tell(obituary(&fallen));
            }
            // The user may do to the database what he likes; looking again is all that we do.
            match fleet.view().await {
                Ok(view) => {
                    let now = FleetView::build(&view, &BTreeMap::new(), view.taken_at);
                    story.meanwhile(line(count, &now));
                }
                Err(error) => story.meanwhile(format_args!("{error:#}")),
            }
            sleep(LOOK).await;
        }
    };
    let watched: Option<anyhow::Result<()>> = stop.unless(watched).await;
    tell_fallen(fleet, story);
    story.tell("stopping");
    watched.transpose()?;
    if let Some(steady) = publisher {
        // What it committed is nobody's business here; a server that is gone is no failure.
        drop(steady.stop(PATIENCE).await);
    }
    pool.close().await;
    Ok(())
}

async fn show(
    context: &Context,
    fleet: &mut Fleet,
    story: &Story,
    seed: u64,
) -> anyhow::Result<()> {
    let view = fleet.view().await?;
    let mut source = fleet.source().await?;
    let now = source.fleet().await?;
    let agents: BTreeMap<AgentName, u32> = fleet.agents.running();
    let control = fleet.control.as_ref();
    let name = |agent: &AgentName| agent.as_str().to_owned();
    let metrics = view.agents.iter().filter_map(|agent| {
        Some((
            name(&agent.name),
            format!("http://{}/metrics", agent.metrics_addr.as_deref()?),
        ))
    });
    let control_metrics = control.map(|control| (control::NAME.to_owned(), control.metrics_url()));
    let processes = agents.iter().map(|(agent, pid)| (name(agent), *pid));
    let control_process = control.map(|control| (control::NAME.to_owned(), control.pid()));
    let surroundings = &fleet.surroundings;
    let ready = Ready {
        places: Places {
            postgres_url: &surroundings.postgres_url,
            control_plane: control.map(Control::url),
            metrics: metrics.chain(control_metrics).collect(),
            processes: processes.chain(control_process).collect(),
            kafka: surroundings.kafka.bootstrap(),
            kafka_is: surroundings.kafka.kind(),
            webhooks: surroundings.receiver.url(""),
            files: &surroundings.sinks,
            logs: surroundings.scratch.path(),
            seed,
            started_in_seconds: story.elapsed().as_secs_f64(),
        },
        fleet: views::FleetStatus::new(source.kind(), &now),
    };
    let label = source.label();
    context
        .screen
        .show(&ready, |style| text(style, &ready, &label))?;
    Ok(())
}

fn text(style: Style, ready: &Ready<'_>, label: &str) -> String {
    let mut text = views::fleet(style, &ready.fleet, label, OffsetDateTime::now_utc());
    text.push('\n');
    let places = &ready.places;
    let mut line = |what: &str, place: &str| {
        let _ = writeln!(
            text,
            "{}  {place}",
            style.paint(Tone::Strong, &format!("{what:13}"))
        );
    };
    line("PostgreSQL", places.postgres_url);
    line(
        "control plane",
        places.control_plane.as_deref().unwrap_or("-"),
    );
    for (process, url) in &places.metrics {
        let pid = places
            .processes
            .get(process)
            .map(|pid| format!("   (process {pid})"));
        line(process, &format!("{url}{}", pid.unwrap_or_default()));
    }
    line("Kafka", &format!("{} ({})", places.kafka, places.kafka_is));
    line("webhooks", &places.webhooks);
    line("files", &places.files.display().to_string());
    line("logs", &places.logs.display().to_string());
    text.push_str(&commands(places, &ready.fleet.fleet.group));
    text
}

/// What to try, ready to be copied.
fn commands(places: &Places<'_>, group: &GroupName) -> String {
    let url = places.postgres_url;
    let in_group = match group.as_str() {
        DEFAULT_GROUP => String::new(),
        other => format!(" --relay-group-id {other}"),
    };
    let source = match &places.control_plane {
        Some(control_plane) => format!("--control-plane {control_plane}{in_group}"),
        None => format!("--source database --postgres-url {url}{in_group}"),
    };
    let mut commands = vec![format!("tidectl {source} fleet status --watch")];
    let agents: Vec<&String> = places.agents().collect();
    if let [_, .., last] = &*agents {
        commands.push(format!(
            "tidectl {source} drain {last} --reason 'having a look'"
        ));
        commands.push(format!("tidectl {source} undrain {last}"));
    }
    commands.push(format!("tidectl --postgres-url {url}{in_group} status"));
    commands.push(format!(
        "psql {url} -c \"SELECT * FROM tide.relay_status('{group}')\""
    ));
    if let Some((agent, pid)) = agents
        .first()
        .and_then(|agent| places.processes.get_key_value(*agent))
    {
        commands.push(format!("kill -9 {pid}    # {agent}"));
    }
    let mut text = String::from("\nTry, in another terminal:\n");
    for command in commands {
        let _ = writeln!(text, "  {command}");
    }
    text.push_str("\nCtrl-C ends it and removes everything.\n");
    text
}

fn tell_fallen(fleet: &mut Fleet, story: &mut Story) {
    let control = fleet.control.as_mut().and_then(Control::fallen);
    for fallen in fleet.agents.fallen().into_iter().chain(control) {
        story.tell(obituary(&fallen));
    }
}

/// Without the last words, which are in the log for whoever wants them.
fn obituary(fallen: &ProcessError) -> String {
    match fallen {
        ProcessError::Ended { name, status, .. } => format!("{name} has ended: {status}"),
        other => other.to_string(),
    }
}

fn line(published: usize, fleet: &FleetView) -> String {
    let (p95, worst) = fleet.lag();
    let alive = fleet
        .agents
        .iter()
        .filter(|agent| agent.pipelines > 0)
        .count();
    let warnings = match fleet.warnings.first() {
        None => String::new(),
        Some(first) => format!("   ! {first}"),
    };
    format!(
        "published {}   {} at work   lag p95 {}, max {}{warnings}",
        number(published as u64),
        counted(alive, "agent"),
        seconds(p95),
        seconds(worst),
    )
}
