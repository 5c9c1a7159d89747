//! Who owns what and whether it progresses, straight from PostgreSQL. Needs no control plane and
//! no agent to answer.

mod trend;

use serde::Serialize;
use tide_model::fleet::{FleetView, Hold, PipelineView};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use self::trend::Trend;
use crate::{
    args::StatusArgs,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{
        Cell, Style, Table, Tone,
        humanize::{age, counted, number, seconds},
        views,
    },
    source::{Database, Session},
};

/// The group's pipelines, as printed.
#[derive(Debug, Serialize)]
struct Status {
    group: String,
    /// Host, port and name.
    database: String,
    #[serde(with = "time::serde::rfc3339")]
    database_at: OffsetDateTime,
    healthy: bool,
    pipelines: Vec<Line>,
    /// What operators keep from working, so that nobody forgets it.
    holds: Vec<Hold>,
    warnings: Vec<String>,
}

/// One pipeline.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    pipeline: PipelineView,
    /// Messages behind per second: negative is catching up. None if nobody looked twice.
    lag_rows_per_second: Option<f64>,
    /// Owned, with messages that wait, and none of them delivered between two looks.
    stalled: bool,
}

pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<Exit, CliError> {
    let settings = &context.settings;
    let session = Session::open(settings.server()?, settings.timeout).await?;
    let label = session.label();
    let mut database = Database::new(session, settings.group.clone());
    let started = Instant::now();
    let first = database.fleet().await?;
    // One look tells where everything is. Whether it moves takes a second one, if anything waits.
    let waiting = first.pipelines.iter().any(|p| p.enabled && p.lag_rows > 0);
    let second = if waiting && !args.interval.is_zero() {
        sleep_until(started + args.interval).await;
        Some(database.fleet().await?)
    } else {
        None
    };
    let holds = database.holds().await?;
    let status = match &second {
        Some(second) => Status::new(label, second, Some(&first), holds),
        None => Status::new(label, &first, None, holds),
    };
    context.screen.show(&status, |style| text(style, &status))?;
    Ok(if status.healthy {
        Exit::Done
    } else {
        Exit::Pending
    })
}

impl Status {
    fn new(
        database: String,
        now: &FleetView,
        before: Option<&FleetView>,
        holds: Vec<Hold>,
    ) -> Self {
        let lines: Vec<Line> = now
            .pipelines
            .iter()
            .map(|pipeline| Line::new(pipeline, now, before))
            .collect();
        let stalled = lines.iter().filter(|line| line.stalled);
        let mut warnings = now.warnings.clone();
        warnings.extend(stalled.map(|line| {
            let pipeline = &line.pipeline;
            format!(
                "{} ({}) is owned but not progressing: {} waiting, the oldest for {}",
                pipeline.name,
                views::owner(pipeline),
                counted(pipeline.lag_rows.max(0) as usize, "message"),
                seconds(pipeline.lag_seconds)
            )
        }));
        Self {
            group: now.group.to_string(),
            database,
            database_at: now.database_at,
            healthy: warnings.is_empty(),
            pipelines: lines,
            holds,
            warnings,
        }
    }
}

impl Line {
    fn new(pipeline: &PipelineView, now: &FleetView, before: Option<&FleetView>) -> Self {
        let trend = before.and_then(|before| {
            let earlier = before
                .pipelines
                .iter()
                .find(|other| other.name == pipeline.name)?;
            Some(Trend::between(
                earlier,
                pipeline,
                now.database_at - before.database_at,
            ))
        });
        Self {
            pipeline: pipeline.clone(),
            lag_rows_per_second: trend.map(Trend::lag_rows_per_second),
            stalled: trend.is_some_and(Trend::is_stalled),
        }
    }

    /// `1,204`, or `1,204 -310/s` on the way down.
    fn lag(&self) -> String {
        let rows = number(self.pipeline.lag_rows.max(0) as u64);
        let rate = self
            .lag_rows_per_second
            .filter(|_| self.pipeline.lag_rows > 0);
        match rate.map(f64::round) {
            Some(rate) if rate >= 1.0 => format!("{rows} +{}/s", number(rate as u64)),
            Some(rate) if rate <= -1.0 => format!("{rows} -{}/s", number(-rate as u64)),
            _ => rows,
        }
    }
}

fn text(style: Style, status: &Status) -> String {
    let mut heading = vec![
        "PIPELINE", "OWNER", "EPOCH", "LAST ID", "ROWS", "LAG", "STATE", "REASON",
    ];
    if style.is_wide() {
        heading.extend(["SINCE", "OUTBOX", "SINK", "PID"]);
    }
    let mut table = Table::new(style, &heading).with_words_in("REASON");
    for line in &status.pipelines {
        let pipeline = &line.pipeline;
        let state = if line.stalled {
            Cell::toned("stalled", Tone::Bad)
        } else {
            Cell::toned(pipeline.state.as_str(), views::tone(&pipeline.state))
        };
        let mut row = vec![
            Cell::from(pipeline.name.as_str()),
            Cell::from(views::owner(pipeline)),
            Cell::or_dash(pipeline.epoch),
            Cell::from(pipeline.last_change_id.to_string()),
            Cell::from(line.lag()),
            Cell::from(seconds(pipeline.lag_seconds)),
            state,
            Cell::or_dash(pipeline.reason.as_deref()),
        ];
        if style.is_wide() {
            let since = pipeline.since.map(|since| age(since, status.database_at));
            row.extend([
                Cell::or_dash(since),
                Cell::from(pipeline.outbox.as_str()),
                Cell::from(pipeline.sink.as_str()),
                Cell::or_dash(pipeline.backend_pid),
            ]);
        }
        table.row(row);
    }
    let mut text = if status.pipelines.is_empty() {
        String::new()
    } else {
        table.print() + "\n"
    };
    if !status.holds.is_empty() {
        text.push_str(&views::holds(style, &status.holds, status.database_at));
        text.push('\n');
    }
    text.push_str(&views::warnings(style, &status.warnings));
    if !status.warnings.is_empty() {
        text.push('\n');
    }
    let verdict = if status.healthy {
        style.paint(Tone::Good, "HEALTHY")
    } else {
        style.paint(Tone::Bad, "DEGRADED")
    };
    text + &format!(
        "{verdict}  group {}  {}  source database {}\n",
        status.group,
        counted(status.pipelines.len(), "pipeline"),
        status.database
    )
}

#[cfg(test)]
mod tests;
