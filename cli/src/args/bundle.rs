//! What to gather for whoever is to help.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with support archives.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Write what every view of the fleet says now into one archive; no message, no configuration
    /// and no secret is in it
    Collect(CollectArgs),
}

/// Arguments of `bundle collect`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The archive, which must not exist yet [default: tide-bundle-TIME.tar.gz]
    #[arg(
        long,
        value_name = "FILE",
        help = "The archive, which must not exist yet [default: tide-bundle-TIME.tar.gz]"
    )]
    pub file: Option<PathBuf>,
}
