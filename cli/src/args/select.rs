//! Which rows of a list are shown, and in which order; and which agents a command is about.

use std::{fmt, str::FromStr};

use clap::Args;
use tide_model::{AgentName, InvalidName};

use crate::select::Glob;

/// Arguments of lists of agents or pipelines.
#[derive(Debug, Clone, Default, Args)]
pub struct SelectArgs {
    /// Show only rows for which all of these hold, with commas between: FIELD=VALUE, also !=, <, <=, >
    /// and >=, and ~ for a pattern: 'state!=running,lag>5s,name~orders-*'
    #[arg(long, value_name = "CONDITIONS")]
    pub filter: Option<String>,
    /// Order by a field; FIELD:desc for the greatest first
    #[arg(long, value_name = "FIELD[:desc]")]
    pub sort: Option<String>,
}

/// One agent, or those whose names match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSelector {
    name: AgentName,
    pattern: Option<Glob>,
}

impl AgentSelector {
    /// What was typed.
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// The pattern, if it is one.
    pub(crate) fn pattern(&self) -> Option<&Glob> {
        self.pattern.as_ref()
    }
}

impl FromStr for AgentSelector {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // Names may have every character that patterns have, so what is a pattern is a name as well.
        let name = text.parse()?;
        let pattern = Glob::is_pattern(text).then(|| Glob::new(text));
        Ok(Self { name, pattern })
    }
}

impl fmt::Display for AgentSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}
