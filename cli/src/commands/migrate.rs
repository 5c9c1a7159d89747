//! Installs and upgrades the catalog.

use std::fmt::Write as _;

use serde::Serialize;
use tide_catalog::schema::{self, Migration};
use tokio::time::timeout;

use crate::{args::MigrateArgs, context::Context, error::CliError, exit::Exit};

#[derive(Serialize)]
struct Migrated {
    /// The version of the catalog that this binary works with.
    version: i64,
    dry_run: bool,
    migrations: Vec<Applied>,
}

#[derive(Serialize)]
struct Applied {
    version: i64,
    name: String,
}

pub(super) async fn run(context: &Context, args: &MigrateArgs) -> Result<Exit, CliError> {
    let server = context.settings.server()?;
    // A migration takes as long as it takes; only reaching the server has a deadline.
    let silent = |_| CliError::DatabaseSilent {
        server: server.label(),
        within: context.settings.timeout,
    };
    let mut connection = timeout(context.settings.timeout, async {
        server.check().await?;
        server.connect().await
    })
    .await
    .map_err(silent)??;
    let migrations = if args.dry_run {
        schema::pending(&mut connection).await?
    } else {
        schema::migrate(&mut connection).await?
    };
    let migrated = Migrated {
        version: schema::version(),
        dry_run: args.dry_run,
        migrations: migrations.into_iter().map(Applied::from).collect(),
    };
    context.screen.show(&migrated, |_| text(&migrated))?;
    Ok(Exit::Done)
}

impl From<Migration> for Applied {
    fn from(migration: Migration) -> Self {
        Self {
            version: migration.version,
            name: migration.name,
        }
    }
}

fn text(migrated: &Migrated) -> String {
    if migrated.migrations.is_empty() {
        return format!("up to date: catalog version {}", migrated.version);
    }
    let verb = if migrated.dry_run {
        "would apply"
    } else {
        "applied"
    };
    migrated
        .migrations
        .iter()
        .fold(String::new(), |mut text, migration| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{verb} {:04} {}", migration.version, migration.name);
            text
        })
}
