//! Which control plane to report to: those that were named, the one that a standby names, and the
//! one that the database names.
//!
//! One [`Round`] tries each of them at most once. Whoever took the last reports is tried first.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use tide_catalog::{
    PgPool,
    leader::{LeaderRole, leader},
};
use tide_daemon::main_exit::Failure;
use tide_model::GroupName;
use tokio::time::timeout;
use tonic::{Request, transport::Endpoint};
use tracing::debug;

use crate::control_plane_access::ControlPlaneAccess;

/// Stands for whichever control plane the database names.
const AUTO: &str = "auto";
/// A control plane that is silent this long is asked for a sign of life, and given up if none comes
/// for as long again: one that is frozen is not the active one for much longer than its lease.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);
/// The database must say who leads within this.
const LOOK: Duration = Duration::from_secs(5);

/// The control planes that this agent knows of.
pub(crate) struct ControlPlanes {
    /// In the order to be tried; the one that worked last comes first.
    named: Vec<String>,
    role: LeaderRole,
    pool: PgPool,
    access: ControlPlaneAccess,
}

/// One attempt at each of them.
#[derive(Debug)]
pub(crate) struct Round {
    queue: VecDeque<String>,
    tried: BTreeSet<String>,
    database_asked: bool,
}

impl ControlPlanes {
    /// Reads a list with commas: URLs, or `auto`.
    pub(crate) fn parse(
        text: &str,
        group: &GroupName,
        pool: PgPool,
        access: ControlPlaneAccess,
    ) -> Result<Self, Failure> {
        access.check().map_err(Failure::usage)?;
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut named = Vec::new();
        for url in words.iter().filter(|word| **word != AUTO) {
            let usable = endpoint(url).and_then(|endpoint| access.endpoint(endpoint));
            usable.map_err(|why| {
                Failure::usage(format!("--control-plane {url}: {why}")).with_hint(Some(
                    "write it as http://HOST:PORT or https://HOST:PORT, several with commas between, or auto",
                ))
            })?;
            named.push(same(url));
        }
        Ok(Self {
            named,
            role: LeaderRole::ControlPlane(group.clone()),
            pool,
            access,
        })
    }

    /// A request as this agent makes it.
    pub(crate) fn authorize<T>(&self, message: T) -> Result<Request<T>, String> {
        self.access.authorize(message)
    }

    /// For people: those that were named, or where others come from.
    pub(crate) fn label(&self) -> String {
        if self.named.is_empty() {
            return AUTO.to_owned();
        }
        self.named.join(",")
    }

    /// Begins anew.
    pub(crate) fn round(&self) -> Round {
        Round::of(&self.named)
    }

    /// The next to be tried; none when the round is over.
    pub(crate) async fn next(&self, round: &mut Round) -> Option<Endpoint> {
        loop {
            let Some(url) = round.next() else {
                if std::mem::replace(&mut round.database_asked, true) {
                    return None;
                }
                round.follow(&self.leader().await?);
                continue;
            };
            match endpoint(&url).and_then(|endpoint| self.access.endpoint(endpoint)) {
                Ok(endpoint) => return Some(endpoint),
                Err(why) => debug!(url, why, "a control plane's address cannot be used"),
            }
        }
    }

    /// This one took our reports.
    pub(crate) fn prefer(&mut self, endpoint: &Endpoint) {
        let url = same(&endpoint.uri().to_string());
        if let Some(at) = self.named.iter().position(|named| *named == url) {
            self.named[..=at].rotate_right(1);
        }
    }

    /// Where the active control plane says that it is.
    async fn leader(&self) -> Option<String> {
        let read = async {
            let mut connection = self.pool.acquire().await.ok()?;
            leader(&mut connection, &self.role).await.ok()?
        };
        let leader = timeout(LOOK, read).await.ok()??;
        leader
            .address
            .filter(|_| leader.lease_alive && leader.lock_held)
    }
}

impl Round {
    fn of(named: &[String]) -> Self {
        Self {
            queue: named.iter().cloned().collect(),
            tried: BTreeSet::new(),
            database_asked: false,
        }
    }

    fn next(&mut self) -> Option<String> {
        loop {
            let url = self.queue.pop_front()?;
            if self.tried.insert(url.clone()) {
                return Some(url);
            }
        }
    }

    /// Somebody names this one as active: it is next, unless it was tried.
    pub(crate) fn follow(&mut self, url: &str) {
        self.queue.push_front(same(url));
    }
}

/// One spelling of each address.
fn same(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

fn endpoint(url: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
    let fits = matches!(endpoint.uri().scheme_str(), Some("http" | "https"));
    if !fits || endpoint.uri().host().is_none() {
        return Err("is no address of a control plane".to_owned());
    }
    Ok(endpoint
        .http2_keep_alive_interval(SIGN_OF_LIFE)
        .keep_alive_timeout(SIGN_OF_LIFE)
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use tide_catalog::connection::Server;

    use super::*;

    fn parse(text: &str) -> Result<ControlPlanes, Failure> {
        let server = Server::parse("postgres://nobody@127.0.0.1:1/none", "test").unwrap();
        ControlPlanes::parse(
            text,
            &"default".parse().unwrap(),
            server.pool(1),
            ControlPlaneAccess::default(),
        )
    }

    fn urls(round: &mut Round) -> Vec<String> {
        std::iter::from_fn(|| round.next()).collect()
    }

    #[tokio::test]
    async fn each_is_tried_once_and_a_named_leader_first() {
        let planes = parse("http://a:1, http://b:1/,http://c:1").unwrap();
        let mut round = planes.round();
        assert_eq!(round.next().as_deref(), Some("http://a:1"));
        round.follow("http://c:1/");
        assert_eq!(urls(&mut round), ["http://c:1", "http://b:1"]);
        round.follow("http://b:1");
        assert_eq!(urls(&mut round), [""; 0]);
    }

    #[tokio::test]
    async fn whoever_took_the_last_reports_comes_first() {
        let mut planes = parse("http://a:1,http://b:1,http://c:1").unwrap();
        planes.prefer(&endpoint("http://c:1").unwrap());
        assert_eq!(planes.named, ["http://c:1", "http://a:1", "http://b:1"]);
        planes.prefer(&endpoint("http://elsewhere:1").unwrap());
        assert_eq!(planes.named, ["http://c:1", "http://a:1", "http://b:1"]);
    }

    #[tokio::test]
    async fn auto_names_none_and_nonsense_is_refused() {
        assert_eq!(parse("auto").unwrap().named, [""; 0]);
        for text in ["", "localhost:7900", "http://a:1,,http://b:1", "grpc://a:1"] {
            let Err(failure) = parse(text) else {
                panic!("{text} was accepted")
            };
            assert!(
                failure.to_string().contains("hint: write it as"),
                "{failure}"
            );
        }
    }
}
