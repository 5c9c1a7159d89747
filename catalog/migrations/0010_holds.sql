-- Holds: named reasons, stacked, each with an owner and perhaps an end. What is in force is the
-- strictest of them; whoever takes one away takes away no other's.

-- ---------------------------------------------------------------------------------------------
-- Holds on agents and on pipelines
-- ---------------------------------------------------------------------------------------------

ALTER TABLE tide.holds DROP CONSTRAINT holds_kind_check;
ALTER TABLE tide.holds
    ALTER COLUMN agent DROP NOT NULL,
    ADD COLUMN pipeline   text REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    ADD COLUMN name       text,
    ADD COLUMN parameters jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(parameters) = 'object'),
    ADD COLUMN target     text GENERATED ALWAYS AS (coalesce(agent, pipeline)) STORED;
UPDATE tide.holds SET name = actor;
-- One may be left of each owner and kind, as there was no other way to tell them apart.
DELETE FROM tide.holds h USING tide.holds newer
WHERE newer.relay_group_id = h.relay_group_id AND newer.agent = h.agent AND newer.kind = h.kind
  AND newer.name = h.name AND newer.generation > h.generation;
ALTER TABLE tide.holds
    ALTER COLUMN name SET NOT NULL,
    -- For rows that are written by hand.
    ALTER COLUMN name SET DEFAULT session_user,
    ADD CONSTRAINT holds_named UNIQUE (relay_group_id, kind, target, name),
    ADD CONSTRAINT holds_target_check CHECK (
        (kind IN ('cordon', 'drain') AND agent IS NOT NULL AND pipeline IS NULL)
        OR (kind IN ('pin', 'freeze', 'pause') AND pipeline IS NOT NULL AND agent IS NULL)),
    ADD CONSTRAINT holds_pin_check CHECK (kind <> 'pin' OR parameters ->> 'to' IS NOT NULL);
CREATE INDEX holds_pipeline ON tide.holds (pipeline);
COMMENT ON TABLE tide.holds IS
    'Named reasons for agents and pipelines to do less than they could. Agents: cordon keeps what it has, drain gives '
    'everything away. Pipelines: pin keeps it at one agent, freeze where it is, pause stops deliveries. The strictest wins.';
COMMENT ON COLUMN tide.holds.name IS 'Tells holds of one kind on one target apart; the owner''s name unless said otherwise.';
COMMENT ON COLUMN tide.holds.actor IS 'The owner: who may take it away without breaking it.';
COMMENT ON COLUMN tide.holds.parameters IS
    'Of a pin the agent, as to; of a drain mode (restart, evacuate, remove), on_deadline (keep, force) and pace.';

CREATE FUNCTION tide.hold_words(kind text, was_set boolean) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE kind
        WHEN 'cordon' THEN CASE WHEN was_set THEN 'agent.cordoned' ELSE 'agent.uncordoned' END
        WHEN 'drain'  THEN CASE WHEN was_set THEN 'drain.started' ELSE 'drain.ended' END
        WHEN 'pin'    THEN CASE WHEN was_set THEN 'pipeline.pinned' ELSE 'pipeline.unpinned' END
        WHEN 'freeze' THEN CASE WHEN was_set THEN 'pipeline.frozen' ELSE 'pipeline.unfrozen' END
        WHEN 'pause'  THEN CASE WHEN was_set THEN 'pipeline.paused' ELSE 'pipeline.resumed' END
    END
$$;
COMMENT ON FUNCTION tide.hold_words(text, boolean) IS 'What the audit calls the beginning or the end of a hold.';

CREATE FUNCTION tide.known_agent(relay_group text, name text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = relay_group AND a.name = known_agent.name) THEN
        RAISE EXCEPTION 'agent % is not known in group %', coalesce(quote_literal(known_agent.name), 'NULL'), quote_literal(relay_group)
            USING ERRCODE = 'undefined_object', HINT = 'List agents with: tidectl agent list';
    END IF;
END
$$;
COMMENT ON FUNCTION tide.known_agent(text, text) IS 'Raises an error unless there is such an agent in the group.';

