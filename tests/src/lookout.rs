//! Watches what the agents cost PostgreSQL, all through a scenario.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sqlx::{Connection as _, PgConnection};
use tokio::{task::JoinSet, time::interval};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(50);

/// A running lookout; dropping it ends it.
#[derive(Debug)]
pub struct Lookout {
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<Result<()>>,
}

/// The worst that was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many times it looked.
    pub looks: usize,
    /// The longest that one transaction of an agent held the vacuum horizon.
    pub horizon: Duration,
    /// What that transaction was doing.
    pub holder: String,
    /// The most sessions of each agent at one moment.
    pub sessions: BTreeMap<String, i64>,
}

impl Lookout {
    /// Starts to look, on a session of its own.
    pub async fn start(url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut ticks = interval(EVERY);
            loop {
                ticks.tick().await;
                look(&mut connection, &shared).await?;
            }
        });
        Ok(Self { seen, tasks })
    }

    /// What was seen; an error if it went blind meanwhile.
    pub fn seen(&mut self) -> Result<Seen> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended?.context("the lookout went blind")?;
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(seen.looks > 0, "it has not looked yet");
        Ok(seen.clone())
    }
}

async fn look(connection: &mut PgConnection, seen: &Mutex<Seen>) -> Result<()> {
    let rows: Vec<(String, i64, f64, Option<String>)> = sqlx::query_as(
        "SELECT application_name, count(*),
                coalesce(max(age) FILTER (WHERE holds), 0)::float8,
                (array_agg(query ORDER BY age DESC) FILTER (WHERE holds))[1]
         FROM (SELECT application_name, query, backend_xmin IS NOT NULL AS holds,
                      extract(epoch FROM clock_timestamp() - xact_start) AS age
               FROM pg_stat_activity WHERE application_name LIKE 'tide-agent/%') sessions
         GROUP BY application_name",
    )
    .fetch_all(connection)
    .await?;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.looks += 1;
    for (agent, sessions, age, query) in rows {
        let age = Duration::from_secs_f64(age.max(0.0));
        if age > seen.horizon {
            seen.horizon = age;
            seen.holder = format!("{agent}: {}", query.unwrap_or_default());
        }
        let most = seen.sessions.entry(agent).or_default();
        *most = sessions.max(*most);
    }
    Ok(())
}
