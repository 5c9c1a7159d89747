//! Names for somebody who mistyped one.

/// The known name that was probably meant, if one is near enough: up to a third of its letters may
/// be wrong.
pub fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (distance(word, name), *name))
        .min()
        .filter(|(edits, name)| edits * 3 <= word.chars().count().max(name.chars().count()))
        .map(|(_, name)| name)
}

/// Levenshtein's edit distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, edits) in [
            ("", "", 0),
            ("relay-1", "relay-1", 0),
            ("relay-1", "relay-2", 1),
            ("realy-1", "relay-1", 2),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn names_the_nearest_and_nothing_far_away() {
        let known = ["relay-1", "relay-2", "standby"];
        assert_eq!(closest("realy-2", &known), Some("relay-2"));
        assert_eq!(closest("relay-9", &known), Some("relay-1"));
        assert_eq!(closest("orders", &known), None);
        assert_eq!(closest("x", &[]), None);
    }
}
