-- How long a pipeline stands still when it changes hands, measured on one clock: the database's.
-- An owner that leaves stamps when it fell silent; what its successor was ready is compared with
-- that. Each adds only durations of its own, so clocks of two machines never meet.

ALTER TABLE tide.relay_consumer_offsets
    ADD COLUMN left_at   timestamptz,
    ADD COLUMN left_by   text,
    ADD COLUMN left_kind text CHECK (left_kind IN ('drain', 'rebalance', 'shutdown', 'move', 'crash'));
COMMENT ON COLUMN tide.relay_consumer_offsets.left_at IS
    'When the former owner fell silent; NULL once its successor was ready. Of a crash: its last sign of life.';
COMMENT ON COLUMN tide.relay_consumer_offsets.left_kind IS
    'Why it left; NULL with left_at where nobody was to take over, which is no hand-over.';

CREATE FUNCTION tide.relay_release(
    relay_group text, agent text, incarnation uuid,
    pipelines text[], kinds text[], quiet_ms double precision[], successors text[]
) RETURNS TABLE (all_held boolean, unstamped text)
LANGUAGE plpgsql AS $$
DECLARE
    -- The longest list of names that fits a notification with room to spare (the limit is 8,000 bytes).
    names_per_notice CONSTANT integer := 40;
BEGIN
    -- A measurement: the hand-over does not wait for the disk on its account.
    PERFORM set_config('synchronous_commit', 'off', true);
    BEGIN
        -- In the order in which everybody locks these rows, so that nobody waits in a circle.
        PERFORM FROM tide.relay_consumer_offsets o
        WHERE o.relay_group_id = relay_release.relay_group AND o.name = ANY (relay_release.pipelines)
        ORDER BY o.name COLLATE "C" FOR NO KEY UPDATE;
        UPDATE tide.relay_consumer_offsets o
        SET left_at = clock_timestamp() - l.quiet_ms * interval '1 millisecond',
            left_by = relay_release.agent,
            -- A rebalance that somebody asked for places pipelines too.
            left_kind = CASE WHEN l.kind = 'move' AND EXISTS (
                    SELECT FROM tide.placements p
                    JOIN tide.operations op ON op.relay_group_id = p.relay_group_id AND op.generation = p.generation
                    WHERE p.relay_group_id = o.relay_group_id AND p.pipeline = o.name AND op.kind = 'rebalance')
                THEN 'rebalance' ELSE l.kind END
        FROM unnest(relay_release.pipelines, relay_release.kinds, relay_release.quiet_ms) AS l (pipeline, kind, quiet_ms)
        WHERE o.relay_group_id = relay_release.relay_group AND o.name = l.pipeline
          AND o.owner_incarnation = relay_release.incarnation;
    EXCEPTION WHEN OTHERS THEN
        -- A hand-over that cannot be measured is done all the same.
        unstamped := SQLERRM;
    END;
    -- A successor that is quicker than this transaction waits for its rows, so it finds the stamps.
    SELECT coalesce(bool_and(pg_advisory_unlock(hashtext(relay_release.relay_group), hashtext(l.pipeline))), true)
    INTO all_held
    FROM unnest(relay_release.pipelines) AS l (pipeline);
    PERFORM pg_notify('tide_fleet', json_build_object(
        'group', relay_release.relay_group, 'released', json_agg(l.pipeline ORDER BY l.number), 'to', l.successor)::text)
    FROM (SELECT r.pipeline, r.successor, row_number() OVER (PARTITION BY r.successor) - 1 AS number
          FROM unnest(relay_release.pipelines, relay_release.successors) AS r (pipeline, successor)
          WHERE r.successor IS NOT NULL) l
    GROUP BY l.successor, l.number / names_per_notice;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tide.relay_release(text, text, uuid, text[], text[], double precision[], text[]) IS
    'Run by an owner on the session that holds the locks: since when it has been silent and why it goes, unlock, tell successors.';

