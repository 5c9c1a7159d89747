-- Which agents do not reach which sinks: said by the agents themselves, so that pipelines are where
-- they can be delivered.

CREATE TABLE tide.relay_unreachable (
    relay_group_id text NOT NULL,
    name           text NOT NULL,
    pipeline       text GENERATED ALWAYS AS (split_part(name, '#', 1)) STORED
                   REFERENCES tide.pipelines (name) ON DELETE CASCADE,
    agent          text NOT NULL,
    run            uuid NOT NULL,
    revision       bigint NOT NULL,
    owned          boolean NOT NULL,
    reason         text NOT NULL,
    since          timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (relay_group_id, name, agent),
    FOREIGN KEY (relay_group_id, agent) REFERENCES tide.agents (relay_group_id, name) ON DELETE CASCADE
);
CREATE INDEX relay_unreachable_pipeline ON tide.relay_unreachable (pipeline);
CREATE INDEX relay_unreachable_agent ON tide.relay_unreachable (relay_group_id, agent);
COMMENT ON TABLE tide.relay_unreachable IS
    'Agents that do not reach the sink of a unit. A row counts until it expires, for the run of the agent that wrote it, and for the configuration that it was found with.';
COMMENT ON COLUMN tide.relay_unreachable.run IS 'The process that found it out: one that was started anew tries anew.';
COMMENT ON COLUMN tide.relay_unreachable.revision IS 'The pipeline''s, when it was found out: a changed configuration is tried anew.';
COMMENT ON COLUMN tide.relay_unreachable.owned IS
    'Whether it had the unit and could not deliver. Others have looked, before they took it or to be ready for it.';

CREATE VIEW tide.relay_unreached AS
SELECT u.relay_group_id, u.name, u.agent, u.owned, u.reason, u.since, u.expires_at
FROM tide.relay_unreachable u
JOIN tide.agents a ON a.relay_group_id = u.relay_group_id AND a.name = u.agent AND a.run = u.run
JOIN tide.pipelines p ON p.name = u.pipeline AND p.revision = u.revision
WHERE u.expires_at > clock_timestamp();
COMMENT ON VIEW tide.relay_unreached IS 'What counts of tide.relay_unreachable: agents compute by it who should own what.';

-- With the rights of the catalog's owner: agents may write nothing but what these check, that the
-- run is theirs and the configuration the one that there is.
CREATE FUNCTION tide.relay_unreachable_set(
    relay_group text, agent text, run uuid, units text[], revisions bigint[], owned boolean[], reasons text[],
    seconds double precision[], lasting interval
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written bigint;
BEGIN
    DELETE FROM tide.relay_unreachable u
    WHERE u.relay_group_id = relay_group AND u.agent = relay_unreachable_set.agent
      AND (u.run <> relay_unreachable_set.run OR u.expires_at < clock_timestamp());
    INSERT INTO tide.relay_unreachable AS u (relay_group_id, name, agent, run, revision, owned, reason, since, expires_at)
    SELECT relay_group, f.unit, relay_unreachable_set.agent, relay_unreachable_set.run, f.revision, f.owned,
           left(f.reason, 500), clock_timestamp() - f.seconds * interval '1 second', clock_timestamp() + lasting
    FROM unnest(units, revisions, relay_unreachable_set.owned, reasons, seconds) AS f (unit, revision, owned, reason, seconds)
    -- What was changed or deleted meanwhile, or said by a run that is over, is nobody's concern.
    JOIN tide.pipelines p ON p.name = tide.unit_pipeline(f.unit) AND p.revision = f.revision
    JOIN tide.agents a ON a.relay_group_id = relay_group AND a.name = relay_unreachable_set.agent
                      AND a.run = relay_unreachable_set.run
    ON CONFLICT ON CONSTRAINT relay_unreachable_pkey DO UPDATE
        SET run = excluded.run, revision = excluded.revision, owned = excluded.owned, reason = excluded.reason, expires_at = excluded.expires_at,
            since = CASE WHEN u.revision = excluded.revision THEN least(u.since, excluded.since) ELSE excluded.since END;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written > 0 THEN
        PERFORM pg_notify('tide_intent', relay_group);
    END IF;
    RETURN written;
END
$$;
COMMENT ON FUNCTION tide.relay_unreachable_set(text, text, uuid, text[], bigint[], boolean[], text[], double precision[], interval) IS
    'An agent says that it does not reach the sinks of these units, for so many seconds already, and everybody looks; returns how many that are.';
REVOKE ALL ON FUNCTION tide.relay_unreachable_set(text, text, uuid, text[], bigint[], boolean[], text[], double precision[], interval) FROM PUBLIC;

CREATE FUNCTION tide.relay_unreachable_clear(relay_group text, agent text, run uuid, units text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cleared bigint;
BEGIN
    DELETE FROM tide.relay_unreachable u
    WHERE u.relay_group_id = relay_group AND u.agent = relay_unreachable_clear.agent
      AND u.run = relay_unreachable_clear.run AND u.name = ANY (units);
    GET DIAGNOSTICS cleared = ROW_COUNT;
    IF cleared > 0 THEN
        PERFORM pg_notify('tide_intent', relay_group);
    END IF;
    RETURN cleared;
END
$$;
COMMENT ON FUNCTION tide.relay_unreachable_clear(text, text, uuid, text[]) IS
    'An agent says that it reaches the sinks of these units after all, and everybody looks; returns how many that are.';
REVOKE ALL ON FUNCTION tide.relay_unreachable_clear(text, text, uuid, text[]) FROM PUBLIC;

CREATE FUNCTION tide.relay_unreachable_sweep(leader_epoch bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    swept bigint;
BEGIN
    PERFORM tide.leader_fence('janitor', '', leader_epoch);
    DELETE FROM tide.relay_unreachable u
    WHERE (u.relay_group_id, u.name, u.agent) IN (
        SELECT x.relay_group_id, x.name, x.agent FROM tide.relay_unreachable x
        WHERE x.expires_at < clock_timestamp()
           -- Of a layout that is gone.
           OR NOT EXISTS (SELECT FROM tide.relay_consumer_offsets o
                          WHERE o.relay_group_id = x.relay_group_id AND o.name = x.name)
        -- What its agent is writing at this moment is not left over.
        FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS swept = ROW_COUNT;
    RETURN swept;
END
$$;
COMMENT ON FUNCTION tide.relay_unreachable_sweep(bigint) IS
    'Deletes what counts no longer, for the janitor; nobody needs to hear of that.';
REVOKE ALL ON FUNCTION tide.relay_unreachable_sweep(bigint) FROM PUBLIC;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tide_relay', 'tide_admin'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('GRANT SELECT ON tide.relay_unreachable, tide.relay_unreached TO %I', role_name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION
                tide.relay_unreachable_set(text, text, uuid, text[], bigint[], boolean[], text[], double precision[], interval),
                tide.relay_unreachable_clear(text, text, uuid, text[]),
                tide.relay_unreachable_sweep(bigint) TO %I', role_name);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT INSERT, UPDATE, DELETE ON tide.relay_unreachable TO tide_admin;
    END IF;
END
$$;
