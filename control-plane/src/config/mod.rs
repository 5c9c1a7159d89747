//! What the process was asked to do: flags, environment, file and defaults in one.

mod balance;
mod security;

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tide_daemon::{Failure, LogFormat};
use tide_model::GroupName;
use tonic::transport::Uri;

pub use self::{
    balance::{RebalanceMode, Rebalancing},
    security::{Security, TlsFiles},
};
use crate::args::Args;

const DEFAULT_LISTEN: SocketAddr = local(7900);
const DEFAULT_METRICS_ADDR: SocketAddr = local(9091);
const DEFAULT_GROUP: &str = "default";
const DEFAULT_LEASE: Duration = Duration::from_secs(3);
/// Agents that reach a control plane at all have done so by then.
const DEFAULT_WARM_UP: Duration = Duration::from_secs(15);
/// Nobody waits longer for agents that may never come.
const MAX_WARM_UP: Duration = Duration::from_mins(10);
/// Leaves time for three questions and a busy server.
const MIN_LEASE: Duration = Duration::from_millis(500);
const MAX_LEASE: Duration = Duration::from_mins(5);
const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that the process needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where the catalog is; may hold a password.
    pub postgres_url: String,
    /// Where to serve gRPC.
    pub listen: SocketAddr,
    /// Who may come in, and how.
    pub security: Security,
    /// How others reach this process; what it listens on if absent.
    pub advertise_url: Option<String>,
    /// After how much silence another replica takes over.
    pub lease: Duration,
    /// How long plans may be refused because too few agents have reported since the start.
    pub warm_up: Duration,
    /// What to do about an uneven load with nobody asking.
    pub balance: Rebalancing,
    /// The group of agents.
    pub group: GroupName,
    /// Where to serve metrics and probes.
    pub metrics_addr: SocketAddr,
    /// How long a shutdown may take.
    pub shutdown_timeout: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Config {
    /// Resolves flags and environment, then the file they name, then defaults.
    pub fn resolve(args: Args) -> Result<Self, Failure> {
        let file = args
            .config
            .as_deref()
            .map_or_else(|| Ok(File::default()), File::read)?;
        let balance = Rebalancing::resolve(&args, &file)?;
        let postgres_url = args.postgres_url.or(file.postgres_url).ok_or_else(|| {
            Failure::usage("no PostgreSQL URL was given").with_hint(Some(
                "use --postgres-url postgres://USER:PASSWORD@HOST:PORT/DATABASE, TIDE_POSTGRES_URL, \
                 or postgres_url in the configuration file",
            ))
        })?;
        let lease = args
            .lease
            .or(file
                .lease_secs
                .map(Duration::try_from_secs_f64)
                .transpose()
                .map_err(Failure::usage)?)
            .unwrap_or(DEFAULT_LEASE);
        if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
            return Err(Failure::usage(format!(
                "--lease is {lease:?}, outside of {MIN_LEASE:?} to {MAX_LEASE:?}"
            )));
        }
        let warm_up = file.warm_up_secs.map(Duration::try_from_secs_f64);
        let warm_up = args
            .warm_up
            .or(warm_up.transpose().map_err(Failure::usage)?)
            .unwrap_or(DEFAULT_WARM_UP);
        if warm_up > MAX_WARM_UP {
            return Err(Failure::usage(format!(
                "--warm-up is {warm_up:?}, more than {MAX_WARM_UP:?}"
            )));
        }
        let advertise_url = args.advertise_url.or(file.advertise_url);
        if let Some(url) = &advertise_url {
            check_advertised(url)?;
        }
        let listen = args.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN);
        let security = Security {
            tls: TlsFiles::both(
                args.tls_cert.or(file.tls_cert),
                args.tls_key.or(file.tls_key),
            )?,
            client_ca: args.client_ca.or(file.client_ca),
            tokens: args.tokens.or(file.tokens),
            cors_origins: security::origins(if args.cors_origins.is_empty() {
                &file.cors_origins
            } else {
                &args.cors_origins
            })?,
            request_rate: args
                .request_rate
                .or(file.request_rate)
                .unwrap_or(security::DEFAULT_REQUEST_RATE),
            insecure: args.insecure || file.insecure,
        };
        security.check(listen)?;
        let group = args.relay_group_id.or(file.relay_group_id);
        let group = group.as_deref().unwrap_or(DEFAULT_GROUP);
        Ok(Self {
            postgres_url,
            listen,
            security,
            advertise_url,
            lease,
            warm_up,
            balance,
            group: group.parse().map_err(Failure::usage)?,
            metrics_addr: args
                .metrics_addr
                .or(file.metrics_addr)
                .unwrap_or(DEFAULT_METRICS_ADDR),
            shutdown_timeout: args
                .shutdown_timeout
                .or(file.shutdown_timeout_secs.map(Duration::from_secs))
                .unwrap_or(DEFAULT_SHUTDOWN_TIMEOUT),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("security", &self.security)
            .field("advertise_url", &self.advertise_url)
            .field("lease", &self.lease)
            .field("warm_up", &self.warm_up)
            .field("balance", &self.balance)
            .field("group", &self.group)
            .field("metrics_addr", &self.metrics_addr)
            .field("shutdown_timeout", &self.shutdown_timeout)
            .field("log_format", &self.log_format)
            .finish_non_exhaustive()
    }
}

