use serde_json::{Value, json};

use super::*;
use crate::{PipelineSpec, SinkSpec};

fn parse(config: &Value) -> Result<SinkSpec, String> {
    PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), config)
        .map(|spec| spec.sink)
        .map_err(|error| error.to_string())
}

#[test]
fn the_least_is_a_url_and_a_place() {
    let SinkSpec::Nats(nats) = parse(&json!({
        "sink_type": "nats", "url": "nats://a:4222, tls://b", "subject": "orders.created"
    }))
    .unwrap() else {
        panic!("another sink")
    };
    assert_eq!(nats.servers, ["nats://a:4222", "tls://b"]);
    assert_eq!((nats.login, nats.timeout), (None, Duration::from_secs(30)));

    let SinkSpec::Redis(redis) =
        parse(&json!({"sink_type": "redis", "url": "rediss://r/2", "stream": "orders"})).unwrap()
    else {
        panic!("another sink")
    };
    assert_eq!(redis.duplicate_window, Duration::from_mins(2));
    assert_eq!((redis.max_length, redis.login), (None, None));

    let SinkSpec::Rabbitmq(rabbitmq) =
        parse(&json!({"sink_type": "rabbitmq", "url": "amqp://r", "queue": "orders"})).unwrap()
    else {
        panic!("another sink")
    };
    assert_eq!(
        (rabbitmq.exchange.as_str(), rabbitmq.routing_key.as_str()),
        ("", "orders")
    );
}

#[test]
fn each_knows_the_ways_to_log_in() {
    let nats = |login: Value| {
        let mut config = json!({"sink_type": "nats", "url": "nats://a", "subject": "s"});
        config
            .as_object_mut()
            .unwrap()
            .extend(login.as_object().unwrap().clone());
        match parse(&config)? {
            SinkSpec::Nats(nats) => Ok(nats.login),
            _ => Err("another sink".to_owned()),
        }
    };
    assert_eq!(
        nats(json!({"token": "${env:T}"})).unwrap(),
        Some(NatsLogin::Token("${env:T}".to_owned()))
    );
    assert!(matches!(
        nats(json!({"credentials": "${file:/etc/nats.creds}"})).unwrap(),
        Some(NatsLogin::Credentials(_))
    ));
    assert!(matches!(
        nats(json!({"username": "u", "password": "p"})).unwrap(),
        Some(NatsLogin::Password(_))
    ));
    assert_eq!(
        nats(json!({"username": "u", "password": "p", "token": "t"})).unwrap_err(),
        "key \"token\" is one way to log in too many (either username and password, or token, or credentials)"
    );
    assert_eq!(
        nats(json!({"password": "p"})).unwrap_err(),
        "key \"username\" is missing (\"password\" needs one)"
    );
    // Redis has a default user.
    let redis = json!({"sink_type": "redis", "url": "redis://r", "stream": "s", "password": "p"});
    assert!(parse(&redis).is_ok());
}

#[test]
fn what_is_shown_for_debugging_holds_no_password() {
    let spec = parse(&json!({
        "sink_type": "rabbitmq", "url": "amqp://r", "queue": "q", "username": "u", "password": "s3cret"
    }))
    .unwrap();
    let shown = format!("{spec:?}");
    assert!(
        shown.contains("\"u\"") && !shown.contains("s3cret"),
        "{shown}"
    );
    let spec = parse(&json!({
        "sink_type": "nats", "url": "nats://r", "subject": "q", "token": "s3cret"
    }))
    .unwrap();
    assert!(!format!("{spec:?}").contains("s3cret"));
}

#[test]
fn every_mistake_is_named() {
    for (config, message) in [
        (
            json!({"sink_type": "nats", "url": "nats://u:s3cret@a", "subject": "s"}),
            "key \"url\" holds credentials (put them into \"username\" and \"password\", which may hold ${env:NAME} and ${file:PATH})",
        ),
        (
            json!({"sink_type": "nats", "url": "nats://a,http://b", "subject": "s"}),
            "key \"url\" is \"http://b\" (nats:// or tls:// and a host, for example nats://nats:4222)",
        ),
        (
            json!({"sink_type": "nats", "url": "nats://a"}),
            "key \"subject\" is missing (for example \"subject\": \"orders\")",
        ),
        (
            json!({"sink_type": "nats", "url": "nats://a", "subject": "orders.*"}),
            "key \"subject\" is \"orders.*\" (words joined by dots, without spaces and wildcards, orders.created say)",
        ),
        (
            json!({"sink_type": "redis", "url": "redis://:6379", "stream": "s"}),
            "key \"url\" is \"redis://:6379\" (redis:// or rediss:// and a host, for example redis://redis:6379/0)",
        ),
        (
            json!({"sink_type": "redis", "url": "redis://r", "stream": "s", "max_length": 0}),
            "key \"max_length\" is 0, not a whole number from 1 to 9223372036854775807",
        ),
        (
            json!({"sink_type": "redis", "url": "redis://r", "stream": "s", "username": "u"}),
            "key \"password\" is missing (\"username\" needs one, for example \"password\": \"${env:BROKER_PASSWORD}\")",
        ),
        (
            json!({"sink_type": "redis", "url": "redis://r", "stream": "s", "maxlen": 5}),
            "key \"maxlen\" is not a known key (known keys: batch_size, batch_bytes, weight, shards, start, rate_limit, rate_burst, breaker_failures, dlq_retention_seconds, on_rejected, max_parked_keys, max_parked_messages, sink_type, url, duplicate_window_ms, stream, username, password, max_length, timeout_ms, transforms, format, cloudevents, debezium)",
        ),
        (
            json!({"sink_type": "rabbitmq", "url": "amqp://r"}),
            "key \"queue\" is missing (\"queue\": \"orders\", or \"exchange\": \"events\" and a \"routing_key\")",
        ),
        (
            json!({"sink_type": "rabbitmq", "url": "amqp://r", "routing_key": "k"}),
            "key \"exchange\" is missing (\"routing_key\" belongs to an exchange; name a \"queue\" to go straight to it)",
        ),
        (
            json!({"sink_type": "rabbitmq", "url": "amqp://r", "queue": "q", "exchange": "e"}),
            "key \"exchange\" does not go with \"queue\" (name a queue, or an exchange and a routing key)",
        ),
        (
            json!({"sink_type": "rabbitmq", "url": "amqp://r", "queue": "q".repeat(256)}),
            "key \"queue\" is 256 bytes long (at most 255 bytes)",
        ),
    ] {
        assert_eq!(parse(&config).unwrap_err(), message);
    }
}
