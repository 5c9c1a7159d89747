//! How a failed delivery is judged. Every sink maps its errors to these in one place.

use std::{fmt, time::Duration};

/// Who chose the destination of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// The configuration: all messages go there.
    ByOwner,
    /// The message.
    ByMessage,
}

/// A delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SinkError {
    /// Not now: the same messages may be accepted later.
    Transient {
        /// So many messages from the start of the batch are durable.
        delivered: usize,
        /// What the sink said.
        reason: String,
        /// The sink asked for this much patience.
        retry_after: Option<Duration>,
        /// The sink was not even reached: another agent may fare better.
        unreached: bool,
    },
    /// Never this message: the first that is not delivered.
    Rejected {
        /// So many messages before it are durable.
        delivered: usize,
        /// What the sink said.
        reason: String,
    },
    /// Never any message, until somebody changes the configuration or what it points at.
    Misconfigured {
        /// So many messages from the start of the batch are durable.
        delivered: usize,
        /// What the sink said.
        reason: String,
        /// The sink was not even reached, as the two do not trust each other from here.
        unreached: bool,
    },
    /// Never again: the receiver wants no more messages, whoever sends them, until an operator says
    /// otherwise.
    Gone {
        /// So many messages from the start of the batch are durable.
        delivered: usize,
        /// What the sink said.
        reason: String,
    },
    /// A newer owner exists: the sink knows the epoch and refused ours.
    Fenced {
        /// So many messages from the start of the batch are durable.
        delivered: usize,
    },
}

impl SinkError {
    pub(crate) fn transient(reason: impl Into<String>) -> Self {
        Self::Transient {
            delivered: 0,
            reason: reason.into(),
            retry_after: None,
            unreached: false,
        }
    }

    pub(crate) fn misconfigured(reason: impl Into<String>) -> Self {
        Self::Misconfigured {
            delivered: 0,
            reason: reason.into(),
            unreached: false,
        }
    }

    /// No connection: refused, no answer to it, no address, no agreement on TLS. What a sink that was
    /// reached says, whatever it is, is no such thing.
    pub(crate) fn unreachable(reason: impl Into<String>) -> Self {
        Self::transient(reason).unreached()
    }

    /// The same error, of a sink that was not even reached.
    pub(crate) fn unreached(mut self) -> Self {
        if let Self::Transient { unreached, .. } | Self::Misconfigured { unreached, .. } = &mut self
        {
            *unreached = true;
        }
        self
    }

    /// Whether the sink was not even reached.
    pub(crate) fn is_unreached(&self) -> bool {
        match self {
            Self::Transient { unreached, .. } | Self::Misconfigured { unreached, .. } => *unreached,
            Self::Rejected { .. } | Self::Gone { .. } | Self::Fenced { .. } => false,
        }
    }

    pub(crate) fn gone(reason: impl Into<String>) -> Self {
        Self::Gone {
            delivered: 0,
            reason: reason.into(),
        }
    }

    /// The destination is not there, or not for us: nothing can be delivered until the owner mends
    /// that; but what one message names is no reason for others to wait.
    pub(crate) fn nowhere(named: Named, reason: impl Into<String>) -> Self {
        match named {
            Named::ByOwner => Self::misconfigured(reason),
            Named::ByMessage => Self::rejected(reason),
        }
    }

    pub(crate) fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected {
            delivered: 0,
            reason: reason.into(),
        }
    }

    /// How many messages from the start of the batch are durable.
    pub(crate) fn delivered(&self) -> usize {
        match self {
            Self::Transient { delivered, .. }
            | Self::Rejected { delivered, .. }
            | Self::Misconfigured { delivered, .. }
            | Self::Gone { delivered, .. }
            | Self::Fenced { delivered } => *delivered,
        }
    }

    /// The same error, after `more` messages that were delivered before it.
    pub(crate) fn after(mut self, more: usize) -> Self {
        match &mut self {
            Self::Transient { delivered, .. }
            | Self::Rejected { delivered, .. }
            | Self::Misconfigured { delivered, .. }
            | Self::Gone { delivered, .. }
            | Self::Fenced { delivered } => *delivered += more,
        }
        self
    }

    /// The same error, saying whose words these are.
    pub(crate) fn of(mut self, who: &str) -> Self {
        match &mut self {
            Self::Transient { reason, .. }
            | Self::Rejected { reason, .. }
            | Self::Misconfigured { reason, .. }
            | Self::Gone { reason, .. } => *reason = format!("{who}: {reason}"),
            Self::Fenced { .. } => {}
        }
        self
    }

    /// The same error, with more to say.
    pub(crate) fn and(mut self, more: &str) -> Self {
        match &mut self {
            Self::Transient { reason, .. }
            | Self::Rejected { reason, .. }
            | Self::Misconfigured { reason, .. }
            | Self::Gone { reason, .. } => {
                reason.push_str("; ");
                reason.push_str(more);
            }
            Self::Fenced { .. } => {}
        }
        self
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient { reason, .. }
            | Self::Misconfigured { reason, .. }
            | Self::Gone { reason, .. } => f.write_str(reason),
            Self::Rejected { reason, .. } => write!(f, "rejected: {reason}"),
            Self::Fenced { .. } => f.write_str("a newer owner exists"),
        }
    }
}
