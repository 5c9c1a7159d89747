//! `tide-agent status`: every pipeline, straight from the database, for a node without `tidectl`.

use std::{collections::BTreeMap, io::Write as _};

use comfy_table::{Table, presets};
use tide_catalog::{CatalogError, fleet::database_view, schema};
use tide_daemon::{lifecycle::Exit, main_exit::Failure};
use tide_model::fleet::FleetView;

use crate::config::Config;

/// Prints the table; degraded when something needs attention.
pub async fn run(config: Config) -> Result<Exit, Failure> {
    let view = read(&config).await.map_err(|error| {
        let hint = error.hint();
        Failure::failed(error).with_hint(hint)
    })?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "PIPELINE", "OWNER", "EPOCH", "LAST ID", "LAG ROWS", "LAG", "STATE", "REASON",
    ]);
    for pipeline in &view.pipelines {
        table.add_row([
            pipeline.name.to_string(),
            pipeline
                .owner
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            pipeline
                .epoch
                .map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
            pipeline.last_change_id.to_string(),
            pipeline.lag_rows.to_string(),
            format!("{:.1}s", pipeline.lag_seconds),
            pipeline.state.clone(),
            pipeline.reason.clone().unwrap_or_default(),
        ]);
    }
    let mut out = std::io::stdout().lock();
    // A reader that closed the pipe has seen enough.
    drop(writeln!(out, "{table}"));
    for warning in &view.warnings {
        drop(writeln!(out, "! {warning}"));
    }
    Ok(if view.is_healthy() {
        Exit::Clean
    } else {
        Exit::Forced
    })
}

async fn read(config: &Config) -> Result<FleetView, CatalogError> {
    let mut connection = config.server.connect().await?;
    schema::verify(&mut connection).await?;
    let database = database_view(&mut connection, &config.group).await?;
    Ok(FleetView::build(
        &database,
        &BTreeMap::new(),
        database.taken_at,
    ))
}
