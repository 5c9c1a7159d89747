//! Agents' streams.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tide_daemon::Exit;
use tide_model::{
    Epoch, Incarnation, PipelineState,
    fleet::FleetView,
    report::{PipelineReport, ReportMessage},
};
use tide_proto::agent::v1::{
    Hello, report_request::Message as Up, report_response::Message as Down,
};
use tonic::Code;
use uuid::Uuid;

use crate::world::{Locks, Reporter, SOON, World, hint, state_of};

fn one(name: &str, epoch: Epoch, lag_rows: i64) -> BTreeMap<tide_model::UnitName, PipelineReport> {
    let report = PipelineReport {
        epoch,
        state: PipelineState::Running,
        reason: None,
        last_change_id: 7,
        lag_rows,
        lag_seconds: 1.5,
    };
    BTreeMap::from([(name.parse().expect("a valid name"), report)])
}

fn snapshot(name: &str, epoch: Epoch, lag_rows: i64) -> Up {
    (&ReportMessage::Snapshot(one(name, epoch, lag_rows))).into()
}

fn delta(name: &str, epoch: Epoch, lag_rows: i64) -> Up {
    (&ReportMessage::Delta {
        changed: one(name, epoch, lag_rows),
        removed: Vec::new(),
    })
        .into()
}

fn heartbeat() -> Up {
    (&ReportMessage::Heartbeat { digest: None }).into()
}

fn lag_is(rows: i64) -> impl Fn(&FleetView) -> bool {
    move |view| {
        view.pipelines
            .iter()
            .any(|pipeline| pipeline.lag_rows == rows)
    }
}

async fn expect_snapshot_request(reporter: &mut Reporter) -> Result<()> {
    loop {
        match reporter.next().await? {
            Down::SnapshotRequest(_) => return Ok(()),
            Down::Nudge(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
}

/// A farewell that forbids to come back. Until the database is read again the stream may be asked
/// and nudged like any other.
async fn expect_dismissal(reporter: &mut Reporter) -> Result<()> {
    loop {
        match reporter.next().await? {
            Down::Farewell(farewell) => {
                ensure!(farewell.reconnect_after.is_none(), "{farewell:?}");
                return Ok(());
            }
            Down::Nudge(_) | Down::SnapshotRequest(_) => {}
            Down::Welcome(_) => anyhow::bail!("a second welcome"),
        }
    }
}

#[tokio::test]
async fn what_an_agent_says_is_what_operators_see() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["orders"]).await?;
    let mut locks = Locks::register(&world, "relay-1").await?;
    let epoch = locks.take(&["orders"]).await?;

    let mut reporter = Reporter::connect(&world, &locks).await?;
    expect_snapshot_request(&mut reporter).await?;
    reporter.send(snapshot("orders", epoch, 41)).await?;
    let view = world.fleet_view("the snapshot", lag_is(41)).await?;
    let pipeline = &view.pipelines[0];
    ensure!(pipeline.state == "running" && pipeline.owner.as_ref() == Some(&locks.name));
    ensure!(view.agents[0].reporting && view.agents[0].unhealthy == 0);

    reporter.send(delta("orders", epoch, 42)).await?;
    world.fleet_view("the delta", lag_is(42)).await?;

    let mut changed = one("orders", epoch, 42);
    for report in changed.values_mut() {
        report.state = PipelineState::Retrying;
        report.reason = Some("the sink is away".to_owned());
    }
    let removed = Vec::new();
    let trouble = ReportMessage::Delta { changed, removed };
    reporter.send(&trouble).await?;
    let view = world
        .fleet_view("the trouble", |view| {
            view.pipelines.iter().any(|p| p.state == "retrying")
        })
        .await?;
    ensure!(view.pipelines[0].reason.as_deref() == Some("the sink is away"));
    ensure!(view.agents[0].unhealthy == 1, "{:?}", view.agents);

    // What was said under another epoch is about another owner.
    reporter
        .send(delta("orders", Epoch(epoch.0 - 1), 43))
        .await?;
    world
        .fleet_view("the database's own number", lag_is(0))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_gap_is_closed_by_a_snapshot() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["orders"]).await?;
    let mut locks = Locks::register(&world, "relay-1").await?;
    let epoch = locks.take(&["orders"]).await?;
    let mut reporter = Reporter::connect(&world, &locks).await?;
    expect_snapshot_request(&mut reporter).await?;
    reporter.send(snapshot("orders", epoch, 1)).await?;
    world.fleet_view("the first snapshot", lag_is(1)).await?;

    reporter.skip();
    reporter.send(heartbeat()).await?;
    expect_snapshot_request(&mut reporter).await?;
    reporter.send(snapshot("orders", epoch, 2)).await?;
    world.fleet_view("the second snapshot", lag_is(2)).await?;
    Ok(())
}

