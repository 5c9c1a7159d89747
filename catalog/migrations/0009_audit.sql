-- Who did it, for certain: what the control plane proved, which user of the database wrote the row,
-- and in which transaction, so that whoever follows the events misses none that commits late.

ALTER TABLE tide.events
    ADD COLUMN outcome          text NOT NULL DEFAULT '',
    ADD COLUMN authenticated_by text NOT NULL DEFAULT '' CHECK (authenticated_by IN ('', 'token', 'certificate')),
    ADD COLUMN database_user    name,
    ADD COLUMN xid              xid8;
-- Set afterwards, so that no row that is there already is rewritten or claims to be from now.
ALTER TABLE tide.events
    ALTER COLUMN database_user SET DEFAULT session_user,
    ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
CREATE INDEX events_xid ON tide.events (xid);

COMMENT ON COLUMN tide.events.actor IS
    'Who did it. Proven if authenticated_by says how; otherwise as the client says, and database_user is what is certain.';
COMMENT ON COLUMN tide.events.outcome IS
    'How a request ended: ok, what it was refused with, or empty for what is no request.';
COMMENT ON COLUMN tide.events.authenticated_by IS
    'How the control plane knew the actor: token or certificate; empty if it did not ask, or was not involved.';
COMMENT ON COLUMN tide.events.database_user IS
    'Who was logged in to PostgreSQL; empty for rows older than this column.';
COMMENT ON COLUMN tide.events.xid IS
    'The transaction that wrote the row: numbers commit in another order than they are drawn in.';

-- Append-only, and not by word of whoever appends: number, time, database user and transaction are
-- the server's. Only administrators, as whom the control plane connects, may say that an actor is
-- proven.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_relay') THEN
        REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON tide.events FROM tide_relay;
        GRANT INSERT (relay_group_id, actor, kind, subject, reason, detail) ON tide.events TO tide_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tide_admin') THEN
        REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON tide.events FROM tide_admin;
        GRANT INSERT (relay_group_id, actor, kind, subject, reason, detail, outcome, authenticated_by)
            ON tide.events TO tide_admin;
    END IF;
END
$$;
