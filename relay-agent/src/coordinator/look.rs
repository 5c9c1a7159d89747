//! Looking at the fleet, and being seen by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metrics::{gauge, histogram};
use tide_catalog::{
    CatalogError, PgPool,
    agents::{agent_beat, agent_stopping},
    operations::operation_settle,
};
use tide_model::{AgentName, GroupName, Incarnation, OperationId, UnitName};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::{Answer, BEAT, Coordinator, DISCOVERY_PATIENCE, Leaving};
use crate::{
    departure::Departure,
    discovery::{Discovery, discover},
    metrics as names,
    orders::{self, Orders},
    ownership::Event,
    preparation::Request,
};

impl Coordinator {
    pub(super) fn look_in(&mut self, delay: Duration) {
        self.looking.ask(Instant::now() + delay);
    }

    pub(super) fn look(&mut self) {
        if !self
            .looking
            .begin(Instant::now(), self.parts.config.discovery_interval)
        {
            return;
        }
        let (pool, answer) = (self.parts.services.pool.clone(), self.answer.clone());
        let (group, me) = (
            self.parts.config.group.clone(),
            self.parts.config.name.clone(),
        );
        let leaving = self.leaving != Leaving::No;
        let stopping = self.session.as_ref().filter(|_| leaving);
        let stopping = stopping.map(|session| session.incarnation);
        self.tasks.spawn(async move {
            let started = Instant::now();
            let look = async {
                // Before anything is given away: whoever looked without knowing it would see an
                // agent with less and less, and hand it pipelines to make up for that.
                if let Some(incarnation) = stopping {
                    say_that_it_stops(&pool, &group, &me, incarnation).await;
                }
                discover(&pool, &group, &me, leaving).await
            };
            let discovered = timeout(DISCOVERY_PATIENCE, look)
                .await
                .unwrap_or(Err(CatalogError::Timeout(DISCOVERY_PATIENCE)));
            histogram!(names::DISCOVERY_DURATION).record(started.elapsed());
            drop(
                answer
                    .send(Answer::Discovered(leaving, discovered.map(Box::new)))
                    .await,
            );
        });
    }

