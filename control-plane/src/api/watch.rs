//! Follows the newest view for one watcher.
//!
//! All that is kept for a watcher are numbers: the revision up to which it was told, and how far it has
//! got since. Whenever it has room for more it is told of rows that changed since, as they are by then,
//! so a watcher that reads slowly skips what lies between, and one that never reads holds on to
//! nothing. A large fleet comes in parts; the last part of a whole carries a token, from which a later
//! watch can go on.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tide_proto::{
    convert,
    fleet::v1::{
        Agent, Fleet, FleetDelta, Pipeline, WatchFleetResponse, watch_fleet_response::Event,
    },
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::fleet::view::View;

/// Rows of one message.
const PART: usize = 1_000;

/// One watcher.
pub(super) struct Follower {
    views: watch::Receiver<Arc<View>>,
    /// Up to which revision it was told; none before the first whole view.
    told: Option<u64>,
    /// What it is being told; none while there is nothing new.
    round: Option<Round>,
}

/// A walk over the rows of the newest view, whichever that is when the watcher has room for the next
/// part. Rows that change after the walk has passed them come with the next one.
#[derive(Debug)]
struct Round {
    /// What is newer than this, or everything.
    since: Option<u64>,
    /// What the watcher has been told up to when this is done.
    to: u64,
    /// Of the rows that it walks over.
    layout: u64,
    begun: bool,
    /// The next row of each kind; none at the end.
    agents: Option<usize>,
    pipelines: Option<usize>,
}

impl Round {
    fn new(since: Option<u64>, view: &View) -> Self {
        Self {
            since,
            to: view.revision,
            layout: view.layout(),
            begun: false,
            agents: Some(0),
            pipelines: Some(0),
        }
    }
}

impl Follower {
    /// Goes on from a token of this process, or begins with everything.
    pub(super) fn new(mut views: watch::Receiver<Arc<View>>, token: &str) -> Self {
        let told = {
            let view = views.borrow_and_update();
            told(token).filter(|revision| view.gone_since(*revision).is_some())
        };
        // What happened since, or everything, is due at once.
        views.mark_changed();
        Self {
            views,
            told,
            round: None,
        }
    }

    /// What it is told, whenever it has room.
    pub(super) fn follow(self) -> impl Stream<Item = WatchFleetResponse> {
        stream::unfold(self, |mut follower| async {
            if follower.round.is_none() {
                follower.views.changed().await.ok()?;
            }
            let view = Arc::clone(&follower.views.borrow_and_update());
            Some((follower.next(&view), follower))
        })
    }

    /// The next part of the round, or the first of the next one.
    fn next(&mut self, view: &View) -> WatchFleetResponse {
        let mut round = self
            .round
            .take()
            .unwrap_or_else(|| Round::new(self.told, view));
        if round.layout != view.layout() {
            // Places are others now. What was told already does no harm when it is told again.
            round = Round::new(round.since, view);
        }
        let gone = round.since.map(|since| view.gone_since(since));
        if gone == Some(None) {
            // Too much was missed.
            round = Round::new(None, view);
        }
        let owned = |names: Vec<&str>| names.into_iter().map(ToOwned::to_owned).collect();
        let (mut removed_agents, mut removed_pipelines) = (Vec::new(), Vec::new());
        if let Some(Some(gone)) = gone
            && !round.begun
        {
            removed_agents = owned(gone.agents);
            removed_pipelines = owned(gone.pipelines);
        }
        let (mut agents, mut pipelines): (Vec<Agent>, Vec<Pipeline>) = (Vec::new(), Vec::new());
        if let Some(from) = round.agents {
            let (part, next) = view.agents.part(round.since, from, PART);
            agents.extend(part.into_iter().map(Agent::from));
            round.agents = next;
        }
        if let (None, Some(from)) = (round.agents, round.pipelines) {
            let (part, next) = view.pipelines.part(round.since, from, PART - agents.len());
            pipelines.extend(part.into_iter().map(Pipeline::from));
            round.pipelines = next;
        }
        let whole = round.agents.is_none() && round.pipelines.is_none();
        let resume_token = if whole {
            token(round.to)
        } else {
            String::new()
        };
        let revision = if whole { round.to } else { 0 };
        let database_at = Some(convert::timestamp(view.database_at));
        let (warnings, coverage) = (view.warnings.to_vec(), Some(view.coverage.into()));
        let event = if round.since.is_none() && !round.begun {
            Event::Snapshot(Fleet {
                group: view.group.to_string(),
                agents,
                pipelines,
                database_at,
                warnings,
                coverage,
                revision,
            })
        } else {
            Event::Delta(FleetDelta {
                agents,
                removed_agents,
                pipelines,
                removed_pipelines,
                warnings,
                database_at,
                coverage,
                revision,
            })
        };
        if whole {
            self.told = Some(round.to);
            if view.revision > round.to {
                // What changed behind the walk must not wait for the next change.
                self.views.mark_changed();
            }
        } else {
            round.begun = true;
            self.round = Some(round);
        }
        WatchFleetResponse {
            event: Some(event),
            resume_token,
        }
    }
}

/// Revisions count from the start of the process, so a token names that as well.
fn token(revision: u64) -> String {
    format!("{}.{revision}", instance())
}

/// The revision of a token of this process.
fn told(token: &str) -> Option<u64> {
    let (process, revision) = token.split_once('.')?;
    (process == instance().to_string())
        .then(|| revision.parse().ok())
        .flatten()
}

