//! `tidectl locks` against real agents, and against sessions that are none.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tide_catalog::{
    intent::Actor,
    locks::{Release, lock_release},
};
use tide_sandbox::wait::eventually;
use tide_tests::{
    Fleet, FleetOptions, SOON,
    command::{Finished, run},
};

async fn locks(fleet: &Fleet, words: &[&str]) -> Result<Finished> {
    let words = [&["locks", "-o", "json"], words].concat();
    run(
        "tidectl",
        &words,
        &[("TIDE_POSTGRES_URL", &fleet.url())],
        SOON,
    )
    .await
}

/// The row of a pipeline, once it has this verdict.
async fn judged(fleet: &Fleet, pipeline: &str, verdict: &str) -> Result<Value> {
    let what = format!("{pipeline} to be {verdict}");
    let seen = eventually(SOON, what, async || {
        let listed = locks(fleet, &["list"]).await?;
        let rows: Vec<Value> = serde_json::from_str(&listed.stdout)?;
        let row = rows.into_iter().find(|row| row["pipeline"] == pipeline);
        let sound = verdict == "OWNED";
        match row {
            Some(row) if row["verdict"] == verdict => {
                ensure!(sound || listed.code == Some(3), "{listed:?}");
                Ok(Some(row))
            }
            _ => Ok(None),
        }
    });
    Ok(seen.await?)
}

#[tokio::test]
async fn an_orphan_is_told_from_an_owner_and_from_a_ghost_and_alone_can_be_released() -> Result<()>
{
    // GIVEN an agent at work
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    fleet.add_file_pipelines(2).await?;
    fleet.wait_until_running().await?;
    let mut pipelines = fleet.owners().await?.into_keys();
    let pipeline = pipelines.next().context("a pipeline")?;
    let backend = fleet.lock_backend("relay-1").await?.context("a session")?;
    let owned = judged(&fleet, &pipeline, "OWNED").await?;
    ensure!(
        owned["holder"] == "relay-1" && owned["recorded"] == "relay-1" && owned["pid"] == backend,
        "{owned}"
    );
    // THEN its session is nobody's to release
    let refused = locks(&fleet, &["release", "--yes", &backend.to_string()]).await?;
    refused.explains(6, "is no orphan", "tidectl drain relay-1")?;
    ensure!(fleet.lock_backend("relay-1").await? == Some(backend));
    let nothing = locks(&fleet, &["release", "--yes", "--all"]).await?;
    ensure!(nothing.code == Some(0), "{nothing:?}");
    // and not even a mistake of the tool's would end it
    let actor = Actor {
        name: "ana".to_owned(),
        reason: String::new(),
    };
    let mut connection = fleet.connection().await?;
    let left = lock_release(&mut connection, fleet.group(), backend, &actor).await?;
    ensure!(left == Release::NoOrphan, "{left:?}");
    drop(connection);
    ensure!(fleet.lock_backend("relay-1").await? == Some(backend));

    // WHEN it is killed THEN it is on record, and holds nothing
    fleet.crash("relay-1").await?;
    let ghost = judged(&fleet, &pipeline, "GHOST").await?;
    ensure!(
        ghost["recorded"] == "relay-1" && ghost["pid"].is_null(),
        "{ghost}"
    );

    // WHEN a session that is no agent's takes the lock THEN nobody can take over
    let mut stranger = fleet.connection().await?;
    let taken: (bool, i32) =
        sqlx::query_as("SELECT pg_try_advisory_lock(hashtext($1), hashtext($2)), pg_backend_pid()")
            .bind(fleet.group().as_str())
            .bind(&pipeline)
            .fetch_one(&mut *stranger)
            .await?;
    ensure!(taken.0, "the lock was free");
    let pid = taken.1.to_string();
    let row = judged(&fleet, &pipeline, "ORPHAN").await?;
    ensure!(row["pid"] == taken.1 && row["holder"].is_null(), "{row}");
    ensure!(
        row["hint"]
            .to_string()
            .contains(&format!("locks release {pid}")),
        "{row}"
    );
    ensure!(
        row["client"] == "127.0.0.1" && row["age_seconds"].is_f64(),
        "{row}"
    );
    let listed = locks(&fleet, &["orphans"]).await?;
    let rows: Vec<Value> = serde_json::from_str(&listed.stdout)?;
    ensure!(listed.code == Some(3) && rows.len() == 1, "{listed:?}");
    fleet.start_agent("relay-1").await?;
    judged(&fleet, &pipeline, "ORPHAN").await?;

    // WHEN nobody agrees THEN nothing happens
    let unasked = locks(&fleet, &["release", &pid]).await?;
    unasked.explains(2, "needs a confirmation", "--yes")?;
    judged(&fleet, &pipeline, "ORPHAN").await?;
    // WHEN an operator releases it THEN the agent takes over, and it is on record who did that
    let words = [
        "release", &pid, "--yes", "--reason", "stuck", "--actor", "ana",
    ];
    let released = locks(&fleet, &words).await?;
    ensure!(released.code == Some(0), "{released:?}");
    ensure!(released.stdout.contains(&pipeline), "{released:?}");
    let owned = judged(&fleet, &pipeline, "OWNED").await?;
    ensure!(owned["holder"] == "relay-1", "{owned}");
    let (actor, reason, detail): (String, String, Value) = sqlx::query_as(
        "SELECT actor, reason, detail FROM tide.events WHERE kind = 'lock.released' AND subject = $1",
    )
    .bind(&pipeline)
    .fetch_one(fleet.pool())
    .await?;
    ensure!(
        actor == "ana" && reason == "stuck" && detail["pid"] == taken.1,
        "{detail}"
    );
    // THEN it cannot be released twice
    let gone = locks(&fleet, &["release", "--yes", &pid]).await?;
    gone.explains(1, "holds no lock", "tidectl locks list")
}
