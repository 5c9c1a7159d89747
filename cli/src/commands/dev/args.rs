//! Arguments of `dev`, and of the broker process that it starts.

use clap::{Args, ValueEnum};
use tide_sandbox::kafka::Topic;

use crate::error::CliError;

/// Arguments of `dev`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Everything runs on 127.0.0.1 and lives in one directory, which is removed at the end. The global
options for PostgreSQL and the control plane do not apply: dev brings its own.

The tour ends with accounts of every message, and with exit code 1 if any was lost, reordered, or
delivered twice without a cause; its directory is then kept.")]
pub struct DevArgs {
    /// How many agents, at most one for each pipeline
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=12)
    )]
    pub agents: u16,
    /// How many messages are published a second
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub rate: u32,
    /// A Kafka of your own instead of a mock one; topics are made in it, and removed at the end
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// Keep the directory with logs, files and the database
    #[arg(long)]
    pub keep: bool,
    /// Play a story instead of waiting for Ctrl-C
    #[arg(long, value_enum, value_name = "NAME")]
    pub scenario: Option<Scenario>,
    /// Start no control plane: everything works all the same
    #[arg(long)]
    pub without_control_plane: bool,
    /// Seeds what is published; drawn if absent
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// How many agents the tour needs.
const TOUR_AGENTS: u16 = 3;
/// How many messages a second the tour settles accounts of: a mock broker forgets what is not read
/// in time.
const TOUR_RATE: u32 = 1_000;

impl DevArgs {
    /// Refuses what does not go together.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.scenario.is_some() && self.agents < TOUR_AGENTS {
            return Err(CliError::usage(
                format!("the tour needs {TOUR_AGENTS} agents"),
                format!("leave --agents out, or give at least {TOUR_AGENTS}"),
            ));
        }
        if self.scenario.is_some() && self.brokers.is_none() && self.rate > TOUR_RATE {
            return Err(CliError::usage(
                format!("the tour takes at most {TOUR_RATE} messages a second"),
                "a mock broker keeps too little for more; lower --rate, or give --brokers",
            ));
        }
        Ok(())
    }
}

/// Stories that `dev` can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Drain, kill, freeze and restart agents while messages flow, then settle the accounts
    Tour,
}

/// Arguments of `dev-broker`.
#[derive(Debug, Clone, Args)]
pub struct DevBrokerArgs {
    /// Topics and their partitions, such as orders:4
    #[arg(value_name = "TOPIC:N", required = true)]
    pub topics: Vec<Topic>,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Cli, Command};

    fn refusal(flags: &[&str]) -> Option<String> {
        let words = ["tidectl", "dev"].iter().chain(flags);
        let Command::Dev(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("dev was parsed as something else");
        };
        args.check().err().map(|error| error.to_string())
    }

    #[test]
    fn a_tour_needs_enough_agents_and_a_broker_that_keeps_enough() {
        assert_eq!(refusal(&["--agents", "1", "--rate", "5000"]), None);
        assert_eq!(refusal(&["--scenario", "tour"]), None);
        let few = refusal(&["--scenario", "tour", "--agents", "2"]).unwrap();
        assert!(few.contains("3 agents"), "{few}");
        let fast = ["--scenario", "tour", "--rate", "1001"];
        assert!(refusal(&fast).unwrap().contains("1000 messages"));
        assert_eq!(
            refusal(&[&fast[..], &["--brokers", "kafka:9092"]].concat()),
            None
        );
    }
}
