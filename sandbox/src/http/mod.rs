//! An HTTP endpoint that records what it is sent and answers as it is told.
//!
//! Every path is a stream of its own: it has its own order of arrival, a queue of scripted
//! [`Behaviour`]s that are used up one per request, and a default for when the queue is empty.
//! The body must be one envelope or a JSON array of them; anything else is answered with 400.
//!
//! # Example
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> anyhow::Result<()> {
//! use tide_sandbox::http::{Behaviour, Receiver};
//!
//! let receiver = Receiver::start().await?;
//! receiver.script("/orders", [Behaviour::Respond(503), Behaviour::FailAfterAccept]);
//! let url = receiver.url("/orders"); // for the pipeline's configuration
//! # let _ = url;
//! assert!(receiver.deliveries("/orders").is_empty());
//! # Ok(()) }
//! ```

mod connection;
mod journal;
mod record;
mod serve;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use self::{
    connection::Listener,
    journal::{Journal, Memory},
};
use crate::{envelope::Delivery, wait::TimedOut};

pub use self::record::{Outcome, Request};

/// The receiver could not be started.
#[derive(Debug, thiserror::Error)]
#[error("could not listen for HTTP requests")]
pub struct ReceiverError(#[source] io::Error);

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// This status at once; 2xx accepts.
    Respond(u16),
    /// Accepted with 200, this late.
    Delay(Duration),
    /// No answer until [`Receiver::release`], then accepted with 200.
    Hang,
    /// Accepted, but the connection is closed without an answer: the sender cannot know.
    FailAfterAccept,
    /// Refused with this status and a `Retry-After` of so many seconds.
    RetryAfter {
        /// 429 or 503.
        status: u16,
        /// The header's value.
        seconds: u64,
    },
    /// Refused with this status and a `Retry-After` of this moment, which whole seconds tell.
    RetryAt {
        /// 429 or 503.
        status: u16,
        /// The header's value.
        at: OffsetDateTime,
    },
}

/// A running endpoint; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What the handlers and the owner both hold.
#[derive(Debug)]
struct Shared {
    journal: watch::Sender<Journal>,
    scripts: Mutex<HashMap<String, Script>>,
    releases: watch::Sender<u64>,
}

#[derive(Debug)]
struct Script {
    queue: VecDeque<Behaviour>,
    then: Behaviour,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            then: Behaviour::Respond(200),
        }
    }
}

impl Receiver {
    /// Listens on a port of its own on 127.0.0.1 and accepts everything with 200.
    pub async fn start() -> Result<Self, ReceiverError> {
        Self::with_memory(Memory::Everything).await
    }

    /// As [`start`](Self::start), but remembers the last requests only, at least so many: for
    /// fleets that run until somebody ends them.
    pub async fn start_forgetful(last: usize) -> Result<Self, ReceiverError> {
        Self::with_memory(Memory::Last(last)).await
    }

    async fn with_memory(memory: Memory) -> Result<Self, ReceiverError> {
        let listener = Listener::bind().await.map_err(ReceiverError)?;
        let address = listener.address().map_err(ReceiverError)?;
        let shared = Arc::new(Shared {
            journal: watch::Sender::new(Journal::new(memory)),
            scripts: Mutex::new(HashMap::new()),
            releases: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::serve(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            _tasks: tasks,
        })
    }

    /// The URL of a path, which starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Appends to the path's queue: each behaviour serves one request.
    pub fn script(&self, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.shared
            .with_script(path, |script| script.queue.extend(behaviours));
    }

    /// What the path does when its queue is empty; 200 if never said.
    pub fn by_default(&self, path: &str, behaviour: Behaviour) {
        self.shared
            .with_script(path, |script| script.then = behaviour);
    }

    /// Lets every request that hangs now go on.
    pub fn release(&self) {
        self.shared.releases.send_modify(|count| *count += 1);
    }

    /// Every request so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.inspect(<[Request]>::to_vec)
    }

    /// Looks at the requests without copying them; new ones wait meanwhile.
    pub fn inspect<T>(&self, look: impl FnOnce(&[Request]) -> T) -> T {
        look(self.shared.journal.borrow().requests())
    }

    /// What a path accepted so far, in the order of arrival.
    ///
    /// A request that was refused, that hangs, or whose sender went away before it was answered
    /// delivered nothing.
    pub fn deliveries(&self, path: &str) -> Vec<Delivery> {
        self.inspect(|requests| record::deliveries(requests, path))
    }

    /// Waits until the requests satisfy a predicate, looking at every change.
    pub async fn wait_until(
        &self,
        within: Duration,
        what: &str,
        mut predicate: impl FnMut(&[Request]) -> bool,
    ) -> Result<(), TimedOut> {
        let mut journal = self.shared.journal.subscribe();
        let enough = |journal: &Journal| predicate(journal.requests());
        let waited = timeout(within, journal.wait_for(enough)).await;
        if waited.is_ok() {
            return Ok(());
        }
        let last = self.inspect(record::summary);
        Err(TimedOut {
            what: what.to_owned(),
            within,
            last,
        })
    }

    /// Waits until a path has accepted at least so many messages, redeliveries included.
    pub async fn wait_for_deliveries(
        &self,
        path: &str,
        count: usize,
        within: Duration,
    ) -> Result<(), TimedOut> {
        let what = format!("{count} deliveries on {path}");
        self.wait_until(within, &what, |requests| {
            record::accepted(requests, path) >= count
        })
        .await
    }
}

impl Shared {
    fn next_behaviour(&self, path: &str) -> Behaviour {
        self.with_script(path, |script| {
            script.queue.pop_front().unwrap_or(script.then)
        })
    }

    fn with_script<T>(&self, path: &str, act: impl FnOnce(&mut Script) -> T) -> T {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        act(scripts.entry(path.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests;
