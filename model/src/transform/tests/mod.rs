mod configuration;
mod properties;

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::{PipelineSpec, SpecError};

const PAYLOAD: &str = r#"{"n": 7, "at": null, "big": 123456789012345678901234567890.10, "card": "4111111111111111", "name": "Ada", "price": 2.50, "tags": ["a", "b"], "items": [{"id": 1, "pin": 1234}, {"id": 2}], "customer": {"email": "ada@example.com", "vip": true}}"#;
const HEADERS: &str = r#"{"tenant": "eu", "debug": 1}"#;

fn parse(steps: &Value) -> Result<Transforms, SpecError> {
    let config = json!({"sink_type": "null", "transforms": steps});
    PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), &config)
        .map(|spec| spec.transforms.unwrap())
}

fn event<'e>(payload: &'e str, headers: &'e str) -> Event<'e> {
    Event {
        id: 1,
        event_id: Uuid::nil(),
        key: Some("k1"),
        payload,
        headers,
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

/// Payload and headers after the steps; none if the message was filtered out.
fn run(steps: &Value, payload: &str) -> Result<Option<(String, String)>, String> {
    let transforms = parse(steps).map_err(|error| error.to_string())?;
    Ok(
        match transforms.apply(&event(payload, HEADERS), "orders")? {
            Outcome::Kept { payload, headers } => {
                Some((payload.into_owned(), headers.into_owned()))
            }
            Outcome::FilteredOut => None,
        },
    )
}

fn payload_after(steps: &Value, payload: &str) -> Result<String, String> {
    run(steps, payload).map(|kept| kept.unwrap().0)
}

#[test]
fn a_filter_keeps_what_it_is_true_of() {
    for (condition, kept) in [
        ("payload.n == 7", true),
        ("payload.n > 7", false),
        ("payload.price >= 2.5 && payload.price < 3", true),
        ("headers.tenant == 'eu'", true),
        ("headers['tenant'] in ['us', 'uk']", false),
        ("key == 'k1' && outbox == 'orders'", true),
        ("event_id.startsWith('0000')", true),
        ("has(payload.customer.vip) && payload.customer.vip", true),
        ("has(payload.customer.phone)", false),
        ("has(payload.nothing) && payload.nothing.within == 1", false),
        ("payload.at == null", true),
        ("payload.items.exists(item, item.id == 2)", true),
        ("payload.items.all(item, has(item.pin))", false),
        ("payload.items[1].id == 2", true),
        ("size(payload.tags) == 2 && 'b' in payload.tags", true),
        (
            "payload.name.contains('d') && payload.name.endsWith('a')",
            true,
        ),
        ("payload.big > 1e29", true),
        ("type(payload.n) == int && string(payload.n) == '7'", true),
        ("payload.n in [1, 7] ? true : false", true),
    ] {
        let after = run(&json!([{"filter": condition}]), PAYLOAD);
        assert_eq!(after.map(|kept| kept.is_some()), Ok(kept), "{condition}");
    }
}

#[test]
fn what_is_kept_is_untouched() {
    let transforms = parse(&json!([
        {"filter": "payload.n == 7"},
        {"drop": ["payload.none", "payload.name.within", "headers.none"]},
        {"rename": {"payload.none": "some"}},
        {"mask": ["payload.at", "payload.tags[7]", "payload.items[*].none"]},
    ]));
    // Spaces and digits that no printer would repeat.
    let payload = r#" {"n":7 ,"big": 1.000000000000000000000000001e0,"at":null, "items": [ {} ] }"#;
    let outcome = transforms.unwrap().apply(&event(payload, HEADERS), "o");
    let Ok(Outcome::Kept {
        payload: Cow::Borrowed(after),
        headers: Cow::Borrowed(HEADERS),
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(after, payload);
}

#[test]
fn fields_are_changed_and_all_others_keep_their_text() {
    let small = r#"{"a": 1.10, "b": {"c": "text", "d": [1.0, 2.00]}, "e": null}"#;
    for (step, after) in [
        (
            json!({"drop": ["payload.a"]}),
            r#"{"b": {"c": "text", "d": [1.0, 2.00]}, "e": null}"#,
        ),
        (
            json!({"drop": ["payload.b.d[0]", "payload.e"]}),
            r#"{"a": 1.10, "b": {"c": "text", "d": [2.00]}}"#,
        ),
        (
            json!({"drop": ["payload.b.d[*]"]}),
            r#"{"a": 1.10, "b": {"c": "text", "d": []}, "e": null}"#,
        ),
        (
            json!({"rename": {"payload.b.c": "x y", "payload.e": "f"}}),
            r#"{"a": 1.10, "b": {"x y": "text", "d": [1.0, 2.00]}, "f": null}"#,
        ),
        (
            json!({"mask": ["payload.b.c", "payload.e"]}),
            r#"{"a": 1.10, "b": {"c": "***", "d": [1.0, 2.00]}, "e": null}"#,
        ),
        (
            json!({"mask": ["payload.b.d"]}),
            r#"{"a": 1.10, "b": {"c": "text", "d": "***"}, "e": null}"#,
        ),
        (
            json!({"mask": ["payload.b.d[*]"]}),
            r#"{"a": 1.10, "b": {"c": "text", "d": ["***", "***"]}, "e": null}"#,
        ),
        (
            json!({"set": {"payload.e": "payload.a"}}),
            r#"{"a": 1.10, "b": {"c": "text", "d": [1.0, 2.00]}, "e": 1.10}"#,
        ),
        (
            json!({"set": {"payload.e": "payload.b.d[1]"}}),
            r#"{"a": 1.10, "b": {"c": "text", "d": [1.0, 2.00]}, "e": 2.00}"#,
        ),
        (
            json!({"set": {"payload": "payload.b"}}),
            r#"{"c": "text", "d": [1.0, 2.00]}"#,
        ),
        (
            json!({"set": {"payload.new.er": "'ü\"' + key"}}),
            r#"{"a": 1.10, "b": {"c": "text", "d": [1.0, 2.00]}, "e": null, "new": {"er": "ü\"k1"}}"#,
        ),
        (
            json!({"set": {"payload.e.f": "headers"}}),
            r#"{"a": 1.10, "b": {"c": "text", "d": [1.0, 2.00]}, "e": {"f": {"tenant": "eu", "debug": 1}}}"#,
        ),
        (
            json!({"set": {"payload.b": "{'y': 1 + 1, 'x': [null, true, 0.5]}"}}),
            r#"{"a": 1.10, "b": {"x": [null, true, 0.5], "y": 2}, "e": null}"#,
        ),
        // All values come from the message as it was.
        (
            json!({"set": {"payload.a": "payload.e", "payload.e": "payload.a"}}),
            r#"{"a": null, "b": {"c": "text", "d": [1.0, 2.00]}, "e": 1.10}"#,
        ),
        (
            json!({"set": {"payload.e": 5}}),
            r#"{"a": 1.10, "b": {"c": "text", "d": [1.0, 2.00]}, "e": 5}"#,
        ),
    ] {
        assert_eq!(
            payload_after(&json!([step]), small).as_deref(),
            Ok(after),
            "{step}"
        );
    }
}

#[test]
fn masks_show_less_than_they_hide() {
    for (value, keep_last, after) in [
        ("\"4111111111111111\"", 4, "\"***1111\""),
        ("4111111111111111", 4, "\"***1111\""),
        ("\"12345678\"", 4, "\"***\""),
        ("\"123456789\"", 4, "\"***6789\""),
        ("\"äöüßéñ\"", 2, "\"***éñ\""),
        ("\"\"", 0, "\"***\""),
        ("true", 1, "\"***\""),
        ("{\"a\": 1}", 2, "\"***\""),
        ("null", 4, "null"),
    ] {
        let payload = format!("{{\"x\": {value}}}");
        let step = json!([{"mask": ["payload.x"], "keep_last": keep_last}]);
        let expected = format!("{{\"x\": {after}}}");
        assert_eq!(payload_after(&step, &payload), Ok(expected), "{value}");
    }
}

#[test]
fn steps_run_in_their_order_on_headers_too() {
    let steps = json!([
        {"set": {"headers.region": "headers.tenant + '-1'", "payload.secret": "'s'"}},
        {"rename": {"headers.region": "zone", "payload.secret": "hidden"}},
        {"filter": "headers.zone == 'eu-1' && payload.hidden == 's' && !has(headers.region)"},
        {"drop": ["headers.debug"]},
        {"mask": ["headers.tenant"]},
        {"filter": "headers.tenant == '***'"},
    ]);
    let (payload, headers) = run(&steps, "{}").unwrap().unwrap();
    assert_eq!(payload, r#"{"hidden": "s"}"#);
    assert_eq!(headers, r#"{"tenant": "***", "zone": "eu-1"}"#);
}

#[test]
fn what_fails_is_the_message_s_fault_and_says_where() {
    for (step, payload, problem) in [
        (
            json!({"filter": "payload.nothing == 1"}),
            PAYLOAD,
            "transforms[0].filter: nothing is missing; has(…) would ask for it",
        ),
        (
            json!({"filter": "payload.n"}),
            PAYLOAD,
            "transforms[0].filter: is int, not true or false",
        ),
        (
            json!({"filter": "payload.n + payload.name == 1"}),
            PAYLOAD,
            "transforms[0].filter: + does not go with (int, string)",
        ),
        (
            json!({"filter": "payload.n / 0 == 1"}),
            PAYLOAD,
            "transforms[0].filter: divides by zero",
        ),
        (
            json!({"filter": "payload.tags[9] == 'a'"}),
            PAYLOAD,
            "transforms[0].filter: an index is out of bounds",
        ),
        (
            json!({"filter": "payload.n * 9223372036854775807 > 0"}),
            PAYLOAD,
            "transforms[0].filter: the result of * is out of range",
        ),
        (
            json!({"filter": "int(payload.name) > 0"}),
            PAYLOAD,
            "transforms[0].filter: int() cannot take what it was given",
        ),
        (
            json!({"filter": "payload.n > 0"}),
            "[1]",
            "transforms[0].filter: ",
        ),
        (
            json!({"set": {"payload.x": "payload.items[5].id"}}),
            PAYLOAD,
            "transforms[0].set[\"payload.x\"]: payload.items[5].id is missing; has(…) would ask for it",
        ),
        (
            json!({"set": {"payload.name.x": "1"}}),
            PAYLOAD,
            "transforms[0].set: payload.name is a string, not an object",
        ),
        (
            json!({"set": {"payload.tags.x": "1"}}),
            PAYLOAD,
            "transforms[0].set: payload.tags is an array, not an object",
        ),
        (
            json!({"set": {"payload.x": "1.0 / 0.0"}}),
            PAYLOAD,
            "transforms[0].set[\"payload.x\"]: is no finite number",
        ),
        (
            json!({"set": {"payload.x": "{1: 2}"}}),
            PAYLOAD,
            "transforms[0].set[\"payload.x\"]: has a key that is no text, which JSON does not know",
        ),
        (
            json!({"set": {"payload.x": "b'x'"}}),
            PAYLOAD,
            "transforms[0].set[\"payload.x\"]: is bytes, which JSON does not know",
        ),
        (
            json!({"rename": {"payload.n": "name"}}),
            PAYLOAD,
            "transforms[0].rename: payload.n cannot be renamed: there is a \"name\" already",
        ),
    ] {
        let error = run(&json!([step]), payload).unwrap_err();
        assert!(error.starts_with(problem), "{step}: {error}");
    }
}

#[test]
fn an_expression_reads_no_more_than_its_bound() {
    let text = "x".repeat(2 << 20);
    let large = format!(
        r#"{{"n": 1, "large": "{text}", "list": [{}0]}}"#,
        "0, ".repeat(2_000)
    );
    let filtered =
        |condition: &str| run(&json!([{"filter": condition}]), &large).map(|kept| kept.is_some());
    // What it does not name costs nothing.
    assert_eq!(filtered("payload.n == 1"), Ok(true));
    assert_eq!(filtered("size(payload.list) == 2001"), Ok(true));
    let too_much = |condition| {
        filtered(condition)
            .unwrap_err()
            .ends_with("it is more than an expression may read")
    };
    assert!(too_much("size(payload.large) > 1"));
    assert!(too_much("size(payload) > 1"));
    assert!(too_much("payload.list.all(x, x == 0)"));
    // A copy is none of that.
    let copied = payload_after(&json!([{"set": {"payload": "payload.large"}}]), &large).unwrap();
    assert_eq!(copied.len(), text.len() + 2);
    // Nor can nesting hurt anybody.
    let deep = format!(r#"{{"d": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(run(&json!([{"filter": "payload.d == 1"}]), &deep).is_err());
    assert_eq!(
        payload_after(&json!([{"drop": ["payload.d"]}]), &deep).as_deref(),
        Ok("{}")
    );
}
