//! Whether to even out the load now, with nobody asking: only if it is uneven by enough, a plan takes
//! enough of that away, nothing has moved for long enough, and moving would not make something worse.
//! Pure.
//!
//! Load never stands still, so a decision must not follow it: what is decided costs a cooldown, and the
//! last move that begins it is read from the catalog, where a restart forgets nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::RebalancePlan;
use crate::{OperationId, PlanId, UnitName, operation::OperationKind};

/// A plan must take this part of the mean off the fullest agent; less is not worth a hand-over.
const WORTH: f64 = 0.1;

/// What a control plane does about an uneven load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: somebody asks for a plan.
    #[default]
    Off,
    /// It makes a plan, keeps it and says so.
    Suggest,
    /// It applies its plan.
    Auto,
}

/// When it does so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Whether, and how much of it.
    pub mode: Mode,
    /// How many times the mean the fullest agent must have.
    pub threshold: f64,
    /// How long anybody's last move or rebalance must be over; also the pause between two suggestions.
    pub cooldown: Duration,
    /// How far the worst pipeline may be behind.
    pub max_lag: Duration,
}

/// Somebody wants nothing to be evened out by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who.
    pub actor: String,
    /// What for.
    pub reason: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Until when; without end if none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

/// The newest move or rebalance that anybody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMove {
    /// The operation.
    pub operation: OperationId,
    /// A move or a rebalance.
    pub kind: OperationKind,
    /// Who asked.
    pub actor: String,
    /// When it ended, or was asked for if it has not.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// The newest plan that a control plane brought up by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suggested {
    /// The plan.
    pub plan: PlanId,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// What the catalog says about evening out the load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// Who wants it to be left alone, oldest first; none whose time is over.
    pub pauses: Vec<Pause>,
    /// The oldest operation that has not ended.
    pub running: Option<OperationId>,
    /// What moved last.
    pub last: Option<LastMove>,
    /// What was suggested last, if that is still kept.
    pub suggested: Option<Suggested>,
}

/// What the decision is made by, besides the plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Situation {
    /// What the catalog says.
    pub activity: Activity,
    /// Whether too few agents have reported yet.
    pub warming: bool,
    /// How many pipelines agents are bringing elsewhere anyway, as after one came or went.
    pub moving: usize,
    /// The pipeline that is furthest behind although it may deliver, and by how much.
    pub worst: Option<(UnitName, Duration)>,
}

/// How it stands, for whoever asks.
#[derive(Debug, Clone, PartialEq)]
pub struct RebalanceStatus {
    /// When the control plane acts by itself; none if no control plane was asked.
    pub terms: Option<Terms>,
    /// What it would do now, in words; none if no control plane was asked.
    pub decision: Option<String>,
    /// How many times the mean the fullest agent has by measured load, and would have after a plan.
    pub imbalance: (f64, f64),
    /// What the catalog says.
    pub activity: Activity,
}

impl Pause {
    /// Whether it is in force.
    pub fn is_on(&self, now: OffsetDateTime) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nobody wants it.
    Off,
    /// An operator wants it left alone for a while.
    Paused(Pause),
    /// Too little is known.
    Warming,
    /// So many pipelines are on their way to where agents agree that they belong.
    Moving(usize),
    /// No move would even anything out.
    Balanced,
    /// The fullest agent has so many times the mean, which is bearable.
    Bearable(f64),
    /// It has so many times the mean, and would have hardly fewer.
    NotWorthIt(f64, f64),
    /// An operation must end first.
    Running(OperationId),
    /// Something moved a while ago, and is to be left alone until then.
    CoolingDown(OffsetDateTime),
    /// A plan was suggested a while ago, and the next one is not to come before then.
    Suggested(PlanId, OffsetDateTime),
    /// A pipeline is behind by so much: moving it would make that worse.
    Lagging(UnitName, Duration),
    /// The fullest agent has so many times the mean, and would have so many.
    Act(f64, f64),
}

/// Decides.
pub fn decide(
    terms: &Terms,
    plan: &RebalancePlan,
    situation: &Situation,
    now: OffsetDateTime,
) -> Decision {
    let (before, after) = plan.imbalance();
    let activity = &situation.activity;
    // The one that lasts longest says most.
    let in_force = activity.pauses.iter().filter(|pause| pause.is_on(now));
    let paused = in_force.max_by_key(|pause| (pause.until.is_none(), pause.until));
    let ahead = |moment: OffsetDateTime| Some(moment + terms.cooldown).filter(|end| *end > now);
    let cooling = activity.last.as_ref().and_then(|last| ahead(last.at));
    let suggested = activity.suggested.filter(|_| terms.mode == Mode::Suggest);
    let suggested = suggested.and_then(|it| ahead(it.at).map(|until| (it.plan, until)));
    let lagging = situation.worst.as_ref();
    let lagging = lagging.filter(|(_, lag)| *lag > terms.max_lag);
    if terms.mode == Mode::Off {
        Decision::Off
    } else if let Some(pause) = paused {
        Decision::Paused(pause.clone())
    } else if situation.warming {
        Decision::Warming
    // An agent that has just come back has nothing yet: that is no imbalance, and passes by itself.
    } else if situation.moving > 0 {
        Decision::Moving(situation.moving)
    } else if plan.moves.is_empty() {
        Decision::Balanced
    } else if before < terms.threshold {
        Decision::Bearable(before)
    // A giant on an agent of its own stays the fullest: what no move mends is no reason to act.
    } else if before - after < WORTH {
        Decision::NotWorthIt(before, after)
    } else if let Some(operation) = activity.running {
        Decision::Running(operation)
    } else if let Some(until) = cooling {
        Decision::CoolingDown(until)
    } else if let Some((plan, until)) = suggested {
        Decision::Suggested(plan, until)
    } else if let Some((unit, lag)) = lagging {
        Decision::Lagging(unit.clone(), *lag)
    } else {
        Decision::Act(before, after)
    }
}

impl Mode {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Suggest => "suggest",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused by {}", self.actor)?;
        if let Some(until) = self.until {
            write!(f, " until {}", moment(until))?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off: it is evened out when somebody asks for it"),
            Self::Paused(pause) => write!(f, "{pause}"),
            Self::Warming => f.write_str("warming up: too few agents have reported yet"),
            Self::Moving(pipelines) => {
                write!(
                    f,
                    "waits: agents are moving pipelines by themselves ({pipelines} to go)"
                )
            }
            Self::Balanced => f.write_str("balanced: no move would even out the load"),
            Self::Bearable(times) => {
                write!(
                    f,
                    "bearable: the fullest agent has {times:.2} times the mean"
                )
            }
            Self::NotWorthIt(before, after) => write!(
                f,
                "not worth a move: the fullest agent has {before:.2} times the mean, and would have {after:.2}"
            ),
            Self::Running(operation) => write!(f, "waits for operation {operation} to end"),
            Self::CoolingDown(until) => write!(f, "cooling down until {}", moment(*until)),
            Self::Suggested(plan, until) => {
                write!(
                    f,
                    "suggested plan {plan}; the next one from {} on",
                    moment(*until)
                )
            }
            Self::Lagging(unit, lag) => {
                let seconds = lag.as_seconds_f64();
                write!(f, "waits: {unit} is {seconds:.0}s behind")
            }
            Self::Act(before, after) => write!(
                f,
                "uneven: the fullest agent has {before:.2} times the mean, and would have {after:.2}"
            ),
        }
    }
}

fn moment(moment: OffsetDateTime) -> String {
    let seconds = moment.replace_nanosecond(0).unwrap_or(moment);
    seconds.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
