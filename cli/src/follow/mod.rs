//! Watches an operation to its end, tells how it goes, and says what it came to.
//!
//! The operation does not need us: Ctrl-C, a lost connection or an impatient script end the
//! watching and nothing else. When the source goes away it is looked for again, and a database
//! may take the place of a control plane in the middle.
//!
//! ```text
//!                      ┌──▶ Ended         the operation has
//! (started) ─▶ watching├──▶ LimitReached  we were told to wait no longer
//!               ▲  │   ├──▶ Stuck         all that is left needs an operator, for some time now
//!      found    │  ▼   └──▶ Detached      Ctrl-C
//!      again   lost sight
//! ```

mod progress;
mod teller;
mod verdict;

use std::time::Duration;

use serde::Serialize;
use tide_model::{
    OperationId, UnitName,
    operation::{Operation, OperationState},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use self::teller::Teller;
pub(crate) use self::verdict::subject;
use crate::{
    context::Context,
    error::CliError,
    exit::Exit,
    output::humanize::duration,
    source::{self, OperationView, Source},
};

/// Pipelines that need an operator may be a moment of a rolling restart. After this long they are
/// not, unless the operator has said how long to wait.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// However short the wait, the first look may take this long.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Farther away than anybody waits, and still a moment that can be computed with.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// What to follow.
#[derive(Debug)]
pub(crate) struct Follow {
    /// The operation.
    pub(crate) id: OperationId,
    /// The pipelines that it was planned to move, if that is known.
    pub(crate) planned: Vec<UnitName>,
    /// Stop watching after this; never if none.
    pub(crate) limit: Option<Duration>,
}

/// What following came to; printed as the command's data.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    #[serde(flatten)]
    view: OperationView,
    safe_to_stop: bool,
    #[serde(rename = "verdict")]
    sentence: String,
    #[serde(skip)]
    exit: Exit,
}

impl Verdict {
    /// An operation that has ended under our eyes.
    pub(crate) fn ended(view: OperationView) -> Self {
        let (sentence, exit) = verdict::ended(&view.operation);
        Self::new(view, sentence, exit)
    }

    /// An operation that is left alone, or was over before we looked.
    pub(crate) fn new(view: OperationView, sentence: String, exit: Exit) -> Self {
        Self {
            safe_to_stop: view.operation.is_safe_to_stop(),
            view,
            sentence,
            exit,
        }
    }

    /// The exit code that goes with an operation that has ended.
    pub(crate) fn exit_of(operation: &Operation) -> Exit {
        verdict::ended(operation).1
    }

    /// Prints it.
    pub(crate) fn show(self, context: &Context) -> Result<Exit, CliError> {
        context.screen.show(&self, |_| self.sentence.clone())?;
        Ok(self.exit)
    }
}

/// Follows an operation and says on stderr how it goes.
pub(crate) async fn follow(
    context: &Context,
    source: &mut Source,
    follow: Follow,
) -> Result<Verdict, CliError> {
    let listener = context.interrupt.listen();
    let started = Instant::now();
    let limit = started + follow.limit.unwrap_or(NEVER);
    let mut teller = Teller::new(context, follow.planned);
    let mut last: Option<OperationView> = None;
    let looked = Notify::new();
    let watched = async {
        loop {
            let ended = match source.operation_watch(follow.id).await {
                Ok(mut looks) => {
                    let next = async || {
                        let look = looks.next().await;
                        looked.notify_one();
                        look
                    };
                    watch(next, follow.limit, &mut teller, &mut last).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Err(error) if error.is_transient() => {
                    teller.lost_sight(&error);
                    *source = source::reconnect(context).await?;
                }
                ended => return ended,
            }
        }
    };
    let end = tokio::select! {
        biased;
        () = listener.pressed() => Ok(End::Detached),
        ended = watched => ended,
        () = async {
            sleep_until(limit).await;
            // The shortest wait still says what it found.
            drop(timeout(FIRST_LOOK, looked.notified()).await);
        } => Ok(End::LimitReached),
    };
    teller.finish();
    let end = end.inspect_err(|_| goes_on(context, "operation", follow.id))?;
    let view = match (end, last) {
        (End::Ended, Some(view)) => return Ok(Verdict::ended(view)),
        (End::Detached, None) => {
            goes_on(context, "operation", follow.id);
            return Err(CliError::Interrupted);
        }
        (End::Ended | End::LimitReached | End::Stuck, None) => {
            goes_on(context, "operation", follow.id);
            return Err(CliError::Unseen);
        }
        (_, Some(view)) => view,
    };
    goes_on(context, &subject(&view.operation), follow.id);
    let progress = &teller.progress;
    let moved = format!("{} of {} moved", progress.moved(), progress.total());
    let (why, exit) = match end {
        End::Detached => (format!("still running, {moved}"), Exit::Interrupted),
        _ if progress.is_stuck() => (verdict::blocked(&progress.blocked()), Exit::Blocked),
        End::LimitReached | End::Stuck | End::Ended => {
            let waited = duration(started.elapsed());
            (
                format!("still running after {waited}, {moved}"),
                Exit::TimedOut,
            )
        }
    };
    let sentence = verdict::unended(&view.operation, &why);
    Ok(Verdict::new(view, sentence, exit))
}

/// Why watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ended,
    LimitReached,
    Stuck,
    Detached,
}

/// Looks again and again until the operation ends, is stuck, or a look fails. `last` is the newest
/// look.
async fn watch(
    mut next: impl AsyncFnMut() -> Result<OperationView, CliError>,
    limit: Option<Duration>,
    teller: &mut Teller<'_>,
    last: &mut Option<OperationView>,
) -> Result<End, CliError> {
    let mut stuck_at = None;
    loop {
        let view = tokio::select! {
            biased;
            view = next() => view?,
            () = sleep_until(stuck_at.unwrap_or_else(|| Instant::now() + NEVER)) => {
                return Ok(End::Stuck);
            }
        };
        let operation = &view.operation;
        let patient = limit.is_some() || operation.deadline_at.is_some();
        let running = operation.state == OperationState::Running;
        match operation.state {
            OperationState::Running => teller.tell(&view.steps),
            // Nothing is left to move; what became of a failed operation's pipelines is not known.
            OperationState::Succeeded => teller.tell(&[]),
            OperationState::Failed | OperationState::Cancelled => {}
        }
        stuck_at = if teller.progress.is_stuck() && !patient {
            stuck_at.or_else(|| Some(Instant::now() + STUCK_AFTER))
        } else {
            None
        };
        *last = Some(view);
        if !running {
            return Ok(End::Ended);
        }
    }
}

/// How to find an operation again.
pub(crate) fn goes_on(context: &Context, what: &str, id: OperationId) {
    let (screen, flags) = (&context.screen, context.settings.flags_to_repeat());
    screen.say(format_args!("the {what} goes on"));
    screen.say(format_args!(
        "  watch it:   tidectl operation watch {id}{flags}"
    ));
    screen.say(format_args!(
        "  cancel it:  tidectl operation cancel {id}{flags}"
    ));
}

#[cfg(test)]
mod tests;
