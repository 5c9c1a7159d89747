//! Settings resolved and checked: flag over environment over file over default.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use tide_catalog::{CatalogError, connection::Server};
use tide_daemon::telemetry::LogFormat;
use tide_model::{AgentName, GroupName};

use crate::args::Settings;
pub use crate::control_plane_access::ControlPlaneAccess;

/// What the agent runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database.
    pub server: Server,
    /// Name of this agent.
    pub name: AgentName,
    /// Its group.
    pub group: GroupName,
    /// How often to look for changes without news.
    pub discovery_interval: Duration,
    /// Whether that interval is all there is: nobody listens, nobody watches a neighbour.
    pub discovery_only: bool,
    /// How long a graceful shutdown may take.
    pub shutdown_timeout: Duration,
    /// After how much silence the server frees the locks.
    pub lease: Duration,
    /// Share of the pipelines.
    pub weight: u32,
    /// Where to serve metrics and probes.
    pub metrics_addr: SocketAddr,
    /// Where to report: a list, as typed.
    pub control_plane: Option<String>,
    /// What to show there.
    pub control_plane_access: ControlPlaneAccess,
    /// What to do as the janitor; none to leave that to others.
    pub housekeeping: Option<Housekeeping>,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// What the janitor does when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Housekeeping {
    /// From the beginning of a round to that of the next.
    pub interval: Duration,
    /// How long events and finished operations are kept.
    pub history_retention: Duration,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting without default is missing.
    #[error("no database given")]
    NoDatabase,
    /// The file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and on which line.
        message: String,
    },
    /// A value is out of range.
    #[error("{setting} {why}")]
    Value {
        /// The setting, as a flag.
        setting: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The database URL cannot be used.
    #[error(transparent)]
    Url(#[from] CatalogError),
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoDatabase => Some(
                "give --postgres-url, set TIDE_POSTGRES_URL, or write postgres_url into --config"
                    .to_owned(),
            ),
            Self::File { .. } => Some("see tide-agent --help for the keys".to_owned()),
            Self::Url(error) => error.hint(),
            Self::Read { .. } | Self::Value { .. } => None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    postgres_url: Option<String>,
    name: Option<String>,
    relay_group_id: Option<String>,
    discovery_interval_secs: Option<f64>,
    discovery_only: Option<bool>,
    shutdown_timeout_secs: Option<f64>,
    lease_secs: Option<f64>,
    weight: Option<u32>,
    metrics_addr: Option<SocketAddr>,
    control_plane: Option<String>,
    #[serde(default)]
    control_plane_access: ControlPlaneAccess,
    janitor_interval_secs: Option<f64>,
    history_retention_secs: Option<f64>,
    log_format: Option<LogFormat>,
}

/// The shortest lease that leaves time for three pings and a busy server.
const MIN_LEASE: Duration = Duration::from_millis(500);
/// The catalog keeps that much whatever is asked for.
const MIN_HISTORY_RETENTION: Duration = Duration::from_hours(24);
const DEFAULT_HISTORY_RETENTION_SECS: u64 = 30 * 24 * 3_600;
/// Idle sessions must not outlive what operators call a crash.
const MAX_LEASE: Duration = Duration::from_mins(5);

impl Config {
    /// Resolves settings.
    pub fn resolve(settings: Settings) -> Result<Self, ConfigError> {
        let file = settings.config.map(read).transpose()?.unwrap_or_default();
        let url = settings
            .postgres_url
            .or(file.postgres_url)
            .ok_or(ConfigError::NoDatabase)?;
        let name = settings.name.or(file.name).map_or_else(host_name, Ok)?;
        let name: AgentName = name.parse().map_err(|error| value("--name", error))?;
        let group = settings
            .relay_group_id
            .or(file.relay_group_id)
            .unwrap_or_else(|| "default".to_owned());
        let group: GroupName = group
            .parse()
            .map_err(|error| value("--relay-group-id", error))?;
        let duration = |flag: Option<Duration>, seconds: Option<f64>, setting, default: u64| match (
            flag, seconds,
        ) {
            (Some(duration), _) => Ok(duration),
            (None, Some(seconds)) => {
                Duration::try_from_secs_f64(seconds).map_err(|error| value(setting, error))
            }
            (None, None) => Ok(Duration::from_secs(default)),
        };
        let discovery_interval = duration(
            settings.discovery_interval,
            file.discovery_interval_secs,
            "--discovery-interval",
            30,
        )?;
        let lease = duration(settings.lease, file.lease_secs, "--lease", 3)?;
        if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
            return Err(value(
                "--lease",
                format!("is {lease:?}, outside of {MIN_LEASE:?} to {MAX_LEASE:?}"),
            ));
        }
        if discovery_interval < Duration::from_millis(10) {
            return Err(value(
                "--discovery-interval",
                format!("is {discovery_interval:?}, below 10ms"),
            ));
        }
        let interval = duration(
            settings.janitor_interval,
            file.janitor_interval_secs,
            "--janitor-interval",
            60,
        )?;
        if !interval.is_zero() && interval < Duration::from_millis(10) {
            return Err(value(
                "--janitor-interval",
                format!("is {interval:?}, below 10ms"),
            ));
        }
        let history_retention = duration(
            settings.history_retention,
            file.history_retention_secs,
            "--history-retention",
            DEFAULT_HISTORY_RETENTION_SECS,
        )?;
        if history_retention < MIN_HISTORY_RETENTION {
            return Err(value(
                "--history-retention",
                format!("is {history_retention:?}, below a day"),
            ));
        }
        Ok(Self {
            server: Server::parse(&url, &format!("tide-agent/{name}"))?,
            name,
            group,
            discovery_interval,
            discovery_only: settings.discovery_only || file.discovery_only.unwrap_or(false),
            shutdown_timeout: duration(
                settings.shutdown_timeout,
                file.shutdown_timeout_secs,
                "--shutdown-timeout",
                30,
            )?,
            lease,
            weight: settings.weight.or(file.weight).unwrap_or(1),
            metrics_addr: settings
                .metrics_addr
                .or(file.metrics_addr)
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9090))),
            control_plane: settings.control_plane.or(file.control_plane),
            control_plane_access: settings.control_plane_access.or(file.control_plane_access),
            housekeeping: (!interval.is_zero()).then_some(Housekeeping {
                interval,
                history_retention,
            }),
            log_format: settings.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}

