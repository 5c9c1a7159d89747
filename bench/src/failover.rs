//! From kill -9 of an owner to the next delivery by another agent, as a webhook receiver sees it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde_json::json;
use tide_catalog::{outboxes::outbox_create, pipelines::pipeline_set};
use tide_sandbox::{
    http::{Receiver, Request},
    process::Process,
    publisher::{PublishPlan, Publisher},
    wait::eventually,
};
use time::OffsetDateTime;

use crate::rig::{Rig, say};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many times an owner is killed.
    #[arg(long, default_value_t = 50)]
    crashes: usize,
    /// Pipelines, shared by two agents.
    #[arg(long, default_value_t = 4)]
    pipelines: usize,
    /// Messages a second.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
}

/// Measures and prints.
pub async fn run(args: Args) -> Result<()> {
    let rig = Rig::start().await?;
    let receiver = Receiver::start_forgetful(20_000).await?;
    let mut connection = rig.pool.acquire().await?;
    outbox_create(&mut connection, "bench", None).await?;
    for index in 0..args.pipelines {
        let config = json!({"sink_type": "webhook", "url": receiver.url(&format!("/p{index}")), "batch": true});
        pipeline_set(&mut connection, &format!("p{index}"), "bench", &config).await?;
    }
    drop(connection);
    let mut agents: BTreeMap<&str, Process> = BTreeMap::new();
    for name in ["relay-1", "relay-2"] {
        agents.insert(name, rig.agent(name, &[]).await?);
    }
    let publisher = Publisher::start(&rig.pool, PublishPlan::steady(["bench"], args.rate)).await?;
    let mut gaps = Vec::new();
    for crash in 0..args.crashes {
        let victim = if crash % 2 == 0 { "relay-1" } else { "relay-2" };
        balanced(&rig, args.pipelines).await?;
        let owned = owned_by(&rig, victim).await?;
        let Some(agent) = agents.get_mut(victim) else {
            continue;
        };
        let killed = OffsetDateTime::now_utc();
        agent.kill9()?;
        for (pipeline, epoch) in &owned {
            let path = format!("/{pipeline}");
            let next_delivery = |requests: &[Request]| {
                let taken_over = |request: &&Request| {
                    request.path == path
                        && request.at > killed
                        && epoch_of(&request.headers) > *epoch
                };
                requests.iter().find(taken_over).map(|request| request.at)
            };
            let found = |requests: &[Request]| next_delivery(requests).is_some();
            receiver
                .wait_until(Duration::from_mins(1), "the next owner to deliver", found)
                .await?;
            let next = receiver.inspect(next_delivery);
            gaps.extend(next.map(|next| (next - killed).as_seconds_f64() * 1e3));
        }
        agent.wait(Duration::from_secs(5)).await?;
        agents.insert(victim, rig.agent(victim, &[]).await?);
    }
    publisher.stop(Duration::from_secs(30)).await?;
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share).round() as usize];
    say(&format!(
        "{} takeovers after {} crashes: p50 {:.1} ms   p90 {:.1} ms   p99 {:.1} ms   max {:.1} ms",
        gaps.len(),
        args.crashes,
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    ))?;
    Ok(())
}

fn epoch_of(headers: &BTreeMap<String, String>) -> i64 {
    headers
        .get("tide-epoch")
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or(0)
}

/// Waits until both agents run half of the pipelines.
async fn balanced(rig: &Rig, pipelines: usize) -> Result<()> {
    eventually(Duration::from_secs(30), "both agents to own their share", async || {
        let owners: Vec<(String, i64)> = sqlx::query_as(
            "SELECT owner, count(*) FROM tide.relay_status() WHERE owner IS NOT NULL AND state = 'running' GROUP BY owner",
        )
        .fetch_all(&rig.pool)
        .await?;
        let total: i64 = owners.iter().map(|(_, count)| count).sum();
        Ok::<_, sqlx::Error>((owners.len() == 2 && total == pipelines as i64).then_some(()))
    })
    .await?;
    Ok(())
}

async fn owned_by(rig: &Rig, agent: &str) -> Result<Vec<(String, i64)>> {
    Ok(
        sqlx::query_as(
            "SELECT name, epoch FROM tide.relay_status() WHERE owner = $1 ORDER BY name",
        )
        .bind(agent)
        .fetch_all(&rig.pool)
        .await?,
    )
}
