//! Large messages: each sink that can hold them gets them whole, and no backlog of them makes an
//! agent larger than what is on its way.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tide_sandbox::{envelope::Delivery, http::Receiver};
use tide_tests::{Fleet, FleetOptions};

const MIB: usize = 1 << 20;
/// The largest payload that is promised.
const LARGE: usize = 32 * MIB;
/// What an agent takes at most while 4 MiB at a time are on their way: a page that is being
/// delivered, as it was read and as it is sent, one that was read ahead, one that comes over the
/// wire, and the agent itself with what its allocator keeps.
const MOST: usize = 120 * MIB;

/// Publishes so many messages whose payload is a text of so many bytes.
async fn publish(fleet: &Fleet, count: usize, bytes: usize) -> Result<()> {
    sqlx::query(
        "SELECT tide.outbox_publish('events', to_jsonb(repeat(chr(97 + n % 26), $2)), '{}', 'key-' || n % 3)
         FROM generate_series(1, $1) n",
    )
    .bind(count as i32)
    .bind(bytes as i32)
    .execute(fleet.pool())
    .await?;
    Ok(())
}

/// The most memory that a process had so far, in bytes.
fn peak(process: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kilobytes: usize = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Every message once, whole, and in the order of its key.
fn whole(sink: &str, deliveries: &[Delivery], count: usize, bytes: usize) -> Result<()> {
    ensure!(deliveries.len() == count, "{sink}: {}", deliveries.len());
    let mut latest: BTreeMap<&str, i64> = BTreeMap::new();
    for delivery in deliveries {
        let envelope = &delivery.envelope;
        let text = envelope.payload.as_str().context("a text")?;
        let letter = char::from(97 + (envelope.id % 26) as u8);
        ensure!(
            text.len() == bytes && text.chars().all(|found| found == letter),
            "{sink}: message {} was changed",
            envelope.id
        );
        let key = envelope.key.as_deref().unwrap_or_default();
        let before = latest.insert(key, envelope.id);
        ensure!(before < Some(envelope.id), "{sink}: {key} out of order");
    }
    Ok(())
}

/// Waits until every pipeline has got so far, step by step, because a step may take long.
async fn delivered(fleet: &Fleet, count: usize, step: usize) -> Result<()> {
    for reached in (step..=count).step_by(step) {
        fleet
            .wait_until(&format!("{reached} to be delivered"), |view| {
                view.pipelines
                    .iter()
                    .all(|row| row.last_change_id >= reached as i64)
            })
            .await?;
    }
    Ok(())
}

fn is_bounded(fleet: &mut Fleet, agent: &str) -> Result<()> {
    let most = peak(fleet.agent(agent).process.pid())?;
    ensure!(
        most < MOST,
        "the agent had {} MiB, more than {}",
        most / MIB,
        MOST / MIB
    );
    Ok(())
}

#[tokio::test]
async fn the_largest_messages_arrive_whole() -> Result<()> {
    const COUNT: usize = 2;
    // GIVEN pipelines to sinks that take messages of any size, and large ones to deliver
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    let receiver = Arc::new(Receiver::start().await?);
    let url = fleet.url();
    fleet.add_file_pipeline("file", "events").await?;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, json!({"batch": true}))
        .await?;
    fleet
        .add_inbox_pipeline("inbox", "events", &url, json!({}))
        .await?;
    publish(&fleet, COUNT, LARGE).await?;
    // WHEN an agent delivers them THEN every sink has all of them
    fleet.start_agent("relay-1").await?;
    delivered(&fleet, COUNT, 1).await?;
    for sink in ["file", "hook", "inbox"] {
        whole(sink, &fleet.deliveries(sink)?, COUNT, LARGE)?;
    }
    fleet.stop_agents().await
}

#[tokio::test]
async fn an_agent_is_no_larger_for_the_size_of_a_backlog() -> Result<()> {
    const COUNT: usize = 200;
    // GIVEN a backlog that is larger than an agent may be
    let mut fleet = Fleet::start(FleetOptions::agents(0)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    publish(&fleet, COUNT, MIB).await?;
    // WHEN an agent works it off THEN it holds little of it at a time
    fleet.start_agent("relay-1").await?;
    delivered(&fleet, COUNT, COUNT / 4).await?;
    whole("file", &fleet.deliveries("file")?, COUNT, MIB)?;
    is_bounded(&mut fleet, "relay-1")?;
    fleet.stop_agents().await
}

#[tokio::test]
async fn a_replay_of_large_letters_holds_a_few_of_them_at_a_time() -> Result<()> {
    const COUNT: usize = 100;
    // GIVEN more letters than an agent may hold
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipeline("file", "events").await?;
    fleet.wait_until_running().await?;
    sqlx::query(
        "INSERT INTO tide.relay_dlq (relay_group_id, pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts, epoch)
         SELECT 'default', 'file', 'events', n, gen_random_uuid(), 'key-' || n % 3, '{}', to_jsonb(repeat(chr(97 + n % 26), $2)), 'no', 1, 1
         FROM generate_series(1, $1) n",
    )
    .bind(COUNT as i32)
    .bind(MIB as i32)
    .execute(fleet.pool())
    .await?;
    // WHEN they are delivered again THEN a few are on their way at a time
    sqlx::query("SELECT tide.dlq_replay()")
        .execute(fleet.pool())
        .await?;
    for left in [COUNT * 2 / 3, COUNT / 3, 0] {
        let sql = format!("SELECT count(*) <= {left} FROM tide.relay_dlq");
        fleet
            .wait_for_sql(&format!("{left} letters to be left"), &sql)
            .await?;
    }
    whole("file", &fleet.deliveries("file")?, COUNT, MIB)?;
    is_bounded(&mut fleet, "relay-1")?;
    fleet.stop_agents().await
}
