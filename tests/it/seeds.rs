//! What the original documents show works here as shown. `pg-tide` there is `tide-agent` here.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use sqlx::Row as _;
use tide_model::PipelineState;
use tide_sandbox::{
    history::{self, Stream},
    http::Receiver,
};
use tide_tests::{
    Fleet, FleetOptions, SOON, by_hand::publish, catalog::execute, command::run, fleet::Tap, proof,
    scrape,
};

/// One agent with pipeline `my-pipeline`, and a little that it has delivered.
async fn my_pipeline() -> Result<Fleet> {
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet
        .add_file_pipeline("my-pipeline", "order_events")
        .await?;
    fleet.wait_until_running().await?;
    publish_some(&mut fleet, 5).await?;
    fleet.wait_for_deliveries("my-pipeline", 5).await?;
    Ok(fleet)
}

async fn publish_some(fleet: &mut Fleet, count: usize) -> Result<()> {
    let mut connection = fleet.connection().await?;
    for _ in 0..count {
        let entry = fleet.drafts.draw("order_events", "k");
        publish(&mut connection, &entry).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_crash_runbook_finds_the_backend_that_holds_a_lock_and_ends_it() -> Result<()> {
    // GIVEN
    let mut fleet = my_pipeline().await?;
    let before = fleet.owners().await?;
    // WHEN its query is run as printed
    let found = sqlx::query(
        "SELECT pid, application_name, state, query_start
FROM pg_stat_activity
WHERE pid IN (
SELECT pid
FROM pg_locks
WHERE locktype = 'advisory'
AND classid = hashtext('default') -- relay_group_id
AND objid = hashtext('my-pipeline') -- pipeline name
);",
    )
    .fetch_all(fleet.pool())
    .await?;
    // THEN it names the owner's session
    ensure!(found.len() == 1, "{} rows", found.len());
    let pid: i32 = found[0].get("pid");
    ensure!(Some(pid) == fleet.lock_backend("relay-1").await?);
    assert_eq!(
        found[0].get::<String, _>("application_name"),
        "tide-agent/relay-1"
    );
    // WHEN that is terminated as printed THEN the relay reacquires the lock
    fleet.excuse(tide_sandbox::history::Cause::Partition, ["my-pipeline"]);
    execute(
        &mut *fleet.connection().await?,
        format!("SELECT pg_terminate_backend({pid});"),
    )
    .await?;
    fleet
        .wait_until("the pipeline to be taken again", |view| {
            let row = &view.pipelines[0];
            row.owner_pid.is_some_and(|now| now != pid)
                && row.state == Some(PipelineState::Running)
                && row
                    .epoch
                    .is_some_and(|epoch| epoch.0 > before["my-pipeline"].epoch)
        })
        .await?;
    publish_some(&mut fleet, 5).await?;
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_offsets_query_shows_each_pipeline() -> Result<()> {
    let mut fleet = my_pipeline().await?;
    fleet
        .wait_for_sql(
            "the position to be stored",
            "SELECT last_change_id = 5 FROM tide.relay_consumer_offsets",
        )
        .await?;
    let rows = sqlx::query(
        "SELECT name, last_change_id, updated_at
FROM tide.relay_consumer_offsets
ORDER BY name;",
    )
    .fetch_all(fleet.pool())
    .await?;
    ensure!(rows.len() == 1);
    assert_eq!(rows[0].get::<String, _>("name"), "my-pipeline");
    assert_eq!(rows[0].get::<i64, _>("last_change_id"), 5);
    let age =
        time::OffsetDateTime::now_utc() - rows[0].get::<time::OffsetDateTime, _>("updated_at");
    ensure!(age < time::Duration::minutes(1), "{age}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_log_and_the_status_command_confirm_that_a_pipeline_resumed() -> Result<()> {
    // GIVEN an agent that was killed and restarted, as the runbook says
    let mut fleet = my_pipeline().await?;
    fleet.crash("relay-1").await?;
    fleet.start_agent("relay-1").await?;
    // THEN its log says so
    let line = fleet
        .agent("relay-1")
        .log("acquired lock — spawning worker")
        .await?;
    ensure!(line.contains("my-pipeline"), "{line}");
    fleet.wait_until_running().await?;
    publish_some(&mut fleet, 5).await?;
    fleet.wait_for_deliveries("my-pipeline", 10).await?;
    fleet
        .wait_for_sql("no lag", "SELECT lag_rows = 0 FROM tide.relay_status()")
        .await?;
    // and so does the status command, with the lag
    let url = fleet.url();
    let status = run("tide-agent", &["status", "--postgres-url", &url], &[], SOON).await?;
    ensure!(status.code == Some(0), "{status:?}");
    let mut lines = status.stdout.lines();
    let (header, row) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    for (column, value) in [
        ("PIPELINE", "my-pipeline"),
        ("OWNER", "relay-1"),
        ("STATE", "running"),
        ("LAG", "0"),
    ] {
        ensure!(
            header.contains(column) && row.contains(value),
            "{}",
            status.stdout
        );
    }
    proof::clean(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_status_command_exits_with_3_when_something_needs_attention() -> Result<()> {
    // GIVEN a pipeline that nobody owns
    let mut fleet = my_pipeline().await?;
    fleet.agent("relay-1").stop().await?;
    let url = fleet.url();
    let status = run("tide-agent", &["status", "--postgres-url", &url], &[], SOON).await?;
    ensure!(status.code == Some(3), "{status:?}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn every_flag_of_the_documents_is_taken_as_printed() -> Result<()> {
    // GIVEN `pg-tide run`, `--relay-group-id "production"`, `--discovery-interval 10`,
    // `--shutdown-timeout 45`, and a file with `discovery_interval_secs = 30`
    let mut fleet = Fleet::start(FleetOptions {
        group: "production".to_owned(),
        ..FleetOptions::agents(0)
    })
    .await?;
    fleet
        .add_file_pipeline("my-pipeline", "order_events")
        .await?;
    let file = fleet.scratch.path().join("pg-tide.toml");
    std::fs::write(
        &file,
        "# Default: 30 seconds\ndiscovery_interval_secs = 30\n",
    )?;
    let url = fleet.url();
    let mut by_flags = fleet.spec("relay-1");
    by_flags.env.clear();
    by_flags.args = [
        "run",
        "--postgres-url",
        &url,
        "--relay-group-id",
        "production",
        "--discovery-interval",
        "10",
        "--shutdown-timeout",
        "45",
        "--name",
        "relay-1",
        "--metrics-addr",
        "127.0.0.1:0",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    let by_file = fleet
        .spec("relay-2")
        .without("--discovery-interval")
        .with("--config", &file.display().to_string());
    // WHEN agents are started so THEN they work
    fleet.start_as(by_flags).await?;
    fleet.start_as(by_file).await?;
    fleet.wait_until_running().await?;
    publish_some(&mut fleet, 5).await?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn groups_are_isolated_and_both_own_the_same_pipeline() -> Result<()> {
    // GIVEN a group `blue` and an agent of a group `green`
    let mut fleet = Fleet::start(FleetOptions {
        group: "blue".to_owned(),
        ..FleetOptions::agents(1)
    })
    .await?;
    let receiver = Arc::new(Receiver::start().await?);
    fleet
        .add_webhook_pipeline("my-pipeline", "order_events", &receiver, json!({}))
        .await?;
    let green = fleet.spec("green-1").with("--relay-group-id", "green");
    fleet.start_as(green).await?;
    fleet.wait_until_running().await?;
    // WHEN messages are published, and the blue agent is killed meanwhile
    publish_some(&mut fleet, 20).await?;
    receiver
        .wait_for_deliveries("/my-pipeline", 40, SOON)
        .await?;
    fleet.crash("relay-1").await?;
    publish_some(&mut fleet, 20).await?;
    receiver
        .wait_for_deliveries("/my-pipeline", 60, SOON)
        .await?;
    // THEN the green one delivered everything, undisturbed, and the blue one what it could
    fleet.stop_agents().await?;
    let of_group = |group: &str| {
        let mut deliveries = receiver.deliveries("/my-pipeline");
        deliveries.retain(|delivery| delivery.envelope.group() == Some(group));
        deliveries
    };
    ensure!(of_group("blue").len() == 20);
    let stream = Stream::new("my-pipeline", "order_events", of_group("green"));
    proof::exactly_once(&history::check(fleet.drafts.entries(), &[stream], &[]))
}

#[tokio::test]
async fn whoever_holds_the_advisory_lock_owns_the_pipeline() -> Result<()> {
    // GIVEN a stranger that holds pg_try_advisory_lock(hashtext(group), hashtext(pipeline))
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let mut stranger = fleet.pool().acquire().await?;
    let lock = "SELECT pg_try_advisory_lock(hashtext('default'), hashtext('my-pipeline'))";
    let locked: bool = sqlx::query_scalar(lock).fetch_one(&mut *stranger).await?;
    ensure!(locked);
    // WHEN the pipeline is created, and one beside it
    fleet
        .add_file_pipeline("my-pipeline", "order_events")
        .await?;
    fleet.add_file_pipeline("other", "order_events").await?;
    publish_some(&mut fleet, 5).await?;
    fleet.wait_for_deliveries("other", 5).await?;
    // THEN the agent leaves it alone until the stranger lets go, and then it is the stranger who
    // does not get it
    ensure!(fleet.deliveries("my-pipeline")?.is_empty());
    execute(&mut stranger, "SELECT pg_advisory_unlock_all()").await?;
    fleet.wait_for_deliveries("my-pipeline", 5).await?;
    let locked: bool = sqlx::query_scalar(lock).fetch_one(&mut *stranger).await?;
    ensure!(!locked, "it did not wait, and it did not get it");
    let shown: Vec<i32> = sqlx::query("SELECT * FROM pg_locks WHERE locktype = 'advisory'")
        .fetch_all(&mut *stranger)
        .await?
        .iter()
        .map(|row| row.get("pid"))
        .collect();
    ensure!(shown.contains(&fleet.lock_backend("relay-1").await?.expect("it is alive")));
    drop(stranger);
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn health_is_for_owners_and_a_standby_is_alive_and_ready() -> Result<()> {
    // GIVEN an owner and a standby
    let mut fleet = my_pipeline().await?;
    fleet.start_agent("relay-2").await?;
    // THEN
    for (agent, path, status) in [
        ("relay-1", "/health", 200),
        ("relay-1", "/livez", 200),
        ("relay-1", "/readyz", 200),
        ("relay-2", "/health", 503),
        ("relay-2", "/livez", 200),
        ("relay-1", "/nonsense", 404),
    ] {
        let answer = fleet.agent(agent).get(path).await?;
        ensure!(answer.status == status, "{agent} {path}: {answer:?}");
    }
    tide_sandbox::wait::eventually(SOON, "the standby to be ready", async || {
        let ready = fleet.agent("relay-2").get("/readyz").await?;
        anyhow::Ok((ready.status == 200).then_some(()))
    })
    .await?;
    let standby = fleet.agent("relay-2").get("/health").await?;
    ensure!(standby.body.contains("owns no pipeline"), "{standby:?}");
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn metrics_show_which_agent_owns_what_and_how_far_it_is_behind() -> Result<()> {
    // GIVEN an owner, a standby, and a sink that keeps the owner waiting
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    fleet
        .add_webhook_pipeline("my-pipeline", "order_events", &receiver, json!({}))
        .await?;
    fleet.wait_until_running().await?;
    fleet.start_agent("relay-2").await?;
    let metrics = fleet.agent("relay-1").get("/metrics").await?.body;
    let healthy = scrape::samples(&metrics, "pg_tide_pipeline_healthy", "pipeline")?;
    ensure!(healthy.get("my-pipeline") == Some(&1.0), "{healthy:?}");
    let standby = fleet.agent("relay-2").get("/metrics").await?.body;
    let elsewhere = scrape::samples(&standby, "pg_tide_pipeline_healthy", "pipeline")?;
    ensure!(
        elsewhere
            .get("my-pipeline")
            .is_none_or(|value| *value == 0.0),
        "{elsewhere:?}"
    );
    // WHEN messages wait
    receiver.by_default("/my-pipeline", tide_sandbox::http::Behaviour::Respond(503));
    publish_some(&mut fleet, 7).await?;
    // THEN the lag says how many, the pipeline is unhealthy, and both end when it flows again
    for (metric, expected) in [
        ("pg_tide_relay_consumer_lag", 7.0),
        ("pg_tide_pipeline_healthy", 0.0),
    ] {
        becomes(&mut fleet, metric, expected).await?;
    }
    receiver.by_default("/my-pipeline", tide_sandbox::http::Behaviour::Respond(200));
    for (metric, expected) in [
        ("pg_tide_relay_consumer_lag", 0.0),
        ("pg_tide_pipeline_healthy", 1.0),
    ] {
        becomes(&mut fleet, metric, expected).await?;
    }
    proof::exactly_once(&fleet.settle_and_check().await?)
}

/// Waits until the owner shows this value for `my-pipeline`.
async fn becomes(fleet: &mut Fleet, metric: &str, expected: f64) -> Result<()> {
    let what = format!("{metric} to be {expected}");
    let agent = fleet.agent("relay-1");
    tide_sandbox::wait::eventually(SOON, what, async || {
        let metrics = agent.get("/metrics").await?.body;
        let seen = scrape::samples(&metrics, metric, "pipeline")?;
        if seen.get("my-pipeline") == Some(&expected) {
            return Ok(Some(()));
        }
        Err(anyhow::anyhow!("{seen:?}"))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_example_of_the_hot_reload_document_is_accepted_and_waits_for_its_broker() -> Result<()>
{
    // GIVEN an agent with a pipeline on the same outbox
    let mut fleet = my_pipeline().await?;
    let before = fleet.owners().await?;
    // WHEN the example is run as printed, and there is no host of the name kafka
    execute(
        &mut *fleet.connection().await?,
        r#"-- This triggers immediate reload
SELECT tide.relay_set_outbox(
    'orders-pipeline',
    'order_events',
    '{"sink_type": "kafka", "brokers": "kafka:9092", "topic": "orders"}'::jsonb
);"#,
    )
    .await?;
    publish_some(&mut fleet, 5).await?;
    // THEN it is taken up, and its neighbour flows
    fleet
        .wait_for_state("orders-pipeline", PipelineState::Running)
        .await?;
    fleet.wait_for_deliveries("my-pipeline", 10).await?;
    // WHEN there is one like it whose batches need not wait for half a minute THEN that says that
    // it tries again, and why
    let mut impatient = json!({"sink_type": "kafka", "brokers": "kafka:9092", "topic": "orders"});
    impatient["timeout_ms"] = json!(500);
    fleet
        .add("impatient", "order_events", impatient, Tap::Nothing)
        .await?;
    let row = fleet
        .wait_for_state("impatient", PipelineState::Retrying)
        .await?;
    ensure!(
        row.state_reason
            .as_deref()
            .unwrap_or_default()
            .contains("not acknowledged within 500ms"),
        "{row:?}"
    );
    proof::unchanged(&before, &fleet.owners().await?, &[])?;
    let published = fleet.drafts.entries().to_vec();
    fleet.wait_until_delivered(&published).await?;
    // A batch on its way may take its half minute; the agent is not made to wait for it.
    fleet.agent("relay-1").kill9()?;
    proof::exactly_once(&fleet.judge(&published)?)
}

#[tokio::test]
async fn a_dead_agents_pipelines_flow_again_long_before_the_next_discovery_cycle() -> Result<()> {
    // GIVEN agents with `--discovery-interval 10`, for which the document promises ten seconds
    let mut fleet = Fleet::start(FleetOptions {
        discovery_interval: Duration::from_secs(10),
        ..FleetOptions::agents(2)
    })
    .await?;
    fleet.add_file_pipeline("A", "order_events").await?;
    fleet.add_file_pipeline("B", "order_events").await?;
    fleet.wait_until_balanced().await?;
    let victim = fleet.owners().await?["A"].agent.clone();
    // WHEN the owner of A crashes and a message is published
    fleet.crash(&victim).await?;
    publish_some(&mut fleet, 1).await?;
    let crashed = tokio::time::Instant::now();
    fleet.wait_for_deliveries("A", 1).await?;
    // THEN it arrives
    ensure!(
        crashed.elapsed() < Duration::from_secs(10),
        "{:?}",
        crashed.elapsed()
    );
    proof::clean(&fleet.settle_and_check().await?)
}
