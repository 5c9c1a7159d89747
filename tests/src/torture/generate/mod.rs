//! Draws a plan from a seed. Pure.
//!
//! The generator keeps account of what is broken, so that whatever it does makes sense, every
//! fault is undone in time, and some agent can work in the long run.

mod draw;

use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::draw::Kind;
use super::plan::{Operation, PipelinePlan, Plan, SinkKind, Step};

/// Outboxes that publishers write to all the time.
pub(super) const BUSY: [&str; 3] = ["events_a", "events_b", "events_c"];
/// One that only operations write to: its pipelines are often idle.
pub(super) const QUIET: &str = "events_q";
/// How many agents there are.
const AGENTS: usize = 4;
/// Before the first operation, and after the last.
const CALM: u64 = 1_500;

/// What kind of run it is.
struct Course {
    pipelines: Vec<PipelinePlan>,
    /// Messages a second.
    rate: u32,
    kinds: &'static [Kind],
    /// Milliseconds from one operation to the next.
    pause: Range<u64>,
}

/// Draws a plan in which everything happens, all the time, to few messages.
pub fn generate(seed: u64, seconds: u64) -> Plan {
    let course = Course {
        pipelines: first_pipelines(),
        rate: 120,
        kinds: &draw::EVERYTHING,
        pause: 150..1_400,
    };
    generate_course(seed, seconds, course)
}

/// Draws a plan with so many messages a second through four sinks, and what happens to sinks, agents
/// and the server on bad days.
pub fn generate_soak(seed: u64, seconds: u64, rate: u32) -> Plan {
    let course = Course {
        pipelines: soaked_pipelines(),
        rate,
        kinds: &draw::BAD_DAYS,
        pause: 1_500..6_000,
    };
    generate_course(seed, seconds, course)
}

fn generate_course(seed: u64, seconds: u64, course: Course) -> Plan {
    let Course { rate, pause, .. } = course;
    let mut generator = Generator::new(seed, seconds, course.pipelines, course.kinds);
    let pipelines = generator
        .pipelines
        .iter()
        .map(|one| one.plan.clone())
        .collect();
    while generator.now + CALM < seconds * 1_000 {
        generator.operate();
        generator.now += generator.random.random_range(pause.clone());
    }
    let mut steps = generator.steps;
    steps.retain(|step| step.at < seconds * 1_000);
    // Stable: what was decided first at one moment is done first.
    steps.sort_by_key(|step| step.at);
    Plan {
        seed,
        seconds,
        rate,
        agents: AGENTS,
        pipelines,
        steps,
    }
}

struct Generator {
    random: StdRng,
    now: u64,
    end: u64,
    agents: Vec<AgentState>,
    pipelines: Vec<PipelineState>,
    added: usize,
    postgres_free_at: u64,
    control_plane_free_at: u64,
    brokers_free_at: u64,
    streams_free_at: u64,
    rebalance_free_at: u64,
    kinds: &'static [Kind],
    steps: Vec<Step>,
}

/// What the generator knows of an agent.
struct AgentState {
    name: String,
    /// When the last fault is undone.
    free_at: u64,
    /// When it takes work again.
    drained_until: u64,
}

/// What the generator knows of a pipeline.
struct PipelineState {
    plan: PipelinePlan,
    /// When it is added.
    exists_from: u64,
    /// When it runs again.
    free_at: u64,
    /// When its receiver behaves again.
    sink_free_at: u64,
}

impl Generator {
    fn new(seed: u64, seconds: u64, pipelines: Vec<PipelinePlan>, kinds: &'static [Kind]) -> Self {
        let agents = (1..=AGENTS).map(|number| AgentState {
            name: format!("relay-{number}"),
            free_at: 0,
            drained_until: 0,
        });
        Self {
            random: StdRng::seed_from_u64(seed),
            now: CALM,
            end: seconds * 1_000,
            agents: agents.collect(),
            pipelines: pipelines
                .into_iter()
                .map(|plan| PipelineState::new(plan, 0))
                .collect(),
            added: 0,
            postgres_free_at: 5_000,
            control_plane_free_at: 0,
            brokers_free_at: 0,
            streams_free_at: 0,
            rebalance_free_at: 0,
            kinds,
            steps: Vec::new(),
        }
    }

