//! Drain, move, rebalance: what is refused, what is written, and how it ends.

use anyhow::{Context as _, Result, ensure};
use tide_model::operation::{Operation, OperationState};
use tide_proto::{
    agent::v1::report_response::Message as Down,
    fleet::v1::{
        ApplyRebalanceRequest, CancelOperationRequest, DrainRequest, DrainResponse,
        GetOperationRequest, ListOperationsRequest, MoveRequest, PlannedMove, StepProgress,
        UndrainRequest, WatchOperationRequest,
    },
};
use tide_sandbox::wait::eventually;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::world::{Locks, Reporter, SOON, World, hint, state_of};

fn drain(agent: &str) -> DrainRequest {
    DrainRequest {
        agent: agent.to_owned(),
        actor: "ana".to_owned(),
        reason: "kernel".to_owned(),
        ..DrainRequest::default()
    }
}

fn undrain(agent: &str) -> UndrainRequest {
    UndrainRequest {
        agent: agent.to_owned(),
        actor: "ana".to_owned(),
        reason: String::new(),
        breaking: false,
    }
}

fn moving(pipeline: &str, to: &str) -> MoveRequest {
    MoveRequest {
        pipeline: pipeline.to_owned(),
        to: to.to_owned(),
        actor: "ana".to_owned(),
        ..MoveRequest::default()
    }
}

pub(crate) fn planned(pipeline: &str, from: &str, to: &str) -> PlannedMove {
    PlannedMove {
        pipeline: pipeline.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        reason: String::new(),
    }
}

pub(crate) fn rebalance(moves: Vec<PlannedMove>) -> ApplyRebalanceRequest {
    ApplyRebalanceRequest {
        moves,
        actor: "ana".to_owned(),
        ..ApplyRebalanceRequest::default()
    }
}

async fn drained(world: &World, request: DrainRequest) -> Result<DrainResponse, Status> {
    Ok(world.operations().drain(request).await?.into_inner())
}

pub(crate) fn operation(wire: Option<tide_proto::fleet::v1::Operation>) -> Result<Operation> {
    Ok(wire.context("no operation")?.try_into()?)
}

/// Two agents: `relay-1` owns both pipelines, `relay-2` owns nothing.
pub(crate) async fn two_agents(world: &World) -> Result<(Locks, Locks)> {
    world.pipelines(&["audit", "orders"]).await?;
    let mut one = Locks::register(world, "relay-1").await?;
    one.take(&["audit", "orders"]).await?;
    Ok((one, Locks::register(world, "relay-2").await?))
}

#[tokio::test]
async fn a_drain_with_nowhere_to_go_is_refused_with_the_pipelines_unless_forced() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["audit", "orders"]).await?;
    let mut only = Locks::register(&world, "relay-1").await?;
    only.take(&["audit", "orders"]).await?;

    for validate_only in [true, false] {
        let request = DrainRequest {
            validate_only,
            ..drain("relay-1")
        };
        let status = drained(&world, request).await.unwrap_err();
        ensure!(status.code() == Code::FailedPrecondition, "{status}");
        ensure!(status.message().contains("audit, orders"), "{status}");
        ensure!(hint(&status).contains("--force"), "{status:?}");
    }
    let listed = world
        .operations()
        .list_operations(ListOperationsRequest::default())
        .await?;
    ensure!(
        listed.into_inner().operations.is_empty(),
        "a refused drain was recorded"
    );

    let forced = drained(
        &world,
        DrainRequest {
            force: true,
            ..drain("relay-1")
        },
    )
    .await?;
    let begun = operation(forced.operation)?;
    ensure!(begun.state == OperationState::Running && begun.actor == "ana");
    // What is blocked says so, and how to unblock it.
    let id = begun.id.to_string();
    let got = world
        .operations()
        .get_operation(GetOperationRequest { id })
        .await?
        .into_inner();
    ensure!(got.steps.len() == 2, "{got:?}");
    for step in got.steps {
        ensure!(step.progress() == StepProgress::Blocked, "{step:?}");
        ensure!(step.hint.contains("tidectl undrain relay-1"), "{step:?}");
    }
    // Asking again is not refused: it is the same drain.
    let again = drained(&world, drain("relay-1")).await?;
    ensure!(operation(again.operation)?.id == begun.id);
    Ok(())
}

#[tokio::test]
async fn draining_an_agent_that_is_not_running_is_safe_to_stop_at_once() -> Result<()> {
    let world = World::start().await?;
    Locks::register(&world, "relay-1").await?.stop().await?;
    let response = drained(&world, drain("relay-1")).await?;
    ensure!(response.plan.is_empty());
    let wire = response.operation.context("no operation")?;
    ensure!(wire.safe_to_stop, "{wire:?}");
    ensure!(operation(Some(wire))?.state == OperationState::Succeeded);
    Ok(())
}

