//! What can go wrong with the catalog, and what to do about it.

use std::{borrow::Cow, error::Error as _};

/// What to do about a database that is not encoded in UTF-8.
pub const ENCODING_HINT: &str = "make a database WITH ENCODING 'UTF8' TEMPLATE template0, and restore a dump of this one into it";

/// A catalog operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server could not be reached or refused the session.
    #[error("could not connect to PostgreSQL at {server}: {}", reason(.source))]
    Connect {
        /// Host and port, never credentials.
        server: String,
        /// What happened.
        #[source]
        source: sqlx::Error,
    },
    /// The connection URL cannot be used.
    #[error("invalid PostgreSQL URL: {0}")]
    Url(String),
    /// A transaction pooler stands between Tide and the server.
    #[error(
        "a transaction pooler stands between Tide and PostgreSQL: session locks would leak to other clients"
    )]
    Pooler,
    /// The server is a standby.
    #[error("the server is a standby: snapshots and locks need the primary")]
    Standby,
    /// The server is too old or too new.
    #[error("PostgreSQL {0} is not supported")]
    ServerVersion(String),
    /// Its texts need not be UTF-8.
    #[error(
        "the database is encoded in {0}: a message in it need not be a text that a sink can be sent"
    )]
    Encoding(String),
    /// The user may not do what it has to do.
    #[error("permission denied: user {user} lacks {}", .missing.join(", "))]
    Rights {
        /// The user.
        user: String,
        /// Every right that is missing, as `GRANT` spells it.
        missing: Vec<String>,
    },
    /// Schema `tide` is not there.
    #[error("the database has no Tide catalog")]
    Missing,
    /// The catalog is older than this binary.
    #[error("the catalog is at version {found}, and this binary needs version {needed}")]
    Older {
        /// Version in the database.
        found: i64,
        /// Version that this binary was built for.
        needed: i64,
    },
    /// The catalog is newer than this binary.
    #[error("the catalog is at version {found}, and this binary knows versions up to {known}")]
    Newer {
        /// Version in the database.
        found: i64,
        /// Newest version that this binary knows.
        known: i64,
    },
    /// A migration failed; the catalog is as it was before it.
    #[error("migration failed: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The database refused what was asked, with a reason for the person who asked.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// SQLSTATE.
        code: String,
    },
    /// A statement failed.
    #[error("{doing} failed: {}", reason(.source))]
    Database {
        /// What we were doing.
        doing: &'static str,
        /// What happened.
        #[source]
        source: sqlx::Error,
    },
    /// A stored value that this binary cannot read.
    #[error("{table}.{column} holds an unreadable value: {why}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The server, or the network, ended a session that was doing nothing.
    #[error("the server ended the session while it was idle")]
    SessionEnded,
    /// A lead that was lost without being given up.
    #[error("the lock of role {0} is gone")]
    LeadershipLost(&'static str),
    /// The server did not answer in time.
    #[error("PostgreSQL did not answer within {0:?}")]
    Timeout(std::time::Duration),
}

impl CatalogError {
    pub(crate) fn inconsistent(
        table: &'static str,
        column: &'static str,
        why: impl std::fmt::Display,
    ) -> Self {
        Self::Inconsistent {
            table,
            column,
            why: why.to_string(),
        }
    }