    fn then(&mut self, after: u64, operation: Operation) {
        let at = self.now + after;
        self.steps.push(Step { at, operation });
    }

    /// A time after which a fault is undone.
    fn lasting(&mut self, shortest: u64, longest: u64) -> u64 {
        self.random.random_range(shortest..=longest)
    }

    /// An agent without a fault, if another one remains that can work.
    ///
    /// Once in a while there is none meanwhile: the work waits, and nothing may be lost by that.
    fn victim(&mut self) -> Option<usize> {
        let now = self.now;
        let able = self.agents.iter().filter(|one| one.is_able(now)).count();
        if able <= 1 && !self.random.random_bool(0.1) {
            return None;
        }
        let sound = self.agents.iter().enumerate();
        let sound: Vec<usize> = sound
            .filter(|(_, one)| one.free_at <= now)
            .map(|(index, _)| index)
            .collect();
        self.pick(&sound)
    }

    fn pick(&mut self, candidates: &[usize]) -> Option<usize> {
        (!candidates.is_empty()).then(|| candidates[self.random.random_range(0..candidates.len())])
    }

    /// A pipeline that exists and satisfies a condition.
    fn pipeline(&mut self, suits: impl Fn(&PipelineState) -> bool) -> Option<usize> {
        let now = self.now;
        let suiting = self.pipelines.iter().enumerate();
        let suiting: Vec<usize> = suiting
            .filter(|(_, one)| one.exists_from <= now && suits(one))
            .map(|(index, _)| index)
            .collect();
        self.pick(&suiting)
    }
}

impl AgentState {
    fn is_able(&self, now: u64) -> bool {
        self.free_at <= now && self.drained_until <= now
    }
}

impl PipelineState {
    fn new(plan: PipelinePlan, exists_from: u64) -> Self {
        Self {
            plan,
            exists_from,
            free_at: 0,
            sink_free_at: 0,
        }
    }

    fn is_webhook(&self) -> bool {
        matches!(self.plan.sink, SinkKind::Webhook | SinkKind::WebhookBatch)
    }
}

fn pipeline((name, outbox, sink, batch_size): (&str, &str, SinkKind, usize)) -> PipelinePlan {
    PipelinePlan {
        name: name.to_owned(),
        outbox: outbox.to_owned(),
        sink,
        batch_size,
    }
}

fn soaked_pipelines() -> Vec<PipelinePlan> {
    [
        ("hook", BUSY[0], SinkKind::WebhookBatch, 500),
        ("topic", BUSY[0], SinkKind::Topic, 500),
        ("stream", BUSY[1], SinkKind::Stream, 500),
        ("inbox", BUSY[1], SinkKind::Inbox, 500),
    ]
    .map(pipeline)
    .into()
}

fn first_pipelines() -> Vec<PipelinePlan> {
    [
        ("file-1", BUSY[0], SinkKind::File, 20),
        ("file-2", BUSY[1], SinkKind::File, 100),
        // One by one and never in a hurry: there is always something on the wire.
        ("hook-1", BUSY[2], SinkKind::Webhook, 150),
        ("hook-2", BUSY[0], SinkKind::WebhookBatch, 25),
        ("hook-3", QUIET, SinkKind::Webhook, 50),
        ("topic-1", BUSY[1], SinkKind::Topic, 50),
        ("topic-2", BUSY[2], SinkKind::PartitionedTopic, 50),
        ("file-3", QUIET, SinkKind::File, 20),
    ]
    .map(pipeline)
    .into()
}

#[cfg(test)]
mod tests;
