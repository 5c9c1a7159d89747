//! What is done to the agents, and which gap each of it leaves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tide_catalog::intent::{Actor, MoveKind, drain_begin, move_begin, undrain};
use tide_model::operation::Move;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{
    Stage,
    crew::{Cabling, Crew, GROUP, Owners},
    report::{Report, Target},
};

/// Longest wait for a next owner beyond what the scene itself makes it wait for.
const PATIENCE: Duration = Duration::from_mins(1);
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

/// Planned changes in turn: an agent that stops and comes back, a drain and its end, a move and
/// its end. The gap is between the former owner's last delivery and the next owner's first.
pub(super) async fn handovers(stage: &Stage<'_>, count: usize, report: &mut Report) -> Result<()> {
    let title = "planned: the last delivery by one owner, to the first by the next";
    report.begin(
        "handovers",
        title.to_owned(),
        count,
        Some(Target::P99(50.0)),
    );
    let mut crew = stage.crew(Cabling::Straight, stage.flags()).await?;
    let others = stage.args.agents - 1;
    for turn in 0..count {
        crew.all_even().await?;
        let subject = crew.in_turn(turn / 3);
        let before = crew.owners().await?;
        let from = OffsetDateTime::now_utc();
        let mut gaps = Vec::new();
        match turn % 3 {
            0 => {
                crew.process(&subject)?.terminate()?;
                crew.even(others).await?;
                gaps.extend(stage.changes(&before, &crew, from).await?);
                let before = crew.owners().await?;
                let from = OffsetDateTime::now_utc();
                crew.restart(&subject).await?;
                crew.all_even().await?;
                gaps.extend(stage.changes(&before, &crew, from).await?);
            }
            1 => {
                stage.drain(&subject).await?;
                crew.even(others).await?;
                gaps.extend(stage.changes(&before, &crew, from).await?);
                let before = crew.owners().await?;
                let from = OffsetDateTime::now_utc();
                stage.undrain(&subject).await?;
                crew.all_even().await?;
                gaps.extend(stage.changes(&before, &crew, from).await?);
            }
            _ => {
                let (pipeline, owner) = before.first_key_value().context("nothing is owned")?;
                let to = (0..stage.args.agents).map(|turn| crew.in_turn(turn));
                let to = to.into_iter().find(|agent| *agent != owner.agent);
                let to = to.context("nobody else is there")?;
                stage.place(pipeline, &to).await?;
                let epoch = owner.epoch;
                let change = stage
                    .arrivals
                    .change(pipeline, epoch, from, PATIENCE)
                    .await?;
                gaps.extend(change.last.map(|last| milliseconds(change.first - last)));
                stage.displace().await?;
            }
        }
        report.add(gaps);
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
        drain_begin(&mut connection, &group, &agent, &actor(), None).await?;
        Ok(())
    }

    async fn undrain(&self, agent: &str) -> Result<()> {
        let mut connection = self.rig.pool.acquire().await?;
        undrain(&mut connection, &GROUP.parse()?, &agent.parse()?, &actor()).await?;
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
