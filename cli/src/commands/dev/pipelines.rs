//! What the throw-away fleet moves: three outboxes, and a dozen pipelines of every kind of sink.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tide_catalog::{CatalogError, PgConnection, outboxes::outbox_create, pipelines::pipeline_set};
use tide_model::UnitName;
use tide_sandbox::kafka::Topic;

/// The outboxes.
pub(super) const OUTBOXES: [&str; 3] = ["orders", "payments", "shipments"];
/// Partitions of each topic.
const PARTITIONS: u16 = 3;

/// One pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) name: UnitName,
    pub(super) outbox: &'static str,
    pub(super) route: Route,
}

/// Where a pipeline's messages go. Each pipeline has a place of its own, so that what arrives
/// there tells about this pipeline alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Kafka {
        topic: String,
    },
    Webhook {
        path: String,
        body: Body,
    },
    File {
        path: PathBuf,
    },
    /// Nowhere: what was delivered cannot be read back.
    Null,
}

/// What one request of a webhook carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    OneMessage,
    Batch,
}

/// Where the sinks are.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    pub(super) brokers: String,
    /// `http://host:port`, without a path.
    pub(super) webhooks: String,
}

/// All pipelines. Topics begin with `prefix`, files lie in `directory`.
pub(super) fn plans(prefix: &str, directory: &Path) -> Vec<Plan> {
    let kafka = |outbox, what: &str| {
        let topic = format!("{prefix}{what}");
        plan(outbox, &format!("{what}-to-kafka"), Route::Kafka { topic })
    };
    let webhook = |outbox, sink: &str, body| {
        let name = format!("{outbox}-to-{sink}");
        let path = format!("/{name}");
        plan(outbox, &name, Route::Webhook { path, body })
    };
    let file = |outbox: &'static str| {
        let path = directory.join(format!("{outbox}.jsonl"));
        plan(outbox, &format!("{outbox}-to-file"), Route::File { path })
    };
    let [orders, payments, shipments] = OUTBOXES;
    vec![
        kafka(orders, "orders"),
        kafka(orders, "orders-audit"),
        kafka(payments, "payments"),
        kafka(shipments, "shipments"),
        webhook(orders, "webhook", Body::OneMessage),
        webhook(orders, "webhook-batch", Body::Batch),
        webhook(payments, "webhook", Body::OneMessage),
        webhook(shipments, "webhook-batch", Body::Batch),
        file(orders),
        file(payments),
        file(shipments),
        plan(payments, "payments-to-null", Route::Null),
    ]
}

/// The topics that the pipelines need.
pub(super) fn topics(plans: &[Plan]) -> Vec<Topic> {
    plans
        .iter()
        .filter_map(|plan| match &plan.route {
            Route::Kafka { topic } => Some(Topic::new(topic, PARTITIONS)),
            Route::Webhook { .. } | Route::File { .. } | Route::Null => None,
        })
        .collect()
}

/// Creates the outboxes and the pipelines.
pub(super) async fn create(
    connection: &mut PgConnection,
    plans: &[Plan],
    addresses: &Addresses,
) -> Result<(), CatalogError> {
    for outbox in OUTBOXES {
        outbox_create(connection, outbox, None).await?;
    }
    for plan in plans {
        let config = plan.config(addresses);
        pipeline_set(connection, plan.name.as_str(), plan.outbox, &config).await?;
    }
    Ok(())
}

impl Plan {
    /// Whether what it delivered can be looked at.
    pub(super) fn can_be_read_back(&self) -> bool {
        self.route != Route::Null
    }

    fn config(&self, addresses: &Addresses) -> Value {
        match &self.route {
            Route::Kafka { topic } => json!({
                "sink_type": "kafka",
                "brokers": addresses.brokers,
                "topic": topic,
            }),
            Route::Webhook { path, body } => json!({
                "sink_type": "webhook",
                "url": format!("{}{path}", addresses.webhooks),
                "batch": *body == Body::Batch,
                // The endpoint of this very fleet.
                "allow_networks": ["127.0.0.1"],
            }),
            Route::File { path } => json!({"sink_type": "file", "path": path}),
            Route::Null => json!({"sink_type": "null"}),
        }
    }
}

fn plan(outbox: &'static str, name: &str, route: Route) -> Plan {
    Plan {
        name: name.parse().expect("a word is a valid pipeline name"),
        outbox,
        route,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tide_model::PipelineSpec;

    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            brokers: "127.0.0.1:9092".to_owned(),
            webhooks: "http://127.0.0.1:8080".to_owned(),
        }
    }

    #[test]
    fn an_agent_accepts_every_configuration() {
        for plan in plans("dev-", Path::new("/tmp/sinks")) {
            let config = plan.config(&addresses());
            let parsed = PipelineSpec::parse(plan.name.pipeline(), plan.outbox.to_owned(), &config);
            assert!(parsed.is_ok(), "{}: {parsed:?}", plan.name);
        }
    }

    #[test]
    fn no_two_pipelines_share_a_place() {
        let plans = plans("", Path::new("/tmp/sinks"));
        let places: BTreeSet<String> = plans
            .iter()
            .map(|plan| plan.config(&addresses()).to_string())
            .collect();
        let names: BTreeSet<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
        assert_eq!((places.len(), names.len()), (12, 12));
        assert!(
            OUTBOXES
                .iter()
                .all(|outbox| plans.iter().any(|plan| plan.outbox == *outbox))
        );
        assert_eq!(topics(&plans).len(), 4);
    }
}
