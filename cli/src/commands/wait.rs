//! Waits until an agent or a pipeline is as it should be. What is waited for is seen, not told: an
//! agent is drained when that is recorded, and not when somebody has asked for it.

use std::time::Duration;

use serde_json::json;
use tide_model::{
    AgentName,
    fleet::{AgentState, AgentView, PipelineView},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    args::{WaitForArgs, WaitSubject, duration},
    context::Context,
    error::CliError,
    exit::Exit,
    output::humanize,
    source::{self, Source},
};

/// How often is looked.
const POLL: Duration = Duration::from_millis(250);
/// Farther away than anybody waits, and still a moment that can be computed with.
const NEVER: Duration = Duration::from_hours(24 * 365);

pub(super) async fn run(context: &Context, args: WaitForArgs) -> Result<Exit, CliError> {
    let condition = Condition::parse(&args.subject, &args.condition)?;
    let started = Instant::now();
    let mut seen = None;
    let waited = async {
        let mut source = source::connect(context).await?;
        loop {
            match look(&mut source, &args.subject, &condition).await {
                Ok((true, now)) => return Ok(now),
                Ok((false, now)) => seen = Some(now),
                Err(error) if error.is_transient() => source = source::reconnect(context).await?,
                Err(error) => return Err(error),
            }
            sleep(POLL).await;
        }
    };
    let (met, now) = match timeout_at(started + args.limit.unwrap_or(NEVER), waited).await {
        Ok(now) => (true, now?),
        Err(_) => (false, seen.ok_or(CliError::Unseen)?),
    };
    let name = match &args.subject {
        WaitSubject::Agent(name) => name.to_string(),
        WaitSubject::Pipeline(name) => name.to_string(),
    };
    let data = json!({"name": name, "condition": args.condition, "met": met, "seen": now});
    context.screen.show(&data, |_| {
        if met {
            format!("{name} is {now}")
        } else {
            let waited = humanize::duration(started.elapsed());
            format!(
                "{name} is not {} after {waited}: it is {now}",
                args.condition
            )
        }
    })?;
    Ok(if met { Exit::Done } else { Exit::TimedOut })
}

/// Whether it is so, and how it is.
async fn look(
    source: &mut Source,
    subject: &WaitSubject,
    condition: &Condition,
) -> Result<(bool, String), CliError> {
    match subject {
        WaitSubject::Agent(name) => {
            let agents = source.agents().await?;
            match agents.iter().find(|agent| agent.name == *name) {
                Some(agent) => Ok((condition.met_by_agent(agent), told(agent))),
                // An agent that was removed is as gone as can be.
                None if *condition == Condition::Gone => Ok((true, "gone".to_owned())),
                None => {
                    let known: Vec<&str> = agents.iter().map(|it| it.name.as_str()).collect();
                    let advice = "there is no agent yet; start tide-agent";
                    Err(CliError::unknown("agent", name.as_str(), &known, advice))
                }
            }
        }
        WaitSubject::Pipeline(name) => {
            let pipeline = source.pipeline(name).await?;
            let owner = pipeline.owner.as_ref().map_or("-", AgentName::as_str);
            let lag = humanize::seconds(pipeline.lag_seconds);
            let now = format!("{} on {owner}, lag {lag}", pipeline.state);
            Ok((condition.met_by_pipeline(&pipeline), now))
        }
    }
}

fn told(agent: &AgentView) -> String {
    let pipelines = humanize::counted(agent.pipelines as usize, "pipeline");
    let safe = if agent.is_safe_to_stop() {
        ", safe to stop"
    } else {
        ""
    };
    format!("{} with {pipelines}{safe}", agent.state.as_str())
}

/// What is to be.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Active,
    Cordoned,
    Drained,
    Empty,
    Gone,
    Running,
    Paused,
    Owned,
    Owner(AgentName),
    LagBelow(Duration),
}

