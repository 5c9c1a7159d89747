//! Reading the fleet, and what every server owes its clients: health, reflection, metrics.

use anyhow::{Context as _, Result, ensure};
use tide_model::fleet::FleetView;
use tide_proto::fleet::v1::{
    FleetDelta, GetAgentRequest, GetFleetRequest, GetPipelineRequest, ListAgentsRequest,
    ListPipelinesRequest, WatchFleetRequest, WatchFleetResponse, watch_fleet_response::Event,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::world::{Locks, SOON, World, hint};

async fn event(watch: &mut Streaming<WatchFleetResponse>) -> Result<Event> {
    let response = timeout(SOON, watch.message()).await??;
    response
        .context("the watch ended")?
        .event
        .context("no event")
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_goes_on_with_what_changes() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["orders"]).await?;
    let mut watch = world
        .fleet()
        .watch_fleet(WatchFleetRequest::default())
        .await?
        .into_inner();
    let Event::Snapshot(snapshot) = event(&mut watch).await? else {
        anyhow::bail!("no snapshot first");
    };
    let mut view = FleetView::try_from(snapshot)?;

    let mut locks = Locks::register(&world, "relay-1").await?;
    locks.take(&["orders"]).await?;
    let mut follow = async |accept: fn(&FleetView) -> bool| -> Result<Vec<FleetDelta>> {
        let mut deltas = Vec::new();
        while !accept(&view) {
            let Event::Delta(delta) = event(&mut watch).await? else {
                anyhow::bail!("a second snapshot");
            };
            deltas.push(delta.clone());
            view = delta.apply(&view)?;
        }
        Ok(deltas)
    };
    follow(|view| {
        view.agents
            .iter()
            .any(|agent| agent.state.as_str() == "ACTIVE")
            && view
                .pipelines
                .iter()
                .any(|pipeline| pipeline.owner.is_some())
    })
    .await?;
    drop(locks);
    let deltas = follow(|view| {
        view.agents
            .iter()
            .any(|agent| agent.state.as_str() == "LOST")
    });
    ensure!(!deltas.await?.is_empty());
    // What the deltas add up to is what somebody sees who asks now.
    let last = view.clone();
    let now = world
        .fleet_view("the same", |now| {
            FleetView {
                database_at: last.database_at,
                revision: last.revision,
                ..now.clone()
            } == last
        })
        .await?;
    ensure!(now.agents.len() == 1);
    Ok(())
}

#[tokio::test]
async fn a_stop_ends_watches_and_says_so() -> Result<()> {
    let world = World::start().await?;
    let mut watch = world
        .fleet()
        .watch_fleet(WatchFleetRequest::default())
        .await?
        .into_inner();
    event(&mut watch).await?;
    let (exit, ended) = tokio::join!(world.stop(), async {
        loop {
            if let Err(error) = event(&mut watch).await {
                return error;
            }
        }
    });
    ensure!(exit? == tide_daemon::Exit::Clean);
    let status: tonic::Status = ended.downcast()?;
    ensure!(status.code() == Code::Unavailable, "{status}");
    ensure!(!hint(&status).is_empty(), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn lists_come_in_pages_by_name() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["b", "C", "a", "d"]).await?;
    let mut relays = Vec::new();
    for name in ["relay-2", "relay-1", "relay-3"] {
        relays.push(Locks::register(&world, name).await?);
    }
    relays[1].take(&["d", "b"]).await?;
    world
        .fleet_view("all of them", |view| {
            view.agents.len() == 3
                && view
                    .pipelines
                    .iter()
                    .filter(|pipeline| pipeline.owner.is_some())
                    .count()
                    == 2
        })
        .await?;

    let mut client = world.fleet();
    let first = ListAgentsRequest {
        page_size: 2,
        page_token: String::new(),
    };
    let first = client.list_agents(first).await?.into_inner();
    let second = ListAgentsRequest {
        page_size: 2,
        page_token: first.next_page_token.clone(),
    };
    let second = client.list_agents(second).await?.into_inner();
    let agents = first.agents.iter().chain(&second.agents);
    let names: Vec<&str> = agents.map(|agent| agent.name.as_str()).collect();
    ensure!(names == ["relay-1", "relay-2", "relay-3"], "{names:?}");
    ensure!(!first.next_page_token.is_empty() && second.next_page_token.is_empty());

    let names = async |owner: &str| -> Result<Vec<String>, tonic::Status> {
        let request = ListPipelinesRequest {
            owner: owner.to_owned(),
            ..Default::default()
        };
        let listed = world.fleet().list_pipelines(request).await?.into_inner();
        Ok(listed
            .pipelines
            .into_iter()
            .map(|pipeline| pipeline.name)
            .collect())
    };
    ensure!(names("").await? == ["C", "a", "b", "d"]);
    ensure!(names("relay-1").await? == ["b", "d"]);
    ensure!(names("relay-2").await?.is_empty());
    let status = names("relay-4").await.unwrap_err();
    ensure!(status.code() == Code::NotFound, "{status}");

    let agent = client
        .get_agent(GetAgentRequest {
            name: "relay-1".to_owned(),
        })
        .await?
        .into_inner();
    ensure!(agent.agent.context("no agent")?.pipelines == 2 && agent.pipelines.len() == 2);
    let status = client
        .get_agent(GetAgentRequest {
            name: "relay1".to_owned(),
        })
        .await
        .unwrap_err();
    ensure!(
        status.message().contains("did you mean \"relay-1\"?"),
        "{status}"
    );
    let request = GetPipelineRequest {
        name: "d".to_owned(),
    };
    let pipeline = client.get_pipeline(request).await?.into_inner().pipeline;
    ensure!(pipeline.context("no pipeline")?.owner == "relay-1");
    let request = GetPipelineRequest {
        name: "e".to_owned(),
    };
    ensure!(client.get_pipeline(request).await.unwrap_err().code() == Code::NotFound);
    Ok(())
}

