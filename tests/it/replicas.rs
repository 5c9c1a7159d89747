//! Several control planes: one is active, the others name it and take over.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tide_model::{OperationId, fleet::FleetView, operation::OperationState};
use tide_proto::fleet::v1::{
    DrainRequest, DrainResponse, GetFleetRequest, GetOperationRequest, WatchFleetRequest,
};
use tide_sandbox::{
    http::{Behaviour, Outcome, Receiver, Request},
    wait::eventually,
};
use tide_tests::{
    Fleet, FleetOptions, SOON, by_hand::publish, command::run, proof, replica::Replica,
};
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Longer than any scenario: whatever happens sooner was not the lease's doing.
const LONG: Duration = Duration::from_mins(5);

/// Two control planes, the first of them active, and agents that know both.
async fn two(agents: usize, lease: Duration) -> Result<(Fleet, Replica, Replica)> {
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let active = Replica::start(&fleet, "control-a", lease).await?;
    let standby = Replica::start(&fleet, "control-b", lease).await?;
    let both = format!("{},{}", active.url(), standby.url());
    for number in 1..=agents {
        let spec = fleet.spec(&format!("relay-{number}"));
        fleet.start_as(spec.with("--control-plane", &both)).await?;
    }
    Ok((fleet, active, standby))
}

async fn serving(replica: &Replica, service: &str) -> Result<ServingStatus> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(replica.channel()?).check(request).await?;
    Ok(answer.into_inner().status())
}

async fn view(replica: &Replica) -> Result<FleetView> {
    let answer = replica.fleet()?.get_fleet(GetFleetRequest {}).await?;
    Ok(FleetView::try_from(
        answer.into_inner().fleet.context("no fleet")?,
    )?)
}

/// Waits until so many agents report to a replica.
async fn wait_for_agents(replica: &Replica, agents: usize) -> Result<FleetView> {
    let seen = eventually(SOON, "the agents to report", async || -> Result<_> {
        let view = view(replica).await?;
        let reporting = view.agents.iter().filter(|agent| agent.reporting).count();
        ensure!(reporting == agents, "{reporting} report: {view:?}");
        Ok(Some(view))
    });
    Ok(seen.await?)
}

async fn wait_for_active(replica: &Replica) -> Result<()> {
    let what = format!("{} to be the active one", replica.process.name());
    eventually(SOON, what, async || {
        Ok::<_, anyhow::Error>(replica.is_active().await?.then_some(()))
    })
    .await
    .with_context(|| replica.process.log_tail(20))?;
    Ok(())
}

async fn drain(replica: &Replica, agent: &str) -> Result<OperationId> {
    let request = DrainRequest {
        agent: agent.to_owned(),
        actor: "scenario".to_owned(),
        ..DrainRequest::default()
    };
    let answer: DrainResponse = replica.operations()?.drain(request).await?.into_inner();
    Ok(answer.operation.context("no operation")?.id.parse()?)
}

/// Fails unless the replica refuses everything and names the other.
async fn refuses_for(standby: &Replica, active: &Replica) -> Result<()> {
    let read = standby.fleet()?.get_fleet(GetFleetRequest {}).await.err();
    let watch = standby
        .fleet()?
        .watch_fleet(WatchFleetRequest::default())
        .await
        .err();
    let request = DrainRequest {
        agent: "relay-1".to_owned(),
        actor: "scenario".to_owned(),
        ..DrainRequest::default()
    };
    let command = standby.operations()?.drain(request).await.err();
    for refusal in [read, watch, command] {
        let refusal = refusal.context("a standby answered")?;
        ensure!(refusal.code() == Code::Unavailable, "{refusal}");
        ensure!(refusal.message().contains(&active.url()), "{refusal}");
        let leader: Option<&MetadataValue<Ascii>> = refusal.metadata().get("tide-leader");
        ensure!(leader.context("nobody is named")?.to_str()? == active.url());
    }
    Ok(())
}

async fn tidectl(replica: &Replica, words: &[&str]) -> Result<String> {
    let url = replica.url();
    let environment = [("TIDE_CONTROL_PLANE", url.as_str())];
    let words = [words, &["--source", "control-plane"]].concat();
    let finished = run("tidectl", &words, &environment, SOON).await?;
    ensure!(finished.code == Some(0), "{finished:?}");
    Ok(finished.stdout)
}

#[tokio::test]
async fn a_standby_is_healthy_refuses_and_names_the_active_one() -> Result<()> {
    // GIVEN two control planes, and an agent that knows only the standby
    let (mut fleet, active, standby) = two(0, LONG).await?;
    let spec = fleet
        .spec("relay-1")
        .with("--control-plane", &standby.url());
    fleet.start_as(spec).await?;
    // THEN the standby is alive and ready, and says which it is
    for page in ["/livez", "/readyz", "/health"] {
        ensure!(standby.get(page).await?.status == 200, "{page}");
    }
    let health = standby.get("/health").await?.body;
    ensure!(
        health.contains("standby") && health.contains(&active.url()),
        "{health}"
    );
    ensure!(active.get("/health").await?.body.contains("\"active\""));
    ensure!(active.is_active().await? && !standby.is_active().await?);
    for (replica, fleet_service) in [
        (&active, ServingStatus::Serving),
        (&standby, ServingStatus::NotServing),
    ] {
        ensure!(serving(replica, "").await? == ServingStatus::Serving);
        let status = serving(replica, "tide.fleet.v1.FleetService").await?;
        ensure!(status == fleet_service, "{status:?}");
    }
    // and it refuses everything with the address of the active one
    refuses_for(&standby, &active).await?;
    // which agents and tidectl follow
    wait_for_agents(&active, 1).await?;
    let shown = tidectl(&standby, &["fleet", "status"]).await?;
    ensure!(
        shown.contains("relay-1") && shown.contains(&active.url()),
        "{shown}"
    );
    Ok(())
}

