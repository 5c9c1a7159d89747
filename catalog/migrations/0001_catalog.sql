-- The catalog: what exists, who may own it, how far it got, and who decided what.
-- Every object lives in schema tide. Outboxes are separate tables, created by tide.outbox_create.

-- Roles are conveniences for least privilege. A migrating user without CREATEROLE still gets a
-- working catalog; the grants at the end then apply to whichever of the roles exist.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tide_publisher', 'tide_relay', 'tide_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'role % was not created: the migrating user may not create roles', role_name;
                WHEN duplicate_object OR unique_violation THEN
                    NULL; -- another database of this cluster migrated at the same moment
            END;
        END IF;
    END LOOP;
END
$$;

CREATE SEQUENCE tide.epoch;
COMMENT ON SEQUENCE tide.epoch IS
    'Fencing tokens. Global and never reused, so a deleted and recreated pipeline cannot meet an old owner''s epoch.';

CREATE SEQUENCE tide.intent_generation;
COMMENT ON SEQUENCE tide.intent_generation IS 'Orders holds and placements; agents acknowledge the newest they obeyed.';

CREATE SEQUENCE tide.pipeline_revision;
COMMENT ON SEQUENCE tide.pipeline_revision IS
    'Never reused, so that a pipeline that is deleted and created again is never taken for the old one.';

