-- Shards: a pipeline may be split by key, and each part has a lock, an owner and a position of its
-- own. What has those is called a unit: 'orders', or 'orders#2/4' for the second of four shards.

CREATE FUNCTION tide.unit_pipeline(unit text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT split_part(unit, '#', 1) $$;
COMMENT ON FUNCTION tide.unit_pipeline(text) IS 'The pipeline that a unit is a part of, or all of.';

CREATE FUNCTION tide.unit_shard(unit text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(split_part(split_part(unit, '#', 2), '/', 1), '')::integer, 1)
$$;
CREATE FUNCTION tide.unit_shards(unit text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(split_part(split_part(unit, '#', 2), '/', 2), '')::integer, 1)
$$;
COMMENT ON FUNCTION tide.unit_shard(text) IS 'Which shard a unit is, from 1.';
COMMENT ON FUNCTION tide.unit_shards(text) IS 'Of how many.';

CREATE FUNCTION tide.unit_name(pipeline text, shard integer, shards integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN shards <= 1 THEN pipeline ELSE pipeline || '#' || shard || '/' || shards END
$$;

CREATE FUNCTION tide.shard_of(key text, id bigint, shards integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 1 + mod(CASE WHEN key IS NULL THEN id ELSE hashtextextended(key, 0) & 9223372036854775807 END,
                   shards::bigint)::integer
$$;
COMMENT ON FUNCTION tide.shard_of(text, bigint, integer) IS
    'The shard, from 1, that a message belongs to: by its key, so that order per key holds, or by its id if it has none.';

CREATE FUNCTION tide.pipeline_shards(config jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN NOT config ? 'shards' THEN 1
        -- What makes no sense is reported by the pipeline's owner and changes no layout.
        WHEN jsonb_typeof(config -> 'shards') = 'number' AND (config ->> 'shards')::numeric BETWEEN 1 AND 64
             AND (config ->> 'shards')::numeric % 1 = 0
        THEN (config ->> 'shards')::numeric::integer
    END
$$;
COMMENT ON FUNCTION tide.pipeline_shards(jsonb) IS 'How many shards a configuration asks for; NULL if that is no number from 1 to 64.';

CREATE TABLE tide.relay_layouts (
    relay_group_id text NOT NULL,
    pipeline       text NOT NULL REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    shards         integer NOT NULL CHECK (shards BETWEEN 1 AND 64),
    since          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relay_group_id, pipeline)
);
COMMENT ON TABLE tide.relay_layouts IS
    'How many shards each pipeline has in each group right now. Follows the configuration once nobody works by the old layout.';
INSERT INTO tide.relay_layouts (relay_group_id, pipeline, shards)
SELECT o.relay_group_id, o.name, 1 FROM tide.relay_consumer_offsets o;

-- name is a unit's from now on; the pipeline is derived from it.
ALTER TABLE tide.relay_consumer_offsets DROP CONSTRAINT relay_consumer_offsets_name_fkey;
ALTER TABLE tide.relay_consumer_offsets
    ADD COLUMN pipeline text GENERATED ALWAYS AS (split_part(name, '#', 1)) STORED
        REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    ADD COLUMN origins jsonb CHECK (jsonb_typeof(origins) = 'array'),
    ADD CHECK (origins IS NULL OR pass_snapshot IS NOT NULL);
CREATE INDEX relay_consumer_offsets_pipeline ON tide.relay_consumer_offsets (pipeline);
COMMENT ON COLUMN tide.relay_consumer_offsets.origins IS
    'While a new layout catches up: where each shard of the old layout stood, first to last. Until pass_snapshot is reached, '
    'delivered is what these say, and what the pass did.';

ALTER TABLE tide.placements DROP CONSTRAINT placements_pipeline_fkey;
ALTER TABLE tide.placements
    ADD COLUMN definition text GENERATED ALWAYS AS (split_part(pipeline, '#', 1)) STORED
        REFERENCES tide.pipelines (name) ON DELETE CASCADE;
COMMENT ON COLUMN tide.placements.pipeline IS 'The unit that is placed.';

-- ---------------------------------------------------------------------------------------------
-- Claims
-- ---------------------------------------------------------------------------------------------

DROP FUNCTION tide.relay_claim(text, text, uuid, text[]);
CREATE FUNCTION tide.relay_claim(relay_group text, agent text, incarnation uuid, pipelines text[])
RETURNS TABLE (
    pipeline text, claimed_epoch bigint, high bigint, seen text, pass_target text, pass_at bigint,
    settled_floor bigint, old_positions jsonb, same_system boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    system bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    laid   text[];
BEGIN
    -- The first claim fixes the layout; whoever comes later with another one is left out below.
    WITH wanted AS (
        SELECT DISTINCT tide.unit_pipeline(u.unit) AS pipeline, tide.unit_shards(u.unit) AS shards
        FROM unnest(relay_claim.pipelines) AS u (unit)
    ), fresh AS (
        INSERT INTO tide.relay_layouts (relay_group_id, pipeline, shards)
        SELECT relay_claim.relay_group, w.pipeline, w.shards
        FROM wanted w JOIN tide.pipelines p ON p.name = w.pipeline
        WHERE NOT EXISTS (SELECT FROM tide.relay_layouts l
                          WHERE l.relay_group_id = relay_claim.relay_group AND l.pipeline = w.pipeline)
        ORDER BY w.pipeline
        ON CONFLICT (relay_group_id, pipeline) DO NOTHING
        RETURNING pipeline, shards
    )
    INSERT INTO tide.relay_consumer_offsets
        (relay_group_id, name, last_change_id, snapshot, system_identifier, epoch)
    SELECT relay_claim.relay_group,
           tide.unit_name(f.pipeline, s.shard, f.shards),
           CASE WHEN p.config ->> 'start' = 'latest' THEN coalesce(pg_sequence_last_value(b.sequence), 0) ELSE 0 END,
           CASE WHEN p.config ->> 'start' = 'latest' THEN pg_current_snapshot() END,
           system,
           nextval('tide.epoch')
    FROM fresh f
    JOIN tide.pipelines p ON p.name = f.pipeline
    JOIN tide.outboxes b ON b.name = p.outbox
    CROSS JOIN LATERAL generate_series(1, f.shards) AS s (shard);

    -- Held until the claim is done: a layout cannot change under it (see relay_reshard).
    SELECT array_agg(l.pipeline || '/' || l.shards) INTO laid
    FROM (SELECT l.pipeline, l.shards FROM tide.relay_layouts l
          WHERE l.relay_group_id = relay_claim.relay_group
            AND l.pipeline IN (SELECT tide.unit_pipeline(u.unit) FROM unnest(relay_claim.pipelines) AS u (unit))
          ORDER BY l.pipeline FOR SHARE) l;

    -- In the order in which everybody locks these rows, so that nobody waits in a circle.
    PERFORM FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = relay_claim.relay_group AND o.name = ANY (relay_claim.pipelines)
    ORDER BY o.name COLLATE "C" FOR NO KEY UPDATE;
    RETURN QUERY
    WITH claimed AS (
        UPDATE tide.relay_consumer_offsets o
        SET epoch = nextval('tide.epoch'), owner = relay_claim.agent, owner_incarnation = relay_claim.incarnation,
            state = 'starting', state_reason = NULL, state_since = now()
        WHERE o.relay_group_id = relay_claim.relay_group AND o.name = ANY (relay_claim.pipelines)
          AND tide.unit_pipeline(o.name) || '/' || tide.unit_shards(o.name) = ANY (laid)
        RETURNING o.*
    ), audited AS (
        INSERT INTO tide.events (relay_group_id, actor, kind, subject, detail)
        SELECT c.relay_group_id, c.owner, 'ownership.gained', c.name,
               jsonb_build_object('epoch', c.epoch, 'last_change_id', c.last_change_id)
        FROM claimed c
    )
    SELECT c.name, c.epoch, c.last_change_id, c.snapshot::text, c.pass_snapshot::text, c.pass_position, c.floor_id,
           c.origins, c.system_identifier = system
    FROM claimed c;
END
$$;
COMMENT ON FUNCTION tide.relay_claim(text, text, uuid, text[]) IS
    'Run by an agent that has just locked these units: raises their epochs and returns where to go on.';

-- ---------------------------------------------------------------------------------------------
-- Changing the number of shards
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.relay_reshard(relay_group text, pipeline text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    layout   tide.relay_layouts;
    wanted   integer;
    outbox   tide.outboxes;
    system   bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    target   pg_snapshot;
    positions jsonb;
    highest  bigint;
    lowest   bigint;
    oldest   xid8;
    settled  bigint;
    first_id bigint;
BEGIN
    -- Claims wait for this row and then find another layout.
    SELECT * INTO layout FROM tide.relay_layouts l
    WHERE l.relay_group_id = relay_reshard.relay_group AND l.pipeline = relay_reshard.pipeline FOR UPDATE;
    SELECT tide.pipeline_shards(p.config) INTO wanted FROM tide.pipelines p WHERE p.name = relay_reshard.pipeline;
    IF layout IS NULL OR wanted IS NULL OR wanted = layout.shards THEN
        RETURN true; -- somebody else did it, or it is not wanted any more
    END IF;
    -- An owner of the old layout may still publish. One that locks from here on cannot claim.
    IF EXISTS (SELECT FROM tide.relay_consumer_offsets o
               JOIN tide.advisory_locks a ON a.class = tide.lock_key(o.relay_group_id) AND a.object = tide.lock_key(o.name)
               WHERE o.relay_group_id = relay_reshard.relay_group AND o.pipeline = relay_reshard.pipeline
                 -- Unless the lock is another unit's, whose name hashes alike, and this one is not at work.
                 AND NOT (EXISTS (SELECT FROM tide.relay_consumer_offsets x
                                  WHERE x.relay_group_id = o.relay_group_id AND x.name <> o.name
                                    AND tide.lock_key(x.name) = tide.lock_key(o.name))
                          AND (o.state = 'stopped'
                               OR NOT EXISTS (SELECT FROM tide.agents g
                                              WHERE g.relay_group_id = o.relay_group_id AND g.name = o.owner
                                                AND g.incarnation = o.owner_incarnation AND g.backend_pid = a.pid)))) THEN
        RETURN false;
    END IF;
    -- The old shards first finish what an earlier change or a restore left them.
    IF EXISTS (SELECT FROM tide.relay_consumer_offsets o
               WHERE o.relay_group_id = relay_reshard.relay_group AND o.pipeline = relay_reshard.pipeline
                 AND (o.origins IS NOT NULL OR o.system_identifier <> system)) THEN
        RETURN false;
    END IF;

    SELECT b.* INTO STRICT outbox FROM tide.outboxes b JOIN tide.pipelines p ON p.outbox = b.name
    WHERE p.name = relay_reshard.pipeline;
    SELECT jsonb_agg(jsonb_build_object('high', o.last_change_id, 'snapshot', o.snapshot::text,
                                        'pass_target', o.pass_snapshot::text, 'pass_position', o.pass_position)
                     ORDER BY tide.unit_shard(o.name)),
           max(o.last_change_id), min(o.last_change_id), max(o.floor_id),
           -- Without a snapshot nothing was read, and nothing is late.
           (array_agg(pg_snapshot_xmin(o.snapshot) ORDER BY pg_snapshot_xmin(o.snapshot)))[1]
    INTO positions, highest, lowest, settled, oldest
    FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = relay_reshard.relay_group AND o.pipeline = relay_reshard.pipeline;
    target := pg_current_snapshot();
    -- The pass begins before the first message that any old shard may have left out.
    EXECUTE format('SELECT min(id) - 1 FROM %s WHERE xid >= $1 AND id + 0 <= $2 AND id + 0 > $3', outbox.relation)
        INTO first_id USING oldest, lowest, settled;

    DELETE FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = relay_reshard.relay_group AND o.pipeline = relay_reshard.pipeline;
    -- Where a part should run says nothing about other parts.
    DELETE FROM tide.placements w
    WHERE w.relay_group_id = relay_reshard.relay_group AND w.definition = relay_reshard.pipeline;
    INSERT INTO tide.relay_consumer_offsets
        (relay_group_id, name, last_change_id, pass_snapshot, pass_position, origins, floor_id, system_identifier, epoch)
    SELECT relay_reshard.relay_group, tide.unit_name(relay_reshard.pipeline, s.shard, wanted), highest,
           target, coalesce(first_id, lowest), positions, settled, system, nextval('tide.epoch')
    FROM generate_series(1, wanted) AS s (shard);
    UPDATE tide.relay_layouts l SET shards = wanted, since = now()
    WHERE l.relay_group_id = relay_reshard.relay_group AND l.pipeline = relay_reshard.pipeline;
    INSERT INTO tide.events (relay_group_id, actor, kind, subject, detail)
    VALUES (relay_reshard.relay_group, session_user, 'pipeline.resharded', relay_reshard.pipeline,
            jsonb_build_object('from', layout.shards, 'to', wanted, 'positions', positions));
    PERFORM pg_notify('tide_relay_config', relay_reshard.pipeline);
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.relay_reshard(text, text) IS
    'Gives a pipeline the number of shards that its configuration asks for, once nobody works by the old one; false until then. '
    'Anyone may call it, any number of times.';

-- ---------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------

-- STRICT keeps the planner from looking inside: it would expect a thousand shards of each pipeline,
-- and compile the whole statement on that account.
CREATE FUNCTION tide.shard_numbers(shards integer) RETURNS SETOF integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 1 AS $$ SELECT generate_series(1, shards) $$;

CREATE FUNCTION tide.relay_units(relay_group text)
RETURNS TABLE (pipeline text, unit text, shard integer, reshard_to integer)
LANGUAGE sql STABLE AS $$
    SELECT p.name, tide.unit_name(p.name, s.shard, c.shards), s.shard,
           nullif(coalesce(tide.pipeline_shards(p.config), c.shards), c.shards)
    FROM tide.pipelines p
    LEFT JOIN tide.relay_layouts l ON l.relay_group_id = relay_units.relay_group AND l.pipeline = p.name
    CROSS JOIN LATERAL (SELECT coalesce(l.shards, tide.pipeline_shards(p.config), 1) AS shards) c
    CROSS JOIN LATERAL tide.shard_numbers(c.shards) AS s (shard)
$$;
COMMENT ON FUNCTION tide.relay_units(text) IS
    'The units of every pipeline as they are; reshard_to is how many shards are wanted, if that is another number.';

DROP FUNCTION tide.relay_status(text);
DROP FUNCTION tide.relay_ownership(text);

CREATE FUNCTION tide.relay_ownership(relay_group text DEFAULT 'default')
RETURNS TABLE (
    name text, outbox text, sink_type text, enabled boolean, revision bigint, weight integer, lock_key bigint,
    owner text, owner_pid integer, epoch bigint, last_change_id bigint,
    state text, state_reason text, state_since timestamptz, updated_at timestamptz, relation regclass, head bigint,
    pipeline text, reshard_to integer, settled boolean
)
LANGUAGE sql STABLE AS $$
    SELECT u.unit, p.outbox, p.config ->> 'sink_type', p.enabled, p.revision,
           CASE WHEN jsonb_typeof(p.config -> 'weight') = 'number'
                THEN least(greatest(round((p.config ->> 'weight')::numeric), 1), 1000)::integer ELSE 1 END,
           tide.lock_key(u.unit), a.name, l.pid, o.epoch, coalesce(o.last_change_id, 0),
           o.state, o.state_reason, o.state_since, o.updated_at, b.relation,
           coalesce(pg_sequence_last_value(b.sequence), 0),
           u.pipeline, u.reshard_to,
           coalesce(o.origins IS NULL AND o.system_identifier = (SELECT c.system_identifier FROM pg_control_system() c), true)
    FROM tide.relay_units(relay_ownership.relay_group) u
    JOIN tide.pipelines p ON p.name = u.pipeline
    JOIN tide.outboxes b ON b.name = p.outbox
    LEFT JOIN tide.relay_consumer_offsets o ON o.relay_group_id = relay_ownership.relay_group AND o.name = u.unit
    LEFT JOIN tide.advisory_locks l
           ON l.class = tide.lock_key(relay_ownership.relay_group) AND l.object = tide.lock_key(u.unit)
    LEFT JOIN tide.advisory_locks n
           ON n.pid = l.pid AND n.class = tide.agent_lock_class(relay_ownership.relay_group)::bigint & 4294967295
    LEFT JOIN tide.agents a
           ON a.relay_group_id = relay_ownership.relay_group AND tide.lock_key(a.name) = n.object
    ORDER BY u.pipeline, u.shard
$$;
COMMENT ON FUNCTION tide.relay_ownership(text) IS
    'One row a unit: who holds its lock right now, by pg_locks, and what its newest owner wrote. Touches no message.';

CREATE FUNCTION tide.relay_status(relay_group text DEFAULT 'default')
RETURNS TABLE (
    name text, outbox text, sink_type text, enabled boolean, revision bigint, weight integer, lock_key bigint,
    owner text, owner_pid integer, epoch bigint, last_change_id bigint, lag_rows bigint, lag_seconds double precision,
    state text, state_reason text, state_since timestamptz, updated_at timestamptz,
    pipeline text, reshard_to integer, settled boolean
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    unit   record;
    oldest timestamptz;
    shards integer;
BEGIN
    FOR unit IN SELECT * FROM tide.relay_ownership(relay_status.relay_group) LOOP
        shards := tide.unit_shards(unit.name);
        -- The sequence also counts ids of rolled-back transactions, so ask the table whether anything waits.
        EXECUTE format('SELECT created_at FROM %s WHERE id > $1 %s ORDER BY id LIMIT 1', unit.relation,
                       CASE WHEN shards > 1 THEN 'AND tide.shard_of(key, id, $2) = $3' ELSE '' END)
            INTO oldest USING unit.last_change_id, shards, tide.unit_shard(unit.name);
        name := unit.name;
        outbox := unit.outbox;
        sink_type := unit.sink_type;
        enabled := unit.enabled;
        revision := unit.revision;
        weight := unit.weight;
        lock_key := unit.lock_key;
        owner := unit.owner;
        owner_pid := unit.owner_pid;
        epoch := unit.epoch;
        last_change_id := unit.last_change_id;
        -- Of the ids that follow, a shard's share.
        lag_rows := CASE WHEN oldest IS NULL THEN 0
                         ELSE greatest((unit.head - unit.last_change_id + shards - 1) / shards, 1) END;
        lag_seconds := CASE WHEN oldest IS NULL THEN 0
                            ELSE greatest(extract(epoch FROM clock_timestamp() - oldest), 0) END;
        state := unit.state;
        state_reason := unit.state_reason;
        state_since := unit.state_since;
        updated_at := unit.updated_at;
        pipeline := unit.pipeline;
        reshard_to := unit.reshard_to;
        settled := unit.settled;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tide.relay_status(text) IS
    'One row a unit: who holds its lock right now, its epoch, position, lag and state. Ownership comes from pg_locks.';

CREATE OR REPLACE FUNCTION tide.outbox_status(name text DEFAULT NULL)
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
        SELECT coalesce(f.name, p.name) AS name, coalesce(f.last_change_id, 0) AS last_change_id
        FROM tide.pipelines p
        LEFT JOIN tide.relay_consumer_offsets f ON f.pipeline = p.name
        WHERE p.outbox = o.name
        ORDER BY coalesce(f.last_change_id, 0), 1
        LIMIT 1
    ) slowest ON true
    WHERE outbox_status.name IS NULL OR o.name = outbox_status.name
    ORDER BY o.name
$$;

-- ---------------------------------------------------------------------------------------------
-- Intent about units
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.unit_moves(relay_group text, moves jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    wanted record;
    units  jsonb;
BEGIN
    FOR wanted IN
        SELECT m.pipeline, m."to",
               EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = unit_moves.relay_group AND a.name = m."to") AS known
        FROM jsonb_to_recordset(moves) AS m (pipeline text, "to" text)
        WHERE NOT EXISTS (SELECT FROM tide.pipelines p WHERE p.name = tide.unit_pipeline(m.pipeline))
           OR NOT EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = unit_moves.relay_group AND a.name = m."to")
    LOOP
        IF wanted.known THEN
            RAISE EXCEPTION 'pipeline % does not exist', coalesce(quote_literal(wanted.pipeline), 'NULL')
                USING ERRCODE = 'undefined_object', HINT = 'List pipelines with: tidectl pipeline list';
        END IF;
        RAISE EXCEPTION 'agent % is not known in group %', coalesce(quote_literal(wanted."to"), 'NULL'), quote_literal(relay_group)
            USING ERRCODE = 'undefined_object', HINT = 'List agents with: tidectl agent list';
    END LOOP;
    -- A pipeline stands for all its shards; a shard of a former layout for nothing.
    SELECT jsonb_agg(jsonb_build_object('pipeline', u.unit, 'to', m."to") ORDER BY u.pipeline, u.shard) INTO units
    FROM jsonb_to_recordset(moves) AS m (pipeline text, "to" text)
    JOIN tide.relay_units(unit_moves.relay_group) u ON u.unit = m.pipeline OR u.pipeline = m.pipeline;
    IF units IS NULL AND jsonb_array_length(moves) > 0 THEN
        RAISE EXCEPTION 'pipeline % has no shard %', tide.unit_pipeline(moves -> 0 ->> 'pipeline'),
            split_part(moves -> 0 ->> 'pipeline', '#', 2)
            USING ERRCODE = 'undefined_object', HINT = 'See its shards with: tidectl pipeline show '
                || tide.unit_pipeline(moves -> 0 ->> 'pipeline');
    END IF;
    RETURN coalesce(units, '[]');
END
$$;
COMMENT ON FUNCTION tide.unit_moves(text, jsonb) IS 'Checks moves and replaces each pipeline by its units.';
CREATE OR REPLACE FUNCTION tide.move_begin(
    relay_group text, moves jsonb, actor text, reason text DEFAULT '', kind text DEFAULT 'move',
    deadline interval DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    started uuid := gen_random_uuid();
    intent  bigint := nextval('tide.intent_generation');
    units   jsonb := tide.unit_moves(relay_group, moves);
BEGIN
    INSERT INTO tide.operations (id, relay_group_id, kind, target, request, actor, reason, generation, deadline_at)
    VALUES (started, relay_group, move_begin.kind,
            CASE WHEN move_begin.kind = 'move' THEN moves -> 0 ->> 'pipeline' ELSE 'fleet' END,
            jsonb_build_object('moves', units), move_begin.actor, coalesce(move_begin.reason, ''), intent,
            now() + move_begin.deadline);
    IF move_begin.kind = 'rebalance' THEN
        -- A rebalance ends earlier preferences: what stays put is free to move again later.
        DELETE FROM tide.placements p WHERE p.relay_group_id = relay_group;
    END IF;
    INSERT INTO tide.placements AS p (relay_group_id, pipeline, agent, actor, reason, generation)
    SELECT relay_group, m.pipeline, m."to", move_begin.actor, coalesce(move_begin.reason, ''), intent
    FROM jsonb_to_recordset(units) AS m (pipeline text, "to" text)
    ON CONFLICT ON CONSTRAINT placements_pkey DO UPDATE
        SET agent = excluded.agent, actor = excluded.actor, reason = excluded.reason,
            generation = excluded.generation, created_at = now();
    PERFORM tide.intent_changed(relay_group, move_begin.actor, move_begin.kind || '.started',
        CASE WHEN move_begin.kind = 'move' THEN moves -> 0 ->> 'pipeline' ELSE 'fleet' END, move_begin.reason,
        jsonb_build_object('operation', started, 'moves', units));
    RETURN started;
END
$$;

CREATE OR REPLACE FUNCTION tide.operation_settle(operation uuid) RETURNS tide.operations
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
        JOIN tide.pipelines p ON p.name = tide.unit_pipeline(m.pipeline) AND p.enabled
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

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        GRANT SELECT, INSERT, UPDATE ON tide.relay_layouts TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON tide.relay_layouts TO tide_admin;
    END IF;
END
$$;