#[tokio::test]
async fn an_agent_finds_the_active_one_through_the_database() -> Result<()> {
    let (mut fleet, active, _standby) = two(0, LONG).await?;
    // GIVEN an agent that was told no address, and one whose only address is dead
    for (agent, told) in [("relay-1", "auto"), ("relay-2", "http://127.0.0.1:1")] {
        let spec = fleet.spec(agent).with("--control-plane", told);
        fleet.start_as(spec).await?;
    }
    // THEN both report to the active one
    wait_for_agents(&active, 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_active_one_is_replaced_and_everybody_follows() -> Result<()> {
    // GIVEN a lease that plays no part
    let (mut fleet, mut active, standby) = two(2, Duration::from_secs(3)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    wait_for_agents(&active, 2).await?;
    // WHEN the active one is killed
    active.process.kill9()?;
    // THEN the other one takes over, with what the agents tell it
    wait_for_active(&standby).await?;
    wait_for_agents(&standby, 2).await?;
    eventually(
        SOON,
        "what the database and the agents say to fit",
        async || {
            let view = view(&standby).await?;
            let unowned = view.unowned().count();
            ensure!(view.pipelines.len() == 4 && unowned == 0, "{view:?}");
            Ok::<_, anyhow::Error>(Some(()))
        },
    )
    .await?;
    let shown = tidectl(&standby, &["agent", "ls"]).await?;
    ensure!(
        shown.contains("relay-1") && shown.contains("relay-2"),
        "{shown}"
    );
    // and no message has noticed
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_farewell_hands_the_lead_over_at_once() -> Result<()> {
    // GIVEN replicas that look for each other every hundred seconds only
    let (fleet, mut active, standby) = two(1, LONG).await?;
    wait_for_agents(&active, 1).await?;
    // WHEN the active one is told to stop
    let status = active.stop().await?;
    ensure!(status.success(), "{status}");
    // THEN the other one leads because it was told so
    wait_for_active(&standby).await?;
    wait_for_agents(&standby, 1).await?;
    let epochs: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT detail ->> 'epoch') FROM tide.events WHERE kind = 'leader.elected' AND subject = 'control_plane'",
    )
    .fetch_one(fleet.pool())
    .await?;
    ensure!(epochs == 2, "{epochs} terms");
    Ok(())
}

#[tokio::test]
async fn a_frozen_active_one_loses_the_lead_and_refuses_once_it_thaws() -> Result<()> {
    let (_fleet, mut active, standby) = two(1, Duration::from_secs(2)).await?;
    wait_for_agents(&active, 1).await?;
    // WHEN the active one is frozen THEN the server ends its session and the other one leads
    active.process.freeze()?;
    wait_for_active(&standby).await?;
    wait_for_agents(&standby, 1).await?;
    // WHEN it goes on THEN it believes in itself no more, and names the other
    active.process.thaw()?;
    eventually(SOON, "the former one to step down", async || {
        refuses_for(&active, &standby).await.map(Some)
    })
    .await?;
    ensure!(!active.is_active().await? && standby.is_active().await?);
    Ok(())
}

#[tokio::test]
async fn a_drain_goes_on_through_the_death_of_the_control_plane_that_accepted_it() -> Result<()> {
    // GIVEN an agent that cannot let go: what it has on the wire is not answered
    let (mut fleet, mut active, standby) = two(2, Duration::from_secs(3)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.script("/hook", [Behaviour::Hang]);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    let message = fleet.drafts.draw("events", "k");
    publish(&mut *fleet.connection().await?, &message).await?;
    let hangs = |requests: &[Request]| requests.iter().any(|r| r.outcome == Outcome::Pending);
    receiver
        .wait_until(SOON, "a request to hang", hangs)
        .await?;
    wait_for_agents(&active, 2).await?;
    let owners = fleet.owners().await?;
    let agent = &owners["hook"].agent;
    // WHEN it is drained, and the control plane that accepted that dies
    let operation = drain(&active, agent).await?;
    active.process.kill9()?;
    wait_for_active(&standby).await?;
    // THEN the other one knows of it and sees it through
    let state = async || -> Result<OperationState> {
        let request = GetOperationRequest {
            id: operation.to_string(),
        };
        let answer = standby.operations()?.get_operation(request).await?;
        let operation = answer.into_inner().operation.context("no operation")?;
        Ok(tide_model::operation::Operation::try_from(operation)?.state)
    };
    ensure!(state().await? == OperationState::Running);
    receiver.release();
    eventually(SOON, "the drain to end", async || {
        let state = state().await?;
        ensure!(state == OperationState::Succeeded, "{state}");
        Ok(Some(()))
    })
    .await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}
