//! The position of a pipeline while its number of shards changes, in random interleavings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgConnection;
use tide_catalog::{
    janitor::outbox_sweep,
    messages::{PageLimits, Source, read_page},
    offsets::{Advance, Claim, offsets_advance, offsets_claim},
    pipelines::{pipeline_reshard, pipeline_set},
};
use tide_model::{Epoch, GroupName, Incarnation, UnitName};
use tide_tests::catalog::{Catalog, execute};
use uuid::Uuid;

use super::{OUTBOX, RELATION};

const PIPELINE: &str = "p";
const KEYS: usize = 6;
const STEPS: usize = 120;

/// One application connection, perhaps in a transaction.
struct Writer {
    connection: PgConnection,
    open: bool,
    /// What it wrote and has not committed: keys with numbers that rise per key.
    written: Vec<(usize, i64)>,
}

struct Walk {
    random: StdRng,
    writers: Vec<Writer>,
    /// The next number of each key; whoever writes a key keeps it until the end of the transaction,
    /// as an application that cares for order does.
    next: [i64; KEYS],
    committed: BTreeSet<(usize, i64)>,
    reader: PgConnection,
    units: BTreeMap<UnitName, Claim>,
    delivered: Vec<(usize, i64)>,
    resharded: usize,
    janitor: Epoch,
    swept: u64,
}

impl Walk {
    async fn begin(catalog: &Catalog, janitor: Epoch, seed: u64) -> Result<Self> {
        let mut writers = Vec::new();
        for _ in 0..3 {
            writers.push(Writer {
                connection: catalog.connect().await?,
                open: false,
                written: Vec::new(),
            });
        }
        let mut walk = Self {
            random: StdRng::seed_from_u64(seed),
            writers,
            next: [0; KEYS],
            committed: BTreeSet::new(),
            reader: catalog.connect().await?,
            units: BTreeMap::new(),
            delivered: Vec::new(),
            resharded: 0,
            janitor,
            swept: 0,
        };
        walk.claim(1).await?;
        Ok(walk)
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.random_range(0..100) {
            0..45 => self.write().await,
            45..60 => self.end(None).await,
            60..86 => self.read(None).await.map(drop),
            86..92 => self.sweep().await,
            _ => self.reshard().await,
        }
    }

    async fn write(&mut self) -> Result<()> {
        let index = self.random.random_range(0..self.writers.len());
        let key = self.random.random_range(0..KEYS);
        let taken = |writer: &Writer| writer.written.iter().any(|(other, _)| *other == key);
        let others = self.writers.iter().enumerate();
        if others
            .filter(|(other, _)| *other != index)
            .any(|(_, writer)| taken(writer))
        {
            return Ok(());
        }
        let writer = &mut self.writers[index];
        if !writer.open {
            execute(&mut writer.connection, "BEGIN").await?;
            writer.open = true;
        }
        let number = self.next[key];
        self.next[key] += 1;
        let sql = format!("SELECT tide.outbox_publish('{OUTBOX}', '{number}', key => 'key-{key}')");
        execute(&mut writer.connection, sql).await?;
        writer.written.push((key, number));
        Ok(())
    }

    /// Ends one transaction: in one of five cases with a rollback, unless `commit`.
    async fn end(&mut self, which: Option<usize>) -> Result<()> {
        let index = which.unwrap_or_else(|| self.random.random_range(0..self.writers.len()));
        let commit = which.is_some() || self.random.random_bool(0.8);
        let writer = &mut self.writers[index];
        if std::mem::take(&mut writer.open) {
            execute(
                &mut writer.connection,
                if commit { "COMMIT" } else { "ROLLBACK" },
            )
            .await?;
        }
        let written = std::mem::take(&mut writer.written);
        if commit {
            self.committed.extend(written);
        }
        Ok(())
    }

    /// Reads a page of some unit, delivers some of it and stores the position. Says whether there
    /// was anything.
    async fn read(&mut self, all_of: Option<&UnitName>) -> Result<bool> {
        let unit = if let Some(unit) = all_of {
            unit.clone()
        } else {
            let index = self.random.random_range(0..self.units.len());
            let unit = self.units.keys().nth(index);
            unit.context("no such unit")?.clone()
        };
        let claim = self.units.get_mut(&unit).context("not claimed")?;
        let limits = PageLimits {
            messages: self.random.random_range(1..6),
            bytes: usize::MAX,
        };
        let source = Source {
            relation: RELATION.to_owned(),
            shard: unit.shard(),
        };
        let page = read_page(&mut self.reader, &source, &claim.cursor, limits).await?;
        let whole = all_of.is_some() || self.random.random_bool(0.7);
        let count = if whole {
            page.messages.len()
        } else {
            self.random.random_range(0..=page.messages.len())
        };
        for message in &page.messages[..count] {
            let key = message
                .key
                .as_deref()
                .and_then(|key| key.strip_prefix("key-"));
            self.delivered
                .push((key.context("a key")?.parse()?, message.payload.parse()?));
        }
        let more = page.more;
        // An empty page moves the reader on without being stored, as in an agent.
        let position = page.position_after(count);
        if count == page.messages.len() {
            claim.cursor = page.cursor.clone();
        }
        if let Some(position) = position {
            claim.cursor = position.clone();
            let advance = Advance {
                pipeline: unit,
                epoch: claim.epoch,
                cursor: position,
            };
            let accepted = offsets_advance(&mut self.reader, &group(), &[advance]).await?;
            ensure!(accepted.len() == 1, "fenced");
        }
        Ok(more || count > 0)
    }

