//! Only the newest epoch may write.

use anyhow::{Result, ensure};
use sqlx::{PgConnection, Row as _};
use tide_catalog::{
    dead_letters::{DeadLetter, dead_letter_write},
    messages::Message,
    offsets::{Advance, Claim, StateChange, offsets_advance, offsets_claim, offsets_set_state},
};
use tide_model::{Cursor, GroupName, Incarnation, PipelineState, UnitName};
use tide_tests::catalog::Catalog;
use time::OffsetDateTime;
use uuid::Uuid;

fn group() -> GroupName {
    "default".parse().expect("the name is valid")
}

fn pipeline() -> UnitName {
    "p".parse().expect("the name is valid")
}

async fn claim(connection: &mut PgConnection, agent: &str) -> Result<Claim> {
    let mut claimed = offsets_claim(
        connection,
        &group(),
        &agent.parse()?,
        Incarnation(Uuid::now_v7()),
        &[pipeline()],
    )
    .await?;
    Ok(claimed.remove(0))
}

/// Stores a position and says whether it was accepted.
async fn advance(connection: &mut PgConnection, claim: &Claim, high: i64) -> Result<bool> {
    let advance = Advance {
        pipeline: pipeline(),
        epoch: claim.epoch,
        cursor: Cursor::beginning().advanced(Some(high), "5:5:".parse()?),
    };
    let accepted = offsets_advance(connection, &group(), &[advance]).await?;
    Ok(accepted.contains(&pipeline()))
}

async fn position(connection: &mut PgConnection) -> Result<(i64, String)> {
    let row = sqlx::query("SELECT last_change_id, state FROM tide.relay_consumer_offsets")
        .fetch_one(connection)
        .await?;
    Ok((row.get(0), row.get(1)))
}

#[tokio::test]
async fn an_old_epoch_can_neither_advance_nor_write_dead_letters() -> Result<()> {
    // GIVEN a pipeline that was claimed by one agent and then by another
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let mut connection = catalog.connect().await?;
    let old = claim(&mut connection, "relay-1").await?;
    ensure!(advance(&mut connection, &old, 10).await?, "the owner may");
    let new = claim(&mut connection, "relay-2").await?;
    ensure!(new.epoch > old.epoch && new.cursor.high == 10, "{new:?}");
    // WHEN the first goes on as if nothing had happened
    let accepted = advance(&mut connection, &old, 20).await?;
    let message = Message {
        id: 11,
        event_id: Uuid::now_v7(),
        key: None,
        payload: "true".to_owned(),
        headers: "{}".to_owned(),
        created_at: OffsetDateTime::now_utc(),
    };
    let letter = DeadLetter {
        message: &message,
        error: "refused",
        attempts: 1,
    };
    let written =
        dead_letter_write(&mut connection, &group(), &pipeline(), old.epoch, &letter).await?;
    let change = StateChange {
        pipeline: pipeline(),
        epoch: old.epoch,
        state: PipelineState::Misconfigured,
        reason: Some("stale".to_owned()),
        retry_in: None,
    };
    offsets_set_state(&mut connection, &group(), &[change]).await?;
    // THEN nothing of it is accepted, and it is told so
    ensure!(!accepted && !written);
    ensure!(position(&mut connection).await? == (10, "starting".to_owned()));
    let letters: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.relay_dlq")
        .fetch_one(&mut connection)
        .await?;
    ensure!(letters == 0);
    ensure!(
        advance(&mut connection, &new, 20).await?,
        "the new owner may"
    );
    Ok(())
}

#[tokio::test]
async fn no_position_ever_goes_back() -> Result<()> {
    // GIVEN an owner that stored a position
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let mut connection = catalog.connect().await?;
    let owner = claim(&mut connection, "relay-1").await?;
    ensure!(advance(&mut connection, &owner, 10).await?);
    // WHEN it stores a lower one THEN that is refused
    ensure!(!advance(&mut connection, &owner, 9).await?);
    ensure!(position(&mut connection).await?.0 == 10);
    Ok(())
}

#[tokio::test]
async fn groups_do_not_fence_each_other() -> Result<()> {
    // GIVEN a pipeline that is claimed in two groups
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let mut connection = catalog.connect().await?;
    let ours = claim(&mut connection, "relay-1").await?;
    let theirs = offsets_claim(
        &mut connection,
        &"other".parse()?,
        &"relay-1".parse()?,
        Incarnation(Uuid::now_v7()),
        &[pipeline()],
    )
    .await?;
    ensure!(theirs[0].epoch != ours.epoch, "epochs are global");
    // WHEN the first stores a position THEN it is accepted, and the other's stays where it was
    ensure!(advance(&mut connection, &ours, 10).await?);
    let positions: Vec<(String, i64)> = sqlx::query_as(
        "SELECT relay_group_id, last_change_id FROM tide.relay_consumer_offsets ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await?;
    ensure!(positions == [("default".to_owned(), 10), ("other".to_owned(), 0)]);
    Ok(())
}

#[tokio::test]
async fn a_deleted_and_recreated_pipeline_cannot_meet_its_old_owner() -> Result<()> {
    // GIVEN an owner whose pipeline is deleted, created again and claimed by another
    let catalog = Catalog::with_pipeline("events", "p").await?;
    let mut connection = catalog.connect().await?;
    let old = claim(&mut connection, "relay-1").await?;
    sqlx::raw_sql(
        "SELECT tide.relay_delete('p'); SELECT tide.relay_set_outbox('p', 'events', '{\"sink_type\": \"null\"}')",
    )
    .execute(&mut connection)
    .await?;
    ensure!(
        !advance(&mut connection, &old, 10).await?,
        "there is no position"
    );
    claim(&mut connection, "relay-2").await?;
    // WHEN it goes on THEN it is fenced
    ensure!(!advance(&mut connection, &old, 10).await?);
    Ok(())
}
