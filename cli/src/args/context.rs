//! Commands about contexts.

use clap::Subcommand;

use crate::contexts::Assignment;

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List contexts; the current one has a star
    #[command(visible_alias = "ls")]
    List,
    /// Show one context
    Show {
        /// Its name; the current one if absent
        name: Option<String>,
    },
    /// Use a context from now on
    Use {
        /// Its name
        name: String,
    },
    /// Make or change a context; the first one becomes the current one
    #[command(after_help = EXAMPLE)]
    Set {
        /// Its name
        name: String,
        /// What to set: control-plane, postgres-url, relay-group-id, source, token, ca-cert,
        /// client-cert, client-key; nothing after the = takes it away
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<Assignment>,
    },
    /// Forget a context
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: String,
    },
}

const EXAMPLE: &str = "\
Example:
  tidectl context set prod control-plane=https://tide.example:7900 \\
      ca-cert=/etc/tide/ca.pem token='${file:/home/ana/.tide-token}'";
