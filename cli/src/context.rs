//! What every command gets: resolved settings, the screen, and Ctrl-C.

use std::{env, fmt::Write as _, path::PathBuf, time::Duration};

use clap::ValueEnum as _;
use nix::unistd::{User, gethostname, getuid};
use tide_catalog::connection::Server;
use tide_model::GroupName;
use tonic::transport::Uri;

use crate::{
    access::Access,
    args::{DEFAULT_CONTROL_PLANE, DEFAULT_GROUP, GlobalArgs, SourceChoice},
    contexts::{self, Contexts, Entry},
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
    /// What to show to control planes.
    pub access: Access,
    context: Option<String>,
    postgres_url: Option<String>,
    control_plane: String,
}

/// A context that was chosen, read as far as that needs no secret.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    name: Option<String>,
    entry: Entry,
    group: Option<GroupName>,
    source: Option<SourceChoice>,
}

impl Chosen {
    fn new(name: &str, entry: &Entry) -> Result<Self, CliError> {
        let unusable = |what: &str, why: String| {
            CliError::usage(
                format!("context {name}: {what} {why}"),
                format!("correct it with: tidectl context set {name} {what}=VALUE"),
            )
        };
        let group = entry.relay_group_id.as_deref().map(str::parse::<GroupName>);
        let source = entry
            .source
            .as_deref()
            .map(|source| SourceChoice::from_str(source, false));
        Ok(Self {
            name: Some(name.to_owned()),
            entry: entry.clone(),
            group: group
                .transpose()
                .map_err(|error| unusable("relay-group-id", error.to_string()))?,
            source: source.transpose().map_err(|_| {
                unusable("source", "is none of auto, control-plane, database".into())
            })?,
        })
    }
}

/// An empty setting is none.
fn set(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

impl Settings {
    /// Resolves flags, environment and the context; touches no network.
    ///
    /// A context is used whole. One that is typed wins over the environment, so that a variable which
    /// is still set does not lead elsewhere. The current one is used only if neither a flag nor a
    /// variable names a control plane or a database.
    pub fn resolve(global: &GlobalArgs) -> Result<Self, CliError> {
        let named = set(global.context.as_ref());
        let elsewhere = set(global.control_plane.as_ref()).is_some()
            || set(global.postgres_url.as_ref()).is_some();
        if named.is_none() && elsewhere {
            return Ok(Self::of(global, None));
        }
        let contexts = match contexts::file() {
            Ok(path) => Contexts::read(&path)?,
            // Nobody asked for one.
            Err(_) if named.is_none() => Contexts::default(),
            Err(error) => return Err(error),
        };
        let Some(name) = named.or_else(|| contexts.current.clone()) else {
            return Ok(Self::of(global, None));
        };
        let chosen = Chosen::new(&name, contexts.get(&name)?)?;
        Ok(Self::of(global, Some(chosen)))
    }

    /// With a context that was read, or none.
    pub(crate) fn of(global: &GlobalArgs, chosen: Option<Chosen>) -> Self {
        // Beside a context that was typed, a variable counts for nothing.
        let whole = chosen.is_some() && global.typed.has("context");
        let given = |flag: &str| !whole || global.typed.has(flag);
        let text = |flag: &str, value: &Option<String>| set(value.as_ref()).filter(|_| given(flag));
        let path = |flag: &str, value: &Option<PathBuf>| value.clone().filter(|_| given(flag));
        let control_plane = text("control_plane", &global.control_plane);
        let own = Access {
            token: text("token", &global.token),
            ca_cert: path("ca_cert", &global.ca_cert),
            client_cert: path("client_cert", &global.client_cert),
            client_key: path("client_key", &global.client_key),
        };
        let chosen = chosen.unwrap_or_default();
        let Entry {
            control_plane: its_control_plane,
            postgres_url,
            token,
            ca_cert,
            client_cert,
            client_key,
            ..
        } = chosen.entry;
        // Its credentials are for its control plane and for nobody else's.
        let access = if control_plane.is_none() {
            Access {
                token: own.token.or(token),
                ca_cert: own.ca_cert.or(ca_cert),
                client_cert: own.client_cert.or(client_cert),
                client_key: own.client_key.or(client_key),
            }
        } else {
            own
        };
        let group = global.relay_group_id.clone();
        let group = group.filter(|_| given("relay_group_id")).or(chosen.group);
        Self {
            source: global
                .source
                .or(chosen.source)
                .unwrap_or(SourceChoice::Auto),
            group_given: group.is_some(),
            group: group.unwrap_or_else(|| {
                DEFAULT_GROUP
                    .parse()
                    .expect("the default is a valid group name")
            }),
            timeout: global.timeout,
            actor: set(global.actor.as_ref()).unwrap_or_else(default_actor),
            context: chosen.name.filter(|_| global.context.is_some()),
            access,
            postgres_url: text("postgres_url", &global.postgres_url).or(postgres_url),
            control_plane: control_plane
                .or(its_control_plane)
                .unwrap_or_else(|| DEFAULT_CONTROL_PLANE.to_owned()),
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
        let url = contexts::resolve("--postgres-url", url)?;
        Ok(Server::parse(&url, APPLICATION)?)
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
        if let Some(context) = &self.context {
            let _ = write!(flags, " --context {context}");
        }
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
        Settings::of(&Cli::try_parse_from(words).unwrap().global, None)
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
