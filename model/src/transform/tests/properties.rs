//! What holds of all messages.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Outcome, event, parse, payload_after, run};

/// JSON as PostgreSQL prints it, with numbers that only text can hold.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?",
        "[a-c\"\\\\ü\u{1f600}\n]{0,5}".prop_map(|text| Value::String(text).to_string()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|elements| format!("[{}]", elements.join(", "))),
            prop::collection::btree_map("[a-d]", inner, 0..5).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(name, value)| format!("\"{name}\": {value}"))
                    .collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

/// A step that changes something in one place.
fn any_step() -> impl Strategy<Value = Value> {
    let path = prop::collection::vec(
        prop_oneof![Just(".a"), Just(".b"), Just(".c"), Just("[0]"), Just("[*]")],
        1..4,
    );
    (path, 0..4).prop_map(|(path, kind)| {
        let field = format!("payload{}", path.concat());
        match kind {
            0 => json!({"drop": [field]}),
            1 => json!({"mask": [field], "keep_last": 1}),
            2 => json!({"rename": {format!("{field}.d"): "z"}}),
            _ => json!({"set": {field.replace("[0]", ".d").replace("[*]", ".a"): "[key]"}}),
        }
    })
}

proptest! {
    /// Whatever becomes of a message is JSON, the same each time, and a step that has changed
    /// nothing has borrowed everything.
    #[test]
    fn any_step_makes_json_of_json(payload in any_json(), step in any_step()) {
        let transforms = parse(&json!([step])).unwrap();
        let event = event(&payload, "{}");
        let once = transforms.apply(&event, "o");
        prop_assert_eq!(&once, &transforms.apply(&event, "o"));
        if let Ok(Outcome::Kept { payload: after, .. }) = once {
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&after).is_ok(), "{}", after);
            if let Cow::Owned(after) = &after {
                prop_assert!(*after != payload || step.get("set").is_some());
            }
        }
    }

    /// A member that comes and goes again leaves no trace, down to the last digit.
    #[test]
    fn what_is_not_touched_keeps_its_text(payload in any_json()) {
        let payload = format!("{{\"inner\": {payload}}}");
        let there_and_gone = json!([
            {"set": {"payload.new.er": "1"}},
            {"rename": {"payload.inner": "outer"}},
            {"rename": {"payload.outer": "inner"}},
            {"drop": ["payload.new"]},
        ]);
        prop_assert_eq!(payload_after(&there_and_gone, &payload), Ok(payload));
    }

    /// To read only what an expression names makes no difference to it.
    #[test]
    fn a_part_of_the_message_is_as_good_as_all_of_it(payload in any_json(), which in 0..6_usize) {
        let condition = [
            "has(payload.a)", "payload.a.b == 1", "payload['a'] == payload.b", "has(payload.a.b.c)",
            "size(payload.a) > 1", "payload.a.exists(x, x == payload.b)",
        ][which];
        // That the whole is named somewhere makes all of it wanted.
        let all = format!("type(payload) == type(payload) && {condition}");
        let outcome = |condition: &str| run(&json!([{"filter": condition}]), &payload).map(|kept| kept.is_some());
        prop_assert_eq!(outcome(condition), outcome(&all));
    }

    /// No text is an expression that brings anything down.
    #[test]
    fn no_expression_panics(
        words in prop::collection::vec(prop_oneof![
            Just("payload"), Just(".a"), Just("("), Just(")"), Just("["), Just("]"), Just("'"), Just("+"), Just("-"),
            Just("1"), Just("9223372036854775807"), Just("2.5"), Just(","), Just("?"), Just(":"), Just("{"), Just("}"),
            Just("has"), Just(".map(x, "), Just(".all(x, "), Just("size"), Just("in"), Just("&&"), Just("!"), Just("%"),
            Just("=="), Just("\u{1f600}"), Just("int"), Just("null"), Just("\\"), Just("\n"),
        ], 0..12),
        payload in any_json(),
    ) {
        let text = words.concat();
        if let Ok(transforms) = parse(&json!([{"set": {"payload.x": text}}])) {
            drop(transforms.apply(&event(&payload, "{}"), "o"));
        }
    }
}
