//! What a command can fail with, what to tell the operator, and which exit code it is.

use std::{io, time::Duration};

use tide_catalog::CatalogError;
use tide_model::closest::closest;
use tide_proto::convert::InvalidField;
use tonic::Code;

use crate::{exit::Exit, output::humanize};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line cannot be used.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hint: String,
    },
    /// Files that cannot be used; nothing was changed.
    #[error("{}", .problems.join("\n"))]
    Files {
        /// One line a problem.
        problems: Vec<String>,
    },
    /// PostgreSQL, or the catalog in it.
    #[error("{source}")]
    Catalog {
        /// What happened.
        source: CatalogError,
        /// Advice for where the catalog has none.
        hint: Option<String>,
    },
    /// PostgreSQL did not answer in time.
    #[error("PostgreSQL at {server} did not answer within {}", humanize::duration(*.within))]
    DatabaseSilent {
        /// Host, port and database.
        server: String,
        /// How long we waited.
        within: Duration,
    },
    /// The control plane answered with an error.
    #[error("{message}")]
    Refused {
        /// Which kind.
        code: Code,
        /// Its words.
        message: String,
        /// Its advice.
        hint: Option<String>,
    },
    /// No control plane could be asked.
    #[error("control plane at {server} is unreachable: {reason}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        reason: String,
        /// Advice of the one that answered, if one did.
        hint: Option<String>,
        /// The active control plane that it named instead of itself.
        leader: Option<String>,
    },
    /// A control plane is there, and one side's certificate does not suit the other.
    #[error("control plane at {server} cannot be trusted: {reason}")]
    Untrusted {
        /// Its address.
        server: String,
        /// What TLS says.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The control plane sent what this version cannot read.
    #[error("the control plane's answer is unreadable: {0}")]
    Wire(#[from] InvalidField),
    /// There is no such thing.
    #[error("{message}")]
    NotFound {
        /// What.
        message: String,
        /// What there is.
        hint: String,
    },
    /// Something else has to happen first.
    #[error("{message}")]
    Blocked {
        /// What is in the way.
        message: String,
        /// How to clear it.
        hint: String,
    },
    /// The world has changed since the command was thought of.
    #[error("{message}")]
    Conflict {
        /// What has changed.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A file or the terminal failed.
    #[error("could not {doing}: {source}")]
    Io {
        /// What we were doing.
        doing: String,
        /// What the system answered.
        source: io::Error,
    },
    /// Nobody reads our output any more.
    #[error("output was closed")]
    OutputClosed,
    /// The operator answered no.
    #[error("not confirmed; nothing was changed")]
    Declined,
    /// We were told to wait no longer, before the operation could be looked at.
    #[error("stopped waiting before the first look at the operation")]
    Unseen,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl From<CatalogError> for CliError {
    fn from(source: CatalogError) -> Self {
        Self::Catalog { source, hint: None }
    }
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Nothing has that name. `known` do; where nothing does, `advice` says how to change that.
    pub(crate) fn unknown(what: &str, name: &str, known: &[&str], advice: &str) -> Self {
        Self::NotFound {
            message: format!("{what} {name} does not exist"),
            hint: match (known, closest(name, known)) {
                ([], _) => advice.to_owned(),
                (_, Some(meant)) => format!(
                    "did you mean {meant}? the ones that exist: {}",
                    humanize::listed(known)
                ),
                (_, None) => format!("the ones that exist: {}", humanize::listed(known)),
            },
        }
    }

    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// Adds advice for errors of the database's own, which know nothing of the command line.
    pub(crate) fn or_hint(self, advice: &str) -> Self {
        match self {
            Self::Catalog {
                source: source @ CatalogError::Database { .. },
                hint: None,
            } if !source.is_transient() && source.hint().is_none() => Self::Catalog {
                source,
                hint: Some(advice.to_owned()),
            },
            other => other,
        }
    }

    /// What the operator should do, if there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::Untrusted { hint, .. }
            | Self::Blocked { hint, .. }
            | Self::Conflict { hint, .. } => Some(hint.clone()),
            Self::Files { .. } => Some("nothing was changed; correct the files and repeat".into()),
            Self::Catalog { source, hint } => source.hint().or_else(|| hint.clone()),
            Self::DatabaseSilent { .. } => {
                Some("check the server's load, or wait longer with --timeout".into())
            }
            Self::Refused { hint, .. } => hint.clone(),
            Self::Unreachable { hint, .. } => Some(hint.clone().unwrap_or_else(|| {
                "start tide-control-plane, or go straight through PostgreSQL: \
                 --source database --postgres-url URL"
                    .into()
            })),
            Self::Wire(_) => {
                Some("use a tidectl of the control plane's version, or --source database".into())
            }
            Self::Io { .. }
            | Self::OutputClosed
            | Self::Declined
            | Self::Unseen
            | Self::Interrupted => None,
        }
    }

    /// The active control plane, if a standby named it.
    pub fn leader(&self) -> Option<&str> {
        match self {
            Self::Unreachable { leader, .. } => leader.as_deref(),
            _ => None,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::Files { .. } => Exit::Usage,
            Self::Catalog { source, .. } => catalog_exit(source),
            Self::Refused { code, .. } => status_exit(*code),
            Self::Unreachable { .. } | Self::Untrusted { .. } => Exit::Unreachable,
            Self::Blocked { .. } => Exit::Blocked,
            Self::Conflict { .. } => Exit::Conflict,
            Self::OutputClosed => Exit::Done,
            Self::Unseen => Exit::TimedOut,
            Self::Interrupted => Exit::Interrupted,
            Self::DatabaseSilent { .. }
            | Self::Wire(_)
            | Self::NotFound { .. }
            | Self::Io { .. }
            | Self::Declined => Exit::Failed,
        }
    }

    /// Whether nobody could be asked, as opposed to: was asked and said no.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether asking again later can help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::DatabaseSilent { .. } => true,
            Self::Catalog { source, .. } => source.is_transient(),
            _ => false,
        }
    }
}

