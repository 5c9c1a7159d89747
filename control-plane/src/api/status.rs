//! The only place where an error becomes a `Status`.
//!
//! | code | when | may the caller try again? |
//! |---|---|---|
//! | `INVALID_ARGUMENT` | a field makes no sense | no |
//! | `NOT_FOUND` | nobody has that name | no |
//! | `FAILED_PRECONDITION` | the fleet is not in a state for it | when that has changed |
//! | `ABORTED` | a plan is stale | with a new plan |
//! | `UNAUTHENTICATED` | no credentials, or none that are good | with others |
//! | `PERMISSION_DENIED` | proven, and not allowed | no |
//! | `RESOURCE_EXHAUSTED` | too many watches, requests, or agents that wait | later |
//! | `UNIMPLEMENTED` | no such method | no |
//! | `UNAVAILABLE` | the database is away, this process is stopping, warming up, or a standby | later, or with the active one |
//! | `INTERNAL` | the catalog holds something strange, or rights are missing | no |
//!
//! Why somebody is not let through is in a `google.rpc.ErrorInfo` among the details, for programs.
//! What to do about it travels in the metadata key `tide-hint`, percent-encoded UTF-8; a standby
//! names the active control plane's address in `tide-leader`. What the
//! database said is logged here and crosses the API only where Tide's own functions raised it for
//! the operator to read.

use std::{error::Error, fmt::Write as _, time::Duration};

use tide_catalog::CatalogError;
use tide_model::rebalance::Outdated;
use tide_proto::convert::InvalidField;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{error, warn};

use super::suggest::suggestion;
use crate::{
    access::Denied,
    fleet::{Stopping, TooCold},
    leadership::{ActiveOne, NotLeading},
    operations::{CommandError, Unknown},
};

/// Metadata key of the hint.
pub const HINT_KEY: &str = "tide-hint";

/// Where the reasons in error details mean something.
const DOMAIN: &str = "tide";

/// Metadata key of the active control plane's address.
pub const LEADER_KEY: &str = "tide-leader";

/// Agents report within seconds, as a rule.
const WARM_SOON: Duration = Duration::from_secs(2);

/// A status that says what to do.
fn hinted(code: Code, message: impl Into<String>, hint: &str) -> Status {
    let mut status = Status::new(code, message);
    let hint = MetadataValue::try_from(percent_encode(hint))
        .expect("percent-encoded text is printable ASCII");
    status.metadata_mut().insert(HINT_KEY, hint);
    status
}

