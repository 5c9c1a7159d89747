//! Who asks, and whether they may.
//!
//! ```text
//! connection ──▶ TLS: a certificate of ours names its owner ─┐
//! request ─────▶ bearer token, compared as a hash ───────────┼──▶ Caller ──▶ role of the method?
//!                neither, where nobody has to say ───────────┘                 ──▶ rate ──▶ service
//! ```
//!
//! - [`methods`] is the one table that says what each method needs; a method that is not in it is
//!   served to nobody.
//! - [`tokens`] and [`certificate`] are pure: text or bytes in, names and roles out.
//! - [`files`] reads what they need, and reads it again when it changes.
//! - [`rate`] gives every caller a share.
//! - [`gate`] puts them together into one decision a request.
//!
//! When this fails: a file that can no longer be read or understood leaves the last good one in
//! force and says so in the log; what cannot be understood at the start ends the process.

pub(crate) mod certificate;
pub(crate) mod files;
pub(crate) mod gate;
pub(crate) mod methods;
pub(crate) mod rate;
pub(crate) mod tokens;

use std::{fmt, net::SocketAddr};

use serde::Deserialize;

/// What somebody may do. Operators may what viewers may, and administrators what operators may; an
/// agent may report about itself and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reports about itself.
    Agent,
    /// Reads.
    Viewer,
    /// Changes the fleet.
    Operator,
    /// Everything that people may.
    Admin,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Agent, Self::Viewer, Self::Operator, Self::Admin];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether who has this role may do what `needed` is required for.
    pub(crate) fn covers(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Agent, _) | (_, Self::Agent) => self == needed,
            (ours, needed) => ours >= needed,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How somebody proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A bearer token of the tokens file.
    Token,
    /// A certificate of the client CA.
    Certificate,
}

impl Proof {
    /// As in `tide.events.authenticated_by`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}

/// Somebody who proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The name that is recorded with everything they do.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) proof: Proof,
    /// The only group that it is good for; any if none.
    pub(crate) group: Option<String>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody has to say who they are: they are whoever they say, and may do everything.
    Anyone,
    /// Proven.
    Known(Principal),
}

/// One request's caller and where it comes from; every request of ours carries it.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) caller: Caller,
    pub(crate) address: Option<SocketAddr>,
}

/// Why a request is not served. The text is for whoever asks, and names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No credentials.
    #[error("this control plane wants to know who asks, and the request does not say")]
    Nobody,
    /// The header is there and is no bearer token.
    #[error("the authorization header is not a bearer token")]
    Malformed,
    /// No such token.
    #[error("the token is not known")]
    UnknownToken,
    /// It was good once.
    #[error("the token of {name} expired at {at}")]
    ExpiredToken {
        /// Whose it was.
        name: String,
        /// When, as RFC 3339.
        at: String,
    },
    /// The certificate is of our CA, and yet says nothing that we understand.
    #[error("the client certificate cannot be used: {0}")]
    Certificate(#[from] certificate::Unusable),
    /// Proven, and made out for another group.
    #[error("the certificate of {name} is for group {theirs:?}, and this is group {ours:?}")]
    OtherGroup {
        name: String,
        proof: Proof,
        theirs: String,
        ours: String,
    },
    /// Proven, and not enough.
    #[error("{method} needs the role {needed}, and {name} is {held}")]
    Role {
        name: String,
        proof: Proof,
        held: Role,
        needed: Role,
        method: &'static str,
    },
    /// An agent that says it is another one.
    #[error("the credentials are those of agent {proven:?}, and the hello names {claimed:?}")]
    OtherAgent {
        proven: String,
        proof: Proof,
        claimed: String,
    },
    /// Too many requests.
    #[error("{name} asks more than {per_second} times a second")]
    TooOften { name: String, per_second: u32 },
}

impl Denied {
    /// For programs, logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Nobody => "CREDENTIALS_MISSING",
            Self::Malformed => "TOKEN_MALFORMED",
            Self::UnknownToken => "TOKEN_UNKNOWN",
            Self::ExpiredToken { .. } => "TOKEN_EXPIRED",
            Self::Certificate(_) => "CERTIFICATE_UNUSABLE",
            Self::OtherGroup { .. } => "GROUP_MISMATCH",
            Self::Role { .. } => "ROLE_INSUFFICIENT",
            Self::OtherAgent { .. } => "AGENT_IDENTITY_MISMATCH",
            Self::TooOften { .. } => "RATE_LIMITED",
        }
    }

    /// Every reason, for metrics.
    pub(crate) const REASONS: [&str; 9] = [
        "CREDENTIALS_MISSING",
        "TOKEN_MALFORMED",
        "TOKEN_UNKNOWN",
        "TOKEN_EXPIRED",
        "CERTIFICATE_UNUSABLE",
        "GROUP_MISMATCH",
        "ROLE_INSUFFICIENT",
        "AGENT_IDENTITY_MISMATCH",
        "RATE_LIMITED",
    ];
}

impl Caller {
    /// Whether it may do what needs `needed`.
    pub(crate) fn permit(&self, needed: Role, method: &'static str) -> Result<(), Denied> {
        match self {
            Self::Known(principal) if !principal.role.covers(needed) => Err(Denied::Role {
                name: principal.name.clone(),
                proof: principal.proof,
                held: principal.role,
                needed,
                method,
            }),
            Self::Anyone | Self::Known(_) => Ok(()),
        }
    }

    /// Whether it may speak as this agent.
    pub(crate) fn permit_agent(&self, claimed: &str) -> Result<(), Denied> {
        match self {
            Self::Known(principal) if principal.name != claimed => Err(Denied::OtherAgent {
                proven: principal.name.clone(),
                proof: principal.proof,
                claimed: claimed.to_owned(),
            }),
            Self::Anyone | Self::Known(_) => Ok(()),
        }
    }

    /// The proven name, if there is one.
    pub(crate) fn proven(&self) -> Option<&Principal> {
        match self {
            Self::Anyone => None,
            Self::Known(principal) => Some(principal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_have_levels_and_agents_are_apart() {
        let covered = |held: Role| Role::ALL.map(|needed| held.covers(needed));
        assert_eq!(covered(Role::Agent), [true, false, false, false]);
        assert_eq!(covered(Role::Viewer), [false, true, false, false]);
        assert_eq!(covered(Role::Operator), [false, true, true, false]);
        assert_eq!(covered(Role::Admin), [false, true, true, true]);
    }
}
