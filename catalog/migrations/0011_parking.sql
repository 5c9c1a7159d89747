-- Strict order: of a pipeline that asks for it, a message that a sink refuses for good parks its key.
-- Later messages of the key follow it into the dead letters, unsent and in order, until an operator
-- has all of them delivered again or discards them. A key is parked as long as a letter of it is.

ALTER TABLE tide.relay_dlq ADD COLUMN parked boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN tide.relay_dlq.parked IS
    'Whether later messages of its key wait behind it; they are letters too, and parked as well. Such letters are delivered in the order of id.';
CREATE INDEX relay_dlq_parked ON tide.relay_dlq (relay_group_id, pipeline, key, id) WHERE parked;
ALTER TABLE tide.relay_dlq ADD CONSTRAINT relay_dlq_parked_has_key CHECK (key IS NOT NULL OR NOT parked);

-- Owners put messages behind those that are there, while operators take some away or ask for them: each
-- has to know what the other did. Many owners at a time, or one operator.
CREATE FUNCTION tide.parking_lock(relay_group text, alone boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(hashtext('tide.parking'), hashtext(relay_group));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtext('tide.parking'), hashtext(relay_group));
    END IF;
END
$$;
COMMENT ON FUNCTION tide.parking_lock(text, boolean) IS 'Until the end of the transaction nobody else changes which keys are parked, or only other owners do.';

