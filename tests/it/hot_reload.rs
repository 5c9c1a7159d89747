//! Configuration changes while everything runs: the table of the hot-reload document, row by row.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_model::PipelineState;
use tide_sandbox::{
    files::FileReader,
    http::{Behaviour, Outcome, Receiver},
};
use tide_tests::{
    Fleet, FleetOptions, SOON,
    by_hand::publish,
    catalog::execute,
    fleet::{Owner, Tap},
    proof,
};

/// Two agents with four pipelines under load, and who owns what.
async fn under_load() -> Result<(Fleet, BTreeMap<String, Owner>)> {
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipelines(4).await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    let owners = fleet.owners().await?;
    Ok((fleet, owners))
}

/// Waits until a pipeline runs under another epoch than before.
async fn restarted(fleet: &Fleet, name: &str, before: &BTreeMap<String, Owner>) -> Result<()> {
    fleet
        .wait_until(&format!("{name} to run under a new epoch"), |view| {
            view.pipelines.iter().any(|row| {
                row.name.as_str() == name
                    && row.state == Some(PipelineState::Running)
                    && row.epoch.is_some_and(|epoch| epoch.0 > before[name].epoch)
            })
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_added_pipeline_starts_and_touches_no_other() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    // WHEN
    fleet.add_file_pipeline("added", "events_a").await?;
    // THEN it delivers everything that its outbox holds, and nobody else was restarted
    fleet.wait_until_running().await?;
    fleet.publish_more(50).await?;
    proof::unchanged(&before, &fleet.owners().await?, &[])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_removed_pipeline_stops_and_touches_no_other() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    let owner = before["file-2"].agent.clone();
    // WHEN
    execute(
        &mut *fleet.connection().await?,
        "SELECT tide.relay_delete('file-2')",
    )
    .await?;
    // THEN its lock is free, its file is whole, and nobody else was restarted
    let free = "SELECT NOT EXISTS (SELECT FROM tide.advisory_locks l
                WHERE l.class = tide.lock_key('default') AND l.object = tide.lock_key('file-2'))";
    fleet.wait_for_sql("its lock to be free", free).await?;
    fleet
        .agent(&owner)
        .log("released pipeline.id=file-2")
        .await?;
    let delivered = fleet.deliveries("file-2")?.len();
    fleet.publish_more(50).await?;
    ensure!(fleet.deliveries("file-2")?.len() == delivered, "it went on");
    fleet.disregard("file-2");
    proof::unchanged(&before, &fleet.owners().await?, &["file-2"])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_changed_sink_is_the_only_one_restarted() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    let receiver = Arc::new(Receiver::start().await?);
    // WHEN a file becomes a webhook
    let change = json!({"sink_type": "webhook", "path": null, "url": receiver.url("/new"),
        "allow_networks": ["127.0.0.1"]});
    fleet.reconfigure("file-1", change).await?;
    fleet.continues_in(
        "file-1",
        Tap::Webhook(Arc::clone(&receiver), "/new".to_owned()),
    );
    restarted(&fleet, "file-1", &before).await?;
    fleet.publish_more(50).await?;
    // THEN what the file got and what the webhook got is everything, once, in order
    proof::unchanged(&before, &fleet.owners().await?, &["file-1"])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_changed_setting_restarts_only_its_pipeline_and_not_its_owner() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    // WHEN the file of one is another
    let path = fleet.file("elsewhere");
    fleet.reconfigure("file-3", json!({"path": path})).await?;
    fleet.continues_in("file-3", Tap::File(FileReader::new(path)));
    restarted(&fleet, "file-3", &before).await?;
    fleet.publish_more(50).await?;
    // THEN
    let after = fleet.owners().await?;
    ensure!(after["file-3"].agent == before["file-3"].agent, "it moved");
    proof::unchanged(&before, &after, &["file-3"])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn writing_the_same_configuration_again_restarts_nothing() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    // WHEN every pipeline is written as it is, and one that is really new, to know when all is seen
    for name in ["file-1", "file-2", "file-3", "file-4"] {
        fleet.reconfigure(name, json!({})).await?;
    }
    fleet.add_file_pipeline("added", "events_a").await?;
    fleet.wait_until_running().await?;
    // THEN
    proof::unchanged(&before, &fleet.owners().await?, &[])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_disabled_pipeline_waits_where_it_is_until_it_is_enabled() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    // WHEN one is disabled
    execute(
        &mut *fleet.connection().await?,
        "SELECT tide.relay_disable('file-4')",
    )
    .await?;
    fleet
        .wait_until("file-4 to be released", |view| {
            let row = view
                .pipelines
                .iter()
                .find(|row| row.name.as_str() == "file-4");
            row.is_some_and(|row| row.owner.is_none() && row.state == Some(PipelineState::Stopped))
        })
        .await?;
    let delivered = fleet.deliveries("file-4")?.len();
    fleet.publish_more(50).await?;
    ensure!(fleet.deliveries("file-4")?.len() == delivered, "it went on");
    // THEN the others go on, and so does it once it is enabled
    proof::unchanged(&before, &fleet.owners().await?, &["file-4"])?;
    execute(
        &mut *fleet.connection().await?,
        "SELECT tide.relay_enable('file-4')",
    )
    .await?;
    fleet.wait_until_running().await?;
    proof::unchanged(&before, &fleet.owners().await?, &["file-4"])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_batch_on_the_wire_is_finished_before_the_new_configuration_counts() -> Result<()> {
    // GIVEN a request on the wire
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.script("/hook", [Behaviour::Hang]);
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    let mut connection = fleet.connection().await?;
    for _ in 0..5 {
        publish(&mut connection, &fleet.drafts.draw("events", "k")).await?;
    }
    drop(connection);
    receiver
        .wait_until(SOON, "a request to hang", |requests| {
            requests.iter().any(|one| one.outcome == Outcome::Pending)
        })
        .await?;
    // WHEN its address changes
    fleet
        .reconfigure("hook", json!({"url": receiver.url("/new")}))
        .await?;
    fleet.continues_in(
        "hook",
        Tap::Webhook(Arc::clone(&receiver), "/new".to_owned()),
    );
    // Another change, to a pipeline of its own, tells when this one has been seen.
    fleet.add_file_pipeline("other", "events").await?;
    fleet
        .wait_for_state("other", PipelineState::Running)
        .await?;
    ensure!(
        receiver.deliveries("/new").is_empty(),
        "the new one did not wait for the old"
    );
    receiver.release();
    // THEN each message went to one of them, once, in order
    proof::exactly_once(&fleet.settle_and_check().await?)
}

/// Writes a configuration past every check.
async fn force(fleet: &Fleet, name: &str, config: &Value) -> Result<()> {
    sqlx::query("UPDATE tide.pipelines SET config = $2 WHERE name = $1")
        .bind(name)
        .bind(config)
        .execute(fleet.pool())
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_bad_row_concerns_only_itself_and_says_what_is_wrong() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    let good = fleet.pipeline("file-1").config.clone();
    let with = |key: &str, value: Value| {
        let mut config = good.clone();
        config[key] = value;
        config
    };
    let cases = [
        (
            with("batchsize", json!(10)),
            "key \"batchsize\" is not a known key (did you mean \"batch_size\"?)",
        ),
        (
            with("batch_size", json!("ten")),
            "key \"batch_size\" is a string, expected a whole number",
        ),
        (
            with("path", json!("relative.jsonl")),
            "key \"path\" is relative.jsonl",
        ),
        (
            with("sink_type", json!("carrier pigeon")),
            "key \"sink_type\" is \"carrier pigeon\" (one of: ",
        ),
        (json!({}), "key \"sink_type\" is missing"),
        (with("weight", json!("heavy")), "key \"weight\" is a string"),
    ];
    for (config, says) in cases {
        // WHEN one row is bad
        force(&fleet, "file-1", &config).await?;
        fleet
            .wait_until(&format!("file-1 to say {says}"), |view| {
                view.pipelines.iter().any(|row| {
                    row.name.as_str() == "file-1"
                        && row.state == Some(PipelineState::Misconfigured)
                        && row
                            .state_reason
                            .as_deref()
                            .is_some_and(|reason| reason.contains(says))
                })
            })
            .await?;
    }
    // THEN relay_status says so, the others were not even restarted, and flow
    let reason: String = sqlx::query_scalar(
        "SELECT state_reason FROM tide.relay_status() WHERE state = 'misconfigured'",
    )
    .fetch_one(fleet.pool())
    .await?;
    ensure!(reason.contains("\"weight\""), "{reason}");
    proof::unchanged(&before, &fleet.owners().await?, &["file-1"])?;
    let owner = fleet.owners().await?["file-1"].agent.clone();
    let health = fleet.agent(&owner).get("/health").await?;
    ensure!(
        health.status == 503 && health.body.contains("file-1"),
        "{health:?}"
    );
    fleet.publish_more(50).await?;
    // WHEN it is mended THEN it goes on where it was
    force(&fleet, "file-1", &good).await?;
    fleet.wait_until_running().await?;
    proof::unchanged(&before, &fleet.owners().await?, &["file-1"])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_row_that_was_edited_by_hand_is_taken_up_like_any_other() -> Result<()> {
    // GIVEN
    let (mut fleet, before) = under_load().await?;
    // WHEN an operator edits the row itself and knows nothing of revisions and notifications
    let edit = "UPDATE tide.pipelines SET config = jsonb_set(config, '{batch_size}', '7') WHERE name = 'file-1'";
    execute(&mut *fleet.connection().await?, edit).await?;
    // THEN it counts at once
    restarted(&fleet, "file-1", &before).await?;
    proof::unchanged(&before, &fleet.owners().await?, &["file-1"])?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_sink_that_cannot_work_is_told_and_mended_by_a_change() -> Result<()> {
    // GIVEN a pipeline to an address where nobody is at home, beside a good one
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    receiver.by_default("/wrong", Behaviour::Respond(404));
    fleet.add_file_pipeline("file", "events").await?;
    fleet
        .add_webhook_pipeline("wrong", "events", &receiver, json!({}))
        .await?;
    fleet.publish().await?;
    let row = fleet
        .wait_for_state("wrong", PipelineState::Misconfigured)
        .await?;
    ensure!(
        row.state_reason
            .as_deref()
            .unwrap_or_default()
            .contains("HTTP 404"),
        "{row:?}"
    );
    // WHEN the good one goes on, and the address is corrected
    let delivered = fleet.deliveries("file")?.len();
    fleet.wait_for_deliveries("file", delivered + 20).await?;
    fleet
        .reconfigure("wrong", json!({"url": receiver.url("/right")}))
        .await?;
    fleet.continues_in(
        "wrong",
        Tap::Webhook(Arc::clone(&receiver), "/right".to_owned()),
    );
    // THEN everything arrives there
    fleet.wait_until_running().await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}
