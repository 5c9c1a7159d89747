//! What every command gets: resolved settings, the screen, and Ctrl-C.

use std::{env, fmt::Write as _, time::Duration};

use nix::unistd::{User, gethostname, getuid};
use tide_catalog::connection::Server;
use tide_model::GroupName;
use tonic::transport::Uri;

use crate::{
    args::{DEFAULT_CONTROL_PLANE, DEFAULT_GROUP, GlobalArgs, SourceChoice},
    error::CliError,
    interrupt::Interrupt,
    output::Screen,
};

/// The name in `pg_stat_activity`.
const APPLICATION: &str = "tidectl";

/// Everything that commands share.
#[derive(Debug)]
pub struct Context {
    /// Where things are and who asks.
    pub settings: Settings,
    /// Where output goes.
    pub screen: Screen,
    /// Ctrl-C.
    pub interrupt: Interrupt,
}

/// The global flags, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whom to ask about the fleet.
    pub source: SourceChoice,
    /// The group.
    pub group: GroupName,
    /// Whether the operator named the group, so that another one's control plane will not do.
    pub group_given: bool,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Who asks.
    pub actor: String,
    postgres_url: Option<String>,
    control_plane: String,
}

impl Settings {
    /// Resolves flags and environment; touches no network.
    pub fn resolve(global: &GlobalArgs) -> Self {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let group = global.relay_group_id.clone();
        Self {
            source: global.source,
            group_given: group.is_some(),
            group: group.unwrap_or_else(|| {
                DEFAULT_GROUP
                    .parse()
                    .expect("the default is a valid group name")
            }),
            timeout: global.timeout,
            actor: set(&global.actor).unwrap_or_else(default_actor),
            postgres_url: set(&global.postgres_url),
            control_plane: global.control_plane.clone(),
        }
    }

    /// Whether there is a database to fall back to.
    pub fn knows_database(&self) -> bool {
        self.postgres_url.is_some()
    }

    /// The database.
    pub fn server(&self) -> Result<Server, CliError> {
        let url = self.postgres_url.as_deref().ok_or_else(|| {
            CliError::usage(
                "this needs PostgreSQL, and no URL is given",
                "pass --postgres-url postgres://USER:PASSWORD@HOST:PORT/DATABASE, or set TIDE_POSTGRES_URL",
            )
        })?;
        Ok(Server::parse(url, APPLICATION)?)
    }

    /// The control planes' addresses, in the order to be asked. Only scheme, host and port of them
    /// are ever printed.
    pub fn control_planes(&self) -> Result<Vec<Uri>, CliError> {
        self.control_plane
            .split(',')
            .map(|url| {
                control_plane_address(url.trim()).ok_or_else(|| {
                    CliError::usage(
                        "the control plane's URL cannot be used",
                        format!(
                            "write it as http://HOST:PORT, for example {DEFAULT_CONTROL_PLANE}, \
                             several with commas between"
                        ),
                    )
                })
            })
            .collect()
    }

    /// The flags to repeat so that another `tidectl` asks the same fleet. Never a database URL:
    /// it may hold a password.
    pub fn flags_to_repeat(&self) -> String {
        let mut flags = String::new();
        match self.source {
            SourceChoice::Auto => {}
            SourceChoice::ControlPlane => flags.push_str(" --source control-plane"),
            SourceChoice::Database => flags.push_str(" --source database"),
        }
        if self.group.as_str() != DEFAULT_GROUP {
            // Writing to a string cannot fail.
            let _ = write!(flags, " --relay-group-id {}", self.group);
        }
        flags
    }
}

/// An address that can be asked.
pub(crate) fn control_plane_address(url: &str) -> Option<Uri> {
    let uri: Option<Uri> = url.parse().ok();
    uri.filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")))
}

fn default_actor() -> String {
    let user = env::var("USER").ok().filter(|user| !user.is_empty());
    // Jobs and containers often have no USER; whom the process runs as is known all the same.
    let user = user.or_else(|| Some(User::from_uid(getuid()).ok()??.name));
    let host = gethostname().ok().and_then(|host| host.into_string().ok());
    match (user, host) {
        (Some(user), Some(host)) => format!("{user}@{host}"),
        (Some(name), None) | (None, Some(name)) => name,
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn settings(flags: &[&str]) -> Settings {
        let words = ["tidectl", "version"].iter().chain(flags);
        Settings::resolve(&Cli::try_parse_from(words).unwrap().global)
    }

    #[test]
    fn a_control_plane_needs_scheme_and_host() {
        for bad in [
            "127.0.0.1:7900",
            "grpc://h:1",
            "http://",
            "not a url",
            "http://a:1,",
        ] {
            let error = settings(&["--control-plane", bad])
                .control_planes()
                .unwrap_err();
            assert!(error.hint().unwrap().contains("http://HOST:PORT"), "{bad}");
        }
        let several = "https://ctl.example:443, http://b:7900";
        let several = settings(&["--control-plane", several]).control_planes();
        assert_eq!(several.unwrap().len(), 2);
    }

    #[test]
    fn a_bad_database_url_never_shows_its_password() {
        for url in [
            "postgres://ana:geheim@host:notaport/db",
            "mysql://ana:geheim@host/db",
            "ana:geheim",
            "postgres://ana:geheim@host/db?sslmode=geheim2",
            "postgres://ana:geheim@[::1/db",
        ] {
            if let Err(error) = settings(&["--postgres-url", url]).server() {
                let text = format!("{error} {:?} {error:?}", error.hint());
                assert!(
                    !text.contains("geheim@") && !text.contains(":geheim"),
                    "{url}: {text}"
                );
            }
        }
    }

    #[test]
    fn repeated_flags_name_the_fleet_and_no_secret() {
        let flags = [
            "--source",
            "database",
            "--relay-group-id",
            "blue",
            "--postgres-url",
            "x:secret",
        ];
        assert_eq!(
            settings(&flags).flags_to_repeat(),
            " --source database --relay-group-id blue"
        );
        assert_eq!(settings(&[]).flags_to_repeat(), "");
    }

    #[test]
    fn an_actor_is_always_known() {
        assert!(!settings(&["--actor", ""]).actor.is_empty());
        assert_eq!(settings(&["--actor", "ana"]).actor, "ana");
    }
}
