//! What is kept of each request.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write as _,
};

use time::OffsetDateTime;

use crate::envelope::{Delivery, Envelope};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for its answer.
    Pending,
    /// It was answered with this status.
    Answered(u16),
    /// It was accepted, and its connection closed without an answer.
    Severed,
    /// Its sender went away before it was answered.
    Abandoned,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The path, with its leading slash.
    pub path: String,
    /// Its place among the requests on this path, from 0.
    pub order: u64,
    /// Its headers, names in lower case; of a repeated one, the values joined by commas.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
    /// The envelopes in the body, or why there are none.
    pub envelopes: Result<Vec<Envelope>, String>,
    /// When it arrived.
    pub at: OffsetDateTime,
    /// What became of it.
    pub outcome: Outcome,
}

impl Request {
    /// Whether what it held counts as delivered.
    pub fn is_accepted(&self) -> bool {
        match self.outcome {
            Outcome::Answered(status) => (200..300).contains(&status),
            Outcome::Severed => true,
            Outcome::Pending | Outcome::Abandoned => false,
        }
    }

    fn accepted_envelopes(&self) -> &[Envelope] {
        match &self.envelopes {
            Ok(envelopes) if self.is_accepted() => envelopes,
            _ => &[],
        }
    }
}

pub(super) fn deliveries(requests: &[Request], path: &str) -> Vec<Delivery> {
    let on_path = requests.iter().filter(|request| request.path == path);
    let arrived = on_path.flat_map(|request| {
        request
            .accepted_envelopes()
            .iter()
            .map(|envelope| (request.at, envelope))
    });
    let delivery = |(order, (at, envelope)): (usize, (_, &Envelope))| Delivery {
        stream: path.to_owned(),
        envelope: envelope.clone(),
        order: order as u64,
        at: Some(at),
    };
    arrived.enumerate().map(delivery).collect()
}

/// How many messages a path accepted.
pub(super) fn accepted(requests: &[Request], path: &str) -> usize {
    let on_path = requests.iter().filter(|request| request.path == path);
    on_path
        .map(|request| request.accepted_envelopes().len())
        .sum()
}

/// Requests and accepted messages per path, for the text of a timeout.
pub(super) fn summary(requests: &[Request]) -> String {
    let mut paths: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for request in requests {
        let (seen, accepted) = match paths.entry(&request.path) {
            Entry::Vacant(entry) => entry.insert((0, 0)),
            Entry::Occupied(entry) => entry.into_mut(),
        };
        *seen += 1;
        *accepted += request.accepted_envelopes().len();
    }
    if paths.is_empty() {
        return "no request".to_owned();
    }
    paths
        .iter()
        .fold(String::new(), |mut text, (path, (seen, accepted))| {
            let comma = if text.is_empty() { "" } else { ", " };
            write!(
                text,
                "{comma}{path}: {seen} requests, {accepted} accepted messages"
            )
            .expect("writing to a string cannot fail");
            text
        })
}
