//! How each kind of sink writes what stands beside a body.

use std::fmt::Write as _;

use super::{Event, json};

/// What carries the headers of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Header lines of a request.
    Http,
    /// Headers of a record.
    Kafka,
    /// Header lines of a message.
    Nats,
    /// AMQP 0-9-1: properties and a table of headers.
    Amqp,
    /// Fields of an entry.
    Redis,
    /// Lines: nothing but the body.
    Lines,
}

impl Carrier {
    /// What CloudEvents' bindings put before the name of an attribute; Redis has no binding, and
    /// gets what Kafka has.
    fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Http | Self::Nats => Some("ce-"),
            Self::Kafka | Self::Redis => Some("ce_"),
            Self::Amqp => Some("cloudEvents_"),
            Self::Lines => None,
        }
    }

    /// Whether anything can stand beside the body.
    pub fn has_headers(self) -> bool {
        self.prefix().is_some()
    }

    /// The name under which the media type stands among the headers. AMQP has a property for it.
    pub(super) fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Http | Self::Nats | Self::Kafka => Some("content-type"),
            Self::Redis => Some("content_type"),
            Self::Amqp | Self::Lines => None,
        }
    }

    pub(super) fn attribute(self, name: &str) -> Option<String> {
        self.prefix().map(|prefix| format!("{prefix}{name}"))
    }

    /// A value as this carrier can hold it: header lines are ASCII, in which the bindings of
    /// CloudEvents write everything else as percent-encoded UTF-8.
    pub(super) fn value(self, value: &str) -> String {
        match self {
            Self::Http | Self::Nats => percent_encoded(value),
            Self::Kafka | Self::Amqp | Self::Redis | Self::Lines => value.to_owned(),
        }
    }

    /// Names that CloudEvents gives a meaning to here.
    pub(super) fn reserves(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let prefixed = |prefix: &str| name.starts_with(&prefix.to_ascii_lowercase());
        self.content_type() == Some(name.as_str())
            || self.prefix().is_some_and(prefixed)
            // The other prefix that the binding for AMQP has.
            || (self == Self::Amqp && prefixed("cloudEvents:"))
    }

    /// What a bare payload needs beside it where the key and the publisher's headers have no place
    /// of their own.
    pub(super) fn bare(self, event: &Event<'_>) -> Vec<(String, String)> {
        let headers = (!json::members(event.headers).is_empty()).then_some(event.headers);
        match self {
            Self::Http => {
                let key = event.key.map(|key| ("tide-key", percent_encoded(key)));
                let headers = headers.map(|headers| ("tide-headers", json::ascii(headers)));
                key.into_iter().chain(headers).map(owned).collect()
            }
            Self::Redis => {
                let headers = headers.map(|headers| ("headers", headers.to_owned()));
                headers.into_iter().map(owned).collect()
            }
            Self::Kafka | Self::Nats | Self::Amqp | Self::Lines => Vec::new(),
        }
    }
}

fn owned((name, value): (&str, String)) -> (String, String) {
    (name.to_owned(), value)
}

/// As the HTTP binding of CloudEvents says: space, double quote, percent, and whatever is not
/// visible ASCII.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => _ = write!(encoded, "%{byte:02X}"),
            b'!'..=b'~' => encoded.push(byte.into()),
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn header_lines_hold_every_text_and_give_it_back(text in ".*") {
            let encoded = percent_encoded(&text);
            prop_assert!(encoded.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
            let mut bytes = Vec::new();
            let mut rest = encoded.as_bytes();
            while let Some((first, tail)) = rest.split_first() {
                if *first == b'%' {
                    let digits = std::str::from_utf8(&tail[..2]).unwrap();
                    bytes.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = &tail[2..];
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }

        #[test]
        fn json_in_a_header_line_is_the_same_json(text in ".*") {
            let line = json::ascii(&json::quoted(&text));
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
