//! Each kind of operation: whether it makes sense now, and what undoes it.

use rand::RngExt as _;

use super::{BUSY, Generator, PipelineState, QUIET};
use crate::torture::plan::{Operation, PipelinePlan, Restart, SinkKind};

/// More than the lease of the agents, with some time for another to begin.
const OUTLASTS_LEASE: (u64, u64) = (2_200, 4_500);
/// Too short for a failover, long enough to notice.
const BRIEF: (u64, u64) = (100, 1_200);

/// Draws one kind of operation; nothing if it makes no sense now.
pub(super) type Draw = fn(&mut Generator) -> Option<()>;

/// A kind of operation and how often it is tried, relative to the others.
pub(super) type Kind = (u32, Draw);

/// What may happen on bad days in a well-kept house.
pub(super) const BAD_DAYS: [Kind; 10] = [
    (4, crash),
    (2, freeze),
    (2, terminate),
    (2, drain),
    (2, restart_postgres),
    (1, stall_postgres),
    (4, answer_late),
    (4, misbehave),
    (3, brokers_down),
    (3, kill_streams),
];

/// What may happen at all.
pub(super) const EVERYTHING: [Kind; 24] = [
    (6, crash),
    (4, freeze),
    (4, freeze_unheard),
    (4, cut),
    (5, cut_from_afar),
    (5, hand_over_from_afar),
    (3, end_lock_session),
    (4, terminate),
    (4, drain),
    (6, move_pipeline),
    (4, rebalance),
    (2, restart_postgres),
    (1, stall_postgres),
    (2, kill_control_plane),
    (2, add),
    (3, change),
    (4, reshard),
    (3, disable),
    (1, replace),
    (5, answer_late),
    (4, misbehave),
    (2, brokers_down),
    (8, overtake),
    (3, late_bulk),
];

impl Generator {
    /// Draws one operation; nothing if it makes no sense now.
    pub(super) fn operate(&mut self) {
        let total: u32 = self.kinds.iter().map(|(weight, _)| weight).sum();
        let mut ticket = self.random.random_range(0..total);
        for (weight, draw) in self.kinds {
            if ticket < *weight {
                draw(self);
                return;
            }
            ticket -= weight;
        }
    }

    /// Breaks an agent for `lasting`, between two operations.
    fn break_agent(
        &mut self,
        lasting: u64,
        begin: impl Fn(String) -> Operation,
        end: impl Fn(String) -> Operation,
    ) -> Option<()> {
        let index = self.victim()?;
        let agent = self.agents[index].name.clone();
        self.agents[index].free_at = self.now + lasting;
        self.then(0, begin(agent.clone()));
        self.then(lasting, end(agent));
        Some(())
    }

    /// Something that takes about so long, if that is over before the end.
    fn then_briefly(&mut self, takes: u64, operation: Operation) -> Option<()> {
        (self.now + takes < self.end).then(|| self.then(0, operation))
    }

    fn brief_or_long(&mut self) -> u64 {
        let (shortest, longest) = if self.random.random_bool(0.4) {
            BRIEF
        } else {
            OUTLASTS_LEASE
        };
        self.lasting(shortest, longest)
    }
}

fn crash(generator: &mut Generator) -> Option<()> {
    let lasting = generator.lasting(200, 3_500);
    generator.break_agent(
        lasting,
        |agent| Operation::Crash { agent },
        |agent| Operation::Start { agent },
    )
}

fn terminate(generator: &mut Generator) -> Option<()> {
    let lasting = generator.lasting(500, 2_500);
    generator.break_agent(
        lasting,
        |agent| Operation::Terminate { agent },
        |agent| Operation::Start { agent },
    )
}

fn freeze(generator: &mut Generator) -> Option<()> {
    let lasting = generator.brief_or_long();
    generator.break_agent(
        lasting,
        |agent| Operation::Freeze { agent },
        |agent| Operation::Thaw { agent },
    )
}

