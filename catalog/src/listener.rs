//! Notices that something changed. A missed notice costs time, never correctness: everybody also
//! looks at intervals, and at once after a reconnect.

use serde_json::Value;
use sqlx::postgres::PgListener;
use tide_model::{AgentName, GroupName, UnitName};

use crate::{CatalogError, connection::Server, error::Doing};

/// What a notice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A pipeline was created, changed or deleted.
    Config,
    /// Holds or placements of a group changed.
    Intent(GroupName),
    /// An agent joined a group.
    Joined(GroupName, AgentName),
    /// An agent lost its name lock.
    Gone(GroupName, AgentName),
    /// An owner released pipelines and names the agent that should take them.
    Released(GroupName, AgentName, Vec<UnitName>),
    /// The connection was lost and is back; anything may have been missed.
    Reconnected,
}

const CHANNELS: [&str; 3] = ["tide_relay_config", "tide_intent", "tide_fleet"];

/// One listening session.
pub struct Listener {
    listener: PgListener,
}

impl Listener {
    /// Opens a session of its own and listens on every channel of Tide.
    pub async fn connect(server: &Server) -> Result<Self, CatalogError> {
        let pool = server.pool(1);
        let mut listener =
            PgListener::connect_with(&pool)
                .await
                .map_err(|source| CatalogError::Connect {
                    server: server.label(),
                    source,
                })?;
        listener.listen_all(CHANNELS).await.doing("listening")?;
        Ok(Self { listener })
    }

    /// The next notice that this version understands. Cancel-safe. After an error call it again:
    /// it reconnects by itself.
    pub async fn next(&mut self) -> Result<Notice, CatalogError> {
        loop {
            let Some(notification) = self.listener.try_recv().await.doing("listening")? else {
                // The connection broke; the next call of try_recv opens a new one.
                return Ok(Notice::Reconnected);
            };
            if let Some(notice) = parse(notification.channel(), notification.payload()) {
                return Ok(notice);
            }
        }
    }
}

/// Wakes the agent that should take released pipelines, by name.
pub async fn announce_released(
    connection: &mut sqlx::PgConnection,
    group: &GroupName,
    to: &AgentName,
    pipelines: &[UnitName],
) -> Result<(), CatalogError> {
    let names: Vec<&str> = pipelines.iter().map(UnitName::as_str).collect();
    sqlx::query(
        "-- announce_released\n\
         SELECT pg_notify('tide_fleet',\n\
             json_build_object('group', $1::text, 'released', $3::text[], 'to', $2::text)::text)",
    )
    .bind(group.as_str())
    .bind(to.as_str())
    .bind(names)
    .execute(connection)
    .await
    .map(drop)
    .doing("announcing a hand-over")
}

/// The longest list of names that fits a notification with room to spare (the limit is 8,000 bytes).
pub const RELEASED_PER_NOTICE: usize = 40;

fn parse(channel: &str, payload: &str) -> Option<Notice> {
    match channel {
        "tide_relay_config" => Some(Notice::Config),
        "tide_intent" => payload.parse().ok().map(Notice::Intent),
        "tide_fleet" => {
            let value: Value = serde_json::from_str(payload).ok()?;
            let name = |key: &str| value.get(key)?.as_str()?.parse().ok();
            let group: GroupName = value.get("group")?.as_str()?.parse().ok()?;
            if let Some(agent) = name("joined") {
                return Some(Notice::Joined(group, agent));
            }
            if let Some(agent) = name("gone") {
                return Some(Notice::Gone(group, agent));
            }
            let pipelines = value.get("released")?.as_array()?;
            let pipelines = pipelines
                .iter()
                .filter_map(|name| name.as_str()?.parse().ok())
                .collect();
            Some(Notice::Released(group, name("to")?, pipelines))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_the_catalog_sends() {
        assert_eq!(parse("tide_relay_config", "orders"), Some(Notice::Config));
        assert_eq!(
            parse("tide_intent", "default"),
            Some(Notice::Intent("default".parse().unwrap()))
        );
        assert_eq!(
            parse(
                "tide_fleet",
                r#"{"group": "default", "released": ["a", "b"], "to": "relay-1"}"#
            ),
            Some(Notice::Released(
                "default".parse().unwrap(),
                "relay-1".parse().unwrap(),
                vec!["a".parse().unwrap(), "b".parse().unwrap()]
            ))
        );
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        assert_eq!(parse("tide_fleet", "{}"), None);
        assert_eq!(parse("tide_fleet", "not json"), None);
        assert_eq!(parse("other", ""), None);
    }
}
