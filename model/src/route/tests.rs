use proptest::prelude::*;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::PipelineSpec;

/// Each kind of destination, as a configuration with `text` in its place.
fn config(place: Place, text: &str) -> Value {
    match place {
        Place::Topic => json!({"sink_type": "kafka", "brokers": "k", "topic": text}),
        Place::Subject => json!({"sink_type": "nats", "url": "nats://n", "subject": text}),
        Place::Stream => json!({"sink_type": "redis", "url": "redis://r", "stream": text}),
        Place::RoutingKey => {
            json!({"sink_type": "rabbitmq", "url": "amqp://r", "exchange": "e", "routing_key": text})
        }
        Place::Url => json!({"sink_type": "webhook", "url": text}),
    }
}

const PLACES: [Place; 5] = [
    Place::Topic,
    Place::Subject,
    Place::Stream,
    Place::RoutingKey,
    Place::Url,
];

fn spec(config: &Value) -> Result<Option<Route>, String> {
    PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), config)
        .map(|spec| spec.route)
        .map_err(|error| error.to_string())
}

fn route(place: Place, text: &str) -> Route {
    spec(&config(place, text)).unwrap().unwrap()
}

fn resolve(route: &Route, tenant: &str) -> Result<String, String> {
    let headers = json!({"tenant": tenant}).to_string();
    let event = Event {
        id: 1,
        event_id: Uuid::nil(),
        key: None,
        payload: r#"{"type": "order.created"}"#,
        headers: &headers,
        created_at: OffsetDateTime::UNIX_EPOCH,
    };
    route.resolve(&event, "orders")
}

/// `a<sep>{{ headers.tenant }}<sep>z` in each place.
fn surrounded(place: Place, filters: &str) -> (Route, String, String) {
    let (begin, end) = match place {
        Place::Url => ("https://h/a/".to_owned(), "/z".to_owned()),
        place => {
            let separator = place.separator();
            (format!("a{separator}"), format!("{separator}z"))
        }
    };
    let text = format!("{begin}{{{{ headers.tenant {filters} }}}}{end}");
    (route(place, &text), begin, end)
}

#[test]
fn destinations_are_filled_in() {
    for (place, text, expected) in [
        (Place::Topic, "orders-{{ headers.tenant }}", "orders-acme"),
        (
            Place::Subject,
            "o.{{ headers.tenant }}.{{ payload.type | levels }}",
            "o.acme.order.created",
        ),
        (
            Place::Stream,
            "{orders}:{{ headers.tenant }}",
            "{orders}:acme",
        ),
        (Place::RoutingKey, "{{ key | default('none') }}", "none"),
        (
            Place::Url,
            "https://h:8080/{{ headers.tenant }}?t={{ payload.type }}",
            "https://h:8080/acme?t=order.created",
        ),
    ] {
        assert_eq!(
            resolve(&route(place, text), "acme").as_deref(),
            Ok(expected)
        );
    }
    assert_eq!(spec(&config(Place::Topic, "orders")), Ok(None));
}

#[test]
fn what_is_hostile_is_refused_by_name() {
    for (place, tenant, problem) in [
        (
            Place::Topic,
            "a/b",
            "topic: headers.tenant is \"a/b\", and '/' cannot be there",
        ),
        (
            Place::Topic,
            "",
            "topic: headers.tenant is \"\", with an empty level",
        ),
        (
            Place::Subject,
            "a.b",
            "subject: headers.tenant is \"a.b\", which is more than one level; \"| levels\" would allow that",
        ),
        (
            Place::Subject,
            ">",
            "subject: headers.tenant is \">\", and '>' cannot be there",
        ),
        (
            Place::Subject,
            "a\r\nPUB x",
            "subject: headers.tenant is \"a\\r\\nPUB x\", and '\\r' cannot be there",
        ),
        (
            Place::Stream,
            "{x}",
            "stream: headers.tenant is \"{x}\", and '{' cannot be there",
        ),
        (
            Place::RoutingKey,
            "#",
            "routing_key: headers.tenant is \"#\", and '#' cannot be there",
        ),
        (
            Place::Url,
            "..",
            "url: \"https://h/a/../z\" has a segment of dots",
        ),
    ] {
        let (route, ..) = surrounded(place, "");
        assert_eq!(resolve(&route, tenant).unwrap_err(), problem);
    }
    let (slashes, ..) = surrounded(Place::Url, "");
    assert!(resolve(&slashes, "a/b").is_err());
    assert_eq!(
        resolve(&surrounded(Place::Url, "| levels").0, "a b/ü?x#y").unwrap(),
        "https://h/a/a%20b/%C3%BC%3Fx%23y/z"
    );
    // A message cannot make itself an order to the server.
    let bare = route(Place::Subject, "{{ headers.tenant | levels }}");
    for tenant in ["$JS.API.STREAM.DELETE.orders", "_INBOX.abc"] {
        assert!(resolve(&bare, tenant).unwrap_err().contains("server's own"));
    }
    let long = route(Place::RoutingKey, "{{ headers.tenant }}");
    assert_eq!(
        resolve(&long, &"x".repeat(256)).unwrap_err(),
        "routing_key: 256 bytes are more than 255"
    );
    assert!(
        resolve(&route(Place::Topic, "a.{{ payload.nope }}"), "x")
            .unwrap_err()
            .starts_with("topic: payload.nope is missing; ")
    );
}

