//! Prepared sinks, kept until their pipelines come.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tide_model::{SinkSpec, UnitName};
use tokio::time::Instant;

use super::Standby;

/// Why a sink is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its owner is about to hand over.
    Offered,
    /// This agent would get the pipeline if its owner vanished.
    Standby,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Standby => "standby",
        }
    }
}

/// Prepared sinks cost sockets and threads, here and in brokers: no more of them than these are
/// kept. Those that owners announced come first.
pub(super) const MOST: usize = 64;
/// The share of them that is kept for crashes.
pub(super) const MOST_STANDBYS: usize = 16;
/// A hand-over that was announced and has not come in this time was called off.
const OFFERED_FOR: Duration = Duration::from_secs(30);
/// Idle connections wither; a standby's are made anew now and then.
const STANDBY_FOR: Duration = Duration::from_mins(10);

/// A prepared sink, whichever it is.
pub(super) type Prepared = Box<dyn Any + Send>;

/// What is kept. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    kept: Arc<Mutex<BTreeMap<UnitName, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    /// What it was made from; another configuration needs another sink.
    spec: SinkSpec,
    sink: Prepared,
    reason: Reason,
    since: Instant,
}

impl Shelf {
    /// Takes the sink that was made from exactly this configuration, if there is one.
    pub(crate) fn take<S: 'static>(&self, pipeline: &UnitName, spec: &SinkSpec) -> Option<S> {
        let mut kept = self.kept();
        if kept.get(pipeline)?.spec != *spec {
            return None; // it is thrown away where that may block
        }
        let sink = kept.remove(pipeline)?.sink;
        sink.downcast().ok().map(|sink| *sink)
    }

    /// Whether there is one for this configuration; it is then kept for `reason` from now on.
    pub(super) fn has(
        &self,
        pipeline: &UnitName,
        spec: &SinkSpec,
        reason: Reason,
        now: Instant,
    ) -> bool {
        match self.kept().get_mut(pipeline) {
            Some(kept) if kept.spec == *spec => {
                if reason == Reason::Offered {
                    (kept.reason, kept.since) = (reason, now);
                }
                true
            }
            Some(_) | None => false,
        }
    }

    /// Keeps a sink, and gives back what has to go for it, which may be the sink itself.
    pub(super) fn put(
        &self,
        pipeline: UnitName,
        spec: SinkSpec,
        sink: Prepared,
        reason: Reason,
        now: Instant,
    ) -> Option<Prepared> {
        let mut kept = self.kept();
        let standbys = || kept.values().filter(|kept| kept.reason == Reason::Standby);
        let known = kept.contains_key(&pipeline);
        let full = !known
            && match reason {
                Reason::Offered => kept.len() >= MOST,
                Reason::Standby => kept.len() >= MOST || standbys().count() >= MOST_STANDBYS,
            };
        let mut gone = None;
        if full {
            let oldest = kept
                .iter()
                .filter(|(_, kept)| kept.reason == Reason::Standby)
                .min_by_key(|(_, kept)| kept.since)
                .map(|(name, _)| name.clone());
            match (reason, oldest) {
                (Reason::Offered, Some(oldest)) => gone = kept.remove(&oldest),
                (Reason::Offered, None) | (Reason::Standby, _) => return Some(sink),
            }
        }
        let new = Kept {
            spec,
            sink,
            reason,
            since: now,
        };
        let replaced = kept.insert(pipeline, new);
        gone.or(replaced).map(|kept| kept.sink)
    }

    /// Takes out what nobody needs any more.
    pub(super) fn outdated(&self, standby: &Standby, now: Instant) -> Vec<Prepared> {
        let mut kept = self.kept();
        let gone: BTreeSet<UnitName> = kept
            .iter()
            .filter(|(name, kept)| {
                let age = now.duration_since(kept.since);
                match kept.reason {
                    Reason::Offered => age >= OFFERED_FOR,
                    Reason::Standby => {
                        let needed = standby.coming.contains(*name)
                            || standby
                                .first
                                .get(*name)
                                .is_some_and(|prospect| prospect.sink == kept.spec);
                        age >= STANDBY_FOR || !needed
                    }
                }
            })
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter()
            .filter_map(|name| kept.remove(name))
            .map(|kept| kept.sink)
            .collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.kept().len()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<UnitName, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Prospect, *};

    fn name(number: usize) -> UnitName {
        format!("p{number}").parse().unwrap()
    }

    fn file(path: &str) -> SinkSpec {
        SinkSpec::File(tide_model::sink_spec::FileSpec {
            path: path.into(),
            rotation: None,
        })
    }

    fn prospect(sink: SinkSpec) -> Prospect {
        Prospect { sink, revision: 1 }
    }

    fn put(shelf: &Shelf, number: usize, reason: Reason, now: Instant) -> bool {
        let sink = Box::new(number);
        shelf
            .put(name(number), SinkSpec::Null, sink, reason, now)
            .is_none()
    }

    #[test]
    fn a_sink_serves_only_the_configuration_that_it_was_made_from() {
        let shelf = Shelf::default();
        let now = Instant::now();
        shelf.put(name(1), file("a"), Box::new(7_usize), Reason::Offered, now);
        assert_eq!(shelf.take::<usize>(&name(1), &file("b")), None);
        assert_eq!(shelf.take::<usize>(&name(1), &file("a")), Some(7));
        assert_eq!(
            shelf.take::<usize>(&name(1), &file("a")),
            None,
            "it is taken once"
        );
    }

    #[test]
    fn standbys_are_bounded_and_make_way_for_what_is_announced() {
        let shelf = Shelf::default();
        let now = Instant::now();
        for number in 0..MOST_STANDBYS {
            assert!(put(&shelf, number, Reason::Standby, now));
        }
        assert!(!put(&shelf, MOST_STANDBYS, Reason::Standby, now), "bounded");
        for number in MOST_STANDBYS..MOST {
            assert!(put(&shelf, number, Reason::Offered, now));
        }
        assert!(!put(&shelf, MOST, Reason::Offered, now), "the oldest went");
        assert_eq!(shelf.len(), MOST, "and the shelf is not fuller for it");
        assert!(shelf.has(&name(MOST), &SinkSpec::Null, Reason::Offered, now));
    }

    #[test]
    fn what_is_not_needed_any_more_goes() {
        let shelf = Shelf::default();
        let now = Instant::now();
        for number in 0..3 {
            put(&shelf, number, Reason::Standby, now);
        }
        put(&shelf, 3, Reason::Offered, now);
        let standby = Standby {
            first: BTreeMap::from([
                (name(0), prospect(SinkSpec::Null)),
                (name(1), prospect(file("changed"))),
            ]),
            coming: BTreeSet::new(),
        };
        assert_eq!(shelf.outdated(&standby, now).len(), 2);
        assert!(shelf.has(&name(0), &SinkSpec::Null, Reason::Standby, now));
        assert_eq!(shelf.outdated(&standby, now + OFFERED_FOR).len(), 1);
        assert_eq!(shelf.outdated(&standby, now + STANDBY_FOR).len(), 1);
        assert_eq!(shelf.len(), 0);
    }
}
