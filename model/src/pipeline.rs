//! A pipeline's configuration, parsed and checked: from which outbox to which sink, and how.

use std::fmt;

use serde_json::{Map, Value};

use crate::{
    PipelineName, Policy, SinkSpec, fields::Fields, format::Format, route::Route,
    transform::Transforms, unit::MAX_SHARDS,
};

/// A pipeline as an agent runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSpec {
    /// Its name.
    pub name: PipelineName,
    /// The outbox it reads.
    pub outbox: String,
    /// Where its messages go.
    pub sink: SinkSpec,
    /// What is done to each of them on the way; none if nothing is.
    pub transforms: Option<Transforms>,
    /// What they look like there.
    pub format: Format,
    /// Where each of them goes, if they choose that.
    pub route: Option<Route>,
    /// At most this many messages in one batch.
    pub batch_size: usize,
    /// A batch is cut once its payloads reach this many bytes; one larger message still goes alone.
    pub batch_bytes: usize,
    /// Its share of an agent's capacity, relative to other pipelines; of a sharded one each
    /// shard's.
    pub weight: u32,
    /// What becomes of failures, and how fast it goes.
    pub policy: Policy,
}

/// Most messages a batch may hold.
pub const MAX_BATCH_SIZE: u64 = 10_000;
/// Largest weight of a pipeline; the catalog clamps to the same.
pub const MAX_WEIGHT: u64 = 1_000;

impl PipelineSpec {
    /// Checks `config` as stored in the catalog. Unknown keys are errors, so that none is ignored.
    pub fn parse(name: PipelineName, outbox: String, config: &Value) -> Result<Self, SpecError> {
        let Value::Object(object) = config else {
            return Err(SpecError::new("config", "is not a JSON object"));
        };
        let mut fields = Fields::new(object.clone());
        let batch_size = fields
            .number("batch_size", 1, MAX_BATCH_SIZE)?
            .unwrap_or(1_000) as usize;
        let batch_bytes = fields
            .number("batch_bytes", 1, 256 << 20)?
            .unwrap_or(4 << 20) as usize;
        let weight = fields.number("weight", 1, MAX_WEIGHT)?.unwrap_or(1) as u32;
        // Read by the catalog, which decides what units there are; checked here like every key.
        fields.number("shards", 1, MAX_SHARDS.into())?;
        // Read by the catalog too, when the pipeline is first claimed.
        fields.choice("start", &[("earliest", ()), ("latest", ())])?;
        let policy = Policy::parse(&mut fields)?;
        let sink = SinkSpec::parse(&mut fields)?;
        let transforms = Transforms::parse(&mut fields)?;
        let format = Format::parse(&mut fields, &sink)?;
        let route = Route::of(&sink)?;
        fields.finish()?;
        Ok(Self {
            name,
            outbox,
            sink,
            transforms,
            format,
            route,
            batch_size,
            batch_bytes,
            weight,
            policy,
        })
    }
}

/// What is wrong with a configuration: which key, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    key: String,
    problem: String,
    hint: Option<String>,
}

impl SpecError {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
            hint: None,
        }
    }

    /// The same error of a key within an object.
    pub(crate) fn within(self, object: &str) -> Self {
        Self {
            key: format!("{object}.{}", self.key),
            ..self
        }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key \"{}\" {}", self.key, self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SpecError {}

/// A pipeline in a file for `tidectl pipeline apply -f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFile {
    /// Its name.
    pub name: PipelineName,
    /// The outbox it reads.
    pub outbox: String,
    /// The configuration to store.
    pub config: Map<String, Value>,
}

