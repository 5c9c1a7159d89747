//! Who holds the locks, straight from PostgreSQL, and who says so; and what to do about those that
//! nobody answers for.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::json;
use tide_catalog::{
    intent::Actor,
    locks::{Release, lock_list, lock_release},
};
use tonic::Code;

use crate::{
    args::{LocksCommand, ReleaseArgs},
    context::Context,
    error::CliError,
    exit::Exit,
    locks::{Judged, Verdict, judge},
    output::{
        Cell, Style, Table, Tone,
        humanize::{counted, listed, seconds},
    },
    prompt::{Consent, confirm},
    source::Session,
};

pub(super) async fn run(context: &Context, command: LocksCommand) -> Result<Exit, CliError> {
    let settings = &context.settings;
    let mut session = Session::open(settings.server()?, settings.timeout).await?;
    match command {
        LocksCommand::List => {
            let judged = look(context, &mut session).await?;
            show(context, &judged)
        }
        LocksCommand::Orphans => {
            let mut judged = look(context, &mut session).await?;
            judged.retain(|one| one.verdict == Verdict::Orphan);
            show(context, &judged)
        }
        LocksCommand::Release(args) => release(context, &mut session, args).await,
    }
}

async fn look(context: &Context, session: &mut Session) -> Result<Vec<Judged>, CliError> {
    let group = &context.settings.group;
    let rows = session
        .run(async |connection| Ok(lock_list(connection, group).await?))
        .await?;
    Ok(rows.iter().map(judge).collect())
}

fn show(context: &Context, judged: &[Judged]) -> Result<Exit, CliError> {
    context.screen.show(&judged, |style| table(style, judged))?;
    let sound = judged.iter().all(|one| one.verdict == Verdict::Owned);
    Ok(if sound { Exit::Done } else { Exit::Pending })
}

async fn release(
    context: &Context,
    session: &mut Session,
    args: ReleaseArgs,
) -> Result<Exit, CliError> {
    let judged = look(context, session).await?;
    let orphans = orphans(&judged, &args)?;
    if orphans.is_empty() {
        context.screen.show(&json!({"released": []}), |_| {
            "no lock is an orphan".to_owned()
        })?;
        return Ok(Exit::Done);
    }
    let pids: BTreeSet<i32> = orphans.iter().filter_map(|one| one.pid).collect();
    let what = question(&pids, &orphans);
    confirm(context, Consent::from(args.yes), &what).await?;
    let actor = Actor {
        name: context.settings.actor.clone(),
        reason: args.reason,
    };
    let mut released = Vec::new();
    for pid in pids {
        released.extend(end(context, session, pid, &actor).await?);
    }
    let data = json!({"released": released});
    context.screen.show(&data, |_| {
        let names: Vec<&str> = released.iter().map(String::as_str).collect();
        format!("released {}", listed(&names))
    })?;
    Ok(Exit::Done)
}

/// The orphans that were asked for. One that is none stops everything before anything happens.
fn orphans<'a>(judged: &'a [Judged], args: &ReleaseArgs) -> Result<Vec<&'a Judged>, CliError> {
    let of = |pid: i32| judged.iter().find(|one| one.pid == Some(pid));
    for pid in &args.pids {
        match of(*pid) {
            None => {
                return Err(CliError::NotFound {
                    message: format!("backend {pid} holds no lock of this group"),
                    hint: "list those that do: tidectl locks list".to_owned(),
                });
            }
            Some(one) if one.verdict != Verdict::Orphan => {
                let holder = one.holder.as_deref().unwrap_or("an agent");
                return Err(CliError::Blocked {
                    message: format!("backend {pid} is no orphan: it is the session of {holder}"),
                    hint: format!("to take its pipelines away from it: tidectl drain {holder}"),
                });
            }
            Some(_) => {}
        }
    }
    let wanted = |one: &&Judged| args.all || one.pid.is_some_and(|pid| args.pids.contains(&pid));
    let orphans = judged.iter().filter(|one| one.verdict == Verdict::Orphan);
    Ok(orphans.filter(wanted).collect())
}

fn question(pids: &BTreeSet<i32>, orphans: &[&Judged]) -> String {
    let names: Vec<&str> = orphans.iter().map(|one| one.pipeline.as_str()).collect();
    let who: BTreeSet<String> = orphans
        .iter()
        .filter_map(|one| Some(format!("{} ({})", one.pid?, session_of(one))))
        .collect();
    let who: Vec<&str> = who.iter().map(String::as_str).collect();
    format!(
        "end {}, {}, which would release {}",
        counted(pids.len(), "session"),
        listed(&who),
        listed(&names)
    )
}

async fn end(
    context: &Context,
    session: &mut Session,
    pid: i32,
    actor: &Actor,
) -> Result<Vec<String>, CliError> {
    let group = &context.settings.group;
    let ended = session
        .run(async |connection| {
            lock_release(connection, group, pid, actor)
                .await
                .map_err(|error| {
                    if error.is_permission_denied() {
                        CliError::Refused {
                            code: Code::PermissionDenied,
                            message: error.to_string(),
                            hint: Some(
                                "let a superuser do it, or: GRANT tide_admin, pg_signal_backend TO \
                                 this user (superusers' sessions are ended by superusers alone)"
                                    .to_owned(),
                            ),
                        }
                    } else {
                        error.into()
                    }
                })
        })
        .await?;
    match ended {
        Release::Ended(names) => Ok(names),
        Release::NoOrphan => Err(CliError::Conflict {
            message: format!("backend {pid} is no orphan any more; it was left alone"),
            hint: "look again: tidectl locks list".to_owned(),
        }),
        Release::Lingers => Err(CliError::Blocked {
            message: format!("backend {pid} was told to end, and has not within 5 s"),
            hint: "look what it waits for: SELECT * FROM pg_stat_activity WHERE pid = ".to_owned()
                + &pid.to_string(),
        }),
    }
}

fn session_of(one: &Judged) -> String {
    let application = one.application.as_deref().filter(|name| !name.is_empty());
    let application = application.unwrap_or("no application name");
    match &one.client {
        Some(client) => format!("{application} from {client}"),
        None => application.to_owned(),
    }
}

fn table(style: Style, judged: &[Judged]) -> String {
    let mut heading = vec![
        "PIPELINE", "VERDICT", "HOLDER", "RECORDED", "PID", "AGE", "SESSION",
    ];
    if style.is_wide() {
        heading.extend(["EPOCH", "USER", "CLIENT"]);
    }
    let mut table = Table::new(style, &heading).with_words_in("SESSION");
    for one in judged {
        let session = one.pid.map_or_else(|| "-".to_owned(), |_| session_of(one));
        let mut row = vec![
            Cell::from(one.pipeline.as_str()),
            Cell::toned(one.verdict.as_str(), tone(one.verdict)),
            Cell::or_dash(one.holder.as_deref()),
            Cell::or_dash(one.recorded.as_deref()),
            Cell::or_dash(one.pid),
            Cell::or_dash(one.age_seconds.map(|age| seconds(age.trunc()))),
            Cell::from(session),
        ];
        if style.is_wide() {
            row.extend([
                Cell::or_dash(one.epoch),
                Cell::or_dash(one.user.as_deref()),
                Cell::or_dash(one.client.as_deref()),
            ]);
        }
        table.row(row);
    }
    let mut text = table.print();
    for one in judged {
        if let Some(hint) = &one.hint {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n{}: {hint}", one.pipeline);
        }
    }
    text
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Owned => Tone::Good,
        Verdict::Split | Verdict::Stale => Tone::Uneasy,
        Verdict::Orphan | Verdict::Ghost => Tone::Bad,
    }
}