CREATE FUNCTION tide.dlq_park(
    relay_group text, unit text, epoch bigint, refusal text, attempts integer,
    message_ids bigint[], event_ids uuid[], keys text[], headers text[], payloads text[], published_at timestamptz[],
    most_keys bigint, most_messages bigint, OUT outcome text, OUT opened text[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    owned    record;
    there    record;
    news     bigint;
    new_keys bigint;
BEGIN
    -- First, so that a claim does not wait for an operator behind us.
    PERFORM tide.parking_lock(relay_group, false);
    SELECT p.name, p.outbox INTO owned
    FROM tide.relay_consumer_offsets o JOIN tide.pipelines p ON p.name = o.pipeline
    WHERE o.relay_group_id = relay_group AND o.name = unit AND o.epoch = dlq_park.epoch
    FOR SHARE OF o;
    IF NOT FOUND THEN
        outcome := 'fenced';
        RETURN;
    END IF;
    opened := ARRAY[]::text[];
    IF refusal IS NULL THEN
        SELECT coalesce(array_agg(DISTINCT k.key), opened) INTO opened
        FROM unnest(keys) AS k (key)
        WHERE NOT EXISTS (SELECT FROM tide.relay_dlq d
                          WHERE d.relay_group_id = relay_group AND d.pipeline = owned.name AND d.parked AND d.key = k.key);
    END IF;
    SELECT count(*), count(DISTINCT m.key) FILTER (WHERE NOT EXISTS (
               SELECT FROM tide.relay_dlq d
               WHERE d.relay_group_id = relay_group AND d.pipeline = owned.name AND d.parked AND d.key = m.key))
    INTO news, new_keys
    FROM unnest(message_ids, event_ids, keys) AS m (id, event_id, key)
    WHERE m.key <> ALL (opened)
      AND NOT EXISTS (SELECT FROM tide.relay_dlq d
                      WHERE d.relay_group_id = relay_group AND d.pipeline = owned.name
                        AND d.message_id = m.id AND d.event_id = m.event_id);
    IF news = 0 THEN
        -- Put aside before, by an owner that could not store its position any more.
        outcome := 'parked';
        RETURN;
    END IF;
    SELECT count(*) AS messages, count(DISTINCT d.key) AS keys INTO there
    FROM tide.relay_dlq d
    WHERE d.relay_group_id = relay_group AND d.pipeline = owned.name AND d.parked;
    IF there.messages + news > most_messages OR there.keys + new_keys > most_keys THEN
        outcome := 'full';
        RETURN;
    END IF;
    WITH written AS (
        INSERT INTO tide.relay_dlq AS l
            (relay_group_id, pipeline, outbox, message_id, event_id, key, headers, payload, error, attempts, epoch, published_at, parked, replay)
        SELECT relay_group, owned.name, owned.outbox, m.id, m.event_id, m.key, m.headers::jsonb, m.payload::jsonb,
               coalesce(refusal, format('not sent: it waits behind letter %s of its key', before.first)),
               dlq_park.attempts, dlq_park.epoch, m.published_at, true, before.replay
        FROM unnest(message_ids, event_ids, keys, headers, payloads, published_at)
             WITH ORDINALITY AS m (id, event_id, key, headers, payload, published_at, place)
        LEFT JOIN LATERAL (
            SELECT min(d.id) AS first,
                   -- What follows letters that are being delivered again is delivered with them.
                   (array_agg(d.replay ORDER BY d.id DESC))[1] AS replay
            FROM tide.relay_dlq d
            WHERE d.relay_group_id = relay_group AND d.pipeline = owned.name AND d.parked AND d.key = m.key
        ) before ON true
        WHERE m.key <> ALL (opened)
        ORDER BY m.place
        ON CONFLICT ON CONSTRAINT relay_dlq_message DO NOTHING
        RETURNING l.replay
    )
    UPDATE tide.relay_replays r SET letters = r.letters + w.letters
    FROM (SELECT replay, count(*) AS letters FROM written WHERE replay IS NOT NULL GROUP BY replay) w
    WHERE r.id = w.replay;
    outcome := 'parked';
END
$$;
COMMENT ON FUNCTION tide.dlq_park(text, text, bigint, text, integer, bigint[], uuid[], text[], text[], text[], timestamptz[], bigint, bigint) IS
    'Puts messages aside and parks their keys: one that was refused, or, without a refusal, those that follow letters of their keys; '
    'keys that are parked no more are returned instead. The outcome is parked, full (nothing was written) or fenced.';
REVOKE ALL ON FUNCTION
    tide.dlq_park(text, text, bigint, text, integer, bigint[], uuid[], text[], text[], text[], timestamptz[], bigint, bigint) FROM PUBLIC;

CREATE FUNCTION tide.dlq_keys(relay_group text DEFAULT 'default', pipeline text DEFAULT NULL)
RETURNS TABLE (name text, key text, letters bigint, first_letter bigint, error text, attempts integer, parked_at timestamptz, replaying bigint)
LANGUAGE sql STABLE AS $$
    SELECT d.pipeline, d.key, count(*), min(d.id),
           (array_agg(d.error ORDER BY d.id))[1], (array_agg(d.attempts ORDER BY d.id))[1], min(d.created_at),
           count(d.replay)
    FROM tide.relay_dlq d
    WHERE d.relay_group_id = dlq_keys.relay_group AND d.parked
      AND (dlq_keys.pipeline IS NULL OR d.pipeline = dlq_keys.pipeline)
    GROUP BY d.pipeline, d.key
    ORDER BY min(d.id)
$$;
COMMENT ON FUNCTION tide.dlq_keys(text, text) IS
    'Keys that are parked: how many letters wait, why the first of them was refused, and how many are being delivered again.';

CREATE OR REPLACE FUNCTION tide.dlq_replay(
    relay_group text DEFAULT 'default', pipeline text DEFAULT NULL, key text DEFAULT NULL, error text DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, ids bigint[] DEFAULT NULL,
    rate double precision DEFAULT NULL, actor text DEFAULT session_user, reason text DEFAULT ''
) RETURNS TABLE (name text, replay bigint, letters bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    chosen  bigint[];
    misfit  text;
    skipped record;
BEGIN
    IF rate <= 0 THEN
        RAISE EXCEPTION 'a rate of % messages a second delivers none', rate
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a rate above zero, or none for no limit.';
    END IF;
    -- Owners take a higher number for a newer replay, so numbers must become visible in their order.
    PERFORM pg_advisory_xact_lock(hashtext('tide.dlq_replay'), hashtext(relay_group));
    PERFORM tide.parking_lock(relay_group, true);
    -- Those that are being replayed already are not asked for twice.
    SELECT array_agg(d.id ORDER BY d.id) INTO chosen FROM (
        SELECT x.id FROM tide.relay_dlq x
        WHERE x.replay IS NULL
          AND x.id IN (SELECT l.id FROM tide.dlq_list(dlq_replay.relay_group, dlq_replay.pipeline, dlq_replay.key, dlq_replay.error,
                                                     dlq_replay.since, dlq_replay.until, dlq_replay.ids) l)
        FOR UPDATE) d;
    SELECT string_agg(DISTINCT d.pipeline, ', ' ORDER BY d.pipeline) INTO misfit
    FROM tide.relay_dlq d
    WHERE d.id = ANY (chosen)
      AND NOT EXISTS (SELECT FROM tide.pipelines p WHERE p.name = d.pipeline AND p.outbox = d.outbox);
    IF misfit IS NOT NULL THEN
        RAISE EXCEPTION 'letters of these pipelines have nobody to deliver them: %', misfit
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'The pipeline was deleted, or reads another outbox now: create it again, choose other letters, or discard these.';
    END IF;
    -- The order of a key that is parked: nothing before what comes earlier.
    WITH asked AS (
        SELECT unnest(chosen) AS id
    ), latest AS (
        SELECT d.pipeline, d.key, max(d.id) AS id FROM tide.relay_dlq d JOIN asked a ON a.id = d.id
        WHERE d.parked GROUP BY d.pipeline, d.key
    )
    SELECT d.id, d.pipeline, d.key INTO skipped
    FROM latest l
    JOIN tide.relay_dlq d ON d.relay_group_id = dlq_replay.relay_group AND d.pipeline = l.pipeline AND d.parked AND d.key = l.key
                         AND d.id < l.id AND d.replay IS NULL
    LEFT JOIN asked a ON a.id = d.id
    WHERE a.id IS NULL
    ORDER BY d.id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'letter % of key % comes before those that are to be delivered', skipped.id, quote_literal(skipped.key)
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('The key is parked, so its letters are delivered in their order: replay all of them (tidectl dlq replay '
                                '--pipeline %s --key %L), or discard the earlier ones first.', skipped.pipeline, skipped.key);
    END IF;
    FOR name, letters IN
        SELECT d.pipeline, count(*) FROM tide.relay_dlq d WHERE d.id = ANY (chosen) GROUP BY d.pipeline ORDER BY d.pipeline
    LOOP
        INSERT INTO tide.relay_replays AS r (relay_group_id, pipeline, actor, reason, rate, letters)
        VALUES (relay_group, name, dlq_replay.actor, coalesce(dlq_replay.reason, ''), dlq_replay.rate, letters)
        RETURNING r.id INTO replay;
        UPDATE tide.relay_dlq d SET replay = dlq_replay.replay WHERE d.id = ANY (chosen) AND d.pipeline = dlq_replay.name;
        PERFORM tide.intent_changed(relay_group, dlq_replay.actor, 'dlq.replay_started', name, dlq_replay.reason,
            jsonb_build_object('replay', replay, 'letters', letters, 'rate', dlq_replay.rate));
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tide.dlq_replay(text, text, text, text, timestamptz, timestamptz, bigint[], double precision, text, text) IS
    'Asks the owners of pipelines to deliver dead letters again, in the order in which they were refused. A letter goes when it is delivered; '
    'one that is refused again stays, with more attempts, and so do those behind it if its key is parked. Letters of such a key cannot '
    'overtake each other: choosing one without those before it is an error.';

CREATE OR REPLACE FUNCTION tide.dlq_refused(relay_group text, unit text, epoch bigint, letter bigint, error text, attempts integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    refused tide.relay_dlq;
    one     record;
BEGIN
    PERFORM FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = dlq_refused.relay_group AND o.name = dlq_refused.unit AND o.epoch = dlq_refused.epoch
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT d.* INTO refused FROM tide.relay_dlq d
    WHERE d.id = letter AND d.relay_group_id = dlq_refused.relay_group AND d.pipeline = tide.unit_pipeline(dlq_refused.unit)
    FOR UPDATE;
    IF refused.replay IS NOT NULL THEN
        UPDATE tide.relay_dlq d
        SET attempts = d.attempts + dlq_refused.attempts, error = dlq_refused.error, epoch = dlq_refused.epoch, replay = NULL
        WHERE d.id = letter;
        UPDATE tide.relay_replays r SET refused = r.refused + 1 WHERE r.id = refused.replay;
        -- Those behind it wait again, whoever asked for them.
        FOR one IN
            WITH waiting AS (
                UPDATE tide.relay_dlq d SET replay = NULL
                FROM (SELECT x.id, x.replay FROM tide.relay_dlq x
                      WHERE refused.parked AND x.relay_group_id = refused.relay_group_id AND x.pipeline = refused.pipeline AND x.parked
                        AND x.key = refused.key AND x.id > letter AND x.replay IS NOT NULL
                      FOR UPDATE) x
                WHERE d.id = x.id
                RETURNING x.replay
            )
            SELECT refused.replay AS replay UNION SELECT w.replay FROM waiting w
        LOOP
            PERFORM tide.replay_settle(one.replay);
        END LOOP;
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.dlq_refused(text, text, bigint, bigint, text, integer) IS
    'Keeps a letter that was refused again, and those behind it if its key is parked: attempts rise, the reason is the newest. False means fenced.';

CREATE OR REPLACE FUNCTION tide.dlq_discard(
    relay_group text DEFAULT 'default', pipeline text DEFAULT NULL, key text DEFAULT NULL, error text DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, ids bigint[] DEFAULT NULL,
    actor text DEFAULT session_user, reason text DEFAULT ''
) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    chosen bigint[];
    one    record;
    gone   bigint := 0;
BEGIN
    -- An owner that puts a message behind one of these has to find it gone.
    PERFORM tide.parking_lock(relay_group, true);
    SELECT array_agg(l.id) INTO chosen
    FROM tide.dlq_list(dlq_discard.relay_group, dlq_discard.pipeline, dlq_discard.key, dlq_discard.error,
                       dlq_discard.since, dlq_discard.until, dlq_discard.ids) l;
    FOR one IN
        WITH discarded AS (
            DELETE FROM tide.relay_dlq d WHERE d.id = ANY (chosen) RETURNING d.pipeline, d.event_id, d.replay
        )
        SELECT d.pipeline, count(*) AS letters, array_agg(DISTINCT d.replay) FILTER (WHERE d.replay IS NOT NULL) AS replays,
               -- Enough to find them elsewhere; an audit is no second store.
               (array_agg(d.event_id))[1:1000] AS events
        FROM discarded d GROUP BY d.pipeline ORDER BY d.pipeline
    LOOP
        gone := gone + one.letters;
        PERFORM tide.intent_changed(dlq_discard.relay_group, dlq_discard.actor, 'dlq.discarded', one.pipeline, dlq_discard.reason,
            jsonb_build_object('letters', one.letters, 'event_ids', one.events));
        PERFORM tide.replay_settle(r.id) FROM unnest(one.replays) AS r (id);
    END LOOP;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION tide.dlq_discard(text, text, text, text, timestamptz, timestamptz, bigint[], text, text) IS
    'Deletes dead letters for good and returns how many; also those that are being replayed, which ends that. '
    'A parked key whose letters are all gone is open.';

-- ---------------------------------------------------------------------------------------------
-- Who waits for whom
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.outbox_readers(name text)
RETURNS TABLE (
    relay_group_id text, unit text, enabled boolean, last_change_id bigint, behind bigint, next_id bigint, next_at timestamptz,
    moved_at timestamptz, state text, state_reason text, state_since timestamptz
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    outbox tide.outboxes;
    head   bigint;
BEGIN
    SELECT * INTO outbox FROM tide.outboxes o WHERE o.name = outbox_readers.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox % does not exist', coalesce(quote_literal(outbox_readers.name), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = format('Create it with: SELECT tide.outbox_create(%L);', outbox_readers.name);
    END IF;
    head := coalesce(pg_sequence_last_value(outbox.sequence), 0);
    FOR relay_group_id, unit, enabled, last_change_id, moved_at, state, state_reason, state_since IN
        -- A pipeline without a position has read nothing, in whichever group it is going to run.
        SELECT coalesce(f.relay_group_id, ''), coalesce(f.name, p.name), p.enabled, coalesce(f.last_change_id, 0), f.updated_at,
               f.state, f.state_reason, f.state_since
        FROM tide.pipelines p LEFT JOIN tide.relay_consumer_offsets f ON f.pipeline = p.name
        WHERE p.outbox = outbox.name
        ORDER BY coalesce(f.last_change_id, 0), 2, 1
    LOOP
        next_id := NULL;
        next_at := NULL;
        EXECUTE format('SELECT m.id, m.created_at FROM %s m WHERE m.id > $1 ORDER BY m.id LIMIT 1', outbox.relation)
            INTO next_id, next_at USING last_change_id;
        behind := CASE WHEN next_id IS NULL THEN 0 ELSE greatest(head - greatest(last_change_id, next_id - 1), 1) END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tide.outbox_readers(text) IS
    'One row a reader of an outbox, the furthest behind first, because nothing above its position can be deleted: how far it got, what it '
    'has to read next and since when that waits, and what its owner says about itself.';

CREATE FUNCTION tide.outbox_upkeep(name text)
RETURNS TABLE (
    oldest_id bigint, oldest_at timestamptz, retention interval, swept_id bigint,
    live_rows bigint, dead_rows bigint, vacuumed_at timestamptz, size_bytes bigint
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    outbox tide.outboxes;
BEGIN
    SELECT * INTO outbox FROM tide.outboxes o WHERE o.name = outbox_upkeep.name;
    IF NOT FOUND THEN
        RETURN; -- dropped meanwhile
    END IF;
    EXECUTE format('SELECT m.id, m.created_at FROM %s m ORDER BY m.id LIMIT 1', outbox.relation) INTO oldest_id, oldest_at;
    retention := outbox.retention;
    swept_id := outbox.swept_id;
    SELECT coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), greatest(s.last_vacuum, s.last_autovacuum)
    INTO live_rows, dead_rows, vacuumed_at
    FROM pg_stat_all_tables s WHERE s.relid = outbox.relation;
    size_bytes := pg_total_relation_size(outbox.relation);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tide.outbox_upkeep(text) IS
    'What there is to delete in an outbox, from when on, and how much of what was deleted is still in the table.';

-- ---------------------------------------------------------------------------------------------
-- Retention of dead letters
-- ---------------------------------------------------------------------------------------------

CREATE INDEX relay_dlq_age ON tide.relay_dlq (pipeline, created_at) WHERE NOT parked AND replay IS NULL;

CREATE FUNCTION tide.dlq_sweep(leader_epoch bigint, batch integer) RETURNS TABLE (pipeline text, deleted bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    RETURN QUERY
        WITH asked AS MATERIALIZED (
            SELECT p.name, make_interval(secs => (p.config ->> 'dlq_retention_seconds')::double precision) AS retention
            FROM tide.pipelines p
            -- A row that was edited by hand may ask for anything; what makes no sense deletes nothing.
            WHERE CASE WHEN jsonb_typeof(p.config -> 'dlq_retention_seconds') = 'number'
                       THEN (p.config ->> 'dlq_retention_seconds')::numeric BETWEEN 1 AND 3153600000 ELSE false END
        ), old AS (
            SELECT d.id FROM asked a
            JOIN tide.relay_dlq d ON d.pipeline = a.name AND d.created_at < clock_timestamp() - a.retention
            WHERE NOT d.parked AND d.replay IS NULL
            ORDER BY d.id LIMIT batch
            FOR UPDATE OF d SKIP LOCKED
        ), gone AS (
            DELETE FROM tide.relay_dlq d USING old o WHERE d.id = o.id AND NOT d.parked AND d.replay IS NULL RETURNING d.pipeline
        )
        SELECT g.pipeline, count(*) FROM gone g GROUP BY g.pipeline ORDER BY g.pipeline;
END
$$;
COMMENT ON FUNCTION tide.dlq_sweep(bigint, integer) IS
    'Deletes up to a batch of dead letters that were refused longer ago than their pipeline keeps them (dlq_retention_seconds), for the '
    'janitor. Never one that waits for others of its key, nor one that is being delivered again.';
REVOKE ALL ON FUNCTION tide.dlq_sweep(bigint, integer) FROM PUBLIC;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tide_relay', 'tide_admin'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION tide.dlq_park(text, text, bigint, text, integer, bigint[], uuid[], text[], text[], text[], '
                           'timestamptz[], bigint, bigint), tide.dlq_sweep(bigint, integer) TO %I', role_name);
        END IF;
    END LOOP;
END
$$;
