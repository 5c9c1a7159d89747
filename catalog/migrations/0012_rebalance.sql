-- Plans that even out the load: what pipelines cost is measured, what is planned is kept, and what
-- is applied is the plan that somebody looked at.

-- ---------------------------------------------------------------------------------------------
-- What each unit costs
-- ---------------------------------------------------------------------------------------------

CREATE TABLE tide.relay_costs (
    relay_group_id text NOT NULL,
    name           text NOT NULL,
    pipeline       text GENERATED ALWAYS AS (split_part(name, '#', 1)) STORED
                   REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    last_change_id bigint NOT NULL,
    sampled_at     timestamptz NOT NULL,
    since          timestamptz NOT NULL,
    rate           double precision NOT NULL DEFAULT 0 CHECK (rate >= 0),
    weight         integer CHECK (weight BETWEEN 1 AND 1000),
    PRIMARY KEY (relay_group_id, name)
);
CREATE INDEX relay_costs_pipeline ON tide.relay_costs (pipeline);
COMMENT ON TABLE tide.relay_costs IS
    'What each unit was measured to deliver, and what it counts for when the load is evened out. One that never moved has no row.';
COMMENT ON COLUMN tide.relay_costs.last_change_id IS 'Its position at sampled_at.';
COMMENT ON COLUMN tide.relay_costs.since IS 'When it was looked at first.';
COMMENT ON COLUMN tide.relay_costs.rate IS
    'Messages a second: the mean since it was looked at first, and later one in which what is ten minutes old counts half.';
COMMENT ON COLUMN tide.relay_costs.weight IS
    'In force since a plan that was applied; NULL counts as 1. A weight in the configuration wins.';

