//! Measures how long a pipeline stands still when it changes hands, on the database's clock.

use std::time::Duration;

use sqlx::{FromRow, PgConnection};
use tide_model::{AgentName, Epoch, GroupName, HandoverKind, UnitName};

use crate::{CatalogError, error::Doing, fleet::parse};

/// An owner's goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// What it gives away.
    pub pipeline: UnitName,
    /// Why; none where nobody is to take over, which is no hand-over.
    pub kind: Option<HandoverKind>,
    /// Who is to take it, and hears of it at once.
    pub to: Option<AgentName>,
    /// How long ago the owner fell silent.
    pub quiet: Duration,
}

/// A new owner that can deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// What it owns.
    pub pipeline: UnitName,
    /// Under which epoch.
    pub epoch: Epoch,
    /// How long ago it was ready.
    pub ready: Duration,
}

/// A pipeline that changed hands.
#[derive(Debug, Clone, PartialEq)]
pub struct Handover {
    /// The pipeline.
    pub pipeline: UnitName,
    /// Why.
    pub kind: HandoverKind,
    /// Who had it before.
    pub from: String,
    /// From the former owner's silence to the new one's readiness. Of a crash: from its last sign
    /// of life in the database, which is an upper bound.
    pub gap: Duration,
}

/// Compares the readiness of new owners with the silence of the former ones, records it, and
/// returns what was a hand-over: a pipeline that is new, or was at rest, is none.
pub async fn handover_ready(
    connection: &mut PgConnection,
    group: &GroupName,
    agent: &AgentName,
    arrivals: &[Arrival],
) -> Result<Vec<Handover>, CatalogError> {
    let names: Vec<&str> = arrivals.iter().map(|a| a.pipeline.as_str()).collect();
    let epochs: Vec<i64> = arrivals.iter().map(|a| a.epoch.0).collect();
    let ready: Vec<f64> = arrivals.iter().map(|a| milliseconds(a.ready)).collect();
    let rows: Vec<HandoverRow> = sqlx::query_as(
        "-- handover_ready\n\
         SELECT pipeline, kind, former, gap_seconds FROM tide.relay_ready($1, $2, $3, $4, $5)",
    )
    .bind(group.as_str())
    .bind(agent.as_str())
    .bind(names)
    .bind(epochs)
    .bind(ready)
    .fetch_all(connection)
    .await
    .doing("recording hand-overs")?;
    rows.into_iter().map(TryInto::try_into).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[derive(FromRow)]
struct HandoverRow {
    pipeline: String,
    kind: String,
    former: Option<String>,
    gap_seconds: f64,
}

impl TryFrom<HandoverRow> for Handover {
    type Error = CatalogError;

    fn try_from(row: HandoverRow) -> Result<Self, CatalogError> {
        const TABLE: &str = "relay_consumer_offsets";
        Ok(Self {
            pipeline: parse(TABLE, "name", &row.pipeline)?,
            kind: parse(TABLE, "left_kind", &row.kind)?,
            from: row.former.unwrap_or_default(),
            gap: Duration::try_from_secs_f64(row.gap_seconds).unwrap_or_default(),
        })
    }
}
