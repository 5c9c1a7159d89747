-- An owner says that it was ready some time after it was, so it may have left again by then. The
-- stamp that it finds is its own: not the end of the hand-over to it, but the beginning of the next.

ALTER TABLE tide.relay_consumer_offsets ADD COLUMN left_epoch bigint;
COMMENT ON COLUMN tide.relay_consumer_offsets.left_epoch IS
    'The epoch of the owner that stamped left_at. Older than that for a crash, whose stamp is its successor''s.';

CREATE FUNCTION tide.relay_left() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.left_epoch := OLD.epoch;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION tide.relay_left() IS 'Notes under which epoch an owner left.';
CREATE TRIGGER relay_left BEFORE UPDATE OF left_at ON tide.relay_consumer_offsets
    FOR EACH ROW WHEN (NEW.left_at IS NOT NULL) EXECUTE FUNCTION tide.relay_left();

CREATE OR REPLACE FUNCTION tide.relay_ready(
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
        WHERE o.left_at IS NOT NULL AND o.left_epoch IS DISTINCT FROM o.epoch
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