#[tokio::test]
async fn a_newer_run_displaces_an_older_one() -> Result<()> {
    let world = World::start().await?;
    let old = Locks::register(&world, "relay-1").await?;
    let mut zombie = Reporter::connect(&world, &old).await?;
    expect_snapshot_request(&mut zombie).await?;
    // The old run's session dies, its process does not know yet.
    old.stop().await?;
    let new = Locks::register(&world, "relay-1").await?;
    let mut reporter = Reporter::connect(&world, &new).await?;
    expect_snapshot_request(&mut reporter).await?;

    expect_dismissal(&mut zombie).await?;
    zombie.end().await?;
    // The new run goes on.
    reporter.send(heartbeat()).await?;
    let current = new.incarnation;
    world
        .fleet_view("the new run", move |view| {
            view.agents
                .iter()
                .any(|agent| agent.incarnation == current && agent.reporting)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_former_run_that_comes_back_is_sent_away_and_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["orders"]).await?;
    let mut locks = Locks::register(&world, "relay-1").await?;
    let epoch = locks.take(&["orders"]).await?;
    let mut reporter = Reporter::connect(&world, &locks).await?;
    expect_snapshot_request(&mut reporter).await?;
    reporter.send(snapshot("orders", epoch, 5)).await?;
    world.fleet_view("the snapshot", lag_is(5)).await?;

    let former = Incarnation(Uuid::new_v4());
    let hello = Hello {
        group: "default".to_owned(),
        name: "relay-1".to_owned(),
        incarnation: former.to_string(),
        version: "1".to_owned(),
        ownership_digest: None,
    };
    let mut zombie = Reporter::open(&world, Up::Hello(hello)).await?;
    zombie.send(snapshot("orders", epoch, 99)).await?;
    ensure!(matches!(zombie.next().await?, Down::Welcome(_)));
    expect_dismissal(&mut zombie).await?;
    let view = world
        .fleet_view("the current run's words", lag_is(5))
        .await?;
    ensure!(view.agents[0].incarnation == locks.incarnation && view.agents[0].reporting);
    Ok(())
}

#[tokio::test]
async fn a_reconnect_of_the_same_run_takes_over_without_a_farewell() -> Result<()> {
    let world = World::start().await?;
    let locks = Locks::register(&world, "relay-1").await?;
    let mut first = Reporter::connect(&world, &locks).await?;
    let mut second = Reporter::connect(&world, &locks).await?;
    first.end().await?;
    expect_snapshot_request(&mut second).await?;
    Ok(())
}

#[tokio::test]
async fn a_goodbye_and_a_stop_leave_nothing_stale() -> Result<()> {
    let world = World::start().await?;
    let locks = Locks::register(&world, "relay-1").await?;
    let mut reporter = Reporter::connect(&world, &locks).await?;
    reporter.send(&ReportMessage::Goodbye).await?;
    reporter.end().await?;
    locks.stop().await?;
    let view = world
        .fleet_view("STOPPED", |view| state_of(view) == "STOPPED")
        .await?;
    ensure!(!view.agents[0].reporting && view.agents[0].pipelines == 0);
    Ok(())
}

#[tokio::test]
async fn nonsense_is_refused_by_field() -> Result<()> {
    let world = World::start().await?;
    let hello = |group: &str, incarnation: &str| {
        Up::Hello(Hello {
            group: group.to_owned(),
            name: "relay-1".to_owned(),
            incarnation: incarnation.to_owned(),
            version: String::new(),
            ownership_digest: None,
        })
    };
    let refused = async |first| Reporter::open(&world, first).await.err().unwrap();

    let status = refused(heartbeat()).await;
    ensure!(status.code() == Code::InvalidArgument, "{status}");
    let status = refused(hello("default", "one")).await;
    ensure!(status.message().contains("hello.incarnation"), "{status}");
    let status = refused(hello("blue", &Uuid::new_v4().to_string())).await;
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    ensure!(status.message().contains(r#""default""#) && hint(&status).contains("--control-plane"));

    let locks = Locks::register(&world, "relay-1").await?;
    let mut reporter = Reporter::connect(&world, &locks).await?;
    reporter
        .send(hello("default", &Uuid::new_v4().to_string()))
        .await?;
    let error = loop {
        if let Err(error) = reporter.next().await {
            break error;
        }
    };
    let status: tonic::Status = error.downcast()?;
    ensure!(status.code() == Code::InvalidArgument, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_stop_sends_agents_away_and_back() -> Result<()> {
    let world = World::start().await?;
    let locks = Locks::register(&world, "relay-1").await?;
    let mut reporter = Reporter::connect(&world, &locks).await?;
    expect_snapshot_request(&mut reporter).await?;
    let (exit, farewell) = tokio::join!(world.stop(), async {
        loop {
            match reporter.next().await? {
                Down::Farewell(farewell) => return Ok::<_, anyhow::Error>(farewell),
                Down::Nudge(_) => {}
                other => anyhow::bail!("{other:?}"),
            }
        }
    });
    ensure!(exit? == Exit::Clean);
    ensure!(
        farewell?.reconnect_after.is_some(),
        "the next control plane wants to hear it"
    );
    Ok(())
}

#[tokio::test]
async fn silence_is_noticed_when_the_stream_breaks() -> Result<()> {
    let world = World::start().await?;
    let locks = Locks::register(&world, "relay-1").await?;
    let reporter = Reporter::connect(&world, &locks).await?;
    world
        .fleet_view("a report", |view| {
            view.agents.iter().any(|agent| agent.reporting)
        })
        .await?;
    drop(reporter);
    drop(locks);
    let view = world
        .fleet_view("LOST", |view| state_of(view) == "LOST")
        .await?;
    ensure!(
        view.warnings
            .iter()
            .any(|warning| warning.contains("relay-1")),
        "{SOON:?}"
    );
    Ok(())
}
