//! Pause, resume, rewind: under load, with hand-overs, with open transactions.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tide_model::PipelineState;
use tide_tests::{
    Fleet, FleetOptions, SOON,
    by_hand::publish,
    catalog::execute,
    command::{Finished, run},
    proof,
};

async fn tidectl(fleet: &Fleet, words: &[&str]) -> Result<Finished> {
    let url = fleet.url();
    let words = [words, &["--source", "database", "--actor", "ana"]].concat();
    let environment = [("TIDE_POSTGRES_URL", url.as_str())];
    run("tidectl", &words, &environment, SOON).await
}

async fn done(fleet: &Fleet, words: &[&str]) -> Result<Value> {
    let ended = tidectl(fleet, &[words, &["-o", "json"]].concat()).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

/// Publishes so many messages of a key, each in a transaction of its own.
async fn publish_some(fleet: &mut Fleet, key: &str, count: usize) -> Result<()> {
    let mut connection = fleet.connection().await?;
    for _ in 0..count {
        publish(&mut connection, &fleet.drafts.draw("events", key)).await?;
    }
    Ok(())
}

fn ids(fleet: &Fleet, pipeline: &str) -> Result<Vec<i64>> {
    let deliveries = fleet.deliveries(pipeline)?;
    Ok(deliveries.iter().map(|one| one.envelope.id).collect())
}

#[tokio::test]
async fn a_pause_stops_deliveries_and_nothing_else_and_loses_nothing() -> Result<()> {
    // GIVEN two agents under load
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.add_file_pipeline("other", "events").await?;
    fleet.wait_until_balanced().await?;
    fleet.publish().await?;
    fleet.publish_more(50).await?;
    let before = fleet.owners().await?;
    // WHEN a pipeline is paused
    let paused = done(
        &fleet,
        &["pipeline", "pause", "file", "--reason", "sink repair"],
    )
    .await?;
    ensure!(
        paused == json!({"name": "file", "paused": true, "changed": true}),
        "{paused}"
    );
    let row = fleet.wait_for_state("file", PipelineState::Paused).await?;
    ensure!(
        row.state_reason.as_deref() == Some("paused by ana: sink repair"),
        "{row:?}"
    );
    // THEN its owner stays, it delivers nothing more, and the other one goes on
    proof::unchanged(&before, &fleet.owners().await?, &[])?;
    let held = fleet.deliveries("file")?.len();
    let others = fleet.deliveries("other")?.len();
    fleet.publish_more(100).await?;
    fleet.wait_for_deliveries("other", others + 50).await?;
    ensure!(fleet.deliveries("file")?.len() == held);
    ensure!(fleet.row("file").await?.last_change_id == row.last_change_id);
    let again = done(&fleet, &["pipeline", "pause", "file"]).await?;
    ensure!(again["changed"] == false);
    // and stays paused where it is handed to, and where it is taken over
    let owner = before["file"].agent.clone();
    fleet.succeeded(fleet.drain(&owner).await?).await?;
    let row = fleet.wait_for_state("file", PipelineState::Paused).await?;
    let second = row.owner.map(|owner| owner.to_string()).unwrap_or_default();
    ensure!(second != owner, "it stayed with {owner}");
    fleet.undrain(&owner).await?;
    fleet.crash(&second).await?;
    fleet
        .wait_until("the first to have it again, paused", |view| {
            view.pipelines.iter().any(|row| {
                row.name.as_str() == "file"
                    && row
                        .owner
                        .as_ref()
                        .is_some_and(|agent| agent.as_str() == owner)
                    && row.state == Some(PipelineState::Paused)
            })
        })
        .await?;
    ensure!(fleet.deliveries("file")?.len() == held);
    // WHEN it is resumed THEN it goes on where it was
    fleet.start_agent(&second).await?;
    let resumed = done(&fleet, &["pipeline", "resume", "file"]).await?;
    ensure!(resumed["changed"] == true);
    fleet.wait_until_running().await?;
    fleet.publish_more(20).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_pause_and_a_resume_cost_nothing() -> Result<()> {
    // GIVEN a pipeline under load
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    // WHEN it is paused and resumed, again and again, also when it is idle
    for _ in 0..5 {
        done(&fleet, &["pipeline", "pause", "file"]).await?;
        fleet.wait_for_state("file", PipelineState::Paused).await?;
        fleet.publish_more(20).await?;
        done(&fleet, &["pipeline", "resume", "file"]).await?;
        fleet.wait_for_state("file", PipelineState::Running).await?;
    }
    // THEN nothing is lost and nothing comes twice
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_rewind_delivers_again_exactly_what_it_says() -> Result<()> {
    // GIVEN a pipeline that has delivered a hundred messages, and one with shards
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    let config = json!({"sink_type": "null", "shards": 3});
    fleet
        .add("split", "events", config, tide_tests::fleet::Tap::Nothing)
        .await?;
    fleet.wait_until_running().await?;
    publish_some(&mut fleet, "a", 50).await?;
    let half: String = sqlx::query_scalar(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )
    .fetch_one(fleet.pool())
    .await?;
    publish_some(&mut fleet, "b", 50).await?;
    fleet.wait_for_deliveries("file", 100).await?;
    let settled = "SELECT bool_and(last_change_id = 100) FROM tide.relay_consumer_offsets WHERE name = 'file'";
    fleet.wait_for_sql("its position", settled).await?;
    // WHEN somebody asks what a rewind would do THEN nothing happens
    let words = ["pipeline", "rewind", "file", "--to-id", "40"];
    let foretold = done(&fleet, &[&words[..], &["--dry-run"]].concat()).await?;
    ensure!(
        foretold["messages"] == 60 && foretold["dry_run"] == true,
        "{foretold}"
    );
    // WHEN it is done THEN exactly that comes again, in order, under a higher epoch
    let epoch = fleet.owners().await?["file"].epoch;
    let rewound = done(
        &fleet,
        &[&words[..], &["--yes", "--reason", "replayed upstream"]].concat(),
    )
    .await?;
    ensure!(rewound["messages"] == 60, "{rewound}");
    fleet.wait_for_deliveries("file", 160).await?;
    fleet.wait_for_sql("its position", settled).await?;
    ensure!(fleet.owners().await?["file"].epoch > epoch);
    // and so by time, and to the beginning
    let by_time = ["pipeline", "rewind", "file", "--to-time", &half, "--yes"];
    ensure!(done(&fleet, &by_time).await?["messages"] == 50);
    fleet.wait_for_deliveries("file", 210).await?;
    fleet.wait_for_sql("its position", settled).await?;
    let all = ["pipeline", "rewind", "file", "--to-beginning", "--yes"];
    ensure!(done(&fleet, &all).await?["messages"] == 100);
    fleet.wait_for_deliveries("file", 310).await?;
    fleet.wait_for_sql("its position", settled).await?;
    // and for all shards of a pipeline
    fleet
        .wait_for_sql(
            "the shards to be done",
            "SELECT bool_and(lag_rows = 0) FROM tide.relay_status() WHERE pipeline = 'split'",
        )
        .await?;
    let shards = done(
        &fleet,
        &["pipeline", "rewind", "split", "--to-id", "30", "--dry-run"],
    )
    .await?;
    ensure!(
        shards["units"]
            .as_array()
            .is_some_and(|units| units.len() == 3),
        "{shards}"
    );
    ensure!(
        shards["messages"]
            .as_i64()
            .is_some_and(|messages| (50..=70).contains(&messages)),
        "{shards}"
    );
    // THEN nothing more comes, and who did it is on record
    fleet.stop_agents().await?;
    let expected: Vec<i64> = (1..=100)
        .chain(41..=100)
        .chain(51..=100)
        .chain(1..=100)
        .collect();
    ensure!(ids(&fleet, "file")? == expected);
    let told: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT actor, reason, (detail ->> 'messages')::bigint FROM tide.events WHERE kind = 'pipeline.rewound' ORDER BY id",
    )
    .fetch_all(fleet.pool())
    .await?;
    ensure!(
        told.len() == 3 && told[0] == ("ana".to_owned(), "replayed upstream".to_owned(), 60),
        "{told:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_rewind_of_a_shard_delivers_its_own_messages_and_no_other() -> Result<()> {
    // GIVEN a pipeline with shards whose messages are all delivered
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    let receiver = std::sync::Arc::new(tide_sandbox::http::Receiver::start().await?);
    fleet
        .add_webhook_pipeline("split", "events", &receiver, json!({"shards": 3}))
        .await?;
    fleet.wait_until_running().await?;
    for key in ["a", "b", "c", "d", "e"] {
        publish_some(&mut fleet, key, 12).await?;
    }
    fleet.wait_for_deliveries("split", 60).await?;
    let settled = "SELECT bool_and(lag_rows = 0) FROM tide.relay_status()";
    fleet.wait_for_sql("all to be stored", settled).await?;
    // WHEN it is rewound to its beginning THEN every message comes once more
    let rewound = done(
        &fleet,
        &["pipeline", "rewind", "split", "--to-beginning", "--yes"],
    )
    .await?;
    ensure!(rewound["messages"] == 60, "{rewound}");
    fleet.wait_for_deliveries("split", 120).await?;
    fleet.wait_for_sql("all to be stored", settled).await?;
    fleet.stop_agents().await?;
    let mut seen = ids(&fleet, "split")?;
    ensure!(seen.len() == 120, "{}", seen.len());
    seen.sort_unstable();
    ensure!(
        seen.chunks(2).zip(1..).all(|(pair, id)| *pair == [id, id]),
        "{seen:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_rewind_under_load_races_with_no_position() -> Result<()> {
    // GIVEN a pipeline under load
    let mut fleet = Fleet::start(FleetOptions::agents(2)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    fleet.publish().await?;
    fleet.publish_more(100).await?;
    // WHEN it is rewound again and again in the middle of its work
    fleet.excuse(tide_sandbox::history::Cause::Crash, ["file"]);
    let mut epoch = 0;
    for _ in 0..5 {
        let ahead = "SELECT last_change_id > 20 FROM tide.relay_consumer_offsets";
        fleet.wait_for_sql("its position", ahead).await?;
        let done = done(
            &fleet,
            &["pipeline", "rewind", "file", "--to-id", "20", "--yes"],
        )
        .await?;
        ensure!(done["messages"].as_i64() > Some(0), "{done}");
        // That of the rewind, or already that of its owner since: it has none in between.
        epoch = sqlx::query_scalar("SELECT epoch FROM tide.relay_consumer_offsets")
            .fetch_one(fleet.pool())
            .await?;
        fleet.publish_more(30).await?;
    }
    // THEN nothing is lost or out of order, and after the last rewind everything behind it came
    proof::clean(&fleet.settle_and_check().await?)?;
    let mut last: Vec<i64> = fleet
        .deliveries("file")?
        .iter()
        .filter(|one| one.envelope.epoch() >= Some(epoch))
        .map(|one| one.envelope.id)
        .collect();
    last.sort_unstable();
    last.dedup();
    let behind: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.outbox_events WHERE id > 20")
        .fetch_one(fleet.pool())
        .await?;
    ensure!(
        last.iter().filter(|id| **id > 20).count() as i64 == behind,
        "{} of {behind}",
        last.len()
    );
    Ok(())
}

#[tokio::test]
async fn what_a_rewind_finds_undelivered_is_not_lost() -> Result<()> {
    // GIVEN the two lowest ids in open transactions, and ten messages that are delivered
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    let mut first = sqlx::PgConnection::connect(&fleet.url()).await?;
    let mut first = first.begin().await?;
    publish(&mut first, &fleet.drafts.draw("events", "first")).await?;
    let mut second = sqlx::PgConnection::connect(&fleet.url()).await?;
    let mut second = second.begin().await?;
    publish(&mut second, &fleet.drafts.draw("events", "second")).await?;
    publish_some(&mut fleet, "early", 10).await?;
    fleet.wait_for_deliveries("file", 10).await?;
    let settled = "SELECT last_change_id = 12 FROM tide.relay_consumer_offsets";
    fleet.wait_for_sql("its position", settled).await?;
    // WHEN one of them commits while the pipeline is paused, and it is rewound into the middle
    done(&fleet, &["pipeline", "pause", "file"]).await?;
    fleet.wait_for_state("file", PipelineState::Paused).await?;
    first.commit().await?;
    let rewound = done(
        &fleet,
        &["pipeline", "rewind", "file", "--to-id", "7", "--yes"],
    )
    .await?;
    ensure!(rewound["messages"] == 5, "{rewound}");
    done(&fleet, &["pipeline", "resume", "file"]).await?;
    fleet.wait_for_deliveries("file", 16).await?;
    fleet.wait_for_sql("its position", settled).await?;
    // and the other one afterwards
    second.commit().await?;
    fleet.wait_for_deliveries("file", 17).await?;
    // THEN what was delivered before comes again, and both late ones come
    fleet.stop_agents().await?;
    let expected: Vec<i64> = (3..=12).chain([1]).chain(8..=12).chain([2]).collect();
    ensure!(ids(&fleet, "file")? == expected);
    Ok(())
}

#[tokio::test]
async fn a_rewind_to_what_is_gone_is_refused_unless_that_is_accepted() -> Result<()> {
    // GIVEN an outbox whose delivered messages were deleted
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    execute(
        &mut *fleet.connection().await?,
        "UPDATE tide.outboxes SET retention = '0'",
    )
    .await?;
    fleet
        .launch_changed("relay-1", |spec| spec.with("--janitor-interval", "0.05"))
        .await?;
    publish_some(&mut fleet, "k", 5).await?;
    fleet.wait_for_deliveries("file", 5).await?;
    fleet
        .wait_for_sql(
            "an empty outbox",
            "SELECT NOT EXISTS (SELECT FROM tide.outbox_events)",
        )
        .await?;
    // WHEN somebody wants them again THEN that is refused, with what can be done
    for target in [
        &["--to-beginning"][..],
        &["--to-id", "3"],
        &["--to-time", "1h"],
    ] {
        let refused = tidectl(
            &fleet,
            &[&["pipeline", "rewind", "file", "--yes"], target].concat(),
        )
        .await?;
        refused.explains(6, "swept up to message 5", "--accept-gone")?;
    }
    let accepted = [
        "pipeline",
        "rewind",
        "file",
        "--to-beginning",
        "--accept-gone",
        "--yes",
    ];
    ensure!(done(&fleet, &accepted).await?["messages"] == 0);
    // and what is left behind the last that is gone needs no such thing
    let fresh = ["pipeline", "rewind", "file", "--to-id", "5"];
    ensure!(done(&fleet, &fresh).await?["messages"] == 0);
    Ok(())
}