fn cut(generator: &mut Generator) -> Option<()> {
    let lasting = generator.brief_or_long();
    generator.break_agent(
        lasting,
        |agent| Operation::Cut { agent },
        |agent| Operation::Heal { agent },
    )
}

/// Frozen, and deaf for a while after: only its own clock can tell it that its time is over.
fn freeze_unheard(generator: &mut Generator) -> Option<()> {
    let index = generator.victim()?;
    let agent = generator.agents[index].name.clone();
    let frozen = generator.lasting(OUTLASTS_LEASE.0, OUTLASTS_LEASE.1);
    let deaf = generator.lasting(500, 2_500);
    generator.agents[index].free_at = generator.now + frozen + deaf;
    let name = || agent.clone();
    generator.then(0, Operation::Freeze { agent: name() });
    generator.then(0, Operation::Cut { agent: name() });
    generator.then(frozen, Operation::Thaw { agent: name() });
    generator.then(frozen + deaf, Operation::Heal { agent: name() });
    Some(())
}

/// Far away first, so that a position is on its way when the cut comes; it arrives with the heal,
/// when another owns the pipeline.
fn cut_from_afar(generator: &mut Generator) -> Option<()> {
    let index = generator.victim()?;
    let agent = generator.agents[index].name.clone();
    let far = generator.lasting(600, 1_200);
    let cut = generator.lasting(OUTLASTS_LEASE.0, OUTLASTS_LEASE.1);
    let millis = generator.lasting(80, 200);
    generator.agents[index].free_at = generator.now + far + cut + 1;
    let name = || agent.clone();
    let distance = |millis| Operation::Distance {
        agent: name(),
        millis,
    };
    generator.then(0, distance(millis));
    generator.then(far, Operation::Cut { agent: name() });
    generator.then(far + cut, Operation::Heal { agent: name() });
    generator.then(far + cut + 1, distance(0));
    Some(())
}

/// Far away, so that its last position takes longer to store than an unlock elsewhere.
fn hand_over_from_afar(generator: &mut Generator) -> Option<()> {
    let index = generator.victim()?;
    let agent = generator.agents[index].name.clone();
    let far = generator.lasting(400, 1_000);
    let gone = generator.lasting(2_000, 3_500);
    let millis = generator.lasting(60, 200);
    let name = || agent.clone();
    let (leave, come_back) = if generator.random.random_bool(0.5) {
        let terminate = Operation::Terminate { agent: name() };
        (terminate, Operation::Start { agent: name() })
    } else {
        generator.agents[index].drained_until = generator.now + far + gone;
        let drain = Operation::Drain { agent: name() };
        (drain, Operation::Undrain { agent: name() })
    };
    generator.agents[index].free_at = generator.now + far + gone + 1;
    let distance = |millis| Operation::Distance {
        agent: name(),
        millis,
    };
    generator.then(0, distance(millis));
    generator.then(far, leave);
    generator.then(far + gone, distance(0));
    generator.then(far + gone, come_back);
    Some(())
}

fn end_lock_session(generator: &mut Generator) -> Option<()> {
    let index = generator.victim()?;
    let agent = generator.agents[index].name.clone();
    generator.agents[index].free_at = generator.now + 300;
    generator.then(0, Operation::EndLockSession { agent });
    Some(())
}

/// Independent of faults: an agent may crash while it drains.
fn drain(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    if generator
        .agents
        .iter()
        .filter(|one| one.is_able(now))
        .count()
        <= 1
    {
        return None;
    }
    let index = generator.random.random_range(0..generator.agents.len());
    if generator.agents[index].drained_until > now {
        return None;
    }
    let lasting = generator.lasting(500, 5_000);
    generator.agents[index].drained_until = now + lasting;
    let agent = generator.agents[index].name.clone();
    let undrain = Operation::Undrain {
        agent: agent.clone(),
    };
    generator.then(0, Operation::Drain { agent });
    generator.then(lasting, undrain);
    Some(())
}

