use time::OffsetDateTime;
use uuid::Uuid;

use super::*;

const PAYLOAD: &str = r#"{"type": "created", "big": 12345678901234567890.10, "a": {"b": [1, {"c": "deep"}]}, "odd name": true, "none": null, "text": "caf\u00e9 \"1\""}"#;

fn event<'a>() -> Event<'a> {
    Event {
        id: 5,
        event_id: Uuid::nil(),
        key: Some("k1"),
        payload: PAYLOAD,
        headers: r#"{"tenant": "acme", "trace-id": 7}"#,
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn filled(text: &str) -> Result<String, String> {
    let template = Template::parse(text).expect("a template").expect("braces");
    template
        .fill(&event(), "orders", |_, value, out| {
            out.push_str(value);
            Ok(())
        })
        .map_err(|unfilled| unfilled.to_string())
}

#[test]
fn fields_are_filled_in() {
    for (text, expected) in [
        ("{{key}}", "k1"),
        ("a.{{ headers.tenant }}.b", "a.acme.b"),
        (
            "{{ outbox }}-{{ event_id }}",
            "orders-00000000-0000-0000-0000-000000000000",
        ),
        ("{{ headers.trace-id }}", "7"),
        ("{{ payload.type }}{{ payload.type }}", "createdcreated"),
        ("{{ payload.big }}", "12345678901234567890.10"),
        ("{{ payload.a.b[1].c }}", "deep"),
        ("{{ payload[\"odd name\"] }}", "true"),
        ("{{ payload.text }}", "café \"1\""),
        ("{{ payload.nope | default('x') }}", "x"),
        ("{{ payload.none|default(\"y z\") }}", "y z"),
        ("{{ payload.a.b[7] | default('z') | levels }}", "z"),
        ("{{ payload.type.within | default('scalar') }}", "scalar"),
        ("{ {{ key }} }", "{ k1 }"),
    ] {
        assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        filled("{{ payload.a.nope }}").unwrap_err(),
        "payload.a.nope is missing; {{ payload.a.nope | default('TEXT') }} would be for messages without it"
    );
    assert_eq!(
        filled("{{ payload.a }}").unwrap_err(),
        "payload.a is an object or an array, which is no name"
    );
    // A default is for what is missing, not for what is wrong.
    assert!(filled("{{ payload.a.b | default('x') }}").is_err());
}

#[test]
fn a_text_without_braces_is_none() {
    assert_eq!(Template::parse("orders.{a}"), Ok(None));
}

#[test]
fn every_mistake_is_named() {
    for (text, problem) in [
        (
            "{{ }}",
            "has braces without a field (a field is key, event_id, outbox, headers.NAME or payload.PATH)",
        ),
        (
            "{{ headrs.x }}",
            "names \"headrs\", which is no field (a field is key, event_id, outbox, headers.NAME or payload.PATH)",
        ),
        (
            "{{ headers }}",
            "names headers as a whole; name one: headers.tenant",
        ),
        ("{{ key.x }}", "has \"key.x\", and there is nothing within"),
        ("{{ key", "is not closed by }} after \"key\""),
        ("{{ key }", "is not closed by }} after \"key\""),
        ("a }} b", "has a }} without its {{"),
        ("{{ payload. }}", "has a dot without a name after it"),
        (
            "{{ payload[x] }}",
            "has [ ] without a number or a quoted name",
        ),
        ("{{ payload['x }}", "has a ' that is not closed"),
        ("{{ payload[1 }}", "has a [ that is not closed"),
        (
            "{{ key | upper }}",
            "has | \"upper\", which is neither default('TEXT') nor levels",
        ),
        (
            "{{ key | default(x) }}",
            "has a default that is not written default('TEXT')",
        ),
        (
            "{{ key | default('') }}",
            "has an empty default, which is no name",
        ),
    ] {
        assert_eq!(Template::parse(text).unwrap_err(), problem, "{text}");
    }
}

mod properties {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[{}|. a-z'\"\\[\\]()0-9é]{0,40}") {
            drop(Template::parse(&text));
        }

        #[test]
        fn what_is_found_is_what_a_parser_finds(
            name in ".{0,8}", other in ".{0,8}", value in ".{0,12}", number in any::<i64>()
        ) {
            let payload = json!({other.clone(): {"x": [number]}, name.clone(): value.clone()}).to_string();
            let steps = [Step::Name(name.clone())];
            let found = lookup::scalar(&payload, &steps).unwrap();
            prop_assert_eq!(found.as_deref(), Some(value.as_str()));
            if other != name {
                let steps = [Step::Name(other), Step::Name("x".to_owned()), Step::Index(0)];
                let found = lookup::scalar(&payload, &steps).unwrap();
                prop_assert_eq!(found.map(Cow::into_owned), Some(Value::from(number).to_string()));
            }
        }
    }
}
