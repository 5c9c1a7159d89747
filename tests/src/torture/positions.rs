//! Every write of a position, noted by a trigger in the order of the writes.

use anyhow::{Context as _, Result};
use sqlx::PgPool;
use tide_sandbox::history::{Position, PositionChange};
use time::OffsetDateTime;

/// Notes every claim and every position from now on.
///
/// The number is drawn while the row is locked, so it orders the writes of each pipeline.
pub(super) async fn watch(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql(
        "CREATE SCHEMA IF NOT EXISTS sandbox;
         CREATE TABLE sandbox.position_change (
             number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             at timestamptz NOT NULL DEFAULT clock_timestamp(),
             writer text NOT NULL DEFAULT split_part(current_setting('application_name'), '/', 2),
             pipeline text NOT NULL,
             epoch bigint,
             owner text,
             last_change_id bigint,
             horizon bigint
         );
         CREATE FUNCTION sandbox.note_position() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF TG_OP = 'DELETE' THEN
                 INSERT INTO sandbox.position_change (pipeline) VALUES (OLD.name);
             -- A row that nobody has claimed yet is laid out, not written.
             ELSIF NEW.owner IS NOT NULL
                 AND (TG_OP = 'INSERT'
                      OR (OLD.epoch, OLD.last_change_id, OLD.snapshot::text, OLD.pass_position)
                         IS DISTINCT FROM (NEW.epoch, NEW.last_change_id, NEW.snapshot::text, NEW.pass_position))
             THEN
                 INSERT INTO sandbox.position_change (pipeline, epoch, owner, last_change_id, horizon)
                 VALUES (NEW.name, NEW.epoch, NEW.owner, NEW.last_change_id,
                         pg_snapshot_xmax(NEW.snapshot)::text::bigint);
             END IF;
             RETURN NULL;
         END
         $$;
         CREATE TRIGGER note_position AFTER INSERT OR UPDATE OR DELETE ON tide.relay_consumer_offsets
             FOR EACH ROW EXECUTE FUNCTION sandbox.note_position();",
    )
    .execute(pool)
    .await
    .context("watching the positions")?;
    Ok(())
}

type Row = (
    OffsetDateTime,
    String,
    String,
    Option<i64>,
    Option<String>,
    Option<i64>,
    Option<i64>,
);

/// Everything that was noted.
pub(super) async fn read(pool: &PgPool) -> Result<Vec<PositionChange>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT at, writer, pipeline, epoch, owner, last_change_id, horizon
         FROM sandbox.position_change ORDER BY number",
    )
    .fetch_all(pool)
    .await
    .context("reading the positions")?;
    let changes = rows.into_iter().map(|row| {
        let (at, writer, pipeline, epoch, owner, last_change_id, horizon) = row;
        let after = epoch
            .zip(last_change_id)
            .map(|(epoch, last_change_id)| Position {
                epoch,
                owner: owner.unwrap_or_default(),
                last_change_id,
                horizon,
            });
        PositionChange {
            pipeline,
            at,
            writer,
            after,
        }
    });
    Ok(changes.collect())
}
