//! What is done to the agents, and which gap each of it leaves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tide_catalog::{
    holds::Breaking,
    intent::{Actor, MoveKind, drain_begin, move_begin, undrain},
};
use tide_model::{hold::DrainTerms, operation::Move};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{
    Stage,
    crew::{Cabling, Crew, GROUP, Owners},
    report::{Report, Target},
};

/// Longest wait for a next owner beyond what the scene itself makes it wait for.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the design allows a planned change to cost.
const HANDOVER: Target = Target::P99(50.0);
/// The scenes in which a change is planned.
const PLANNED: [&str; 5] = ["stops", "joins", "drains", "undrains", "moves"];
/// A crash comes at any moment of the watcher's slice.
const ANY_MOMENT: Duration = tide_catalog::agents::WATCH_SLICE;

/// kill -9 of each agent in turn.
pub(super) async fn crashes(stage: &Stage<'_>, count: usize, report: &mut Report) -> Result<()> {
    let title = "kill -9 of an owner, to the next delivery by another agent";
    report.begin("crashes", title.to_owned(), count, Some(Target::P99(100.0)));
    let mut crew = stage.crew(Cabling::Straight, stage.flags()).await?;
    for turn in 0..count {
        crew.all_even().await?;
        at_any_moment(ANY_MOMENT).await;
        let victim = crew.in_turn(turn);
        let owned = crew.owned_by(&victim).await?;
        let from = OffsetDateTime::now_utc();
        crew.process(&victim)?.kill9()?;
        report.add(stage.next_deliveries(&owned, from, PATIENCE).await?);
        crew.restart(&victim).await?;
    }
    crew.dismiss().await
}

/// kill -9 where nobody listens and nobody watches: the next look at the fleet decides.
///
/// With two agents this is exactly how peers behave that only ever try the locks at intervals.
pub(super) async fn peers(
    stage: &Stage<'_>,
    interval: Duration,
    count: usize,
    report: &mut Report,
) -> Result<()> {
    let title = format!(
        "the same without news: agents that only look around every {} s",
        interval.as_secs_f64()
    );
    report.begin("peers", title, count, None);
    let mut flags = stage.flags();
    flags.extend([
        "--discovery-only".to_owned(),
        "--discovery-interval".to_owned(),
        interval.as_secs_f64().to_string(),
    ]);
    let mut crew = stage.crew(Cabling::Straight, flags).await?;
    for _ in 0..count {
        // Spreading the pipelines out takes intervals too; one owner is all that a crash needs.
        crew.running().await?;
        at_any_moment(interval).await;
        let victim = crew.busiest().await?;
        let owned = crew.owned_by(&victim).await?;
        let from = OffsetDateTime::now_utc();
        crew.process(&victim)?.kill9()?;
        let patience = PATIENCE + interval * 3;
        report.add(stage.next_deliveries(&owned, from, patience).await?);
        crew.restart(&victim).await?;
    }
    crew.dismiss().await
}

/// SIGSTOP for longer than the lease.
pub(super) async fn freezes(stage: &Stage<'_>, count: usize, report: &mut Report) -> Result<()> {
    let title = "SIGSTOP of an owner, to the next delivery by another agent";
    report.begin(
        "freezes",
        title.to_owned(),
        count,
        Some(stage.lease_target()),
    );
    let mut crew = stage.crew(Cabling::Straight, stage.flags()).await?;
    for turn in 0..count {
        crew.all_even().await?;
        at_any_moment(stage.args.lease / 3).await;
        let victim = crew.in_turn(turn);
        let owned = crew.owned_by(&victim).await?;
        let from = OffsetDateTime::now_utc();
        crew.process(&victim)?.freeze()?;
        let patience = PATIENCE + stage.args.lease;
        let gaps = stage.next_deliveries(&owned, from, patience).await?;
        crew.process(&victim)?.thaw()?;
        report.add(gaps);
    }
    crew.all_even().await?;
    crew.dismiss().await
}