CREATE FUNCTION tide.relay_costs_sample(leader_epoch bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    looked  timestamptz := clock_timestamp();
    written bigint;
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    -- Whoever applies a plan locks some of these rows, in another order.
    PERFORM pg_advisory_xact_lock(hashtext('tide.relay_costs'), 0);
    DELETE FROM tide.relay_costs c
    WHERE NOT EXISTS (SELECT FROM tide.relay_consumer_offsets o
                      WHERE o.relay_group_id = c.relay_group_id AND o.name = c.name);
    WITH seen AS (
        SELECT o.relay_group_id, o.name, o.last_change_id, coalesce(c.since, looked) AS since, coalesce(c.rate, 0) AS rate,
               -- A shard's position passes what belongs to the others. A position that went back, by a rewind or
               -- in a restore, says nothing about what was delivered.
               greatest(o.last_change_id - coalesce(c.last_change_id, o.last_change_id), 0)::double precision
                   / tide.unit_shards(o.name) AS messages,
               greatest(extract(epoch FROM looked - coalesce(c.sampled_at, looked)), 0.001)::double precision AS seconds,
               greatest(extract(epoch FROM looked - coalesce(c.since, looked)), 0.001)::double precision AS age
        FROM tide.relay_consumer_offsets o
        LEFT JOIN tide.relay_costs c ON c.relay_group_id = o.relay_group_id AND c.name = o.name
        -- Idle units are not written again. One that wakes up is measured over its sleep, once.
        WHERE (c.name IS NULL AND o.last_change_id > 0) OR c.last_change_id <> o.last_change_id OR c.rate > 0
    ), measured AS (
        SELECT s.*, s.rate + (s.messages / s.seconds - s.rate)
                    * least(greatest(1 - power(0.5, s.seconds / 600), s.seconds / s.age), 1) AS new_rate
        FROM seen s
    )
    INSERT INTO tide.relay_costs AS c (relay_group_id, name, last_change_id, sampled_at, since, rate)
    SELECT m.relay_group_id, m.name, m.last_change_id, looked, m.since,
           CASE WHEN m.messages = 0 AND m.new_rate < 0.01 THEN 0 ELSE greatest(m.new_rate, 0) END
    FROM measured m
    ON CONFLICT ON CONSTRAINT relay_costs_pkey DO UPDATE
        SET last_change_id = excluded.last_change_id, sampled_at = excluded.sampled_at, rate = excluded.rate;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$$;
COMMENT ON FUNCTION tide.relay_costs_sample(bigint) IS
    'Looks how far every unit of every group has come since the last look, for the janitor; returns how many rows that changed. '
    'Moves nothing: rates count when somebody plans by load and applies that.';
REVOKE ALL ON FUNCTION tide.relay_costs_sample(bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION tide.relay_ownership(relay_group text DEFAULT 'default')
RETURNS TABLE (
    name text, outbox text, sink_type text, enabled boolean, revision bigint, weight integer, lock_key bigint,
    owner text, owner_pid integer, epoch bigint, last_change_id bigint,
    state text, state_reason text, state_since timestamptz, updated_at timestamptz, relation regclass, head bigint,
    pipeline text, reshard_to integer, settled boolean
)
LANGUAGE sql STABLE AS $$
    SELECT u.unit, p.outbox, p.config ->> 'sink_type', p.enabled, p.revision,
           CASE WHEN jsonb_typeof(p.config -> 'weight') = 'number'
                THEN least(greatest(round((p.config ->> 'weight')::numeric), 1), 1000)::integer
                ELSE coalesce(k.weight, 1) END,
           tide.lock_key(u.unit), a.name, l.pid, o.epoch, coalesce(o.last_change_id, 0),
           o.state, o.state_reason, o.state_since, o.updated_at, b.relation,
           coalesce(pg_sequence_last_value(b.sequence), 0),
           u.pipeline, u.reshard_to,
           coalesce(o.origins IS NULL AND o.system_identifier = (SELECT c.system_identifier FROM pg_control_system() c), true)
    FROM tide.relay_units(relay_ownership.relay_group) u
    JOIN tide.pipelines p ON p.name = u.pipeline
    JOIN tide.outboxes b ON b.name = p.outbox
    LEFT JOIN tide.relay_consumer_offsets o ON o.relay_group_id = relay_ownership.relay_group AND o.name = u.unit
    LEFT JOIN tide.relay_costs k ON k.relay_group_id = relay_ownership.relay_group AND k.name = u.unit
    LEFT JOIN tide.advisory_locks l
           ON l.class = tide.lock_key(relay_ownership.relay_group) AND l.object = tide.lock_key(u.unit)
    LEFT JOIN tide.advisory_locks n
           ON n.pid = l.pid AND n.class = tide.agent_lock_class(relay_ownership.relay_group)::bigint & 4294967295
    LEFT JOIN tide.agents a
           ON a.relay_group_id = relay_ownership.relay_group AND tide.lock_key(a.name) = n.object
    ORDER BY u.pipeline, u.shard
$$;

-- ---------------------------------------------------------------------------------------------
-- Plans
-- ---------------------------------------------------------------------------------------------

CREATE TABLE tide.rebalance_plans (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    relay_group_id text NOT NULL,
    hash           text NOT NULL,
    plan           jsonb NOT NULL CHECK (jsonb_typeof(plan) = 'object'),
    actor          text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    operation_id   uuid REFERENCES tide.operations (id) ON DELETE CASCADE
);
CREATE INDEX rebalance_plans_hash ON tide.rebalance_plans (relay_group_id, hash);
CREATE INDEX rebalance_plans_operation ON tide.rebalance_plans (operation_id);
COMMENT ON TABLE tide.rebalance_plans IS
    'Plans that may be applied until they expire: moves, what stays and why, and weights, as tidectl shows them.';
COMMENT ON COLUMN tide.rebalance_plans.hash IS 'Over all that the plan follows from: agents, pipelines, owners, holds, weights.';
COMMENT ON COLUMN tide.rebalance_plans.operation_id IS 'What it became; NULL until it is applied.';

CREATE FUNCTION tide.rebalance_plan_store(relay_group text, hash text, plan jsonb, actor text) RETURNS tide.rebalance_plans
LANGUAGE plpgsql AS $$
DECLARE
    stored tide.rebalance_plans;
BEGIN
    -- Two at once must not both find that there is none.
    PERFORM pg_advisory_xact_lock(hashtext('tide.rebalance_plan:' || relay_group), hashtext(rebalance_plan_store.hash));
    SELECT p.* INTO stored FROM tide.rebalance_plans p
    WHERE p.relay_group_id = relay_group AND p.hash = rebalance_plan_store.hash
      AND p.operation_id IS NULL AND p.expires_at > now()
    ORDER BY p.created_at LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO tide.rebalance_plans (relay_group_id, hash, plan, actor)
        VALUES (relay_group, rebalance_plan_store.hash, rebalance_plan_store.plan, rebalance_plan_store.actor)
        RETURNING * INTO stored;
    END IF;
    RETURN stored;
END
$$;
COMMENT ON FUNCTION tide.rebalance_plan_store(text, text, jsonb, text) IS
    'Keeps a plan for a day, or returns the one that is there: planning again changes nothing.';

CREATE FUNCTION tide.rebalance_plan_get(relay_group text, plan uuid, locking boolean DEFAULT false) RETURNS tide.rebalance_plans
LANGUAGE plpgsql AS $$
DECLARE
    stored tide.rebalance_plans;
BEGIN
    IF locking THEN
        SELECT p.* INTO stored FROM tide.rebalance_plans p
        WHERE p.id = rebalance_plan_get.plan AND p.relay_group_id = relay_group FOR UPDATE;
    ELSE
        SELECT p.* INTO stored FROM tide.rebalance_plans p
        WHERE p.id = rebalance_plan_get.plan AND p.relay_group_id = relay_group;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'plan % does not exist', coalesce(rebalance_plan_get.plan::text, 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'Plans are kept for a day; make a new one with: tidectl rebalance plan';
    END IF;
    RETURN stored;
END
$$;
COMMENT ON FUNCTION tide.rebalance_plan_get(text, uuid, boolean) IS
    'A plan that is kept; locking it keeps others from applying it until the transaction ends.';

CREATE FUNCTION tide.rebalance_apply(
    relay_group text, plan uuid, moves jsonb, weights jsonb, actor text, reason text DEFAULT '', deadline interval DEFAULT NULL,
    leader_epoch bigint DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    stored  tide.rebalance_plans := tide.rebalance_plan_get(relay_group, rebalance_apply.plan, true);
    started uuid;
BEGIN
    IF rebalance_apply.leader_epoch IS NOT NULL THEN
        PERFORM tide.leader_fence('control_plane', relay_group, rebalance_apply.leader_epoch);
    END IF;
    IF stored.operation_id IS NOT NULL THEN
        RETURN stored.operation_id; -- applying a plan again finds what it became
    END IF;
    -- Weights and placements become visible in one moment: agents compute by both.
    PERFORM pg_advisory_xact_lock(hashtext('tide.relay_costs'), 0);
    INSERT INTO tide.relay_costs AS c (relay_group_id, name, last_change_id, sampled_at, since, weight)
    SELECT relay_group, u.unit, coalesce(o.last_change_id, 0), clock_timestamp(), clock_timestamp(), w.after
    FROM jsonb_to_recordset(rebalance_apply.weights) AS w (pipeline text, after integer)
    JOIN tide.relay_units(relay_group) u ON u.unit = w.pipeline
    LEFT JOIN tide.relay_consumer_offsets o ON o.relay_group_id = relay_group AND o.name = u.unit
    ON CONFLICT ON CONSTRAINT relay_costs_pkey DO UPDATE SET weight = excluded.weight;
    started := tide.move_begin(relay_group, rebalance_apply.moves, rebalance_apply.actor, rebalance_apply.reason, 'rebalance',
                               rebalance_apply.deadline);
    UPDATE tide.operations o
    SET request = o.request || jsonb_build_object('plan', stored.id, 'hash', stored.hash, 'weights', rebalance_apply.weights)
    WHERE o.id = started;
    UPDATE tide.rebalance_plans p SET operation_id = started WHERE p.id = stored.id;
    RETURN started;
END
$$;
COMMENT ON FUNCTION tide.rebalance_apply(text, uuid, jsonb, jsonb, text, text, interval, bigint) IS
    'Begins to carry out what is left of a plan, under its weights, and returns the operation; applying it again returns the same one. '
    'With leader_epoch it is refused once another control plane leads the group.';

-- Runs with the rights of the catalog's owner, because agents may not delete what others wrote; a
-- day of history is out of reach whatever is asked for.
CREATE OR REPLACE FUNCTION tide.history_purge(leader_epoch bigint, what text, keep interval, batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cutoff timestamptz := now() - greatest(keep, interval '1 day');
    purged bigint;
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    IF what = 'events' THEN
        -- Ids rise with time: looking at the oldest few finds whatever there is.
        DELETE FROM tide.events e
        USING (SELECT o.id FROM tide.events o ORDER BY o.id LIMIT batch) oldest
        WHERE e.id = oldest.id AND e.at < cutoff;
        GET DIAGNOSTICS purged = ROW_COUNT;
    ELSIF what = 'operations' THEN
        DELETE FROM tide.operations d
        WHERE d.id IN (
            SELECT o.id FROM tide.operations o
            WHERE o.finished_at < cutoff
              -- An agent that is still drained shows which operation drained it.
              AND NOT EXISTS (SELECT FROM tide.holds h WHERE h.operation_id = o.id)
              -- And what became of an agent's last drain can be asked for as long as there is the agent.
              AND NOT EXISTS (SELECT FROM tide.safe_to_stop s WHERE s.operation_id = o.id)
            LIMIT batch);
        GET DIAGNOSTICS purged = ROW_COUNT;
    ELSIF what = 'holds' THEN
        WITH expired AS (
            DELETE FROM tide.holds h WHERE h.expires_at < now() RETURNING h.*
        ), audited AS (
            INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
            SELECT x.relay_group_id, x.actor, 'hold.expired', x.target, x.reason,
                   jsonb_build_object('kind', x.kind, 'name', x.name, 'expires_at', x.expires_at)
            FROM expired x
        )
        SELECT count(*) INTO purged FROM expired;
    ELSIF what = 'plans' THEN
        -- One that was applied is an operation, which says what it did.
        DELETE FROM tide.rebalance_plans p
        WHERE p.id IN (SELECT x.id FROM tide.rebalance_plans x WHERE x.expires_at < now() LIMIT batch);
        GET DIAGNOSTICS purged = ROW_COUNT;
    ELSE
        RAISE EXCEPTION 'unknown history %', coalesce(quote_literal(what), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Purge events, operations, holds or plans.';
    END IF;
    RETURN purged;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        GRANT SELECT ON tide.relay_costs TO tide_relay;
        GRANT EXECUTE ON FUNCTION tide.relay_costs_sample(bigint) TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON tide.relay_costs, tide.rebalance_plans TO tide_admin;
        GRANT EXECUTE ON FUNCTION tide.relay_costs_sample(bigint) TO tide_admin;
    END IF;
END
$$;
