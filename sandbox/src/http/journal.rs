//! What was requested, and how much of it is remembered.

use std::collections::HashMap;

use super::{Outcome, Request};

/// How many requests a receiver remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    Everything,
    /// At least so many of the last ones, and at most twice as many.
    Last(usize),
}

/// A request's place among all requests, forgotten ones included.
pub(super) type Place = usize;

#[derive(Debug)]
pub(super) struct Journal {
    memory: Memory,
    requests: Vec<Request>,
    forgotten: usize,
    arrivals: HashMap<String, u64>,
}

impl Journal {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            memory,
            requests: Vec::new(),
            forgotten: 0,
            arrivals: HashMap::new(),
        }
    }

    /// What is remembered, in the order of arrival.
    pub(super) fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Enters a request, whose order on its path is drawn here.
    pub(super) fn enter(&mut self, mut request: Request) -> Place {
        if let Memory::Last(count) = self.memory
            && self.requests.len() >= count.max(1) * 2
        {
            // Half of them at once: moving the rest for every request would cost more than it saves.
            self.requests.drain(..count.max(1));
            self.forgotten += count.max(1);
        }
        let next = self.arrivals.entry(request.path.clone()).or_default();
        request.order = *next;
        *next += 1;
        self.requests.push(request);
        self.forgotten + self.requests.len() - 1
    }

    /// Notes what became of a request, if it is remembered.
    pub(super) fn settle(&mut self, place: Place, outcome: Outcome) {
        let remembered = place.checked_sub(self.forgotten);
        if let Some(request) = remembered.and_then(|index| self.requests.get_mut(index)) {
            request.outcome = outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use time::OffsetDateTime;

    use super::*;

    fn request(path: &str) -> Request {
        Request {
            path: path.to_owned(),
            order: 0,
            headers: BTreeMap::new(),
            body: Vec::new(),
            envelopes: Ok(Vec::new()),
            at: OffsetDateTime::UNIX_EPOCH,
            outcome: Outcome::Pending,
        }
    }

    fn orders(journal: &Journal) -> Vec<u64> {
        journal
            .requests()
            .iter()
            .map(|request| request.order)
            .collect()
    }

    #[test]
    fn the_last_requests_are_remembered_with_their_order() {
        let mut journal = Journal::new(Memory::Last(2));
        let places: Vec<Place> = (0..7).map(|_| journal.enter(request("/a"))).collect();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(orders(&journal), [4, 5, 6]);
        assert_eq!(journal.enter(request("/b")), 7);
        assert_eq!(orders(&journal), [4, 5, 6, 0]);
    }

    #[test]
    fn only_a_remembered_request_can_be_settled() {
        let mut journal = Journal::new(Memory::Last(1));
        let places: Vec<Place> = (0..3).map(|_| journal.enter(request("/a"))).collect();
        for place in places {
            journal.settle(place, Outcome::Answered(place as u16));
        }
        let outcomes: Vec<Outcome> = journal
            .requests()
            .iter()
            .map(|request| request.outcome)
            .collect();
        assert_eq!(outcomes, [Outcome::Answered(1), Outcome::Answered(2)]);
    }
}