/// A cut cable: silence in both directions, and no socket closes.
pub(super) async fn cuts(stage: &Stage<'_>, count: usize, report: &mut Report) -> Result<()> {
    let title = "an owner cut off from PostgreSQL, to the next delivery by another agent";
    report.begin("cuts", title.to_owned(), count, Some(stage.lease_target()));
    let mut crew = stage.crew(Cabling::Cuttable, stage.flags()).await?;
    for turn in 0..count {
        crew.all_even().await?;
        at_any_moment(stage.args.lease / 3).await;
        let victim = crew.in_turn(turn);
        let owned = crew.owned_by(&victim).await?;
        let from = OffsetDateTime::now_utc();
        crew.cable(&victim)?.cut();
        let patience = PATIENCE + stage.args.lease;
        let gaps = stage.next_deliveries(&owned, from, patience).await?;
        crew.cable(&victim)?.heal();
        report.add(gaps);
    }
    crew.all_even().await?;
    crew.dismiss().await
}

/// Why an agent is to own nothing for a while.
#[derive(Debug, Clone, Copy)]
enum Absence {
    /// SIGTERM, and it comes back.
    Stop,
    /// A drain, and its end.
    Drain,
}

/// Each agent in turn gives everything away, and gets its share again. The gap is between the former
/// owner's last delivery and the next owner's first.
async fn absences(
    stage: &Stage<'_>,
    absence: Absence,
    count: usize,
    report: &mut Report,
) -> Result<()> {
    let (going, coming) = match absence {
        Absence::Stop => (("stops", "an agent stops"), ("joins", "an agent joins")),
        Absence::Drain => (
            ("drains", "an agent is drained"),
            ("undrains", "the drain is over"),
        ),
    };
    let title = |what| format!("{what}: the last delivery by one owner, to the first by the next");
    report.begin(going.0, title(going.1), count, Some(HANDOVER));
    let mut returns = Vec::new();
    let mut crew = stage.crew(Cabling::Straight, stage.flags()).await?;
    for turn in 0..count {
        crew.all_even().await?;
        at_any_moment(ANY_MOMENT).await;
        let subject = crew.in_turn(turn);
        let (before, from) = (crew.owners().await?, OffsetDateTime::now_utc());
        match absence {
            Absence::Stop => crew.process(&subject)?.terminate()?,
            Absence::Drain => stage.drain(&subject).await?,
        }
        crew.even(stage.args.agents - 1).await?;
        report.add(stage.changes(&before, &crew, from).await?);
        let (before, from) = (crew.owners().await?, OffsetDateTime::now_utc());
        match absence {
            Absence::Stop => crew.restart(&subject).await?,
            Absence::Drain => stage.undrain(&subject).await?,
        }
        crew.all_even().await?;
        returns.push(stage.changes(&before, &crew, from).await?);
    }
    report.begin(coming.0, title(coming.1), count, Some(HANDOVER));
    for gaps in returns {
        report.add(gaps);
    }
    crew.dismiss().await
}

/// Every kind of planned change.
pub(super) async fn planned(stage: &Stage<'_>, count: usize, report: &mut Report) -> Result<()> {
    absences(stage, Absence::Stop, count, report).await?;
    absences(stage, Absence::Drain, count, report).await?;
    moves(stage, count, report).await?;
    let title = "all planned changes together";
    report.together("planned", title, &PLANNED, Some(HANDOVER));
    Ok(())
}

/// A pipeline is moved, and its preference ended. The gap is as above.
async fn moves(stage: &Stage<'_>, count: usize, report: &mut Report) -> Result<()> {
    let title = "a pipeline is moved: the last delivery by one owner, to the first by the next";
    report.begin("moves", title.to_owned(), count, Some(HANDOVER));
    let crew = stage.crew(Cabling::Straight, stage.flags()).await?;
    for turn in 0..count {
        crew.all_even().await?;
        let (before, from) = (crew.owners().await?, OffsetDateTime::now_utc());
        let (pipeline, owner) = before
            .iter()
            .nth(turn % before.len().max(1))
            .context("nothing is owned")?;
        let mut agents = (0..stage.args.agents).map(|turn| crew.in_turn(turn));
        let to = agents.find(|agent| *agent != owner.agent);
        stage
            .place(pipeline, &to.context("nobody else is there")?)
            .await?;
        let change = stage
            .arrivals
            .change(pipeline, owner.epoch, from, PATIENCE)
            .await?;
        report.add(change.last.map(|last| milliseconds(change.first - last)));
        stage.displace().await?;
    }
    crew.all_even().await?;
    crew.dismiss().await
}

