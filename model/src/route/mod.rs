//! Where each message goes, if its pipeline's destination is a template: which topic, subject,
//! stream, routing key or path.
//!
//! Whoever may publish chooses the values, so each is checked for its place: it is one level there
//! (no separator, nothing that the place gives a meaning to) unless the template says `levels`, and
//! what stands before and after it in the template is always the owner's.

use std::fmt::Write as _;

use crate::{
    SinkSpec, SpecError,
    format::Event,
    template::{Field, Template},
};

/// A destination that messages choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The key of the configuration that it stands under.
    key: &'static str,
    place: Place,
    template: Template,
}

/// What kind of name is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Topic,
    Subject,
    Stream,
    RoutingKey,
    Url,
}

/// Kafka's limit.
const LONGEST_TOPIC: usize = 249;
/// AMQP's names are short strings.
const LONGEST_ROUTING_KEY: usize = 255;
/// What others are held to.
const LONGEST: usize = 2_000;

impl Route {
    /// The route of a sink; none if its destination is fixed.
    pub(crate) fn of(sink: &SinkSpec) -> Result<Option<Self>, SpecError> {
        let (key, place, text) = match sink {
            SinkSpec::Kafka { topic, .. } => ("topic", Place::Topic, topic),
            SinkSpec::Nats(spec) => ("subject", Place::Subject, &spec.subject),
            SinkSpec::Redis(spec) => ("stream", Place::Stream, &spec.stream),
            SinkSpec::Webhook(spec) => ("url", Place::Url, &spec.url),
            SinkSpec::Rabbitmq(spec) => {
                refuse_template("exchange", &spec.exchange)?;
                let key = if spec.exchange.is_empty() {
                    "queue"
                } else {
                    "routing_key"
                };
                (key, Place::RoutingKey, &spec.routing_key)
            }
            SinkSpec::Stdout | SinkSpec::File(_) | SinkSpec::PgInbox { .. } | SinkSpec::Null => {
                return Ok(None);
            }
        };
        let template =
            Template::parse(text).map_err(|problem| SpecError::new(key, problem).hint(SYNTAX))?;
        let Some(template) = template else {
            return Ok(None);
        };
        let route = Self {
            key,
            place,
            template,
        };
        route.check(sink)?;
        Ok(Some(route))
    }

    fn check(&self, sink: &SinkSpec) -> Result<(), SpecError> {
        let beginning = self.template.beginning();
        if self.place == Place::Url {
            // Whoever chose the host would get everybody's messages.
            let after_scheme = beginning.split_once("://").map_or("", |(_, rest)| rest);
            if !after_scheme.contains('/') {
                return Err(SpecError::new(
                    self.key,
                    "has a template before its path",
                )
                .hint("scheme, host and port are fixed, for example https://example.com/{{ headers.tenant }}"));
            }
            if let SinkSpec::Webhook(spec) = sink
                && spec.batch
            {
                return Err(SpecError::new(
                    self.key,
                    "has a template, and \"batch\" puts many messages into one request",
                )
                .hint("a fixed URL, or without \"batch\""));
            }
        }
        if matches!(self.place, Place::Topic | Place::Subject) {
            let wrong = |c: &char| !self.place.admits(*c) && *c != self.place.separator();
            let mut literals = self.template.literals().flat_map(str::chars);
            if let Some(c) = literals.find(wrong) {
                return Err(SpecError::new(self.key, format!("holds {c:?}")).hint(SYNTAX));
            }
        }
        if self.place == Place::Subject && is_servers_own(beginning) {
            return Err(
                SpecError::new(self.key, "begins with the server's own subjects")
                    .hint("$… and _INBOX… are answers and orders; begin with a word of your own"),
            );
        }
        Ok(())
    }

