//! Shows what would become of the newest messages of an outbox: which would go, where, and as what.
//! Nothing is sent, and nothing is written.

use serde::Serialize;
use tide_catalog::{
    PgConnection,
    messages::{Message, PageLimits},
    newest::messages_newest,
};
use tide_model::{PipelineName, PipelineSpec, format::Event, transform::Outcome};

use super::{catalog, file};
use crate::{
    args::TestArgs,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Cell, Style, Table},
};

/// More text than that of one outbox is nobody's to look through.
const MOST_BYTES: usize = 64 << 20;

/// What would become of one message.
#[derive(Debug, Serialize)]
struct Tested {
    id: i64,
    event_id: String,
    key: Option<String>,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Verdict {
    /// It goes to the sink, with this payload and these headers, as JSON text; where to, if the
    /// message chooses that.
    Kept {
        destination: Option<String>,
        payload: String,
        headers: String,
    },
    /// It is not for the sink.
    Filtered,
    /// It goes to the dead letters.
    Refused { reason: String },
}

#[derive(Debug, Serialize)]
struct Report {
    pipeline: PipelineName,
    outbox: String,
    kept: usize,
    filtered: usize,
    refused: usize,
    messages: Vec<Tested>,
}

pub(super) async fn run(context: &Context, args: &TestArgs) -> Result<Exit, CliError> {
    let files = file::read_all(args.file.as_slice())?;
    let mut session = catalog::session(context).await?;
    let reports = session
        .run(async |connection| {
            let mut specs = Vec::new();
            for file in files {
                let config = serde_json::Value::Object(file.config);
                specs.push(PipelineSpec::parse(file.name, file.outbox, &config));
            }
            if let Some(name) = &args.name {
                let stored = super::stored(connection, name).await?;
                specs.push(PipelineSpec::parse(
                    name.clone(),
                    stored.outbox,
                    &stored.config,
                ));
            }
            let mut reports = Vec::new();
            for spec in specs {
                let spec = spec.map_err(|error| {
                    let hint = "change it with: tidectl pipeline apply -f FILE";
                    CliError::usage(format!("the configuration is refused: {error}"), hint)
                })?;
                reports.push(test(connection, &spec, args.last).await?);
            }
            Ok(reports)
        })
        .await?;
    context.screen.show(&reports, |style| {
        let texts: Vec<String> = reports.iter().map(|report| text(style, report)).collect();
        texts.join("\n\n")
    })?;
    Ok(Exit::Done)
}

async fn test(
    connection: &mut PgConnection,
    spec: &PipelineSpec,
    last: usize,
) -> Result<Report, CliError> {
    let limits = PageLimits {
        messages: last,
        bytes: MOST_BYTES,
    };
    let messages = messages_newest(connection, &spec.outbox, limits)
        .await?
        .ok_or_else(|| {
            let advice = "create it with: tidectl outbox create NAME";
            CliError::unknown("outbox", &spec.outbox, &[], advice)
        })?;
    let messages: Vec<Tested> = messages
        .iter()
        .map(|message| judge(spec, message))
        .collect();
    let count = |is: fn(&Verdict) -> bool| messages.iter().filter(|one| is(&one.verdict)).count();
    Ok(Report {
        pipeline: spec.name.clone(),
        outbox: spec.outbox.clone(),
        kept: count(|verdict| matches!(verdict, Verdict::Kept { .. })),
        filtered: count(|verdict| matches!(verdict, Verdict::Filtered)),
        refused: count(|verdict| matches!(verdict, Verdict::Refused { .. })),
        messages,
    })
}

fn judge(spec: &PipelineSpec, message: &Message) -> Tested {
    let event = Event {
        id: message.id,
        event_id: message.event_id,
        key: message.key.as_deref(),
        payload: &message.payload,
        headers: &message.headers,
        created_at: message.created_at,
    };
    Tested {
        id: message.id,
        event_id: message.event_id.to_string(),
        key: message.key.clone(),
        verdict: verdict(spec, &event).unwrap_or_else(|reason| Verdict::Refused { reason }),
    }
}

/// What an agent would do, in its order: transforms, then the destination.
fn verdict(spec: &PipelineSpec, event: &Event<'_>) -> Result<Verdict, String> {
    let (payload, headers) = match &spec.transforms {
        None => (event.payload.into(), event.headers.into()),
        Some(transforms) => match transforms.apply(event, &spec.outbox)? {
            Outcome::Kept { payload, headers } => (payload, headers),
            Outcome::FilteredOut => return Ok(Verdict::Filtered),
        },
    };
    let transformed = Event {
        payload: &payload,
        headers: &headers,
        ..*event
    };
    let route = spec.route.as_ref();
    let destination = route
        .map(|route| route.resolve(&transformed, &spec.outbox))
        .transpose()?;
    Ok(Verdict::Kept {
        destination,
        payload: payload.into_owned(),
        headers: headers.into_owned(),
    })
}

fn text(style: Style, report: &Report) -> String {
    let Report {
        pipeline,
        outbox,
        kept,
        filtered,
        refused,
        messages,
    } = report;
    if messages.is_empty() {
        return format!("{outbox} holds no message to test {pipeline} with");
    }
    let mut table = Table::new(style, &["ID", "KEY", "OUTCOME", "MESSAGE"]);
    for message in messages {
        let (outcome, shown) = match &message.verdict {
            Verdict::Kept {
                destination,
                payload,
                headers,
            } => {
                let to = destination.as_deref();
                let to = to.map_or_else(String::new, |to| format!("to {to}: "));
                ("kept", format!("{to}{payload} {headers}"))
            }
            Verdict::Filtered => ("filtered", String::new()),
            Verdict::Refused { reason } => ("refused", reason.clone()),
        };
        table.row([
            Cell::from(message.id.to_string()),
            Cell::from(message.key.clone().unwrap_or_default()),
            Cell::from(outcome),
            Cell::from(shown),
        ]);
    }
    format!(
        "{}\n{pipeline} would keep {kept}, filter out {filtered} and refuse {refused} of these; nothing was sent",
        table.print().trim_end()
    )
}
