//! Destinations that messages choose, at real servers.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_catalog::outboxes::{NewMessage, outbox_publish};
use tide_sandbox::http::Behaviour;
use tide_tests::{Fleet, FleetOptions, fleet::Tap};
use uuid::Uuid;

use super::servers::Servers;

/// Whom each message is for, in their order.
const TENANTS: [Option<&str>; 7] = [
    Some("a"),
    Some("b"),
    Some("a"),
    None,
    Some("a b"),
    Some("nowhere"),
    Some("a"),
];

/// What each kind of sink puts aside, by message id. A path holds any text, percent-encoded; Redis
/// and the mock broker make whatever is named.
const REFUSED: [(&str, &[i64]); 5] = [
    ("kafka", &[4, 5]),
    ("nats", &[4, 5, 6]),
    ("rabbitmq", &[4, 5, 6]),
    ("redis", &[4, 5]),
    ("webhook", &[4, 6]),
];

fn message(number: u128, tenant: Option<&str>) -> NewMessage {
    NewMessage {
        outbox: "events".to_owned(),
        payload: json!({"n": number}),
        headers: tenant.map_or(json!({}), |tenant| json!({"tenant": tenant})),
        key: Some(format!("key-{}", tenant.unwrap_or_default())),
        event_id: Some(Uuid::from_u128(number)),
    }
}

/// GIVEN a template as the destination of each kind of sink WHEN messages name theirs, and some
/// none, an impossible one or one that is not there THEN each is where it says in its order, those
/// are dead letters with the reason, and nothing waits.
#[tokio::test]
async fn each_message_goes_where_it_says_and_nobody_waits_for_those_that_cannot() -> Result<()> {
    // GIVEN
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let servers = Servers::start(["t-a", "t-b", "t-nowhere"]).await?;
    for place in ["t-a", "t-b"] {
        servers.create(place).await?;
    }
    let gone = Behaviour::Respond(404);
    servers.receiver().by_default("/t-nowhere", gone);
    for (kind, mut config) in servers.configs(&fleet, "t-{{ headers.tenant }}") {
        if kind == "file" {
            continue;
        }
        config["sink_type"] = kind.into();
        fleet.add(kind, "events", config, Tap::Nothing).await?;
    }
    fleet.wait_until_running().await?;
    // WHEN
    let mut connection = fleet.connection().await?;
    for (number, tenant) in (1..).zip(TENANTS) {
        outbox_publish(&mut connection, &message(number, tenant)).await?;
    }
    let through =
        "SELECT count(*) = 5 AND bool_and(last_change_id >= 7) FROM tide.relay_consumer_offsets";
    fleet
        .wait_for_sql("everything to be delivered or aside", through)
        .await?;
    // THEN
    for (kind, refused) in REFUSED {
        for (tenant, expected) in [("a", vec![1, 3, 7]), ("b", vec![2])] {
            let place = format!("t-{tenant}");
            let held = servers.held(&fleet, (kind, &place), expected.len()).await?;
            let numbers: Vec<u64> = held
                .iter()
                .map(|held| {
                    let envelope: Value = serde_json::from_slice(&held.body)?;
                    Ok(envelope["payload"]["n"].as_u64().unwrap_or_default())
                })
                .collect::<Result<_>>()?;
            ensure!(numbers == expected, "{kind}: {place} holds {numbers:?}");
        }
        let aside: Vec<(i64, String)> = sqlx::query_as(
            "SELECT message_id, error FROM tide.relay_dlq WHERE pipeline = $1 ORDER BY message_id",
        )
        .bind(kind)
        .fetch_all(fleet.pool())
        .await?;
        let aside: BTreeMap<i64, String> = aside.into_iter().collect();
        let ids: Vec<i64> = aside.keys().copied().collect();
        ensure!(ids == refused, "{kind} put aside {aside:?}");
        ensure!(aside[&4].contains("headers.tenant is missing"), "{aside:?}");
        if let Some(nowhere) = aside.get(&6) {
            let names_it = nowhere.contains("t-nowhere") || nowhere.contains("404");
            ensure!(names_it, "{kind}: {nowhere}");
        }
    }
    Ok(())
}