impl Stage<'_> {
    fn flags(&self) -> Vec<String> {
        let lease = self.args.lease.as_secs_f64().to_string();
        vec!["--lease".to_owned(), lease]
    }

    async fn crew(&self, cabling: Cabling, flags: Vec<String>) -> Result<Crew<'_>> {
        let (agents, pipelines) = (self.args.agents, self.args.pipelines);
        Crew::start(self.rig, agents, pipelines, cabling, flags).await
    }

    fn lease_target(&self) -> Target {
        Target::Max(self.args.lease.as_secs_f64() * 1e3 + 100.0)
    }

    /// From `from` to the first delivery of each by an owner after this one.
    async fn next_deliveries(
        &self,
        owned: &Owners,
        from: OffsetDateTime,
        within: Duration,
    ) -> Result<Vec<f64>> {
        let mut gaps = Vec::new();
        for (pipeline, owner) in owned {
            let change = self
                .arrivals
                .change(pipeline, owner.epoch, from, within)
                .await?;
            gaps.push(milliseconds(change.first - from));
        }
        Ok(gaps)
    }

    /// The gap of every pipeline that has changed hands.
    async fn changes(
        &self,
        before: &Owners,
        crew: &Crew<'_>,
        from: OffsetDateTime,
    ) -> Result<Vec<f64>> {
        let after = crew.owners().await?;
        let mut gaps = Vec::new();
        for (pipeline, was) in before {
            if after.get(pipeline).is_some_and(|is| is.agent != was.agent) {
                let change = self
                    .arrivals
                    .change(pipeline, was.epoch, from, PATIENCE)
                    .await?;
                gaps.extend(change.last.map(|last| milliseconds(change.first - last)));
            }
        }
        Ok(gaps)
    }

    async fn drain(&self, agent: &str) -> Result<()> {
        let mut connection = self.rig.pool.acquire().await?;
        let (group, agent) = (GROUP.parse()?, agent.parse()?);
        drain_begin(
            &mut connection,
            &group,
            &agent,
            &actor(),
            None,
            DrainTerms::default(),
        )
        .await?;
        Ok(())
    }

    async fn undrain(&self, agent: &str) -> Result<()> {
        let mut connection = self.rig.pool.acquire().await?;
        undrain(
            &mut connection,
            &GROUP.parse()?,
            &agent.parse()?,
            &actor(),
            Breaking::Never,
        )
        .await?;
        Ok(())
    }

    async fn place(&self, pipeline: &str, to: &str) -> Result<()> {
        let moves = [Move {
            pipeline: pipeline.parse()?,
            from: None,
            to: to.parse()?,
            reason: String::new(),
        }];
        self.move_begin(&moves, MoveKind::Move).await
    }

    /// A rebalance of nothing ends every preference.
    async fn displace(&self) -> Result<()> {
        self.move_begin(&[], MoveKind::Rebalance).await
    }

    async fn move_begin(&self, moves: &[Move], kind: MoveKind) -> Result<()> {
        let mut connection = self.rig.pool.acquire().await?;
        let group = GROUP.parse()?;
        move_begin(&mut connection, &group, moves, kind, &actor(), None).await?;
        Ok(())
    }
}

fn actor() -> Actor {
    Actor {
        name: "tide-bench".to_owned(),
        reason: "measuring".to_owned(),
    }
}

fn milliseconds(gap: time::Duration) -> f64 {
    gap.as_seconds_f64() * 1e3
}

/// Whatever repeats itself, in the agents or here, must not always be met at the same point.
async fn at_any_moment(of: Duration) {
    sleep(rand::rng().random_range(Duration::ZERO..of)).await;
}
