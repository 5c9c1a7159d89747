//! What to publish: how fast, by how many writers, in which transaction shapes.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

/// How an application wraps its messages in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One message with a key.
    Single,
    /// One message without a key: its outbox id is drawn before its transaction id.
    Keyless,
    /// A few messages, of several keys, some without one, perhaps to several outboxes.
    Several,
    /// A few messages that are rolled back.
    RolledBack,
    /// Messages before, inside and after savepoints, some of which are rolled back.
    Savepoints,
    /// A few messages in a transaction that then stays open for so long.
    LongOpen(Duration),
    /// An unrelated write takes a transaction id; so much later a few messages follow.
    EarlyXid(Duration),
    /// So many messages at once.
    Bulk(u16),
    /// A few messages in a transaction that is prepared and, so much later, committed.
    Prepared(Duration),
}

/// What a publisher does, apart from the interleaving that the machine chooses.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishPlan {
    /// Seeds the generator that draws shapes, outboxes and keys.
    pub seed: u64,
    /// Where to publish; they must exist.
    pub outboxes: Vec<String>,
    /// How many connections publish at the same time.
    pub writers: usize,
    /// Messages a second over all writers; as many as go if absent.
    pub rate: Option<f64>,
    /// Keys per outbox, the first ones much hotter than the rest.
    pub keys: usize,
    /// Shapes and how often each occurs, relative to the others.
    pub shapes: Vec<(Shape, u32)>,
    /// Bytes of padding in each payload.
    pub padding: usize,
}

impl PublishPlan {
    /// Every shape, four writers, 200 messages a second, a random seed.
    pub fn mixed(outboxes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let hold = Duration::from_millis(300);
        Self {
            seed: rand::random(),
            outboxes: outboxes.into_iter().map(Into::into).collect(),
            writers: 4,
            rate: Some(200.0),
            keys: 20,
            shapes: vec![
                (Shape::Single, 40),
                (Shape::Keyless, 20),
                (Shape::Several, 15),
                (Shape::RolledBack, 6),
                (Shape::Savepoints, 8),
                (Shape::LongOpen(hold), 3),
                (Shape::EarlyXid(hold), 3),
                (Shape::Bulk(100), 1),
                (Shape::Prepared(hold / 6), 3),
            ],
            padding: 64,
        }
    }

    /// Every shape, but seldom one that waits, and more messages in each, by forty writers that seldom
    /// wait for one another: as fast as goes.
    pub fn brisk(outboxes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let hold = Duration::from_millis(300);
        Self {
            writers: 40,
            rate: None,
            keys: 400,
            shapes: vec![
                (Shape::Single, 40),
                (Shape::Keyless, 20),
                (Shape::Several, 25),
                (Shape::RolledBack, 4),
                (Shape::Savepoints, 5),
                (Shape::LongOpen(hold), 1),
                (Shape::EarlyXid(hold), 1),
                (Shape::Bulk(100), 3),
                (Shape::Prepared(hold / 6), 1),
            ],
            ..Self::mixed(outboxes)
        }
    }

    /// One short transaction per message and nothing else, for measurements.
    pub fn steady(outboxes: impl IntoIterator<Item = impl Into<String>>, rate: f64) -> Self {
        let shapes = vec![(Shape::Single, 1)];
        Self {
            rate: Some(rate),
            shapes,
            ..Self::mixed(outboxes)
        }
    }

    /// What makes the plan impossible, if anything.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.outboxes.is_empty() {
            return Err("it names no outbox");
        }
        if self.writers == 0 || self.keys == 0 {
            return Err("it needs at least one writer and one key");
        }
        if self
            .rate
            .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
        {
            return Err("its rate is not a positive number");
        }
        if self.shapes.iter().all(|(_, weight)| *weight == 0) {
            return Err("it has no shape to draw");
        }
        Ok(())
    }

    pub(super) fn draw_shape(&self, random: &mut StdRng) -> Shape {
        let total: u32 = self.shapes.iter().map(|(_, weight)| weight).sum();
        let mut ticket = random.random_range(0..total);
        for (shape, weight) in &self.shapes {
            if ticket < *weight {
                return *shape;
            }
            ticket -= weight;
        }
        unreachable!("a ticket below the total belongs to some shape")
    }

    pub(super) fn draw_outbox(&self, random: &mut StdRng) -> String {
        self.outboxes[random.random_range(0..self.outboxes.len())].clone()
    }

    /// The name of a key; `hot` ones are drawn from all keys with a bias to the first, others
    /// from the colder half, so that a transaction that keeps its locks stalls few others.
    pub(super) fn draw_key(&self, random: &mut StdRng, hot: Heat) -> String {
        let position: f64 = random.random();
        let skewed = match hot {
            Heat::Hot => position * position,
            Heat::Cold => 0.5 + position / 2.0,
        };
        self.key((skewed * self.keys as f64) as usize)
    }

    pub(super) fn key(&self, number: usize) -> String {
        format!("key-{}", number.min(self.keys - 1))
    }
}

/// Which keys a transaction may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heat {
    Hot,
    Cold,
}

impl Shape {
    /// The shape's name in the headers of what it publishes.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Keyless => "keyless",
            Self::Several => "several",
            Self::RolledBack => "rolled-back",
            Self::Savepoints => "savepoints",
            Self::LongOpen(_) => "long-open",
            Self::EarlyXid(_) => "early-xid",
            Self::Bulk(_) => "bulk",
            Self::Prepared(_) => "prepared",
        }
    }
}