impl PipelineFile {
    /// Reads `{"name": …, "outbox": …, "config": {…}}` and checks it as an agent would.
    pub fn parse(value: &Value) -> Result<Self, SpecError> {
        let Value::Object(object) = value else {
            return Err(SpecError::new(
                "(document)",
                "is not an object with name, outbox and config",
            ));
        };
        let mut object = object.clone();
        let config = match object.remove("config") {
            Some(Value::Object(config)) => config,
            Some(_) => return Err(SpecError::new("config", "is not an object")),
            None => {
                return Err(SpecError::new("config", "is missing")
                    .hint("for example {\"sink_type\": \"stdout\"}"));
            }
        };
        let mut fields = Fields::new(object);
        let name = fields.required_text("name", "orders-pipeline")?;
        let outbox = fields.required_text("outbox", "order_events")?;
        fields.finish()?;
        let name: PipelineName = name
            .parse()
            .map_err(|_| SpecError::new("name", "is not a pipeline name"))?;
        PipelineSpec::parse(name.clone(), outbox.clone(), &Value::Object(config.clone()))?;
        Ok(Self {
            name,
            outbox,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sink_spec::SinkSpec;

    fn parse(config: &Value) -> Result<PipelineSpec, String> {
        PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), config)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_seed_s_pipeline_is_valid() {
        let spec =
            parse(&json!({"sink_type": "kafka", "brokers": "kafka:9092", "topic": "orders"}))
                .unwrap();
        assert!(matches!(spec.sink, SinkSpec::Kafka { .. }));
        assert_eq!((spec.weight, spec.batch_size), (1, 1_000));
    }

    #[test]
    fn every_sink_has_a_policy() {
        let policy = |more: &str| {
            let config = format!(r#"{{"sink_type": "null"{more}}}"#);
            parse(&serde_json::from_str(&config).unwrap())
                .unwrap()
                .policy
        };
        assert_eq!(policy("").rate_limit, None);
        assert_eq!(policy("").breaker_failures, Some(5));
        assert_eq!(policy(r#", "breaker_failures": 0"#).breaker_failures, None);
        let limit = |per_second, burst| Some(crate::RateLimit { per_second, burst });
        assert_eq!(policy(r#", "rate_limit": 50"#).rate_limit, limit(50, 50));
        let both = r#", "rate_limit": 50, "rate_burst": 7"#;
        assert_eq!(policy(both).rate_limit, limit(50, 7));
        assert_eq!(policy("").parking, None);
        assert_eq!(policy(r#", "on_rejected": "dead_letter""#).parking, None);
        let parking = |keys, messages| Some(crate::ParkingLimits { keys, messages });
        let parked = r#", "on_rejected": "park_key""#;
        assert_eq!(policy(parked).parking, parking(1_000, 10_000));
        let few = r#", "on_rejected": "park_key", "max_parked_keys": 2, "max_parked_messages": 9"#;
        assert_eq!(policy(few).parking, parking(2, 9));
    }

    #[test]
    fn every_mistake_is_named() {
        for (config, message) in [
            (
                json!({}),
                "key \"sink_type\" is missing (for example \"sink_type\": \"kafka\")",
            ),
            (
                json!({"sink_type": "kafak"}),
                "key \"sink_type\" is \"kafak\" (one of: stdout, file, webhook, kafka, nats, redis, rabbitmq, pg-inbox, null)",
            ),
            (
                json!({"sink_type": "file", "pth": "/x"}),
                "key \"path\" is missing (for example \"path\": \"/var/lib/tide/events.jsonl\")",
            ),
            (
                json!({"sink_type": "file", "path": "/x", "batch_sizes": 5}),
                "key \"batch_sizes\" is not a known key (did you mean \"batch_size\"?)",
            ),
            (
                json!({"sink_type": "file", "path": 7}),
                "key \"path\" is a number, expected a string",
            ),
            (
                json!({"sink_type": "null", "batch_size": "many"}),
                "key \"batch_size\" is a string, expected a whole number from 1 to 10000",
            ),
            (
                json!({"sink_type": "null", "batch_size": 0}),
                "key \"batch_size\" is 0, not a whole number from 1 to 10000",
            ),
            (
                json!({"sink_type": "null", "shards": 65}),
                "key \"shards\" is 65, not a whole number from 1 to 64",
            ),
            (
                json!({"sink_type": "null", "rate_limit": 0}),
                "key \"rate_limit\" is 0, not a whole number from 1 to 1000000",
            ),
            (
                json!({"sink_type": "null", "rate_burst": 5}),
                "key \"rate_burst\" belongs to \"rate_limit\", which is missing (how many messages a second, for example \"rate_limit\": 100)",
            ),
            (
                json!({"sink_type": "null", "on_rejected": "park"}),
                "key \"on_rejected\" is \"park\" (one of: dead_letter, park_key)",
            ),
            (
                json!({"sink_type": "null", "max_parked_keys": 5}),
                "key \"max_parked_keys\" is about parked keys, and none is (\"on_rejected\": \"park_key\" parks the keys of messages that are refused)",
            ),
            (
                json!({"sink_type": "null", "breaker_failures": -1}),
                "key \"breaker_failures\" is -1, not a whole number from 0 to 1000",
            ),
            (
                json!({"sink_type": "webhook", "url": "ftp://x"}),
                "key \"url\" is \"ftp://x\" (an http:// or https:// URL)",
            ),
            (
                json!({"sink_type": "pg-inbox"}),
                "key \"inbox\" is missing (for example \"inbox\": \"orders\")",
            ),
            (
                json!({"sink_type": "pg-inbox", "inbox": "o", "postgres_url": "postgres://u:geheim@h/d"}),
                "key \"postgres_url\" holds a password in plain text (write it as ${env:NAME} or ${file:PATH})",
            ),
            (
                json!({"sink_type": "pg-inbox", "inbox": "o", "postgres_url": "postgres://u@h/d?a=b&password=geheim"}),
                "key \"postgres_url\" holds a password in plain text (write it as ${env:NAME} or ${file:PATH})",
            ),
            (
                json!({"sink_type": "pg-inbox", "inbox": "o", "postgres_url": "h/geheim"}),
                "key \"postgres_url\" is no PostgreSQL URL (postgres://USER:${env:PASSWORD}@HOST:PORT/DATABASE, or ${env:NAME} for all of it)",
            ),
            (
                json!({"sink_type": "null", "start": "now"}),
                "key \"start\" is \"now\" (one of: earliest, latest)",
            ),
        ] {
            assert_eq!(parse(&config).unwrap_err(), message);
        }
    }
}