fn move_pipeline(generator: &mut Generator) -> Option<()> {
    let index = generator.pipeline(|_| true)?;
    let pipeline = generator.pipelines[index].plan.name.clone();
    let agent = generator.random.random_range(0..generator.agents.len());
    let agent = generator.agents[agent].name.clone();
    generator.then(0, Operation::Move { pipeline, agent });
    Some(())
}

fn rebalance(generator: &mut Generator) -> Option<()> {
    if generator.rebalance_free_at > generator.now {
        return None;
    }
    generator.rebalance_free_at = generator.now + 3_000;
    generator.then(0, Operation::Rebalance);
    Some(())
}

fn restart_postgres(generator: &mut Generator) -> Option<()> {
    if generator.postgres_free_at > generator.now {
        return None;
    }
    generator.postgres_free_at = generator.now + 10_000;
    let ways = [Restart::Fast, Restart::Immediate, Restart::Kill];
    let how = ways[generator.random.random_range(0..ways.len())];
    generator.then(0, Operation::RestartPostgres { how });
    Some(())
}

fn stall_postgres(generator: &mut Generator) -> Option<()> {
    if generator.postgres_free_at > generator.now {
        return None;
    }
    generator.postgres_free_at = generator.now + 10_000;
    let millis = generator.lasting(300, 1_800);
    generator.then(0, Operation::StallPostgres { millis });
    Some(())
}

fn kill_control_plane(generator: &mut Generator) -> Option<()> {
    if generator.control_plane_free_at > generator.now {
        return None;
    }
    let lasting = generator.lasting(200, 8_000);
    generator.control_plane_free_at = generator.now + lasting;
    generator.then(0, Operation::KillControlPlane);
    generator.then(lasting, Operation::StartControlPlane);
    Some(())
}

fn add(generator: &mut Generator) -> Option<()> {
    // Each reads everything from the beginning: a few are enough.
    if generator.pipelines.len() >= 14 {
        return None;
    }
    let plan = another(generator);
    generator.then(
        0,
        Operation::Add {
            pipeline: plan.clone(),
        },
    );
    let now = generator.now;
    generator.pipelines.push(PipelineState::new(plan, now));
    Some(())
}

/// Deletes a pipeline and adds one like it under a new name.
fn replace(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    let index = generator.pipeline(|one| one.free_at <= now && one.sink_free_at <= now)?;
    let old = generator.pipelines.remove(index);
    let after = generator.lasting(0, 1_000);
    let plan = another(generator);
    generator.then(
        0,
        Operation::Delete {
            pipeline: old.plan.name,
        },
    );
    let successor = PipelineState::new(plan.clone(), now + after);
    generator.then(after, Operation::Add { pipeline: plan });
    generator.pipelines.push(successor);
    Some(())
}

fn another(generator: &mut Generator) -> PipelinePlan {
    generator.added += 1;
    // Topics are made at the start, and one request a message would never catch up.
    let (kind, sink) = if generator.random.random_bool(0.5) {
        ("file", SinkKind::File)
    } else {
        ("hook", SinkKind::WebhookBatch)
    };
    let outboxes = [BUSY[0], BUSY[1], BUSY[2], QUIET];
    PipelinePlan {
        name: format!("{kind}-added-{}", generator.added),
        outbox: outboxes[generator.random.random_range(0..outboxes.len())].to_owned(),
        sink,
        batch_size: generator.random.random_range(10..=100),
    }
}

fn change(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    let index = generator.pipeline(|one| one.free_at <= now)?;
    let batch_size = generator.random.random_range(5..=200);
    let pipeline = generator.pipelines[index].plan.name.clone();
    generator.then(
        0,
        Operation::Change {
            pipeline,
            batch_size,
        },
    );
    Some(())
}

