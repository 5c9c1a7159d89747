//! How this agent is to go, by its own drains: how many pipelines at a time, until when with
//! patience, and whether for good. Pure.

use std::{collections::BTreeSet, time::Duration};

use tide_model::{
    AgentName, OperationId, UnitName,
    fleet::{DatabaseView, Hold, HoldKind},
    hold::{DrainMode, OnDeadline},
};
use time::OffsetDateTime;

/// What the drains of this agent ask of it, the strictest of each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Departure {
    /// Drains that are on record, to be settled once it is empty.
    pub(crate) drains: Vec<OperationId>,
    /// At most so many pipelines are on their way at a time.
    pub(crate) pace: Option<u32>,
    /// What is on the wire is to be given up now.
    pub(crate) force: bool,
    /// When it will be.
    pub(crate) force_at: Option<OffsetDateTime>,
    /// Once it is empty it ends, and is forgotten.
    pub(crate) remove: bool,
}

impl Departure {
    pub(crate) fn of(view: &DatabaseView, me: &AgentName) -> Self {
        let drains: Vec<&Hold> = view
            .holds_on(me)
            .filter(|hold| hold.kind == HoldKind::Drain)
            .collect();
        let terms = || drains.iter().filter_map(|hold| Some((*hold, hold.drain?)));
        let forced = terms().filter(|(hold, terms)| {
            // A drain that has ended forces nothing any more.
            hold.is_running && terms.on_deadline == OnDeadline::Force
        });
        let force_at = forced.filter_map(|(hold, _)| hold.deadline_at).min();
        let force = force_at.is_some_and(|at| at <= view.taken_at);
        Self {
            pace: terms()
                .filter_map(|(_, terms)| terms.pace)
                .min()
                .filter(|_| !force),
            force,
            force_at: force_at.filter(|_| !force),
            // Whoever asked for less than that has a say too.
            remove: !drains.is_empty()
                && terms().all(|(hold, terms)| terms.mode == DrainMode::Remove && !hold.is_running),
            drains: drains.iter().filter_map(|hold| hold.operation).collect(),
        }
    }

    /// Those of ours whose turn has not come. The first by name go first, and as they are ours until
    /// they are gone, none is called back.
    pub(crate) fn waiting<'a>(
        &self,
        leaving: impl Iterator<Item = &'a UnitName>,
    ) -> BTreeSet<&'a UnitName> {
        let leaving: BTreeSet<&UnitName> = leaving.collect();
        let pace = self.pace.map_or(usize::MAX, |pace| pace as usize);
        leaving.into_iter().skip(pace).collect()
    }

    /// How long it is, by the server's clock, until the end is forced.
    pub(crate) fn patience(&self, now: OffsetDateTime) -> Option<Duration> {
        let patience = Duration::try_from(self.force_at? - now).unwrap_or_default();
        Some(patience + Duration::from_millis(2))
    }
}

#[cfg(test)]
mod tests {
    use tide_model::{
        HoldId,
        hold::{DrainTerms, HoldTarget},
    };

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn drained(terms: &[(DrainTerms, bool)]) -> Departure {
        let me: AgentName = "relay-1".parse().unwrap();
        let hold = |(number, (drain, is_running)): (usize, &(DrainTerms, bool))| Hold {
            id: HoldId(uuid::Uuid::nil()),
            name: number.to_string(),
            target: HoldTarget::Agent(me.clone()),
            kind: HoldKind::Drain,
            actor: "ana".to_owned(),
            reason: String::new(),
            to: None,
            drain: Some(*drain),
            operation: None,
            is_running: *is_running,
            deadline_at: Some(NOW + time::Duration::seconds(number as i64)),
            created_at: NOW,
            expires_at: None,
        };
        let view = DatabaseView {
            holds: terms.iter().enumerate().map(hold).collect(),
            ..DatabaseView::empty("default".parse().unwrap(), NOW)
        };
        Departure::of(&view, &me)
    }

    #[test]
    fn the_strictest_of_all_drains_counts() {
        let plain = DrainTerms::default();
        let paced = |pace| DrainTerms {
            pace: Some(pace),
            ..plain
        };
        let forced = DrainTerms {
            on_deadline: OnDeadline::Force,
            ..plain
        };
        let removed = DrainTerms {
            mode: DrainMode::Remove,
            ..plain
        };
        let nothing = drained(&[]);
        assert_eq!(nothing, Departure::default());
        assert_eq!(drained(&[(paced(3), true), (paced(2), true)]).pace, Some(2));
        // The deadline of the first is now, of the second in a second.
        assert!(drained(&[(forced, true)]).force);
        assert!(!drained(&[(forced, false)]).force, "it has ended");
        let later = drained(&[(plain, true), (forced, true)]);
        assert!(!later.force);
        assert_eq!(later.patience(NOW), Some(Duration::from_millis(1002)));
        assert_eq!(drained(&[(forced, true), (paced(2), true)]).pace, None);
        assert!(
            !drained(&[(removed, true)]).remove,
            "not before it is empty"
        );
        assert!(drained(&[(removed, false)]).remove);
        assert!(!drained(&[(removed, false), (plain, false)]).remove);
    }

    #[test]
    fn the_first_by_name_go_first() {
        let units: Vec<UnitName> = ["c", "a", "b"].map(|name| name.parse().unwrap()).to_vec();
        let departure = Departure {
            pace: Some(1),
            ..Departure::default()
        };
        let waiting: Vec<&str> = departure
            .waiting(units.iter())
            .into_iter()
            .map(UnitName::as_str)
            .collect();
        assert_eq!(waiting, ["b", "c"]);
        assert!(Departure::default().waiting(units.iter()).is_empty());
    }
}
