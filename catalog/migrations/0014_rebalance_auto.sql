-- A control plane may even out the load by itself: who wants it to leave that alone, and what it
-- suggested.

CREATE TABLE tide.rebalance_pauses (
    relay_group_id text NOT NULL,
    actor          text NOT NULL,
    reason         text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    PRIMARY KEY (relay_group_id, actor)
);
COMMENT ON TABLE tide.rebalance_pauses IS
    'Who wants the load of a group not to be evened out by itself, for how long and what for. It is not for as long as anybody does.';

ALTER TABLE tide.rebalance_plans ADD COLUMN suggested_at timestamptz;
COMMENT ON COLUMN tide.rebalance_plans.suggested_at IS 'When a control plane brought it up by itself; NULL if somebody asked for it.';

CREATE FUNCTION tide.rebalance_pause(relay_group text, actor text, reason text, lasting interval DEFAULT NULL)
RETURNS tide.rebalance_pauses
LANGUAGE plpgsql AS $$
DECLARE
    paused tide.rebalance_pauses;
BEGIN
    IF coalesce(btrim(rebalance_pause.reason), '') = '' THEN
        RAISE EXCEPTION 'a pause needs a reason'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Say what for, for those who find it later: --reason TEXT';
    END IF;
    IF rebalance_pause.lasting <= interval '0' THEN
        RAISE EXCEPTION 'a pause cannot last %', rebalance_pause.lasting
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a positive interval, or none for a pause without an end.';
    END IF;
    DELETE FROM tide.rebalance_pauses p WHERE p.relay_group_id = relay_group AND p.expires_at <= now();
    INSERT INTO tide.rebalance_pauses AS p (relay_group_id, actor, reason, expires_at)
    VALUES (relay_group, rebalance_pause.actor, rebalance_pause.reason, now() + rebalance_pause.lasting)
    ON CONFLICT ON CONSTRAINT rebalance_pauses_pkey DO UPDATE
        SET reason = excluded.reason, created_at = excluded.created_at, expires_at = excluded.expires_at
    RETURNING * INTO paused;
    INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
    VALUES (relay_group, paused.actor, 'rebalance.paused', 'fleet', paused.reason, jsonb_build_object('expires_at', paused.expires_at));
    RETURN paused;
END
$$;
COMMENT ON FUNCTION tide.rebalance_pause(text, text, text, interval) IS
    'Keeps control planes from evening out the load by themselves, or renews the actor''s own pause. Plans can be made and applied all the same.';

CREATE FUNCTION tide.rebalance_resume(relay_group text, actor text, breaking boolean DEFAULT false) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    other tide.rebalance_pauses;
    ended integer;
BEGIN
    DELETE FROM tide.rebalance_pauses p WHERE p.relay_group_id = relay_group AND p.expires_at <= now();
    WITH gone AS (
        DELETE FROM tide.rebalance_pauses p
        WHERE p.relay_group_id = relay_group AND (p.actor = rebalance_resume.actor OR coalesce(breaking, false))
        RETURNING p.*
    ), audited AS (
        INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
        SELECT relay_group, rebalance_resume.actor, 'rebalance.resumed', 'fleet', '', jsonb_build_object('owner', g.actor, 'reason', g.reason)
        FROM gone g
    )
    SELECT count(*) INTO ended FROM gone;
    IF ended = 0 THEN
        SELECT p.* INTO other FROM tide.rebalance_pauses p
        WHERE p.relay_group_id = relay_group
        ORDER BY p.created_at LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'the pause belongs to %: %', other.actor, other.reason
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Ask its owner, or: tidectl rebalance resume --break';
        END IF;
    END IF;
    RETURN ended;
END
$$;
COMMENT ON FUNCTION tide.rebalance_resume(text, text, boolean) IS
    'Ends the actor''s pause, or everybody''s if they are to be broken; returns how many there were. Refused where there are only others''.';

CREATE FUNCTION tide.rebalance_suggest(relay_group text, plan uuid, actor text, reason text, leader_epoch bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    found_hash text;
BEGIN
    PERFORM tide.leader_fence('control_plane', relay_group, rebalance_suggest.leader_epoch);
    UPDATE tide.rebalance_plans p SET suggested_at = now()
    WHERE p.id = rebalance_suggest.plan AND p.relay_group_id = relay_group AND p.suggested_at IS NULL
    RETURNING p.hash INTO found_hash;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, detail)
    VALUES (relay_group, rebalance_suggest.actor, 'rebalance.suggested', 'fleet', rebalance_suggest.reason,
            jsonb_build_object('plan', rebalance_suggest.plan, 'hash', found_hash));
    RETURN true;
END
$$;
COMMENT ON FUNCTION tide.rebalance_suggest(text, uuid, text, text, bigint) IS
    'Records that a control plane suggests a plan, once a plan; false if it did before. Refused once another one leads the group.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON tide.rebalance_pauses TO tide_admin;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        -- Whoever may look sees what was suggested, too.
        GRANT SELECT ON tide.rebalance_pauses, tide.rebalance_plans TO tide_relay;
    END IF;
END
$$;
