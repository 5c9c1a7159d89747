//! Applies pipeline files: all of them in one transaction, or nothing.

use std::{collections::BTreeSet, fmt::Write as _};

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::Connection as _;
use tide_catalog::{
    CatalogError, PgConnection,
    pipelines::{self, StoredPipeline},
};
use tide_model::pipeline::PipelineFile;

use super::{catalog, file};
use crate::{
    args::ApplyArgs,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Style, Tone},
};

/// What became of one pipeline.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Applied {
    pipeline: String,
    action: Action,
    /// Keys of its configuration that are new, gone or different. Never their values: a value may
    /// be a secret.
    keys: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Action {
    Created,
    Changed,
    Unchanged,
}

#[derive(Debug, Serialize)]
struct Outcome {
    dry_run: bool,
    pipelines: Vec<Applied>,
}

pub(super) async fn run(context: &Context, args: &ApplyArgs) -> Result<Exit, CliError> {
    let files = file::read_all(&args.files)?;
    let mut session = catalog::session(context).await?;
    let pipelines = session
        .run(async |connection| apply(connection, &files, args.dry_run).await)
        .await?;
    let outcome = Outcome {
        dry_run: args.dry_run,
        pipelines,
    };
    context
        .screen
        .show(&outcome, |style| text(style, &outcome))?;
    Ok(Exit::Done)
}

/// A dry run writes as well, so that the database has its say, and takes it back.
async fn apply(
    connection: &mut PgConnection,
    files: &[PipelineFile],
    dry_run: bool,
) -> Result<Vec<Applied>, CliError> {
    let mut transaction = connection.begin().await.map_err(transaction_failed)?;
    let stored = pipelines::pipeline_list(&mut transaction).await?;
    let mut applied = Vec::new();
    for file in files {
        let name = file.name.as_str();
        let before = stored.iter().find(|pipeline| pipeline.name == name);
        let outcome = compare(before, file);
        if outcome.action != Action::Unchanged {
            let config = Value::Object(file.config.clone());
            pipelines::pipeline_set(&mut transaction, name, &file.outbox, &config).await?;
        }
        applied.push(outcome);
    }
    let ended = if dry_run {
        transaction.rollback().await
    } else {
        transaction.commit().await
    };
    ended.map_err(transaction_failed)?;
    Ok(applied)
}

fn transaction_failed(source: sqlx::Error) -> CliError {
    CatalogError::Database {
        doing: "writing the pipelines",
        source,
    }
    .into()
}

fn compare(before: Option<&StoredPipeline>, file: &PipelineFile) -> Applied {
    let empty = Map::new();
    let (action, keys) = match before {
        None => (Action::Created, Vec::new()),
        Some(before) => {
            let config = before.config.as_object().unwrap_or(&empty);
            let keys = differing(config, &file.config);
            // Another outbox is for the database to refuse, with its reason.
            let same = keys.is_empty() && before.outbox == file.outbox;
            (
                if same {
                    Action::Unchanged
                } else {
                    Action::Changed
                },
                keys,
            )
        }
    };
    Applied {
        pipeline: file.name.to_string(),
        action,
        keys,
    }
}

fn differing(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .cloned()
        .collect()
}

fn text(style: Style, outcome: &Outcome) -> String {
    outcome
        .pipelines
        .iter()
        .fold(String::new(), |mut text, applied| {
            let (word, would, tone) = match applied.action {
                Action::Created => ("created", "would create", Tone::Good),
                Action::Changed => ("changed", "would change", Tone::Uneasy),
                Action::Unchanged => ("unchanged", "unchanged", Tone::Faint),
            };
            let word = style.paint(tone, if outcome.dry_run { would } else { word });
            let keys = match applied.keys.as_slice() {
                [] => String::new(),
                keys => format!(" ({})", keys.join(", ")),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{word} {}{keys}", applied.pipeline);
            text
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(config: &Value) -> PipelineFile {
        PipelineFile::parse(&json!({"name": "p", "outbox": "o", "config": config})).unwrap()
    }

    fn stored(config: Value) -> StoredPipeline {
        StoredPipeline {
            name: "p".to_owned(),
            outbox: "o".to_owned(),
            relation: "tide.outbox_o".to_owned(),
            config,
            enabled: true,
            revision: 1,
        }
    }

    #[test]
    fn what_differs_is_named_and_not_shown() {
        let before = stored(
            json!({"sink_type": "webhook", "url": "https://a.example", "headers": {"A": "secret"}}),
        );
        let after =
            file(&json!({"sink_type": "webhook", "url": "https://b.example", "batch": true}));
        let applied = compare(Some(&before), &after);
        assert_eq!(applied.action, Action::Changed);
        assert_eq!(applied.keys, ["batch", "headers", "url"]);
    }

    #[test]
    fn the_same_again_is_unchanged_and_nothing_before_is_created() {
        let config = json!({"sink_type": "stdout", "batch_size": 5});
        let again = compare(Some(&stored(config.clone())), &file(&config));
        assert_eq!(again.action, Action::Unchanged);
        assert_eq!(compare(None, &file(&config)).action, Action::Created);
    }

    #[test]
    fn a_dry_run_speaks_of_what_it_would_do() {
        let outcome = Outcome {
            dry_run: true,
            pipelines: vec![compare(None, &file(&json!({"sink_type": "stdout"})))],
        };
        assert_eq!(text(Style::plain(), &outcome), "would create p\n");
    }
}
