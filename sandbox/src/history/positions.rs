//! What became of the stored positions: they never go back, and only the owner writes them.

use std::{collections::HashMap, fmt};

use time::OffsetDateTime;

/// A stored position, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The fencing token of its owner.
    pub epoch: i64,
    /// Who claimed it last.
    pub owner: String,
    /// The highest id read.
    pub last_change_id: i64,
    /// The first transaction id that the snapshot of that read does not know, if it was read.
    pub horizon: Option<i64>,
}

/// One write of a position, in the order of the writes to that row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionChange {
    /// The pipeline.
    pub pipeline: String,
    /// When it was written.
    pub at: OffsetDateTime,
    /// The agent whose session wrote it.
    pub writer: String,
    /// What it was from then on; `None` if it was deleted.
    pub after: Option<Position>,
}

/// What is wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PositionFault {
    /// A lower epoch than before.
    EpochWentBack,
    /// A lower id than before.
    IdWentBack,
    /// An older snapshot than before: what was late then would be late again.
    SnapshotWentBack,
    /// Written by somebody who does not own the pipeline.
    NotTheOwner,
    /// A new owner changed the position by claiming it.
    MovedByClaim,
}

/// A write that must not have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionOffence {
    /// What is wrong.
    pub fault: PositionFault,
    /// What was there; `None` if nothing was.
    pub before: Option<Position>,
    /// The write.
    pub change: PositionChange,
}

/// Finds every write that breaks the order of positions.
pub fn check_positions(changes: &[PositionChange]) -> Vec<PositionOffence> {
    let mut current: HashMap<&str, &Position> = HashMap::new();
    let mut offences = Vec::new();
    for change in changes {
        let Some(after) = &change.after else {
            current.remove(&*change.pipeline);
            continue;
        };
        let before = current.insert(&change.pipeline, after);
        let offence = |fault| PositionOffence {
            fault,
            before: before.cloned(),
            change: change.clone(),
        };
        offences.extend(faults(before, after, &change.writer).map(offence));
    }
    offences
}

fn faults<'a>(
    before: Option<&'a Position>,
    after: &'a Position,
    writer: &'a str,
) -> impl Iterator<Item = PositionFault> + use<> {
    let claimed = before.is_none_or(|before| before.epoch < after.epoch);
    let found = [
        (
            before.is_some_and(|before| after.epoch < before.epoch),
            PositionFault::EpochWentBack,
        ),
        (
            before.is_some_and(|before| after.last_change_id < before.last_change_id),
            PositionFault::IdWentBack,
        ),
        (
            before.is_some_and(|before| after.horizon < before.horizon),
            PositionFault::SnapshotWentBack,
        ),
        (writer != after.owner, PositionFault::NotTheOwner),
        (
            claimed
                && before.is_some_and(|before| {
                    after.last_change_id > before.last_change_id || after.horizon > before.horizon
                }),
            PositionFault::MovedByClaim,
        ),
    ];
    found
        .into_iter()
        .filter_map(|(wrong, fault)| wrong.then_some(fault))
}

impl fmt::Display for PositionFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EpochWentBack => "epoch went back",
            Self::IdWentBack => "id went back",
            Self::SnapshotWentBack => "snapshot went back",
            Self::NotTheOwner => "written by another than the owner",
            Self::MovedByClaim => "moved by a claim",
        })
    }
}

