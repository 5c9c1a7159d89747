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
    /// An owner is about to release pipelines to an agent, which should make ready for them.
    Prepare(Handshake),
    /// An agent is ready for pipelines that an owner is about to release to it.
    Ready(Handshake),
    /// The connection was lost and is back; anything may have been missed.
    Reconnected,
}

/// What two agents tell each other before pipelines change hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Their group.
    pub group: GroupName,
    /// Who says it.
    pub from: AgentName,
    /// To whom.
    pub to: AgentName,
    /// About which pipelines.
    pub pipelines: Vec<UnitName>,
}

const CHANNELS: [&str; 3] = ["tide_relay_config", "tide_intent", "tide_fleet"];

/// One listening session.
pub struct Listener {
    listener: PgListener,
}

impl Listener {
    /// Opens a session of its own and listens on every channel of Tide.
    pub async fn connect(server: &Server) -> Result<Self, CatalogError> {
        let (mut listener, _pool) = server.listener().await?;
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

/// Asks a successor to make ready.
pub async fn announce_prepare(
    connection: &mut sqlx::PgConnection,
    handshake: &Handshake,
) -> Result<(), CatalogError> {
    announce(connection, handshake, "prepare").await
}

/// Tells an owner that its successor is ready.
pub async fn announce_ready(
    connection: &mut sqlx::PgConnection,
    handshake: &Handshake,
) -> Result<(), CatalogError> {
    announce(connection, handshake, "ready").await
}

async fn announce(
    connection: &mut sqlx::PgConnection,
    handshake: &Handshake,
    what: &'static str,
) -> Result<(), CatalogError> {
    let Handshake {
        group,
        from,
        to,
        pipelines,
    } = handshake;
    for names in pipelines.chunks(NAMES_PER_NOTICE) {
        let names: Vec<&str> = names.iter().map(UnitName::as_str).collect();
        sqlx::query(
            "-- announce_handshake\n\
             SELECT pg_notify('tide_fleet',\n\
                 json_build_object('group', $1::text, $2::text, $5::text[], 'from', $3::text, 'to', $4::text)::text)",
        )
        .bind(group.as_str())
        .bind(what)
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(names)
        .execute(&mut *connection)
        .await
        .map(drop)
        .doing("preparing a hand-over")?;
    }
    Ok(())
}

/// The longest list of names that fits a notification with room to spare (the limit is 8,000 bytes).
const NAMES_PER_NOTICE: usize = 40;

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
            let to = name("to")?;
            let pipelines = |key: &str| -> Option<Vec<UnitName>> {
                let names = value.get(key)?.as_array()?.iter();
                Some(
                    names
                        .filter_map(|name| name.as_str()?.parse().ok())
                        .collect(),
                )
            };
            if let Some(pipelines) = pipelines("released") {
                return Some(Notice::Released(group, to, pipelines));
            }
            let handshake = |from, pipelines| Handshake {
                group,
                from,
                to,
                pipelines,
            };
            let from = name("from")?;
            if let Some(pipelines) = pipelines("prepare") {
                return Some(Notice::Prepare(handshake(from, pipelines)));
            }
            Some(Notice::Ready(handshake(from, pipelines("ready")?)))
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
    fn understands_what_agents_tell_each_other_before_a_hand_over() {
        let handshake = Handshake {
            group: "default".parse().unwrap(),
            from: "relay-1".parse().unwrap(),
            to: "relay-2".parse().unwrap(),
            pipelines: vec!["a".parse().unwrap()],
        };
        assert_eq!(
            parse(
                "tide_fleet",
                r#"{"group": "default", "prepare": ["a"], "from": "relay-1", "to": "relay-2"}"#
            ),
            Some(Notice::Prepare(handshake.clone()))
        );
        assert_eq!(
            parse(
                "tide_fleet",
                r#"{"group": "default", "ready": ["a"], "from": "relay-1", "to": "relay-2"}"#
            ),
            Some(Notice::Ready(handshake))
        );
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        assert_eq!(parse("tide_fleet", "{}"), None);
        assert_eq!(parse("tide_fleet", "not json"), None);
        assert_eq!(parse("other", ""), None);
    }
}
