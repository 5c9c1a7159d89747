//! The database goes away and comes back.

use anyhow::{Context as _, Result, ensure};
use tide_model::fleet::FleetView;
use tide_proto::fleet::v1::{DrainRequest, GetFleetRequest, ListOperationsRequest};
use tide_sandbox::{postgres::Mode, wait::eventually};
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::world::{Locks, SOON, World, state_of};

async fn operations_serve(world: &World, expected: ServingStatus) -> Result<()> {
    let mut client = HealthClient::new(world.channel());
    eventually(SOON, "the health of operations", async || -> Result<_> {
        let service = "tide.fleet.v1.OperationService".to_owned();
        let status = client
            .check(HealthCheckRequest { service })
            .await?
            .into_inner()
            .status();
        Ok((status == expected).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_last_view_is_served_while_the_database_is_away() -> Result<()> {
    let mut world = World::start().await?;
    world.pipelines(&["orders"]).await?;
    let locks = Locks::register(&world, "relay-1").await?;
    let seen = world
        .fleet_view("the agent and the pipeline", |view| {
            view.agents.len() == 1 && view.pipelines.len() == 1
        })
        .await?;
    drop(locks);

    world.postgres.stop_immediate().await?;
    operations_serve(&world, ServingStatus::NotServing).await?;
    let response = world.fleet().get_fleet(GetFleetRequest {}).await?;
    let fleet = FleetView::try_from(response.into_inner().fleet.context("no fleet")?)?;
    ensure!(fleet.agents.len() == 1 && fleet.pipelines.len() == 1);
    ensure!(fleet.database_at >= seen.database_at);
    let drain = DrainRequest {
        agent: "relay-1".to_owned(),
        actor: "ana".to_owned(),
        ..DrainRequest::default()
    };
    let status = world.operations().drain(drain).await.unwrap_err();
    ensure!(status.code() == Code::Unavailable, "{status}");

    world.postgres.restart(Mode::Fast).await?;
    operations_serve(&world, ServingStatus::Serving).await?;
    world
        .fleet_view("the crash", |view| state_of(view) == "LOST")
        .await?;
    world
        .operations()
        .list_operations(ListOperationsRequest::default())
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_restart_of_the_database_breaks_no_command() -> Result<()> {
    let mut world = World::start().await?;
    // Several sessions are idle when the server restarts.
    let client = world.operations();
    let listed = (0..6).map(|_| {
        let mut client = client.clone();
        async move {
            client
                .list_operations(ListOperationsRequest::default())
                .await
        }
    });
    for answer in futures_util::future::join_all(listed).await {
        answer?;
    }
    world.postgres.restart(Mode::Fast).await?;
    for _ in 0..6 {
        world
            .operations()
            .list_operations(ListOperationsRequest::default())
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_is_seen_before_the_next_look() -> Result<()> {
    let world = World::start().await?;
    world
        .fleet_view("an empty fleet", |view| view.pipelines.is_empty())
        .await?;
    let began = Instant::now();
    // Fifty changes, each noticed on its own, would take fifty looks a second apart.
    world.pipelines(&["p-0"]).await?;
    for number in 0..50 {
        let mut connection = world.connection().await?;
        let name = format!("p-{number}");
        let config = serde_json::json!({"sink_type": "null", "n": number});
        tide_catalog::pipelines::pipeline_set(&mut connection, &name, "shop", &config).await?;
        world
            .fleet_view("the pipeline", |view| view.pipelines.len() > number)
            .await?;
    }
    ensure!(began.elapsed() < SOON, "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_frozen_database_keeps_nobody_waiting() -> Result<()> {
    let world = World::start().await?;
    let _locks = Locks::register(&world, "relay-1").await?;
    world
        .fleet_view("the agent", |view| view.agents.len() == 1)
        .await?;
    world.postgres.freeze()?;
    let began = Instant::now();
    let request = ListOperationsRequest::default();
    let status = world
        .operations()
        .list_operations(request)
        .await
        .unwrap_err();
    ensure!(status.code() == Code::Unavailable, "{status}");
    ensure!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    let view = world
        .fleet()
        .get_fleet(GetFleetRequest {})
        .await?
        .into_inner();
    ensure!(view.fleet.context("no fleet")?.agents.len() == 1);

    world.postgres.thaw()?;
    operations_serve(&world, ServingStatus::Serving).await?;
    let request = ListOperationsRequest::default();
    world.operations().list_operations(request).await?;
    Ok(())
}
