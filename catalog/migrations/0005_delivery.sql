-- Delivery: inboxes, where messages of this or another database arrive once; what operators do to
-- deliveries: pause, rewind, and the dead letters.

CREATE TABLE tide.inboxes (
    name       text PRIMARY KEY
               CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,47}$'),
    relation   regclass NOT NULL,
    retention  interval NOT NULL CHECK (retention >= interval '0'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tide.inboxes IS 'One row an inbox; its messages live in a table of their own, named by relation.';

INSERT INTO tide.sink_types (name, description) VALUES
    ('pg-inbox', 'an inbox in PostgreSQL, in this database exactly once');

CREATE FUNCTION tide.inbox_relation(name text) RETURNS regclass
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- By name and not through tide.inboxes, which consumers need not be able to read.
    relation regclass := to_regclass(format('tide.%I', 'inbox_' || inbox_relation.name));
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'inbox % does not exist', coalesce(quote_literal(inbox_relation.name), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = format('Create it with: SELECT tide.inbox_create(%L);', inbox_relation.name);
    END IF;
    RETURN relation;
END
$$;
COMMENT ON FUNCTION tide.inbox_relation(text) IS 'The table of an inbox, or an error that says how to make one.';

CREATE FUNCTION tide.inbox_create(name text, retention interval DEFAULT '72 hours') RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    relation text := 'inbox_' || inbox_create.name;
BEGIN
    IF inbox_create.name IS NULL OR inbox_create.name !~ '^[A-Za-z_][A-Za-z0-9_.-]{0,47}$' THEN
        RAISE EXCEPTION 'invalid inbox name %', coalesce(quote_literal(inbox_create.name), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 48 letters, digits, underscores, dots or dashes, starting with a letter or underscore.';
    END IF;
    IF inbox_create.retention IS NULL OR inbox_create.retention < interval '0' THEN
        RAISE EXCEPTION 'invalid retention % for inbox %', coalesce(quote_literal(inbox_create.retention::text), 'NULL'), inbox_create.name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an interval of zero or more, such as ''72 hours''.';
    END IF;
    IF EXISTS (SELECT FROM tide.inboxes i WHERE i.name = inbox_create.name) THEN
        RAISE EXCEPTION 'inbox % already exists', inbox_create.name
            USING ERRCODE = 'duplicate_object', HINT = 'List inboxes with: SELECT * FROM tide.inbox_status();';
    END IF;

    EXECUTE format(
        'CREATE TABLE tide.%I (
            event_id     uuid PRIMARY KEY,
            id           bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
            source       text NOT NULL,
            source_id    bigint NOT NULL,
            key          text,
            payload      jsonb NOT NULL,
            headers      jsonb NOT NULL CHECK (jsonb_typeof(headers) = ''object''),
            created_at   timestamptz NOT NULL,
            received_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
            processed_at timestamptz,
            attempts     integer NOT NULL DEFAULT 0,
            last_error   text
        )', relation);
    EXECUTE format('CREATE INDEX ON tide.%I (id) WHERE processed_at IS NULL', relation);
    EXECUTE format('CREATE INDEX ON tide.%I (processed_at) WHERE processed_at IS NOT NULL', relation);
    -- Any administrator may drop what another created.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') AND pg_has_role(current_user, 'tide_admin', 'MEMBER') THEN
        EXECUTE format('ALTER TABLE tide.%I OWNER TO tide_admin', relation);
    END IF;
    EXECUTE format('COMMENT ON TABLE tide.%I IS %L', relation,
        'Inbox ' || inbox_create.name || ': take messages in the order of id where processed_at is NULL, and settle them with '
        || 'tide.inbox_mark_processed.');
    EXECUTE format('COMMENT ON COLUMN tide.%I.id IS %L', relation, 'Order of arrival; messages of one key arrive in the order of their commits.');
    EXECUTE format('COMMENT ON COLUMN tide.%I.source IS %L', relation, 'The outbox that it comes from; source_id is its id there.');

    INSERT INTO tide.inboxes (name, relation, retention)
    VALUES (inbox_create.name, format('tide.%I', relation)::regclass, inbox_create.retention);
    PERFORM tide.inbox_rights(inbox_create.name);
END
$$;
COMMENT ON FUNCTION tide.inbox_create(text, interval) IS
    'Creates an inbox; retention is how long processed messages stay at least, and with them the memory of their event ids.';

CREATE FUNCTION tide.inbox_rights(name text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    relation regclass := tide.inbox_relation(inbox_rights.name);
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        EXECUTE format('GRANT SELECT, INSERT (event_id, source, source_id, key, payload, headers, created_at), DELETE ON %s TO tide_relay', relation);
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO tide_admin', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION tide.inbox_rights(text) IS 'Gives the tide roles their rights on one inbox; for inboxes older than the roles.';

CREATE FUNCTION tide.inbox_grant(name text, consumer name) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    relation regclass := tide.inbox_relation(inbox_grant.name);
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', inbox_grant.consumer);
    EXECUTE format('GRANT SELECT, UPDATE (processed_at, attempts, last_error) ON %s TO %I', relation, inbox_grant.consumer);
END
$$;
COMMENT ON FUNCTION tide.inbox_grant(text, name) IS 'Lets a role take messages from one inbox and settle them, and nothing else.';

CREATE FUNCTION tide.inbox_drop(name text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    dropped tide.inboxes;
BEGIN
    DELETE FROM tide.inboxes i WHERE i.name = inbox_drop.name RETURNING * INTO dropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'inbox % does not exist', coalesce(quote_literal(inbox_drop.name), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'List inboxes with: SELECT * FROM tide.inbox_status();';
    END IF;
    EXECUTE format('DROP TABLE %s', dropped.relation);
END
$$;
COMMENT ON FUNCTION tide.inbox_drop(text) IS 'Drops an inbox and its messages; a pipeline that delivers to it then says that it is missing.';

CREATE FUNCTION tide.inbox_mark_processed(name text, VARIADIC event_ids uuid[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    marked bigint;
BEGIN
    EXECUTE format('UPDATE %s SET processed_at = clock_timestamp(), last_error = NULL WHERE event_id = ANY ($1) AND processed_at IS NULL',
                   tide.inbox_relation(inbox_mark_processed.name))
        USING event_ids;
    GET DIAGNOSTICS marked = ROW_COUNT;
    RETURN marked;
END
$$;
COMMENT ON FUNCTION tide.inbox_mark_processed(text, uuid[]) IS
    'Settles messages, in the transaction that did what they ask for; returns how many were not settled before.';

CREATE FUNCTION tide.inbox_mark_failed(name text, event_id uuid, error text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    marked bigint;
BEGIN
    EXECUTE format('UPDATE %s SET attempts = attempts + 1, last_error = $2 WHERE event_id = $1 AND processed_at IS NULL',
                   tide.inbox_relation(inbox_mark_failed.name))
        USING inbox_mark_failed.event_id, inbox_mark_failed.error;
    GET DIAGNOSTICS marked = ROW_COUNT;
    RETURN marked > 0;
END
$$;
COMMENT ON FUNCTION tide.inbox_mark_failed(text, uuid, text) IS
    'Notes that processing failed, for the next attempt and for operators; false if there is nothing to process.';

CREATE FUNCTION tide.inbox_status(name text DEFAULT NULL)
RETURNS TABLE (
    inbox text, pending bigint, failed bigint, oldest_pending timestamptz, messages_estimate bigint, last_id bigint,
    size_bytes bigint, retention interval
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    one tide.inboxes;
BEGIN
    FOR one IN SELECT * FROM tide.inboxes i WHERE inbox_status.name IS NULL OR i.name = inbox_status.name ORDER BY i.name LOOP
        inbox := one.name;
        retention := one.retention;
        EXECUTE format(
            'SELECT count(*), count(*) FILTER (WHERE attempts > 0),
                    (SELECT received_at FROM %1$s WHERE processed_at IS NULL ORDER BY id LIMIT 1)
             FROM %1$s WHERE processed_at IS NULL', one.relation)
            INTO pending, failed, oldest_pending;
        SELECT greatest(c.reltuples::bigint, 0), pg_total_relation_size(c.oid),
               coalesce(pg_sequence_last_value(pg_get_serial_sequence(one.relation::text, 'id')::regclass), 0)
        INTO messages_estimate, size_bytes, last_id
        FROM pg_class c WHERE c.oid = one.relation;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tide.inbox_status(text) IS 'One row an inbox: what waits in it, what failed, since when, and how large it is.';

CREATE FUNCTION tide.inbox_purge(name text, batch integer DEFAULT 5000) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    swept tide.inboxes;
    purged bigint;
BEGIN
    SELECT * INTO swept FROM tide.inboxes i WHERE i.name = inbox_purge.name;
    IF NOT FOUND THEN
        RETURN 0; -- dropped meanwhile
    END IF;
    EXECUTE format(
        'DELETE FROM %1$s WHERE event_id IN (
             SELECT event_id FROM %1$s WHERE processed_at < clock_timestamp() - $1
             ORDER BY processed_at LIMIT $2 FOR UPDATE SKIP LOCKED)', swept.relation)
        USING swept.retention, batch;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END
$$;
COMMENT ON FUNCTION tide.inbox_purge(text, integer) IS
    'Deletes up to a batch of messages that were processed longer ago than the retention; never one that is not processed.';

CREATE FUNCTION tide.inbox_sweep(name text, leader_epoch bigint, batch integer) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    RETURN tide.inbox_purge(inbox_sweep.name, batch);
END
$$;
COMMENT ON FUNCTION tide.inbox_sweep(text, bigint, integer) IS 'As inbox_purge, for the janitor: refused once another one is in office.';

-- ---------------------------------------------------------------------------------------------
-- Pause: a hold on a pipeline. Its owner stays, and delivers nothing.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE tide.pauses (
    relay_group_id text NOT NULL,
    pipeline       text NOT NULL REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    actor          text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relay_group_id, pipeline)
);
COMMENT ON TABLE tide.pauses IS
    'Pipelines that deliver nothing until they are resumed. They are owned, handed over and taken over as ever.';

CREATE FUNCTION tide.known_pipeline(name text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tide.pipelines p WHERE p.name = known_pipeline.name) THEN
        RAISE EXCEPTION 'pipeline % does not exist', coalesce(quote_literal(known_pipeline.name), 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'List pipelines with: tidectl pipeline list';
    END IF;
END
$$;
COMMENT ON FUNCTION tide.known_pipeline(text) IS 'Raises an error unless there is such a pipeline.';

CREATE FUNCTION tide.relay_pause(
    name text, reason text DEFAULT '', actor text DEFAULT session_user, relay_group text DEFAULT 'default'
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    news bigint;
BEGIN
    PERFORM tide.known_pipeline(relay_pause.name);
    INSERT INTO tide.pauses AS p (relay_group_id, pipeline, actor, reason)
    VALUES (relay_group, relay_pause.name, relay_pause.actor, coalesce(relay_pause.reason, ''))
    ON CONFLICT ON CONSTRAINT pauses_pkey DO NOTHING;
    GET DIAGNOSTICS news = ROW_COUNT;
    IF news > 0 THEN
        PERFORM tide.intent_changed(relay_group, relay_pause.actor, 'pipeline.paused', relay_pause.name, relay_pause.reason, '{}');
    END IF;
    RETURN news > 0;
END
$$;
COMMENT ON FUNCTION tide.relay_pause(text, text, text, text) IS
    'Stops deliveries of a pipeline, and of all its shards, once the batch on its way is delivered; false if it was paused already.';

CREATE FUNCTION tide.relay_resume(
    name text, reason text DEFAULT '', actor text DEFAULT session_user, relay_group text DEFAULT 'default'
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    news bigint;
BEGIN
    PERFORM tide.known_pipeline(relay_resume.name);
    DELETE FROM tide.pauses p WHERE p.relay_group_id = relay_group AND p.pipeline = relay_resume.name;
    GET DIAGNOSTICS news = ROW_COUNT;
    IF news > 0 THEN
        PERFORM tide.intent_changed(relay_group, relay_resume.actor, 'pipeline.resumed', relay_resume.name, relay_resume.reason, '{}');
    END IF;
    RETURN news > 0;
END
$$;
COMMENT ON FUNCTION tide.relay_resume(text, text, text, text) IS 'Lets a paused pipeline go on; false if it was not paused.';

-- ---------------------------------------------------------------------------------------------
-- Rewind: messages that were delivered are delivered again
-- ---------------------------------------------------------------------------------------------

ALTER TABLE tide.outboxes ADD COLUMN swept_id bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN tide.outboxes.swept_id IS 'The highest id that the janitor has deleted; what it left at or below is not complete.';
-- Of what was deleted before this was noted, only the lowest id that is left tells.
DO $$
DECLARE
    outbox tide.outboxes;
BEGIN
    FOR outbox IN SELECT * FROM tide.outboxes LOOP
        EXECUTE format('UPDATE tide.outboxes o SET swept_id = coalesce((SELECT min(id) - 1 FROM %s), pg_sequence_last_value($2), 0) WHERE o.name = $1',
                       outbox.relation)
            USING outbox.name, outbox.sequence;
    END LOOP;
END
$$;

-- Runs with the rights of the catalog's owner, because agents may not change outboxes.
CREATE FUNCTION tide.outbox_swept(outbox text, id bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE tide.outboxes o SET swept_id = outbox_swept.id WHERE o.name = outbox_swept.outbox AND o.swept_id < outbox_swept.id
$$;
COMMENT ON FUNCTION tide.outbox_swept(text, bigint) IS 'Notes up to where messages of an outbox were deleted.';
REVOKE ALL ON FUNCTION tide.outbox_swept(text, bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION tide.outbox_sweep(outbox text, leader_epoch bigint, after bigint, batch integer)
RETURNS TABLE (looked_at bigint, deleted bigint, last_id bigint, more boolean)
LANGUAGE plpgsql
-- The statistics of an outbox never fit its ends: a page is read in the order of the primary key,
-- whatever they say, and never by sorting all that follows.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    swept   tide.outboxes;
    highest bigint;
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    SELECT * INTO swept FROM tide.outboxes o WHERE o.name = outbox_sweep.outbox;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint, outbox_sweep.after, false; -- dropped meanwhile
        RETURN;
    END IF;
    EXECUTE format($sweep$
        -- A cursor tells nothing before its first read, nor in a cluster that its snapshot is not
        -- of; a pipeline without one has read nothing.
        WITH cursors AS MATERIALIZED (
            SELECT f.last_change_id AS high, f.floor_id AS floor, f.snapshot,
                   coalesce(f.snapshot IS NOT NULL
                            AND f.system_identifier = (SELECT c.system_identifier FROM pg_control_system() c), false) AS tells
            FROM tide.pipelines p LEFT JOIN tide.relay_consumer_offsets f ON f.pipeline = p.name
            WHERE p.outbox = $1
        ), bounds AS MATERIALIZED (
            SELECT coalesce(min(CASE WHEN c.tells THEN c.high ELSE 0 END), 9223372036854775807) AS high,
                   coalesce(min(CASE WHEN c.tells THEN pg_snapshot_xmin(c.snapshot)::text::bigint ELSE 0 END),
                            9223372036854775807) AS horizon
            FROM cursors c
        ), page AS MATERIALIZED (
            SELECT m.ctid AS place, m.id, m.xid, m.created_at < clock_timestamp() - $2 AS expired
            FROM %1$s m
            WHERE m.id > $3 AND m.id <= (SELECT b.high FROM bounds b)
            ORDER BY m.id LIMIT $4
        ), gone AS (
            DELETE FROM %1$s m
            WHERE m.ctid = ANY (ARRAY(
                SELECT p.place FROM page p
                WHERE p.expired
                  -- What every snapshot has long seen needs no closer look.
                  AND (p.xid::text::bigint < (SELECT b.horizon FROM bounds b)
                       OR NOT EXISTS (
                           SELECT FROM cursors c
                           WHERE NOT (c.tells AND p.id <= c.high
                                      AND (p.id <= c.floor OR pg_visible_in_snapshot(p.xid, c.snapshot)))))))
            RETURNING m.id
        )
        SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM gone),
               coalesce((SELECT max(p.id) FROM page p), $3),
               -- Ids and times rise together, so a page that is all young ends the sweep.
               coalesce((SELECT count(*) = $4 AND bool_or(p.expired) FROM page p), false),
               (SELECT max(g.id) FROM gone g)
        $sweep$, swept.relation)
        INTO looked_at, deleted, last_id, more, highest
        USING swept.name, swept.retention, outbox_sweep.after, batch;
    IF highest IS NOT NULL THEN
        PERFORM tide.outbox_swept(swept.name, highest);
    END IF;
    RETURN NEXT;
END
$$;

CREATE FUNCTION tide.relay_rewind(
    name text, to_id bigint DEFAULT NULL, to_time timestamptz DEFAULT NULL, reason text DEFAULT '',
    actor text DEFAULT session_user, relay_group text DEFAULT 'default', dry_run boolean DEFAULT false,
    accept_gone boolean DEFAULT false
) RETURNS TABLE (unit text, from_id bigint, new_id bigint, messages bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    box       tide.outboxes;
    target    bigint := to_id;
    complete  boolean := true;
    place     tide.relay_consumer_offsets;
    system    bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    reached   pg_snapshot;
    inside    boolean;
    total     bigint := 0;
    found_any boolean := false;
    shards    integer;
BEGIN
    PERFORM tide.known_pipeline(relay_rewind.name);
    IF (to_id IS NULL) = (to_time IS NULL) OR to_id < 0 THEN
        RAISE EXCEPTION 'to where pipeline % is to be rewound is not clear', relay_rewind.name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give either to_id, the last message that is not to be delivered again (0 for none), or to_time.';
    END IF;
    SELECT b.* INTO STRICT box FROM tide.outboxes b JOIN tide.pipelines p ON p.outbox = b.name WHERE p.name = relay_rewind.name;
    IF to_time IS NOT NULL THEN
        EXECUTE format('SELECT (SELECT id - 1 FROM %1$s WHERE created_at >= $1 ORDER BY id LIMIT 1),
                               (SELECT created_at < $1 FROM %1$s ORDER BY id LIMIT 1)', box.relation)
            INTO target, inside USING to_time;
        target := coalesce(target, 9223372036854775807);
        -- What is older than everything that is left may have been newer than that moment.
        complete := coalesce(inside, false) OR box.swept_id = 0;
    END IF;
    complete := complete AND target >= box.swept_id;
    IF NOT complete AND NOT accept_gone THEN
        RAISE EXCEPTION 'messages that pipeline % would have to deliver again are gone: outbox % was swept up to message %',
            relay_rewind.name, box.name, box.swept_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Deliver again what is left with: tidectl pipeline rewind --accept-gone (accept_gone => true).';
    END IF;

    -- In the order in which everybody locks these rows. From here on no owner stores anything.
    FOR place IN
        SELECT o.* FROM tide.relay_consumer_offsets o
        WHERE o.relay_group_id = relay_group AND o.pipeline = relay_rewind.name
        ORDER BY o.name COLLATE "C" FOR NO KEY UPDATE
    LOOP
        found_any := true;
        shards := tide.unit_shards(place.name);
        IF (place.origins IS NOT NULL OR place.system_identifier <> system) AND target < place.last_change_id THEN
            RAISE EXCEPTION '% still catches up after a change of its shards or a restore', place.name
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Try again when it has delivered what was left; see: tidectl pipeline show ' || relay_rewind.name;
        END IF;
        unit := place.name;
        from_id := place.last_change_id;
        new_id := least(target, place.last_change_id);
        messages := 0;
        IF new_id < from_id THEN
            -- In the middle of a pass everything up to pass_position that its target sees is delivered, too.
            EXECUTE format('SELECT count(*) FROM %s m WHERE m.id > $1 AND m.id <= $2 AND (m.id <= $3
                                OR pg_visible_in_snapshot(m.xid, $4) OR (m.id <= $5 AND pg_visible_in_snapshot(m.xid, $6))) %s',
                           box.relation, CASE WHEN shards > 1 THEN 'AND tide.shard_of(m.key, m.id, $7) = $8' ELSE '' END)
                INTO messages
                USING new_id, from_id, place.floor_id, place.snapshot, place.pass_position, place.pass_snapshot,
                      shards, tide.unit_shard(place.name);
            total := total + messages;
            IF NOT dry_run THEN
                reached := place.snapshot;
                IF place.pass_position >= new_id THEN
                    -- The pass is over for what remains behind the new position.
                    reached := place.pass_snapshot;
                    place.pass_snapshot := NULL;
                    place.pass_position := NULL;
                END IF;
                UPDATE tide.relay_consumer_offsets o
                SET last_change_id = new_id, snapshot = reached, pass_snapshot = place.pass_snapshot,
                    pass_position = place.pass_position, epoch = nextval('tide.epoch'), updated_at = now()
                WHERE o.relay_group_id = relay_group AND o.name = place.name;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF NOT found_any THEN
        RAISE EXCEPTION 'pipeline % has not begun in group %', relay_rewind.name, quote_literal(relay_group)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'It begins where its "start" says when an agent first takes it.';
    END IF;
    IF NOT dry_run THEN
        PERFORM tide.intent_changed(relay_group, relay_rewind.actor, 'pipeline.rewound', relay_rewind.name, relay_rewind.reason,
            jsonb_build_object('to_id', to_id, 'to_time', to_time, 'target', target, 'messages', total, 'complete', complete));
    END IF;
END
$$;
COMMENT ON FUNCTION tide.relay_rewind(text, bigint, timestamptz, text, text, text, boolean, boolean) IS
    'Takes the positions of a pipeline back and raises their epochs, so that no owner stores the old ones any more. '
    'Returns, of each unit, how many messages it delivers again.';

-- ---------------------------------------------------------------------------------------------
-- Dead letters: looked at, delivered again by the owner, discarded
-- ---------------------------------------------------------------------------------------------

CREATE TABLE tide.relay_replays (
    id             bigint PRIMARY KEY DEFAULT nextval('tide.intent_generation'),
    relay_group_id text NOT NULL,
    pipeline       text NOT NULL,
    actor          text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    rate           double precision CHECK (rate > 0),
    letters        bigint NOT NULL,
    delivered      bigint NOT NULL DEFAULT 0,
    refused        bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz
);
COMMENT ON TABLE tide.relay_replays IS
    'Requests to deliver dead letters again, and what became of them; rate is messages a second of each shard, NULL for no limit.';

ALTER TABLE tide.relay_dlq
    ADD COLUMN published_at timestamptz,
    ADD COLUMN replay bigint REFERENCES tide.relay_replays (id);
COMMENT ON COLUMN tide.relay_dlq.published_at IS 'When the message was written to its outbox; NULL of letters that are older than this column.';
COMMENT ON COLUMN tide.relay_dlq.replay IS 'The replay that is to deliver it again; the owner does so, and the letter goes when it succeeded.';
CREATE INDEX relay_dlq_replay ON tide.relay_dlq (relay_group_id, pipeline, replay) WHERE replay IS NOT NULL;
-- A pipeline or an outbox that was deleted and created again has the same ids for other messages.
ALTER TABLE tide.relay_dlq DROP CONSTRAINT relay_dlq_relay_group_id_pipeline_message_id_key;
ALTER TABLE tide.relay_dlq ADD CONSTRAINT relay_dlq_message UNIQUE (relay_group_id, pipeline, message_id, event_id);

CREATE FUNCTION tide.dlq_list(
    relay_group text DEFAULT 'default', pipeline text DEFAULT NULL, key text DEFAULT NULL, error text DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, ids bigint[] DEFAULT NULL
) RETURNS SETOF tide.relay_dlq
LANGUAGE sql STABLE AS $$
    SELECT d.* FROM tide.relay_dlq d
    WHERE d.relay_group_id = dlq_list.relay_group
      AND (dlq_list.pipeline IS NULL OR d.pipeline = dlq_list.pipeline)
      AND (dlq_list.key IS NULL OR d.key = dlq_list.key)
      AND (dlq_list.error IS NULL OR position(lower(dlq_list.error) IN lower(d.error)) > 0)
      AND (dlq_list.since IS NULL OR d.created_at >= dlq_list.since)
      AND (dlq_list.until IS NULL OR d.created_at < dlq_list.until)
      AND (dlq_list.ids IS NULL OR d.id = ANY (dlq_list.ids))
    ORDER BY d.id
$$;
COMMENT ON FUNCTION tide.dlq_list(text, text, text, text, timestamptz, timestamptz, bigint[]) IS
    'Dead letters in the order in which they were refused. error is a part of the reason, in any case; times are those of the refusal.';

CREATE FUNCTION tide.dlq_replay(
    relay_group text DEFAULT 'default', pipeline text DEFAULT NULL, key text DEFAULT NULL, error text DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, ids bigint[] DEFAULT NULL,
    rate double precision DEFAULT NULL, actor text DEFAULT session_user, reason text DEFAULT ''
) RETURNS TABLE (name text, replay bigint, letters bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    chosen bigint[];
    misfit text;
BEGIN
    IF rate <= 0 THEN
        RAISE EXCEPTION 'a rate of % messages a second delivers none', rate
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a rate above zero, or none for no limit.';
    END IF;
    -- Owners take a higher number for a newer replay, so numbers must become visible in their order.
    PERFORM pg_advisory_xact_lock(hashtext('tide.dlq_replay'), hashtext(relay_group));
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
    'Asks the owners of pipelines to deliver dead letters again, in the order in which they were refused. '
    'A letter goes when it is delivered; one that is refused again stays, with more attempts.';

CREATE FUNCTION tide.replay_settle(replay bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done tide.relay_replays;
BEGIN
    UPDATE tide.relay_replays r SET finished_at = clock_timestamp()
    WHERE r.id = replay_settle.replay AND r.finished_at IS NULL
      AND NOT EXISTS (SELECT FROM tide.relay_dlq d WHERE d.replay = r.id)
    RETURNING r.* INTO done;
    IF FOUND THEN
        INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
        VALUES (done.relay_group_id, done.actor, 'dlq.replayed', done.pipeline, done.reason,
                jsonb_build_object('replay', done.id, 'letters', done.letters, 'delivered', done.delivered, 'refused', done.refused));
    END IF;
END
$$;
COMMENT ON FUNCTION tide.replay_settle(bigint) IS 'Ends a replay once no letter waits for it.';
REVOKE ALL ON FUNCTION tide.replay_settle(bigint) FROM PUBLIC;

-- Run with the rights of the catalog's owner: agents may put letters aside and no more, except for
-- those that an operator gave them, under the epoch that they own the pipeline under.
CREATE FUNCTION tide.dlq_delivered(relay_group text, unit text, epoch bigint, letters bigint[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one record;
BEGIN
    PERFORM FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = dlq_delivered.relay_group AND o.name = dlq_delivered.unit AND o.epoch = dlq_delivered.epoch
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR one IN
        WITH gone AS (
            DELETE FROM tide.relay_dlq d
            WHERE d.id = ANY (letters) AND d.replay IS NOT NULL
              AND d.relay_group_id = dlq_delivered.relay_group AND d.pipeline = tide.unit_pipeline(dlq_delivered.unit)
            RETURNING d.replay
        )
        SELECT g.replay, count(*) AS letters FROM gone g GROUP BY g.replay
    LOOP
        UPDATE tide.relay_replays r SET delivered = r.delivered + one.letters WHERE r.id = one.replay;
        -- After the update, which waits for other shards: then nobody leaves the end to the other.
        PERFORM tide.replay_settle(one.replay);
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.dlq_delivered(text, text, bigint, bigint[]) IS 'Deletes letters that their owner has delivered again; false means fenced.';
REVOKE ALL ON FUNCTION tide.dlq_delivered(text, text, bigint, bigint[]) FROM PUBLIC;

CREATE FUNCTION tide.dlq_refused(relay_group text, unit text, epoch bigint, letter bigint, error text, attempts integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_replay bigint;
BEGIN
    PERFORM FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = dlq_refused.relay_group AND o.name = dlq_refused.unit AND o.epoch = dlq_refused.epoch
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT d.replay INTO of_replay FROM tide.relay_dlq d
    WHERE d.id = letter AND d.relay_group_id = dlq_refused.relay_group AND d.pipeline = tide.unit_pipeline(dlq_refused.unit)
    FOR UPDATE;
    IF of_replay IS NOT NULL THEN
        UPDATE tide.relay_dlq d
        SET attempts = d.attempts + dlq_refused.attempts, error = dlq_refused.error, epoch = dlq_refused.epoch, replay = NULL
        WHERE d.id = letter;
        UPDATE tide.relay_replays r SET refused = r.refused + 1 WHERE r.id = of_replay;
        PERFORM tide.replay_settle(of_replay);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.dlq_refused(text, text, bigint, bigint, text, integer) IS
    'Keeps a letter that was refused again: attempts rise, the reason is the newest. False means fenced.';
REVOKE ALL ON FUNCTION tide.dlq_refused(text, text, bigint, bigint, text, integer) FROM PUBLIC;

CREATE FUNCTION tide.dlq_discard(
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
    'Deletes dead letters for good and returns how many; also those that are being replayed, which ends that.';

-- ---------------------------------------------------------------------------------------------
-- What owners are to obey
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.relay_orders(relay_group text)
RETURNS TABLE (unit text, pause text, replay bigint)
LANGUAGE sql STABLE AS $$
    WITH pending AS (
        SELECT tide.unit_name(l.pipeline, tide.shard_of(d.key, d.message_id, l.shards), l.shards) AS unit, max(d.replay) AS replay
        FROM tide.relay_layouts l
        JOIN tide.relay_dlq d ON d.relay_group_id = l.relay_group_id AND d.pipeline = l.pipeline AND d.replay IS NOT NULL
        WHERE l.relay_group_id = relay_orders.relay_group
        GROUP BY 1
    ), paused AS (
        SELECT u.unit, 'paused by ' || p.actor || CASE WHEN p.reason = '' THEN '' ELSE ': ' || p.reason END AS pause
        FROM tide.pauses p
        JOIN tide.relay_units(relay_orders.relay_group) u ON u.pipeline = p.pipeline
        WHERE p.relay_group_id = relay_orders.relay_group
    )
    SELECT coalesce(p.unit, r.unit), p.pause, r.replay FROM paused p FULL JOIN pending r USING (unit)
$$;
COMMENT ON FUNCTION tide.relay_orders(text) IS
    'Of each unit that somebody wants something of: why it is paused, and the newest replay with letters for it.';

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

DO $$
DECLARE
    role_name text;
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        GRANT SELECT ON tide.inboxes, tide.pauses, tide.relay_replays TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON tide.inboxes, tide.pauses, tide.relay_replays TO tide_admin;
        GRANT EXECUTE ON FUNCTION tide.replay_settle(bigint) TO tide_admin;
    END IF;
    FOREACH role_name IN ARRAY ARRAY['tide_relay', 'tide_admin'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION tide.outbox_swept(text, bigint), tide.dlq_delivered(text, text, bigint, bigint[]), '
                           'tide.dlq_refused(text, text, bigint, bigint, text, integer) TO %I', role_name);
        END IF;
    END LOOP;
END
$$;