/// This run of this process.
fn instance() -> Uuid {
    static INSTANCE: std::sync::OnceLock<Uuid> = std::sync::OnceLock::new();
    *INSTANCE.get_or_init(Uuid::new_v4)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, pin::pin};

    use futures_util::{FutureExt as _, StreamExt as _};
    use tide_model::fleet::{Ownership, PipelineView};

    use super::*;

    fn pipeline(number: usize, lag_rows: i64) -> Arc<PipelineView> {
        Arc::new(PipelineView {
            name: format!("p{number}").parse().unwrap(),
            outbox: "shop".to_owned(),
            sink: "null".to_owned(),
            enabled: true,
            owner: None,
            epoch: None,
            last_change_id: 0,
            lag_rows,
            lag_seconds: 0.0,
            state: "unowned".to_owned(),
            reason: None,
            since: None,
            retry_at: None,
            backend_pid: None,
            moving_to: None,
            placement: None,
            holds: Vec::new(),
            ownership: Ownership::Agreed,
            claimed_by: Vec::new(),
        })
    }

    /// So many pipelines, the first of which changed last.
    fn view(pipelines: usize, revision: u64) -> Arc<View> {
        let one = |number| {
            let changed = if number == 0 { revision } else { 1 };
            (pipeline(number, changed as i64), changed)
        };
        Arc::new(View::of_pipelines(
            (0..pipelines).map(one).collect(),
            revision,
        ))
    }

    /// Takes what there is, up to the end of a whole, into what is known; how many messages it took.
    fn take(
        events: &mut (impl Stream<Item = WatchFleetResponse> + Unpin),
        known: &mut BTreeMap<String, i64>,
    ) -> (usize, String) {
        let mut messages = 0;
        loop {
            let event = events
                .next()
                .now_or_never()
                .expect("there is more")
                .unwrap();
            messages += 1;
            let pipelines = match event.event.unwrap() {
                Event::Snapshot(fleet) => {
                    known.clear();
                    fleet.pipelines
                }
                Event::Delta(delta) => {
                    known.retain(|name, _| !delta.removed_pipelines.contains(name));
                    delta.pipelines
                }
            };
            assert!(pipelines.len() <= PART);
            known.extend(pipelines.into_iter().map(|one| (one.name, one.lag_rows)));
            if !event.resume_token.is_empty() {
                return (messages, event.resume_token);
            }
        }
    }

    #[test]
    fn a_slow_watcher_skips_what_lies_between_and_misses_nothing() {
        let (tx, rx) = watch::channel(view(3, 1));
        let mut events = pin!(Follower::new(rx, "").follow());
        let mut known = BTreeMap::new();
        assert_eq!(take(&mut events, &mut known).0, 1);
        assert!(events.next().now_or_never().is_none(), "nothing is new");
        for revision in 2..=100 {
            tx.send_replace(view(3, revision));
        }
        assert_eq!(take(&mut events, &mut known).0, 1);
        assert_eq!((known.len(), known["p0"]), (3, 100));
        drop(tx);
        assert_eq!(events.next().now_or_never(), Some(None));
    }

    #[test]
    fn a_large_fleet_comes_in_parts_and_what_changes_behind_them_comes_after() {
        let (tx, rx) = watch::channel(view(PART * 2 + 1, 1));
        let mut events = pin!(Follower::new(rx, "").follow());
        let first = events.next().now_or_never().unwrap().unwrap();
        let Some(Event::Snapshot(fleet)) = first.event else {
            panic!("no snapshot first");
        };
        assert_eq!(
            (fleet.pipelines.len(), first.resume_token.as_str()),
            (PART, "")
        );
        let mut known: BTreeMap<String, i64> = fleet
            .pipelines
            .into_iter()
            .map(|one| (one.name, one.lag_rows))
            .collect();
        tx.send_replace(view(PART * 2 + 1, 7));
        assert_eq!(take(&mut events, &mut known).0, 2);
        assert_eq!(known.len(), PART * 2 + 1);
        // The walk had passed it.
        assert_eq!(known["p0"], 1);
        assert_eq!(take(&mut events, &mut known).0, 1);
        assert_eq!(known["p0"], 7);
    }

    #[test]
    fn a_token_leads_on_from_where_it_was_given_and_a_strange_one_to_everything() {
        let (tx, rx) = watch::channel(view(3, 1));
        let mut known = BTreeMap::new();
        let token = take(
            &mut pin!(Follower::new(rx.clone(), "").follow()),
            &mut known,
        )
        .1;
        tx.send_replace(view(3, 5));
        let event = Follower::new(rx.clone(), &token).next(&tx.borrow());
        let Some(Event::Delta(delta)) = event.event else {
            panic!("not what is new");
        };
        assert_eq!(delta.pipelines.len(), 1);
        let ahead = format!("{}.{}", instance(), 6);
        let elsewhere = format!("{}.5", Uuid::nil());
        for strange in [&*ahead, &*elsewhere, "nonsense"] {
            let event = Follower::new(rx.clone(), strange).next(&tx.borrow());
            assert!(matches!(event.event, Some(Event::Snapshot(_))), "{strange}");
        }
    }

    #[test]
    fn watchers_that_never_read_hold_on_to_nothing() {
        let first = view(PART + 1, 1);
        let kept = Arc::downgrade(&first);
        let (tx, rx) = watch::channel(first);
        // Each has read one part, and then no more.
        let stuck: Vec<_> = (0..100)
            .map(|_| {
                let mut events = Box::pin(Follower::new(rx.clone(), "").follow());
                events.next().now_or_never().unwrap().unwrap();
                events
            })
            .collect();
        tx.send_replace(view(PART + 1, 2));
        assert_eq!(kept.strong_count(), 0);
        assert_eq!(stuck.len(), 100);
    }
}
