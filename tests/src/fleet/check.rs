//! The end of every scenario: everything is delivered, nothing can come after, and what arrived is
//! judged.

use anyhow::{Context as _, Result, ensure};
use tide_sandbox::{
    history::{self, Accounts, Stream},
    publisher::Entry,
    wait::eventually,
};
use time::OffsetDateTime;

use super::{Fleet, Tap};
use crate::SOON;

impl Fleet {
    /// Ends the load, waits until everything is delivered, stops every running agent in good
    /// order, and judges.
    pub async fn settle_and_check(&mut self) -> Result<Accounts> {
        let published = self.settle_load().await?;
        self.wait_until_delivered(&published).await?;
        self.stop_agents().await?;
        self.judge(&published)
    }

    /// Ends the load and returns everything that is committed.
    pub async fn settle_load(&mut self) -> Result<Vec<Entry>> {
        let mut published = self.drafts.entries().to_vec();
        if let Some(ledger) = self.stop_publishing().await? {
            published.extend(ledger.entries);
        }
        ensure!(
            !published.is_empty(),
            "nothing was published: nothing is proven"
        );
        Ok(published)
    }

    /// Waits until every judged pipeline has delivered all of it.
    pub async fn wait_until_delivered(&self, published: &[Entry]) -> Result<()> {
        let delivered = eventually(SOON, "everything to be delivered", async || {
            let behind = self.view().await?.pipelines.into_iter().find(|row| {
                let judged = self.pipelines.iter().any(|one| {
                    one.name == row.name.pipeline_str() && !matches!(one.tap, Tap::Nothing)
                });
                judged && row.lag_rows > 0
            });
            if let Some(row) = behind {
                anyhow::bail!("{} is {} behind: {row:?}", row.name, row.lag_rows);
            }
            let accounts = self.judge(published)?;
            if accounts.totals().lost == 0 {
                return Ok(Some(()));
            }
            anyhow::bail!("{accounts}");
        });
        delivered.await.with_context(|| self.last_words())
    }

    /// Stops every running agent in good order.
    pub async fn stop_agents(&mut self) -> Result<()> {
        let mut stopping = Vec::new();
        for agent in self.agents.values_mut() {
            if agent.process.is_running()? {
                agent.terminate()?;
                stopping.push(agent);
            }
        }
        for agent in stopping {
            let status = agent.ended().await?;
            ensure!(
                status.code() == Some(0),
                "{} ended with {status}:\n{}",
                agent.process.name(),
                agent.process.log_tail(20)
            );
        }
        Ok(())
    }

    /// Judges what has arrived so far.
    pub fn judge(&self, published: &[Entry]) -> Result<Accounts> {
        let streams = self
            .pipelines
            .iter()
            .filter(|pipeline| !matches!(pipeline.tap, Tap::Nothing))
            .map(|pipeline| {
                let deliveries = pipeline.tap.deliveries()?;
                Ok(Stream::new(&pipeline.name, &pipeline.outbox, deliveries))
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            !streams.is_empty(),
            "no pipeline is judged: nothing is proven"
        );
        let end = OffsetDateTime::now_utc();
        let disturbances: Vec<_> = self
            .disturbances
            .iter()
            .map(|disturbed| disturbed.until(end))
            .collect();
        Ok(history::check(published, &streams, &disturbances))
    }
}
