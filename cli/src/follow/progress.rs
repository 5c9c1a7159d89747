//! What changed between two looks at an operation. Pure: steps in, lines out.

use std::collections::BTreeMap;

use tide_model::{
    UnitName,
    drain::{Progress as Going, Step},
};

/// Lines about single pipelines after one look; the rest is summed up.
const SHOWN: usize = 20;

/// Where the pipelines of one operation stood at the last look.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Every pipeline that ever belonged to it; none for those that only the plan names.
    seen: BTreeMap<UnitName, Option<Step>>,
    /// Whether there was a first look.
    looked: bool,
}

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A pipeline stands elsewhere than before.
    Step(Step),
    /// So do this many more.
    More(usize),
}

impl Progress {
    /// Before the first look; `planned` are the pipelines that will move.
    pub(super) fn new(planned: impl IntoIterator<Item = UnitName>) -> Self {
        Self {
            seen: planned
                .into_iter()
                .map(|pipeline| (pipeline, None))
                .collect(),
            looked: false,
        }
    }

    /// Takes in where the pipelines of a running operation stand now. Those that are no longer
    /// mentioned have left. What needs an operator comes first.
    pub(super) fn observe(&mut self, steps: &[Step]) -> Vec<Change> {
        self.looked = true;
        let mut now: BTreeMap<&UnitName, Step> = steps
            .iter()
            .map(|step| (&step.pipeline, step.clone()))
            .collect();
        for (pipeline, before) in &self.seen {
            if let Some(before) = before {
                now.entry(pipeline).or_insert_with(|| left(before));
            }
        }
        let mut news: Vec<Step> = now
            .into_values()
            .filter(|step| {
                let before = self.seen.get(&step.pipeline).and_then(Option::as_ref);
                before.is_none_or(|before| !is_same(before, step))
            })
            .collect();
        for step in &news {
            self.seen.insert(step.pipeline.clone(), Some(step.clone()));
        }
        news.sort_by_key(|step| urgency(step.progress));
        let more = news.len().saturating_sub(SHOWN);
        news.truncate(SHOWN);
        let mut changes: Vec<Change> = news.into_iter().map(Change::Step).collect();
        if more > 0 {
            changes.push(Change::More(more));
        }
        changes
    }

    /// How many pipelines are where they should be.
    pub(super) fn moved(&self) -> usize {
        // A planned pipeline that no look has mentioned had left before the first one.
        if self.looked {
            self.seen.len() - self.left().count()
        } else {
            0
        }
    }

    /// How many pipelines there are.
    pub(super) fn total(&self) -> usize {
        self.seen.len()
    }

    /// Pipelines that need an operator.
    pub(super) fn blocked(&self) -> Vec<&Step> {
        self.left()
            .filter(|step| step.progress == Going::Blocked)
            .collect()
    }

    /// Whether nothing goes on unless an operator does something.
    pub(super) fn is_stuck(&self) -> bool {
        let mut left = self.left().peekable();
        left.peek().is_some() && left.all(|step| step.progress == Going::Blocked)
    }

    fn left(&self) -> impl Iterator<Item = &Step> {
        self.seen
            .values()
            .flatten()
            .filter(|step| step.progress != Going::Done)
    }
}

/// A pipeline that is no longer mentioned, as its last step told where it goes.
fn left(before: &Step) -> Step {
    Step {
        progress: Going::Done,
        detail: if before.progress == Going::Done {
            before.detail.clone()
        } else {
            "moved".into()
        },
        until: None,
        cause: None,
        hint: None,
        ..before.clone()
    }
}

/// Whether two steps would read alike to somebody who wants to know how it goes. An end that only
/// moves is no news: it would be told with every beat of a slow heart.
fn is_same(before: &Step, now: &Step) -> bool {
    before.progress == now.progress
        && before.to == now.to
        && before.detail == now.detail
        && before.until.is_some() == now.until.is_some()
}

fn urgency(progress: Going) -> u8 {
    match progress {
        Going::Blocked => 0,
        Going::Waiting => 1,
        Going::Progressing => 2,
        Going::Done => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(pipeline: &str, progress: Going) -> Step {
        Step {
            pipeline: pipeline.parse().unwrap(),
            from: Some("relay-2".parse().unwrap()),
            to: Some("relay-1".parse().unwrap()),
            progress,
            until: None,
            cause: None,
            detail: "words".to_owned(),
            hint: None,
        }
    }

    fn names(changes: &[Change]) -> Vec<String> {
        let name = |change: &Change| match change {
            Change::Step(step) => format!("{} {}", step.progress.as_str(), step.pipeline),
            Change::More(more) => format!("{more} more"),
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn only_changes_are_told_and_the_urgent_ones_first() {
        let mut progress = Progress::default();
        let first = [step("a", Going::Progressing), step("b", Going::Blocked)];
        assert_eq!(
            names(&progress.observe(&first)),
            ["BLOCKED b", "PROGRESSING a"]
        );
        assert_eq!(progress.observe(&first), []);
        let second = [step("a", Going::Waiting), step("b", Going::Blocked)];
        assert_eq!(names(&progress.observe(&second)), ["WAITING a"]);
    }

    #[test]
    fn who_is_no_longer_mentioned_has_moved_and_is_told_once() {
        let mut progress = Progress::new(["a", "b"].map(|name| name.parse().unwrap()));
        assert_eq!((progress.moved(), progress.total()), (0, 2));
        progress.observe(&[step("a", Going::Progressing), step("b", Going::Progressing)]);
        assert_eq!((progress.moved(), progress.total()), (0, 2));
        let changes = progress.observe(&[step("b", Going::Progressing)]);
        assert_eq!(names(&changes), ["DONE a"]);
        assert_eq!((progress.moved(), progress.total()), (1, 2));
        assert_eq!(progress.observe(&[step("b", Going::Progressing)]), []);
    }

    #[test]
    fn planned_pipelines_that_left_before_the_first_look_count_as_moved() {
        let mut progress = Progress::new(["a", "b", "c"].map(|name| name.parse().unwrap()));
        progress.observe(&[step("c", Going::Progressing)]);
        assert_eq!((progress.moved(), progress.total()), (2, 3));
    }

    #[test]
    fn a_pipeline_may_come_back() {
        let mut progress = Progress::default();
        progress.observe(&[step("a", Going::Progressing)]);
        progress.observe(&[]);
        assert_eq!(progress.moved(), 1);
        assert_eq!(
            names(&progress.observe(&[step("a", Going::Progressing)])),
            ["PROGRESSING a"]
        );
        assert_eq!(progress.moved(), 0);
    }

    #[test]
    fn stuck_means_that_all_that_is_left_is_blocked() {
        let mut progress = Progress::default();
        assert!(!progress.is_stuck());
        progress.observe(&[step("a", Going::Blocked), step("b", Going::Progressing)]);
        assert!(!progress.is_stuck());
        progress.observe(&[step("a", Going::Blocked), step("b", Going::Done)]);
        assert!(progress.is_stuck());
        assert_eq!(progress.blocked().len(), 1);
    }

    #[test]
    fn a_thousand_changes_are_summed_up() {
        let many: Vec<Step> = (0..1_000)
            .map(|n| step(&format!("p{n}"), Going::Progressing))
            .collect();
        let changes = Progress::default().observe(&many);
        assert_eq!(
            (changes.len(), changes.last()),
            (21, Some(&Change::More(980)))
        );
    }
}