#[tokio::test]
async fn every_service_reports_its_health() -> Result<()> {
    let world = World::start().await?;
    let mut client = HealthClient::new(world.channel());
    for service in [
        "",
        "tide.agent.v1.AgentService",
        "tide.fleet.v1.FleetService",
        "tide.fleet.v1.OperationService",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = client.check(request).await?.into_inner().status();
        ensure!(status == ServingStatus::Serving, "{service}");
    }
    Ok(())
}

macro_rules! lists_services {
    ($world:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = |message| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let requests = [
            request(MessageRequest::ListServices(String::new())),
            request(MessageRequest::FileContainingSymbol(
                "tide.fleet.v1.OperationService".to_owned(),
            )),
        ];
        let mut client = ServerReflectionClient::new($world.channel());
        let requests = tokio_stream::iter(requests);
        let mut answers = client.server_reflection_info(requests).await?.into_inner();
        let listed = answers
            .message()
            .await?
            .context("no answer")?
            .message_response;
        let Some(MessageResponse::ListServicesResponse(listed)) = listed else {
            anyhow::bail!("{listed:?}");
        };
        let file = answers
            .message()
            .await?
            .context("no answer")?
            .message_response;
        ensure!(
            matches!(file, Some(MessageResponse::FileDescriptorResponse(_))),
            "{file:?}"
        );
        listed
            .service
            .into_iter()
            .map(|service| service.name)
            .collect::<Vec<_>>()
    }};
}

#[tokio::test]
async fn clients_can_ask_what_there_is() -> Result<()> {
    let world = World::start().await?;
    for services in [lists_services!(world, v1), lists_services!(world, v1alpha)] {
        for service in [
            "tide.agent.v1.AgentService",
            "tide.fleet.v1.FleetService",
            "tide.fleet.v1.OperationService",
            "grpc.health.v1.Health",
        ] {
            ensure!(
                services.iter().any(|name| name == service),
                "{service}: {services:?}"
            );
        }
    }
    Ok(())
}

async fn http(world: &World, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(world.http_addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn metrics_and_probes_are_served() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["orders"]).await?;
    let _watch = world
        .fleet()
        .watch_fleet(WatchFleetRequest::default())
        .await?;
    let request = GetAgentRequest {
        name: "nobody".to_owned(),
    };
    world.fleet().get_agent(request).await.unwrap_err();
    world
        .fleet_view("the pipeline", |view| view.pipelines.len() == 1)
        .await?;
    for path in ["/livez", "/readyz", "/health"] {
        let answer = http(&world, path).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let metrics = http(&world, "/metrics").await?;
    for line in [
        "tide_control_plane_agents{state=\"ACTIVE\"} 0",
        "tide_control_plane_pipelines{state=\"unowned\"} 1",
        "tide_control_plane_unowned_pipelines 1",
        "tide_control_plane_running_operations 0",
        "tide_control_plane_watchers 1",
        "tide_control_plane_database_age_seconds ",
        "tide_control_plane_reports_total{kind=\"goodbye\"} 0",
        "tide_control_plane_requests_total{method=\"Drain\",code=\"Ok\"} 0",
        "tide_control_plane_requests_total{method=\"GetAgent\",code=\"NotFound\"} 1",
        "tide_control_plane_requests_total{method=\"WatchFleet\",code=\"Ok\"} 1",
    ] {
        ensure!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    Ok(())
}

/// Complaint 19: two commands disagree, and nobody can tell which of them is newer.
#[tokio::test]
async fn answers_of_one_revision_agree() -> Result<()> {
    let world = World::start().await?;
    world.pipelines(&["a", "b", "c"]).await?;
    let mut locks = Locks::register(&world, "relay-1").await?;
    locks.take(&["a", "b"]).await?;
    let mut client = world.fleet();
    let agreed = tide_sandbox::wait::eventually(SOON, "two answers of one revision", async || {
        let fleet = client.get_fleet(GetFleetRequest {}).await?.into_inner();
        let fleet = fleet.fleet.context("no fleet")?;
        let agent = client
            .get_agent(GetAgentRequest {
                name: "relay-1".to_owned(),
            })
            .await?
            .into_inner();
        let listed = client
            .list_agents(ListAgentsRequest::default())
            .await?
            .into_inner();
        let pipelines = client
            .list_pipelines(ListPipelinesRequest::default())
            .await?
            .into_inner();
        let revisions = [agent.revision, listed.revision, pipelines.revision];
        if fleet.revision == 0 || revisions.iter().any(|revision| *revision != fleet.revision) {
            return Ok(None);
        }
        ensure!(fleet.agents == listed.agents && fleet.pipelines == pipelines.pipelines);
        ensure!(agent.agent.as_ref() == fleet.agents.first());
        Ok::<_, anyhow::Error>(Some(agent.pipelines.len()))
    })
    .await?;
    ensure!(agreed <= 2);
    Ok(())
}