impl Condition {
    fn parse(subject: &WaitSubject, text: &str) -> Result<Self, CliError> {
        let known = match subject {
            WaitSubject::Agent(_) => match text {
                "active" => Some(Self::Active),
                "cordoned" => Some(Self::Cordoned),
                "drained" => Some(Self::Drained),
                "empty" => Some(Self::Empty),
                "gone" => Some(Self::Gone),
                _ => None,
            },
            WaitSubject::Pipeline(_) => match text {
                "running" => Some(Self::Running),
                "paused" => Some(Self::Paused),
                "owned" => Some(Self::Owned),
                _ => text
                    .strip_prefix("owner=")
                    .and_then(|name| name.parse().ok())
                    .map(Self::Owner)
                    .or_else(|| {
                        let limit = text.strip_prefix("lag<")?;
                        duration::parse_positive(limit).ok().map(Self::LagBelow)
                    }),
            },
        };
        known.ok_or_else(|| {
            let hint = match subject {
                WaitSubject::Agent(_) => "of an agent: active, cordoned, drained, empty or gone",
                WaitSubject::Pipeline(_) => {
                    "of a pipeline: running, paused, owned, owner=AGENT or lag<DURATION such as lag<5s"
                }
            };
            CliError::Usage {
                message: format!("cannot wait for {text:?}"),
                hint: hint.to_owned(),
            }
        })
    }

    fn met_by_agent(&self, agent: &AgentView) -> bool {
        match self {
            Self::Active => agent.state == AgentState::Active,
            Self::Cordoned => agent.state == AgentState::Cordoned,
            // The recorded fact, and what is seen now does not speak against it.
            Self::Drained => agent.is_safe_to_stop() && agent.pipelines == 0,
            Self::Empty => agent.pipelines == 0,
            Self::Gone => agent.running().is_none() && agent.pipelines == 0,
            Self::Running | Self::Paused | Self::Owned | Self::Owner(_) | Self::LagBelow(_) => {
                false
            }
        }
    }

    fn met_by_pipeline(&self, pipeline: &PipelineView) -> bool {
        match self {
            Self::Running => pipeline.owner.is_some() && pipeline.state == "running",
            Self::Paused => pipeline.owner.is_some() && pipeline.state == "paused",
            Self::Owned => pipeline.owner.is_some(),
            Self::Owner(agent) => pipeline.owner.as_ref() == Some(agent),
            Self::LagBelow(limit) => {
                pipeline.owner.is_some() && pipeline.lag_seconds < limit.as_secs_f64()
            }
            Self::Active | Self::Cordoned | Self::Drained | Self::Empty | Self::Gone => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_conditions_and_no_other() {
        let agent: WaitSubject = "agent/relay-1".parse().unwrap();
        let pipeline: WaitSubject = "pipeline/eu/orders".parse().unwrap();
        assert_eq!(
            pipeline,
            WaitSubject::Pipeline("eu/orders".parse().unwrap())
        );
        assert_eq!(
            Condition::parse(&agent, "drained").unwrap(),
            Condition::Drained
        );
        assert_eq!(
            Condition::parse(&pipeline, "lag<5s").unwrap(),
            Condition::LagBelow(Duration::from_secs(5))
        );
        assert_eq!(
            Condition::parse(&pipeline, "owner=relay-3").unwrap(),
            Condition::Owner("relay-3".parse().unwrap())
        );
        for (subject, text) in [
            (&agent, "running"),
            (&agent, "lag<5s"),
            (&pipeline, "drained"),
            (&pipeline, "lag<soon"),
            (&pipeline, "lag<0"),
            (&pipeline, "owner="),
        ] {
            let error = Condition::parse(subject, text).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{text}");
        }
        for text in ["relay-1", "relay/relay-1", "agent/", "agent/a b"] {
            assert!(text.parse::<WaitSubject>().is_err(), "{text}");
        }
    }
}