    /// Where a message goes; the error says which field is missing or unfit.
    pub fn resolve(&self, event: &Event<'_>, outbox: &str) -> Result<String, String> {
        let fit = |field: &Field, value: &str, out: &mut String| self.place.fit(field, value, out);
        self.template
            .fill(event, outbox, fit)
            .map_err(|unfilled| unfilled.to_string())
            .and_then(|whole| self.place.check(whole))
            .map_err(|problem| format!("{}: {problem}", self.key))
    }
}

const SYNTAX: &str =
    "for example orders.{{ headers.tenant }}.{{ payload.type | default('other') }}";

/// For settings that messages do not choose.
fn refuse_template(key: &'static str, text: &str) -> Result<(), SpecError> {
    if text.contains("{{") {
        return Err(SpecError::new(key, "takes no template")
            .hint("\"routing_key\" does; messages do not choose their exchange"));
    }
    Ok(())
}

impl Place {
    fn separator(self) -> char {
        match self {
            Self::Topic | Self::Subject | Self::RoutingKey => '.',
            Self::Stream => ':',
            Self::Url => '/',
        }
    }

    /// Appends a value, or says what is wrong with it.
    fn fit(self, field: &Field, value: &str, out: &mut String) -> Result<(), String> {
        let separator = self.separator();
        if !field.levels && value.contains(separator) {
            return Err(format!(
                "is {}, which is more than one level; \"| levels\" would allow that",
                shown(value)
            ));
        }
        for (index, level) in value.split(separator).enumerate() {
            if level.is_empty() {
                return Err(format!("is {}, with an empty level", shown(value)));
            }
            if index > 0 {
                out.push(separator);
            }
            match self {
                Self::Url => encode(level, out),
                _ => match level.chars().find(|c| !self.admits(*c)) {
                    None => out.push_str(level),
                    Some(c) => {
                        return Err(format!("is {}, and {c:?} cannot be there", shown(value)));
                    }
                },
            }
        }
        Ok(())
    }

    /// Whether a level may hold a character. What separates levels was looked at before.
    fn admits(self, c: char) -> bool {
        match self {
            Self::Topic => c.is_ascii_alphanumeric() || matches!(c, '_' | '-'),
            Self::Subject => !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>'),
            // Braces choose the server that has a key.
            Self::Stream => !c.is_whitespace() && !c.is_control() && !matches!(c, '{' | '}'),
            // Wildcards of bindings, which mean nothing here and everything to whoever copies them.
            Self::RoutingKey => !c.is_control() && !matches!(c, '*' | '#'),
            Self::Url => true,
        }
    }

    /// The whole name, as the place demands it.
    fn check(self, whole: String) -> Result<String, String> {
        let most = match self {
            Self::Topic => LONGEST_TOPIC,
            Self::RoutingKey => LONGEST_ROUTING_KEY,
            Self::Subject | Self::Stream | Self::Url => LONGEST,
        };
        if whole.len() > most {
            return Err(format!("{} bytes are more than {most}", whole.len()));
        }
        match self {
            Self::Subject if is_servers_own(&whole) => Err(format!(
                "{} is a subject of the server's own",
                shown(&whole)
            )),
            Self::Subject if whole.split('.').any(str::is_empty) => {
                Err(format!("{} has an empty level", shown(&whole)))
            }
            // Resolved by whoever reads a URL, encoded or not: it would lead to another path.
            Self::Url if has_dots(&whole) => {
                Err(format!("{} has a segment of dots", shown(&whole)))
            }
            _ => Ok(whole),
        }
    }
}

/// Answers to requests, and orders to JetStream and the server.
fn is_servers_own(subject: &str) -> bool {
    subject.starts_with('$') || subject.split('.').next() == Some("_INBOX")
}

fn has_dots(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte.into());
        } else {
            _ = write!(out, "%{byte:02X}");
        }
    }
}

/// A value in an error: quoted, and not endless.
fn shown(value: &str) -> String {
    const MOST: usize = 60;
    let short: String = value.chars().take(MOST).collect();
    let rest = if short.len() < value.len() { "…" } else { "" };
    format!("{short:?}{rest}")
}

#[cfg(test)]
mod tests;