#[tokio::test]
async fn an_unknown_agent_is_not_found_and_the_closest_one_suggested() -> Result<()> {
    let world = World::start().await?;
    let _relay = Locks::register(&world, "relay-1").await?;
    let status = drained(&world, drain("rely-1")).await.unwrap_err();
    ensure!(status.code() == Code::NotFound, "{status}");
    ensure!(
        status.message().contains(r#"did you mean "relay-1"?"#),
        "{status}"
    );
    ensure!(hint(&status).contains("tidectl agent list"), "{status:?}");
    let status = world
        .operations()
        .undrain(undrain("rely-1"))
        .await
        .unwrap_err();
    ensure!(status.code() == Code::NotFound, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_drain_goes_on_until_it_is_observed_complete() -> Result<()> {
    let world = World::start().await?;
    let (mut one, two) = two_agents(&world).await?;
    let mut reporter = Reporter::connect(&world, &two).await?;

    let validated = drained(
        &world,
        DrainRequest {
            validate_only: true,
            ..drain("relay-1")
        },
    )
    .await?;
    ensure!(
        validated.operation.is_none() && validated.plan.len() == 2,
        "{validated:?}"
    );
    ensure!(
        validated.plan.iter().all(|planned| planned.to == "relay-2"),
        "{validated:?}"
    );

    let begun = operation(drained(&world, drain("relay-1")).await?.operation)?;
    ensure!(begun.state == OperationState::Running);
    // Every agent is told to look.
    while !matches!(reporter.next().await?, Down::Nudge(_)) {}

    let id = begun.id.to_string();
    let request = WatchOperationRequest { id: id.clone() };
    let mut watch = world
        .operations()
        .watch_operation(request)
        .await?
        .into_inner();
    let first = timeout(SOON, watch.message()).await??.context("ended")?;
    ensure!(first.steps.len() == 2, "{first:?}");
    ensure!(
        first
            .steps
            .iter()
            .all(|step| step.progress() == StepProgress::Progressing)
    );

    one.obey_drain().await?;
    // Nobody asks from here on but the control plane itself.
    let mut last = first;
    while let Some(next) = timeout(SOON, watch.message()).await?? {
        last = next;
    }
    let ended = last.operation.clone().context("no operation")?;
    ensure!(ended.safe_to_stop && last.steps.is_empty(), "{last:?}");
    world
        .fleet_view("DRAINED", |view| state_of(view) == "DRAINED")
        .await?;

    let undrained = world
        .operations()
        .undrain(undrain("relay-1"))
        .await?
        .into_inner();
    ensure!(operation(undrained.operation)?.state == OperationState::Succeeded);
    let status = world
        .operations()
        .undrain(undrain("relay-1"))
        .await
        .unwrap_err();
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    ensure!(status.message().contains("is not drained"), "{status}");
    Ok(())
}

#[tokio::test]
async fn the_control_plane_settles_what_nobody_watches() -> Result<()> {
    let world = World::start().await?;
    let (mut one, _two) = two_agents(&world).await?;
    operation(drained(&world, drain("relay-1")).await?.operation)?;
    one.obey_drain().await?;
    let mut client = world.operations();
    // Listing reads what is recorded and settles nothing.
    eventually(SOON, "the end of the drain", async || -> Result<_> {
        let listed = client
            .list_operations(ListOperationsRequest::default())
            .await?
            .into_inner();
        let state = operation(listed.operations.first().cloned())?.state;
        Ok((state == OperationState::Succeeded).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_cancelled_drain_leaves_the_agent_working() -> Result<()> {
    let world = World::start().await?;
    let (_one, _two) = two_agents(&world).await?;
    let begun = operation(drained(&world, drain("relay-1")).await?.operation)?;
    let cancel = CancelOperationRequest {
        id: begun.id.to_string(),
        actor: "bob".to_owned(),
    };
    for _ in 0..2 {
        let response = world
            .operations()
            .cancel_operation(cancel.clone())
            .await?
            .into_inner();
        let cancelled = operation(response.operation)?;
        ensure!(
            cancelled.state == OperationState::Cancelled,
            "{cancelled:?}"
        );
        ensure!(
            cancelled.outcome.as_deref() == Some("cancelled by bob"),
            "{cancelled:?}"
        );
    }
    world
        .fleet_view("ACTIVE", |view| state_of(view) == "ACTIVE")
        .await?;
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned();
    let cancel = CancelOperationRequest { id, ..cancel };
    let status = world
        .operations()
        .cancel_operation(cancel)
        .await
        .unwrap_err();
    ensure!(status.code() == Code::NotFound, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_move_needs_a_pipeline_and_an_agent_that_takes_it() -> Result<()> {
    let world = World::start().await?;
    let (_one, two) = two_agents(&world).await?;
    Locks::register(&world, "relay-3").await?.stop().await?;
    let refused = async |request| world.operations().r#move(request).await.unwrap_err();

    let status = refused(moving("order", "relay-2")).await;
    ensure!(status.code() == Code::NotFound, "{status}");
    ensure!(
        status.message().contains(r#"did you mean "orders"?"#),
        "{status}"
    );
    let status = refused(moving("orders", "relay-9")).await;
    ensure!(status.code() == Code::NotFound, "{status}");
    let status = refused(moving("orders", "relay-3")).await;
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    ensure!(
        status.message().contains("relay-3 is not running"),
        "{status}"
    );

    let response = world
        .operations()
        .r#move(moving("orders", "relay-2"))
        .await?
        .into_inner();
    let begun = operation(response.operation)?;
    ensure!(begun.state == OperationState::Running && begun.target == "orders");
    world
        .fleet_view("the placement", |view| {
            let two = Some(&two.name);
            view.pipelines.iter().any(|pipeline| {
                pipeline.placement.as_ref() == two && pipeline.moving_to.as_ref() == two
            })
        })
        .await?;

    drained(&world, drain("relay-2")).await?;
    let status = refused(moving("audit", "relay-2")).await;
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    ensure!(
        hint(&status).contains("tidectl undrain relay-2"),
        "{status:?}"
    );
    Ok(())
}

#[tokio::test]
async fn fields_that_make_no_sense_are_named() -> Result<()> {
    let world = World::start().await?;
    let invalid = |status: Status, field: &str| {
        ensure!(status.code() == Code::InvalidArgument, "{status}");
        ensure!(
            status.message().contains(&format!("field {field}")),
            "{status}"
        );
        Ok(())
    };
    let mut client = world.operations();
    let request = DrainRequest {
        actor: String::new(),
        ..drain("relay-1")
    };
    invalid(client.drain(request).await.unwrap_err(), "actor")?;
    invalid(client.drain(drain("two words")).await.unwrap_err(), "agent")?;
    let deadline = Some(tide_proto::convert::duration_seconds(0.0));
    let request = DrainRequest {
        deadline,
        ..drain("relay-1")
    };
    invalid(client.drain(request).await.unwrap_err(), "deadline")?;
    let request = GetOperationRequest {
        id: "one".to_owned(),
    };
    invalid(client.get_operation(request).await.unwrap_err(), "id")?;
    invalid(
        client
            .apply_rebalance(rebalance(Vec::new()))
            .await
            .unwrap_err(),
        "moves",
    )?;
    let twice = vec![planned("a", "x", "y"), planned("a", "x", "z")];
    invalid(
        client.apply_rebalance(rebalance(twice)).await.unwrap_err(),
        "moves",
    )?;
    let both = ApplyRebalanceRequest {
        plan_id: uuid::Uuid::nil().to_string(),
        ..rebalance(vec![planned("a", "x", "y")])
    };
    invalid(client.apply_rebalance(both).await.unwrap_err(), "plan_id")?;
    let nonsense = ApplyRebalanceRequest {
        plan_id: "one".to_owned(),
        ..rebalance(Vec::new())
    };
    invalid(
        client.apply_rebalance(nonsense).await.unwrap_err(),
        "plan_id",
    )?;
    let request = ListOperationsRequest {
        page_token: "?".to_owned(),
        page_size: 0,
    };
    invalid(
        client.list_operations(request).await.unwrap_err(),
        "page_token",
    )?;
    Ok(())
}

#[tokio::test]
async fn pages_hold_every_operation_once_newest_first() -> Result<()> {
    let world = World::start().await?;
    let mut begun = Vec::new();
    for name in ["relay-1", "relay-2", "relay-3", "relay-4", "relay-5"] {
        Locks::register(&world, name).await?.stop().await?;
        begun.push(operation(drained(&world, drain(name)).await?.operation)?.id);
    }
    begun.reverse();
    let mut listed = Vec::new();
    let mut request = ListOperationsRequest {
        page_size: 2,
        page_token: String::new(),
    };
    let mut sizes = Vec::new();
    loop {
        let page = world
            .operations()
            .list_operations(request.clone())
            .await?
            .into_inner();
        sizes.push(page.operations.len());
        for wire in page.operations {
            listed.push(operation(Some(wire))?.id);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    ensure!(sizes == [2, 2, 1], "{sizes:?}");
    ensure!(listed == begun, "{listed:?} {begun:?}");
    Ok(())
}
