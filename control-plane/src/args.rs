//! Flags and environment, exactly as typed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use tide_daemon::{LogFormat, parse_seconds};

use crate::config::RebalanceMode;

/// One view of the fleet, and durable operations on it.
///
/// A flag wins over its environment variable, that over the configuration file, and that over the
/// default. Relays never depend on this process: stop it, and every message still flows.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "tide-control-plane", version)]
pub struct Args {
    /// Where the catalog is: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`
    #[arg(
        long,
        env = "TIDE_POSTGRES_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub postgres_url: Option<String>,

    /// Where to serve gRPC; port 0 takes a free one [default: 127.0.0.1:7900]
    #[arg(long, env = "TIDE_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Certificate chain to serve gRPC over TLS with, in PEM; read again when it changes
    #[arg(long, env = "TIDE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of that certificate, in PEM
    #[arg(long, env = "TIDE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// CA of client certificates, in PEM; each names its owner as
    /// `spiffe://TRUST-DOMAIN/tide/GROUP/ROLE/NAME`, where ROLE is agent, viewer, operator or admin
    #[arg(long, env = "TIDE_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,

    /// TOML file of bearer tokens, each with `name`, `role`, `sha256` and perhaps `expires`; read
    /// again when it changes
    #[arg(long, env = "TIDE_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Origin whose pages may ask from a browser, as `https://HOST`; several with commas between
    /// [default: none]
    #[arg(
        long,
        env = "TIDE_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<String>,

    /// How many requests a second one caller may make, agents excepted [default: 500]
    #[arg(long, env = "TIDE_REQUEST_RATE", value_name = "N")]
    pub request_rate: Option<u32>,

    /// Serve beyond this machine without TLS or without asking who is there: whoever reaches the
    /// port may drain the fleet
    #[arg(long, env = "TIDE_INSECURE")]
    pub insecure: bool,

    /// How agents and `tidectl` reach this one while it is the active one, as `http://HOST:PORT`
    /// [default: the address that it listens on, or the host's name]
    #[arg(long, env = "TIDE_ADVERTISE_URL", value_name = "URL")]
    pub advertise_url: Option<String>,

    /// Another replica takes over after this much silence of the active one [default: 3]
    #[arg(long, env = "TIDE_LEASE", value_name = "DURATION", value_parser = parse_seconds)]
    pub lease: Option<Duration>,

    /// How long plans and drains may be refused after a start because too few agents have reported
    /// yet; 0 never refuses them [default: 15]
    #[arg(long, env = "TIDE_WARM_UP", value_name = "DURATION", value_parser = parse_seconds)]
    pub warm_up: Option<Duration>,

    /// What to do by itself about a load that is uneven by what pipelines deliver [default: off]
    #[arg(long, env = "TIDE_REBALANCE", value_name = "MODE")]
    pub rebalance: Option<RebalanceMode>,

    /// How many times the mean the fullest agent must have for that [default: 1.5]
    #[arg(long, env = "TIDE_REBALANCE_THRESHOLD", value_name = "TIMES")]
    pub rebalance_threshold: Option<f64>,

    /// How long the last move or rebalance of anybody must be over [default: 30m]
    #[arg(long, env = "TIDE_REBALANCE_COOLDOWN", value_name = "DURATION", value_parser = parse_seconds)]
    pub rebalance_cooldown: Option<Duration>,

    /// Not while a pipeline is further behind than this [default: 1m]
    #[arg(long, env = "TIDE_REBALANCE_MAX_LAG", value_name = "DURATION", value_parser = parse_seconds)]
    pub rebalance_max_lag: Option<Duration>,

    /// How often to look whether the load is uneven [default: 30s]
    #[arg(long, env = "TIDE_REBALANCE_INTERVAL", value_name = "DURATION", value_parser = parse_seconds)]
    pub rebalance_interval: Option<Duration>,

    /// Which group of agents to look after [default: default]
    #[arg(long, env = "TIDE_RELAY_GROUP_ID", value_name = "GROUP")]
    pub relay_group_id: Option<String>,

    /// Where to serve /metrics, /livez and /readyz [default: 127.0.0.1:9091]
    #[arg(long, env = "TIDE_METRICS_ADDR", value_name = "ADDRESS")]
    pub metrics_addr: Option<SocketAddr>,

    /// How long a shutdown may take, as `30`, `500ms` or `2m` [default: 30]
    #[arg(long, env = "TIDE_SHUTDOWN_TIMEOUT", value_name = "DURATION", value_parser = parse_seconds)]
    pub shutdown_timeout: Option<Duration>,

    /// How log lines look [default: text]
    #[arg(long, env = "TIDE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// A TOML file with the same settings: `postgres_url`, `listen`, `advertise_url`, `lease_secs`,
    /// `warm_up_secs`, `relay_group_id`, `metrics_addr`, `shutdown_timeout_secs`, `log_format`, `tls_cert`, `tls_key`,
    /// `client_ca`, `tokens`, `cors_origins`, `request_rate`, `insecure`, `rebalance`, `rebalance_threshold`,
    /// `rebalance_cooldown_secs`, `rebalance_max_lag_secs`, `rebalance_interval_secs`
    #[arg(long, env = "TIDE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}