/// The configuration file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    postgres_url: Option<String>,
    listen: Option<SocketAddr>,
    advertise_url: Option<String>,
    lease_secs: Option<f64>,
    warm_up_secs: Option<f64>,
    relay_group_id: Option<String>,
    metrics_addr: Option<SocketAddr>,
    shutdown_timeout_secs: Option<u64>,
    log_format: Option<LogFormat>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    tokens: Option<PathBuf>,
    #[serde(default)]
    cors_origins: Vec<String>,
    request_rate: Option<u32>,
    #[serde(default)]
    insecure: bool,
    rebalance: Option<RebalanceMode>,
    rebalance_threshold: Option<f64>,
    rebalance_cooldown_secs: Option<f64>,
    rebalance_max_lag_secs: Option<f64>,
    rebalance_interval_secs: Option<f64>,
}

impl File {
    fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("could not read {shown}: {error}")))?;
        toml::from_str(&text).map_err(|error| {
            // The whole text of a TOML error quotes the line, and a line may hold a password.
            let line = error
                .span()
                .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            Failure::usage(format!("{shown}, line {line}: {}", error.message()))
        })
    }
}

/// It is shown to others and followed by them, so it must be one that can be followed.
fn check_advertised(url: &str) -> Result<(), Failure> {
    let uri: Option<Uri> = url.parse().ok();
    let fits = uri.is_some_and(|uri| {
        let plain = uri.authority().is_some_and(|at| !at.as_str().contains('@'));
        plain && matches!(uri.scheme_str(), Some("http" | "https"))
    });
    if fits {
        return Ok(());
    }
    Err(Failure::usage("--advertise-url cannot be used")
        .with_hint(Some("write it as http://HOST:PORT or https://HOST:PORT")))
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn args(flags: &[&str]) -> Args {
        Args::parse_from(std::iter::once("tide-control-plane").chain(flags.iter().copied()))
    }

    fn with_file(text: &str, flags: &[&str]) -> Result<Config, Failure> {
        let file = file(text);
        let config = file.path().to_str().unwrap();
        Config::resolve(args(&[&["--config", config], flags].concat()))
    }

    #[test]
    fn the_flags_make_sense() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_hold_where_nothing_was_said() {
        let config = Config::resolve(args(&["--postgres-url", "postgres://db/tide"])).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7900");
        assert_eq!(config.metrics_addr.to_string(), "127.0.0.1:9091");
        assert_eq!(config.group.as_str(), "default");
        assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(config.lease, Duration::from_secs(3));
        assert_eq!(config.advertise_url, None);
        assert_eq!(config.log_format, LogFormat::Text);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = r#"
            postgres_url = "postgres://file/tide"
            listen = "0.0.0.0:1"
            insecure = true
            request_rate = 7
            advertise_url = "http://ctl-a:7900"
            lease_secs = 1.5
            relay_group_id = "blue"
            metrics_addr = "0.0.0.0:2"
            shutdown_timeout_secs = 5
            log_format = "json"
        "#;
        let config = with_file(text, &["--listen", "127.0.0.1:3"]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:3");
        assert_eq!(config.security.request_rate, 7);
        assert!(config.security.insecure);
        assert_eq!(config.postgres_url, "postgres://file/tide");
        assert_eq!(config.group.as_str(), "blue");
        assert_eq!(config.metrics_addr.to_string(), "0.0.0.0:2");
        assert_eq!(config.shutdown_timeout, Duration::from_secs(5));
        assert_eq!(config.lease, Duration::from_millis(1_500));
        assert_eq!(config.advertise_url.as_deref(), Some("http://ctl-a:7900"));
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn an_unknown_key_is_named_and_no_secret_is_shown() {
        let text = "postgres_url = \"postgres://u:secret@db/tide\"\nlisten_on = \"0.0.0.0:1\"\n";
        let failure = with_file(text, &[]).unwrap_err().to_string();
        assert!(
            failure.contains("line 2: unknown field `listen_on`"),
            "{failure}"
        );
        let text = "postgres_url = postgres://u:secret@db/tide\n";
        let failure = with_file(text, &[]).unwrap_err().to_string();
        assert!(!failure.contains("secret"), "{failure}");
    }

    #[test]
    fn a_missing_url_says_how_to_give_it() {
        let failure = Config::resolve(Args::default()).unwrap_err();
        assert_eq!(failure.exit(), tide_daemon::Exit::Usage);
        assert!(
            failure.to_string().contains("hint: use --postgres-url"),
            "{failure}"
        );
    }

    #[test]
    fn an_address_that_nobody_can_follow_and_an_absurd_lease_are_refused() {
        for flags in [
            ["--advertise-url", "ctl-a:7900"],
            ["--advertise-url", "grpc://ctl-a:7900"],
            ["--advertise-url", "http://ana:secret@ctl-a:7900"],
            ["--lease", "100ms"],
            ["--lease", "1h"],
        ] {
            let url = ["--postgres-url", "postgres://db/tide"];
            let failure = Config::resolve(args(&[url, flags].concat())).unwrap_err();
            assert_eq!(failure.exit(), tide_daemon::Exit::Usage);
            let failure = failure.to_string();
            assert!(
                failure.contains(flags[0]) && !failure.contains("secret"),
                "{failure}"
            );
        }
    }

    #[test]
    fn debugging_never_shows_the_url() {
        let config = Config::resolve(args(&["--postgres-url", "postgres://u:secret@db/tide"]));
        assert!(!format!("{:?}", config.unwrap()).contains("secret"));
    }
}
