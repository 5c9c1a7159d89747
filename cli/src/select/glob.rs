//! Patterns as shells have them, over names: `*` is any text, `?` is any one character.

use std::fmt;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    /// Every text is a pattern; one without `*` and `?` matches itself alone.
    pub(crate) fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether a text has anything in it that makes it match more than itself.
    pub(crate) fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?'])
    }

    /// Whether a whole text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let text: Vec<char> = text.chars().collect();
        let (mut p, mut t) = (0, 0);
        // After the last star, and where in the text it may take one character more.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some('*') => {
                    p += 1;
                    star = Some((p, t));
                }
                Some('?') => (p, t) = (p + 1, t + 1),
                Some(same) if *same == text[t] => (p, t) = (p + 1, t + 1),
                Some(_) | None => match star {
                    Some((after, taken)) => {
                        star = Some((after, taken + 1));
                        (p, t) = (after, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|rest| *rest == '*')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_take_any_text_and_question_marks_one_character() {
        for (pattern, text, matches) in [
            ("relay-2", "relay-2", true),
            ("relay-2", "relay-22", false),
            ("relay-*", "relay-", true),
            ("relay-*", "relay-22", true),
            ("relay-?", "relay-2", true),
            ("relay-?", "relay-22", false),
            ("*-eu-*", "orders-eu-7", true),
            ("*-eu-*", "orders-us-7", false),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*é?", "caféx", true),
            ("**", "anything", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                matches,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = Glob::new("a*".repeat(50) + "b");
        assert!(!pattern.matches(&"a".repeat(5_000)));
    }
}
