//! What agents report.

use tide_model::{
    Epoch, PipelineState, UnitName,
    report::{
        AgentIdentity, LagReport, OwnershipDigest, PipelineReport, PipelineReports, ReportMessage,
    },
};

use super::{InvalidField, non_empty, parse, time};
use crate::{agent::v1 as wire, pipeline::v1::PipelineState as WireState};

impl From<PipelineState> for WireState {
    fn from(state: PipelineState) -> Self {
        match state {
            PipelineState::Starting => Self::Starting,
            PipelineState::Running => Self::Running,
            PipelineState::Retrying => Self::Retrying,
            PipelineState::Paused => Self::Paused,
            PipelineState::Misconfigured => Self::Misconfigured,
            PipelineState::Stopped => Self::Stopped,
        }
    }
}

/// The state behind a wire number; none for unspecified.
pub(super) fn state(
    path: &'static str,
    number: i32,
) -> Result<Option<PipelineState>, InvalidField> {
    let state = WireState::try_from(number).map_err(|error| InvalidField::invalid(path, error))?;
    Ok(match state {
        WireState::Unspecified => None,
        WireState::Starting => Some(PipelineState::Starting),
        WireState::Running => Some(PipelineState::Running),
        WireState::Retrying => Some(PipelineState::Retrying),
        WireState::Paused => Some(PipelineState::Paused),
        WireState::Misconfigured => Some(PipelineState::Misconfigured),
        WireState::Stopped => Some(PipelineState::Stopped),
    })
}

/// Who speaks on a stream.
pub fn identity(hello: &wire::Hello) -> Result<AgentIdentity, InvalidField> {
    Ok(AgentIdentity {
        group: parse("hello.group", &hello.group)?,
        name: parse("hello.name", &hello.name)?,
        incarnation: parse("hello.incarnation", &hello.incarnation)?,
        version: hello.version.clone(),
    })
}

impl From<&AgentIdentity> for wire::Hello {
    fn from(identity: &AgentIdentity) -> Self {
        Self {
            group: identity.group.to_string(),
            name: identity.name.to_string(),
            incarnation: identity.incarnation.to_string(),
            version: identity.version.clone(),
            ownership_digest: None,
        }
    }
}

fn pipeline_to_wire((name, report): (&UnitName, &PipelineReport)) -> wire::PipelineReport {
    wire::PipelineReport {
        name: name.to_string(),
        epoch: report.epoch.0,
        state: WireState::from(report.state).into(),
        reason: report.reason.clone().unwrap_or_default(),
        last_change_id: report.last_change_id,
        lag_rows: report.lag_rows,
        lag: Some(time::duration_seconds(report.lag_seconds)),
    }
}

fn pipeline_from_wire(
    report: wire::PipelineReport,
) -> Result<(UnitName, PipelineReport), InvalidField> {
    let name = parse("pipeline.name", &report.name)?;
    let state = state("pipeline.state", report.state)?
        .ok_or_else(|| InvalidField::missing("pipeline.state"))?;
    Ok((
        name,
        PipelineReport {
            epoch: Epoch(report.epoch),
            state,
            reason: non_empty(report.reason),
            last_change_id: report.last_change_id,
            lag_rows: report.lag_rows,
            lag_seconds: time::seconds(report.lag),
        },
    ))
}

fn pipelines_from_wire(
    reports: Vec<wire::PipelineReport>,
) -> Result<PipelineReports, InvalidField> {
    reports.into_iter().map(pipeline_from_wire).collect()
}

fn lag_to_wire((name, lag): (&UnitName, &LagReport)) -> wire::PipelineLag {
    let behind = lag.lag_seconds > 0.0;
    wire::PipelineLag {
        name: name.to_string(),
        last_change_id: lag.last_change_id,
        lag_rows: lag.lag_rows,
        lag: behind.then(|| time::duration_seconds(lag.lag_seconds)),
    }
}

fn lag_from_wire(lag: &wire::PipelineLag) -> Result<(UnitName, LagReport), InvalidField> {
    let report = LagReport {
        last_change_id: lag.last_change_id,
        lag_rows: lag.lag_rows,
        lag_seconds: time::seconds(lag.lag),
    };
    Ok((parse("lag.name", &lag.name)?, report))
}

impl From<&ReportMessage> for wire::report_request::Message {
    fn from(message: &ReportMessage) -> Self {
        match message {
            ReportMessage::Snapshot(pipelines) => Self::Snapshot(wire::Snapshot {
                pipelines: pipelines.iter().map(pipeline_to_wire).collect(),
            }),
            ReportMessage::SnapshotChunk(pipelines) => Self::SnapshotChunk(wire::SnapshotChunk {
                pipelines: pipelines.iter().map(pipeline_to_wire).collect(),
            }),
            ReportMessage::SnapshotEnd { count, digest } => Self::SnapshotEnd(wire::SnapshotEnd {
                count: *count,
                ownership_digest: digest.0,
            }),
            ReportMessage::Lag(lags) => Self::Lag(wire::Lag {
                pipelines: lags.iter().map(lag_to_wire).collect(),
            }),
            ReportMessage::Delta { changed, removed } => Self::Delta(wire::Delta {
                changed: changed.iter().map(pipeline_to_wire).collect(),
                removed: removed.iter().map(ToString::to_string).collect(),
            }),
            ReportMessage::Heartbeat { digest } => Self::Heartbeat(wire::Heartbeat {
                ownership_digest: digest.map(|digest| digest.0),
            }),
            ReportMessage::Goodbye => Self::Goodbye(wire::Goodbye {}),
        }
    }
}

impl TryFrom<wire::report_request::Message> for ReportMessage {
    type Error = InvalidField;

    fn try_from(message: wire::report_request::Message) -> Result<Self, InvalidField> {
        use wire::report_request::Message;
        Ok(match message {
            Message::Hello(_) => return Err(InvalidField::invalid("message", "a second hello")),
            Message::Snapshot(snapshot) => Self::Snapshot(pipelines_from_wire(snapshot.pipelines)?),
            Message::SnapshotChunk(chunk) => {
                Self::SnapshotChunk(pipelines_from_wire(chunk.pipelines)?)
            }
            Message::SnapshotEnd(end) => Self::SnapshotEnd {
                count: end.count,
                digest: OwnershipDigest(end.ownership_digest),
            },
            Message::Lag(lag) => Self::Lag(
                lag.pipelines
                    .iter()
                    .map(lag_from_wire)
                    .collect::<Result<_, _>>()?,
            ),
            Message::Delta(delta) => Self::Delta {
                changed: pipelines_from_wire(delta.changed)?,
                removed: delta
                    .removed
                    .iter()
                    .map(|name| parse("delta.removed", name))
                    .collect::<Result<_, _>>()?,
            },
            Message::Heartbeat(heartbeat) => Self::Heartbeat {
                digest: heartbeat.ownership_digest.map(OwnershipDigest),
            },
            Message::Goodbye(_) => Self::Goodbye,
        })
    }
}