    /// What the reader of the error should do, if there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { hint, .. } => return hint.clone(),
            Self::Connect { source, .. } => return connect_hint(source),
            Self::Rights { user, .. } => {
                return Some(format!(
                    "grant them all with: GRANT tide_relay TO {user}; or each of them as it is written"
                ));
            }
            Self::Url(_) => "write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            Self::Pooler => "connect directly to the server, or to a pooler in session mode",
            Self::Standby => {
                "point --postgres-url at the primary (target_session_attrs=read-write)"
            }
            Self::ServerVersion(_) => "use PostgreSQL 14 to 18",
            Self::Encoding(_) => ENCODING_HINT,
            Self::Missing => "install it with: tidectl migrate --postgres-url URL",
            Self::Older { .. } => "upgrade it with: tidectl migrate --postgres-url URL",
            Self::Newer { .. } => "upgrade this binary; the catalog was migrated by a newer one",
            Self::Migrate(_) | Self::Inconsistent { .. } | Self::LeadershipLost(_) => return None,
            Self::Database { source, .. } => match sqlstate(source).as_deref() {
                Some("42501") => {
                    "grant the missing right, for example: GRANT tide_relay TO this_user (agents and control plane), \
                     GRANT tide_admin TO this_user (operators)"
                }
                Some("53200") => {
                    "raise max_locks_per_transaction on the server: its lock table is full"
                }
                Some("57P05") => {
                    "the session was silent for longer than its lease: raise --lease well above the network's \
                     round trip to the server, or find out what stopped this process"
                }
                _ => return None,
            },
            Self::SessionEnded => {
                "PostgreSQL's log has the reason: a restart, an administrator, or silence for longer than --lease"
            }
            Self::Timeout(_) => "check the network and the server's load",
        };
        Some(hint.to_owned())
    }

    /// The object that was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "42704")
    }

    /// What was asked for does not fit the present state.
    pub fn is_precondition(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "55000" || code == "42710" || code == "2BP01")
    }

    /// The argument itself is wrong.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "22023" || code == "22004")
    }

    /// Another one leads by now, and its epoch keeps this write out.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "TD001")
    }

    /// The user may not do this.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Rights { .. } => true,
            Self::Database { source, .. } | Self::Connect { source, .. } => {
                matches!(
                    sqlstate(source).as_deref(),
                    Some("42501" | "28000" | "28P01")
                )
            }
            _ => false,
        }
    }

    /// What was to be written breaks a rule of the table that it was to be written to: a type, a
    /// constraint, a limit, a trigger. Another row may be welcome.
    pub fn is_bad_data(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Database { source, .. } => {
                sqlstate(source).is_some_and(|code| matches!(&code[..2], "22" | "23" | "54" | "P0"))
            }
            _ => false,
        }
    }

    /// The server takes no writes at the moment: a standby, or one that was set to read only.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Database { source, .. } if sqlstate(source).as_deref() == Some("25006"))
    }

    /// There is no such table.
    pub fn is_missing_relation(&self) -> bool {
        matches!(self, Self::Database { source, .. } if sqlstate(source).as_deref() == Some("42P01"))
    }

    /// Somebody else's lock was waited for long enough.
    pub fn is_locked_out(&self) -> bool {
        matches!(self, Self::Database { source, .. } if sqlstate(source).as_deref() == Some("55P03"))
    }

    /// Whether the server only has no room for another session at the moment, or is not up yet.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Connect { source, .. } => {
                matches!(sqlstate(source).as_deref(), Some("53300" | "57P03"))
            }
            _ => false,
        }
    }

    /// Whether the server was not even reached: it has said nothing.
    pub fn is_unreached(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if sqlstate(source).is_none())
    }

    /// Whether trying again later can help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::LeadershipLost(_) | Self::SessionEnded => true,
            Self::Connect { source, .. } | Self::Database { source, .. } => {
                match sqlstate(source) {
                    // Connection trouble, resources, shutdown, serialization: the server's own words
                    // for "not now".
                    Some(code) => matches!(&code[..2], "08" | "40" | "53" | "57" | "58" | "XX"),
                    None => true,
                }
            }
            _ => false,
        }
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .map(Cow::into_owned)
}

fn connect_hint(source: &sqlx::Error) -> Option<String> {
    let hint = match sqlstate(source).as_deref() {
        Some("28P01" | "28000") => "check user and password in --postgres-url",
        Some("3D000") => "create the database first, or correct its name in --postgres-url",
        Some("53300") => {
            "the server is out of connections: raise max_connections or stop idle clients"
        }
        Some("57P03") => "the server is starting up or shutting down; try again",
        Some(_) => return None,
        None => "is the server running, and are host and port right?",
    };
    Some(hint.to_owned())
}

/// The innermost reason of an sqlx error: its own text repeats what we say around it.
fn reason(error: &sqlx::Error) -> String {
    if let Some(error) = error.as_database_error() {
        return error.message().to_owned();
    }
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// Names what a statement was doing, and keeps the server's own words where they are for people:
/// errors that Tide's functions raise on purpose.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, CatalogError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: &'static str) -> Result<T, CatalogError> {
        self.map_err(|source| match source.as_database_error() {
            Some(error) if is_raised(error) => {
                let postgres = error.downcast_ref::<sqlx::postgres::PgDatabaseError>();
                CatalogError::Refused {
                    message: error.message().to_owned(),
                    hint: postgres.hint().map(ToOwned::to_owned),
                    code: postgres.code().to_owned(),
                }
            }
            _ => CatalogError::Database {
                doing: what,
                source,
            },
        })
    }
}

/// Raised by a `RAISE` in a function of ours, as opposed to by the server itself.
fn is_raised(error: &dyn sqlx::error::DatabaseError) -> bool {
    error
        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .is_some_and(|error| error.routine() == Some("exec_stmt_raise"))
}
