//! What became of a batch's messages, by their numbers in it.

use rdkafka::error::KafkaError;

/// Counts acknowledgements, which come in any order: the partitions know nothing of each other.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: Vec<bool>,
    /// So many messages from the start are acknowledged.
    prefix: usize,
    /// How many there are, once all of them are sent.
    sent: Option<usize>,
    /// The first that was not taken, and why.
    failure: Option<(usize, KafkaError)>,
}

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    /// So many messages from the start are durable.
    pub(super) delivered: usize,
    /// Why the next one is not, unless there is none.
    pub(super) failure: Option<KafkaError>,
}

impl Tally {
    pub(super) fn acknowledged(&mut self, index: usize) {
        if self.acknowledged.len() <= index {
            self.acknowledged.resize(index + 1, false);
        }
        self.acknowledged[index] = true;
        while self.acknowledged.get(self.prefix) == Some(&true) {
            self.prefix += 1;
        }
    }

    pub(super) fn failed(&mut self, index: usize, error: KafkaError) {
        if self
            .failure
            .as_ref()
            .is_none_or(|(first, _)| index < *first)
        {
            self.failure = Some((index, error));
        }
    }

    /// There are no more than so many.
    pub(super) fn sent(&mut self, messages: usize) {
        self.sent = Some(messages);
    }

    /// So many messages from the start are acknowledged by now.
    pub(super) fn prefix(&self) -> usize {
        self.prefix
    }

    /// How it ended, once everything before its end is known.
    pub(super) fn settled(&self) -> Option<Settled> {
        let failed = self.failure.as_ref().map(|(index, _)| *index);
        (self.prefix >= failed.or(self.sent)?).then(|| Settled {
            delivered: self.prefix,
            failure: self.failure.as_ref().map(|(_, error)| error.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(delivered: usize, failure: Option<KafkaError>) -> Settled {
        Settled { delivered, failure }
    }

    #[test]
    fn it_is_settled_when_all_that_was_sent_is_acknowledged_in_whatever_order() {
        let mut tally = Tally::default();
        for index in [2, 0] {
            tally.acknowledged(index);
        }
        assert_eq!((tally.prefix(), tally.settled()), (1, None));
        tally.acknowledged(1);
        assert_eq!(
            (tally.prefix(), tally.settled()),
            (3, None),
            "more may follow"
        );
        tally.sent(4);
        assert_eq!(tally.settled(), None);
        tally.acknowledged(3);
        assert_eq!(tally.settled(), Some(settled(4, None)));
    }

    #[test]
    fn it_is_settled_when_everything_before_the_first_failure_is_known() {
        let mut tally = Tally::default();
        tally.failed(3, KafkaError::Canceled);
        tally.failed(1, KafkaError::PartitionEOF(0));
        tally.failed(2, KafkaError::Canceled);
        assert_eq!(tally.settled(), None, "the first is not known");
        tally.acknowledged(0);
        assert_eq!(
            tally.settled(),
            Some(settled(1, Some(KafkaError::PartitionEOF(0))))
        );
        tally.sent(4);
        assert_eq!(
            tally.settled(),
            Some(settled(1, Some(KafkaError::PartitionEOF(0))))
        );
    }

    #[test]
    fn nothing_sent_is_settled() {
        let mut tally = Tally::default();
        tally.sent(0);
        assert_eq!(tally.settled(), Some(settled(0, None)));
    }
}