CREATE FUNCTION tide.relay_taken() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.owner_incarnation IS NOT DISTINCT FROM OLD.owner_incarnation THEN
        -- The same run claims again, for a new configuration: nothing changed hands.
        NEW.left_at := NULL;
        NEW.left_by := NULL;
        NEW.left_kind := NULL;
    ELSIF OLD.left_at IS NULL AND OLD.owner IS NOT NULL
          AND OLD.system_identifier = (SELECT c.system_identifier FROM pg_control_system() c) THEN
        -- Nobody said goodbye.
        NEW.left_at := greatest(OLD.updated_at, OLD.state_since,
            (SELECT a.last_seen_at FROM tide.agents a
             WHERE a.relay_group_id = OLD.relay_group_id AND a.name = OLD.owner
               AND a.incarnation = OLD.owner_incarnation));
        NEW.left_by := OLD.owner;
        NEW.left_kind := 'crash';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION tide.relay_taken() IS 'Notes, when a pipeline is claimed, since when its former owner has been gone.';
-- Positions are stored without naming the epoch, so they never come by here.
CREATE TRIGGER relay_taken BEFORE UPDATE OF epoch ON tide.relay_consumer_offsets
    FOR EACH ROW WHEN (OLD.epoch IS DISTINCT FROM NEW.epoch) EXECUTE FUNCTION tide.relay_taken();

CREATE FUNCTION tide.relay_ready(
    relay_group text, agent text, pipelines text[], epochs bigint[], ready_ms double precision[]
) RETURNS TABLE (pipeline text, kind text, former text, gap_seconds double precision)
LANGUAGE sql AS $$
    WITH ready AS (
        SELECT o.name, o.epoch, o.left_by, o.left_kind,
               greatest(extract(epoch FROM clock_timestamp() - r.ready_ms * interval '1 millisecond' - o.left_at), 0)
                   ::double precision AS gap
        FROM unnest(relay_ready.pipelines, relay_ready.epochs, relay_ready.ready_ms) AS r (pipeline, epoch, ready_ms)
        JOIN tide.relay_consumer_offsets o
          ON o.relay_group_id = relay_ready.relay_group AND o.name = r.pipeline AND o.epoch = r.epoch
        WHERE o.left_at IS NOT NULL
        -- In the order in which everybody locks these rows, so that nobody waits in a circle.
        ORDER BY o.name COLLATE "C" FOR NO KEY UPDATE OF o
    ), settled AS (
        UPDATE tide.relay_consumer_offsets o SET left_at = NULL, left_by = NULL, left_kind = NULL
        FROM ready r
        WHERE o.relay_group_id = relay_ready.relay_group AND o.name = r.name AND o.epoch = r.epoch
    ), audited AS (
        INSERT INTO tide.events (relay_group_id, actor, kind, subject, detail)
        SELECT relay_ready.relay_group, relay_ready.agent, 'ownership.handed_over', r.name,
               jsonb_build_object('kind', r.left_kind, 'from', r.left_by, 'to', relay_ready.agent,
                                  'epoch', r.epoch, 'gap_seconds', round(r.gap::numeric, 6))
        FROM ready r WHERE r.left_kind IS NOT NULL
    )
    SELECT r.name, r.left_kind, r.left_by, r.gap FROM ready r WHERE r.left_kind IS NOT NULL
$$;
COMMENT ON FUNCTION tide.relay_ready(text, text, text[], bigint[], double precision[]) IS
    'Run by a new owner: since when it has been ready to deliver. Returns and records how long each pipeline stood still.';

CREATE FUNCTION tide.try_locks(relay_group text, pipelines text[])
RETURNS TABLE ("position" integer, locked boolean)
LANGUAGE plpgsql AS $$
DECLARE
    got boolean[] := '{}';
BEGIN
    BEGIN
        FOR i IN 1 .. cardinality(pipelines) LOOP
            got := got || pg_try_advisory_lock(hashtext(relay_group), hashtext(pipelines[i]));
        END LOOP;
    EXCEPTION WHEN out_of_memory THEN
        -- Session locks outlive the error. Whoever filled the server's lock table to its last entry
        -- would stop every other session, applications included: give some of these back.
        FOR i IN REVERSE cardinality(got) .. greatest(cardinality(got) - 31, 1) LOOP
            IF got[i] THEN
                PERFORM pg_advisory_unlock(hashtext(relay_group), hashtext(pipelines[i]));
            END IF;
            got[i] := NULL;
        END LOOP;
    END;
    RETURN QUERY SELECT i, got[i] FROM generate_subscripts(pipelines, 1) AS i;
END
$$;
COMMENT ON FUNCTION tide.try_locks(text, text[]) IS
    'Tries to lock pipelines for this session: locked, held by another (false), or no room in the server''s lock table (NULL).';