CREATE TABLE tide.outboxes (
    name       text PRIMARY KEY
               CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,47}$'),
    relation   regclass NOT NULL,
    sequence   regclass NOT NULL,
    retention  interval NOT NULL CHECK (retention >= interval '0'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tide.outboxes IS 'One row an outbox; its messages live in a table of their own, named by relation.';

CREATE TABLE tide.sink_types (
    name        text PRIMARY KEY,
    description text NOT NULL
);
COMMENT ON TABLE tide.sink_types IS 'Sinks that agents of this catalog version know; checked when a pipeline is written.';
INSERT INTO tide.sink_types (name, description) VALUES
    ('stdout',  'JSON lines on the agent''s standard output'),
    ('file',    'JSON lines appended to a file on the agent''s node'),
    ('webhook', 'HTTP POST, one a message or one a batch'),
    ('kafka',   'Apache Kafka protocol, idempotent producer'),
    ('null',    'counts and discards; for measuring');

CREATE TABLE tide.pipelines (
    name       text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}$'),
    outbox     text NOT NULL REFERENCES tide.outboxes (name),
    config     jsonb NOT NULL CHECK (jsonb_typeof(config) = 'object'),
    enabled    boolean NOT NULL DEFAULT true,
    revision   bigint NOT NULL DEFAULT nextval('tide.pipeline_revision'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pipelines_outbox ON tide.pipelines (outbox);
COMMENT ON TABLE tide.pipelines IS 'From which outbox to which sink. revision rises with every change, so agents see what to restart.';

CREATE TABLE tide.relay_consumer_offsets (
    relay_group_id    text NOT NULL,
    name              text NOT NULL REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    last_change_id    bigint NOT NULL DEFAULT 0,
    snapshot          pg_snapshot,
    pass_snapshot     pg_snapshot,
    pass_position     bigint,
    floor_id          bigint NOT NULL DEFAULT 0,
    system_identifier bigint NOT NULL,
    epoch             bigint NOT NULL,
    owner             text,
    owner_incarnation uuid,
    state             text NOT NULL DEFAULT 'starting'
                      CHECK (state IN ('starting', 'running', 'retrying', 'paused', 'misconfigured', 'stopped')),
    state_reason      text,
    state_since       timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relay_group_id, name),
    CHECK ((pass_snapshot IS NULL) = (pass_position IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE tide.relay_consumer_offsets IS
    'The snapshot cursor of each pipeline and group: delivered is every message visible in snapshot with id <= last_change_id, '
    'and in the middle of a long pass also those visible in pass_snapshot with id <= pass_position. Written only under epoch.';
COMMENT ON COLUMN tide.relay_consumer_offsets.floor_id IS
    'Messages at or below were settled before a restore into this cluster; their transaction ids belong to another cluster.';

CREATE TABLE tide.relay_dlq (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relay_group_id text NOT NULL,
    pipeline       text NOT NULL,
    outbox         text NOT NULL,
    message_id     bigint NOT NULL,
    event_id       uuid NOT NULL,
    key            text,
    headers        jsonb NOT NULL,
    payload        jsonb NOT NULL,
    error          text NOT NULL,
    attempts       integer NOT NULL,
    epoch          bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (relay_group_id, pipeline, message_id)
);
COMMENT ON TABLE tide.relay_dlq IS 'Messages that a sink refused for good, whole, with the reason.';

CREATE TABLE tide.agents (
    relay_group_id          text NOT NULL,
    name                    text NOT NULL,
    incarnation             uuid NOT NULL,
    backend_pid             integer NOT NULL,
    version                 text NOT NULL,
    hostname                text NOT NULL,
    process_id              integer NOT NULL,
    metrics_addr            text,
    weight                  integer NOT NULL CHECK (weight >= 0),
    owned                   integer NOT NULL DEFAULT 0,
    acknowledged_generation bigint NOT NULL DEFAULT 0,
    started_at              timestamptz NOT NULL DEFAULT now(),
    last_seen_at            timestamptz NOT NULL DEFAULT now(),
    stopped_at              timestamptz,
    PRIMARY KEY (relay_group_id, name)
) WITH (fillfactor = 50);
COMMENT ON TABLE tide.agents IS
    'What each agent last said about itself. Whether it is alive is not here: its name lock in pg_locks says so.';

CREATE TABLE tide.operations (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    relay_group_id text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('drain', 'undrain', 'move', 'rebalance')),
    target         text NOT NULL,
    request        jsonb NOT NULL DEFAULT '{}',
    actor          text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    state          text NOT NULL DEFAULT 'running'
                   CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled')),
    outcome        text,
    generation     bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    deadline_at    timestamptz,
    finished_at    timestamptz,
    CHECK ((state = 'running') = (finished_at IS NULL))
);
CREATE INDEX operations_recent ON tide.operations (relay_group_id, created_at DESC);
CREATE UNIQUE INDEX operations_one_drain ON tide.operations (relay_group_id, target)
    WHERE kind = 'drain' AND state = 'running';
COMMENT ON TABLE tide.operations IS 'What operators asked for and what became of it. Survives every process.';

CREATE TABLE tide.holds (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    relay_group_id text NOT NULL,
    agent          text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('drain', 'cordon')),
    actor          text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    operation_id   uuid REFERENCES tide.operations (id),
    generation     bigint NOT NULL DEFAULT nextval('tide.intent_generation'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz
);
CREATE INDEX holds_agent ON tide.holds (relay_group_id, agent);
COMMENT ON TABLE tide.holds IS
    'Named reasons why an agent takes no work: cordon keeps what it has, drain gives everything away. The strictest wins.';

CREATE TABLE tide.placements (
    relay_group_id text NOT NULL,
    pipeline       text NOT NULL REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    agent          text NOT NULL,
    actor          text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    generation     bigint NOT NULL DEFAULT nextval('tide.intent_generation'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relay_group_id, pipeline)
);
COMMENT ON TABLE tide.placements IS
    'Where operators want a pipeline. A preference: it delays other agents and never forbids them.';

CREATE TABLE tide.events (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    relay_group_id text NOT NULL,
    actor          text NOT NULL,
    kind           text NOT NULL,
    subject        text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    detail         jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX events_at ON tide.events (relay_group_id, at);
COMMENT ON TABLE tide.events IS 'Audit: who did what to what, when and why. Appended, never changed.';

-- ---------------------------------------------------------------------------------------------
-- Outboxes
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.outbox_create(name text, retention interval DEFAULT '24 hours') RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    relation text := 'outbox_' || outbox_create.name;
BEGIN
    IF outbox_create.name IS NULL OR outbox_create.name !~ '^[A-Za-z_][A-Za-z0-9_.-]{0,47}$' THEN
        RAISE EXCEPTION 'invalid outbox name %', coalesce(quote_literal(outbox_create.name), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 48 letters, digits, underscores, dots or dashes, starting with a letter or underscore.';
    END IF;
    IF outbox_create.retention IS NULL OR outbox_create.retention < interval '0' THEN
        RAISE EXCEPTION 'invalid retention % for outbox %', coalesce(quote_literal(outbox_create.retention::text), 'NULL'), outbox_create.name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an interval of zero or more, such as ''24 hours''.';
    END IF;
    IF EXISTS (SELECT FROM tide.outboxes o WHERE o.name = outbox_create.name) THEN
        RAISE EXCEPTION 'outbox % already exists', outbox_create.name
            USING ERRCODE = 'duplicate_object', HINT = 'List outboxes with: SELECT * FROM tide.outbox_status();';
    END IF;

    EXECUTE format(
        'CREATE TABLE tide.%I (
            id         bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
            xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
            event_id   uuid NOT NULL DEFAULT gen_random_uuid(),
            key        text,
            payload    jsonb NOT NULL,
            headers    jsonb NOT NULL DEFAULT ''{}'' CHECK (jsonb_typeof(headers) = ''object''),
            created_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )', relation);
    EXECUTE format('CREATE INDEX ON tide.%I (xid, id)', relation);
    -- Any administrator may drop what another created.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') AND pg_has_role(current_user, 'tide_admin', 'MEMBER') THEN
        EXECUTE format('ALTER TABLE tide.%I OWNER TO tide_admin', relation);
    END IF;
    -- Inserts alone must keep the visibility map fresh: the late half of a read is an index-only scan.
    EXECUTE format('ALTER TABLE tide.%I SET (autovacuum_vacuum_insert_scale_factor = 0.05)', relation);
    EXECUTE format('COMMENT ON TABLE tide.%I IS %L', relation,
        'Outbox ' || outbox_create.name || ': append only. Write through tide.outbox_publish.');

    INSERT INTO tide.outboxes (name, relation, sequence, retention)
    VALUES (outbox_create.name,
            format('tide.%I', relation)::regclass,
            pg_get_serial_sequence(format('tide.%I', relation), 'id')::regclass,
            outbox_create.retention);
    PERFORM tide.outbox_grant(outbox_create.name);
END
$$;
COMMENT ON FUNCTION tide.outbox_create(text, interval) IS 'Creates an outbox; retention is how long delivered messages stay at least.';

CREATE FUNCTION tide.outbox_grant(name text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    outbox tide.outboxes;
BEGIN
    SELECT * INTO STRICT outbox FROM tide.outboxes o WHERE o.name = outbox_grant.name;
    -- Publishers may set what is theirs to say: never id, xid or created_at, which the cursor relies on.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_publisher') THEN
        EXECUTE format('GRANT INSERT (event_id, key, payload, headers) ON %s TO tide_publisher', outbox.relation);
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        EXECUTE format('GRANT SELECT, DELETE ON %s TO tide_relay', outbox.relation);
        EXECUTE format('GRANT SELECT ON SEQUENCE %s TO tide_relay', outbox.sequence);
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        EXECUTE format('GRANT SELECT, DELETE ON %s TO tide_admin', outbox.relation);
        EXECUTE format('GRANT INSERT (event_id, key, payload, headers) ON %s TO tide_admin', outbox.relation);
        EXECUTE format('GRANT SELECT ON SEQUENCE %s TO tide_admin', outbox.sequence);
    END IF;
END
$$;
COMMENT ON FUNCTION tide.outbox_grant(text) IS 'Gives the tide roles their rights on one outbox; for outboxes older than the roles.';

CREATE FUNCTION tide.outbox_drop(name text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    outbox    tide.outboxes;
    pipelines text;
BEGIN
    SELECT * INTO outbox FROM tide.outboxes o WHERE o.name = outbox_drop.name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox % does not exist', quote_literal(outbox_drop.name)
            USING ERRCODE = 'undefined_object', HINT = 'List outboxes with: SELECT * FROM tide.outbox_status();';
    END IF;
    SELECT string_agg(p.name, ', ' ORDER BY p.name) INTO pipelines FROM tide.pipelines p WHERE p.outbox = outbox_drop.name;
    IF pipelines IS NOT NULL THEN
        RAISE EXCEPTION 'outbox % still feeds: %', outbox_drop.name, pipelines
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = 'Delete these pipelines first with: SELECT tide.relay_delete(''NAME'');';
    END IF;
    DELETE FROM tide.outboxes o WHERE o.name = outbox_drop.name;
    EXECUTE format('DROP TABLE %s', outbox.relation);
END
$$;
COMMENT ON FUNCTION tide.outbox_drop(text) IS 'Drops an outbox and its messages; refused while a pipeline reads it.';

CREATE FUNCTION tide.outbox_publish(
    outbox   text,
    payload  jsonb,
    headers  jsonb DEFAULT '{}',
    key      text DEFAULT NULL,
    event_id uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    published uuid := coalesce(outbox_publish.event_id, gen_random_uuid());
BEGIN
    IF outbox_publish.payload IS NULL THEN
        RAISE EXCEPTION 'payload is NULL' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Publish ''null''::jsonb for an empty payload.';
    END IF;
    IF outbox_publish.headers IS NOT NULL AND jsonb_typeof(outbox_publish.headers) <> 'object' THEN
        RAISE EXCEPTION 'headers is a JSON %, not an object', jsonb_typeof(outbox_publish.headers)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give headers as an object, such as ''{"source": "shop"}''.';
    END IF;
    -- Looked up rather than caught: an exception block would open a subtransaction for every message.
    IF outbox IS NULL OR to_regclass(format('tide.%I', 'outbox_' || outbox)) IS NULL THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(outbox), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = format('Create it with: SELECT tide.outbox_create(%L);', outbox);
    END IF;
    EXECUTE format('INSERT INTO tide.%I (event_id, key, payload, headers) VALUES ($1, $2, $3, $4)', 'outbox_' || outbox)
        USING published, outbox_publish.key, outbox_publish.payload, coalesce(outbox_publish.headers, '{}');
    RETURN published;
END
$$;
COMMENT ON FUNCTION tide.outbox_publish(text, jsonb, jsonb, text, uuid) IS
    'Writes one message in the caller''s transaction and returns its event id. Takes no lock and notifies nobody.';

CREATE FUNCTION tide.outbox_status(name text DEFAULT NULL)
RETURNS TABLE (
    outbox text, pipelines bigint, messages_estimate bigint, last_id bigint, size_bytes bigint,
    retention interval, slowest_pipeline text, slowest_position bigint
)
LANGUAGE sql STABLE AS $$
    SELECT o.name,
           (SELECT count(*) FROM tide.pipelines p WHERE p.outbox = o.name),
           greatest(c.reltuples::bigint, 0),
           coalesce(pg_sequence_last_value(o.sequence), 0),
           pg_total_relation_size(o.relation),
           o.retention,
           slowest.name,
           slowest.last_change_id
    FROM tide.outboxes o
    JOIN pg_class c ON c.oid = o.relation
    LEFT JOIN LATERAL (
        SELECT p.name, coalesce(f.last_change_id, 0) AS last_change_id
        FROM tide.pipelines p
        LEFT JOIN tide.relay_consumer_offsets f ON f.name = p.name
        WHERE p.outbox = o.name
        ORDER BY coalesce(f.last_change_id, 0), p.name
        LIMIT 1
    ) slowest ON true
    WHERE outbox_status.name IS NULL OR o.name = outbox_status.name
    ORDER BY o.name
$$;
COMMENT ON FUNCTION tide.outbox_status(text) IS 'One row an outbox: size, position, and the pipeline that is furthest behind.';

-- ---------------------------------------------------------------------------------------------
-- Pipelines
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.relay_set_outbox(name text, outbox text, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    sink_type text;
    existing  tide.pipelines;
BEGIN
    IF relay_set_outbox.name IS NULL OR relay_set_outbox.name !~ '^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}$' THEN
        RAISE EXCEPTION 'invalid pipeline name %', coalesce(quote_literal(relay_set_outbox.name), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 128 letters, digits and _ . : / - , starting with a letter, digit or underscore.';
    END IF;
    IF NOT EXISTS (SELECT FROM tide.outboxes o WHERE o.name = relay_set_outbox.outbox) THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(relay_set_outbox.outbox), 'NULL')
            USING ERRCODE = 'undefined_object',
                  HINT = format('Create it with: SELECT tide.outbox_create(%L);', relay_set_outbox.outbox);
    END IF;
    IF relay_set_outbox.config IS NULL OR jsonb_typeof(relay_set_outbox.config) <> 'object' THEN
        RAISE EXCEPTION 'config of pipeline % is not a JSON object', relay_set_outbox.name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example: ''{"sink_type": "stdout"}''::jsonb';
    END IF;
    sink_type := relay_set_outbox.config ->> 'sink_type';
    IF sink_type IS NULL OR NOT EXISTS (SELECT FROM tide.sink_types s WHERE s.name = sink_type) THEN
        RAISE EXCEPTION 'pipeline %: % sink_type %', relay_set_outbox.name,
            CASE WHEN sink_type IS NULL THEN 'missing' ELSE 'unknown' END, coalesce(quote_literal(sink_type), '')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Known sink types: ' || (SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM tide.sink_types s) || '.';
    END IF;

    SELECT * INTO existing FROM tide.pipelines p WHERE p.name = relay_set_outbox.name FOR UPDATE;
    IF FOUND AND existing.outbox <> relay_set_outbox.outbox THEN
        RAISE EXCEPTION 'pipeline % reads outbox %, and its position belongs to that outbox', existing.name, existing.outbox
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Use another name, or first: SELECT tide.relay_delete(%L);', existing.name);
    END IF;
    INSERT INTO tide.pipelines AS p (name, outbox, config)
    VALUES (relay_set_outbox.name, relay_set_outbox.outbox, relay_set_outbox.config)
    ON CONFLICT ON CONSTRAINT pipelines_pkey DO UPDATE
        SET config = excluded.config, revision = nextval('tide.pipeline_revision'), updated_at = now()
        WHERE p.config IS DISTINCT FROM excluded.config;
    PERFORM tide.pipeline_changed(relay_set_outbox.name, 'pipeline.set');
END
$$;
COMMENT ON FUNCTION tide.relay_set_outbox(text, text, jsonb) IS
    'Creates a pipeline or changes its config. Running agents take the change up at once.';

CREATE FUNCTION tide.pipeline_changed(name text, kind text) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO tide.events (relay_group_id, actor, kind, subject)
    VALUES ('', current_user, pipeline_changed.kind, pipeline_changed.name);
    SELECT pg_notify('tide_relay_config', pipeline_changed.name);
$$;
COMMENT ON FUNCTION tide.pipeline_changed(text, text) IS 'Audits a change to a pipeline and wakes the agents. Pipelines belong to no group: the group is empty.';

CREATE FUNCTION tide.pipeline_edited() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.config IS DISTINCT FROM OLD.config AND NEW.revision = OLD.revision THEN
        NEW.revision := OLD.revision + 1;
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION tide.pipeline_edited() IS 'A row that was edited by hand is taken up like one that was set by the functions.';
CREATE TRIGGER pipeline_edited BEFORE UPDATE ON tide.pipelines
    FOR EACH ROW EXECUTE FUNCTION tide.pipeline_edited();

CREATE FUNCTION tide.pipeline_notify() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tide_relay_config', coalesce(NEW.name, OLD.name));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION tide.pipeline_notify() IS 'Wakes the agents whoever changed the row, and however.';
CREATE TRIGGER pipeline_notify AFTER INSERT OR UPDATE OR DELETE ON tide.pipelines
    FOR EACH ROW EXECUTE FUNCTION tide.pipeline_notify();

CREATE FUNCTION tide.pipeline_switch(name text, enabled boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tide.pipelines p
    SET enabled = pipeline_switch.enabled, updated_at = now()
    WHERE p.name = pipeline_switch.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline % does not exist', coalesce(quote_literal(pipeline_switch.name), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'List pipelines with: SELECT * FROM tide.relay_list();';
    END IF;
    PERFORM tide.pipeline_changed(pipeline_switch.name,
        CASE WHEN pipeline_switch.enabled THEN 'pipeline.enabled' ELSE 'pipeline.disabled' END);
END
$$;

CREATE FUNCTION tide.relay_enable(name text) RETURNS void
LANGUAGE sql AS $$ SELECT tide.pipeline_switch(relay_enable.name, true) $$;

CREATE FUNCTION tide.relay_disable(name text) RETURNS void
LANGUAGE sql AS $$ SELECT tide.pipeline_switch(relay_disable.name, false) $$;

CREATE FUNCTION tide.relay_delete(name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM tide.pipelines p WHERE p.name = relay_delete.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline % does not exist', coalesce(quote_literal(relay_delete.name), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'List pipelines with: SELECT * FROM tide.relay_list();';
    END IF;
    PERFORM tide.pipeline_changed(relay_delete.name, 'pipeline.deleted');
END
$$;
COMMENT ON FUNCTION tide.relay_delete(text) IS 'Deletes a pipeline and its position; the outbox keeps its messages.';

CREATE FUNCTION tide.relay_list()
RETURNS TABLE (name text, outbox text, sink_type text, enabled boolean, revision bigint, config jsonb)
LANGUAGE sql STABLE AS $$
    SELECT p.name, p.outbox, p.config ->> 'sink_type', p.enabled, p.revision, p.config
    FROM tide.pipelines p ORDER BY p.name
$$;

-- ---------------------------------------------------------------------------------------------
-- Ownership
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.agent_lock_class(relay_group text) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtext('tide.agent:' || relay_group) $$;
COMMENT ON FUNCTION tide.agent_lock_class(text) IS
    'First key of the advisory locks that agents hold on their own names; pipelines use hashtext(group).';

CREATE VIEW tide.advisory_locks AS
    SELECT l.pid,
           l.classid::bigint AS class,
           l.objid::bigint AS object
    FROM pg_locks l
    WHERE l.locktype = 'advisory'
      AND l.objsubid = 2
      AND l.granted
      AND l.mode = 'ExclusiveLock'
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
COMMENT ON VIEW tide.advisory_locks IS 'Granted exclusive two-key advisory locks of this database; keys as unsigned 32-bit numbers.';

CREATE FUNCTION tide.lock_key(name text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtext(name)::bigint & 4294967295 $$;
COMMENT ON FUNCTION tide.lock_key(text) IS 'hashtext as pg_locks shows it: unsigned.';

CREATE FUNCTION tide.relay_claim(relay_group text, agent text, incarnation uuid, pipelines text[])
RETURNS TABLE (
    pipeline text, claimed_epoch bigint, high bigint, seen text, pass_target text, pass_at bigint,
    settled_floor bigint, same_system boolean
)
LANGUAGE sql AS $$
    WITH claimed AS (
        INSERT INTO tide.relay_consumer_offsets AS o
            (relay_group_id, name, last_change_id, snapshot, system_identifier, epoch, owner, owner_incarnation)
        SELECT relay_claim.relay_group,
               p.name,
               CASE WHEN p.config ->> 'start' = 'latest' THEN coalesce(pg_sequence_last_value(b.sequence), 0) ELSE 0 END,
               CASE WHEN p.config ->> 'start' = 'latest' THEN pg_current_snapshot() END,
               (SELECT c.system_identifier FROM pg_control_system() c),
               nextval('tide.epoch'),
               relay_claim.agent,
               relay_claim.incarnation
        FROM tide.pipelines p
        JOIN tide.outboxes b ON b.name = p.outbox
        WHERE p.name = ANY (relay_claim.pipelines)
        ON CONFLICT (relay_group_id, name) DO UPDATE
            SET epoch = excluded.epoch, owner = excluded.owner, owner_incarnation = excluded.owner_incarnation,
                state = 'starting', state_reason = NULL, state_since = now()
        RETURNING o.*
    ), audited AS (
        INSERT INTO tide.events (relay_group_id, actor, kind, subject, detail)
        SELECT c.relay_group_id, c.owner, 'ownership.gained', c.name,
               jsonb_build_object('epoch', c.epoch, 'last_change_id', c.last_change_id)
        FROM claimed c
    )
    SELECT c.name, c.epoch, c.last_change_id, c.snapshot::text, c.pass_snapshot::text, c.pass_position, c.floor_id,
           c.system_identifier = (SELECT s.system_identifier FROM pg_control_system() s)
    FROM claimed c
$$;
COMMENT ON FUNCTION tide.relay_claim(text, text, uuid, text[]) IS
    'Run by an agent that has just locked these pipelines: raises their epochs and returns where to go on.';

CREATE FUNCTION tide.agent_gone(relay_group text, agent text, slice_ms integer) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- Shorter than deadlock_timeout and caught here: the wait leaves no line in the server's log,
    -- and ends often enough not to hold the vacuum horizon.
    PERFORM set_config('lock_timeout', slice_ms::text, true);
    PERFORM pg_advisory_lock_shared(tide.agent_lock_class(relay_group), hashtext(agent));
    PERFORM pg_advisory_unlock_shared(tide.agent_lock_class(relay_group), hashtext(agent));
    RETURN true;
EXCEPTION
    WHEN lock_not_available THEN
        RETURN false;
END
$$;
COMMENT ON FUNCTION tide.agent_gone(text, text, integer) IS
    'Waits up to slice_ms for an agent to lose its name lock; true as soon as it has.';

CREATE FUNCTION tide.relay_ownership(relay_group text DEFAULT 'default')
RETURNS TABLE (
    name text, outbox text, sink_type text, enabled boolean, revision bigint, weight integer, lock_key bigint,
    owner text, owner_pid integer, epoch bigint, last_change_id bigint,
    state text, state_reason text, state_since timestamptz, updated_at timestamptz, relation regclass, head bigint
)
LANGUAGE sql STABLE AS $$
    SELECT p.name, p.outbox, p.config ->> 'sink_type', p.enabled, p.revision,
           CASE WHEN jsonb_typeof(p.config -> 'weight') = 'number'
                THEN least(greatest(round((p.config ->> 'weight')::numeric), 1), 1000)::integer ELSE 1 END,
           tide.lock_key(p.name), a.name, l.pid, o.epoch, coalesce(o.last_change_id, 0),
           o.state, o.state_reason, o.state_since, o.updated_at, b.relation,
           coalesce(pg_sequence_last_value(b.sequence), 0)
    FROM tide.pipelines p
    JOIN tide.outboxes b ON b.name = p.outbox
    LEFT JOIN tide.relay_consumer_offsets o ON o.relay_group_id = relay_ownership.relay_group AND o.name = p.name
    LEFT JOIN tide.advisory_locks l
           ON l.class = tide.lock_key(relay_ownership.relay_group) AND l.object = tide.lock_key(p.name)
    LEFT JOIN tide.advisory_locks n
           ON n.pid = l.pid AND n.class = tide.agent_lock_class(relay_ownership.relay_group)::bigint & 4294967295
    LEFT JOIN tide.agents a
           ON a.relay_group_id = relay_ownership.relay_group AND tide.lock_key(a.name) = n.object
    ORDER BY p.name
$$;
COMMENT ON FUNCTION tide.relay_ownership(text) IS
    'One row a pipeline: who holds its lock right now, by pg_locks, and what its newest owner wrote. Touches no message.';

CREATE FUNCTION tide.relay_status(relay_group text DEFAULT 'default')
RETURNS TABLE (
    name text, outbox text, sink_type text, enabled boolean, revision bigint, weight integer, lock_key bigint,
    owner text, owner_pid integer, epoch bigint, last_change_id bigint, lag_rows bigint, lag_seconds double precision,
    state text, state_reason text, state_since timestamptz, updated_at timestamptz
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    pipeline record;
    oldest   timestamptz;
BEGIN
    FOR pipeline IN SELECT * FROM tide.relay_ownership(relay_status.relay_group) LOOP
        -- The sequence also counts ids of rolled-back transactions, so ask the table whether anything waits.
        EXECUTE format('SELECT created_at FROM %s WHERE id > $1 ORDER BY id LIMIT 1', pipeline.relation)
            INTO oldest USING pipeline.last_change_id;
        name := pipeline.name;
        outbox := pipeline.outbox;
        sink_type := pipeline.sink_type;
        enabled := pipeline.enabled;
        revision := pipeline.revision;
        weight := pipeline.weight;
        lock_key := pipeline.lock_key;
        owner := pipeline.owner;
        owner_pid := pipeline.owner_pid;
        epoch := pipeline.epoch;
        last_change_id := pipeline.last_change_id;
        lag_rows := CASE WHEN oldest IS NULL THEN 0 ELSE pipeline.head - pipeline.last_change_id END;
        lag_seconds := CASE WHEN oldest IS NULL THEN 0
                            ELSE greatest(extract(epoch FROM clock_timestamp() - oldest), 0) END;
        state := pipeline.state;
        state_reason := pipeline.state_reason;
        state_since := pipeline.state_since;
        updated_at := pipeline.updated_at;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tide.relay_status(text) IS
    'One row a pipeline: who holds its lock right now, its epoch, position, lag and state. Ownership comes from pg_locks.';

-- ---------------------------------------------------------------------------------------------
-- Intent: holds, placements, operations. Written here, obeyed by agents, no process in between.
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.intent_changed(relay_group text, actor text, kind text, subject text, reason text, detail jsonb)
RETURNS void
LANGUAGE sql AS $$
    INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
    VALUES (intent_changed.relay_group, intent_changed.actor, intent_changed.kind, intent_changed.subject,
            coalesce(intent_changed.reason, ''), intent_changed.detail);
    SELECT pg_notify('tide_intent', intent_changed.relay_group);
$$;

CREATE FUNCTION tide.drain_begin(
    relay_group text, agent text, actor text, reason text DEFAULT '', deadline interval DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    running uuid;
    started uuid := gen_random_uuid();
    intent  bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = relay_group AND a.name = agent) THEN
        RAISE EXCEPTION 'agent % is not known in group %', quote_literal(agent), quote_literal(relay_group)
            USING ERRCODE = 'undefined_object', HINT = 'List agents with: tidectl agent list';
    END IF;
    -- Serialises drains of one agent without a lock that anything else waits for.
    PERFORM pg_advisory_xact_lock(hashtext('tide.drain:' || relay_group), hashtext(agent));
    SELECT o.id INTO running FROM tide.operations o
    WHERE o.relay_group_id = relay_group AND o.kind = 'drain' AND o.target = agent AND o.state = 'running';
    IF FOUND THEN
        RETURN running;
    END IF;
    intent := nextval('tide.intent_generation');
    INSERT INTO tide.operations (id, relay_group_id, kind, target, actor, reason, generation, deadline_at)
    VALUES (started, relay_group, 'drain', agent, drain_begin.actor, coalesce(drain_begin.reason, ''), intent,
            now() + drain_begin.deadline);
    -- Draining what is drained verifies it again; one drain hold an agent is enough.
    DELETE FROM tide.holds h WHERE h.relay_group_id = relay_group AND h.agent = drain_begin.agent AND h.kind = 'drain';
    INSERT INTO tide.holds (relay_group_id, agent, kind, actor, reason, operation_id, generation)
    VALUES (relay_group, drain_begin.agent, 'drain', drain_begin.actor, coalesce(drain_begin.reason, ''), started, intent);
    PERFORM tide.intent_changed(relay_group, drain_begin.actor, 'drain.started', drain_begin.agent, drain_begin.reason,
        jsonb_build_object('operation', started));
    RETURN started;
END
$$;
COMMENT ON FUNCTION tide.drain_begin(text, text, text, text, interval) IS
    'Holds an agent and asks it to give everything away. Idempotent: a running drain is returned as it is.';

CREATE FUNCTION tide.undrain(relay_group text, agent text, actor text, reason text DEFAULT '') RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    finished uuid := gen_random_uuid();
    removed  integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tide.drain:' || relay_group), hashtext(agent));
    DELETE FROM tide.holds h WHERE h.relay_group_id = relay_group AND h.agent = undrain.agent AND h.kind = 'drain';
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF removed = 0 THEN
        IF NOT EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = relay_group AND a.name = undrain.agent) THEN
            RAISE EXCEPTION 'agent % is not known in group %', quote_literal(agent), quote_literal(relay_group)
                USING ERRCODE = 'undefined_object', HINT = 'List agents with: tidectl agent list';
        END IF;
        RAISE EXCEPTION 'agent % is not drained', agent
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'See its holds with: tidectl agent show ' || agent;
    END IF;
    UPDATE tide.operations o
    SET state = 'cancelled', outcome = 'undrained by ' || undrain.actor, finished_at = now()
    WHERE o.relay_group_id = relay_group AND o.kind = 'drain' AND o.target = undrain.agent AND o.state = 'running';
    INSERT INTO tide.operations (id, relay_group_id, kind, target, actor, reason, state, outcome, generation, finished_at)
    VALUES (finished, relay_group, 'undrain', undrain.agent, undrain.actor, coalesce(undrain.reason, ''), 'succeeded',
            'takes work again', nextval('tide.intent_generation'), now());
    PERFORM tide.intent_changed(relay_group, undrain.actor, 'drain.ended', undrain.agent, undrain.reason,
        jsonb_build_object('operation', finished));
    RETURN finished;
END
$$;

CREATE FUNCTION tide.move_begin(
    relay_group text, moves jsonb, actor text, reason text DEFAULT '', kind text DEFAULT 'move',
    deadline interval DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    started uuid := gen_random_uuid();
    intent  bigint := nextval('tide.intent_generation');
    wanted  record;
BEGIN
    FOR wanted IN SELECT m.pipeline, m."to" FROM jsonb_to_recordset(moves) AS m (pipeline text, "to" text) LOOP
        IF NOT EXISTS (SELECT FROM tide.pipelines p WHERE p.name = wanted.pipeline) THEN
            RAISE EXCEPTION 'pipeline % does not exist', coalesce(quote_literal(wanted.pipeline), 'NULL')
                USING ERRCODE = 'undefined_object', HINT = 'List pipelines with: tidectl pipeline list';
        END IF;
        IF NOT EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = relay_group AND a.name = wanted."to") THEN
            RAISE EXCEPTION 'agent % is not known in group %', coalesce(quote_literal(wanted."to"), 'NULL'), quote_literal(relay_group)
                USING ERRCODE = 'undefined_object', HINT = 'List agents with: tidectl agent list';
        END IF;
    END LOOP;
    INSERT INTO tide.operations (id, relay_group_id, kind, target, request, actor, reason, generation, deadline_at)
    VALUES (started, relay_group, move_begin.kind,
            CASE WHEN move_begin.kind = 'move' THEN moves -> 0 ->> 'pipeline' ELSE 'fleet' END,
            jsonb_build_object('moves', moves), move_begin.actor, coalesce(move_begin.reason, ''), intent,
            now() + move_begin.deadline);
    IF move_begin.kind = 'rebalance' THEN
        -- A rebalance ends earlier preferences: what stays put is free to move again later.
        DELETE FROM tide.placements p WHERE p.relay_group_id = relay_group;
    END IF;
    INSERT INTO tide.placements AS p (relay_group_id, pipeline, agent, actor, reason, generation)
    SELECT relay_group, m.pipeline, m."to", move_begin.actor, coalesce(move_begin.reason, ''), intent
    FROM jsonb_to_recordset(moves) AS m (pipeline text, "to" text)
    ON CONFLICT ON CONSTRAINT placements_pkey DO UPDATE
        SET agent = excluded.agent, actor = excluded.actor, reason = excluded.reason,
            generation = excluded.generation, created_at = now();
    PERFORM tide.intent_changed(relay_group, move_begin.actor, move_begin.kind || '.started',
        CASE WHEN move_begin.kind = 'move' THEN moves -> 0 ->> 'pipeline' ELSE 'fleet' END, move_begin.reason,
        jsonb_build_object('operation', started, 'moves', moves));
    RETURN started;
END
$$;
COMMENT ON FUNCTION tide.move_begin(text, jsonb, text, text, text, interval) IS
    'Places pipelines: moves is [{"pipeline": ..., "to": ...}, ...]. kind is move or rebalance.';

CREATE FUNCTION tide.operation_settle(operation uuid) RETURNS tide.operations
LANGUAGE plpgsql AS $$
DECLARE
    op       tide.operations;
    holder   integer;
    locks    bigint;
    agent    tide.agents;
    settled  text;
    verdict  text;
    missing  text;
BEGIN
    SELECT * INTO op FROM tide.operations o WHERE o.id = operation FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'operation % does not exist', operation
            USING ERRCODE = 'undefined_object', HINT = 'List operations with: tidectl operation list';
    END IF;
    IF op.state <> 'running' THEN
        RETURN op;
    END IF;

    IF op.kind = 'drain' THEN
        SELECT n.pid INTO holder FROM tide.advisory_locks n
        WHERE n.class = tide.agent_lock_class(op.relay_group_id)::bigint & 4294967295
          AND n.object = tide.lock_key(op.target);
        IF holder IS NULL THEN
            settled := 'succeeded';
            verdict := 'safe to stop: the agent is not running and holds nothing';
        ELSE
            SELECT * INTO agent FROM tide.agents a
            WHERE a.relay_group_id = op.relay_group_id AND a.name = op.target;
            SELECT count(*) INTO locks FROM tide.advisory_locks l
            WHERE l.pid = holder AND l.class = tide.lock_key(op.relay_group_id);
            -- Empty twice: the agent says so after it has seen this very intent, and pg_locks agrees.
            IF locks = 0 AND agent.backend_pid = holder AND agent.owned = 0
               AND agent.acknowledged_generation >= op.generation THEN
                settled := 'succeeded';
                verdict := 'safe to stop: the agent reports nothing running and pg_locks shows no lock';
            END IF;
        END IF;
    ELSE
        SELECT string_agg(m.pipeline, ', ' ORDER BY m.pipeline) INTO missing
        FROM jsonb_to_recordset(op.request -> 'moves') AS m (pipeline text, "to" text)
        JOIN tide.pipelines p ON p.name = m.pipeline AND p.enabled
        -- A newer placement makes this move stale, and a stale move is not waited for.
        JOIN tide.placements w ON w.relay_group_id = op.relay_group_id AND w.pipeline = m.pipeline
             AND w.generation = op.generation
        WHERE NOT EXISTS (
            SELECT FROM tide.relay_consumer_offsets o
            JOIN tide.advisory_locks l ON l.class = tide.lock_key(op.relay_group_id) AND l.object = tide.lock_key(m.pipeline)
            JOIN tide.advisory_locks n ON n.pid = l.pid
                 AND n.class = tide.agent_lock_class(op.relay_group_id)::bigint & 4294967295
                 AND n.object = tide.lock_key(m."to")
            WHERE o.relay_group_id = op.relay_group_id AND o.name = m.pipeline AND o.owner = m."to");
        IF missing IS NULL THEN
            settled := 'succeeded';
            verdict := 'every pipeline is where it was asked to be';
        END IF;
    END IF;

    IF settled IS NULL AND op.deadline_at < clock_timestamp() THEN
        settled := 'failed';
        verdict := CASE WHEN op.kind = 'drain'
            THEN format('deadline passed with %s pipelines still held; the hold stays and the agent goes on giving away', locks)
            ELSE 'deadline passed before these moved: ' || missing END;
    END IF;
    IF settled IS NOT NULL THEN
        UPDATE tide.operations o SET state = settled, outcome = verdict, finished_at = clock_timestamp()
        WHERE o.id = op.id RETURNING * INTO op;
        PERFORM tide.intent_changed(op.relay_group_id, op.actor, op.kind || '.' || settled, op.target, op.outcome,
            jsonb_build_object('operation', op.id));
    END IF;
    RETURN op;
END
$$;
COMMENT ON FUNCTION tide.operation_settle(uuid) IS
    'Looks whether an operation is done and records it. Anyone may call it, any number of times.';

CREATE FUNCTION tide.operation_cancel(operation uuid, actor text) RETURNS tide.operations
LANGUAGE plpgsql AS $$
DECLARE
    op tide.operations;
BEGIN
    SELECT * INTO op FROM tide.operations o WHERE o.id = operation FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'operation % does not exist', operation
            USING ERRCODE = 'undefined_object', HINT = 'List operations with: tidectl operation list';
    END IF;
    IF op.state <> 'running' THEN
        RETURN op; -- cancelling what has ended changes nothing, and is not an error
    END IF;
    -- What already moved stays where it is; what has not moved loses the reason to.
    DELETE FROM tide.holds h WHERE h.operation_id = op.id;
    DELETE FROM tide.placements p WHERE p.relay_group_id = op.relay_group_id AND p.generation = op.generation;
    UPDATE tide.operations o
    SET state = 'cancelled', outcome = 'cancelled by ' || operation_cancel.actor, finished_at = clock_timestamp()
    WHERE o.id = op.id RETURNING * INTO op;
    PERFORM tide.intent_changed(op.relay_group_id, operation_cancel.actor, op.kind || '.cancelled', op.target, '',
        jsonb_build_object('operation', op.id));
    RETURN op;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_publisher') THEN
        GRANT USAGE ON SCHEMA tide TO tide_publisher;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        GRANT USAGE ON SCHEMA tide TO tide_relay;
        GRANT SELECT ON ALL TABLES IN SCHEMA tide TO tide_relay;
        GRANT INSERT, UPDATE ON tide.relay_consumer_offsets, tide.agents TO tide_relay;
        GRANT UPDATE ON tide.operations TO tide_relay;
        GRANT INSERT ON tide.relay_dlq, tide.events TO tide_relay;
        GRANT USAGE, SELECT ON SEQUENCE tide.epoch, tide.intent_generation TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT USAGE, CREATE ON SCHEMA tide TO tide_admin;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tide TO tide_admin;
        REVOKE UPDATE, DELETE ON tide.events FROM tide_admin;
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA tide TO tide_admin;
    END IF;
END
$$;