/// A status that says what to do, and to programs why.
fn typed(code: Code, reason: &str, message: String, hint: &str) -> Status {
    let details =
        ErrorDetails::with_error_info(reason, DOMAIN, [("hint".to_owned(), hint.to_owned())]);
    let metadata = hinted(code, "", hint).metadata().clone();
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// Too many agents wait to be heard; each is told when to come back, not all at one moment.
pub(super) fn crowded(after: Duration) -> Status {
    let after = after.mul_f64(1.0 + rand::random::<f64>());
    let hint = "agents come back by themselves; messages flow meanwhile";
    let mut details = ErrorDetails::with_error_info(
        "TOO_MANY_AGENTS_WAIT",
        DOMAIN,
        [("hint".to_owned(), hint.to_owned())],
    );
    details.set_retry_info(Some(after));
    let metadata = hinted(Code::ResourceExhausted, "", hint).metadata().clone();
    let message = "too many agents wait to report";
    Status::with_error_details_and_metadata(Code::ResourceExhausted, message, details, metadata)
}

/// Too little is known to plan by.
pub(super) fn too_cold(refusal: &TooCold) -> Status {
    let hint = "wait a few seconds and ask again; see who has not reported with: tidectl agent list. \
                With the database as the source it goes without: --source database";
    let mut details = ErrorDetails::with_error_info(
        "WARMING",
        DOMAIN,
        [
            ("hint".to_owned(), hint.to_owned()),
            ("agents".to_owned(), refusal.0.agents.to_string()),
            ("told".to_owned(), refusal.0.told.to_string()),
        ],
    );
    details.set_retry_info(Some(WARM_SOON));
    let metadata = hinted(Code::Unavailable, "", hint).metadata().clone();
    Status::with_error_details_and_metadata(
        Code::Unavailable,
        refusal.to_string(),
        details,
        metadata,
    )
}

/// Somebody is not let through.
pub(super) fn denied(denied: &Denied) -> Status {
    let (code, hint) = match denied {
        Denied::Nobody => (
            Code::Unauthenticated,
            "give a token with --token '${file:PATH}' or TIDE_TOKEN, or a certificate with --client-cert and \
             --client-key",
        ),
        Denied::Malformed => (
            Code::Unauthenticated,
            "write the header as: authorization: Bearer TOKEN",
        ),
        Denied::UnknownToken => (
            Code::Unauthenticated,
            "check for a token of another installation, or one that was withdrawn",
        ),
        Denied::ExpiredToken { .. } => (
            Code::Unauthenticated,
            "ask an administrator for a new token",
        ),
        Denied::Certificate(_) => (
            Code::Unauthenticated,
            "have one issued with the URI spiffe://TRUST-DOMAIN/tide/GROUP/ROLE/NAME",
        ),
        Denied::OtherGroup { .. } => (
            Code::PermissionDenied,
            "point --control-plane at the one of that group, or use a certificate for this one",
        ),
        Denied::Role { .. } => (
            Code::PermissionDenied,
            "ask an administrator for credentials with that role",
        ),
        Denied::OtherAgent { .. } => (
            Code::PermissionDenied,
            "start the agent with the --name that its credentials are made out to",
        ),
        Denied::TooOften { .. } => (
            Code::ResourceExhausted,
            "ask less often, watch instead of listing, or raise --request-rate",
        ),
    };
    typed(code, denied.reason(), denied.to_string(), hint)
}

/// No such method, or one that nobody said who may call.
pub(super) fn unknown_method(path: &str) -> Status {
    let shown: String = path.chars().take(200).collect();
    Status::unimplemented(format!("there is no method {shown:?}"))
}

/// A field of the request cannot be used.
pub(super) fn invalid(field: &'static str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("field {field} {why}"))
}

/// A field of the request could not be converted.
pub(super) fn invalid_field(error: &InvalidField) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The process ends; the caller may come back.
pub(super) fn stopping(error: Stopping) -> Status {
    hinted(
        Code::Unavailable,
        error.to_string(),
        "try again, or use --source database meanwhile",
    )
}

/// Another control plane answers this, or nobody can say which.
pub(super) fn not_leading(refusal: &NotLeading) -> Status {
    let message = refusal.to_string();
    let NotLeading::Standby(Some(ActiveOne {
        address: Some(address),
        ..
    })) = refusal
    else {
        let hint = "try again, or use --source database meanwhile";
        return hinted(Code::Unavailable, message, hint);
    };
    let hint = format!("ask the active one: --control-plane {address}");
    let mut status = hinted(Code::Unavailable, message, &hint);
    // An address that is no ASCII is still in the message.
    if let Ok(address) = MetadataValue::try_from(address.as_str()) {
        status.metadata_mut().insert(LEADER_KEY, address);
    }
    status
}

/// No more watches fit.
pub(super) fn too_many_watches(limit: usize) -> Status {
    hinted(
        Code::ResourceExhausted,
        format!("{limit} watches are open already"),
        "end some of them, or list instead of watching",
    )
}

/// An agent of another group.
pub(super) fn other_group(theirs: &str, ours: &str) -> Status {
    hinted(
        Code::FailedPrecondition,
        format!("this control plane looks after group {ours:?}, not {theirs:?}"),
        "point --control-plane at the one of this group, or correct --relay-group-id",
    )
}

/// No such agent.
pub(super) fn unknown_agent(unknown: &Unknown) -> Status {
    not_found(
        "agent",
        "is not known",
        unknown,
        "list agents with: tidectl agent list",
    )
}

/// No such pipeline.
pub(super) fn unknown_pipeline(unknown: &Unknown) -> Status {
    not_found(
        "pipeline",
        "does not exist",
        unknown,
        "list pipelines with: tidectl pipeline list",
    )
}

fn not_found(what: &str, verdict: &str, unknown: &Unknown, hint: &str) -> Status {
    let suggestion = suggestion(&unknown.name, &unknown.known);
    let message = format!("{what} {:?} {verdict}; {suggestion}", unknown.name);
    hinted(Code::NotFound, message, hint)
}

/// A command was refused or failed.
pub(super) fn refused(error: CommandError) -> Status {
    let message = error.to_string();
    match error {
        CommandError::UnknownAgent(unknown) => unknown_agent(&unknown),
        CommandError::UnknownPipeline(unknown) => unknown_pipeline(&unknown),
        CommandError::UnknownOperation(_) => hinted(
            Code::NotFound,
            message,
            "list operations with: tidectl operation list",
        ),
        CommandError::Stranded(obstacles) => {
            hinted(Code::FailedPrecondition, message, &obstacles.hint())
        }
        CommandError::NotRunning(_) => hinted(
            Code::FailedPrecondition,
            message,
            "start it, or choose another agent: tidectl agent list",
        ),
        CommandError::Stays(_, hold) => hinted(
            Code::FailedPrecondition,
            message,
            &format!("ask its owner, or: tidectl hold remove {} --break", hold.id),
        ),
        CommandError::TakesNoWork(agent) => hinted(
            Code::FailedPrecondition,
            message,
            &format!("choose another agent, or: tidectl undrain {agent}"),
        ),
        CommandError::Disabled(pipeline) => hinted(
            Code::FailedPrecondition,
            message,
            &format!("enable it with: tidectl pipeline enable {pipeline}"),
        ),
        CommandError::Outdated(_) => hinted(Code::Aborted, message, Outdated::HINT),
        CommandError::NotLeading(refusal) => not_leading(&refusal),
        CommandError::Catalog(error) => catalog(&error),
    }
}

fn catalog(failure: &CatalogError) -> Status {
    let (code, message) = if let CatalogError::Refused { message, .. } = failure {
        (refusal_code(failure), message.clone())
    } else if failure.is_transient() {
        (Code::Unavailable, "the database does not answer".to_owned())
    } else {
        (
            Code::Internal,
            "the database refused the statement".to_owned(),
        )
    };
    let source: &dyn Error = failure;
    match code {
        Code::Internal => error!(error = source, "a request failed"),
        Code::Unavailable => warn!(error = source, "a request failed for want of the database"),
        _ => {}
    }
    match failure.hint() {
        Some(hint) => hinted(code, message, &hint),
        None if code == Code::Internal => hinted(code, message, "see the log of the control plane"),
        None => Status::new(code, message),
    }
}

fn refusal_code(refusal: &CatalogError) -> Code {
    if refusal.is_not_found() {
        Code::NotFound
    } else if refusal.is_invalid_argument() {
        Code::InvalidArgument
    } else if refusal.is_precondition() {
        Code::FailedPrecondition
    } else {
        Code::Internal
    }
}

/// Metadata is ASCII; `%` and everything that is not printable becomes `%XX`, as in gRPC's own
/// messages.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | ..b' ' | b'\x7f'.. => write!(encoded, "%{byte:02X}"),
            printable => write!(encoded, "{}", char::from(printable)),
        }
        .expect("writing to a String does not fail");
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(status: &Status) -> &str {
        status.metadata().get(HINT_KEY).unwrap().to_str().unwrap()
    }

    #[test]
    fn hints_are_ascii_whatever_they_say() {
        let status = hinted(Code::Aborted, "no", "100 % größer\n");
        assert_eq!(hint(&status), "100 %25 gr%C3%B6%C3%9Fer%0A");
    }

    #[test]
    fn an_unknown_name_comes_with_a_suggestion() {
        let status = refused(CommandError::UnknownAgent(Unknown {
            name: "relay-9".to_owned(),
            known: vec!["relay-1".to_owned(), "edge".to_owned()],
        }));
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(
            status.message(),
            r#"agent "relay-9" is not known; did you mean "relay-1"? known: edge, relay-1"#
        );
        assert!(hint(&status).contains("tidectl agent list"));
    }

    #[test]
    fn database_trouble_keeps_the_databases_words_inside() {
        let status = refused(CatalogError::Timeout(std::time::Duration::from_secs(3)).into());
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "the database does not answer");
    }

    #[test]
    fn what_our_functions_raise_is_for_the_operator() {
        let status = refused(
            CatalogError::Refused {
                message: "agent relay-1 is not drained".to_owned(),
                hint: Some("see its holds".to_owned()),
                code: "55000".to_owned(),
            }
            .into(),
        );
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "agent relay-1 is not drained");
        assert_eq!(hint(&status), "see its holds");
    }
}
