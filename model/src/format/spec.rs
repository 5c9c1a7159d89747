//! The keys `format`, `cloudevents` and `debezium` of a pipeline, and what goes with which sink.

use crate::{SinkSpec, SpecError, fields::Fields};

/// How messages are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Format {
    /// Tide's own envelope.
    #[default]
    Native,
    /// The payload alone.
    Raw,
    /// CloudEvents 1.0.
    CloudEvents(CloudEvents),
    /// Debezium's change envelope.
    Debezium(Debezium),
}

/// The modes of CloudEvents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One JSON object with attributes and data.
    Structured,
    /// The data is the body, the attributes are headers.
    Binary,
}

/// What CloudEvents are to say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvents {
    /// Where the attributes stand.
    pub mode: Mode,
    /// The attribute `source`, a URI reference; `/tide/outboxes/NAME` if absent.
    pub source: Option<String>,
    /// The attribute `type`; `tide.OUTBOX` if absent.
    pub kind: Option<String>,
}

/// What Debezium's envelopes are to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Debezium {
    /// Whether every message comes with its schema.
    pub schema: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Native,
    Raw,
    CloudEvents(Mode),
    Debezium,
}

const KEYS: [&str; 3] = ["format", "cloudevents", "debezium"];

impl Format {
    pub(crate) fn parse(fields: &mut Fields, sink: &SinkSpec) -> Result<Self, SpecError> {
        if let Some(why) = shapeless(sink) {
            return match fields.present(&KEYS) {
                None => Ok(Self::Native),
                Some(key) => Err(SpecError::new(
                    key,
                    format!("does not go with sink_type {:?}", sink.kind()),
                )
                .hint(why)),
            };
        }
        let word = fields
            .choice(
                KEYS[0],
                &[
                    ("native", Word::Native),
                    ("raw", Word::Raw),
                    ("cloudevents", Word::CloudEvents(Mode::Structured)),
                    ("cloudevents-binary", Word::CloudEvents(Mode::Binary)),
                    ("debezium", Word::Debezium),
                ],
            )?
            .unwrap_or(Word::Native);
        let cloudevents = fields.object(KEYS[1])?;
        let debezium = fields.object(KEYS[2])?;
        if cloudevents.is_some() && !matches!(word, Word::CloudEvents(_)) {
            return Err(SpecError::new(KEYS[1], "belongs to another format")
                .hint("it needs \"format\": \"cloudevents\" or \"cloudevents-binary\""));
        }
        if debezium.is_some() && word != Word::Debezium {
            return Err(SpecError::new(KEYS[2], "belongs to another format")
                .hint("it needs \"format\": \"debezium\""));
        }
        check_sink(word, sink)?;
        Ok(match word {
            Word::Native => Self::Native,
            Word::Raw => Self::Raw,
            Word::CloudEvents(mode) => Self::CloudEvents(CloudEvents::parse(mode, cloudevents)?),
            Word::Debezium => Self::Debezium(Debezium::parse(debezium)?),
        })
    }
}

/// Why a sink knows no formats, if it does not.
fn shapeless(sink: &SinkSpec) -> Option<&'static str> {
    match sink {
        SinkSpec::PgInbox { .. } => {
            Some("an inbox has a column for each part of a message; leave it out")
        }
        SinkSpec::Null => Some("nobody reads what it discards; leave it out"),
        _ => None,
    }
}

fn check_sink(word: Word, sink: &SinkSpec) -> Result<(), SpecError> {
    let bare = matches!(word, Word::Raw | Word::CloudEvents(Mode::Binary));
    let binary = word == Word::CloudEvents(Mode::Binary);
    if binary && !sink.carrier().has_headers() {
        let kind = sink.kind();
        return Err(SpecError::new(
            KEYS[0],
            format!("is \"cloudevents-binary\", whose attributes are headers, and sink_type {kind:?} has none"),
        )
        .hint("\"cloudevents\" has them in the body"));
    }
    if bare && matches!(sink, SinkSpec::Webhook(spec) if spec.batch) {
        let (word, instead) = if binary {
            ("cloudevents-binary", "cloudevents")
        } else {
            ("raw", "native")
        };
        return Err(SpecError::new(
            KEYS[0],
            format!("is {word:?}, whose identity is in the request's headers, and \"batch\" puts many messages into one request"),
        )
        .hint(format!("\"{instead}\", or without \"batch\"")));
    }
    Ok(())
}

impl CloudEvents {
    fn parse(mode: Mode, fields: Option<Fields>) -> Result<Self, SpecError> {
        let mut spec = Self {
            mode,
            source: None,
            kind: None,
        };
        let Some(mut fields) = fields else {
            return Ok(spec);
        };
        let within = |error: SpecError| error.within(KEYS[1]);
        spec.source = fields.text("source").map_err(within)?;
        spec.kind = fields.text("type").map_err(within)?;
        fields.finish().map_err(within)?;
        let no_uri = |text: &String| {
            text.contains(|c: char| {
                c.is_whitespace() || c.is_control() || "<>\"\\^`{|}".contains(c)
            })
        };
        if let Some(source) = spec.source.as_ref().filter(|text| no_uri(text)) {
            return Err(
                SpecError::new("source", format!("is {source:?}, no URI reference"))
                    .hint("for example /shops/eu or https://example.com/shops/eu")
                    .within(KEYS[1]),
            );
        }
        if let Some(kind) = spec
            .kind
            .as_ref()
            .filter(|text| text.contains(char::is_control))
        {
            return Err(SpecError::new("type", format!("is {kind:?}"))
                .hint("text without control characters, for example com.example.order.created")
                .within(KEYS[1]));
        }
        Ok(spec)
    }
}

impl Debezium {
    fn parse(fields: Option<Fields>) -> Result<Self, SpecError> {
        let Some(mut fields) = fields else {
            return Ok(Self::default());
        };
        let within = |error: SpecError| error.within(KEYS[2]);
        let schema = fields.flag("schema").map_err(within)?.unwrap_or(false);
        fields.finish().map_err(within)?;
        Ok(Self { schema })
    }
}
