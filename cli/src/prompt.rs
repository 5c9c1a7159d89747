//! Asks before something is destroyed. Only a person can answer; a script says `--yes`.

use std::io::{self, Write as _};

use crate::{context::Context, error::CliError};

/// Whether the operator has agreed on the command line already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// `--yes`.
    Given,
    /// Ask.
    Wanted,
}

impl From<bool> for Consent {
    fn from(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Wanted }
    }
}

/// Returns if the operator agrees to `what`, such as "drop outbox orders".
pub(crate) async fn confirm(
    context: &Context,
    consent: Consent,
    what: &str,
) -> Result<(), CliError> {
    match consent {
        Consent::Given => return Ok(()),
        Consent::Wanted if !context.screen.can_ask() => {
            return Err(CliError::usage(
                format!("{what}: needs a confirmation, and there is no terminal to ask on"),
                "repeat with --yes",
            ));
        }
        Consent::Wanted => {}
    }
    let question = format!("{what}? [y/N] ");
    let answer = tokio::task::spawn_blocking(move || {
        let mut stderr = io::stderr();
        write!(stderr, "{question}").and_then(|()| stderr.flush())?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| CliError::io("ask", error))?;
    if is_yes(&answer) {
        Ok(())
    } else {
        Err(CliError::Declined)
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(["y\n", "Yes\n", " YES "].into_iter().all(is_yes));
        assert!(!["", "\n", "n\n", "yep\n", "no\n"].into_iter().any(is_yes));
    }
}
