//! Whether it is a database that Tide can work with, and whether this user may.

use tide_catalog::ENCODING_HINT;

use super::unknown;
use crate::{
    args::Part,
    doctor::{
        facts::{Asked, Database, Pooler, Rights},
        finding::Finding,
    },
};

/// The versions that Tide works with: from, and up to but without.
const VERSIONS: std::ops::Range<i32> = 140_000..190_000;

/// Reachable, of a known version, a primary that may be written to, without a pooler.
pub(super) fn judge(label: &str, database: &Asked<Database>) -> Vec<Finding> {
    let database = match database {
        Ok(database) => database,
        Err(problem) => {
            let hint = problem.hint.as_deref();
            let hint = hint.unwrap_or("check the URL, the network and the server");
            return vec![Finding::fail("database.reachable", &*problem.message, hint)];
        }
    };
    let mut findings = vec![
        Finding::ok("database.reachable", format!("{label} answers")),
        pooler(&database.pooler),
    ];
    let Some(server) = &database.server else {
        return findings;
    };
    match &server.facts {
        Err(problem) => findings.push(unknown("database.state", problem)),
        Ok(facts) => {
            let setting = |name: &str| facts.settings.get(name).map_or("?", String::as_str);
            let version = setting("server_version");
            findings.push(if VERSIONS.contains(&facts.state.version) {
                Finding::ok("database.version", format!("PostgreSQL {version}"))
            } else {
                let detail = format!("PostgreSQL {version} is not supported");
                Finding::fail("database.version", detail, "use PostgreSQL 14 to 18")
            });
            let encoding = setting("server_encoding");
            findings.push(if encoding == "UTF8" {
                Finding::ok("database.encoding", encoding)
            } else {
                let detail =
                    format!("{encoding}: a message need not be a text that a sink can be sent");
                Finding::fail("database.encoding", detail, ENCODING_HINT)
            });
            findings.push(if facts.state.standby {
                Finding::fail(
                    "database.primary",
                    "the server is a standby: snapshots and locks need the primary",
                    "point --postgres-url at the primary (target_session_attrs=read-write)",
                )
            } else if setting("default_transaction_read_only") == "on" {
                Finding::fail(
                    "database.primary",
                    "transactions are read-only by default",
                    "reset default_transaction_read_only for this user, the database or the server",
                )
            } else {
                Finding::ok("database.primary", "a primary that may be written to")
            });
        }
    }
    findings
}

fn pooler(pooler: &Pooler) -> Finding {
    const CHECK: &str = "database.pooler";
    match pooler {
        Pooler::None => Finding::ok(CHECK, "every session has a backend of its own"),
        Pooler::Found => Finding::fail(
            CHECK,
            "a transaction pooler stands in between: session locks would leak to other clients; \
             the server was not examined further",
            "connect directly to the server, or to a pooler in session mode",
        ),
        Pooler::Unknown(problem) => unknown(CHECK, problem),
    }
}

/// Whether the catalog is the one that this binary works with.
pub(super) fn catalog(verified: &Asked<()>) -> Finding {
    match verified {
        Ok(()) => {
            let version = tide_catalog::schema::version();
            Finding::ok("catalog.version", format!("version {version}, as needed"))
        }
        Err(problem) => {
            let hint = problem.hint.as_deref();
            let hint = hint.unwrap_or("have a user ask who may read schema tide");
            Finding::fail("catalog.version", &*problem.message, hint)
        }
    }
}

/// Whether the user may do what its part needs. If nobody said which part that is, one is enough.
pub(super) fn rights(rights: &Rights, part: Option<Part>, user: &str) -> Vec<Finding> {
    let able_to_something = Part::ALL
        .into_iter()
        .any(|part| part.missing(rights).is_empty());
    let judge = |asked: Part| {
        let missing = asked.missing(rights);
        let (check, name, role) = asked.names();
        if missing.is_empty() {
            return Finding::ok(check, format!("{user} has the rights of {name}"));
        }
        let detail = format!("{user} lacks for {name}: {}", missing.join(", "));
        let hint = format!("GRANT {role} TO {user};");
        match part {
            Some(part) if part == asked => Finding::fail(check, detail, hint),
            // Least privilege: it is not meant to be everything.
            Some(_) => Finding::ok(check, format!("{user} is not for {name}")),
            None if able_to_something => {
                let detail = format!("{user} is not for {name}: lacks {} rights", missing.len());
                Finding::ok(check, detail)
            }
            None => Finding::fail(check, detail, hint),
        }
    };
    Part::ALL.into_iter().map(judge).collect()
}

impl Part {
    fn missing(self, rights: &Rights) -> &[String] {
        match self {
            Self::Agent => &rights.agent,
            Self::Operator => &rights.operator,
            Self::Publisher => &rights.publisher,
        }
    }

    /// The check, who needs these rights, and the role that has them.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Agent => ("rights.agent", "agents", "tide_relay"),
            Self::Operator => (
                "rights.operator",
                "operators and control planes",
                "tide_admin",
            ),
            Self::Publisher => ("rights.publisher", "publishers", "tide_publisher"),
        }
    }
}
