//! What arrives at real servers in each format: bodies, and what stands beside them.

mod routes;
mod servers;
mod transforms;

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tide_catalog::outboxes::{NewMessage, outbox_publish};
use tide_tests::{Fleet, FleetOptions, fleet::Tap};
use uuid::Uuid;

use self::servers::Servers;

const FORMATS: [&str; 5] = [
    "native",
    "raw",
    "cloudevents",
    "cloudevents-binary",
    "debezium",
];

/// One message whose every part is hard to carry.
fn message() -> NewMessage {
    NewMessage {
        outbox: "events".to_owned(),
        payload: json!({"type": "order.created", "note": "caf\u{e9} \"1\""}),
        headers: json!({"traceparent": "00-ab-cd-01", "Trace Id": {"x": 1}, "ce_id": "forged", "content-type": "forged"}),
        key: Some("k\"1 \u{e9}".to_owned()),
        event_id: Some(Uuid::from_u128(7)),
    }
}

/// GIVEN a pipeline to each kind of sink in each format WHEN a message is published THEN each sink
/// holds it as the format and the sink's own idiom say.
#[tokio::test]
async fn every_sink_gets_every_format_in_its_own_idiom() -> Result<()> {
    // GIVEN
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let servers = Servers::start(FORMATS).await?;
    let mut places = Vec::new();
    for format in FORMATS {
        servers.create(format).await?;
        for (kind, mut config) in servers.configs(&fleet, format) {
            if kind == "file" && format == "cloudevents-binary" {
                continue;
            }
            let settings = config.as_object_mut().expect("settings are an object");
            settings.insert("sink_type".to_owned(), kind.into());
            settings.insert("format".to_owned(), format.into());
            let name = format!("{kind}-{format}");
            fleet.add(&name, "events", config, Tap::Nothing).await?;
            places.push((kind, format, name));
        }
    }
    // WHEN
    let mut connection = fleet.connection().await?;
    outbox_publish(&mut connection, &message()).await?;
    fleet
        .wait_for_sql(
            "everything to be delivered",
            &format!(
                "SELECT count(*) = {} AND bool_and(last_change_id >= 1) FROM tide.relay_consumer_offsets",
                places.len()
            ),
        )
        .await?;
    // THEN
    let (at, millis, database): (String, String, String) = sqlx::query_as(
        "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                floor(extract(epoch FROM created_at) * 1000)::bigint::text, current_database()
         FROM tide.outbox_events",
    )
    .fetch_one(fleet.pool())
    .await?;
    let epochs: BTreeMap<String, i64> =
        sqlx::query_as("SELECT name, epoch FROM tide.relay_consumer_offsets ORDER BY name")
            .fetch_all(fleet.pool())
            .await?
            .into_iter()
            .collect();
    let mut text = String::new();
    for (kind, format, name) in &places {
        let held = servers.held(&fleet, (kind, format), 1).await?;
        ensure!(held.len() == 1, "{name} holds {held:?}");
        let body = String::from_utf8(held[0].body.clone())?;
        let value: Value = serde_json::from_str(&body)?;
        ensure!(value.is_object(), "{body}");
        let mut seen = format!("== {name}\n{body}\n");
        writeln!(seen, "-- id {:?}, key {:?}", held[0].event_id, held[0].key)?;
        for (name, value) in &held[0].headers {
            writeln!(seen, "{name}: {value}")?;
        }
        // Epochs are given out in any order.
        for before in ["epoch\":\"", "epoch\":", "epoch: "] {
            let epoch = format!("{before}{}", epochs[name]);
            seen = seen.replace(&epoch, &format!("{before}[epoch]"));
        }
        writeln!(text, "{seen}")?;
    }
    let text = text
        .replace(&at, "[created_at]")
        .replace(&millis, "[millis]")
        .replace(&format!("\"db\":\"{database}\""), "\"db\":\"[database]\"");
    insta::assert_snapshot!(text);
    Ok(())
}
