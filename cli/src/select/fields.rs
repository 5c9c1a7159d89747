//! What agents and pipelines can be chosen and ordered by.

use std::{cmp::Ordering, fmt};

use tide_model::fleet::{AgentView, PipelineView};
use time::OffsetDateTime;

use crate::error::CliError;

/// Something with fields that a list can be chosen and ordered by.
pub(crate) trait Fields: Sized + 'static {
    /// What they are called.
    const THINGS: &'static str;
    /// All of them, in the order in which they are told.
    const FIELDS: &'static [Field<Self>];
}

/// One field.
pub(crate) struct Field<T> {
    pub(crate) name: &'static str,
    pub(crate) read: Read<T>,
}

/// How a field is read, which says how it is compared.
pub(crate) enum Read<T> {
    /// A name; upper and lower case are different.
    Name(fn(&T) -> Option<&str>),
    /// One of few words; upper and lower case are alike.
    Word(fn(&T) -> &str),
    /// Several texts, of which one is enough.
    Texts(fn(&T) -> &[String]),
    /// A whole number.
    Count(fn(&T) -> Option<i64>),
    /// A time span.
    Seconds(fn(&T) -> f64),
    /// A moment, told and compared as how long ago it was.
    Ago(fn(&T) -> Option<OffsetDateTime>),
    /// Yes or no.
    Flag(fn(&T) -> bool),
}

/// What a row has in a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Nothing,
    Name(&'a str),
    Word(&'a str),
    Texts(&'a [String]),
    Count(i64),
    Seconds(f64),
    Flag(bool),
}

impl<T> Field<T> {
    const fn new(name: &'static str, read: Read<T>) -> Self {
        Self { name, read }
    }

    /// What a row has in it.
    pub(crate) fn value<'a>(&self, row: &'a T, now: OffsetDateTime) -> Value<'a> {
        match self.read {
            Read::Name(read) => read(row).map_or(Value::Nothing, Value::Name),
            Read::Word(read) => Value::Word(read(row)),
            Read::Texts(read) => match read(row) {
                [] => Value::Nothing,
                texts => Value::Texts(texts),
            },
            Read::Count(read) => read(row).map_or(Value::Nothing, Value::Count),
            Read::Seconds(read) => Value::Seconds(read(row)),
            Read::Ago(read) => read(row).map_or(Value::Nothing, |moment| {
                // Clocks that disagree make an age zero, never negative.
                Value::Seconds((now - moment).as_seconds_f64().max(0.0))
            }),
            Read::Flag(read) => Value::Flag(read(row)),
        }
    }
}

impl<T> fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Value<'_> {
    /// The order of two values of one field.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Name(a) | Self::Word(a), Self::Name(b) | Self::Word(b)) => a.cmp(b),
            (Self::Texts(a), Self::Texts(b)) => a.cmp(b),
            (Self::Count(a), Self::Count(b)) => a.cmp(b),
            (Self::Seconds(a), Self::Seconds(b)) => a.total_cmp(b),
            (Self::Flag(a), Self::Flag(b)) => a.cmp(b),
            // Rows of one list have values of one kind in one field.
            _ => Ordering::Equal,
        }
    }
}

/// The field of a name; or what there is, and what was probably meant.
pub(crate) fn named<T: Fields>(name: &str, flag: &str) -> Result<&'static Field<T>, CliError> {
    let found = T::FIELDS.iter().find(|field| field.name == name);
    found.ok_or_else(|| {
        let known: Vec<&str> = T::FIELDS.iter().map(|field| field.name).collect();
        let meant = tide_model::closest::closest(name, &known);
        let meant = meant.map_or_else(String::new, |meant| format!("did you mean {meant}? "));
        CliError::usage(
            format!("{flag}: {} have no field {name:?}", T::THINGS),
            format!("{meant}the fields are {}", known.join(", ")),
        )
    })
}

/// The names of all fields, for hints.
pub(crate) fn known<T: Fields>() -> String {
    let names: Vec<&str> = T::FIELDS.iter().map(|field| field.name).collect();
    names.join(", ")
}

impl Fields for AgentView {
    const THINGS: &'static str = "agents";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", Read::Name(|agent| Some(agent.name.as_str()))),
        Field::new("state", Read::Word(|agent| agent.state.as_str())),
        Field::new("host", Read::Name(|agent| Some(&agent.hostname))),
        Field::new("version", Read::Name(|agent| Some(&agent.version))),
        Field::new("weight", Read::Count(|agent| Some(agent.weight.into()))),
        Field::new(
            "pipelines",
            Read::Count(|agent| Some(agent.pipelines.into())),
        ),
        Field::new(
            "unhealthy",
            Read::Count(|agent| Some(agent.unhealthy.into())),
        ),
        Field::new("lag", Read::Seconds(|agent| agent.lag_p95_seconds)),
        Field::new("worst", Read::Seconds(|agent| agent.lag_worst_seconds)),
        Field::new("age", Read::Ago(|agent| Some(agent.started_at))),
        Field::new("seen", Read::Ago(|agent| Some(agent.last_seen_at))),
        Field::new("holds", Read::Texts(|agent| &agent.holds)),
        Field::new("safe-to-stop", Read::Flag(Self::is_safe_to_stop)),
        Field::new("reports", Read::Flag(|agent| agent.reporting)),
        Field::new(
            "pid",
            Read::Count(|agent| agent.backend_pid.map(Into::into)),
        ),
        Field::new("metrics", Read::Name(|agent| agent.metrics_addr.as_deref())),
    ];
}

impl Fields for PipelineView {
    const THINGS: &'static str = "pipelines";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", Read::Name(|pipeline| Some(pipeline.name.as_str()))),
        Field::new("outbox", Read::Name(|pipeline| Some(&pipeline.outbox))),
        Field::new("sink", Read::Word(|pipeline| &pipeline.sink)),
        Field::new(
            "owner",
            Read::Name(|pipeline| pipeline.owner.as_ref().map(AsRef::as_ref)),
        ),
        Field::new("state", Read::Word(|pipeline| &pipeline.state)),
        Field::new("reason", Read::Name(|pipeline| pipeline.reason.as_deref())),
        Field::new("rows", Read::Count(|pipeline| Some(pipeline.lag_rows))),
        Field::new("lag", Read::Seconds(|pipeline| pipeline.lag_seconds)),
        Field::new("since", Read::Ago(|pipeline| pipeline.since)),
        Field::new(
            "epoch",
            Read::Count(|pipeline| pipeline.epoch.map(|epoch| epoch.0)),
        ),
        Field::new(
            "position",
            Read::Count(|pipeline| Some(pipeline.last_change_id)),
        ),
        Field::new("enabled", Read::Flag(|pipeline| pipeline.enabled)),
        Field::new(
            "moving-to",
            Read::Name(|pipeline| pipeline.moving_to.as_ref().map(AsRef::as_ref)),
        ),
        Field::new(
            "placed-on",
            Read::Name(|pipeline| pipeline.placement.as_ref().map(AsRef::as_ref)),
        ),
        Field::new("holds", Read::Texts(|pipeline| &pipeline.holds)),
        Field::new(
            "ownership",
            Read::Word(|pipeline| pipeline.ownership.as_str()),
        ),
        Field::new(
            "pid",
            Read::Count(|pipeline| pipeline.backend_pid.map(Into::into)),
        ),
    ];
}
