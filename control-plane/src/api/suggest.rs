//! What is said after a name that nobody knows.

use tide_model::closest::closest;

/// How many known names are listed.
const LISTED: usize = 10;

/// What follows an unknown name: the closest one if there is a close one, and what is known.
pub(super) fn suggestion(name: &str, known: &[String]) -> String {
    if known.is_empty() {
        return "there is none yet".to_owned();
    }
    let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
    known.sort_unstable();
    let question = closest(name, &known).map(|meant| format!("did you mean {meant:?}? "));
    let listed = known[..known.len().min(LISTED)].join(", ");
    let rest = match known.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}known: {listed}{rest}", question.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_close_name_is_suggested() {
        let known = names(&["relay-2", "edge", "relay-1"]);
        assert_eq!(
            suggestion("relay1", &known),
            r#"did you mean "relay-1"? known: edge, relay-1, relay-2"#
        );
    }

    #[test]
    fn a_far_name_is_not() {
        assert_eq!(suggestion("orders", &names(&["relay-1"])), "known: relay-1");
        assert_eq!(suggestion("orders", &[]), "there is none yet");
    }

    #[test]
    fn long_lists_are_cut() {
        let known: Vec<String> = (0..12).map(|n| format!("agent-{n:02}")).collect();
        let text = suggestion("x", &known);
        assert!(text.ends_with("agent-09 and 2 more"), "{text}");
    }
}
