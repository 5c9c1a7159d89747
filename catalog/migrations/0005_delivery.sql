-- Delivery: inboxes, where messages of this or another database arrive once.

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
-- Rights
-- ---------------------------------------------------------------------------------------------

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        GRANT SELECT ON tide.inboxes TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON tide.inboxes TO tide_admin;
    END IF;
END
$$;
