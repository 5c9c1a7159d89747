//! Slow, or never? And who says so, how soon, and with which exit code.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::http::{Behaviour, Receiver};
use tide_tests::by_hand::publish;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::stage::{Stage, named};

fn moment(value: &Value) -> Result<OffsetDateTime> {
    let text = value.as_str().with_context(|| format!("{value}"))?;
    Ok(OffsetDateTime::parse(text, &Rfc3339)?)
}

/// Complaint 2. Each pipeline of a drain says what it waits for, in a word for programs and a sentence
/// for people, in the stream, the table and JSON, and so does the command that watches it.
#[tokio::test]
async fn c02_a_drain_hangs_and_says_nothing() -> Result<()> {
    // GIVEN the only agent there is, with a request on the wire, which is drained by force
    let (mut stage, receiver) = Stage::with_a_hanging_request(1).await?;
    let drain = ["drain", "relay-1", "--force"];
    let id = stage.begins(&drain).await?;
    // THEN it is said what is in the way, and what helps
    let show = ["operation", "show", &id];
    let shown = stage.shows(&show).await?;
    let step = &shown["steps"][0];
    ensure!(
        step["progress"] == "BLOCKED" && step["cause"] == "NO_AGENT" && step["until"].is_null(),
        "{shown}"
    );
    let hint = step["hint"].as_str().context("no hint")?;
    ensure!(hint.contains("start another agent"), "{shown}");
    let table = stage.says(&show).await?.stdout;
    ensure!(
        table.contains("BLOCKED") && table.contains("start another agent"),
        "{table}"
    );
    // and so says who watches: that it was blocked, and not only slow
    let watched = stage
        .says(&["operation", "watch", &id, "--wait", "1s"])
        .await?;
    ensure!(watched.code == Some(6), "{watched:?}");
    ensure!(watched.stderr.contains("BLOCKED"), "{watched:?}");
    // WHEN that is done THEN it ends
    stage.start_agent("relay-2").await?;
    stage
        .shows_soon(&show, "the drain to go on", |shown| {
            shown["steps"][0]["progress"] == "PROGRESSING"
        })
        .await?;
    receiver.release();
    stage.fleet.succeeded(id.parse()?).await?;
    Ok(())
}

/// Complaint 3. A hold that has an end is waited for, and the end is told; one without needs an
/// operator. The same is true of whoever asks where the pipeline stays.
#[tokio::test]
async fn c03_slow_or_never() -> Result<()> {
    // GIVEN an agent that is drained while the only other one is cordoned for an hour
    let (stage, receiver) = Stage::with_a_hanging_request(2).await?;
    let cordon = ["cordon", "relay-2", "--reason", "disk"];
    let cordoned = stage
        .shows(&[&cordon[..], &["--for", "1h"]].concat())
        .await?;
    let ends = moment(&cordoned["expires_at"])?;
    let id = stage.begins(&["drain", "relay-1", "--force"]).await?;
    // THEN it waits until that moment, and says which
    let show = ["operation", "show", &id];
    let shown = stage.shows(&show).await?;
    let step = &shown["steps"][0];
    ensure!(
        step["progress"] == "WAITING" && step["cause"] == "NO_AGENT",
        "{shown}"
    );
    ensure!(
        moment(&step["until"])? == ends && step["hint"].is_null(),
        "{shown}"
    );
    let table = stage.says(&show).await?.stdout;
    ensure!(
        table.contains("WAITING until ") && table.contains("Z (in "),
        "{table}"
    );
    let explained = stage.shows(&["explain", "hook"]).await?;
    ensure!(
        explained["progress"] == "WAITING" && moment(&explained["until"])? == ends,
        "{explained}"
    );
    // and PostgreSQL alone says the same
    let database = stage
        .says_database(&[&show[..], &["-o", "json"]].concat())
        .await?;
    let database = super::stage::document(&database)?;
    ensure!(database["steps"][0] == *step, "{database}");
    // WHEN the cordon has no end THEN it is never, and whoever can help is told how
    stage.shows(&cordon).await?;
    let shown = stage
        .shows_soon(&show, "the drain to be blocked", |shown| {
            shown["steps"][0]["progress"] == "BLOCKED"
        })
        .await?;
    let step = &shown["steps"][0];
    ensure!(
        step["until"].is_null() && step["hint"].is_string(),
        "{shown}"
    );
    // WHEN the cordon is gone THEN it was only slow
    stage.shows(&["uncordon", "relay-2"]).await?;
    receiver.release();
    stage.fleet.succeeded(id.parse()?).await?;
    Ok(())
}

