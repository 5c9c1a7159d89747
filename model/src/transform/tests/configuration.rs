//! What is refused before there is a message.

use serde_json::{Value, json};

use super::{parse, run};
use crate::PipelineSpec;

fn refused(mistakes: &[(Value, &str)]) {
    for (steps, message) in mistakes {
        let error = parse(steps).unwrap_err().to_string();
        assert!(error.starts_with(message), "{steps}:\n{error}\n{message}");
    }
}

#[test]
fn every_mistake_in_a_step_or_an_expression_is_named() {
    refused(&[
        (
            json!("filter"),
            "key \"transforms\" is a string, expected an array",
        ),
        (
            json!(["filter"]),
            "key \"transforms[0]\" is no object (for example {\"filter\": \"payload.amount > 100\"}; steps are filter, drop, rename, mask and set)",
        ),
        (
            json!([{}]),
            "key \"transforms[0].filter\" or another kind of step is missing (for example {\"filter\": \"payload.amount > 100\"}; steps are filter, drop, rename, mask and set)",
        ),
        (
            json!([{"filtre": "true"}]),
            "key \"transforms[0].filtre\" is not a known key (did you mean \"filter\"?)",
        ),
        (
            json!([{"filter": "true"}, {"drop": ["payload.a"], "filter": "true"}]),
            "key \"transforms[1].drop\" stands beside \"filter\" (a step does one thing: make two steps of it)",
        ),
        (
            json!([{"drop": ["payload.a"], "keep_last": 1}]),
            "key \"transforms[0].keep_last\" is not a known key",
        ),
        (
            json!([{"filter": "payload.a >"}]),
            "key \"transforms[0].filter\" is no expression at line 1, column ",
        ),
        (
            json!([{"filter": "paylaod.a > 1"}]),
            "key \"transforms[0].filter\" names \"paylaod\", which there is not; did you mean \"payload\"? (at character 1)",
        ),
        (
            json!([{"filter": "payload.a.statsWith('x')"}]),
            "key \"transforms[0].filter\" calls statsWith, which there is not; did you mean startsWith?",
        ),
        (
            json!([{"filter": "payload.a.matches('x')"}]),
            "key \"transforms[0].filter\" calls matches; there are no regular expressions",
        ),
        (
            json!([{"filter": "size(payload.a, 1) > 1"}]),
            "key \"transforms[0].filter\" calls size with 2 arguments; it takes 1",
        ),
        (
            json!([{"filter": "contains(payload.a, 'b')"}]),
            "key \"transforms[0].filter\" calls contains without a text before it: TEXT.contains(…)",
        ),
        (
            json!([{"filter": "payload.a.all(x, payload.b.all(y, x == y))"}]),
            "key \"transforms[0].filter\" has a loop within a loop, whose cost has no bound",
        ),
        (
            json!([{"filter": "payload.a.exists(key, key == 1)"}]),
            "key \"transforms[0].filter\" calls an element \"key\", which hides the message's",
        ),
        (
            json!([{"filter": "optional.of(1).hasValue()"}]),
            "key \"transforms[0].filter\" calls hasValue, which there is not",
        ),
        (
            json!([{"filter": ""}]),
            "key \"transforms[0].filter\" must not be empty",
        ),
        (
            json!([{"filter": "(".repeat(500)}]),
            "key \"transforms[0].filter\" has more than 60 brackets and question marks",
        ),
        (
            json!([{"filter": "1".repeat(2_001)}]),
            "key \"transforms[0].filter\" is longer than 2000 bytes",
        ),
    ]);
}

