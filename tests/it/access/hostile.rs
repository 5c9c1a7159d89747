//! What is too large, makes no sense, or never ends: refused, and nobody else notices.

use anyhow::{Context as _, Result, ensure};
use tide_proto::fleet::v1::{
    ListAgentsRequest, MoveRequest, fleet_service_client::FleetServiceClient,
    operation_service_client::OperationServiceClient,
};
use tide_tests::{Fleet, FleetOptions, SOON, replica::Replica};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::{Guarded, LEASE, web};

fn with_token<T>(message: T, token: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

fn request_of(agent: &str) -> MoveRequest {
    MoveRequest {
        pipeline: "orders".to_owned(),
        to: agent.to_owned(),
        ..MoveRequest::default()
    }
}

#[tokio::test]
async fn oversized_and_malformed_messages_are_refused_and_hurt_nobody() -> Result<()> {
    // GIVEN a control plane that asks who is there, and somebody who may command it
    let mut guarded = Guarded::start(1, &[("otto", "operator", "do", "")]).await?;
    let channel = guarded.channel().await?;
    let mut operations = OperationServiceClient::new(channel.clone());
    // THEN a message beyond the limit is not read
    let large = MoveRequest {
        reason: "x".repeat(5 << 20),
        ..request_of("relay-1")
    };
    let refused = operations.r#move(with_token(large, "do")?).await;
    let refused = refused.err().context("5 MB were accepted")?;
    ensure!(refused.code() == Code::OutOfRange, "{refused:?}");
    // Fields that are too long, or hold what no text holds, are named.
    for (request, field) in [
        (
            MoveRequest {
                reason: "x".repeat(3_000),
                ..request_of("relay-1")
            },
            "reason",
        ),
        (
            MoveRequest {
                reason: "a\0b".to_owned(),
                ..request_of("relay-1")
            },
            "reason",
        ),
        (request_of(&"x".repeat(1_000)), "to"),
        (request_of("re lay"), "to"),
    ] {
        let refused = operations.r#move(with_token(request, "do")?).await;
        let refused = refused.err().context("nonsense was accepted")?;
        ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
        ensure!(
            refused.message().contains(&format!("field {field}")),
            "{refused:?}"
        );
    }
    // Bytes that are no message, half a message, and a message that claims to be longer than it is.
    let client = web::client(&guarded.authority.ca())?;
    let url = guarded.replica.url();
    let nonsense: [(&[u8], &str); 3] = [
        (&[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], "13"),
        (&[0, 0, 0], "13"),
        (&[0, 0xff, 0xff, 0xff, 0xff, 1], "11"),
    ];
    for (body, code) in nonsense {
        for content_type in ["application/grpc", "application/grpc-web+proto"] {
            let path = "/tide.fleet.v1.OperationService/Move";
            let answer = web::post(&client, &url, path, content_type, "do", body);
            let answer = answer.await?;
            ensure!(
                web::status(&answer) == Some(code),
                "{body:?} {content_type}: {answer:?}"
            );
        }
    }
    // A method that is not in the table, credentials that are no text, headers without end.
    let path = "/tide.fleet.v1.OperationService/Shutdown";
    let answer = web::post(&client, &url, path, "application/grpc", "do", &[]).await?;
    ensure!(web::status(&answer) == Some("12"), "{answer:?}");
    let path = "/tide.fleet.v1.FleetService/GetFleet";
    let long = "x".repeat(5_000);
    let answer = web::post(&client, &url, path, "application/grpc", &long, &[]).await?;
    ensure!(web::status(&answer) == Some("16"), "{answer:?}");
    let endless = "x".repeat(200_000);
    let answer = web::post(&client, &url, path, "application/grpc", &endless, &[]).await;
    let refused = answer.map_or(true, |answer| answer.status != 200);
    ensure!(refused, "headers without end were read");
    // Every command that reached its service was recorded, none of them with its whole text.
    let longest: Option<i32> = sqlx::query_scalar(
        "SELECT max(length(reason) + length(subject)) FROM tide.events WHERE kind = 'command.move'",
    )
    .fetch_one(guarded.fleet.pool())
    .await?;
    ensure!(
        longest.is_some_and(|longest| longest < 5_000),
        "{longest:?}"
    );
    // And the next one is answered.
    let mut fleet = FleetServiceClient::new(channel);
    let request = with_token(ListAgentsRequest::default(), "do")?;
    ensure!(fleet.list_agents(request).await?.into_inner().agents.len() == 1);
    ensure!(guarded.replica.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn whoever_only_connects_keeps_nobody_out() -> Result<()> {
    // GIVEN
    let guarded = Guarded::start(0, &[("vera", "viewer", "see", "")]).await?;
    let address = guarded.replica.url().replace("https://", "");
    // WHEN many connect and say nothing, and others say what is no TLS
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&address).await?);
    }
    for words in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff",
        &[0xff; 4_096],
    ] {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(words).await?;
        silent.push(stream);
    }
    // THEN who has something to say is answered
    let listed = guarded
        .tidectl(&["agent", "list"], &[("TIDE_TOKEN", "see")])
        .await?;
    ensure!(listed.code == Some(0), "{listed:?}");
    // and the silent ones are let go, all of them.
    for mut stream in silent {
        let mut rest = Vec::new();
        // An end by reset is an end.
        let _ = timeout(SOON, stream.read_to_end(&mut rest))
            .await
            .context("it was kept")?;
    }
    Ok(())
}

#[tokio::test]
async fn whoever_asks_without_end_is_held_back_alone() -> Result<()> {
    // GIVEN a control plane that answers five requests a second
    let fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokens.toml");
    let tokens = [("vera", "viewer", "see", ""), ("nora", "viewer", "new", "")];
    std::fs::write(&file, super::tokens_file(&tokens))?;
    let file = file.display().to_string();
    let flags = [("--tokens", file.as_str()), ("--request-rate", "5")];
    let replica = Replica::start_with(&fleet, "control-plane", LEASE, &flags).await?;
    // WHEN one asks without a pause
    let mut client = replica.fleet()?;
    let mut held_back = None;
    for _ in 0..1_000 {
        let request = with_token(ListAgentsRequest::default(), "see")?;
        if let Err(status) = client.list_agents(request).await {
            held_back = Some(status);
            break;
        }
    }
    // THEN that one is held back, with a reason for programs and a hint for people
    let status = held_back.context("1,000 requests at once were answered")?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    ensure!(
        status.message() == "vera asks more than 5 times a second",
        "{status:?}"
    );
    let details = status.get_details_error_info().context("no details")?;
    ensure!((details.reason.as_str(), details.domain.as_str()) == ("RATE_LIMITED", "tide"));
    ensure!(
        details.metadata["hint"].contains("--request-rate"),
        "{details:?}"
    );
    // and nobody else is.
    let request = with_token(ListAgentsRequest::default(), "new")?;
    ensure!(client.list_agents(request).await.is_ok());
    let metrics = replica.get("/metrics").await?.body;
    let denied =
        tide_tests::scrape::samples(&metrics, "tide_control_plane_denied_total", "reason")?;
    ensure!(
        denied
            .get("RATE_LIMITED")
            .is_some_and(|count| *count >= 1.0),
        "{denied:?}"
    );
    Ok(())
}
