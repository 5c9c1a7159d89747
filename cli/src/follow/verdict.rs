//! What an operation came to, in one sentence and one exit code. Pure.

use tide_model::{
    AgentName,
    drain::Step,
    operation::{Operation, OperationKind, OperationState},
};

use crate::{
    exit::Exit,
    output::humanize::{counted, listed},
};

/// The sentence and the code of an operation that ended while we watched.
pub(super) fn ended(operation: &Operation) -> (String, Exit) {
    let target = &operation.target;
    let outcome = operation.outcome.as_deref().unwrap_or("no reason recorded");
    let succeeded = match operation.state {
        OperationState::Succeeded => true,
        OperationState::Failed | OperationState::Cancelled | OperationState::Running => false,
    };
    let exit = match (operation.kind, operation.state) {
        (_, OperationState::Succeeded) => Exit::Done,
        (OperationKind::Drain, _) => Exit::Blocked,
        (_, OperationState::Cancelled) => Exit::Conflict,
        (_, OperationState::Failed | OperationState::Running) => Exit::TimedOut,
    };
    let sentence = match (operation.kind, succeeded) {
        (OperationKind::Drain, true) => format!("{target} is safe to stop"),
        (OperationKind::Drain, false) => format!("{target} is NOT safe to stop: {outcome}"),
        (OperationKind::Undrain, _) => format!("{target}: {outcome}"),
        (OperationKind::Move, true) => match operation.moves.first() {
            Some(wanted) => format!("{target} is on {}", wanted.to),
            None => format!("{target}: {outcome}"),
        },
        (OperationKind::Move, false) => format!("{target} was NOT moved: {outcome}"),
        (OperationKind::Rebalance, true) => format!("rebalanced: {outcome}"),
        (OperationKind::Rebalance, false) => format!("NOT rebalanced: {outcome}"),
    };
    (sentence, exit)
}

/// The sentence about an operation that goes on without us.
pub(super) fn unended(operation: &Operation, why: &str) -> String {
    match operation.kind {
        OperationKind::Drain => format!("{} is NOT safe to stop: {why}", operation.target),
        OperationKind::Undrain | OperationKind::Move | OperationKind::Rebalance => {
            format!("the {} goes on: {why}", subject(operation))
        }
    }
}

/// What is in the way, in words.
pub(super) fn blocked(steps: &[&Step]) -> String {
    let names: Vec<&str> = steps.iter().map(|step| step.pipeline.as_str()).collect();
    let verb = if steps.len() == 1 { "is" } else { "are" };
    let why = steps.first().map_or("-", |step| step.detail.as_str());
    format!(
        "{} {verb} blocked: {} ({why})",
        counted(steps.len(), "pipeline"),
        listed(&names)
    )
}

/// What an operation is called in a sentence.
pub(crate) fn subject(operation: &Operation) -> String {
    let target = &operation.target;
    match operation.kind {
        OperationKind::Drain => format!("drain of {target}"),
        OperationKind::Undrain => format!("undrain of {target}"),
        OperationKind::Move => {
            let to = operation.moves.first().map(|wanted| &wanted.to);
            format!("move of {target} to {}", to.map_or("-", AgentName::as_str))
        }
        OperationKind::Rebalance => "rebalance".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tide_model::{OperationId, operation::Move};
    use time::OffsetDateTime;

    use super::*;

    fn operation(kind: OperationKind, state: OperationState, outcome: &str) -> Operation {
        Operation {
            id: OperationId(uuid::Uuid::nil()),
            kind,
            target: "relay-2".to_owned(),
            actor: "ana".to_owned(),
            reason: String::new(),
            state,
            outcome: Some(outcome.to_owned()),
            moves: vec![Move {
                pipeline: "orders".parse().unwrap(),
                from: None,
                to: "relay-1".parse().unwrap(),
                reason: String::new(),
            }],
            created_at: OffsetDateTime::UNIX_EPOCH,
            deadline_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn every_end_has_a_sentence_and_a_code() {
        use OperationKind::{Drain, Move, Rebalance, Undrain};
        use OperationState::{Cancelled, Failed, Succeeded};
        for (kind, state, sentence, exit) in [
            (Drain, Succeeded, "relay-2 is safe to stop", Exit::Done),
            (
                Drain,
                Failed,
                "relay-2 is NOT safe to stop: words",
                Exit::Blocked,
            ),
            (
                Drain,
                Cancelled,
                "relay-2 is NOT safe to stop: words",
                Exit::Blocked,
            ),
            (Undrain, Succeeded, "relay-2: words", Exit::Done),
            (Move, Succeeded, "relay-2 is on relay-1", Exit::Done),
            (Move, Failed, "relay-2 was NOT moved: words", Exit::TimedOut),
            (
                Move,
                Cancelled,
                "relay-2 was NOT moved: words",
                Exit::Conflict,
            ),
            (Rebalance, Succeeded, "rebalanced: words", Exit::Done),
            (Rebalance, Failed, "NOT rebalanced: words", Exit::TimedOut),
            (
                Rebalance,
                Cancelled,
                "NOT rebalanced: words",
                Exit::Conflict,
            ),
        ] {
            assert_eq!(
                ended(&operation(kind, state, "words")),
                (sentence.to_owned(), exit)
            );
        }
    }

    #[test]
    fn nothing_but_an_observed_success_is_safe_to_stop() {
        use OperationState::{Cancelled, Failed, Running};
        for state in [Running, Failed, Cancelled] {
            let drain = operation(OperationKind::Drain, state, "words");
            assert!(ended(&drain).0.contains("NOT safe"), "{state}");
            assert_ne!(ended(&drain).1, Exit::Done);
            assert!(unended(&drain, "words").contains("NOT safe"));
        }
    }
}
