//! When what arrived, by pipeline and epoch: the two ends of every gap.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use tide_sandbox::{
    envelope::{EPOCH_HEADER, Envelope},
    http::Receiver,
    wait::eventually,
};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// How many requests are remembered: those of several leases.
const MEMORY: usize = 40_000;
/// How often files are read on; what arrives in between is this much older at most.
const TAIL: Duration = Duration::from_millis(1);
/// A former owner's last delivery is looked for in this time before a disturbance.
const BEFORE: time::Duration = time::Duration::seconds(5);

/// Where the pipelines deliver to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SinkKind {
    /// HTTP requests, one a batch.
    Webhook,
    /// Lines of a file, each batch synchronised; arrivals are known to a millisecond.
    File,
}

/// The receiving end of every pipeline.
pub(super) enum Arrivals {
    Webhook(Receiver),
    File(Tails),
}

/// The change from one owner to the next, as the receiving end saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    /// The former owner's last delivery, if it was remembered.
    pub(super) last: Option<OffsetDateTime>,
    /// The next owner's first.
    pub(super) first: OffsetDateTime,
}

impl Arrivals {
    pub(super) async fn start(kind: SinkKind, folder: &Path) -> Result<Self> {
        Ok(match kind {
            SinkKind::Webhook => Self::Webhook(Receiver::start_forgetful(MEMORY).await?),
            SinkKind::File => Self::File(Tails::new(folder)),
        })
    }

    /// The configuration of a pipeline that delivers here.
    pub(super) fn accept(&mut self, pipeline: &str) -> Value {
        match self {
            Self::Webhook(receiver) => {
                let url = receiver.url(&format!("/{pipeline}"));
                json!({
                    "sink_type": "webhook",
                    "url": url,
                    "batch": true,
                    "allow_networks": ["127.0.0.1"],
                })
            }
            Self::File(tails) => json!({"sink_type": "file", "path": tails.follow(pipeline)}),
        }
    }

    /// Waits until an owner after `epoch` has delivered, and says when it began to.
    pub(super) async fn change(
        &self,
        pipeline: &str,
        epoch: i64,
        since: OffsetDateTime,
        within: Duration,
    ) -> Result<Change> {
        let what = format!("{pipeline} to be delivered by its next owner");
        let change = eventually(within, what, async || {
            Ok::<_, Infallible>(self.seen(pipeline, epoch, since))
        });
        Ok(change.await?)
    }

    fn seen(&self, pipeline: &str, epoch: i64, since: OffsetDateTime) -> Option<Change> {
        match self {
            Self::Webhook(receiver) => {
                let path = format!("/{pipeline}");
                receiver.inspect(|requests| {
                    let recent = requests
                        .iter()
                        .rev()
                        .take_while(|request| request.at >= since - BEFORE)
                        .filter(|request| request.path == path && request.is_accepted())
                        .filter_map(|request| {
                            let epoch = request.headers.get(EPOCH_HEADER)?.parse().ok()?;
                            Some((epoch, request.at))
                        });
                    change(recent, epoch)
                })
            }
            Self::File(tails) => {
                let book = tails.book.lock().unwrap_or_else(PoisonError::into_inner);
                let spans = book.get(pipeline)?.iter();
                change(
                    spans.flat_map(|(epoch, span)| [(*epoch, span.first), (*epoch, span.last)]),
                    epoch,
                )
            }
        }
    }
}

/// The change to a later epoch among arrivals in any order.
fn change(arrivals: impl Iterator<Item = (i64, OffsetDateTime)>, epoch: i64) -> Option<Change> {
    let (mut last, mut first) = (None, None);
    for (seen, at) in arrivals {
        if seen > epoch {
            first = Some(first.map_or(at, |first: OffsetDateTime| first.min(at)));
        } else {
            last = last.max(Some(at));
        }
    }
    first.map(|first| Change { last, first })
}

/// Files that grow, read on by one task each.
pub(super) struct Tails {
    folder: PathBuf,
    book: Arc<Mutex<Book>>,
    tasks: JoinSet<()>,
}

/// First and last arrival, by pipeline and epoch.
type Book = BTreeMap<String, BTreeMap<i64, Span>>;

#[derive(Debug, Clone, Copy)]
struct Span {
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl Tails {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            book: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    fn follow(&mut self, pipeline: &str) -> PathBuf {
        let path = self.folder.join(format!("{pipeline}.jsonl"));
        self.tasks.spawn(read_on(
            path.clone(),
            pipeline.to_owned(),
            Arc::clone(&self.book),
        ));
        path
    }
}

async fn read_on(path: PathBuf, pipeline: String, book: Arc<Mutex<Book>>) {
    let mut ticks = interval(TAIL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut file = None;
    let mut rest = Vec::new();
    loop {
        ticks.tick().await;
        if file.is_none() {
            // The first owner makes it.
            file = File::open(&path).ok();
        }
        let Some(file) = &mut file else { continue };
        // What cannot be read now is read at the next tick.
        if file.read_to_end(&mut rest).is_err() {
            continue;
        }
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let lines: Vec<u8> = rest.drain(..=end).collect();
        let now = OffsetDateTime::now_utc();
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        let spans = book.entry(pipeline.clone()).or_default();
        for line in lines.split(|byte| *byte == b'\n') {
            let Some(epoch) = Envelope::parse(line).ok().and_then(|one| one.epoch()) else {
                continue;
            };
            let span = Span {
                first: now,
                last: now,
            };
            spans.entry(epoch).or_insert(span).last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second)
    }

    #[test]
    fn a_change_is_from_the_last_of_the_old_to_the_first_of_the_new() {
        let arrivals = [(5, at(9)), (4, at(7)), (5, at(8)), (3, at(6))];
        let seen = change(arrivals.into_iter(), 4);
        assert_eq!(
            seen,
            Some(Change {
                last: Some(at(7)),
                first: at(8)
            })
        );
    }

    #[test]
    fn without_a_delivery_of_the_next_owner_there_is_no_change() {
        assert_eq!(change([(4, at(7)), (3, at(9))].into_iter(), 4), None);
    }

    #[tokio::test]
    async fn a_files_lines_are_seen_with_their_epochs() {
        let folder = tide_sandbox::leftovers::Scratch::create("arrivals")
            .await
            .unwrap();
        let mut arrivals = Arrivals::start(SinkKind::File, folder.path())
            .await
            .unwrap();
        let config = arrivals.accept("orders");
        let line = |epoch: &str| {
            json!({
                "event_id": "6c1f7c0a-4f5c-4b59-9d57-3a3c9f7f9f10", "outbox": "orders", "id": 7,
                "key": null, "headers": {EPOCH_HEADER: epoch}, "payload": null,
                "created_at": "2026-11-21T10:00:00.123456Z",
            })
        };
        let text = format!("{}\n{}\n", line("1"), line("2"));
        std::fs::write(config["path"].as_str().unwrap(), text).unwrap();
        let soon = Duration::from_secs(10);
        let change = arrivals.change("orders", 1, at(0), soon).await.unwrap();
        assert!(change.last.is_some_and(|last| last <= change.first));
    }
}
