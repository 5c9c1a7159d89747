//! What two sources say of one lock, and which of them to believe: `pg_locks` decides who owns, and
//! the catalog has what the owner wrote. Pure; [`tide_catalog::locks`] asks.

use serde::Serialize;
use tide_catalog::locks::LockRow;

use crate::output::humanize::seconds;

/// An agent writes every few seconds.
const SILENCE: f64 = 30.0;

/// What the comparison says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Verdict {
    /// One agent, by both.
    Owned,
    /// The lock is one agent's, and the record another's, or of another run.
    Split,
    /// The lock is held by a session that is no agent's.
    Orphan,
    /// There is an owner on record, and nobody holds the lock.
    Ghost,
    /// Held, by an agent that has fallen silent or for a pipeline that is no more.
    Stale,
}

impl Verdict {
    /// The word in JSON and on the screen.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "OWNED",
            Self::Split => "SPLIT",
            Self::Orphan => "ORPHAN",
            Self::Ghost => "GHOST",
            Self::Stale => "STALE",
        }
    }
}

/// One lock, judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Judged {
    /// The pipeline or shard, or the number of a lock that belongs to none.
    pub(crate) pipeline: String,
    pub(crate) verdict: Verdict,
    /// The agent that holds the lock.
    pub(crate) holder: Option<String>,
    /// The owner on record.
    pub(crate) recorded: Option<String>,
    pub(crate) epoch: Option<i64>,
    /// The session that holds the lock.
    pub(crate) pid: Option<i32>,
    pub(crate) user: Option<String>,
    pub(crate) application: Option<String>,
    pub(crate) client: Option<String>,
    /// The session's age; of a ghost, that of its record.
    pub(crate) age_seconds: Option<f64>,
    /// What to do; none if that is nothing.
    pub(crate) hint: Option<String>,
}

/// Compares both sources.
pub(crate) fn judge(row: &LockRow) -> Judged {
    let (verdict, hint) = verdict(row);
    let age = match verdict {
        Verdict::Ghost => row.record_seconds,
        _ => row.session_seconds,
    };
    Judged {
        pipeline: row.label(),
        verdict,
        holder: row.holder.clone(),
        recorded: row.recorded.clone(),
        epoch: row.epoch,
        pid: row.pid,
        user: row.user.clone(),
        application: row.application.clone(),
        client: row.client.clone(),
        age_seconds: age,
        hint,
    }
}

fn verdict(row: &LockRow) -> (Verdict, Option<String>) {
    let Some(pid) = row.pid else {
        let hint = format!(
            "its owner is gone, and an agent takes over at once; if none does: tidectl explain {}",
            row.label()
        );
        return (Verdict::Ghost, Some(hint));
    };
    let Some(holder) = &row.holder else {
        let hint = format!("no agent can take over: tidectl locks release {pid}");
        return (Verdict::Orphan, Some(hint));
    };
    if row.unit.is_none() {
        let hint =
            "for a pipeline that is gone or has other shards now; its agent lets go by itself";
        return (Verdict::Stale, Some(hint.to_owned()));
    }
    if !row.registered || !row.same_run || row.recorded.as_ref() != Some(holder) {
        let hint = format!(
            "{holder} has just taken it, or cannot write; nothing is delivered twice, because only \
             the newest epoch may write. If it stays: look at the log of {holder}"
        );
        return (Verdict::Split, Some(hint));
    }
    match row.silent_seconds {
        Some(silent) if silent > SILENCE => {
            let hint = format!(
                "{holder} has written nothing for {}: look at its /livez and its log, or restart it",
                seconds(silent.trunc())
            );
            (Verdict::Stale, Some(hint))
        }
        _ => (Verdict::Owned, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut LockRow);

    fn owned() -> LockRow {
        LockRow {
            unit: Some("orders".to_owned()),
            lock_key: 7,
            pid: Some(42),
            holder: Some("relay-1".to_owned()),
            registered: true,
            silent_seconds: Some(2.0),
            recorded: Some("relay-1".to_owned()),
            same_run: true,
            epoch: Some(3),
            record_seconds: Some(5.0),
            session_seconds: Some(60.0),
            ..LockRow::default()
        }
    }

    #[test]
    fn both_sources_decide_together() {
        let table: &[(Verdict, Change)] = &[
            (Verdict::Owned, |_| {}),
            (Verdict::Owned, |row| row.silent_seconds = Some(30.0)),
            (Verdict::Stale, |row| row.silent_seconds = Some(30.5)),
            (Verdict::Stale, |row| row.unit = None),
            (Verdict::Split, |row| {
                row.recorded = Some("relay-2".to_owned());
            }),
            (Verdict::Split, |row| row.recorded = None),
            (Verdict::Split, |row| row.same_run = false),
            (Verdict::Split, |row| row.registered = false),
            (Verdict::Orphan, |row| row.holder = None),
            (Verdict::Orphan, |row| (row.holder, row.unit) = (None, None)),
            (Verdict::Ghost, |row| (row.pid, row.holder) = (None, None)),
        ];
        for (index, (expected, change)) in table.iter().enumerate() {
            let mut row = owned();
            change(&mut row);
            let judged = judge(&row);
            assert_eq!(judged.verdict, *expected, "row {index}");
            let sound = *expected == Verdict::Owned;
            assert_eq!(judged.hint.is_none(), sound, "row {index}: {judged:?}");
        }
    }

    #[test]
    fn a_ghost_is_as_old_as_its_record_and_everything_else_as_its_session() {
        assert_eq!(judge(&owned()).age_seconds, Some(60.0));
        let ghost = LockRow {
            pid: None,
            ..owned()
        };
        assert_eq!(judge(&ghost).age_seconds, Some(5.0));
    }
}
