//! Writes JSON text anew with changes at some places. What is not on the way to one is copied, byte
//! for byte.

use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::branch::Branch;

/// What happens to one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It goes, name and all.
    Drop,
    /// It gets another name.
    Rename(String),
    /// It becomes unreadable, save for so many characters at its end.
    Mask { keep_last: usize },
    /// This JSON text takes its place, or is put there.
    Put(String),
}

/// What stands for the part of a value that nobody may read.
const MASKED: &str = "***";

/// The text with all changes; none if there is nothing to change in it. The error begins with the
/// path from the root of the text.
pub(super) fn rewrite(text: &str, branch: &Branch<Change>) -> Result<Option<String>, String> {
    if branch.is_empty() {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut writer = Writer {
        out: &mut out,
        changed: false,
    };
    writer.value(text.trim_ascii(), branch, &Trail::Root)?;
    let changed = writer.changed;
    Ok(changed.then_some(out))
}

/// Where we are, for errors.
enum Trail<'a> {
    Root,
    Member(&'a Trail<'a>, &'a str),
    Element(&'a Trail<'a>, usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(outer, name) => write!(f, "{outer}.{name}"),
            Self::Element(outer, index) => write!(f, "{outer}[{index}]"),
        }
    }
}

struct Writer<'o> {
    out: &'o mut String,
    changed: bool,
}

impl Writer<'_> {
    fn value(&mut self, text: &str, branch: &Branch<Change>, at: &Trail<'_>) -> Result<(), String> {
        match &branch.here {
            Some(Change::Put(value)) => {
                self.changed = true;
                self.out.push_str(value);
                return Ok(());
            }
            Some(Change::Mask { keep_last }) => {
                self.mask(text, *keep_last);
                return Ok(());
            }
            // What has no name cannot lose it; whoever holds it has seen to these.
            Some(Change::Drop | Change::Rename(_)) | None => {}
        }
        let broken = |error: serde_json::Error| format!("{at} could not be read: {error}");
        match text.as_bytes().first() {
            Some(b'{') => {
                let members = members(text).map_err(broken)?;
                self.object(&members, branch, at)
            }
            Some(b'[') => {
                let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(broken)?;
                self.array(&elements, branch, at)
            }
            // Values that are to be put within make it an object; others have nothing to do here.
            Some(b'n') if has_puts(branch) => self.object(&[], branch, at),
            _ if has_puts(branch) => Err(format!("{at} is {}, not an object", kind(text))),
            _ => {
                self.out.push_str(text);
                Ok(())
            }
        }
    }

    fn object(
        &mut self,
        members: &[(String, &RawValue)],
        branch: &Branch<Change>,
        at: &Trail<'_>,
    ) -> Result<(), String> {
        let begin = self.out.len();
        self.out.push('{');
        for (name, value) in members {
            let within = branch.names.get(name);
            let here = Trail::Member(at, name);
            let new_name = match within.and_then(|within| within.here.as_ref()) {
                Some(Change::Drop) => {
                    self.changed = true;
                    continue;
                }
                Some(Change::Rename(new_name)) => {
                    if members.iter().any(|(other, _)| other == new_name) {
                        return Err(format!(
                            "{here} cannot be renamed: there is a {new_name:?} already"
                        ));
                    }
                    self.changed = true;
                    new_name
                }
                Some(Change::Mask { .. } | Change::Put(_)) | None => name,
            };
            self.member(begin, new_name);
            match within {
                Some(within) => self.value(value.get(), within, &here)?,
                None => self.out.push_str(value.get()),
            }
        }
        for (name, within) in &branch.names {
            if has_puts(within) && !members.iter().any(|(member, _)| member == name) {
                self.changed = true;
                self.member(begin, name);
                self.value("null", within, &Trail::Member(at, name))?;
            }
        }
        self.out.push('}');
        Ok(())
    }

    fn array(
        &mut self,
        elements: &[&RawValue],
        branch: &Branch<Change>,
        at: &Trail<'_>,
    ) -> Result<(), String> {
        if !branch.names.is_empty() && has_puts(branch) {
            return Err(format!("{at} is an array, not an object"));
        }
        let begin = self.out.len();
        self.out.push('[');
        for (index, value) in elements.iter().enumerate() {
            let within = branch.element(index);
            if within.is_some_and(|within| within.here == Some(Change::Drop)) {
                self.changed = true;
                continue;
            }
            self.separate(begin);
            match within {
                Some(within) => self.value(value.get(), within, &Trail::Element(at, index))?,
                None => self.out.push_str(value.get()),
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn member(&mut self, begin: usize, name: &str) {
        self.separate(begin);
        self.out.push_str(&quoted(name));
        self.out.push_str(": ");
    }

    /// Between members and elements stands what PostgreSQL puts there.
    fn separate(&mut self, begin: usize) {
        if self.out.len() > begin + 1 {
            self.out.push_str(", ");
        }
    }

    fn mask(&mut self, text: &str, keep_last: usize) {
        let plain = match text.as_bytes().first() {
            // Nothing to hide.
            Some(b'n') => {
                self.out.push_str(text);
                return;
            }
            Some(b'"') => serde_json::from_str(text).unwrap_or_default(),
            Some(b'-' | b'0'..=b'9') => text.to_owned(),
            _ => String::new(),
        };
        self.changed = true;
        let length = plain.chars().count();
        // More is hidden than shown, or nothing is shown.
        let shown = if length > 2 * keep_last { keep_last } else { 0 };
        let last: String = plain.chars().skip(length - shown).collect();
        self.out.push_str(&quoted(&format!("{MASKED}{last}")));
    }
}

fn has_puts(branch: &Branch<Change>) -> bool {
    matches!(branch.here, Some(Change::Put(_))) || branch.names.values().any(has_puts)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string serializes")
}

fn kind(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The members of an object, in their order, their values unread.
fn members(text: &str) -> Result<Vec<(String, &RawValue)>, serde_json::Error> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Members)
}