    pub(super) fn discovered(
        &mut self,
        leaving: bool,
        discovered: Result<Box<Discovery>, CatalogError>,
    ) {
        self.looking.done(Instant::now());
        match discovered {
            Ok(discovery) => {
                if self.discovery_failing {
                    info!("looking at the fleet again");
                }
                self.discovery_failing = false;
                self.parts.board.discovered();
                let Discovery {
                    wanted,
                    specs,
                    orders,
                    resharding,
                    may_step_in,
                    generation,
                    departure,
                    bequeathed,
                    next_end,
                    strangers,
                    departures,
                    standby,
                    neighbour,
                } = *discovery;
                self.specs = specs;
                self.obey(orders);
                let Departure {
                    drains,
                    pace,
                    force,
                    remove,
                    ..
                } = departure;
                self.drains = drains;
                self.paced = pace.is_some();
                self.settle(bequeathed);
                self.departures = departures;
                self.heard_of(strangers);
                self.prepare(Request::Standby(standby));
                self.parts.neighbour.send_if_modified(|current| {
                    let changed = *current != neighbour;
                    *current = neighbour;
                    changed
                });
                let acknowledged = self.acknowledged.max(generation);
                let news = acknowledged != self.acknowledged || !self.drains.is_empty();
                self.acknowledged = acknowledged;
                self.step(Event::Discovered {
                    wanted,
                    may_step_in,
                });
                if force {
                    self.give_up();
                }
                if remove && self.ownership.owned() == 0 {
                    self.retire();
                }
                if news {
                    self.beat();
                }
                for delay in [resharding, next_end].into_iter().flatten() {
                    self.look_in(delay);
                }
            }
            Err(error) => {
                if !self.discovery_failing {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "could not look at the fleet; trying again"
                    );
                }
                self.discovery_failing = true;
                self.look_in(Duration::from_millis(500));
            }
        }
        self.make_seen_ready();
        // Whether or not we know who comes next, we go.
        if leaving && self.leaving == Leaving::Looking {
            self.leaving = Leaving::Yes;
            self.step(Event::Leave);
        }
    }

    fn obey(&mut self, orders: BTreeMap<UnitName, Orders>) {
        for (unit, running) in &self.running {
            if let Some(newest) = orders.get(unit) {
                orders::pass_on(&running.orders, newest.clone());
            }
        }
        self.orders = orders;
    }

    /// A hold on an agent that nobody knows affects nobody. Perhaps its name is mistyped, or the
    /// agent came back under another one.
    fn heard_of(&mut self, strangers: BTreeSet<AgentName>) {
        if self.strangers == strangers {
            return;
        }
        if !strangers.is_empty() {
            let names: Vec<&str> = strangers.iter().map(AgentName::as_str).collect();
            warn!(
                agents = names.join(", "),
                hint = "list agents with: tidectl agent list",
                "holds name agents that nobody knows"
            );
        }
        self.strangers = strangers;
    }

    /// The deadline of a drain that is to be forced has passed: what is on the wire is given up, and
    /// whoever comes next delivers it again.
    fn give_up(&self) {
        if !self.running.is_empty() {
            let left: Vec<&str> = self.running.keys().map(UnitName::as_str).collect();
            warn!(
                pipelines = left.join(", "),
                "the drain's deadline has passed: giving up what is on its way"
            );
        }
        for running in self.running.values() {
            running.abort.cancel();
        }
    }

    /// Everything is given away, and we are not to come back.
    fn retire(&mut self) {
        if self.leaving == Leaving::No && !self.retiring {
            info!("drained for good: this agent leaves the fleet");
            self.retiring = true;
            self.parts.soft.cancel();
        }
    }

    /// Records the end of what agents that are gone were asked for. Every survivor tries, and
    /// whoever comes second finds it done.
    fn settle(&mut self, operations: Vec<OperationId>) {
        if operations.is_empty() {
            return;
        }
        let pool = self.parts.services.pool.clone();
        self.tasks.spawn(async move {
            let settled = async {
                let mut connection = pool.acquire().await.ok()?;
                for operation in operations {
                    operation_settle(&mut connection, operation).await.ok()?;
                }
                Some(())
            };
            if timeout(BEAT, settled).await.ok().flatten().is_none() {
                debug!("could not record the end of the drain of an agent that is gone");
            }
        });
    }

    /// Writes what we hold and what we have obeyed, and settles our drains once we are empty.
    pub(super) fn beat(&mut self) {
        // One at a time: an older one must never be written after a newer one.
        if self.session.is_none() || !self.beating.begin(Instant::now(), BEAT) {
            return;
        }
        let owned = self.ownership.owned();
        gauge!(names::OWNED_PIPELINES).set(owned as f64);
        self.parts.board.owned(owned);
        let Some(session) = &self.session else { return };
        let (pool, config) = (self.parts.services.pool.clone(), self.parts.config.clone());
        let (incarnation, acknowledged) = (session.incarnation, self.acknowledged);
        let answer = self.answer.clone();
        let drains = if owned == 0 {
            self.drains.clone()
        } else {
            Vec::new()
        };
        self.tasks.spawn(async move {
            let written = async {
                let mut connection =
                    pool.acquire()
                        .await
                        .map_err(|source| CatalogError::Database {
                            doing: "reporting to the catalog",
                            source,
                        })?;
                agent_beat(
                    &mut connection,
                    &config.group,
                    &config.name,
                    incarnation,
                    owned,
                    acknowledged,
                )
                .await?;
                for drain in drains {
                    operation_settle(&mut connection, drain).await?;
                }
                Ok::<_, CatalogError>(())
            };
            match timeout(BEAT, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(
                    error = &error as &dyn std::error::Error,
                    "could not report to the catalog"
                ),
                Err(_) => debug!("could not report to the catalog in time"),
            }
            drop(answer.send(Answer::Beaten).await);
        });
    }
}

/// Others that do not hear of it move a little more than they must, so a failure stops nothing.
async fn say_that_it_stops(
    pool: &PgPool,
    group: &GroupName,
    me: &AgentName,
    incarnation: Incarnation,
) {
    let said = match pool.acquire().await {
        Ok(mut connection) => agent_stopping(&mut connection, group, me, incarnation).await,
        Err(source) => Err(CatalogError::Database {
            doing: "recording that it stops",
            source,
        }),
    };
    if let Err(error) = said {
        debug!(
            error = &error as &dyn std::error::Error,
            "could not record that it stops"
        );
    }
}
