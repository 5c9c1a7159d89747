//! Whether a user may do what an agent has to do.

use sqlx::PgConnection;

use crate::{CatalogError, error::Doing};

/// Fails with every right that an agent needs and its user lacks, so that an operator grants them
/// once and not one by one. Rights on single outboxes are left out: one that is missing concerns
/// the pipelines of that outbox only, and their state says so.
pub async fn verify_relay(connection: &mut PgConnection) -> Result<(), CatalogError> {
    // By object id: a look-up by name would be refused where the schema itself may not be used.
    let missing: Vec<String> = sqlx::query_scalar(
        "-- rights_missing\n\
         WITH needed (object, privilege) AS (VALUES\n\
             ('schema_migrations', 'SELECT'), ('outboxes', 'SELECT'), ('pipelines', 'SELECT'),\n\
             ('holds', 'SELECT'), ('placements', 'SELECT'), ('advisory_locks', 'SELECT'),\n\
             ('operations', 'SELECT'), ('operations', 'UPDATE'),\n\
             ('agents', 'SELECT'), ('agents', 'INSERT'), ('agents', 'UPDATE'),\n\
             ('relay_consumer_offsets', 'SELECT'), ('relay_consumer_offsets', 'INSERT'),\n\
             ('relay_consumer_offsets', 'UPDATE'),\n\
             ('relay_layouts', 'SELECT'), ('relay_layouts', 'INSERT'), ('relay_layouts', 'UPDATE'),\n\
             ('inboxes', 'SELECT'), ('leaders', 'SELECT'), ('leaders', 'INSERT'), ('leaders', 'UPDATE'),\n\
             ('relay_dlq', 'SELECT'), ('relay_dlq', 'INSERT'), ('relay_replays', 'SELECT'), ('pauses', 'SELECT'), ('events', 'INSERT'), ('epoch', 'USAGE'))\n\
         SELECT 'USAGE ON SCHEMA tide' FROM pg_namespace n\n\
         WHERE n.nspname = 'tide' AND NOT has_schema_privilege(n.oid, 'USAGE')\n\
         UNION ALL\n\
         SELECT n.privilege || ' ON tide.' || n.object\n\
         FROM needed n\n\
         JOIN pg_class c ON c.relname = n.object\n\
         JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = 'tide'\n\
         WHERE NOT CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, n.privilege)\n\
                        -- Only some columns of an event are for agents to fill in.\n\
                        WHEN n.object = 'events' THEN has_any_column_privilege(c.oid, n.privilege)\n\
                        ELSE has_table_privilege(c.oid, n.privilege) END\n\
         UNION ALL\n\
         SELECT 'EXECUTE ON FUNCTION pg_control_system()'\n\
         WHERE NOT has_function_privilege('pg_control_system()', 'EXECUTE')",
    )
    .fetch_all(&mut *connection)
    .await
    .doing("looking at rights")?;
    if missing.is_empty() {
        return Ok(());
    }
    let user = sqlx::query_scalar("-- rights_user\nSELECT current_user::text")
        .fetch_one(connection)
        .await
        .doing("looking at rights")?;
    Err(CatalogError::Rights { user, missing })
}