    async fn reshard(&mut self) -> Result<()> {
        let shards = self.random.random_range(1..5);
        let config = serde_json::json!({"sink_type": "null", "shards": shards});
        pipeline_set(&mut self.reader, PIPELINE, OUTBOX, &config).await?;
        let pipeline = PIPELINE.parse()?;
        // Refused while an earlier change is not caught up with.
        if pipeline_reshard(&mut self.reader, &group(), &pipeline).await? {
            self.resharded += 1;
            self.claim(shards).await?;
        }
        Ok(())
    }

    /// Deletes what nobody needs any more; if it were more, the reading would lack it.
    async fn sweep(&mut self) -> Result<()> {
        let swept = outbox_sweep(&mut self.reader, OUTBOX, self.janitor, 0, 1_000).await?;
        self.swept += swept.deleted as u64;
        Ok(())
    }

    async fn claim(&mut self, shards: u16) -> Result<()> {
        let units = UnitName::all(&PIPELINE.parse()?, shards);
        let claims = offsets_claim(
            &mut self.reader,
            &group(),
            &"relay-1".parse()?,
            Incarnation(Uuid::nil()),
            &units,
        )
        .await?;
        ensure!(claims.len() == units.len(), "{claims:?} for {units:?}");
        self.units = claims
            .into_iter()
            .map(|claim| (claim.pipeline.clone(), claim))
            .collect();
        Ok(())
    }

    /// Ends all transactions, reads all there is and judges.
    async fn finish(mut self) -> Result<(usize, u64)> {
        for writer in 0..self.writers.len() {
            self.end(Some(writer)).await?;
        }
        for unit in self.units.keys().cloned().collect::<Vec<_>>() {
            while self.read(Some(&unit)).await? {}
        }
        let delivered: BTreeSet<(usize, i64)> = self.delivered.iter().copied().collect();
        let lost: Vec<_> = self.committed.difference(&delivered).collect();
        let phantom: Vec<_> = delivered.difference(&self.committed).collect();
        ensure!(
            lost.is_empty() && phantom.is_empty(),
            "lost {lost:?}, phantom {phantom:?}"
        );
        ensure!(
            delivered.len() == self.delivered.len(),
            "duplicates: {:?}",
            self.delivered
        );
        for key in 0..KEYS {
            let numbers = self.delivered.iter().filter(|(other, _)| *other == key);
            ensure!(
                numbers.is_sorted(),
                "key {key} reordered: {:?}",
                self.delivered
            );
        }
        Ok((self.resharded, self.swept))
    }
}

fn group() -> GroupName {
    "default".parse().expect("a valid name")
}

#[tokio::test]
async fn any_change_of_shards_loses_doubles_and_reorders_nothing() -> Result<()> {
    let catalog = Catalog::install().await?;
    let mut connection = catalog.connect().await?;
    execute(
        &mut connection,
        "SELECT pg_advisory_lock(tide.leader_lock_class('janitor'), hashtext(''))",
    )
    .await?;
    let janitor =
        sqlx::query_scalar("SELECT tide.leader_take('janitor', '', 'test', NULL, '1 hour')");
    let janitor = Epoch(janitor.fetch_one(&mut connection).await?);
    let (mut resharded, mut swept) = (0, 0);
    for seed in 0..40 {
        execute(
            &mut connection,
            format!(
                "DO $$ BEGIN
                     IF EXISTS (SELECT FROM tide.pipelines) THEN
                         PERFORM tide.relay_delete('{PIPELINE}');
                         PERFORM tide.outbox_drop('{OUTBOX}');
                     END IF;
                     PERFORM tide.outbox_create('{OUTBOX}', '0');
                     PERFORM tide.relay_set_outbox('{PIPELINE}', '{OUTBOX}', '{{\"sink_type\": \"null\"}}');
                 END $$"
            ),
        )
        .await?;
        let mut walk = Walk::begin(&catalog, janitor, seed).await?;
        for step in 0..STEPS {
            walk.step()
                .await
                .with_context(|| format!("seed {seed}, step {step}"))?;
        }
        let (changes, deleted) = walk
            .finish()
            .await
            .with_context(|| format!("seed {seed}"))?;
        resharded += changes;
        swept += deleted;
    }
    ensure!(
        resharded > 40 && swept > 100,
        "only {resharded} changes and {swept} deletions: nothing is proven"
    );
    Ok(())
}
