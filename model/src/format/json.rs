//! JSON text, written without a tree.

/// Appends `text` as a JSON string.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    // A string always serializes, and memory takes every write.
    drop(serde_json::to_writer(out, text));
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string serializes")
}

/// Appends `text` as a JSON string, or `null`.
pub(super) fn quote_or_null(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => quote(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// JSON text in ASCII alone, as header lines hold it.
pub(super) fn ascii(text: &str) -> String {
    use std::fmt::Write as _;
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        // Control characters stand in JSON as escapes only, and outside of strings as white space.
        match character {
            '\n' | '\r' | '\t' => ascii.push(' '),
            ' '..='~' => ascii.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
    }
    ascii
}

/// The members of an object's text, without its braces; empty if it has none.
pub(super) fn members(object: &str) -> &str {
    let object = object.trim();
    // Only the outermost braces go: what is nested ends in braces of its own.
    object
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_default()
        .trim()
}