/// Complaint 3, of a sink that fails: when it is tried next is told as soon as its owner knows.
#[tokio::test]
async fn c03_slow_or_never_of_a_sink_that_asks_for_patience() -> Result<()> {
    // GIVEN a receiver that wants to be left alone for two minutes
    let mut stage = Stage::with_agents(1).await?;
    let receiver = std::sync::Arc::new(Receiver::start().await?);
    let busy = Behaviour::RetryAfter {
        status: 503,
        seconds: 120,
    };
    receiver.by_default("/hook", busy);
    let fleet = &mut stage.fleet;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    let message = fleet.drafts.draw("events", "k");
    publish(&mut *fleet.connection().await?, &message).await?;
    // THEN everybody who looks is told until when
    let list = ["pipeline", "list", "--filter", "state=retrying"];
    let listed = stage
        .shows_soon(&list, "the next try to be known", |list| {
            named(list, "hook")["retry_at"].is_string()
        })
        .await?;
    let next = moment(&named(&listed, "hook")["retry_at"])?;
    let left = next - OffsetDateTime::now_utc();
    ensure!(
        left > time::Duration::ZERO && left <= time::Duration::seconds(121),
        "{listed}"
    );
    let explained = stage.shows(&["explain", "hook"]).await?;
    ensure!(
        explained["progress"] == "WAITING" && moment(&explained["until"])? == next,
        "{explained}"
    );
    // WHEN it is to move meanwhile THEN it does not wait for that: between two tries nothing is lost
    stage.start_agent("relay-2").await?;
    stage.shows(&["move", "hook", "--to", "relay-2"]).await?;
    Ok(())
}

/// Complaint 3, of an owner that has fallen silent: its locks are its own until its lease ends, and
/// that is when others take over.
#[tokio::test]
async fn c03_slow_or_never_of_an_agent_that_is_silent() -> Result<()> {
    // GIVEN a drain of an agent that is frozen, and has its locks for five minutes
    let (mut stage, _receiver) = Stage::with_a_hanging_request(2).await?;
    stage.fleet.agent("relay-1").freeze()?;
    let id = stage.begins(&["drain", "relay-1"]).await?;
    // THEN it is told what is waited for, and until when
    let show = ["operation", "show", &id];
    let shown = stage
        .shows_soon(&show, "its silence to be noticed", |shown| {
            shown["steps"][0]["cause"] == "OWNER_SILENT"
        })
        .await?;
    let step = &shown["steps"][0];
    ensure!(step["progress"] == "WAITING", "{shown}");
    let left = moment(&step["until"])? - OffsetDateTime::now_utc();
    ensure!(
        left > time::Duration::minutes(3) && left <= time::Duration::minutes(5),
        "{shown}"
    );
    stage.fleet.agent("relay-1").thaw()?;
    Ok(())
}

/// Complaint 22. Exit codes say what a status says, and are the same every time.
#[tokio::test]
async fn c22_the_status_always_exits_with_0() -> Result<()> {
    // GIVEN a fleet where all is well
    let mut stage = Stage::with_agents(1).await?;
    stage.fleet.add_file_pipelines(1).await?;
    stage.fleet.wait_until_running().await?;
    stage
        .shows_soon(&["fleet", "status"], "all to be well", |status| {
            status["healthy"] == true
        })
        .await?;
    for words in [&["fleet", "status"][..], &["status", "--interval", "0"]] {
        let ended = stage.says(words).await?;
        ensure!(ended.code == Some(0), "{ended:?}");
    }
    // WHEN nobody is left THEN no status calls that done
    stage.fleet.crash("relay-1").await?;
    stage
        .shows_soon(&["fleet", "status"], "the loss to be seen", |status| {
            status["healthy"] == false
        })
        .await?;
    for (words, code) in [
        (&["fleet", "status"][..], 3),
        (&["status", "--interval", "0"], 3),
        (
            &[
                "wait",
                "agent/relay-1",
                "--for",
                "active",
                "--wait",
                "100ms",
            ],
            5,
        ),
        (&["explain", "file-1"], 6),
        (&["pipeline", "show", "unheard-of"], 1),
        (&["pipeline", "list", "--filter", "colour=red"], 2),
    ] {
        let ended = stage.says(words).await?;
        ensure!(ended.code == Some(code), "not {code}: {words:?} {ended:?}");
    }
    Ok(())
}
