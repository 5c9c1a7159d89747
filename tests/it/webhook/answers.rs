//! What a receiver may answer.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_model::PipelineState;
use tide_model::fleet::PipelineRow;
use tide_sandbox::http::Behaviour;
use tide_tests::{Fleet, SOON, command::run, proof};
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::{FIRST, publish_some, with_secrets};

async fn resume(fleet: &Fleet, pipeline: &str) -> Result<()> {
    let url = fleet.url();
    let words = [
        "pipeline", "resume", pipeline, "--source", "database", "--actor", "ana",
    ];
    let ended = run("tidectl", &words, &[("TIDE_POSTGRES_URL", &url)], SOON).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(())
}

async fn paused(fleet: &Fleet) -> Result<PipelineRow> {
    let row = fleet.wait_for_state("hook", PipelineState::Paused).await?;
    let reason = row.state_reason.clone().unwrap_or_default();
    ensure!(
        reason.starts_with("paused by relay-1: HTTP 410"),
        "{reason}"
    );
    Ok(row)
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone_until_an_operator_says_otherwise() -> Result<()> {
    // GIVEN a pipeline whose receiver wants no more, and a neighbour
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    for pipeline in ["hook", "other"] {
        fleet
            .add_webhook_pipeline(pipeline, "events", &receiver, json!({}))
            .await?;
    }
    publish_some(&mut fleet, 1).await?;
    fleet.wait_for_deliveries("hook", 1).await?;
    receiver.script("/hook", [Behaviour::Respond(410)]);
    publish_some(&mut fleet, 2).await?;
    // THEN the pipeline is paused, says why, and asks no more, whoever owns it
    paused(&fleet).await?;
    let asked = receiver.requests().len();
    fleet.stop_agents().await?;
    fleet.start_agent("relay-2").await?;
    fleet.wait_for_deliveries("other", 3).await?;
    let row = paused(&fleet).await?;
    ensure!(row.owner.is_some_and(|owner| owner.as_str() == "relay-2"));
    let asked_since = receiver.requests()[asked..]
        .iter()
        .filter(|one| one.path == "/hook")
        .count();
    ensure!(asked_since == 0, "asked {asked_since} times more");
    // and the audit knows who did it
    let event: (String, String) = sqlx::query_as(
        "SELECT actor, reason FROM tide.events WHERE kind = 'pipeline.paused' AND subject = 'hook'",
    )
    .fetch_one(fleet.pool())
    .await?;
    ensure!(
        event == (FIRST.to_owned(), "HTTP 410".to_owned()),
        "{event:?}"
    );
    // WHEN an operator resumes it THEN everything arrives, once
    resume(&fleet, "hook").await?;
    fleet.wait_for_deliveries("hook", 3).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_receiver_may_ask_for_patience_until_a_date() -> Result<()> {
    // GIVEN a receiver that wants to be asked again three seconds later
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    // A date has no fractions of seconds.
    let at = (OffsetDateTime::now_utc() + Duration::seconds(3)).replace_nanosecond(0)?;
    receiver.script("/hook", [Behaviour::RetryAt { status: 503, at }]);
    publish_some(&mut fleet, 1).await?;
    fleet.wait_for_deliveries("hook", 1).await?;
    // THEN it is
    let requests = receiver.requests();
    ensure!(requests[0].at < at, "the machine is too slow to tell");
    ensure!(
        requests.len() == 2 && requests[1].at >= at,
        "{at}: {requests:?}"
    );
    proof::exactly_once(&fleet.settle_and_check().await?)
}

/// A server that reads a request and says this.
async fn that_says(what: &'static [u8], tasks: &mut JoinSet<()>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tasks.spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(what).await;
            // Open, so that nobody sees the end of what has none.
            kept.push(stream);
        }
    });
    Ok(url)
}

#[tokio::test]
async fn garbage_is_an_answer_too_and_the_neighbours_go_on() -> Result<()> {
    // GIVEN receivers that answer with no HTTP, with a refusal that never ends, with nothing
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    let mut tasks = JoinSet::new();
    for (pipeline, answer) in [
        ("babbles", &b"\x16\x03\x01 hello?\r\n\r\n"[..]),
        (
            "endless",
            b"HTTP/1.1 500 Oh\r\ncontent-length: 99999999999\r\n\r\n\x00\x01so sorry",
        ),
        ("hangs", b""),
    ] {
        let url = that_says(answer, &mut tasks).await?;
        let more = json!({"url": url, "timeout_ms": 500});
        fleet
            .add_webhook_pipeline(pipeline, "events", &receiver, more)
            .await?;
        fleet.disregard(pipeline);
    }
    fleet
        .add_webhook_pipeline("fine", "events", &receiver, json!({}))
        .await?;
    publish_some(&mut fleet, 20).await?;
    // THEN each of them says what it got
    for (pipeline, words) in [
        ("babbles", "no proper answer"),
        ("endless", "HTTP 500: so sorry"),
        ("hangs", "no answer in time"),
    ] {
        let row = fleet
            .wait_for_state(pipeline, PipelineState::Retrying)
            .await?;
        let reason = row.state_reason.unwrap_or_default();
        ensure!(reason.contains(words), "{pipeline}: {reason}");
    }
    // and the neighbour has everything
    fleet.wait_for_deliveries("fine", 20).await
}

#[tokio::test]
async fn a_receiver_that_changes_its_mind_about_half_a_batch_gets_what_it_takes() -> Result<()> {
    // GIVEN a batch that is taken without an answer, then refused whole, then in part
    let (mut fleet, receiver) = with_secrets(&[]).await?;
    fleet.stop_agents().await?;
    let ids = {
        fleet
            .add_webhook_pipeline("hook", "events", &receiver, json!({"batch": true}))
            .await?;
        publish_some(&mut fleet, 4).await?
    };
    receiver.script(
        "/hook",
        [
            Behaviour::FailAfterAccept,
            Behaviour::Respond(400),
            Behaviour::Respond(200),
            Behaviour::Respond(422),
        ],
    );
    // WHEN it is delivered
    fleet.start_agent("relay-2").await?;
    fleet
        .wait_for_sql(
            "everything to be delivered",
            "SELECT count(*) > 0 AND bool_and(last_change_id >= 4) FROM tide.relay_consumer_offsets",
        )
        .await?;
    // THEN the one that it refused at last is put aside with all that belongs to it
    let letters: Vec<(uuid::Uuid, Option<String>, Value, String, i32)> =
        sqlx::query_as("SELECT event_id, key, headers, error, attempts FROM tide.relay_dlq")
            .fetch_all(fleet.pool())
            .await?;
    let [(id, key, headers, error, attempts)] = &letters[..] else {
        anyhow::bail!("{letters:?}");
    };
    ensure!(
        *id == ids[1] && key.as_deref() == Some("k") && error == "HTTP 422",
        "{letters:?}"
    );
    ensure!(headers.is_object() && *attempts >= 1, "{letters:?}");
    // and the others have arrived after it changed its mind
    let delivered = receiver.deliveries("/hook");
    let last: Vec<_> = delivered[4..]
        .iter()
        .map(|one| one.envelope.event_id)
        .collect();
    ensure!(last == [ids[0], ids[2], ids[3]], "{last:?}");
    Ok(())
}