fn read(path: PathBuf) -> Result<File, ConfigError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    toml::from_str(&text).map_err(|error| ConfigError::File {
        path,
        message: error.to_string().trim_end().to_owned(),
    })
}

fn value(setting: &'static str, why: impl std::fmt::Display) -> ConfigError {
    ConfigError::Value {
        setting,
        why: why.to_string(),
    }
}

/// The host's name, which containers and pods set to something unique.
pub(crate) fn host_name() -> Result<String, ConfigError> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    match name {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => Err(value("--name", "is not given, and the host has no name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            postgres_url: Some("postgres://db/tide".to_owned()),
            name: Some("relay-1".to_owned()),
            ..Settings::default()
        }
    }

    #[test]
    fn every_agent_may_be_the_janitor_unless_it_is_told_not_to() {
        let usual = Config::resolve(settings()).unwrap().housekeeping;
        let expected = Housekeeping {
            interval: Duration::from_mins(1),
            history_retention: Duration::from_hours(30 * 24),
        };
        assert_eq!(usual, Some(expected));
        let never = Settings {
            janitor_interval: Some(Duration::ZERO),
            ..settings()
        };
        assert_eq!(Config::resolve(never).unwrap().housekeeping, None);
    }

    #[test]
    fn a_janitor_without_pause_or_memory_is_refused() {
        let restless = Settings {
            janitor_interval: Some(Duration::from_millis(1)),
            ..settings()
        };
        let forgetful = Settings {
            history_retention: Some(Duration::from_hours(1)),
            ..settings()
        };
        for (settings, flag) in [
            (restless, "--janitor-interval"),
            (forgetful, "--history-retention"),
        ] {
            let error = Config::resolve(settings).unwrap_err().to_string();
            assert!(error.starts_with(flag), "{error}");
        }
    }
}