CREATE FUNCTION tide.hold_set(
    relay_group text, kind text, target text, actor text, reason text, name text DEFAULT NULL,
    lasting interval DEFAULT NULL, parameters jsonb DEFAULT '{}'
) RETURNS tide.holds
LANGUAGE plpgsql AS $$
DECLARE
    held  tide.holds;
    other tide.holds;
BEGIN
    IF hold_set.kind IS NULL OR hold_set.kind NOT IN ('cordon', 'pin', 'freeze', 'pause') THEN
        RAISE EXCEPTION 'no hold of kind % can be set', coalesce(quote_literal(hold_set.kind), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Set cordon, pin, freeze or pause; a drain begins with tide.drain_begin.';
    END IF;
    IF hold_set.kind <> 'pause' AND coalesce(btrim(hold_set.reason), '') = '' THEN
        RAISE EXCEPTION 'a % needs a reason', hold_set.kind
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Say what for, for those who find it later: --reason TEXT';
    END IF;
    IF hold_set.lasting <= interval '0' THEN
        RAISE EXCEPTION 'a hold cannot last %', hold_set.lasting
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a positive interval, or none for a hold without an end.';
    END IF;
    IF hold_set.kind = 'cordon' THEN
        PERFORM tide.known_agent(relay_group, hold_set.target);
    ELSE
        PERFORM tide.known_pipeline(hold_set.target);
    END IF;
    IF hold_set.kind = 'pin' THEN
        PERFORM tide.known_agent(relay_group, hold_set.parameters ->> 'to');
        -- Two at once must not both find that there is none.
        PERFORM pg_advisory_xact_lock(hashtext('tide.pin:' || relay_group), hashtext(hold_set.target));
        SELECT h.* INTO other FROM tide.holds h
        WHERE h.relay_group_id = relay_group AND h.kind = 'pin' AND h.pipeline = hold_set.target
          AND h.parameters ->> 'to' <> hold_set.parameters ->> 'to'
          AND h.name <> coalesce(hold_set.name, hold_set.actor)
          AND (h.expires_at IS NULL OR h.expires_at > now())
        ORDER BY h.generation LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'pipeline % is pinned to % by %', hold_set.target, other.parameters ->> 'to', other.actor
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Ask its owner, or: tidectl hold remove ' || other.id || ' --break';
        END IF;
    END IF;
    INSERT INTO tide.holds AS h (relay_group_id, agent, pipeline, kind, name, actor, reason, parameters, expires_at)
    VALUES (relay_group,
            CASE WHEN hold_set.kind = 'cordon' THEN hold_set.target END,
            CASE WHEN hold_set.kind <> 'cordon' THEN hold_set.target END,
            hold_set.kind, coalesce(hold_set.name, hold_set.actor), hold_set.actor, coalesce(hold_set.reason, ''),
            hold_set.parameters, now() + hold_set.lasting)
    ON CONFLICT ON CONSTRAINT holds_named DO UPDATE
        SET actor = excluded.actor, reason = excluded.reason, parameters = excluded.parameters,
            expires_at = excluded.expires_at, generation = excluded.generation
        WHERE h.actor = excluded.actor
    RETURNING * INTO held;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another hold of this kind on % is named %', hold_set.target, quote_literal(coalesce(hold_set.name, hold_set.actor))
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Choose another --name.';
    END IF;
    PERFORM tide.intent_changed(relay_group, hold_set.actor, tide.hold_words(hold_set.kind, true), hold_set.target, hold_set.reason,
        jsonb_build_object('hold', held.id, 'name', held.name, 'expires_at', held.expires_at) || held.parameters);
    RETURN held;
END
$$;
COMMENT ON FUNCTION tide.hold_set(text, text, text, text, text, text, interval, jsonb) IS
    'Sets a hold, or renews the one of this kind, target and name. lasting is until when: agents obey the end by themselves.';

-- What is left to do when a hold on an agent is gone.
CREATE FUNCTION tide.hold_ended(held tide.holds, actor text, reason text, outcome text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF held.kind = 'drain' AND NOT EXISTS (
        SELECT FROM tide.holds h WHERE h.relay_group_id = held.relay_group_id AND h.agent = held.agent AND h.kind = 'drain')
    THEN
        UPDATE tide.operations o
        SET state = 'cancelled', outcome = hold_ended.outcome, finished_at = clock_timestamp()
        WHERE o.relay_group_id = held.relay_group_id AND o.kind = 'drain' AND o.target = held.agent AND o.state = 'running';
        PERFORM tide.safety_void(held.relay_group_id, held.agent, 'its drain was ended by ' || hold_ended.actor);
    END IF;
    PERFORM tide.intent_changed(held.relay_group_id, hold_ended.actor, tide.hold_words(held.kind, false),
        held.target, hold_ended.reason,
        jsonb_build_object('hold', held.id, 'name', held.name, 'owner', held.actor));
END
$$;
COMMENT ON FUNCTION tide.hold_ended(tide.holds, text, text, text) IS
    'Records that a hold is gone; with the last drain of an agent its running operation ends too.';

CREATE FUNCTION tide.hold_remove(
    relay_group text, hold uuid, actor text, reason text DEFAULT '', breaking boolean DEFAULT false
) RETURNS tide.holds
LANGUAGE plpgsql AS $$
DECLARE
    held tide.holds;
BEGIN
    SELECT h.* INTO held FROM tide.holds h WHERE h.id = hold_remove.hold AND h.relay_group_id = relay_group FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'hold % does not exist', hold_remove.hold
            USING ERRCODE = 'undefined_object', HINT = 'List holds with: tidectl hold list';
    END IF;
    IF held.actor <> hold_remove.actor AND NOT coalesce(hold_remove.breaking, false) THEN
        RAISE EXCEPTION 'the % of % belongs to %', held.kind, held.target,
            held.actor || CASE WHEN held.reason = '' THEN '' ELSE ': ' || held.reason END
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Ask its owner, or add --break.';
    END IF;
    DELETE FROM tide.holds h WHERE h.id = held.id;
    PERFORM tide.hold_ended(held, hold_remove.actor, hold_remove.reason, 'its hold was removed by ' || hold_remove.actor);
    RETURN held;
END
$$;
COMMENT ON FUNCTION tide.hold_remove(text, uuid, text, text, boolean) IS
    'Takes one hold away: the actor''s own, or anybody''s if it is to be broken.';

CREATE FUNCTION tide.hold_lift(
    relay_group text, kind text, target text, actor text, reason text DEFAULT '', breaking boolean DEFAULT false
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    held  tide.holds;
    other tide.holds;
    ended integer := 0;
BEGIN
    IF hold_lift.kind IN ('cordon', 'drain') THEN
        PERFORM tide.known_agent(relay_group, hold_lift.target);
    ELSE
        PERFORM tide.known_pipeline(hold_lift.target);
    END IF;
    FOR held IN
        SELECT h.* FROM tide.holds h
        WHERE h.relay_group_id = relay_group AND h.kind = hold_lift.kind AND h.target = hold_lift.target
          AND (h.expires_at IS NULL OR h.expires_at > now())
        ORDER BY h.generation FOR UPDATE
    LOOP
        -- What an agent has set, as it found a receiver gone, is anybody's to end.
        IF held.actor = hold_lift.actor OR coalesce(hold_lift.breaking, false)
           OR EXISTS (SELECT FROM tide.agents a WHERE a.relay_group_id = relay_group AND a.name = held.actor) THEN
            DELETE FROM tide.holds h WHERE h.id = held.id;
            PERFORM tide.hold_ended(held, hold_lift.actor, hold_lift.reason,
                CASE WHEN held.kind = 'drain' THEN 'undrained by ' ELSE 'ended by ' END || hold_lift.actor);
            ended := ended + 1;
        ELSE
            other := held;
        END IF;
    END LOOP;
    IF ended = 0 AND other.id IS NOT NULL THEN
        RAISE EXCEPTION 'the % of % belongs to %', other.kind, hold_lift.target,
            other.actor || CASE WHEN other.reason = '' THEN '' ELSE ': ' || other.reason END
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Ask its owner, or: tidectl hold remove ' || other.id || ' --break';
    END IF;
    RETURN ended;
END
$$;
COMMENT ON FUNCTION tide.hold_lift(text, text, text, text, text, boolean) IS
    'Ends the actor''s own holds of a kind on a target, or everybody''s if they are to be broken; returns how many there were. '
    'Refused where there are only others''.';

-- ---------------------------------------------------------------------------------------------
-- A pause is a hold
-- ---------------------------------------------------------------------------------------------

INSERT INTO tide.holds (relay_group_id, pipeline, kind, name, actor, reason, created_at)
SELECT p.relay_group_id, p.pipeline, 'pause', p.actor, p.actor, p.reason, p.created_at FROM tide.pauses p;

DROP FUNCTION tide.relay_pause(text, text, text, text);
CREATE FUNCTION tide.relay_pause(
    name text, reason text DEFAULT '', actor text DEFAULT session_user, relay_group text DEFAULT 'default',
    lasting interval DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tide.known_pipeline(relay_pause.name);
    IF EXISTS (
        SELECT FROM tide.holds h
        WHERE h.relay_group_id = relay_pause.relay_group AND h.kind = 'pause' AND h.pipeline = relay_pause.name
          AND h.name = relay_pause.actor AND h.expires_at IS NULL AND relay_pause.lasting IS NULL)
    THEN
        RETURN false;
    END IF;
    PERFORM tide.hold_set(relay_pause.relay_group, 'pause', relay_pause.name, relay_pause.actor, relay_pause.reason, NULL, relay_pause.lasting);
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.relay_pause(text, text, text, text, interval) IS
    'Stops deliveries of a pipeline, and of all its shards, once the batch on its way is delivered; false if the actor has '
    'paused it already.';

DROP FUNCTION tide.relay_resume(text, text, text, text);
CREATE FUNCTION tide.relay_resume(
    name text, reason text DEFAULT '', actor text DEFAULT session_user, relay_group text DEFAULT 'default',
    breaking boolean DEFAULT false
) RETURNS boolean
LANGUAGE sql AS $$
    SELECT tide.hold_lift(relay_resume.relay_group, 'pause', relay_resume.name, relay_resume.actor, relay_resume.reason, relay_resume.breaking) > 0
$$;
COMMENT ON FUNCTION tide.relay_resume(text, text, text, text, boolean) IS
    'Ends the actor''s pause of a pipeline, or everybody''s; false if it was not paused.';

CREATE OR REPLACE FUNCTION tide.relay_orders(relay_group text)
RETURNS TABLE (unit text, pause text, replay bigint)
LANGUAGE sql STABLE AS $$
    WITH pending AS (
        SELECT tide.unit_name(l.pipeline, tide.shard_of(d.key, d.message_id, l.shards), l.shards) AS unit, max(d.replay) AS replay
        FROM tide.relay_layouts l
        JOIN tide.relay_dlq d ON d.relay_group_id = l.relay_group_id AND d.pipeline = l.pipeline AND d.replay IS NOT NULL
        WHERE l.relay_group_id = relay_orders.relay_group
        GROUP BY 1
    ), pauses AS (
        SELECT p.pipeline,
               'paused ' || string_agg('by ' || p.actor || CASE WHEN p.reason = '' THEN '' ELSE ': ' || p.reason END,
                                       ', and ' ORDER BY p.generation) AS pause
        FROM tide.holds p
        WHERE p.relay_group_id = relay_orders.relay_group AND p.kind = 'pause'
          AND (p.expires_at IS NULL OR p.expires_at > now())
        GROUP BY p.pipeline
    ), paused AS (
        SELECT u.unit, p.pause FROM pauses p
        JOIN tide.relay_units(relay_orders.relay_group) u ON u.pipeline = p.pipeline
    )
    SELECT coalesce(p.unit, r.unit), p.pause, r.replay FROM paused p FULL JOIN pending r USING (unit)
$$;
DROP TABLE tide.pauses;

-- ---------------------------------------------------------------------------------------------
-- Safe to stop is a recorded fact
-- ---------------------------------------------------------------------------------------------

CREATE TABLE tide.safe_to_stop (
    relay_group_id text NOT NULL,
    agent          text NOT NULL,
    operation_id   uuid NOT NULL,
    incarnation    uuid NOT NULL,
    generation     bigint NOT NULL,
    verified_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    voided_at      timestamptz,
    voided_because text,
    PRIMARY KEY (relay_group_id, agent),
    CHECK ((voided_at IS NULL) = (voided_because IS NULL))
);
COMMENT ON TABLE tide.safe_to_stop IS
    'The newest drain of each agent that was observed complete: of which run, under which intent, when; and since when that is '
    'no longer so.';

CREATE FUNCTION tide.safety_void(relay_group text, agent text, because text) RETURNS void
LANGUAGE sql AS $$
    UPDATE tide.safe_to_stop s SET voided_at = clock_timestamp(), voided_because = safety_void.because
    WHERE s.relay_group_id = safety_void.relay_group AND s.agent = safety_void.agent AND s.voided_at IS NULL
$$;
COMMENT ON FUNCTION tide.safety_void(text, text, text) IS 'Notes that an agent is not safe to stop any more.';

CREATE FUNCTION tide.work_taken() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tide.safety_void(NEW.relay_group_id, NEW.owner, 'it took ' || NEW.name);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION tide.work_taken() IS 'An agent that takes anything is not safe to stop.';
-- Positions are stored without naming the epoch, so they never come by here.
CREATE TRIGGER work_taken AFTER INSERT OR UPDATE OF epoch ON tide.relay_consumer_offsets
    FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION tide.work_taken();

-- ---------------------------------------------------------------------------------------------
-- Drains
-- ---------------------------------------------------------------------------------------------

DROP FUNCTION tide.drain_begin(text, text, text, text, interval);
CREATE FUNCTION tide.drain_begin(
    relay_group text, agent text, actor text, reason text DEFAULT '', deadline interval DEFAULT NULL,
    parameters jsonb DEFAULT '{}'
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    running uuid;
    intent  bigint;
BEGIN
    PERFORM tide.known_agent(relay_group, drain_begin.agent);
    -- Serialises drains of one agent without a lock that anything else waits for.
    PERFORM pg_advisory_xact_lock(hashtext('tide.drain:' || relay_group), hashtext(agent));
    SELECT o.id INTO running FROM tide.operations o
    WHERE o.relay_group_id = relay_group AND o.kind = 'drain' AND o.target = agent AND o.state = 'running';
    IF FOUND AND EXISTS (
        SELECT FROM tide.holds h WHERE h.operation_id = running AND h.name = drain_begin.actor)
    THEN
        RETURN running;
    END IF;
    intent := nextval('tide.intent_generation');
    IF running IS NULL THEN
        running := gen_random_uuid();
        INSERT INTO tide.operations (id, relay_group_id, kind, target, request, actor, reason, generation, deadline_at)
        VALUES (running, relay_group, 'drain', agent, jsonb_build_object('drain', drain_begin.parameters), drain_begin.actor,
                coalesce(drain_begin.reason, ''), intent, now() + drain_begin.deadline);
    END IF;
    -- Draining what is drained verifies it again; one drain hold of each owner is enough. Whoever joins in
    -- has a hold too, so that nobody else can end it.
    INSERT INTO tide.holds AS h (relay_group_id, agent, kind, name, actor, reason, parameters, operation_id, generation)
    VALUES (relay_group, drain_begin.agent, 'drain', drain_begin.actor, drain_begin.actor, coalesce(drain_begin.reason, ''),
            drain_begin.parameters, running, intent)
    ON CONFLICT ON CONSTRAINT holds_named DO UPDATE
        SET actor = excluded.actor, reason = excluded.reason, parameters = excluded.parameters,
            operation_id = excluded.operation_id, generation = excluded.generation, created_at = now(), expires_at = NULL;
    PERFORM tide.intent_changed(relay_group, drain_begin.actor, 'drain.started', drain_begin.agent, drain_begin.reason,
        jsonb_build_object('operation', running) || drain_begin.parameters);
    RETURN running;
END
$$;
COMMENT ON FUNCTION tide.drain_begin(text, text, text, text, interval, jsonb) IS
    'Holds an agent and asks it to give everything away. Idempotent: a running drain is joined.';

DROP FUNCTION tide.undrain(text, text, text, text);
CREATE FUNCTION tide.undrain(
    relay_group text, agent text, actor text, reason text DEFAULT '', breaking boolean DEFAULT false
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    finished uuid := gen_random_uuid();
    others   text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tide.drain:' || relay_group), hashtext(agent));
    IF tide.hold_lift(relay_group, 'drain', undrain.agent, undrain.actor, undrain.reason, undrain.breaking) = 0 THEN
        RAISE EXCEPTION 'agent % is not drained', agent
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'See its holds with: tidectl agent show ' || agent;
    END IF;
    SELECT string_agg(h.kind || ' by ' || h.actor, ', ' ORDER BY h.generation) INTO others FROM tide.holds h
    WHERE h.relay_group_id = undrain.relay_group AND h.agent = undrain.agent AND (h.expires_at IS NULL OR h.expires_at > now());
    INSERT INTO tide.operations (id, relay_group_id, kind, target, actor, reason, state, outcome, generation, finished_at)
    VALUES (finished, relay_group, 'undrain', undrain.agent, undrain.actor, coalesce(undrain.reason, ''), 'succeeded',
            coalesce('still held: ' || others, 'takes work again'), nextval('tide.intent_generation'), now());
    RETURN finished;
END
$$;
COMMENT ON FUNCTION tide.undrain(text, text, text, text, boolean) IS
    'Ends the actor''s drain of an agent, or everybody''s if they are to be broken. The outcome names the holds that are left.';

CREATE OR REPLACE FUNCTION tide.operation_settle(operation uuid) RETURNS tide.operations
LANGUAGE plpgsql AS $$
DECLARE
    op       tide.operations;
    holder   integer;
    locks    bigint;
    agent    tide.agents;
    forced   boolean;
    grace    interval;
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
        forced := op.request -> 'drain' ->> 'on_deadline' IS NOT DISTINCT FROM 'force';
        SELECT n.pid INTO holder FROM tide.advisory_locks n
        WHERE n.class = tide.agent_lock_class(op.relay_group_id)::bigint & 4294967295
          AND n.object = tide.lock_key(op.target);
        SELECT * INTO agent FROM tide.agents a
        WHERE a.relay_group_id = op.relay_group_id AND a.name = op.target;
        IF holder IS NULL THEN
            settled := 'succeeded';
            verdict := 'safe to stop: the agent is not running and holds nothing';
        ELSE
            SELECT count(*) INTO locks FROM tide.advisory_locks l
            WHERE l.pid = holder AND l.class = tide.lock_key(op.relay_group_id);
            -- Empty twice: the agent says so after it has seen this very intent, and pg_locks agrees.
            IF locks = 0 AND agent.backend_pid = holder AND agent.owned = 0
               AND agent.acknowledged_generation >= op.generation THEN
                settled := 'succeeded';
                verdict := 'safe to stop: the agent reports nothing running and pg_locks shows no lock'
                    || CASE WHEN forced AND op.deadline_at < clock_timestamp()
                            THEN '; what was on its way at the deadline was given up and may come twice' ELSE '' END;
            END IF;
        END IF;
        IF settled = 'succeeded' AND agent.name IS NOT NULL THEN
            INSERT INTO tide.safe_to_stop AS s (relay_group_id, agent, operation_id, incarnation, generation)
            VALUES (op.relay_group_id, op.target, op.id, agent.incarnation, op.generation)
            ON CONFLICT ON CONSTRAINT safe_to_stop_pkey DO UPDATE
                SET operation_id = excluded.operation_id, incarnation = excluded.incarnation,
                    generation = excluded.generation, verified_at = excluded.verified_at,
                    voided_at = NULL, voided_because = NULL;
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

    -- An agent that is to force the end at the deadline has some time to do so.
    grace := CASE WHEN forced THEN interval '30 seconds' ELSE interval '0' END;
    IF settled IS NULL AND op.deadline_at + grace < clock_timestamp() THEN
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

CREATE OR REPLACE FUNCTION tide.operation_cancel(operation uuid, actor text) RETURNS tide.operations
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
    -- What already moved stays where it is; what has not moved loses the reason to. Whoever joined a
    -- drain has a hold that stays.
    DELETE FROM tide.holds h WHERE h.operation_id = op.id AND h.name = op.actor;
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
-- The end of holds, of restarts and of agents
-- ---------------------------------------------------------------------------------------------

ALTER TABLE tide.agents ADD COLUMN run uuid;
COMMENT ON COLUMN tide.agents.run IS
    'Of the process: another one after a restart, the same after a lost session, which is another incarnation.';

-- Runs with the rights of the catalog's owner, because agents may not delete what operators wrote.
CREATE FUNCTION tide.agent_restarted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held tide.holds;
BEGIN
    FOR held IN
        DELETE FROM tide.holds h
        WHERE h.relay_group_id = NEW.relay_group_id AND h.agent = NEW.name AND h.kind = 'drain'
          AND h.parameters ->> 'mode' = 'restart'
        RETURNING h.*
    LOOP
        PERFORM tide.hold_ended(held, NEW.name, 'it was restarted', 'the agent was restarted before it was empty');
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION tide.agent_restarted() IS 'A drain for a restart ends with the restart, whoever else is running.';
CREATE TRIGGER agent_restarted AFTER UPDATE OF run ON tide.agents
    FOR EACH ROW WHEN (OLD.run IS DISTINCT FROM NEW.run) EXECUTE FUNCTION tide.agent_restarted();

-- Runs with the rights of the catalog's owner, as agents that were removed call it for themselves.
CREATE FUNCTION tide.agent_remove(relay_group text, agent text, actor text, reason text DEFAULT '') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide.known_agent(relay_group, agent_remove.agent);
    IF EXISTS (
        SELECT FROM tide.advisory_locks n
        WHERE n.class = tide.agent_lock_class(relay_group)::bigint & 4294967295 AND n.object = tide.lock_key(agent_remove.agent))
    THEN
        RAISE EXCEPTION 'agent % is running', agent_remove.agent
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Empty and stop it: tidectl drain ' || agent_remove.agent || ' --mode remove';
    END IF;
    DELETE FROM tide.holds h WHERE h.relay_group_id = relay_group AND h.agent = agent_remove.agent;
    UPDATE tide.operations o SET state = 'cancelled', outcome = 'the agent was removed', finished_at = clock_timestamp()
    WHERE o.relay_group_id = relay_group AND o.kind = 'drain' AND o.target = agent_remove.agent AND o.state = 'running';
    DELETE FROM tide.placements p WHERE p.relay_group_id = relay_group AND p.agent = agent_remove.agent;
    DELETE FROM tide.safe_to_stop s WHERE s.relay_group_id = relay_group AND s.agent = agent_remove.agent;
    DELETE FROM tide.agents a WHERE a.relay_group_id = relay_group AND a.name = agent_remove.agent;
    PERFORM tide.intent_changed(relay_group, agent_remove.actor, 'agent.removed', agent_remove.agent, agent_remove.reason, '{}');
END
$$;
COMMENT ON FUNCTION tide.agent_remove(text, text, text, text) IS
    'Forgets an agent that does not run: its record, its holds, and what was placed on it. It may come back as a new one.';
REVOKE ALL ON FUNCTION tide.agent_remove(text, text, text, text) FROM PUBLIC;

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
    ELSE
        RAISE EXCEPTION 'unknown history %', coalesce(quote_literal(what), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Purge events, operations or holds.';
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
        GRANT SELECT, INSERT, UPDATE ON tide.safe_to_stop TO tide_relay;
        GRANT EXECUTE ON FUNCTION tide.agent_remove(text, text, text, text) TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON tide.safe_to_stop TO tide_admin;
        GRANT EXECUTE ON FUNCTION tide.agent_remove(text, text, text, text) TO tide_admin;
    END IF;
END
$$;
