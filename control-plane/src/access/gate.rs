//! Decides who a request is from, and whether it is let through.

use std::{net::SocketAddr, sync::Arc};

use tide_model::GroupName;
use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::codegen::http::{HeaderMap, header::AUTHORIZATION};

use super::{
    Asking, Caller, Denied, Principal,
    certificate::Unusable,
    files::CredentialsReader,
    methods::{Method, Needs},
    rate::Rates,
};

/// The other end of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    /// Of the certificate that it showed, if it showed one and the CA is ours.
    pub(crate) certificate: Option<Arc<Result<Principal, Unusable>>>,
}

/// Everything that the decision depends on. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    group: GroupName,
    credentials: CredentialsReader,
    /// Whether anybody has to say who they are.
    asks: bool,
    rates: Arc<Rates>,
}

impl Gate {
    pub(crate) fn new(
        group: GroupName,
        credentials: CredentialsReader,
        asks: bool,
        per_second: u32,
    ) -> Self {
        Self {
            group,
            credentials,
            asks,
            rates: Arc::new(Rates::new(per_second)),
        }
    }

    /// Who asks for this method, if it may be served to them.
    pub(crate) fn admit(
        &self,
        method: &'static Method,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Asking, Denied> {
        let caller = match method.needs {
            Needs::Nothing => Caller::Anyone,
            Needs::Reading(role) | Needs::Command(role) => {
                // Somebody who guesses tokens has no name yet, and a share all the same.
                let caller = self.caller(headers, peer).inspect_err(|_| {
                    let _ = self.share(method, &Caller::Anyone, peer);
                })?;
                self.share(method, &caller, peer)?;
                caller.permit(role, method.name)?;
                caller
            }
        };
        Ok(Asking {
            caller,
            address: peer.address,
        })
    }