#[test]
fn every_mistake_in_a_field_is_named() {
    refused(&[
        (
            json!([{"drop": []}]),
            "key \"transforms[0].drop\" has no fields",
        ),
        (
            json!([{"drop": ["payload"]}]),
            "key \"transforms[0].drop\" has \"payload\" as a whole (name a field within)",
        ),
        (
            json!([{"drop": ["key"]}]),
            "key \"transforms[0].drop\" key cannot be changed: order and identity depend on it",
        ),
        (
            json!([{"drop": ["body.x"]}]),
            "key \"transforms[0].drop\" \"body.x\" does not begin with payload or headers",
        ),
        (
            json!([{"drop": ["payload..x"]}]),
            "key \"transforms[0].drop\" \"payload..x\" is no field from \"..x\" on",
        ),
        (
            json!([{"drop": ["payload.a", "payload.a.b"]}]),
            "key \"transforms[0].drop\" has \"payload.a.b\", and a field within or around it",
        ),
        (
            json!([{"drop": ["payload.a[*].x", "payload.a[0]"]}]),
            "key \"transforms[0].drop\" has \"payload.a[0]\", and a field within or around it",
        ),
        (
            json!([{"mask": ["payload.a"], "keep_last": -1}]),
            "key \"transforms[0].keep_last\" is -1, not a whole number from 0 to 100",
        ),
        (
            json!([{"rename": {"payload.a": "b", "payload.b": "c"}}]),
            "key \"transforms[0].rename\" has \"b\" twice in one object",
        ),
        (
            json!([{"rename": {"payload.a[0]": "b"}}]),
            "key \"transforms[0].rename\" has \"payload.a[0]\", which has no name",
        ),
        (
            json!([{"rename": {"headers.a": "tide-epoch"}}]),
            "key \"transforms[0].rename\" has \"tide-epoch\", which is Tide's own",
        ),
        (
            json!([{"set": {}}]),
            "key \"transforms[0].set\" has no fields",
        ),
        (
            json!([{"set": {"headers": "{}"}}]),
            "key \"transforms[0].set\" headers as a whole cannot be changed; name one",
        ),
        (
            json!([{"set": {"headers.tide-epoch": "1"}}]),
            "key \"transforms[0].set\" header \"tide-epoch\" is Tide's own",
        ),
        (
            json!([{"set": {"payload.a[0]": "1"}}]),
            "key \"transforms[0].set\" has \"payload.a[0]\"; elements of arrays cannot be set",
        ),
        (
            json!([{"set": {"payload.a": "b"}}]),
            "key \"transforms[0].set[\"payload.a\"]\" names \"b\", which there is not",
        ),
        (
            json!(vec![json!({"filter": "true"}); 51]),
            "key \"transforms\" has 51 steps, more than 50",
        ),
    ]);
}

#[test]
fn nothing_that_is_deep_overflows_a_stack() {
    for (deep, times) in [
        ("(", 60),
        ("[", 60),
        ("{1:", 60),
        ("1?1:", 60),
        ("!", 1_999),
        ("-", 1_999),
        ("1+", 999),
        ("1<", 999),
        ("1==", 660),
        ("1&&", 660),
        ("1||", 660),
        ("1?", 60),
        ("has(", 60),
        ("a.", 999),
        ("1 in ", 399),
        ("payload.all(x, ", 60),
        ("'a'.size().", 60),
        ("'", 1_999),
        ("\\", 1_999),
    ] {
        for end in ["", "1", "a", ")", ")))"] {
            let text = deep.repeat(times) + end;
            drop(run(&json!([{"filter": text}]), "{}"));
        }
        let closed = format!("{}1{}", deep.repeat(times), ")".repeat(times));
        drop(run(&json!([{"filter": closed}]), "{}"));
    }
    // As deep as it gets, and evaluated.
    let negated = |times: usize| format!("{}true{}", "!(".repeat(times), ")".repeat(times));
    assert!(
        run(&json!([{"filter": negated(30)}]), "{}")
            .unwrap()
            .is_some()
    );
    assert!(
        parse(&json!([{"filter": negated(32)}]))
            .unwrap_err()
            .to_string()
            .contains("more than 32 operations within each other")
    );
}

#[test]
fn no_transforms_are_none() {
    for config in [
        json!({"sink_type": "null"}),
        json!({"sink_type": "null", "transforms": []}),
    ] {
        let spec = PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), &config).unwrap();
        assert_eq!(spec.transforms, None);
    }
}
