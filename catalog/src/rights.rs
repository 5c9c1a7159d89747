//! Whether a user may do what the parts of Tide have to do.

use sqlx::PgConnection;

use crate::{CatalogError, error::Doing};

/// What an agent needs. Rights on single outboxes are left out: one that is missing concerns the
/// pipelines of that outbox only, and their state says so.
const AGENT: &[(&str, &str)] = &[
    ("schema_migrations", "SELECT"),
    ("outboxes", "SELECT"),
    ("pipelines", "SELECT"),
    ("holds", "SELECT"),
    ("placements", "SELECT"),
    ("advisory_locks", "SELECT"),
    ("operations", "SELECT"),
    ("operations", "UPDATE"),
    ("agents", "SELECT"),
    ("agents", "INSERT"),
    ("agents", "UPDATE"),
    ("relay_consumer_offsets", "SELECT"),
    ("relay_consumer_offsets", "INSERT"),
    ("relay_consumer_offsets", "UPDATE"),
    ("relay_layouts", "SELECT"),
    ("relay_layouts", "INSERT"),
    ("relay_layouts", "UPDATE"),
    ("relay_costs", "SELECT"),
    ("relay_unreachable", "SELECT"),
    ("relay_unreached", "SELECT"),
    ("inboxes", "SELECT"),
    ("leaders", "SELECT"),
    ("leaders", "INSERT"),
    ("leaders", "UPDATE"),
    ("relay_dlq", "SELECT"),
    ("relay_dlq", "INSERT"),
    ("relay_replays", "SELECT"),
    ("safe_to_stop", "SELECT"),
    ("safe_to_stop", "INSERT"),
    ("safe_to_stop", "UPDATE"),
    ("events", "INSERT"),
    ("epoch", "USAGE"),
];

/// What operators and control planes need on top of looking.
const OPERATOR: &[(&str, &str)] = &[
    ("outboxes", "INSERT"),
    ("outboxes", "DELETE"),
    ("inboxes", "INSERT"),
    ("inboxes", "DELETE"),
    ("pipelines", "INSERT"),
    ("pipelines", "UPDATE"),
    ("pipelines", "DELETE"),
    ("agents", "SELECT"),
    ("holds", "INSERT"),
    ("holds", "DELETE"),
    ("placements", "INSERT"),
    ("placements", "DELETE"),
    ("operations", "INSERT"),
    ("operations", "UPDATE"),
    ("rebalance_pauses", "SELECT"),
    ("rebalance_pauses", "INSERT"),
    ("rebalance_pauses", "UPDATE"),
    ("rebalance_pauses", "DELETE"),
    ("rebalance_plans", "SELECT"),
    ("rebalance_plans", "INSERT"),
    ("rebalance_plans", "UPDATE"),
    ("relay_costs", "SELECT"),
    ("relay_costs", "INSERT"),
    ("relay_costs", "UPDATE"),
    ("relay_unreached", "SELECT"),
    ("holds", "UPDATE"),
    ("safe_to_stop", "INSERT"),
    ("safe_to_stop", "UPDATE"),
    ("leaders", "INSERT"),
    ("events", "INSERT"),
    ("intent_generation", "USAGE"),
];

/// Fails with every right that an agent needs and its user lacks, so that an operator grants them
/// once and not one by one.
pub async fn verify_relay(connection: &mut PgConnection) -> Result<(), CatalogError> {
    let missing = missing_agent(connection).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let user = sqlx::query_scalar("-- rights_user\nSELECT current_user::text")
        .fetch_one(connection)
        .await
        .doing("looking at rights")?;
    Err(CatalogError::Rights { user, missing })
}

/// The rights that an agent needs and the current user lacks, as `GRANT` spells them.
pub async fn missing_agent(connection: &mut PgConnection) -> Result<Vec<String>, CatalogError> {
    let mut missing = missing(connection, AGENT).await?;
    let control: bool = sqlx::query_scalar(
        "-- rights_control\nSELECT has_function_privilege('pg_control_system()', 'EXECUTE')",
    )
    .fetch_one(connection)
    .await
    .doing("looking at rights")?;
    if !control {
        missing.push("EXECUTE ON FUNCTION pg_control_system()".to_owned());
    }
    Ok(missing)
}

/// The rights that operators and control planes need and the current user lacks.
pub async fn missing_operator(connection: &mut PgConnection) -> Result<Vec<String>, CatalogError> {
    missing(connection, OPERATOR).await
}

/// The rights that a publisher needs and the current user lacks: on every outbox there is.
pub async fn missing_publisher(connection: &mut PgConnection) -> Result<Vec<String>, CatalogError> {
    sqlx::query_scalar(
        "-- rights_publisher\n\
         SELECT 'USAGE ON SCHEMA tide' FROM pg_namespace n\n\
         WHERE n.nspname = 'tide' AND NOT has_schema_privilege(n.oid, 'USAGE')\n\
         UNION ALL\n\
         (SELECT format('INSERT (event_id, key, payload, headers) ON tide.%I', c.relname)\n\
         FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = 'tide'\n\
         WHERE c.relkind = 'r' AND starts_with(c.relname, 'outbox_')\n\
           AND NOT (SELECT bool_and(has_column_privilege(c.oid, w.name, 'INSERT'))\n\
                    FROM unnest('{event_id,key,payload,headers}'::text[]) AS w (name))\n\
         ORDER BY c.relname)",
    )
    .fetch_all(connection)
    .await
    .doing("looking at rights")
}

async fn missing(
    connection: &mut PgConnection,
    needed: &[(&str, &str)],
) -> Result<Vec<String>, CatalogError> {
    let (objects, privileges): (Vec<&str>, Vec<&str>) = needed.iter().copied().unzip();
    // By object id: a look-up by name would be refused where the schema itself may not be used.
    sqlx::query_scalar(
        "-- rights_missing\n\
         SELECT 'USAGE ON SCHEMA tide' FROM pg_namespace n\n\
         WHERE n.nspname = 'tide' AND NOT has_schema_privilege(n.oid, 'USAGE')\n\
         UNION ALL\n\
         SELECT n.privilege || ' ON tide.' || n.object\n\
         FROM unnest($1::text[], $2::text[]) AS n (object, privilege)\n\
         JOIN pg_class c ON c.relname = n.object\n\
         JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = 'tide'\n\
         WHERE NOT CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, n.privilege)\n\
                        -- Only some columns of an event are for users to fill in.\n\
                        WHEN n.object = 'events' THEN has_any_column_privilege(c.oid, n.privilege)\n\
                        ELSE has_table_privilege(c.oid, n.privilege) END",
    )
    .bind(&objects)
    .bind(&privileges)
    .fetch_all(connection)
    .await
    .doing("looking at rights")
}
