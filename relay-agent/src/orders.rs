//! What a worker is to obey while it runs: the newest epoch of its pipeline, a pause, a replay of
//! dead letters. The coordinator passes on what each look at the fleet finds; a worker that has
//! not heard of a newer epoch is fenced all the same when it stores anything.

use std::collections::BTreeMap;

use tide_catalog::orders::Order;
use tide_model::{Epoch, UnitName};
use tokio::sync::watch;

/// What is wanted of one worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// The epoch that the catalog knows. A newer one than the worker's own means that an operator
    /// took the position back, or that somebody else owns the pipeline.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) order: Order,
}

/// The sending half of a worker's orders.
pub(crate) type Line = watch::Sender<Orders>;

/// The receiving half.
#[derive(Debug, Clone)]
pub(crate) struct Inbound {
    orders: watch::Receiver<Orders>,
    own: Epoch,
}

/// A line to a worker that runs under `own`.
pub(crate) fn line(first: Orders, own: Epoch) -> (Line, Inbound) {
    let (line, orders) = watch::channel(first);
    (line, Inbound { orders, own })
}

/// Passes on what is news to the worker.
pub(crate) fn pass_on(line: &Line, newest: Orders) {
    line.send_if_modified(|current| {
        let news = *current != newest;
        *current = newest;
        news
    });
}

/// Puts together what two queries found.
pub(crate) fn combine(
    epochs: impl IntoIterator<Item = (UnitName, Option<Epoch>)>,
    mut orders: BTreeMap<UnitName, Order>,
) -> BTreeMap<UnitName, Orders> {
    epochs
        .into_iter()
        .map(|(unit, epoch)| {
            let order = orders.remove(&unit).unwrap_or_default();
            (unit, Orders { epoch, order })
        })
        .collect()
}

impl Inbound {
    /// Why to deliver nothing, if so. What came before this is no news any more.
    pub(crate) fn pause(&mut self) -> Option<String> {
        self.orders.borrow_and_update().order.pause.clone()
    }

    /// The newest replay that has letters for us.
    pub(crate) fn replay(&self) -> Option<i64> {
        self.orders.borrow().order.replay
    }

    /// Returns when there are new orders. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.orders.changed().await.is_err() {
            // Nobody orders anything any more; what ends the worker comes on another way.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when the catalog knows a newer epoch than ours. Cancel-safe.
    pub(crate) async fn superseded(&self) {
        let mut orders = self.orders.clone();
        let newer = |orders: &Orders| orders.epoch.is_some_and(|epoch| epoch > self.own);
        if orders.wait_for(newer).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn orders(epoch: i64, pause: Option<&str>) -> Orders {
        Orders {
            epoch: Some(Epoch(epoch)),
            order: Order {
                pause: pause.map(ToOwned::to_owned),
                replay: None,
            },
        }
    }

    #[test]
    fn only_a_newer_epoch_supersedes() {
        let (line, inbound) = line(orders(4, None), Epoch(5));
        assert!(inbound.superseded().now_or_never().is_none());
        pass_on(&line, orders(5, None));
        assert!(inbound.superseded().now_or_never().is_none());
        pass_on(&line, orders(6, None));
        assert!(inbound.superseded().now_or_never().is_some());
    }

    #[test]
    fn the_same_order_again_is_no_news() {
        let (line, mut inbound) = line(orders(5, Some("ana")), Epoch(5));
        assert_eq!(inbound.pause().as_deref(), Some("ana"));
        pass_on(&line, orders(5, Some("ana")));
        assert!(inbound.changed().now_or_never().is_none());
        pass_on(&line, orders(5, None));
        assert!(inbound.changed().now_or_never().is_some());
        assert_eq!(inbound.pause(), None);
    }

    #[test]
    fn a_line_that_is_gone_orders_nothing() {
        let (line, mut inbound) = line(orders(5, None), Epoch(5));
        drop(line);
        assert!(inbound.changed().now_or_never().is_none());
        assert!(inbound.superseded().now_or_never().is_none());
    }
}
