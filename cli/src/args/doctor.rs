//! What the doctor is to examine.

use clap::{Args, ValueEnum};

/// What to examine.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What the database user is for: its missing rights are then failures [default: any of these]
    #[arg(
        long = "for",
        value_name = "PART",
        value_enum,
        help = "What the database user is for: its missing rights are then failures [default: any \
                of these]"
    )]
    pub part: Option<Part>,
}

/// What a database user can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Running agents
    Agent,
    /// Operating the fleet, and running control planes
    Operator,
    /// Publishing to outboxes
    Publisher,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Operator, Self::Publisher];
}
