//! Interleavings that chance does not find.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::execute::Run;
use crate::{by_hand::publish, catalog::execute};

/// Long enough for the relay to have read what was committed.
const READ: Duration = Duration::from_millis(40);

impl Run<'_> {
    /// Of two transactions the older takes the higher id and commits first. When that is read the
    /// younger one, with the lower id, is above every completed transaction, unless somebody was
    /// quick, and so in no list of transactions in progress.
    pub(super) async fn overtake(&mut self, outbox: &str, times: usize) -> Result<()> {
        let mut older = self.fleet.connection().await?;
        let mut younger = self.fleet.connection().await?;
        for _ in 0..times {
            let [first, second] = [(); 2].map(|()| self.fleet.drafts.draw_keyless(outbox));
            execute(&mut older, "BEGIN; SELECT pg_current_xact_id()").await?;
            execute(&mut younger, "BEGIN").await?;
            publish(&mut younger, &first).await?;
            publish(&mut older, &second).await?;
            execute(&mut older, "COMMIT").await?;
            sleep(READ).await;
            execute(&mut younger, "COMMIT").await?;
        }
        Ok(())
    }

    /// A transaction of many messages that commits after others with higher ids.
    pub(super) async fn late_bulk(
        &mut self,
        outbox: &str,
        messages: usize,
        millis: u64,
    ) -> Result<()> {
        let mut bulk = self.fleet.connection().await?;
        execute(&mut bulk, "BEGIN").await?;
        for number in 0..messages {
            let key = format!("bulk-{}", number % 3);
            let entry = self.fleet.drafts.draw(outbox, &key);
            publish(&mut bulk, &entry).await?;
        }
        let mut other = self.fleet.connection().await?;
        let entry = self.fleet.drafts.draw_keyless(outbox);
        publish(&mut other, &entry).await?;
        sleep(Duration::from_millis(millis)).await;
        execute(&mut bulk, "COMMIT").await?;
        Ok(())
    }
}