impl fmt::Display for PositionOffence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PositionChange {
            pipeline,
            at,
            writer,
            after,
        } = &self.change;
        let show = |position: &Option<Position>| match position {
            None => "nothing".to_owned(),
            Some(position) => {
                let Position {
                    epoch,
                    owner,
                    last_change_id,
                    horizon,
                } = position;
                let horizon = horizon.map_or_else(|| "-".to_owned(), |xid| xid.to_string());
                format!("{last_change_id} before {horizon} under {epoch} of {owner}")
            }
        };
        write!(
            formatter,
            "{pipeline}: position {} at {at} by {writer}: from {} to {}",
            self.fault,
            show(&self.before),
            show(after)
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn change(number: i64, writer: &str, owner: &str, epoch: i64, id: i64) -> PositionChange {
        PositionChange {
            pipeline: "p".to_owned(),
            at: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(number),
            writer: writer.to_owned(),
            after: Some(Position {
                epoch,
                owner: owner.to_owned(),
                last_change_id: id,
                horizon: (id > 0).then_some(id + 1_000),
            }),
        }
    }

    fn found(changes: &[PositionChange]) -> Vec<PositionFault> {
        check_positions(changes)
            .into_iter()
            .map(|offence| offence.fault)
            .collect()
    }

    fn lawful() -> Vec<PositionChange> {
        vec![
            change(0, "a", "a", 1, 0),
            change(1, "a", "a", 1, 5),
            change(2, "b", "b", 2, 5),
            change(3, "b", "b", 2, 9),
        ]
    }

    #[test]
    fn a_hand_over_is_lawful() {
        assert_eq!(found(&lawful()), []);
    }

    #[test]
    fn a_position_that_goes_back_is_found() {
        let mut changes = lawful();
        changes.push(change(4, "b", "b", 2, 8));
        assert_eq!(
            found(&changes),
            [PositionFault::IdWentBack, PositionFault::SnapshotWentBack]
        );
    }

    #[test]
    fn an_older_snapshot_under_the_same_id_is_found() {
        let mut changes = lawful();
        let mut older = changes[3].clone();
        older.after.as_mut().unwrap().horizon = Some(1_000);
        changes.push(older);
        assert_eq!(found(&changes), [PositionFault::SnapshotWentBack]);
    }

    #[test]
    fn an_epoch_that_goes_back_is_found() {
        let mut changes = lawful();
        changes.push(change(4, "a", "a", 1, 9));
        assert_eq!(found(&changes), [PositionFault::EpochWentBack]);
    }

    #[test]
    fn a_former_owner_that_writes_is_found() {
        let mut changes = lawful();
        changes.push(change(4, "a", "b", 2, 9));
        assert_eq!(found(&changes), [PositionFault::NotTheOwner]);
    }

    #[test]
    fn a_claim_that_moves_the_position_is_found() {
        let mut changes = lawful();
        changes.push(change(4, "c", "c", 3, 10));
        assert_eq!(found(&changes), [PositionFault::MovedByClaim]);
    }

    #[test]
    fn a_deleted_pipeline_begins_anew_and_others_are_judged_apart() {
        let mut changes = lawful();
        changes.push(PositionChange {
            after: None,
            ..changes[3].clone()
        });
        changes.push(change(5, "a", "a", 3, 0));
        changes.push(PositionChange {
            pipeline: "q".to_owned(),
            ..change(6, "b", "b", 1, 0)
        });
        assert_eq!(found(&changes), []);
    }

    /// Owners that come one after the other, each storing some positions.
    fn lives() -> impl Strategy<Value = Vec<PositionChange>> {
        proptest::collection::vec(
            (0..3_usize, proptest::collection::vec(1..9_i64, 0..5)),
            1..8,
        )
        .prop_map(|tenures| {
            let (mut changes, mut id) = (Vec::new(), 0);
            for (epoch, (agent, steps)) in (1..).zip(tenures) {
                let agent = ["a", "b", "c"][agent];
                changes.push(change(changes.len() as i64, agent, agent, epoch, id));
                for step in steps {
                    id += step;
                    changes.push(change(changes.len() as i64, agent, agent, epoch, id));
                }
            }
            changes
        })
    }

    proptest! {
        #[test]
        fn lawful_lives_are_clean(changes in lives()) {
            prop_assert_eq!(found(&changes), []);
        }

        #[test]
        fn any_write_repeated_later_is_found(changes in lives(), which: Index) {
            let which = which.index(changes.len());
            prop_assume!(changes[which].after != changes[changes.len() - 1].after);
            let mut changes = changes;
            changes.push(changes[which].clone());
            prop_assert!(!found(&changes).is_empty());
        }

        #[test]
        fn any_other_writer_is_found(mut changes in lives(), which: Index) {
            let which = which.index(changes.len());
            changes[which].writer = "stranger".to_owned();
            prop_assert_eq!(found(&changes), [PositionFault::NotTheOwner]);
        }
    }
}
