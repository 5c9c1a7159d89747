//! Exit codes: a contract with scripts. A code means one thing in every command.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for a status: healthy; for a plan: nothing to change.
    Done,
    /// An error that has no code of its own.
    Failed,
    /// The command line, or a file it names, cannot be used.
    Usage,
    /// A status is degraded, or a plan has changes to make.
    Pending,
    /// Waiting ended before the operation did; the operation goes on.
    TimedOut,
    /// Something needs an operator first; for a drain: the agent is not safe to stop; for the
    /// doctor: a check fails.
    Blocked,
    /// The world is not as the command expected: it exists already, or the plan is stale.
    Conflict,
    /// The database or the control plane does not allow it.
    Denied,
    /// No answer from the control plane, and no database to fall back to.
    Unreachable,
    /// Ctrl-C. An operation that was being watched goes on.
    Interrupted,
}

/// Every exit, in the order of the codes.
pub const ALL: [Exit; 10] = [
    Exit::Done,
    Exit::Failed,
    Exit::Usage,
    Exit::Pending,
    Exit::TimedOut,
    Exit::Blocked,
    Exit::Conflict,
    Exit::Denied,
    Exit::Unreachable,
    Exit::Interrupted,
];

/// The last part of `tidectl --help`.
pub(crate) const AFTER_HELP: &str = "\
Exit codes:
  0    done, healthy, or nothing to change
  1    error
  2    the command line, or a file it names, cannot be used
  3    degraded, or changes are pending
  5    stopped waiting; the operation goes on
  6    blocked, not safe to stop, or a check of the doctor fails
  7    conflict, or a stale plan
  8    permission denied
  9    control plane unreachable
  130  interrupted; an operation that was watched goes on";

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Pending => 3,
            Self::TimedOut => 5,
            Self::Blocked => 6,
            Self::Conflict => 7,
            Self::Denied => 8,
            Self::Unreachable => 9,
            Self::Interrupted => 130,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_code_once_and_no_other() {
        let listed: Vec<u8> = AFTER_HELP
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        let known: Vec<u8> = ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(listed, known);
    }
}
