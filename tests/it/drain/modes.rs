//! What a drain is told: what comes afterwards, how fast, until when; and what is known of it when it
//! is over.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_sandbox::http::{Behaviour, Outcome, Receiver, Request};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    by_hand::publish,
    command::{Finished, run},
    fleet::owners,
    proof,
};

/// Agents that never look around by themselves: what they do they were told, or have noted.
fn without_luck(agents: usize) -> FleetOptions {
    FleetOptions {
        discovery_interval: Duration::from_mins(30),
        ..FleetOptions::agents(agents)
    }
}

async fn says(fleet: &Fleet, words: &[&str]) -> Result<Finished> {
    let url = fleet.url();
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    let words = [words, &["--source", "database", "--actor", "ana"]].concat();
    run("tidectl", &words, &environment, SOON).await
}

async fn done(fleet: &Fleet, words: &[&str]) -> Result<Value> {
    let ended = says(fleet, &[words, &["-o", "json"]].concat()).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

async fn under_load(agents: usize) -> Result<Fleet> {
    let mut fleet = Fleet::start(without_luck(agents)).await?;
    fleet.add_file_pipelines(agents * 2).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    Ok(fleet)
}

/// An agent that owns `hook`, with a request on the wire that is not answered, and a file.
async fn with_a_hanging_request() -> Result<(Fleet, Arc<Receiver>)> {
    let mut fleet = Fleet::start(without_luck(1)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.script("/hook", [Behaviour::Hang]);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.add_file_pipeline("later", "more_events").await?;
    fleet.wait_until_running().await?;
    let message = fleet.drafts.draw("events", "k");
    publish(&mut *fleet.connection().await?, &message).await?;
    receiver
        .wait_until(SOON, "a request to hang", hangs)
        .await?;
    Ok((fleet, receiver))
}

fn hangs(requests: &[Request]) -> bool {
    requests
        .iter()
        .any(|request| request.outcome == Outcome::Pending)
}

#[tokio::test]
async fn a_drain_for_a_restart_ends_with_the_restart_and_with_nothing_less() -> Result<()> {
    // GIVEN an agent that is drained because it will be restarted
    let mut fleet = under_load(2).await?;
    let drain = [
        "drain", "relay-1", "--mode", "restart", "--reason", "kernel",
    ];
    let drained = done(&fleet, &drain).await?;
    ensure!(drained["safe_to_stop"] == true, "{drained}");
    done(&fleet, &["wait", "agent/relay-1", "--for", "drained"]).await?;
    // WHEN it loses its session THEN it is drained as before, and it is another run that was verified
    let backend = fleet
        .lock_backend("relay-1")
        .await?
        .context("it is alive")?;
    fleet.end_lock_session("relay-1").await?;
    fleet
        .wait_for_sql(
            "a new session",
            &format!("SELECT backend_pid <> {backend} FROM tide.agents WHERE name = 'relay-1'"),
        )
        .await?;
    let shown = done(&fleet, &["agent", "show", "relay-1"]).await?;
    ensure!(
        shown["holds"][0] == "drain (restart) by ana: kernel",
        "{shown}"
    );
    ensure!(fleet.owned_by("relay-1").await?.is_empty());
    // WHEN it is restarted THEN its share returns, and nobody has to say so
    fleet.agent("relay-1").stop().await?;
    ensure!(done(&fleet, &["hold", "list"]).await? != json!([]));
    fleet.start_agent("relay-1").await?;
    fleet.wait_until_balanced().await?;
    ensure!(fleet.owned_by("relay-1").await?.len() == 2);
    ensure!(done(&fleet, &["hold", "list"]).await? == json!([]));
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn an_agent_that_is_removed_ends_by_itself_and_is_forgotten() -> Result<()> {
    // GIVEN agents under load
    let mut fleet = under_load(3).await?;
    // WHEN one is drained for good
    done(&fleet, &["drain", "relay-1", "--mode", "remove"]).await?;
    // THEN it ends in good order, nothing remembers it, and the others have what it had
    let status = fleet.agent("relay-1").ended().await?;
    ensure!(status.code() == Some(0), "{status}");
    fleet.wait_until_balanced().await?;
    done(&fleet, &["wait", "agent/relay-1", "--for", "gone"]).await?;
    let view = fleet.view().await?;
    ensure!(view.agents.len() == 2 && view.holds.is_empty(), "{view:?}");
    // and it may come back as a new one
    fleet.start_agent("relay-1").await?;
    fleet.wait_until_balanced().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn no_more_pipelines_are_on_their_way_than_the_pace_permits() -> Result<()> {
    // GIVEN an agent that can let go of its file at once and of its webhook not yet
    let (mut fleet, receiver) = with_a_hanging_request().await?;
    fleet
        .start_as(fleet.spec("relay-2").with("--weight", "0"))
        .await?;
    let before = fleet.owners().await?;
    ensure!(
        before.values().all(|owner| owner.agent == "relay-1"),
        "{before:?}"
    );
    fleet.publish().await?;
    // WHEN it is drained one by one
    let drain = ["drain", "relay-1", "--pace", "1", "--detach"];
    let operation = done(&fleet, &drain).await?;
    fleet
        .wait_for_sql(
            "the agent to have seen the drain",
            "SELECT a.acknowledged_generation >= o.generation FROM tide.agents a, tide.operations o WHERE a.name = 'relay-1'",
        )
        .await?;
    // THEN the second goes on where it is, and says why
    let delivered = fleet.deliveries("later")?.len();
    fleet.wait_for_deliveries("later", delivered + 30).await?;
    proof::unchanged(&before, &fleet.owners().await?, &[])?;
    let id = operation["id"].as_str().unwrap_or_default().to_owned();
    let shown = done(&fleet, &["operation", "show", &id]).await?;
    let steps = shown["steps"].to_string();
    ensure!(steps.contains("waits for its turn: 1 at a time"), "{shown}");
    // WHEN the first can go THEN the second follows
    receiver.release();
    fleet
        .wait_until("relay-2 to run everything", |view| {
            let owners = owners(view);
            owners.len() == 2 && owners.values().all(|owner| owner.agent == "relay-2")
        })
        .await?;
    done(&fleet, &["wait", "agent/relay-1", "--for", "drained"]).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_deadline_keeps_what_is_on_the_wire_unless_it_is_to_be_forced() -> Result<()> {
    // GIVEN an agent with a request that nobody answers, and another one
    let (mut fleet, receiver) = with_a_hanging_request().await?;
    fleet.start_agent("relay-2").await?;
    let drain = ["drain", "relay-1", "--deadline", "1s"];
    // WHEN the deadline of a drain passes THEN it has failed, and the request is on its way
    let failed = says(&fleet, &drain).await?;
    ensure!(failed.code == Some(6), "{failed:?}");
    ensure!(failed.stdout.contains("NOT safe to stop"), "{failed:?}");
    ensure!(receiver.inspect(hangs));
    // WHEN it is to be forced THEN it is given up, by the agent itself, and the agent is safe to stop
    let forced = [&drain[..], &["--on-deadline", "force"]].concat();
    let forced = done(&fleet, &forced).await?;
    let outcome = forced["outcome"].as_str().unwrap_or_default();
    ensure!(
        forced["safe_to_stop"] == true && outcome.contains("given up"),
        "{forced}"
    );
    receiver
        .wait_until(SOON, "the request to be abandoned", |requests| {
            !hangs(requests)
        })
        .await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn safe_to_stop_is_a_fact_until_the_agent_takes_work_again() -> Result<()> {
    // GIVEN a drained agent
    let mut fleet = under_load(2).await?;
    let wait = ["wait", "agent/relay-1", "--for", "drained"];
    let waited = says(&fleet, &[&wait[..], &["--wait", "100ms"]].concat()).await?;
    ensure!(waited.code == Some(5), "nobody has drained it: {waited:?}");
    done(&fleet, &["drain", "relay-1", "--reason", "kernel"]).await?;
    let waited = says(&fleet, &wait).await?;
    ensure!(
        waited.code == Some(0) && waited.stdout.contains("safe to stop"),
        "{waited:?}"
    );
    // WHEN it works again THEN it is no fact any more, and what became of the drain is still known
    done(&fleet, &["undrain", "relay-1"]).await?;
    fleet.wait_until_balanced().await?;
    let waited = says(&fleet, &[&wait[..], &["--wait", "100ms"]].concat()).await?;
    ensure!(waited.code == Some(5), "{waited:?}");
    let shown = done(&fleet, &["agent", "show", "relay-1"]).await?;
    let last = &shown["last_drain"];
    ensure!(
        last["state"] == "succeeded" && last["reason"] == "kernel" && last["owner"] == "ana",
        "{shown}"
    );
    ensure!(last["voided"] == "its drain was ended by ana", "{shown}");
    // A hold that is taken away by hand is no way around it.
    done(&fleet, &["drain", "relay-1"]).await?;
    sqlx::query("DELETE FROM tide.holds")
        .execute(fleet.pool())
        .await?;
    sqlx::query("SELECT pg_notify('tide_intent', 'default')")
        .execute(fleet.pool())
        .await?;
    fleet.wait_until_balanced().await?;
    let shown = done(&fleet, &["agent", "show", "relay-1"]).await?;
    let voided = shown["last_drain"]["voided"].as_str().unwrap_or_default();
    ensure!(voided.starts_with("it took file-"), "{shown}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn agents_that_would_leave_nobody_are_not_drained_together_unless_forced() -> Result<()> {
    // GIVEN three agents, one of them cordoned
    let mut fleet = under_load(3).await?;
    done(&fleet, &["cordon", "relay-3", "--reason", "disk"]).await?;
    let before = fleet.owners().await?;
    // WHEN the other two are drained THEN neither is, and all the reasons are named
    for plan in [&["--plan"][..], &[]] {
        let drain = [&["drain", "relay-1", "relay-2"][..], plan].concat();
        let refused = says(&fleet, &drain).await?;
        refused.explains(6, "relay-3 is cordoned by ana: disk", "--force")?;
        ensure!(
            refused.stderr.contains("without an agent: file-"),
            "{refused:?}"
        );
    }
    proof::unchanged(&before, &fleet.owners().await?, &[])?;
    ensure!(done(&fleet, &["operation", "list"]).await? == json!([]));
    // WHEN there is somebody THEN both go, and neither goes by way of the other
    done(&fleet, &["uncordon", "relay-3"]).await?;
    let drained = says(&fleet, &["drain", "relay-1", "relay-2"]).await?;
    ensure!(drained.code == Some(0), "{drained:?}");
    ensure!(fleet.owned_by("relay-3").await?.len() == 6);
    proof::exactly_once(&fleet.settle_and_check().await?)
}
