//! The order of one key's deliveries on one pipeline.

/// A message's place among the committed messages of its key, from 0 without gaps.
pub(super) type Rank = usize;

/// What a delivery turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) novelty: Novelty,
    pub(super) order: Order,
}

/// Whether it had been delivered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    First,
    Duplicate,
}

/// Whether it came where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Kept,
    /// A later message of the key had been delivered for the first time before.
    Late,
    /// A redelivery had begun and left something out.
    Skipped,
}

/// Who sent it, as far as its epoch tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Current,
    Former,
}

/// The deliveries of one key so far.
#[derive(Debug)]
pub(super) struct KeyOrder {
    delivered: Vec<bool>,
    /// The highest rank delivered so far.
    highest: Option<Rank>,
    /// Where the present run has got to: behind `highest` while it repeats.
    position: Option<Rank>,
}

/// The epochs seen so far in something that arrives in one order.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    highest: Option<i64>,
}

impl Epochs {
    /// Who sends under this epoch, and whether it is the newest from now on.
    pub(super) fn owner(&mut self, epoch: Option<i64>) -> Owner {
        match (epoch, self.highest) {
            (Some(now), Some(highest)) if now < highest => Owner::Former,
            (Some(now), _) => {
                self.highest = Some(now);
                Owner::Current
            }
            (None, _) => Owner::Current,
        }
    }
}

impl KeyOrder {
    /// A key with so many committed messages, none delivered.
    pub(super) fn new(committed: usize) -> Self {
        Self {
            delivered: vec![false; committed],
            highest: None,
            position: None,
        }
    }

    /// Takes one delivery into account. A rank is below the number of committed messages.
    pub(super) fn arrive(&mut self, rank: Rank, owner: Owner) -> Arrival {
        let novelty = if self.delivered[rank] {
            Novelty::Duplicate
        } else {
            Novelty::First
        };
        let late = novelty == Novelty::First && self.highest.is_some_and(|highest| rank < highest);
        let order = match owner {
            _ if late => Order::Late,
            Owner::Current if self.skips_to(rank) => Order::Skipped,
            Owner::Current | Owner::Former => Order::Kept,
        };
        self.delivered[rank] = true;
        self.highest = self.highest.max(Some(rank));
        // What a former owner still sends is not part of the present run.
        if owner == Owner::Current {
            self.position = Some(rank);
        }
        Arrival { novelty, order }
    }

    /// Whether going on with `rank` leaves out something that had been delivered before.
    ///
    /// What was never delivered does not count here: it is lost, or late when it comes.
    fn skips_to(&self, rank: Rank) -> bool {
        let next = self.position.map_or(rank, |position| position + 1);
        self.delivered
            .get(next..rank)
            .is_some_and(|between| between.contains(&true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each delivery's novelty and order, as letters: `.` first, `d` duplicate, then `L` or `S`.
    fn judged(ranks: &[Rank]) -> String {
        let mut order = KeyOrder::new(10);
        ranks.iter().fold(String::new(), |mut text, rank| {
            let arrival = order.arrive(*rank, Owner::Current);
            text.push(if arrival.novelty == Novelty::First {
                '.'
            } else {
                'd'
            });
            match arrival.order {
                Order::Kept => {}
                Order::Late => text.push('L'),
                Order::Skipped => text.push('S'),
            }
            text
        })
    }

    #[test]
    fn a_redelivery_may_start_anywhere_and_must_not_skip() {
        assert_eq!(judged(&[0, 1, 2, 3]), "....");
        assert_eq!(judged(&[0, 1, 2, 1, 2, 3]), "...dd.");
        assert_eq!(judged(&[0, 1, 2, 0, 1, 0, 1, 2, 3]), "...ddddd.");
        assert_eq!(judged(&[0, 0, 0, 1]), ".dd.");
        assert_eq!(judged(&[0, 1, 2, 0, 2]), "...ddS");
        assert_eq!(judged(&[0, 1, 2, 0, 3]), "...d.S");
    }

    #[test]
    fn first_deliveries_must_rise() {
        assert_eq!(judged(&[0, 2, 1]), "...L");
        assert_eq!(judged(&[1, 0, 1]), "..Ld");
        assert_eq!(
            judged(&[0, 3, 4]),
            "...",
            "what is missing is lost, not reordered"
        );
    }

    #[test]
    fn a_former_owner_does_not_disturb_the_new_run() {
        let (mut order, mut epochs) = (KeyOrder::new(10), Epochs::default());
        for (rank, epoch) in [(0, 1), (1, 1), (2, 1), (1, 2)] {
            let owner = epochs.owner(Some(epoch));
            assert_eq!(owner, Owner::Current);
            order.arrive(rank, owner);
        }
        assert_eq!(epochs.owner(Some(1)), Owner::Former);
        let stale = order.arrive(3, Owner::Former);
        assert_eq!((stale.novelty, stale.order), (Novelty::First, Order::Kept));
        for rank in [2, 3, 4] {
            assert_eq!(order.arrive(rank, epochs.owner(Some(2))).order, Order::Kept);
        }
    }
}