/// Each shard of a file has a file of its own, which the next layout does not write any more: there
/// is no order of arrival to judge.
fn reshard(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    let index = generator.pipeline(|one| one.free_at <= now && one.plan.sink != SinkKind::File)?;
    let shards = generator.random.random_range(1..=4);
    let pipeline = generator.pipelines[index].plan.name.clone();
    generator.then(0, Operation::Reshard { pipeline, shards });
    Some(())
}

fn disable(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    let index = generator.pipeline(|one| one.free_at <= now)?;
    let lasting = generator.lasting(100, 4_000);
    generator.pipelines[index].free_at = now + lasting;
    let pipeline = generator.pipelines[index].plan.name.clone();
    let enable = Operation::Enable {
        pipeline: pipeline.clone(),
    };
    generator.then(0, Operation::Disable { pipeline });
    generator.then(lasting, enable);
    Some(())
}

fn answer_late(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    let index = generator.pipeline(|one| one.is_webhook() && one.sink_free_at <= now)?;
    let lasting = generator.lasting(1_500, 6_000);
    let millis = generator.lasting(5, 60);
    generator.pipelines[index].sink_free_at = now + lasting;
    let pipeline = generator.pipelines[index].plan.name.clone();
    let answer = |millis| Operation::AnswerLate {
        pipeline: pipeline.clone(),
        millis,
    };
    generator.then(0, answer(millis));
    generator.then(lasting, answer(0));
    Some(())
}

/// Refuses, accepts without saying so, or hangs.
fn misbehave(generator: &mut Generator) -> Option<()> {
    let now = generator.now;
    let index = generator.pipeline(|one| one.is_webhook() && one.sink_free_at <= now)?;
    let pipeline = generator.pipelines[index].plan.name.clone();
    let times = generator.random.random_range(1..=4);
    match generator.random.random_range(0..3) {
        0 => generator.then(0, Operation::Refuse { pipeline, times }),
        1 => generator.then(0, Operation::Sever { pipeline, times }),
        _ => {
            let lasting = generator.lasting(300, 4_000);
            generator.pipelines[index].sink_free_at = now + lasting;
            generator.then(0, Operation::Hang { pipeline });
            generator.then(lasting, Operation::Release);
        }
    }
    Some(())
}

fn brokers_down(generator: &mut Generator) -> Option<()> {
    if generator.brokers_free_at > generator.now {
        return None;
    }
    let lasting = generator.lasting(200, 5_000);
    generator.brokers_free_at = generator.now + lasting + 2_000;
    generator.then(0, Operation::BrokersDown);
    generator.then(lasting, Operation::BrokersUp);
    Some(())
}

fn kill_streams(generator: &mut Generator) -> Option<()> {
    if generator.streams_free_at > generator.now {
        return None;
    }
    let lasting = generator.lasting(200, 5_000);
    generator.streams_free_at = generator.now + lasting + 2_000;
    generator.then(0, Operation::KillStreams);
    generator.then(lasting, Operation::StartStreams);
    Some(())
}

fn overtake(generator: &mut Generator) -> Option<()> {
    let outboxes = [BUSY[0], BUSY[1], QUIET, QUIET];
    let outbox = outboxes[generator.random.random_range(0..outboxes.len())].to_owned();
    let times = generator.random.random_range(5..=15);
    generator.then_briefly(1_000, Operation::Overtake { outbox, times })
}

fn late_bulk(generator: &mut Generator) -> Option<()> {
    let outboxes = [BUSY[0], BUSY[1], BUSY[2], QUIET];
    let outbox = outboxes[generator.random.random_range(0..outboxes.len())].to_owned();
    let messages = generator.random.random_range(50..=400);
    let millis = generator.lasting(50, 600);
    let bulk = Operation::LateBulk {
        outbox,
        messages,
        millis,
    };
    generator.then_briefly(millis + 1_000, bulk)
}
