//! Sessions to the outbox's own database for sinks that write there. Not those that everything
//! else shares: whoever locks what such a sink writes to must hold up that sink and nothing else.

use std::sync::{Arc, OnceLock};

use tide_catalog::{PgPool, connection::Server};

/// So many sinks of an agent write at the same time. They are opened when they are first needed.
const SESSIONS: u32 = 2;

/// Cheap to clone; all clones share the sessions.
#[derive(Debug, Clone)]
pub(crate) struct Home(Arc<Sessions>);

#[derive(Debug)]
struct Sessions {
    server: Server,
    pool: OnceLock<PgPool>,
}

impl Home {
    pub(crate) fn new(server: &Server) -> Self {
        let settings = [
            // Messages and position are lost together or not at all, and whoever has seen the
            // messages makes them durable with whatever it commits itself.
            ("synchronous_commit", "off".to_owned()),
            ("lock_timeout", "5s".to_owned()),
            // What was given up on the way ends by itself.
            ("statement_timeout", "10min".to_owned()),
            ("jit", "off".to_owned()),
        ];
        let server = server
            .with_application("tide-agent/inbox")
            .with_settings(&settings);
        Self(Arc::new(Sessions {
            server,
            pool: OnceLock::new(),
        }))
    }

    /// The outbox's database.
    pub(super) fn database(&self) -> &str {
        self.0.server.database()
    }

    pub(super) fn pool(&self) -> &PgPool {
        let Sessions { server, pool } = &*self.0;
        pool.get_or_init(|| server.pool(SESSIONS))
    }
}