fn catalog_exit(error: &CatalogError) -> Exit {
    if error.is_permission_denied() {
        return Exit::Denied;
    }
    match error {
        CatalogError::Url(_) => Exit::Usage,
        CatalogError::Refused { code, .. } => match code.as_str() {
            // Invalid parameter, null not allowed.
            "22023" | "22004" => Exit::Usage,
            // Duplicate object.
            "42710" => Exit::Conflict,
            // Not in prerequisite state, dependent objects exist.
            "55000" | "2BP01" => Exit::Blocked,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    }
}

fn status_exit(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::FailedPrecondition => Exit::Blocked,
        Code::AlreadyExists | Code::Aborted => Exit::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::NotFound
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str) -> CliError {
        CatalogError::Refused {
            message: "no".to_owned(),
            hint: Some("do this".to_owned()),
            code: code.to_owned(),
        }
        .into()
    }

    #[test]
    fn what_the_catalog_refuses_has_a_code_by_its_kind() {
        for (sqlstate, exit) in [
            ("22023", Exit::Usage),
            ("22004", Exit::Usage),
            ("42710", Exit::Conflict),
            ("55000", Exit::Blocked),
            ("2BP01", Exit::Blocked),
            ("42704", Exit::Failed),
        ] {
            assert_eq!(refused(sqlstate).exit(), exit, "{sqlstate}");
        }
        assert_eq!(refused("42704").hint().as_deref(), Some("do this"));
    }

    #[test]
    fn other_catalog_errors() {
        assert_eq!(CliError::from(CatalogError::Missing).exit(), Exit::Failed);
        let url = CliError::from(CatalogError::Url("bad".to_owned()));
        assert_eq!(url.exit(), Exit::Usage);
        let timeout = CliError::from(CatalogError::Timeout(Duration::from_secs(1)));
        assert_eq!(
            (timeout.exit(), timeout.is_transient()),
            (Exit::Failed, true)
        );
    }

    #[test]
    fn what_the_control_plane_refuses_has_a_code_by_its_kind() {
        for (code, exit) in [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::Failed),
            (Code::FailedPrecondition, Exit::Blocked),
            (Code::Aborted, Exit::Conflict),
            (Code::PermissionDenied, Exit::Denied),
            (Code::Unauthenticated, Exit::Denied),
            (Code::Internal, Exit::Failed),
        ] {
            let error = CliError::Refused {
                code,
                message: String::new(),
                hint: None,
            };
            assert_eq!(error.exit(), exit, "{code:?}");
            assert!(!error.is_transient());
        }
    }

    #[test]
    fn an_unreachable_control_plane_is_nine_and_says_what_to_do() {
        let error = CliError::Unreachable {
            server: "http://h:1".to_owned(),
            reason: "connection refused".to_owned(),
            hint: None,
            leader: None,
        };
        assert_eq!(error.exit(), Exit::Unreachable);
        assert!(error.hint().unwrap().contains("--source database"));
        assert!(error.is_transient());
    }

    #[test]
    fn advice_of_the_command_never_replaces_that_of_the_catalog() {
        assert_eq!(
            refused("22023").or_hint("other").hint().as_deref(),
            Some("do this")
        );
        let broken = CliError::from(CatalogError::Database {
            doing: "creating",
            source: sqlx::Error::PoolClosed,
        });
        assert_eq!(
            broken.or_hint("write it differently").hint(),
            None,
            "transient"
        );
    }
}
