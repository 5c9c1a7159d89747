use clap::Parser as _;
use tide_model::{
    drain::{Progress, Step},
    operation::OperationKind,
};
use time::OffsetDateTime;

use super::*;
use crate::{args::Cli, context::Settings, interrupt::Interrupt, output::Screen};

fn context() -> Context {
    let cli = Cli::try_parse_from(["tidectl", "version"]).unwrap();
    Context {
        settings: Settings::of(&cli.global, None),
        screen: Screen::new(&cli.global),
        interrupt: Interrupt::default(),
    }
}

fn look(state: OperationState, progress: Option<Progress>) -> OperationView {
    let step = progress.map(|progress| Step {
        pipeline: "orders".parse().unwrap(),
        from: Some("relay-2".parse().unwrap()),
        to: None,
        progress,
        until: None,
        cause: None,
        detail: "words".to_owned(),
        hint: None,
    });
    OperationView {
        operation: Operation {
            id: OperationId(uuid::Uuid::nil()),
            kind: OperationKind::Drain,
            target: "relay-2".to_owned(),
            actor: "ana".to_owned(),
            reason: String::new(),
            state,
            outcome: None,
            moves: Vec::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            deadline_at: None,
            finished_at: None,
        },
        steps: step.into_iter().collect(),
    }
}

/// Watches looks that come a second apart, the last one over and over.
async fn watched(looks: &[OperationView], limit: Option<Duration>) -> (End, Duration) {
    let context = context();
    let mut teller = Teller::new(&context, Vec::new());
    let mut seen = 0;
    let started = Instant::now();
    let next = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let look = looks[seen.min(looks.len() - 1)].clone();
        seen += 1;
        Ok(look)
    };
    let end = watch(next, limit, &mut teller, &mut None).await.unwrap();
    (end, started.elapsed())
}

fn running(progress: Progress) -> OperationView {
    look(OperationState::Running, Some(progress))
}

#[tokio::test(start_paused = true)]
async fn what_stays_blocked_is_given_up() {
    let (end, after) = watched(&[running(Progress::Blocked)], None).await;
    assert_eq!(end, End::Stuck);
    assert!(
        after >= STUCK_AFTER && after < STUCK_AFTER + Duration::from_secs(3),
        "{after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_blocked_for_a_moment_is_waited_for() {
    let mut looks = vec![running(Progress::Blocked); 25];
    looks.push(running(Progress::Progressing));
    looks.extend(vec![running(Progress::Blocked); 25]);
    looks.push(look(OperationState::Succeeded, None));
    assert_eq!(watched(&looks, None).await.0, End::Ended);
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_said_how_long_is_obeyed() {
    let mut looks = vec![running(Progress::Blocked); 100];
    looks.push(look(OperationState::Succeeded, None));
    let hour = Some(Duration::from_hours(1));
    assert_eq!(watched(&looks, hour).await.0, End::Ended);
    for look in &mut looks {
        look.operation.deadline_at = Some(OffsetDateTime::UNIX_EPOCH);
    }
    assert_eq!(watched(&looks, None).await.0, End::Ended);
}

#[tokio::test(start_paused = true)]
async fn waiting_is_not_blocked() {
    let mut looks = vec![running(Progress::Waiting); 100];
    looks.push(look(OperationState::Cancelled, None));
    assert_eq!(watched(&looks, None).await.0, End::Ended);
}
