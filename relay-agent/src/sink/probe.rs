//! Whether somebody listens where a sink should be. It is the least that delivering needs, it is the
//! same for every pipeline of one broker, and nothing is said that a sink could see.
//!
//! Who is trusted, and who may log in, only the sink's own client finds out.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;
use reqwest::Url;
use tide_catalog::connection::Server;
use tide_model::SinkSpec;
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};

use super::{secret, webhook};

/// A connection takes less anywhere on earth. An owner waits for the answer, see
/// [`crate::preparation`].
const WITHIN: Duration = Duration::from_secs(1);

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    /// Hosts and ports; one that answers will do.
    places: BTreeSet<(String, u16)>,
    /// Of a webhook, which networks that are not public may be looked into.
    guarded: Option<Vec<IpNet>>,
}

impl Probe {
    /// What there is to look for; none where a sink is no affair of the network, or where its
    /// configuration does not say.
    pub(crate) fn of(spec: &SinkSpec) -> Option<Self> {
        let (places, guarded): (BTreeSet<_>, _) = match spec {
            SinkSpec::Stdout | SinkSpec::File(_) | SinkSpec::Null => return None,
            SinkSpec::Webhook(spec) => (
                url_place(&spec.url, 443).into_iter().collect(),
                Some(spec.allow_networks.clone()),
            ),
            SinkSpec::Kafka { brokers, .. } => {
                let brokers = brokers.split(',');
                (
                    brokers.filter_map(|one| broker_place(one.trim())).collect(),
                    None,
                )
            }
            SinkSpec::Nats(spec) => {
                let servers = spec.servers.iter();
                (
                    servers.filter_map(|url| url_place(url, 4222)).collect(),
                    None,
                )
            }
            SinkSpec::Redis(spec) => (url_place(&spec.url, 6379).into_iter().collect(), None),
            SinkSpec::Rabbitmq(spec) => {
                let usual = if spec.url.starts_with("amqps") {
                    5671
                } else {
                    5672
                };
                (url_place(&spec.url, usual).into_iter().collect(), None)
            }
            SinkSpec::PgInbox { postgres_url, .. } => {
                // The outbox's own database is reached, or nobody could ask for this.
                let url = secret::resolve_url("postgres_url", postgres_url.as_ref()?).ok()?;
                let place = Server::parse(&url, "tide-agent").ok()?.place();
                (place.into_iter().collect(), None)
            }
        };
        (!places.is_empty()).then_some(Self { places, guarded })
    }

    /// Looks; an error says what was met instead.
    pub(crate) async fn look(self) -> Result<(), String> {
        let mut looks = JoinSet::new();
        for (host, port) in self.places {
            let guarded = self.guarded.clone();
            looks.spawn(async move {
                let connected = timeout(WITHIN, connected(&host, port, guarded.as_deref()));
                let failure = match connected.await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("nothing within {WITHIN:?}"),
                };
                Err(format!("no connection to {host}:{port}: {failure}"))
            });
        }
        let mut failures = Vec::new();
        while let Some(look) = looks.join_next().await {
            match look {
                Ok(Err(failure)) => failures.push(failure),
                // One that panicked has found out nothing.
                Ok(Ok(())) | Err(_) => return Ok(()),
            }
        }
        failures.sort();
        Err(failures.join("; "))
    }
}

async fn connected(host: &str, port: u16, guarded: Option<&[IpNet]>) -> std::io::Result<()> {
    let mut addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if let Some(allowed) = guarded {
        addresses = webhook::permitted(allowed, host, addresses);
        if addresses.is_empty() {
            // Nothing goes there, and the sink says why.
            return Ok(());
        }
    }
    TcpStream::connect(&addresses[..]).await.map(drop)
}

fn url_place(url: &str, usual: u16) -> Option<(String, u16)> {
    let url: Url = url.parse().ok()?;
    let port = url.port_or_known_default().unwrap_or(usual);
    let host = url.host_str()?.trim_matches(['[', ']']);
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// `host`, `host:port` or either with a protocol before it, as librdkafka reads them.
fn broker_place(broker: &str) -> Option<(String, u16)> {
    let broker = broker.split_once("://").map_or(broker, |(_, rest)| rest);
    url_place(&format!("kafka://{broker}"), 9092)
}

#[cfg(test)]
mod tests {
    use tide_model::PipelineSpec;

    use super::*;

    fn places(config: &serde_json::Value) -> Vec<String> {
        let spec = PipelineSpec::parse("p".parse().unwrap(), "events".to_owned(), config);
        let probe = Probe::of(&spec.unwrap().sink);
        let places = probe.into_iter().flat_map(|probe| probe.places);
        places
            .map(|(host, port)| format!("{host} {port}"))
            .collect()
    }

    #[test]
    fn every_sink_of_the_network_says_where_it_is() {
        use serde_json::json;
        for (config, expected) in [
            (json!({"sink_type": "null"}), &[][..]),
            (
                json!({"sink_type": "webhook", "url": "https://shop.example/x"}),
                &["shop.example 443"],
            ),
            (
                json!({"sink_type": "webhook", "url": "http://[2001:db8::1]:81/x"}),
                &["2001:db8::1 81"],
            ),
            (
                json!({"sink_type": "kafka", "topic": "t", "brokers": "b2, SASL_SSL://b1:93,[::1]:94"}),
                &["::1 94", "b1 93", "b2 9092"],
            ),
            (
                json!({"sink_type": "nats", "subject": "s", "url": "nats://a,tls://b:42"}),
                &["a 4222", "b 42"],
            ),
            (
                json!({"sink_type": "redis", "stream": "s", "url": "rediss://r/0"}),
                &["r 6379"],
            ),
            (
                json!({"sink_type": "rabbitmq", "queue": "q", "url": "amqps://q"}),
                &["q 5671"],
            ),
            (json!({"sink_type": "pg-inbox", "inbox": "i"}), &[]),
            (
                json!({"sink_type": "pg-inbox", "inbox": "i", "postgres_url": "postgres://u@db:5433/x"}),
                &["db 5433"],
            ),
        ] {
            assert_eq!(places(&config), expected, "{config}");
        }
    }

    #[tokio::test]
    async fn one_place_that_answers_will_do() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = other.local_addr().unwrap().port();
        drop(other);
        let probe = |ports: &[u16]| Probe {
            places: ports
                .iter()
                .map(|port| ("127.0.0.1".to_owned(), *port))
                .collect(),
            guarded: None,
        };
        assert_eq!(probe(&[open, closed]).look().await, Ok(()));
        let failure = probe(&[closed]).look().await.unwrap_err();
        assert!(failure.contains("refused"), "{failure}");
    }
}