    /// A token counts before a certificate, and a wrong one is not made good by it.
    fn caller(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Denied> {
        if !self.asks {
            return Ok(Caller::Anyone);
        }
        let credentials = self.credentials.borrow().clone();
        let principal = match (headers.get(AUTHORIZATION), &credentials.tokens) {
            (Some(header), tokens) => {
                let token = header
                    .to_str()
                    .ok()
                    .and_then(bearer)
                    .ok_or(Denied::Malformed)?;
                let tokens = tokens.as_ref().ok_or(Denied::UnknownToken)?;
                tokens.verify(token, OffsetDateTime::now_utc())?
            }
            (None, _) => match peer.certificate.as_deref() {
                None => return Err(Denied::Nobody),
                Some(Ok(principal)) => principal.clone(),
                Some(Err(unusable)) => return Err(unusable.clone().into()),
            },
        };
        match &principal.group {
            Some(theirs) if theirs != self.group.as_str() => Err(Denied::OtherGroup {
                name: principal.name.clone(),
                proof: principal.proof,
                theirs: theirs.clone(),
                ours: self.group.to_string(),
            }),
            _ => Ok(Caller::Known(principal)),
        }
    }

    /// Agents of one host come back all at once when a control plane starts, and ask for one stream
    /// each: they are not counted.
    fn share(&self, method: &Method, caller: &Caller, peer: &Peer) -> Result<(), Denied> {
        if method.is_agents() {
            return Ok(());
        }
        let name = match caller {
            Caller::Known(principal) => principal.name.clone(),
            Caller::Anyone => peer
                .address
                .map_or_else(|| "somebody".to_owned(), |address| address.ip().to_string()),
        };
        self.rates
            .take(&name, Instant::now())
            .map_err(|_| Denied::TooOften {
                name,
                per_second: self.rates.per_second(),
            })
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::access::{Proof, Role, files::Credentials, tokens::Tokens};

    /// Of `letmein`.
    const TOKENS: &str = "[[token]]\nname = \"ana\"\nrole = \"viewer\"\n\
        sha256 = \"1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032\"\n";

    fn gate(asks: bool, per_second: u32) -> Gate {
        let credentials = Credentials {
            tokens: Some(Tokens::parse(TOKENS).unwrap()),
            tls: None,
        };
        let (_, reader) = watch::channel(Arc::new(credentials));
        Gate::new("default".parse().unwrap(), reader, asks, per_second)
    }

    fn ask(
        gate: &Gate,
        path: &str,
        header: Option<&str>,
        peer: &Peer,
    ) -> Result<Caller, &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        let method = Method::of(path).unwrap();
        let admitted = gate.admit(method, &headers, peer);
        admitted
            .map(|asking| asking.caller)
            .map_err(|denied| denied.reason())
    }

    fn certified(role: Role, group: &str) -> Peer {
        let principal = Principal {
            name: "relay-1".to_owned(),
            role,
            proof: Proof::Certificate,
            group: Some(group.to_owned()),
        };
        Peer {
            address: None,
            certificate: Some(Arc::new(Ok(principal))),
        }
    }

    const FLEET: &str = "/tide.fleet.v1.FleetService/GetFleet";
    const DRAIN: &str = "/tide.fleet.v1.OperationService/Drain";
    const REPORT: &str = "/tide.agent.v1.AgentService/Report";
    const HEALTH: &str = "/grpc.health.v1.Health/Check";

    #[test]
    fn every_kind_of_credentials_is_told_apart() {
        let gate = gate(true, 1_000);
        let nobody = Peer::default();
        assert_eq!(ask(&gate, HEALTH, None, &nobody), Ok(Caller::Anyone));
        for (path, header, peer, reason) in [
            (FLEET, None, &nobody, "CREDENTIALS_MISSING"),
            (FLEET, Some("Basic YQ=="), &nobody, "TOKEN_MALFORMED"),
            (FLEET, Some("Bearer "), &nobody, "TOKEN_MALFORMED"),
            (FLEET, Some("Bearer guess"), &nobody, "TOKEN_UNKNOWN"),
            (DRAIN, Some("bearer letmein"), &nobody, "ROLE_INSUFFICIENT"),
            (REPORT, Some("Bearer letmein"), &nobody, "ROLE_INSUFFICIENT"),
            (
                FLEET,
                None,
                &certified(Role::Agent, "default"),
                "ROLE_INSUFFICIENT",
            ),
            (
                REPORT,
                None,
                &certified(Role::Agent, "blue"),
                "GROUP_MISMATCH",
            ),
            // A wrong token is not made good by a certificate.
            (
                FLEET,
                Some("Bearer guess"),
                &certified(Role::Admin, "default"),
                "TOKEN_UNKNOWN",
            ),
        ] {
            assert_eq!(
                ask(&gate, path, header, peer),
                Err(reason),
                "{path} {header:?}"
            );
        }
        assert!(ask(&gate, FLEET, Some("Bearer letmein"), &nobody).is_ok());
        assert!(ask(&gate, REPORT, None, &certified(Role::Agent, "default")).is_ok());
        assert!(ask(&gate, DRAIN, None, &certified(Role::Admin, "default")).is_ok());
    }

    #[test]
    fn where_nobody_has_to_say_who_they_are_everything_is_open() {
        let gate = gate(false, 1_000);
        for path in [FLEET, DRAIN, REPORT] {
            assert_eq!(ask(&gate, path, None, &Peer::default()), Ok(Caller::Anyone));
        }
    }

    #[test]
    fn a_share_is_used_up_by_asking_and_not_by_agents() {
        let gate = gate(true, 1);
        let nobody = Peer::default();
        let token = Some("Bearer letmein");
        let answered = (0..10).filter(|_| ask(&gate, FLEET, token, &nobody).is_ok());
        assert_eq!(answered.count(), 2);
        assert_eq!(ask(&gate, FLEET, token, &nobody), Err("RATE_LIMITED"));
        let agent = certified(Role::Agent, "default");
        assert!((0..10).all(|_| ask(&gate, REPORT, None, &agent).is_ok()));
    }
}
