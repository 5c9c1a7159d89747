-- What becomes of a pipeline whose receiver wants no more.

-- Runs with the rights of the catalog's owner, because pauses are the operators': an agent may only
-- pause what it owns, under the epoch that it owns it under.
CREATE FUNCTION tide.relay_gone(relay_group text, unit text, epoch bigint, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    agent text;
BEGIN
    SELECT coalesce(o.owner, 'its owner') INTO agent FROM tide.relay_consumer_offsets o
    WHERE o.relay_group_id = relay_gone.relay_group AND o.name = relay_gone.unit AND o.epoch = relay_gone.epoch
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM tide.relay_pause(tide.unit_pipeline(relay_gone.unit), relay_gone.reason, agent, relay_gone.relay_group);
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.relay_gone(text, text, bigint, text) IS
    'Pauses a pipeline whose receiver wants no more messages, until an operator resumes it; false means fenced.';
REVOKE ALL ON FUNCTION tide.relay_gone(text, text, bigint, text) FROM PUBLIC;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tide_relay', 'tide_admin'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION tide.relay_gone(text, text, bigint, text) TO %I', role_name);
        END IF;
    END LOOP;
END
$$;
