-- What must be done by one process at a time: who does it, under which epoch, and what the janitor
-- may take away.

CREATE TABLE tide.leaders (
    role           text NOT NULL CHECK (role ~ '^[a-z_]{1,40}$'),
    relay_group_id text NOT NULL,
    node_id        text NOT NULL,
    address        text,
    epoch          bigint NOT NULL UNIQUE,
    backend_pid    integer NOT NULL,
    acquired_at    timestamptz NOT NULL DEFAULT now(),
    renewed_at     timestamptz NOT NULL DEFAULT now(),
    lease_until    timestamptz NOT NULL,
    PRIMARY KEY (role, relay_group_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE tide.leaders IS
    'Who leads, as the leader itself wrote on the session that holds the lock. The lock decides; this row tells others where to go. '
    'relay_group_id is empty for roles of the whole database.';
-- A unique column makes a change of epoch conflict with FOR KEY SHARE, and a renewed lease not:
-- that is how tide.leader_is holds a new leader back until the old one's last write is through.
COMMENT ON COLUMN tide.leaders.epoch IS 'Drawn from tide.epoch each time that leadership is taken; never reused.';

CREATE FUNCTION tide.leader_lock_class(role text) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtext('tide.leader ' || role) $$;
COMMENT ON FUNCTION tide.leader_lock_class(text) IS
    'First key of the advisory lock of a role; the second is hashtext(group). The blank keeps it apart from pipelines and agents: '
    'no group is named like that.';

CREATE FUNCTION tide.leader_lock_holder(role text, relay_group text) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT l.pid FROM tide.advisory_locks l
    WHERE l.class = tide.leader_lock_class(leader_lock_holder.role)::bigint & 4294967295
      AND l.object = tide.lock_key(relay_group)
$$;
COMMENT ON FUNCTION tide.leader_lock_holder(text, text) IS 'The backend that holds the lock of a role; none if it is free.';

CREATE FUNCTION tide.leader_take(role text, relay_group text, node_id text, address text, lease interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    IF tide.leader_lock_holder(leader_take.role, relay_group) IS DISTINCT FROM pg_backend_pid() THEN
        RAISE EXCEPTION 'this session does not hold the lock of role %', leader_take.role
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO tide.leaders AS l (role, relay_group_id, node_id, address, epoch, backend_pid, lease_until)
    VALUES (leader_take.role, relay_group, leader_take.node_id, leader_take.address, nextval('tide.epoch'),
            pg_backend_pid(), clock_timestamp() + lease)
    ON CONFLICT ON CONSTRAINT leaders_pkey DO UPDATE
        SET node_id = excluded.node_id, address = excluded.address, epoch = excluded.epoch,
            backend_pid = excluded.backend_pid, acquired_at = now(), renewed_at = now(), lease_until = excluded.lease_until
    RETURNING l.epoch INTO taken;
    INSERT INTO tide.events (relay_group_id, actor, kind, subject, detail)
    VALUES (relay_group, leader_take.node_id, 'leader.elected', leader_take.role, jsonb_build_object('epoch', taken));
    RETURN taken;
END
$$;
COMMENT ON FUNCTION tide.leader_take(text, text, text, text, interval) IS
    'Run by a session that has just locked the role: draws an epoch and writes the lease.';

CREATE FUNCTION tide.leader_renew(role text, relay_group text, epoch bigint, lease interval) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- The lock first: a lease that outlives its lock would be a second leader's.
    IF tide.leader_lock_holder(leader_renew.role, relay_group) IS DISTINCT FROM pg_backend_pid() THEN
        RETURN false;
    END IF;
    UPDATE tide.leaders l
    SET renewed_at = clock_timestamp(), lease_until = clock_timestamp() + lease
    WHERE l.role = leader_renew.role AND l.relay_group_id = relay_group AND l.epoch = leader_renew.epoch;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tide.leader_renew(text, text, bigint, interval) IS
    'Run on the session that holds the lock: false if the lock is not held there or a newer epoch exists.';

CREATE FUNCTION tide.leader_release(role text, relay_group text, epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM tide.leaders l
    WHERE l.role = leader_release.role AND l.relay_group_id = relay_group AND l.epoch = leader_release.epoch;
    -- Whoever gets the lock before this transaction ends waits for the row, not the other way round.
    PERFORM pg_advisory_unlock(tide.leader_lock_class(leader_release.role), hashtext(relay_group));
    PERFORM pg_notify('tide_leader_released',
        json_build_object('role', leader_release.role, 'group', relay_group)::text);
END
$$;
COMMENT ON FUNCTION tide.leader_release(text, text, bigint) IS 'Gives leadership up and wakes whoever waits for it.';

CREATE FUNCTION tide.leader_is(role text, relay_group text, epoch bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM tide.leaders l
    WHERE l.role = leader_is.role AND l.relay_group_id = relay_group AND l.epoch = leader_is.epoch
    FOR KEY SHARE;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tide.leader_is(text, text, bigint) IS
    'Whether this epoch leads, and goes on to until the transaction ends: a successor waits with its own epoch. '
    'Ask first, then write, in one transaction.';

CREATE FUNCTION tide.leader_fence(role text, relay_group text, epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT tide.leader_is(leader_fence.role, relay_group, leader_fence.epoch) THEN
        RAISE EXCEPTION 'epoch % does not lead role % any more', leader_fence.epoch, leader_fence.role
            USING ERRCODE = 'TD001', HINT = 'See who does with: SELECT * FROM tide.leader_list();';
    END IF;
END
$$;
COMMENT ON FUNCTION tide.leader_fence(text, text, bigint) IS 'As leader_is, but raises TD001.';

CREATE FUNCTION tide.leader_list()
RETURNS TABLE (
    role text, relay_group_id text, node_id text, address text, epoch bigint, backend_pid integer,
    acquired_at timestamptz, lease_until timestamptz, lease_alive boolean, lock_held boolean
)
LANGUAGE sql STABLE AS $$
    SELECT l.role, l.relay_group_id, l.node_id, l.address, l.epoch, l.backend_pid, l.acquired_at, l.lease_until,
           l.lease_until > clock_timestamp(),
           coalesce(tide.leader_lock_holder(l.role, l.relay_group_id) = l.backend_pid, false)
    FROM tide.leaders l ORDER BY l.role, l.relay_group_id
$$;
COMMENT ON FUNCTION tide.leader_list() IS 'One row a role and group that has, or had, a leader.';

CREATE FUNCTION tide.operation_settle(operation uuid, leader_epoch bigint) RETURNS tide.operations
LANGUAGE plpgsql AS $$
DECLARE
    op tide.operations;
BEGIN
    SELECT * INTO op FROM tide.operations o WHERE o.id = operation;
    IF FOUND THEN
        PERFORM tide.leader_fence('control_plane', op.relay_group_id, leader_epoch);
    END IF;
    RETURN tide.operation_settle(operation);
END
$$;
COMMENT ON FUNCTION tide.operation_settle(uuid, bigint) IS
    'As operation_settle, for a control plane: refused once another one leads the operation''s group.';

-- ---------------------------------------------------------------------------------------------
-- The janitor
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION tide.outbox_sweep(outbox text, leader_epoch bigint, after bigint, batch integer)
RETURNS TABLE (looked_at bigint, deleted bigint, last_id bigint, more boolean)
LANGUAGE plpgsql
-- The statistics of an outbox never fit its ends: a page is read in the order of the primary key,
-- whatever they say, and never by sorting all that follows.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    swept tide.outboxes;
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    SELECT * INTO swept FROM tide.outboxes o WHERE o.name = outbox_sweep.outbox;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint, outbox_sweep.after, false; -- dropped meanwhile
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format($sweep$
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
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM gone),
               coalesce((SELECT max(p.id) FROM page p), $3),
               -- Ids and times rise together, so a page that is all young ends the sweep.
               (SELECT count(*) = $4 AND bool_or(p.expired) FROM page p)
        $sweep$, swept.relation)
        USING swept.name, swept.retention, outbox_sweep.after, batch;
END
$$;
COMMENT ON FUNCTION tide.outbox_sweep(text, bigint, bigint, integer) IS
    'Deletes, among the next batch of messages above after, those that are older than the retention and that every cursor of '
    'every pipeline of the outbox, in every group, has delivered. In the middle of a pass a cursor counts as before it.';

-- Runs with the rights of the catalog's owner, because agents may not delete what others wrote; a
-- day of history is out of reach whatever is asked for.
CREATE FUNCTION tide.history_purge(leader_epoch bigint, what text, keep interval, batch integer) RETURNS bigint
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
            LIMIT batch);
        GET DIAGNOSTICS purged = ROW_COUNT;
    ELSIF what = 'holds' THEN
        WITH expired AS (
            DELETE FROM tide.holds h WHERE h.expires_at < now() RETURNING h.*
        ), audited AS (
            INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
            SELECT x.relay_group_id, x.actor, 'hold.expired', x.agent, x.reason,
                   jsonb_build_object('kind', x.kind, 'expires_at', x.expires_at)
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
COMMENT ON FUNCTION tide.history_purge(bigint, text, interval, integer) IS
    'Deletes up to a batch of old events or finished operations, or all expired holds; returns how many.';
REVOKE ALL ON FUNCTION tide.history_purge(bigint, text, interval, integer) FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tide_relay', 'tide_admin'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON tide.leaders TO %I', role_name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION tide.history_purge(bigint, text, interval, integer) TO %I', role_name);
        END IF;
    END LOOP;
END
$$;