#[test]
fn every_mistake_is_named() {
    for (config, message) in [
        (
            config(Place::Topic, "orders.{{ tenant }}"),
            "key \"topic\" names \"tenant\", which is no field (a field is key, event_id, outbox, headers.NAME or payload.PATH) (for example orders.{{ headers.tenant }}.{{ payload.type | default('other') }})",
        ),
        (
            config(Place::Topic, "or ders.{{ key }}"),
            "key \"topic\" holds ' ' (for example orders.{{ headers.tenant }}.{{ payload.type | default('other') }})",
        ),
        (
            config(Place::Subject, "$JS.{{ key }}"),
            "key \"subject\" begins with the server's own subjects ($… and _INBOX… are answers and orders; begin with a word of your own)",
        ),
        (
            config(Place::Url, "https://{{ key }}.example.com/x"),
            "key \"url\" has a template before its path (scheme, host and port are fixed, for example https://example.com/{{ headers.tenant }})",
        ),
        (
            json!({"sink_type": "webhook", "url": "http://h/{{ key }}", "batch": true}),
            "key \"url\" has a template, and \"batch\" puts many messages into one request (a fixed URL, or without \"batch\")",
        ),
        (
            json!({"sink_type": "rabbitmq", "url": "amqp://r", "exchange": "{{ key }}", "routing_key": "k"}),
            "key \"exchange\" takes no template (\"routing_key\" does; messages do not choose their exchange)",
        ),
    ] {
        assert_eq!(spec(&config).unwrap_err(), message);
    }
}

proptest! {
    /// Whatever a value is, it is refused or stays within its one level.
    #[test]
    fn no_value_leaves_its_level(tenant in any::<String>(), hostile in "[a.:/*>#{}$?%&;@\\\\ \r\n\u{0}\u{85}\u{2028}]{0,6}") {
        for place in PLACES {
            for value in [&tenant, &hostile] {
                let (route, begin, end) = surrounded(place, "");
                let Ok(whole) = resolve(&route, value) else {
                    continue;
                };
                let inner = whole.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end));
                let inner = inner.unwrap();
                prop_assert!(!inner.is_empty() && !inner.contains(place.separator()), "{whole:?}");
                prop_assert!(!inner.chars().any(char::is_control), "{whole:?}");
                match place {
                    Place::Topic => prop_assert!(inner.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))),
                    Place::Subject => prop_assert!(!inner.contains(['*', '>']) && !inner.contains(char::is_whitespace)),
                    Place::Stream => prop_assert!(!inner.contains(['{', '}']), "{}", whole),
                    Place::RoutingKey => {}
                    Place::Url => {
                        prop_assert!(inner.is_ascii() && !inner.contains(['?', '#', ' ', '\\', '@', '&']), "{whole:?}");
                        prop_assert!(inner != "." && inner != "..", "{whole:?}");
                    }
                }
            }
        }
    }

    /// With `levels` too, no level is empty, and the owner's beginning and end stay.
    #[test]
    fn levels_are_never_empty(tenant in "[a.:/]{0,8}") {
        for place in PLACES {
            let (route, begin, end) = surrounded(place, "| levels");
            if let Ok(whole) = resolve(&route, &tenant) {
                prop_assert!(whole.starts_with(&begin) && whole.ends_with(&end));
                let path = whole.strip_prefix("https://").unwrap_or(&whole);
                prop_assert!(!path.split(place.separator()).any(str::is_empty), "{whole:?}");
            }
        }
    }
}
